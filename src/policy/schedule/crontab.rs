//! A line of crontab as times: when it comes next, when it came last.
//!
//! The meaning is that of cron as Debian and Red Hat ship it (Vixie's), also where that surprises:
//!
//! - Five fields: minute, hour, day of the month, month, day of the week. Six: with the second before them.
//! - When both days are restricted, **either** is enough: `0 0 13 * fri` is each 13th and each Friday. A field that begins
//!   with `*` restricts nothing in this sense: `0 0 */2 * mon` is the Mondays that are odd days.
//! - Sunday is 0 and 7. Names are the first three letters, in any case.
//!
//! When clocks change, what matters is whether minute and hour are fixed or begin with `*` (seconds likewise):
//!
//! - **Fixed** ("at two"): the job runs once a day, whatever clocks do. A time that clocks go forward over is made up for
//!   at the moment of the change, once; of a time that comes twice, the first counts.
//! - **Starred** ("every hour", "every five minutes"): the job follows the clock on the wall. Over a gap it has nothing to
//!   do, in an hour that comes twice it runs twice as often, so that it never pauses for two hours.
//!
//! Seconds are this program's own; everything else a crontab says, this says.

use chrono::{Datelike, NaiveDate, NaiveDateTime, NaiveTime, TimeDelta, Timelike};
use std::fmt;

use crate::base::clock::{Time, parse_format};
use crate::base::error::{Error, Kind, Result};
use crate::policy::schedule::field::FIELDS;
use crate::policy::zone::Zone;

/// Bytes of a line.
const LINE_BYTES_MAX: usize = 256;
/// Days that are searched for one on which a job runs: every date falls on every weekday within 40 years.
const DAYS_MAX: usize = 41 * 366;
/// What clocks went back lies no further behind than this.
const CHANGE_HOURS_MAX: i64 = 26;

/// When a job runs.
#[derive(Clone, PartialEq, Eq)]
pub struct Crontab {
    /// As it was written.
    text: String,
    seconds: u64,
    minutes: u64,
    hours: u64,
    days: u64,
    months: u64,
    weekdays: u64,
    /// Both days are restricted, so that either is enough.
    either_day: bool,
    /// Minute and hour are fixed: the job runs once for each, whatever clocks do.
    fixed: bool,
}

impl fmt::Display for Crontab {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for Crontab {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.text)
    }
}

impl Crontab {
    /// Reads a line of crontab, without the command.
    pub fn parse(text: &str) -> Result<Self> {
        const EXAMPLE: &str =
            "write minute, hour, day of the month, month and day of the week, as in \"0 2 * * *\" for 02:00 every day";
        if text.len() > LINE_BYTES_MAX {
            return Err(Error::new(Kind::Usage, "a schedule is longer than any crontab line").hint(EXAMPLE));
        }
        let line = match text.trim() {
            word if word.starts_with('@') => spelt_out(word)?,
            line => line,
        };
        let mut words: Vec<_> = line.split_whitespace().collect();
        match words.len() {
            5 => words.insert(0, "0"),
            6 => {}
            n => {
                return Err(Error::new(
                    Kind::Usage,
                    format!("{text:?} is {n} field(s); crontab has 5, or 6 with seconds"),
                )
                .hint(EXAMPLE));
            }
        }
        let mut sets = [0; 6];
        for ((set, field), word) in sets.iter_mut().zip(&FIELDS).zip(&words) {
            *set = field.parse(word).map_err(|error| error.during(format!("{text:?} is no crontab line")))?;
        }
        let starred = |place: usize| words[place].starts_with('*');
        let [seconds, minutes, hours, days, months, weekdays] = sets;
        let (either_day, fixed) = (!starred(3) && !starred(5), !(0..3).any(starred));
        let crontab = Crontab {
            text: text.trim().to_owned(),
            seconds,
            minutes,
            hours,
            days,
            months,
            weekdays,
            either_day,
            fixed,
        };
        let long_ago = parse_format("2000-01-01T00:00:00", "%Y-%m-%dT%H:%M:%S").map(|time| time.naive_utc());
        if long_ago.and_then(|reading| crontab.reading_from(reading)).is_none() {
            return Err(Error::new(Kind::Usage, format!("{text:?} never comes"))
                .hint("no month it names has the day it names; correct one of them"));
        }
        Ok(crontab)
    }

