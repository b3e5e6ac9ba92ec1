//! What the machines of a cluster agree on: ordered keys with typed values, kept by one of two engines.
//!
//! [`ClusterStore`] makes the same promises on each.

mod change;
mod engine;
mod entry;
#[cfg(feature = "etcd")]
mod etcd;
mod export;
mod faulty;
mod key;
mod lease;
mod lock;
mod page;
mod record;
mod revision;
mod store;
mod transaction;
mod watch;

pub use change::{Batch, Change};
pub use entry::Entry;
#[cfg(feature = "etcd")]
pub use etcd::{EtcdSpec, EtcdTls, EtcdUser};
pub use faulty::{Fault, Faults};
pub use key::{Key, Scope};
pub use lease::{Lease, LeaseId};
pub use lock::{Fence, Held};
pub use page::{Page, Query};
pub use record::{Record, Stored};
pub use revision::Revision;
pub use store::ClusterStore;
pub use transaction::Transaction;
pub use watch::{Notice, Watch};
