//! Executing a restore into an etcd snapshot file, and proving the result.
//!
//! The file is built while the source is read, and the disk is kept busy from the first megabytes on. Then it is read
//! back: its SHA-256 and the proofs are computed from what was written, not from what was meant to be written, while the
//! disk finishes. Only when they are the source's does the file get its name.

use std::fs::File;
use std::path::Path;
use std::sync::mpsc;
use std::thread;

use serde::Serialize;

use crate::base::clock::Stopwatch;
use crate::base::digest::Sha256;
use crate::base::durable::NewFile;
use crate::base::error::{IoContext, Result};
use crate::base::file::ReadAt;
use crate::base::progress::Progress;
use crate::base::stop::{Stop, beside};
use crate::recovery::report::{Report, check};
use crate::snapshot::bbolt::build::Builder;
use crate::snapshot::bbolt::read::Db;
use crate::snapshot::bbolt::records::Source;
use crate::snapshot::bbolt::shape::Sizes;
use crate::snapshot::decode::Records;
use crate::snapshot::encode::Block;
use crate::snapshot::hash::Scope;
use crate::snapshot::proof::{Proof, Prover};
use crate::snapshot::record::Record;
use crate::vault::manifest::Manifest;
use crate::vault::prove::{differences, prover};
use crate::vault::replay::in_order;
use crate::vault::repository::Repository;

/// Mode of files that hold a cluster's secrets.
const SECRET_MODE: u32 = 0o600;
/// Written bytes after which the disk is told to begin.
const SYNC_BYTES: u64 = 64 << 20;

/// A file that was written.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Written {
    /// Where it is.
    pub path: String,
    /// The SHA-256 of the database in it, which stands behind it.
    pub sha256: Sha256,
}

/// Takes some records, and the number of raw bytes that were read for them.
type Put<'a> = dyn FnMut(&[Record<'_>], u64) -> Result<()> + 'a;
/// Hands on the records of a source, in the fixed order.
type Feed<'a> = dyn FnMut(&mut Put<'_>) -> Result<()> + Send + 'a;

/// Restores a point. Must be called on the async runtime.
pub async fn from_point(
    repository: &Repository,
    manifest: &Manifest,
    path: &Path,
    progress: &Progress,
    stop: &Stop,
) -> Result<Report<Written>> {
    let (repository, manifest, path) = (repository.clone(), manifest.clone(), path.to_owned());
    let (progress, stop) = (progress.clone(), stop.clone());
    crate::base::stop::blocking(move || {
        progress.stage("restoring", manifest.counts.raw_bytes);
        let mut feed = |put: &mut Put<'_>| in_order(&repository, &manifest, &stop, put);
        let expectation =
            Expectation { prover: &|| prover(&manifest), differences: &|proof| differences(&manifest, proof) };
        write(&mut feed, &path, &expectation, &progress, &stop)
    })
    .await
}

/// Restores an etcd file. Blocks.
pub fn from_file(
    source: &Source<'_, ReadAt>,
    path: &Path,
    progress: &Progress,
    stop: &Stop,
) -> Result<Report<Written>> {
    let descriptor = source.descriptor(Default::default(), Default::default());
    let scope = Scope { revision: descriptor.revision, compact_revision: descriptor.compact_revision };
    let mut prover = Prover::new(scope, 0);
    progress.stage("reading the snapshot", 0);
    source.newest_first(&descriptor, &mut |batch| {
        stop.check()?;
        prover.batch(batch)
    })?;
    let expected = prover.finish();
    progress.stage("restoring", 0);
    let mut feed = |put: &mut Put<'_>| {
        let mut decode = |block: Block| {
            let records = Records::of(&block.bytes).collect::<Result<Vec<_>>>()?;
            put(&records, block.bytes.len() as u64)
        };
        source.encode(&descriptor, &mut decode).map(drop)
    };
    let differs = |proof: &Proof| {
        let same = *proof == expected;
        (!same).then(|| "the written file proves another state than the source".to_owned()).into_iter().collect()
    };
    let expectation = Expectation { prover: &|| Prover::new(scope, 0), differences: &differs };
    write(&mut feed, path, &expectation, progress, stop)
}

