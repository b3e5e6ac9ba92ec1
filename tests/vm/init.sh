#!/bin/sh
# The guest's init: makes a machine of the disks, runs one job's next stage, says how it ended, and stops.
# The kernel's command line says which: job=NAME stage=NUMBER cgroups=v1|v2; manager=systemd leaves the machine to systemd,
# which calls this again for the stage: init.sh stage
exec </dev/null >/dev/hvc0 2>&1
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C TERM=dumb

word() { tr ' ' '\n' </proc/cmdline | sed -n "s/^$1=//p"; }

# The last words. What they are followed by is an exit status for the runner, or the next stage.
leave() {
    echo "@vm $*"
    # A power cut keeps nothing that was not synchronized; the others are as orderly as a machine's own.
    [ "$1" != cut ] || echo b >/proc/sysrq-trigger
    if [ "$1" = reboot ] && [ -d /run/systemd/system ]; then
        systemctl reboot
        exec sleep 86400
    fi
    kill -TERM -1
    sleep 0.5
    kill -KILL -1
    umount -a -r 2>/dev/null
    sync
    busybox reboot -f
}

stage() {
    cd /root || leave exit 91
    STAGE=$(word stage) sh "/docklet/vm/jobs/$(word job).sh"
    status=$?
    case $status in
        64) leave reboot ;;
        65) leave cut ;;
        *) leave exit $status ;;
    esac
}

# A login on a console would hang up on the stage, which speaks there: the kernel's command line forbids it.
# Its units, and programs that are no package's, stay as the disk does.
systemd() {
    [ -d /data/etc ] || cp -a /etc /data/etc
    mkdir -p /data/local
    mount --bind /data/etc /etc
    mount --bind /data/local /usr/local
    # Without it systemd takes this for its first boot, and enables all there is.
    tr -d - </proc/sys/kernel/random/uuid >/etc/machine-id
    units=/run/systemd/system
    mkdir -p $units/multi-user.target.wants
    printf '[Service]\nExecStart=/bin/sh /docklet/vm/init.sh stage\n' >$units/stage.service
    ln -s $units/stage.service $units/multi-user.target.wants/
    udevadm control --exit
    exec /lib/systemd/systemd
}

[ "${1-}" != stage ] || stage

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
# What Debian's apparmor.service does.
if grep -q Y /sys/module/apparmor/parameters/enabled; then
    apparmor_parser --replace --skip-cache /etc/apparmor.d || leave exit 92
fi
hostname vm
ip link set lo up

# v1 as systemd lays it out, with two controllers in one hierarchy, but without a unified one beside them.
if [ "$(word cgroups)" = v1 ]; then
    mount -t tmpfs -o mode=755 tmpfs /sys/fs/cgroup
    controllers=$(awk '!/^#/ && $4 == 1 && $1 !~ /^cpu(acct)?$/ { print $1 }' /proc/cgroups)
    for controller in $controllers cpu,cpuacct; do
        mkdir "/sys/fs/cgroup/$controller"
        mount -t cgroup -o "$controller" cgroup "/sys/fs/cgroup/$controller"
    done
    ln -s cpu,cpuacct /sys/fs/cgroup/cpu
    ln -s cpu,cpuacct /sys/fs/cgroup/cpuacct
    mkdir /sys/fs/cgroup/systemd
    mount -t cgroup -o none,name=systemd cgroup /sys/fs/cgroup/systemd
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
[ "$(word manager)" != systemd ] || systemd
stage
