//! Writing data objects: blocks of records in, immutable objects out, in one pass and in bounded memory.
//!
//! ```text
//!  caller's thread        packing threads (2)                     uploads (4)
//!  put(block) ──> chunk ──> compress, cut, SHA-256 of the result ──> create-only put
//!                 chunk ──> compress, cut, SHA-256 of the result ──> create-only put
//! ```
//!
//! A **chunk** is a run of blocks that together stay within the raw size of one object. Each chunk is packed by one
//! thread, as its blocks arrive, so a fast producer keeps all threads busy and a slow one still streams. When the
//! compressed size nears its limit first, the thread cuts and goes on with the rest of the chunk in another object. What
//! an object holds depends on the records and the limits alone, not on timing: writing the same records twice gives the
//! same names, and the second time finds them there.
//!
//! Memory, worst case with the default limits and incompressible records: 32 MiB of blocks queued + 2 x 16 MiB being
//! packed + 32 MiB in flight + 2 compressors of about 1.5 MiB = 99 MiB; with records that compress six-fold about half.
//! A single record above 16 MiB (etcd's own request limit is 1.5 MiB) adds itself twice.
//!
//! Invariants:
//! - Objects are cut between records, and hold at most `object_raw_bytes_max` raw and `object_stored_bytes_max` stored;
//!   only a single record that is larger has an object of its own that is larger.
//! - A name that is taken by other bytes than it says is damage, repaired and told: the caller warns of it.
//! - The first error stops everything and is what the caller gets.
//! - Dropping a writer stops it. What was stored until then is listed by no manifest, so it does not exist for readers.

use bytes::Bytes;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use tokio::runtime::Handle;

use crate::base::digest::Sha256;
use crate::base::error::{Error, Kind, Result};
use crate::base::steps::Steps;
use crate::base::stop::{Stop, no_thread};
use crate::snapshot::encode::{BLOCK_BYTES_MAX, Block};
use crate::vault::budget::{Budget, Share};
use crate::vault::buffers::Buffers;
use crate::vault::layout::{Lineage, Location, ObjectName};
use crate::vault::manifest::{OBJECT_RAW_BYTES_MAX, OBJECT_STORED_BYTES_MAX, ObjectEntry, RECORD_BYTES_MAX};
use crate::vault::pack::Packer;
use crate::vault::repository::{Repository, Sealing, Stored};

/// Merge level of what a backup writes.
const LEVEL_AS_WRITTEN: u8 = 0;

/// How much is held and how it is cut. Tests set tiny ones; readers refuse what exceeds the defaults.
#[derive(Clone, Debug)]
pub struct Limits {
    /// zstd's compression level.
    pub zstd_level: i32,
    /// Threads that compress.
    pub packers: usize,
    /// Raw bytes of an object of several records.
    pub object_raw_bytes_max: usize,
    /// Stored bytes of an object of several records.
    pub object_stored_bytes_max: usize,
    /// Raw bytes of one record.
    pub record_bytes_max: usize,
    /// Raw bytes waiting to be packed.
    pub queued_bytes_max: usize,
    /// Objects being uploaded.
    pub uploads_max: usize,
    /// Stored bytes being uploaded.
    pub upload_bytes_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        let bytes = |n: u64| usize::try_from(n).expect("limits fit in memory");
        Limits {
            zstd_level: 1,
            packers: 2,
            object_raw_bytes_max: bytes(OBJECT_RAW_BYTES_MAX),
            object_stored_bytes_max: bytes(OBJECT_STORED_BYTES_MAX),
            record_bytes_max: bytes(RECORD_BYTES_MAX),
            queued_bytes_max: 32 << 20,
            uploads_max: 4,
            upload_bytes_max: 32 << 20,
        }
    }
}

/// What a writer did. The counters show which paths were taken.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PutStats {
    /// Objects that now exist.
    pub objects: u64,
    /// Raw bytes in them.
    pub raw_bytes: u64,
    /// Stored bytes in them.
    pub stored_bytes: u64,
    /// Objects ended because the next block might have exceeded the stored size.
    pub cut_by_stored: u64,
    /// Objects ended because the next block would have exceeded the raw size.
    pub cut_by_raw: u64,
    /// Objects that hold a single record larger than what several may share.
    pub oversized: u64,
    /// Objects that existed before with the same content.
    pub already_there: u64,
    /// Objects that existed before, damaged.
    pub repaired: u64,
    /// The most uploads at one moment.
    pub uploads_peak: u64,
}

