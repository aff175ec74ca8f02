//! The one who writes: makes revisions, in batches, and publishes views of them.
//!
//! A transaction makes one main revision, whatever it changes, and none when it changes nothing. It reads what it has
//! written. Whether it may be made was decided before: nothing here fails for a reason that depends on what is asked, so a
//! transaction is never half made.
//!
//! Pure but for reading the backend: the same calls make the same revisions everywhere.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;

use crate::api::Message;
use crate::api::mvccpb::KeyValue;
use crate::base::error::Result;
use crate::base::revision::Rev;
use crate::store::backend::{Backend, Listed};
use crate::store::mvcc::history::Version;
use crate::store::mvcc::index::{Index, Key, Keys};
use crate::store::mvcc::loading;
use crate::store::mvcc::recent::{Batch, Change, Recent};
use crate::store::mvcc::view::{Fault, Floors, Ground, View};

/// The revision of an empty store.
pub const FIRST_REVISION: i64 = 1;

/// Applies changes to the store.
pub struct Writer {
    index: Index,
    /// Of the last transaction that ended.
    revision: i64,
    compact_revision: i64,
    /// Changes since the last publication, those of an open transaction included.
    changes: Vec<Change>,
    /// Steps of the open transaction.
    steps: i64,
    recent: Arc<Recent>,
    backend: Arc<Backend>,
    floors: Floors,
    pruning: Option<Pruning>,
}

/// A compaction on its way through the index. A later one goes on from there, round to where it began: if each began with
/// the first key, many of them would never get far.
#[derive(Debug)]
struct Pruning {
    compact_revision: i64,
    /// The last key that was looked at.
    after: Option<Key>,
    /// Keys up to here were looked at for an earlier compaction; once more after the last key.
    again: Option<Key>,
    /// Where the second time ends.
    until: Option<Key>,
}

impl Pruning {
    fn at(compact_revision: i64) -> Self {
        Pruning { compact_revision, after: None, again: None, until: None }
    }

    fn raise(&mut self, compact_revision: i64) {
        let again = self.after.clone();
        *self = Pruning { compact_revision, after: self.after.take(), again, until: None };
    }

    /// Goes on after `last`, or from the beginning when that was the end; whether there is anything to do.
    fn goes_on(&mut self, last: Option<Key>) -> bool {
        match last {
            Some(last) if self.until.as_ref().is_some_and(|until| last >= *until) => return false,
            Some(last) => self.after = Some(last),
            None => {
                let Some(until) = self.again.take() else { return false };
                (self.after, self.until) = (None, Some(until));
            }
        }
        true
    }
}

impl Writer {
    /// The store in `backend`, whose last compaction was at `compact_revision`; 0 when there was none. `sees` is shown every
    /// revision on the way, in order, and the index that has it already.
    pub fn open(backend: Arc<Backend>, compact_revision: i64, sees: impl FnMut(&Index, &Listed<'_>)) -> Result<Self> {
        let (index, last) = loading::load(&backend, sees)?;
        let least = FIRST_REVISION.max(compact_revision);
        let pruning = (compact_revision > 0).then_some(Pruning::at(compact_revision));
        Ok(Writer {
            index,
            revision: last.map_or(least, |last| last.main.max(least)),
            compact_revision,
            changes: vec![],
            steps: 0,
            recent: Arc::default(),
            backend,
            floors: Floors::new(compact_revision),
            pruning,
        })
    }

    /// The revision of the last transaction that changed something.
    pub fn revision(&self) -> i64 {
        self.revision
    }

    /// The last compaction; 0 when there was none.
    pub fn compact_revision(&self) -> i64 {
        self.compact_revision
    }

    /// The batches that wait for a flush.
    pub fn recent(&self) -> &Arc<Recent> {
        &self.recent
    }

    /// What to read from: everything that was written, the steps of an open transaction included.
    pub fn ground(&self) -> Ground<'_> {
        Ground {
            index: &self.index,
            revision: self.revision + i64::from(self.steps > 0),
            compact_revision: self.compact_revision,
            unpublished: &self.changes,
            recent: &self.recent,
            backend: &self.backend,
        }
    }

