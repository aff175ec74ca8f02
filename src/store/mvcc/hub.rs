//! The hub: the newest batches, for whoever wants to know what happened.
//!
//! It is a ring that watchers read; nothing is sent to them and nothing is queued for them. A reader keeps a revision, asks
//! for what came after it, and reads again when it has room. Who is slow falls behind the ring and goes on from history, in
//! nobody's way. So memory is bounded by the ring alone, however many read and however slowly.
//!
//! Beside each change stands, once somebody wanted it, what its key was before. It is looked up once for all.
//!
//! Invariants:
//! - What a reader is given is everything after the revision it named, without a gap, or nothing at all.
//! - A batch is pushed after the state that shows it was published: who learns of a revision here can read it.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, PoisonError, RwLock, RwLockWriteGuard};

use bytes::Bytes;

use crate::store::mvcc::recent::{Batch, Change};

/// How much the ring holds.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Memory of the batches, and of what keys were before.
    pub bytes_max: usize,
    /// Batches.
    pub batches_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits { bytes_max: 64 << 20, batches_max: 16 << 10 }
    }
}

/// What a key was before a change; none when it was not, or when that was compacted away.
pub type Before = Option<Bytes>;

/// A batch, as it is shared by everybody who watches.
#[derive(Debug)]
pub struct Published {
    batch: Arc<Batch>,
    /// Of each change, as far as somebody asked.
    before: OnceLock<Box<[OnceLock<Before>]>>,
    before_bytes: AtomicUsize,
}

impl Published {
    /// A batch about which nobody has asked anything yet.
    pub fn new(batch: Arc<Batch>) -> Self {
        Published { batch, before: OnceLock::new(), before_bytes: AtomicUsize::new(0) }
    }

    /// Its changes.
    pub fn changes(&self) -> &[Change] {
        self.batch.changes()
    }

    /// Its last main revision.
    pub fn last(&self) -> i64 {
        self.batch.last().main
    }

    /// The first of its changes at `main` or later.
    pub fn at(&self, main: i64) -> usize {
        self.changes().partition_point(|change| change.rev.main < main)
    }

    /// What the key of a change was before; none when that is not known yet.
    pub fn before(&self, at: usize) -> Option<&Before> {
        self.before.get()?[at].get()
    }

    /// Notes what the key of a change was before. The bytes that it takes, when nobody had noted it.
    pub fn note(&self, at: usize, before: Before) -> usize {
        let slots = self.before.get_or_init(|| self.changes().iter().map(|_| OnceLock::new()).collect());
        let bytes = before.as_ref().map_or(0, Bytes::len) + size_of::<OnceLock<Before>>();
        match slots[at].set(before) {
            Ok(()) => {
                self.before_bytes.fetch_add(bytes, Ordering::Relaxed);
                bytes
            }
            Err(_) => 0,
        }
    }

    fn bytes(&self) -> usize {
        self.batch.bytes() + self.before_bytes.load(Ordering::Relaxed)
    }
}

/// The newest batches of a store. Shared by who applies and who watches.
#[derive(Debug)]
pub struct Hub {
    limits: Limits,
    ring: RwLock<Ring>,
}

#[derive(Debug)]
struct Ring {
    batches: VecDeque<Arc<Published>>,
    bytes: usize,
    /// Everything after it is in the ring.
    floor: i64,
    last: i64,
}

impl Hub {
    /// The hub of a store that stands at `revision`.
    pub fn new(revision: i64, limits: Limits) -> Self {
        let ring = Ring { batches: VecDeque::new(), bytes: 0, floor: revision, last: revision };
        Hub { limits, ring: RwLock::new(ring) }
    }

    /// The revision up to which it has told everything.
    pub fn revision(&self) -> i64 {
        self.ring.read().unwrap_or_else(PoisonError::into_inner).last
    }

    /// Adds what was applied last.
    pub fn push(&self, batch: Arc<Batch>) {
        let mut ring = self.write();
        assert!(ring.last < batch.first().main, "history only grows");
        ring.last = batch.last().main;
        ring.bytes += batch.bytes();
        ring.batches.push_back(Arc::new(Published::new(batch)));
        ring.trim(self.limits);
    }

