//! Every key's history, and what it was at a revision.
//!
//! A change makes a revision; revisions never change. Three places hold them together. The **index** has every key with the
//! revisions at which it was written or deleted, in memory, ordered, as a value whose copies are free. **Recent** batches
//! have the newest revisions' messages, in memory, until a flush has made them durable. The **backend** has the rest.
//!
//! ```text
//!   put, delete ──> Writer ──batch──> Recent ──flush──> Backend
//!                     │                  ▲                 ▲
//!                     └──publish──> View ┴── reads ────────┘
//! ```
//!
//! A **View** is the store at a moment: the index as it was, and the promise that nothing it shows is deleted while it
//! lives. It costs nothing to take, and many readers share one.
//!
//! Who wants to know what happens reads it from the **hub**, a ring of the newest batches, and from history when that has
//! moved on; `watch` says what of it somebody wants, and makes the events.
//!
//! Compaction is logical first: from then on revisions below are refused, which is all that replies depend on. What it made
//! superfluous leaves the index a slice at a time and the backend later, when no view shows it any more.
//!
//! Invariants:
//! - Whatever the index names is in a recent batch or in the backend. A batch leaves memory only after its flush.
//! - A revision is asked for in the recent batches first and in the backend after, so that one on its way is found.
//! - No lock is held while a file is read.
//! - What a reader sees depends on its view alone: not on flushes, compactions or deletions beside it.

pub mod chronicle;
pub mod history;
pub mod hub;
pub mod index;
pub mod loading;
pub mod read;
pub mod recent;
pub mod view;
pub mod watch;
pub mod write;

#[cfg(test)]
mod model;
#[cfg(test)]
mod testing;
