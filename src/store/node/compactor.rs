//! When history is compacted without being asked: etcd's two modes, as a value that is told what time it is.
//!
//! `periodic` keeps so much time: the revision is noted ten times per period (an hour, or the retention if that is shorter),
//! and once a period the newest revision that is older than the retention is compacted to. `revision` keeps so many
//! revisions, looked at every five minutes.

use std::collections::VecDeque;
use std::time::Duration;

use crate::base::clock::Stopwatch;

use crate::store::lease::clock::Millis;
use crate::store::options::AutoCompaction;

const HOUR: Millis = 3_600_000;
const REVISION_INTERVAL: Millis = 300_000;
const SAMPLES_PER_PERIOD: Millis = 10;

/// Says when to compact, and to what.
#[derive(Debug)]
pub(super) struct Compactor {
    mode: AutoCompaction,
    next: Millis,
    /// Revisions and when they were the newest, oldest first.
    samples: VecDeque<(Millis, i64)>,
    compacted: Millis,
}

impl Compactor {
    pub(super) fn new(mode: AutoCompaction, now: Millis) -> Self {
        let mut compactor = Compactor { mode, next: now, samples: VecDeque::new(), compacted: now };
        if let AutoCompaction::Revisions(_) = mode {
            compactor.next = now + REVISION_INTERVAL;
        }
        compactor
    }

    /// The store is at `revision` now. What to compact to, if it is time.
    pub(super) fn tick(&mut self, now: Millis, revision: i64) -> Option<i64> {
        if now < self.next {
            return None;
        }
        match self.mode {
            AutoCompaction::Off => {
                self.next = Millis::MAX;
                None
            }
            AutoCompaction::Revisions(keep) => {
                self.next = now + REVISION_INTERVAL;
                Some(revision - keep).filter(|to| *to > 0)
            }
            AutoCompaction::Periodic(retention) => {
                let retention = Millis::try_from(retention.as_millis()).unwrap_or(Millis::MAX);
                let period = retention.min(HOUR);
                self.next = now + (period / SAMPLES_PER_PERIOD).max(1);
                self.samples.push_back((now, revision));
                if now.saturating_sub(self.compacted) < period {
                    return None;
                }
                let old = now.checked_sub(retention)?;
                let aged = self.samples.partition_point(|(at, _)| *at <= old);
                let (_, to) = self.samples.drain(..aged).next_back()?;
                self.compacted = now;
                Some(to)
            }
        }
    }
}

/// What compactions made superfluous, on its way out of index and file. One that comes meanwhile is a part of it.
#[derive(Debug, Default)]
pub(super) struct Removal {
    began: Option<Stopwatch>,
    /// The last cut that has some of it, once the index has nothing of it any more.
    last_cut: Option<u64>,
}

impl Removal {
    /// There is something to remove.
    pub(super) fn begin(&mut self) {
        self.began.get_or_insert_with(Stopwatch::start);
        self.last_cut = None;
    }

    /// The index has nothing of it any more; what is left is in cuts up to this one.
    pub(super) fn end(&mut self, last_cut: u64) {
        self.last_cut = Some(last_cut);
    }

    /// Cuts up to this one are written. How long it took, if that was the last of it.
    pub(super) fn written(&mut self, cut: u64) -> Option<Duration> {
        self.last_cut.take_if(|last| *last <= cut)?;
        Some(self.began.take()?.elapsed())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_removal_is_over_when_its_last_cut_is_written_and_later_compactions_are_a_part_of_it() {
        let mut removal = Removal::default();
        assert_eq!(removal.written(9), None);
        removal.begin();
        assert_eq!(removal.written(10), None);
        removal.end(12);
        assert_eq!(removal.written(11), None);
        removal.begin();
        assert_eq!(removal.written(12), None);
        removal.end(14);
        assert!(removal.written(15).is_some());
        assert_eq!(removal.written(16), None);
    }

    /// One revision a second, looked at each second: when, and to what.
    fn run(mode: AutoCompaction, seconds: u64) -> Vec<(u64, i64)> {
        let mut compactor = Compactor::new(mode, 0);
        let tick = |at: u64| Some((at, compactor.tick(at * 1000, i64::try_from(at).unwrap())?));
        (0..seconds).filter_map(tick).collect()
    }

    #[test]
    fn time_is_kept() {
        let hours = |n: u64| AutoCompaction::Periodic(Duration::from_secs(n * 3600));
        assert_eq!(
            run(AutoCompaction::Periodic(Duration::from_secs(600)), 2000),
            [(600, 0), (1200, 600), (1800, 1200)]
        );
        assert_eq!(run(hours(1), 11_000), [(3600, 0), (7200, 3600), (10_800, 7200)]);
        // After the first retention, once an hour.
        assert_eq!(run(hours(3), 19_000), [(10_800, 0), (14_400, 3600), (18_000, 7200)]);
        assert_eq!(run(AutoCompaction::Off, 100_000), []);
    }

    #[test]
    fn revisions_are_kept() {
        assert_eq!(run(AutoCompaction::Revisions(500), 1000), [(600, 100), (900, 400)]);
    }
}
