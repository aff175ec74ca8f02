//! Everything a manifest proves about a state, from one pass newest first: both digests, counts, samples, fingerprints of
//! the newest revisions, and of an increment what is still there of its base.

use std::collections::BinaryHeap;

use crate::base::digest::Sha256;
use crate::base::error::Result;
use crate::snapshot::entry::RevisionKey;
use crate::snapshot::fold::{Fingerprint, Fold, Place, key_digest};
use crate::snapshot::hash::{HashKv, Scope, StateDigest, key_value_fact, side_fact};
use crate::snapshot::kept::Kept;
use crate::snapshot::record::{KeyValue, Record, Rev, Revision};
use crate::snapshot::tail::{Print, TAIL_MAX, Tail};

/// Live keys whose facts are noted one by one, for drills to look up.
pub const SAMPLES_MAX: usize = 1000;

/// What was counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Counts {
    /// All records, without `End`.
    pub records: u64,
    /// Key values and tombstones.
    pub revisions: u64,
    /// Tombstones among them.
    pub tombstones: u64,
    /// Keys alive at the snapshot's revision.
    pub live_keys: u64,
    /// Leases.
    pub leases: u64,
    /// Users.
    pub users: u64,
    /// Roles.
    pub roles: u64,
    /// Alarms.
    pub alarms: u64,
    /// Members of the cluster the records come from.
    pub members: u64,
    /// Entries that Holdfast does not interpret.
    pub extras: u64,
}

/// One live key, by digests only: a manifest names no keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub struct Sample {
    /// SHA-256 of the key.
    pub key_sha256: Sha256,
    /// SHA-256 of the fact, as it enters the state digest.
    pub fact_sha256: Sha256,
    /// The revision of the version that was alive.
    pub mod_revision: i64,
}

/// What is still there of the revisions up to a base.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct KeptProof {
    /// How many.
    pub revisions: u64,
    /// The sum modulo 2^256 of the SHA-256 of each: its key in etcd's file, then the bytes stored under it.
    pub digest: StateDigest,
}

/// The result of the pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proof {
    /// The sum over the live facts.
    pub state_digest: StateDigest,
    /// HashKV for the scope asked for.
    pub hash_kv: u32,
    /// What that hash covers.
    pub scope: Scope,
    /// Whether a key was alive; without one HashKV cannot be compared.
    pub any_alive: bool,
    /// What was counted.
    pub counts: Counts,
    /// At most `SAMPLES_MAX` live keys, chosen by the seed, in the order of their keys' digests.
    pub samples: Vec<Sample>,
    /// Fingerprints of the newest revisions.
    pub tail: Tail,
    /// What is still there of the base, where there is one.
    pub kept: Option<KeptProof>,
}

/// The pass, fed batches newest first.
#[derive(Debug)]
pub struct Prover {
    fold: Fold,
    hash_kv: HashKv,
    scope: Scope,
    tally: Tally,
    /// Newest first.
    tail: Vec<Print>,
    base: Option<Base>,
}

/// What depends on no order: the digest over the live facts, counts, samples.
#[derive(Debug)]
pub(super) struct Tally {
    digest: StateDigest,
    counts: Counts,
    sample_seed: u64,
    samples: BinaryHeap<(u128, Sample)>,
}

/// The revisions up to `revision`.
#[derive(Debug)]
pub(super) struct Base {
    revision: i64,
    proof: KeptProof,
    /// Which they are, where that is wanted.
    kept: Option<Kept>,
}

impl Prover {
    /// A pass that hashes what `scope` says. The state proved is the one at the scope's revision.
    pub fn new(scope: Scope, sample_seed: u64) -> Self {
        Prover {
            fold: Fold::new(&[scope.revision]),
            hash_kv: HashKv::new(scope),
            scope,
            tally: Tally::new(sample_seed),
            tail: vec![],
            base: None,
        }
    }

    /// The pass also proves what is still there of the revisions up to `revision`; `collect` it, or only count and digest
    /// it.
    #[must_use]
    pub fn with_base(self, revision: i64, collect: bool) -> Self {
        Prover { base: Some(Base::new(revision, collect)), ..self }
    }

    /// Adds a batch: records in ascending order, all of them before those of the batches fed so far.
    pub fn batch(&mut self, records: &[Record<'_>]) -> Result<()> {
        let mut revisions: Vec<Revision<'_>> = Vec::with_capacity(records.len());
        for record in records {
            self.tally.record(record)?;
            if let Record::Revision(revision) = record {
                revisions.push(*revision);
            }
        }
        let mut newest = vec![false; revisions.len()];
        for (revision, newest) in revisions.iter().zip(&mut newest).rev() {
            if self.tail.len() < TAIL_MAX {
                self.tail.push(Print::of(revision));
            }
            let key = key_digest(revision)?;
            *newest = self.fold.place(revision.rev.main, Fingerprint::of_digest(&key)) == Place::Newest;
            self.tally.revision(revision, key, *newest)?;
        }
        self.hash_kv.batch(&revisions, &newest);
        self.base.as_mut().map_or(Ok(()), |base| base.batch(&revisions))
    }

    /// The result, after the last batch.
    pub fn finish(self) -> Proof {
        self.finish_with_kept().0
    }

    /// The result, and which revisions of the base are still there, where they were collected.
    pub fn finish_with_kept(mut self) -> (Proof, Kept) {
        let kept = self.base.as_mut().and_then(|base| base.kept.take()).unwrap_or_default();
        (self.proof(), kept)
    }

    fn proof(mut self) -> Proof {
        self.tail.reverse();
        let hash_kv = (self.hash_kv.any_alive(), self.hash_kv.finish());
        self.tally.proof(hash_kv, self.scope, self.tail, self.base.map(|base| base.proof))
    }
}

impl Tally {
    pub(super) fn new(sample_seed: u64) -> Self {
        let (digest, counts) = (StateDigest::default(), Counts::default());
        Tally { digest, counts, sample_seed, samples: BinaryHeap::new() }
    }

