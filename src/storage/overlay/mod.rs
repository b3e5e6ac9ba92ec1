//! Layers shown as one root directory.

mod assembly;
mod attributes;
mod changes;
mod directory;
mod input;
mod lookup;
pub(super) mod marks;
pub(super) mod options;
mod plan;
mod root;
mod signature;
mod support;
mod top;

pub use self::changes::{Change, Changed, Changes, Difference};
pub(crate) use self::input::LAYERS_MAX;
pub use self::options::MountMethod;
pub use self::plan::{OverlayLayers, OverlayPlan};
pub use self::root::OverlayRoot;
