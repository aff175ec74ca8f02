//! The stores under a repository: the same promises asked of a directory, of S3 (moto) and of Google's XML API (our own
//! strict bucket), through the library and through the built binary, in fair weather and in the worst.

#![allow(clippy::unwrap_used, clippy::panic, clippy::disallowed_methods, reason = "tests fail by panicking")]
#![allow(clippy::print_stderr, reason = "figures beside the result")]

mod check;
mod churn;
mod conformance;
mod list;
mod points;
mod prune;
mod site;
mod weather;

#[path = "../support/mod.rs"]
mod support;
