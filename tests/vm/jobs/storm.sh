#!/bin/sh
# Power cuts at any moment: while containers come and go, and while the host recovers from the last one. In the end one
# recovery makes everything whole, and removing everything leaves nothing.
# shellcheck source=tests/vm/jobs/lib.sh
. /docklet/vm/jobs/lib.sh

# Starts it and cuts the power some time after, between $1 and $2 tenths of a second.
cut_while() {
    tenths=$(shuf -i "$1-$2" -n 1)
    shift 2
    "$@" >/tmp/storm 2>&1 &
    sleep "$((tenths / 10)).$((tenths % 10))"
    if kill -0 $! 2>/dev/null; then
        echo "the power goes after $tenths tenths of a second of: $*; so far:"
        tail -n 3 /tmp/storm
        exit "$CUT"
    fi
    # A recovery may have been faster than that; a storm has no end of its own.
    wait $!
    status=$?
    echo "$* ended with status $status before the power went"
    [ "$1 $status" = "recover 0" ] || { tail -n 20 /tmp/storm; echo "test stormed ... FAILED"; exit 1; }
    exit "$CUT"
}

# By the kernel's word, and the directory's.
nothing_is_left() {
    left=$(
        find "$FS_PREFIX/local/manifests" "$FS_PREFIX/local/containers" "$FS_PREFIX/local/volumes/files" -mindepth 1
        losetup --list --noheadings
        grep "$FS_PREFIX/" /proc/self/mountinfo
        ip -o link show | grep -E ': (dk|lan)'
        nft list tables | grep docklet
        find /sys/fs/cgroup -type d -path '*/docklet/*/*'
    )
    [ -z "$left" ] || { echo "$left"; return 1; }
}

case "$STAGE" in
    1)
        outside
        tell launched vm --step launch
        cut_while 30 200 vm --step storm
        ;;
    2 | 4 | 6)
        outside
        tell "calm_on_boot_$STAGE" vm --step calm
        cut_while 30 200 vm --step storm
        ;;
    3 | 5 | 7)
        cut_while 3 60 recover
        ;;
    8)
        outside
        tell calm_in_the_end vm --step calm
        tell removed vm --step remove
        tell nothing_is_left nothing_is_left
        ;;
esac