/// What was written: the objects in order, and how.
#[derive(Clone, Debug, Default)]
pub struct Written {
    /// For the manifest.
    pub objects: Vec<ObjectEntry>,
    /// For the report and for tests.
    pub stats: PutStats,
    /// Names of the objects that stood there damaged, and are whole now.
    pub repaired: Vec<String>,
}

impl Written {
    /// What the operator should know of the repository.
    pub fn warnings(&self) -> Vec<String> {
        let warning = |name: &String| {
            format!(
                "{name} was damaged and is whole again, and so is every older point that lists it; look after the disk, \
                 and at the rest with `holdfast verify --level 2`"
            )
        };
        self.repaired.iter().map(warning).collect()
    }
}

/// Where the objects go.
#[derive(Clone, Debug)]
pub struct Destination {
    /// The cluster's name.
    pub cluster: String,
    /// The branch of its history.
    pub lineage: Lineage,
    /// The revision that the objects follow; 0 when they hold the whole state. What belongs to no revision is filed under
    /// it.
    pub base_revision: i64,
}

/// Writes data objects. All methods block and belong on a thread of their own, not on the async runtime.
pub struct Writer {
    shared: Arc<Shared>,
    /// Chunks on their way to the packing threads; none once the stream has ended.
    chunks: Option<Sender<Chunk>>,
    packers: Vec<JoinHandle<()>>,
    /// Blocks of the open chunk, on their way to its thread.
    open: Option<Sender<(Block, Share)>>,
    open_raw_bytes: usize,
    next_chunk: usize,
    previous: i64,
}

struct Chunk {
    number: usize,
    blocks: Receiver<(Block, Share)>,
}

/// What all threads of a writer share.
struct Shared {
    repository: Repository,
    sealing: Sealing,
    destination: Destination,
    limits: Limits,
    steps: Steps,
    stop: Stop,
    runtime: Handle,
    queue: Arc<Budget>,
    uploads: Arc<Budget>,
    buffers: Arc<Buffers>,
    outcome: Mutex<Outcome>,
    cut_by_raw: AtomicU64,
}

#[derive(Default)]
struct Outcome {
    /// Stored objects with their place in the stream: chunk, then number within it.
    stored: Vec<((usize, usize), ObjectEntry)>,
    started: usize,
    stats: PutStats,
    repaired: Vec<String>,
    error: Option<Error>,
}

impl Writer {
    /// A writer into `destination` of a repository that was opened to be written to. Must be called on the async runtime that will upload, or within its context.
    pub fn start(
        repository: &Repository,
        destination: Destination,
        limits: Limits,
        steps: Steps,
        stop: &Stop,
    ) -> Result<Self> {
        let shared = Arc::new(Shared {
            repository: repository.clone(),
            sealing: repository.sealing().clone(),
            destination,
            queue: Budget::new(usize::MAX, limits.queued_bytes_max),
            uploads: Budget::new(limits.uploads_max, limits.upload_bytes_max),
            // One object for each thread that packs, and those on their way out.
            buffers: Buffers::new(limits.packers + limits.uploads_max),
            limits,
            steps,
            stop: stop.clone(),
            runtime: Handle::current(),
            outcome: Mutex::default(),
            cut_by_raw: AtomicU64::new(0),
        });
        let previous = shared.destination.base_revision;
        let (chunks, incoming) = mpsc::channel();
        let incoming = Arc::new(Mutex::new(incoming));
        let packers = (0..shared.limits.packers.max(1)).map(|n| {
            let (shared, incoming) = (Arc::clone(&shared), Arc::clone(&incoming));
            let thread = std::thread::Builder::new().name(format!("pack-{n}"));
            thread.spawn(move || shared.pack_all(&incoming)).map_err(|error| no_thread("pack", error))
        });
        let packers = packers.collect::<Result<Vec<_>>>()?;
        let chunks = Some(chunks);
        Ok(Writer { shared, chunks, packers, open: None, open_raw_bytes: 0, next_chunk: 0, previous })
    }