    /// What was published after the revision `after`, the oldest batches first, of about `bytes_max`; the first of them may
    /// begin before. None when the ring has moved on, and history is what tells it.
    pub fn since(&self, after: i64, bytes_max: usize) -> Option<Vec<Arc<Published>>> {
        let ring = self.ring.read().unwrap_or_else(PoisonError::into_inner);
        if after < ring.floor {
            return None;
        }
        let at = ring.batches.partition_point(|batch| batch.last() <= after);
        let mut bytes = 0;
        let fits = |batch: &&Arc<Published>| {
            let room = bytes < bytes_max;
            bytes += batch.batch.bytes();
            room
        };
        Some(ring.batches.range(at..).take_while(fits).cloned().collect())
    }

    /// Notes what the keys of some changes were before.
    pub fn note(&self, published: &Published, notes: Vec<(usize, Before)>) {
        let mut ring = self.write();
        let bytes: usize = notes.into_iter().map(|(at, before)| published.note(at, before)).sum();
        // What has left the ring belongs to its readers.
        if published.last() > ring.floor {
            ring.bytes += bytes;
            ring.trim(self.limits);
        }
    }

    fn write(&self) -> RwLockWriteGuard<'_, Ring> {
        self.ring.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ring {
    fn trim(&mut self, limits: Limits) {
        while self.bytes > limits.bytes_max || self.batches.len() > limits.batches_max {
            let Some(oldest) = self.batches.pop_front() else { return };
            self.bytes -= oldest.bytes();
            self.floor = oldest.last();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::revision::Rev;

    fn batch(mains: std::ops::RangeInclusive<i64>) -> Arc<Batch> {
        let change = |main| Change { rev: Rev::of(main), tombstone: false, message: Bytes::from(vec![0; 100]) };
        Arc::new(Batch::new(mains.map(change).collect(), vec![]))
    }

    fn told(hub: &Hub, after: i64, bytes_max: usize) -> Option<Vec<i64>> {
        let batches = hub.since(after, bytes_max)?;
        let mains = batches.iter().flat_map(|batch| batch.changes()[batch.at(after + 1)..].iter());
        Some(mains.map(|change| change.rev.main).collect())
    }

    #[test]
    fn everything_after_a_revision_is_told_or_nothing_is() {
        let hub = Hub::new(5, Limits { bytes_max: usize::MAX, batches_max: 3 });
        assert_eq!((hub.revision(), told(&hub, 5, 1), told(&hub, 4, 1)), (5, Some(vec![]), None));
        hub.push(batch(6..=8));
        hub.push(batch(9..=9));
        hub.push(batch(10..=12));
        assert_eq!(told(&hub, 5, usize::MAX), Some((6..=12).collect()));
        assert_eq!(told(&hub, 7, usize::MAX), Some((8..=12).collect()));
        assert_eq!(told(&hub, 7, 1), Some(vec![8]));
        assert_eq!(told(&hub, 12, 1), Some(vec![]));
        // What the state shows already and the hub does not is nothing yet, and no gap.
        assert_eq!(told(&hub, 20, 1), Some(vec![]));
        hub.push(batch(13..=13));
        assert_eq!((told(&hub, 7, 1), told(&hub, 8, 1), hub.revision()), (None, Some(vec![9]), 13));
    }

    #[test]
    fn the_ring_is_bounded_with_what_keys_were_before() {
        let one = batch(2..=2).bytes();
        let hub = Hub::new(1, Limits { bytes_max: 4 * one, batches_max: 100 });
        (2..=5).for_each(|main| hub.push(batch(main..=main)));
        assert_eq!(told(&hub, 1, usize::MAX), Some(vec![2, 3, 4, 5]));
        let last = hub.since(4, 1).unwrap().remove(0);
        assert_eq!(last.before(0), None);
        hub.note(&last, vec![(0, Some(Bytes::from(vec![0; one])))]);
        assert_eq!(last.before(0).unwrap().as_ref().map(Bytes::len), Some(one));
        assert_eq!((told(&hub, 2, 1), told(&hub, 3, usize::MAX)), (None, Some(vec![4, 5])));
        // Only the first note counts, and none of a batch that has left.
        hub.note(&last, vec![(0, None)]);
        assert!(last.before(0).unwrap().is_some());
        (6..=9).for_each(|main| hub.push(batch(main..=main)));
        hub.note(&last, vec![(0, Some(Bytes::from(vec![0; 100 * one])))]);
        assert_eq!(told(&hub, 5, usize::MAX), Some(vec![6, 7, 8, 9]));
        // A batch larger than the ring is for history to tell.
        hub.push(batch(10..=19));
        assert_eq!((told(&hub, 18, 1), told(&hub, 19, 1), hub.revision()), (None, Some(vec![]), 19));
        hub.push(batch(20..=20));
        assert_eq!(told(&hub, 19, 1), Some(vec![20]));
    }
}
