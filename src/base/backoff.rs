//! How long to wait before trying again: exponential with full jitter, within a total time.
//!
//! Full jitter (any wait from nothing to the step, not the step plus a little) spreads clients that failed together.
//! Pure: the caller measures time and sleeps, so that tests run a day of retries at once.

use std::time::Duration;

use crate::base::rng::Seeded;

/// The waits of one operation. Steps double from `first` to `longest`.
#[derive(Clone, Debug)]
pub struct Backoff {
    longest: Duration,
    total: Duration,
    step: Duration,
    rng: Seeded,
}

impl Backoff {
    /// Waits below `first` at first, never above `longest`, none once `total` has passed since the operation began.
    pub fn new(first: Duration, longest: Duration, total: Duration, rng: Seeded) -> Self {
        assert!(first > Duration::ZERO && first <= longest, "steps grow from something to something larger");
        Backoff { longest, total, step: first, rng }
    }

    /// The next wait, when `elapsed` has passed since the operation began; `None` when there is no time left to try again.
    pub fn wait(&mut self, elapsed: Duration) -> Option<Duration> {
        let left = self.total.checked_sub(elapsed).filter(|left| !left.is_zero())?;
        let nanos = u64::try_from(self.step.as_nanos()).unwrap_or(u64::MAX);
        let wait = Duration::from_nanos(self.rng.below(nanos));
        self.step = self.longest.min(self.step.saturating_mul(2));
        Some(wait.min(left))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: Duration = Duration::from_millis(100);
    const LONGEST: Duration = Duration::from_secs(5);
    const TOTAL: Duration = Duration::from_secs(60);

    #[test]
    fn steps_double_to_the_longest_and_waits_are_spread_below_them() {
        // Goal: the bound of the n-th wait is right. Method: the largest of many seeds comes close to it, none passes it.
        let mut largest = [Duration::ZERO; 9];
        for seed in 0..500 {
            let mut backoff = Backoff::new(FIRST, LONGEST, TOTAL, Seeded::new(seed));
            for largest in &mut largest {
                *largest = backoff.wait(Duration::ZERO).unwrap().max(*largest);
            }
        }
        for (n, largest) in largest.into_iter().enumerate() {
            let step = LONGEST.min(FIRST * 2_u32.pow(u32::try_from(n).unwrap()));
            assert!(largest < step && largest > step.mul_f64(0.95), "wait {n}: {largest:?} of {step:?}");
        }
    }

    #[test]
    fn waiting_ends_with_the_total_time() {
        let mut backoff = Backoff::new(LONGEST, LONGEST, TOTAL, Seeded::new(1));
        let mut elapsed = Duration::ZERO;
        while let Some(wait) = backoff.wait(elapsed) {
            elapsed += wait + Duration::from_millis(1);
        }
        assert!(elapsed >= TOTAL && elapsed <= TOTAL + Duration::from_millis(1), "{elapsed:?}");
        assert_eq!(backoff.wait(TOTAL), None);
    }
}
