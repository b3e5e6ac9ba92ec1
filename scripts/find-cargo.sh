#!/bin/sh
# Prints the directory of the first cargo that is new enough for Cargo.toml's rust-version; fails if there is none.
# Looks further than PATH, since `sudo` resets it and rustup lives in a home directory.
set -eu
cd "$(dirname "$0")/.."

wanted=$(sed -n 's/^rust-version = "\(.*\)"$/\1/p' Cargo.toml)
home=${HOME:-/root}
of_caller=$([ -z "${SUDO_USER:-}" ] || getent passwd "$SUDO_USER" | cut -d: -f6)

# A cargo that cannot say its version (a rustup proxy without a toolchain) is passed over.
for cargo in \
    "$(command -v cargo || true)" \
    "${CARGO_HOME:-$home/.cargo}/bin/cargo" \
    /usr/local/cargo/bin/cargo \
    "${RUSTUP_HOME:-$home/.rustup}"/toolchains/stable-*/bin/cargo \
    /usr/local/rustup/toolchains/*/bin/cargo \
    "$of_caller"/.rustup/toolchains/stable-*/bin/cargo
do
    [ -x "$cargo" ] || continue
    dir=$(dirname "$cargo")
    found=$(PATH="$dir:$PATH" "$cargo" --version 2>/dev/null | cut -d' ' -f2)
    [ -n "$found" ] || continue
    if printf '%s\n%s\n' "$wanted" "$found" | sort --check=quiet --version-sort; then
        echo "$dir"
        exit 0
    fi
done
exit 1
