//! Records in the fixed order, inserted into a new etcd file.
//!
//! The small buckets are gathered in memory, because their records do not come bucket by bucket; leases and revisions,
//! which may be many, come last and in the order of their keys, and are streamed.
//!
//! A file that is streamed is built twice, once as a **plan** that is told only how long messages are. Both are the same
//! code, so that the plan is what the file turns out to be.

use std::collections::BTreeMap;

use crate::base::error::{Error, Result};
use crate::snapshot::bbolt::read::BUCKETS_MAX;
use crate::snapshot::bbolt::shape::Sizes;
use crate::snapshot::bbolt::side::{Taken, check_key};
use crate::snapshot::bbolt::write::{Head, Output, Plan, Sink, Writer};
use crate::snapshot::entry;
use crate::snapshot::entry::RevisionKey;
use crate::snapshot::record::{Record, Rev};

/// Kinds of records that mean something for the order here.
const LEASES: u32 = 13;
const REVISIONS: u32 = 16;
const END: u32 = 17;

/// A file in the making, or the plan of one.
#[derive(Debug)]
pub struct Builder<O = Writer> {
    output: O,
    side: BTreeMap<Vec<u8>, SideBucket>,
    taken: Taken,
    /// Number of the last record's kind.
    last_number: u32,
    /// Key of the last entry streamed.
    last_key: Vec<u8>,
}

#[derive(Debug, Default)]
struct SideBucket {
    sequence: u64,
    entries: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl Builder {
    /// Starts a file: hands on the page after the head.
    pub fn start(sizes: Sizes, sink: &mut Sink<'_>) -> Result<Self> {
        Ok(Builder::on(Writer::start(sizes, sink)?))
    }

    /// Bytes of the head that goes before the first chunk.
    pub fn head_bytes(&self) -> usize {
        self.output.head_bytes()
    }
}

impl Builder<Plan> {
    /// Starts the plan of a file.
    pub fn plan(sizes: Sizes) -> Self {
        Builder::on(Plan::new(sizes))
    }

    /// Takes a revision by the length of its message.
    pub fn put_length(&mut self, rev: Rev, tombstone: bool, message_bytes: usize) -> Result<()> {
        self.turn_to(REVISIONS, &mut |_| Ok(()))?;
        self.ascend(RevisionKey::new(rev, tombstone).as_bytes())?;
        self.output.put(RevisionKey::new(rev, tombstone).as_bytes(), message_bytes);
        Ok(())
    }
}

impl<O: Output> Builder<O> {
    fn on(output: O) -> Self {
        Builder { output, side: BTreeMap::new(), taken: Taken::default(), last_number: 0, last_key: vec![] }
    }

    /// Inserts a record.
    pub fn put(&mut self, record: &Record<'_>, sink: &mut Sink<'_>) -> Result<()> {
        self.turn_to(record.number(), sink)?;
        match record {
            Record::Lease { .. } | Record::Revision(_) => self.stream(record, sink),
            _ => self.gather(record),
        }
    }

    /// A record of this kind comes next.
    fn turn_to(&mut self, number: u32, sink: &mut Sink<'_>) -> Result<()> {
        if number < self.last_number || self.last_number == END {
            return Err(Error::damaged(format!("a record of kind {number} follows one of kind {}", self.last_number)));
        }
        if number != self.last_number {
            self.leave(sink)?;
        }
        self.last_number = number;
        Ok(())
    }

    /// Ends the bucket that was streamed, if one was.
    fn leave(&mut self, sink: &mut Sink<'_>) -> Result<()> {
        let name = match self.last_number {
            LEASES => entry::LEASE,
            REVISIONS => entry::KEY,
            _ => return Ok(()),
        };
        let sequence = self.side.remove(name).unwrap_or_default().sequence;
        self.last_key.clear();
        self.output.end_bucket(name, sequence, sink)
    }

    fn stream(&mut self, record: &Record<'_>, sink: &mut Sink<'_>) -> Result<()> {
        entry::entries(record, &mut |_, key, value| {
            self.ascend(key)?;
            self.output.put_entry(key, value, sink)
        })
    }

    fn ascend(&mut self, key: &[u8]) -> Result<()> {
        let last_key = &mut self.last_key;
        if !last_key.is_empty() && key <= &last_key[..] {
            return Err(Error::damaged("leases or revisions do not ascend"));
        }
        last_key.clear();
        last_key.extend_from_slice(key);
        Ok(())
    }

