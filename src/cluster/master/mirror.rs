//! What the store holds, as a master last saw it.

use std::collections::BTreeMap;

use super::keys::Place;
use crate::cluster::decide::{Decision, View, Write};
use crate::cluster::records::Settings;
use crate::error::Result;
use crate::state::{
    Change, ClusterStore, Entry, Fence, Key, Notice, Page, Revision, Scope, Transaction, Watch,
};

/// All records that decisions are made from, at one revision.
#[derive(Debug)]
pub(super) struct Mirror {
    view: View,
    /// Which change wrote each of them.
    written: BTreeMap<Key, Revision>,
    /// What the view shows is the store at this revision, or a later one without changes of these records.
    seen: Revision,
    settings: Settings,
}

impl Mirror {
    /// All there is, and the watch that tells what becomes of it.
    pub(super) async fn open(store: &ClusterStore, settings: Settings) -> Result<(Self, Watch)> {
        let Page { entries, revision: seen, .. } = store.entries(&Scope::All).await?;
        let mut mirror = Self {
            view: View::new(settings.networks, settings.network_prefix_len),
            written: BTreeMap::new(),
            seen,
            settings,
        };
        mirror.fill(entries)?;
        Ok((mirror, store.watch_from(Scope::All, seen.next())))
    }

    pub(super) fn view(&self) -> &View {
        &self.view
    }

    pub(super) fn seen(&self) -> Revision {
        self.seen
    }

    /// Follows what the watch tells.
    pub(super) fn follow(&mut self, notice: Notice) -> Result<()> {
        match notice {
            Notice::Changed(batch) => {
                for change in batch.changes {
                    match change {
                        Change::Put(entry) => self.put(entry)?,
                        Change::Deleted(key) => self.delete(&key),
                    }
                }
                self.seen = batch.revision;
            }
            Notice::Relisted { revision, entries } => {
                self.view = View::new(self.settings.networks, self.settings.network_prefix_len);
                self.written.clear();
                self.fill(entries)?;
                self.seen = revision;
            }
            Notice::Interrupted { reason } => tracing::warn!(%reason, "the store is not seen"),
            Notice::Resumed => tracing::info!("the store is seen again"),
        }
        Ok(())
    }

    /// What carries `decision` out, if the records are what they are here, and `fence` is held.
    pub(super) fn transaction(&self, decision: &Decision, fence: &Fence) -> Result<Transaction> {
        let mut change = Transaction::new().if_held(fence);
        for node in decision.absent.keys() {
            change = self.unchanged(change, &Place::Epoch(node.clone()).key()?);
            change = change.if_absent(&Place::Presence(node.clone()).key()?);
        }
        for write in &decision.writes {
            let place = match write {
                Write::User(user) => Place::User(user.id.clone()),
                Write::Node(node) => Place::Node(node.id.clone()),
                Write::RemoveNode(id) => Place::Node(id.clone()),
                Write::VirtualCluster(cluster) => Place::VirtualCluster(cluster.id.clone()),
                Write::RemoveVirtualCluster(id) => Place::VirtualCluster(id.clone()),
                Write::RemoveStatus(node, container) => Place::Status(node.clone(), container.clone()),
            };
            let key = place.key()?;
            change = self.unchanged(change, &key);
            change = match write {
                Write::User(user) => change.put(&key, user)?,
                Write::Node(node) => change.put(&key, node)?,
                Write::VirtualCluster(cluster) => change.put(&key, cluster)?,
                Write::RemoveNode(id) => {
                    let (epoch, presence) = (Place::Epoch(id.clone()), Place::Presence(id.clone()));
                    change.delete(&key).delete(&epoch.key()?).delete(&presence.key()?)
                }
                Write::RemoveVirtualCluster(_) | Write::RemoveStatus(..) => change.delete(&key),
            };
        }
        Ok(change)
    }

    fn unchanged(&self, change: Transaction, key: &Key) -> Transaction {
        match self.written.get(key) {
            Some(revision) => change.if_modified_at(key, *revision),
            None => change.if_absent(key),
        }
    }

    fn fill(&mut self, entries: Vec<Entry>) -> Result<()> {
        entries.into_iter().try_for_each(|entry| self.put(entry))
    }

    fn put(&mut self, entry: Entry) -> Result<()> {
        let Some(place) = Place::of(&entry.key) else { return Ok(()) };
        let (key, value) = (&entry.key, &entry.value);
        match place {
            Place::User(id) => drop(self.view.users.insert(id, value.decode(key)?)),
            Place::Node(id) => drop(self.view.nodes.insert(id, value.decode(key)?)),
            Place::Epoch(id) => drop(self.view.epochs.insert(id, value.decode(key)?)),
            Place::Presence(id) => drop(self.view.presences.insert(id, value.decode(key)?)),
            Place::VirtualCluster(id) => drop(self.view.virtual_clusters.insert(id, value.decode(key)?)),
            Place::Status(node, container) => {
                drop(self.view.statuses.insert((node, container), value.decode(key)?));
            }
        }
        self.written.insert(entry.key, entry.modified);
        Ok(())
    }

    fn delete(&mut self, key: &Key) {
        self.written.remove(key);
        match Place::of(key) {
            Some(Place::User(id)) => drop(self.view.users.remove(&id)),
            Some(Place::Node(id)) => drop(self.view.nodes.remove(&id)),
            Some(Place::Epoch(id)) => drop(self.view.epochs.remove(&id)),
            Some(Place::Presence(id)) => drop(self.view.presences.remove(&id)),
            Some(Place::VirtualCluster(id)) => drop(self.view.virtual_clusters.remove(&id)),
            Some(Place::Status(node, container)) => drop(self.view.statuses.remove(&(node, container))),
            None => {}
        }
    }
}
