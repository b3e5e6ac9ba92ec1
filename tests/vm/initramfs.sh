#!/bin/busybox sh
# shellcheck shell=dash
# The guest's first program: finds the disks by their serial numbers, mounts the root, and goes on in it.
/bin/busybox --install -s /bin
mount -t devtmpfs dev /dev
mount -t proc proc /proc
mount -t sysfs sys /sys
while read -r module; do insmod "/modules/$module" || echo "initramfs: $module failed"; done </modules/order

disk() {
    for serial in /sys/block/vd*/serial; do
        [ "$(cat "$serial")" != "$1" ] || basename "$(dirname "$serial")"
    done
}
tries=0
while [ -z "$(disk root)" ] || [ -z "$(disk payload)" ] || [ -z "$(disk data)" ] || [ ! -e /dev/hvc0 ]; do
    tries=$((tries + 1))
    [ $tries -lt 200 ] || { echo "initramfs: a disk or the console is missing"; reboot -f; }
    sleep 0.1
done
# Read-only, with little on top: an overlay would need the module whose loading is to be tested.
mount -t squashfs -o ro "/dev/$(disk root)" /root
mount -t squashfs -o ro "/dev/$(disk payload)" /root/docklet
mount --move /dev /root/dev
mount --move /proc /root/proc
mount --move /sys /root/sys
exec switch_root /root /bin/sh /docklet/vm/init.sh
