//! How fast a whole state may leave while others write: as fast as they do not feel it.
//!
//! What a stream takes from writers (processor, disk, whatever its reader does on the same machine) cannot be seen from here,
//! but what they feel of it can: how long commands take. So the rate follows that, as LEDBAT's (RFC 6817) follows the delay
//! of packets. The shortest mean time that was seen stands for a member that is left alone; as long as commands take little
//! more, the rate grows, else it shrinks. Where there are processors to spare it grows until it is no limit at all, and
//! without writers there is none.
//!
//! Pure: told what was sent and how long that took, it says how long to wait.

use std::time::Duration;

/// Sent at once: shorter bursts wake the reader more often, which costs writers more than the longer pauses spare them.
pub(super) const BURST_BYTES: u64 = 512 << 10;
/// Commands are looked at for so long before the rate changes.
const WINDOW: Duration = Duration::from_millis(20);
/// Without a command for so long there are no writers.
const ALONE_AFTER: Duration = Duration::from_millis(200);
/// Bytes in a second: at least, which is where a stream begins, and so many that they are no limit.
const LEAST_RATE: f64 = 4e6;
const MOST_RATE: f64 = 8e9;
/// Of a rate, after a window in which commands took longer than they should, and after one in which they did not.
const SLOWER: f64 = 0.75;
const FASTER: f64 = 1.1;
/// Commands may take so much of the shortest mean time, and a little that is nothing but noise.
const LONGER_MAX: f64 = 1.25;
const NOISE_US: f64 = 100.0;
/// The shortest mean time is forgotten by so much with each window: the load may have changed.
const FORGOTTEN: f64 = 1.000_05;

/// Commands that were answered since the start: how many, and how long they took together. And how many wait now.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Answered {
    pub(super) count: u64,
    pub(super) total_us: u64,
    pub(super) waiting: usize,
}

/// The rate of one stream.
#[derive(Debug)]
pub(super) struct Pace {
    rate: f64,
    /// The shortest mean time of a window, in microseconds.
    shortest_us: f64,
    /// What was answered when this window began, and how long ago that was.
    before: Answered,
    window: Duration,
}

impl Pace {
    pub(super) fn new(answered: Answered) -> Self {
        // Until a command is seen there are no writers.
        Pace { rate: LEAST_RATE, shortest_us: f64::INFINITY, before: answered, window: ALONE_AFTER }
    }

    /// So many bytes were sent, and so much time passed since the call before, its pause included. How long to wait.
    #[expect(clippy::cast_precision_loss, reason = "rates and means are estimates")]
    pub(super) fn sent(&mut self, bytes: u64, passed: Duration, worked: Duration, answered: Answered) -> Duration {
        self.window += passed;
        let count = answered.count - self.before.count;
        if count > 0 && self.window >= WINDOW {
            let mean_us = ((answered.total_us - self.before.total_us) as f64 / count as f64).max(1.0);
            self.shortest_us = (self.shortest_us * FORGOTTEN).min(mean_us);
            let is_felt = mean_us > self.shortest_us * LONGER_MAX + NOISE_US;
            self.step(if is_felt { SLOWER } else { FASTER });
            self.before = answered;
        }
        if count == 0 && self.window >= ALONE_AFTER {
            if answered.waiting == 0 {
                return Duration::ZERO;
            }
            // Writers are there, and wait for something that does not come.
            self.step(SLOWER);
        }
        Duration::from_secs_f64(bytes as f64 / self.rate).saturating_sub(worked)
    }

    fn step(&mut self, factor: f64) {
        self.rate = (self.rate * factor).clamp(LEAST_RATE, MOST_RATE);
        self.window = Duration::ZERO;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes in a second that a stream comes to, when a burst takes 1 ms and commands take what `took_us` says of the rate.
    fn rate(took_us: impl Fn(f64) -> u64, commands_per_s: u64) -> f64 {
        let mut answered = Answered::default();
        let mut pace = Pace::new(answered);
        let (mut clock, mut pause) = (Duration::ZERO, Duration::ZERO);
        let (mut half, mut done) = (Duration::ZERO, 0.0);
        for n in 0..20_000 {
            let worked = Duration::from_millis(1);
            let passed = worked + pause;
            clock += passed;
            let now = u64::try_from(clock.as_micros()).unwrap() * commands_per_s / 1_000_000;
            let new = now - answered.count;
            let burst_rate = BURST_BYTES as f64 / passed.as_secs_f64();
            answered = Answered { count: now, total_us: answered.total_us + new * took_us(burst_rate), waiting: 0 };
            pause = pace.sent(BURST_BYTES, passed, worked, answered);
            if n == 10_000 {
                half = clock;
            }
            done += if n >= 10_000 { BURST_BYTES as f64 } else { 0.0 };
        }
        done / (clock - half).as_secs_f64()
    }

    /// What a stream without any limit comes to here.
    const FREE: f64 = BURST_BYTES as f64 * 1000.0;

    #[test]
    fn without_writers_and_with_writers_who_feel_nothing_there_is_no_limit() {
        assert!(rate(|_| 400, 0) > 0.98 * FREE);
        assert!(rate(|_| 400, 5_000) > 0.98 * FREE);
        assert!(rate(|_| 400, 20) > 0.98 * FREE);
    }

    /// A small state of a member that nobody writes to leaves at once; the first command that is seen ends that.
    #[test]
    fn without_writers_the_first_burst_waits_for_nothing() {
        let (mut pace, burst) = (Pace::new(Answered::default()), Duration::from_millis(1));
        assert_eq!(pace.sent(BURST_BYTES, burst, burst, Answered::default()), Duration::ZERO);
        let seen = Answered { count: 1, total_us: 400, waiting: 0 };
        assert!(pace.sent(BURST_BYTES, burst, burst, seen) > Duration::from_millis(50));
    }

    /// A disk that answers nobody for a second is no reason to hurry.
    #[test]
    fn writers_who_wait_are_not_taken_for_none() {
        let (mut pace, burst) = (Pace::new(Answered::default()), Duration::from_millis(1));
        pace.rate = 1e9;
        let mut pause = |waiting| {
            let answered = Answered { waiting, ..Answered::default() };
            (0..1000).map(|_| pace.sent(BURST_BYTES, burst, Duration::ZERO, answered)).last()
        };
        assert!(pause(3).unwrap() > Duration::from_micros(200));
        assert_eq!(pause(0), Some(Duration::ZERO));
    }

    #[test]
    fn writers_who_feel_it_are_left_alone_but_never_wholly() {
        // From 50 MB/s on, they wait twice as long.
        let some = rate(|rate| if rate > 50e6 { 900 } else { 400 }, 5_000);
        assert!(some > 20e6 && some < 60e6, "{some}");
        let least = rate(|rate| if rate > 5e6 { 4000 } else { 400 }, 5_000);
        assert!((0.95 * LEAST_RATE..1.5 * LEAST_RATE).contains(&least), "{least}");
    }
}