    fn gather(&mut self, record: &Record<'_>) -> Result<()> {
        let Builder { side, taken, .. } = self;
        if let Record::Extra(extra) = record
            && extra.key.is_none()
        {
            // Counted as an entry, so that a bucket named again and again comes to an end as well.
            taken.add(1, extra.bucket.len())?;
            check_key(extra.bucket)?;
            side.entry(extra.bucket.to_vec()).or_default().sequence = extra.sequence;
        }
        entry::entries(record, &mut |bucket, key, value| {
            if [entry::KEY, entry::LEASE].contains(&bucket) {
                return Err(Error::damaged("history and leases hold no entries that are not etcd's"));
            }
            taken.add(1, bucket.len() + key.len() + value.len())?;
            check_key(bucket).and_then(|()| check_key(key))?;
            let entries = &mut side.entry(bucket.to_vec()).or_default().entries;
            if entries.insert(key.to_vec(), value.to_vec()).is_some() {
                let bucket = String::from_utf8_lossy(bucket);
                return Err(Error::damaged(format!("an entry of bucket {bucket:?} comes twice")));
            }
            Ok(())
        })?;
        if side.len() > BUCKETS_MAX {
            return Err(Error::damaged(format!("the stream has more than {BUCKETS_MAX} buckets")));
        }
        Ok(())
    }

    /// Ends the file and returns its head. `End` must have come.
    pub fn finish(mut self, sink: &mut Sink<'_>) -> Result<Head> {
        if self.last_number != END {
            return Err(Error::damaged("the stream is cut short: it has no End"));
        }
        for (name, bucket) in std::mem::take(&mut self.side) {
            for (key, value) in &bucket.entries {
                self.output.put_entry(key, value, sink)?;
            }
            self.output.end_bucket(&name, bucket.sequence, sink)?;
        }
        self.output.finish(sink)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::bbolt::page::KEY_BYTES_MAX;
    use crate::snapshot::bbolt::side::{SIDE_BYTES_MAX, SIDE_ENTRIES_MAX};
    use crate::snapshot::record::Extra;

    /// Puts what `record` makes of 0, 1, 2, .. until one is refused: how many were taken, and why no more.
    fn fill(record: impl Fn(&[u8], &mut dyn FnMut(&Record<'_>) -> Result<()>) -> Result<()>) -> (usize, String) {
        let mut sink = |_: &[u8]| Ok(());
        let mut builder = Builder::start(Sizes::default(), &mut sink).unwrap();
        let refused = (0..2 * SIDE_ENTRIES_MAX).find_map(|n| {
            let name = u32::try_from(n).unwrap().to_be_bytes();
            let error = record(&name, &mut |record| builder.put(record, &mut sink)).err()?;
            Some((n, error.chain()))
        });
        refused.expect("no stream is gathered without end")
    }

    #[test]
    fn every_kind_of_record_that_is_gathered_meets_a_limit() {
        fn extra<'a>(bucket: &'a [u8], key: Option<&'a [u8]>, value: &'a [u8]) -> Record<'a> {
            Record::Extra(Extra { bucket, key, value, sequence: 0 })
        }
        let (taken, why) = fill(|name, put| put(&extra(name, None, &[])));
        assert_eq!((taken, why.contains("buckets")), (BUCKETS_MAX, true), "{why}");
        let (taken, why) = fill(|_, put| put(&extra(b"one", None, &[])));
        assert_eq!((taken, why.contains("entries")), (SIDE_ENTRIES_MAX, true), "{why}");
        let (taken, why) = fill(|name, put| put(&extra(b"one", Some(name), &[])));
        assert_eq!((taken, why.contains("entries")), (SIDE_ENTRIES_MAX, true), "{why}");
        let (taken, why) = fill(|name, put| put(&extra(name, Some(b""), &[])));
        assert_eq!((taken, why.contains("buckets")), (BUCKETS_MAX, true), "{why}");
        let (taken, why) = fill(|name, put| put(&Record::User { stored: &[&[0x0a, 4][..], name].concat() }));
        assert_eq!((taken, why.contains("entries")), (SIDE_ENTRIES_MAX, true), "{why}");
        let large = vec![0; 1 << 20];
        let (taken, why) = fill(|name, put| put(&extra(b"one", Some(name), &large)));
        assert_eq!((taken, why.contains("bytes")), (SIDE_BYTES_MAX / (1 << 20) - 1, true), "{why}");
        let long = vec![7; KEY_BYTES_MAX + 1];
        assert_eq!(fill(|_, put| put(&extra(&long, None, &[]))).0, 0);
        assert_eq!(fill(|_, put| put(&extra(b"one", Some(&long), &[]))).0, 0);
        assert_eq!(fill(|_, put| put(&Record::Alarm { stored: &long })).0, 0);
    }
}
