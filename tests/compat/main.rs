//! Every fixture of every past format opens, says what is known of it, and survives the way through Holdfast unchanged.

#![allow(clippy::unwrap_used, clippy::panic, clippy::expect_used, reason = "a failing test panics")]
#![allow(clippy::disallowed_methods, reason = "the owners are for the program; tests write files of their own")]

#[path = "../support/files.rs"]
mod files;
#[path = "../support/thaw.rs"]
mod thaw;

mod etcd_files;
mod hostile;
mod member;
mod mutations;
mod schema;
