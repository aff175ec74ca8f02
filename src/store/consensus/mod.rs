//! Agreement among members on a sequence of opaque entries, and its durable log.
//!
//! What an entry means is nobody's business here; `machine` knows.

pub mod log;
