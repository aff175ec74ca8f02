//! One restore point of a live etcd, from reading what there is already to a verified manifest.
//!
//! ```text
//! what the repository holds ──> survey ──> choose a follower ──> stream its file into scratch (verified as it arrives)
//!   ──> which branch of history, full or incremental
//!   ──> records stored | records proved | the same member hashes its history     (side by side)
//!   ──> compare ──> publish ──> verify at level 1
//! ```
//!
//! The spool exists because etcd's format needs random access; it has no name and vanishes with the process. Everything
//! the manifest says about the state is derived from the content of the file, not from a second call, so it cannot belong
//! to another moment.

use std::path::PathBuf;
use std::sync::Arc;

use crate::agent::ancestry::{Branch, behind, branch};
use crate::agent::compare::{compare, not_compared};
use crate::agent::history::{History, Newest};
use crate::agent::kind::{Choice, Ground, Wanted, choose};
use crate::agent::spool::{Request, Spool, spool};
use crate::base::clock::{Stopwatch, Time};
use crate::base::error::Result;
use crate::base::id::EtcdId;
use crate::base::progress::Progress;
use crate::base::steps::Steps;
use crate::base::stop::{Stop, blocking};
use crate::client::Client;
use crate::client::maintenance::HashAnswer;
use crate::policy::HashOnLeader;
use crate::snapshot::bbolt::read::Db;
use crate::snapshot::bbolt::records::{Facts, Source};
use crate::snapshot::hash::Scope;
use crate::snapshot::witness::{Each, Kinship, Memory, kinship};
use crate::vault::chain::Segment;
use crate::vault::intake::{self, Base, Intake, Taken};
use crate::vault::layout::{Attempt, Lineage, PointKind, PointName};
use crate::vault::lineage::LineageDocument;
use crate::vault::manifest::{self, Fidelity, HashAtSource, Manifest, ObjectEntry};
use crate::vault::publish::{Published, look as look_at, publish};
use crate::vault::put::{Destination, Limits, PutStats, Writer};
use crate::vault::repository::Repository;
use crate::vault::verdict::Verdict;

/// Tells whether a full point is due when the last one was begun at this time.
pub type FullDue = dyn Fn(Time) -> bool + Send + Sync;

