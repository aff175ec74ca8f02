//! Plain etcd snapshot files.
//!
//! A file does not tell which cluster it comes from, so imported points lie on a branch of their own, which `latest`
//! never means while the repository has points of the live cluster. There is no cluster to compare with, so their
//! manifests say "not compared". Importing a file a second time finds it there.

use crate::base::clock::Time;
use crate::base::digest::Sha256;
use crate::base::error::{Error, Kind, Result};
use crate::base::file::ReadAt;
use crate::base::id::EtcdId;
use crate::base::progress::Progress;
use crate::base::stop::{Stop, blocking};
use crate::snapshot::bbolt::read::{Db, split_trailer};
use crate::snapshot::bbolt::records::Source;
use crate::vault::catalog::Catalog;
use crate::vault::intake::{self, Intake};
use crate::vault::layout::{Attempt, Lineage, PointKind, PointName};
use crate::vault::lineage::{self, LineageDocument};
use crate::vault::manifest::{self, Comparison, Fidelity, HashAtSource, Manifest};
use crate::vault::publish::publish;
use crate::vault::put::{Destination, Limits, Writer};
use crate::vault::repository::Repository;
use crate::vault::steps::Steps;

/// What became of a file.
#[derive(Debug)]
pub enum Imported {
    /// It is a new restore point.
    Point(Box<Manifest>),
    /// It was imported before.
    Already(PointName),
}

/// A file to be imported.
#[derive(Debug)]
pub struct File {
    /// Its bytes.
    pub file: ReadAt,
    /// Its name, for the manifest.
    pub name: String,
    /// When it was made, as far as its file system tells.
    pub modified: Time,
}

/// Takes a file into the repository as a full restore point of `cluster`.
pub async fn import(
    repository: &Repository,
    cluster: &str,
    input: File,
    progress: &Progress,
    stop: &Stop,
) -> Result<Imported> {
    let (checked, file, name) = (stop.clone(), input.file.clone(), input.name.clone());
    progress.stage("checking the file", file.len());
    let (db_bytes, db_sha256) = blocking(move || check(&file, &name, &checked)).await?;
    if let Some(point) = imported_before(repository, cluster, db_sha256).await? {
        return Ok(Imported::Already(point));
    }
    let lineage = lineage_of(cluster)?;
    let destination = Destination { cluster: cluster.to_owned(), lineage, base_revision: 0 };
    let writer = Writer::start(repository, destination, Limits::default(), Steps::unheard(), stop)?;
    let attempt = Attempt::random()?;
    let intake = Intake { started: input.modified, sample_seed: attempt.seed(), base: None };
    let (file, working, stopping) = (input.file.clone(), progress.clone(), stop.clone());
    let (taken, descriptor) = blocking(move || {
        let db = Db::open(file)?;
        let source = Source::open(&db)?;
        let descriptor = source.descriptor(EtcdId(0), EtcdId(0));
        working.stage("storing records", db.size());
        let taken = intake::store(&source, &descriptor, intake, writer, &working, &stopping)?;
        Ok::<_, Error>((taken, manifest::Descriptor::of(&descriptor, Some((db_bytes, db_sha256)))))
    })
    .await?;
    let now = repository.clock().now();
    let manifest = Manifest {
        cluster: cluster.to_owned(),
        lineage,
        kind: PointKind::Full,
        attempt,
        started: input.modified,
        finished: input.modified,
        tool: manifest::Tool::this(),
        source: manifest::Source {
            endpoint: input.name,
            version: String::new(),
            member_name: None,
            chosen_because: "imported from a file".to_owned(),
        },
        fidelity: Fidelity::Full,
        descriptor,
        counts: manifest::Counts::of(&taken.proof.counts, &taken.written.objects),
        proofs: manifest::Proofs::of(&taken.proof, uncompared()),
        sample_seed: EtcdId(attempt.seed()),
        samples: taken.proof.samples,
        tail: taken.proof.tail,
        segments: vec![taken.segment],
        objects: taken.written.objects,
    };
    let known = lineage::list(repository, cluster).await?.iter().any(|document| document.lineage == lineage);
    let opened = LineageDocument {
        lineage,
        parent: None,
        fork_revision: None,
        reason: "files imported from elsewhere".to_owned(),
        cluster_id: EtcdId(0),
        opened: now,
    };
    publish(repository, (!known).then_some(&opened), &manifest, &Steps::unheard()).await?;
    Ok(Imported::Point(Box::new(manifest)))
}

fn uncompared() -> HashAtSource {
    HashAtSource {
        verdict: Comparison::NotCompared,
        reason: Some("imported from a file: there is no cluster to ask".to_owned()),
        hash: None,
        revision: None,
        compact_revision: None,
        ours: None,
    }
}

/// The database's length and digest. A file with a wrong SHA-256 behind it is refused.
fn check(file: &ReadAt, name: &str, stop: &Stop) -> Result<(u64, Sha256)> {
    let (db_bytes, trailer) = split_trailer(file.len());
    let digest = file.sha256(db_bytes, stop)?;
    if trailer {
        let mut expected = Sha256::default();
        file.read(db_bytes, &mut expected.0)?;
        if expected != digest {
            return Err(Error::damaged(format!("the SHA-256 behind {name} is not that of its content"))
                .hint("the file is damaged; look for another copy"));
        }
    }
    Ok((db_bytes, digest))
}

async fn imported_before(repository: &Repository, cluster: &str, digest: Sha256) -> Result<Option<PointName>> {
    let mut catalog = match Catalog::load(repository, cluster).await {
        Ok(catalog) => catalog,
        Err(error) if error.kind() == Kind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let lineage = lineage_of(cluster)?;
    catalog.points.retain(|point| point.name.lineage == lineage);
    catalog.load_manifests(repository).await?;
    let same = |manifest: &Manifest| manifest.descriptor.db_sha256 == Some(digest);
    let found = catalog.points.iter().find(|point| matches!(&point.manifest, Some(Ok(manifest)) if same(manifest)));
    Ok(found.map(|point| point.name.clone()))
}

/// The branch of imported points.
fn lineage_of(cluster: &str) -> Result<Lineage> {
    Lineage::parse(&Sha256::of(format!("holdfast lineage\nimported\n{cluster}").as_bytes()).to_string()[..32])
}
