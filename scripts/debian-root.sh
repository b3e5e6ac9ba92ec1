#!/bin/sh
# Makes target/debian/root.tar, the root of a Debian with systemd, as `mmdebstrap` packs it: what the host tier boots.
# Does nothing, and prints nothing, if one made by this very script is there. Takes a minute and 300 MB.
# Usage: debian-root.sh
set -eu
cd "$(dirname "$0")/.."

fail() {
    echo "debian-root: $*" >&2
    exit 1
}

suite=bookworm
packages=systemd-sysv,dbus,iproute2,sudo
directory=$PWD/target/debian
stamp=$(sha256sum scripts/debian-root.sh)
[ ! -f "$directory/stamp" ] || [ "$stamp" != "$(cat "$directory/stamp")" ] || exit 0

[ "$(id -u)" = 0 ] || fail "needs root: the owners in the archive are real ones"
command -v mmdebstrap >/dev/null || fail "needs mmdebstrap: apt-get install mmdebstrap"
mkdir -p "$directory"

# The mirror and the proxy that this machine's apt uses.
# shellcheck disable=SC2016
mirror=$(apt-get indextargets --format '$(REPO_URI) $(CODENAME) $(COMPONENT)' 'Created-By: Packages' |
    sed -n "s/ $suite main$//p" | head -n 1)
[ -n "$mirror" ] || fail "apt has no source with $suite main: add one to /etc/apt/sources.list"
PROXY=
eval "$(apt-config shell PROXY Acquire::http::Proxy)"
[ -z "$PROXY" ] || export http_proxy="$PROXY"

rm -f "$directory/root.tar.new"
mmdebstrap --mode=root --format=tar --variant=minbase --include="$packages" "$suite" "$directory/root.tar.new" "$mirror" \
    >"$directory/log" 2>&1 || { cat "$directory/log" >&2; fail "mmdebstrap failed"; }
mv "$directory/root.tar.new" "$directory/root.tar"
printf '%s\n' "$stamp" >"$directory/stamp"
