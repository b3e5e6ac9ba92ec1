//! Layers by people who mean harm: nothing gets out of the tree, and what cannot be right is refused.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use docklet::storage::{
    Compression, DeviceNodes, PackOptions, UnpackLimits, UnpackOptions, Unpacked, pack_layer, remove_tree,
    unpack_layer,
};
use docklet::{Error, Result};
use proptest::prelude::*;
use tar::EntryType;

use crate::layer::odd_tree;
use crate::listing::{listing, xattrs};
use crate::sandbox::{Sandbox, alone};
use crate::tar_archive::TarArchive;

/// A place to unpack to, with something beside it that must stay as it is.
struct Victim {
    sandbox: Sandbox,
    into: PathBuf,
    canary: PathBuf,
    before: Vec<String>,
}

impl Victim {
    fn new() -> Self {
        let sandbox = Sandbox::new();
        let (into, canary) = (sandbox.dir("into"), sandbox.dir("canary"));
        fs::write(canary.join("file"), "untouched").expect("write");
        let before = listing(&canary);
        Self { sandbox, into, canary, before }
    }

    fn unpack_with(&self, archive: impl Read, options: &UnpackOptions) -> Result<Unpacked> {
        let result = unpack_layer(archive, &self.into, options, &mut |_| {});
        assert_eq!(listing(&self.canary), self.before, "the canary was touched");
        let scratch = self.canary.parent().expect("scratch");
        assert_eq!(fs::read_dir(scratch).expect("list").count(), 2, "something is beside the tree");
        result
    }

    fn unpack(&self, archive: TarArchive) -> Result<Unpacked> {
        self.unpack_with(&*archive.end(), &UnpackOptions::default())
    }

    /// Unpacks in a new tree each of `archives`, which are all refused for this reason.
    fn refuses(archives: impl IntoIterator<Item = TarArchive>, rule: &str) {
        for archive in archives {
            let victim = Self::new();
            let error = victim.unpack(archive).expect_err("refused");
            let Error::Invalid { what: "layer archive", rule: given, .. } = &error else { panic!("{error}") };
            assert!(given.contains(rule), "{error}");
        }
    }

    /// As [`Victim::refuses`] for archives that are not whole.
    fn finds_damaged(archive: &[u8], reason: &str) {
        let error = Self::new().unpack_with(archive, &UnpackOptions::default()).expect_err("damaged");
        let Error::Damaged { reason: given, .. } = &error else { panic!("{error}") };
        assert!(given.contains(reason), "{error}");
    }

    fn at(&self, name: &str) -> PathBuf {
        self.into.join(name)
    }

    fn text(&self, name: &str) -> String {
        fs::read_to_string(self.at(name)).expect("read")
    }

    fn canary(&self) -> &str {
        self.canary.to_str().expect("UTF-8")
    }
}

fn new() -> TarArchive {
    TarArchive::default()
}

#[test]
#[ignore = "needs root: owners"]
fn paths_that_climb_are_refused() {
    let paths = ["../canary/file", "a/../../canary/file", "..", "a/..", "./../x", "/../x"];
    Victim::refuses(paths.map(|path| new().file(path, "x")), "leads upwards");
    Victim::refuses(paths.map(|path| new().file("a", "x").hard_link("b", path)), "leads upwards");
}

#[test]
#[ignore = "needs root: owners"]
fn absolute_paths_stay_inside() {
    let victim = Victim::new();
    let path = format!("{}/file", victim.canary());
    victim.unpack(new().file(&path, "inside").file("//etc//new", "inside")).expect("unpack");
    assert_eq!((victim.text(&path[1..]), victim.text("etc/new")), ("inside".to_owned(), "inside".to_owned()));
}

#[test]
#[ignore = "needs root: owners"]
fn links_are_not_followed_on_the_way() {
    for text in ["../canary", "/", "..", "."] {
        let linked = || new().symlink("a", text);
        Victim::refuses(
            [linked().file("a/file", "x"), linked().directory("a/b/"), linked().symlink("a/b", "x")],
            "leads through",
        );
        Victim::refuses(
            [linked().hard_link("b", "a/file"), linked().file("x", "").hard_link("b", "a/x")],
            "hard link",
        );
        Victim::refuses([linked().file("a/.wh..wh..opq", "")], "leads through");
        // There is nothing of lower layers beneath a link.
        Victim::new().unpack(linked().file("a/.wh.file", "")).expect("unpack");
    }
}

