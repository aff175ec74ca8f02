//! Disaster workflows, all of one shape: gather **facts**, make a pure **plan**, **execute** it, **report** what was proved.
//!
//! The plan is printed before anything happens and can be all that happens. It names what will be lost, what may go
//! wrong, the new identities and the commands that follow. What is executed is what was planned; afterwards the result is
//! read back and held against the manifest, and a failed check is a failed recovery.
//!
//! Invariants:
//! - Nothing that exists is overwritten or deleted.
//! - A target appears whole and proved, or not at all.
//! - Planning reads no disk, no clock and no network: the same facts give the same plan.

pub mod birth;
pub mod drill;
pub mod facts;
pub mod member;
pub mod plan;
pub mod report;
pub mod restore;
