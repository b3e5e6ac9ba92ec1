//! Files of lines that are changed in place (`man 2 pwrite`) while a container, which has them as bind mounts of single
//! files, may read them: a rename would leave it with the file of before.
//!
//! Each line has a place of its own, filled up with spaces. A place whose first byte is `#` is free: to those who read
//! `hosts(5)` and `resolv.conf(5)` it is a comment. A line comes and goes with the write of that one byte, and its text is
//! written while the place is free. So whenever a reader looks, and wherever the writer was killed, each line is whole.

use std::collections::{BTreeSet, HashMap};
use std::fs::{File, OpenOptions, Permissions};
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use crate::error::{Error, Result};
use crate::sys::file::{absent_is_none, read_if_exists, remove_file};

/// What makes a place free.
const FREE: u8 = b'#';
/// The longest file. One that is longer was not written here.
const LONGEST_BYTES: u64 = 4 << 20;

/// How the lines of a file are laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Layout {
    /// A place's length with its newline, in bytes: a power of two up to 4096, so that no place is in two pages, which the
    /// kernel fills one after the other, or in two of a reader's buffers.
    pub(super) place_bytes: usize,
    /// Whether the lines' order says something.
    pub(super) ordered: bool,
}

/// What a file should say. Made once for many files, which are mostly all the same: what changes one is worked out for the
/// first of them, and a new one becomes as the others are.
#[derive(Debug)]
pub(super) struct Lines {
    layout: Layout,
    /// Each line as its place holds it.
    places: Vec<Vec<u8>>,
    /// Where in `places` it is.
    numbers: HashMap<Vec<u8>, usize>,
    /// Of the file that was written last.
    change: Option<Change>,
}

/// A write at an offset.
type Write = (usize, Vec<u8>);

/// What makes a file say what it should.
#[derive(Debug)]
struct Change {
    before: Vec<u8>,
    writes: Vec<Write>,
    after: Vec<u8>,
}

impl Lines {
    /// `lines` have no newline, do not begin with `#`, and are shorter than a place.
    pub(super) fn new(layout: Layout, lines: impl IntoIterator<Item = String>) -> Self {
        let places: Vec<Vec<u8>> = lines.into_iter().map(|line| layout.place(&line)).collect();
        let numbers = places.iter().enumerate().map(|(number, place)| (place.clone(), number)).collect();
        Self { layout, places, numbers, change: None }
    }

    /// Makes the file at `path` say them (mode 0644), and tells whether it did not. Whoever has the file as a mount keeps
    /// it. Not flushed: it is written again when its container starts.
    pub(super) fn write(&mut self, path: &Path) -> Result<bool> {
        let opened = match find(path)? {
            Some(opened) => opened,
            None => make(path)?,
        };
        self.put(opened, path)
    }

    /// [`Lines::write`] for a file that is there. One that is not stays away: its container is yet to start.
    pub(super) fn rewrite(&mut self, path: &Path) -> Result<bool> {
        find(path)?.map_or(Ok(false), |opened| self.put(opened, path))
    }

    fn put(&mut self, Opened { file, length }: Opened, path: &Path) -> Result<bool> {
        let put = |bytes: &[u8], offset: usize| {
            let offset = u64::try_from(offset).unwrap_or(u64::MAX);
            file.write_all_at(bytes, offset).map_err(failed("pwrite", path))
        };
        let Some(length) = length else {
            // Nobody reads it yet.
            let change = self.change.take().unwrap_or_else(|| self.change_of(Vec::new()));
            put(&change.after, 0)?;
            self.change = Some(change);
            return Ok(true);
        };
        // In one read: what is longer by then is read to its end after it.
        let mut current = Vec::with_capacity(length + 1);
        (&file).take(LONGEST_BYTES + 1).read_to_end(&mut current).map_err(failed("read", path))?;
        if u64::try_from(current.len()).is_ok_and(|length| length > LONGEST_BYTES) {
            file.set_len(0).map_err(failed("ftruncate", path))?;
            current.clear();
        }
        let known = self.change.take().filter(|change| change.before == current);
        let change = known.unwrap_or_else(|| self.change_of(current));
        for (offset, bytes) in &change.writes {
            put(bytes, *offset)?;
        }
        let changed = !change.writes.is_empty();
        self.change = Some(change);
        Ok(changed)
    }

    fn change_of(&self, before: Vec<u8>) -> Change {
        let writes = self.writes(before.clone());
        let mut after = before.clone();
        for (offset, bytes) in &writes {
            let end = offset + bytes.len();
            after.resize(after.len().max(end), 0);
            after[*offset..end].copy_from_slice(bytes);
        }
        Change { before, writes, after }
    }

