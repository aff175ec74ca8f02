//! What operations do to keys, counted as etcd counts it: by what its storage is asked for, and not by what clients ask.
//!
//! A condition is a read of its key, and so is looking for the value that a put or a deletion is to return or to keep. What
//! is done in one transaction of the storage is counted as a transaction, if it is more than one thing: a transaction that
//! writes is one for its conditions and another for its steps, and a put that returns what was before is one too.

/// How often what was done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Reads.
    pub ranges: u64,
    /// Keys that were written.
    pub puts: u64,
    /// Deletions, of one key or of many.
    pub deletes: u64,
    /// Transactions of several of these.
    pub txns: u64,
    /// Bytes of the keys and values that were written.
    pub put_bytes: u64,
    /// What the open transaction has done.
    steps: u64,
}

impl Tally {
    /// Of a range that is read by itself.
    pub fn of_one_range() -> Self {
        Tally { ranges: 1, ..Tally::default() }
    }

    /// Something is read.
    pub(super) fn range(&mut self) {
        self.ranges += 1;
        self.steps += 1;
    }

    /// A key is written.
    pub(super) fn put(&mut self, bytes: usize) {
        self.puts += 1;
        self.put_bytes += bytes as u64;
        self.steps += 1;
    }

    /// Keys are deleted.
    pub(super) fn delete(&mut self) {
        self.deletes += 1;
        self.steps += 1;
    }

    /// A transaction of the storage ends.
    pub(super) fn end(&mut self) {
        self.txns += u64::from(std::mem::take(&mut self.steps) > 1);
    }
}
