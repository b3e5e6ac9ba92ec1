//! What the machines of a cluster agree on: ordered keys with typed values, kept by one of two engines.
//!
//! [`ClusterStore`] makes the same promises on each: the embedded engine keeps one file on one machine (redb), and needs nothing else;
//! the other is etcd (feature `etcd`), for clusters with several masters. One suite of tests runs on both.
//!
//! ```
//! use docklet::state::{ClusterStore, EmbeddedSpec, Key, Record, Scope, Transaction};
//!
//! #[derive(serde::Serialize, serde::Deserialize)]
//! struct Node {
//!     address: String,
//! }
//!
//! impl Record for Node {
//!     const KIND: &'static str = "node";
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> docklet::Result<()> {
//! # let file = std::env::temp_dir().join(format!("docklet-doc-{}", std::process::id()));
//! let store = ClusterStore::embedded(&EmbeddedSpec::new(&file, "lab".parse()?)).await?;
//! let key = Key::new("nodes/n1")?;
//! store.put(&key, &Node { address: "10.0.0.1".into() }).await?; // on the disk when it returns
//!
//! // Changed only if nobody else has changed it meanwhile; else it is `Error::Conflict`, and nothing is done.
//! let node = store.get::<Node>(&key).await?.expect("it was put");
//! let moved = Node { address: "10.0.0.2".into() };
//! store.commit(Transaction::new().if_unchanged(&node).put(&key, &moved)?).await?;
//!
//! // What a listing returns is a key as it is.
//! for node in store.list::<Node>(&Scope::beneath("nodes")?).await?.entries {
//!     store.delete(&node.key).await?;
//! }
//! # drop(store);
//! # std::fs::remove_file(&file).unwrap();
//! # Ok(())
//! # }
//! ```
//!
//! # Promises
//!
//! - **Keys are relative to the cluster.** Nothing reaches beyond it, and no call takes or returns anything else.
//! - **A change that returned is durable**, and seen by every later read. A transaction is done whole or not at all, under one [`Revision`].
//! - **What is not known is not guessed.** A change whose answer is lost is [`Error::OutcomeUnknown`](crate::Error::OutcomeUnknown); one that was certainly not made
//!   is [`Error::Unavailable`](crate::Error::Unavailable). No request waits for ever; only
//!   `lock`, `campaign`, [`Watch::next`] and `lost` wait for others.
//! - **A [`Watch`] tells each revision once, whole and in order.** After an interruption it goes on where it was ([`Notice::Resumed`]); if
//!   that was compacted away meanwhile, it begins anew with all there is ([`Notice::Relisted`]), and says so.
//! - **A [`Lease`] is known to be lost before it is over.** Its holder counts from before it asked, and less an eighth.
//!   One that is kept for another ([`ClusterStore::keep_lease`]) is kept by whoever has its id.
//! - **What is [`Held`] is fenced.** Locks and offices hang on leases; their [`Fence`] refuses the writes of whoever lost them.
//! - **A value is of a kind and a version** ([`Record`]). None is read as what it is not.
//!
//! # What it leaves out
//!
//! There is no password or encryption of its own: the embedded file is for its owner's eyes, etcd has its roles and TLS. Values are
//! JSON of 1 MiB at most; it is no place for logs or images.

mod change;
mod embedded;
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
pub use embedded::EmbeddedSpec;
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
