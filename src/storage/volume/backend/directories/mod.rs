//! Volumes that are directories of the pool's own file system, each held to its size by a project quota (`man 2 quotactl`).

mod enforced;
mod halves;
mod volumes;

pub(crate) use self::volumes::Directories;
