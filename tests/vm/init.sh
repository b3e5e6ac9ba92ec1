#!/bin/sh
# The guest's init: makes a machine of the disks, runs one job's next stage, says how it ended, and stops.
# The kernel's command line says which: job=NAME stage=NUMBER cgroups=v1|v2
exec </dev/null >/dev/hvc0 2>&1
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C TERM=dumb

word() { tr ' ' '\n' </proc/cmdline | sed -n "s/^$1=//p"; }

# The last words. What they are followed by is an exit status for the runner, or the next stage.
leave() {
    echo "@vm $*"
    # A power cut keeps nothing that was not synchronized; the others are as orderly as a machine's own.
    [ "$1" != cut ] || echo b >/proc/sysrq-trigger
    kill -TERM -1
    sleep 0.5
    kill -KILL -1
    umount -a -r 2>/dev/null
    sync
    busybox reboot -f
}

mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /tmp
mkdir /tmp/etc
cp -a /etc/. /tmp/etc
mount --bind /tmp/etc /etc
mount -t tmpfs tmpfs /var/lib/lxc
mount -t tmpfs tmpfs /mnt
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs tmpfs /dev/shm
mount -t tmpfs tmpfs /root
ln -s /proc/self/fd /dev/fd
for link in stdin:0 stdout:1 stderr:2; do ln -s "/proc/self/fd/${link#*:}" "/dev/${link%:*}"; done
# Without it liblxc takes AppArmor for half there, and starts nothing.
mount -t securityfs securityfs /sys/kernel/security
hostname vm
ip link set lo up

if [ "$(word cgroups)" = v1 ]; then
    mount -t tmpfs -o mode=755 tmpfs /sys/fs/cgroup
    awk '!/^#/ && $4 == 1 { print $1 }' /proc/cgroups | while read -r controller; do
        mkdir "/sys/fs/cgroup/$controller"
        mount -t cgroup -o "$controller" cgroup "/sys/fs/cgroup/$controller"
    done
    mkdir /sys/fs/cgroup/unified
    mount -t cgroup2 cgroup2 /sys/fs/cgroup/unified
else
    mount -t cgroup2 cgroup2 /sys/fs/cgroup
fi

# What systemd does with `kmod static-nodes`: devices that load their module when they are opened.
modprobe loop
/lib/systemd/systemd-udevd --daemon
udevadm trigger
udevadm settle

disk=
for serial in /sys/block/vd*/serial; do
    [ "$(cat "$serial")" != data ] || disk=/dev/$(basename "$(dirname "$serial")")
done
[ -n "$(blkid -o value -s TYPE "$disk")" ] || mkfs.ext4 -q "$disk"
mount -t ext4 "$disk" /data || leave exit 90
mkdir -p /data/tmp /data/lib
chmod 1777 /data/tmp
mount --bind /data/tmp /var/tmp
mount --bind /data/lib /var/lib/docklet

echo "@vm up $(cut -d' ' -f1 /proc/uptime) s, Linux $(uname -r), cgroups $(word cgroups)"
cd /root || leave exit 91
STAGE=$(word stage) sh "/docklet/vm/jobs/$(word job).sh"
status=$?
case $status in
    64) leave reboot ;;
    65) leave cut ;;
    *) leave exit $status ;;
esac
