//! Everything a manifest proves about a state, from one pass newest first: both digests, counts, samples, fingerprints of
//! the newest revisions, and of an increment what is still there of its base.

use std::collections::BinaryHeap;

use crate::base::digest::Sha256;
use crate::base::error::Result;
use crate::snapshot::entry::RevisionKey;
use crate::snapshot::fold::{Fingerprint, Fold, Place, key_digest};
use crate::snapshot::hash::{HashKv, Scope, StateDigest, side_fact};
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
    digest: StateDigest,
    counts: Counts,
    sample_seed: u64,
    samples: BinaryHeap<(u128, Sample)>,
    /// Newest first.
    tail: Vec<Print>,
    base: Option<Base>,
}

/// The revisions up to `revision`.
#[derive(Debug)]
struct Base {
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
            digest: StateDigest::default(),
            counts: Counts::default(),
            sample_seed,
            samples: BinaryHeap::new(),
            tail: vec![],
            base: None,
        }
    }

    /// The pass also proves what is still there of the revisions up to `revision`; `collect` it, or only count and digest
    /// it.
    #[must_use]
    pub fn with_base(self, revision: i64, collect: bool) -> Self {
        let base = Base { revision, proof: KeptProof::default(), kept: collect.then(Kept::default) };
        Prover { base: Some(base), ..self }
    }

    /// Adds a batch: records in ascending order, all of them before those of the batches fed so far.
    pub fn batch(&mut self, records: &[Record<'_>]) -> Result<()> {
        let mut revisions: Vec<Revision<'_>> = Vec::with_capacity(records.len());
        for record in records {
            self.counts.records += u64::from(!matches!(record, Record::End(_)));
            match record {
                Record::Revision(revision) => revisions.push(*revision),
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
        }
        let mut newest = vec![false; revisions.len()];
        for (revision, newest) in revisions.iter().zip(&mut newest).rev() {
            self.counts.revisions += 1;
            self.counts.tombstones += u64::from(revision.tombstone);
            if self.tail.len() < TAIL_MAX {
                self.tail.push(Print::of(revision));
            }
            let key = key_digest(revision)?;
            *newest = self.fold.place(revision.rev.main, Fingerprint::of_digest(&key)) == Place::Newest;
            if *newest && !revision.tombstone {
                self.live(key, revision)?;
            }
        }
        self.hash_kv.batch(&revisions, &newest);
        self.base.as_mut().map_or(Ok(()), |base| base.batch(&revisions))
    }

    fn live(&mut self, key_sha256: Sha256, revision: &Revision<'_>) -> Result<()> {
        let fact_sha256 = StateDigest::fact(16, revision.stored);
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
        let mut samples: Vec<_> = self.samples.into_iter().map(|(_, sample)| sample).collect();
        samples.sort();
        Proof {
            state_digest: self.digest,
            any_alive: self.hash_kv.any_alive(),
            hash_kv: self.hash_kv.finish(),
            scope: self.scope,
            counts: self.counts,
            samples,
            tail: Tail::new(self.tail),
            kept: self.base.map(|base| base.proof),
        }
    }
}

impl Base {
    fn batch(&mut self, revisions: &[Revision<'_>]) -> Result<()> {
        let older = &revisions[..revisions.partition_point(|revision| revision.rev.main <= self.revision)];
        for revision in older {
            let key = RevisionKey::new(revision.rev, revision.tombstone);
            self.proof.digest.add(&Sha256::of_parts(&[key.as_bytes(), revision.stored]));
        }
        self.proof.revisions += older.len() as u64;
        let Some(kept) = &mut self.kept else { return Ok(()) };
        let revs: Vec<Rev> = older.iter().map(|revision| revision.rev).collect();
        kept.prepend(&revs)
    }
}

/// A seed over all 128 bits.
fn spread(seed: u64) -> u128 {
    let mut rng = crate::base::rng::Seeded::new(seed);
    u128::from(rng.bits()) << 64 | u128::from(rng.bits())
}
