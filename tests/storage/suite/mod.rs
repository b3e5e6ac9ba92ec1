//! What every volume does, whatever it is made of and formatted with.

pub(crate) mod copies;
pub(crate) mod damage;
pub(crate) mod differs;
pub(crate) mod growth;
pub(crate) mod life;
pub(crate) mod snapshots;
pub(crate) mod space;
