//! Layers: what a tree is packed to is unpacked to the same tree.

use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use docklet::storage::{
    Compression, DeviceNodes, Digest, PackOptions, Packed, UnpackOptions, Unpacked, pack_layer, unpack_layer,
};
use rustix::fs::{CWD, FileType, Mode, XattrFlags, lsetxattr, makedev, mknodat};

use crate::listing::listing;
use crate::sandbox::Sandbox;

pub(crate) fn pack(tree: &Path) -> (Vec<u8>, Packed) {
    let mut archive = Vec::new();
    let options = PackOptions { compression: Compression::None, ..PackOptions::default() };
    let packed = pack_layer(tree, &mut archive, &options).expect("pack");
    (archive, packed)
}

pub(crate) fn unpack(archive: &[u8], into: &Path) -> docklet::Result<Unpacked> {
    let options = UnpackOptions { device_nodes: DeviceNodes::Make, ..UnpackOptions::default() };
    unpack_layer(archive, into, &options, &mut |_| {})
}

pub(crate) fn xattr(path: &Path, name: &str, value: &[u8]) {
    lsetxattr(path, name, value, XattrFlags::empty()).expect("lsetxattr");
}

pub(crate) fn node(path: &Path, kind: FileType, major: u32, minor: u32) {
    mknodat(CWD, path, kind, Mode::from_raw_mode(0o640), makedev(major, minor)).expect("mknod");
}

/// A file capability of the second version: `cap_net_raw+ep`.
const CAPABILITY: [u8; 20] = [1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// One of everything that a layer can have.
pub(crate) fn odd_tree(root: &Path) {
    let at = |name: &str| root.join(name);
    for dir in ["usr/bin", "opaque/old", "empty", "dev", "a\nb", "deep/er/and/deeper"] {
        fs::create_dir_all(at(dir)).expect("mkdir");
    }
    fs::write(at("usr/bin/sudo"), "setuid").expect("write");
    std::os::unix::fs::chown(at("usr/bin/sudo"), Some(0), Some(12)).expect("chown");
    fs::set_permissions(at("usr/bin/sudo"), fs::Permissions::from_mode(0o6755)).expect("chmod");
    fs::hard_link(at("usr/bin/sudo"), at("usr/bin/sudoedit")).expect("link");
    fs::write(at("usr/bin/ping"), "capable").expect("write");
    std::os::unix::fs::chown(at("usr/bin/ping"), Some(4_000_000_000), Some(3_000_000)).expect("chown");
    xattr(&at("usr/bin/ping"), "security.capability", &CAPABILITY);
    xattr(&at("usr/bin/ping"), "user.lines", b"one\ntwo=3\0\xff");
    xattr(&at("empty"), "user.on-a-directory", b"");
    symlink("/etc/passwd", at("absolute")).expect("symlink");
    symlink("../../../../etc/passwd", at("usr/climbing")).expect("symlink");
    symlink("x".repeat(4000), at("long-link")).expect("symlink");
    fs::hard_link(at("absolute"), at("absolute-too")).expect("link");
    fs::write(at(&format!("deep/er/{}", "n".repeat(255))), "long name").expect("write");
    fs::write(root.join(std::ffi::OsStr::from_bytes(b"a\nb/not \xff UTF-8 \\ \"")), "").expect("write");
    let sparse = File::create(at("sparse")).expect("create");
    sparse.write_all_at(b"in the middle", 8 << 20).expect("write");
    sparse.set_len(16 << 20).expect("truncate");
    node(&at("pipe"), FileType::Fifo, 0, 0);
    node(&at("dev/null"), FileType::CharacterDevice, 1, 3);
    node(&at("dev/sda"), FileType::BlockDevice, 8, 300_000);
    node(&at("missing"), FileType::CharacterDevice, 0, 0);
    fs::hard_link(at("missing"), at("missing-too")).expect("overlayfs links its whiteouts");
    xattr(&at("opaque"), "trusted.overlay.opaque", b"y");
    fs::set_permissions(at("empty"), fs::Permissions::from_mode(0o1777)).expect("chmod");
    for (name, seconds) in
        [("usr", "1500000000.123456789"), ("usr/bin", "-5.5"), ("empty", "20000000000"), ("", "7")]
    {
        crate::kernel::run("touch", ["-h", "-d", &format!("@{seconds}"), at(name).to_str().expect("UTF-8")]);
    }
}

/// The lines of a listing without the times of whiteouts, which nobody sees.
fn seen(root: &Path) -> Vec<String> {
    let blank = |line: String| {
        if line.contains(" 20000 ") || line.ends_with(" 0x0") { "whiteout".to_owned() } else { line }
    };
    listing(root).into_iter().map(blank).collect()
}

#[test]
#[ignore = "needs root: owners, devices, trusted attributes"]
fn layer_comes_back_as_it_was() {
    let sandbox = Sandbox::new();
    let (tree, back) = (sandbox.dir("tree"), sandbox.dir("back"));
    odd_tree(&tree);
    let (archive, packed) = pack(&tree);
    assert_eq!(packed.diff_id, Digest::of(&archive));
    assert_eq!((packed.digest, packed.bytes), (packed.diff_id, archive.len() as u64));
    let unpacked = unpack(&archive, &back).expect("unpack");
    assert_eq!((unpacked.diff_id, unpacked.bytes), (packed.diff_id, packed.bytes));
    assert_eq!(unpacked.implied_directories, 0);
    assert_eq!(seen(&back), seen(&tree));
    assert!(fs::metadata(back.join("sparse")).expect("stat").blocks() <= 256, "holes stay holes");
    assert_eq!(pack(&back).1, packed);
}

/// What a directory's default access control list would give to all that is made in it, nothing gets that did not have it.
#[test]
#[ignore = "needs root: owners, devices"]
fn layer_gives_nobody_access_by_default_lists() {
    let sandbox = Sandbox::new();
    let (tree, back) = (sandbox.dir("tree"), sandbox.dir("back"));
    for dir in ["open/closed/deep", "open/other"] {
        fs::create_dir_all(tree.join(dir)).expect("mkdir");
    }
    for file in ["open/file", "open/closed/file", "open/closed/deep/file"] {
        fs::write(tree.join(file), "x").expect("write");
        fs::set_permissions(tree.join(file), fs::Permissions::from_mode(0o640)).expect("chmod");
    }
    node(&tree.join("open/pipe"), FileType::Fifo, 0, 0);
    symlink("file", tree.join("open/link")).expect("symlink");
    let entry = |tag: u16, may: u16, id: u32| {
        [&tag.to_le_bytes()[..], &may.to_le_bytes(), &id.to_le_bytes()].concat()
    };
    let nobody = u32::MAX;
    let list = [
        entry(1, 7, nobody),
        entry(2, 7, 1000),
        entry(4, 5, nobody),
        entry(16, 7, nobody),
        entry(32, 5, nobody),
    ];
    let list = [vec![2, 0, 0, 0], list.concat()].concat();
    for dir in ["", "open", "open/other"] {
        xattr(&tree.join(dir), "system.posix_acl_default", &list);
    }
    xattr(&tree.join("open/closed/file"), "system.posix_acl_access", &list);
    let (archive, packed) = pack(&tree);
    unpack(&archive, &back).expect("unpack");
    assert_eq!(listing(&back), listing(&tree));
    assert_eq!(pack(&back).1, packed);
}
