//! Views: the store at a moment, for as long as somebody looks.
//!
//! What a view shows is in the index that it keeps and in messages that nobody deletes while it lives. The second is held
//! by its **floor**, one value for all views of the same compaction: as long as a view from before a compaction is alive, so
//! is the floor of that time, and what the compaction made superfluous stays where it is.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Weak};

use bytes::Bytes;

use crate::base::error::{Error, HINT_MEMBER_DAMAGED, Result};
use crate::base::revision::Rev;
use crate::store::backend::{Backend, Space, Stored, Witness};
use crate::store::mvcc::history::Version;
use crate::store::mvcc::index::Index;
use crate::store::mvcc::recent::{Change, Recent, find};

/// Why a question about the past has no answer.
#[derive(Debug)]
pub enum Fault {
    /// The revision was compacted away.
    Compacted,
    /// The revision lies in the future.
    Future,
    /// The state cannot be read.
    Failed(Error),
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        Fault::Failed(error)
    }
}

/// Holds deletions back that were made possible by later compactions.
#[derive(Debug)]
struct Floor {
    compact_revision: i64,
}

/// The floors that views stand on, oldest first.
#[derive(Debug)]
pub(super) struct Floors {
    current: Arc<Floor>,
    earlier: VecDeque<Weak<Floor>>,
}

impl Floors {
    pub(super) fn new(compact_revision: i64) -> Self {
        Floors { current: Arc::new(Floor { compact_revision }), earlier: VecDeque::new() }
    }

    /// Views that are taken from now on stand higher.
    pub(super) fn raise(&mut self, compact_revision: i64) {
        let higher = Arc::new(Floor { compact_revision });
        let lower = std::mem::replace(&mut self.current, higher);
        self.earlier.push_back(Arc::downgrade(&lower));
    }

    /// The compaction below which nobody looks.
    pub(super) fn lowest(&mut self) -> i64 {
        self.earlier.retain(|floor| floor.strong_count() > 0);
        let lowest = self.earlier.iter().find_map(Weak::upgrade);
        lowest.map_or(self.current.compact_revision, |floor| floor.compact_revision)
    }
}

struct Moment {
    revision: i64,
    index: Index,
    floor: Arc<Floor>,
}

/// The store at a moment. Clones share it.
#[derive(Clone)]
pub struct View {
    moment: Arc<Moment>,
    recent: Arc<Recent>,
    backend: Arc<Backend>,
}

impl View {
    pub(super) fn new(
        revision: i64,
        index: Index,
        floors: &Floors,
        recent: &Arc<Recent>,
        backend: &Arc<Backend>,
    ) -> Self {
        let moment = Moment { revision, index, floor: Arc::clone(&floors.current) };
        View { moment: Arc::new(moment), recent: Arc::clone(recent), backend: Arc::clone(backend) }
    }

    /// The revision of the moment.
    pub fn revision(&self) -> i64 {
        self.moment.revision
    }

    /// The compaction at that moment; 0 when there was none.
    pub fn compact_revision(&self) -> i64 {
        self.moment.floor.compact_revision
    }

    /// Every key at that moment.
    pub fn index(&self) -> &Index {
        &self.moment.index
    }

