//! Retention: which restore points are kept, why, and until when. A pure function of points, rules and the moment.
//!
//! A point is kept when any rule keeps it; it is removed when none does. The rules:
//!
//! - `last`, `hourly`, `daily`, `weekly`, `monthly`, `yearly`: the newest point of each of the newest N periods **that have
//!   a point**; a gap in the backups costs nothing. While a rule has fewer periods than N, the oldest point is kept too, so
//!   that a young repository keeps its beginning. One point may satisfy several rules.
//! - `within`: every point at most so much older than the newest.
//! - `window`: any moment in it can be restored. Changes do that (they are not points); what they start from is a point,
//!   the newest of its branch that is older than the window, and it is kept.
//! - `min_verified`, and without being asked: the newest verified points of every branch of history, at each level.
//!
//! Invariants, each with a test of its name:
//! - The newest verified point is never removed; nor is the newest point, a held one, one whose manifest cannot be read, or
//!   one that is dated in the future.
//! - Points of the future neither count nor say what "now" is: one host with a wrong clock removes nothing. Nor does a
//!   point that failed verification, or that nobody trusted has signed, take a sound one's place, nor an imported file that
//!   of a point of the live cluster; one that nobody trusted has signed is removed only when the operator lets the rules
//!   judge it.
//! - Nothing is removed while backups are failing: the newest point must be fresh.
//! - No rules, no removals. What is removed once leaves nothing for a second run.
//! - Counting is over the whole cluster, so that a branch of history that was left behind thins out; floors are for each
//!   branch. Hosts, endpoints and tools play no part.
//! - Within a branch revisions order points; the calendar asks when they were taken, and points of one second are ordered
//!   by revision, then id.
//!
//! No point depends on another (a manifest lists all its objects), so removing one never breaks one that stays. Whether the
//! list of points is complete is for the caller to know: with half a list, nothing may be planned.

mod select;
mod until;

use std::fmt;
use std::time::Duration;

use crate::base::clock::{Time, rfc3339};
use crate::base::error::Result;
use crate::base::units;
use crate::policy::raw::Table;
use crate::policy::retention::select::select;
use crate::policy::schedule::{CLOCK_SKEW_MAX, Schedule};
use crate::policy::zone::{Period, Unit, Zone};

/// Verified points that are kept of each branch when a policy does not say.
pub const MIN_VERIFIED_DEFAULT: u32 = 1;
/// From this level on, a verification has read what is stored.
pub const VERIFIED_LEVEL_MIN: u8 = 2;

/// What is to be kept. All zero: everything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retention {
    /// The newest points.
    pub last: u32,
    /// Hours with a point.
    pub hourly: u32,
    /// Days.
    pub daily: u32,
    /// ISO weeks.
    pub weekly: u32,
    /// Months.
    pub monthly: u32,
    /// Years.
    pub yearly: u32,
    /// Every point this much older than the newest.
    pub within: Option<Duration>,
    /// Any moment in it can be restored.
    pub window: Option<Duration>,
    /// Verified points of each branch.
    pub min_verified: u32,
}

impl Default for Retention {
    fn default() -> Self {
        let (last, hourly, daily, weekly, monthly, yearly) = (0, 0, 0, 0, 0, 0);
        let min_verified = MIN_VERIFIED_DEFAULT;
        Retention { last, hourly, daily, weekly, monthly, yearly, within: None, window: None, min_verified }
    }
}

/// A rule that counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// Points.
    Last,
    /// Periods with a point.
    Of(Unit),
}

impl Rule {
    /// All of them, fine to coarse.
    pub const ALL: [Rule; 6] = [
        Rule::Last,
        Rule::Of(Unit::Hour),
        Rule::Of(Unit::Day),
        Rule::Of(Unit::Week),
        Rule::Of(Unit::Month),
        Rule::Of(Unit::Year),
    ];

    /// Its name in the policy file.
    pub const fn name(self) -> &'static str {
        match self {
            Rule::Last => "last",
            Rule::Of(Unit::Hour) => "hourly",
            Rule::Of(Unit::Day) => "daily",
            Rule::Of(Unit::Week) => "weekly",
            Rule::Of(Unit::Month) => "monthly",
            Rule::Of(Unit::Year) => "yearly",
        }
    }
}

impl Retention {
    /// How many a rule keeps.
    pub const fn count(&self, rule: Rule) -> u32 {
        match rule {
            Rule::Last => self.last,
            Rule::Of(Unit::Hour) => self.hourly,
            Rule::Of(Unit::Day) => self.daily,
            Rule::Of(Unit::Week) => self.weekly,
            Rule::Of(Unit::Month) => self.monthly,
            Rule::Of(Unit::Year) => self.yearly,
        }
    }

    /// Whether any rule says what to keep. A window and a floor alone do not: nobody means "all but two" by them.
    pub fn removes(&self) -> bool {
        self.within.is_some() || Rule::ALL.into_iter().any(|rule| self.count(rule) > 0)
    }

    /// The table [retention] of a policy, when it is there.
    pub(super) fn read(root: &mut Table<'_>) -> Result<Self> {
        let mut known = Rule::ALL.map(Rule::name).to_vec();
        known.extend(["within", "window", "min_verified"]);
        let Some(mut table) = root.optional("retention", &known)? else { return Ok(Retention::default()) };
        let mut count = |name: &str| Ok(table.integer(name)?.map(|field| field.value));
        let (last, hourly, daily) = (count("last")?, count("hourly")?, count("daily")?);
        let (weekly, monthly, yearly) = (count("weekly")?, count("monthly")?, count("yearly")?);
        let min_verified = count("min_verified")?.unwrap_or(MIN_VERIFIED_DEFAULT);
        let mut span = |name: &str| match table.duration(name)? {
            Some(field) if field.value.is_zero() => {
                Err(field.wrong(format!("{name} is zero")).hint("give a duration, as in 7d, or remove the line"))
            }
            field => Ok(field.map(|field| field.value)),
        };
        let (within, window) = (span("within")?, span("window")?);
        let [last, hourly, daily, weekly, monthly, yearly] =
            [last, hourly, daily, weekly, monthly, yearly].map(Option::unwrap_or_default);
        Ok(Retention { last, hourly, daily, weekly, monthly, yearly, within, window, min_verified })
    }
}

/// A restore point, as far as retention cares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Point {
    /// What names it, one among all.
    pub id: String,
    /// Its branch of history.
    pub lineage: String,
    /// Its revision, which orders it within the branch.
    pub revision: i64,
    /// When it was taken.
    pub taken: Time,
    /// Whether its manifest can be read; without that, only its name is known.
    pub readable: bool,
    /// The level of the deepest verification that it passed.
    pub verified: Option<u8>,
    /// Whether the newest verification failed.
    pub failed: bool,
    /// Whether it is a file that was imported: nothing says that the cluster ever had its state.
    pub imported: bool,
    /// Whether it was made by somebody who is believed.
    pub origin: Origin,
    /// Whether somebody holds it.
    pub hold: Option<Hold>,
}

