//! Reading data objects: checked, decompressed and in order, a few ahead of the reader.
//!
//! Memory, worst case: `FETCH_AHEAD_MAX` objects stored and `UNPACK_AHEAD_MAX` raw, beside the one the caller holds:
//! 4 x 16 + 2 x (16 + 32) + 32 MiB = 192 MiB with incompressible records, about 120 MiB when they compress six-fold.
//! Of an encrypted object there is either what was stored or what was in it, but for the moment of decryption.
//!
//! Invariants:
//! - No byte is handed out before the digest of its whole object was checked.
//! - Objects come in the order asked for, oldest first to restore, newest first to verify.
//! - Over a network a faulty object is read again before it is called faulty: the wire may have been.
//! - A fault names the object and the check. The objects after it can still be read: a verifier wants them all.

use futures::future::BoxFuture;
use futures::stream::{self, BoxStream, StreamExt};
use std::sync::Arc;
use tokio::runtime::Handle;

use crate::base::error::{Error, Kind, Result};
use crate::base::stop::{Stop, blocking};
use crate::vault::buffers::Buffers;
use crate::vault::encryption::{Identities, Unopened};
use crate::vault::layout::Location;
use crate::vault::manifest::ObjectEntry;
pub use crate::vault::pack::{Check, Fault};
use crate::vault::pack::{check_stored, unpack};
use crate::vault::repository::Repository;
use crate::vault::store::is_unreadable;

/// Objects fetched ahead, as stored.
pub const FETCH_AHEAD_MAX: usize = 4;
/// Objects unpacked ahead.
pub const UNPACK_AHEAD_MAX: usize = 2;

/// The records of one object. Dropping it hands its buffer to the reader for the next one.
#[derive(Debug)]
pub struct RawObject {
    /// Its place among the objects asked for.
    pub index: usize,
    /// Whole length-delimited records.
    pub bytes: Vec<u8>,
    /// What the manifest says of it.
    pub entry: ObjectEntry,
    buffers: Arc<Buffers>,
}

impl RawObject {
    /// One that no reader made.
    pub fn new(index: usize, bytes: Vec<u8>, entry: ObjectEntry) -> Self {
        RawObject { index, bytes, entry, buffers: Buffers::new(0) }
    }
}

impl Drop for RawObject {
    fn drop(&mut self) {
        self.buffers.give(std::mem::take(&mut self.bytes));
    }
}

/// Of a reader, for what was stored and for records.
#[derive(Clone, Debug)]
struct Used {
    stored: Arc<Buffers>,
    raw: Arc<Buffers>,
}

/// Which end to begin with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Oldest records first, as a restore reads.
    Forward,
    /// Newest first, as a verification reads.
    Backward,
}

/// What became of one object.
#[derive(Debug)]
pub enum Read {
    /// It is whole.
    Whole(RawObject),
    /// It is not.
    Faulty(ObjectEntry, Fault),
    /// Its stored bytes are right; it is encrypted, and this host has nothing that opens it.
    Sealed(ObjectEntry),
}

/// Reads data objects.
pub struct Reader {
    runtime: Handle,
    stop: Stop,
    repository: Repository,
    objects: BoxStream<'static, Result<Read>>,
}

