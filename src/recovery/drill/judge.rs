//! What a member serves, held against the manifest: pure, so that tests can show what it refuses.
//!
//! Expected values come from the manifest alone. The restored file was proved before; a member that serves another file,
//! or this one wrongly, is told by what it serves.

use std::collections::HashMap;

use crate::base::digest::Sha256;
use crate::base::id::EtcdId;
use crate::client::maintenance::HashAnswer;
use crate::recovery::drill::report::{Proof, Through, Verdict};
use crate::snapshot::proof;
use crate::vault::manifest::Manifest;

/// Looks for the sampled keys among all keys that a member serves.
#[derive(Debug)]
pub struct Sampler {
    /// Digest of each sampled key's fact, by the key's digest.
    wanted: HashMap<Sha256, Sha256>,
    /// Keys seen.
    keys: u64,
    equal: usize,
}

impl Sampler {
    /// Looks for the samples of `manifest`.
    pub fn new(manifest: &Manifest) -> Self {
        let wanted = manifest.samples.iter().map(|sample| (sample.key_sha256, sample.fact_sha256)).collect();
        Sampler { wanted, keys: 0, equal: 0 }
    }

    /// Takes in a key; `fact` digests its whole version, and is asked only about sampled keys.
    pub fn key(&mut self, key: &[u8], fact: impl FnOnce() -> Sha256) {
        self.keys += 1;
        if let Some(expected) = self.wanted.get(&Sha256::of(key)) {
            self.equal += usize::from(fact() == *expected);
        }
    }

    /// The proofs: how many keys there are, and how many of the samples are as they were.
    pub fn proofs(&self, manifest: &Manifest) -> Vec<Proof> {
        let samples = self.wanted.len();
        vec![
            compare("keys served", &manifest.counts.live_keys, &self.keys),
            compare(
                "sampled keys with their values",
                &format!("{samples} of {samples}"),
                &format!("{} of {samples}", self.equal),
            ),
        ]
    }
}

/// A proof through the member.
pub fn compare<T: ToString + ?Sized>(what: &str, expected: &T, found: &T) -> Proof {
    let (expected, found) = (expected.to_string(), found.to_string());
    let verdict = if expected == found { Verdict::Equal } else { Verdict::Differs };
    Proof { what: what.to_owned(), through: Through::Member, expected, found, verdict }
}

/// A proof that could not be made.
pub fn skipped<T: ToString + ?Sized>(what: &str, expected: &T, why: impl Into<String>) -> Proof {
    let (expected, found) = (expected.to_string(), why.into());
    Proof { what: what.to_owned(), through: Through::Member, expected, found, verdict: Verdict::Skipped }
}

/// The state that the member streamed, and the facts of leases that had `ran_out` by then.
pub fn state(manifest: &Manifest, served: &proof::Proof, ran_out: &[Sha256]) -> Vec<Proof> {
    let (expected, found) = (&manifest.counts, &served.counts);
    let mut digest = served.state_digest;
    ran_out.iter().for_each(|fact| digest.add(fact));
    let mut leases = compare("leases", &expected.leases, &(found.leases + ran_out.len() as u64));
    if !ran_out.is_empty() {
        leases.found = format!("{}, and {} that ran out before the member could be asked", found.leases, ran_out.len());
    }
    vec![
        compare("state digest", &manifest.proofs.state_digest, &digest),
        compare("live keys", &expected.live_keys, &found.live_keys),
        leases,
        compare("users", &expected.users, &found.users),
        compare("roles", &expected.roles, &found.roles),
    ]
}

/// HashKV as the member computes it.
pub fn hash(manifest: &Manifest, answer: &HashAnswer) -> Proof {
    const WHAT: &str = "HashKV";
    let expected = &manifest.proofs.hash_kv;
    let reply = match answer {
        HashAnswer::Hash(reply) => reply,
        HashAnswer::Compacted => return skipped(WHAT, &expected.hash, "the member compacted this revision away"),
        HashAnswer::Future => {
            return compare(WHAT, expected.hash.to_string().as_str(), "the member has not reached this revision");
        }
    };
    if manifest.counts.live_keys == 0 {
        return skipped(WHAT, &expected.hash, "no key is alive, and then members may hash differently");
    }
    // etcd replies -1 where there was no compaction.
    let compacted = reply.compact_revision.max(0);
    if compacted != expected.compact_revision {
        let why = format!("the member hashed under a compaction to {compacted}, not {}", expected.compact_revision);
        return skipped(WHAT, &expected.hash, why);
    }
    compare(WHAT, &expected.hash, &reply.hash)
}

