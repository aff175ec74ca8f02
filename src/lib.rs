//! Holdfast keeps a cluster's state alive through disasters. The map, in reading order; docs/ARCHITECTURE.md is the tour.

pub mod base;

pub mod api;