/// Who made a point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Somebody who is believed.
    Believed,
    /// Nobody knows who, and the operator lets rules judge it all the same.
    Allowed,
    /// Nobody knows who: whoever can write to the repository.
    Foreign,
}

impl Point {
    /// Why it takes no place of a sound one.
    fn doubt(&self) -> Option<Doubt> {
        match (self.origin, self.failed) {
            (Origin::Allowed | Origin::Foreign, _) => Some(Doubt::Unsigned),
            (Origin::Believed, true) => Some(Doubt::Failed),
            (Origin::Believed, false) => None,
        }
    }
}

/// Why a point takes no place of a sound one; the deeper doubt last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Doubt {
    /// It was imported, and there are points of the live cluster.
    Imported,
    /// It failed verification.
    Failed,
    /// Nobody who is believed has signed it.
    Unsigned,
}

/// A point that must not go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hold {
    /// Until when; none: until it is released.
    pub until: Option<Time>,
}

/// When and under what a plan is made.
#[derive(Clone, Copy, Debug)]
pub struct Circumstances<'a> {
    /// The present moment, by the repository's clock.
    pub now: Time,
    /// The zone whose days are meant.
    pub zone: Zone,
    /// Tells when points will come, and with it until when a point is kept.
    pub schedule: Option<&'a Schedule>,
    /// Nothing is removed when the newest sound point is older than this.
    pub stale_after: Duration,
    /// Remove all the same.
    pub force: bool,
}

/// What becomes of each point.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// One for each point, newest first.
    pub decisions: Vec<Decision>,
    /// Why nothing is removed although rules would; none when nothing holds them back.
    pub held_back: Option<String>,
    /// What somebody should look at.
    pub alarms: Vec<String>,
}

/// What becomes of one point.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// Its place in the list that was given.
    pub point: usize,
    /// Whether it stays.
    pub keep: bool,
    /// Why it stays; empty when it goes: no rule keeps it.
    pub reasons: Vec<Reason>,
    /// The earliest moment at which it can go, when from now on every scheduled point is taken (without a schedule: one in
    /// each period from the next on). A missed backup, a new hold or another rule makes it later, nothing makes it earlier.
    /// None: no date can be said, because it depends on a person, on a verification, or on more than the calendar.
    pub until: Option<Time>,
}

/// Why a point is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reason {
    /// The rule.
    pub why: Why,
    /// The earliest moment at which this reason ends.
    pub until: Option<Time>,
    /// The point is in doubt: it is kept as if it were sound, beside those that are.
    pub beside: Option<Doubt>,
}

/// What keeps a point.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Why {
    /// A rule that counts.
    Counted {
        /// Which.
        rule: Rule,
        /// Its place, from 1.
        nth: u32,
        /// Of how many.
        of: u32,
        /// The period it stands for.
        period: Option<Period>,
    },
    /// The oldest point, while a rule has places left.
    Oldest {
        /// Which.
        rule: Rule,
        /// Its periods so far.
        has: u32,
        /// Of how many.
        of: u32,
    },
    /// It is young enough.
    Within(Duration),
    /// The window starts from it.
    WindowBase(Duration),
    /// The newest point.
    Newest,
    /// The end of a branch that lies in the window.
    BranchEnd,
    /// The newest of its branch that passed this level.
    NewestVerified(u8),
    /// One of the verified points of its branch that the policy wants.
    MinVerified {
        /// Its place, from 1.
        nth: u32,
        /// Of how many.
        of: u32,
    },
    /// Somebody holds it.
    Held(Option<Time>),
    /// It is dated in the future.
    FutureDated(Time),
    /// Nothing is known of it but its name.
    Unreadable,
    /// Nobody who is believed has signed it.
    Foreign,
    /// The policy says nothing about what to keep.
    NoRules,
    /// Rules would remove it, but not now.
    HeldBack,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.why {
            Why::Counted { rule, nth, of, period: Some(period) } => {
                write!(f, "{} {nth} of {of}: {period}", rule.name())
            }
            Why::Counted { rule, nth, of, period: None } => write!(f, "{} {nth} of {of}", rule.name()),
            Why::Oldest { rule, has, of } => write!(f, "oldest, while {} has {has} of {of}", rule.name()),
            Why::Within(span) => write!(f, "within {}", units::duration(*span)),
            Why::WindowBase(span) => write!(f, "base of the window of {}", units::duration(*span)),
            Why::Newest => write!(f, "newest"),
            Why::BranchEnd => write!(f, "newest of a branch in the window"),
            Why::NewestVerified(level) => write!(f, "newest verified at level {level}"),
            Why::MinVerified { nth, of } => write!(f, "verified {nth} of {of}"),
            Why::Held(Some(until)) => write!(f, "held until {}", rfc3339(*until)),
            Why::Held(None) => write!(f, "held until it is released"),
            Why::FutureDated(taken) => write!(f, "dated in the future: {}", rfc3339(*taken)),
            Why::Unreadable => write!(f, "its manifest cannot be read"),
            Why::Foreign => write!(f, "signed by nobody trusted: kept until somebody judges it"),
            Why::NoRules => write!(f, "no rule says what to keep, so everything is"),
            Why::HeldBack => write!(f, "nothing is removed now"),
        }?;
        match self.beside {
            Some(Doubt::Imported) => write!(f, " (imported: takes no place)"),
            Some(Doubt::Failed) => write!(f, " (failed verification: takes no place)"),
            Some(Doubt::Unsigned) => write!(f, " (signed by nobody trusted: takes no place)"),
            None => Ok(()),
        }
    }
}

impl Plan {
    /// The points that go, by their places in the list that was given.
    pub fn removed(&self) -> impl Iterator<Item = usize> {
        self.decisions.iter().filter(|decision| !decision.keep).map(|decision| decision.point)
    }
}

