//! `restore` and `export`: facts, plan, confirmation, execution, report.

use std::path::Path;

use serde::Serialize;

use crate::base::clock::Time;
use crate::base::error::{Error, Kind, Result};
use crate::base::file::ReadAt;
use crate::base::id;
use crate::base::stop::blocking;
use crate::base::units;
use crate::cli::args;
use crate::cli::member;
use crate::cli::output::facts as lines;
use crate::cli::progress::Show;
use crate::cli::run::{Context, Ended, confirm};
use crate::cli::snapshot::{Trailer, check_trailer};
use crate::cli::target::{Place, in_file, in_point, snapshot_file};
use crate::recovery::facts::{self, Facts, Side, TargetFacts, Trust};
use crate::recovery::plan::{Bump, Plan, Request, parse_initial_cluster, plan, render};
use crate::recovery::report::Report;
use crate::recovery::restore::{Written, from_file, from_point};
use crate::snapshot::bbolt;
use crate::snapshot::bbolt::read::{Db, split_trailer};
use crate::vault::admit::{Admitted, admit};
use crate::vault::catalog::is_damage;
use crate::vault::layout::PointName;
use crate::vault::manifest::Manifest;
use crate::vault::repository::Repository;
use crate::vault::verdict::{Outcome, Verdict};

/// What is restored.
pub(super) enum Origin {
    Point(Repository, Box<Admitted>),
    File(ReadAt),
}

/// What is restored, and what is known of it and of where it goes.
pub(super) struct Source {
    pub(super) origin: Origin,
    pub(super) facts: Facts,
    /// What exactly it is: the same wherever the same is restored.
    pub(super) id: String,
}

pub(crate) async fn restore(args: args::Restore, context: &Context) -> Result<Ended> {
    let path = match (&args.etcd_snapshot, &args.member.data_dir) {
        (Some(path), _) => facts::absolute(path)?,
        (None, Some(data_dir)) => return member::restore(&args, data_dir, context).await,
        (None, None) => unreachable!("the command line asks for one of them"),
    };
    let initial_cluster = args.initial_cluster.as_deref().map(parse_initial_cluster).transpose()?;
    let token = match args.initial_cluster_token.clone() {
        Some(token) => token,
        None => new_token(context.clock.now())?,
    };
    let request = Request { initial_cluster, token, bump: parse_bump(args.bump.as_deref().unwrap_or("none"))? };
    let Source { origin, facts, .. } = gather(&args, facts::target(&path)?, context).await?;
    let plan = plan(&facts, &request)?;
    let (progress, stop) = (context.progress.clone(), context.stop.clone());
    let target = path.clone();
    let execute = execute(
        origin,
        async |repository, manifest| from_point(repository, manifest, &path, &context.progress, &context.stop).await,
        move |source| from_file(source, &target, &progress, &stop),
    );
    let going = Going { document: "restore", dry_run: args.dry_run, yes: args.yes };
    let told = |report: &Report<Written>| {
        let mut text = format!("\n{}", render_report(file_rows(report), report));
        if !plan.commands.is_empty() {
            text.push_str("\nNext, on the host of each member (its data directory must not exist):\n");
            plan.commands.iter().for_each(|command| text.push_str(&format!("  {command}\n")));
        }
        text
    };
    carry_out(&plan, going, execute, told, context).await
}

/// How a plan is gone through with.
pub(super) struct Going {
    /// The type of what is shown as JSON.
    pub(super) document: &'static str,
    pub(super) dry_run: bool,
    pub(super) yes: bool,
}

/// Shows a plan, has it confirmed and executed, and shows what came of it.
pub(super) async fn carry_out<M: Serialize>(
    plan: &Plan,
    going: Going,
    execute: impl Future<Output = Result<Report<M>>>,
    told: impl FnOnce(&Report<M>) -> String,
    context: &Context,
) -> Result<Ended> {
    #[derive(Serialize)]
    struct Shown<'a, M> {
        plan: &'a Plan,
        report: Option<&'a Report<M>>,
    }
    if going.dry_run {
        context.output.show("restore_plan", &Shown::<M> { plan, report: None }, || render(plan))?;
        return Ok(Ended::Well);
    }
    if !context.output.is_json() {
        context.output.write(&render(plan))?;
    }
    confirm("Go ahead?", going.yes, context).await?;
    let show = Show::start(&context.progress, &context.output);
    let report = execute.await;
    drop(show);
    let report = report?;
    context.output.show(going.document, &Shown { plan, report: Some(&report) }, || told(&report))?;
    Ok(Ended::Well)
}

pub(crate) async fn export(args: args::Export, context: &Context) -> Result<Ended> {
    let path = facts::absolute(&args.file)?;
    facts::target(&path)?;
    let place = Place::of(&args.repository)?;
    let (repository, catalog) = place.catalog(context).await?;
    let name = catalog.select(&args.point)?.name.clone();
    let Admitted { manifest, doubt } = context.stop.or(admit(&repository, &catalog, &name)).await?;
    let show = Show::start(&context.progress, &context.output);
    let report = from_point(&repository, &manifest, &path, &context.progress, &context.stop).await.map_err(in_point);
    drop(show);
    let report = Report { doubt, ..report? };
    context.output.show("export", &report, || render_report(file_rows(&report), &report))?;
    Ok(Ended::Well)
}

