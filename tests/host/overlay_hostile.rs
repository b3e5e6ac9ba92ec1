//! Overlays when the host is not as it should be.
