//! The state of a member in one file: revisions, an index of them, and small side tables beside them.
//!
//! The file is redb's: copy-on-write B-trees, and a commit that is whole or not there. Revisions are only ever appended and
//! deleted, never written at random, which is what the engine is fast at. Bytes are laid out in docs/formats/state.md.
//!
//! Each revision has two rows under one key: what is stored, and in the **index** what a member must know of it before it
//! serves. They are written and deleted together, and a start reads the small ones alone.
//!
//! redb does not check what it reads against a checksum, so every stored value ends in a CRC32C over its key and itself.
//!
//! Invariants:
//! - A value is handed out only after its checksum was checked. A mismatch is damage, never an answer.
//! - Both tables have the same revisions. Where they do not, that is damage.
//! - What one `write` says is durable as a whole when it returns, and not at all when it fails.
//! - A member that serves waits for room on its disk (`room`): a full one stops what is written, and nothing else.
//! - A scan reads in short transactions: however long it takes, the file does not grow because of it. What makes it
//!   consistent is that revisions never change, and that its caller holds their deletion back.

mod defragment;
mod room;
mod rows;

use std::fmt;
use std::fs::{File, OpenOptions};
use std::ops::Deref;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use redb::backends::FileBackend;
use redb::{Database, ReadableDatabase, ReadableTable, ReadableTableMetadata, StorageBackend, TableDefinition};

use crate::base::error::{Error, HINT_MEMBER_DAMAGED, Kind, Result};
use crate::base::revision::Rev;
use crate::base::steps::Steps;
pub use crate::store::backend::defragment::Unfinished;
use crate::store::backend::room::{Patient, Room};
use crate::store::backend::rows::{RowKey, key_of, rev_of, seal, side_key, unsealed};

/// Memory for pages that were read or are to be written, in bytes.
pub const CACHE_BYTES: usize = 64 << 20;
/// Bytes that one transaction of a scan reads before it ends and the next one begins.
pub const SCAN_BYTES: usize = 1 << 20;

/// What is stored at a revision.
const REVISIONS: TableDefinition<'_, &RowKey, &[u8]> = TableDefinition::new("revisions");
/// What the index of keys is made of, by the same keys.
const INDEX: TableDefinition<'_, &RowKey, &[u8]> = TableDefinition::new("index");
/// The number of a space, then the entry's own key.
const SIDE: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("side");

/// Where the side table has the bytes of stored revisions: before every space.
const USED_KEY: [u8; 1] = [0];

/// A key's value, or its end, at a revision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stored<'a> {
    /// Where in history.
    pub rev: Rev,
    /// Whether the key ends here.
    pub tombstone: bool,
    /// `mvccpb.KeyValue`, byte for byte as etcd stores it.
    pub message: &'a [u8],
}

/// What the index of keys must know of a revision, beside its place and the length of its message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Brief<'a> {
    /// The key.
    pub key: &'a [u8],
    /// The revision the key came to life at; 0 when it ends here.
    pub created: i64,
    /// The number of the version since then, from 1; 0 when the key ends here.
    pub number: i64,
    /// The lease that owns the key; 0 for none.
    pub lease: i64,
}

/// A revision to be stored. Whoever writes it knows what its message says; here that is not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Revision<'a> {
    /// What is stored.
    pub stored: Stored<'a>,
    /// What the index is told of it.
    pub brief: Brief<'a>,
}

impl<'a> Revision<'a> {
    /// Bytes that a revision takes of the file, by the lengths of its key and its message.
    pub fn bytes(key_bytes: usize, message_bytes: usize) -> u64 {
        rows::revision_bytes(key_bytes, message_bytes)
    }

    /// Its row of the index.
    fn listed(&self) -> Listed<'a> {
        let Stored { rev, tombstone, message } = self.stored;
        let message_bytes = u32::try_from(message.len()).expect("a message is shorter than 4 GiB");
        Listed { rev, tombstone, message_bytes, brief: self.brief }
    }
}

