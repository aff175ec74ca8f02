//! What is to be written, and up to where in the log it stands for everything.
//!
//! Each batch leaves a **cut**: its changes, and the position in the log after it. The flusher joins many cuts and writes
//! them in one transaction with the last position, so that a state on disk is always exactly what the log had made of it at
//! some index. What compactions took out of the index is deleted in the same way, and after everything that came before.

use std::cmp::Ordering;
use std::sync::Arc;

use crate::base::error::{Error, HINT_MEMBER_DAMAGED, Kind, Result};
use crate::base::revision::Rev;
use crate::snapshot::hash::StateDigest;
use crate::snapshot::record::{KeyValue, key_of};
use crate::store::backend::{Backend, Brief, Revision, SideChange, Space, Stored};
use crate::store::machine::digest::Digest;
use crate::store::mvcc::recent::{Batch, Recent};

/// Version of the layout in docs/formats/state.md that this program writes.
pub const FORMAT: u32 = 2;

const FORMAT_KEY: &[u8] = b"format";
const POSITION_KEY: &[u8] = b"position";
const COMPACT_KEY: &[u8] = b"compact_revision";
const DIGEST_KEY: &[u8] = b"digest";

/// A place in the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// The index of an entry.
    pub index: u64,
    /// The term it was proposed in.
    pub term: u64,
}

/// What the state knows of itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Meta {
    /// Up to where everything is applied.
    pub position: Position,
    /// The last compaction; 0 when there was none.
    pub compact_revision: i64,
    /// The state digest, where what is stored says it of this position.
    pub digest: Option<StateDigest>,
}

impl Meta {
    /// What is stored; nothing yet is the beginning.
    pub fn read(backend: &Backend) -> Result<Self> {
        let (mut meta, mut digest) = (Meta::default(), None);
        for (key, value) in backend.side(Space::Meta)? {
            let damaged = || {
                Error::damaged(format!("the state's {} cannot be read", String::from_utf8_lossy(&key)))
                    .hint(HINT_MEMBER_DAMAGED)
            };
            match key.as_slice() {
                FORMAT_KEY => {
                    check(value.try_into().map(u32::from_be_bytes).map_err(|_| damaged())?)?;
                }
                POSITION_KEY => {
                    let (index, term) = value.split_first_chunk::<8>().ok_or_else(damaged)?;
                    let term = term.try_into().map_err(|_| damaged())?;
                    meta.position = Position { index: u64::from_be_bytes(*index), term: u64::from_be_bytes(term) };
                }
                COMPACT_KEY => {
                    meta.compact_revision = value.try_into().map(i64::from_be_bytes).map_err(|_| damaged())?;
                }
                DIGEST_KEY => {
                    let (index, sum) = value.split_first_chunk::<8>().ok_or_else(damaged)?;
                    let sum = StateDigest::from_bytes(sum.try_into().map_err(|_| damaged())?);
                    digest = Some((u64::from_be_bytes(*index), sum));
                }
                _ => {}
            }
        }
        // A version that does not know it moves the position and leaves it as it is.
        meta.digest = digest.filter(|(index, _)| *index == meta.position.index).map(|(_, sum)| sum);
        Ok(meta)
    }

    /// The entry that notes a compaction.
    pub fn compacted(revision: i64) -> SideChange {
        entry(COMPACT_KEY, revision.to_be_bytes().to_vec())
    }
}

/// Whether this program reads a format.
fn check(format: u32) -> Result<()> {
    let (who, hint) = match format.cmp(&FORMAT) {
        Ordering::Equal => return Ok(()),
        Ordering::Greater => ("a newer version", "start this member with the version that wrote it"),
        Ordering::Less => (
            "a version from before the first release",
            "back its state up with the version that wrote it, and restore that with this one",
        ),
    };
    let text = format!("the state was written by {who} (format {format}; this one reads {FORMAT})");
    Err(Error::new(Kind::Usage, text).hint(hint))
}

fn entry(key: &[u8], value: Vec<u8>) -> SideChange {
    SideChange { space: Space::Meta, key: key.to_vec(), value: Some(value) }
}

/// What one batch leaves to be written.
#[derive(Clone, Debug)]
pub struct Cut {
    /// Its changes of keys.
    pub batch: Option<Arc<Batch>>,
    /// Its changes of side tables, in order.
    pub side: Vec<SideChange>,
    /// Revisions from before it that nobody can ask for any more.
    pub gone: Vec<Rev>,
    /// The position after it.
    pub position: Position,
    /// The state digest after it.
    pub digest: Digest,
}

