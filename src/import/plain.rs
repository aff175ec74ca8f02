//! Plain etcd snapshot files.
//!
//! A file does not tell which cluster it comes from, so imported points lie on a branch of their own, which `latest`
//! never means while the repository has points of the live cluster. There is no cluster to compare with, so their
//! manifests say "not compared".
//!
//! Importing a file a second time finds it there, and then its owner may delete the file. So "there" means that every
//! byte of the earlier point was read just now and nobody is about to delete it; otherwise the file is imported anew, and
//! the reason is told. Two imports of one file at once do not see each other and make two points, which share their data.

use crate::base::clock::Time;
use crate::base::digest::Sha256;
use crate::base::error::{Error, Kind, Result};
use crate::base::file::ReadAt;
use crate::base::id::EtcdId;
use crate::base::progress::Progress;
use crate::base::steps::Steps;
use crate::base::stop::{Stop, blocking};
use crate::snapshot::bbolt::read::{Db, split_trailer};
use crate::snapshot::bbolt::records::Source;
use crate::vault::catalog::{Catalog, is_damage};
use crate::vault::intake::{self, Intake};
use crate::vault::layout::{Attempt, Lineage, PointKind, PointName};
use crate::vault::lineage::{self, LineageDocument};
use crate::vault::manifest::{self, Comparison, Fidelity, HashAtSource, Manifest};
use crate::vault::publish::{look, publish};
use crate::vault::put::{Destination, Limits, Writer};
use crate::vault::repository::Repository;
use crate::vault::scrub::{Verification, verify};
use crate::vault::verdict::Level;

/// What became of a file.
#[derive(Debug)]
pub enum Imported {
    /// It is a new restore point.
    Point {
        /// Its manifest.
        manifest: Box<Manifest>,
        /// What the operator should know.
        warnings: Vec<String>,
    },
    /// It was imported before, and that point is whole.
    Already(PointName),
}

/// The earlier imports of a file.
struct Before {
    /// One that is whole.
    whole: Option<PointName>,
    /// Why the others do not count.
    doubts: Vec<String>,
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
    let (db_bytes, db_sha256, revision) = blocking(move || {
        let (bytes, digest) = check(&file, &name, &checked)?;
        let db = Db::open(file)?;
        Ok::<_, Error>((bytes, digest, Source::open(&db)?.facts().revision))
    })
    .await?;
    let before = imported_before(repository, cluster, (revision, db_sha256), progress, stop).await?;
    if let Some(point) = before.whole {
        return Ok(Imported::Already(point));
    }
    let mut warnings = before.doubts;
    let lineage = lineage::imported(cluster);
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
    warnings.extend(taken.written.warnings());
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
        recipients: repository.recipients(),
        objects: taken.written.objects,
    };
    let known = lineage::list(repository, cluster).await?.has(lineage);
    let opened = branch(lineage, now);
    let published = publish(repository, (!known).then_some(&opened), &manifest, &Steps::unheard()).await?;
    warnings.extend(published.doubts);
    let verdict = look(repository, &published.name, stop).await?;
    if let Some(first) = verdict.findings.first() {
        let text = format!("the point fails verification at once: {}: {}", first.object, first.detail);
        return Err(Error::damaged(text).hint("look after what stores the repository, and import the file again"));
    }
    Ok(Imported::Point { manifest: Box::new(manifest), warnings })
}

/// The branch of imported files, opened now.
fn branch(lineage: Lineage, opened: Time) -> LineageDocument {
    let reason = "files imported from elsewhere".to_owned();
    LineageDocument { lineage, parent: None, fork_revision: None, reason, cluster_id: EtcdId(0), opened }
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

/// Looks for the file among the points that were imported, newest first, until one of them is found whole.
async fn imported_before(
    repository: &Repository,
    cluster: &str,
    (revision, digest): (i64, Sha256),
    progress: &Progress,
    stop: &Stop,
) -> Result<Before> {
    let mut before = Before { whole: None, doubts: vec![] };
    let mut catalog = match Catalog::load(repository, cluster).await {
        Ok(catalog) => catalog,
        Err(error) if error.kind() == Kind::NotFound => return Ok(before),
        Err(error) => return Err(error),
    };
    let lineage = lineage::imported(cluster);
    // Names tell revisions: of a thousand imported files few manifests are read.
    catalog.points.retain(|point| point.name.lineage == lineage && point.name.revision == revision);
    for point in catalog.points.iter().rev() {
        let manifest = match repository.manifest(&point.name).await {
            Ok(manifest) if manifest.descriptor.db_sha256 == Some(digest) => manifest,
            Ok(_) => continue,
            Err(error) if is_damage(&error) => continue,
            Err(error) => return Err(error),
        };
        let anew = |why: &str| format!("it was imported before as {}, {why}; it is imported anew", point.name.attempt);
        if catalog.condemns(&manifest) {
            before.doubts.push(anew("which a collector is about to delete"));
            continue;
        }
        progress.stage("reading the earlier import", 0);
        let verification = Verification { level: Level::Bytes, prover: None, stop: stop.clone() };
        let verdict = verify(repository, &point.name, verification, |entry| progress.add(entry.stored_bytes)).await?;
        let Some(first) = verdict.findings.first() else {
            before.whole = Some(point.name.clone());
            break;
        };
        before.doubts.push(anew(&format!("which is not whole ({}: {}: {})", first.object, first.check, first.detail)));
    }
    Ok(before)
}
