//! What a policy comes to: a year of its schedule, thinned by its retention, and what that costs a month.
//!
//! Every scheduled point is taken and every verification passes; retention runs once a day, as the shipped timer runs it.
//! Nothing of the past is looked at: `policy plan` shows with this what a policy will keep before it has kept anything.
//!
//! Bytes are counted as they are stored: a full point is its own, an incremental one shares all that came before it since
//! its full, so that the last one that is kept pays for the whole row. How long a row gets is the agent's rule, and is
//! given: increments weigh at most about as much as their full point. Merging makes that less, never more.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use crate::base::clock::Time;
use crate::base::error::{Error, Kind, Result};
use crate::base::units::GIB;
use crate::policy::Policy;
use crate::policy::retention::{Circumstances, Origin, Plan, Point, plan};
use crate::policy::schedule::Job;

/// Points that are simulated: one every five minutes of a year. More belong into continuous capture.
const POINTS_MAX: usize = 110_000;
const DAY_S: u64 = 86_400;
/// Days of a month in bills.
const MONTH_S: u64 = DAY_S * 365 / 12;

/// What points are like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// Stored bytes of a full point.
    pub full: u64,
    /// Stored bytes that an incremental point adds.
    pub incremental: u64,
    /// Stored bytes of one object at most.
    pub object: u64,
    /// Increments that stand on one full point at most; then a full one is made, whatever is scheduled.
    pub row: u64,
}

/// What a provider asks, in billionths of a dollar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prices {
    /// Whose prices, where and of when.
    pub name: &'static str,
    /// A GB, which is 2^30 bytes in bills, for a month.
    pub gb_month: u64,
    /// Creating an object, or listing a page of them.
    pub put: u64,
    /// Reading an object.
    pub get: u64,
}

/// S3's list prices without discounts; traffic within the region is free. They are for orientation: providers change them.
pub const S3_STANDARD: Prices = Prices {
    name: "S3 Standard in us-east-1, list prices as known in November 2026",
    gb_month: 23_000_000,
    put: 5_000,
    get: 400,
};

/// What becomes of a policy.
#[derive(Clone, Debug)]
pub struct Forecast {
    /// The last moment of the simulation.
    pub end: Time,
    /// Points that were made.
    pub made: usize,
    /// The points at the end, as retention was given them.
    pub points: Vec<Point>,
    /// What it says of them: why each is kept, and until when.
    pub plan: Plan,
    /// How many of them are full.
    pub full: usize,
    /// Stored bytes at the end.
    pub stored_bytes: u64,
    /// What of that is increments, which kept points stand on.
    pub increments_bytes: u64,
    /// What a month costs from then on.
    pub monthly: Cost,
}

/// What a month costs, in billionths of a dollar.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// Keeping what is stored.
    pub storage: u64,
    /// Making points.
    pub points: u64,
    /// Capturing changes, when every period has some.
    pub capture: u64,
    /// Verifying the newest point, and rehearsing with it.
    pub reading: u64,
}

impl Cost {
    /// All of it.
    pub const fn total(&self) -> u64 {
        self.storage.saturating_add(self.points).saturating_add(self.capture).saturating_add(self.reading)
    }
}

impl fmt::Display for Cost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = dollars;
        write!(f, "{}: storage {}, points {}", text(self.total()), text(self.storage), text(self.points))?;
        write!(f, ", capture {}, reading {}", text(self.capture), text(self.reading))
    }
}

/// An amount for people, rounded up: what is not free never reads as zero.
pub fn dollars(nano: u64) -> String {
    let cents = nano.div_ceil(10_000_000);
    format!("${}.{:02}", cents / 100, cents % 100)
}

/// A point that was made up.
struct Made {
    id: String,
    job: Job,
    taken: Time,
    verified: Option<u8>,
    /// The full point it builds on, and its place behind it.
    row: (usize, u64),
}

