//! Advice: what a policy says that will not come true. A policy that gets some is valid, and works; it does less than its
//! author thinks.

use std::time::Duration;

use crate::base::clock::Time;
use crate::base::units;
use crate::policy::Policy;
use crate::policy::retention::{Rule, VERIFIED_LEVEL_MIN};
use crate::policy::schedule::{Gaps, Schedule};
use crate::policy::zone::Unit;

/// The deepest verification that needs no key.
const SEALED_LEVEL_MAX: u8 = 2;

/// Something that does not fit together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    /// What.
    pub what: String,
    /// What to do about it.
    pub hint: String,
}

/// What does not fit together in `policy`, as its schedule goes on from `now`.
pub fn warnings(policy: &Policy, now: Time) -> Vec<Warning> {
    let mut warnings = vec![];
    let mut warn = |what: String, hint: &str| warnings.push(Warning { what, hint: hint.to_owned() });
    let gaps = policy.schedule.gaps(now);
    points(policy, &mut warn);
    retention(policy, gaps, &mut warn);
    verification(policy, &mut warn);
    objectives(policy, gaps, &mut warn);
    reading(policy, &mut warn);
    warnings
}

type Warn<'a> = dyn FnMut(String, &str) + 'a;

/// Points and what is captured between them.
fn points(policy: &Policy, warn: &mut Warn<'_>) {
    let schedule = &policy.schedule;
    let something = *schedule != Schedule { zone: schedule.zone, ..Schedule::default() };
    if something && schedule.full.is_none() && schedule.incremental.is_none() {
        warn("the schedule makes no points".to_owned(), "add full = \"0 2 * * *\" under [schedule]");
    }
    if schedule.full.is_none() && schedule.incremental.is_some() {
        warn(
            "increments are scheduled, but no full point: every restore reads all changes since the first one"
                .to_owned(),
            "add full = \"0 2 * * *\" under [schedule]",
        );
    }
    match (policy.retention.window, schedule.capture) {
        (Some(window), None) => warn(
            format!(
                "a window of {} needs capture: without it, only the points in it can be restored",
                units::duration(window)
            ),
            "add capture = \"10s\" under [schedule], or remove window",
        ),
        (Some(window), Some(capture)) if window < capture => {
            warn("the window is shorter than one period of capture".to_owned(), "make window longer, as in \"7d\"");
        }
        _ => {}
    }
}

/// Rules that the schedule cannot fill.
fn retention(policy: &Policy, gaps: Option<Gaps>, warn: &mut Warn<'_>) {
    let rules = &policy.retention;
    if !rules.removes() && (rules.window.is_some() || rules.min_verified > 1) {
        warn(
            "[retention] has no rule that says what to keep: nothing is ever removed".to_owned(),
            "add last, hourly, daily, weekly, monthly, yearly or within",
        );
    }
    let Some(gaps) = gaps else { return };
    let apart = units::duration(gaps.shortest);
    for rule in Rule::ALL {
        let Rule::Of(unit) = rule else { continue };
        let (name, count) = (rule.name(), rules.count(rule));
        // Points further apart than its periods: each is the only one of its own.
        if count > 1 && gaps.shortest > length(unit) {
            warn(
                format!(
                    "{name} = {count} can never be met: points come {apart} apart, so it keeps {count} of those instead"
                ),
                "use the rule that fits the schedule, or last, or schedule points more often",
            );
        }
    }
    if let Some(within) = rules.within.filter(|within| *within < gaps.shortest) {
        let within = units::duration(within);
        warn(
            format!("within {within} never keeps more than the newest point: points come {apart} apart"),
            "make within longer, or schedule points more often",
        );
    }
}

/// The longest that a period can be.
const fn length(unit: Unit) -> Duration {
    const DAY_S: u64 = 86_400;
    Duration::from_secs(match unit {
        Unit::Hour => 3600,
        // The day on which clocks go back.
        Unit::Day => DAY_S + 3600,
        Unit::Week => 7 * DAY_S + 3600,
        Unit::Month => 31 * DAY_S + 3600,
        Unit::Year => 366 * DAY_S + 3600,
    })
}

/// What this host cannot do with what it stores.
fn reading(policy: &Policy, warn: &mut Warn<'_>) {
    if policy.reads_data() {
        return;
    }
    let proves = policy.schedule.verify.as_ref().is_some_and(|verify| verify.level > SEALED_LEVEL_MAX);
    let jobs = [(proves, "verification at level 3"), (policy.schedule.drill.is_some(), "drills")];
    for (_, job) in jobs.iter().filter(|(scheduled, _)| *scheduled) {
        warn(
            format!("{job} will not run on this host: data is encrypted, and the policy names no identity"),
            "schedule it on a host that may read, in a policy with identity = \"/path\" under [repository]",
        );
    }
}

/// What is never looked at again.
fn verification(policy: &Policy, warn: &mut Warn<'_>) {
    const ADD: &str = "add verify = { level = 3, cron = \"30 3 * * *\" } under [schedule]";
    let schedule = &policy.schedule;
    let makes_points = schedule.full.is_some() || schedule.incremental.is_some();
    match &schedule.verify {
        None => {
            if makes_points {
                warn(
                    "no verification is scheduled: points are never read again before they are needed".to_owned(),
                    ADD,
                );
            }
            if policy.retention.min_verified > 1 {
                let floor = policy.retention.min_verified;
                warn(format!("min_verified = {floor}, but nothing is scheduled that verifies what is stored"), ADD);
            }
        }
        Some(verify) if verify.level < VERIFIED_LEVEL_MIN => warn(
            format!(
                "verification at level {} finds objects that are missing, not those that are damaged",
                verify.level
            ),
            "use level 2, which reads every byte, or 3",
        ),
        Some(_) => {}
    }
    if schedule.drill.is_some() && !makes_points {
        warn(
            "drills are scheduled, but no points to rehearse with".to_owned(),
            "add full = \"0 2 * * *\" under [schedule]",
        );
    }
    if schedule.drill.is_some() && policy.objectives.rto.is_none() {
        warn(
            "drills are scheduled, but no rto says how long a restore may take".to_owned(),
            "add rto = \"15m\" under [objectives]",
        );
    }
}