    /// The first time after `after`; none when the calendar ends before it.
    pub fn next(&self, after: Time, zone: Zone) -> Option<Time> {
        if self.fixed {
            let mut reading = self.reading_from(second_after(zone.reading(after)))?;
            // Readings that go forward stand for instants that do not go back: one or two steps.
            loop {
                let at = zone.first(reading);
                if at > after {
                    return Some(at);
                }
                reading = self.reading_from(second_after(reading))?;
            }
        }
        let (mut from, mut reading) = (after, second_after(zone.reading(after)));
        loop {
            let offset = zone.offset(from);
            let at = (self.reading_from(reading)? - offset).and_utc();
            if zone.offset(at) == offset {
                return Some(at);
            }
            // Clocks change before that: look again from there, with what they read then.
            from = zone.change(from, at);
            reading = zone.reading(from);
        }
    }

    /// The last time at or before `at`; none when the calendar begins after it.
    pub fn previous(&self, at: Time, zone: Zone) -> Option<Time> {
        if self.fixed {
            // Clocks may have gone back just now: what they read before that is behind us too.
            let earlier = at.checked_sub_signed(TimeDelta::hours(CHANGE_HOURS_MAX))?;
            let offset = zone.offset(at).max(zone.offset(earlier));
            let mut reading = self.reading_until(at.naive_utc().checked_add_signed(offset)?)?;
            loop {
                let time = zone.first(reading);
                if time <= at {
                    return Some(time);
                }
                reading = self.reading_until(reading - TimeDelta::seconds(1))?;
            }
        }
        let mut until = at;
        loop {
            let offset = zone.offset(until);
            let time = (self.reading_until(zone.reading(until))? - offset).and_utc();
            if zone.offset(time) == offset {
                return Some(time);
            }
            until = zone.change(time, until) - TimeDelta::seconds(1);
        }
    }

    /// The first reading at or after `from` at which the line says to run, on a clock that nobody changes.
    fn reading_from(&self, from: NaiveDateTime) -> Option<NaiveDateTime> {
        let (mut day, mut time) = (from.date(), from.time());
        for _ in 0..DAYS_MAX {
            if let (true, Some(found)) = (self.is_day(day), self.time_from(time)) {
                return Some(day.and_time(found));
            }
            (day, time) = (day.succ_opt()?, NaiveTime::MIN);
        }
        None
    }

    /// The last reading at or before `until`, likewise.
    fn reading_until(&self, until: NaiveDateTime) -> Option<NaiveDateTime> {
        let (mut day, mut time) = (until.date(), until.time());
        for _ in 0..DAYS_MAX {
            if let (true, Some(found)) = (self.is_day(day), self.time_until(time)) {
                return Some(day.and_time(found));
            }
            (day, time) = (day.pred_opt()?, NaiveTime::from_hms_opt(23, 59, 59)?);
        }
        None
    }

    fn is_day(&self, day: NaiveDate) -> bool {
        let of_month = holds(self.days, day.day());
        let of_week = holds(self.weekdays, day.weekday().num_days_from_sunday());
        let day_fits = if self.either_day { of_month || of_week } else { of_month && of_week };
        day_fits && holds(self.months, day.month())
    }

