//! What takes longer than it should, told without flooding the log.
//!
//! When a disk is slow everything is slow, and a line for each request would be one more thing for the disk to do: of each
//! second the first few are told, and the next one that is told says how many were not.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::base::clock::Stopwatch;

/// Lines in one window.
const LINES_MAX: u32 = 10;
/// How long a window is.
const WINDOW: Duration = Duration::from_secs(1);

/// A limit for how long something may take.
#[derive(Debug)]
pub struct Slow {
    limit: Duration,
    window: Mutex<Window>,
}

#[derive(Debug)]
struct Window {
    began: Stopwatch,
    told: u32,
    untold: u64,
}

impl Slow {
    /// What takes longer than this is slow.
    pub fn over(limit: Duration) -> Self {
        Slow { limit, window: Mutex::new(Window { began: Stopwatch::start(), told: 0, untold: 0 }) }
    }

    /// The limit.
    pub fn limit(&self) -> Duration {
        self.limit
    }

    /// Whether something that took so long was slow.
    pub fn is(&self, took: Duration) -> bool {
        took > self.limit
    }

    /// Whether there is a line for one more of these; then how many there were since the last line that had none.
    pub fn line(&self) -> Option<u64> {
        self.line_within(WINDOW)
    }

    fn line_within(&self, length: Duration) -> Option<u64> {
        let mut window = self.window.lock().unwrap_or_else(PoisonError::into_inner);
        if window.began.elapsed() >= length {
            (window.began, window.told) = (Stopwatch::start(), 0);
        }
        if window.told == LINES_MAX {
            window.untold += 1;
            return None;
        }
        window.told += 1;
        Some(std::mem::take(&mut window.untold))
    }
}

/// A time as Go prints it, for whoever reads etcd's logs by program: `1m0.5s`, `12.5ms`, `7µs`, `3ns`.
pub fn go_time(time: Duration) -> String {
    let ns = time.as_nanos();
    let in_unit = |ns: u128, unit: u128| {
        let (whole, rest) = (ns / unit, ns % unit);
        let digits = format!("{rest:0width$}", width = unit.ilog10() as usize);
        let digits = digits.trim_end_matches('0');
        if digits.is_empty() { whole.to_string() } else { format!("{whole}.{digits}") }
    };
    const SECOND: u128 = 1_000_000_000;
    match ns {
        0 => "0s".to_owned(),
        1..1_000 => format!("{ns}ns"),
        1_000..1_000_000 => format!("{}µs", in_unit(ns, 1_000)),
        1_000_000..SECOND => format!("{}ms", in_unit(ns, 1_000_000)),
        _ => {
            let (minutes, rest) = (ns / (60 * SECOND), in_unit(ns % (60 * SECOND), SECOND));
            match (minutes / 60, minutes % 60) {
                (0, 0) => format!("{rest}s"),
                (0, minutes) => format!("{minutes}m{rest}s"),
                (hours, minutes) => format!("{hours}h{minutes}m{rest}s"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_storm_is_told_in_a_few_lines_and_none_is_lost_from_the_count() {
        let slow = Slow::over(Duration::from_millis(100));
        assert!(!slow.is(slow.limit()) && slow.is(Duration::from_millis(101)));
        let long = Duration::from_hours(1);
        let lines: Vec<_> = (0..1000).map(|_| slow.line_within(long)).collect();
        assert_eq!(lines[..10], [Some(0); 10]);
        assert!(lines[10..].iter().all(Option::is_none));
        assert_eq!([slow.line_within(Duration::ZERO), slow.line_within(long)], [Some(990), Some(0)]);
    }

    #[test]
    fn times_are_those_of_go() {
        // time.Duration.String of Go 1.16, for these numbers of nanoseconds.
        for (ns, text) in [
            (0, "0s"),
            (1, "1ns"),
            (1_100, "1.1µs"),
            (2_200_000, "2.2ms"),
            (100_000_000, "100ms"),
            (123_456_789, "123.456789ms"),
            (1_000_000_000, "1s"),
            (3_300_000_000, "3.3s"),
            (245_000_000_000, "4m5s"),
            (245_001_000_000, "4m5.001s"),
            (18_367_001_000_000, "5h6m7.001s"),
            (3_600_000_000_000, "1h0m0s"),
            (480_000_000_001, "8m0.000000001s"),
        ] {
            assert_eq!(go_time(Duration::from_nanos(ns)), text);
        }
    }
}
