//! `backup`: one restore point now.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use crate::agent::backup::{Done, FullDue, Job, backup as make};
use crate::agent::kind::Wanted;
use crate::agent::report::{Facts, Made, Verified};
use crate::base::clock::Clock;
use crate::base::error::{Error, Kind, Result};
use crate::base::steps::{Edge, Steps};
use crate::base::stop::crash;
use crate::base::units;
use crate::cli::args;
use crate::cli::output::facts;
use crate::cli::points::{comparison_text, id_of, stored_text};
use crate::cli::progress::Show;
use crate::cli::run::{Context, Ended, hook};
use crate::cli::target::{Place, client, policy};
use crate::client::Client;
use crate::client::maintenance::choose;
use crate::policy::Policy;
use crate::policy::schedule::{CLOCK_SKEW_MAX, Job as When, Schedule};
use crate::snapshot::encode::BLOCK_BYTES_MAX;
use crate::vault::manifest::{Comparison, Manifest};
use crate::vault::put::{Limits, PutStats};
use crate::vault::repository::Repository;
use crate::vault::verdict::Outcome;

/// Without a schedule, a full point is due this many hours after the last one.
const FULL_EVERY_H: i64 = 24;

/// The variable that makes a backup end at one of its durable steps, as a kill there would: `NUMBER:before` or
/// `NUMBER:after`. Only the crash tests set it.
const CRASH_VARIABLE: &str = "HOLDFAST_TEST_CRASH_AT";

/// The variable that cuts objects smaller: raw bytes of an object. Only tests set it, for points of many objects.
const OBJECT_VARIABLE: &str = "HOLDFAST_TEST_OBJECT_BYTES";

/// How a point is made, beside what its policy says.
pub(crate) struct Way {
    pub(crate) kind: Wanted,
    pub(crate) stall: Duration,
    pub(crate) scratch: PathBuf,
    pub(crate) limits: Limits,
}

pub(crate) async fn backup(args: args::Backup, told: &mut Facts, context: &Context) -> Result<Ended> {
    let limits = limits()?;
    let policy = policy(&args.policy)?;
    let way = Way { kind: args.kind.into(), stall: args.patience.stall, scratch: args.scratch.folder, limits };
    let done = point(&policy, way, context).await?;
    show(&done, summary, told, context)
}

/// Makes one point of the cluster that the policy names.
pub(crate) async fn point(policy: &Policy, way: Way, context: &Context) -> Result<Done> {
    let client = client(policy, way.stall)?;
    let place = Place::of_policy(policy)?;
    let repository = context.stop.or(open(&place, &client, context)).await?;
    let job = Job {
        cluster: place.cluster,
        wanted: way.kind,
        full_due: full_due(&policy.schedule, &repository.clock()),
        hash_on_leader: policy.cluster.hash_on_leader,
        scratch: way.scratch,
        limits: way.limits,
        steps: steps(),
        stop: context.stop.clone(),
        progress: context.progress.clone(),
    };
    let show = Show::start(&context.progress, &context.output);
    let done = make(&client, &repository, &job).await;
    drop(show);
    done.map_err(in_member)
}

/// Shows a point, to people as `text` has it; what others are told of it; and how making it ended.
pub(crate) fn show(
    done: &Done,
    text: impl FnOnce(&Done, f64) -> String,
    told: &mut Facts,
    context: &Context,
) -> Result<Ended> {
    #[derive(Serialize)]
    struct Stage {
        name: &'static str,
        duration_s: f64,
    }
    #[derive(Serialize)]
    struct Shown<'a> {
        point: String,
        kind_reason: &'a str,
        new_objects: u64,
        new_stored_bytes: u64,
        manifest: &'a Manifest,
        warnings: &'a [String],
        verified_level: u8,
        verified: bool,
        stages: Vec<Stage>,
        duration_s: f64,
    }
    *told = facts_of(done);
    let shown = Shown {
        point: done.name.attempt.to_string(),
        kind_reason: &done.kind_reason,
        new_objects: done.stats.objects - done.stats.already_there,
        new_stored_bytes: done.stats.stored_bytes,
        manifest: &done.manifest,
        warnings: &done.warnings,
        verified_level: done.verdict.level,
        verified: done.verdict.result == Outcome::Ok,
        stages: done.stages.iter().map(|&(name, duration_s)| Stage { name, duration_s }).collect(),
        duration_s: done.stages.iter().map(|stage| stage.1).sum(),
    };
    context.output.show("backup", &shown, || text(done, shown.duration_s))?;
    done.warnings.iter().for_each(|warning| context.output.warn(warning));
    done.verdict.as_result()?;
    Ok(ended(done, context))
}

/// How the command ends with a point that verifies: by what the cluster's own hash said, then by the warnings.
fn ended(done: &Done, context: &Context) -> Ended {
    match done.manifest.comparison() {
        Comparison::Differs => {
            context
                .output
                .warn("the point differs from the live cluster: it is kept and marked; compare the members' hashes");
            Ended::Damaged
        }
        Comparison::NotCompared if !done.excused => {
            context.output.warn("the point could not be compared with the live cluster");
            Ended::Warned
        }
        _ if done.warnings.is_empty() => Ended::Well,
        _ => Ended::Warned,
    }
}