/// What `policy` keeps after `days` from `start` on.
pub fn forecast(policy: &Policy, sizes: &Sizes, prices: &Prices, start: Time, days: u32) -> Result<Forecast> {
    let schedule = &policy.schedule;
    let end = start + Duration::from_secs(DAY_S) * days;
    let (mut stored, mut made, mut rows): (Vec<Made>, usize, usize) = (vec![], 0, 0);
    let (mut now, mut in_row, mut verify, mut prune) = (start, 0, start, start);
    while let Some((at, job)) = schedule.next_point(now).filter(|(at, _)| *at < end) {
        // What was due since the last point, in the order in which it would happen.
        if let Some(verified) = schedule.previous(Job::Verify, at).filter(|verified| *verified > verify) {
            let level = schedule.verify.as_ref().map(|verify| verify.level);
            if let Some(newest) = stored.iter_mut().rfind(|point| point.taken <= verified) {
                newest.verified = level.max(newest.verified);
            }
            verify = verified;
        }
        if (at - prune).to_std().is_ok_and(|since| since.as_secs() >= DAY_S) {
            stored = thinned(policy, stored, now);
            prune = at;
        }
        // The first point is full whatever the schedule calls it: there is nothing to add to.
        let job = if rows == 0 || in_row >= sizes.row { Job::Full } else { job };
        (rows, in_row) = if job == Job::Full { (rows + 1, 0) } else { (rows, in_row + 1) };
        made += 1;
        if made > POINTS_MAX {
            return Err(Error::new(Kind::Usage, format!("the schedule makes more than {POINTS_MAX} points"))
                .hint("schedule points at most every five minutes, and capture = \"10s\" for what is between"));
        }
        stored.push(Made { id: format!("{made:06}"), job, taken: at, verified: Some(1), row: (rows, in_row) });
        now = at;
    }
    if made == 0 {
        return Err(Error::new(Kind::Usage, "the policy schedules no points")
            .hint("add a schedule, for example full = \"0 2 * * *\" under [schedule]"));
    }
    let stored = thinned(policy, stored, now);
    let points = points(&stored);
    let plan = plan(&policy.retention, &points, &circumstances(policy, now));
    let (stored_bytes, increments_bytes) = stored_bytes(&stored, sizes);
    let monthly = cost(policy, sizes, prices, end, stored_bytes);
    let full = stored.iter().filter(|point| point.job == Job::Full).count();
    Ok(Forecast { end, made, points, plan, full, stored_bytes, increments_bytes, monthly })
}

fn circumstances(policy: &Policy, now: Time) -> Circumstances<'_> {
    let schedule = &policy.schedule;
    // Nothing fails here, so nothing has to be held back.
    Circumstances { now, zone: schedule.zone, schedule: Some(schedule), stale_after: Duration::MAX, force: false }
}

fn points(stored: &[Made]) -> Vec<Point> {
    let point = |(revision, made): (i64, &Made)| Point {
        id: made.id.clone(),
        lineage: "simulated".to_owned(),
        revision,
        taken: made.taken,
        readable: true,
        verified: made.verified,
        failed: false,
        imported: false,
        origin: Origin::Believed,
        hold: None,
    };
    (1..).zip(stored).map(point).collect()
}

/// What retention leaves of them. When it is asked about dates is for the end; here they would only cost time.
fn thinned(policy: &Policy, stored: Vec<Made>, now: Time) -> Vec<Made> {
    let at = Circumstances { schedule: None, ..circumstances(policy, now) };
    let decided = plan(&policy.retention, &points(&stored), &at);
    let mut keep = vec![true; stored.len()];
    decided.removed().for_each(|place| keep[place] = false);
    stored.into_iter().zip(keep).filter(|(_, keep)| *keep).map(|(made, _)| made).collect()
}

