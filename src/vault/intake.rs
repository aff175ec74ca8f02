//! A restore point's own data: the records of an etcd file stored, and everything a manifest proves about them.
//!
//! A full point takes two passes over the file side by side: one encodes the records in their order and stores them, the
//! other meets them newest first and computes the proofs. Neither sees the other's results, so a mistake in one shows as a
//! disagreement when the point is verified.
//!
//! An increment takes them one after the other: which older revisions are still there is known at the end of the proof,
//! and stands before the newer ones in the stream. The proof reads the whole file, because it is about the whole state;
//! only what is new is encoded and stored.

use std::thread;

use crate::base::clock::Time;
use crate::base::error::Result;
use crate::base::file::ReadAt;
use crate::base::progress::Progress;
use crate::base::stop::Stop;
use crate::snapshot::bbolt::records::Source;
use crate::snapshot::hash::Scope;
use crate::snapshot::kept::Kept;
use crate::snapshot::proof::{Proof, Prover};
use crate::snapshot::record::Descriptor;
use crate::vault::chain::Segment;
use crate::vault::put::{Writer, Written};

/// What became of the passes.
#[derive(Debug)]
pub struct Taken {
    /// The stored objects.
    pub written: Written,
    /// The proofs, with HashKV under the file's own compaction.
    pub proof: Proof,
    /// What was stored, as its own stream describes itself.
    pub segment: Segment,
}

/// What an increment is built on.
#[derive(Clone, Copy, Debug)]
pub struct Base {
    /// The revision it reaches.
    pub revision: i64,
    /// How many revisions its state holds, where that is known.
    pub revisions: Option<u64>,
}

/// How a file is taken.
#[derive(Clone, Copy, Debug)]
pub struct Intake {
    /// When the backup began.
    pub started: Time,
    /// Chooses the sampled keys.
    pub sample_seed: u64,
    /// What to build on; none for a full point.
    pub base: Option<Base>,
}

/// Stores and proves the records of `source`: all of them, or what came after the base. Blocks; `writer` must have been
/// started on the runtime that uploads.
pub fn store(
    source: &Source<'_, ReadAt>,
    descriptor: &Descriptor<'_>,
    intake: Intake,
    mut writer: Writer,
    progress: &Progress,
    stop: &Stop,
) -> Result<Taken> {
    let scope = Scope { revision: descriptor.revision, compact_revision: descriptor.compact_revision };
    let Intake { started, sample_seed, base } = intake;
    let prover = Prover::new(scope, sample_seed);
    let mut encode = |descriptor: &Descriptor<'_>, kept: Option<&Kept>| {
        source.encode_after(descriptor, kept, &mut |block| {
            progress.add(block.bytes.len() as u64);
            writer.put(block)
        })
    };
    let Some(base) = base else {
        let (encoded, proof) = thread::scope(|threads| {
            let proving = threads.spawn(|| prove(source, descriptor, prover, stop));
            let encoded = encode(descriptor, None);
            (encoded, proving.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
        });
        encoded?;
        let (written, (proof, _)) = (writer.finish()?, proof?);
        let segment = Segment::of(descriptor, started, written.objects.len(), None);
        return Ok(Taken { written, proof, segment });
    };
    let (proof, kept) = prove(source, descriptor, prover.with_base(base.revision, true), stop)?;
    let kept_listed = proof.kept.is_some_and(|kept| base.revisions != Some(kept.revisions));
    let descriptor = Descriptor { base_revision: base.revision, kept_listed, ..*descriptor };
    encode(&descriptor, kept_listed.then_some(&kept))?;
    let written = writer.finish()?;
    let segment = Segment::of(&descriptor, started, written.objects.len(), proof.kept);
    Ok(Taken { written, proof, segment })
}

/// The proof of `source` under another scope, when the cluster hashed under a newer compaction than the file's.
pub fn prove_under(
    source: &Source<'_, ReadAt>,
    descriptor: &Descriptor<'_>,
    scope: Scope,
    sample_seed: u64,
    stop: &Stop,
) -> Result<Proof> {
    Ok(prove(source, descriptor, Prover::new(scope, sample_seed), stop)?.0)
}

fn prove(
    source: &Source<'_, ReadAt>,
    descriptor: &Descriptor<'_>,
    mut prover: Prover,
    stop: &Stop,
) -> Result<(Proof, Kept)> {
    source.newest_first(descriptor, &mut |batch| {
        stop.check()?;
        prover.batch(batch)
    })?;
    Ok(prover.finish_with_kept())
}
