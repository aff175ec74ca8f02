//! Reading a restore point as records, and level 3 of the verification ladder: the records prove the manifest.

use crate::base::digest::Sha256;
use crate::base::error::{Error, Kind, Result};
use crate::base::stop::{Stop, blocking};
use crate::snapshot::decode::Records;
use crate::snapshot::hash::Scope;
use crate::snapshot::proof::{Proof, Prover as Proving};
use crate::snapshot::record::{Record, Rev};
use crate::snapshot::verify::Verifier;
use crate::vault::get::{Direction, RawObject, Reader};
use crate::vault::layout::Location;
use crate::vault::manifest::Manifest;
use crate::vault::pack::Check;
use crate::vault::repository::Repository;
use crate::vault::scrub::Prover;
use crate::vault::verdict::Finding;

/// Calls `sink` with the records of each object of a point, newest object first, each in ascending order.
pub async fn newest_first(
    repository: &Repository,
    manifest: &Manifest,
    stop: &Stop,
    mut sink: impl FnMut(&[Record<'_>]) -> Result<()> + Send + 'static,
) -> Result<()> {
    let mut reader = Reader::start(repository, &manifest.objects, Direction::Backward, stop);
    blocking(move || {
        let mut oldest = None;
        while let Some(object) = reader.next_blocking()? {
            let named = |error: Error| error.during(format!("object {}", object.entry.name));
            let records = Records::of(&object.bytes).collect::<Result<Vec<_>>>().map_err(named)?;
            check_order(&records, &mut oldest).map_err(named)?;
            sink(&records)?;
        }
        Ok(())
    })
    .await
}

/// Whoever folds records relies on their order, and a repository is not to be trusted with it.
fn check_order(records: &[Record<'_>], oldest: &mut Option<Rev>) -> Result<()> {
    for record in records.iter().rev() {
        let Record::Revision(revision) = record else { continue };
        if oldest.is_some_and(|next| revision.rev >= next) {
            return Err(Error::damaged(format!("revision {} stands out of order", revision.rev))
                .hint("do not use this point; `holdfast verify --level 3` tells what is wrong with it"));
        }
        *oldest = Some(revision.rev);
    }
    Ok(())
}

/// Proves a point's records against its manifest.
#[derive(Debug)]
pub struct ProvePoint {
    manifest: Manifest,
    verifier: Verifier,
    proving: Proving,
}

impl ProvePoint {
    /// A proof of the point that `manifest` describes.
    pub fn new(manifest: &Manifest) -> Self {
        let revision = manifest.descriptor.revision;
        let compact_revision = manifest.descriptor.compact_revision;
        ProvePoint {
            manifest: manifest.clone(),
            verifier: Verifier::new(compact_revision, 0),
            proving: Proving::new(Scope { revision, compact_revision }, manifest.sample_seed.0),
        }
    }
}

impl Prover for ProvePoint {
    fn object(&mut self, raw: &RawObject) -> Result<()> {
        let records = Records::of(&raw.bytes).collect::<Result<Vec<_>>>()?;
        // The check of the order comes first: the proof relies on it.
        self.verifier.batch(&records, &raw.bytes)?;
        self.proving.batch(&records)
    }

    fn finish(self: Box<Self>) -> Result<Vec<Finding>> {
        let at = Location::Point(self.manifest.name()).to_string();
        let finding = |check, detail: String| Finding { object: at.clone(), check, detail };
        match self.verifier.finish() {
            Ok(_) => {}
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
        ("the number of records", found.records + 1, counts.records),
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
    let samples = |key: Sha256, fact: Sha256, revision: i64| (key, fact, revision);
    let found: Vec<_> = proof.samples.iter().map(|s| samples(s.key_sha256, s.fact_sha256, s.mod_revision)).collect();
    let expected: Vec<_> =
        manifest.samples.iter().map(|s| samples(s.key_sha256, s.fact_sha256, s.mod_revision)).collect();
    if found != expected {
        differences.push("the sampled keys are not the manifest's".to_owned());
    }
    differences
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::record::Revision;

    #[test]
    fn records_out_of_order_are_damage_within_and_across_objects() {
        let at = |main| Record::Revision(Revision { rev: Rev { main, sub: 0 }, tombstone: false, stored: b"" });
        let mut oldest = None;
        check_order(&[at(5), at(6)], &mut oldest).unwrap();
        check_order(&[at(3), at(4)], &mut oldest).unwrap();
        assert_eq!(check_order(&[at(3)], &mut oldest).unwrap_err().kind(), Kind::Damaged);
        assert_eq!(check_order(&[at(8), at(7)], &mut None).unwrap_err().kind(), Kind::Damaged);
    }
}