/// A row of the index: a revision without its message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listed<'a> {
    /// Where in history.
    pub rev: Rev,
    /// Whether the key ends here.
    pub tombstone: bool,
    /// Length of the message.
    pub message_bytes: u32,
    /// The rest.
    pub brief: Brief<'a>,
}

/// Who notices that a revision is missing which a scan should find.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Witness {
    /// The scan, which holds what it finds against the index.
    Index,
    /// The caller, who knows what must be there. It saves reading the index.
    Caller,
}

/// The side tables. The numbers are part of the format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Space {
    /// What the member knows of itself and of its position.
    Meta = 1,
    /// Leases by id.
    Lease = 2,
    /// The switch of authentication and the revision of its rules.
    Auth = 3,
    /// Users by name.
    User = 4,
    /// Roles by name.
    Role = 5,
    /// Members by id.
    Member = 6,
    /// Members that may not return.
    MemberGone = 7,
    /// Alarms.
    Alarm = 8,
    /// What the whole cluster agreed on.
    Cluster = 9,
    /// Entries of an etcd file that are kept without being understood.
    Extra = 10,
}

impl Space {
    /// All of them.
    pub const ALL: [Space; 10] = [
        Space::Meta,
        Space::Lease,
        Space::Auth,
        Space::User,
        Space::Role,
        Space::Member,
        Space::MemberGone,
        Space::Alarm,
        Space::Cluster,
        Space::Extra,
    ];
}

/// A change of a side table; without a value, the entry's end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SideChange {
    /// Which table.
    pub space: Space,
    /// The entry.
    pub key: Vec<u8>,
    /// What it holds from now on.
    pub value: Option<Vec<u8>>,
}

impl SideChange {
    /// Bytes that the entry takes of the file.
    pub fn bytes(&self) -> u64 {
        self.value.as_ref().map_or(0, |value| rows::side_bytes(&self.key, value))
    }
}

/// The state database.
pub struct Backend {
    /// The file as it is now: a defragmentation puts another in its place, and whoever reads the old one ends with it.
    db: RwLock<Arc<Engine>>,
    path: PathBuf,
    cache_bytes: usize,
    /// Bytes of both rows of each revision, their keys included.
    used: AtomicU64,
    /// Bytes of the file after the last write.
    size: AtomicU64,
    room: Arc<Room>,
    steps: Steps,
}

/// The open file. Closing one that is damaged may end in a panic of the engine as well as using it.
struct Engine(Option<Database>);

impl Engine {
    /// On a file, which is a database, or empty to become one.
    fn on(path: &Path, cache_bytes: usize, file: File, room: &Arc<Room>) -> Result<Self> {
        let file = guarded(path, || Ok(FileBackend::new(file)?))?;
        Engine::over(path, cache_bytes, file, room)
    }

    /// The same, on whatever the engine takes for a file.
    fn over(path: &Path, cache_bytes: usize, file: impl StorageBackend, room: &Arc<Room>) -> Result<Self> {
        let file = Patient::new(file, room);
        let db = guarded(path, || Ok(redb::Builder::new().set_cache_size(cache_bytes).create_with_backend(file)?))?;
        Ok(Engine(Some(db)))
    }
}

impl Deref for Engine {
    type Target = Database;

    fn deref(&self) -> &Database {
        self.0.as_ref().expect("it is there until it is dropped")
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        let db = self.0.take();
        // What was committed is durable already.
        let _ = catch_unwind(AssertUnwindSafe(|| drop(db)));
    }
}

impl Backend {
    /// Makes an empty database where no file is.
    pub fn create(path: &Path, cache_bytes: usize) -> Result<Self> {
        let room = Arc::default();
        let backend = Self::on(path, cache_bytes, made(path, cache_bytes, &room)?, room);
        backend.write(&mut std::iter::empty(), &[], &[])?;
        Ok(backend)
    }

