//! LXC's configuration as text (`man 5 lxc.container.conf`): any file that liblxc takes, line by line.
//!
//! [`ConfigText`] reads what liblxc 5.0 reads and refuses what it refuses, with every reason at once ([`ConfigProblems`]),
//! and gives the file back byte for byte. What a value means is [`LxcConfig`](crate::lxc::LxcConfig)'s.
//!
//! Established by giving the same texts to liblxc; the host tier repeats that.

mod config_text;
mod entry;
mod form;
mod include;

mod key;
mod legacy;
mod lines;
mod network;
pub(crate) mod number;
mod problem;
mod reading;
mod value;
mod words;

pub use config_text::ConfigText;
pub use entry::Entry;
pub(crate) use problem::Found;
pub use problem::{ConfigProblem, ConfigProblems};
pub(crate) use reading::network_key;
pub(crate) use value::{LINE_MAX, check, check_path, quoted};
pub(crate) use words::{ARCHITECTURES, CAPABILITIES};
