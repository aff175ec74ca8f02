//! The server.

pub mod export;
pub mod snapshot;