    /// Opens a database that exists.
    pub fn open(path: &Path, cache_bytes: usize) -> Result<Self> {
        // What a defragmentation left that did not come to its end.
        forget(&beside(path))?;
        let file = OpenOptions::new().read(true).write(true).open(path);
        let file = file.map_err(|error| Error::io(format!("use the state database {}", path.display()), error))?;
        // The engine would take it for a new one.
        if file.metadata().is_ok_and(|file| file.len() == 0) {
            return Err(damaged(path, "it is empty"));
        }
        let room = Arc::default();
        let engine = Engine::on(path, cache_bytes, file, &room)?;
        let backend = Self::on(path, cache_bytes, engine, room);
        backend.used.store(backend.noted_use()?, Ordering::Relaxed);
        backend.size.store(backend.file_bytes()?, Ordering::Relaxed);
        Ok(backend)
    }

    fn on(path: &Path, cache_bytes: usize, engine: Engine, room: Arc<Room>) -> Self {
        let (used, size) = (AtomicU64::default(), AtomicU64::default());
        Backend {
            db: RwLock::new(Arc::new(engine)),
            path: path.to_owned(),
            cache_bytes,
            used,
            size,
            room,
            steps: Steps::unheard(),
        }
    }

    /// Announces its durable steps from now on.
    pub fn announce(&mut self, steps: &Steps) {
        self.steps = steps.clone();
    }

    /// From now on what is written waits for room on the disk where there is none; or no longer.
    pub fn await_room(&self, wait: bool) {
        self.room.is_awaited.store(wait, Ordering::Relaxed);
    }

    /// Waits until there is room for so many bytes, if that is to be waited for.
    pub fn await_room_for(&self, bytes: u64) {
        self.room.wait_for(self.path.parent().unwrap_or(&self.path), bytes);
    }

    /// Whether room is waited for.
    pub fn awaits_room(&self) -> bool {
        self.room.is_awaited.load(Ordering::Relaxed)
    }

    /// Whether something waits for room.
    pub fn lacks_room(&self) -> bool {
        self.room.is_lacking.load(Ordering::Relaxed)
    }

    fn noted_use(&self) -> Result<u64> {
        let found = guarded(&self.path, || {
            let db = self.db();
            let table = db.begin_read()?.open_table(SIDE)?;
            Ok(table.get(USED_KEY.as_slice())?.map(|value| value.value().to_vec()))
        })?;
        let used = found.as_deref().and_then(|value| unsealed(&USED_KEY, value));
        let used = used.and_then(|value| Some(u64::from_be_bytes(value.try_into().ok()?)));
        used.ok_or_else(|| damaged(&self.path, "it does not say how much it holds"))
    }

    /// Transactions that are open.
    pub fn readers(&self) -> usize {
        Arc::strong_count(&self.db.read().unwrap_or_else(PoisonError::into_inner)) - 1
    }

