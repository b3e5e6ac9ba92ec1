//! Opening a store: whose it is, and what it holds.

use std::sync::Arc;
use std::time::Duration;

use redb::{
    Builder, Database, DatabaseError, Error as Trouble, ReadableDatabase, ReadableTable, TableHandle,
};

use super::failure;
use super::file::Claim;
use super::owner::Source;
use super::shared::Shared;
use super::spec::EmbeddedSpec;
use super::table::{CLUSTER, ENTRIES, FORMAT, LEASED, LEASES, LOG, NAMES, NUMBERS, number, revision};
use crate::error::{Error, Result};

/// The version of the tables.
const FORMAT_NOW: u64 = 2;
/// How much of the file is kept in memory.
const CACHE_BYTES: usize = 64 << 20;

/// A store that is open.
pub(super) struct Opened {
    pub(super) shared: Arc<Shared>,
    /// The leases that it holds, and their times.
    pub(super) leases: Vec<(u64, Duration)>,
    /// How to open it again, should a write fail.
    pub(super) source: Source,
}

/// Opens the file of `spec`, and makes it if it is missing.
pub(super) fn open(spec: &EmbeddedSpec) -> Result<Opened> {
    let path = &spec.path;
    // Another process may be faster with a new file.
    for _ in 0..2 {
        if let Some(claim) = Claim::of(path)? {
            if claim.is_empty() {
                return Err(failure::damaged(path, "it is an empty file"));
            }
            return begin(spec, source(claim));
        }
        let claim = Claim::unnamed(path)?;
        let database = database(&claim).map_err(|e| refused(spec, e))?;
        let prepared = prepare(&database, spec).and_then(|()| Ok(database.close()?));
        prepared.map_err(|trouble| failure::of(path, trouble))?;
        if claim.publish(path)? {
            return begin(spec, source(claim));
        }
    }
    let difference = "it is a link to a file that is not there".into();
    Err(Error::Differs { what: format!("the store `{}`", path.display()), difference })
}

fn source(claim: Claim) -> Source {
    Box::new(move || database(&claim))
}

fn database(claim: &Claim) -> Result<Database, DatabaseError> {
    Builder::new()
        .set_cache_size(CACHE_BYTES)
        .set_check_integrity_on_open(true)
        .create_with_backend(claim.storage())
}

/// Takes what is there for the store of `spec`.
pub(super) fn begin(spec: &EmbeddedSpec, source: Source) -> Result<Opened> {
    let database = source().map_err(|error| refused(spec, error))?;
    let failed = |trouble: Trouble| failure::of(&spec.path, trouble);
    read_names(&database).map_err(failed)?.check(spec)?;
    let State { revision, leases } = State::of(&database).map_err(failed)?;
    Ok(Opened { shared: Arc::new(Shared::new(spec.path.clone(), database, revision)), leases, source })
}

fn refused(spec: &EmbeddedSpec, error: DatabaseError) -> Error {
    match error {
        DatabaseError::UpgradeRequired(version) => Error::Unsupported {
            what: format!("opening the store `{}`", spec.path.display()),
            needs: format!("version {version} of redb's file format is too old"),
        },
        error => failure::of(&spec.path, error.into()),
    }
}

/// What a file says about whose it is.
struct Names {
    format: u64,
    cluster: String,
}

impl Names {
    /// That it is the store of `spec`.
    fn check(&self, spec: &EmbeddedSpec) -> Result<()> {
        let what = format!("the store `{}`", spec.path.display());
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
        if self.format < FORMAT_NOW {
            let needs = format!(
                "it has format {}, which was never released: export it with the version that made it, and import that",
                self.format
            );
            return Err(Error::Unsupported { what: format!("opening {what}"), needs });
        }
        if self.cluster != spec.cluster.as_str() {
            let difference = format!("it is of cluster `{}`, not of `{}`", self.cluster, spec.cluster);
            return Err(Error::Differs { what, difference });
        }
        Ok(())
    }
}

fn read_names(database: &Database) -> Result<Names, Trouble> {
    let transaction = database.begin_read()?;
    let known = [NUMBERS.name(), NAMES.name()];
    if transaction.list_tables()?.filter(|table| known.contains(&table.name())).count() < known.len() {
        return Ok(Names { format: 0, cluster: String::new() });
    }
    let format = number(&transaction.open_table(NUMBERS)?, FORMAT)?;
    let cluster = transaction.open_table(NAMES)?.get(CLUSTER)?.map(|name| name.value().to_owned());
    Ok(Names { format, cluster: cluster.unwrap_or_default() })
}

/// Makes the tables of a new file, all at once.
pub(super) fn prepare(database: &Database, spec: &EmbeddedSpec) -> Result<(), Trouble> {
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

/// What is in memory besides.
pub(super) struct State {
    pub(super) revision: u64,
    pub(super) leases: Vec<(u64, Duration)>,
}

impl State {
    pub(super) fn of(database: &Database) -> Result<Self, Trouble> {
        let transaction = database.begin_read()?;
        let mut leases = Vec::new();
        for line in transaction.open_table(LEASES)?.iter()? {
            let (id, seconds) = line?;
            leases.push((id.value(), Duration::from_secs(seconds.value())));
        }
        Ok(Self { revision: revision(&transaction.open_table(LOG)?)?, leases })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use redb::backends::InMemoryBackend;

    use super::*;

    /// The error of taking a file for a store, after `change` was made to it.
    fn refusal(change: impl FnOnce(&Database)) -> Error {
        let spec = EmbeddedSpec::new("/in/memory", "c1".parse().unwrap());
        let database = Builder::new().create_with_backend(InMemoryBackend::new()).unwrap();
        change(&database);
        let database = Mutex::new(Some(database));
        let source = move || Ok(database.lock().unwrap().take().unwrap());
        begin(&spec, Box::new(source)).err().expect("it is refused")
    }

    fn prepared(database: &Database) {
        prepare(database, &EmbeddedSpec::new("/in/memory", "c1".parse().unwrap())).unwrap();
    }

    #[test]
    fn a_file_of_another_program_differs() {
        const OTHER: redb::TableDefinition<&str, u64> = redb::TableDefinition::new("other");
        let error = refusal(|database| {
            let transaction = database.begin_write().unwrap();
            transaction.open_table(OTHER).unwrap().insert("a", 1).unwrap();
            transaction.commit().unwrap();
        });
        assert!(matches!(error, Error::Differs { .. }), "{error}");
    }

    #[test]
    fn a_newer_format_is_unsupported() {
        let error = refusal(|database| {
            prepared(database);
            let transaction = database.begin_write().unwrap();
            transaction.open_table(NUMBERS).unwrap().insert(FORMAT, FORMAT_NOW + 1).unwrap();
            transaction.commit().unwrap();
        });
        assert!(matches!(&error, Error::Unsupported { needs, .. } if needs.contains("newer")), "{error}");
    }

    #[test]
    fn a_table_that_is_missing_is_damage() {
        let error = refusal(|database| {
            prepared(database);
            let transaction = database.begin_write().unwrap();
            transaction.delete_table(LOG).unwrap();
            transaction.commit().unwrap();
        });
        assert!(matches!(error, Error::Damaged { .. }), "{error}");
    }
}
