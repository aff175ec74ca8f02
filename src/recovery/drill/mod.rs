//! Drills: a recovery, rehearsed for real and measured, that leaves nothing behind but its report.
//!
//! The newest point is restored into scratch, a real etcd is booted on it, and what that member **serves** is held
//! against the manifest:
//!
//! ```text
//! manifest ---------------------------------------------------------- expected
//!    |                                                                   |
//! objects -> snapshot file -> data directory -> member (127.0.0.1) -> found
//!            read back         etcdutl           streamed, every key read, hashed, written to
//! ```
//!
//! Invariants:
//! - Expected values come from the manifest, never from what was restored: a drill on a doctored point fails.
//! - What could not be looked at is told as not proved; it never counts as passed. Without etcd a drill ends at the file
//!   and cannot pass.
//! - "Could not look" (network, a full disk, a signal) is an error and no report.
//! - A drill is a verdict on its point, at level 4: good when a member served and everything was proved, bad when a proof
//!   failed, none when something could not be looked at. Objectives are about time, not about the point.
//! - Neither the member nor the scratch folder outlives the drill (`member`).

pub mod judge;
mod lease;
pub mod member;
pub mod page;
pub mod plan;
pub mod report;

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::base::clock::{Clock, Stopwatch, Time, next_ms};
use crate::base::error::{Error, Kind, Result};
use crate::base::file::{ReadAt, Scratch};
use crate::base::id;
use crate::base::progress::Progress;
use crate::base::stop::{Stop, blocking};
use crate::client::kv::KeyRange;
use crate::policy::objective::{Measured as Known, Objectives};
use crate::recovery::drill::judge::Sampler;
use crate::recovery::drill::member::{Folder, Member, Programs, Seed};
use crate::recovery::drill::plan::Plan;
use crate::recovery::drill::report::{Level, Measured, Outcome, Proof, Report, Stage, Through, Verdict};
use crate::recovery::restore::{from_point, prove_file};
use crate::snapshot::hash::StateDigest;
use crate::snapshot::record::KeyValue;
use crate::vault::get::Check;
use crate::vault::layout::{Location, PointName};
use crate::vault::manifest::{Manifest, Tool};
use crate::vault::prove::prover;
use crate::vault::repository::Repository;
use crate::vault::verdict;

/// Where the canary is written: nowhere that Kubernetes or anybody else keeps a key.
const CANARY_PREFIX: &str = "holdfast/drill/";
/// Reports of one millisecond step aside this often.
const SAME_TIME_MAX: u32 = 100;

/// What a drill is given.
#[derive(Clone, Debug)]
pub struct Request {
    /// With which programs; none: the file only.
    pub programs: Option<Programs>,
    /// etcd's version, as it was planned with.
    pub etcd_version: String,
    /// Where the scratch folder is made.
    pub scratch: PathBuf,
    /// What is promised.
    pub objectives: Objectives,
    /// When the newest point was begun.
    pub newest: Time,
    /// What was planned.
    pub plan: Plan,
    /// The clock.
    pub clock: Clock,
    /// Counts what is done.
    pub progress: Progress,
    /// Ends the work.
    pub stop: Stop,
}

/// A drill under way.
struct Drill<'a> {
    repository: &'a Repository,
    manifest: &'a Manifest,
    request: &'a Request,
    stages: Vec<Stage>,
    proofs: Vec<Proof>,
    /// Whether a member served.
    served: bool,
}

/// Rehearses the recovery of a point.
pub async fn run(repository: &Repository, manifest: &Manifest, request: &Request) -> Result<Report> {
    let started = request.clock.now();
    let mut drill = Drill { repository, manifest, request, stages: vec![], proofs: vec![], served: false };
    let folder = Folder::create(&request.scratch)?;
    drill.rehearse(&folder).await?;
    drop(folder);
    Ok(drill.report(started))
}

/// Stores a report under its time; another one of the same millisecond moves it by one. Then the verdict on its point.
pub async fn store(repository: &Repository, name: &PointName, report: &mut Report) -> Result<Location> {
    for _ in 0..SAME_TIME_MAX {
        let at = Location::Drill(report.cluster.clone(), report.finished);
        match repository.put_document(&at, report).await {
            Err(error) if error.kind() == Kind::Conflict => report.finished = next_ms(report.finished),
            result => {
                result?;
                if let Some(mut verdict) = verdict_of(name, report) {
                    verdict.store(repository, name).await?;
                }
                return Ok(at);
            }
        }
    }
    Err(Error::new(Kind::Conflict, "too many drills at the same moment").hint("run the command again"))
}

