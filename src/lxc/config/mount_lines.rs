//! Mounts as lines of LXC's configuration (`man 5 lxc.container.conf`, `lxc.mount.entry`; `man 3 getmntent`).

use std::fmt::Write;
use std::path::Path;

use crate::error::{Error, Result};
use crate::lxc::mount::{
    FilesystemMount, MountEntry, MountOption, MountSource, Propagation, Submounts, Tmpfs, is_filesystem,
};
use crate::lxc::text;

/// Room for the place where liblxc mounts the root (`/usr/lib/TRIPLET/lxc/rootfs`), which it puts before the target.
const ROOT_MAX: usize = 256;
/// The longest target, escaped, in bytes: with [`ROOT_MAX`] it leaves 440 for a prepared mount's place and for options.
pub(crate) const TARGET_MAX: usize = 3400;

const OPTIONS: [(MountOption, &str); 3] =
    [(MountOption::NoSuid, "nosuid"), (MountOption::NoDev, "nodev"), (MountOption::NoExec, "noexec")];

/// The value for a mount that LXC makes by itself. The target is relative: liblxc puts it beneath the mounted root, where an
/// absolute one is searched for the root's path as text, and ignored with a warning when that is not found. Neither `create=`
/// nor `optional` is used but beneath `/dev`: the former follows links, the latter hides every error.
///
/// # Errors
/// [`Error::Unsupported`] if LXC cannot do it; [`Error::Invalid`] if it is too long.
pub(crate) fn by_lxc(entry: &MountEntry) -> Result<String> {
    let alone = |what: &str| Error::Unsupported {
        what: format!("the mount on `{}` in a configuration alone", entry.target().display()),
        needs: format!(
            "LXC cannot do it ({what}): start the container with `Container::start`, which prepares it"
        ),
    };
    if entry.is_id_mapped() {
        return Err(alone("mapped owners"));
    }
    let mut options: Vec<String> = match entry.source() {
        MountSource::Bind(_) => vec![match (entry.submounts(), entry.propagates()) {
            (Submounts::Include, Propagation::Private) => "rbind,rprivate".to_owned(),
            (Submounts::Include, Propagation::Slave) => "rbind,rslave".to_owned(),
            (_, Propagation::Private) => "bind,private".to_owned(),
            (_, Propagation::Slave) => "bind,slave".to_owned(),
        }],
        MountSource::Device(_) => vec!["bind,create=file".to_owned()],
        MountSource::Tmpfs(tmpfs) => vec![format!("size={},mode={:o}", tmpfs.size_bytes, tmpfs.mode)],
        MountSource::Filesystem(mount) => mount.options.clone(),
    };
    if let MountSource::Filesystem(mount) = entry.source()
        && mount.options.iter().any(|option| option.contains(','))
    {
        return Err(alone("an option with a comma"));
    }
    if entry.is_read_only() && entry.submounts() == Submounts::Include {
        return Err(alone("submounts that are read-only"));
    }
    if entry.is_read_only() && !matches!(entry.source(), MountSource::Device(_)) {
        options.push("ro".to_owned());
    }
    options.extend(
        OPTIONS
            .iter()
            .filter(|(option, _)| entry.options().contains(option))
            .map(|(_, word)| (*word).to_owned()),
    );
    let (source, kind) = match entry.source() {
        MountSource::Bind(path) | MountSource::Device(path) => (escape(path), "none"),
        MountSource::Tmpfs(_) => ("tmpfs".to_owned(), "tmpfs"),
        MountSource::Filesystem(mount) => (escape(Path::new(&mount.source)), mount.filesystem.as_str()),
    };
    let options = escape(Path::new(&options.join(",")));
    line(&source, entry, kind, if options.is_empty() { "defaults" } else { &options })
}

