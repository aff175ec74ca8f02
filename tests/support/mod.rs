//! The harness that tests share: real etcd processes, programs with a time limit, proxies that break
//! things, buckets, seeded load.
//!
//! A test binary takes it in with `#[path = "../support/mod.rs"] mod support;`.
//!
//! Invariants:
//! - Nothing is skipped. What a test needs and does not find is a failure that says how to get it.
//! - No process outlives the test binary: each is killed when its owner is dropped, and by a guard when the whole binary
//!   is killed.
//! - Nothing waits without a limit, and nothing sleeps for luck: waiting means asking until the answer comes.
//! - Ports are claimed, not guessed, so that suites run beside each other.
//! - Every address is on 127.0.0.1.

#![allow(dead_code, unreachable_pub, reason = "each test binary uses its own part of the harness")]
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stderr, reason = "tests fail by panicking, with words")]
#![allow(clippy::disallowed_methods, reason = "the owners are for the program; tests read the clock and write files")]

pub mod bucket;
pub mod certs;
pub mod etcd;
pub mod guard;
pub mod http;
pub mod load;
pub mod member;
pub mod moto;
pub mod objects;
pub mod peers;
pub mod ports;
pub mod proxy;
pub mod run;
pub mod sink;
pub mod weather;