/// What a drill says of its point; nothing when something could not be looked at. Without a member, a file that is wrong
/// is what a verification of its records would find.
fn verdict_of(name: &PointName, report: &Report) -> Option<verdict::Verdict> {
    let object = Location::Point(name.clone()).to_string();
    let (level, check) = match report.level {
        Level::Member => (verdict::MEMBER_LEVEL, Check::Member),
        Level::FileOnly => (verdict::Level::Records.number(), Check::Records),
    };
    let differs = report.proofs.iter().filter(|proof| proof.verdict == Verdict::Differs);
    let finding = |proof: &Proof| {
        let detail = format!("{}: {}; expected: {}", proof.what, proof.found, proof.expected);
        verdict::Finding { object: object.clone(), check, detail }
    };
    let findings: Vec<_> = differs.map(finding).collect();
    let whole = report.level == Level::Member && report.proofs.iter().all(|proof| proof.verdict == Verdict::Equal);
    let result = match (findings.is_empty(), whole) {
        (false, _) => verdict::Outcome::Failed,
        (true, true) => verdict::Outcome::Ok,
        (true, false) => return None,
    };
    let (point, tool) = (name.stem(), report.tool.clone());
    Some(verdict::Verdict { point, level, time: report.finished, result, findings, tool })
}

impl Drill<'_> {
    fn stage(&mut self, name: &str, watch: &Stopwatch, counts: bool) {
        self.stages.push(Stage { name: name.to_owned(), duration_s: watch.elapsed().as_secs_f64(), counts });
    }

    fn failed(&mut self, what: &str, through: Through, expected: &str, found: String) {
        let proof =
            Proof { what: what.to_owned(), through, expected: expected.to_owned(), found, verdict: Verdict::Differs };
        self.proofs.push(proof);
    }

    /// Everything that is measured. A proof that fails ends it; what cannot be looked at is an error.
    async fn rehearse(&mut self, folder: &Folder) -> Result<()> {
        let Request { progress, stop, .. } = self.request;
        let snapshot = folder.path("snapshot.db");
        let watch = Stopwatch::start();
        let restored = from_point(self.repository, self.manifest, &snapshot, progress, stop).await;
        self.stage("fetch, write and read back the file", &watch, true);
        let restored = match restored {
            Err(error) if error.kind() == Kind::Damaged => {
                self.failed("restored file", Through::File, "what the manifest says", error.chain());
                return Ok(());
            }
            restored => restored?,
        };
        for what in &restored.checks {
            let same = "as the manifest says".to_owned();
            let (what, through, verdict) = (what.clone(), Through::File, Verdict::Equal);
            self.proofs.push(Proof { what, through, expected: same.clone(), found: same, verdict });
        }
        let Some(programs) = &self.request.programs else { return Ok(()) };
        progress.stage("making a data directory", 0);
        let watch = Stopwatch::start();
        let seed = Seed::make(programs, folder, &snapshot, stop).await?;
        self.stage("make a data directory (etcdutl)", &watch, true);
        let seed = match seed {
            Ok(seed) => seed,
            Err(said) => {
                self.failed("data directory", Through::File, "etcdutl restores the file", said);
                return Ok(());
            }
        };
        progress.stage("booting etcd", 0);
        let watch = Stopwatch::start();
        let since = Stopwatch::start();
        let member = seed.boot(restored.bytes, stop).await?;
        self.stage("boot etcd until it serves", &watch, true);
        let member = match member {
            Ok(member) => member,
            Err(said) => {
                self.failed("boot", Through::Member, "the member serves", said);
                return Ok(());
            }
        };
        self.served = true;
        progress.stage("proving what it serves", self.manifest.counts.raw_bytes);
        let watch = Stopwatch::start();
        let proved = self.prove(&member, &seed, &snapshot, &since).await;
        member.end().await?;
        self.stage("prove what it serves", &watch, false);
        match proved {
            Err(error) if error.kind() != Kind::Interrupted && error.kind() != Kind::Full => {
                self.failed("answers of the member", Through::Member, "it answers", error.chain());
                Ok(())
            }
            result => result,
        }
    }

    /// Looks at what the member serves. Its stream comes first: leases run out `since` it was started.
    async fn prove(&mut self, member: &Member, seed: &Seed<'_>, restored: &Path, since: &Stopwatch) -> Result<()> {
        let stop = &self.request.stop;
        let (client, endpoint, manifest) = (&member.client, &member.endpoint, self.manifest);
        let (served, passed) = self.stream(member, since).await?;
        let status = stop.or(member.status()).await?;
        self.proofs.extend(judge::identity(manifest, seed.cluster_id, status.cluster_id));
        let (restored, prover, ends) = (restored.to_owned(), prover(manifest), stop.clone());
        let leases = manifest.counts.leases;
        let (served, ran_out) = blocking(move || {
            let proof = prove_file(&served, prover, &ends)?;
            let ran_out = match proof.counts.leases < leases {
                true => lease::ran_out(&ReadAt::open(&restored)?, &served, passed)?,
                false => vec![],
            };
            Ok::<_, Error>((proof, ran_out))
        })
        .await?;
        self.proofs.extend(judge::state(manifest, &served, &ran_out));
        let sampler = self.sample(member).await?;
        self.proofs.extend(sampler.proofs(manifest));
        let answer = stop.or(client.hash_kv(endpoint, manifest.descriptor.revision)).await?;
        self.proofs.push(judge::hash(manifest, &answer));
        let key = format!("{CANARY_PREFIX}{}", id::random()?);
        let written = stop.or(client.canary(endpoint, seed.cluster_id, key.as_bytes(), id::random()?.as_bytes())).await;
        let same = "read back as written";
        self.proofs.push(match written {
            Ok(_) => judge::compare("write and read back", same, same),
            Err(error) if manifest.counts.alarms > 0 => {
                let why = format!("an alarm came with the point, and the member refuses writes: {}", error.chain());
                judge::skipped("write and read back", same, why)
            }
            Err(error) => return Err(error),
        });
        Ok(())
    }

    /// The member's whole state as a file, and how long it had been running when it began to send it.
    async fn stream(&self, member: &Member, since: &Stopwatch) -> Result<(ReadAt, Duration)> {
        let stop = &self.request.stop;
        let mut stream = stop.or(member.client.snapshot(&member.endpoint)).await?;
        let mut spool = Scratch::create(&self.request.scratch)?;
        let mut passed = None;
        while let Some(piece) = stop.or(stream.next()).await? {
            passed.get_or_insert_with(|| since.elapsed());
            spool.append(&piece)?;
        }
        stop.or(stream.finish()).await?;
        Ok((spool.into_read_at(Path::new("what the member serves"))?, passed.unwrap_or_default()))
    }

    /// Reads every key at the point's revision.
    async fn sample(&self, member: &Member) -> Result<Sampler> {
        let mut sampler = Sampler::new(self.manifest);
        let revision = self.manifest.descriptor.revision;
        let mut pages = member.client.range(KeyRange::all(), revision, Some(&member.endpoint));
        while let Some(page) = self.request.stop.or(pages.next()).await? {
            for kv in &page.kvs {
                let stored = KeyValue {
                    key: &kv.key,
                    create_revision: kv.create_revision,
                    mod_revision: kv.mod_revision,
                    version: kv.version,
                    value: &kv.value,
                    lease: kv.lease,
                };
                sampler.key(&kv.key, || StateDigest::fact(16, &stored.to_stored()));
            }
        }
        Ok(sampler)
    }

    fn report(self, started: Time) -> Report {
        let Drill { manifest, request, stages, proofs, served, .. } = self;
        let restore = Duration::from_secs_f64(stages.iter().filter(|s| s.counts).map(|s| s.duration_s).sum());
        let restore = served.then_some(restore);
        let known = Known { now: started, newest: Some(request.newest), restore };
        let objectives = &request.objectives;
        let measured = Measured {
            rpo_allowed_s: objectives.rpo.map(|allowed| allowed.as_secs_f64()),
            rpo_s: (started - request.newest).as_seconds_f64().max(0.0),
            rto_allowed_s: objectives.rto.map(|allowed| allowed.as_secs_f64()),
            rto_s: restore.map(|took| took.as_secs_f64()),
            missed: objectives.missed(&known).iter().map(ToString::to_string).collect(),
        };
        let level = if request.programs.is_some() { Level::Member } else { Level::FileOnly };
        let report = Report {
            outcome: Outcome::Missed,
            level,
            cluster: manifest.cluster.clone(),
            point: manifest.attempt.to_string(),
            revision: manifest.descriptor.revision,
            point_time: manifest.started,
            started,
            finished: request.clock.now(),
            plan: request.plan.clone(),
            stages,
            measured,
            proofs,
            not_proved: request.plan.not_proved.clone(),
            tool: Tool::this(),
            etcd_version: request.etcd_version.clone(),
            source_version: manifest.source.version.clone(),
        };
        report.judged()
    }
}
