//! Reading tar archives of all kinds: V7, ustar, GNU, pax (`man 5 tar`).
//!
//! Stricter than most: what two readers could take for two different things is an error. The crate `tar` knows how
//! headers are laid out; its own reading splits extended attributes at line ends and takes a cut archive for a whole.

use std::io::{self, Read};

use rustix::fs::Timespec;
use tar::{GnuExtSparseHeader, Header};

use crate::error::{Error, Result};
use crate::storage::image::layer::header::{check_sum, number, until_zero};
use crate::storage::image::layer::member::{ARCHIVE, Content, Kind, Member, damaged, refused};
use crate::storage::image::layer::options::UnpackLimits;
use crate::storage::image::layer::pax::{self, Records};
use crate::storage::image::layer::sparse::{self, Extent};

const BLOCK: usize = 512;
/// The longest extended header or long name, in bytes.
const EXTENSION_MAX: u64 = 1 << 20;
const XATTR: &str = "SCHILY.xattr.";

/// Reads one member after the other. Between two calls of [`TarReader::next`] it reads the content of the first.
pub(crate) struct TarReader<R> {
    input: R,
    limits: UnpackLimits,
    /// Bytes read so far.
    position: u64,
    /// Bytes of the current member's content that were not read yet, and the zeros after it.
    left: u64,
    padding: u64,
    entries: u64,
}

/// What precedes a member and is about it.
#[derive(Default)]
struct Extensions {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    records: Records,
}

impl<R: Read> TarReader<R> {
    pub(crate) fn new(input: R, limits: UnpackLimits) -> Self {
        Self { input, limits, position: 0, left: 0, padding: 0, entries: 0 }
    }

    pub(crate) fn entries(&self) -> u64 {
        self.entries
    }

    /// Bytes read so far: where the content of the member begins that was returned last.
    pub(crate) fn position(&self) -> u64 {
        self.position
    }

    pub(crate) fn into_inner(self) -> R {
        self.input
    }

    /// The next member; `None` after the last, when all has been read.
    pub(crate) fn next(&mut self) -> Result<Option<Member>> {
        self.skip_content()?;
        let mut extensions = Extensions::default();
        loop {
            let mut header = Header::new_old();
            self.read_block(header.as_mut_bytes())?;
            if header.as_bytes().iter().all(|&b| b == 0) {
                if !extensions.is_empty() {
                    return Err(damaged("it ends after an extended header"));
                }
                return self.read_end().map(|()| None);
            }
            check_sum(&header)?;
            self.entries += 1;
            if self.entries > self.limits.entries {
                return Err(self.over("entries", self.limits.entries));
            }
            let size = number(&header.as_old().size).ok_or_else(|| damaged("a size is no number"))?;
            match header.as_old().linkflag[0] {
                b'x' if extensions.records.is_empty() => {
                    let text = self.read_extension(size)?;
                    extensions.records =
                        Records::parse(&text).ok_or_else(|| damaged("an extended header is malformed"))?;
                }
                b'L' if extensions.path.is_none() => extensions.path = Some(self.read_name(size)?),
                b'K' if extensions.link.is_none() => extensions.link = Some(self.read_name(size)?),
                b'x' | b'L' | b'K' => return Err(damaged("two extended headers are about one member")),
                // About all that follow (`git archive` notes its commit so), and about the volume's label.
                b'g' | b'V' => {
                    self.begin(size)?;
                    self.skip_content()?;
                }
                flag => return self.member(&header, flag, size, extensions).map(Some),
            }
        }
    }

