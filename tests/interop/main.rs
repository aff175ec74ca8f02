//! The built program against real etcd: its restore points become real clusters again, its files are etcd's files, its
//! records are what docs/formats says, and no cluster is changed by being backed up.

#![allow(clippy::unwrap_used, clippy::panic, clippy::expect_used, reason = "a failing test panics")]
#![allow(clippy::print_stdout, reason = "figures are shown beside the result")]
#![allow(clippy::disallowed_methods, reason = "the owners are for the program; tests write files")]

#[path = "../support/files.rs"]
mod fixtures;
#[path = "../support/mod.rs"]
mod support;

mod look;
mod site;

mod ancestry;
mod drill;
mod files;
mod hand;
mod hashes;
mod increments;
mod members;
mod points;
mod schema;
mod store;
