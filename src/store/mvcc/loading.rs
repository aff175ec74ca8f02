//! The index of what is stored: made anew whenever a member starts, from every revision that there is.
//!
//! Most of that is reading, checking and decoding, which can be done side by side. So history is cut into slices, which are
//! dealt out to threads in turn; what they find is put into the index in the order of history, by one.

use std::num::NonZero;
use std::sync::mpsc::{self, SyncSender};
use std::thread;

use crate::api::Message;
use crate::api::mvccpb::KeyValue;
use crate::base::error::{Error, HINT_MEMBER_DAMAGED, Kind, Result};
use crate::base::revision::Rev;
use crate::store::backend::{Backend, Stored};
use crate::store::mvcc::history::Version;
use crate::store::mvcc::index::{Index, Key};

/// Main revisions of a slice.
const SLICE_REVISIONS: i64 = 2048;
/// Threads that read, at most: more than that the one who builds the index cannot follow.
const THREADS_MAX: usize = 4;
/// Revisions that are handed over at once, at most.
const PART_REVISIONS: usize = 4096;
/// Times that a thread may be ahead.
const AHEAD: usize = 2;

/// A revision as the index wants it.
#[derive(Debug)]
pub struct Found {
    /// The key.
    pub key: Key,
    /// The version that the revision made of it.
    pub version: Version,
    /// The lease that it is under; 0 for none.
    pub lease: i64,
    created: i64,
    number: i64,
}

/// Some of a slice: a single transaction may have made millions of revisions.
struct Part {
    found: Vec<Found>,
    /// Whether the slice ends with it.
    is_last: bool,
}

/// The index of everything that is stored, and the last revision of it. `sees` is shown each, in order.
pub(super) fn load(backend: &Backend, mut sees: impl FnMut(&Found)) -> Result<(Index, Option<Rev>)> {
    let (mut index, mut last) = (Index::default(), None);
    let slices = slices(backend)?;
    let threads = thread::available_parallelism().map_or(1, NonZero::get).min(THREADS_MAX);
    thread::scope(|scope| {
        let deal = |nth: usize| {
            let (sender, found) = mpsc::sync_channel(AHEAD);
            let slices = slices.iter().skip(nth).step_by(threads);
            scope.spawn(move || read(backend, slices, &sender));
            found
        };
        let found: Vec<_> = (0..threads.min(slices.len())).map(deal).collect();
        for nth in 0..slices.len() {
            let mut is_whole = false;
            while !is_whole {
                let part = found[nth % threads].recv().expect("a thread sends every slice that it was dealt")?;
                is_whole = part.is_last;
                for found in part.found {
                    sees(&found);
                    last = Some(found.version.rev());
                    index.load(found.key, found.version, found.created, found.number);
                }
            }
        }
        Ok((index, last))
    })
}

/// Where the slices of history begin and end. Each begins with a revision that there is: history may have holes that are
/// longer than the rest of it.
fn slices(backend: &Backend) -> Result<Vec<(Rev, Rev)>> {
    let (mut slices, mut next) = (vec![], backend.first(Rev::default())?);
    while let Some(begin) = next {
        let end = begin.main.checked_add(SLICE_REVISIONS).filter(|_| begin.main >= 0);
        let end = Rev::of(end.ok_or_else(|| damaged(begin, "cannot be"))?);
        slices.push((begin, end));
        next = backend.first(end)?;
    }
    Ok(slices)
}

/// Reads slice after slice, until one cannot be read or nobody wants more.
fn read<'a>(backend: &Backend, slices: impl Iterator<Item = &'a (Rev, Rev)>, sender: &SyncSender<Result<Part>>) {
    for (from, until) in slices {
        let mut found = vec![];
        let outcome = backend.scan(*from, *until, &mut |stored| {
            if found.len() == PART_REVISIONS {
                let found = std::mem::take(&mut found);
                sender.send(Ok(Part { found, is_last: false })).map_err(|_| unwanted())?;
            }
            found.push(find(stored)?);
            Ok(())
        });
        let failed = outcome.is_err();
        if sender.send(outcome.map(|()| Part { found, is_last: true })).is_err() || failed {
            return;
        }
    }
}