    /// The open file. Whoever reads holds it until their transaction is over: one that is closed ends them with an error.
    fn db(&self) -> Arc<Engine> {
        Arc::clone(&self.db.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Bytes of the file.
    pub fn file_bytes(&self) -> Result<u64> {
        let metadata = std::fs::metadata(&self.path);
        metadata.map(|file| file.len()).map_err(|error| Error::io(format!("look at {}", self.path.display()), error))
    }

    /// Bytes of the file after the last write, without a look at it.
    pub fn size_bytes(&self) -> u64 {
        self.size.load(Ordering::Relaxed)
    }

    /// Bytes of both rows of each revision, their keys included.
    pub fn used_bytes(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    /// Makes changes durable: revisions that are new, side entries in order, and the end of revisions that are `gone`.
    pub fn write<'a>(
        &self,
        revisions: &mut dyn Iterator<Item = Revision<'a>>,
        side: &[SideChange],
        gone: &[Rev],
    ) -> Result<()> {
        let write = || write_to(&self.db(), &self.path, self.used_bytes(), revisions, side, gone);
        let used = self.steps.during("flush the state", || Room::during(write))?;
        self.used.store(used, Ordering::Relaxed);
        self.size.store(self.file_bytes()?, Ordering::Relaxed);
        Ok(())
    }

    /// What is stored at a revision: whether it is a tombstone, and the message.
    pub fn get(&self, rev: Rev) -> Result<Option<(bool, Vec<u8>)>> {
        let key = key_of(rev);
        let found = guarded(&self.path, || {
            let db = self.db();
            let table = db.begin_read()?.open_table(REVISIONS)?;
            let form = |stored: Stored<'_>| (stored.tombstone, stored.message.to_vec());
            Ok(table.get(&key)?.map(|value| rows::stored(&key, value.value()).map(form)))
        })?;
        found.map(|found| found.ok_or_else(|| self.damaged(rev))).transpose()
    }

    /// Calls `sink` with the revisions in [from, until), in order. With the index as `witness`: all that are in it, or it is an
    /// error.
    pub fn scan(
        &self,
        from: Rev,
        until: Rev,
        witness: Witness,
        sink: &mut dyn FnMut(Stored<'_>) -> Result<()>,
    ) -> Result<()> {
        self.walk(from, until, witness, &mut |stored, _| sink(stored))
    }

    /// The same, with what the index has of each where it was asked.
    fn walk(
        &self,
        from: Rev,
        until: Rev,
        witness: Witness,
        sink: &mut dyn FnMut(Stored<'_>, Option<Brief<'_>>) -> Result<()>,
    ) -> Result<()> {
        let mut next = Some(from);
        while let Some(from) = next.take() {
            // An error of the sink is not one of redb's: it leaves through the side door.
            let mut outcome = Ok(());
            next = guarded(&self.path, || {
                let db = self.db();
                let transaction = db.begin_read()?;
                let (from, until) = (key_of(from), key_of(until));
                let index = match witness {
                    Witness::Index => Some(transaction.open_table(INDEX)?),
                    Witness::Caller => None,
                };
                let rows = index.as_ref().map(|index| index.range::<&RowKey>(&from..&until));
                let mut rows = rows.transpose()?;
                let mut bytes = 0;
                for entry in transaction.open_table(REVISIONS)?.range::<&RowKey>(&from..&until)? {
                    let (key, value) = entry?;
                    let (key, value) = (key.value(), value.value());
                    let row = rows.as_mut().map(|rows| rows.next().transpose()).transpose()?;
                    let row = row.as_ref().map(|row| row.as_ref().map(|(key, value)| (key.value(), value.value())));
                    let found = self.stored(key, value).and_then(|stored| {
                        let brief = row.map(|row| self.brief(&stored, row));
                        Ok((stored, brief.transpose()?))
                    });
                    // Looked at, so that nothing is passed over between two transactions.
                    if bytes >= SCAN_BYTES && found.is_ok() {
                        return Ok(Some(rev_of(key)));
                    }
                    bytes += value.len();
                    outcome = found.and_then(|(stored, brief)| sink(stored, brief));
                    if outcome.is_err() {
                        return Ok(None);
                    }
                }
                if rows.is_some_and(|mut rows| rows.next().is_some()) {
                    outcome = Err(self.apart());
                }
                Ok(None)
            })?;
            outcome?;
        }
        Ok(())
    }

    /// Calls `sink` with every row of the index, in order: once for each revision that is stored, or it is an error. In one
    /// transaction: this is for a member that starts, of which nothing is written yet.
    pub fn list(&self, sink: &mut dyn FnMut(Listed<'_>) -> Result<()>) -> Result<()> {
        // An error of the sink is not one of redb's: it leaves through the side door.
        let mut outcome = Ok(());
        guarded(&self.path, || {
            let db = self.db();
            let transaction = db.begin_read()?;
            let (revisions, index) = (transaction.open_table(REVISIONS)?, transaction.open_table(INDEX)?);
            // Both know how many rows they have.
            if index.len()? != revisions.len()? {
                outcome = Err(self.apart());
                return Ok(());
            }
            let (mut last, mut listed) = (None, 0);
            for entry in index.iter()? {
                let (key, value) = entry?;
                let (key, value) = (key.value(), value.value());
                let is_later = last.replace(*key).is_none_or(|last| last < *key);
                let row = if is_later { self.listed(key, value) } else { Err(self.apart()) };
                outcome = row.and_then(&mut *sink);
                if outcome.is_err() {
                    return Ok(());
                }
                listed += 1;
            }
            if listed != index.len()? {
                outcome = Err(self.apart());
            }
            Ok(())
        })?;
        outcome
    }

    /// The last revision that is stored.
    pub fn last(&self) -> Result<Option<Rev>> {
        guarded(&self.path, || {
            let db = self.db();
            let table = db.begin_read()?.open_table(REVISIONS)?;
            let last = table.last()?;
            Ok(last.map(|(key, _)| rev_of(key.value())))
        })
    }

    /// The entries of a side table, in order of their keys.
    pub fn side(&self, space: Space) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
        let entries = guarded(&self.path, || {
            let db = self.db();
            let table = db.begin_read()?.open_table(SIDE)?;
            let (first, end) = ([space as u8], [space as u8 + 1]);
            let mut entries = vec![];
            for entry in table.range::<&[u8]>(first.as_slice()..end.as_slice())? {
                let (key, value) = entry?;
                entries.push((key.value().to_vec(), value.value().to_vec()));
            }
            Ok(entries)
        })?;
        let open = |(key, value): (Vec<u8>, Vec<u8>)| match unsealed(&key, &value) {
            Some(value) => Ok((key[1..].to_vec(), value.to_vec())),
            None => {
                Err(damaged(&self.path, &format!("an entry of the side table {space:?} does not match its checksum")))
            }
        };
        entries.into_iter().map(open).collect()
    }

    /// What a row of the revisions says.
    fn stored<'a>(&self, key: &RowKey, value: &'a [u8]) -> Result<Stored<'a>> {
        rows::stored(key, value).ok_or_else(|| self.damaged(rev_of(key)))
    }

    /// What the row of the index says that stands where that of this revision must stand.
    fn brief<'a>(&self, stored: &Stored<'_>, row: Option<(&RowKey, &'a [u8])>) -> Result<Brief<'a>> {
        let (key, value) = row.ok_or_else(|| self.apart())?;
        let listed = self.listed(key, value)?;
        let is_its = Revision { stored: *stored, brief: listed.brief }.listed() == listed;
        if is_its { Ok(listed.brief) } else { Err(self.apart()) }
    }

    fn listed<'a>(&self, key: &RowKey, value: &'a [u8]) -> Result<Listed<'a>> {
        let wrong = || format!("the index of revision {} does not match its checksum", rev_of(key));
        rows::listed(key, value).ok_or_else(|| damaged(&self.path, &wrong()))
    }

