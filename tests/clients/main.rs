//! What users have, asked of a member of Holdfast: etcd's own command line tool side by side with real etcd, libraries in
//! Python and for Node.js, probes, browsers, the requests of Kubernetes, and the list of etcd's bugs.
//!
//! Libraries are other people's programs: each has a script of its own, which first runs against real etcd, so that what
//! it expects is etcd's answer, and then against Holdfast; and once against an etcd whose answers are changed on the way,
//! to see that it looks at them.
//!
//! The Rust crate `etcd-client` is not among them: its build needs `protoc`, which nobody who builds Holdfast needs. It is
//! tonic and prost over etcd's .proto files, as are the clients in `kubernetes` and `bugs`.

#![allow(clippy::unwrap_used, clippy::panic, clippy::expect_used, reason = "a failing test panics")]
#![allow(clippy::print_stdout, reason = "figures are shown beside the result")]
#![allow(clippy::disallowed_methods, reason = "the owners are for the program; tests read the clock")]

#[path = "../support/mod.rs"]
mod support;

mod browser;
mod bugs;
mod commands;
mod ctl;
mod kubernetes;
mod libraries;
