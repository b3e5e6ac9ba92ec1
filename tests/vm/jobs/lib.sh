#!/bin/sh
# What jobs share. Exit statuses that ask for another boot on the same disk; and one line for each result.
# shellcheck disable=SC2034
CLEAN=64 CUT=65
FS_PREFIX=/var/lib/docklet
# Last: one of the tests is called `kill`.
PATH=$PATH:/docklet/tests:/docklet/examples
export FS_PREFIX PATH

# tell NAME COMMAND ...: a failed one ends the job.
tell() {
    name=$1
    shift
    begin=$(cut -d' ' -f1 /proc/uptime)
    if "$@"; then
        echo "test $name ... ok ($(echo "$(cut -d' ' -f1 /proc/uptime) $begin" | awk '{ printf "%.1f", $1 - $2 }') s)"
    else
        echo "test $name ... FAILED"
        exit 1
    fi
}

# Without dmeventd, which would extend pools that are nearly full, and costs a third of the time of each command. Nothing
# here counts on it.
unwatched() { printf 'activation {\n\tmonitoring = 0\n}\n' >/etc/lvm/lvmlocal.conf; }

# The world beyond the host, which only knows the host: what answers there came through NAT.
outside() {
    ip netns add outside
    ip link add wan type veth peer name eth0 netns outside
    ip address add 192.0.2.1/24 dev wan
    ip link set wan up
    ip -n outside address add 192.0.2.2/24 dev eth0
    ip -n outside link set eth0 up
    ip -n outside link set lo up
}
