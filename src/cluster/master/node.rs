//! What a master does for the workers of nodes, leading or not.

use std::collections::BTreeMap;
use std::time::Duration;

use super::Master;
use super::keys::Place;
use crate::cluster::decide::{Order, orders};
use crate::cluster::records::{ContainerId, ContainerStatus, Epoch, Node, NodeId, Presence};
use crate::error::{Error, Result};
use crate::state::{LeaseId, Revision, Transaction};

/// How many times what is written is made anew because somebody else wrote meanwhile.
const ATTEMPTS: usize = 10;
/// How many words of a node are written in one transaction.
const SAID_MAX: usize = 100;

/// A node's lease, as its worker has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NodeLease {
    /// Of which coming.
    pub epoch: Epoch,
    /// The store's lease.
    pub lease: LeaseId,
    /// How long it holds, from a moment during the request.
    pub time: Duration,
}

/// What a node is to do, and of which revision of the store that is. Orders of an earlier revision than others are out of date.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeOrders {
    /// The revision.
    pub revision: Revision,
    /// What to do about each container.
    pub orders: BTreeMap<ContainerId, Order>,
}

impl Master {
    /// A node comes, or comes again: it gets a lease, and is there for as long as that is kept.
    ///
    /// # Errors
    /// [`Error::NotFound`] if it is no node of the cluster; [`Error::Unavailable`]. After [`Error::OutcomeUnknown`] it comes anew.
    pub async fn register(&self, node: &NodeId) -> Result<NodeLease> {
        let store = &self.0.store;
        let (place, key) = (Place::Node(node.clone()).key()?, Place::Epoch(node.clone()).key()?);
        let presence = Place::Presence(node.clone()).key()?;
        let (lease, time) = store.grant_lease(self.0.settings.timing.lease).await?;
        for _ in 0..ATTEMPTS {
            let Some(found) = store.get::<Node>(&place).await? else {
                return Err(Error::NotFound { what: format!("node {node}") });
            };
            let known = store.get::<Epoch>(&key).await?;
            let epoch = Epoch(known.as_ref().map_or(1, |known| known.value.0 + 1));
            let change = Transaction::new().if_created_at(&place, found.created);
            let change = match &known {
                Some(known) => change.if_unchanged(known),
                None => change.if_absent(&key),
            };
            let change = change.put(&key, &epoch)?.put_leased(&presence, &Presence { epoch }, lease)?;
            match store.commit(change).await {
                Ok(_) => return Ok(NodeLease { epoch, lease, time }),
                Err(Error::Conflict { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Err(Error::Busy { what: format!("node {node}"), reason: "others register as it, too".to_owned() })
    }

    /// Keeps a node's lease: the time that it holds from now on.
    ///
    /// # Errors
    /// [`Error::NotFound`] if it is over: the node must [come anew](Self::register); [`Error::Unavailable`], [`Error::OutcomeUnknown`].
    pub async fn keep(&self, lease: LeaseId) -> Result<Duration> {
        self.0.store.keep_lease(lease).await
    }

    /// What `node` is to do, as the store says it now or later.
    ///
    /// # Errors
    /// [`Error::Unavailable`].
    pub async fn orders(&self, node: &NodeId) -> Result<NodeOrders> {
        self.catch_up().await?;
        Ok(self.known_orders(node))
    }

    /// Waits until `node` is to do something else than by `known`. Dropping the future loses nothing.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if this master does not run any more.
    pub async fn orders_after(&self, node: &NodeId, known: &NodeOrders) -> Result<NodeOrders> {
        let mut seen = self.0.seen.subscribe();
        loop {
            let now = self.known_orders(node);
            if now.revision > known.revision && now.orders != known.orders {
                return Ok(now);
            }
            seen.changed().await.map_err(|_| Error::Unavailable {
                what: "the master".to_owned(),
                reason: "it does not run: ask another".to_owned(),
            })?;
        }
    }

    fn known_orders(&self, node: &NodeId) -> NodeOrders {
        let mirror = self.0.mirror.read().unwrap_or_else(std::sync::PoisonError::into_inner);
        NodeOrders { revision: mirror.seen(), orders: orders(mirror.view(), node) }
    }

    /// Writes down what a node says of its containers, unless it said something later of them, or has come again since.
    ///
    /// # Errors
    /// [`Error::Conflict`] if the node has come again; [`Error::Unavailable`], [`Error::OutcomeUnknown`]: saying it again is fine.
    pub async fn report(&self, node: &NodeId, said: &BTreeMap<ContainerId, ContainerStatus>) -> Result<()> {
        let said: Vec<_> = said.iter().collect();
        for part in said.chunks(SAID_MAX) {
            self.write_down(node, part).await?;
        }
        Ok(())
    }

    async fn write_down(&self, node: &NodeId, said: &[(&ContainerId, &ContainerStatus)]) -> Result<()> {
        let store = &self.0.store;
        let epoch_key = Place::Epoch(node.clone()).key()?;
        for _ in 0..ATTEMPTS {
            let epoch = store.get::<Epoch>(&epoch_key).await?;
            let Some(epoch) = epoch.filter(|epoch| said.iter().all(|(_, s)| s.report.epoch == epoch.value))
            else {
                let reason = "it has come again since: this is out of date".to_owned();
                return Err(Error::Conflict { what: format!("node {node}"), reason });
            };
            let mut change = Transaction::new().if_unchanged(&epoch);
            let mut news = 0;
            for (container, status) in said {
                let key = Place::Status(node.clone(), (*container).clone()).key()?;
                let known = store.get::<ContainerStatus>(&key).await?;
                if known.as_ref().is_some_and(|known| known.value.report >= status.report) {
                    continue;
                }
                change = match &known {
                    Some(known) => change.if_unchanged(known),
                    None => change.if_absent(&key),
                };
                change = change.put(&key, *status)?;
                news += 1;
            }
            if news == 0 {
                return Ok(());
            }
            match store.commit(change).await {
                Ok(_) => return Ok(()),
                Err(Error::Conflict { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Err(Error::Busy { what: format!("what node {node} says"), reason: "others say it, too".to_owned() })
    }
}
