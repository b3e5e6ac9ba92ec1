#!/bin/sh
# Volumes that are directories with project quotas: the storage tier's tests of them, on xfs and ext4; and a container on one,
# which a power cut does not free of its limit, nor a mount without quotas: it does not start then.
# shellcheck source=tests/vm/jobs/lib.sh
. /docklet/vm/jobs/lib.sh

unlimited() {
    mount -o loop /data/quota.img /data/quota
    recover >/tmp/unlimited 2>&1 && { cat /tmp/unlimited; return 1; }
    grep -q 'prjquota' /tmp/unlimited || { cat /tmp/unlimited; return 1; }
    if grep -q ' /var/lib/docklet/local/containers/.*/root ' /proc/self/mountinfo; then return 1; fi
    umount /data/quota
}

back() {
    mount -o loop,prjquota /data/quota.img /data/quota
    recover >/tmp/first || { cat /tmp/first; return 1; }
    [ "$(grep -c '"started"' /tmp/first)" = 1 ] || { cat /tmp/first; return 1; }
    vm --step quota-check
}

nothing_is_left() {
    left=$(
        find /data/quota/pool -mindepth 2 2>&1
        repquota -P -n -v -O csv /data/quota | awk -F, '/^#16847/ && ($4 || $6 || $8)'
    )
    [ -z "$left" ] || { echo "$left"; return 1; }
}

case "$STAGE" in
    1)
        storage quota_ --include-ignored --test-threads=2 || exit 1
        truncate -s 1G /data/quota.img
        mkfs.xfs -q /data/quota.img
        mkdir /data/quota
        mount -o loop,prjquota /data/quota.img /data/quota
        tell made vm --step quota-make
        exit "$CUT"
        ;;
    2)
        tell not_started_without_quotas unlimited
        tell recovered_after_a_power_cut back
        tell removed vm --step quota-remove
        tell nothing_is_left nothing_is_left
        ;;
esac