/// What cuts take while they wait, and where they are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Size {
    /// Bytes of memory.
    pub memory: usize,
    /// Bytes of the rows of new revisions, as the backend counts what it uses.
    pub revisions: u64,
    /// Bytes of all new rows.
    pub rows: u64,
}

impl Size {
    /// Adds what one more takes.
    pub fn add(&mut self, more: Size) {
        self.memory += more.memory;
        self.revisions += more.revisions;
        self.rows += more.rows;
    }
}

impl Cut {
    /// What it takes.
    pub fn size(&self) -> Size {
        let changes = self.batch.iter().flat_map(|batch| batch.changes());
        let row = |message: &[u8]| Revision::bytes(key_of(message).map_or(0, <[u8]>::len), message.len());
        let revisions: u64 = changes.map(|change| row(&change.message)).sum();
        let side = |change: &SideChange| {
            size_of::<SideChange>() + change.key.len() + change.value.as_ref().map_or(0, Vec::len)
        };
        let memory = size_of::<Cut>()
            + self.batch.as_ref().map_or(0, |batch| batch.bytes())
            + self.side.iter().map(side).sum::<usize>()
            + self.gone.len() * size_of::<Rev>();
        Size { memory, revisions, rows: revisions + self.side.iter().map(SideChange::bytes).sum::<u64>() }
    }
}

/// A revision with what its message tells the index.
pub fn revision(stored: Stored<'_>) -> Result<Revision<'_>> {
    let kv = KeyValue::parse(stored.message)?;
    let (created, number) = (kv.create_revision, kv.version);
    Ok(Revision { stored, brief: Brief { key: kv.key, created, number, lease: kv.lease } })
}

/// Writes cuts, which follow one another, and lets their batches leave memory.
pub fn flush(backend: &Backend, recent: &Recent, cuts: &[Cut]) -> Result<()> {
    let Some(last) = cuts.last() else { return Ok(()) };
    // Before anything that was superseded is deleted.
    let digest = last.digest.get()?;
    let changes = cuts.iter().filter_map(|cut| cut.batch.as_deref()).flat_map(Batch::changes);
    let mut revisions = changes.map(|change| {
        let stored = Stored { rev: change.rev, tombstone: change.tombstone, message: &change.message };
        revision(stored).expect("what the writer made is a key value")
    });
    let mut side: Vec<SideChange> = cuts.iter().flat_map(|cut| &cut.side).cloned().collect();
    let (index, term) = (last.position.index.to_be_bytes(), last.position.term.to_be_bytes());
    side.extend([
        entry(FORMAT_KEY, FORMAT.to_be_bytes().to_vec()),
        entry(POSITION_KEY, [index, term].concat()),
        entry(DIGEST_KEY, [&index[..], &digest.to_bytes()].concat()),
    ]);
    let gone: Vec<Rev> = cuts.iter().flat_map(|cut| &cut.gone).copied().collect();
    backend.write(&mut revisions, &side, &gone)?;
    if let Some(batch) = cuts.iter().rev().find_map(|cut| cut.batch.as_ref()) {
        recent.flushed(batch.last());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::backend::CACHE_BYTES;

    #[test]
    fn states_of_other_formats_are_refused_with_what_to_do() {
        for (format, expected) in [
            (FORMAT, None),
            (FORMAT + 1, Some(("a newer version (format 3; this one reads 2)", "the version that wrote it"))),
            (1, Some(("before the first release (format 1; this one reads 2)", "back its state up"))),
        ] {
            let dir = tempfile::tempdir().unwrap();
            let backend = Backend::create(&dir.path().join("db"), CACHE_BYTES).unwrap();
            assert_eq!(Meta::read(&backend).unwrap(), Meta::default());
            let side = [entry(FORMAT_KEY, format.to_be_bytes().to_vec()), Meta::compacted(7)];
            backend.write(&mut std::iter::empty(), &side, &[]).unwrap();
            match (Meta::read(&backend), expected) {
                (Ok(meta), None) => assert_eq!(meta.compact_revision, 7),
                (Err(error), Some((text, hint))) => {
                    assert!(error.kind() == Kind::Usage && error.to_string().contains(text), "{error}");
                    assert!(error.hint_text().unwrap().contains(hint), "{error:?}");
                }
                (read, _) => panic!("format {format}: {read:?}"),
            }
        }
    }
}