/// The value for a mount that was prepared at `place`. What it is like cannot be changed by LXC any more. It is `optional`:
/// that it is there is [verified](crate::lxc::Container::start) at the start, and one that was taken away since then must not
/// keep the container from rebooting.
///
/// # Errors
/// [`Error::Invalid`] if it is too long.
pub(crate) fn prepared(place: &Path, entry: &MountEntry) -> Result<String> {
    // LXC's own `/dev` is new at each start: nothing in it leads elsewhere.
    let is_in_dev = entry.target().starts_with("/dev");
    let options = if is_in_dev { "rbind,optional,create=file" } else { "rbind,optional" };
    line(&escape(place), entry, "none", options)
}

fn line(source: &str, entry: &MountEntry, kind: &str, options: &str) -> Result<String> {
    let target = escape(entry.target().strip_prefix("/").unwrap_or(entry.target()));
    let mut line = String::with_capacity(source.len() + target.len() + 40);
    // Writing to a String cannot fail.
    let _ = write!(line, "{source} {target} {kind} {options} 0 0");
    if line.len() + ROOT_MAX >= text::LINE_MAX || line.contains(['\r', '\0']) {
        let rule = "is too long for a line of LXC's configuration together with its target, or has a carriage return";
        return Err(Error::invalid("mount source", entry.source().shown(), rule));
    }
    Ok(line)
}

/// A mount, as LXC reads it. `None`: one that a container may be without, at a place that is LXC's own. Debian's `common.conf` has one,
/// which shows the host's connections of FUSE.
pub(super) fn parse(text: &str) -> Result<Option<MountEntry>> {
    let invalid = |rule: String| Err(Error::invalid("mount entry", text, rule));
    let fields: Vec<_> = text.split([' ', '\t']).filter(|field| !field.is_empty()).collect();
    let (source, target, kind, options) = match fields[..] {
        [source, target, kind, options]
        | [source, target, kind, options, _]
        | [source, target, kind, options, _, _] => (decode(source), decode(target), kind, decode(options)),
        _ => {
            return invalid(
                "must be SOURCE TARGET none bind 0 0, with \\040 for a blank in a path".to_owned(),
            );
        }
    };
    if target.starts_with('/') {
        return invalid("the target must be relative to the root: LXC passes over an absolute one, unless the root's path is in it".to_owned());
    }
    let target = format!("/{target}");
    let mut own = Vec::new();
    let mut words = Vec::new();
    for option in options.split(',').filter(|option| !option.is_empty()) {
        if is_lxc_s(option) { words.push(option) } else { own.push(option.to_owned()) }
    }
    let is_recursive = words.contains(&"rbind");
    let is_bind = is_recursive || words.contains(&"bind");
    if is_bind
        && words.contains(&"optional")
        && ["/proc", "/sys"].iter().any(|own| Path::new(&target).starts_with(own))
    {
        tracing::warn!(
            entry = text,
            "an optional mount where LXC mounts a file system of its own is left out"
        );
        return Ok(None);
    }
    let mut mount = if is_bind {
        if let Some(option) = own.first() {
            return invalid(format!("the option `{option}` has no place in a typed configuration"));
        }
        let is_slave = |word: &&str| matches!(*word, "private" | "rprivate");
        let propagation = if words.iter().any(is_slave) { Propagation::Private } else { Propagation::Slave };
        if target.starts_with("/dev/") {
            MountEntry::device(source, target)?
        } else if is_recursive {
            MountEntry::bind(source, target)?.recursive().propagation(propagation)
        } else {
            MountEntry::bind(source, target)?.without_submounts().propagation(propagation)
        }
    } else if kind == "tmpfs" {
        MountEntry::of(MountSource::Tmpfs(tmpfs(text, &own)?), target)?
    } else if is_filesystem(kind) {
        let mount = FilesystemMount { filesystem: kind.to_owned(), source, options: own };
        MountEntry::of(MountSource::Filesystem(mount), target)?
    } else if matches!(kind, "proc" | "sysfs") {
        let rule = "has no place in a typed configuration: of a second one LXC hides nothing, and whoever has it may mount it \
                    anywhere; take lxc.mount.auto for the one that LXC makes";
        return invalid(rule.to_owned());
    } else {
        let rule = "only bind mounts have a place in a typed configuration, tmpfs, and file systems with data of their own: \
                    SOURCE TARGET none bind 0 0";
        return invalid(rule.to_owned());
    };
    for word in words {
        mount = match word {
            "ro" => mount.read_only(),
            "create=dir" => mount.create_dir(),
            "create=file" => mount.create_file(),
            "optional" => mount.optional(),
            word => match OPTIONS.iter().find(|(_, name)| *name == word) {
                Some((option, _)) => mount.with(*option),
                None => mount,
            },
        };
    }
    mount.check()?;
    Ok(Some(mount))
}

