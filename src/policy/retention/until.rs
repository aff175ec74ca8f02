//! Until when a rule keeps a point: what the schedule will bring.
//!
//! Rules that count let go when enough newer periods have a point. With a schedule, that moment is known as long as every
//! scheduled point is taken. Without one, it is taken for granted that each period from the next on has a point, as soon as
//! it begins: the earliest that can be.

use crate::base::clock::Time;
use crate::policy::retention::{Circumstances, Rule};
use crate::policy::schedule::Schedule;
use crate::policy::zone::{Period, Zone};

/// Periods that are looked ahead; further off, no date is said.
const AHEAD_MAX: u32 = 2_000;
/// Clocks change at most a few times within this many points of one hour.
const SAME_PERIOD_MAX: u32 = 8;

/// What is to come after a moment.
pub(super) struct Outlook<'a> {
    now: Time,
    zone: Zone,
    schedule: Option<&'a Schedule>,
}

/// When the first, second, ... new period of a rule gets its point.
pub(super) struct NewPeriods(Vec<Time>);

impl NewPeriods {
    /// The moment of the new period that has so many before it.
    pub(super) fn get(&self, before: u64) -> Option<Time> {
        self.0.get(usize::try_from(before).ok()?).copied()
    }
}

impl<'a> Outlook<'a> {
    pub(super) fn new(at: &Circumstances<'a>) -> Self {
        // A schedule without points says nothing about them.
        let schedule = at.schedule.filter(|schedule| schedule.next_point(at.now).is_some());
        Outlook { now: at.now, zone: at.zone, schedule }
    }

    /// When the next point comes; none when that is not known.
    pub(super) fn next_point(&self) -> Option<Time> {
        self.schedule?.next_point(self.now).map(|(at, _)| at)
    }

    /// The first point that comes from now on and after `time`.
    pub(super) fn point_after(&self, time: Time) -> Option<Time> {
        match self.schedule {
            Some(schedule) => schedule.next_point(time.max(self.now)).map(|(at, _)| at),
            None => Some(time.max(self.now)),
        }
    }

    /// The first point that comes from now on, not before `time`.
    pub(super) fn point_from(&self, time: Time) -> Option<Time> {
        match time > self.now {
            // Schedules know whole seconds.
            true => self.point_after(time - std::time::Duration::from_secs(1)),
            false => self.point_after(time),
        }
    }

    /// When the newest point of `newest`, the newest period, has to make room for a newer one of the same; none when that
    /// will not be, or is not known.
    pub(super) fn replaced(&self, rule: Rule, newest: Option<Period>) -> Option<Time> {
        let Rule::Of(unit) = rule else { return None };
        self.next_point().filter(|next| Some(self.zone.period(unit, *next)) == newest)
    }

    /// When new periods get their points, up to as many as `of`.
    pub(super) fn new_periods(&self, rule: Rule, newest: Option<Period>, of: u32) -> NewPeriods {
        let (mut times, mut at, mut current) = (vec![], self.now, newest);
        while times.len() < usize::try_from(of.min(AHEAD_MAX)).unwrap_or(0) {
            let next = match rule {
                Rule::Last => self.schedule.and_then(|schedule| schedule.next_point(at)).map(|(time, _)| time),
                Rule::Of(_) => self.beyond(rule, current, at),
            };
            let Some(next) = next else { break };
            if let Rule::Of(unit) = rule {
                current = Some(self.zone.period(unit, next));
            }
            times.push(next);
            at = next;
        }
        NewPeriods(times)
    }

    /// The first point after `at` that lies in a later period than `current`.
    fn beyond(&self, rule: Rule, current: Option<Period>, mut at: Time) -> Option<Time> {
        let Rule::Of(unit) = rule else { return None };
        let end = self.zone.after(current?);
        for _ in 0..SAME_PERIOD_MAX {
            let next = match self.schedule {
                Some(_) if end > at => self.point_from(end)?,
                Some(schedule) => schedule.next_point(at)?.0,
                None => end.max(at),
            };
            if Some(self.zone.period(unit, next)) > current {
                return Some(next);
            }
            // An hour that a change of clocks made longer than it says.
            at = next + std::time::Duration::from_secs(u64::from(self.schedule.is_none()) * 60);
        }
        None
    }
}