    /// The writes that make a file with the content `current` say them, in their order.
    fn writes(&self, mut current: Vec<u8>) -> Vec<Write> {
        let length = self.layout.place_bytes;
        let mut coming = self.layout.clear_damage(&mut current);
        let now: Vec<&[u8]> = current.chunks(length).collect();
        let wanted =
            if self.layout.ordered { (0..self.places.len()).map(Some).collect() } else { self.arrange(&now) };
        let (mut going, free) = (Vec::new(), self.layout.free());
        for number in 0..wanted.len().max(now.len()) {
            let (offset, now) = (number * length, now.get(number).copied().unwrap_or_default());
            let taken = now.first().is_some_and(|first| *first != FREE);
            match wanted.get(number).copied().flatten().map(|number| &self.places[number]) {
                Some(place) if place == now => {}
                Some(place) => {
                    if taken {
                        coming.push((offset, vec![FREE]));
                    }
                    if now.get(1..) != Some(&place[1..]) {
                        coming.push((offset, [&[FREE], &place[1..]].concat()));
                    }
                    coming.push((offset, vec![place[0]]));
                }
                None => {
                    if taken {
                        going.push((offset, vec![FREE]));
                    }
                    // What it said is nobody's business any more, and so files that say the same become the same.
                    if now.get(1..) != Some(&free[1..]) {
                        going.push((offset, free.clone()));
                    }
                }
            }
        }
        // What changes its address is found under the new one before it is no longer found under the old one.
        coming.extend(going);
        coming
    }

    /// Which line goes where: each that is there stays, the others take free places. What becomes free now is used by a later
    /// change.
    fn arrange(&self, now: &[&[u8]]) -> Vec<Option<usize>> {
        let mut missing: BTreeSet<usize> = self.numbers.values().copied().collect();
        // Once: what is there twice goes.
        let mut wanted: Vec<Option<usize>> = now
            .iter()
            .map(|place| self.numbers.get(*place).copied().filter(|number| missing.remove(number)))
            .collect();
        for (place, wanted) in now.iter().zip(&mut wanted) {
            if place.first() == Some(&FREE) {
                *wanted = missing.pop_first();
            }
        }
        wanted.extend(missing.into_iter().map(Some));
        wanted
    }
}

impl Layout {
    fn place(self, line: &str) -> Vec<u8> {
        debug_assert!(
            !line.starts_with('#') && !line.contains('\n') && line.len() < self.place_bytes,
            "{line}"
        );
        let mut place = line.as_bytes().to_vec();
        place.resize(self.place_bytes - 1, b' ');
        place.push(b'\n');
        place
    }

    /// A place without a line.
    fn free(self) -> Vec<u8> {
        [&[FREE], &self.place("")[1..]].concat()
    }

    /// Makes free what is not one line with its newline at the end: somebody else wrote it.
    fn clear_damage(self, content: &mut Vec<u8>) -> Vec<Write> {
        let whole = |place: &[u8]| place.iter().position(|byte| *byte == b'\n') == Some(self.place_bytes - 1);
        let places = content.chunks(self.place_bytes).enumerate();
        let damaged: Vec<usize> =
            places.filter(|(_, place)| !whole(place)).map(|(number, _)| number).collect();
        let free = self.free();
        let mut writes = Vec::new();
        for offset in damaged.into_iter().map(|number| number * self.place_bytes) {
            let end = (offset + self.place_bytes).min(content.len());
            content.splice(offset..end, free.iter().copied());
            writes.push((offset, free.clone()));
        }
        writes
    }
}

/// The lines of the file at `path`. None if there is no such file.
pub(super) fn read_lines(path: &Path) -> Result<Vec<String>> {
    Ok(seen(&read_if_exists(path)?.unwrap_or_default()))
}

/// The lines that a reader sees.
fn seen(text: &str) -> Vec<String> {
    text.lines().filter(|line| !line.starts_with('#')).map(|line| line.trim_end().to_owned()).collect()
}

fn failed(call: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    move |error| Error::os(call, path.display(), error)
}

/// A file that is to be changed.
struct Opened {
    file: File,
    /// In bytes. `None`: it is new.
    length: Option<usize>,
}

/// Opens a file to be changed, if there is one.
fn find(path: &Path) -> Result<Option<Opened>> {
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
    let file = match OpenOptions::new().read(true).write(true).custom_flags(flags).open(path) {
        Ok(file) => file,
        // No file: a link, a directory, a socket, a device.
        Err(error) if matches!(error.raw_os_error(), Some(libc::ELOOP | libc::EISDIR | libc::ENXIO)) => {
            return Ok(None);
        }
        Err(error) => return absent_is_none(Err(error)).map_err(failed("open", path)),
    };
    let found = file.metadata().map_err(failed("fstat", path))?;
    let length = usize::try_from(found.len().min(LONGEST_BYTES)).unwrap_or_default();
    Ok(found.is_file().then_some(Opened { file, length: Some(length) }))
}

