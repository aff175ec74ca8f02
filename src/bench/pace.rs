//! Whose turn it is: closed loops and open ones, and when a run is over.
//!
//! In an open loop a thread of its own sleeps from one due moment to the next and hands out turns as permits. The
//! runtime's timers are a millisecond coarse, which is more than most answers take.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use tokio::sync::Semaphore;

use crate::base::clock::Stopwatch;
use crate::base::error::Result;
use crate::base::stop::{Stop, no_thread};
use crate::bench::End;

/// The shortest sleep between two turns of an open loop: what is due within it is handed out together.
const SLEEP_MIN: Duration = Duration::from_micros(50);
/// The longest: a signal to stop is heard after it.
const SLEEP_MAX: Duration = Duration::from_millis(50);
/// How long after the end of a run its backlog is still worked on.
pub(super) const BACKLOG_LIMIT: Duration = Duration::from_secs(10);

/// One turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Turn {
    /// The how many-th it is, from 0.
    pub(super) number: u64,
    /// When its time begins to count, since the run began.
    pub(super) at: Duration,
}

/// Hands out turns.
#[derive(Debug)]
pub(super) struct Pace {
    begin: Stopwatch,
    end: End,
    taken: AtomicU64,
    given: AtomicU64,
    open: Option<Open>,
    stop: Stop,
}

#[derive(Debug)]
struct Open {
    rate: u64,
    due: Semaphore,
}

impl Pace {
    /// Begins now: a run of `rate` turns a second, or of as many as are asked for, for so many clients.
    pub(super) fn begin(end: End, rate: Option<u64>, clients: usize, stop: &Stop) -> Result<Arc<Self>> {
        let open = rate.map(|rate| Open { rate, due: Semaphore::new(0) });
        let (taken, given) = (AtomicU64::new(0), AtomicU64::new(0));
        let pace = Arc::new(Pace { begin: Stopwatch::start(), end, taken, given, open, stop: stop.clone() });
        if rate.is_some() {
            let pacing = Arc::clone(&pace);
            let name = "pace";
            let thread = thread::Builder::new().name(name.to_owned()).spawn(move || pacing.hand_out(clients));
            thread.map_err(|error| no_thread(name, error))?;
        }
        Ok(pace)
    }

    /// The time since the run began.
    pub(super) fn elapsed(&self) -> Duration {
        self.begin.elapsed()
    }

    /// Waits for a turn; none when the run is over.
    pub(super) async fn turn(&self) -> Option<Turn> {
        if let Some(open) = &self.open {
            open.due.acquire().await.expect("it is never closed").forget();
        }
        if self.stop.is_stopped() {
            return None;
        }
        let number = self.taken.fetch_add(1, Ordering::Relaxed);
        let now = self.elapsed();
        let at = self.open.as_ref().map_or(now, |open| open.due_at(number));
        let is_over = match self.end {
            End::Total(total) => number >= total,
            End::After(time) => at >= time || now >= time + BACKLOG_LIMIT,
        };
        if is_over {
            return None;
        }
        self.given.fetch_add(1, Ordering::Relaxed);
        Some(Turn { number, at })
    }

    /// How many turns were due and never taken: only where the cluster is slower than the rate.
    pub(super) fn not_sent(&self) -> u64 {
        let (Some(open), End::After(time)) = (&self.open, self.end) else { return 0 };
        open.due_until(time).saturating_sub(self.given.load(Ordering::Relaxed))
    }

    /// Sleeps from one due moment to the next.
    fn hand_out(&self, clients: usize) {
        let open = self.open.as_ref().expect("only open loops are paced");
        let last = match self.end {
            End::Total(total) => total,
            End::After(time) => open.due_until(time),
        };
        let mut handed = 0;
        while handed < last && !self.stop.is_stopped() {
            let now = self.elapsed();
            let due = open.due_until(now).min(last);
            if due > handed {
                open.due.add_permits(usize::try_from(due - handed).unwrap_or(Semaphore::MAX_PERMITS));
                handed = due;
            }
            thread::sleep(open.due_at(handed).saturating_sub(now).clamp(SLEEP_MIN, SLEEP_MAX));
        }
        // Each client finds out that there is no turn left.
        open.due.add_permits(clients);
    }
}

impl Open {
    /// When turn `number` is due.
    fn due_at(&self, number: u64) -> Duration {
        let nanos = u128::from(number) * 1_000_000_000 / u128::from(self.rate);
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }

    /// How many are due before `time`.
    fn due_until(&self, time: Duration) -> u64 {
        u64::try_from((time.as_nanos() * u128::from(self.rate)).div_ceil(1_000_000_000)).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[tokio::test]
    async fn a_closed_loop_gives_as_many_turns_as_were_asked_for() {
        let pace = Pace::begin(End::Total(3), None, 1, &Stop::new()).unwrap();
        let mut numbers = vec![];
        while let Some(turn) = pace.turn().await {
            numbers.push(turn.number);
            assert!(turn.at <= pace.elapsed());
        }
        assert_eq!(numbers, [0, 1, 2]);
        let stop = Stop::new();
        let pace = Pace::begin(End::After(1000 * MS), None, 1, &stop).unwrap();
        assert!(pace.turn().await.is_some());
        stop.stop();
        assert_eq!(pace.turn().await, None);
    }

    #[tokio::test]
    async fn an_open_loop_counts_from_when_a_turn_was_due() {
        let pace = Pace::begin(End::Total(50), Some(1000), 1, &Stop::new()).unwrap();
        let mut late = vec![];
        while let Some(turn) = pace.turn().await {
            assert_eq!(turn.at, MS * u32::try_from(turn.number).unwrap());
            if turn.number == 0 {
                // The only client stalls: whoever came meanwhile has waited as well.
                tokio::time::sleep(60 * MS).await;
            }
            late.push(pace.elapsed() - turn.at);
        }
        assert_eq!(late.len(), 50);
        assert!(late.iter().zip(0..).all(|(late, n)| *late >= (60 - n) * MS), "{late:?}");
        assert_eq!(pace.not_sent(), 0);
    }

    #[test]
    fn what_is_due_is_exact() {
        let open = Open { rate: 3, due: Semaphore::new(0) };
        let second = Duration::from_secs(1);
        assert_eq!(
            [open.due_until(Duration::ZERO), open.due_until(second), open.due_until(1000 * second)],
            [0, 3, 3000]
        );
        assert_eq!(open.due_at(3000), 1000 * second);
        assert_eq!(open.due_until(open.due_at(7) + MS), 8);
    }
}
