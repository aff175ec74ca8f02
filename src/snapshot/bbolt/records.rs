//! An etcd file as records: in the fixed order for storing, or newest first for everything that asks which version of a
//! key is its newest.

use crate::base::error::{Error, Result};
use crate::base::id::EtcdId;
use crate::snapshot::bbolt::Pages;
use crate::snapshot::bbolt::node::Leaf;
use crate::snapshot::bbolt::read::{Bucket, Db, Direction, Walk};
use crate::snapshot::bbolt::side::Taken;
use crate::snapshot::encode::{Block, Encoder};
use crate::snapshot::entry::{self, RevisionKey};
use crate::snapshot::kept::Kept;
use crate::snapshot::record::{Descriptor, End, Extra, FORMAT, Record, Rev};
use crate::snapshot::witness::Each;

/// Leaves are handed on together when they hold this many bytes.
const BATCH_BYTES: usize = 1 << 20;

/// Takes an entry: key, value.
type Read<'a> = dyn FnMut(&[u8], &[u8]) -> Result<()> + 'a;

/// An etcd file whose small buckets have been read.
#[derive(Debug)]
pub struct Source<'db, P> {
    db: &'db Db<P>,
    side: Side,
    /// Pages of the list of buckets and of the small buckets.
    walk: Walk,
    key: Option<Bucket>,
    lease: Option<Bucket>,
    facts: Facts,
}

/// What the file says about itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// The greater of the last revision and the compaction; 1 for a store never written to.
    pub revision: i64,
    /// The newest compaction, scheduled or finished; 0 when there was none.
    pub compact_revision: i64,
    /// Raft term of the last applied entry; 0 when the file does not say.
    pub raft_term: u64,
    /// Raft index of the last applied entry; 0 when the file does not say.
    pub raft_index: u64,
    /// etcd's storage version; empty before 3.6.
    pub storage_version: String,
}

/// The small buckets.
#[derive(Debug, Default)]
struct Side {
    buckets: Vec<(Bucket, Vec<Leaf>)>,
    taken: Taken,
}

impl<'db, P: Pages> Source<'db, P> {
    /// Reads the list of buckets, the small buckets and the last revision.
    pub fn open(db: &'db Db<P>) -> Result<Self> {
        let mut walk = db.walk();
        let (mut side, mut key, mut lease) = (Side::default(), None, None);
        for bucket in db.buckets(&mut walk)? {
            match &bucket.name[..] {
                entry::KEY => key = Some(bucket),
                entry::LEASE => lease = Some(bucket),
                _ => side.read(db, bucket, &mut walk)?,
            }
        }
        let mut source = Source { db, side, walk, key, lease, facts: Facts::default() };
        source.facts = source.read_facts()?;
        Ok(source)
    }

    /// What the file says about itself.
    pub fn facts(&self) -> &Facts {
        &self.facts
    }