/// What becomes of each of `points`, which are all points of one cluster.
pub fn plan(rules: &Retention, points: &[Point], at: &Circumstances<'_>) -> Plan {
    let order = newest_first(points);
    let counts = |place: &&usize| points[**place].readable && !is_future(&points[**place], at.now);
    let judged = |place: &&usize| counts(place) && points[**place].origin != Origin::Foreign;
    let all: Vec<usize> = order.iter().filter(judged).copied().collect();
    // Where there is nothing else, imported files are what is counted.
    let alone = points.iter().filter(|point| point.origin != Origin::Foreign).all(|point| point.imported);
    let file = |place: usize| points[place].imported && !alone;
    // Whoever is in deeper doubt takes no place of one who is in less.
    let pool = |files: bool, doubt: Option<Doubt>| -> Vec<usize> {
        let wanted = |place: &usize| (files || !file(*place)) && points[*place].doubt() <= doubt;
        all.iter().copied().filter(wanted).collect()
    };
    let counted = pool(false, None);

    let mut reasons: Vec<Vec<Reason>> = points.iter().map(|point| own_reasons(point, at.now)).collect();
    if rules.removes() {
        select(rules, points, &counted, at, |place, reason| reasons[place].push(reason));
        // As if they counted, and without taking the place of one that does: an import, or a verifier gone wrong, removes
        // nothing more; and what nobody trusted signed takes no place of one that somebody did, sound or not.
        for is_file in [false, true] {
            for doubt in [None, Some(Doubt::Failed), Some(Doubt::Unsigned)] {
                let meant = |place: usize| file(place) == is_file && points[place].doubt() == doubt;
                let beside = doubt.or(is_file.then_some(Doubt::Imported));
                if beside.is_none() || !all.iter().any(|place| meant(*place)) {
                    continue;
                }
                select(rules, points, &pool(is_file, doubt), at, |place, reason| {
                    if meant(place) {
                        reasons[place].push(Reason { beside, ..reason });
                    }
                });
            }
        }
    } else {
        reasons.iter_mut().for_each(|reasons| reasons.push(Reason::open(Why::NoRules)));
    }
    let held_back = held_back(points, &counted, at).filter(|_| reasons.iter().any(Vec::is_empty));
    if held_back.is_some() {
        let without = reasons.iter_mut().filter(|reasons| reasons.is_empty());
        without.for_each(|reasons| reasons.push(Reason::open(Why::HeldBack)));
    }
    let mut alarms: Vec<String> = order.iter().filter_map(|place| alarm(&points[*place], at.now)).collect();
    alarms.extend(foreign_alarm(points, &order));
    let decisions = order.into_iter().map(|point| decision(point, std::mem::take(&mut reasons[point]))).collect();
    Plan { decisions, held_back, alarms }
}

impl Reason {
    fn open(why: Why) -> Self {
        Reason { why, until: None, beside: None }
    }

    fn until(why: Why, until: Option<Time>) -> Self {
        Reason { why, until, beside: None }
    }
}

/// Points by the second they were taken in, then by revision, then by id; the newest first.
fn newest_first(points: &[Point]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..points.len()).collect();
    let key = |place: usize| (points[place].taken.timestamp(), points[place].revision, points[place].id.as_str());
    order.sort_by(|a, b| key(*b).cmp(&key(*a)));
    order
}

fn is_future(point: &Point, now: Time) -> bool {
    point.taken > now + CLOCK_SKEW_MAX
}

/// What keeps a point whatever the rules and the others are.
fn own_reasons(point: &Point, now: Time) -> Vec<Reason> {
    let mut reasons = vec![];
    match &point.hold {
        Some(Hold { until: Some(until) }) if *until <= now => {}
        Some(hold) => reasons.push(Reason::until(Why::Held(hold.until), hold.until)),
        None => {}
    }
    if !point.readable {
        reasons.push(Reason::open(Why::Unreadable));
    } else if point.origin == Origin::Foreign {
        reasons.push(Reason::open(Why::Foreign));
    } else if is_future(point, now) {
        reasons.push(Reason::until(Why::FutureDated(point.taken), Some(point.taken)));
    }
    reasons
}

/// Why nothing may be removed, whatever the rules say.
fn held_back(points: &[Point], counted: &[usize], at: &Circumstances<'_>) -> Option<String> {
    if at.force {
        return None;
    }
    let Some(newest) = counted.first().map(|place| points[*place].taken) else {
        return Some("there is no sound point".to_owned());
    };
    let age = (at.now - newest).to_std().unwrap_or_default();
    (age > at.stale_after).then(|| {
        let (age, limit) = (units::duration(age), units::duration(at.stale_after));
        format!("the newest sound point is {age} old, more than {limit}: backups must succeed before old ones go")
    })
}

fn alarm(point: &Point, now: Time) -> Option<String> {
    let id = &point.id;
    if point.readable && point.origin == Origin::Foreign {
        None
    } else if !point.readable {
        Some(format!("point {id}: its manifest cannot be read; it is kept and counts for nothing"))
    } else if is_future(point, now) {
        Some(format!("point {id} is dated {}, in the future: a clock was wrong; it is kept", rfc3339(point.taken)))
    } else if point.failed {
        Some(format!("point {id} failed verification: it takes no place of a sound one"))
    } else {
        None
    }
}

/// One for all of them: whoever can write to the repository can put any number there.
fn foreign_alarm(points: &[Point], newest_first: &[usize]) -> Option<String> {
    let foreign = |place: &&usize| points[**place].readable && points[**place].origin == Origin::Foreign;
    let newest = &points[*newest_first.iter().find(foreign)?].id;
    let count = newest_first.iter().filter(foreign).count();
    Some(format!(
        "{count} points, the newest of them {newest}, are signed by nobody trusted: they are kept and count for nothing; \
         when you know who made them, `holdfast prune --allow-unsigned` lets the rules judge them"
    ))
}

