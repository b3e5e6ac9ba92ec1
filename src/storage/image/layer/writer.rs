//! Writing tar archives in the pax format (`man 5 tar`): the same bytes for the same members, on any host.

use std::io::{self, Write};

use rustix::fs::Timespec;
use tar::{EntryType, Header};

use crate::storage::image::layer::member::{Kind, Member};
use crate::storage::image::layer::pax::{Records, time_text};

const BLOCK: u64 = 512;
/// Two blocks of zeros.
const END: [u8; 1024] = [0; 1024];
/// The largest number with seven octal digits, and with eleven.
const OCTAL_7: u32 = 0o7_777_777;
const OCTAL_11: u64 = 0o77_777_777_777;
/// What an extended header is called. Nobody looks.
const PAX_NAME: &str = "././@PaxHeader";

/// Writes one member after the other; after a file's header, exactly its content must be written.
pub(crate) struct TarWriter<W> {
    output: W,
    /// Zeros that the content written last needs after it.
    padding: u64,
}

impl<W: Write> TarWriter<W> {
    pub(crate) fn new(output: W) -> Self {
        Self { output, padding: 0 }
    }

    /// Writes the header of `member`, whose path must end in `/` if it is a directory.
    pub(crate) fn begin(&mut self, member: &Member) -> io::Result<()> {
        self.pad()?;
        let mut records = Records::default();
        let header = header(member, &mut records);
        if !records.is_empty() {
            let text = records.encode();
            let mut extended = Header::new_ustar();
            extended.set_entry_type(EntryType::XHeader);
            field(&mut extended.as_old_mut().name, PAX_NAME.as_bytes());
            extended.set_mode(0o644);
            extended.set_uid(0);
            extended.set_gid(0);
            extended.set_mtime(0);
            extended.set_size(text.len() as u64);
            extended.set_cksum();
            self.output.write_all(extended.as_bytes())?;
            self.output.write_all(&text)?;
            self.padding = (text.len() as u64).wrapping_neg() % BLOCK;
            self.pad()?;
        }
        self.output.write_all(header.as_bytes())?;
        self.padding = member.kind.bytes().wrapping_neg() % BLOCK;
        Ok(())
    }

    /// Writes the end marker and gives the output back.
    pub(crate) fn finish(mut self) -> io::Result<W> {
        self.pad()?;
        self.output.write_all(&END)?;
        Ok(self.output)
    }

    fn pad(&mut self) -> io::Result<()> {
        let padding = usize::try_from(std::mem::take(&mut self.padding)).unwrap_or(0);
        self.output.write_all(&END[..padding])
    }
}

/// Writes content.
impl<W: Write> Write for TarWriter<W> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        self.output.write(buffer)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.output.flush()
    }
}

/// The header, with what does not fit in it in `records`.
fn header(member: &Member, records: &mut Records) -> Header {
    let mut header = Header::new_ustar();
    if !field(&mut header.as_old_mut().name, &member.path) {
        records.push(b"path", &member.path);
    }
    let (kind, link) = match &member.kind {
        Kind::File(_) => (EntryType::Regular, None),
        Kind::Directory => (EntryType::Directory, None),
        Kind::Symlink(text) => (EntryType::Symlink, Some(text)),
        Kind::HardLink(target) => (EntryType::Link, Some(target)),
        Kind::Fifo => (EntryType::Fifo, None),
        Kind::CharDevice { .. } => (EntryType::Char, None),
        Kind::BlockDevice { .. } => (EntryType::Block, None),
    };
    header.set_entry_type(kind);
    if let Some(link) = link
        && !field(&mut header.as_old_mut().linkname, link)
    {
        records.push(b"linkpath", link);
    }
    if let Kind::CharDevice { major, minor } | Kind::BlockDevice { major, minor } = member.kind
        && let Some(ustar) = header.as_ustar_mut()
    {
        ustar.set_device_major(major);
        ustar.set_device_minor(minor);
    }
    header.set_mode(member.mode);
    let mut fitting = |key: &str, value: u64, most: u64| {
        if value > most {
            records.push(key.as_bytes(), value.to_string().as_bytes());
        }
        if value > most { 0 } else { value }
    };
    let (uid, gid) = (
        fitting("uid", member.uid.into(), OCTAL_7.into()),
        fitting("gid", member.gid.into(), OCTAL_7.into()),
    );
    let size = fitting("size", member.kind.bytes(), OCTAL_11);
    header.set_uid(uid);
    header.set_gid(gid);
    header.set_size(size);
    let Timespec { tv_sec, tv_nsec } = member.mtime;
    let seconds = u64::try_from(tv_sec).ok().filter(|seconds| *seconds <= OCTAL_11);
    if seconds.is_none() || tv_nsec != 0 {
        records.push(b"mtime", time_text(member.mtime).as_bytes());
    }
    header.set_mtime(seconds.unwrap_or(0));
    for (name, value) in &member.xattrs {
        records.push(&[b"SCHILY.xattr.", name.as_slice()].concat(), value);
    }
    header.set_cksum();
    header
}

/// Fills a field of a header, as far as it goes. False if that is not all.
fn field(field: &mut [u8], text: &[u8]) -> bool {
    let fits = text.len().min(field.len());
    field[..fits].copy_from_slice(&text[..fits]);
    fits == text.len()
}
