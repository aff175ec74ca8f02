//! Time: the only module that asks the system what time it is.
//!
//! Wall time is for people (names, reports, ages) and is never used to order history; revisions do that. `Stopwatch` is
//! monotonic and is for durations, rates and stall detection.

use chrono::{DateTime, NaiveDateTime, SecondsFormat, TimeDelta, Utc};
use std::time::{Duration, Instant, SystemTime};

use crate::base::error::{Error, Kind, Result};

/// RFC 3339 has four digits for a year.
const YEAR_10000_S: i64 = 253_402_300_800;

/// A moment of wall time, UTC.
pub type Time = DateTime<Utc>;

/// Where the present moment comes from.
#[derive(Clone, Copy, Debug, Default)]
pub enum Clock {
    /// The machine's clock.
    #[default]
    System,
    /// A clock that stands still, for tests and golden files.
    Fixed(Time),
    /// The machine's clock, so much off: for tests of hosts whose clock is wrong.
    Off(TimeDelta),
}

/// So many seconds.
pub fn seconds(seconds: i64) -> TimeDelta {
    TimeDelta::try_seconds(seconds).unwrap_or_default()
}

impl Clock {
    /// The present moment.
    #[expect(clippy::disallowed_methods, reason = "this is the owner of the clock")]
    pub fn now(&self) -> Time {
        match self {
            Clock::System => Utc::now(),
            Clock::Fixed(time) => *time,
            Clock::Off(by) => Utc::now() + *by,
        }
    }
}

/// RFC 3339 in UTC, to the second: `2026-05-15T02:00:00Z`.
pub fn rfc3339(time: Time) -> String {
    time.to_rfc3339_opts(SecondsFormat::Secs, true)
}

/// RFC 3339 in UTC, to the millisecond: `2026-05-15T02:00:00.123Z`.
pub fn rfc3339_ms(time: Time) -> String {
    time.to_rfc3339_opts(SecondsFormat::Millis, true)
}

/// Reads a time in UTC written in strftime's `format`; none when it is written otherwise.
pub fn parse_format(text: &str, format: &str) -> Option<Time> {
    NaiveDateTime::parse_from_str(text, format).ok().map(|time| time.and_utc())
}

/// The moment that a file system tells; none when it is not between 1970 and 9999, where times can be written down.
pub fn of_file(time: SystemTime) -> Option<Time> {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).ok()?;
    let time = DateTime::from_timestamp(i64::try_from(since.as_secs()).ok()?, since.subsec_nanos())?;
    (time.timestamp() < YEAR_10000_S).then_some(time)
}

/// The moment one millisecond later.
pub fn next_ms(time: Time) -> Time {
    time + std::time::Duration::from_millis(1)
}

/// Reads RFC 3339 with any offset.
pub fn parse_rfc3339(text: &str) -> Result<Time> {
    let time = DateTime::parse_from_rfc3339(text).map_err(|error| {
        Error::new(Kind::Usage, format!("{text:?} is not a time"))
            .source(error)
            .hint("write times as RFC 3339, for example 2026-05-15T02:00:00Z")
    })?;
    Ok(time.with_timezone(&Utc))
}

/// Measures a duration; it does not jump when the machine's clock is set.
#[derive(Clone, Copy, Debug)]
pub struct Stopwatch(Instant);

impl Stopwatch {
    /// A stopwatch that starts now.
    #[expect(clippy::disallowed_methods, reason = "this is the owner of the clock")]
    pub fn start() -> Self {
        Stopwatch(Instant::now())
    }

    /// The time since it was started.
    pub fn elapsed(&self) -> Duration {
        self.0.elapsed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_round_trip_through_rfc3339() {
        let time = parse_rfc3339("2026-05-15T04:00:00+02:00").unwrap();
        assert_eq!(rfc3339(time), "2026-05-15T02:00:00Z");
        assert_eq!(Clock::Fixed(time).now(), time);
        assert_eq!(parse_rfc3339("yesterday").unwrap_err().kind(), Kind::Usage);
    }

    #[test]
    fn what_a_file_system_tells_is_a_time_that_can_be_written_and_read_or_none() {
        let after = |seconds: u64| SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds)).unwrap();
        let last = of_file(after(253_402_300_799)).unwrap();
        assert_eq!(parse_rfc3339(&rfc3339_ms(last)).unwrap(), last);
        assert_eq!(of_file(SystemTime::UNIX_EPOCH).map(rfc3339).as_deref(), Some("1970-01-01T00:00:00Z"));
        for seconds in [253_402_300_800, 999_999_999_999, 99_999_999_999_999] {
            assert_eq!(of_file(after(seconds)), None);
        }
        assert_eq!(of_file(SystemTime::UNIX_EPOCH - Duration::from_secs(1)), None);
    }
}