#[test]
#[ignore = "needs root: owners"]
fn a_later_member_takes_the_place_of_a_link() {
    let victim = Victim::new();
    let file = format!("{}/file", victim.canary());
    let archive = new().symlink("a", "../canary").directory("a/").file("a/file", "inside");
    let archive = archive.symlink("b", &file).file("b", "inside");
    // Another name of a link is the link.
    let archive = archive.symlink("c", &file).hard_link("d", "c").file("d", "inside");
    let archive = archive.symlink("e", &file).hard_link("f", "e");
    victim.unpack(archive).expect("unpack");
    for name in ["a/file", "b", "d"] {
        assert_eq!(victim.text(name), "inside", "{name}");
    }
    assert_eq!(fs::read_link(victim.at("f")).expect("link"), Path::new(&file));
}

#[test]
#[ignore = "needs root: owners"]
fn a_later_member_takes_the_place_of_anything() {
    let victim = Victim::new();
    let archive = new().file("file", "old").hard_link("link", "file").file("file", "new");
    let archive = archive.directory("tree/").file("tree/a/b/c", "x").file("tree", "a file now");
    let archive = archive.add(EntryType::Fifo, b"pipe", b"", b"").file("pipe", "not waited for");
    let archive = archive.file("dir", "x").directory("dir/").file("dir/x", "x");
    let archive = archive.file("same", "x").hard_link("same", "same");
    victim.unpack(archive).expect("unpack");
    assert_eq!((victim.text("file"), victim.text("link")), ("new".to_owned(), "old".to_owned()));
    assert_eq!(
        (victim.text("tree"), victim.text("pipe")),
        ("a file now".to_owned(), "not waited for".to_owned())
    );
    assert_eq!((victim.text("dir/x"), victim.text("same")), ("x".to_owned(), "x".to_owned()));
}

#[test]
#[ignore = "needs root: owners"]
fn hard_links_lead_to_files_of_the_archive_only() {
    let missing = ["/etc/passwd", "etc/passwd", "nothing", "dir/nothing", "after"];
    Victim::refuses(
        missing.map(|path| new().directory("dir/").hard_link("x", path).file("after", "")),
        "hard link",
    );
    Victim::refuses([new().directory("dir/").hard_link("x", "dir")], "hard link to a directory");
    Victim::refuses([new().file(".wh.gone", "").hard_link("x", "gone")], "hard link");
    Victim::refuses([new().hard_link("x", "")], "empty path");
    Victim::refuses([new().hard_link("x", "/")], "hard link");
}

#[test]
#[ignore = "needs root: owners"]
fn nothing_is_beneath_a_file() {
    Victim::refuses(
        [new().file("a", "").file("a/b", ""), new().file("a", "").directory("a/b/c/")],
        "leads through",
    );
}

#[test]
#[ignore = "needs root: owners"]
fn paths_that_are_no_paths_are_refused() {
    Victim::refuses([new().file("", "x")], "empty path");
    Victim::refuses([new().file("./", "x").file("a", ""), new().symlink("/", "x")], "has no name");
    Victim::refuses([new().pax(&[("path", b"a\0b")]).file("x", "")], "zero byte");
    Victim::refuses([new().pax(&[("path", &[b'n'; 256])]).file("x", "")], "255 bytes");
    Victim::refuses([new().pax(&[("path", "a/".repeat(200).as_bytes())]).file("x", "")], "too deep");
    Victim::refuses([new().pax(&[("path", "abc/".repeat(1100).as_bytes())]).file("x", "")], "too long");
    Victim::refuses([new().symlink("a", "")], "text");
    Victim::refuses([new().pax(&[("linkpath", &[b'n'; 4096])]).symlink("a", "x")], "text");
    Victim::refuses([new().pax(&[("linkpath", b"a\0b")]).symlink("a", "x")], "text");
}

#[test]
#[ignore = "needs root: devices"]
fn whiteouts_of_nothing_are_refused() {
    Victim::refuses(
        [".wh.", ".wh..", ".wh...", "a/.wh..."].map(|path| new().file(path, "")),
        "whiteout of nothing",
    );
    Victim::refuses(
        [".wh.a/b", ".wh..wh..opq/b", "x/.wh.a/b"].map(|path| new().file(path, "")),
        "beneath a whiteout",
    );
    Victim::refuses([new().file(".wh..wh..opq", "")], "hides all lower layers");
}