    /// Writes a key, as a step of the open transaction; what it was before.
    pub fn put(&mut self, key: &Bytes, value: &Bytes, lease: i64) -> Option<Version> {
        let rev = self.step();
        let mut message = Bytes::new();
        let before = self.index.put(key, rev, |create_revision, version| {
            let (key, value) = (key.clone(), value.clone());
            let kv = KeyValue { key, create_revision, mod_revision: rev.main, version, value, lease };
            message = kv.encode_to_vec().into();
            message.len()
        });
        self.changes.push(Change { rev, tombstone: false, message });
        before
    }

    /// Ends keys, one step of the open transaction each, in their order; what they were before.
    pub fn delete(&mut self, keys: Keys<'_>) -> Vec<(Key, Version)> {
        let alive: Vec<_> = self.index.alive(keys, i64::MAX).map(|(key, version)| (key.clone(), *version)).collect();
        for (key, _) in &alive {
            let rev = self.step();
            let kv = KeyValue { key: Bytes::copy_from_slice(key), ..KeyValue::default() };
            let message = Bytes::from(kv.encode_to_vec());
            self.index.end(key, rev, message.len());
            self.changes.push(Change { rev, tombstone: true, message });
        }
        alive
    }

    fn step(&mut self) -> Rev {
        let rev = Rev { main: self.revision + 1, sub: self.steps };
        self.steps += 1;
        rev
    }

    /// Ends the open transaction; the store's revision after it.
    pub fn end(&mut self) -> i64 {
        self.revision += i64::from(std::mem::take(&mut self.steps) > 0);
        self.revision
    }

    /// From now on nothing before `at` can be read.
    pub fn compact(&mut self, at: i64) -> Result<(), Fault> {
        assert_eq!(self.steps, 0, "a compaction is no part of a transaction");
        if at <= self.compact_revision {
            return Err(Fault::Compacted);
        }
        if at > self.revision {
            return Err(Fault::Future);
        }
        self.compact_revision = at;
        self.floors.raise(at);
        match &mut self.pruning {
            Some(pruning) => pruning.raise(at),
            None => self.pruning = Some(Pruning::at(at)),
        }
        Ok(())
    }

    /// Ends a batch: what was changed since the last one, if anything was, goes to the recent batches.
    pub fn seal(&mut self) -> Option<Arc<Batch>> {
        assert_eq!(self.steps, 0, "a transaction lies within one batch");
        if self.changes.is_empty() {
            return None;
        }
        let batch = Arc::new(Batch::new(std::mem::take(&mut self.changes)));
        self.recent.push(Arc::clone(&batch));
        Some(batch)
    }

    /// The store as it is, between two batches.
    pub fn view(&self) -> View {
        assert!(self.changes.is_empty(), "views are taken between batches");
        View::new(self.revision, self.index.clone(), &self.floors, &self.recent, &self.backend)
    }

    /// Whether compactions have left something in the index.
    pub fn is_pruning(&self) -> bool {
        self.pruning.is_some()
    }

    /// Takes what compactions made superfluous out of the index, of at most `keys_max` keys. The revisions to delete, once
    /// everything before is flushed; none when there is nothing to do, or a view still shows some of it.
    pub fn prune(&mut self, keys_max: usize) -> Option<Vec<Rev>> {
        let pruning = self.pruning.as_mut()?;
        if self.floors.lowest() < pruning.compact_revision {
            return None;
        }
        let mut gone = vec![];
        let last = self.index.prune(pruning.after.as_ref(), keys_max, pruning.compact_revision, &mut gone);
        if !pruning.goes_on(last) {
            self.pruning = None;
        }
        Some(gone)
    }
}

impl fmt::Debug for Writer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Writer").field("revision", &self.revision).finish_non_exhaustive()
    }
}