    /// The entries of a side table that nothing changes while a member runs.
    pub fn side(&self, space: Space) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
        self.backend.side(space)
    }

    /// Calls `sink` with the revisions in [from, until) that are stored, in order; none that came after the moment. Some
    /// of them may be no longer in the index, because a compaction has not come to deleting them yet.
    pub fn scan(&self, from: Rev, until: Rev, sink: &mut dyn FnMut(Stored<'_>) -> Result<()>) -> Result<()> {
        self.walk(from, until, Witness::Index, sink)
    }

    /// Calls `sink` with the messages of versions that the index names, which are in order: with all of them, or it is an
    /// error.
    pub fn messages(
        &self,
        versions: impl DoubleEndedIterator<Item = Version> + Clone,
        mut sink: impl FnMut(&[u8]),
    ) -> Result<()> {
        let ends = (versions.clone().next(), versions.clone().next_back());
        let (Some(first), Some(last)) = ends else { return Ok(()) };
        let until = Rev { sub: last.rev().sub + 1, ..last.rev() };
        let mut rest = versions.peekable();
        self.walk(first.rev(), until, Witness::Caller, &mut |stored| {
            // What lies between them is superfluous, and not deleted yet.
            let Some(version) = rest.next_if(|version| version.rev() == stored.rev) else { return Ok(()) };
            if stored.tombstone != version.is_tombstone() || stored.message.len() != version.message_bytes() {
                return Err(missing(version.rev()));
            }
            sink(stored.message);
            Ok(())
        })?;
        rest.next().map_or(Ok(()), |version| Err(missing(version.rev())))
    }

    fn walk(
        &self,
        from: Rev,
        until: Rev,
        witness: Witness,
        sink: &mut dyn FnMut(Stored<'_>) -> Result<()>,
    ) -> Result<()> {
        let until = until.min(Rev::of(self.moment.revision.saturating_add(1)));
        // Taken first: what leaves memory meanwhile is found in the file.
        let batches = self.recent.since(from);
        let flushed = batches.first().map_or(until, |batch| batch.first().min(until));
        self.backend.scan(from, flushed, witness, sink)?;
        for change in batches.iter().flat_map(|batch| batch.changes()) {
            if change.rev >= from && change.rev < until {
                sink(Stored { rev: change.rev, tombstone: change.tombstone, message: &change.message })?;
            }
        }
        Ok(())
    }

    /// What to read from.
    pub fn ground(&self) -> Ground<'_> {
        Ground {
            index: &self.moment.index,
            revision: self.moment.revision,
            compact_revision: self.moment.floor.compact_revision,
            unpublished: &[],
            recent: &self.recent,
            backend: &self.backend,
        }
    }
}

impl fmt::Debug for View {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("View").field("revision", &self.moment.revision).finish_non_exhaustive()
    }
}

/// What reading needs: a view's, or the writer's in the middle of a transaction.
#[derive(Clone, Copy)]
pub struct Ground<'a> {
    /// Every key.
    pub index: &'a Index,
    /// The newest revision that may be read.
    pub revision: i64,
    /// Below it nothing may be read.
    pub compact_revision: i64,
    pub(super) unpublished: &'a [Change],
    pub(super) recent: &'a Recent,
    pub(super) backend: &'a Backend,
}

impl Ground<'_> {
    /// The main revision that a request for `asked` reads at; 0 and below is the newest.
    pub fn reads_at(&self, asked: i64) -> Result<i64, Fault> {
        if asked <= 0 {
            return Ok(self.revision);
        }
        if asked > self.revision {
            return Err(Fault::Future);
        }
        if asked < self.compact_revision {
            return Err(Fault::Compacted);
        }
        Ok(asked)
    }

    /// The message of a version that the index names.
    pub fn message(&self, version: &Version) -> Result<Bytes> {
        let rev = version.rev();
        if let Some(change) = find(self.unpublished, rev) {
            return Ok(change.message.clone());
        }
        message(self.recent, self.backend, version)
    }
}

/// The message of a version that was published and is not deleted.
pub fn message(recent: &Recent, backend: &Backend, version: &Version) -> Result<Bytes> {
    let rev = version.rev();
    if let Some(change) = recent.find(rev) {
        return Ok(change.message);
    }
    match backend.get(rev)? {
        Some((tombstone, message))
            if tombstone == version.is_tombstone() && message.len() == version.message_bytes() =>
        {
            Ok(message.into())
        }
        _ => Err(missing(rev)),
    }
}

fn missing(rev: Rev) -> Error {
    Error::damaged(format!("the state does not hold revision {rev}, which its index names")).hint(HINT_MEMBER_DAMAGED)
}
