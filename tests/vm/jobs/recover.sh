#!/bin/sh
# A host with two containers, brought back by one `recover`: after a clean reboot, and after a power cut.
# shellcheck source=tests/vm/jobs/lib.sh
. /docklet/vm/jobs/lib.sh

back() {
    outside
    # Somebody else's, where the first container's volume was.
    truncate -s 1M /data/other
    losetup /dev/loop0 /data/other
    recover >/tmp/first || return 1
    [ "$(grep -c '"started"' /tmp/first)" = 2 ] || { cat /tmp/first; return 1; }
    recover >/tmp/second || return 1
    [ "$(grep -c '"unchanged"' /tmp/second)" = 2 ] || { cat /tmp/second; return 1; }
    grep -q '"networks": \[\]' /tmp/second && grep -q '"orphans": \[\]' /tmp/second || return 1
    losetup -j /data/other | grep -q '^/dev/loop0:' || { losetup; return 1; }
    vm --step check
}

case "$STAGE" in
    1)
        outside
        tell launched vm --step launch
        tell running_before vm --step check
        exit "$CLEAN"
        ;;
    2)
        tell recovered_after_a_clean_reboot back
        exit "$CUT"
        ;;
    3)
        tell recovered_after_a_power_cut back
        tell removed vm --step remove
        ;;
esac
