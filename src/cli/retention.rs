//! Retention at work: `prune`, `undelete`, `hold`, `release`.

use serde::Serialize;
use std::time::Duration;

use crate::base::clock::{Time, parse_format, parse_rfc3339, rfc3339};
use crate::base::error::{Error, Kind, Result};
use crate::base::steps::Steps;
use crate::base::units;
use crate::cli::args;
use crate::cli::backup::steps;
use crate::cli::output::table;
use crate::cli::points::id_of;
use crate::cli::run::{Context, Ended, confirm};
use crate::cli::target::{Place, policy};
use crate::policy::Policy;
use crate::policy::retention::{Decision, Hold};
use crate::vault::admit::admit;
use crate::vault::hold;
use crate::vault::layout::PointName;
use crate::vault::prune::{self, Pruned, Pruning, Share};

/// What was done, or would be.
#[derive(Serialize)]
struct Shown<'a> {
    cluster: &'a str,
    repository: &'a str,
    dry_run: bool,
    epoch: Option<u32>,
    time: String,
    grace_s: f64,
    held_back: Option<&'a str>,
    points: Vec<Row>,
    deleted: Part,
    deleted_lists: u64,
    condemned: Part,
    waiting: Part,
    waiting_until: Option<String>,
    spared: Vec<String>,
    warnings: Vec<String>,
}

/// One point, and what becomes of it.
#[derive(Serialize)]
struct Row {
    id: String,
    revision: i64,
    kind: String,
    time: String,
    stored_bytes: u64,
    keep: bool,
    reasons: Vec<String>,
    until: Option<String>,
}

#[derive(Serialize)]
struct Part {
    points: Vec<String>,
    objects: u64,
    bytes: u64,
}

pub(crate) async fn prune(args: args::Prune, context: &Context) -> Result<Ended> {
    let policy = policy(&args.policy)?;
    let place = Place::of_policy(&policy)?.trusting(&args.trust)?;
    let repository = place.open(context).await?;
    let pruning = Pruning {
        grace: args.grace,
        orphan_age: args.orphan_age,
        steps: steps(),
        ..Pruning::new(&policy.retention, &policy.schedule)
    };
    if args.dry_run || !args.yes {
        let looked = context.stop.or(prune::preview(&repository, &place.cluster, &pruning)).await?;
        if args.dry_run {
            return show(&looked, &policy, &args, true, context);
        }
        let nothing = Share::default();
        if looked.deleted == nothing && looked.condemned == nothing && looked.lists == 0 {
            return show(&looked, &policy, &args, true, context);
        }
        let (goes, condemned) = (share_text(&looked.deleted), share_text(&looked.condemned));
        let question = format!("delete {goes} for good, and condemn {condemned}?");
        confirm(&question, false, context).await?;
    }
    let pruned = context.stop.or(prune::prune(&repository, &place.cluster, &pruning)).await?;
    show(&pruned, &policy, &args, false, context)
}

fn show(pruned: &Pruned, policy: &Policy, args: &args::Prune, dry_run: bool, context: &Context) -> Result<Ended> {
    let id = |place: &usize| pruned.points[*place].name.attempt.to_string();
    let part = |share: &Share| Part {
        points: share.points.iter().map(id).collect(),
        objects: share.objects,
        bytes: share.bytes,
    };
    let mut warnings = pruned.warnings.clone();
    warnings.extend(pruned.plan.alarms.iter().cloned());
    warnings.extend(pruned.plan.held_back.iter().map(|why| format!("nothing more is condemned: {why}")));
    let shown = Shown {
        cluster: &policy.cluster.name,
        repository: &policy.repository.url,
        dry_run,
        epoch: pruned.epoch,
        time: rfc3339(pruned.now),
        grace_s: args.grace.as_secs_f64(),
        held_back: pruned.plan.held_back.as_deref(),
        points: pruned.plan.decisions.iter().map(|decision| row(pruned, decision)).collect(),
        deleted: part(&pruned.deleted),
        deleted_lists: pruned.lists,
        condemned: part(&pruned.condemned),
        waiting: part(&pruned.waiting),
        waiting_until: pruned.waiting_until.map(rfc3339),
        spared: pruned.spared.iter().map(id).collect(),
        warnings,
    };
    context.output.show("prune", &shown, || text(pruned, dry_run))?;
    shown.warnings.iter().for_each(|warning| context.output.warn(warning));
    Ok(if shown.warnings.is_empty() { Ended::Well } else { Ended::Warned })
}

fn row(pruned: &Pruned, decision: &Decision) -> Row {
    let point = &pruned.points[decision.point];
    Row {
        id: point.name.attempt.to_string(),
        revision: point.name.revision,
        kind: point.name.kind.to_string(),
        time: rfc3339(point.fact.taken),
        stored_bytes: point.stored_bytes,
        keep: decision.keep,
        reasons: decision.reasons.iter().map(ToString::to_string).collect(),
        until: decision.until.map(rfc3339),
    }
}