    fn member(&mut self, header: &Header, flag: u8, size: u64, extensions: Extensions) -> Result<Member> {
        let records = &extensions.records;
        let first = |pax: Option<&[u8]>, gnu: Option<Vec<u8>>, plain: Vec<u8>| {
            pax.map(<[u8]>::to_vec).or(gnu).unwrap_or(plain)
        };
        let plain = header.path_bytes().into_owned();
        let name = records.get("GNU.sparse.name").or_else(|| records.get("path"));
        let path = first(name, extensions.path, plain);
        let link = || {
            let plain = until_zero(&header.as_old().linkname).to_vec();
            first(records.get("linkpath"), extensions.link, plain)
        };
        let bad = |what: &str| refused(&path, format!("its {what} is malformed or too large"));
        let old = header.as_old();
        let numeric = |key: &str, field: &[u8]| match records.get(key) {
            Some(text) => sparse::decimal(text),
            None => number(field),
        };
        let id = |key: &str, field: &[u8]| {
            let id = numeric(key, field).and_then(|id| u32::try_from(id).ok());
            // The kernel's "no change".
            id.filter(|&id| id != u32::MAX).ok_or_else(|| bad(key))
        };
        let size = match records.get("size") {
            Some(text) => sparse::decimal(text).ok_or_else(|| bad("size"))?,
            None => size,
        };
        let mtime = match records.get("mtime") {
            Some(text) => pax::time(text),
            // Larger numbers are negative ones, in two's complement.
            None => number(&old.mtime).map(|n| Timespec { tv_sec: n.cast_signed(), tv_nsec: 0 }),
        };
        let mode = number(&old.mode).and_then(|mode| u32::try_from(mode & 0o7777).ok());
        let mut member = Member {
            kind: Kind::Directory,
            mode: mode.ok_or_else(|| bad("mode"))?,
            uid: id("uid", &old.uid)?,
            gid: id("gid", &old.gid)?,
            mtime: mtime.ok_or_else(|| bad("mtime"))?,
            xattrs: records.beneath(XATTR).map(|(key, value)| (key.to_vec(), value.to_vec())).collect(),
            path: path.clone(),
        };
        member.kind = match flag {
            b'0' | 0 | b'7' if flag == 0 && path.ends_with(b"/") => Kind::Directory,
            b'0' | 0 | b'7' => {
                self.begin(size)?;
                return self
                    .content(records, size, &member)
                    .map(|content| Member { kind: Kind::File(content), ..member });
            }
            b'S' if !is_sparse(records) => {
                self.begin(size)?;
                let content = self.old_sparse(header, size, &member)?;
                return Ok(Member { kind: Kind::File(content), ..member });
            }
            b'1' => Kind::HardLink(link()),
            b'2' => Kind::Symlink(link()),
            b'3' | b'4' => {
                let field = |from: usize| {
                    number(&header.as_bytes()[from..from + 8]).and_then(|n| u32::try_from(n).ok())
                };
                let major = field(329).ok_or_else(|| bad("device number"))?;
                let minor = field(337).ok_or_else(|| bad("device number"))?;
                if flag == b'3' {
                    Kind::CharDevice { major, minor }
                } else {
                    Kind::BlockDevice { major, minor }
                }
            }
            b'5' => Kind::Directory,
            b'6' => Kind::Fifo,
            other => {
                return Err(refused(&path, format!("members of type {:?} are not known", other as char)));
            }
        };
        // Readers differ in whether it follows, and so in where the next header is.
        if size != 0 {
            return Err(member.refused("only a file may have content"));
        }
        // And in whether their name counts.
        if is_sparse(records) {
            return Err(member.refused("only a file may have holes"));
        }
        Ok(member)
    }

    /// What the content of a file is, by the records of the pax formats.
    fn content(&mut self, records: &Records, size: u64, member: &Member) -> Result<Content> {
        let malformed = || member.refused("its map of holes is malformed or too long");
        let real = match records.get("GNU.sparse.realsize").or_else(|| records.get("GNU.sparse.size")) {
            Some(text) => sparse::decimal(text).ok_or_else(malformed)?,
            None if is_sparse(records) => return Err(malformed()),
            None => return Ok(Content { size, extents: None }),
        };
        let extents = if records.get("GNU.sparse.major") == Some(b"1") {
            self.read_map().and_then(|map| map.ok_or_else(malformed))?
        } else if let Some(map) = records.get("GNU.sparse.map") {
            sparse::from_numbers(map.split(|&b| b == b',')).ok_or_else(malformed)?
        } else {
            let runs = records.beneath("GNU.sparse.");
            let values =
                runs.filter(|(key, _)| matches!(*key, b"offset" | b"numbytes")).map(|(_, value)| value);
            let extents = sparse::from_numbers(values).ok_or_else(malformed)?;
            // Without a map to others it is a plain file, and has another name and size.
            let count = records.get("GNU.sparse.numblocks").and_then(sparse::decimal);
            if count != Some(extents.len() as u64) {
                return Err(malformed());
            }
            extents
        };
        if !sparse::is_sound(&extents, real, self.left) {
            return Err(malformed());
        }
        Ok(Content { size: real, extents: Some(extents) })
    }

    /// The map of version 1.0, which precedes the data: a count and that many pairs, one number a line.
    fn read_map(&mut self) -> Result<Option<Vec<Extent>>> {
        let mut block = [0; BLOCK];
        let mut at = BLOCK;
        let mut line = || -> Result<Option<u64>> {
            let mut text = Vec::new();
            loop {
                if at == BLOCK {
                    if self.left < BLOCK as u64 {
                        return Ok(None);
                    }
                    self.read_block(&mut block)?;
                    self.left -= BLOCK as u64;
                    at = 0;
                }
                at += 1;
                match block[at - 1] {
                    b'\n' => return Ok(sparse::decimal(&text)),
                    byte if text.len() < 20 => text.push(byte),
                    _ => return Ok(None),
                }
            }
        };
        let Some(count) = line()?.filter(|&n| n <= sparse::EXTENTS_MAX as u64) else { return Ok(None) };
        let mut extents = Vec::new();
        for _ in 0..count {
            let (Some(offset), Some(length)) = (line()?, line()?) else { return Ok(None) };
            extents.push(Extent { offset, length });
        }
        Ok(Some(extents))
    }