    fn damaged(&self, rev: Rev) -> Error {
        damaged(&self.path, &format!("revision {rev} does not match its checksum"))
    }

    fn apart(&self) -> Error {
        damaged(&self.path, "its index is not that of its revisions")
    }
}

impl fmt::Debug for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Backend").field("path", &self.path).finish_non_exhaustive()
    }
}

/// An empty database in a file that was not there.
fn made(path: &Path, cache_bytes: usize, room: &Arc<Room>) -> Result<Engine> {
    let file = OpenOptions::new().read(true).write(true).create_new(true).open(path);
    let file = file.map_err(|error| Error::io(format!("create the state database {}", path.display()), error))?;
    Engine::on(path, cache_bytes, file, room)
}

/// Where the file is written anew.
fn beside(path: &Path) -> PathBuf {
    path.with_extension("defragment")
}

fn forget(path: &Path) -> Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::io(format!("remove {}", path.display()), error))
        }
        _ => Ok(()),
    }
}

/// One transaction: the bytes that are used after it.
fn write_to<'a>(
    db: &Database,
    path: &Path,
    mut used: u64,
    revisions: &mut dyn Iterator<Item = Revision<'a>>,
    side: &[SideChange],
    gone: &[Rev],
) -> Result<u64> {
    guarded(path, || {
        // Pages that this transaction frees are free for the next one, not at once. Without a reader the engine would free them
        // in a second commit in memory, and from then on every reader that misses its cache looks through what that left.
        let _reader = db.begin_read()?;
        let mut transaction = db.begin_write()?;
        // What a crash leaves is opened without reading the whole file.
        transaction.set_quick_repair(true);
        {
            let mut value = vec![];
            let (mut table, mut index) = (transaction.open_table(REVISIONS)?, transaction.open_table(INDEX)?);
            let mut listed = vec![];
            for revision in revisions {
                let key = key_of(revision.stored.rev);
                rows::seal_stored(&key, &revision.stored, &mut value);
                // Written again after a crash, it is the same.
                used += if table.insert(&key, value.as_slice())?.is_some() { 0 } else { row_bytes(&value) };
                listed.push((key, revision.listed()));
            }
            // One after the other, so that their pages lie together: a start reads no others.
            for (key, row) in &listed {
                rows::seal_listed(key, row, &mut value);
                used += if index.insert(key, value.as_slice())?.is_some() { 0 } else { row_bytes(&value) };
            }
            for key in gone.iter().map(|rev| key_of(*rev)) {
                used -= table.remove(&key)?.map_or(0, |before| row_bytes(before.value()));
                used -= index.remove(&key)?.map_or(0, |before| row_bytes(before.value()));
            }
            let mut table = transaction.open_table(SIDE)?;
            value.clear();
            value.extend_from_slice(&used.to_be_bytes());
            seal(&USED_KEY, &mut value);
            table.insert(USED_KEY.as_slice(), value.as_slice())?;
            for change in side {
                let key = side_key(change.space, &change.key);
                match &change.value {
                    Some(bytes) => {
                        value.clear();
                        value.extend_from_slice(bytes);
                        seal(&key, &mut value);
                        table.insert(key.as_slice(), value.as_slice())?;
                    }
                    None => drop(table.remove(key.as_slice())?),
                }
            }
        }
        transaction.commit()?;
        Ok(used)
    })
}

