//! A limit on bytes per second, shared by everything that moves in one direction.
//!
//! Each piece reserves its time on a schedule that is as long as the limit wants, and waits for it: first come, first
//! served, and what a pause left unused is good for a short burst only.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::base::clock::Stopwatch;

/// How much of a pause may be caught up.
const BURST: Duration = Duration::from_millis(100);

/// One direction's limit; none lets everything pass at once. Clones share it.
#[derive(Clone, Debug)]
pub(super) struct Throttle {
    started: Stopwatch,
    schedule: Option<Arc<Mutex<Schedule>>>,
}

impl Throttle {
    /// At most this many bytes per second.
    pub(super) fn new(bytes_per_second: Option<u64>) -> Self {
        let schedule = bytes_per_second.map(|rate| Schedule { rate: rate.max(1), free: Duration::ZERO });
        let schedule = schedule.map(|schedule| Arc::new(Mutex::new(schedule)));
        Throttle { started: Stopwatch::start(), schedule }
    }

    /// Waits until `bytes` may move.
    pub(super) async fn take(&self, bytes: usize) {
        let Some(schedule) = &self.schedule else { return };
        let wait = schedule.lock().unwrap_or_else(PoisonError::into_inner).reserve(self.started.elapsed(), bytes);
        tokio::time::sleep(wait).await;
    }
}

/// Until when the limit is used up.
#[derive(Debug)]
struct Schedule {
    rate: u64,
    free: Duration,
}

impl Schedule {
    /// Reserves room for `bytes` at `now`; how long to wait for it.
    fn reserve(&mut self, now: Duration, bytes: usize) -> Duration {
        let begin = self.free.max(now.saturating_sub(BURST));
        let nanos = (bytes as u128) * 1_000_000_000 / u128::from(self.rate);
        self.free = begin + Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        self.free.saturating_sub(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_holds_over_any_time_and_a_pause_is_hardly_caught_up() {
        let mut schedule = Schedule { rate: 1000, free: Duration::ZERO };
        let mut now = Duration::ZERO;
        for _ in 0..50 {
            now += schedule.reserve(now, 100);
        }
        assert_eq!(now, Duration::from_secs(5));
        now += Duration::from_mins(1);
        let before = now;
        for _ in 0..50 {
            now += schedule.reserve(now, 100);
        }
        assert_eq!(now - before, Duration::from_secs(5) - BURST);
    }

    #[tokio::test]
    async fn without_a_limit_nothing_waits_and_with_one_the_time_passes() {
        let watch = Stopwatch::start();
        Throttle::new(None).take(usize::MAX).await;
        assert!(watch.elapsed() < Duration::from_millis(500));
        let throttle = Throttle::new(Some(10_000));
        for _ in 0..4 {
            throttle.take(1000).await;
        }
        assert!(watch.elapsed() >= Duration::from_millis(300), "{:?}", watch.elapsed());
    }
}
