//! The restore point against the live cluster: HashKV of both, under the compaction the cluster replied with.
//!
//! The cluster may compact while a backup runs, so its reply may cover less history than the file holds. Then the file is
//! hashed again under the reply's compaction. Where that cannot be done, the answer is "not compared" with the reason,
//! never "equal", and nothing is tried in a loop.

use crate::base::error::{Error, Result};
use crate::client::maintenance::HashAnswer;
use crate::snapshot::hash::{Scope, StateDigest};
use crate::snapshot::proof::Proof;
use crate::vault::manifest::{Comparison, HashAtSource};

/// Compares the cluster's `answer` for the revision that `proof` covers. `again` hashes the records under another
/// compaction; none when they came once and are gone.
pub fn compare(
    answer: Result<HashAnswer>,
    proof: &Proof,
    again: impl FnOnce(Scope) -> Result<Option<Proof>>,
) -> Result<HashAtSource> {
    let Scope { revision, compact_revision } = proof.scope;
    let reply = match answer {
        Ok(HashAnswer::Hash(reply)) => reply,
        Ok(HashAnswer::Compacted) => {
            return Ok(not_compared(format!("the cluster compacted revision {revision} away meanwhile")));
        }
        Ok(HashAnswer::Future) => {
            return Ok(not_compared(format!("the member did not know revision {revision} when it was asked")));
        }
        Err(error) => return Ok(not_compared(format!("the member did not hash its history: {}", error.chain()))),
    };
    // etcd replies -1 where there was no compaction.
    let replied = Scope { revision, compact_revision: reply.compact_revision.max(0) };
    let result = |verdict, reason, ours| HashAtSource {
        verdict,
        reason,
        hash: Some(reply.hash),
        revision: Some(revision),
        compact_revision: Some(replied.compact_revision),
        ours,
    };
    let uncomparable = |reason: String| result(Comparison::NotCompared, Some(reason), None);
    if !proof.any_alive {
        return Ok(uncomparable("no key is alive, and then members may hash differently".to_owned()));
    }
    if replied.compact_revision < compact_revision {
        let (theirs, ours) = (replied.compact_revision, compact_revision);
        let reason = format!("the member hashed under its compaction to {theirs}, the snapshot is compacted to {ours}");
        return Ok(uncomparable(reason));
    }
    let ours = if replied.compact_revision == compact_revision {
        proof.hash_kv
    } else if let Some(proof) = again(replied)? {
        proof.hash_kv
    } else {
        let at = replied.compact_revision;
        return Ok(uncomparable(format!("the member compacted to {at} while its records were read")));
    };
    if ours == reply.hash {
        return Ok(result(Comparison::Equal, None, Some(ours)));
    }
    let reason = format!("the cluster hashes its history to {}, the snapshot hashes to {ours}", reply.hash);
    Ok(result(Comparison::Differs, Some(reason), Some(ours)))
}

/// Holds the state digest that a member keeps against that of the records which it sent; none where it keeps none. When they
/// differ, one of the two is not its state: nothing is made of that.
pub fn compare_digests(kept: Option<StateDigest>, proof: &Proof) -> Result<Option<Comparison>> {
    let Some(kept) = kept else { return Ok(None) };
    if kept == proof.state_digest {
        return Ok(Some(Comparison::Equal));
    }
    let (text, ours) = ("the member's state digest is not that of its records", proof.state_digest);
    Err(Error::damaged(format!("{text}: {kept} and {ours}"))
        .hint("take the backup from another member; of the only one, save a file with `holdfast snapshot save`, verify that, and \
               restore it as a new member"))
}

/// The verdict where nothing was compared.
pub fn not_compared(reason: String) -> HashAtSource {
    HashAtSource {
        verdict: Comparison::NotCompared,
        reason: Some(reason),
        hash: None,
        revision: None,
        compact_revision: None,
        ours: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::error::Kind;
    use crate::base::id::EtcdId;
    use crate::client::maintenance::KvHash;
    use crate::snapshot::proof::Counts;
    use crate::snapshot::tail::Tail;

    fn proof(hash_kv: u32, compact_revision: i64) -> Proof {
        Proof {
            state_digest: StateDigest::default(),
            hash_kv,
            scope: Scope { revision: 100, compact_revision },
            any_alive: true,
            counts: Counts::default(),
            samples: vec![],
            tail: Tail::default(),
            kept: None,
        }
    }

    fn reply(hash: u32, compact_revision: i64) -> Result<HashAnswer> {
        let (cluster_id, member_id) = (EtcdId(1), EtcdId(2));
        Ok(HashAnswer::Hash(KvHash {
            hash,
            compact_revision,
            hash_revision: 100,
            cluster_id,
            member_id,
            revision: 120,
        }))
    }

    fn verdict(answer: Result<HashAnswer>, proof_: &Proof, again: Option<u32>) -> Comparison {
        let again = |scope: Scope| Ok(again.map(|hash| proof(hash, scope.compact_revision)));
        compare(answer, proof_, again).unwrap().verdict
    }

    #[test]
    fn a_digest_that_is_not_that_of_the_records_is_damage() {
        let proof = proof(7, 30);
        assert_eq!(compare_digests(None, &proof).unwrap(), None);
        assert_eq!(compare_digests(Some(proof.state_digest), &proof).unwrap(), Some(Comparison::Equal));
        let error = compare_digests(Some(StateDigest::from_bytes([1; 32])), &proof).unwrap_err();
        assert_eq!((error.kind(), error.hint_text().is_some()), (Kind::Damaged, true), "{error}");
    }

    #[test]
    fn equal_differs_and_not_compared() {
        assert_eq!(verdict(reply(7, 30), &proof(7, 30), None), Comparison::Equal);
        assert_eq!(verdict(reply(7, -1), &proof(7, 0), None), Comparison::Equal);
        assert_eq!(verdict(reply(8, 30), &proof(7, 30), None), Comparison::Differs);
        // The cluster compacted meanwhile: the file is hashed again under its compaction.
        assert_eq!(verdict(reply(9, 50), &proof(7, 30), Some(9)), Comparison::Equal);
        assert_eq!(verdict(reply(9, 50), &proof(7, 30), Some(8)), Comparison::Differs);
        assert_eq!(verdict(reply(9, 50), &proof(7, 30), None), Comparison::NotCompared);
        assert_eq!(verdict(reply(7, 20), &proof(7, 30), None), Comparison::NotCompared);
        assert_eq!(verdict(Ok(HashAnswer::Compacted), &proof(7, 30), None), Comparison::NotCompared);
        assert_eq!(verdict(Ok(HashAnswer::Future), &proof(7, 30), None), Comparison::NotCompared);
        let error = Error::new(Kind::Unavailable, "no answer");
        assert_eq!(verdict(Err(error), &proof(7, 30), None), Comparison::NotCompared);
        let dead = Proof { any_alive: false, ..proof(7, 30) };
        assert_eq!(verdict(reply(7, 30), &dead, None), Comparison::NotCompared);
    }
}