    /// Counts a record of any kind.
    pub(super) fn record(&mut self, record: &Record<'_>) -> Result<()> {
        self.counts.records += u64::from(!matches!(record, Record::End(_)));
        match record {
            Record::Lease { .. } => self.counts.leases += 1,
            Record::User { .. } => self.counts.users += 1,
            Record::Role { .. } => self.counts.roles += 1,
            Record::Alarm { .. } => self.counts.alarms += 1,
            Record::Member { .. } => self.counts.members += 1,
            Record::Extra(_) => self.counts.extras += 1,
            _ => {}
        }
        if let Some(fact) = side_fact(record)? {
            self.digest.add(&fact);
        }
        Ok(())
    }

    /// Takes a revision in, and whether it is the newest of its key.
    pub(super) fn revision(&mut self, revision: &Revision<'_>, key_sha256: Sha256, newest: bool) -> Result<()> {
        self.counts.revisions += 1;
        self.counts.tombstones += u64::from(revision.tombstone);
        if newest && !revision.tombstone { self.live(key_sha256, revision) } else { Ok(()) }
    }

    fn live(&mut self, key_sha256: Sha256, revision: &Revision<'_>) -> Result<()> {
        let fact_sha256 = key_value_fact(revision.stored);
        self.digest.add(&fact_sha256);
        self.counts.live_keys += 1;
        // The keys with the smallest seeded fingerprints are a uniform sample, whatever order they are met in.
        let rank = Fingerprint::of_digest(&key_sha256).number() ^ spread(self.sample_seed);
        let full = self.samples.len() == SAMPLES_MAX;
        if full && self.samples.peek().is_some_and(|worst| worst.0 <= rank) {
            return Ok(());
        }
        if full {
            self.samples.pop();
        }
        let mod_revision = KeyValue::parse(revision.stored)?.mod_revision;
        self.samples.push((rank, Sample { key_sha256, fact_sha256, mod_revision }));
        Ok(())
    }

    /// Everything together. `hash_kv`: whether a key was alive, and the hash. `tail`: oldest first.
    pub(super) fn proof(self, hash_kv: (bool, u32), scope: Scope, tail: Vec<Print>, kept: Option<KeptProof>) -> Proof {
        let mut samples: Vec<_> = self.samples.into_iter().map(|(_, sample)| sample).collect();
        samples.sort();
        Proof {
            state_digest: self.digest,
            any_alive: hash_kv.0,
            hash_kv: hash_kv.1,
            scope,
            counts: self.counts,
            samples,
            tail: Tail::new(tail),
            kept,
        }
    }
}

impl Base {
    pub(super) fn new(revision: i64, collect: bool) -> Self {
        Base { revision, proof: KeptProof::default(), kept: collect.then(Kept::default) }
    }

    fn batch(&mut self, revisions: &[Revision<'_>]) -> Result<()> {
        let older = &revisions[..revisions.partition_point(|revision| revision.rev.main <= self.revision)];
        older.iter().for_each(|revision| self.count(revision));
        let Some(kept) = &mut self.kept else { return Ok(()) };
        let revs: Vec<Rev> = older.iter().map(|revision| revision.rev).collect();
        kept.prepend(&revs)
    }

    /// The same with revisions that come after those before.
    pub(super) fn batch_after(&mut self, revisions: &[Revision<'_>]) -> Result<()> {
        let older = &revisions[..revisions.partition_point(|revision| revision.rev.main <= self.revision)];
        older.iter().for_each(|revision| self.count(revision));
        let Some(kept) = &mut self.kept else { return Ok(()) };
        let revs: Vec<Rev> = older.iter().map(|revision| revision.rev).collect();
        kept.append(&revs)
    }

    fn count(&mut self, revision: &Revision<'_>) {
        let key = RevisionKey::new(revision.rev, revision.tombstone);
        self.proof.digest.add(&Sha256::of_parts(&[key.as_bytes(), revision.stored]));
        self.proof.revisions += 1;
    }

    /// Which they are, which is told once, and what they prove.
    pub(super) fn take(&mut self) -> (Kept, KeptProof) {
        (self.kept.take().unwrap_or_default(), self.proof)
    }
}

/// A seed over all 128 bits.
fn spread(seed: u64) -> u128 {
    let mut rng = crate::base::rng::Seeded::new(seed);
    u128::from(rng.bits()) << 64 | u128::from(rng.bits())
}