/// Stored bytes, and what of them is increments.
fn stored_bytes(stored: &[Made], sizes: &Sizes) -> (u64, u64) {
    let mut rows: BTreeMap<usize, u64> = BTreeMap::new();
    for made in stored {
        let (row, place) = made.row;
        let longest = rows.entry(row).or_default();
        *longest = place.max(*longest);
    }
    let increments = rows.values().map(|row| sizes.incremental.saturating_mul(*row)).fold(0, u64::saturating_add);
    let fulls = sizes.full.saturating_mul(rows.len() as u64);
    (fulls.saturating_add(increments), increments)
}

/// The month after `from`: what is stored then, and the requests of what is scheduled.
fn cost(policy: &Policy, sizes: &Sizes, prices: &Prices, from: Time, stored_bytes: u64) -> Cost {
    let schedule = &policy.schedule;
    let objects = |bytes: u64| bytes.div_ceil(sizes.object.max(1)).max(1);
    let end = from + Duration::from_secs(MONTH_S);
    // Manifest and first verdict beside the data.
    let (mut puts, mut at) = (0_u64, from);
    let mut in_row = 0;
    while let Some((time, job)) = schedule.next_point(at).filter(|(time, _)| *time < end) {
        let full = job == Job::Full || in_row >= sizes.row;
        in_row = if full { 0 } else { in_row + 1 };
        let bytes = if full { sizes.full } else { sizes.incremental };
        puts = puts.saturating_add(objects(bytes) + 2);
        at = time;
    }
    let runs = |job: Job| {
        let mut at = from;
        let next = || {
            let time = schedule.next(job, at).filter(|time| *time < end)?;
            at = time;
            Some(time)
        };
        u64::try_from(std::iter::from_fn(next).take(POINTS_MAX).count()).unwrap_or(u64::MAX)
    };
    let captures = schedule.capture.map_or(0, |period| MONTH_S / period.as_secs().max(1));
    let reads = runs(Job::Verify).saturating_add(runs(Job::Drill)).saturating_mul(objects(sizes.full));
    // Bytes times dollars per GB leave the range of 64 bits for large stores.
    let storage = u128::from(stored_bytes) * u128::from(prices.gb_month) / u128::from(GIB);
    Cost {
        storage: u64::try_from(storage).unwrap_or(u64::MAX),
        points: puts.saturating_mul(prices.put),
        capture: captures.saturating_mul(prices.put),
        reading: reads.saturating_mul(prices.get),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::clock::parse_rfc3339;
    use crate::policy::parse;

    const MB: u64 = 1_000_000;
    const SIZES: Sizes = Sizes { full: 64 * MB, incremental: 17 * MB, object: 16 << 20, row: u64::MAX };

    fn policy(tables: &str) -> Policy {
        let cluster = "[cluster]\nname = \"a\"\nendpoints = [\"http://a:2379\"]\n";
        let text = format!("{cluster}[repository]\nurl = \"file:///b\"\nencryption = \"none\"\n{tables}");
        parse(&text, "p.toml").unwrap()
    }

    fn year(tables: &str) -> Result<Forecast> {
        forecast(&policy(tables), &SIZES, &S3_STANDARD, parse_rfc3339("2026-01-01T00:00:00Z").unwrap(), 365)
    }

    #[test]
    fn a_year_of_hourly_points_is_thinned_to_what_the_rules_say() {
        let forecast = year(
            "[schedule]\nfull = \"0 2 * * *\"\nincremental = \"0 * * * *\"\nverify = { cron = \"30 3 * * *\" }\n\
             [retention]\nhourly = 24\ndaily = 7\nweekly = 4\nmonthly = 12\n",
        )
        .unwrap();
        // The hour of the start itself is not after it.
        assert_eq!(forecast.made, 365 * 24 - 1);
        let reasons = |rule: &str| {
            let all = forecast.plan.decisions.iter().flat_map(|decision| &decision.reasons);
            all.filter(|reason| reason.to_string().starts_with(rule)).count()
        };
        assert_eq!(["hourly", "daily", "weekly", "monthly"].map(reasons), [24, 7, 4, 12]);
        assert!(forecast.plan.decisions.iter().all(|decision| decision.keep), "nothing is left to remove");
        // The 24 hours of 31 December, 6 days before it, 2 Sundays before those, 11 ends of months. All are incremental but
        // that of 02:00.
        assert_eq!((forecast.points.len(), forecast.full), (24 + 6 + 2 + 11, 1));
        // A row goes from 02:00 to 01:00. 31 December stands in two, of which one is whole; the others go to 23:00.
        let (rows, increments) = (20, 19 * 21 + 23);
        assert_eq!(forecast.stored_bytes, rows * SIZES.full + increments * SIZES.incremental);
        assert_eq!(forecast.increments_bytes, increments * SIZES.incremental);
    }

    #[test]
    fn a_row_of_increments_ends_where_the_agent_ends_it() {
        let hourly = policy("[schedule]\nfull = \"0 2 * * *\"\nincremental = \"0 * * * *\"\n[retention]\nlast = 24\n");
        let start = parse_rfc3339("2026-01-01T00:00:00Z").unwrap();
        let of = |row: u64| forecast(&hourly, &Sizes { row, ..SIZES }, &S3_STANDARD, start, 30).unwrap();
        // Rows of four from 02:00 on; the 24 points end at 23:00, two in the fifth row of the day.
        let short = of(3);
        assert_eq!((short.points.len(), short.full, of(u64::MAX).full), (24, 6, 1));
        assert_eq!(short.stored_bytes, 7 * SIZES.full + 19 * SIZES.incremental);
        assert!(short.monthly.points > of(u64::MAX).monthly.points, "full points are more objects");
        assert_eq!(of(0).full, 24);
    }

    #[test]
    fn fulls_cost_what_they_store() {
        let forecast = year("[schedule]\nfull = \"0 2 * * *\"\n[retention]\ndaily = 10\n").unwrap();
        assert_eq!((forecast.points.len(), forecast.full), (10, 10));
        assert_eq!(forecast.stored_bytes, 10 * SIZES.full);
        // 640 MB at 2.3 cents for 2^30 bytes; 31 points of 4 objects, a manifest and a verdict.
        let expected = Cost { storage: 13_709_068, points: 31 * 6 * 5_000, capture: 0, reading: 0 };
        assert_eq!(forecast.monthly, expected);
        assert_eq!(forecast.monthly.to_string(), "$0.02: storage $0.02, points $0.01, capture $0.00, reading $0.00");
    }

    #[test]
    fn capture_every_second_is_what_costs() {
        let forecast = year(
            "[schedule]\nfull = \"0 2 * * *\"\ncapture = \"1s\"\nverify = { cron = \"0 3 * * *\" }\n\
             drill = \"0 5 * * sun\"\n[retention]\ndaily = 3\n",
        )
        .unwrap();
        assert_eq!(dollars(forecast.monthly.capture), "$13.14");
        // 31 verifications and 5 drills of 4 objects.
        assert_eq!(forecast.monthly.reading, (31 + 5) * 4 * 400);
        assert_eq!(forecast.monthly.total(), {
            let Cost { storage, points, capture, reading } = forecast.monthly;
            storage + points + capture + reading
        });
    }

    #[test]
    fn without_retention_everything_is_kept() {
        let forecast = year("[schedule]\nfull = \"0 2 * * *\"\n").unwrap();
        assert_eq!((forecast.made, forecast.points.len()), (365, 365));
        assert_eq!(forecast.plan.removed().count(), 0);
    }

    #[test]
    fn a_policy_without_points_and_one_of_too_many_are_refused() {
        let none = year("[schedule]\nverify = { cron = \"0 3 * * *\" }\n").unwrap_err();
        assert!(none.hint_text().unwrap().contains("full ="));
        let many = year("[schedule]\nfull = \"* * * * *\"\n[retention]\nlast = 2\n").unwrap_err();
        assert_eq!(many.to_string(), "the schedule makes more than 110000 points");
    }
}
