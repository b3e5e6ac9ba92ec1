//! A configuration file of LXC, whatever is in it (`man 5 lxc.container.conf`).

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

use crate::lxc::text::entry::{Entry, Place};
use crate::lxc::text::key;
use crate::lxc::text::lines::{self, Cut};
use crate::lxc::text::problem::{ConfigProblems, Found};
use crate::lxc::text::reading::{self, Reading};

/// The most bytes a configuration may have, with what it includes. LXC itself takes up to 2 GiB.
pub(crate) const BYTES_MAX: usize = 4 << 20;

/// A configuration that liblxc 5.0 can read, with every byte of it: comments, blank lines, keys that docklet does not know the
/// meaning of.
///
/// ```
/// # use docklet::lxc::ConfigText;
/// let text = ConfigText::parse("# mine\nlxc.cap.drop = sys_time\nlxc.cap.drop =\nlxc.cap.drop = sys_module\n")?;
/// assert_eq!(text.all("lxc.cap.drop").map(|entry| entry.value()).collect::<Vec<_>>(), [b"sys_module"]);
/// assert_eq!(text.entries().count(), 3);
/// assert!(text.render().starts_with(b"# mine\n"));
///
/// let problems = ConfigText::parse("lxc.utsname = web\nlxc.tty.max = many").unwrap_err();
/// assert_eq!(problems.count(), 2);
/// assert!(problems.to_string().starts_with("line 1, column 1: `lxc.utsname` = \"web\": is a key of liblxc before 3.0: it is lxc.uts.name now"));
/// # Ok::<(), docklet::lxc::ConfigProblems>(())
/// ```
///
/// What is judged is what liblxc judges when it reads a file; what it looks at when the container starts (whether a path
/// exists, whether a mount can be made) is not. Two things depend on the host, and are taken as they are: a variable without
/// a value in `lxc.environment`, and whether the file of `lxc.log.file` can be made.
#[derive(Clone, PartialEq, Eq)]
pub struct ConfigText {
    bytes: Vec<u8>,
    places: Vec<Place>,
    /// The entries whose values count.
    in_force: Vec<usize>,
    /// Those that were included.
    files: Vec<PathBuf>,
}

impl ConfigText {
    /// Reads a configuration. Lines that include others are not followed: see [`ConfigText::with_includes`].
    ///
    /// # Errors
    /// [`ConfigProblems`] with everything for which liblxc would refuse it; with the size if it has more than 4 MiB.
    pub fn parse(bytes: impl Into<Vec<u8>>) -> Result<Self, ConfigProblems> {
        let bytes = bytes.into();
        if bytes.len() > BYTES_MAX {
            let mut found = Found::default();
            let rule = format!("has {} bytes: a configuration has at most {BYTES_MAX}", bytes.len());
            found.add_whole("the text", rule);
            found.into_result()?;
        }
        let places = cut(&bytes);
        Self::judge(bytes, places, Vec::new(), Found::default())
    }

    /// Walks through the entries.
    pub(crate) fn judge(
        bytes: Vec<u8>,
        places: Vec<Place>,
        files: Vec<PathBuf>,
        mut found: Found,
    ) -> Result<Self, ConfigProblems> {
        let mut text = Self { bytes, places, in_force: Vec::new(), files };
        let mut reading = Reading::default();
        for (index, entry) in text.entries().enumerate() {
            if !entry.place.is_whole {
                found.add(entry.bad_key("a `=` and a value must follow the key"));
            } else if let Err(fault) = reading.take(index, entry.key(), entry.value()) {
                let rule = fault.rule.into_owned();
                found.add(if fault.is_value { entry.bad_value(rule) } else { entry.bad_key(rule) });
            }
        }
        found.into_result()?;
        text.in_force = reading.into_entries();
        Ok(text)
    }

    /// The file, byte for byte.
    #[must_use]
    pub fn render(&self) -> &[u8] {
        &self.bytes
    }

    /// Every entry as it is written, in order, also those that later ones replace or clear.
    pub fn entries(&self) -> impl DoubleEndedIterator<Item = Entry<'_>> + ExactSizeIterator {
        self.places.iter().map(|place| Entry { text: self, place })
    }

    /// The entries whose values count in the end, in order.
    pub fn in_force(&self) -> impl DoubleEndedIterator<Item = Entry<'_>> + ExactSizeIterator {
        self.in_force.iter().map(|index| Entry { text: self, place: &self.places[*index] })
    }

    /// The entries of one key whose values count in the end: of `lxc.mount.entry` all since it was cleared last, of
    /// `lxc.uts.name` the last one.
    pub fn all(&self, key: &str) -> impl DoubleEndedIterator<Item = Entry<'_>> {
        let slot = reading::slot(key.as_bytes());
        self.in_force().filter(move |entry| entry.key() == slot || reading::slot(entry.key()) == slot)
    }

    /// The last value of a key that counts.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&[u8]> {
        self.all(key).next_back().map(|entry| entry.value())
    }

    /// Whether there are lines that include others.
    #[must_use]
    pub fn has_includes(&self) -> bool {
        self.get(key::INCLUDE).is_some()
    }

    pub(crate) fn places(&self) -> &[Place] {
        &self.places
    }

    pub(crate) fn part(&self, range: &Range<u32>) -> &[u8] {
        &self.bytes[range.start as usize..range.end as usize]
    }

    pub(crate) fn file(&self, number: u32) -> Option<&Path> {
        let index = usize::try_from(number).ok()?.checked_sub(1)?;
        self.files.get(index).map(PathBuf::as_path)
    }
}

