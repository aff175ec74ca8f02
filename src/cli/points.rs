//! The repository: `list`, `show`, `verify`, `check`.

use serde::Serialize;
use std::time::Duration;

use crate::agent::report::{Facts, Verified};
use crate::base::clock::rfc3339;
use crate::base::error::{Error, Kind, Result};
use crate::base::units;
use crate::cli::args;
use crate::cli::output::{facts, table};
use crate::cli::progress::Show;
use crate::cli::run::{Context, Ended};
use crate::cli::target::{Place, cache_folder, policy};
use crate::policy::objective::{Measured, Objectives};
use crate::policy::schedule::VERIFY_LEVEL_DEFAULT;
use crate::vault::admit::newest;
use crate::vault::catalog::{Catalog, Point, is_damage};
use crate::vault::hold;
use crate::vault::layout::PointName;
use crate::vault::manifest::{Comparison, Manifest};
use crate::vault::probe::{ProbeCheck, patience, probe};
use crate::vault::prove::ProvePoint;
use crate::vault::repository::Repository;
use crate::vault::scrub::{Examiner, Verification, verify as scrub};
use crate::vault::sign::{Signers, Standing};
use crate::vault::summary::{self, Cache, FRESH_MAX};
use crate::vault::verdict::{Level, Outcome, Verdict};

/// Digits of a point's id that are shown.
const ID_DIGITS: usize = 8;

/// Objects that `show` lists; there may be thousands.
const OBJECTS_SHOWN: usize = 20;
/// Digits of an object's digest that are shown: enough to find its file.
const DIGEST_DIGITS: usize = 16;

/// How a point is called in tables: the first digits of its attempt.
pub(crate) fn id_of(name: &PointName) -> String {
    name.attempt.to_string()[..ID_DIGITS].to_owned()
}

/// The streams that a point is made of.
fn chain_text(manifest: &Manifest) -> String {
    match &manifest.segments[..] {
        [full] => format!("a full point at revision {}", full.revision),
        [full, first, .., last] => {
            let increments = manifest.segments.len() - 1;
            let (full, first, last) = (full.revision, first.revision, last.revision);
            format!("a full point at revision {full}, {increments} increments at {first} to {last}")
        }
        [full, increment] => {
            format!("a full point at revision {}, an increment at {}", full.revision, increment.revision)
        }
        [] => String::new(),
    }
}

/// What a point takes, of what it holds; of a chain, also what the point itself added.
pub(crate) fn stored_text(manifest: &Manifest) -> String {
    let counts = &manifest.counts;
    #[expect(clippy::cast_precision_loss, reason = "a ratio is shown with two digits")]
    let ratio = counts.raw_bytes as f64 / counts.stored_bytes.max(1) as f64;
    let (stored, raw) = (units::bytes(counts.stored_bytes), units::bytes(counts.raw_bytes));
    let whole = format!("{stored} of {raw} ({ratio:.1}x)");
    if manifest.segments.len() == 1 {
        return whole;
    }
    let own: u64 = manifest.own_objects().iter().map(|entry| entry.stored_bytes).sum();
    format!("{} more; the whole chain {whole}", units::bytes(own))
}

/// How a point compared with the live cluster, in words.
pub(crate) fn comparison_text(manifest: &Manifest) -> String {
    let hash = &manifest.proofs.hash_at_source;
    let reason = hash.reason.as_deref().unwrap_or_default();
    match hash.verdict {
        Comparison::Equal => format!("equal to the live cluster (HashKV {})", hash.hash.unwrap_or_default()),
        Comparison::Differs => format!("DIFFERS from the live cluster: {reason}"),
        Comparison::NotCompared => format!("not compared: {reason}"),
    }
}

fn digest_text(manifest: &Manifest) -> String {
    let (digest, same) = (manifest.proofs.state_digest, manifest.proofs.digest_at_source.is_some());
    format!("{digest}{}", if same { ", as the member itself keeps it" } else { "" })
}

