//! Every version that a view shows, in order of revisions: what snapshots and hashes read.
//!
//! The index is ordered by keys, so the order of revisions has to be made: a list of 16 bytes for each version, taken from
//! the index and sorted. Nothing else about a scan grows with the state. Messages are then read a chunk at a time, each
//! chunk in one short walk over the backend and not one look-up for each message, so a reader that pauses between chunks
//! holds nothing but its view.
//!
//! What a compaction made superfluous is left out, whether it was deleted by now or not: the list depends on the moment
//! alone and is the same on every member.

use crate::base::error::Result;
use crate::base::revision::Rev;
use crate::store::mvcc::history::Version;
use crate::store::mvcc::index::Keys;
use crate::store::mvcc::view::View;

/// Keys that are looked at before the caller is asked whether to go on.
const KEYS_PER_CHECK: usize = 4096;

const NEWEST: u32 = 1 << 31;
const TOMBSTONE: u32 = 1 << 31;

/// A version in order of revisions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    main: i64,
    /// The highest bit tells the newest version of a key.
    sub: u32,
    /// Length of the message; the highest bit tells a tombstone.
    shape: u32,
}

impl Entry {
    fn new(version: &Version, newest: bool) -> Self {
        let rev = version.rev();
        let sub = u32::try_from(rev.sub).expect("a version keeps 32 bits of it");
        assert!(sub & NEWEST == 0, "a transaction has fewer than 2^31 steps");
        let bytes = u32::try_from(version.message_bytes()).expect("a message is shorter than 2 GiB");
        let shape = if version.is_tombstone() { bytes | TOMBSTONE } else { bytes };
        Entry { main: rev.main, sub: if newest { sub | NEWEST } else { sub }, shape }
    }

    fn version(&self) -> Version {
        Version::new(self.rev(), self.is_tombstone(), self.message_bytes())
    }

    /// The revision.
    pub fn rev(&self) -> Rev {
        Rev { main: self.main, sub: i64::from(self.sub & !NEWEST) }
    }

    /// Whether the key ends here.
    pub fn is_tombstone(&self) -> bool {
        self.shape & TOMBSTONE != 0
    }

    /// Whether it is the newest version of its key.
    pub fn is_newest(&self) -> bool {
        self.sub & NEWEST != 0
    }

    /// Bytes of its message.
    pub fn message_bytes(&self) -> usize {
        (self.shape & !TOMBSTONE) as usize
    }
}

/// Every version that a view shows, oldest first.
#[derive(Debug)]
pub struct Chronicle {
    view: View,
    entries: Vec<Entry>,
}

impl Chronicle {
    /// Lists the versions of a view. `go_on` is asked every few thousand keys.
    pub fn of(view: &View, go_on: &mut dyn FnMut() -> Result<()>) -> Result<Self> {
        let compact = view.compact_revision();
        let mut entries = Vec::with_capacity(view.index().len());
        // With the key of no bytes: under it etcd's tool notes that it raised revisions.
        for (n, (_, history)) in view.index().range(Keys::of(&[], &[0])).enumerate() {
            if n % KEYS_PER_CHECK == 0 {
                go_on()?;
            }
            let versions = &history.versions()[history.superfluous(compact)..];
            let last = versions.len();
            entries.extend(versions.iter().zip(1..).map(|(version, at)| Entry::new(version, at == last)));
        }
        go_on()?;
        entries.sort_unstable_by_key(Entry::rev);
        Ok(Chronicle { view: view.clone(), entries })
    }

    /// The view.
    pub fn view(&self) -> &View {
        &self.view
    }

    /// Every version, oldest first.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Where the first version after `rev` stands.
    pub fn after(&self, rev: Rev) -> usize {
        self.entries.partition_point(|entry| entry.rev() <= rev)
    }

