#!/bin/sh
# A host with AppArmor on and Debian's profiles loaded, as Debian has it: LXC confines its monitor and its containers.
# shellcheck source=tests/vm/jobs/lib.sh
. /docklet/vm/jobs/lib.sh

profile_is_enforced() { grep -qx "$1 (enforce)" /sys/kernel/security/apparmor/profiles; }

tell profile_of_containers_is_loaded profile_is_enforced lxc-container-default-cgns
tell profile_of_lxc_is_loaded profile_is_enforced /usr/bin/lxc-start
tell doctor doctor
# With it each network namespace would get `gre0` and others, and tests look at the links of theirs.
tell doctor_loads_no_gre [ ! -d /sys/module/ip_gre ]
tell quickstart quickstart
exec /docklet/tests/host --include-ignored container:: exec:: isolation:: mount_entry:: host::life