/// Options that are not the file system's.
fn is_lxc_s(option: &str) -> bool {
    let plain = [
        "bind",
        "rbind",
        "private",
        "rprivate",
        "slave",
        "rslave",
        "ro",
        "rw",
        "defaults",
        "create=dir",
        "create=file",
        "optional",
    ];
    plain.contains(&option) || OPTIONS.iter().any(|(_, word)| *word == option)
}

fn tmpfs(text: &str, options: &[String]) -> Result<Tmpfs> {
    let invalid = |rule: String| Err(Error::invalid("mount entry", text, rule));
    let (mut size_bytes, mut mode) = (None, 0o1777);
    for option in options {
        let known = match option.split_once('=') {
            Some(("size", size)) => {
                size_bytes = bytes(size);
                size_bytes.is_some()
            }
            Some(("mode", octal)) => {
                let parsed = u32::from_str_radix(octal, 8);
                mode = parsed.clone().unwrap_or_default();
                parsed.is_ok()
            }
            _ => false,
        };
        if !known {
            return invalid(format!("the option `{option}` has no place in a typed configuration"));
        }
    }
    match size_bytes {
        Some(size_bytes) => Ok(Tmpfs { size_bytes, mode }),
        None => invalid("a tmpfs must say how large it may grow: size=64m".to_owned()),
    }
}

/// A size as the kernel reads it (`man 5 tmpfs`).
fn bytes(text: &str) -> Option<u64> {
    let (number, shift) = match text.char_indices().last()? {
        (at, 'k' | 'K') => (&text[..at], 10),
        (at, 'm' | 'M') => (&text[..at], 20),
        (at, 'g' | 'G') => (&text[..at], 30),
        _ => (text, 0),
    };
    number.parse::<u64>().ok()?.checked_mul(1 << shift)
}

/// Escapes what `man 3 getmntent` splits at.
pub(crate) fn escape(path: &Path) -> String {
    let mut escaped = String::new();
    for c in path.to_string_lossy().chars() {
        match c {
            ' ' => escaped.push_str("\\040"),
            '\t' => escaped.push_str("\\011"),
            '\n' => escaped.push_str("\\012"),
            '\\' => escaped.push_str("\\134"),
            c => escaped.push(c),
        }
    }
    escaped
}