    /// Reads the messages of entries from `at` on, before `until`, one behind the other: of about `bytes_max` bytes, of one
    /// entry at least. Where the next chunk begins.
    pub fn read(&self, at: usize, until: usize, bytes_max: usize, messages: &mut Vec<u8>) -> Result<usize> {
        messages.clear();
        let rest = &self.entries[at..until];
        let mut bytes = 0;
        let fits = |entry: &&Entry| {
            bytes += entry.message_bytes();
            bytes <= bytes_max
        };
        let n = rest.iter().take_while(fits).count().max(1).min(rest.len());
        let versions = rest[..n].iter().map(Entry::version);
        self.view.messages(versions, |message| messages.extend_from_slice(message))?;
        Ok(at + n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::error::Error;
    use crate::base::rng::Seeded;
    use crate::store::backend::{Backend, CACHE_BYTES};
    use crate::store::mvcc::recent::{Batch, Change};
    use crate::store::mvcc::testing::store;
    use crate::store::mvcc::write::Writer;
    use bytes::Bytes;
    use std::sync::Arc;

    fn flush(backend: &Backend, writer: &Writer, batch: &Batch) {
        store(backend, batch.changes());
        writer.recent().flushed(batch.last());
    }

    fn all(chronicle: &Chronicle, bytes_max: usize) -> Vec<(Rev, bool, Vec<u8>)> {
        let (mut at, mut messages, mut found) = (0, vec![], vec![]);
        while at < chronicle.entries().len() {
            let next = chronicle.read(at, chronicle.entries().len(), bytes_max, &mut messages).unwrap();
            let mut from = 0;
            for entry in &chronicle.entries()[at..next] {
                let message = messages[from..from + entry.message_bytes()].to_vec();
                found.push((entry.rev(), entry.is_tombstone(), message));
                from += entry.message_bytes();
            }
            assert!(from == messages.len() && (next == at + 1 || from <= bytes_max));
            at = next;
        }
        found
    }

    /// Half of it flushed, some of it compacted, some of that deleted: the list is that of every change there was, without
    /// what the compaction made superfluous.
    #[test]
    fn a_chronicle_is_every_version_in_order_wherever_it_lies() {
        assert_eq!(size_of::<Entry>(), 16);
        for seed in 0..20 {
            let dir = tempfile::tempdir().unwrap();
            let backend = Arc::new(Backend::create(&dir.path().join("db"), CACHE_BYTES).unwrap());
            let mut writer = Writer::open(Arc::clone(&backend), 0, |_, _| {}).unwrap();
            let mut rng = Seeded::new(seed);
            let mut changes = vec![];
            let mut waiting = std::collections::VecDeque::new();
            for round in 0..60 {
                for _ in 0..=rng.below(3) {
                    let key = Bytes::from(format!("key-{}", rng.below(12)));
                    if rng.below(4) == 0 {
                        writer.delete(Keys::of(&key, &[]));
                    } else {
                        let value = Bytes::from(vec![7; usize::try_from(rng.below(300)).unwrap()]);
                        writer.put(&key, &value, 0);
                        writer.put(&Bytes::from_static(b"other"), &value, 0);
                    }
                    writer.end();
                }
                if round == 40 {
                    writer.compact(writer.revision() - 5).unwrap();
                }
                if let Some(batch) = writer.seal() {
                    changes.extend(batch.changes().to_vec());
                    waiting.push_back(batch);
                }
                if rng.below(2) == 0
                    && let Some(batch) = waiting.pop_front()
                {
                    flush(&backend, &writer, &batch);
                }
            }
            let view = writer.view();
            let compact = view.compact_revision();
            let key_of = |change: &Change| {
                use crate::api::Message;
                crate::api::mvccpb::KeyValue::decode(change.message.clone()).unwrap().key
            };
            let needed = |(n, change): &(usize, &Change)| {
                let later = |until: i64| {
                    changes[n + 1..].iter().any(|next| next.rev.main <= until && key_of(next) == key_of(change))
                };
                let old = change.rev.main <= compact;
                !(old && (later(compact) || change.tombstone && change.rev.main < compact))
            };
            let kept: Vec<_> = changes.iter().enumerate().filter(needed).map(|(_, change)| change).collect();
            let expected: Vec<_> = kept.iter().map(|c| (c.rev, c.tombstone, c.message.to_vec())).collect();
            for bytes_max in [1, 500, 1 << 20] {
                let chronicle = Chronicle::of(&view, &mut || Ok(())).unwrap();
                assert_eq!(all(&chronicle, bytes_max), expected, "seed {seed}");
                let newest = chronicle.entries().iter().filter(|entry| entry.is_newest()).count();
                assert_eq!(
                    newest,
                    view.index()
                        .range(Keys::of(&[0], &[0]))
                        .filter(|(_, h)| { h.superfluous(compact) < h.versions().len() })
                        .count()
                );
            }
            // Flushed and deleted meanwhile, it is still what the view shows.
            let chronicle = Chronicle::of(&view, &mut || Ok(())).unwrap();
            for batch in waiting {
                flush(&backend, &writer, &batch);
            }
            assert_eq!(all(&chronicle, 1000), expected, "seed {seed}");
        }
    }

    #[test]
    fn what_is_missing_is_damage_and_who_does_not_go_on_is_let_go() {
        let dir = tempfile::tempdir().unwrap();
        let backend = Arc::new(Backend::create(&dir.path().join("db"), CACHE_BYTES).unwrap());
        let mut writer = Writer::open(Arc::clone(&backend), 0, |_, _| {}).unwrap();
        for n in 0..10 {
            writer.put(&Bytes::from(format!("key-{n}")), &Bytes::from_static(b"x"), 0);
            writer.end();
        }
        let batch = writer.seal().unwrap();
        flush(&backend, &writer, &batch);
        let chronicle = Chronicle::of(&writer.view(), &mut || Ok(())).unwrap();
        assert_eq!((chronicle.after(Rev::of(4)), chronicle.after(Rev::of(99))), (3, 10));
        backend.write(&mut std::iter::empty(), &[], &[Rev::of(7)]).unwrap();
        let error = chronicle.read(0, 10, 1 << 20, &mut vec![]).unwrap_err();
        assert!(error.to_string().contains("7/0"), "{error}");
        assert_eq!(chronicle.read(0, 5, 1 << 20, &mut vec![]).unwrap(), 5);
        let stopped = Chronicle::of(&writer.view(), &mut || Err(Error::damaged("stop")));
        assert_eq!(stopped.unwrap_err().to_string(), "stop");
    }
}
