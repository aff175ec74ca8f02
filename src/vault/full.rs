//! A full restore point's data: the records of an etcd file stored, and everything a manifest proves about them.
//!
//! Two passes over the file run side by side: one encodes the records in their order and stores them, the other meets
//! them newest first and computes the proofs. Neither sees the other's results, so a mistake in one shows as a
//! disagreement when the point is verified.

use std::thread;

use crate::base::error::Result;
use crate::base::file::ReadAt;
use crate::base::progress::Progress;
use crate::base::stop::Stop;
use crate::snapshot::bbolt::records::Source;
use crate::snapshot::hash::Scope;
use crate::snapshot::proof::{Proof, Prover};
use crate::snapshot::record::Descriptor;
use crate::vault::put::{Writer, Written};

/// What became of the two passes.
#[derive(Debug)]
pub struct Full {
    /// The stored objects.
    pub written: Written,
    /// The proofs, with HashKV under the file's own compaction.
    pub proof: Proof,
}

/// Stores and proves the records of `source`. Blocks; `writer` must have been started on the runtime that uploads.
pub fn store(
    source: &Source<'_, ReadAt>,
    descriptor: &Descriptor<'_>,
    sample_seed: u64,
    writer: Writer,
    progress: &Progress,
    stop: &Stop,
) -> Result<Full> {
    let scope = Scope { revision: descriptor.revision, compact_revision: descriptor.compact_revision };
    thread::scope(|threads| {
        let proving = threads.spawn(|| prove(source, descriptor, scope, sample_seed, stop));
        let written = encode(source, descriptor, writer, progress);
        let proof = proving.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        Ok(Full { written: written?, proof: proof? })
    })
}

/// The proof of `source` under another scope, when the cluster hashed under a newer compaction than the file's.
pub fn prove(
    source: &Source<'_, ReadAt>,
    descriptor: &Descriptor<'_>,
    scope: Scope,
    sample_seed: u64,
    stop: &Stop,
) -> Result<Proof> {
    let mut prover = Prover::new(scope, sample_seed);
    source.newest_first(descriptor, &mut |batch| {
        stop.check()?;
        prover.batch(batch)
    })?;
    Ok(prover.finish())
}

fn encode(
    source: &Source<'_, ReadAt>,
    descriptor: &Descriptor<'_>,
    mut writer: Writer,
    progress: &Progress,
) -> Result<Written> {
    source.encode(descriptor, &mut |block| {
        progress.add(block.bytes.len() as u64);
        writer.put(block)
    })?;
    writer.finish()
}
