//! A tree in words, as the host's own tools tell it, to compare one with another.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::Command;

use rustix::fs::{lgetxattr, llistxattr};

/// Every entry beneath `root` with type, mode, owner, size, time, link text and link count; every file's digest; every
/// extended attribute. Of a directory neither size nor link count: they are up to the file system.
pub(crate) fn tree_listing(root: &Path) -> String {
    let print = |format: &str| format!("%P %y %m %U:%G {format}\\0");
    let find = |args: &[&str]| run(root, "find", &[&["."][..], args].concat());
    // The root's own time changes whenever a container is started on it.
    let mut lines = find(&["-maxdepth", "0", "-printf", &print("")]);
    lines.extend(find(&["-mindepth", "1", "-type", "d", "-printf", &print("%T@")]));
    lines.extend(find(&["!", "-type", "d", "-printf", &print("%s %T@ %n %l")]));
    lines.extend(find(&["-type", "f", "-exec", "sha256sum", "-z", "{}", ";"]));
    // Device numbers; find cannot print them.
    let stat = ["-exec", "stat", "--printf=%n %t:%T\\0", "{}", ";"];
    lines.extend(find(&[&["(", "-type", "c", "-o", "-type", "b", ")"][..], &stat].concat()));
    lines.extend(find(&["-print0"]).iter().flat_map(|path| attributes(root, path)));
    lines.sort();
    let lines: Vec<String> = lines.iter().map(|line| line.escape_ascii().to_string()).collect();
    lines.join("\n")
}

/// Asserts that the tree at `root` is as `expected` tells, and shows what is not.
pub(crate) fn assert_tree(root: &Path, expected: &str) {
    let found = tree_listing(root);
    let (found, expected): (BTreeSet<&str>, BTreeSet<&str>) =
        (found.lines().collect(), expected.lines().collect());
    let new: Vec<_> = found.difference(&expected).collect();
    let missing: Vec<_> = expected.difference(&found).collect();
    assert!(new.is_empty() && missing.is_empty(), "{}: there is {new:#?}, not {missing:#?}", root.display());
}

/// The extended attributes of one entry, but for `trusted.overlay.*`, in which an overlay keeps its books.
fn attributes(root: &Path, entry: &[u8]) -> Vec<Vec<u8>> {
    let path = root.join(OsStr::from_bytes(entry));
    let mut names = vec![0; 64 << 10];
    let length = llistxattr(&path, &mut names).expect("llistxattr");
    let names = names[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty());
    names
        .map(|name| String::from_utf8(name.to_vec()).expect("UTF-8"))
        .filter(|name| !name.starts_with("trusted.overlay."))
        .map(|name| {
            let mut value = vec![0; 64 << 10];
            let length = lgetxattr(&path, name.as_str(), &mut value).expect("lgetxattr");
            [entry, format!(" {name}=").as_bytes(), &value[..length]].concat()
        })
        .collect()
}

fn run(root: &Path, program: &str, args: &[&str]) -> Vec<Vec<u8>> {
    let output =
        Command::new(program).args(args).current_dir(root).env("LC_ALL", "C").output().expect(program);
    assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout.split(|byte| *byte == 0).filter(|part| !part.is_empty()).map(<[u8]>::to_vec).collect()
}