pub(crate) async fn list(args: args::List, context: &Context) -> Result<Ended> {
    #[derive(Serialize)]
    struct Listed<'a> {
        cluster: &'a str,
        repository: &'a str,
        points: Vec<Row>,
        damage: Vec<String>,
    }
    let place = Place::of(&args.repository)?;
    let (repository, mut catalog) = place.catalog(context).await?;
    let cache = Cache::below(args.cache.or_else(cache_folder));
    let fresh_max = if args.all { usize::MAX } else { FRESH_MAX };
    let told = context.stop.or(summary::rows(&repository, &mut catalog, &cache, fresh_max)).await?;
    let later = told.iter().filter(|row| !row.complete).count() as u64;
    let holds = context.stop.or(hold::read(&repository, &catalog.cluster)).await?;
    let held = |point: &Point| holds.is_held(&point.name.stem(), context.clock.now());
    let signers = repository.signers();
    let rows = catalog.points.iter().zip(&told).map(|(point, row)| Row::of(point, row, &catalog, held(point), signers));
    let rows: Vec<Row> = rows.collect();
    let damage: Vec<String> = catalog.damage().chain(&holds.damage).map(Error::as_warning).collect();
    let damaged = rows.iter().any(|row| row.damage.is_some()) || !damage.is_empty();
    let listed = Listed { cluster: &catalog.cluster, repository: &catalog.url, points: rows, damage };
    context.output.show("list", &listed, || {
        let header = ["ID", "TIME (UTC)", "REVISION", "KIND", "KEYS", "STORED", "COMPARED", "VERIFIED", "NOTE"];
        let mut rows: Vec<Vec<String>> = listed.points.iter().map(Row::cells).collect();
        // Without notes the table fits 80 columns.
        let noted = rows.iter().any(|row| row.last().is_some_and(|note| !note.is_empty()));
        let columns = if noted { header.len() } else { header.len() - 1 };
        rows.iter_mut().for_each(|row| row.truncate(columns));
        table(&header[..columns], &["REVISION", "KEYS", "STORED"], rows)
    })?;
    listed.damage.iter().for_each(|text| context.output.warn(text));
    if later > 0 {
        let (later, each) = (units::count(later), units::count(FRESH_MAX as u64));
        context.output.remark(&format!(
            "of {later} older points only the names were read; each `list` reads {each} more, `list --all` all of them"
        ));
    }
    Ok(if damaged { Ended::Damaged } else { Ended::Well })
}

/// One point of a list.
#[derive(Serialize)]
struct Row {
    id: String,
    lineage: String,
    current: bool,
    revision: i64,
    kind: String,
    time: Option<String>,
    keys: Option<u64>,
    raw_bytes: Option<u64>,
    stored_bytes: Option<u64>,
    compared: Option<Comparison>,
    signature: Option<&'static str>,
    signer: Option<String>,
    /// Whether no command uses it, because nobody trusted has signed it.
    refused: bool,
    verified_level: Option<u8>,
    verified: Option<bool>,
    verified_time: Option<String>,
    condemned: bool,
    held: bool,
    damage: Option<String>,
    complete: bool,
}

impl Row {
    fn of(point: &Point, told: &summary::Row, catalog: &Catalog, held: bool, signers: &Signers) -> Self {
        let manifest = told.summary.as_ref().and_then(|summary| summary.as_ref().ok());
        let verdict = told.checked.as_ref().and_then(|checked| checked.as_ref().ok());
        let standing = manifest.map(|manifest| manifest.standing(signers));
        Row {
            id: point.name.attempt.to_string(),
            lineage: point.name.lineage.to_string(),
            current: catalog.current == Some(point.name.lineage),
            revision: point.name.revision,
            kind: point.name.kind.to_string(),
            // Until a manifest is read, the moment at which it was stored.
            time: match (manifest, told.complete) {
                (Some(manifest), _) => Some(rfc3339(manifest.started)),
                (None, false) => Some(rfc3339(point.modified)),
                (None, true) => None,
            },
            keys: manifest.map(|manifest| manifest.live_keys),
            raw_bytes: manifest.map(|manifest| manifest.raw_bytes),
            stored_bytes: manifest.map(|manifest| manifest.stored_bytes),
            compared: manifest.map(|manifest| manifest.compared),
            signature: standing.map(Standing::name),
            signer: standing.and_then(Standing::signer).map(|key| key.to_string()),
            refused: standing.is_some_and(|standing| !signers.believes(standing)),
            verified_level: verdict.map(|verdict| verdict.level),
            verified: verdict.map(|verdict| verdict.result == Outcome::Ok),
            verified_time: verdict.map(|verdict| rfc3339(verdict.time)),
            condemned: point.condemned,
            held,
            damage: summary::damage_of(told),
            complete: told.complete,
        }
    }

