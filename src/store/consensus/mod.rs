//! Agreement among members on a sequence of opaque entries, and its durable log.
//!
//! What an entry means is nobody's business here; `machine` knows. Raft itself is raft-rs; `driver` has it as a value
//! without I/O, `log` makes durable what it hands out.

mod bridge;
pub mod driver;
pub mod log;
mod logger;
