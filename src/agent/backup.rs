//! One restore point of a live etcd, from reading what there is already to a verified manifest.
//!
//! ```text
//! what the repository holds ──> survey ──> choose a follower
//!   ──> etcd: stream its file into scratch (verified as it arrives); Holdfast: have it hold a moment
//!   ──> which branch of history, full or incremental
//!   ──> records stored | records proved | the same member hashes its history     (side by side)
//!   ──> compare ──> publish ──> verify at level 1
//! ```
//!
//! The spool exists because etcd's format needs random access; it has no name and vanishes with the process. A Holdfast
//! member holds a moment instead, and its records go through once. Everything the manifest says about the state is derived
//! from the content of the file or the stream, not from a second call, so it cannot belong to another moment.

use std::path::PathBuf;
use std::sync::Arc;

use crate::agent::ancestry::{Branch, behind, branch};
use crate::agent::history::{History, Newest};
use crate::agent::kind::{Choice, Ground, Wanted, choose};
use crate::agent::spool::{Request, Spool, spool};
use crate::agent::store::{Stored, look, store};
use crate::base::clock::{Stopwatch, Time};
use crate::base::error::Result;
use crate::base::id::EtcdId;
use crate::base::progress::Progress;
use crate::base::steps::Steps;
use crate::base::stop::Stop;
use crate::client::Client;
use crate::policy::HashOnLeader;
use crate::snapshot::bbolt::records::Facts;
use crate::snapshot::witness::Kinship;
use crate::vault::chain::Segment;
use crate::vault::intake::{Base, Intake};
use crate::vault::layout::{Attempt, Lineage, PointKind, PointName};
use crate::vault::lineage::LineageDocument;
use crate::vault::manifest::{self, Fidelity, Manifest, ObjectEntry};
use crate::vault::publish::{Published, look as look_at, publish};
use crate::vault::put::{Limits, PutStats};
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
    let intake = Intake { started, sample_seed: attempt.seed(), base: plan.base };
    let stored = store(client, repository, job, &spool, plan.lineage, intake).await?;
    warnings.extend(stored.taken.written.warnings());
    stages.end("store and prove");
    let stats = stored.taken.written.stats.clone();
    let manifest = manifest_of(repository, job, &context, stored);
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

/// What a backup knows once it has begun to store.
struct Context<'a> {
    started: Time,
    attempt: Attempt,
    spool: &'a Spool,
    plan: &'a Plan,
}

fn manifest_of(repository: &Repository, job: &Job, context: &Context<'_>, stored: Stored) -> Manifest {
    let Stored { taken, compared, digests, descriptor } = stored;
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
        proofs: manifest::Proofs { digest_at_source: digests, ..manifest::Proofs::of(&taken.proof, compared) },
        sample_seed: EtcdId(attempt.seed()),
        samples: taken.proof.samples,
        tail: taken.proof.tail,
        segments: [&plan.segments[..], &[taken.segment]].concat(),
        recipients: repository.recipients(),
        objects,
    }
}
