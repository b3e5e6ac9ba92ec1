#!/bin/sh
# Installs from Debian's packages what is missing for `make demo` or `make test`. Asks nothing, removes nothing.
# Usage: setup.sh demo|test
set -eu
cd "$(dirname "$0")/.."

fail() {
    echo "set-up: $*" >&2
    exit 1
}

demo="busybox-static ca-certificates e2fsprogs gcc iproute2 libc6-dev lxc make mount nftables util-linux"
test="btrfs-progs etcd-client etcd-server findutils iputils-ping libprotobuf-dev mmdebstrap openssl procps"
test="$test protobuf-compiler skopeo umoci xfsprogs xz-utils zstd"
case "${1:-}" in
    demo) wanted=$demo ;;
    test) wanted="$demo $test" ;;
    *) fail "usage: scripts/setup.sh demo|test" ;;
esac
# Only a kernel with loadable modules has something for modprobe to load.
[ ! -e /proc/modules ] || wanted="$wanted kmod"

# Where AppArmor is on, LXC wants its profiles loaded.
if grep -qs Y /sys/module/apparmor/parameters/enabled; then wanted="$wanted apparmor"; fi

[ "$(id -u)" = 0 ] || fail "needs root: namespaces, mounts and loop devices belong to it"
if ! command -v apt-get >/dev/null || ! command -v dpkg-query >/dev/null; then
    fail "only Debian's apt is known here; install the programs of these packages yourself: $wanted"
fi

# Debian 12's `cargo` is too old, but the one it builds its web browsers with is not.
if ! scripts/find-cargo.sh >/dev/null; then
    wanted="$wanted cargo-web"
    [ "$1" = demo ] || wanted="$wanted rustfmt-web"
    rust="rust"
fi

# What is not there is not an error for dpkg-query's output, only for its exit status.
# shellcheck disable=SC2016,SC2086
installed=$(dpkg-query --show --showformat '${db:Status-Status} ${Package}\n' $wanted 2>/dev/null |
    sed -n 's/^installed //p') || true
missing=
for package in $wanted; do
    echo "$installed" | grep -qx "$package" || missing="$missing $package"
done

if [ -n "$missing" ]; then
    echo "set-up: installing$missing"
    log=$(mktemp)
    export DEBIAN_FRONTEND=noninteractive
    # shellcheck disable=SC2086
    if ! { apt-get update -q && apt-get install -qy --no-install-recommends --no-remove $missing; } >"$log" 2>&1
    then
        cat "$log" >&2
        rm -f "$log"
        fail "apt-get could not install$missing${rust:+ (for Rust, https://rustup.rs works as well)}"
    fi
    rm -f "$log"
fi

scripts/find-cargo.sh >/dev/null ||
    fail "no cargo $(sed -n 's/^rust-version = "\(.*\)"$/\1/p' Cargo.toml) or newer: install Rust from https://rustup.rs"
