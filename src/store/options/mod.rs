//! What a member is told when it starts, as values: etcd's flags, its environment and its configuration file.

pub mod tuning;

pub use tuning::{QUOTA_BYTES, Tuning};
