//! Holdfast's store against real etcd: the same requests to both, the same answers from both.
//!
//! Where Holdfast means to answer otherwise stands in `differences`, and in docs/differences.md with the reasons. Anything
//! else is a failure, and so is a rule of etcd's that no request came upon.

#![allow(clippy::unwrap_used, clippy::panic, clippy::expect_used, reason = "a failing test panics")]
#![allow(clippy::print_stdout, reason = "figures are shown beside the result")]
#![allow(clippy::disallowed_methods, reason = "the owners are for the program; tests read the clock")]

#[path = "../support/mod.rs"]
mod support;

mod ask;
mod auth;
mod coverage;
mod differences;
mod errors;
mod gateway;
mod generate;
mod logs;
mod member;
mod metrics;
mod surface;
mod tokens;

mod keys;
mod watch;
