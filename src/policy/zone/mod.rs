//! Time zones: what a clock on the wall reads at an instant, and which instants a reading stands for.
//!
//! An instant has exactly one reading. A reading has one instant, or two when clocks went back over it, or none when they
//! went forward over it. Schedules and retention both live on readings ("every day at two", "one a day"), so both ask here.
//!
//! Invariants:
//! - Zones have IANA names and come with the binary: two hosts read one policy alike, whatever is installed on them.
//! - The zone of a host is never asked for; a policy that names none means UTC.
//!
//! Deliberately unknown here: what a reading is used for.

mod period;

use std::fmt;

use chrono::{DateTime, NaiveDateTime, Offset, TimeDelta, TimeZone, Utc};
use chrono_tz::{TZ_VARIANTS, Tz};

use crate::base::clock::Time;
use crate::base::error::{Error, Kind, Result};

pub use crate::policy::zone::period::{Period, Unit};

/// A name this similar to a known one (Jaro-Winkler, 1 = equal) is taken for a slip.
const SIMILARITY_MIN: f64 = 0.8;
/// No change of clocks is greater; Samoa once left out a day.
const CHANGE_HOURS_MAX: i64 = 26;

/// A time zone.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Zone(Tz);

/// The instants that a reading of the clock stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Instants {
    /// One, nearly always.
    One(Time),
    /// Clocks went back: it is read twice.
    Two(Time, Time),
    /// Clocks went forward over it: it is never read. The instant of that change.
    None(Time),
}

impl Default for Zone {
    fn default() -> Self {
        Zone(Tz::UTC)
    }
}

impl fmt::Debug for Zone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.name())
    }
}

impl Zone {
    /// The zone of an IANA name, such as `Europe/Berlin`.
    pub fn named(name: &str) -> Result<Self> {
        if let Ok(zone) = name.parse::<Tz>() {
            return Ok(Zone(zone));
        }
        let nearest = TZ_VARIANTS.iter().map(|zone| (strsim::jaro_winkler(name, zone.name()), zone.name()));
        let nearest =
            nearest.max_by(|a, b| a.0.total_cmp(&b.0)).filter(|(similarity, _)| *similarity >= SIMILARITY_MIN);
        let hint = match nearest {
            Some((_, nearest)) => format!("did you mean {nearest:?}?"),
            None => "write an IANA name such as \"UTC\" or \"Europe/Berlin\"".to_owned(),
        };
        Err(Error::new(Kind::Usage, format!("there is no time zone {name:?}")).hint(hint))
    }

    /// Its IANA name.
    pub fn name(self) -> &'static str {
        self.0.name()
    }

    /// What the clock reads at an instant.
    pub fn reading(self, at: Time) -> NaiveDateTime {
        at.with_timezone(&self.0).naive_local()
    }

    /// How far the clock is ahead of UTC at an instant.
    pub fn offset(self, at: Time) -> TimeDelta {
        let offset = self.0.offset_from_utc_datetime(&at.naive_utc()).fix();
        TimeDelta::seconds(i64::from(offset.local_minus_utc()))
    }

    /// The instants at which the clock reads this.
    pub fn instants(self, reading: NaiveDateTime) -> Instants {
        let utc = |time: DateTime<Tz>| time.with_timezone(&Utc);
        match self.0.from_local_datetime(&reading) {
            chrono::LocalResult::Single(time) => Instants::One(utc(time)),
            chrono::LocalResult::Ambiguous(a, b) => Instants::Two(utc(a), utc(b)),
            chrono::LocalResult::None => {
                let slack = TimeDelta::hours(CHANGE_HOURS_MAX);
                let around = |reading: NaiveDateTime| reading.and_utc();
                Instants::None(self.change(around(reading - slack), around(reading + slack)))
            }
        }
    }

    /// The first instant at which the clock reads this or, when it never does, anything later.
    pub fn first(self, reading: NaiveDateTime) -> Time {
        match self.instants(reading) {
            Instants::One(time) | Instants::Two(time, _) | Instants::None(time) => time,
        }
    }

    /// The instant between two, whose offsets differ, at which the offset stops being that of the first.
    pub fn change(self, before: Time, after: Time) -> Time {
        let old = self.offset(before);
        let (mut before, mut after) = (before.timestamp(), after.timestamp());
        while after - before > 1 {
            let middle = before + (after - before) / 2;
            if self.offset(at_second(middle)) == old { before = middle } else { after = middle }
        }
        at_second(after)
    }
}

/// The instant that many seconds after 1970; years are bounded by what `chrono` holds.
fn at_second(second: i64) -> Time {
    DateTime::from_timestamp(second, 0).expect("it lies between two instants that exist")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::clock::{parse_format, parse_rfc3339};

    fn reading(text: &str) -> NaiveDateTime {
        parse_format(text, "%Y-%m-%dT%H:%M:%S").unwrap().naive_utc()
    }

    #[test]
    fn a_reading_stands_for_one_instant_or_two_or_none() {
        let berlin = Zone::named("Europe/Berlin").unwrap();
        let at = |text: &str| parse_rfc3339(text).unwrap();
        assert_eq!(berlin.instants(reading("2026-01-01T02:30:00")), Instants::One(at("2026-01-01T01:30:00Z")));
        let twice = Instants::Two(at("2026-10-25T00:30:00Z"), at("2026-10-25T01:30:00Z"));
        assert_eq!(berlin.instants(reading("2026-10-25T02:30:00")), twice);
        assert_eq!(berlin.instants(reading("2026-03-29T02:30:00")), Instants::None(at("2026-03-29T01:00:00Z")));
        assert_eq!(berlin.first(reading("2026-03-29T02:30:00")), at("2026-03-29T03:00:00+02:00"));
        assert_eq!(berlin.first(reading("2026-10-25T02:30:00")), at("2026-10-25T02:30:00+02:00"));
        assert_eq!(berlin.reading(at("2026-10-25T01:30:00Z")), reading("2026-10-25T02:30:00"));
        // A whole day that never was, and a change of half an hour.
        let apia = Zone::named("Pacific/Apia").unwrap();
        assert_eq!(apia.instants(reading("2011-12-30T12:00:00")), Instants::None(at("2011-12-30T10:00:00Z")));
        let howe = Zone::named("Australia/Lord_Howe").unwrap();
        assert!(matches!(howe.instants(reading("2026-04-05T01:45:00")), Instants::Two(_, _)));
        assert_eq!(howe.instants(reading("2026-10-04T02:15:00")), Instants::None(at("2026-10-03T15:30:00Z")));
    }

    #[test]
    fn a_name_that_is_none_is_refused_with_the_nearest() {
        assert_eq!(Zone::named("UTC").unwrap(), Zone::default());
        let error = Zone::named("Europe/Berln").unwrap_err();
        assert_eq!(error.hint_text(), Some("did you mean \"Europe/Berlin\"?"));
        assert!(Zone::named("x").unwrap_err().hint_text().unwrap().contains("IANA"));
        assert!(Zone::named("").is_err());
    }
}
