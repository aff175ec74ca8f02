//! Level 3 of the verification ladder: the records prove the manifest.

use crate::base::digest::Sha256;
use crate::base::error::{Error, Kind, Result};
use crate::snapshot::decode::{Records, batches};
use crate::snapshot::hash::Scope;
use crate::snapshot::kept::Order;
use crate::snapshot::proof::{Proof, Prover};
use crate::snapshot::verify::Verifier;
use crate::vault::chain::{Chain, Merge, Segment};
use crate::vault::get::RawObject;
use crate::vault::layout::Location;
use crate::vault::manifest::Manifest;
use crate::vault::pack::Check;
use crate::vault::scrub::Examiner;
use crate::vault::verdict::Finding;

/// Proves a point's records against its manifest: each stream of its chain on its own, then the state they make together.
#[derive(Debug)]
pub struct ProvePoint {
    manifest: Manifest,
    chain: Chain,
    merge: Merge,
    /// The segment being checked, and its check.
    segment: usize,
    verifier: Verifier,
    proving: Prover,
}

impl ProvePoint {
    /// A proof of the point that `manifest` describes.
    pub fn new(manifest: &Manifest) -> Self {
        let chain = Chain::of(manifest);
        let segment = chain.last();
        ProvePoint {
            manifest: manifest.clone(),
            merge: Merge::new(chain.clone(), Order::Descending),
            segment,
            verifier: verifier(&chain.segments()[segment]),
            proving: prover(manifest),
            chain,
        }
    }

    /// Ends the check of a segment's stream and begins that of the one before it.
    fn enter(&mut self, segment: usize) -> Result<()> {
        let next = verifier(&self.chain.segments()[segment]);
        let left = std::mem::replace(&mut self.verifier, next);
        finish(left, &self.chain.segments()[self.segment])?;
        self.segment = segment;
        Ok(())
    }
}

fn verifier(segment: &Segment) -> Verifier {
    Verifier::new(segment.compact_revision, segment.base_revision)
}

fn finish(verifier: Verifier, segment: &Segment) -> Result<()> {
    let reached = verifier.finish()?.revision;
    if reached == segment.revision {
        return Ok(());
    }
    Err(Error::damaged(format!("a stream reaches revision {reached}, the manifest says {}", segment.revision)))
}

/// The pass that proves what `manifest` claims.
pub fn prover(manifest: &Manifest) -> Prover {
    let revision = manifest.descriptor.revision;
    let compact_revision = manifest.descriptor.compact_revision;
    let prover = Prover::new(Scope { revision, compact_revision }, manifest.sample_seed.0);
    match manifest.segments.last() {
        Some(Segment { base_revision, kept: Some(_), .. }) => prover.with_base(*base_revision, false),
        _ => prover,
    }
}

impl Examiner for ProvePoint {
    fn object(&mut self, raw: &RawObject) -> Result<()> {
        let segment = self.chain.segment_of(raw.index);
        if segment != self.segment {
            self.enter(segment)?;
        }
        for batch in batches(&raw.bytes)?.into_iter().rev() {
            let records = Records::of(batch).collect::<Result<Vec<_>>>()?;
            // The check of the order comes first: the proof relies on it.
            self.verifier.batch(&records, batch)?;
            self.merge.learn(segment, &records)?;
            self.proving.batch(&self.merge.belonging(segment, records)?)?;
        }
        Ok(())
    }

    fn finish(mut self: Box<Self>) -> Result<Vec<Finding>> {
        let at = Location::Point(self.manifest.name()).to_string();
        let finding = |check, detail: String| Finding { object: at.clone(), check, detail };
        let first = &self.chain.segments()[self.segment];
        match finish(self.verifier, first).and_then(|()| self.merge.finish()) {
            Ok(()) => {}
            Err(error) if error.kind() == Kind::Damaged => return Ok(vec![finding(Check::Records, error.chain())]),
            Err(error) => return Err(error),
        }
        let differences = differences(&self.manifest, &self.proving.finish());
        Ok(differences.into_iter().map(|detail| finding(Check::Records, detail)).collect())
    }
}

/// Where a proof and a manifest disagree, in words; empty when they agree.
pub fn differences(manifest: &Manifest, proof: &Proof) -> Vec<String> {
    let (counts, proofs) = (&manifest.counts, &manifest.proofs);
    let mut differences = vec![];
    let mut compare = |what: &str, found: String, expected: String| {
        if found != expected {
            differences.push(format!("{what} is {found}, the manifest says {expected}"));
        }
    };
    compare("the state digest", proof.state_digest.to_string(), proofs.state_digest.to_string());
    compare("HashKV", proof.hash_kv.to_string(), proofs.hash_kv.hash.to_string());
    let found = &proof.counts;
    for (what, found, expected) in [
        ("the number of revisions", found.revisions, counts.revisions),
        ("the number of tombstones", found.tombstones, counts.tombstones),
        ("the number of live keys", found.live_keys, counts.live_keys),
        ("the number of leases", found.leases, counts.leases),
        ("the number of users", found.users, counts.users),
        ("the number of roles", found.roles, counts.roles),
        ("the number of alarms", found.alarms, counts.alarms),
        ("the number of members", found.members, counts.members),
        ("the number of other entries", found.extras, counts.extras),
    ] {
        compare(what, found.to_string(), expected.to_string());
    }
    // The objects of a chain also hold records that are not part of the state any more.
    if manifest.segments.len() == 1 {
        compare("the number of records", (found.records + 1).to_string(), counts.records.to_string());
    }
    let last = manifest.segments.last().and_then(|segment| segment.kept);
    if let (Some(found), Some(expected)) = (proof.kept, last) {
        compare("the number of older revisions", found.revisions.to_string(), expected.proof.revisions.to_string());
        compare("the digest of older revisions", found.digest.to_string(), expected.proof.digest.to_string());
    }
    if proof.tail != manifest.tail {
        differences.push("the newest revisions are not the manifest's".to_owned());
    }
    let samples = |key: Sha256, fact: Sha256, revision: i64| (key, fact, revision);
    let found: Vec<_> = proof.samples.iter().map(|s| samples(s.key_sha256, s.fact_sha256, s.mod_revision)).collect();
    let expected: Vec<_> =
        manifest.samples.iter().map(|s| samples(s.key_sha256, s.fact_sha256, s.mod_revision)).collect();
    if found != expected {
        differences.push("the sampled keys are not the manifest's".to_owned());
    }
    differences
}
