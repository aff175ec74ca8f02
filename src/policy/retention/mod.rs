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
//!   point that failed verification take a sound one's place.
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
    /// Whether somebody holds it.
    pub hold: Option<Hold>,
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
    /// The point failed verification: it is kept as if it were sound, beside those that are.
    pub beside: bool,
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
            Why::NoRules => write!(f, "no rule says what to keep, so everything is"),
            Why::HeldBack => write!(f, "nothing is removed now"),
        }?;
        if self.beside { write!(f, " (failed verification: takes no place)") } else { Ok(()) }
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
    let all: Vec<usize> = order.iter().filter(counts).copied().collect();
    let sound: Vec<usize> = all.iter().filter(|place| !points[**place].failed).copied().collect();

    let mut reasons: Vec<Vec<Reason>> = points.iter().map(|point| own_reasons(point, at.now)).collect();
    if rules.removes() {
        select(rules, points, &sound, at, |place, reason| reasons[place].push(reason));
        if sound.len() < all.len() {
            // As if they were sound, and without taking a sound point's place: a verifier gone wrong removes nothing more.
            select(rules, points, &all, at, |place, reason| {
                if points[place].failed {
                    reasons[place].push(Reason { beside: true, ..reason });
                }
            });
        }
    } else {
        reasons.iter_mut().for_each(|reasons| reasons.push(Reason::open(Why::NoRules)));
    }
    let held_back = held_back(points, &sound, at).filter(|_| reasons.iter().any(Vec::is_empty));
    if held_back.is_some() {
        let without = reasons.iter_mut().filter(|reasons| reasons.is_empty());
        without.for_each(|reasons| reasons.push(Reason::open(Why::HeldBack)));
    }
    let alarms = order.iter().filter_map(|place| alarm(&points[*place], at.now)).collect();
    let decisions = order.into_iter().map(|point| decision(point, std::mem::take(&mut reasons[point]))).collect();
    Plan { decisions, held_back, alarms }
}

impl Reason {
    fn open(why: Why) -> Self {
        Reason { why, until: None, beside: false }
    }

    fn until(why: Why, until: Option<Time>) -> Self {
        Reason { why, until, beside: false }
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
    } else if is_future(point, now) {
        reasons.push(Reason::until(Why::FutureDated(point.taken), Some(point.taken)));
    }
    reasons
}

/// Why nothing may be removed, whatever the rules say.
fn held_back(points: &[Point], sound: &[usize], at: &Circumstances<'_>) -> Option<String> {
    if at.force {
        return None;
    }
    let Some(newest) = sound.first().map(|place| points[*place].taken) else {
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
    if !point.readable {
        Some(format!("point {id}: its manifest cannot be read; it is kept and counts for nothing"))
    } else if is_future(point, now) {
        Some(format!("point {id} is dated {}, in the future: a clock was wrong; it is kept", rfc3339(point.taken)))
    } else if point.failed {
        Some(format!("point {id} failed verification: it takes no place of a sound one"))
    } else {
        None
    }
}

fn decision(point: usize, reasons: Vec<Reason>) -> Decision {
    // The reason that lasts longest decides; one without a date outlasts all.
    let until =
        reasons.iter().map(|reason| reason.until).collect::<Option<Vec<_>>>().and_then(|all| all.into_iter().max());
    Decision { point, keep: !reasons.is_empty(), reasons, until }
}
