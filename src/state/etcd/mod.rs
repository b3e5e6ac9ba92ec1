//! The store on etcd 3.4 and newer (<https://etcd.io/docs/v3.4/learning/api/>), which several machines share.
//!
//! What a cluster has lies beneath `/docklet/CLUSTER/`: a role that may read and write that prefix is enough.

mod engine;
mod fault;
mod feed;
mod layout;
mod members;
mod spec;

pub use spec::{EtcdSpec, EtcdTls, EtcdUser};