/// What others are told of the point.
fn facts_of(done: &Done) -> Facts {
    let (manifest, counts) = (&done.manifest, &done.manifest.counts);
    let compared = match manifest.comparison() {
        Comparison::Equal => "equal",
        Comparison::Differs => "differs",
        Comparison::NotCompared => "not_compared",
    };
    let made = Made {
        point: done.name.attempt.to_string(),
        kind: manifest.kind.to_string(),
        revision: manifest.descriptor.revision,
        time: manifest.started,
        keys: counts.live_keys,
        raw_bytes: counts.raw_bytes,
        stored_bytes: counts.stored_bytes,
        new_stored_bytes: done.stats.stored_bytes,
        compared,
    };
    let failed = u64::from(done.verdict.result != Outcome::Ok);
    let uncompared = manifest.comparison() == Comparison::NotCompared && !done.excused;
    Facts {
        made: Some(made),
        verified: Some(Verified { level: done.verdict.level, points: 1, failed }),
        warnings: done.warnings.len() as u64 + u64::from(uncompared),
        objectives: vec![],
    }
}

/// A full point is due when the policy's schedule says so; without one, a day after the last was begun.
fn full_due(schedule: &Schedule, clock: &Clock) -> Arc<FullDue> {
    let (schedule, now) = (schedule.clone(), clock.now());
    Arc::new(move |last| match schedule.of(When::Full) {
        Some(_) => schedule.due(When::Full, Some(last), now).is_some(),
        // One of the future was dated by a wrong clock: it says nothing.
        None => last > now + CLOCK_SKEW_MAX || (now - last).num_hours() >= FULL_EVERY_H,
    })
}

/// What to do next about damage met on the way, where the error does not say.
fn in_member(error: Error) -> Error {
    match error.kind() {
        Kind::Damaged => error.or_hint(
            "no point was published; one member's database may be damaged: compare the members with `etcdctl endpoint \
             hashkv --cluster`, and run `holdfast check` on the repository",
        ),
        _ => error,
    }
}

/// Opens the repository. A new one is made only for a cluster that answers: a wrong endpoint leaves nothing behind.
async fn open(place: &Place, client: &Client, context: &Context) -> Result<Repository> {
    let options = place.options(context);
    match Repository::open(&options).await {
        Err(error) if error.kind() == Kind::NotFound => {
            choose(&client.survey().await?.members)?;
            Repository::create_or_open(&options).await
        }
        opened => opened?.into_writable(&options).await,
    }
}

fn summary(done: &Done, duration_s: f64) -> String {
    let manifest = &done.manifest;
    let counts = &manifest.counts;
    let stages = done.stages.iter().map(|(name, s)| format!("{name} {s:.1}")).collect::<Vec<_>>().join(", ");
    facts(&[
        ("point", id_of(&done.name)),
        ("cluster", manifest.cluster.clone()),
        ("kind", format!("{} ({})", manifest.kind, done.kind_reason)),
        ("revision", manifest.descriptor.revision.to_string()),
        ("keys", units::count(counts.live_keys)),
        ("compared", comparison_text(manifest)),
        ("taken from", format!("{} ({})", manifest.source.endpoint, manifest.source.chosen_because)),
        ("stored", stored_text(manifest)),
        ("objects", objects_text(&done.stats)),
        ("took", format!("{duration_s:.1} s ({stages})")),
    ])
}

fn objects_text(stats: &PutStats) -> String {
    let new = stats.objects - stats.already_there - stats.repaired;
    let repaired = if stats.repaired > 0 { format!(", {} repaired", stats.repaired) } else { String::new() };
    format!("{} ({new} new{repaired})", stats.objects)
}

/// How objects are cut: as ever, or as the tests want it.
pub(crate) fn limits() -> Result<Limits> {
    let limits = Limits::default();
    let Some(wanted) = hook(OBJECT_VARIABLE) else { return Ok(limits) };
    // A block goes into an object whole, and readers refuse what is larger than ever.
    let range = BLOCK_BYTES_MAX..=limits.object_raw_bytes_max;
    match wanted.parse() {
        Ok(bytes) if range.contains(&bytes) => Ok(Limits { object_raw_bytes_max: bytes, ..limits }),
        _ => Err(Error::new(Kind::Usage, format!("{OBJECT_VARIABLE}={wanted:?} cannot be the size of an object"))
            .hint(format!("a number of bytes from {} to {}, or unset it", range.start(), range.end()))),
    }
}

/// Durable steps, and where the crash tests want them to end.
pub(crate) fn steps() -> Steps {
    let Some(wanted) = hook(CRASH_VARIABLE) else { return Steps::unheard() };
    Steps::heard_by(move |step| {
        let edge = if step.edge == Edge::Before { "before" } else { "after" };
        if wanted == format!("{}:{edge}", step.number) {
            crash();
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::clock::parse_rfc3339;

    #[test]
    fn without_a_schedule_a_full_point_is_due_after_a_day_and_after_one_of_the_future() {
        let time = |text: &str| parse_rfc3339(text).unwrap();
        let due = full_due(&Schedule::default(), &Clock::Fixed(time("2026-11-20T12:00:00Z")));
        for (last, is_due) in [
            ("2026-11-20T11:00:00Z", false),
            ("2026-11-20T12:04:00Z", false),
            ("2026-11-19T12:00:00Z", true),
            ("2027-11-20T12:00:00Z", true),
        ] {
            assert_eq!(due(time(last)), is_due, "{last}");
        }
    }
}
