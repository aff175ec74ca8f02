//! A restore point's own data: the records of an etcd file or of a stream stored, and everything a manifest proves about them.
//!
//! A full point takes two passes over the file side by side: one encodes the records in their order and stores them, the
//! other meets them newest first and computes the proofs. Neither sees the other's results, so a mistake in one shows as a
//! disagreement when the point is verified.
//!
//! An increment takes them one after the other: which older revisions are still there is known at the end of the proof,
//! and stands before the newer ones in the stream. The proof reads the whole file, because it is about the whole state;
//! only what is new is encoded and stored.
//!
//! Records that a member streams come once, marked (`snapshot::forward`), so they are stored and proved in one pass. An
//! increment holds back what stands before history until the last older revision has come; that is little, but for leases.

use bytes::Bytes;
use std::thread;

use crate::base::clock::Time;
use crate::base::error::Result;
use crate::base::file::ReadAt;
use crate::base::progress::Progress;
use crate::base::stop::{Stop, beside};
use crate::snapshot::bbolt::records::Source;
use crate::snapshot::decode;
use crate::snapshot::encode::Encoder;
use crate::snapshot::forward::{Forward, Marks};
use crate::snapshot::hash::Scope;
use crate::snapshot::kept::Kept;
use crate::snapshot::proof::{Proof, Prover};
use crate::snapshot::record::{Descriptor, Record};
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
        let (encoded, proof) = thread::scope(|threads| -> Result<_> {
            let proving = beside(threads, "prove", || prove(source, descriptor, prover, stop))?;
            let encoded = encode(descriptor, None);
            Ok((encoded, proving.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))))
        })?;
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

/// Gives the next records of a stream, whole and without an `End`, and which of their revisions are superseded; none at its
/// end. Blocks.
pub type Pieces<'a> = dyn FnMut() -> Result<Option<(Bytes, Vec<u32>)>> + 'a;

/// Stores and proves a stream that opens with `descriptor`, a full one: all of its records, or what came after the base.
/// Blocks; `writer` must have been started on the runtime that uploads.
pub fn store_stream(
    descriptor: &Descriptor<'_>,
    pieces: &mut Pieces<'_>,
    intake: Intake,
    writer: Writer,
    progress: &Progress,
    stop: &Stop,
) -> Result<Taken> {
    let scope = Scope { revision: descriptor.revision, compact_revision: descriptor.compact_revision };
    let mut forward = Forward::new(scope, intake.sample_seed);
    if let Some(base) = intake.base {
        forward = forward.with_base(base.revision, true);
    }
    let mut storing = Storing { descriptor: *descriptor, base: intake.base, held: vec![], encoder: None, writer };
    while let Some((bytes, superseded)) = pieces()? {
        stop.check()?;
        progress.add(bytes.len() as u64);
        let mut marks = Marks::new(superseded);
        for batch in decode::batches(&bytes)? {
            let records = decode::Records::of(batch).collect::<Result<Vec<_>>>()?;
            forward.batch(&records, &mut marks)?;
            storing.take(batch, &mut forward)?;
        }
        marks.finish()?;
    }
    storing.open(&mut forward)?;
    let Storing { descriptor, encoder, mut writer, .. } = storing;
    let (blocks, _) = encoder.expect("it was opened just now").end();
    blocks.into_iter().try_for_each(|block| writer.put(block))?;
    let (written, proof) = (writer.finish()?, forward.finish()?);
    let segment = Segment::of(&descriptor, intake.started, written.objects.len(), proof.kept);
    Ok(Taken { written, proof, segment })
}

/// A stream on its way into objects.
struct Storing<'a> {
    descriptor: Descriptor<'a>,
    base: Option<Base>,
    /// What stands before the history of an increment, as it came.
    held: Vec<u8>,
    /// What is stored, once that is known.
    encoder: Option<Encoder>,
    writer: Writer,
}

impl Storing<'_> {
    fn take(&mut self, batch: &[u8], forward: &mut Forward) -> Result<()> {
        let base = self.base.map_or(0, |base| base.revision);
        let mut walk = decode::Records::of(batch);
        loop {
            let start = batch.len() - walk.left();
            let Some(record) = walk.next().transpose()? else { return Ok(()) };
            match record {
                Record::Descriptor(_) => {}
                Record::Revision(revision) if revision.rev.main <= base => {}
                Record::Revision(_) => {
                    self.open(forward)?;
                    self.put(&record)?;
                }
                _ => self.held.extend_from_slice(&batch[start..batch.len() - walk.left()]),
            }
        }
    }

    /// Stores what stands before the newer revisions, unless that is done: all older ones have come.
    fn open(&mut self, forward: &mut Forward) -> Result<()> {
        if self.encoder.is_some() {
            return Ok(());
        }
        self.encoder = Some(Encoder::new());
        let kept = self.base.zip(forward.kept());
        if let Some((base, (_, proof))) = &kept {
            self.descriptor.base_revision = base.revision;
            self.descriptor.kept_listed = base.revisions != Some(proof.revisions);
        }
        self.put(&Record::Descriptor(self.descriptor))?;
        let held = std::mem::take(&mut self.held);
        decode::Records::of(&held).try_for_each(|record| self.put(&record?))?;
        match kept {
            Some((_, (kept, _))) if self.descriptor.kept_listed => {
                kept.runs().try_for_each(|run| self.put(&Record::Kept(run)))
            }
            _ => Ok(()),
        }
    }

    fn put(&mut self, record: &Record<'_>) -> Result<()> {
        let encoder = self.encoder.as_mut().expect("nothing is put before it is opened");
        encoder.put(record).map_or(Ok(()), |block| self.writer.put(block))
    }
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
