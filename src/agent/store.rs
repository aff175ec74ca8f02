//! From what a member gives to stored and proved records, whichever form it comes in.
//!
//! While records are stored and proved, the same member is asked to hash its history up to the same revision; both
//! hashes meet at the end.

use std::sync::mpsc;

use bytes::Bytes;
use tokio::runtime;
use tokio::sync::{mpsc as pipe, oneshot};

use crate::agent::backup::Job;
use crate::agent::compare::{compare, compare_digests, not_compared};
use crate::agent::spool::{Content, Spool};
use crate::base::digest::Sha256;
use crate::base::error::{Error, Kind, Result};
use crate::base::file::ReadAt;
use crate::base::id::EtcdId;
use crate::base::progress::Progress;
use crate::base::stop::{Stop, blocking};
use crate::client::Client;
use crate::client::maintenance::HashAnswer;
use crate::client::records::{Moment, Piece};
use crate::policy::HashOnLeader;
use crate::snapshot::bbolt::read::Db;
use crate::snapshot::bbolt::records::{Facts, Source};
use crate::snapshot::decode::Records;
use crate::snapshot::hash::Scope;
use crate::snapshot::proof::Proof;
use crate::snapshot::record::Record;
use crate::snapshot::witness::{Each, Kinship, Memory, Range, kinship};
use crate::vault::intake::{self, Intake, Taken};
use crate::vault::layout::Lineage;
use crate::vault::manifest::{self, Comparison, HashAtSource, Manifest};
use crate::vault::put::{Destination, Writer};
use crate::vault::repository::Repository;

/// Messages of about 1 MiB that wait to be stored.
const QUEUE_PIECES: usize = 4;
/// Of a member's lineage, for people.
const LINEAGE_DIGITS: usize = 16;

/// Stored and proved records.
#[derive(Debug)]
pub(crate) struct Stored {
    pub(crate) taken: Taken,
    pub(crate) compared: HashAtSource,
    /// How the state digest compares with the one that the member keeps, if it keeps one.
    pub(crate) digests: Option<Comparison>,
    pub(crate) descriptor: manifest::Descriptor,
}

/// What the content says about itself, and what it has in common with the newest point.
pub(crate) async fn look(spool: &Spool, newest: Option<Manifest>) -> Result<(Facts, Kinship)> {
    match &spool.content {
        Content::File { file, .. } => {
            let file = file.clone();
            blocking(move || {
                let db = Db::open(file)?;
                let source = Source::open(&db)?;
                let facts = source.facts().clone();
                let kin = kin(&facts, newest, &mut |first, last, each| source.revisions(first, last, each))?;
                Ok((facts, kin))
            })
            .await
        }
        Content::Moment(moment) => {
            let moment = moment.clone();
            blocking(move || {
                let facts = facts(&moment)?;
                let born = newest.as_ref().and_then(|newest| newest.descriptor.member_lineage);
                if let Some(contradiction) = born_again(born, moment.descriptor()?.lineage) {
                    return Ok((facts, Kinship { alike: 0, contradiction: Some(contradiction) }));
                }
                let network = runtime::Handle::current();
                let kin =
                    kin(&facts, newest, &mut |first, last, each| network.block_on(part(&moment, first, last, each)))?;
                Ok((facts, kin))
            })
            .await
        }
    }
}

fn kin(facts: &Facts, newest: Option<Manifest>, range: &mut Range<'_>) -> Result<Kinship> {
    let Some(newest) = newest else { return Ok(Kinship::default()) };
    let memory = Memory { tail: &newest.tail, samples: &newest.samples };
    let last = newest.descriptor.revision.min(facts.revision);
    kinship(memory, last, facts.compact_revision, range)
}

/// What tells that the member was born since the newest point: its branch of history is another one.
fn born_again(then: Option<Sha256>, now: Option<Sha256>) -> Option<String> {
    let ((then, now), digits) = (then.zip(now).filter(|(then, now)| then != now)?, LINEAGE_DIGITS);
    let (then, now) = (then.to_string(), now.to_string());
    Some(format!("the member's lineage changed from {} to {}", &then[..digits], &now[..digits]))
}

fn facts(moment: &Moment) -> Result<Facts> {
    let descriptor = moment.descriptor()?;
    Ok(Facts {
        revision: descriptor.revision,
        compact_revision: descriptor.compact_revision,
        raft_term: descriptor.raft_term,
        raft_index: descriptor.raft_index,
        storage_version: descriptor.storage_version.to_owned(),
    })
}

/// Reads a part of a moment's history.
async fn part(moment: &Moment, first: i64, last: i64, each: &mut Each<'_>) -> Result<()> {
    let mut stream = moment.part(first, last).await?;
    while let Some(piece) = stream.next().await? {
        for record in Records::of(&piece.records) {
            if let Record::Revision(revision) = record? {
                each(&revision)?;
            }
        }
    }
    Ok(())
}

