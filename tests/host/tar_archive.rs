//! Tar archives made byte by byte: what no sound program writes.

use tar::{EntryType, Header};

/// An archive that is being made.
#[derive(Default)]
pub(crate) struct TarArchive {
    pub(crate) bytes: Vec<u8>,
}

impl TarArchive {
    /// Adds a member. Names are cut to what a header holds.
    pub(crate) fn add(self, kind: EntryType, path: &[u8], link: &[u8], content: &[u8]) -> Self {
        self.raw(kind, path, link, content, |_| {})
    }

    /// As [`TarArchive::add`], and `change` has the last word on the header.
    pub(crate) fn raw(
        mut self,
        kind: EntryType,
        path: &[u8],
        link: &[u8],
        content: &[u8],
        change: impl FnOnce(&mut Header),
    ) -> Self {
        let mut header = Header::new_ustar();
        header.set_entry_type(kind);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1);
        header.set_size(content.len() as u64);
        let old = header.as_old_mut();
        let (path, link) = (&path[..path.len().min(100)], &link[..link.len().min(100)]);
        old.name[..path.len()].copy_from_slice(path);
        old.linkname[..link.len()].copy_from_slice(link);
        change(&mut header);
        header.set_cksum();
        self.bytes.extend_from_slice(header.as_bytes());
        self.bytes.extend_from_slice(content);
        self.bytes.resize(self.bytes.len().next_multiple_of(512), 0);
        self
    }

    pub(crate) fn file(self, path: &str, content: &str) -> Self {
        self.add(EntryType::Regular, path.as_bytes(), b"", content.as_bytes())
    }

    pub(crate) fn directory(self, path: &str) -> Self {
        self.add(EntryType::Directory, path.as_bytes(), b"", b"")
    }

    pub(crate) fn symlink(self, path: &str, text: &str) -> Self {
        self.add(EntryType::Symlink, path.as_bytes(), text.as_bytes(), b"")
    }

    pub(crate) fn hard_link(self, path: &str, target: &str) -> Self {
        self.add(EntryType::Link, path.as_bytes(), target.as_bytes(), b"")
    }

    /// Adds an extended header about the next member.
    pub(crate) fn pax(self, records: &[(&str, &[u8])]) -> Self {
        let mut text = Vec::new();
        for (key, value) in records {
            let rest = key.len() + value.len() + 3;
            let length =
                (1..).find(|digits| (rest + digits).to_string().len() == *digits).expect("a length") + rest;
            text.extend_from_slice(format!("{length} {key}=").as_bytes());
            text.extend_from_slice(value);
            text.push(b'\n');
        }
        self.add(EntryType::XHeader, b"pax", b"", &text)
    }

    /// The whole archive.
    pub(crate) fn end(mut self) -> Vec<u8> {
        self.bytes.extend_from_slice(&[0; 1024]);
        self.bytes
    }
}
