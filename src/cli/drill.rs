//! `drill`: a recovery rehearsed, and `leash`, by which its programs are started.

use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::agent::report::Facts as Told;
use crate::base::clock::Time;
use crate::base::durable::{NewFile, refuse_existing};
use crate::base::error::{Error, IoContext, Kind, Result};
use crate::base::file::free_bytes;
use crate::base::leash::become_program;
use crate::base::units;
use crate::cli::args;
use crate::cli::output::{facts, table};
use crate::cli::progress::Show;
use crate::cli::run::{Context, Ended};
use crate::cli::target::{Place, in_point, policy};
use crate::policy::Policy;
use crate::recovery::drill::member::Programs;
use crate::recovery::drill::page;
use crate::recovery::drill::plan::{Facts, Plan, plan, render};
use crate::recovery::drill::report::{Measured, Outcome, Report, Verdict};
use crate::recovery::drill::{Request, run, store};
use crate::recovery::facts::target;
use crate::vault::admit::{Admitted, admit, newest};
use crate::vault::catalog::Catalog;
use crate::vault::manifest::Manifest;
use crate::vault::repository::Repository;

const HINT_SCRATCH: &str = "name a folder on a local disk that this user may write to with --scratch";
/// Mode of a report: it holds no secret, but says much about a cluster.
const REPORT_MODE: u32 = 0o600;

pub(crate) async fn drill(args: args::Drill, told: &mut Told, context: &Context) -> Result<Ended> {
    #[derive(Serialize)]
    struct Planned<'a> {
        plan: &'a Plan,
    }
    #[derive(Serialize)]
    struct Shown<'a> {
        report: &'a Report,
        stored: Option<String>,
        warnings: &'a [String],
    }
    if let Some(path) = &args.report {
        refuse_existing(path)?;
        target(path)?;
    }
    let policy = policy(&args.policy)?;
    let (repository, catalog) = Place::of_policy(&policy)?.trusting(&args.trust)?.catalog(context).await?;
    let name = &catalog.select(args.point.as_deref().unwrap_or("latest"))?.name;
    let Admitted { manifest, doubt } = context.stop.or(admit(&repository, &catalog, name)).await.map_err(in_point)?;
    let newest = newest_started(&repository, &catalog, &manifest, context).await?;
    let programs = programs(&args, &policy)?;
    let etcd_version = match &programs {
        Some(programs) => Some(programs.version(&context.stop).await?),
        None => None,
    };
    let scratch = args.scratch.folder.clone();
    let free_bytes = free_bytes(&scratch).map_err(|error| error.kind_of(Kind::Usage).hint(HINT_SCRATCH))?;
    let (doubt, version) = (doubt.as_deref(), etcd_version.as_deref());
    let facts = Facts { manifest: &manifest, doubt, etcd_version: version, scratch: &scratch, free_bytes };
    let plan = plan(&facts)?;
    if args.dry_run {
        context.output.show("drill_plan", &Planned { plan: &plan }, || render(&plan))?;
        return Ok(Ended::Well);
    }
    let request = Request {
        programs,
        etcd_version: etcd_version.unwrap_or_default(),
        scratch,
        objectives: policy.objectives,
        newest,
        plan,
        clock: context.clock,
        progress: context.progress.clone(),
        stop: context.stop.clone(),
    };
    let show = Show::start(&context.progress, &context.output);
    let report = run(&repository, &manifest, &request).await;
    drop(show);
    let mut report = report?;
    let mut warnings = vec![];
    let stored = match store(&repository, &manifest.name(), &mut report).await {
        Ok(at) => Some(at.to_string()),
        Err(error) => {
            warnings.push(format!("the report could not be stored: {}", error.as_warning()));
            None
        }
    };
    if let Some(path) = &args.report {
        // What was found is told all the same.
        warnings.extend(write(path, &page::render(&report)).err().map(|error| error.as_warning()));
    }
    told.warnings = warnings.len() as u64;
    told.objectives = objectives(&report.measured);
    let shown = Shown { report: &report, stored, warnings: &warnings };
    context.output.show("drill", &shown, || summary(&report, shown.stored.as_deref()))?;
    warnings.iter().chain(&report.measured.missed).for_each(|warning| context.output.warn(warning));
    Ok(match report.outcome {
        Outcome::Failed => Ended::Damaged,
        Outcome::Passed if warnings.is_empty() => Ended::Well,
        Outcome::Passed | Outcome::Missed => Ended::Warned,
    })
}