impl Reader {
    /// Begins to read the objects of a manifest, all or some. Must be called on the async runtime that will fetch, or within its context.
    pub fn start(repository: &Repository, objects: &[ObjectEntry], direction: Direction, stop: &Stop) -> Self {
        let mut entries: Vec<(usize, ObjectEntry)> = objects.iter().cloned().enumerate().collect();
        if direction == Direction::Backward {
            entries.reverse();
        }
        let (repository, again, kept) = (repository.clone(), repository.clone(), repository.clone());
        let buffers = Used { stored: Buffers::new(UNPACK_AHEAD_MAX), raw: Buffers::new(UNPACK_AHEAD_MAX) };
        let fetching = Arc::clone(&buffers.stored);
        let fetched = stream::iter(entries)
            .map(move |(index, entry)| -> BoxFuture<'static, Result<Fetched>> {
                // Tasks of their own, so that work goes on while the caller is busy.
                let task = tokio::spawn(fetch(repository.clone(), index, entry, fetching.take()));
                Box::pin(async { task.await.map_err(cut_off)? })
            })
            .buffered(FETCH_AHEAD_MAX);
        let objects = fetched
            .map(move |fetched| -> BoxFuture<'static, Result<Read>> {
                let (buffers, again) = (buffers.clone(), again.clone());
                let task = tokio::spawn(async move { unpacked(fetched?, buffers, &again).await });
                Box::pin(async { task.await.map_err(cut_off)? })
            })
            .buffered(UNPACK_AHEAD_MAX)
            .boxed();
        Reader { runtime: Handle::current(), stop: stop.clone(), repository: kept, objects }
    }

    /// The next object, whole or faulty; an error when that cannot be known.
    pub async fn next_read(&mut self) -> Result<Option<Read>> {
        let next = async { self.objects.next().await.transpose() };
        self.stop.or(next).await
    }

    /// The next object; a faulty one, and one that cannot be opened here, is an error that names it.
    pub async fn next(&mut self) -> Result<Option<RawObject>> {
        match self.next_read().await? {
            Some(Read::Whole(object)) => Ok(Some(object)),
            Some(Read::Faulty(entry, fault)) => Err(fault.into_error(&entry.name)),
            Some(Read::Sealed(entry)) => Err(self.repository.unreadable(&entry.name)),
            None => Ok(None),
        }
    }

    /// As `next`, for a thread outside the async runtime.
    pub fn next_blocking(&mut self) -> Result<Option<RawObject>> {
        let runtime = self.runtime.clone();
        runtime.block_on(self.next())
    }
}

impl std::fmt::Debug for Reader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reader").finish_non_exhaustive()
    }
}

fn cut_off(error: tokio::task::JoinError) -> Error {
    match error.try_into_panic() {
        Ok(panic) => std::panic::resume_unwind(panic),
        Err(_) => Error::new(Kind::Interrupted, "reading was cut off").hint("run the command again"),
    }
}

/// An object on its way: stored bytes, or what is wrong with it already.
struct Fetched {
    index: usize,
    entry: ObjectEntry,
    stored: Result<Vec<u8>, Fault>,
}

async fn fetch(repository: Repository, index: usize, entry: ObjectEntry, buffer: Vec<u8>) -> Result<Fetched> {
    let at = Location::Data(Location::parse_data(&entry.name)?);
    // An object larger than its entry is not read at all.
    let stored = match repository.get_into(&at, entry.stored_bytes, buffer).await {
        Ok(stored) => Ok(stored),
        Err(error) => match error.kind() {
            Kind::NotFound => Err(Fault::new(Check::Exists, "it is missing")),
            Kind::Damaged if is_unreadable(&error) => Err(Fault::new(Check::Read, error.chain())),
            Kind::Damaged => Err(Fault::new(Check::Size, error.chain())),
            _ => return Err(error),
        },
    };
    Ok(Fetched { index, entry, stored })
}

async fn unpacked(mut fetched: Fetched, buffers: Used, repository: &Repository) -> Result<Read> {
    let identities = match fetched.entry.is_encrypted() {
        true => repository.identities().await?,
        false => None,
    };
    let mut reads = repository.reads_max();
    loop {
        reads -= 1;
        let (index, entry) = (fetched.index, fetched.entry.clone());
        match unpack_one(fetched, buffers.clone(), identities.clone()).await? {
            // Too short, too long, or other bytes: asked for once more. What is missing is missing.
            Read::Faulty(entry, fault) if fault.check != Check::Exists && reads > 0 => {
                tracing::warn!(object = entry.name, check = ?fault.check, "an object came wrong and is read again");
            }
            read => return Ok(read),
        }
        fetched = fetch(repository.clone(), index, entry, buffers.stored.take()).await?;
    }
}

