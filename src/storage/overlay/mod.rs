//! Layers shown as one root directory.

pub(super) mod options;
mod root;
mod support;

pub use self::options::MountMethod;
pub use self::root::{OverlayLayers, OverlayPlan, OverlayRoot};
