#!/bin/sh
# Volumes on LVM: the storage tier's tests of them; and a container and volumes in a volume group that is in a file, brought
# back by one `recover`: after a clean reboot, after a power cut, and not without the file.
# shellcheck source=tests/vm/jobs/lib.sh
. /docklet/vm/jobs/lib.sh

back() {
    # Somebody else's, where the volume group was.
    truncate -s 1M /data/other
    losetup /dev/loop0 /data/other
    recover >/tmp/first || { cat /tmp/first; return 1; }
    grep -q '"attached /data/group.img"' /tmp/first || { cat /tmp/first; return 1; }
    [ "$(grep -c '"started"' /tmp/first)" = 1 ] || { cat /tmp/first; return 1; }
    recover >/tmp/second || return 1
    [ "$(grep -c '"unchanged"' /tmp/second)" = 1 ] || { cat /tmp/second; return 1; }
    grep -q '"volumes": \[\]' /tmp/second && grep -q '"orphans": \[\]' /tmp/second || { cat /tmp/second; return 1; }
    losetup -j /data/other | grep -q '^/dev/loop0:' || { losetup; return 1; }
    vm --step lvm-check
}

# Without the file nothing is made in its place.
lost() {
    mv /data/group.img /data/away.img
    recover >/tmp/lost 2>&1 && { cat /tmp/lost; return 1; }
    grep -q 'group.img' /tmp/lost && grep -q 'does not exist' /tmp/lost || { cat /tmp/lost; return 1; }
    [ ! -e /data/group.img ] && [ -z "$(lvm vgs --noheadings)" ] || return 1
    mv /data/away.img /data/group.img
}

nothing_is_left() {
    left=$(
        lvm vgs --noheadings
        losetup --list --noheadings
        grep -E ' /(data/lvm|var/lib/docklet)/' /proc/self/mountinfo
        find /data/lvm/locks /data/lvm/rollback /data/lvm/mounts /data/group.img -mindepth 0 ! -type d
    ) 2>/dev/null
    [ -z "$left" ] || { echo "$left"; return 1; }
}

unwatched
modprobe -a loop dm_mod
case "$STAGE" in
    1)
        storage lvm_ --include-ignored --test-threads=2 || exit 1
        tell made vm --step lvm-make
        tell made_before vm --step lvm-check
        exit "$CLEAN"
        ;;
    2)
        tell recovered_after_a_clean_reboot back
        exit "$CUT"
        ;;
    3)
        tell lost_without_its_file lost
        tell recovered_after_a_power_cut back
        losetup -d /dev/loop0
        tell removed vm --step lvm-remove
        tell nothing_is_left nothing_is_left
        ;;
esac
