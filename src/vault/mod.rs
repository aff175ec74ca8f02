//! The repository: restore points of many clusters in one place that outlives all of them.
//!
//! The vault moves opaque records. It knows their order (by main revision within a lineage), their number and their
//! size, and never what a key is; what must know (hashing, folding, searching) is a function of `snapshot` that the
//! caller hands in. A repository is a tree of objects that are created once and never changed:
//!
//! ```text
//! config/<n>.json                                 which repository this is; the highest n wins
//! clusters/<cluster>/lineages/<lineage>.json      a branch of the cluster's history
//! clusters/<cluster>/data/<lineage>/...zst[.age]  records, in objects named after their stored bytes
//! clusters/<cluster>/points/<lineage>/...json     a restore point's manifest: what makes data visible
//! clusters/<cluster>/verdicts/<point>/...json     what a verification found
//! clusters/<cluster>/holds/<point>/...json        whether somebody holds a point
//! clusters/<cluster>/condemned/...json            what a collector is about to delete
//! clusters/<cluster>/epochs/...json               which collector may delete
//! ```
//!
//! docs/formats/repository.md is the specification, byte by byte.
//!
//! Invariants:
//! - **A manifest is written after its data and deleted before it.** A listed restore point is a whole one; whatever a
//!   crash leaves behind is data that nothing lists.
//! - **Every object is created once**, with a create-only request, and never replaced. A create that answers "exists" is
//!   resolved by comparing content: our own lost reply is success, anything else is a conflict. Only a data object whose
//!   bytes do not hash to its name is put right by whoever holds those that do: it was no object, and is one again.
//! - **Every byte is checked before it is believed**: JSON documents carry a checksum of themselves, data objects are
//!   named after their digest, and a name that does not format back to itself is refused. Whoever names signers uses no
//!   point that none of them signed.
//! - **An unreadable listing is an error**, never "no data"; a damaged point stays visible as damaged.
//! - **Memory is bounded by named limits** in both directions, whatever the size of the cluster.
//! - Order is by revision within a lineage, never by clock.

pub mod admit;
mod budget;
mod buffers;
pub mod catalog;
pub mod chain;
pub mod condemned;
mod config;
pub mod copy;
pub mod encryption;
pub mod epoch;
pub mod foreign;
pub mod get;
pub mod hold;
pub mod intake;
pub mod layout;
pub mod lineage;
pub mod manifest;
mod pack;
pub mod probe;
pub mod prove;
pub mod prune;
pub mod publish;
pub mod put;
pub mod replay;
pub mod repository;
pub mod scrub;
pub mod sealed;
mod select;
pub mod sign;
mod store;
pub mod summary;
#[cfg(test)]
pub(crate) mod testing;
pub mod verdict;
