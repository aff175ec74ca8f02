//! Periods of the calendar: the hour, day, ISO week, month or year an instant lies in.
//!
//! Each instant lies in exactly one period of a unit, also when clocks change: an hour that the clock shows twice is two
//! hours, told apart by their offsets; a day of 23 or 25 hours is one day. A week belongs to the year of its Thursday, as
//! ISO 8601 counts: 31 December and 2 January can lie in one week.

use std::fmt;

use chrono::{Datelike, NaiveDate, TimeDelta, Timelike};

use crate::base::clock::Time;
use crate::policy::zone::Zone;

/// How long a period is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Unit {
    /// An hour of the clock.
    Hour,
    /// A day, from midnight.
    Day,
    /// A week, from Monday.
    Week,
    /// A month.
    Month,
    /// A year.
    Year,
}

/// A period. Those of one unit and zone are ordered by time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Period {
    unit: Unit,
    /// Its place among its kind: see `Zone::period`.
    number: i64,
    zone_offset_s: i64,
}

impl Zone {
    /// The period of `unit` that `at` lies in.
    pub fn period(self, unit: Unit, at: Time) -> Period {
        let date = self.reading(at).date();
        let days = i64::from(date.num_days_from_ce());
        let mut zone_offset_s = 0;
        let number = match unit {
            // The instant at which the clock, with this offset, read the full hour.
            Unit::Hour => {
                let offset = self.offset(at).num_seconds();
                // UTC needs no offset in its name, a zone does.
                zone_offset_s = if self == Zone::default() { 0 } else { offset };
                (at.timestamp() + offset).div_euclid(3600) * 3600 - offset
            }
            Unit::Day => days,
            Unit::Week => days - i64::from(date.weekday().num_days_from_monday()),
            Unit::Month => i64::from(date.year()) * 12 + i64::from(date.month0()),
            Unit::Year => i64::from(date.year()),
        };
        Period { unit, number, zone_offset_s }
    }

    /// The first instant of the period that follows; for an hour before a change of clocks, not later than that.
    pub fn after(self, period: Period) -> Time {
        let first =
            |date: Option<NaiveDate>| self.first(date.unwrap_or(NaiveDate::MAX).and_time(chrono::NaiveTime::MIN));
        let day = |number: i64| i32::try_from(number).ok().and_then(NaiveDate::from_num_days_from_ce_opt);
        let month = |number: i64| {
            let year = i32::try_from(number.div_euclid(12)).ok()?;
            NaiveDate::from_ymd_opt(year, u32::try_from(number.rem_euclid(12)).ok()? + 1, 1)
        };
        match period.unit {
            Unit::Hour => crate::policy::zone::at_second(period.number + 3600),
            Unit::Day => first(day(period.number + 1)),
            Unit::Week => first(day(period.number + 7)),
            Unit::Month => first(month(period.number + 1)),
            Unit::Year => first(month((period.number + 1) * 12)),
        }
    }
}

impl fmt::Display for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let date = |days: i64| {
            let days = i32::try_from(days).ok().and_then(NaiveDate::from_num_days_from_ce_opt);
            days.unwrap_or(NaiveDate::MAX)
        };
        match self.unit {
            Unit::Hour => {
                let local =
                    crate::policy::zone::at_second(self.number).naive_utc() + TimeDelta::seconds(self.zone_offset_s);
                write!(f, "{} {:02}:00", local.date(), local.hour())?;
                if self.zone_offset_s != 0 {
                    let sign = if self.zone_offset_s < 0 { '-' } else { '+' };
                    let minutes = self.zone_offset_s.abs() / 60;
                    write!(f, " {sign}{:02}:{:02}", minutes / 60, minutes % 60)?;
                }
                Ok(())
            }
            Unit::Day => write!(f, "{}", date(self.number)),
            Unit::Week => {
                let week = date(self.number).iso_week();
                write!(f, "{}-W{:02}", week.year(), week.week())
            }
            Unit::Month => write!(f, "{}-{:02}", self.number.div_euclid(12), self.number.rem_euclid(12) + 1),
            Unit::Year => write!(f, "{}", self.number),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::clock::{parse_rfc3339, rfc3339};

    fn named(zone: &str, unit: Unit, at: &str) -> String {
        Zone::named(zone).unwrap().period(unit, parse_rfc3339(at).unwrap()).to_string()
    }

    #[test]
    fn periods_have_names() {
        let at = "2026-11-20T14:25:36Z";
        for (unit, name) in [
            (Unit::Hour, "2026-11-20 14:00"),
            (Unit::Day, "2026-11-20"),
            (Unit::Week, "2026-W47"),
            (Unit::Month, "2026-11"),
            (Unit::Year, "2026"),
        ] {
            assert_eq!(named("UTC", unit, at), name);
        }
        assert_eq!(named("Asia/Kolkata", Unit::Hour, at), "2026-11-20 19:00 +05:30");
        assert_eq!(named("America/New_York", Unit::Hour, at), "2026-11-20 09:00 -05:00");
        assert_eq!(named("Pacific/Auckland", Unit::Day, at), "2026-11-21");
    }

    /// Instants of every ten minutes around each change of clocks: periods never go back, no two overlap, and each ends
    /// where it says.
    #[test]
    fn each_instant_lies_in_one_period_and_periods_are_in_order() {
        for (zone, around) in [
            ("Europe/Berlin", "2026-03-29T01:00:00Z"),
            ("Europe/Berlin", "2026-10-25T01:00:00Z"),
            ("Australia/Lord_Howe", "2026-04-04T15:00:00Z"),
            ("Pacific/Apia", "2011-12-30T10:00:00Z"),
            ("America/Sao_Paulo", "2018-11-04T03:00:00Z"),
            ("UTC", "2026-01-01T00:00:00Z"),
        ] {
            let middle = parse_rfc3339(around).unwrap();
            let zone = Zone::named(zone).unwrap();
            for unit in [Unit::Hour, Unit::Day, Unit::Week, Unit::Month, Unit::Year] {
                let instants: Vec<_> = (-400..400).map(|n| middle + TimeDelta::minutes(10 * n)).collect();
                for pair in instants.windows(2) {
                    let (a, b) = (zone.period(unit, pair[0]), zone.period(unit, pair[1]));
                    assert!(a <= b, "{zone:?} {unit:?}: {a} then {b}");
                    let end = zone.after(a);
                    assert!(a == b || end <= pair[1], "{a} ends at {} but {b} has begun", rfc3339(end));
                    if unit != Unit::Hour {
                        assert_eq!(end > pair[1], a == b, "{zone:?} {unit:?} {a} {b} {}", rfc3339(end));
                    }
                }
            }
        }
    }
}
