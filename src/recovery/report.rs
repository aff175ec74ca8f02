//! What a restore comes to: what was made, and what was proved of it when it was read back.

use serde::Serialize;

use crate::base::clock::Stopwatch;
use crate::base::error::{Error, Result};
use crate::snapshot::proof::Proof;

/// A restore that succeeded. `M` is what only restores of its kind can say.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report<M> {
    /// What was made.
    #[serde(flatten)]
    pub made: M,
    /// Its length on disk.
    pub bytes: u64,
    /// Its revision.
    pub revision: i64,
    /// Its compaction.
    pub compact_revision: i64,
    /// Keys alive.
    pub live_keys: u64,
    /// HashKV of what was read back, before revisions were raised.
    pub hash_kv: u32,
    /// State digest of what was read back.
    pub state_digest: String,
    /// What was held against the source and is equal.
    pub checks: Vec<String>,
    /// What speaks against the source, and was allowed.
    pub doubt: Option<String>,
    /// Seconds it took.
    pub duration_s: f64,
}

impl<M> Report<M> {
    /// Of something that proves what its source does.
    pub(super) fn of(made: M, bytes: u64, proof: &Proof, watch: &Stopwatch) -> Self {
        Report {
            made,
            bytes,
            revision: proof.scope.revision,
            compact_revision: proof.scope.compact_revision,
            live_keys: proof.counts.live_keys,
            hash_kv: proof.hash_kv,
            state_digest: proof.state_digest.to_string(),
            checks: ["state digest", "HashKV", "counts", "sampled keys"].map(str::to_owned).to_vec(),
            doubt: None,
            duration_s: watch.elapsed().as_secs_f64(),
        }
    }
}

/// Refuses what was read back and is not the source, as these words say.
pub(super) fn check(differences: &[String]) -> Result<()> {
    let Some(first) = differences.first() else { return Ok(()) };
    let more = differences.len() - 1;
    Err(Error::damaged(format!("what was restored is not the source: {first} ({more} more differences)"))
        .hint("nothing was kept; verify the source with `holdfast verify --level 3`, and restore another point"))
}