/// What the written file must prove.
struct Expectation<'a> {
    /// Makes the pass over the written file.
    prover: &'a (dyn Fn() -> Prover + Sync),
    /// Where its result is not the source's, in words.
    differences: &'a dyn Fn(&Proof) -> Vec<String>,
}

fn write(
    feed: &mut Feed<'_>,
    path: &Path,
    expectation: &Expectation<'_>,
    progress: &Progress,
    stop: &Stop,
) -> Result<Report<Written>> {
    let watch = Stopwatch::start();
    let mut file = NewFile::create(path, SECRET_MODE)?;
    let db_bytes = with_syncing(&file.handle()?, path, |written| build(feed, &mut file, progress, stop, written))?;
    progress.stage("reading it back", 0);
    let handle = ReadAt::of(file.handle()?, path)?;
    let (sha256, proof) = read_back(&handle, db_bytes, (expectation.prover)(), stop)?;
    check(&(expectation.differences)(&proof))?;
    file.append(&sha256.0)?;
    let bytes = file.len();
    progress.stage("making it durable", 0);
    file.commit()?;
    Ok(Report::of(Written { path: path.display().to_string(), sha256 }, bytes, &proof, &watch))
}

/// Builds the database from the fed records; returns its length.
fn build(
    feed: &mut Feed<'_>,
    file: &mut NewFile,
    progress: &Progress,
    stop: &Stop,
    written: &mpsc::Sender<u64>,
) -> Result<u64> {
    let sizes = Sizes::default();
    file.append(&vec![0; 2 * sizes.page])?;
    let mut told = 0;
    let mut sink = |chunk: &[u8]| {
        file.append(chunk)?;
        if file.len() - told >= SYNC_BYTES {
            told = file.len();
            // Nobody listens only when syncing failed, and then `commit` fails as well.
            let _ = written.send(told);
        }
        Ok(())
    };
    let mut builder = Builder::start(sizes, &mut sink)?;
    feed(&mut |records, raw_bytes| {
        records.iter().try_for_each(|record| builder.put(record, &mut sink))?;
        progress.add(raw_bytes);
        stop.check()
    })?;
    let head = builder.finish(&mut sink)?;
    file.write_at(0, &head.bytes)?;
    Ok(head.file_bytes)
}

/// Runs `work` beside a thread that syncs the file each time it is told that more was written.
fn with_syncing<T>(handle: &File, path: &Path, work: impl FnOnce(&mpsc::Sender<u64>) -> Result<T>) -> Result<T> {
    let (written, told) = mpsc::channel::<u64>();
    thread::scope(|threads| {
        let syncing = beside(threads, "sync", move || {
            while told.recv().is_ok() {
                // Only the newest word counts.
                while told.try_recv().is_ok() {}
                handle.sync_data().during(|| format!("sync {}", path.display()))?;
            }
            Ok(())
        })?;
        let result = work(&written);
        drop(written);
        let synced: Result<()> = syncing.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        let value = result?;
        synced?;
        Ok(value)
    })
}

/// What a database file proves. Blocks.
pub(crate) fn prove_file(file: &ReadAt, mut prover: Prover, stop: &Stop) -> Result<Proof> {
    let db = Db::open(file.clone())?;
    let source = Source::open(&db)?;
    let descriptor = source.descriptor(Default::default(), Default::default());
    source.newest_first(&descriptor, &mut |batch| {
        stop.check()?;
        prover.batch(batch)
    })?;
    Ok(prover.finish())
}

/// SHA-256 and proofs of what was written, side by side.
fn read_back(file: &ReadAt, db_bytes: u64, prover: Prover, stop: &Stop) -> Result<(Sha256, Proof)> {
    thread::scope(|threads| {
        let hashing = beside(threads, "digest", || file.sha256(db_bytes, stop))?;
        let proof = prove_file(file, prover, stop);
        let sha256 = hashing.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        Ok((sha256?, proof?))
    })
}
