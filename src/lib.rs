//! Holdfast keeps a cluster's state alive through disasters. The map, in reading order; docs/ARCHITECTURE.md is the tour.

pub mod base;

pub mod api;
pub mod snapshot;

pub mod store;

pub mod bench;
pub mod client;
pub mod policy;
pub mod vault;

pub mod import;
pub mod recovery;

pub mod agent;

pub mod cli;