/// Makes a file to be written. What is no file and in its place is not written to, but removed.
fn make(path: &Path) -> Result<Opened> {
    remove_file(path)?;
    let file = OpenOptions::new().read(true).write(true).create_new(true).open(path);
    let file = file.map_err(failed("open", path))?;
    // Everybody inside reads it, whatever mask the caller has.
    file.set_permissions(Permissions::from_mode(0o644)).map_err(failed("fchmod", path))?;
    Ok(Opened { file, length: None })
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAMES: Layout = Layout { place_bytes: 32, ordered: false };
    const ORDERED: Layout = Layout { place_bytes: 32, ordered: true };

    fn lines(layout: Layout, lines: &[&str]) -> Lines {
        Lines::new(layout, lines.iter().map(|line| (*line).to_owned()))
    }

    fn apply(content: &mut Vec<u8>, (offset, bytes): &Write) {
        if content.len() < offset + bytes.len() {
            content.resize(offset + bytes.len(), 0);
        }
        content[*offset..offset + bytes.len()].copy_from_slice(bytes);
    }

    fn seen(content: &[u8]) -> Vec<String> {
        super::seen(&String::from_utf8_lossy(content))
    }

    /// Changes the file step by step; at each, whole lines of before or after are seen. Returns how many steps it took.
    fn change(layout: Layout, content: &mut Vec<u8>, wanted: &[&str]) -> usize {
        let before = seen(content);
        let lines = lines(layout, wanted);
        let writes = lines.writes(content.clone());
        for write in &writes {
            // The text of a place may be half written. A new one appears at once.
            for length in 1..=write.1.len() {
                if write.0 + length <= content.len() || length == write.1.len() {
                    let mut half = content.clone();
                    apply(&mut half, &(write.0, write.1[..length].to_vec()));
                    for line in seen(&half) {
                        assert!(before.contains(&line) || wanted.contains(&line.as_str()), "{line:?}");
                    }
                }
            }
            apply(content, write);
        }
        let (mut now, mut wanted) = (seen(content), wanted.to_vec());
        if !layout.ordered {
            now.sort();
            wanted.sort_unstable();
        }
        assert_eq!(now, wanted);
        assert_eq!(lines.writes(content.clone()), []);
        writes.len()
    }

    #[test]
    fn lines_come_and_go_one_by_one() {
        let mut content = Vec::new();
        change(NAMES, &mut content, &["127.0.0.1 localhost", "10.0.0.2 a", "10.0.0.3 b"]);
        assert_eq!(content.len(), 3 * 32);
        // One byte takes a line away, then its text goes; its place is used again.
        assert_eq!(change(NAMES, &mut content, &["127.0.0.1 localhost", "10.0.0.3 b"]), 2);
        assert!(!String::from_utf8_lossy(&content).contains("0.0.2"));
        assert_eq!(change(NAMES, &mut content, &["127.0.0.1 localhost", "10.0.0.3 b", "10.0.0.4 c"]), 2);
        assert_eq!(content.len(), 3 * 32);
    }

    #[test]
    fn a_changed_line_is_there_before_the_old_one_goes() {
        let mut content = Vec::new();
        change(NAMES, &mut content, &["10.0.0.2 a"]);
        for write in lines(NAMES, &["10.0.0.9 a"]).writes(content.clone()) {
            apply(&mut content, &write);
            assert!(seen(&content).iter().any(|line| line.ends_with(" a")), "{content:?}");
        }
    }

    #[test]
    fn an_order_is_kept() {
        let mut content = Vec::new();
        change(ORDERED, &mut content, &["nameserver 10.0.0.1", "nameserver 10.0.0.2"]);
        change(ORDERED, &mut content, &["nameserver 10.0.0.2", "nameserver 10.0.0.1"]);
        change(ORDERED, &mut content, &["nameserver 10.0.0.9"]);
        change(ORDERED, &mut content, &["search a b", "nameserver 10.0.0.1", "nameserver 10.0.0.3"]);
    }

    #[test]
    fn what_others_wrote_goes() {
        for garbage in [&b"x"[..], b"no line of ours\n", &[0; 100], b"#\n#\n", &[b'y'; 64], &[0xff; 31], b"#"]
        {
            for layout in [NAMES, ORDERED] {
                let mut content = garbage.to_vec();
                let wanted = lines(layout, &["10.0.0.2 a", "10.0.0.3 b"]);
                for write in wanted.writes(content.clone()) {
                    apply(&mut content, &write);
                }
                assert_eq!(seen(&content), ["10.0.0.2 a", "10.0.0.3 b"], "{garbage:?}");
                assert_eq!(wanted.writes(content), [], "{garbage:?}");
            }
        }
    }

    proptest::proptest! {
        #[test]
        fn any_change_is_made_line_by_line(steps in proptest::collection::vec(
            proptest::collection::btree_set(0_u8..12, 0..10), 1..8)) {
            let mut content = Vec::new();
            for step in steps {
                let lines: Vec<String> = step.iter().map(|n| format!("10.0.0.{n} name-{n}")).collect();
                let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
                change(NAMES, &mut content, &lines);
            }
        }
    }
}