#[test]
#[ignore = "needs root: devices"]
fn device_nodes_are_made_only_if_asked_for() {
    let device = |path: &[u8], major: u32| {
        new().raw(EntryType::Block, path, b"", b"", |header| header.set_device_major(major).expect("ustar"))
    };
    Victim::refuses(
        [device(b"disk", 8), device(b"./etc/disk", 8), device(b"devices/x", 8)],
        "DeviceNodes::Make",
    );
    let victim = Victim::new();
    assert_eq!(victim.unpack(device(b"./dev/disk", 8)).expect("unpack").skipped_devices, 1);
    assert_eq!(fs::read_dir(&victim.into).expect("list").count(), 0);
    let options = UnpackOptions { device_nodes: DeviceNodes::Make, ..UnpackOptions::default() };
    victim.unpack_with(&*device(b"disk", 8).end(), &options).expect("unpack");
    assert_eq!(fs::symlink_metadata(victim.at("disk")).expect("stat").rdev(), 8 << 8);
    // To overlayfs it would be a whiteout, and an archive has others for that.
    let whiteout = new().add(EntryType::Char, b"x", b"", b"");
    let error = Victim::new().unpack_with(&*whiteout.end(), &options).expect_err("refused");
    assert!(error.to_string().contains("device 0:0"), "{error}");
}

#[test]
#[ignore = "needs root: trusted attributes"]
fn attributes_that_steer_overlayfs_are_left_out() {
    let victim = Victim::new();
    let archive = new().pax(&[
        ("SCHILY.xattr.trusted.overlay.opaque", b"y"),
        ("SCHILY.xattr.trusted.overlay.redirect", b"/etc"),
        ("SCHILY.xattr.trusted.overlay.metacopy", b""),
        ("SCHILY.xattr.trusted.other", b"x"),
        ("SCHILY.xattr.security.selinux", b"x"),
        ("SCHILY.xattr.user.kept", b"a\nb"),
    ]);
    victim.unpack(archive.directory("dir/")).expect("unpack");
    let found: Vec<_> = xattrs(&victim.at("dir")).into_iter().collect();
    assert_eq!(found, [("user.kept".to_owned(), b"a\nb".to_vec())]);
    let large = vec![b'x'; 70_000];
    Victim::refuses([new().pax(&[("SCHILY.xattr.user.large", &large)]).file("x", "")], "xattr_bytes");
}

#[test]
#[ignore = "needs root: owners"]
fn numbers_that_are_none_are_refused() {
    for (key, value) in [
        ("size", "-1"),
        ("size", "1e3"),
        ("size", "99999999999999999999"),
        ("mtime", "x"),
        ("uid", "4294967295"),
        ("gid", "-1"),
        ("uid", "4294967296"),
    ] {
        Victim::refuses([new().pax(&[(key, value.as_bytes())]).file("x", "")], key);
    }
    let field = |change: fn(&mut tar::Header)| new().raw(EntryType::Regular, b"x", b"", b"", change);
    Victim::refuses([field(|header| header.as_old_mut().mode = *b"0000999\0")], "mode");
    Victim::refuses([field(|header| header.as_old_mut().uid = *b"-1\0\0\0\0\0\0")], "uid");
}

#[test]
#[ignore = "needs root: owners"]
fn what_two_readers_could_take_for_two_things_is_refused() {
    for kind in [EntryType::Symlink, EntryType::Link, EntryType::Directory, EntryType::Fifo, EntryType::Char]
    {
        let hidden = new().file("hidden", "x").end();
        Victim::refuses([new().file("t", "").add(kind, b"x", b"t", &hidden)], "only a file may have content");
    }
    Victim::refuses(
        [new().add(EntryType::new(b'M'), b"x", b"", b""), new().add(EntryType::new(b'Z'), b"x", b"", b"")],
        "not known",
    );
    let named = || new().pax(&[("GNU.sparse.name", b"other"), ("GNU.sparse.size", b"5")]);
    Victim::refuses(
        [named().symlink("x", "t"), named().directory("x"), named().hard_link("x", "t")],
        "only a file may have holes",
    );
    Victim::refuses([named().file("x", "")], "map of holes");
    Victim::refuses([named().add(EntryType::GNUSparse, b"x", b"", b"")], "not known");
    let pax = new().pax(&[("path", b"one")]).pax(&[("path", b"two")]).file("x", "");
    Victim::finds_damaged(&pax.end(), "two extended headers");
    Victim::finds_damaged(&new().pax(&[("path", b"one")]).end(), "ends after an extended header");
    let bad = new().add(EntryType::XHeader, b"pax", b"", b"99 path=x\n").file("x", "");
    Victim::finds_damaged(&bad.end(), "extended header is malformed");
}

