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
