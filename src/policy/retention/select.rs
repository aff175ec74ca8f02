//! Which points the rules keep, among those that count.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::base::clock::Time;
use crate::policy::retention::until::Outlook;
use crate::policy::retention::{Circumstances, Point, Reason, Retention, Rule, VERIFIED_LEVEL_MIN, Why};
use crate::policy::zone::Period;

/// The pool, newest first, and what is asked of it.
struct Pool<'a> {
    rules: &'a Retention,
    points: &'a [Point],
    newest_first: &'a [usize],
    outlook: Outlook<'a>,
}

/// Calls `keep` with each point of `newest_first` that a rule keeps, and why.
pub(super) fn select(
    rules: &Retention,
    points: &[Point],
    newest_first: &[usize],
    at: &Circumstances<'_>,
    mut keep: impl FnMut(usize, Reason),
) {
    let Some(newest) = newest_first.first() else { return };
    let pool = Pool { rules, points, newest_first, outlook: Outlook::new(at) };
    for rule in Rule::ALL {
        pool.counted(rule, at, &mut keep);
    }
    let anchor = points[*newest].taken;
    if let Some(span) = rules.within {
        pool.within(span, anchor, &mut keep);
    }
    let lineages = pool.lineages();
    let current = points[*newest].lineage.as_str();
    if let Some(tip) = lineages.get(current).and_then(|members| pool.by_revision(members).first().copied()) {
        keep(tip, Reason::until(Why::Newest, pool.outlook.next_point()));
    }
    if let Some(span) = rules.window {
        pool.window(span, anchor, current, &lineages, &mut keep);
    }
    for members in lineages.values() {
        pool.verified(members, &mut keep);
    }
}

impl Pool<'_> {
    fn taken(&self, place: usize) -> Time {
        self.points[place].taken
    }

    /// The points of each branch, the newest first.
    fn lineages(&self) -> BTreeMap<&str, Vec<usize>> {
        let mut lineages: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
        for place in self.newest_first {
            lineages.entry(self.points[*place].lineage.as_str()).or_default().push(*place);
        }
        lineages
    }

    /// The points of one branch, those of higher revisions first: which is newer is not for clocks to say.
    fn by_revision(&self, members: &[usize]) -> Vec<usize> {
        let mut members = members.to_vec();
        let key =
            |place: usize| (self.points[place].revision, self.points[place].taken, self.points[place].id.as_str());
        members.sort_by(|a, b| key(*b).cmp(&key(*a)));
        members
    }

    /// The newest point of each of the newest N periods that have one, and the oldest of all while there are fewer.
    fn counted(&self, rule: Rule, at: &Circumstances<'_>, keep: &mut impl FnMut(usize, Reason)) {
        let of = self.rules.count(rule);
        if of == 0 {
            return;
        }
        let mut has = 0;
        let mut last: Option<Period> = None;
        let (mut chosen, mut newest) = (vec![], None);
        for place in self.newest_first {
            let period = match rule {
                Rule::Last => None,
                Rule::Of(unit) => Some(at.zone.period(unit, self.taken(*place))),
            };
            if period.is_some() && period == last {
                continue;
            }
            (last, newest) = (period, newest.or(period));
            has += 1;
            chosen.push((*place, period));
            if has == of {
                break;
            }
        }
        let ends = self.outlook.new_periods(rule, newest, of);
        for (nth, (place, period)) in (1..).zip(&chosen) {
            let crowded_out = ends.get(u64::from(of - nth));
            let until = if nth == 1 { self.outlook.replaced(rule, newest).or(crowded_out) } else { crowded_out };
            keep(*place, Reason::until(Why::Counted { rule, nth, of, period: *period }, until));
        }
        let oldest = self.newest_first.last().filter(|oldest| chosen.last().is_none_or(|(place, _)| place != *oldest));
        if let (Some(oldest), true) = (oldest, has < of) {
            keep(*oldest, Reason::until(Why::Oldest { rule, has, of }, ends.get(u64::from(of - has - 1))));
        }
    }

    fn within(&self, span: Duration, anchor: Time, keep: &mut impl FnMut(usize, Reason)) {
        for place in self.newest_first.iter().take_while(|place| older(anchor, self.taken(**place)) <= span) {
            let until = later(self.taken(*place), span).and_then(|end| self.outlook.point_after(end));
            keep(*place, Reason::until(Why::Within(span), until));
        }
    }

    /// What the changes of the window start from: in each branch that lies in it, the newest point before it begins or,
    /// when the branch is younger, its oldest point. And where such a branch ended.
    fn window(
        &self,
        span: Duration,
        anchor: Time,
        current: &str,
        lineages: &BTreeMap<&str, Vec<usize>>,
        keep: &mut impl FnMut(usize, Reason),
    ) {
        let before = |place: usize| older(anchor, self.taken(place)) >= span;
        let at_start = self.newest_first.iter().find(|place| before(**place));
        let at_start = at_start.map(|place| self.points[*place].lineage.as_str());
        for (lineage, members) in lineages {
            let inside = members.iter().any(|place| !before(*place));
            if !inside && *lineage != current && at_start != Some(*lineage) {
                continue;
            }
            let Some((tip, oldest)) = members.first().zip(members.last()) else { continue };
            let base = members.iter().find(|place| before(**place)).unwrap_or(oldest);
            // The next point of the branch takes over, then whatever came or comes after the branch.
            let newer = members.iter().rev().map(|place| self.taken(*place)).find(|taken| *taken > self.taken(*base));
            let any =
                || self.newest_first.iter().rev().map(|p| self.taken(*p)).find(|taken| *taken > self.taken(*base));
            let successor = newer.or_else(any).or_else(|| self.outlook.next_point());
            let until = successor.and_then(|taken| later(taken, span)).and_then(|end| self.outlook.point_from(end));
            keep(*base, Reason::until(Why::WindowBase(span), until));
            if *lineage != current {
                let end = later(self.taken(*tip), span).and_then(|end| self.outlook.point_from(end));
                keep(*tip, Reason::until(Why::BranchEnd, end));
            }
        }
    }

    /// The floors of one branch.
    fn verified(&self, members: &[usize], keep: &mut impl FnMut(usize, Reason)) {
        let level = |place: usize| self.points[place].verified.unwrap_or(0);
        let members = self.by_revision(members);
        let mut seen = 0;
        for place in &members {
            if level(*place) > seen {
                seen = level(*place);
                keep(*place, Reason::open(Why::NewestVerified(seen)));
            }
        }
        let of = self.rules.min_verified;
        // Where too few were read, those that were only looked at count as well.
        let read = members.iter().filter(|place| level(**place) >= VERIFIED_LEVEL_MIN);
        let seen = members.iter().filter(|place| (1..VERIFIED_LEVEL_MIN).contains(&level(**place)));
        for (nth, place) in (1..=of).zip(read.chain(seen)) {
            keep(*place, Reason::open(Why::MinVerified { nth, of }));
        }
    }
}

/// How much older a point is than the newest.
fn older(anchor: Time, taken: Time) -> Duration {
    (anchor - taken).to_std().unwrap_or_default()
}

/// A moment so much later; none when no calendar has it.
fn later(time: Time, span: Duration) -> Option<Time> {
    let seconds = i64::try_from(span.as_secs()).ok()?;
    (time.timestamp().checked_add(seconds)? < FAR).then(|| time + span)
}

/// The year 9999, in seconds: beyond it no date is said.
const FAR: i64 = 253_370_764_800;