/// Promises that cannot be kept, or that nothing measures.
fn objectives(policy: &Policy, gaps: Option<Gaps>, warn: &mut Warn<'_>) {
    let schedule = &policy.schedule;
    if policy.objectives.rto.is_some() && schedule.drill.is_none() {
        warn(
            "rto is promised, but no drill is scheduled that measures it".to_owned(),
            "add drill = \"0 5 * * sun\" under [schedule]",
        );
    }
    let Some(rpo) = policy.objectives.rpo else { return };
    // What may be lost is what came since the last capture or point.
    let exposed = [schedule.capture, gaps.map(|gaps| gaps.longest)].into_iter().flatten().min();
    match exposed {
        Some(exposed) if exposed > rpo => warn(
            format!(
                "rpo = {} can never be met: up to {} pass between points or captures",
                units::duration(rpo),
                units::duration(exposed)
            ),
            "add capture = \"10s\" under [schedule], or schedule points more often",
        ),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::clock::parse_rfc3339;
    use crate::policy::parse;

    /// The first words of each warning.
    fn warned(tables: &str) -> Vec<String> {
        let cluster = "[cluster]\nname = \"a\"\nendpoints = [\"http://a:2379\"]\n";
        let text = format!("{cluster}[repository]\nurl = \"file:///b\"\nencryption = \"none\"\n{tables}");
        let policy = parse(&text, "p.toml").unwrap();
        let warnings = warnings(&policy, parse_rfc3339("2026-11-20T12:00:00Z").unwrap());
        assert!(warnings.iter().all(|warning| !warning.hint.is_empty()));
        warnings.into_iter().map(|warning| warning.what).collect()
    }

    const GOOD: &str = "[schedule]\nfull = \"0 2 * * *\"\nincremental = \"0 * * * *\"\ncapture = \"10s\"\n\
                        verify = { level = 3, cron = \"30 3 * * *\" }\ndrill = \"0 5 * * SUN\"\n\
                        [retention]\nlast = 6\nhourly = 24\ndaily = 7\nweekly = 5\nmonthly = 12\nyearly = 2\n\
                        within = \"3d\"\nwindow = \"7d\"\nmin_verified = 2\n[objectives]\nrpo = \"1m\"\nrto = \"15m\"\n";

    #[test]
    fn a_policy_that_fits_together_gets_no_advice() {
        assert_eq!(warned(GOOD), Vec::<String>::new());
        assert_eq!(warned(""), Vec::<String>::new(), "timers of the host do what the policy does not schedule");
    }

    /// Each change of the good policy, and the warnings that it brings.
    #[test]
    fn each_thing_that_does_not_fit_is_named() {
        let no_verify = "no verification is scheduled: points are never read again before they are needed";
        for (from, to, expected) in [
            (
                "capture = \"10s\"\n",
                "",
                &["a window of 7 d 0 h needs capture", "rpo = 1 min 00 s can never be met: up to 1 h 00 min"][..],
            ),
            ("window = \"7d\"", "window = \"5s\"", &["the window is shorter than one period of capture"]),
            ("full = \"0 2 * * *\"\n", "", &["increments are scheduled, but no full point"]),
            (
                "full = \"0 2 * * *\"\nincremental = \"0 * * * *\"\n",
                "",
                &["the schedule makes no points", "drills are scheduled, but no points to rehearse with"],
            ),
            ("incremental = \"0 * * * *\"\n", "", &["hourly = 24 can never be met: points come 1 d 0 h apart"]),
            (
                "full = \"0 2 * * *\"\nincremental = \"0 * * * *\"\n",
                "full = \"0 2 * * 1\"\n",
                &[
                    "hourly = 24 can never be met: points come 7 d 0 h apart",
                    "daily = 7 can never be met",
                    "within 3 d 0 h never keeps more than the newest point",
                ],
            ),
            ("verify = { level = 3, cron = \"30 3 * * *\" }\n", "", &[no_verify, "min_verified = 2, but nothing"]),
            ("level = 3", "level = 1", &["verification at level 1 finds objects that are missing"]),
            ("drill = \"0 5 * * SUN\"\n", "", &["rto is promised, but no drill is scheduled"]),
            ("rto = \"15m\"\n", "", &["drills are scheduled, but no rto says"]),
            ("rpo = \"1m\"", "rpo = \"9s\"", &["rpo = 9.0 s can never be met: up to 10.0 s"]),
            (
                "last = 6\nhourly = 24\ndaily = 7\nweekly = 5\nmonthly = 12\nyearly = 2\nwithin = \"3d\"\n",
                "",
                &["[retention] has no rule that says what to keep"],
            ),
        ] {
            assert!(GOOD.contains(from), "{from}");
            let got = warned(&GOOD.replacen(from, to, 1));
            let fits = got.len() == expected.len() && got.iter().zip(expected).all(|(got, want)| got.starts_with(want));
            assert!(fits, "{from:?} -> {to:?}: {got:#?}");
        }
    }
}
