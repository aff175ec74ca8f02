//! Every fixture of every past format opens, says what is known of it, and survives the way through Holdfast unchanged.

#![allow(clippy::unwrap_used, clippy::panic, clippy::expect_used, reason = "a failing test panics")]

#[path = "../support/files.rs"]
mod files;

mod etcd_files;
mod hostile;
mod mutations;
mod schema;
