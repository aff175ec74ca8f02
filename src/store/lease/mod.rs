//! Leases: keys that end together when nobody keeps them alive.
//!
//! Two halves. The **lessor** is part of the replicated state: which leases were granted, for how long, and which keys they
//! own; it changes by commands alone and reads no clock. The **clock** (`clock.rs`) is the leader's own: when each lease
//! ends unless somebody renews it. What has ended there is revoked by a command like any other.
//!
//! Invariants:
//! - A key is owned by one lease at most, and by one that exists.
//! - The lessor is the same on every member after the same commands.

pub mod clock;
pub mod lessor;