/// As `getmntent` reads a field.
fn decode(field: &str) -> String {
    let mut decoded = String::new();
    let mut rest = field;
    while let Some(at) = rest.find('\\') {
        decoded.push_str(&rest[..at]);
        let codes = [("\\040", ' '), ("\\011", '\t'), ("\\012", '\n'), ("\\134", '\\'), ("\\\\", '\\')];
        let (length, c) = match codes.iter().find(|(code, _)| rest[at..].starts_with(code)) {
            Some((code, c)) => (code.len(), *c),
            None => (1, '\\'),
        };
        decoded.push(c);
        rest = &rest[at + length..];
    }
    decoded + rest
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    #[test]
    fn entries_are_rendered_and_read() {
        let odd = MountEntry::bind("/a b\t\\c\nd", "/#x,\"y\":'z'/").unwrap().without_submounts();
        let paths = "/a\\040b\\011\\134c\\012d #x,\"y\":'z' none ";
        let tmpfs = MountEntry::tmpfs(Tmpfs { mode: 0o1777, ..Tmpfs::new(4096) }, "/t").unwrap();
        let disk = FilesystemMount {
            filesystem: "ext4".to_owned(),
            source: "/dev/a b".to_owned(),
            options: vec!["noload".to_owned(), "data=ordered".to_owned()],
        };
        for (entry, expected) in [
            (odd.clone(), format!("{paths}bind,private 0 0")),
            (odd.clone().read_only(), format!("{paths}bind,private,ro 0 0")),
            (odd.clone().recursive(), format!("{paths}rbind,rprivate 0 0")),
            (
                odd.clone().recursive().propagation(Propagation::Slave).with(MountOption::NoExec),
                format!("{paths}rbind,rslave,noexec 0 0"),
            ),
            (tmpfs, "tmpfs t tmpfs size=4096,mode=1777,nosuid,nodev 0 0".to_owned()),
            (
                MountEntry::device("/dev/fuse", "/dev/fuse").unwrap(),
                "/dev/fuse dev/fuse none bind,create=file 0 0".to_owned(),
            ),
            (
                MountEntry::filesystem(disk, "/m").unwrap().read_only(),
                "/dev/a\\040b m ext4 noload,data=ordered,ro,nosuid,nodev 0 0".to_owned(),
            ),
        ] {
            let line = by_lxc(&entry).unwrap();
            assert_eq!(line, expected);
            assert_eq!(parse(&line).unwrap(), Some(entry));
        }
        for entry in [odd.clone().recursive().read_only(), odd.id_mapped()] {
            let message = by_lxc(&entry).unwrap_err().to_string();
            assert!(message.contains("`Container::start`, which prepares it"), "{message}");
        }
    }

    #[test]
    fn what_lxc_would_do_otherwise_is_refused() {
        for (line, expected) in [
            ("/a b none bind,shared 0 0", "the option `shared` has no place"),
            ("/a b none bind,idmap=container 0 0", "the option `idmap=container` has no place"),
            ("/a b none bind,relative 0 0", "the option `relative` has no place"),
            ("proc b proc defaults 0 0", "of a second one LXC hides nothing"),
            ("cgroup b cgroup defaults 0 0", "only bind mounts have a place"),
            ("/a sys/x none bind 0 0", "must not be at or beneath /sys"),
            ("tmpfs b tmpfs defaults 0 0", "must say how large it may grow"),
            ("tmpfs b tmpfs size=50% 0 0", "the option `size=50%` has no place"),
            ("tmpfs b tmpfs size=1m,huge=always 0 0", "the option `huge=always` has no place"),
            ("a b", "must be SOURCE TARGET none bind 0 0"),
        ] {
            let message = parse(line).unwrap_err().to_string();
            assert!(message.contains(expected), "{message}");
        }
        assert_eq!(parse("/a sys/x none bind,optional 0 0").unwrap(), None);
        let MountSource::Tmpfs(tmpfs) = parse("x b tmpfs size=2k 0 0").unwrap().unwrap().source().clone()
        else {
            panic!("no tmpfs")
        };
        assert_eq!(tmpfs, Tmpfs { size_bytes: 2048, mode: 0o1777 });
    }

    proptest::proptest! {
        /// Whatever is accepted is one line of six fields that say what was asked for.
        #[test]
        fn accepted_paths_survive(source in "/\\PC{0,40}[ \t\n\\\\#\"',]{0,5}\\PC{0,9}", target in "/[^\0]{0,60}") {
            if let Ok(entry) = MountEntry::bind(&source, &target) {
                let line = by_lxc(&entry).unwrap();
                proptest::prop_assert!(!line.contains(['\n', '\r', '\0']));
                let fields: Vec<_> = line.split([' ', '\t']).collect();
                proptest::prop_assert_eq!(fields.len(), 6);
                let source = MountSource::Bind(PathBuf::from(decode(fields[0])));
                proptest::prop_assert_eq!(&source, entry.source());
                proptest::prop_assert_eq!(Path::new("/").join(decode(fields[1])), entry.target());
                proptest::prop_assert_eq!(&fields[2..], ["none", "bind,private", "0", "0"]);
            }
        }
    }
}
