//! The built binary against real peers, everything it must survive: wrong input, damage, broken streams, kills, full
//! disks; and the JSON contract that docs/cli.md promises.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "tests fail by panicking, and write files of their own"
)]

#[allow(dead_code, reason = "fixtures alone are used here")]
#[path = "../support/files.rs"]
mod files;
#[path = "../support/mod.rs"]
mod support;
#[path = "../support/thaw.rs"]
mod thaw;

mod clocks;
mod connections;
mod contract;
mod copy;
mod crash;
mod damage;
mod dev;
mod disk;
mod errors;
mod flips;
mod frozen;
mod frozen_member;
mod imports;
mod kills;
mod limits;
mod many;
mod modes;
mod place;
mod retention;
mod rules;
mod secrets;
mod serve;
mod signing;
mod streams;
mod tell;