    /// Adds a block; waits while too much is queued.
    pub fn put(&mut self, mut block: Block) -> Result<()> {
        self.shared.stop.check()?;
        let (bytes, limits) = (block.bytes.len(), &self.shared.limits);
        assert!(block.records > 0 && bytes > 0, "a block holds at least one record");
        assert!(block.records == 1 || bytes <= BLOCK_BYTES_MAX, "a block of several records is small");
        if block.records == 1 && bytes > limits.record_bytes_max {
            let text = format!("a record of {bytes} bytes at revision {} is too large", block.last);
            return Err(Error::new(Kind::Failed, text)
                .hint(format!("at most {} bytes per key value can be stored", limits.record_bytes_max)));
        }
        if block.last == 0 {
            (block.first, block.last) = (self.previous, self.previous);
        }
        assert!((self.previous..=block.last).contains(&block.first), "blocks come in order of revision");
        self.previous = block.last;
        if self.open.is_some() && self.open_raw_bytes + bytes > limits.object_raw_bytes_max {
            self.open = None;
            self.shared.cut_by_raw.fetch_add(1, Ordering::Relaxed);
        }
        let Some(share) = self.shared.queue.take(bytes, &self.shared.stop)? else { return Err(self.failure()) };
        self.open_raw_bytes = if self.open.is_some() { self.open_raw_bytes + bytes } else { bytes };
        let sent = self.open_chunk().is_some_and(|chunk| chunk.send((block, share)).is_ok());
        if sent { Ok(()) } else { Err(self.failure()) }
    }

    /// Waits until everything is stored.
    pub fn finish(mut self) -> Result<Written> {
        self.end_stream();
        let idle = self.shared.uploads.wait_idle(&self.shared.stop);
        let mut outcome = self.shared.lock();
        if let Some(error) = outcome.error.take() {
            return Err(error);
        }
        idle?;
        if outcome.stored.len() < outcome.started {
            // Only a runtime that shuts down drops an upload without a word.
            return Err(Error::new(Kind::Interrupted, "uploads were cut off").hint("run the command again"));
        }
        outcome.stored.sort_by_key(|(place, _)| *place);
        let objects: Vec<ObjectEntry> = std::mem::take(&mut outcome.stored).into_iter().map(|(_, e)| e).collect();
        let stats = PutStats {
            objects: objects.len() as u64,
            raw_bytes: objects.iter().map(|e| e.raw_bytes).sum(),
            stored_bytes: objects.iter().map(|e| e.stored_bytes).sum(),
            cut_by_raw: self.shared.cut_by_raw.load(Ordering::Relaxed),
            uploads_peak: self.shared.uploads.count_peak() as u64,
            ..outcome.stats.clone()
        };
        let mut repaired = std::mem::take(&mut outcome.repaired);
        repaired.sort_unstable();
        Ok(Written { objects, stats, repaired })
    }

    fn open_chunk(&mut self) -> Option<&Sender<(Block, Share)>> {
        if self.open.is_none() {
            let (sender, blocks) = mpsc::channel();
            self.chunks.as_ref()?.send(Chunk { number: self.next_chunk, blocks }).ok()?;
            self.next_chunk += 1;
            self.open = Some(sender);
        }
        self.open.as_ref()
    }

    fn end_stream(&mut self) {
        (self.open, self.chunks) = (None, None);
        for packer in self.packers.drain(..) {
            if let Err(panic) = packer.join() {
                std::panic::resume_unwind(panic);
            }
        }
    }

    /// Why the packing threads are gone.
    fn failure(&mut self) -> Error {
        self.end_stream();
        let gone = || Error::new(Kind::Failed, "the packing threads ended early");
        self.shared.lock().error.take().unwrap_or_else(gone)
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.shared.close();
        (self.open, self.chunks) = (None, None);
        for packer in self.packers.drain(..) {
            // A panic was reported already, or is being unwound right now.
            let _ = packer.join();
        }
    }
}

impl fmt::Debug for Writer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Writer").field("destination", &self.shared.destination).finish_non_exhaustive()
    }
}