/// What a row takes of the file, as far as that is said of it.
fn row_bytes(value: &[u8]) -> u64 {
    (size_of::<RowKey>() + value.len()) as u64
}

/// Runs work on the engine. It answers damage in its own pages with a panic in places: that ends the work and not the
/// member, which decides for itself what damage means.
fn guarded<T>(path: &Path, work: impl FnOnce() -> Result<T, redb::Error>) -> Result<T> {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(failed(path, error)),
        Err(_) => Err(damaged(path, "its pages contradict each other")),
    }
}

fn failed(path: &Path, error: redb::Error) -> Error {
    let text = format!("use the state database {}", path.display());
    match error {
        redb::Error::Io(error) if error.kind() == std::io::ErrorKind::InvalidData => {
            damaged(path, "it is not a state database").source(error)
        }
        redb::Error::Io(error) => Error::io(text, error),
        redb::Error::Corrupted(what) => damaged(path, &what),
        redb::Error::TableDoesNotExist(name) => damaged(path, &format!("it has no table {name}")),
        redb::Error::DatabaseAlreadyOpen => Error::new(Kind::Conflict, format!("{text}: another process has it open"))
            .hint("stop the member that runs on this directory"),
        error => Error::new(Kind::Failed, text).source(error),
    }
}

fn damaged(path: &Path, what: &str) -> Error {
    Error::damaged(format!("the state database {} is damaged: {what}", path.display())).hint(HINT_MEMBER_DAMAGED)
}

#[cfg(test)]
mod tests;