    fn cells(&self) -> Vec<String> {
        let dash = || "-".to_owned();
        let time = self.time.as_deref().and_then(|text| crate::base::clock::parse_rfc3339(text).ok());
        let compared = match self.compared {
            Some(Comparison::Equal) => "equal",
            Some(Comparison::Differs) => "DIFFERS",
            Some(Comparison::NotCompared) => "not compared",
            None => "-",
        };
        let verified = match (self.verified_level, self.verified) {
            (Some(level), Some(true)) => format!("level {level}"),
            (Some(level), _) => format!("FAILED at {level}"),
            (None, _) if !self.complete => "-".to_owned(),
            (None, _) => "never".to_owned(),
        };
        let note = match (&self.damage, self.condemned, self.held, self.current) {
            (Some(_), ..) => "DAMAGED",
            _ if self.refused && self.signer.is_some() => "UNKNOWN SIGNER",
            _ if self.refused => "UNSIGNED",
            // What is held stays, condemned or not.
            (None, _, true, _) => "held",
            (None, true, false, _) => "condemned",
            (None, false, false, false) => "other branch",
            (None, false, false, true) => "",
        };
        vec![
            self.id[..ID_DIGITS].to_owned(),
            time.map_or_else(dash, |time| time.format("%Y-%m-%d %H:%M").to_string()),
            self.revision.to_string(),
            self.kind.clone(),
            self.keys.map_or_else(dash, units::count),
            self.stored_bytes.map_or_else(dash, units::bytes),
            compared.to_owned(),
            verified,
            note.to_owned(),
        ]
    }
}

pub(crate) async fn show(args: args::OnePoint, context: &Context) -> Result<Ended> {
    #[derive(Serialize)]
    struct Shown<'a> {
        point: String,
        condemned: bool,
        signature: &'static str,
        signer: Option<String>,
        manifest: &'a Manifest,
        verdict: Option<&'a Verdict>,
    }
    let place = Place::of(&args.repository)?;
    let (repository, catalog) = place.catalog(context).await?;
    let point = catalog.select(&args.point)?;
    let (manifest, standing) = context.stop.or(repository.stored_manifest(&point.name)).await?;
    let verdict = match context.stop.or(Verdict::newest(&repository, &point.name)).await {
        Err(error) if is_damage(&error) => None,
        verdict => verdict?,
    };
    let verdict = verdict.as_ref();
    let shown = Shown {
        point: point.name.attempt.to_string(),
        condemned: catalog.condemns(&manifest),
        signature: standing.name(),
        signer: standing.signer().map(|key| key.to_string()),
        manifest: &manifest,
        verdict,
    };
    context.output.show("show", &shown, || describe(&manifest, standing, verdict))?;
    if !repository.signers().believes(standing) {
        context.output.warn("nobody who is trusted has signed this point: no command uses it without --allow-unsigned");
    }
    Ok(Ended::Well)
}

/// Who can read the data.
fn readers_text(manifest: &Manifest) -> String {
    match manifest.recipients.is_empty() {
        true => "nobody: data is in the clear".to_owned(),
        false => manifest.recipients.join("\n"),
    }
}

/// Who made a point, as far as that is told.
fn signature_text(standing: Standing) -> String {
    match standing {
        Standing::Trusted(key) => format!("by {key}, which is trusted"),
        Standing::Unknown(key) => format!("by {key}, which is NOT trusted"),
        Standing::Unsigned => "no".to_owned(),
    }
}