    fn time_from(&self, from: NaiveTime) -> Option<NaiveTime> {
        let (h, m, s) = (from.hour(), from.minute(), from.second());
        let in_this_minute = || Some((h, m, lowest(self.seconds, s)?));
        let in_this_hour = || Some((h, lowest(self.minutes, m + 1)?, lowest(self.seconds, 0)?));
        let later = || Some((lowest(self.hours, h + 1)?, lowest(self.minutes, 0)?, lowest(self.seconds, 0)?));
        let this_hour = holds(self.hours, h);
        let this_minute = this_hour && holds(self.minutes, m);
        let found = this_minute.then(in_this_minute).flatten();
        let found = found.or_else(|| this_hour.then(in_this_hour).flatten()).or_else(later);
        found.and_then(|(h, m, s)| NaiveTime::from_hms_opt(h, m, s))
    }

    fn time_until(&self, until: NaiveTime) -> Option<NaiveTime> {
        let (h, m, s) = (until.hour(), until.minute(), until.second());
        let in_this_minute = || Some((h, m, highest(self.seconds, s)?));
        let in_this_hour = || Some((h, highest(self.minutes, m.checked_sub(1)?)?, highest(self.seconds, 59)?));
        let earlier = || {
            let hour = highest(self.hours, h.checked_sub(1)?)?;
            Some((hour, highest(self.minutes, 59)?, highest(self.seconds, 59)?))
        };
        let this_hour = holds(self.hours, h);
        let this_minute = this_hour && holds(self.minutes, m);
        let found = this_minute.then(in_this_minute).flatten();
        let found = found.or_else(|| this_hour.then(in_this_hour).flatten()).or_else(earlier);
        found.and_then(|(h, m, s)| NaiveTime::from_hms_opt(h, m, s))
    }
}

/// What the words that begin with `@` stand for.
fn spelt_out(word: &str) -> Result<&'static str> {
    match word {
        "@hourly" => Ok("0 * * * *"),
        "@daily" | "@midnight" => Ok("0 0 * * *"),
        "@weekly" => Ok("0 0 * * 0"),
        "@monthly" => Ok("0 0 1 * *"),
        "@yearly" | "@annually" => Ok("0 0 1 1 *"),
        _ => Err(Error::new(Kind::Usage, format!("there is no schedule {word:?}"))
            .hint("write @hourly, @daily, @weekly, @monthly, @yearly, or five fields")),
    }
}

/// The full second that follows a reading.
fn second_after(reading: NaiveDateTime) -> NaiveDateTime {
    let whole = reading.with_nanosecond(0).unwrap_or(reading);
    whole.checked_add_signed(TimeDelta::seconds(1)).unwrap_or(whole)
}

const fn holds(set: u64, number: u32) -> bool {
    set >> number & 1 == 1
}

fn lowest(set: u64, from: u32) -> Option<u32> {
    let rest = set.checked_shr(from)?;
    (rest != 0).then(|| from + rest.trailing_zeros())
}