/// An object while it is being packed.
#[derive(Default)]
struct Draft {
    first: i64,
    last: i64,
    records: u64,
    raw_bytes: u64,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Outcome> {
        self.outcome.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps the first error and lets nothing more begin.
    fn fail(&self, error: Error) {
        self.lock().error.get_or_insert(error);
        self.close();
    }

    fn close(&self) {
        self.queue.close();
        self.uploads.close();
    }

    /// A packing thread: one chunk after the other until there are no more.
    fn pack_all(self: &Arc<Self>, incoming: &Mutex<Receiver<Chunk>>) {
        // What is stored keeps to the limit, sealed or not.
        let stored_bytes_max = self.limits.object_stored_bytes_max;
        let overhead = self.sealing.as_ref().map_or(0, |recipients| recipients.overhead_bytes_max(stored_bytes_max));
        let frame_bytes_max = stored_bytes_max.saturating_sub(overhead);
        let mut packer = match Packer::new(self.limits.zstd_level, frame_bytes_max, &self.buffers) {
            Ok(packer) => packer,
            Err(error) => return self.fail(error),
        };
        loop {
            let next = incoming.lock().unwrap_or_else(PoisonError::into_inner).recv();
            let Ok(chunk) = next else { return };
            if let Err(error) = self.pack(&mut packer, &chunk) {
                return self.fail(error);
            }
        }
    }

    fn pack(self: &Arc<Self>, packer: &mut Packer, chunk: &Chunk) -> Result<()> {
        let mut draft = Draft::default();
        let mut place = (chunk.number, 0);
        for (block, share) in &chunk.blocks {
            self.stop.check()?;
            if !packer.is_empty() && !packer.has_room(block.bytes.len()) {
                self.lock().stats.cut_by_stored += 1;
                self.store(packer.finish()?, &std::mem::take(&mut draft), place)?;
                place.1 += 1;
            }
            packer.add(&block.bytes)?;
            draft.first = if draft.records == 0 { block.first } else { draft.first };
            draft.last = block.last;
            draft.records += block.records;
            draft.raw_bytes += block.bytes.len() as u64;
            drop(share);
        }
        if packer.is_empty() { Ok(()) } else { self.store(packer.finish()?, &draft, place) }
    }

    /// Names the object and begins its upload, as soon as there is room for it.
    fn store(self: &Arc<Self>, frame: Vec<u8>, draft: &Draft, place: (usize, usize)) -> Result<()> {
        let stored = match &self.sealing {
            Some(recipients) => {
                let sealed = recipients.seal(&frame, self.buffers.take())?;
                self.buffers.give(frame);
                sealed
            }
            None => frame,
        };
        let stored = self.buffers.lend(stored);
        let name = ObjectName {
            cluster: self.destination.cluster.clone(),
            lineage: self.destination.lineage,
            first: draft.first,
            last: draft.last,
            level: LEVEL_AS_WRITTEN,
            digest: Sha256::of(&stored),
            encrypted: self.sealing.is_some(),
        };
        let (level, sha256, stored_bytes) = (name.level, name.digest, stored.len() as u64);
        let at = Location::Data(name.clone());
        let Draft { first, last, records, raw_bytes } = *draft;
        let entry = ObjectEntry { name: at.to_string(), level, first, last, records, raw_bytes, stored_bytes, sha256 };
        let shared_by_several = (self.limits.object_raw_bytes_max, self.limits.object_stored_bytes_max);
        let oversized = raw_bytes > shared_by_several.0 as u64 || stored_bytes > shared_by_several.1 as u64;
        assert!(!oversized || records == 1, "only a record alone exceeds the limits of an object");
        let Some(share) = self.uploads.take(stored.len(), &self.stop)? else {
            // Someone failed before us, and their error is the one that counts.
            return Err(Error::new(Kind::Interrupted, "the writer was stopped"));
        };
        {
            let mut outcome = self.lock();
            outcome.started += 1;
            outcome.stats.oversized += u64::from(oversized);
        }
        let shared = Arc::clone(self);
        self.runtime.spawn(async move {
            shared.upload(&name, stored, entry, place).await;
            // The room is free again only now that the outcome is known.
            drop(share);
        });
        Ok(())
    }

    async fn upload(&self, name: &ObjectName, stored: Bytes, entry: ObjectEntry, place: (usize, usize)) {
        let put = self.steps.step("store a data object", self.repository.put_data(name, stored));
        match self.stop.or(put).await {
            Ok(how) => {
                let mut outcome = self.lock();
                outcome.stats.already_there += u64::from(how == Stored::AlreadyThere);
                if how == Stored::Repaired {
                    outcome.stats.repaired += 1;
                    outcome.repaired.push(entry.name.clone());
                }
                outcome.stored.push((place, entry));
            }
            Err(error) => self.fail(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::rng::Seeded;
    use crate::base::steps::Edge;
    use crate::base::stop::blocking;
    use crate::vault::testing;

    fn limits() -> Limits {
        Limits {
            object_raw_bytes_max: 10_000,
            object_stored_bytes_max: 5_000,
            record_bytes_max: 50_000,
            queued_bytes_max: 20_000,
            upload_bytes_max: 20_000,
            ..Limits::default()
        }
    }

    fn block(revision: i64, bytes: Vec<u8>, records: u64) -> Block {
        Block { bytes, records, first: revision, last: revision }
    }

    fn noise(seed: u64, bytes: usize) -> Vec<u8> {
        let mut rng = Seeded::new(seed);
        (0..bytes).map(|_| rng.bits().to_le_bytes()[0]).collect()
    }

    async fn write(repository: &Repository, limits: Limits, blocks: Vec<Block>) -> Result<Written> {
        write_heard(repository, limits, blocks, Steps::unheard()).await
    }

    async fn write_heard(repository: &Repository, limits: Limits, blocks: Vec<Block>, steps: Steps) -> Result<Written> {
        let to = Destination { cluster: "prod".into(), lineage: testing::lineage(), base_revision: 0 };
        let mut writer = Writer::start(repository, to, limits, steps, &Stop::new()).unwrap();
        blocking(move || {
            for block in blocks {
                writer.put(block)?;
            }
            writer.finish()
        })
        .await
    }

    async fn read_all(repository: &Repository, objects: &[ObjectEntry]) -> Vec<u8> {
        let mut all = vec![];
        for entry in objects {
            let at = Location::parse(&entry.name).unwrap();
            let stored = repository.get(&at, entry.stored_bytes).await.unwrap();
            let mut raw = vec![];
            crate::vault::pack::unpack(entry, &stored, &mut raw).unwrap();
            all.extend(raw);
        }
        all
    }

    #[tokio::test]
    async fn every_way_of_cutting_is_taken_and_reads_back_in_order() {
        let (_dir, repository) = testing::repository().await;
        let mut blocks = vec![];
        for n in 0..100_u8 {
            blocks.push(block(n.into(), vec![n; 900], 3)); // compresses: cut by raw size
        }
        for n in 100..200_u8 {
            blocks.push(block(n.into(), noise(n.into(), 300), 3)); // does not: cut by stored size
        }
        blocks.push(block(200, noise(200, 30_000), 1)); // one record larger than any object
        blocks.push(block(201, noise(201, 7_000), 1)); // within the raw size, above the stored one
        blocks.push(block(0, vec![1; 50], 2)); // no revision in it
        let expected: Vec<u8> = blocks.iter().flat_map(|b| b.bytes.clone()).collect();
        let written = write(&repository, limits(), blocks.clone()).await.unwrap();
        let stats = &written.stats;
        assert!(stats.cut_by_raw > 5 && stats.cut_by_stored > 3, "{stats:?}");
        assert_eq!((stats.oversized, stats.already_there), (2, 0));
        assert_eq!((stats.objects, stats.raw_bytes), (written.objects.len() as u64, expected.len() as u64));
        assert!((2..=4).contains(&stats.uploads_peak), "{stats:?}");
        assert_eq!(read_all(&repository, &written.objects).await, expected);
        for pair in written.objects.windows(2) {
            assert!(pair[0].last <= pair[1].first);
        }
        assert_eq!(written.objects.last().unwrap().last, 201);
        let limits_hold = |e: &ObjectEntry| e.records == 1 || (e.raw_bytes <= 10_000 && e.stored_bytes <= 5_000);
        assert!(written.objects.iter().all(limits_hold));

        // The same records give the same names, whatever the threads did.
        let one_thread = Limits { packers: 1, uploads_max: 1, ..limits() };
        let again = write(&repository, one_thread, blocks).await.unwrap();
        assert_eq!(again.objects, written.objects);
        assert_eq!((again.stats.already_there, again.stats.uploads_peak), (stats.objects, 1));
    }

    #[tokio::test]
    async fn the_first_error_stops_everything_and_is_returned() {
        let (_dir, repository) = testing::repository().await;
        let blocks: Vec<Block> = (0..500_u32).map(|n| block(n.into(), noise(n.into(), 800), 1)).collect();
        let steps = Steps::heard_by(|step| match step.number {
            5 => Err(Error::new(Kind::Full, "the disk is full")),
            _ => Ok(()),
        });
        let error = write_heard(&repository, limits(), blocks, steps).await.unwrap_err();
        assert_eq!((error.kind(), error.to_string().as_str()), (Kind::Full, "the disk is full"));
    }

    /// The ways in which an object's bytes stop being the object.
    fn damages(whole: &[u8]) -> [Vec<u8>; 4] {
        let mut flipped = whole.to_vec();
        flipped[whole.len() / 2] ^= 1;
        [flipped, whole[..whole.len() - 1].to_vec(), [whole, b"x"].concat(), vec![]]
    }

    #[tokio::test]
    async fn a_damaged_object_is_repaired_by_whoever_holds_its_content() {
        let (dir, repository) = testing::repository().await;
        let blocks: Vec<Block> = (1..=4).map(|n| block(n, noise(1, 4_500), 1)).collect();
        let written = write(&repository, limits(), blocks.clone()).await.unwrap();
        assert_eq!((written.stats.objects, written.stats.repaired, written.warnings()), (4, 0, vec![]));
        let path = dir.path().join(&written.objects[2].name);
        let whole = std::fs::read(&path).unwrap();
        for damaged in damages(&whole) {
            testing::overwrite(&path, &damaged);
            let again = write(&repository, limits(), blocks.clone()).await.unwrap();
            assert_eq!(again.objects, written.objects);
            assert_eq!((again.stats.already_there, again.stats.repaired), (3, 1));
            assert_eq!(again.repaired, [written.objects[2].name.clone()]);
            assert!(matches!(&again.warnings()[..], [one] if one.contains(&written.objects[2].name)));
            assert_eq!(std::fs::read(&path).unwrap(), whole);
        }
        let again = write(&repository, limits(), blocks).await.unwrap();
        assert_eq!((again.stats.already_there, again.stats.repaired), (4, 0));
    }

    #[tokio::test]
    async fn killed_around_a_repair_nothing_is_worse_and_two_repairs_at_once_agree() {
        let (dir, repository) = testing::repository().await;
        let blocks = vec![block(1, noise(1, 500), 1)];
        let written = write(&repository, limits(), blocks.clone()).await.unwrap();
        let path = dir.path().join(&written.objects[0].name);
        let whole = std::fs::read(&path).unwrap();
        for damaged in damages(&whole) {
            testing::overwrite(&path, &damaged);
            for (edge, expected) in [(Edge::Before, &damaged), (Edge::After, &whole)] {
                let steps = Steps::heard_by(move |step| match step.edge == edge {
                    true => Err(Error::new(Kind::Interrupted, "killed")),
                    false => Ok(()),
                });
                let error = write_heard(&repository, limits(), blocks.clone(), steps).await.unwrap_err();
                assert_eq!(error.kind(), Kind::Interrupted);
                assert_eq!(std::fs::read(&path).unwrap(), *expected);
            }
            testing::overwrite(&path, &damaged);
            let write = || write(&repository, limits(), blocks.clone());
            let (one, two) = tokio::join!(write(), write());
            assert!((1..=2).contains(&(one.unwrap().stats.repaired + two.unwrap().stats.repaired)));
            assert_eq!(std::fs::read(&path).unwrap(), whole);
            // Nothing else was left: no staging file, no copy.
            assert_eq!(std::fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
        }
    }

    #[tokio::test]
    async fn dropping_or_stopping_a_writer_ends_its_threads() {
        let (_dir, repository) = testing::repository().await;
        let to = Destination { cluster: "prod".into(), lineage: testing::lineage(), base_revision: 0 };
        let stop = Stop::new();
        let start = |stop: &Stop| Writer::start(&repository, to.clone(), limits(), Steps::unheard(), stop).unwrap();
        let mut dropped = start(&stop);
        let mut stopped = start(&stop);
        let signal = stop.clone();
        blocking(move || {
            dropped.put(block(1, noise(1, 500), 1)).unwrap();
            drop(dropped);
            signal.stop();
            assert_eq!(stopped.put(block(1, noise(1, 500), 1)).unwrap_err().kind(), Kind::Interrupted);
        })
        .await;
    }

    #[tokio::test]
    async fn nothing_written_is_nothing_stored_and_too_large_is_refused() {
        let (_dir, repository) = testing::repository().await;
        assert_eq!(write(&repository, limits(), vec![]).await.unwrap().objects, []);
        let error = write(&repository, limits(), vec![block(7, vec![0; 50_001], 1)]).await.unwrap_err();
        assert!(error.to_string().contains("revision 7") && error.hint_text().is_some());
    }
}