fn describe(manifest: &Manifest, standing: Standing, verdict: Option<&Verdict>) -> String {
    let (descriptor, counts) = (&manifest.descriptor, &manifest.counts);
    let kv = &manifest.proofs.hash_kv;
    let verified = verdict.map_or("never".to_owned(), |verdict| {
        let result = if verdict.result == Outcome::Ok { "passed" } else { "FAILED" };
        format!("{result} level {} at {}", verdict.level, rfc3339(verdict.time))
    });
    let mut text = facts(&[
        ("point", manifest.attempt.to_string()),
        ("cluster", format!("{} (id {}, member {})", manifest.cluster, descriptor.cluster_id, descriptor.member_id)),
        ("lineage", manifest.lineage.to_string()),
        ("kind", format!("{}, complete", manifest.kind)),
        ("time", format!("{} to {}", rfc3339(manifest.started), rfc3339(manifest.finished))),
        ("taken from", format!("{} ({})", manifest.source.endpoint, manifest.source.chosen_because)),
        (
            "etcd version",
            if manifest.source.version.is_empty() { "unknown".into() } else { manifest.source.version.clone() },
        ),
        ("made by", format!("{} {}", manifest.tool.name, manifest.tool.version)),
        ("signed", signature_text(standing)),
        ("revision", format!("{}, compacted to {}", descriptor.revision, descriptor.compact_revision)),
        ("raft", format!("term {}, index {}", descriptor.raft_term, descriptor.raft_index)),
        ("compared", comparison_text(manifest)),
        ("HashKV", format!("{} at revision {}, compacted to {}", kv.hash, kv.revision, kv.compact_revision)),
        ("state digest", digest_text(manifest)),
        ("verified", verified),
        ("live keys", units::count(counts.live_keys)),
        ("revisions", format!("{} ({} tombstones)", units::count(counts.revisions), units::count(counts.tombstones))),
        (
            "beside keys",
            format!(
                "{} leases, {} users, {} roles, {} alarms, {} members",
                counts.leases, counts.users, counts.roles, counts.alarms, counts.members
            ),
        ),
        ("chain", chain_text(manifest)),
        ("stored", stored_text(manifest)),
        ("encrypted for", readers_text(manifest)),
        ("samples", format!("{} keys noted one by one", manifest.samples.len())),
    ]);
    let rows = manifest.objects.iter().take(OBJECTS_SHOWN).map(|entry| {
        vec![
            entry.sha256.to_string()[..DIGEST_DIGITS].to_owned(),
            entry.first.to_string(),
            entry.last.to_string(),
            units::count(entry.records),
            units::bytes(entry.stored_bytes),
        ]
    });
    text.push('\n');
    text.push_str(&table(
        &["OBJECT (SHA-256)", "FIRST", "LAST", "RECORDS", "STORED"],
        &["FIRST", "LAST", "RECORDS", "STORED"],
        rows.collect(),
    ));
    let more = manifest.objects.len().saturating_sub(OBJECTS_SHOWN);
    if more > 0 {
        text.push_str(&format!("and {} more; -o json has them all\n", units::count(more as u64)));
    }
    text
}

pub(crate) async fn verify(args: args::Verify, told: &mut Facts, context: &Context) -> Result<Ended> {
    #[derive(Serialize)]
    struct Shown<'a> {
        level: u8,
        verdicts: &'a [Verdict],
        missed: &'a [String],
    }
    let policy = args.repository.policy.as_deref().map(policy).transpose()?;
    let scheduled = policy.as_ref().and_then(|policy| policy.schedule.verify.as_ref()).map(|verify| verify.level);
    let level = Level::from_number(args.level.or(scheduled).unwrap_or(VERIFY_LEVEL_DEFAULT))?;
    let place = Place::of(&args.repository)?;
    let (repository, catalog) = place.catalog(context).await?;
    let points: Vec<&Point> = match &args.point {
        Some(selector) => vec![catalog.select(selector)?],
        None => catalog.points.iter().rev().collect(),
    };
    let show = Show::start(&context.progress, &context.output);
    let (mut verdicts, mut unsound, mut gone) = (vec![], vec![], 0);
    for point in points {
        context.progress.stage("verifying", 0);
        let verdict = match verify_one(&repository, &point.name, level, context).await {
            // All points were asked for, and a prune took this one since they were listed.
            Err(error) if error.kind() == Kind::NotFound && args.point.is_none() => {
                gone += 1;
                continue;
            }
            verdict => verdict?,
        };
        if verdict.result == Outcome::Failed {
            unsound.push(&point.name);
        }
        told.verified =
            Some(Verified { level: level.number(), points: verdicts.len() as u64 + 1, failed: unsound.len() as u64 });
        verdicts.push(verdict);
    }
    drop(show);
    let rpo = policy.and_then(|policy| policy.objectives.rpo);
    let missed = match rpo {
        Some(rpo) => missed(rpo, &repository, &catalog, &unsound, context).await?,
        None => vec![],
    };
    told.objectives = rpo.map(|_| ("rpo", !missed.is_empty())).into_iter().collect();
    told.warnings = missed.len() as u64;
    let shown = Shown { level: level.number(), verdicts: &verdicts, missed: &missed };
    context.output.show("verify", &shown, || {
        let mut text = String::new();
        for verdict in &verdicts {
            let result = if verdict.result == Outcome::Ok { "ok" } else { "FAILED" };
            text.push_str(&format!("{} level {} {result}\n", verdict.point, verdict.level));
            for finding in &verdict.findings {
                text.push_str(&format!("  {}: {}: {}\n", finding.object, finding.check, finding.detail));
            }
        }
        text
    })?;
    if gone > 0 {
        context.output.remark(&format!("{gone} points were deleted while the others were verified"));
    }
    let failed = verdicts.iter().filter(|verdict| verdict.result == Outcome::Failed).count();
    if failed > 0 {
        context.output.warn(&format!("{failed} of {} points do not verify; do not restore from them", verdicts.len()));
    }
    missed.iter().for_each(|what| context.output.warn(&format!("an objective is missed: {what}")));
    Ok(match (failed, missed.len()) {
        (0, 0) => Ended::Well,
        (0, _) => Ended::Warned,
        _ => Ended::Damaged,
    })
}

