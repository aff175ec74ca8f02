//! What raft reads of the log: entries that are durable or on their way there, kept in memory as long as raft may ask.
//!
//! The file is written by somebody else (`log`), and read at start only. Here is what lies between: entries that are not
//! applied yet, and as many applied ones as somebody may still want.

use std::collections::VecDeque;

use raft::prelude::{ConfState, Entry, HardState, Snapshot};
use raft::{Error, GetEntriesContext, RaftState, Result, Storage, StorageError};

use crate::store::consensus::log::Place;

/// The log in memory.
#[derive(Debug)]
pub(super) struct Bridge {
    state: RaftState,
    /// Before the first entry.
    previous: Place,
    entries: VecDeque<Entry>,
}

impl Bridge {
    /// What is there when a member starts.
    pub(super) fn new(hard_state: HardState, voters: Vec<u64>, previous: Place, entries: VecDeque<Entry>) -> Self {
        let mut membership = ConfState::default();
        membership.set_voters(voters);
        Bridge { state: RaftState::new(hard_state, membership), previous, entries }
    }

    /// Takes entries over that raft hands out to be made durable. They replace what follows the place of their first.
    pub(super) fn append(&mut self, entries: &[Entry]) {
        let Some(first) = entries.first() else { return };
        let keep = usize::try_from(first.index - self.previous.index - 1).expect("entries fit into memory");
        assert!(keep <= self.entries.len(), "entries leave no hole");
        self.entries.truncate(keep);
        self.entries.extend(entries.iter().cloned());
    }

    /// Forgets entries up to `through`, which nobody asks for any more.
    pub(super) fn forget(&mut self, through: u64) {
        while let Some(first) = self.entries.front().filter(|entry| entry.index <= through) {
            self.previous = Place { index: first.index, term: first.term };
            self.entries.pop_front();
        }
    }

    /// How many entries are held.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    fn last(&self) -> u64 {
        self.entries.back().map_or(self.previous.index, |entry| entry.index)
    }

    fn at(&self, index: u64) -> Result<usize> {
        let Some(at) = index.checked_sub(self.previous.index + 1) else {
            return Err(Error::Store(StorageError::Compacted));
        };
        Ok(usize::try_from(at).unwrap_or(usize::MAX))
    }
}

impl Storage for Bridge {
    fn initial_state(&self) -> Result<RaftState> {
        Ok(self.state.clone())
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        _context: GetEntriesContext,
    ) -> Result<Vec<Entry>> {
        let (low, high) = (self.at(low)?, self.at(high)?);
        assert!(high <= self.entries.len(), "raft asks for what it was given");
        let mut entries: Vec<_> = self.entries.range(low..high).cloned().collect();
        raft::util::limit_size(&mut entries, max_size.into());
        Ok(entries)
    }

    fn term(&self, index: u64) -> Result<u64> {
        if index == self.previous.index {
            return Ok(self.previous.term);
        }
        let entry = self.entries.get(self.at(index)?);
        entry.map(|entry| entry.term).ok_or(Error::Store(StorageError::Unavailable))
    }

    fn first_index(&self) -> Result<u64> {
        Ok(self.previous.index + 1)
    }

    fn last_index(&self) -> Result<u64> {
        Ok(self.last())
    }

    fn snapshot(&self, _request_index: u64, _to: u64) -> Result<Snapshot> {
        // Whoever lags behind the log is brought up to date by other means than raft's own.
        Err(Error::Store(StorageError::SnapshotTemporarilyUnavailable))
    }
}