/// The cluster's id: the one that was minted, so no client and no member takes it for the old cluster.
pub fn identity(manifest: &Manifest, own: EtcdId, found: EtcdId) -> Vec<Proof> {
    let old = manifest.descriptor.cluster_id;
    let is_new = if own == old { "the old one" } else { "not the old one" };
    vec![compare("cluster id, as minted", &own, &found), compare("cluster id", "not the old one", is_new)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::maintenance::KvHash;
    use crate::vault::testing;

    fn point() -> Manifest {
        let mut manifest = testing::manifest("prod", &[testing::entry("prod", 1, 9)]);
        manifest.counts.live_keys = 1;
        manifest
    }

    fn answer(hash: u32, compact_revision: i64) -> HashAnswer {
        HashAnswer::Hash(KvHash {
            hash,
            compact_revision,
            hash_revision: 9,
            cluster_id: EtcdId(1),
            member_id: EtcdId(2),
            revision: 9,
        })
    }

    #[test]
    fn a_hash_is_equal_or_differs_or_is_not_comparable() {
        let manifest = point();
        let verdict = |answer: &HashAnswer| hash(&manifest, answer).verdict;
        assert_eq!(verdict(&answer(7, -1)), Verdict::Equal);
        assert_eq!(verdict(&answer(8, 0)), Verdict::Differs);
        assert_eq!(verdict(&answer(7, 3)), Verdict::Skipped);
        assert_eq!(verdict(&HashAnswer::Compacted), Verdict::Skipped);
        assert_eq!(verdict(&HashAnswer::Future), Verdict::Differs, "a member that is behind the point lost something");
        let mut empty = point();
        empty.counts.live_keys = 0;
        assert_eq!(hash(&empty, &answer(8, 0)).verdict, Verdict::Skipped);
    }

    #[test]
    fn a_lease_that_ran_out_counts_and_one_that_is_lost_does_not() {
        use crate::snapshot::hash::{Scope, StateDigest};
        let (lost, kept) = (Sha256::of(b"lost"), Sha256::of(b"kept"));
        let mut manifest = point();
        manifest.counts.leases = 2;
        [lost, kept].iter().for_each(|fact| manifest.proofs.state_digest.add(fact));
        let mut served = proof::Prover::new(Scope { revision: 9, compact_revision: 0 }, 0).finish();
        (served.counts.live_keys, served.counts.leases) = (1, 1);
        served.state_digest = StateDigest::default();
        served.state_digest.add(&kept);
        let differ = |ran_out: &[Sha256]| {
            let proofs = state(&manifest, &served, ran_out).into_iter();
            proofs.filter(|proof| proof.verdict == Verdict::Differs).map(|proof| proof.what).collect::<Vec<_>>()
        };
        assert_eq!(differ(&[lost]), Vec::<String>::new());
        assert_eq!(differ(&[]), ["state digest", "leases"]);
        assert_eq!(differ(&[kept]), ["state digest"]);
        let leases = state(&manifest, &served, &[lost]).swap_remove(2);
        assert_eq!(leases.found, "1, and 1 that ran out before the member could be asked");
    }

    #[test]
    fn a_sample_counts_when_its_key_is_there_as_it_was() {
        let manifest = point();
        let look = |keys: &[(&[u8], &[u8])]| {
            let mut sampler = Sampler::new(&manifest);
            keys.iter().for_each(|(key, fact)| sampler.key(key, || Sha256::of(fact)));
            let proofs = sampler.proofs(&manifest);
            (proofs[0].verdict, proofs[1].found.clone(), proofs[1].verdict)
        };
        let (right, wrong) = (Verdict::Equal, Verdict::Differs);
        assert_eq!(look(&[(b"k", b"f")]), (right, "1 of 1".to_owned(), right));
        assert_eq!(look(&[(b"k", b"g")]), (right, "0 of 1".to_owned(), wrong));
        assert_eq!(look(&[(b"l", b"f")]), (right, "0 of 1".to_owned(), wrong));
        assert_eq!(look(&[]), (wrong, "0 of 1".to_owned(), wrong));
        assert_eq!(look(&[(b"k", b"f"), (b"l", b"f")]), (wrong, "1 of 1".to_owned(), right));
    }

    #[test]
    fn a_member_that_calls_itself_the_old_cluster_is_refused() {
        let manifest = point();
        let verdicts = |own, found| identity(&manifest, EtcdId(own), EtcdId(found)).into_iter().map(|p| p.verdict);
        assert!(verdicts(5, 5).all(|verdict| verdict == Verdict::Equal));
        assert!(verdicts(5, 1).any(|verdict| verdict == Verdict::Differs));
        assert!(verdicts(1, 1).any(|verdict| verdict == Verdict::Differs), "1 is the old cluster's id");
    }
}
