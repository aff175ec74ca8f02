//! The newest revisions by their fingerprints: proof that a later file continues this history.
//!
//! A restore with the old token, or a forced new cluster, keeps ids and may reach the same revisions again with other
//! content. An increment on top of the wrong history would join two of them. So every point remembers its newest
//! revisions, and the next increment holds them against its own file: what is still there must be the same, byte for
//! byte, and nothing may have appeared between them. Older history is witnessed by the sampled keys of the point.
//!
//! A fingerprint is the first eight bytes of the SHA-256 of the revision as etcd's key and the stored bytes: enough
//! against an accident, which is what forks are; against forgers there are signatures.

use serde::{Deserialize, Serialize};

use crate::base::digest::{self, Sha256};
use crate::base::error::{Error, Result};
use crate::snapshot::entry::RevisionKey;
use crate::snapshot::kept::Kept;
use crate::snapshot::record::{KeptRun, Rev, Revision};

/// Revisions that are remembered.
pub const TAIL_MAX: usize = 4096;
/// Bytes of a fingerprint.
const PRINT_BYTES: usize = 8;

/// One remembered revision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Print {
    /// Which one.
    pub rev: Rev,
    /// Its fingerprint.
    pub print: u64,
}

impl Print {
    /// The fingerprint of `revision`.
    pub fn of(revision: &Revision<'_>) -> Self {
        let key = RevisionKey::new(revision.rev, revision.tombstone);
        let digest = Sha256::of_parts(&[key.as_bytes(), revision.stored]);
        let print = u64::from_be_bytes(*digest.0.first_chunk().expect("32 bytes begin with 8"));
        Print { rev: revision.rev, print }
    }
}

/// The newest revisions of a point, ascending.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Stored", into = "Stored")]
pub struct Tail(Vec<Print>);

impl Tail {
    /// The revisions in `prints`, which ascend.
    pub fn new(prints: Vec<Print>) -> Self {
        assert!(prints.len() <= TAIL_MAX && prints.is_sorted_by_key(|print| print.rev), "the newest, in order");
        Tail(prints)
    }

    /// The revisions, ascending.
    pub fn prints(&self) -> &[Print] {
        &self.0
    }
}

/// As it stands in a manifest: the first revision, the steps from each to the next, and the fingerprints.
#[derive(Clone, Default, Serialize, Deserialize)]
struct Stored {
    main: i64,
    sub: i64,
    /// As in a `Kept` record, hexadecimal.
    steps: String,
    /// Sixteen hexadecimal digits each.
    prints: String,
}

impl From<Tail> for Stored {
    fn from(tail: Tail) -> Self {
        let revs: Vec<Rev> = tail.0.iter().map(|print| print.rev).collect();
        let mut kept = Kept::default();
        kept.prepend(&revs).expect("a tail is far smaller than the limit of a set");
        let prints: Vec<u8> = tail.0.iter().flat_map(|print| print.print.to_be_bytes()).collect();
        let run = kept.runs().next().map(|run| (run.first, digest::hex(run.steps)));
        let (first, steps) = run.unwrap_or_default();
        Stored { main: first.main, sub: first.sub, steps, prints: digest::hex(&prints) }
    }
}

impl TryFrom<Stored> for Tail {
    type Error = Error;

    fn try_from(stored: Stored) -> Result<Self> {
        let wrong = || Error::damaged("the fingerprints of the newest revisions cannot be read");
        let bytes = |text: &str| -> Result<Vec<u8>> {
            let mut bytes = vec![0; text.len() / 2];
            let fits = text.len() <= TAIL_MAX * PRINT_BYTES * 4;
            if fits && digest::from_hex(text, &mut bytes) { Ok(bytes) } else { Err(wrong()) }
        };
        let (steps, prints) = (bytes(&stored.steps)?, bytes(&stored.prints)?);
        if prints.is_empty() {
            return if steps.is_empty() { Ok(Tail::default()) } else { Err(wrong()) };
        }
        let first = Rev { main: stored.main, sub: stored.sub };
        let revs = KeptRun { first, steps: &steps }.revisions()?;
        if revs.len() * PRINT_BYTES != prints.len() || revs.len() > TAIL_MAX || first.main <= 0 || first.sub < 0 {
            return Err(wrong());
        }
        let prints = prints.chunks_exact(PRINT_BYTES).map(|p| u64::from_be_bytes(p.try_into().expect("8 bytes")));
        Ok(Tail(revs.into_iter().zip(prints).map(|(rev, print)| Print { rev, print }).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tail(len: i64) -> Tail {
        let prints = (0..len).map(|n| {
            let rev = Rev { main: 10 + n / 3, sub: n % 3 };
            Print::of(&Revision { rev, tombstone: n % 5 == 0, stored: b"\x0a\x01k" })
        });
        Tail::new(prints.collect())
    }

    #[test]
    fn a_tail_reads_back_from_its_manifest() {
        for len in [0, 1, 7, 4096] {
            let text = serde_json::to_string(&tail(len)).unwrap();
            assert_eq!(serde_json::from_str::<Tail>(&text).unwrap(), tail(len));
            assert!(text.len() < 100 + 19 * usize::try_from(len).unwrap(), "{len}: {}", text.len());
        }
        let right = serde_json::to_string(&tail(7)).unwrap();
        for (from, to) in
            [("\"main\":10", "\"main\":0"), ("\"steps\":\"", "\"steps\":\"0"), ("\"prints\":\"", "\"prints\":\"00")]
        {
            assert!(serde_json::from_str::<Tail>(&right.replace(from, to)).is_err(), "{to}");
        }
        assert!(
            serde_json::from_str::<Tail>(&right.replace("\"prints\":\"", &format!("\"prints\":\"{}", "0".repeat(16))))
                .is_err()
        );
    }

    #[test]
    fn a_fingerprint_tells_revision_deletion_and_content_apart() {
        let print = |main, tombstone, stored: &[u8]| {
            Print::of(&Revision { rev: Rev { main, sub: 0 }, tombstone, stored }).print
        };
        let one = print(1, false, b"x");
        assert!(one == print(1, false, b"x"));
        for other in [print(2, false, b"x"), print(1, true, b"x"), print(1, false, b"y")] {
            assert_ne!(one, other);
        }
    }
}
