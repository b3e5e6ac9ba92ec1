#!/bin/sh
# A host with AppArmor on and Debian's profiles loaded, as Debian has it: LXC confines its monitor and its containers.
# shellcheck source=tests/vm/jobs/lib.sh
. /docklet/vm/jobs/lib.sh

profile_is_enforced() { grep -qx "$1 (enforce)" /sys/kernel/security/apparmor/profiles; }

# `doctor` makes a tunnel; with GRE each network namespace would get `gre0` and others, and tests look at the links of theirs.
echo 2 >/proc/sys/net/core/fb_tunnels_only_for_init_net
tell profile_of_containers_is_loaded profile_is_enforced lxc-container-default-cgns
tell profile_of_lxc_is_loaded profile_is_enforced /usr/bin/lxc-start
tell doctor doctor
tell quickstart quickstart
exec /docklet/tests/host --include-ignored container:: exec:: isolation:: mount_entry:: host::life