    /// The old GNU format: four runs in the header, others in blocks after it that are not part of the size.
    fn old_sparse(&mut self, header: &Header, size: u64, member: &Member) -> Result<Content> {
        let malformed = || member.refused("its map of holes is malformed or too long");
        let gnu = header.as_gnu().ok_or_else(malformed)?;
        let mut extents = Vec::new();
        sparse::from_headers(&gnu.sparse, &mut extents).ok_or_else(malformed)?;
        let mut more = gnu.is_extended();
        while more {
            let mut block = GnuExtSparseHeader::new();
            self.read_block(block.as_mut_bytes())?;
            sparse::from_headers(block.sparse(), &mut extents).ok_or_else(malformed)?;
            more = block.is_extended();
        }
        let real = number(&gnu.realsize).ok_or_else(malformed)?;
        if !sparse::is_sound(&extents, real, size) {
            return Err(malformed());
        }
        Ok(Content { size: real, extents: Some(extents) })
    }

    fn begin(&mut self, size: u64) -> Result<()> {
        self.left = size;
        self.padding = size.wrapping_neg() % BLOCK as u64;
        if size > self.limits.bytes {
            return Err(self.over("bytes", self.limits.bytes));
        }
        Ok(())
    }

    fn read_extension(&mut self, size: u64) -> Result<Vec<u8>> {
        if size > EXTENSION_MAX {
            return Err(damaged(format!("an extended header of {size} bytes is too long")));
        }
        self.begin(size)?;
        let mut text = Vec::new();
        self.read_to_end(&mut text).map_err(reading)?;
        self.skip_content()?;
        Ok(text)
    }

    fn read_name(&mut self, size: u64) -> Result<Vec<u8>> {
        let mut name = self.read_extension(size)?;
        if name.last() == Some(&0) {
            name.pop();
        }
        Ok(name)
    }

    fn read_block(&mut self, block: &mut [u8; BLOCK]) -> Result<()> {
        let mut filled = 0;
        while filled < BLOCK {
            match self.pull(BLOCK, &mut block[filled..]).map_err(reading)? {
                0 if filled == 0 => return Err(damaged("it ends without its end marker")),
                0 => return Err(damaged("it ends in the middle of a header")),
                read => filled += read,
            }
        }
        Ok(())
    }

    fn skip_content(&mut self) -> Result<()> {
        let mut buffer = [0; 64 * BLOCK];
        self.left += std::mem::take(&mut self.padding);
        while self.left > 0 {
            self.read(&mut buffer).map_err(reading)?;
        }
        Ok(())
    }

    /// Reads what follows the end marker, which is padding.
    fn read_end(&mut self) -> Result<()> {
        let mut buffer = [0; 64 * BLOCK];
        loop {
            let read = self.pull(buffer.len(), &mut buffer).map_err(reading)?;
            if read == 0 {
                return Ok(());
            }
            if buffer[..read].iter().any(|&b| b != 0) {
                return Err(damaged("something follows its end marker"));
            }
        }
    }

    fn pull(&mut self, most: usize, buffer: &mut [u8]) -> io::Result<usize> {
        let most = most.min(buffer.len());
        let read = loop {
            match self.input.read(&mut buffer[..most]) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => break result?,
            }
        };
        self.position += read as u64;
        if self.position > self.limits.bytes {
            return Err(io::Error::other(self.over("bytes", self.limits.bytes)));
        }
        Ok(read)
    }

    fn over(&self, what: &str, limit: u64) -> Error {
        let read = format!("{} bytes read", self.position);
        Error::invalid(
            ARCHIVE,
            read,
            format!("must have at most {limit} {what}: raise `UnpackLimits::{what}`"),
        )
    }
}

/// Reads the content of the current member as it is stored, to its end.
impl<R: Read> Read for TarReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left).unwrap_or(usize::MAX);
        if most == 0 || buffer.is_empty() {
            return Ok(0);
        }
        let read = self.pull(most, buffer)?;
        if read == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it ends in the middle of a member"));
        }
        self.left -= read as u64;
        Ok(read)
    }
}

impl Extensions {
    fn is_empty(&self) -> bool {
        self.path.is_none() && self.link.is_none() && self.records.is_empty()
    }
}

/// Whether the records tell of holes.
fn is_sparse(records: &Records) -> bool {
    records.beneath("GNU.sparse.").next().is_some()
}

/// What went wrong when the archive was read: our own error from below, damage, or the system's.
pub(crate) fn reading(error: io::Error) -> Error {
    match error.kind() {
        // A decoder's words for it; the kernel's `EINVAL` has a number.
        io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput | io::ErrorKind::UnexpectedEof
            if error.raw_os_error().is_none() =>
        {
            damaged(error.to_string())
        }
        io::ErrorKind::Other if error.raw_os_error().is_none() => match error.downcast::<Error>() {
            Ok(error) => error,
            Err(error) => damaged(error.to_string()),
        },
        _ => Error::os("read", ARCHIVE, error),
    }
}
