//! When each lease ends, as the leader sees it: a pure queue of deadlines, told what time it is.
//!
//! Time is that of a clock that only goes forward, counted in milliseconds from wherever the member began. A new leader
//! starts every lease again with what was left at its last checkpoint, or all of it: a lease may live longer than it was
//! granted, never shorter.

use std::collections::{BTreeMap, BTreeSet};

/// A time of the member's own clock, in milliseconds.
pub type Millis = u64;

/// Deadlines of leases.
#[derive(Debug, Default)]
pub struct Deadlines {
    by_lease: BTreeMap<i64, Millis>,
    by_time: BTreeSet<(Millis, i64)>,
}

impl Deadlines {
    /// A lease ends in so many seconds, unless it is set again.
    pub fn set(&mut self, id: i64, now: Millis, seconds: i64) {
        let seconds = u64::try_from(seconds).unwrap_or_default();
        let deadline = now.saturating_add(seconds.saturating_mul(1000));
        if let Some(before) = self.by_lease.insert(id, deadline) {
            self.by_time.remove(&(before, id));
        }
        self.by_time.insert((deadline, id));
    }

    /// A lease is no more.
    pub fn remove(&mut self, id: i64) {
        if let Some(deadline) = self.by_lease.remove(&id) {
            self.by_time.remove(&(deadline, id));
        }
    }

    /// Nobody leads here any more: no lease ends.
    pub fn clear(&mut self) {
        *self = Deadlines::default();
    }

    /// The leases that have ended, the longest ended first, at most so many. They stay until they are removed.
    pub fn ended(&self, now: Millis, most: usize) -> Vec<i64> {
        self.by_time.iter().take_while(|(deadline, _)| *deadline <= now).take(most).map(|(_, id)| *id).collect()
    }

    /// Milliseconds that are left of a lease; 0 when it has ended, none when it is not known.
    pub fn left(&self, id: i64, now: Millis) -> Option<Millis> {
        Some(self.by_lease.get(&id)?.saturating_sub(now))
    }

    /// Every lease, the one that ends first at the front.
    pub fn in_order(&self) -> impl Iterator<Item = (i64, Millis)> {
        self.by_time.iter().map(|(deadline, id)| (*id, *deadline))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leases_end_in_order_and_a_renewed_one_later() {
        let mut deadlines = Deadlines::default();
        for (id, seconds) in [(1, 10), (2, 5), (-3, 7), (4, i64::MAX), (5, -1)] {
            deadlines.set(id, 1000, seconds);
        }
        assert_eq!(deadlines.ended(1000, 9), [5]);
        deadlines.remove(5);
        assert_eq!(deadlines.ended(5999, 9), [0_i64; 0]);
        assert_eq!(deadlines.ended(6000, 9), [2]);
        deadlines.set(2, 6000, 60);
        assert_eq!(deadlines.ended(11_000, 9), [-3, 1]);
        assert_eq!(deadlines.ended(11_000, 1), [-3]);
        assert_eq!(
            (deadlines.left(1, 5000), deadlines.left(1, 20_000), deadlines.left(9, 0)),
            (Some(6000), Some(0), None)
        );
        deadlines.remove(-3);
        assert_eq!(deadlines.in_order().map(|(id, _)| id).collect::<Vec<_>>(), [1, 2, 4]);
        deadlines.clear();
        assert_eq!(deadlines.ended(Millis::MAX, 9), [0_i64; 0]);
    }
}
