#!/bin/sh
# A host whose init is systemd, with `dist/docklet.service` installed as it says: it brings containers back at boot, in their order,
# after a clean reboot and after a power cut, and starts again what ends.
# shellcheck source=tests/vm/jobs/lib.sh
. /docklet/vm/jobs/lib.sh

enable() {
    install -D /docklet/examples/recover /usr/local/lib/docklet/recover
    install -m 644 /docklet/dist/docklet.service /etc/systemd/system/
    systemctl enable --now docklet
}

back() {
    vm --step boot-back && systemctl is-active docklet && return
    systemctl status docklet
    journalctl --no-pager --boot --unit docklet
    return 1
}

case "$STAGE" in
    1)
        tell enabled enable
        tell launched vm --step boot-make
        exit "$CLEAN"
        ;;
    2)
        tell back_after_a_clean_reboot back
        exit "$CUT"
        ;;
    3)
        tell back_after_a_power_cut back
        tell removed vm --step remove
        ;;
esac
