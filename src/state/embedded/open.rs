//! Opening the file: who has it (`man 2 flock`, `man 5 proc_locks`), whose it is, and what it holds.

use std::fs::{File, OpenOptions};
use std::io::ErrorKind;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::time::Duration;

use redb::backends::FileBackend;
use redb::{Builder, Database, DatabaseError, Error as Trouble, ReadableDatabase, ReadableTable};

use super::failure;
use super::shared::Shared;
use super::spec::EmbeddedSpec;
use super::table::{CLUSTER, ENTRIES, FORMAT, LEASED, LEASES, LOG, NAMES, NUMBERS, number, revision};
use crate::error::{Error, Result};

/// The version of the tables.
const FORMAT_NOW: u64 = 1;
/// How much of the file is kept in memory.
const CACHE_BYTES: usize = 64 << 20;

/// Opens the file of `spec`, and makes it if it is missing. With it come the leases that it holds, and their times.
pub(super) fn open(spec: &EmbeddedSpec) -> Result<(Shared, Vec<(u64, Duration)>)> {
    let path = &spec.path;
    let file = open_file(path)?;
    let copy = file.try_clone().map_err(|e| Error::os("dup", path.display(), e))?;
    let database = Builder::new()
        .set_cache_size(CACHE_BYTES)
        .create_with_backend(FileBackend::new(file).map_err(|e| refused(path, &copy, e))?)
        .map_err(|e| refused(path, &copy, e))?;
    let failed = |trouble: Trouble| failure::of(path, trouble);
    if !read_names(&database).map_err(failed)?.is_ours(spec)? {
        prepare(&database, spec).map_err(failed)?;
    }
    let (revision, leases) = read_state(&database).map_err(failed)?;
    Ok((Shared::new(path.clone(), database, revision), leases))
}

fn open_file(path: &Path) -> Result<File> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut options = OpenOptions::new();
    let file = options.read(true).write(true).create(true).truncate(false).mode(0o600).open(path);
    let file = file.map_err(|error| match error.kind() {
        ErrorKind::NotFound => Error::NotFound {
            what: format!("the directory `{}`, in which the store is to be,", parent.display()),
        },
        _ => Error::os("open", path.display(), error),
    })?;
    // Its name is to be as durable as what will be in it.
    let parent = File::open(parent).and_then(|parent| parent.sync_all());
    parent.map_err(|e| Error::os("fsync", path.display(), e))?;
    Ok(file)
}

fn refused(path: &Path, file: &File, error: DatabaseError) -> Error {
    match error {
        DatabaseError::DatabaseAlreadyOpen => {
            Error::Busy { what: format!("the store `{}`", path.display()), reason: holder(file) }
        }
        DatabaseError::UpgradeRequired(version) => Error::Unsupported {
            what: format!("opening the store `{}`", path.display()),
            needs: format!("version {version} of redb's file format is too old"),
        },
        error => failure::of(path, error.into()),
    }
}

/// Which process has `file` locked, in words.
fn holder(file: &File) -> String {
    let inode = file.metadata().map(|metadata| metadata.ino()).unwrap_or_default();
    let locks = std::fs::read_to_string("/proc/locks").unwrap_or_default();
    match pid(&locks, inode) {
        Some(pid) if pid == std::process::id() => {
            format!("this process, {pid}, has it open already: use a clone of what it was opened as")
        }
        Some(pid) => format!("process {pid} has it open, and one at a time can: ask that one, or end it"),
        None => "another process has it open, and one at a time can".into(),
    }
}

/// The process that has the file with this number locked, by the text of `/proc/locks`.
fn pid(locks: &str, inode: u64) -> Option<u32> {
    // 1: FLOCK  ADVISORY  WRITE 4711 fe:00:1234567 0 EOF
    locks.lines().find_map(|line| {
        let mut words = line.split_ascii_whitespace().skip(1);
        (words.next()? == "FLOCK").then_some(())?;
        let pid = words.nth(2)?.parse().ok()?;
        let found = words.next()?.rsplit(':').next()?;
        (found.parse() == Ok(inode)).then_some(pid)
    })
}

/// What a file says about whose it is.
struct Names {
    /// Nothing was ever written to it.
    empty: bool,
    format: u64,
    cluster: String,
}

impl Names {
    /// Whether it is the store of `spec`; if not, nothing is in it.
    fn is_ours(&self, spec: &EmbeddedSpec) -> Result<bool> {
        let what = format!("the store `{}`", spec.path.display());
        if self.empty {
            return Ok(false);
        }
        if self.format == 0 {
            return Err(Error::Differs {
                what,
                difference: "it is a file of redb of another program".into(),
            });
        }
        if self.format > FORMAT_NOW {
            let needs = format!("it has format {}, {FORMAT_NOW} is known: use a newer version", self.format);
            return Err(Error::Unsupported { what: format!("opening {what}"), needs });
        }
        if self.cluster != spec.cluster.as_str() {
            let difference = format!("it is of cluster `{}`, not of `{}`", self.cluster, spec.cluster);
            return Err(Error::Differs { what, difference });
        }
        Ok(true)
    }
}

fn read_names(database: &Database) -> Result<Names, Trouble> {
    let transaction = database.begin_read()?;
    let tables: Vec<_> = transaction.list_tables()?.collect();
    let has = |name: &str| tables.iter().any(|table| redb::TableHandle::name(table) == name);
    if !has(redb::TableHandle::name(&NUMBERS)) || !has(redb::TableHandle::name(&NAMES)) {
        return Ok(Names { empty: tables.is_empty(), format: 0, cluster: String::new() });
    }
    let format = number(&transaction.open_table(NUMBERS)?, FORMAT)?;
    let cluster = transaction.open_table(NAMES)?.get(CLUSTER)?.map(|name| name.value().to_owned());
    Ok(Names { empty: false, format, cluster: cluster.unwrap_or_default() })
}

/// Makes the tables of a new file, all at once.
fn prepare(database: &Database, spec: &EmbeddedSpec) -> Result<(), Trouble> {
    let transaction = database.begin_write()?;
    transaction.open_table(NUMBERS)?.insert(FORMAT, FORMAT_NOW)?;
    transaction.open_table(NAMES)?.insert(CLUSTER, spec.cluster.as_str())?;
    transaction.open_table(ENTRIES)?;
    transaction.open_table(LOG)?;
    transaction.open_table(LEASES)?;
    transaction.open_table(LEASED)?;
    transaction.commit()?;
    Ok(())
}

fn read_state(database: &Database) -> Result<(u64, Vec<(u64, Duration)>), Trouble> {
    let transaction = database.begin_read()?;
    let mut leases = Vec::new();
    for line in transaction.open_table(LEASES)?.iter()? {
        let (id, seconds) = line?;
        leases.push((id.value(), Duration::from_secs(seconds.value())));
    }
    Ok((revision(&transaction.open_table(LOG)?)?, leases))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_holder_is_found_by_the_files_number() {
        let locks = "1: POSIX  ADVISORY  WRITE 12 fe:00:77 0 EOF\n\
                     2: OFDLCK ADVISORY  WRITE -1 fe:00:4711 0 EOF\n\
                     3: FLOCK  ADVISORY  WRITE 815 fe:00:4711 0 EOF\n\
                     3: -> FLOCK  ADVISORY  WRITE 816 fe:00:4711 0 EOF\n";
        assert_eq!(pid(locks, 4711), Some(815));
        assert_eq!(pid(locks, 77), None);
    }
}
