//! Pages as of a revision: the entries as they are, with what has changed since undone.

use std::collections::BTreeMap;

use redb::{Error as Trouble, ReadTransaction};

use super::super::page::{Page, Query};
use super::super::revision::Revision;
use super::table::{COMPACTED, ENTRIES, Held, LOG, NUMBERS, REVISION_FIRST, key, number, revision};

/// What was found of a query.
pub(super) enum Found {
    Page(Page),
    /// What was then is forgotten.
    Compacted,
    StillToCome,
}

pub(super) fn read(transaction: &ReadTransaction, query: &Query) -> Result<Found, Trouble> {
    let log = transaction.open_table(LOG)?;
    let now = revision(&log)?;
    let at = query.at.map_or(now, |at| at.0);
    if at > now {
        return Ok(Found::StillToCome);
    }
    let kept = number(&transaction.open_table(NUMBERS)?, COMPACTED)?.max(REVISION_FIRST);
    if at < kept {
        return Ok(Found::Compacted);
    }
    let (first, end) = bounds(query);
    let mut undone: BTreeMap<String, Option<Held>> = BTreeMap::new();
    if at < now {
        for line in log.range((at + 1, 0)..)? {
            let line = line?.1;
            let (text, _, before, _) = line.value();
            let inside = text >= first.as_str() && end.as_deref().is_none_or(|end| text < end);
            if inside && !undone.contains_key(text) {
                undone.insert(text.to_owned(), before.map(Held::of));
            }
        }
    }
    let entries = transaction.open_table(ENTRIES)?;
    let present = match &end {
        Some(end) if end.as_str() <= first.as_str() => entries.range("".."")?,
        Some(end) => entries.range(first.as_str()..end.as_str())?,
        None => entries.range(first.as_str()..)?,
    };
    // One more than asked for tells whether there are more.
    let wanted = query.limit.saturating_add(1);
    let mut found = Vec::new();
    let mut undone = undone.into_iter().peekable();
    for line in present {
        if found.len() >= wanted {
            break;
        }
        let (text, row) = line?;
        let text = text.value();
        while let Some((gone, held)) = undone.next_if(|(other, _)| other.as_str() < text) {
            found.extend(entry(&gone, held)?);
        }
        let held = match undone.next_if(|(other, _)| other == text) {
            Some((_, held)) => held,
            None => Some(Held::of(row.value())),
        };
        found.extend(entry(text, held)?);
    }
    for (gone, held) in undone {
        found.extend(entry(&gone, held)?);
    }
    let more = found.len() > query.limit;
    found.truncate(query.limit);
    Ok(Found::Page(Page { entries: found, more, revision: Revision(at) }))
}

fn entry(text: &str, held: Option<Held>) -> Result<Option<super::super::entry::Entry>, Trouble> {
    held.map(|held| Ok(held.entry(key(text)?))).transpose()
}

/// From where, and up to where, keys are asked for.
fn bounds(query: &Query) -> (String, Option<String>) {
    let (first, end) = query.scope.bounds();
    match &query.after {
        // Nothing is between a text and itself with a zero behind it.
        Some(after) if after.as_str() >= first.as_str() => (format!("{after}\0"), end),
        _ => (first, end),
    }
}
