//! Where a cluster's keys are among etcd's (<https://etcd.io/docs/v3.4/learning/data_model/>): each beneath a prefix that ends in `/`,
//! which the name of a cluster cannot hold. So no cluster's keys are among another's.

use super::super::entry::Entry;
use super::super::key::{Key, Scope};
use super::super::lease::LeaseId;
use super::super::record::Stored;
use super::super::revision::Revision;
use crate::error::{Error, Result};
use crate::name::ClusterName;

use etcd_client::proto::PbKeyValue;

/// The form of what is beneath a cluster's prefix.
pub(super) const FORMAT: &str = "1";

/// A cluster's place.
#[derive(Debug, Clone)]
pub(super) struct Layout {
    prefix: String,
}

impl Layout {
    pub(super) fn new(cluster: &ClusterName) -> Self {
        Self { prefix: format!("/docklet/{cluster}/") }
    }

    /// The prefix that a role must be able to read and write.
    pub(super) fn prefix(&self) -> &str {
        &self.prefix
    }

    /// The key that holds the [`FORMAT`].
    pub(super) fn format(&self) -> String {
        format!("{}format", self.prefix)
    }

    fn keys(&self) -> String {
        format!("{}keys/", self.prefix)
    }

    pub(super) fn key(&self, key: &Key) -> String {
        format!("{}keys/{key}", self.prefix)
    }

    /// The first of etcd's keys that can be in `scope`, behind `after`, and the first behind the scope.
    pub(super) fn range(&self, scope: &Scope, after: Option<&Key>) -> (String, String) {
        let (first, end) = scope.bounds();
        let first = after.map_or(first.clone(), |after| first.max(format!("{after}\0")));
        let keys = self.keys();
        // '0' follows '/' in ASCII.
        let end = end.map_or_else(|| format!("{}keys0", self.prefix), |end| format!("{keys}{end}"));
        let first = format!("{keys}{first}");
        // Nothing can be behind `after` any more: no key has a zero in it, and etcd is not asked for a range that ends before it begins.
        let end = end.max(format!("{first}\0"));
        (first, end)
    }

    /// One of etcd's keys as the store's. [`Error::Damaged`] if another program wrote it.
    pub(super) fn strip(&self, key: &[u8]) -> Result<Key> {
        let text = std::str::from_utf8(key).ok().and_then(|text| text.strip_prefix(&self.keys()));
        text.and_then(|text| Key::new(text).ok()).ok_or_else(|| {
            let name = String::from_utf8_lossy(key);
            Error::Damaged {
                what: format!("key {name:?} of etcd"),
                reason: "it is among this store's keys, but none of them: delete it (`etcdctl del`)".into(),
            }
        })
    }

    pub(super) fn entry(&self, found: PbKeyValue) -> Result<Entry> {
        Ok(Entry {
            key: self.strip(&found.key)?,
            value: Stored::from_bytes(found.value),
            created: Revision(found.create_revision.cast_unsigned()),
            modified: Revision(found.mod_revision.cast_unsigned()),
            lease: (found.lease != 0).then_some(LeaseId(found.lease.cast_unsigned())),
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn layout(cluster: &str) -> Layout {
        Layout::new(&ClusterName::new(cluster).unwrap())
    }

    #[test]
    fn no_cluster_is_within_another() {
        let (a, ab) = (layout("a"), layout("a-b"));
        assert!(!ab.prefix().starts_with(a.prefix()));
        let key = Key::new("k").unwrap();
        a.strip(ab.key(&key).as_bytes()).unwrap_err();
        a.strip(a.format().as_bytes()).unwrap_err();
        a.strip(b"/docklet/a/keys//x").unwrap_err();
        a.strip(b"/docklet/a/keys/\xff").unwrap_err();
    }

    proptest! {
        #[test]
        fn a_range_holds_what_is_asked_for(
            top in "[a-c/0.]{1,4}", text in "[a-c/0.]{1,6}", after in "[a-c/0.]{1,6}",
        ) {
            let (Ok(top), Ok(key), Ok(after)) = (Key::new(top), Key::new(text), Key::new(after)) else { return Ok(()) };
            let layout = layout("lab");
            for scope in [Scope::All, Scope::One(top.clone()), Scope::Beneath(top.clone())] {
                for after in [None, Some(&after)] {
                    let (first, end) = layout.range(&scope, after);
                    let etcd = layout.key(&key);
                    let asked = scope.holds(&key) && after.is_none_or(|after| key > *after);
                    prop_assert_eq!(first <= etcd && etcd < end, asked);
                    prop_assert!(!(first.as_str()..end.as_str()).contains(&layout.format().as_str()));
                }
            }
            prop_assert_eq!(layout.strip(layout.key(&key).as_bytes()).unwrap(), key);
        }
    }
}
