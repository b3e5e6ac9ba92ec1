#!/bin/sh
# Builds the guest of the VM tier in target/vm/image: Debian's cloud kernel, a small initramfs and a root as squashfs.
# QEMU and what packs images go to target/vm/image/tools and not into this system: nothing to conflict with.
# Does nothing, and prints nothing, if an image made by this very script is there. Takes a minute and 1 GiB. A newer
# kernel at Debian's is no reason to build: `image/about` says which one this is, and from when.
# Usage: vm-image.sh
set -eu
cd "$(dirname "$0")/.."

fail() {
    echo "vm-image: $*" >&2
    exit 1
}

suite=bookworm
guest_packages="apparmor,btrfs-progs,busybox-static,e2fsprogs,findutils,iproute2,iputils-ping,kmod,lvm2,lxc,mmdebstrap,mount,nftables,procps,quota,skopeo,strace,systemd,thin-provisioning-tools,udev,umoci,util-linux,xfsprogs,xz-utils,zstd"
tool_packages="cpio,kmod,qemu-system-x86,squashfs-tools"
# What finds the root and speaks to the runner. All else is loaded by the guest, as on any machine.
early_modules="virtio_pci virtio_blk virtio_console squashfs"

image=$PWD/target/vm/image
stamp=$(sha256sum scripts/vm-image.sh scripts/vm-tool.sh tests/vm/initramfs.sh)
is_current() { [ -f "$image/stamp" ] && [ "$stamp" = "$(cat "$image/stamp")" ]; }
is_current && exit

[ "$(id -u)" = 0 ] || fail "needs root: mmdebstrap makes device files"
[ "$(uname -m)" = x86_64 ] || fail "only x86_64 guests are known here"
mkdir -p target/vm
# One builder at a time, and none while guests run from the image: a runner holds this lock, too, shared.
exec 8>target/vm/image.lock
flock --exclusive --nonblock 8 || { echo "vm-image: waiting for those who use the image"; flock --exclusive 8; }
is_current && exit
scripts/setup.sh test
echo "vm-image: building the guest, which takes a minute"

work=$image.new
# Never across a file system: nothing of the host is mounted here, but a mistake would be.
[ ! -e "$work" ] || rm -r --one-file-system "$work"
mkdir -p "$work"
log=$work/log
trap '[ $? = 0 ] || cat "$log" >&2' EXIT

# The mirror and the proxy that this machine's apt uses.
# shellcheck disable=SC2016
mirror=$(apt-get indextargets --format '$(REPO_URI) $(CODENAME) $(COMPONENT)' 'Created-By: Packages' |
    sed -n "s/ $suite main$//p" | head -n 1)
[ -n "$mirror" ] || fail "apt has no source with $suite main: add one to /etc/apt/sources.list"
PROXY=
eval "$(apt-config shell PROXY Acquire::http::Proxy)"
[ -z "$PROXY" ] || export http_proxy="$PROXY"

apt-get update -q >"$log" 2>&1 || fail "apt-get update failed: the guest is built from Debian's packages"
kernel=$(apt-cache depends linux-image-cloud-amd64 | sed -n 's/^ *Depends: //p' | head -n 1)
[ -n "$kernel" ] || fail "apt knows no linux-image-cloud-amd64"
# Signed or not does not matter here; the unsigned one is unpacked without what installing a kernel brings.
(cd "$work" && apt-get download -q "$kernel-unsigned" >>"$log" 2>&1) || fail "cannot download $kernel-unsigned"

# The tools are only unpacked: nothing of theirs runs in a root of its own.
bootstrap() { mmdebstrap --quiet --mode=root --variant="$1" --include="$2" "$suite" "$3" "$mirror" >"$log.$1" 2>&1; }
bootstrap extract "$tool_packages" "$work/tools" || { cat "$log.extract" >>"$log"; fail "cannot unpack the tools"; }
bootstrap minbase "$guest_packages" "$work/root" || { cat "$log.minbase" >>"$log"; fail "cannot make the guest"; }
tool() { VM_TOOLS=$work/tools scripts/vm-tool.sh "$@"; }

root=$work/root
# Beside the root: unpacked over it, it would make a directory of the link `/lib`.
dpkg -x "$work/$kernel"-unsigned_*.deb "$work/kernel"
version=${kernel#linux-image-}
mv "$work/kernel/boot/vmlinuz-$version" "$work/vmlinuz"
mkdir -p "$root/usr/lib/modules"
mv "$work/kernel/lib/modules/$version" "$root/usr/lib/modules/"
tool /sbin/depmod --basedir "$root" "$version"
for dir in boot var/cache/apt var/lib/apt/lists usr/share/doc usr/share/locale; do
    rm -r --one-file-system "${root:?}/$dir"
done
mkdir -p "$root/data" "$root/docklet" "$root/var/lib/docklet"
echo vm >"$root/etc/hostname"
printf '127.0.0.1 localhost vm\n' >"$root/etc/hosts"

early=$work/early
mkdir -p "$early/bin" "$early/dev" "$early/proc" "$early/sys" "$early/root" "$early/modules"
cp "$root/bin/busybox" "$early/bin/busybox"
cp tests/vm/initramfs.sh "$early/init"
chmod 755 "$early/init"
for module in $early_modules; do
    tool /sbin/modprobe --dirname "$root" --set-version "$version" --show-depends "$module"
done | sed -n 's/^insmod //p' | awk '!seen[$1]++ { print $1 }' >"$work/modules"
while read -r file; do
    cp "$file" "$early/modules/"
    basename "$file"
done <"$work/modules" >"$early/modules/order"
(cd "$early" && find . | VM_TOOLS=$work/tools "$OLDPWD/scripts/vm-tool.sh" /bin/cpio --quiet -o -H newc | gzip -1) >"$work/initrd"

# Not compressed: the guest's processor is the slow part.
tool /usr/bin/mksquashfs "$root" "$work/root.squashfs" -noI -noD -noF -noX -noappend -quiet -no-progress >>"$log" 2>&1

rm -r --one-file-system "$root" "$early" "$work/kernel" "$work"/*.deb
echo "Linux $version, packages of $(date -u +%F)" >"$work/about"
printf '%s\n' "$stamp" >"$work/stamp"
[ ! -e "$image" ] || rm -r --one-file-system "$image"
mv "$work" "$image"
