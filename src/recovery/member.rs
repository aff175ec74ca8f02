//! Executing a restore into a new Holdfast member's directory, and reporting what was proved of it.

use serde::Serialize;

use crate::base::clock::Stopwatch;
use crate::base::digest::Sha256;
use crate::base::error::Result;
use crate::base::file::ReadAt;
use crate::base::id::EtcdId;
use crate::base::progress::Progress;
use crate::base::stop::{Stop, blocking};
use crate::recovery::report::{Report, check};
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

/// A member that was made.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Born {
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
    /// Leases.
    pub leases: u64,
}

/// Restores a point. Must be called on the async runtime.
pub async fn from_point(
    repository: &Repository,
    manifest: &Manifest,
    birth: &Birth,
    progress: &Progress,
    stop: &Stop,
) -> Result<Report<Born>> {
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
        make(&birth, expected, &mut feed, &|proof| check(&differences(&manifest, proof)), &stop)
    })
    .await
}

/// Restores an etcd file. Blocks.
pub fn from_file(source: &Source<'_, ReadAt>, birth: &Birth, progress: &Progress, stop: &Stop) -> Result<Report<Born>> {
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
    let equal = |proof: &Proof| {
        let other = "the state proves another one than the source".to_owned();
        check((*proof != wanted).then_some(other).as_slice())
    };
    make(birth, expected, &mut feed, &equal, stop)
}

fn make(
    birth: &Birth,
    expected: Expected,
    feed: &mut Feed<'_>,
    equal: &dyn Fn(&Proof) -> Result<()>,
    stop: &Stop,
) -> Result<Report<Born>> {
    let watch = Stopwatch::start();
    let made = install(birth, expected, feed, equal, stop)?;
    let identity = &birth.identity;
    let born = Born {
        data_dir: birth.data_dir.display().to_string(),
        cluster_id: identity.cluster_id,
        member_id: identity.member_id,
        lineage: identity.lineage.id,
        source_revision: expected.scope.revision,
        leases: made.proof.counts.leases,
    };
    let report = Report::of(born, made.state_bytes, &made.proof, &watch);
    Ok(Report { revision: made.revision, compact_revision: made.compact_revision, ..report })
}