#[test]
#[ignore = "needs root: owners"]
fn maps_of_holes_that_lie_are_refused() {
    let with = |records: &[(&str, &[u8])], content: &[u8]| {
        new().pax(records).add(EntryType::Regular, b"x", b"", content)
    };
    let map = |size: &'static str, map: &'static str| {
        with(&[("GNU.sparse.size", size.as_bytes()), ("GNU.sparse.map", map.as_bytes())], b"12345")
    };
    Victim::refuses(
        [
            map("10", "0,5,4,0"),
            map("10", "5,5,0,0"),
            map("4", "0,5"),
            map("10", "0,4"),
            map("10", "0,6"),
            map("10", "0"),
            map("10", ""),
            map("x", "0,5"),
        ],
        "map of holes",
    );
    Victim::refuses([map("10", "18446744073709551615,5")], "map of holes");
    Victim::refuses([map("99999999999999", "0,5")], "file_bytes");
    let version_1 = |content: &[u8]| {
        with(
            &[("GNU.sparse.major", b"1"), ("GNU.sparse.minor", b"0"), ("GNU.sparse.realsize", b"10")],
            content,
        )
    };
    Victim::refuses(
        [version_1(b"1\n0\n"), version_1(b"99999999\n"), version_1(&[b'1'; 1024]), version_1(&[0; 1024])],
        "map of holes",
    );
    let victim = Victim::new();
    victim.unpack(map("1000000", "999990,5")).expect("unpack");
    assert_eq!(fs::read(victim.at("x")).expect("read")[999_990..999_995], *b"12345");
}

/// Ends anywhere, or goes on after the end.
#[test]
#[ignore = "needs root: owners"]
fn archives_that_are_not_whole_are_damaged() {
    let whole = new().directory("d/").file("d/a", "content").file("b", "x").end();
    Victim::new().unpack_with(&*whole, &UnpackOptions::default()).expect("unpack");
    for length in (0..whole.len() - 1024).step_by(128) {
        Victim::finds_damaged(&whole[..length], "it ends");
    }
    Victim::finds_damaged(&[&*whole, &[0; 5000], b"x"].concat(), "something follows");
    let mut flipped = whole.clone();
    flipped[0] ^= 1;
    Victim::finds_damaged(&flipped, "checksum");
    Victim::finds_damaged(b"", "it ends");
    Victim::finds_damaged(&[b'x'; 2000], "checksum");
    let huge = new().raw(EntryType::Regular, b"x", b"", b"little", |header| header.set_size(1 << 33));
    Victim::finds_damaged(&huge.end(), "middle of a member");
    let expected =
        UnpackOptions { diff_id: Some(docklet::storage::Digest::of(b"other")), ..UnpackOptions::default() };
    let error = Victim::new().unpack_with(&*whole, &expected).expect_err("another digest");
    assert!(matches!(error, Error::Damaged { .. }), "{error}");
}