/// What a backup is given.
pub struct Job {
    /// The cluster's name in the repository.
    pub cluster: String,
    /// Full, incremental, or whatever fits.
    pub wanted: Wanted,
    /// When a full point is due.
    pub full_due: Arc<FullDue>,
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
    /// Why it is of its kind.
    pub kind_reason: String,
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

/// Makes one restore point.
pub async fn backup(client: &Client, repository: &Repository, job: &Job) -> Result<Done> {
    let started = repository.clock().now();
    let mut stages = Stages { watch: Stopwatch::start(), taken: vec![], last_s: 0.0 };
    let mut warnings = vec![];
    // Before the cluster is asked anything: see `history`.
    let history = job.stop.or(History::load(repository, &job.cluster, &mut warnings)).await?;
    let request = Request {
        scratch: &job.scratch,
        hash_on_leader: job.hash_on_leader,
        known_revision: history.reached,
        stop: &job.stop,
        progress: &job.progress,
    };
    let spool = spool(client, request, &mut warnings).await?;
    stages.end("receive");
    let attempt = Attempt::random()?;
    let plan = plan(repository, job, &spool, &history, attempt, &mut warnings).await?;
    let context = Context { started, attempt, spool: &spool, plan: &plan };
    let (taken, compared, descriptor) = store(client, repository, job, &context).await?;
    warnings.extend(taken.written.warnings());
    stages.end("store and prove");
    let stats = taken.written.stats.clone();
    let manifest = manifest_of(repository, job, &context, taken, compared, descriptor);
    let publishing = publish(repository, plan.opened.as_ref(), &manifest, &job.steps);
    let Published { name, doubts } = job.stop.or(publishing).await?;
    warnings.extend(doubts);
    stages.end("publish");
    let verdict = look_at(repository, &name, &job.stop).await?;
    stages.end("verify");
    let excused = spool.choice.is_leader && job.hash_on_leader == HashOnLeader::Off;
    let (kind_reason, stages) = (plan.choice.reason, stages.taken);
    Ok(Done { name, manifest, kind_reason, verdict, stats, warnings, excused, stages })
}

/// What will be stored, and where it belongs.
struct Plan {
    lineage: Lineage,
    /// The branch's document, when this backup opens it.
    opened: Option<LineageDocument>,
    choice: Choice,
    /// The streams and objects that an increment stands on; none for a full point.
    segments: Vec<Segment>,
    objects: Vec<ObjectEntry>,
    base: Option<Base>,
}

async fn plan(
    repository: &Repository,
    job: &Job,
    spool: &Spool,
    history: &History,
    attempt: Attempt,
    warnings: &mut Vec<String>,
) -> Result<Plan> {
    let newest = history.newest.as_ref();
    let (facts, kin) = look(spool, newest.map(|newest| newest.manifest.clone())).await?;
    let tag = attempt.to_string();
    let branch = match history.lost {
        Some(lost) => behind(lost, &tag)?,
        None => branch(history.position(), spool.cluster, kin.contradiction.as_deref(), &tag)?,
    };
    let (lineage, opened) = match branch {
        Branch::Continues(lineage) => (lineage, None),
        Branch::Opens { lineage, .. } if history.lineages.contains(&lineage) => (lineage, None),
        Branch::Opens { lineage, parent, reason } => {
            if parent.is_some() {
                warnings.push(format!("a new branch of history begins: {reason}"));
            }
            // What went back or contradicts itself tells that history forked, and nothing here proves where.
            let fork_revision = None;
            let (opened, cluster_id) = (repository.clock().now(), spool.cluster.cluster_id);
            (lineage, Some(LineageDocument { lineage, parent, fork_revision, reason, cluster_id, opened }))
        }
    };
    let newest = newest.filter(|newest| newest.name.lineage == lineage);
    let ground = match newest {
        Some(newest) => ground(repository, job, newest, &facts, &kin).await?,
        None => Ground::None,
    };
    let choice = choose(job.wanted, &ground, &*job.full_due);
    if choice.notable {
        warnings.push(format!("a full point is made: {}", choice.reason));
    }
    let (segments, objects, base) = match ground {
        Ground::Fit(manifest) if choice.kind == PointKind::Incremental => footing(manifest, facts.revision),
        _ => (vec![], vec![], None),
    };
    Ok(Plan { lineage, opened, choice, segments, objects, base })
}

/// Whether an increment can be built on the newest point.
async fn ground<'a>(
    repository: &Repository,
    job: &Job,
    newest: &'a Newest,
    facts: &Facts,
    kin: &Kinship,
) -> Result<Ground<'a>> {
    let then = newest.manifest.descriptor.revision;
    if facts.revision < then {
        let text = format!("the member is at revision {}, the point before at {then}", facts.revision);
        return Ok(Ground::Unsuited(text));
    }
    if newest.manifest.recipients != repository.recipients() {
        // A chain is readable by whoever reads one object of it.
        return Ok(Ground::Unsuited("data is encrypted for others than in the point before".to_owned()));
    }
    if kin.alike == 0 {
        let text = "nothing that the point before remembers is still there to be recognised by";
        return Ok(Ground::Unsuited(text.to_owned()));
    }
    if job.wanted == Wanted::Full {
        return Ok(Ground::Fit(&newest.manifest));
    }
    let broken = job.stop.or(newest.broken(repository, &job.stop)).await?;
    Ok(broken.map_or(Ground::Fit(&newest.manifest), Ground::Broken))
}

