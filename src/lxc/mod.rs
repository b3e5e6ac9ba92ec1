//! LXC: typed configuration, and the life of one container.