/// Gathers what is known of the source.
pub(super) async fn gather(args: &args::Restore, target: TargetFacts, context: &Context) -> Result<Source> {
    match (&args.point, &args.file) {
        (None, Some(file)) => of_file(file, &args.scratch, target, context).await,
        (point, None) => {
            let now = context.clock.now();
            let place = Place::of(&args.repository)?;
            let (repository, catalog) = place.catalog(context).await?;
            let name = &catalog.select(point.as_deref().unwrap_or("latest"))?.name;
            let admitted = context.stop.or(admit(&repository, &catalog, name)).await?;
            let manifest = &admitted.manifest;
            let verified = context.stop.or(verified(&repository, name)).await?;
            let side = context.stop.or(Side::of_point(&repository, manifest, &context.stop)).await.map_err(in_point)?;
            let source = facts::of_point(&admitted, &side, verified, catalog.condemns(manifest));
            let history = context.stop.or(facts::history(&repository, &catalog, manifest, now)).await?;
            let facts = Facts { source, members: side.members, target, history, now };
            let id = format!("{}/{}", manifest.cluster, manifest.attempt);
            Ok(Source { origin: Origin::Point(repository, Box::new(admitted)), facts, id })
        }
        (Some(_), Some(_)) => unreachable!("the command line refuses both"),
    }
}

/// Gathers what is known of a snapshot file.
pub(super) async fn of_file(
    file: &Path,
    scratch: &args::Scratch,
    target: TargetFacts,
    context: &Context,
) -> Result<Source> {
    let (file, stop) = (snapshot_file(file, scratch, context).await?, context.stop.clone());
    let (file, source, side, id) = blocking(move || {
        let trust = match check_trailer(&file, &stop)? {
            Trailer::Right => Trust::Sealed,
            Trailer::Missing => Trust::Bare,
            Trailer::Wrong => {
                let text = format!("the SHA-256 behind {} is not that of its content", file.name().display());
                return Err(Error::damaged(text).hint("the file is damaged; restore another one"));
            }
        };
        let id = file.sha256(split_trailer(file.len()).0, &stop)?.to_string();
        let db = Db::open(file.clone())?;
        let name = file.name().display().to_string();
        let (source, side) = facts::of_file(&name, &bbolt::records::Source::open(&db)?, file.len(), trust);
        Ok((file, source, side, id))
    })
    .await
    .map_err(in_file)?;
    let facts = Facts { source, members: side.members, target, history: None, now: context.clock.now() };
    Ok(Source { origin: Origin::File(file), facts, id })
}

/// The newest verification of a point, and whether it passed. A verdict that cannot be read says nothing.
async fn verified(repository: &Repository, name: &PointName) -> Result<Option<(u8, bool)>> {
    match Verdict::newest(repository, name).await {
        Ok(verdict) => Ok(verdict.map(|verdict| (verdict.level, verdict.result == Outcome::Ok))),
        Err(error) if is_damage(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Restores from wherever it is.
pub(super) async fn execute<M: Send + 'static>(
    origin: Origin,
    of_point: impl AsyncFnOnce(&Repository, &Manifest) -> Result<Report<M>>,
    of_file: impl FnOnce(&bbolt::records::Source<'_, ReadAt>) -> Result<Report<M>> + Send + 'static,
) -> Result<Report<M>> {
    match origin {
        Origin::Point(repository, admitted) => {
            let Admitted { manifest, doubt } = *admitted;
            let report = of_point(&repository, &manifest).await;
            Ok(Report { doubt, ..report.map_err(in_point)? })
        }
        Origin::File(file) => blocking(move || {
            let db = Db::open(file)?;
            of_file(&bbolt::records::Source::open(&db)?)
        })
        .await
        .map_err(in_file),
    }
}

/// A token that no cluster had before.
pub(super) fn new_token(now: Time) -> Result<String> {
    Ok(format!("restored-{}-{}", now.format("%Y%m%dT%H%M%SZ"), &id::random()?[..8]))
}

pub(super) fn parse_bump(text: &str) -> Result<Bump> {
    match text {
        "none" => Ok(Bump::None),
        "auto" => Ok(Bump::Auto),
        number => number.parse().map(Bump::By).map_err(|_| {
            Error::new(Kind::Usage, format!("--bump {number:?} is neither none, auto nor a number"))
                .hint("give the number of revisions to add, `auto` or `none`")
        }),
    }
}

fn file_rows(report: &Report<Written>) -> Vec<(&'static str, String)> {
    let Written { path, sha256 } = &report.made;
    vec![("file", format!("{path} ({})", units::bytes(report.bytes))), ("SHA-256", sha256.to_string())]
}

/// What was made, in rows of its own, and what was proved of it.
pub(super) fn render_report<M>(mut rows: Vec<(&'static str, String)>, report: &Report<M>) -> String {
    rows.extend([
        ("revision", format!("{}, compacted to {}", report.revision, report.compact_revision)),
        ("live keys", units::count(report.live_keys)),
        ("HashKV", report.hash_kv.to_string()),
        ("state digest", report.state_digest.clone()),
        ("read back and equal", report.checks.join(", ")),
        ("took", format!("{:.1} s", report.duration_s)),
    ]);
    rows.extend(report.doubt.as_ref().map(|doubt| ("the point is", doubt.clone())));
    format!("Restored and proved.\n\n{}", lines(&rows))
}
