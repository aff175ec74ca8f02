//! The store: a strongly consistent key-value store that speaks etcd's v3 API.
//!
//! From below: `backend` keeps the state in a file; `mvcc` keeps every key's history and answers what it was at a
//! revision; `lease` knows which keys end together; `auth` knows who may do what; `machine` applies commands, the same everywhere; `server` speaks to
//! clients. The design of the whole is told in docs/ARCHITECTURE.md.
//!
//! Invariant: the store does not know that backups exist.

pub mod auth;
pub mod backend;
pub mod consensus;
pub mod datadir;
pub mod lease;
pub mod machine;
pub mod mvcc;
pub mod node;
pub mod offline;
pub mod options;
pub mod server;
