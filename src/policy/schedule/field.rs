//! One field of a crontab line: lists, ranges, steps and names, as a set of numbers.

use crate::base::error::{Error, Kind, Result};

/// What a field may hold.
pub(super) struct Field {
    /// As people call it.
    pub(super) name: &'static str,
    /// The lowest number.
    min: u32,
    /// The highest.
    max: u32,
    /// Names of the numbers from `min` on.
    names: &'static [&'static str],
}

const MONTHS: [&str; 12] = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const WEEKDAYS: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];
/// Sunday's other number.
const SUNDAY: u32 = 7;

/// The fields of a line, seconds first.
pub(super) const FIELDS: [Field; 6] = [
    Field { name: "second", min: 0, max: 59, names: &[] },
    Field { name: "minute", min: 0, max: 59, names: &[] },
    Field { name: "hour", min: 0, max: 23, names: &[] },
    Field { name: "day of the month", min: 1, max: 31, names: &[] },
    Field { name: "month", min: 1, max: 12, names: &MONTHS },
    Field { name: "day of the week", min: 0, max: SUNDAY, names: &WEEKDAYS },
];

impl Field {
    /// The numbers that `text` means, one bit each. Sunday is 0 whichever way it is written.
    pub(super) fn parse(&self, text: &str) -> Result<u64> {
        let mut set = 0;
        for item in text.split(',') {
            set |= self.item(item)?;
        }
        if self.max == SUNDAY && set & (1 << SUNDAY) != 0 {
            set = set & !(1 << SUNDAY) | 1;
        }
        Ok(set)
    }

    /// `*`, `7`, `1-5`, and the first and last with a step behind them.
    fn item(&self, text: &str) -> Result<u64> {
        let (range, step) = match text.split_once('/') {
            Some((range, step)) => (range, Some(step)),
            None => (text, None),
        };
        let (first, last) = match range.split_once('-') {
            _ if range == "*" => (self.min, if self.max == SUNDAY { SUNDAY - 1 } else { self.max }),
            Some((first, last)) => (self.number(first)?, self.range_end(first, last)?),
            None if step.is_some() => {
                return Err(self
                    .wrong(text, "has a step, but no range to step through")
                    .hint(format!("write */N, or a range as in {range}-{}/N", self.max)));
            }
            None => (self.number(range)?, self.number(range)?),
        };
        if first > last {
            return Err(self.wrong(text, "runs backwards").hint("write two ranges with a comma, as in 22-23,0-2"));
        }
        let step = match step.map(str::parse::<u32>) {
            None => 1,
            Some(Ok(step)) if (1..=self.max).contains(&step) => step,
            Some(_) => {
                return Err(self
                    .wrong(text, "has no such step")
                    .hint(format!("a step is a number from 1 to {}, as in */5", self.max)));
            }
        };
        let numbers = (first..=last).step_by(usize::try_from(step).expect("below 60"));
        Ok(numbers.fold(0, |set, number| set | 1 << number))
    }

    /// The end of a range. `fri-sun` is said, and Sunday closes the week there.
    fn range_end(&self, first: &str, last: &str) -> Result<u32> {
        let number = self.number(last)?;
        let closes_week = self.max == SUNDAY && number == 0 && self.number(first)? > 0 && last.parse::<u32>().is_err();
        Ok(if closes_week { SUNDAY } else { number })
    }

    fn number(&self, text: &str) -> Result<u32> {
        let named = self.names.iter().position(|name| name.eq_ignore_ascii_case(text));
        let named = named.and_then(|place| u32::try_from(place).ok()).map(|place| place + self.min);
        // Digits alone: `parse` would take a sign.
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        let number = named.or_else(|| text.parse().ok().filter(|_| digits));
        number.filter(|number| (self.min..=self.max).contains(number)).ok_or_else(|| {
            let names = match self.names {
                [first, .., last] => format!(", or {first} to {last}"),
                _ => String::new(),
            };
            let error = Error::new(Kind::Usage, format!("{text:?} is no {}", self.name));
            if text.contains(['?', 'L', 'W', '#']) && named.is_none() {
                return error.hint("?, L, W and # are not crontab's: write *, numbers, names, lists, ranges and steps");
            }
            error.hint(format!("write {} to {}{names}", self.min, self.max))
        })
    }

    fn wrong(&self, text: &str, what: &str) -> Error {
        Error::new(Kind::Usage, format!("{text:?} {what} ({})", self.name))
    }
}
