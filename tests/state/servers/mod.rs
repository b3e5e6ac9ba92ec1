//! What is etcd's own: the tests with real servers (`man 1 etcd`), and what starts, harms and guards these.

mod access;
mod certificates;
mod faults;
mod harm;
mod holder;
mod members;
mod proxy;
mod queues;
mod replaced;
mod server;

pub(crate) use server::Etcd;
