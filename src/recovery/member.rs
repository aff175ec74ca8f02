//! Executing a restore into a new Holdfast member's directory, and reporting what was proved of it.

use serde::Serialize;

use crate::base::clock::Stopwatch;
use crate::base::digest::Sha256;
use crate::base::error::{Error, Result};
use crate::base::file::ReadAt;
use crate::base::id::EtcdId;
use crate::base::progress::Progress;
use crate::base::stop::{Stop, blocking};
use crate::snapshot::bbolt::records::Source;
use crate::snapshot::decode::Records;
use crate::snapshot::encode::Block;
use crate::snapshot::hash::Scope;
use crate::snapshot::proof::{Proof, Prover};
use crate::store::offline::install::{Birth, Expected, Feed, Put, install};
use crate::vault::chain::Segment;
use crate::vault::manifest::Manifest;
use crate::vault::prove::differences;
use crate::vault::replay::in_order;
use crate::vault::repository::Repository;

/// A member that was made, and what was proved of it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// Its directory.
    pub data_dir: String,
    /// Its cluster.
    pub cluster_id: EtcdId,
    /// Itself.
    pub member_id: EtcdId,
    /// The branch of history that begins with it.
    pub lineage: Sha256,
    /// The revision of the source.
    pub source_revision: i64,
    /// The revision that it begins at.
    pub revision: i64,
    /// What counts as compacted there.
    pub compact_revision: i64,
    /// Keys alive.
    pub live_keys: u64,
    /// Leases.
    pub leases: u64,
    /// HashKV of what was read back, before revisions were raised.
    pub hash_kv: u32,
    /// State digest of what was read back.
    pub state_digest: String,
    /// Bytes of its state.
    pub bytes: u64,
    /// What was held against the source and is equal.
    pub checks: Vec<String>,
    /// What speaks against the source, and was allowed.
    pub doubt: Option<String>,
    /// Seconds it took.
    pub duration_s: f64,
}

/// Restores a point. Must be called on the async runtime.
pub async fn from_point(
    repository: &Repository,
    manifest: &Manifest,
    birth: &Birth,
    progress: &Progress,
    stop: &Stop,
) -> Result<Report> {
    let (repository, manifest, birth) = (repository.clone(), manifest.clone(), birth.clone());
    let (progress, stop) = (progress.clone(), stop.clone());
    blocking(move || {
        progress.stage("restoring", manifest.counts.raw_bytes);
        let mut feed = |put: &mut Put<'_>| {
            in_order(&repository, &manifest, &stop, &mut |records, raw_bytes| {
                progress.add(raw_bytes);
                put(records)
            })
        };
        let descriptor = &manifest.descriptor;
        let base_revision = match manifest.segments.last() {
            Some(Segment { base_revision, kept: Some(_), .. }) => Some(*base_revision),
            _ => None,
        };
        let expected = Expected {
            scope: Scope { revision: descriptor.revision, compact_revision: descriptor.compact_revision },
            sample_seed: manifest.sample_seed.0,
            base_revision,
        };
        make(&birth, expected, &mut feed, &|proof| equal(&differences(&manifest, proof)), &stop)
    })
    .await
}

/// Restores an etcd file. Blocks.
pub fn from_file(source: &Source<'_, ReadAt>, birth: &Birth, progress: &Progress, stop: &Stop) -> Result<Report> {
    let descriptor = source.descriptor(EtcdId(0), EtcdId(0));
    let scope = Scope { revision: descriptor.revision, compact_revision: descriptor.compact_revision };
    let mut prover = Prover::new(scope, 0);
    progress.stage("reading the snapshot", 0);
    source.newest_first(&descriptor, &mut |batch| {
        stop.check()?;
        prover.batch(batch)
    })?;
    let wanted = prover.finish();
    progress.stage("restoring", 0);
    let mut feed = |put: &mut Put<'_>| {
        let mut decode = |block: Block| {
            progress.add(block.bytes.len() as u64);
            put(&Records::of(&block.bytes).collect::<Result<Vec<_>>>()?)
        };
        source.encode(&descriptor, &mut decode).map(drop)
    };
    let expected = Expected { scope, sample_seed: 0, base_revision: None };
    let check = |proof: &Proof| {
        let other = "the state proves another one than the source".to_owned();
        equal((*proof != wanted).then_some(other).as_slice())
    };
    make(birth, expected, &mut feed, &check, stop)
}

fn equal(differences: &[String]) -> Result<()> {
    let Some(first) = differences.first() else { return Ok(()) };
    let more = differences.len() - 1;
    Err(Error::damaged(format!("what was restored is not the source: {first} ({more} more differences)"))
        .hint("nothing was kept; verify the source with `holdfast verify --level 3`, and restore another point"))
}

fn make(
    birth: &Birth,
    expected: Expected,
    feed: &mut Feed<'_>,
    check: &dyn Fn(&Proof) -> Result<()>,
    stop: &Stop,
) -> Result<Report> {
    let watch = Stopwatch::start();
    let made = install(birth, expected, feed, check, stop)?;
    let (identity, proof) = (&birth.identity, &made.proof);
    Ok(Report {
        data_dir: birth.data_dir.display().to_string(),
        cluster_id: identity.cluster_id,
        member_id: identity.member_id,
        lineage: identity.lineage.id,
        source_revision: expected.scope.revision,
        revision: made.revision,
        compact_revision: made.compact_revision,
        live_keys: proof.counts.live_keys,
        leases: proof.counts.leases,
        hash_kv: proof.hash_kv,
        state_digest: proof.state_digest.to_string(),
        bytes: made.state_bytes,
        checks: ["state digest", "HashKV", "counts", "sampled keys"].map(str::to_owned).to_vec(),
        doubt: None,
        duration_s: watch.elapsed().as_secs_f64(),
    })
}
