//! Revisions: points in the history of a cluster.
//!
//! etcd counts every change of its keys with one number, the main revision; the steps within one transaction are counted by
//! a second one. An empty store stands at main revision 1, and its first change makes 2.

use std::fmt;

/// A point in a cluster's history: `main` counts changes, `sub` the steps within one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Rev {
    /// The main revision, what etcd reports as `mod_revision`.
    pub main: i64,
    /// Steps within one transaction, from 0.
    pub sub: i64,
}

impl Rev {
    /// The first step of a main revision.
    pub const fn of(main: i64) -> Self {
        Rev { main, sub: 0 }
    }
}

impl fmt::Display for Rev {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.main, self.sub)
    }
}
