//! One full restore point of a live etcd, from asking the members how they are to a verified manifest.
//!
//! ```text
//! survey ──> choose a follower ──> stream its file into scratch (verified as it arrives)
//!   ──> records stored | records proved | the same member hashes its history     (side by side)
//!   ──> compare ──> branch of history ──> publish ──> verify at level 1
//! ```
//!
//! The spool exists because etcd's format needs random access; it has no name and vanishes with the process. Everything
//! the manifest says about the state is derived from the content of the file, not from a second call, so it cannot belong
//! to another moment.

use std::path::PathBuf;

use crate::agent::ancestry::{Branch, Position, behind, branch};
use crate::agent::compare::{compare, not_compared};
use crate::base::clock::{Stopwatch, Time};
use crate::base::error::{Error, Kind, Result};
use crate::base::file::{ReadAt, Scratch, free_bytes};
use crate::base::id::EtcdId;
use crate::base::progress::Progress;
use crate::base::stop::{Stop, blocking};
use crate::base::units;
use crate::client::Client;
use crate::client::maintenance::{Choice, HashAnswer, MemberStatus, choose};
use crate::policy::HashOnLeader;
use crate::snapshot::bbolt::read::Db;
use crate::snapshot::bbolt::records::Source;
use crate::snapshot::hash::Scope;
use crate::vault::catalog::Catalog;
use crate::vault::full::{self, Full};
use crate::vault::layout::{Attempt, Lineage, PointKind, PointName};
use crate::vault::lineage::{self, Current, LineageDocument};
use crate::vault::manifest::{self, Fidelity, HashAtSource, Manifest};
use crate::vault::publish::{Published, publish};
use crate::vault::put::{Destination, Limits, PutStats, Writer};
use crate::vault::repository::Repository;
use crate::vault::scrub::{Verification, verify};
use crate::vault::steps::Steps;
use crate::vault::verdict::{Level, Verdict};

/// What a backup is given.
#[derive(Debug)]
pub struct Job {
    /// The cluster's name in the repository.
    pub cluster: String,
    /// Whether the leader may be asked to hash its history when there is no other member.
    pub hash_on_leader: HashOnLeader,
    /// Folder of the spool.
    pub scratch: PathBuf,
    /// How objects are cut and how much is held.
    pub limits: Limits,
    /// Hears every durable step.
    pub steps: Steps,
    /// Ends the work.
    pub stop: Stop,
    /// How far it has come.
    pub progress: Progress,
}

