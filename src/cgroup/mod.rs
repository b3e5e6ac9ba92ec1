//! Control groups: which hierarchy this host has, limits, figures.