    /// The descriptor of the file; the ids come from whoever handed the file over, 0 when unknown.
    pub fn descriptor(&self, cluster_id: EtcdId, member_id: EtcdId) -> Descriptor<'_> {
        Descriptor {
            format: FORMAT,
            cluster_id,
            member_id,
            revision: self.facts.revision,
            compact_revision: self.facts.compact_revision,
            raft_term: self.facts.raft_term,
            raft_index: self.facts.raft_index,
            storage_version: &self.facts.storage_version,
            page_size: self.db.meta().page_size,
            base_revision: 0,
            kept_listed: false,
            is_live: false,
            lineage: None,
            state_digest: None,
        }
    }

    /// The whole file in the fixed order, as blocks.
    pub fn encode(&self, descriptor: &Descriptor<'_>, sink: &mut dyn FnMut(Block) -> Result<()>) -> Result<End> {
        self.encode_after(descriptor, None, sink)
    }

    /// What came after the descriptor's base revision, in the fixed order, as blocks; `kept` says which older revisions
    /// are still there, none that all are. With a base of 0, the whole file.
    pub fn encode_after(
        &self,
        descriptor: &Descriptor<'_>,
        kept: Option<&Kept>,
        sink: &mut dyn FnMut(Block) -> Result<()>,
    ) -> Result<End> {
        let base = descriptor.base_revision;
        let mut encoder = Encoder::new();
        let mut put = |record: &Record<'_>| match encoder.put(record) {
            Some(block) => sink(block),
            None => Ok(()),
        };
        put(&Record::Descriptor(*descriptor))?;
        for record in self.side_records() {
            put(&record)?;
        }
        let mut walk = self.walk.clone();
        let mut each = |bucket: &Option<Bucket>, from: &[u8], read: &mut Read<'_>| -> Result<()> {
            let Some(bucket) = bucket else { return Ok(()) };
            let mut leaves = self.db.leaves_from(&bucket.root, from);
            while let Some(leaf) = leaves.next_leaf(&mut walk).map_err(|error| in_bucket(error, bucket))? {
                for entry in leaf.entries().filter(|entry| entry.key >= from) {
                    plain(bucket, entry.flags)?;
                    read(entry.key, entry.value)?;
                }
            }
            Ok(())
        };
        each(&self.lease, b"", &mut |key, value| put(&entry::lease_record_of(key, value)?))?;
        kept.into_iter().flat_map(Kept::runs).try_for_each(|run| put(&Record::Kept(run)))?;
        let mut last = Rev::default();
        let first = RevisionKey::new(Rev { main: base + 1, sub: 0 }, false);
        each(&self.key, if base == 0 { b"" } else { first.as_bytes() }, &mut |key, value| {
            let revision = entry::revision_of(key, value)?;
            if revision.rev <= last {
                return Err(Error::damaged(format!("revision {} is there twice, alive and deleted", revision.rev)));
            }
            last = revision.rev;
            put(&Record::Revision(revision))
        })?;
        let (blocks, end) = encoder.end();
        blocks.into_iter().try_for_each(sink)?;
        Ok(end)
    }

    /// Calls `each` with the revisions from main revision `first` up to `last`, ascending.
    pub fn revisions(&self, first: i64, last: i64, each: &mut Each<'_>) -> Result<()> {
        let Some(bucket) = &self.key else { return Ok(()) };
        let from = RevisionKey::new(Rev { main: first, sub: 0 }, false);
        let mut leaves = self.db.leaves_from(&bucket.root, from.as_bytes());
        let mut walk = self.walk.clone();
        while let Some(leaf) = leaves.next_leaf(&mut walk).map_err(|error| in_bucket(error, bucket))? {
            for entry in leaf.entries().filter(|entry| entry.key >= from.as_bytes()) {
                plain(bucket, entry.flags)?;
                let revision = entry::revision_of(entry.key, entry.value)?;
                if revision.rev.main > last {
                    return Ok(());
                }
                each(&revision)?;
            }
        }
        Ok(())
    }

    /// Calls `each` with every lease, as stored.
    pub fn leases(&self, each: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let Some(bucket) = &self.lease else { return Ok(()) };
        let (mut walk, mut leaves) = (self.walk.clone(), self.db.leaves(&bucket.root, Direction::Forward));
        while let Some(leaf) = leaves.next_leaf(&mut walk).map_err(|error| in_bucket(error, bucket))? {
            for entry in leaf.entries() {
                plain(bucket, entry.flags)?;
                entry::lease_record_of(entry.key, entry.value)?;
                each(entry.value)?;
            }
        }
        Ok(())
    }

    /// The whole file as batches of records, newest first, each batch in ascending order within itself. The last batch
    /// holds the descriptor and the small buckets; there is no `End`.
    pub fn newest_first(
        &self,
        descriptor: &Descriptor<'_>,
        sink: &mut dyn FnMut(&[Record<'_>]) -> Result<()>,
    ) -> Result<()> {
        let mut walk = self.walk.clone();
        self.batches(self.key.as_ref(), &mut walk, sink)?;
        self.batches(self.lease.as_ref(), &mut walk, sink)?;
        let mut records = vec![Record::Descriptor(*descriptor)];
        records.extend(self.side_records());
        sink(&records)
    }

    fn batches(
        &self,
        bucket: Option<&Bucket>,
        walk: &mut Walk,
        sink: &mut dyn FnMut(&[Record<'_>]) -> Result<()>,
    ) -> Result<()> {
        let Some(bucket) = bucket else { return Ok(()) };
        let mut leaves = self.db.leaves(&bucket.root, Direction::Backward);
        let mut batch: Vec<Leaf> = vec![];
        loop {
            let leaf = leaves.next_leaf(walk).map_err(|error| in_bucket(error, bucket))?;
            let done = leaf.is_none();
            batch.extend(leaf);
            if done || batch.iter().map(Leaf::bytes).sum::<usize>() >= BATCH_BYTES {
                let mut records = Vec::with_capacity(batch.iter().map(Leaf::len).sum());
                for entry in batch.iter().rev().flat_map(Leaf::entries) {
                    plain(bucket, entry.flags)?;
                    records.push(match &bucket.name[..] {
                        entry::KEY => Record::Revision(entry::revision_of(entry.key, entry.value)?),
                        _ => entry::lease_record_of(entry.key, entry.value)?,
                    });
                }
                if !records.is_empty() {
                    sink(&records)?;
                }
                batch.clear();
            }
            if done {
                return Ok(());
            }
        }
    }

    /// The records of the small buckets, and the existence of every bucket, in the fixed order.
    pub fn side_records(&self) -> Vec<Record<'_>> {
        let strict = [&self.key, &self.lease].into_iter().flatten().map(|bucket| (bucket, vec![]));
        let side = self.side.buckets.iter().map(|(bucket, leaves)| {
            (bucket, leaves.iter().flat_map(Leaf::entries).map(|entry| (entry.key, entry.value)).collect())
        });
        entry::side_records(strict.chain(side).map(|(bucket, entries)| (&bucket.name[..], bucket.sequence, entries)))
    }

    fn read_facts(&self) -> Result<Facts> {
        let mut facts = Facts { revision: 1, ..Facts::default() };
        for record in self.side_records() {
            match record {
                Record::Compacted(compacted) => {
                    facts.compact_revision = facts.compact_revision.max(compacted.revision);
                }
                Record::Extra(Extra { bucket: entry::META, key: Some(key), value, .. }) => match key {
                    entry::CONSISTENT_INDEX => facts.raft_index = big_endian(key, value)?,
                    entry::TERM => facts.raft_term = big_endian(key, value)?,
                    entry::STORAGE_VERSION => {
                        facts.storage_version = String::from_utf8_lossy(value).into_owned();
                    }
                    _ => {}
                },
                _ => {}
            }
        }
        facts.revision = facts.revision.max(facts.compact_revision).max(self.last_revision()?);
        Ok(facts)
    }

    /// Main revision of the last entry of `key`; 0 when there is none.
    fn last_revision(&self) -> Result<i64> {
        let Some(bucket) = &self.key else { return Ok(0) };
        let mut leaves = self.db.leaves(&bucket.root, Direction::Backward);
        let leaf = leaves.next_leaf(&mut self.walk.clone()).map_err(|error| in_bucket(error, bucket))?;
        let Some(leaf) = leaf else { return Ok(0) };
        let entry = leaf.entry(leaf.len() - 1);
        plain(bucket, entry.flags)?;
        Ok(entry::revision_of(entry.key, entry.value)?.rev.main)
    }
}

impl Side {
    fn read<P: Pages>(&mut self, db: &Db<P>, bucket: Bucket, walk: &mut Walk) -> Result<()> {
        let mut leaves = db.leaves(&bucket.root, Direction::Forward);
        let mut kept = vec![];
        while let Some(leaf) = leaves.next_leaf(walk).map_err(|error| in_bucket(error, &bucket))? {
            self.taken.add(leaf.len(), leaf.bytes()).map_err(|error| in_bucket(error, &bucket))?;
            leaf.entries().try_for_each(|entry| plain(&bucket, entry.flags))?;
            kept.push(leaf);
        }
        drop(leaves);
        self.buckets.push((bucket, kept));
        Ok(())
    }
}

/// Refuses an entry that is a bucket: etcd does not nest them.
fn plain(bucket: &Bucket, flags: u32) -> Result<()> {
    if flags == 0 {
        return Ok(());
    }
    Err(in_bucket(Error::damaged(format!("an entry has flags {flags:#x}: etcd nests no buckets")), bucket))
}

fn in_bucket(error: Error, bucket: &Bucket) -> Error {
    error.during(format!("bucket {:?}", String::from_utf8_lossy(&bucket.name)))
}

fn big_endian(key: &[u8], value: &[u8]) -> Result<u64> {
    value.try_into().map(u64::from_be_bytes).map_err(|_| {
        let key = String::from_utf8_lossy(key);
        Error::damaged(format!("{key} has {} bytes instead of 8", value.len()))
    })
}
