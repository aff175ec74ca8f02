//! Nouns and tools without opinions: identifiers, time, randomness, digests, files that survive a crash, errors.
//!
//! Invariants:
//! - Nothing here imports another module of this crate.
//! - The clock, the operating system's randomness and SHA-256 are named here and nowhere else, so that tests can set
//!   them and readers can find them.

pub mod authority;
pub mod backoff;
pub mod clock;
pub mod cork;
pub mod digest;
pub mod durable;
pub mod error;
pub mod file;
pub mod id;
pub mod jwt;
pub mod layer;
pub mod leash;
pub mod process;
pub mod progress;
pub mod revision;
pub mod rng;
pub mod slow;
pub mod socket;
pub mod steps;
pub mod stop;
pub mod telemetry;
pub mod tls;
pub mod units;

pub use error::{Error, IoContext, Kind, Result};
