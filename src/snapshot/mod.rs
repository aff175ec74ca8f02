//! The waist: cluster state as a stream of records, and pure functions over such streams.
//!
//! A **record** is one fact of cluster state: a key value at a revision, a lease, a user, a compaction. A **full
//! snapshot** is a set of records in a fixed order:
//!
//! ```text
//! Descriptor  Extra*  Compacted*  ClusterVersion?  Member*  MemberGone*  Alarm*  AuthConfig?  User*  Role*  Lease*
//! Revision* (ascending)  End
//! ```
//!
//! An **increment** holds what came after a base: the descriptor names the base's revision, `Kept` records say which of
//! the older revisions are still there, and only newer revisions follow. Base and increment together are a state again
//! (the vault's `chain`).
//!
//! Everything that meets at this waist speaks records: reading an etcd file makes them, a restore point stores them, a
//! restore inserts them. There is no other path.
//!
//! Two proofs are computed here and recorded in every manifest: etcd's own HashKV, which the live cluster can be asked
//! for, and the `state_digest`, which depends on the live facts alone and survives compaction, merging and a change of
//! engine (see `hash`).
//!
//! ## Newest first
//!
//! Which version of a key is its newest is known at once when records are met from the newest to the oldest: the first
//! one met is it. So everything that needs to know (proofs, fold, find, diff) takes **batches newest first**, each batch
//! in ascending order within itself, and remembers 16 bytes per key instead of the key and its newest version. A store that
//! streams its records marks them, and then one pass in order is enough (`forward`).
//!
//! Invariants:
//! - No I/O, no clock, no async: bytes in, values out. Pages of a file come through the `Pages` trait.
//! - Every byte from outside is hostile: parsers return errors, never panic, and never allocate more than named limits.
//! - Stored bytes are kept exactly as etcd wrote them, unknown fields included.

pub mod arrival;
pub mod bbolt;
pub mod decode;
pub mod diff;
pub mod encode;
pub mod entry;
pub mod find;
pub mod fold;
pub mod forward;
pub mod hash;
pub mod kept;
pub mod proof;
pub mod record;
pub mod tail;
pub mod verify;
mod wire;
pub mod witness;