#[test]
#[ignore = "needs root: owners"]
fn limits_end_what_would_not_end() {
    let limits =
        UnpackLimits { bytes: 1 << 20, entries: 100, file_bytes: 1 << 19, ..UnpackLimits::default() };
    let options = UnpackOptions { limits, ..UnpackOptions::default() };
    let refuses = |archive: &[u8], limit: &str| {
        let error = Victim::new().unpack_with(archive, &options).expect_err("too much");
        assert!(matches!(&error, Error::Invalid { rule, .. } if rule.contains(limit)), "{error}");
    };
    let bomb = |content: &[u8]| {
        let mut encoder = zstd::Encoder::new(Vec::new(), 0).expect("zstd");
        encoder.write_all(content).expect("write");
        (0..40).for_each(|_| encoder.write_all(&[0; 1 << 20]).expect("write"));
        encoder.finish().expect("finish")
    };
    // After its end marker, and in a file that says how large it is.
    refuses(&bomb(&[0; 1024]), "UnpackLimits::bytes");
    refuses(
        &bomb(&new().raw(EntryType::Regular, b"x", b"", b"", |h| h.set_size(1 << 33)).bytes),
        "UnpackLimits::bytes",
    );
    refuses(&new().file("x", &"x".repeat(600_000)).end(), "UnpackLimits::file_bytes");
    refuses(
        &(0..101).fold(new(), |archive, n| archive.file(&n.to_string(), "")).end(),
        "UnpackLimits::entries",
    );
    let extended = new().raw(EntryType::XHeader, b"x", b"", b"", |header| header.set_size(1 << 30));
    Victim::finds_damaged(&bomb(&extended.bytes), "too long");
    let name = new().raw(EntryType::GNULongName, b"x", b"", b"", |header| header.set_size(1 << 30));
    Victim::finds_damaged(&bomb(&name.bytes), "too long");
}

#[test]
#[ignore = "needs root: owners"]
fn only_an_empty_directory_is_unpacked_to() {
    let victim = Victim::new();
    fs::write(victim.at("there"), "").expect("write");
    let error = victim.unpack(new().file("x", "")).expect_err("not empty");
    assert!(matches!(error, Error::Differs { .. }), "{error}");
    let error =
        unpack_layer(&*new().end(), &victim.canary.join("file"), &UnpackOptions::default(), &mut |_| {});
    assert!(matches!(error, Err(Error::Os { .. })), "{error:?}");
}

/// Whiteouts and what they are about, in any order, come out the same.
#[test]
#[ignore = "needs root: devices, trusted attributes"]
fn whiteouts_may_come_in_any_order() {
    let members: [(&str, &str); 8] = [
        ("kept/", ""),
        ("kept/.wh..wh..opq", ""),
        (".wh.remade", ""),
        ("remade/", ""),
        (".wh.gone", ""),
        ("gone/.wh.a", ""),
        ("gone/b/.wh.c", ""),
        (".wh.file", ""),
    ];
    let mut seen = std::collections::BTreeSet::new();
    for turn in 0..members.len() {
        for reverse in [false, true] {
            let mut order = members;
            order.rotate_left(turn);
            if reverse {
                order.reverse();
            }
            let archive = order.iter().fold(new(), |archive, (path, _)| match path.ends_with('/') {
                true => archive.directory(path),
                false => archive.file(path, ""),
            });
            let victim = Victim::new();
            victim.unpack(archive.file("file", "new")).expect("unpack");
            let lines = listing(&victim.into).into_iter().skip(1).map(|line| {
                // A directory that nobody described may be there first, and whiteouts are of now.
                let mut words = line.split(' ').map(str::to_owned).collect::<Vec<_>>();
                words.remove(3);
                words.join(" ")
            });
            seen.insert(lines.collect::<Vec<_>>());
        }
    }
    let seen: Vec<_> = seen.into_iter().collect();
    assert_eq!(seen.len(), 1, "{seen:#?}");
    assert!(seen[0].contains(&"\"gone\" 20000 0:0 0x0".to_owned()), "{seen:#?}");
    assert!(
        seen[0].iter().any(|line| line.starts_with("\"remade\"") && line.contains("opaque")),
        "{seen:#?}"
    );
    assert_eq!(seen[0].len(), 4, "{seen:#?}");
}

