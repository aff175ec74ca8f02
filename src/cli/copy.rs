//! `copy`: whole points into a second repository.

use serde::Serialize;

use crate::base::error::{Error, Kind, Result};
use crate::base::units;
use crate::cli::args;
use crate::cli::output::{facts, table};
use crate::cli::progress::Show;
use crate::cli::run::{Context, Ended};
use crate::cli::target::{Place, policy};
use crate::policy::Bucket;
use crate::vault::catalog::Point;
use crate::vault::copy::{Copied, Outcome, copy as copy_points};
use crate::vault::layout::PointName;
use crate::vault::repository::{Keys, Repository};
use crate::vault::verdict::Finding;

#[derive(Serialize)]
struct Row<'a> {
    id: String,
    revision: i64,
    kind: &'static str,
    outcome: &'static str,
    findings: &'a [Finding],
}

pub(crate) async fn copy(args: args::Copy, context: &Context) -> Result<Ended> {
    #[derive(Serialize)]
    struct Shown<'a> {
        from: &'a str,
        to: &'a str,
        points: Vec<Row<'a>>,
        objects: u64,
        bytes: u64,
        objects_there: u64,
        lineages: u64,
        warnings: &'a [String],
    }
    let place = Place::of(&args.repository)?;
    let target = target(&args, &place)?;
    let same = |a: &Place, b: &Place| {
        a.url.trim_end_matches('/') == b.url.trim_end_matches('/') && a.bucket.endpoint == b.bucket.endpoint
    };
    if same(&place, &target) {
        return Err(Error::new(Kind::Usage, format!("{} would be copied onto itself", place.url))
            .hint("name another repository with --to or --to-policy"));
    }
    let (from, catalog) = place.catalog(context).await?;
    let points: Vec<&Point> = match &args.point {
        Some(selector) if !args.all => vec![catalog.select(selector)?],
        _ => catalog.points.iter().collect(),
    };
    let target = target.options(context);
    let to = match context.stop.or(Repository::open(&target)).await {
        Err(error) if error.kind() == Kind::NotFound => context.stop.or(Repository::create_or_open(&target)).await?,
        opened => opened?,
    };
    let show = Show::start(&context.progress, &context.output);
    let copied = copy_points(&from, &to, &catalog, &points, &context.progress, &context.stop).await;
    drop(show);
    let copied = copied.map_err(|error| error.or_hint("run the command again: what was copied is not sent twice"))?;
    let shown = Shown {
        from: from.url(),
        to: to.url(),
        points: rows(&copied),
        objects: copied.objects,
        bytes: copied.bytes,
        objects_there: copied.objects_there,
        lineages: copied.lineages,
        warnings: &copied.warnings,
    };
    context.output.show("copy", &shown, || render(&copied, &shown.points))?;
    copied.warnings.iter().for_each(|warning| context.output.warn(warning));
    let damaged = copied.points.iter().filter(|(_, outcome)| matches!(outcome, Outcome::Damaged(_))).count();
    if damaged > 0 {
        let all = copied.points.len();
        context
            .output
            .warn(&format!("{damaged} of {all} points do not verify and were not copied; make a new backup now"));
        return Ok(Ended::Damaged);
    }
    Ok(if copied.warnings.is_empty() { Ended::Well } else { Ended::Warned })
}

/// The second repository. Objects are copied as they are stored, so nobody's keys are needed there.
fn target(args: &args::Copy, from: &Place) -> Result<Place> {
    let (keys, cluster) = (Keys::default(), from.cluster.clone());
    let Some(file) = &args.to_policy else {
        let url = args.to.clone().expect("one of both is required");
        return Ok(Place { url, cluster, bucket: Bucket::default(), keys });
    };
    let policy = policy(file)?;
    if policy.cluster.name != cluster {
        let text = format!("{} is for cluster {:?}, not {cluster:?}", file.display(), policy.cluster.name);
        return Err(Error::new(Kind::Usage, text).hint("give a policy for the same cluster with --to-policy"));
    }
    Ok(Place { url: policy.repository.url, cluster, bucket: policy.repository.bucket, keys })
}

fn rows(copied: &Copied) -> Vec<Row<'_>> {
    copied.points.iter().map(|(name, outcome)| row(name, outcome)).collect()
}

fn row<'a>(name: &PointName, outcome: &'a Outcome) -> Row<'a> {
    let (outcome, findings): (_, &[Finding]) = match outcome {
        Outcome::Copied => ("copied", &[]),
        Outcome::AlreadyThere => ("already_there", &[]),
        Outcome::Condemned => ("condemned", &[]),
        Outcome::CondemnedThere => ("condemned_there", &[]),
        Outcome::Damaged(findings) => ("damaged", findings),
    };
    Row { id: name.attempt.to_string(), revision: name.revision, kind: name.kind.name(), outcome, findings }
}

fn render(copied: &Copied, rows: &[Row<'_>]) -> String {
    let cells = |row: &Row<'_>| {
        vec![row.id.clone(), row.revision.to_string(), row.kind.to_owned(), row.outcome.replace('_', " ")]
    };
    let mut text = table(&["POINT", "REVISION", "KIND", "RESULT"], &["REVISION"], rows.iter().map(cells).collect());
    for finding in rows.iter().flat_map(|row| row.findings) {
        text.push_str(&format!("  {}: {}: {}\n", finding.object, finding.check, finding.detail));
    }
    text.push('\n');
    text.push_str(&facts(&[
        (
            "objects",
            format!("{} sent, {} were there", units::count(copied.objects), units::count(copied.objects_there)),
        ),
        ("bytes", units::bytes(copied.bytes)),
        ("lineages", format!("{} registered", copied.lineages)),
    ]));
    text
}
