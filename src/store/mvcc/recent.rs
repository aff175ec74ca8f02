//! Recent batches: the newest revisions with their messages, in memory until a flush has made them durable in the backend.
//!
//! A batch is what was applied at once. It never changes, and one copy of it serves replies, watchers, readers and the
//! flush. The log is what makes it durable meanwhile.

use std::collections::VecDeque;
use std::sync::{Arc, PoisonError, RwLock};

use bytes::Bytes;

use crate::base::revision::Rev;
use crate::store::mvcc::history::Version;

/// A key's value, or its end, at a revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Where in history.
    pub rev: Rev,
    /// Whether the key ends here.
    pub tombstone: bool,
    /// `mvccpb.KeyValue`, byte for byte as etcd stores it; a tombstone's holds the key only.
    pub message: Bytes,
}

/// Changes that were applied together, in ascending order; at least one.
#[derive(Debug)]
pub struct Batch {
    changes: Vec<Change>,
    superseded: Vec<Version>,
    bytes: usize,
}

impl Batch {
    /// Changes, and the versions that keys were alive with before them.
    ///
    /// # Panics
    ///
    /// When there is no change, or they are not in order.
    pub fn new(changes: Vec<Change>, superseded: Vec<Version>) -> Self {
        assert!(!changes.is_empty(), "a batch has a change");
        assert!(changes.is_sorted_by(|a, b| a.rev < b.rev), "a batch is in order");
        let bytes: usize = changes.iter().map(|change| size_of::<Change>() + change.message.len()).sum();
        let bytes = bytes + superseded.len() * size_of::<Version>();
        Batch { changes, superseded, bytes }
    }

    /// The changes.
    pub fn changes(&self) -> &[Change] {
        &self.changes
    }

    /// The versions that are not the newest of their keys any more because of it, in no order; some of them may be its own.
    pub fn superseded(&self) -> &[Version] {
        &self.superseded
    }

    /// Its first revision.
    pub fn first(&self) -> Rev {
        self.changes[0].rev
    }

    /// Its last revision.
    pub fn last(&self) -> Rev {
        self.changes[self.changes.len() - 1].rev
    }

    /// Memory it takes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    fn find(&self, rev: Rev) -> Option<&Change> {
        find(&self.changes, rev)
    }
}

/// The change at a revision, among some in order.
pub(super) fn find(changes: &[Change], rev: Rev) -> Option<&Change> {
    changes.binary_search_by_key(&rev, |change| change.rev).ok().map(|at| &changes[at])
}

/// The batches that are not flushed yet, oldest first. Shared by who applies, who flushes and who reads.
#[derive(Debug, Default)]
pub struct Recent {
    held: RwLock<Held>,
}

#[derive(Debug, Default)]
struct Held {
    batches: VecDeque<Arc<Batch>>,
    bytes: usize,
}

impl Recent {
    /// Adds the newest batch.
    pub fn push(&self, batch: Arc<Batch>) {
        let mut held = self.held.write().unwrap_or_else(PoisonError::into_inner);
        assert!(held.batches.back().is_none_or(|last| last.last() < batch.first()), "history only grows");
        held.bytes += batch.bytes();
        held.batches.push_back(batch);
    }

    /// What was changed at a revision, if that is here.
    pub fn find(&self, rev: Rev) -> Option<Change> {
        let batch = {
            let held = self.held.read().unwrap_or_else(PoisonError::into_inner);
            let at = held.batches.partition_point(|batch| batch.last() < rev);
            Arc::clone(held.batches.get(at)?)
        };
        batch.find(rev).cloned()
    }

    /// The batches that hold revisions from `from` on.
    pub fn since(&self, from: Rev) -> Vec<Arc<Batch>> {
        let held = self.held.read().unwrap_or_else(PoisonError::into_inner);
        let at = held.batches.partition_point(|batch| batch.last() < from);
        held.batches.range(at..).cloned().collect()
    }

    /// The oldest batches, of about so many bytes: what the next flush writes.
    pub fn oldest(&self, bytes_max: usize) -> Vec<Arc<Batch>> {
        let held = self.held.read().unwrap_or_else(PoisonError::into_inner);
        let mut bytes = 0;
        let fits = |batch: &&Arc<Batch>| {
            let first = bytes == 0;
            bytes += batch.bytes();
            first || bytes <= bytes_max
        };
        held.batches.iter().take_while(fits).cloned().collect()
    }

    /// Forgets what is durable: everything up to `last`.
    pub fn flushed(&self, last: Rev) {
        let mut held = self.held.write().unwrap_or_else(PoisonError::into_inner);
        while held.batches.front().is_some_and(|batch| batch.last() <= last) {
            let batch = held.batches.pop_front().expect("looked at just now");
            held.bytes -= batch.bytes();
        }
    }

    /// Memory that unflushed batches take.
    pub fn bytes(&self) -> usize {
        self.held.read().unwrap_or_else(PoisonError::into_inner).bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(mains: std::ops::Range<i64>) -> Arc<Batch> {
        let change = |main| Change { rev: Rev::of(main), tombstone: false, message: Bytes::from(vec![0; 100]) };
        Arc::new(Batch::new(mains.map(change).collect(), vec![]))
    }

    #[test]
    fn what_is_not_flushed_is_found_and_what_is_flushed_is_not() {
        let recent = Recent::default();
        for mains in [2..5, 5..6, 8..12] {
            recent.push(batch(mains));
        }
        let found = |recent: &Recent| (0..14).filter(|main| recent.find(Rev::of(*main)).is_some()).collect::<Vec<_>>();
        assert_eq!(found(&recent), [2, 3, 4, 5, 8, 9, 10, 11]);
        assert_eq!(recent.since(Rev::of(6)).len(), 1);
        assert_eq!(recent.since(Rev::of(5)).len(), 2);
        let one = recent.bytes() / 8;
        assert_eq!(recent.oldest(0).len(), 1);
        assert_eq!(recent.oldest(4 * one).len(), 2);
        // Half a batch is not durable.
        recent.flushed(Rev::of(4));
        assert_eq!(found(&recent), [5, 8, 9, 10, 11]);
        recent.flushed(Rev::of(10));
        assert_eq!((found(&recent), recent.bytes()), (vec![8, 9, 10, 11], 4 * one));
        recent.flushed(Rev::of(11));
        assert_eq!((recent.bytes(), recent.oldest(usize::MAX).len()), (0, 0));
    }
}