/// What must be whole stays whole, whatever is altered: nothing panics, and nothing gets out of the tree.
#[test]
#[ignore = "needs root: owners, devices"]
fn altered_archives_stay_inside() {
    let victim = Victim::new();
    let tree = victim.sandbox.dir("canary/tree");
    odd_tree(&tree);
    let mut whole = Vec::new();
    let plain = PackOptions { compression: Compression::None, map_owner: None };
    pack_layer(&tree, &mut whole, &plain).expect("pack");
    let victim = Victim { before: listing(&victim.canary), ..victim };
    let headers: Vec<usize> =
        (0..whole.len()).step_by(512).filter(|at| &whole[at + 257..at + 262] == b"ustar").collect();
    assert!(headers.len() > 30, "{}", headers.len());
    let canary = victim.canary().to_owned();
    let bytes = prop_oneof![
        any::<u8>().prop_map(|byte| vec![byte]),
        Just(b"../canary/file\0".to_vec()),
        Just(format!("{canary}/file\0").into_bytes()),
        Just(b"usr/bin/sudo\0".to_vec()),
        Just(b".wh..wh..opq\0".to_vec()),
        Just(b"00000001000\0".to_vec()),
    ];
    let place = prop_oneof![Just(0_usize), Just(157), Just(124), Just(156), 0_usize..500, 0_usize..2000];
    let change = (any::<prop::sample::Index>(), place, bytes);
    let config = ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(300) };
    let options = UnpackOptions { device_nodes: DeviceNodes::Make, ..UnpackOptions::default() };
    let unpacked = std::cell::Cell::new(0);
    let mut runner = proptest::test_runner::TestRunner::new(config);
    let result = runner.run(&proptest::collection::vec(change, 1..4), |changes| {
        let mut archive = whole.clone();
        for (header, at, bytes) in &changes {
            let at = (headers[header.index(headers.len())] + at).min(archive.len());
            let end = (at + bytes.len()).min(archive.len());
            archive[at..end].copy_from_slice(&bytes[..end - at]);
        }
        for at in &headers {
            let block = &mut archive[*at..at + 512];
            let mut header = tar::Header::from_byte_slice(block).clone();
            header.set_cksum();
            block.copy_from_slice(header.as_bytes());
        }
        let name = Path::new("into");
        remove_tree(victim.into.parent().expect("scratch"), name).expect("remove");
        fs::create_dir(&victim.into).expect("mkdir");
        if victim.unpack_with(&*archive, &options).is_ok() {
            unpacked.set(unpacked.get() + 1);
        }
        Ok(())
    });
    result.expect("no case fails");
    assert!(unpacked.get() > 10, "some alterations are harmless: {}", unpacked.get());
}

/// A stream of archive members that nobody stores.
struct Endless<I> {
    members: I,
    current: Box<dyn Read>,
}

impl<I: Iterator<Item = Box<dyn Read>>> Read for Endless<I> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        loop {
            let read = self.current.read(buffer)?;
            if read > 0 {
                return Ok(read);
            }
            match self.members.next() {
                Some(next) => self.current = next,
                None => return Ok(0),
            }
        }
    }
}

/// This process's memory in KiB: "VmHWM" is the most that it ever had.
fn memory(key: &str) -> u64 {
    let status = fs::read_to_string("/proc/self/status").expect("status");
    let line = status.lines().find_map(|line| line.strip_prefix(key)).expect("key");
    line.trim_matches([':', '\t', ' ', 'k', 'B']).parse().expect("a number")
}

/// 2 GiB of content, most of it zeros that become holes, and 30,000 directories with long names, take no more memory than a little.
#[test]
#[ignore = "needs root: owners"]
fn memory_does_not_grow_with_the_archive() {
    if !alone("layer_hostile::memory_does_not_grow_with_the_archive") {
        return;
    }
    const FILE: u64 = 64 << 20;
    let victim = Victim::new();
    let files = (0..32).map(|n| {
        let path = format!("files/{n}");
        let header = new().raw(EntryType::Regular, path.as_bytes(), b"", b"", |header| header.set_size(FILE));
        Box::new(std::io::Cursor::new(header.bytes).chain(std::io::repeat(u8::from(n == 0)).take(FILE)))
            as Box<dyn Read>
    });
    let directories = (0..30_000).map(|n| {
        let path = format!("{}/{n}/", "d".repeat(80));
        Box::new(std::io::Cursor::new(new().directory(&path).bytes)) as Box<dyn Read>
    });
    let end = Box::new(std::io::repeat(0).take(1024)) as Box<dyn Read>;
    let archive =
        Endless { members: files.chain(directories).chain([end]), current: Box::new(std::io::empty()) };
    let before = memory("VmRSS");
    let unpacked = victim.unpack_with(archive, &UnpackOptions::default()).expect("unpack");
    assert!(unpacked.bytes > 2 << 30);
    let grown = memory("VmHWM").saturating_sub(before);
    assert!(grown < 16 << 10, "{grown} KiB more than before");
}