impl fmt::Debug for ConfigText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ConfigText").field(&String::from_utf8_lossy(&self.bytes)).finish()
    }
}

impl std::str::FromStr for ConfigText {
    type Err = ConfigProblems;

    fn from_str(text: &str) -> Result<Self, ConfigProblems> {
        Self::parse(text)
    }
}

/// The entries of one file.
pub(crate) fn cut(bytes: &[u8]) -> Vec<Place> {
    // At most BYTES_MAX, which fits.
    let at = |place: usize| u32::try_from(place).unwrap_or(u32::MAX);
    let range = |range: &Range<usize>| at(range.start)..at(range.end);
    let place = |Cut { line, line_start, whole, key, value }| {
        let is_whole = value.is_some();
        let value = value.unwrap_or(key.end..key.end);
        Place {
            file: 0,
            line: at(line),
            key_column: at(key.start - line_start + 1),
            value_column: at(value.start - line_start + 1),
            line_bytes: range(&whole),
            key: range(&key),
            value: range(&value),
            is_whole,
        }
    };
    lines::entries(bytes).map(place).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A file with everything that a parser may stumble over.
    const SAMPLE: &[u8] = b"# a comment\n\n\t lxc.uts.name = web \r\nlxc.rootfs.path = dir:/srv/web\nother = x\n\
        lxc.cap.drop = sys_time\tmknod\nlxc.cap.drop =\nlxc.environment = \" A=b\"\rlxc.net.0.type = veth\n\
        lxc.net.0.ipv4.address = 10.0.0.2/24 10.0.0.255\nlxc.idmap = u 0 100000 65536\nlxc.include = /etc/lxc/\n\
        lxc.cgroup2.memory.max = 1G\nlxc.prlimit.nofile = 1:2\nlxc.mount.entry = /a\\040b c none bind 0 0\n\
        lxc.time.offset.boot = -5s\nlxc.hook =\nlxc.signal.halt = SIGRTMIN+3\nlxc.console.size = 8KB\n\0lxc.x\n";

    /// Whatever was taken comes back, byte for byte, and means the same.
    fn check(bytes: &[u8]) -> bool {
        let Ok(text) = ConfigText::parse(bytes) else { return false };
        assert_eq!(text.render(), bytes);
        assert_eq!(ConfigText::parse(text.render()).as_ref(), Ok(&text));
        for entry in text.entries() {
            let line = bytes.split(|b| *b == b'\n').nth(entry.line() - 1).unwrap();
            assert!(line[entry.key_column() - 1..].starts_with(entry.key()));
            assert!(line[entry.value_column() - 1..].starts_with(entry.value()));
        }
        true
    }

    #[test]
    fn a_text_comes_back_as_it_is() {
        assert!(check(SAMPLE));
        let text = ConfigText::parse(SAMPLE).unwrap();
        assert_eq!(text.get("lxc.uts.name"), Some(&b"web"[..]));
        assert_eq!(text.get("lxc.cap.drop"), None);
        assert_eq!(text.get("lxc.net.000.type"), Some(&b"veth"[..]));
        assert!(text.has_includes());
        let network = text.all("lxc.net.0.type").next().unwrap();
        assert_eq!((network.line(), network.key_column(), network.value_column()), (8, 26, 43));
    }

    /// Bytes of many small lines: what is not linear in them takes minutes.
    const MANY: usize = 1 << 20;

    #[test]
    fn large_texts_are_refused_or_linear() {
        let problems = ConfigText::parse(vec![b'x'; BYTES_MAX + 1]).unwrap_err();
        assert!(problems.to_string().contains("a configuration has at most 4194304"), "{problems}");
        let fill = |line: &str| line.repeat(MANY / line.len());
        for line in ["\n", "#\n", "lxc.net =\n", "lxc.cgroup.a = 1\nlxc.cgroup =\n", "lxc.cap.drop = chown\n"]
        {
            assert!(ConfigText::parse(fill(line)).is_ok(), "{line}");
        }
        for line in ["lxc.\n", "lxc.uts.nama =\n", "lxc.tty.max = x\n"] {
            let problems = ConfigText::parse(fill(line)).unwrap_err();
            assert_eq!(problems.count(), MANY / line.len());
            assert_eq!(problems.list().len(), 1000);
            assert!(problems.to_string().len() < 10_000);
        }
        let long = format!("lxc.init.cmd = {}", "x".repeat(MANY));
        assert!(check(long.as_bytes()));
        assert!(ConfigText::parse(long.replace("init.cmd", "tty.max")).unwrap_err().to_string().len() < 1000);
    }

    proptest! {
        #[test]
        fn any_bytes_are_judged(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            check(&bytes);
        }

        #[test]
        fn any_lines_are_judged(lines in prop::collection::vec("lxc\\.[a-z0-9.]{0,16}[ =\"']{0,3}\\PC{0,12}[\n\r]", 0..6)) {
            check(lines.concat().as_bytes());
        }

        #[test]
        fn changed_files_are_judged(changes in prop::collection::vec((0..SAMPLE.len(), any::<Option<u8>>(), 0..20_usize), 1..6)) {
            let mut bytes = SAMPLE.to_vec();
            for (at, byte, cut) in changes {
                let at = at.min(bytes.len());
                let end = (at + cut).min(bytes.len());
                bytes.splice(at..end, byte);
            }
            check(&bytes);
        }
    }
}
