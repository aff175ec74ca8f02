//! The agent: what runs beside a cluster and makes its restore points.
//!
//! Invariants:
//! - The agent is an ordinary client: it reads, and never writes into the cluster it protects, compacts or defragments it.
//! - The health of backups never gates the health of serving.

pub mod ancestry;
pub mod backup;
pub mod compare;
pub mod history;
pub mod kind;
pub mod metrics;
pub mod notify;
pub mod report;
mod spool;
mod store;