/// When the newest point was begun that a recovery could use: what came after it would be lost.
async fn newest_started(
    repository: &Repository,
    catalog: &Catalog,
    drilled: &Manifest,
    context: &Context,
) -> Result<Time> {
    catalog.select("latest")?;
    let current = catalog.points.iter().rev().filter(|point| catalog.current == Some(point.name.lineage));
    let found = context.stop.or(newest(repository, current)).await?;
    Ok(found.map_or(drilled.started, |found| found.started))
}

/// The objectives that the policy has, and whether each is missed.
fn objectives(measured: &Measured) -> Vec<(&'static str, bool)> {
    let Measured { rpo_allowed_s, rpo_s, rto_allowed_s, rto_s, .. } = *measured;
    let rpo = rpo_allowed_s.map(|allowed_s| ("rpo", rpo_s > allowed_s));
    let rto = rto_allowed_s.map(|allowed_s| ("rto", rto_s.is_none_or(|took_s| took_s > allowed_s)));
    rpo.into_iter().chain(rto).collect()
}

/// Becomes another program. Whoever calls this is a drill.
pub(crate) fn leash(args: &args::Leash) -> Error {
    become_program(args.parent, &args.program, &args.args)
}

/// The programs that flags or the policy name; none without etcd.
fn programs(args: &args::Drill, policy: &Policy) -> Result<Option<Programs>> {
    let Some(etcd) = args.etcd.clone().or_else(|| policy.drill.etcd.clone()) else {
        if args.etcdutl.is_some() {
            return Err(Error::new(Kind::Usage, "etcdutl is given without etcd").hint("add --etcd, or [drill] etcd"));
        }
        return Ok(None);
    };
    let named = args.etcdutl.clone().or_else(|| policy.drill.etcdutl.clone());
    let etcdutl = named.unwrap_or_else(|| etcd.with_file_name("etcdutl"));
    let leash = std::env::current_exe().during(|| "find this program's own file".to_owned())?;
    Ok(Some(Programs { etcd: absolute(&etcd)?, etcdutl: absolute(&etcdutl)?, leash }))
}

fn absolute(path: &Path) -> Result<PathBuf> {
    std::path::absolute(path).during(|| format!("resolve {}", path.display()))
}

fn write(path: &Path, page: &str) -> Result<()> {
    let mut file = NewFile::create(path, REPORT_MODE)?;
    file.append(page.as_bytes())?;
    file.commit()
}

fn summary(report: &Report, stored: Option<&str>) -> String {
    let rows = report.proofs.iter().map(|proof| {
        let (result, seen) = match proof.verdict {
            Verdict::Equal => ("ok", proof.found.clone()),
            Verdict::Differs => ("FAILED", format!("{}; expected: {}", proof.found, proof.expected)),
            Verdict::Skipped => ("not proved", proof.found.clone()),
        };
        vec![proof.what.clone(), result.to_owned(), seen]
    });
    let mut text = format!("{}\n\n", page::verdict(report));
    text.push_str(&table(&["PROOF", "RESULT", "FOUND"], &[], rows.collect()));
    text.push('\n');
    let seconds = |s: f64| units::duration(std::time::Duration::from_secs_f64(s));
    let stages: Vec<String> = report.stages.iter().map(|s| format!("{}: {}", s.name, seconds(s.duration_s))).collect();
    text.push_str(&facts(&[
        ("drilled", report.plan.source.clone()),
        ("would be lost (RPO)", seconds(report.measured.rpo_s)),
        ("until it serves (RTO)", report.measured.rto_s.map_or("not measured".to_owned(), seconds)),
        ("stages", stages.join("\n")),
        ("not proved", report.not_proved.join("\n")),
        ("report", stored.unwrap_or("not stored").to_owned()),
    ]));
    text
}
