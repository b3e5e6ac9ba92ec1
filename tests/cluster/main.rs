//! Masters on a real store. Workers without a host say that they are simulated.

mod masters;
mod nodes;
mod stage;
