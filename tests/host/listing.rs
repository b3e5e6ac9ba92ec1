//! All that the kernel tells of a tree, as text: two trees are the same if their lines are.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use docklet::storage::Digest;
use rustix::fs::{lgetxattr, llistxattr};

/// One line for each file, directory and so on beneath `root`, and for itself, sorted by path. What has several names
/// shows the first of them.
pub(crate) fn listing(root: &Path) -> Vec<String> {
    let mut lines = Vec::new();
    let mut first = BTreeMap::new();
    visit(root, root, &mut first, &mut lines);
    lines
}

fn visit(root: &Path, path: &Path, first: &mut BTreeMap<(u64, u64), String>, lines: &mut Vec<String>) {
    let found = fs::symlink_metadata(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let name = format!("{:?}", path.strip_prefix(root).expect("beneath"));
    let kind = found.file_type();
    let mut line = format!(
        "{name} {:o} {}:{} {}.{:09}",
        found.mode(),
        found.uid(),
        found.gid(),
        found.mtime(),
        found.mtime_nsec()
    );
    if !kind.is_dir() && found.nlink() > 1 {
        let same = first.entry((found.dev(), found.ino())).or_insert_with(|| name.clone());
        line += &format!(" is {same}");
    }
    if kind.is_symlink() {
        line += &format!(" -> {:?}", fs::read_link(path).expect("link"));
    } else if kind.is_file() {
        line += &format!(" {} {}", found.len(), Digest::of(&fs::read(path).expect("read")));
    } else if kind.is_char_device() || kind.is_block_device() {
        line += &format!(" {:#x}", found.rdev());
    }
    for (name, value) in xattrs(path) {
        line += &format!(" {name}={value:02x?}");
    }
    lines.push(line);
    if kind.is_dir() {
        let mut names: Vec<_> =
            fs::read_dir(path).expect("list").map(|e| e.expect("entry").file_name()).collect();
        names.sort();
        names.iter().for_each(|name| visit(root, &path.join(name), first, lines));
    }
}

/// All extended attributes, sorted.
pub(crate) fn xattrs(path: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut buffer = vec![0; 64 << 10];
    let length = llistxattr(path, &mut buffer[..]).unwrap_or(0);
    let names = buffer[..length].split(|&b| b == 0).filter(|name| !name.is_empty());
    names
        .map(|name| {
            let mut value = vec![0; 64 << 10];
            let length = lgetxattr(path, name, &mut value[..]).expect("lgetxattr");
            value.truncate(length);
            (std::ffi::OsStr::from_bytes(name).to_str().expect("UTF-8").to_owned(), value)
        })
        .collect()
}