/// The one who builds the index has met an error: that is what is told, not this.
fn unwanted() -> Error {
    Error::new(Kind::Interrupted, "the index is not built any more")
}

fn find(stored: Stored<'_>) -> Result<Found> {
    let kv = KeyValue::decode(stored.message).map_err(|error| damaged(stored.rev, "is no key value").source(error))?;
    if u32::try_from(stored.rev.sub).is_err() || i32::try_from(stored.message.len()).is_err() {
        return Err(damaged(stored.rev, "cannot be"));
    }
    let version = Version::new(stored.rev, stored.tombstone, stored.message.len());
    let key = Key::from(&*kv.key);
    Ok(Found { key, version, lease: kv.lease, created: kv.create_revision, number: kv.version })
}

fn damaged(rev: Rev, why: &str) -> Error {
    Error::damaged(format!("revision {rev} of the state {why}")).hint(HINT_MEMBER_DAMAGED)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::backend::CACHE_BYTES;
    use crate::store::mvcc::index::Keys;

    /// Many slices, holes of many slices between them, keys that come again in each: everything is seen once and in order.
    #[test]
    fn the_index_is_that_of_history_in_its_order() {
        let dir = tempfile::tempdir().unwrap();
        let backend = Backend::create(&dir.path().join("db"), CACHE_BYTES).unwrap();
        assert!(load(&backend, |_| panic!("nothing is stored")).unwrap().1.is_none());
        let mains: Vec<i64> = (2..40).chain(5_000..9_000).chain(900_000_000_000..900_000_000_003).collect();
        let messages: Vec<Vec<u8>> = mains
            .iter()
            .map(|main| {
                let key = format!("key-{}", main % 7).into();
                let (create_revision, version) = (2 + main % 7, 1);
                KeyValue { key, create_revision, version, lease: *main, ..KeyValue::default() }.encode_to_vec()
            })
            .collect();
        let mut rows = mains.iter().zip(&messages).map(|(main, message)| Stored {
            rev: Rev::of(*main),
            tombstone: false,
            message,
        });
        backend.write(&mut rows, &[], &[]).unwrap();
        assert_eq!(slices(&backend).unwrap().len(), 4);
        let mut seen = vec![];
        let (index, last) = load(&backend, |found| seen.push((found.version.rev().main, found.lease))).unwrap();
        assert!(seen.iter().copied().eq(mains.iter().map(|main| (*main, *main))));
        assert_eq!((index.len(), last), (7, Some(Rev::of(900_000_000_002))));
        let versions: usize = index.range(Keys::of(&[], &[0])).map(|(_, history)| history.versions().len()).sum();
        assert_eq!(versions, mains.len());
    }

    #[test]
    fn a_transaction_of_many_revisions_comes_in_parts() {
        let dir = tempfile::tempdir().unwrap();
        let backend = Backend::create(&dir.path().join("db"), CACHE_BYTES).unwrap();
        let message = KeyValue { key: "key".into(), ..KeyValue::default() }.encode_to_vec();
        let many = i64::try_from(2 * PART_REVISIONS).unwrap();
        let mut rows = (0..many).map(|sub| Stored { rev: Rev { main: 5, sub }, tombstone: false, message: &message });
        backend.write(&mut rows, &[], &[]).unwrap();
        let mut subs = 0..many;
        let (_, last) = load(&backend, |found| assert_eq!(Some(found.version.rev().sub), subs.next())).unwrap();
        assert_eq!((last, subs.next()), (Some(Rev { main: 5, sub: many - 1 }), None));
    }

    #[test]
    fn revisions_that_cannot_be_are_refused() {
        for main in [-1, i64::MIN, i64::MAX] {
            let dir = tempfile::tempdir().unwrap();
            let backend = Backend::create(&dir.path().join("db"), CACHE_BYTES).unwrap();
            let message = KeyValue::default().encode_to_vec();
            let row = Stored { rev: Rev::of(main), tombstone: false, message: &message };
            backend.write(&mut std::iter::once(row), &[], &[]).unwrap();
            assert!(load(&backend, |_| {}).unwrap_err().to_string().contains("cannot be"), "{main}");
        }
    }
}
