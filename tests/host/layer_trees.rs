//! Any tree that a layer can describe is packed and unpacked to the same tree.

use std::cell::Cell;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, PermissionsExt, lchown, symlink};
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use rustix::fs::{AtFlags, CWD, FileType, Timespec, Timestamps, utimensat};

use crate::layer::{node, pack, unpack, xattr};
use crate::listing::listing;
use crate::sandbox::Sandbox;

/// What there is to make, in some directory that was made before.
#[derive(Debug, Clone)]
struct Entry {
    directory: prop::sample::Index,
    name: Vec<u8>,
    kind: Kind,
    mode: u32,
    owner: (u32, u32),
    mtime: (i64, i64),
    xattrs: Vec<(u8, Vec<u8>)>,
}

#[derive(Debug, Clone)]
enum Kind {
    Directory,
    /// Pieces of content and where they begin, and how long the file is at least.
    File(Vec<(u32, Vec<u8>)>, u32),
    Symlink(Vec<u8>),
    HardLink(prop::sample::Index),
    Fifo,
    Device(bool, u32, u32),
}

fn name() -> impl Strategy<Value = Vec<u8>> {
    let byte = any::<u8>().prop_map(|byte| if matches!(byte, 0 | b'/') { b'_' } else { byte });
    let any = prop::collection::vec(byte, 1..40);
    let odd = prop::sample::select(vec![
        b"-rf".to_vec(),
        b" ".to_vec(),
        b"a\nb".to_vec(),
        b"...".to_vec(),
        b"\xff\xfe".to_vec(),
        b"wh.x".to_vec(),
        vec![b'n'; 255],
        vec![b'm'; 101],
    ]);
    prop_oneof![any, odd].prop_filter("a name of its own", |name| {
        !matches!(name.as_slice(), b"." | b"..") && !name.starts_with(b".wh.")
    })
}

fn kind() -> impl Strategy<Value = Kind> {
    let piece = (0_u32..4 << 20, prop::collection::vec(any::<u8>(), 0..3000));
    let text = prop::collection::vec(1_u8.., 1..300);
    prop_oneof![
        4 => Just(Kind::Directory),
        4 => (prop::collection::vec(piece, 0..4), 0_u32..5 << 20).prop_map(|(p, l)| Kind::File(p, l)),
        1 => text.prop_map(Kind::Symlink),
        3 => any::<prop::sample::Index>().prop_map(Kind::HardLink),
        1 => Just(Kind::Fifo),
        1 => (any::<bool>(), 1_u32..4096, 0_u32..1 << 20).prop_map(|(b, major, minor)| Kind::Device(b, major, minor)),
    ]
}

fn entry() -> impl Strategy<Value = Entry> {
    let mtime = (prop_oneof![Just(0), -2_000_000_000_i64..15_000_000_000], 0_i64..1_000_000_000);
    let xattrs = prop::collection::vec((any::<u8>(), prop::collection::vec(any::<u8>(), 0..200)), 0..3);
    let owner = (prop_oneof![Just(0), any::<u32>()], 0..u32::MAX)
        .prop_map(|(user, group): (u32, u32)| (user.min(u32::MAX - 1), group));
    (any::<prop::sample::Index>(), name(), kind(), 0_u32..0o10000, owner, mtime, xattrs).prop_map(
        |(directory, name, kind, mode, owner, mtime, xattrs)| Entry {
            directory,
            name,
            kind,
            mode,
            owner,
            mtime,
            xattrs,
        },
    )
}

/// Makes the tree. A name that is taken, or a link to nothing, is left out.
fn make(root: &Path, entries: &[Entry]) {
    let mut directories: Vec<PathBuf> = vec![root.to_owned()];
    let mut linkable: Vec<PathBuf> = Vec::new();
    let mut made: Vec<(PathBuf, &Entry)> = Vec::new();
    for entry in entries {
        let path = entry.directory.get(&directories).join(OsStr::from_bytes(&entry.name));
        if path.symlink_metadata().is_ok() || path.as_os_str().len() > 3000 {
            continue;
        }
        match &entry.kind {
            Kind::Directory => fs::create_dir(&path).expect("mkdir"),
            Kind::File(pieces, length) => {
                let file = File::create(&path).expect("create");
                for (at, piece) in pieces {
                    file.write_all_at(piece, u64::from(*at)).expect("write");
                }
                let length = file.metadata().expect("stat").len().max(u64::from(*length));
                file.set_len(length).expect("truncate");
            }
            Kind::Symlink(text) => symlink(OsStr::from_bytes(text), &path).expect("symlink"),
            Kind::HardLink(_) if linkable.is_empty() => continue,
            Kind::HardLink(of) => {
                fs::hard_link(of.get(&linkable), &path).expect("link");
                continue;
            }
            Kind::Fifo => node(&path, FileType::Fifo, 0, 0),
            Kind::Device(true, major, minor) => node(&path, FileType::BlockDevice, *major, *minor),
            Kind::Device(false, major, minor) => node(&path, FileType::CharacterDevice, *major, *minor),
        }
        if matches!(entry.kind, Kind::Directory) {
            directories.push(path.clone());
        } else {
            linkable.push(path.clone());
        }
        made.push((path, entry));
    }
    // From below: what is made in a directory changes its time.
    for (path, entry) in made.into_iter().rev() {
        lchown(&path, Some(entry.owner.0), Some(entry.owner.1)).expect("chown");
        if !matches!(entry.kind, Kind::Symlink(_)) {
            fs::set_permissions(&path, fs::Permissions::from_mode(entry.mode)).expect("chmod");
        }
        if matches!(entry.kind, Kind::Directory | Kind::File(..)) {
            for (name, value) in &entry.xattrs {
                xattr(&path, &format!("user.{name}"), value);
            }
        }
        let (tv_sec, tv_nsec) = entry.mtime;
        let times = Timespec { tv_sec, tv_nsec };
        let times = Timestamps { last_access: times, last_modification: times };
        utimensat(CWD, &path, &times, AtFlags::SYMLINK_NOFOLLOW).expect("utimensat");
    }
}

#[test]
#[ignore = "needs root: owners, devices"]
fn any_tree_comes_back_as_it_was() {
    let sandbox = Sandbox::new();
    let turn = Cell::new(0);
    let mut runner = TestRunner::new(Config { cases: 60, failure_persistence: None, ..Config::default() });
    let trees = prop::collection::vec(entry(), 0..40);
    let outcome = runner.run(&trees, |entries| {
        turn.set(turn.get() + 1);
        let turn = turn.get();
        let (tree, back) = (sandbox.dir(&format!("tree{turn}")), sandbox.dir(&format!("back{turn}")));
        make(&tree, &entries);
        let (archive, packed) = pack(&tree);
        let unpacked = unpack(&archive, &back).expect("unpack");
        prop_assert_eq!(unpacked.diff_id, packed.diff_id);
        prop_assert_eq!(listing(&back), listing(&tree));
        prop_assert_eq!(pack(&back).1, packed);
        Ok(())
    });
    outcome.unwrap_or_else(|error| panic!("{error}"));
}