/// What of the objective for the age of the newest point does not hold; a point that was just found unsound is none.
async fn missed(
    rpo: Duration,
    repository: &Repository,
    catalog: &Catalog,
    unsound: &[&PointName],
    context: &Context,
) -> Result<Vec<String>> {
    let current = catalog.points.iter().filter(|point| catalog.current == Some(point.name.lineage) && !point.condemned);
    let sound = current.filter(|point| !unsound.contains(&&point.name)).rev();
    let newest = context.stop.or(newest(repository, sound)).await?.map(|manifest| manifest.started);
    let measured = Measured { now: context.clock.now(), newest, restore: None };
    let promised = Objectives { rpo: Some(rpo), rto: None };
    Ok(promised.missed(&measured).iter().map(ToString::to_string).collect())
}

async fn verify_one(repository: &Repository, name: &PointName, level: Level, context: &Context) -> Result<Verdict> {
    let prover = Box::new(|manifest: &Manifest| -> Box<dyn Examiner> { Box::new(ProvePoint::new(manifest)) });
    let verification = Verification { level, prover: Some(prover), stop: context.stop.clone() };
    scrub(repository, name, verification, |entry| context.progress.add(entry.stored_bytes)).await
}

pub(crate) async fn check(args: args::Repository, context: &Context) -> Result<Ended> {
    #[derive(Serialize)]
    struct Checked<'a> {
        repository: &'a str,
        checks: &'a [ProbeCheck],
        ok: bool,
    }
    let place = Place::of(&args)?;
    let mut options = place.options(context);
    options.bucket.said.patience = Some(patience(options.bucket.said.patience));
    let repository = context.stop.or(Repository::attach(&options)).await?;
    let checks = context.stop.or(probe(&repository)).await?;
    let ok = checks.iter().all(|check| check.ok || !check.required);
    context.output.show("check", &Checked { repository: repository.url(), checks: &checks, ok }, || {
        let rows = checks.iter().map(|check| {
            let result = match (check.ok, check.required) {
                (true, _) => "ok",
                (false, true) => "FAILED",
                (false, false) => "warning",
            };
            vec![check.name.to_owned(), result.to_owned(), check.detail.clone()]
        });
        table(&["PROMISE", "RESULT", "SEEN"], &[], rows.collect())
    })?;
    let advice =
        |check: &ProbeCheck| check.hint.clone().unwrap_or_else(|| "see the table for what was seen".to_owned());
    if let Some(broken) = checks.iter().find(|check| !check.ok && check.required) {
        let text = format!("{} does not keep what backups rely on", repository.url());
        return Err(Error::new(Kind::Failed, text).hint(advice(broken)));
    }
    let warned = checks.iter().filter(|check| !check.ok);
    let warned = warned.map(|check| context.output.warn(&format!("{}: {}", check.name, advice(check)))).count();
    Ok(if warned > 0 { Ended::Warned } else { Ended::Well })
}