/// The same for people: every point with why it stays or where it stands on its way out, then the sums.
fn text(pruned: &Pruned, dry_run: bool) -> String {
    let header = ["ID", "TIME (UTC)", "REVISION", "KIND", "KEPT UNTIL", "WHY"];
    let rows = pruned.plan.decisions.iter().map(|decision| {
        let point = &pruned.points[decision.point];
        let (until, why) = if decision.keep {
            let until = decision.until.map_or_else(|| "-".to_owned(), minute);
            (until, decision.reasons.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))
        } else {
            ("-".to_owned(), fate(pruned, decision.point, dry_run))
        };
        let name = &point.name;
        vec![id_of(name), minute(point.fact.taken), name.revision.to_string(), name.kind.to_string(), until, why]
    });
    let mut text = if pruned.points.is_empty() { String::new() } else { table(&header, &["REVISION"], rows.collect()) };
    let would = if dry_run { "would be " } else { "" };
    text.push_str(&format!("{would}deleted: {}\n", share_text(&pruned.deleted)));
    text.push_str(&format!("{would}condemned: {}\n", share_text(&pruned.condemned)));
    if let Some(until) = pruned.waiting_until {
        text.push_str(&format!("condemned before: {}, until {}\n", share_text(&pruned.waiting), rfc3339(until)));
    }
    text
}

fn fate(pruned: &Pruned, place: usize, dry_run: bool) -> String {
    let has = |share: &Share| share.points.contains(&place);
    let word = match (has(&pruned.deleted), has(&pruned.waiting)) {
        (true, _) => "deleted",
        (false, true) => "condemned before",
        (false, false) => "condemned",
    };
    let would = if dry_run && !has(&pruned.waiting) { "would be " } else { "" };
    format!("{would}{word}: no rule keeps it")
}

fn minute(time: Time) -> String {
    time.format("%Y-%m-%d %H:%M").to_string()
}

/// Points, objects and bytes, for people.
pub(crate) fn share_text(share: &Share) -> String {
    let (points, objects) = (units::count(share.points.len() as u64), units::count(share.objects));
    format!("{points} points, {objects} objects, {}", units::bytes(share.bytes))
}

pub(crate) async fn undelete(args: args::NamedPoint, context: &Context) -> Result<Ended> {
    #[derive(Serialize)]
    struct Back {
        point: String,
        revision: i64,
        objects: u64,
        lists: u64,
    }
    let place = Place::of(&args.repository)?;
    let (repository, catalog) = place.catalog(context).await?;
    let name = catalog.select(&args.point)?.name.clone();
    let back = prune::undelete(&repository, &name, &Steps::unheard(), &context.stop).await?;
    let shown =
        Back { point: name.attempt.to_string(), revision: name.revision, objects: back.objects, lists: back.lists };
    context.output.show("undelete", &shown, || format!("point {} is taken back\n", name.attempt))?;
    context.output.remark("the next `holdfast prune` judges it by the same rules: `holdfast hold` keeps it for good");
    Ok(Ended::Well)
}

/// What is said about a point.
#[derive(Serialize)]
struct Said {
    point: String,
    revision: i64,
    held: bool,
    until: Option<String>,
    reason: Option<String>,
}

pub(crate) async fn hold(args: args::Hold, context: &Context) -> Result<Ended> {
    let until = args.until.as_deref().map(moment).transpose()?;
    if let Some(until) = until.filter(|until| *until <= context.clock.now()) {
        return Err(Error::new(Kind::Usage, format!("{} is past", rfc3339(until)))
            .hint("give a date to come, or none to hold the point until it is released"));
    }
    say(&args.point, &args.repository, Some(Hold { until }), args.reason.as_deref(), context).await
}

pub(crate) async fn release(args: args::NamedPoint, context: &Context) -> Result<Ended> {
    say(&args.point, &args.repository, None, None, context).await
}

async fn say(
    point: &str,
    repository: &args::Repository,
    hold: Option<Hold>,
    reason: Option<&str>,
    context: &Context,
) -> Result<Ended> {
    let place = Place::of(repository)?;
    let (repository, catalog) = place.catalog(context).await?;
    let point = catalog.select(point)?;
    let (name, condemned): (PointName, bool) = (point.name.clone(), point.condemned);
    if hold.is_some() {
        // Whoever holds a point relies on it. One that is damaged may be put right by a copy.
        match context.stop.or(repository.stored_manifest(&name)).await {
            Ok(_) => drop(context.stop.or(admit(&repository, &catalog, &name)).await?),
            Err(error) if error.kind() == Kind::Damaged => {}
            Err(error) => return Err(error),
        }
    }
    let said = context.stop.or(hold::say(&repository, &name, hold.as_ref(), reason)).await?;
    let shown = Said {
        point: name.attempt.to_string(),
        revision: name.revision,
        held: said.held,
        until: said.until.map(rfc3339),
        reason: said.reason,
    };
    let kind = if shown.held { "hold" } else { "release" };
    context.output.show(kind, &shown, || match (shown.held, &shown.until) {
        (true, Some(until)) => format!("point {} is held until {until}\n", shown.point),
        (true, None) => format!("point {} is held until it is released\n", shown.point),
        (false, _) => format!("point {} is not held\n", shown.point),
    })?;
    match (condemned, said.held) {
        (true, true) => context.output.remark("it was condemned before: the next `holdfast prune` spares it"),
        (true, false) => context.output.remark(
            "it is condemned: `holdfast prune` deletes it once its grace is over, `holdfast undelete` takes it back",
        ),
        (false, _) => {}
    }
    Ok(Ended::Well)
}

/// A moment, or the end of a day in UTC.
fn moment(text: &str) -> Result<Time> {
    const DAY: Duration = Duration::from_hours(24);
    match parse_format(&format!("{text} 00:00:00"), "%Y-%m-%d %H:%M:%S") {
        Some(start) => Ok(start + DAY),
        None => parse_rfc3339(text)
            .map_err(|error| error.hint("write a day, as in 2027-01-31, or a moment, as in 2027-01-31T12:00:00Z")),
    }
}
