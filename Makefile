# `make` alone lists the commands. Those that touch the host need root.

CARGO_DIR = $(shell scripts/find-cargo.sh)
# Deferred: set-up may be what installs cargo.
CARGO = PATH="$(CARGO_DIR):$$PATH" cargo
# `make demo PROFILE=--release` builds longer. The unoptimized build is shared with `make test`.
PROFILE =
ROOT = $(if $(filter 0,$(shell id -u)),,$(error make $(or $(MAKECMDGOALS),$@) needs root: run it with sudo, or as root))

.PHONY: help demo quickstart test test-unit test-simulation test-state test-host test-kill test-vm test-all bench lint doc setup-demo setup-test clean-host

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 20

demo: setup-demo quickstart ## install what is missing, build, and run the quickstart (root)

quickstart: ## run one container with every limit proven from inside (root)
	@$(ROOT)$(CARGO) run $(PROFILE) --example quickstart -- $(ARGS)

test: setup-test ## every tier but the long ones: what CI runs (root)
	@scripts/test.sh lint build unit tidy simulation cluster state host kill vm

test-all: setup-test ## every tier, the long ones too (root)
	@scripts/test.sh lint build unit tidy simulation-full cluster state-full host kill-full vm-full

test-unit: ## what needs no root: unit tests, doc tests, the rules of the code
	@scripts/test.sh unit tidy

test-state: setup-test ## the store on each of its engines, 100,000 operations of concurrent clients (root for the set-up)
	@scripts/test.sh state-full

test-simulation: ## the cluster's decisions under faults of all kinds, 100,000 random histories
	@scripts/test.sh simulation-full

test-host: setup-test ## the tests against the real kernel (root)
	@scripts/test.sh host

test-kill: setup-test ## a SIGKILL before and after every system call that changes the host (root, long)
	@scripts/test.sh kill-full

test-vm: setup-test ## fresh hosts, reboots, v1, v2, AppArmor: a Debian kernel under QEMU (root, long)
	@scripts/test.sh vm-full

bench: setup-test ## the benchmarks (root)
	@$(CARGO) bench --features full

lint: ## format, clippy and documentation, warnings are errors
	@scripts/test.sh lint

doc: ## the documentation, in target/doc
	@$(CARGO) doc --no-deps --features full

clean-host: ## remove what interrupted tests left on this machine (root)
	@$(ROOT)$(CARGO) test --quiet --test kill -- --clean

setup-demo:
	@$(ROOT)scripts/setup.sh demo

setup-test:
	@$(ROOT)scripts/setup.sh test