async fn unpack_one(fetched: Fetched, buffers: Used, identities: Option<Identities>) -> Result<Read> {
    let Fetched { index, entry, stored } = fetched;
    blocking(move || {
        let checked = stored.and_then(|stored| check_stored(&entry, &stored).map(|()| stored));
        let stored = match checked {
            Ok(stored) => stored,
            Err(fault) => return Ok(Read::Faulty(entry, fault)),
        };
        let frame = match (entry.is_encrypted(), identities) {
            (false, _) => stored,
            (true, None) => {
                buffers.stored.give(stored);
                return Ok(Read::Sealed(entry));
            }
            (true, Some(identities)) => {
                let opened = identities.open(&stored, buffers.stored.take());
                buffers.stored.give(stored);
                match opened {
                    Ok(frame) => frame,
                    Err(Unopened::Broken(fault)) => return Ok(Read::Faulty(entry, fault)),
                    Err(Unopened::Stranger) => return Err(for_others(&entry, &identities)),
                }
            }
        };
        let mut bytes = buffers.raw.take();
        let unpacked = unpack(&entry, &frame, &mut bytes);
        buffers.stored.give(frame);
        Ok(match unpacked {
            Ok(()) => Read::Whole(RawObject { index, bytes, entry, buffers: buffers.raw }),
            Err(fault) => Read::Faulty(entry, fault),
        })
    })
    .await
}

/// Whether the data is damaged is not known: the key is not the one.
fn for_others(entry: &ObjectEntry, identities: &Identities) -> Error {
    let text = format!("{} is encrypted, and none of the identities in {} opens it", entry.name, identities.name());
    Error::new(Kind::Denied, text).hint(format!(
        "`holdfast show` names the recipients of the point; an identity file may hold several identities, old ones too; \
         these are for {}",
        identities.recipients().names().join(", ")
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vault::testing;

    #[tokio::test]
    async fn objects_come_in_the_order_asked_for() {
        let (_dir, repository) = testing::repository().await;
        let manifest = testing::point(&repository, 9).await;
        for direction in [Direction::Forward, Direction::Backward] {
            let mut reader = Reader::start(&repository, &manifest.objects, direction, &Stop::new());
            let mut seen = vec![];
            while let Some(object) = reader.next().await.unwrap() {
                assert_eq!(object.entry, manifest.objects[object.index]);
                assert_eq!(object.bytes.len() as u64, object.entry.raw_bytes);
                seen.push(object.index);
            }
            if direction == Direction::Backward {
                seen.reverse();
            }
            assert_eq!(seen, (0..manifest.objects.len()).collect::<Vec<_>>());
        }
        let mut reader = Reader::start(&repository, &manifest.objects, Direction::Forward, &Stop::new());
        let first = blocking(move || reader.next_blocking()).await.unwrap().unwrap();
        assert_eq!(first.index, 0);
    }

    #[tokio::test]
    async fn faults_name_the_object_and_the_check_and_do_not_end_the_reading() {
        let (dir, repository) = testing::repository().await;
        let manifest = testing::point(&repository, 5).await;
        let path = |n: usize| dir.path().join(&manifest.objects[n].name);
        testing::damage(&path(0));
        std::fs::remove_file(path(1)).unwrap();
        let bytes = std::fs::read(path(2)).unwrap();
        testing::overwrite(&path(2), &[&bytes[..], b"more"].concat());
        testing::overwrite(&path(3), &bytes[..bytes.len() / 2]);
        let mut reader = Reader::start(&repository, &manifest.objects, Direction::Forward, &Stop::new());
        for check in [Check::Sha256, Check::Exists, Check::Size, Check::Size] {
            match reader.next_read().await.unwrap().unwrap() {
                Read::Faulty(_, fault) => assert_eq!(fault.check, check),
                other => panic!("{other:?}"),
            }
        }
        assert!(matches!(reader.next_read().await.unwrap(), Some(Read::Whole(_))));
        assert!(reader.next_read().await.unwrap().is_none());
        let mut reader = Reader::start(&repository, &manifest.objects, Direction::Forward, &Stop::new());
        let error = reader.next().await.unwrap_err();
        assert_eq!(error.kind(), Kind::Damaged);
        assert!(error.to_string().contains(&manifest.objects[0].name) && error.to_string().contains("sha256"));
        assert!(error.hint_text().is_some());
    }

    #[tokio::test]
    async fn a_given_signal_ends_reading() {
        let (_dir, repository) = testing::repository().await;
        let manifest = testing::point(&repository, 3).await;
        let stop = Stop::new();
        let mut reader = Reader::start(&repository, &manifest.objects, Direction::Forward, &stop);
        stop.stop();
        assert_eq!(reader.next().await.unwrap_err().kind(), Kind::Interrupted);
    }
}