fn highest(set: u64, until: u32) -> Option<u32> {
    let rest = set & (u64::MAX >> (63 - until.min(63)));
    rest.checked_ilog2()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::clock::{parse_rfc3339, rfc3339};
    use crate::base::rng::Seeded;
    use std::collections::BTreeSet;

    /// Every run of `line` in the days around an instant, found by looking at each minute.
    fn runs(line: &Crontab, zone: Zone, from: Time, minutes: i64) -> BTreeSet<Time> {
        let matches = |reading: NaiveDateTime| {
            let time = reading.time();
            line.is_day(reading.date()) && holds(line.hours, time.hour()) && holds(line.minutes, time.minute())
        };
        let instants = (-1_600..minutes + 1_600).map(|n| from + TimeDelta::minutes(n));
        let runs: BTreeSet<Time> = if line.fixed {
            let readings = instants.map(|at| at.naive_utc()).filter(|reading| matches(*reading));
            readings.map(|reading| zone.first(reading)).collect()
        } else {
            instants.filter(|at| matches(zone.reading(*at))).collect()
        };
        runs.range(from..from + TimeDelta::minutes(minutes)).copied().collect()
    }

    #[test]
    fn next_and_previous_find_each_run_that_a_look_at_every_minute_finds() {
        let mut seed = Seeded::new(20_261_120);
        let mut met = [0, 0];
        for (zone, change) in [
            ("Europe/Berlin", "2026-03-29T01:00:00Z"),
            ("Europe/Berlin", "2026-10-25T01:00:00Z"),
            ("America/New_York", "2026-03-08T07:00:00Z"),
            ("Australia/Lord_Howe", "2026-10-03T15:30:00Z"),
            ("Australia/Lord_Howe", "2026-04-04T15:00:00Z"),
            ("Asia/Kathmandu", "2026-06-01T00:00:00Z"),
        ] {
            let zone = Zone::named(zone).unwrap();
            let from = parse_rfc3339(change).unwrap() - TimeDelta::hours(36);
            for _ in 0..60 {
                let mut one =
                    |choices: &[&str]| choices[usize::try_from(seed.below(choices.len() as u64)).unwrap()].to_owned();
                let minute = one(&["0", "30", "*/15", "*", "5,45", "10-50/20"]);
                let hour = one(&["*", "2", "1-3", "*/2", "0,2,12", "3"]);
                let day = one(&["*", "*", "29", "*/2", "1-15"]);
                let weekday = one(&["*", "*", "sun", "1-5", "*/3"]);
                let text = format!("{minute} {hour} {day} * {weekday}");
                let line = Crontab::parse(&text).unwrap();
                met[usize::from(line.fixed)] += 1;
                let expected = runs(&line, zone, from, 4_320);
                let end = from + TimeDelta::minutes(4_320);
                let mut forward = BTreeSet::new();
                let mut at = from - TimeDelta::seconds(1);
                while let Some(next) = line.next(at, zone).filter(|next| *next < end) {
                    assert!(next > at, "{text} goes on");
                    forward.insert(next);
                    at = next;
                }
                let show = |set: &BTreeSet<Time>| set.iter().map(|time| rfc3339(*time)).collect::<Vec<_>>().join(" ");
                assert_eq!(show(&forward), show(&expected), "{text} in {zone:?}");
                let mut backward = BTreeSet::new();
                let mut at = end - TimeDelta::seconds(1);
                while let Some(previous) = line.previous(at, zone).filter(|previous| *previous >= from) {
                    assert!(previous <= at, "{text} goes back");
                    backward.insert(previous);
                    at = previous - TimeDelta::seconds(1);
                }
                assert_eq!(show(&backward), show(&expected), "{text} in {zone:?}, backwards");
            }
        }
        assert!(met.iter().all(|n| *n > 50), "both kinds were met: {met:?}");
    }

    #[test]
    fn hostile_lines_are_errors_with_hints_never_panics() {
        let mut seed = Seeded::new(7);
        let mut right = 0;
        for _ in 0..20_000 {
            let alphabet = b"0123456789*/,-  @sunjaLW?#\xc3\xa9";
            let length = 1 + seed.below(14);
            let bytes: Vec<u8> =
                (0..length).map(|_| alphabet[usize::try_from(seed.below(alphabet.len() as u64)).unwrap()]).collect();
            let line = format!("{} * * * *", String::from_utf8_lossy(&bytes));
            match Crontab::parse(&line) {
                Ok(line) => {
                    right += 1;
                    assert!(line.next(parse_rfc3339("2026-01-01T00:00:00Z").unwrap(), Zone::default()).is_some());
                }
                Err(error) => assert!(error.hint_text().is_some(), "{line:?}"),
            }
        }
        assert!((100..19_000).contains(&right), "{right} of 20000 lines are right");
        assert!(Crontab::parse(&"*".repeat(10_000)).is_err());
    }

    #[test]
    fn the_ends_of_the_calendar_have_no_runs() {
        let line = Crontab::parse("0 0 * * *").unwrap();
        assert_eq!(line.next(Time::MAX_UTC, Zone::default()), None);
        assert_eq!(line.previous(Time::MIN_UTC, Zone::default()), None);
    }
}