/// The part of a point's chain that an increment up to `revision` stands on. An increment that reached the same revision
/// is made anew instead of being followed: nothing lies between them.
fn footing(manifest: &Manifest, revision: i64) -> (Vec<Segment>, Vec<ObjectEntry>, Option<Base>) {
    let (mut segments, mut objects) = (manifest.segments.clone(), manifest.objects.clone());
    let mut revisions = Some(manifest.counts.revisions);
    if manifest.descriptor.revision == revision
        && segments.len() > 1
        && let Some(last) = segments.pop()
    {
        objects.truncate(objects.len() - last.objects);
        revisions = None;
    }
    let base = segments.last().map(|segment| Base { revision: segment.revision, revisions });
    (segments, objects, base)
}

/// What the file says about itself, and what it has in common with the newest point.
async fn look(spool: &Spool, newest: Option<Manifest>) -> Result<(Facts, Kinship)> {
    let file = spool.file.clone();
    blocking(move || {
        let db = Db::open(file)?;
        let source = Source::open(&db)?;
        let facts = source.facts().clone();
        let Some(newest) = newest else { return Ok((facts, Kinship::default())) };
        let memory = Memory { tail: &newest.tail, samples: &newest.samples };
        let last = newest.descriptor.revision.min(facts.revision);
        let mut range = |first, last, each: &mut Each<'_>| source.revisions(first, last, each);
        let kin = kinship(memory, last, facts.compact_revision, &mut range)?;
        Ok((facts, kin))
    })
    .await
}

/// What a backup knows once it has begun to store.
struct Context<'a> {
    started: Time,
    attempt: Attempt,
    spool: &'a Spool,
    plan: &'a Plan,
}

/// Stores and proves the records while the member hashes its history, then compares.
async fn store(
    client: &Client,
    repository: &Repository,
    job: &Job,
    context: &Context<'_>,
) -> Result<(Taken, HashAtSource, manifest::Descriptor)> {
    let Context { started, attempt, spool, plan } = *context;
    let base_revision = plan.base.map_or(0, |base| base.revision);
    let destination = Destination { cluster: job.cluster.clone(), lineage: plan.lineage, base_revision };
    let writer = Writer::start(repository, destination, job.limits.clone(), job.steps.clone(), &job.stop)?;
    let intake = Intake { started, sample_seed: attempt.seed(), base: plan.base };
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
        let taken = intake::store(&source, &descriptor, intake, writer, &progress, &stop)?;
        progress.stage("comparing with the cluster", 0);
        let compared = match answer.recv() {
            Ok(Asked::Answer(answer)) => compare(answer, &taken.proof, |scope| {
                intake::prove_under(&source, &descriptor, scope, intake.sample_seed, &stop)
            })?,
            Ok(Asked::Not(reason)) => not_compared(reason),
            Err(_) => not_compared("the member was not asked".to_owned()),
        };
        let descriptor = manifest::Descriptor::of(&descriptor, Some(spooled));
        Ok((taken, compared, descriptor))
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

fn manifest_of(
    repository: &Repository,
    job: &Job,
    context: &Context<'_>,
    taken: Taken,
    hash_at_source: HashAtSource,
    descriptor: manifest::Descriptor,
) -> Manifest {
    let Context { started, attempt, spool, plan } = *context;
    let objects = [&plan.objects[..], &taken.written.objects].concat();
    Manifest {
        cluster: job.cluster.clone(),
        lineage: plan.lineage,
        kind: plan.choice.kind,
        attempt,
        started,
        finished: repository.clock().now(),
        tool: manifest::Tool::this(),
        source: manifest::Source {
            endpoint: spool.choice.endpoint.to_string(),
            version: spool.member.version.clone(),
            member_name: None,
            chosen_because: spool.choice.reason.clone(),
        },
        fidelity: Fidelity::Full,
        descriptor,
        counts: manifest::Counts::of(&taken.proof.counts, &objects),
        proofs: manifest::Proofs::of(&taken.proof, hash_at_source),
        sample_seed: EtcdId(attempt.seed()),
        samples: taken.proof.samples,
        tail: taken.proof.tail,
        segments: [&plan.segments[..], &[taken.segment]].concat(),
        recipients: repository.recipients(),
        objects,
    }
}