/// A published restore point.
#[derive(Debug)]
pub struct Done {
    /// Its name.
    pub name: PointName,
    /// Its manifest.
    pub manifest: Manifest,
    /// What level 1 found.
    pub verdict: Verdict,
    /// How its objects were written.
    pub stats: PutStats,
    /// What the operator should know and may have to act on.
    pub warnings: Vec<String>,
    /// Whether the point was left uncompared because the policy says so.
    pub excused: bool,
    /// How long each stage took, in seconds.
    pub stages: Vec<(&'static str, f64)>,
}

/// The spooled file and where it came from.
struct Spool {
    file: ReadAt,
    bytes: u64,
    sha256: crate::base::digest::Sha256,
    choice: Choice,
    member: MemberStatus,
}

/// Notes what each stage took.
struct Stages {
    watch: Stopwatch,
    taken: Vec<(&'static str, f64)>,
    last_s: f64,
}

impl Stages {
    fn end(&mut self, name: &'static str) {
        let now_s = self.watch.elapsed().as_secs_f64();
        self.taken.push((name, now_s - self.last_s));
        self.last_s = now_s;
    }
}

/// Makes one full restore point.
pub async fn backup(client: &Client, repository: &Repository, job: &Job) -> Result<Done> {
    let started = repository.clock().now();
    let mut stages = Stages { watch: Stopwatch::start(), taken: vec![], last_s: 0.0 };
    let mut warnings = vec![];
    let spool = spool(client, job, &mut warnings).await?;
    stages.end("receive");
    let attempt = Attempt::random()?;
    let seed = EtcdId(u64::from_str_radix(&attempt.to_string(), 16).unwrap_or_default());
    let position = position_of(&spool).await?;
    let (lineage, opened) = lineage_of(repository, job, position, attempt, &mut warnings).await?;
    let (full, compared, descriptor) = store(client, repository, job, &spool, lineage, seed).await?;
    warnings.extend(full.written.warnings());
    stages.end("store and prove");
    let context = Context { attempt, seed, lineage, started, finished: repository.clock().now() };
    let manifest = manifest_of(job, &spool, &full, compared, descriptor, &context);
    let publishing = publish(repository, opened.as_ref(), &manifest, &job.steps);
    let Published { name, doubts } = job.stop.or(publishing).await?;
    warnings.extend(doubts);
    stages.end("publish");
    let verification = Verification { level: Level::Exists, prover: None, stop: job.stop.clone() };
    let verdict = verify(repository, &name, verification, |_| ()).await?;
    stages.end("verify");
    let stats = full.written.stats;
    let excused = spool.choice.is_leader && job.hash_on_leader == HashOnLeader::Off;
    Ok(Done { name, manifest, verdict, stats, warnings, excused, stages: stages.taken })
}

/// Streams the chosen member's file into scratch.
async fn spool(client: &Client, job: &Job, warnings: &mut Vec<String>) -> Result<Spool> {
    let mut scratch = Scratch::create(&job.scratch)?;
    let survey = job.stop.or(client.survey()).await?;
    for (endpoint, error) in &survey.silent {
        warnings.push(format!("{endpoint} did not answer: {}", error.chain()));
    }
    let choice = choose(&survey.members)?;
    // Where the leader is the only one named, the policy has said so already.
    let others = client.endpoints().count() > 1;
    if choice.is_leader && others && job.hash_on_leader == HashOnLeader::Warn {
        let reason = &choice.reason;
        warnings.push(format!("the snapshot and the hash come from {reason}; writes wait while it hashes its history"));
    }
    let member = survey.members.iter().find(|member| member.endpoint == choice.endpoint);
    let member = member.expect("the choice is one of the members").clone();
    let mut stream = job.stop.or(client.snapshot(&choice.endpoint)).await?;
    let free = free_bytes(&job.scratch)?;
    if free < stream.db_bytes() {
        let (need, have) = (units::bytes(stream.db_bytes()), units::bytes(free));
        let text = format!("the snapshot needs {need} of scratch space in {}, {have} are free", job.scratch.display());
        return Err(Error::new(Kind::Full, text).hint("name another folder with --scratch, or make room"));
    }
    job.progress.stage("receiving the snapshot", stream.db_bytes());
    while let Some(piece) = job.stop.or(stream.next()).await? {
        scratch.append(&piece)?;
        job.progress.add(piece.len() as u64);
    }
    let tail = stream.finish().await?;
    let name = PathBuf::from(format!("snapshot of {}", choice.endpoint));
    let file = scratch.into_read_at(&name)?;
    Ok(Spool { file, bytes: tail.db_bytes, sha256: tail.sha256, choice, member })
}

async fn position_of(spool: &Spool) -> Result<Position> {
    let (file, cluster_id) = (spool.file.clone(), spool.member.cluster_id);
    blocking(move || {
        let db = Db::open(file)?;
        let facts = Source::open(&db)?.facts().clone();
        let (raft_term, raft_index) = (facts.raft_term, facts.raft_index);
        Ok(Position { cluster_id, revision: facts.revision, raft_term, raft_index })
    })
    .await
}

/// The branch of history, and its document when this backup opens it.
async fn lineage_of(
    repository: &Repository,
    job: &Job,
    now: Position,
    attempt: Attempt,
    warnings: &mut Vec<String>,
) -> Result<(Lineage, Option<LineageDocument>)> {
    let lineages = lineage::list(repository, &job.cluster).await?;
    warnings.extend(lineages.damage.iter().map(Error::as_warning));
    let mut lost = None;
    let then = match lineages.current(|_| true) {
        Current::Known(document) => {
            let newest = newest_of(repository, &job.cluster, document.lineage).await?;
            let at = |revision, raft_term, raft_index| Position {
                cluster_id: document.cluster_id,
                revision,
                raft_term,
                raft_index,
            };
            let then = newest
                .map_or(at(0, 0, 0), |m| at(m.descriptor.revision, m.descriptor.raft_term, m.descriptor.raft_index));
            Some((document.lineage, then))
        }
        Current::None => None,
        Current::Unreadable(lineage) => {
            lost = Some(lineage);
            None
        }
    };
    let attempt = attempt.to_string();
    match lost.map_or_else(|| branch(then, now, &attempt), |lost| behind(lost, &attempt))? {
        Branch::Continues(lineage) => Ok((lineage, None)),
        Branch::Opens { lineage, parent, reason } => {
            if let Some(document) = lineages.known.iter().find(|document| document.lineage == lineage) {
                return Ok((document.lineage, None));
            }
            if parent.is_some() {
                warnings.push(format!("a new branch of history begins: {reason}"));
            }
            // What went back tells that history forked, and nothing here proves where.
            let fork_revision = None;
            let opened = repository.clock().now();
            let cluster_id = now.cluster_id;
            Ok((lineage, Some(LineageDocument { lineage, parent, fork_revision, reason, cluster_id, opened })))
        }
    }
}

/// The newest manifest on a branch that can be believed.
async fn newest_of(repository: &Repository, cluster: &str, lineage: Lineage) -> Result<Option<Manifest>> {
    let catalog = match Catalog::load(repository, cluster).await {
        Ok(catalog) => catalog,
        Err(error) if error.kind() == Kind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    for point in catalog.points.iter().rev().filter(|point| point.name.lineage == lineage) {
        match repository.manifest(&point.name).await {
            Ok(manifest) => return Ok(Some(manifest)),
            Err(error) if error.kind() == Kind::Damaged => {}
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}

/// Stores and proves the records while the member hashes its history, then compares.
async fn store(
    client: &Client,
    repository: &Repository,
    job: &Job,
    spool: &Spool,
    lineage: Lineage,
    seed: EtcdId,
) -> Result<(Full, HashAtSource, manifest::Descriptor)> {
    let destination = Destination { cluster: job.cluster.clone(), lineage };
    let writer = Writer::start(repository, destination, job.limits.clone(), job.steps.clone(), &job.stop)?;
    let (file, member) = (spool.file.clone(), spool.member.clone());
    let (progress, stop) = (job.progress.clone(), job.stop.clone());
    let spooled = (spool.bytes, spool.sha256);
    let (scope_known, scope) = tokio::sync::oneshot::channel();
    let (answered, answer) = std::sync::mpsc::channel();
    let working = blocking(move || {
        let db = Db::open(file)?;
        let source = Source::open(&db)?;
        let descriptor = source.descriptor(member.cluster_id, member.member_id);
        // Nobody waits for the scope only when the backup is being given up.
        let _ =
            scope_known.send(Scope { revision: descriptor.revision, compact_revision: descriptor.compact_revision });
        progress.stage("storing records", db.size());
        let full = full::store(&source, &descriptor, seed.0, writer, &progress, &stop)?;
        progress.stage("comparing with the cluster", 0);
        let compared = match answer.recv() {
            Ok(Asked::Answer(answer)) => {
                compare(answer, &full.proof, |scope| full::prove(&source, &descriptor, scope, seed.0, &stop))?
            }
            Ok(Asked::Not(reason)) => not_compared(reason),
            Err(_) => not_compared("the member was not asked".to_owned()),
        };
        let descriptor = manifest::Descriptor::of(&descriptor, Some(spooled));
        Ok((full, compared, descriptor))
    });
    let asking = async {
        if let Ok(scope) = scope.await {
            // The other side has hung up when storing failed; its error is the one that counts.
            let _ = answered.send(ask(client, job, spool, scope).await);
        }
    };
    let (result, ()) = tokio::join!(working, asking);
    result
}

/// What became of asking the member.
enum Asked {
    Answer(Result<HashAnswer>),
    Not(String),
}

/// Asks the chosen member for the hash of its history up to the revision of `scope`.
async fn ask(client: &Client, job: &Job, spool: &Spool, scope: Scope) -> Asked {
    if spool.choice.is_leader && job.hash_on_leader == HashOnLeader::Off {
        return Asked::Not("only the leader could be asked, and the policy says hash_on_leader = \"off\"".to_owned());
    }
    let Scope { revision, compact_revision } = scope;
    // A member does not hash up to the revision that it is compacted to, unless that is its newest and is not named.
    let named = if compact_revision == revision { 0 } else { revision };
    let answer = job.stop.or(client.hash_kv(&spool.choice.endpoint, named)).await;
    match answer {
        Ok(HashAnswer::Hash(hash)) if named == 0 && hash.reaches_to() != revision => Asked::Not(format!(
            "the snapshot is compacted to its newest revision, {revision}, and the cluster has gone on to {}: etcd does \
             not hash so far back",
            hash.reaches_to()
        )),
        answer => Asked::Answer(answer),
    }
}

/// What the manifest needs beside the work's results.
struct Context {
    attempt: Attempt,
    seed: EtcdId,
    lineage: Lineage,
    started: Time,
    finished: Time,
}

fn manifest_of(
    job: &Job,
    spool: &Spool,
    full: &Full,
    hash_at_source: HashAtSource,
    descriptor: manifest::Descriptor,
    context: &Context,
) -> Manifest {
    Manifest {
        cluster: job.cluster.clone(),
        lineage: context.lineage,
        kind: PointKind::Full,
        attempt: context.attempt,
        started: context.started,
        finished: context.finished,
        tool: manifest::Tool::this(),
        source: manifest::Source {
            endpoint: spool.choice.endpoint.to_string(),
            version: spool.member.version.clone(),
            member_name: None,
            chosen_because: spool.choice.reason.clone(),
        },
        fidelity: Fidelity::Full,
        descriptor,
        counts: manifest::Counts::of(&full.proof.counts, &full.written.objects),
        proofs: manifest::Proofs::of(&full.proof, hash_at_source),
        sample_seed: context.seed,
        samples: full.proof.samples.clone(),
        objects: full.written.objects.clone(),
    }
}