fn decision(point: usize, reasons: Vec<Reason>) -> Decision {
    // The reason that lasts longest decides; one without a date outlasts all.
    let until =
        reasons.iter().map(|reason| reason.until).collect::<Option<Vec<_>>>().and_then(|all| all.into_iter().max());
    Decision { point, keep: !reasons.is_empty(), reasons, until }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::{BTreeMap, BTreeSet};

    use crate::base::clock::parse_rfc3339;
    use crate::base::rng::Seeded;
    use crate::policy::schedule::Crontab;

    const HOUR: Duration = Duration::from_secs(3600);
    const DAY: Duration = Duration::from_secs(86_400);

    fn time(text: &str) -> Time {
        parse_rfc3339(text).unwrap()
    }

    /// A sound point of the branch "a"; its revision is its second.
    fn point(taken: &str) -> Point {
        at(time(taken))
    }

    fn at(taken: Time) -> Point {
        let id = rfc3339(taken).replace("2026-", "");
        let revision = taken.timestamp();
        let (lineage, hold) = ("a".to_owned(), None);
        let origin = Origin::Believed;
        let (failed, imported) = (false, false);
        Point { id, lineage, revision, taken, readable: true, verified: None, failed, imported, origin, hold }
    }

    fn verified(taken: &str, level: u8) -> Point {
        Point { verified: Some(level), ..point(taken) }
    }

    fn of(lineage: &str, point: Point) -> Point {
        Point { lineage: lineage.to_owned(), id: format!("{lineage}-{}", point.id), ..point }
    }

    /// Points of a day each, the newest at noon of 20 November.
    fn days(count: u32) -> Vec<Point> {
        (0..count).rev().map(|n| at(time("2026-11-20T12:00:00Z") - DAY * n)).collect()
    }

    fn rules(change: impl FnOnce(&mut Retention)) -> Retention {
        let mut rules = Retention { min_verified: 0, ..Retention::default() };
        change(&mut rules);
        rules
    }

    fn under(zone: &str, now: &str) -> Circumstances<'static> {
        let zone = Zone::named(zone).unwrap();
        Circumstances { now: time(now), zone, schedule: None, stale_after: DAY * 2, force: false }
    }

    fn noon() -> Circumstances<'static> {
        under("UTC", "2026-11-20T12:30:00Z")
    }

    /// The points that stay, oldest first, each with its reasons.
    fn kept(rules: &Retention, points: &[Point], at: &Circumstances<'_>) -> Vec<String> {
        let plan = plan(rules, points, at);
        assert_eq!(plan.decisions.len(), points.len());
        let kept = plan.decisions.iter().rev().filter(|decision| decision.keep);
        let words = |decision: &Decision| decision.reasons.iter().map(Reason::to_string).collect::<Vec<_>>().join("; ");
        kept.map(|decision| format!("{}: {}", points[decision.point].id, words(decision))).collect()
    }

    fn ids(rules: &Retention, points: &[Point], at: &Circumstances<'_>) -> BTreeSet<String> {
        let plan = plan(rules, points, at);
        plan.decisions.iter().filter(|d| d.keep).map(|d| points[d.point].id.clone()).collect()
    }

    fn apply(points: &[Point], plan: &Plan) -> Vec<Point> {
        let removed: BTreeSet<usize> = plan.removed().collect();
        (0..points.len()).filter(|place| !removed.contains(place)).map(|place| points[place].clone()).collect()
    }

    #[test]
    fn rule_01_the_newest_verified_point_is_never_removed() {
        let points = vec![
            verified("2026-11-01T12:00:00Z", 4),
            verified("2026-11-10T12:00:00Z", 3),
            point("2026-11-20T12:00:00Z"),
        ];
        let last = rules(|rules| rules.last = 1);
        assert_eq!(
            kept(&last, &points, &noon()),
            [
                "11-01T12:00:00Z: newest verified at level 4",
                "11-10T12:00:00Z: newest verified at level 3",
                "11-20T12:00:00Z: last 1 of 1; newest",
            ]
        );
        let plan = plan(&last, &points, &noon());
        assert_eq!(plan.decisions[1].until, None, "until something newer is verified: nobody knows when");
        // Verified means that the newest verdict is good.
        let refuted = Point { failed: true, ..verified("2026-11-15T12:00:00Z", 3) };
        let with = [points.as_slice(), &[refuted]].concat();
        assert!(ids(&last, &with, &noon()).contains("11-10T12:00:00Z"), "a failed one does not stand in for it");
    }

    #[test]
    fn rule_02_nothing_is_removed_while_backups_fail() {
        let points = days(10);
        let last = rules(|rules| rules.last = 2);
        let late = under("UTC", "2026-11-22T12:00:01Z");
        let plan = plan(&last, &points, &late);
        assert_eq!(plan.removed().count(), 0);
        assert_eq!(plan.decisions[9].reasons[0].to_string(), "nothing is removed now");
        assert_eq!(
            plan.held_back.as_deref(),
            Some("the newest sound point is 2 d 0 h old, more than 2 d 0 h: backups must succeed before old ones go")
        );
        assert_eq!(ids(&last, &points, &under("UTC", "2026-11-22T12:00:00Z")).len(), 2, "fresh to the last second");
        assert_eq!(ids(&last, &points, &Circumstances { force: true, ..late }).len(), 2, "unless it is forced");
        // A job that makes nothing but damaged points is failing too.
        let mut damaged = points.clone();
        damaged.iter_mut().skip(7).for_each(|point| point.failed = true);
        assert_eq!(ids(&last, &damaged, &noon()).len(), 10);
        damaged.iter_mut().for_each(|point| point.failed = true);
        assert_eq!(super::plan(&last, &damaged, &noon()).held_back.as_deref(), Some("there is no sound point"));
    }

    #[test]
    fn rule_03_points_of_the_future_neither_count_nor_say_what_now_is() {
        let mut points = days(10);
        points.push(at(time("2028-01-01T00:00:00Z")));
        let within = rules(|rules| rules.within = Some(DAY * 3));
        let expected = ["11-17T12:00:00Z: within 3 d 0 h", "11-18T12:00:00Z: within 3 d 0 h"];
        let got = kept(&within, &points, &noon());
        assert_eq!(got[..2], expected);
        assert_eq!(got.len(), 5);
        assert_eq!(got[3], "11-20T12:00:00Z: within 3 d 0 h; newest");
        assert_eq!(got[4], "2028-01-01T00:00:00Z: dated in the future: 2028-01-01T00:00:00Z");
        let last = rules(|rules| rules.last = 2);
        assert_eq!(ids(&last, &points, &noon()).len(), 3, "it takes no place");
        let plan = plan(&last, &points, &noon());
        assert_eq!(plan.decisions[0].until, Some(time("2028-01-01T00:00:00Z")), "then it is judged like others");
        assert!(plan.alarms[0].contains("a clock was wrong"), "{:?}", plan.alarms);
        // Clocks may differ a little.
        let close = [days(3), vec![point("2026-11-20T12:35:00Z")]].concat();
        assert_eq!(ids(&last, &close, &noon()).len(), 2);
    }

    #[test]
    fn rule_04_points_of_one_second_are_ordered_by_revision_then_id() {
        let second = time("2026-11-20T12:00:00Z");
        let one = |id: &str, revision: i64, ms: u64| {
            let taken = second + Duration::from_millis(ms);
            Point { id: id.to_owned(), revision, ..at(taken) }
        };
        let points = [one("low", 5, 900), one("high-a", 9, 0), one("high-b", 9, 0)];
        let last = |n| rules(|rules| rules.last = n);
        assert_eq!(kept(&last(1), &points, &noon()), ["high-b: last 1 of 1; newest"]);
        assert_eq!(kept(&last(2), &points, &noon())[0], "high-a: last 2 of 2");
        let hourly = rules(|rules| rules.hourly = 5);
        assert_eq!(
            kept(&hourly, &points, &noon()),
            ["low: oldest, while hourly has 1 of 5", "high-b: hourly 1 of 5: 2026-11-20 12:00; newest"]
        );
    }

    #[test]
    fn rule_05_each_instant_lies_in_one_period_when_clocks_change() {
        let hourly = rules(|rules| rules.hourly = 100);
        // 02:00 comes twice in Berlin: two hours, two points. In UTC nothing is special.
        let back: Vec<Point> =
            (0..8).map(|n| at(time("2026-10-24T23:10:00Z") + Duration::from_secs(1800) * n)).collect();
        let now = "2026-10-25T03:00:00Z";
        let berlin = kept(&hourly, &back, &under("Europe/Berlin", now));
        assert_eq!(
            berlin,
            [
                "10-24T23:10:00Z: oldest, while hourly has 4 of 100",
                "10-24T23:40:00Z: hourly 4 of 100: 2026-10-25 01:00 +02:00",
                "10-25T00:40:00Z: hourly 3 of 100: 2026-10-25 02:00 +02:00",
                "10-25T01:40:00Z: hourly 2 of 100: 2026-10-25 02:00 +01:00",
                "10-25T02:40:00Z: hourly 1 of 100: 2026-10-25 03:00 +01:00; newest",
            ]
        );
        // There is no 02:00 when clocks go forward, and the day of 23 hours is one day.
        let forward: Vec<Point> = (0..4).map(|n| at(time("2026-03-28T23:40:00Z") + HOUR * n)).collect();
        let berlin = kept(&hourly, &forward, &under("Europe/Berlin", "2026-03-29T03:00:00Z"));
        assert_eq!(berlin[1], "03-29T00:40:00Z: hourly 3 of 100: 2026-03-29 01:00 +01:00");
        assert_eq!(berlin[2], "03-29T01:40:00Z: hourly 2 of 100: 2026-03-29 03:00 +02:00");
        let daily = rules(|rules| rules.daily = 10);
        let days = |zone: &str| kept(&daily, &back, &under(zone, now)).len();
        // The day itself and the oldest point; in UTC two days, and the oldest is in neither's end.
        assert_eq!((days("Europe/Berlin"), days("UTC")), (2, 3));
    }

    #[test]
    fn rule_06_weeks_are_those_of_iso_8601() {
        // 31 December 2025 and 2 January 2026 lie in 2026-W01, 28 December is the last day of 2025-W52.
        let points =
            ["2025-12-28T12:00:00Z", "2025-12-31T12:00:00Z", "2026-01-02T12:00:00Z", "2026-01-05T12:00:00Z"].map(point);
        let weekly = rules(|rules| rules.weekly = 3);
        assert_eq!(
            kept(&weekly, &points, &under("UTC", "2026-01-05T13:00:00Z")),
            [
                "2025-12-28T12:00:00Z: weekly 3 of 3: 2025-W52",
                "01-02T12:00:00Z: weekly 2 of 3: 2026-W01",
                "01-05T12:00:00Z: weekly 1 of 3: 2026-W02; newest",
            ]
        );
        // Week 1 and month 1 have nothing to do with each other.
        let both = rules(|rules| (rules.weekly, rules.monthly) = (3, 3));
        assert_eq!(ids(&both, &points, &under("UTC", "2026-01-05T13:00:00Z")).len(), 4);
    }

    #[test]
    fn rule_07_no_point_is_the_base_of_another_and_a_window_keeps_its_own() {
        // A point is whole by itself: any may go before any other. What starts from a point are the changes of the window.
        let points = days(20);
        let one = rules(|rules| (rules.last, rules.window) = (1, Some(DAY * 7)));
        assert_eq!(
            kept(&one, &points, &noon()),
            ["11-13T12:00:00Z: base of the window of 7 d 0 h", "11-20T12:00:00Z: last 1 of 1; newest"]
        );
        // No point is old enough: the oldest is the base, or the window would shrink.
        let young = rules(|rules| (rules.last, rules.window) = (1, Some(DAY * 90)));
        assert_eq!(kept(&young, &points, &noon())[0], "11-01T12:00:00Z: base of the window of 90 d 0 h");
        // A damaged point is no base.
        let mut damaged = points.clone();
        damaged[12].failed = true;
        assert!(ids(&one, &damaged, &noon()).contains("11-12T12:00:00Z"));
        // A branch that was left behind within the window has a base and an end; one that ended before it has neither.
        let branches = [
            of("old", point("2026-11-01T12:00:00Z")),
            of("old", point("2026-11-05T12:00:00Z")),
            of("mid", point("2026-11-10T12:00:00Z")),
            of("mid", point("2026-11-12T12:00:00Z")),
            of("mid", point("2026-11-14T12:00:00Z")),
            of("mid", point("2026-11-15T12:00:00Z")),
            of("new", point("2026-11-16T12:00:00Z")),
            of("new", point("2026-11-18T12:00:00Z")),
            of("new", point("2026-11-20T12:00:00Z")),
        ];
        assert_eq!(
            kept(&one, &branches, &noon()),
            [
                "mid-11-12T12:00:00Z: base of the window of 7 d 0 h",
                "mid-11-15T12:00:00Z: newest of a branch in the window",
                "new-11-16T12:00:00Z: base of the window of 7 d 0 h",
                "new-11-20T12:00:00Z: last 1 of 1; newest",
            ]
        );
        // Its changes reach from its last point to the beginning of the next branch, which lies in the window.
        let gap = [of("old", point("2026-11-12T12:00:00Z")), of("new", point("2026-11-20T12:00:00Z"))];
        assert_eq!(
            kept(&one, &gap, &noon())[0],
            "old-11-12T12:00:00Z: base of the window of 7 d 0 h; newest of a branch in the window"
        );
    }

    #[test]
    fn rule_08_each_branch_has_its_floor() {
        let branch =
            |name: &str, days: [u32; 4]| days.map(|day| of(name, verified(&format!("2026-11-{day:02}T12:00:00Z"), 3)));
        let points = [branch("a", [1, 2, 3, 4]), branch("b", [11, 12, 13, 14]), branch("c", [17, 18, 19, 20])].concat();
        let two = rules(|rules| (rules.last, rules.min_verified) = (1, 2));
        assert_eq!(
            kept(&two, &points, &noon()),
            [
                "a-11-03T12:00:00Z: verified 2 of 2",
                "a-11-04T12:00:00Z: newest verified at level 3; verified 1 of 2",
                "b-11-13T12:00:00Z: verified 2 of 2",
                "b-11-14T12:00:00Z: newest verified at level 3; verified 1 of 2",
                "c-11-19T12:00:00Z: verified 2 of 2",
                "c-11-20T12:00:00Z: last 1 of 1; newest; newest verified at level 3; verified 1 of 2",
            ]
        );
        // Those that were read come before those that were only found to be there.
        let shallow = [
            verified("2026-11-10T12:00:00Z", 3),
            verified("2026-11-19T12:00:00Z", 1),
            verified("2026-11-20T12:00:00Z", 1),
        ];
        let got = kept(&two, &shallow, &noon());
        assert_eq!(got[0], "11-10T12:00:00Z: newest verified at level 3; verified 1 of 2");
        assert_eq!(got.len(), 2, "{got:?}");
        // Within a branch, revisions say which is newer, whatever a clock said.
        let skewed = Point { revision: i64::MAX, ..verified("2026-11-02T12:00:00Z", 3) };
        let got =
            kept(&rules(|rules| rules.last = 1), &[shallow[0].clone(), skewed, point("2026-11-20T12:00:00Z")], &noon());
        assert_eq!(got[0], "11-02T12:00:00Z: newest; newest verified at level 3");
        assert_eq!(got.len(), 2);
    }

    #[test]
    fn rule_09_a_manifest_that_cannot_be_read_is_kept_and_told() {
        let mut points = days(6);
        points[0].readable = false;
        points[5].readable = false;
        let last = rules(|rules| rules.last = 1);
        assert_eq!(
            kept(&last, &points, &noon()),
            [
                "11-15T12:00:00Z: its manifest cannot be read",
                "11-19T12:00:00Z: last 1 of 1; newest",
                "11-20T12:00:00Z: its manifest cannot be read",
            ]
        );
        let alarms = plan(&last, &points, &noon()).alarms;
        assert_eq!(alarms.len(), 2);
        assert_eq!(alarms[0], "point 11-20T12:00:00Z: its manifest cannot be read; it is kept and counts for nothing");
    }

    #[test]
    fn rule_10_a_second_run_removes_nothing() {
        let mut removed = 0;
        for case in cases(2_000) {
            let first = plan(&case.rules, &case.points, &case.at());
            removed += first.removed().count();
            let rest = apply(&case.points, &first);
            let second = plan(&case.rules, &rest, &case.at());
            assert_eq!(second.removed().count(), 0, "{case:#?}");
        }
        assert!(removed > 20_000, "{removed} points were removed in all");
    }

    #[test]
    fn rule_11_a_point_more_costs_each_rule_one_point_at_most() {
        let mut displaced = BTreeMap::new();
        for mut case in cases(2_000) {
            // Counting rules alone: every other rule has a date or a floor of its own.
            case.rules.window = None;
            case.rules.min_verified = 0;
            case.points.iter_mut().for_each(|point| point.verified = None);
            case.force = true;
            let Some(newest) = case.points.iter().filter(|p| counts(p, &case)).map(|p| p.taken).max() else { continue };
            let extra =
                Point { id: "extra".to_owned(), ..at(newest - HOUR * u32::try_from(case.seed % 2_000).unwrap()) };
            let before = ids(&case.rules, &case.points, &case.at());
            let with = [case.points.as_slice(), &[extra]].concat();
            let after = ids(&case.rules, &with, &case.at());
            let active = Rule::ALL.into_iter().filter(|rule| case.rules.count(*rule) > 0).count();
            // One for each rule that counts, and one because the newest may be another.
            let lost = before.difference(&after).count();
            assert!(lost <= active + 1, "{lost} lost: {case:#?}");
            *displaced.entry(lost).or_insert(0) += 1;
        }
        assert!(displaced.len() >= 3, "points were displaced: {displaced:?}");
    }

    #[test]
    fn rule_14_points_that_nobody_trusted_signed_take_no_place_and_go_only_when_allowed() {
        let from = |origin, count| days(count).into_iter().map(move |point| Point { origin, ..point });
        let (last, twelve) = (rules(|rules| rules.last = 2), under("UTC", "2026-11-21T12:30:00Z"));
        // Three of a day later than each of ours, and verified deeper than any.
        let others = |origin| {
            from(origin, 3).enumerate().map(|(n, point)| {
                let (id, taken) = (format!("other-{n}"), point.taken + HOUR);
                Point { id, taken, revision: taken.timestamp(), verified: Some(4), ..point }
            })
        };
        let with = |origin| days(4).into_iter().chain(others(origin)).collect::<Vec<_>>();
        let foreign = kept(&last, &with(Origin::Foreign), &twelve);
        let ours = ["11-19T12:00:00Z: last 2 of 2", "11-20T12:00:00Z: last 1 of 2; newest"];
        let theirs = "signed by nobody trusted: kept until somebody judges it";
        let other = |n: u32| format!("other-{n}: {theirs}");
        assert_eq!(foreign, [other(0), ours[0].into(), other(1), ours[1].into(), other(2)]);
        let plan_of = |origin| plan(&last, &with(origin), &twelve);
        assert!(
            matches!(&plan_of(Origin::Foreign).alarms[..], [one] if one.starts_with("3 points, the newest of them other-2,"))
        );
        let allowed = kept(&last, &with(Origin::Allowed), &twelve);
        assert_eq!(allowed.len(), 3, "{allowed:?}");
        assert!(ours.iter().all(|line| allowed.contains(&(*line).to_owned())), "{allowed:?}");
        assert!(allowed[2].contains("last 1 of 2 (signed by nobody trusted: takes no place)"), "{allowed:?}");
        // Alone, they are no reason to call backups fresh.
        let alone: Vec<_> = from(Origin::Foreign, 3).chain(from(Origin::Allowed, 3)).collect();
        let alone = plan(&last, &alone, &noon());
        assert_eq!((alone.removed().count(), alone.held_back.as_deref()), (0, Some("there is no sound point")));
        for case in cases(300) {
            // With and without them, the same of ours stay.
            let mut mixed = case.points.clone();
            let cycle = [Origin::Believed, Origin::Allowed, Origin::Believed, Origin::Foreign, Origin::Believed];
            mixed.iter_mut().zip(cycle.iter().cycle()).for_each(|(point, origin)| point.origin = *origin);
            let ours: Vec<Point> = mixed.iter().filter(|point| point.origin == Origin::Believed).cloned().collect();
            let stay = |points: &[Point]| {
                let plan = plan(&case.rules, points, &Circumstances { force: true, ..case.at() });
                let kept =
                    plan.decisions.iter().filter(|decision| decision.keep).map(|decision| &points[decision.point]);
                kept.filter(|point| point.origin == Origin::Believed).map(|p| p.id.clone()).collect::<BTreeSet<_>>()
            };
            assert_eq!(stay(&ours), stay(&mixed), "{}", case.seed);
        }
    }

    #[test]
    fn rule_12_a_policy_without_rules_removes_nothing() {
        for rules in [
            Retention::default(),
            rules(|_| {}),
            rules(|rules| rules.min_verified = 2),
            rules(|rules| rules.window = Some(DAY)),
        ] {
            assert!(!rules.removes());
            let plan = plan(&rules, &days(30), &noon());
            assert_eq!((plan.removed().count(), plan.held_back), (0, None));
            let words = plan.decisions[29].reasons[0].to_string();
            assert_eq!(words, "no rule says what to keep, so everything is");
        }
        for case in cases(200) {
            let plan = plan(&Retention::default(), &case.points, &case.at());
            assert_eq!(plan.removed().count(), 0);
        }
        assert_eq!(plan(&Retention { last: 1, ..Retention::default() }, &[], &noon()).decisions, []);
    }

    #[test]
    fn rule_13_names_of_hosts_and_points_change_nothing() {
        // A point has no host: its id is a name. Neither names nor the order of the list play a part.
        for case in cases(500) {
            let mut renamed = case.points.clone();
            let width = renamed.len();
            for (n, point) in renamed.iter_mut().enumerate() {
                point.id = format!("host-{n:0width$}");
            }
            let places = |points: &[Point]| plan(&case.rules, points, &case.at()).removed().collect::<BTreeSet<_>>();
            let seconds: BTreeSet<_> =
                case.points.iter().map(|point| (point.taken.timestamp(), point.revision)).collect();
            if seconds.len() == case.points.len() {
                assert_eq!(places(&case.points), places(&renamed), "{case:#?}");
            }
            let mut turned = case.points.clone();
            turned.rotate_left(case.points.len() / 3);
            turned.reverse();
            assert_eq!(ids(&case.rules, &case.points, &case.at()), ids(&case.rules, &turned, &case.at()));
        }
    }

    #[test]
    fn what_no_rule_may_remove_stays() {
        let mut floors = 0;
        for case in cases(2_000) {
            let kept = ids(&case.rules, &case.points, &case.at());
            for point in &case.points {
                let held = point.hold.as_ref().is_some_and(|hold| hold.until.is_none_or(|until| until > case.now));
                assert!(
                    !(held || !point.readable || point.taken > case.now + HOUR) || kept.contains(&point.id),
                    "{point:?}"
                );
            }
            for lineage in ["a", "b", "c"] {
                let sound = |point: &&Point| point.lineage == lineage && counts(point, &case) && !point.failed;
                let verified = case.points.iter().filter(sound).filter(|point| point.verified.is_some());
                if let Some(newest) = verified.clone().max_by_key(|point| (point.revision, point.taken)) {
                    assert!(kept.contains(&newest.id), "{lineage}: {newest:?} of {case:#?}");
                    floors += 1;
                }
                let floor = usize::try_from(case.rules.min_verified).unwrap();
                let (before, after) = (verified.clone().count(), verified.filter(|p| kept.contains(&p.id)).count());
                assert!(after >= before.min(floor), "{lineage} has {after} of {before} verified, at least {floor}");
            }
        }
        assert!(floors > 2_000, "{floors}");
    }

    #[test]
    fn a_point_that_failed_takes_no_place_and_is_not_lost_sooner() {
        let mut beside = 0;
        for mut case in cases(1_000) {
            case.force = true;
            let sound: Vec<Point> = case.points.iter().filter(|point| !point.failed).cloned().collect();
            let kept = ids(&case.rules, &case.points, &case.at());
            let failed = |id: &String| case.points.iter().any(|point| point.failed && point.id == *id);
            let of_sound: BTreeSet<String> = kept.iter().filter(|id| !failed(id)).cloned().collect();
            assert_eq!(of_sound, ids(&case.rules, &sound, &case.at()), "{case:#?}");
            let mut all_sound = case.points.clone();
            all_sound.iter_mut().for_each(|point| point.failed = false);
            for id in ids(&case.rules, &all_sound, &case.at()).into_iter().filter(failed) {
                assert!(kept.contains(&id), "{id} of {case:#?}");
                beside += 1;
            }
        }
        assert!(beside > 500, "{beside}");
        let mut points = days(4);
        points[3].failed = true;
        assert_eq!(
            kept(&rules(|rules| rules.last = 2), &points, &noon())[2],
            "11-20T12:00:00Z: last 1 of 2 (failed verification: takes no place); newest (failed verification: takes no place)"
        );
    }

    #[test]
    fn an_imported_file_takes_no_place_of_a_live_point_and_thins_out_with_them() {
        let imported = |taken: &str| Point { imported: true, ..of("files", point(taken)) };
        // Newer than all, as a file that was copied without its time is.
        let live = days(4);
        let files =
            [imported("2026-11-20T12:20:00Z"), imported("2026-11-18T18:00:00Z"), imported("2020-01-01T00:00:00Z")];
        let with = [&live[..], &files].concat();
        let two = rules(|rules| rules.daily = 2);
        assert_eq!(
            kept(&two, &with, &noon()),
            [
                "11-19T12:00:00Z: daily 2 of 2: 2026-11-19",
                "11-20T12:00:00Z: daily 1 of 2: 2026-11-20; newest",
                "files-11-20T12:20:00Z: daily 1 of 2: 2026-11-20 (imported: takes no place); newest (imported: takes no place)",
            ]
        );
        // Nor does it say that backups are made.
        let late = [&days(4)[..], &[imported("2026-11-23T12:00:00Z")]].concat();
        let stale = plan(&two, &late, &under("UTC", "2026-11-23T12:30:00Z"));
        assert!(stale.held_back.is_some() && stale.removed().count() == 0, "{stale:?}");
        // Where there is nothing else, files are judged like points.
        let alone = kept(&rules(|rules| rules.last = 1), &files, &noon());
        assert_eq!(alone, ["files-11-20T12:20:00Z: last 1 of 1; newest"]);
        for mut case in cases(1_000) {
            case.points.iter_mut().for_each(|point| point.imported = point.lineage == "b");
            let live: Vec<Point> = case.points.iter().filter(|point| !point.imported).cloned().collect();
            if !live.is_empty() {
                let kept = ids(&case.rules, &case.points, &case.at());
                let of_live: BTreeSet<String> =
                    live.iter().map(|p| p.id.clone()).filter(|id| kept.contains(id)).collect();
                assert_eq!(of_live, ids(&case.rules, &live, &case.at()), "{case:#?}");
            }
            let rest = apply(&case.points, &plan(&case.rules, &case.points, &case.at()));
            assert_eq!(plan(&case.rules, &rest, &case.at()).removed().count(), 0, "{case:#?}");
        }
    }

    #[test]
    fn a_hold_changes_nothing_for_others_and_ends() {
        let mut points = days(5);
        points[0].hold = Some(Hold { until: Some(time("2026-12-24T00:00:00Z")) });
        points[1].hold = Some(Hold { until: None });
        points[2].hold = Some(Hold { until: Some(time("2026-11-20T12:30:00Z")) });
        let last = rules(|rules| rules.last = 1);
        assert_eq!(
            kept(&last, &points, &noon()),
            [
                "11-16T12:00:00Z: held until 2026-12-24T00:00:00Z",
                "11-17T12:00:00Z: held until it is released",
                "11-20T12:00:00Z: last 1 of 1; newest",
            ]
        );
        let plan = plan(&last, &points, &noon());
        let until = |place: usize| plan.decisions.iter().find(|decision| decision.point == place).unwrap().until;
        assert_eq!((until(0), until(1)), (Some(time("2026-12-24T00:00:00Z")), None));
    }

    #[test]
    fn a_young_repository_keeps_its_beginning() {
        let monthly = rules(|rules| (rules.daily, rules.monthly) = (3, 3));
        let first = |now: &str, points: &[Point]| kept(&monthly, points, &under("UTC", now))[0].clone();
        let daily = |count: u32| (0..count).map(|n| at(time("2026-01-10T12:00:00Z") + DAY * n)).collect::<Vec<_>>();
        assert_eq!(first("2026-01-30T13:00:00Z", &daily(21)), "01-10T12:00:00Z: oldest, while monthly has 1 of 3");
        assert_eq!(first("2026-02-10T13:00:00Z", &daily(32)), "01-10T12:00:00Z: oldest, while monthly has 2 of 3");
        assert_eq!(first("2026-03-01T13:00:00Z", &daily(51)), "01-31T12:00:00Z: monthly 3 of 3: 2026-01");
    }

    /// What is said about dates is held against what happens: backups go on as scheduled, and each point goes.
    #[test]
    fn until_is_when_a_point_goes_if_the_schedule_goes_on() {
        let (mut exact, mut later) = (0, 0);
        for (n, (line, set)) in [
            ("0 * * * *", rules(|rules| rules.last = 5)),
            ("0 * * * *", rules(|rules| rules.hourly = 30)),
            ("*/20 * * * *", rules(|rules| rules.hourly = 30)),
            ("30 */5 * * *", rules(|rules| rules.hourly = 7)),
            ("0 */6 * * *", rules(|rules| rules.daily = 5)),
            ("30 2 * * 1-5", rules(|rules| rules.daily = 5)),
            ("0 2 * * *", rules(|rules| rules.weekly = 3)),
            ("0 2 * * 1,4", rules(|rules| rules.monthly = 2)),
            ("0 */2 * * *", rules(|rules| rules.within = Some(HOUR * 50))),
            ("0 */6 * * *", rules(|rules| (rules.hourly, rules.daily, rules.weekly) = (8, 4, 3))),
            ("0 2 * * *", rules(|rules| (rules.last, rules.window) = (2, Some(DAY * 7)))),
            ("0 */4 * * *", rules(|rules| (rules.last, rules.window, rules.within) = (2, Some(DAY * 3), Some(DAY)))),
        ]
        .into_iter()
        .enumerate()
        {
            let zone = Zone::named("Europe/Berlin").unwrap();
            let schedule = Schedule { zone, full: Some(Crontab::parse(line).unwrap()), ..Schedule::default() };
            let mut now = time("2026-09-20T12:00:00Z") + HOUR * u32::try_from(n).unwrap();
            let mut points = vec![];
            let mut promised: BTreeMap<String, Time> = BTreeMap::new();
            for step in 0..420 {
                now = schedule.next_point(now).unwrap().0;
                points.push(at(now));
                let at = Circumstances { now, zone, schedule: Some(&schedule), stale_after: DAY * 40, force: false };
                let plan = plan(&set, &points, &at);
                for decision in &plan.decisions {
                    let id = &points[decision.point].id;
                    let said = promised.get(id);
                    match (decision.keep, said) {
                        (true, said) => {
                            let until = decision.until.expect("schedules decide here");
                            assert!(until > now, "{line} {set:?}: {id} stays now, but was to go {}", rfc3339(until));
                            assert!(said.is_none_or(|said| until >= *said), "{line} {set:?}: {id} would go sooner");
                            promised.insert(id.clone(), until);
                        }
                        (false, Some(said)) if *said == now => exact += 1,
                        (false, Some(said)) => {
                            panic!("{line} {set:?}: {id} goes {}, said was {}", rfc3339(now), rfc3339(*said))
                        }
                        (false, None) => panic!("{line} {set:?}: {id} was never kept at step {step}"),
                    }
                }
                later += plan.decisions.len();
                points = super::tests::apply(&points, &plan);
            }
        }
        assert!(exact > 3_000, "{exact} points went when said, {later} looks");
    }

    #[test]
    fn without_a_schedule_each_period_is_taken_to_have_a_point() {
        let daily = rules(|rules| rules.daily = 3);
        let plan = plan(&daily, &days(9), &noon());
        let until: Vec<_> = plan.decisions.iter().take(3).map(|decision| decision.until.map(rfc3339)).collect();
        // The newest is the newest until the next, whenever that is.
        let said = |text: &str| Some(text.to_owned());
        assert_eq!(until, [None, said("2026-11-22T00:00:00Z"), said("2026-11-21T00:00:00Z")]);
        assert_eq!(plan.decisions[0].reasons[0].until.map(rfc3339), said("2026-11-23T00:00:00Z"));
        let last = super::plan(&rules(|rules| rules.last = 2), &days(9), &noon());
        assert_eq!(last.decisions[1].until, None, "nobody knows when two more come");
    }

    #[test]
    fn ten_thousand_points_are_planned_at_once() {
        let points: Vec<_> = (0..10_000).map(|n| at(time("2026-11-20T12:00:00Z") - HOUR * n)).collect();
        let all = rules(|rules| {
            (rules.last, rules.hourly, rules.daily, rules.weekly, rules.monthly, rules.yearly) = (6, 24, 7, 5, 12, 2);
            (rules.within, rules.window, rules.min_verified) = (Some(DAY * 3), Some(DAY * 7), 2);
        });
        let kept = ids(&all, &points, &noon());
        // 73 within three days, the base; 3 days, 3 weeks and 11 months that are none of them. 2025 is its December.
        assert_eq!(kept.len(), 73 + 1 + 3 + 3 + 11);
    }

    /// A random repository, and a random policy for it.
    #[derive(Debug)]
    struct Case {
        seed: u64,
        rules: Retention,
        points: Vec<Point>,
        zone: Zone,
        now: Time,
        force: bool,
    }

    impl Case {
        fn at(&self) -> Circumstances<'static> {
            Circumstances { now: self.now, zone: self.zone, schedule: None, stale_after: DAY * 2, force: self.force }
        }
    }

    fn counts(point: &Point, case: &Case) -> bool {
        point.readable && point.taken <= case.now + CLOCK_SKEW_MAX
    }

    /// Repeatable cases with everything that goes wrong: skewed clocks, damage, branches, holds, points of one second.
    fn cases(count: u64) -> impl Iterator<Item = Case> {
        (0..count).map(|seed| {
            let mut rng = Seeded::new(seed);
            let mut below = |bound: u64| u32::try_from(rng.below(bound)).unwrap();
            let mut rules = Retention::default();
            for count in [&mut rules.last, &mut rules.hourly, &mut rules.daily, &mut rules.weekly, &mut rules.monthly] {
                *count = if below(2) == 0 { 0 } else { below(8) };
            }
            rules.yearly = below(3);
            rules.within = (below(3) == 0).then(|| HOUR * (1 + below(400)));
            rules.window = (below(3) == 0).then(|| HOUR * (1 + below(1_000)));
            rules.min_verified = below(4);
            let zone = ["UTC", "Europe/Berlin", "Australia/Lord_Howe", "America/New_York"][below(4) as usize];
            let now = time("2026-11-20T12:30:00Z") + HOUR * below(20_000);
            let step = [60, 3_600, 7_200, 86_400, 600_000][below(5) as usize];
            let mut taken = now - Duration::from_secs(u64::from(below(3_000)));
            let mut lineage = 0;
            let points = (0..below(70)).map(|n| {
                taken -= Duration::from_secs(u64::from(below(2 * step)));
                lineage = if below(25) == 0 { (lineage + 1) % 3 } else { lineage };
                let skew = if below(20) == 0 { HOUR * below(5_000) } else { Duration::ZERO };
                let taken = if below(2) == 0 { taken - skew } else { taken + skew };
                Point {
                    id: format!("p{n:03}"),
                    lineage: ["a", "b", "c"][lineage].to_owned(),
                    revision: 10_000 - i64::from(n) * 10 + i64::from(below(12)),
                    taken,
                    readable: below(30) > 0,
                    verified: (below(3) == 0).then(|| u8::try_from(1 + below(4)).unwrap()),
                    failed: below(12) == 0,
                    imported: false,
                    origin: Origin::Believed,
                    hold: (below(20) == 0)
                        .then(|| Hold { until: (below(2) == 0).then(|| now - HOUR * 9 + HOUR * below(20)) }),
                }
            });
            let points = points.collect();
            Case { seed, rules, points, zone: Zone::named(zone).unwrap(), now, force: below(4) == 0 }
        })
    }
}
