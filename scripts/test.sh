#!/bin/sh
# Runs tiers of tests in the order given, and prints how long each took. A failed tier does not keep the later ones
# from running, unless nothing can be built.
# Usage: test.sh lint|build|unit|tidy|simulation|simulation-full|cluster|state|state-full|host|kill|kill-full|vm|vm-full ...
set -u
cd "$(dirname "$0")/.." || exit 1

dir=$(scripts/find-cargo.sh) || { echo "test: no cargo: run 'make test' as root, it installs one" >&2; exit 1; }
PATH="$dir:$PATH"
# What is optional in the library is tested, too.
full="--features full"
LC_ALL=C
export PATH LC_ALL

# The seconds since boot: unlike `date`, not moved by a clock that is set.
now() { cut -d' ' -f1 /proc/uptime; }

lint() {
    lint_status=0
    # Debian packages neither beside the cargo that set-up takes.
    if cargo fmt --version >/dev/null 2>&1; then
        cargo fmt --check || lint_status=1
    else
        echo "lint: no rustfmt here, format not checked"
    fi
    if cargo clippy --version >/dev/null 2>&1; then
        cargo clippy --quiet --all-targets $full -- -D warnings || lint_status=1
        cargo clippy --quiet --lib -- -D warnings || lint_status=1
    else
        echo "lint: no clippy here, lints not checked"
    fi
    RUSTDOCFLAGS="-D warnings" cargo doc --quiet --no-deps $full || lint_status=1
    return $lint_status
}

tier() {
    case "$1" in
        lint) lint ;;
        build) cargo test --no-run $full ;;
        # `--lib --bins --examples` leaves out the tiers below, which are `--test`; doc tests are a run of their own.
        unit) cargo test $full --lib --examples && cargo test $full --doc ;;
        tidy) cargo test $full --test tidy ;;
        simulation) cargo test $full --test simulation ;;
        simulation-full) DOCKLET_SIMULATION_HISTORIES=100000 cargo test $full --test simulation ;;
        cluster) cargo test $full --test cluster ;;
        # VLANs on bridges, GRE, logical volumes and quotas need what a kernel may lack: those run in the VM tier.
        host)
            cargo test $full --test host -- --include-ignored --skip bridge_vlan:: --skip gre_
            host_status=$?
            cargo test $full --test storage -- --include-ignored --skip lvm_ --skip quota_ && return $host_status
            ;;
        state) cargo test $full --test state ;;
        state-full) DOCKLET_STATE_OPERATIONS=100000 cargo test $full --test state ;;
        kill) cargo test $full --test kill -- --sample-seconds 180 ;;
        kill-full) cargo test $full --test kill -- --full ;;
        vm) tests/vm/run.sh ;;
        vm-full) tests/vm/run.sh --all ;;
        *) echo "test: no tier called $1" >&2; return 1 ;;
    esac
}

failed=0
summary=
for name in "$@"; do
    printf '\n== %s\n' "$name"
    begin=$(now)
    if tier "$name"; then word=passed; else word=FAILED failed=1; fi
    summary="$summary$(printf '%-10s %-7s %7.1f s' "$name" "$word" "$(echo "$(now) $begin" | awk '{ print $1 - $2 }')")
"
    [ "$name $word" != "build FAILED" ] || break
done
printf '\n%s' "$summary"
exit $failed