/// Stores and proves the records while the member hashes its history, then compares.
pub(crate) async fn store(
    client: &Client,
    repository: &Repository,
    job: &Job,
    spool: &Spool,
    lineage: Lineage,
    intake: Intake,
) -> Result<Stored> {
    let base_revision = intake.base.map_or(0, |base| base.revision);
    let destination = Destination { cluster: job.cluster.clone(), lineage, base_revision };
    let writer = Writer::start(repository, destination, job.limits.clone(), job.steps.clone(), &job.stop)?;
    let (scope_known, scope) = oneshot::channel();
    let (answered, answer) = mpsc::channel();
    let work = Work { intake, writer, scope_known, answer, stop: job.stop.clone(), progress: job.progress.clone() };
    let asking = async {
        if let Ok(scope) = scope.await {
            // The other side has hung up when storing failed; its error is the one that counts.
            let _ = answered.send(ask(client, job, spool, scope).await);
        }
    };
    match &spool.content {
        Content::File { file, bytes, sha256 } => {
            let (file, member, spooled) = (file.clone(), spool.member.clone(), (*bytes, *sha256));
            let working = blocking(move || work.file(file, (member.cluster_id, member.member_id), spooled));
            tokio::join!(working, asking).0
        }
        Content::Moment(moment) => {
            let mut stream = job.stop.or(moment.whole()).await?;
            let (moment, (sender, receiver)) = (moment.clone(), pipe::channel(QUEUE_PIECES));
            let working = blocking(move || work.stream(&moment, receiver));
            let receiving = async {
                loop {
                    let piece = job.stop.or(stream.next()).await;
                    let last = !matches!(piece, Ok(Some(_)));
                    // Nobody receives when storing failed; its error is the one that counts.
                    if sender.send(piece).await.is_err() || last {
                        break;
                    }
                }
                drop(sender);
            };
            tokio::join!(working, receiving, asking).0
        }
    }
}

/// What storing needs, on a thread of its own.
struct Work {
    intake: Intake,
    writer: Writer,
    scope_known: oneshot::Sender<Scope>,
    answer: mpsc::Receiver<Asked>,
    stop: Stop,
    progress: Progress,
}

impl Work {
    fn file(self, file: ReadAt, (cluster_id, member_id): (EtcdId, EtcdId), spooled: (u64, Sha256)) -> Result<Stored> {
        let Work { intake, writer, scope_known, answer, stop, progress } = self;
        let db = Db::open(file)?;
        let source = Source::open(&db)?;
        let descriptor = source.descriptor(cluster_id, member_id);
        // Nobody waits for the scope only when the backup is being given up.
        let _ =
            scope_known.send(Scope { revision: descriptor.revision, compact_revision: descriptor.compact_revision });
        progress.stage("storing records", db.size());
        let taken = intake::store(&source, &descriptor, intake, writer, &progress, &stop)?;
        progress.stage("comparing with the cluster", 0);
        let compared = meet(&answer, &taken.proof, |scope| {
            intake::prove_under(&source, &descriptor, scope, intake.sample_seed, &stop).map(Some)
        })?;
        let descriptor = manifest::Descriptor::of(&descriptor, Some(spooled));
        Ok(Stored { taken, compared, digests: None, descriptor })
    }

    fn stream(self, moment: &Moment, mut pieces: pipe::Receiver<Result<Option<Piece>>>) -> Result<Stored> {
        let Work { intake, writer, scope_known, answer, stop, progress } = self;
        let descriptor = moment.descriptor()?;
        let _ =
            scope_known.send(Scope { revision: descriptor.revision, compact_revision: descriptor.compact_revision });
        progress.stage("storing records", 0);
        let mut next = || -> Result<Option<(Bytes, Vec<u32>)>> {
            let piece = pieces.blocking_recv().unwrap_or_else(|| Err(Error::new(Kind::Interrupted, "interrupted")))?;
            Ok(piece.map(|piece| (piece.records, piece.superseded)))
        };
        let taken = intake::store_stream(&descriptor, &mut next, intake, writer, &progress, &stop)?;
        let digests = compare_digests(descriptor.state_digest, &taken.proof)?;
        progress.stage("comparing with the cluster", 0);
        let compared = meet(&answer, &taken.proof, |_| Ok(None))?;
        let descriptor = manifest::Descriptor::of(&descriptor, None);
        Ok(Stored { taken, compared, digests, descriptor })
    }
}

/// Waits for the member's hash and holds it against the proof.
fn meet(
    answer: &mpsc::Receiver<Asked>,
    proof: &Proof,
    again: impl FnOnce(Scope) -> Result<Option<Proof>>,
) -> Result<HashAtSource> {
    Ok(match answer.recv() {
        Ok(Asked::Answer(answer)) => compare(answer, proof, again)?,
        Ok(Asked::Not(reason)) => not_compared(reason),
        Err(_) => not_compared("the member was not asked".to_owned()),
    })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_that_was_born_anew_is_told_by_its_lineage() {
        let [one, other] = [b"one", b"two"].map(|born| Some(Sha256::of(born)));
        for (then, now) in [(None, None), (None, one), (one, None), (one, one)] {
            assert_eq!(born_again(then, now), None);
        }
        let told = born_again(one, other).unwrap();
        let [one, other] = [one, other].map(|lineage| lineage.unwrap().to_string()[..LINEAGE_DIGITS].to_owned());
        assert_eq!(told, format!("the member's lineage changed from {one} to {other}"));
    }
}
