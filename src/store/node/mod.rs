//! The running member: joins consensus, machine and time.
//!
//! ```text
//!   Handle ──event──> core ──append──> log (one frame, one flush of the disk)
//!      ^               │
//!      └───replies─────┤ apply, publish
//!                      └──cuts──> flusher (the state's file) ──flushed──> core ──> the log is cut off behind
//! ```
//!
//! One task, the **core**, has machine, driver and log to itself; everything that happens reaches it as an event. Whatever
//! waits when it looks is proposed as one entry, and while that becomes durable the next one gathers. A thread, the
//! **flusher**, waits for the disk of the state.
//!
//! The core waits for the log's disk on the worker of the runtime that it happens to be on: who asks and who answers are then
//! often on the same one, and nothing is handed from thread to thread. A runtime that serves has a worker more for that, and
//! `relief` sees to it that somebody looks after the sockets meanwhile.
//!
//! A server sees the member through a `Handle`. Reads do not come by here: each batch publishes a state that anybody may
//! read for as long as they like.
//!
//! Invariants:
//! - A reply is sent after its command is durable, applied and published: whoever reads after it sees it.
//! - What the state's file does not hold is in the log.
//! - When the log or the state fails, the member ends and says why. It does not go on with what it cannot trust.
//! - Queues have limits: commands by number and bytes, unflushed changes by bytes.

mod compactor;
mod core;
#[cfg(test)]
mod crash;
mod flusher;
mod handle;
mod leases;
mod notes;
mod relief;
mod scrubber;
mod start;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

pub use handle::{Fault, Handle, Status};
pub use start::{Paths, create};

use crate::base::digest::Sha256;

/// Who this member is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Member {
    /// Its cluster.
    pub cluster_id: u64,
    /// Itself.
    pub member_id: u64,
    /// The branch of history that it was born on.
    pub lineage: Sha256,
    /// What it is called.
    pub name: String,
    /// Where other members reach it.
    pub peer_urls: Vec<String>,
    /// Where clients reach it.
    pub client_urls: Vec<String>,
}
