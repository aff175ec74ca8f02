//! Talking to the members of a cluster, etcd's or Holdfast's, as any client does.
//!
//! A `Client` knows the endpoints of one cluster. Cheap questions (who are the members, which keys are there) go to any
//! member that answers; expensive ones name their member, and `maintenance::choose` says which: a voter that keeps up and
//! is not the leader, because reading a whole database slows the member that does it. What arrives is checked here as far
//! as the protocol allows (`snapshot` verifies length and SHA-256 while the bytes pass through, `kv` that keys ascend at
//! one revision, `watch` that revisions never go back); what it means is for `snapshot` and the layers above.
//!
//! ```text
//!   options ──> Target ──> channel: one per endpoint, token, deadline, failover
//!                             |
//!       maintenance · cluster · kv · watch · snapshot      one file per service, plain values out
//!                             |
//!                          status: gRPC statuses and broken connections -> base::Error with a hint
//! ```
//!
//! Invariants:
//! - A cluster is never written to: no call in here puts, deletes, compacts, grants, or changes members, alarms or users.
//!   The agent protects what it cannot harm. The one exception (`canary`) writes a key into a member that a drill started
//!   itself, and asks that member first who it is.
//! - Every answer has a deadline; every stream a limit on silence and none on duration; every buffer a limit in bytes.
//! - No type of tonic appears in what this layer gives away, but for `line`: the bare connection over which `bench`, and
//!   nobody else, makes load on a cluster whose operator asked for that.
//! - Passwords, tokens, keys and values appear in no error and in no log.

pub mod canary;
pub mod channel;
pub mod cluster;
pub mod kv;
pub mod line;
pub mod maintenance;
pub mod options;
pub mod records;
pub mod snapshot;
mod status;
pub mod watch;

pub use channel::Client;
pub use options::{Endpoint, Options};

#[cfg(test)]
mod fake;
