//! The state of a member in one file: revisions, and small side tables beside them.
//!
//! The file is redb's: copy-on-write B-trees, and a commit that is whole or not there. Revisions are only ever appended and
//! deleted, never written at random, which is what the engine is fast at. Bytes are laid out in docs/formats/state.md.
//!
//! redb does not check what it reads against a checksum, so every stored value ends in a CRC32C over its key and itself.
//!
//! Invariants:
//! - A value is handed out only after its checksum was checked. A mismatch is damage, never an answer.
//! - What one `write` says is durable as a whole when it returns, and not at all when it fails.
//! - A scan reads in short transactions: however long it takes, the file does not grow because of it. What makes it
//!   consistent is that revisions never change, and that its caller holds their deletion back.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use redb::{Database, ReadableDatabase, TableDefinition};

use crate::base::digest::crc32c;
use crate::base::error::{Error, HINT_MEMBER_DAMAGED, Kind, Result};
use crate::base::revision::Rev;

/// Memory for pages that were read or are to be written, in bytes.
pub const CACHE_BYTES: usize = 64 << 20;
/// Bytes that one transaction of a scan reads before it ends and the next one begins.
pub const SCAN_BYTES: usize = 1 << 20;

/// Main and sub revision, big-endian.
const REVISIONS: TableDefinition<'_, &[u8; 16], &[u8]> = TableDefinition::new("revisions");
/// The number of a space, then the entry's own key.
const SIDE: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("side");

const CRC_BYTES: usize = 4;
const VALUE: u8 = 0;
const TOMBSTONE: u8 = 1;

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

/// The state database.
pub struct Backend {
    db: Database,
    path: PathBuf,
}

impl Backend {
    /// Makes an empty database where no file is.
    pub fn create(path: &Path, cache_bytes: usize) -> Result<Self> {
        let file = std::fs::OpenOptions::new().read(true).write(true).create_new(true).open(path);
        // The engine takes an empty file for a new database.
        file.map_err(|error| Error::io(format!("create the state database {}", path.display()), error))?;
        let backend = Self::started(path, || redb::Builder::new().set_cache_size(cache_bytes).create(path))?;
        backend.write(&mut std::iter::empty(), &[], &[])?;
        Ok(backend)
    }

    /// Opens a database that exists.
    pub fn open(path: &Path, cache_bytes: usize) -> Result<Self> {
        Self::started(path, || redb::Builder::new().set_cache_size(cache_bytes).open(path))
    }

    fn started(path: &Path, start: impl FnOnce() -> Result<Database, redb::DatabaseError>) -> Result<Self> {
        let db = guarded(path, || start().map_err(redb::Error::from))?;
        Ok(Backend { db, path: path.to_owned() })
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

    /// Makes changes durable: revisions that are new, side entries in order, and the end of revisions that are `gone`.
    pub fn write<'a>(
        &self,
        revisions: &mut dyn Iterator<Item = Stored<'a>>,
        side: &[SideChange],
        gone: &[Rev],
    ) -> Result<()> {
        guarded(&self.path, || {
            let mut transaction = self.db.begin_write()?;
            // What a crash leaves is opened without reading the whole file.
            transaction.set_quick_repair(true);
            {
                let mut table = transaction.open_table(REVISIONS)?;
                let mut value = vec![];
                for stored in revisions {
                    let key = key_of(stored.rev);
                    value.clear();
                    value.push(if stored.tombstone { TOMBSTONE } else { VALUE });
                    value.extend_from_slice(stored.message);
                    seal(&key, &mut value);
                    table.insert(&key, value.as_slice())?;
                }
                for rev in gone {
                    table.remove(&key_of(*rev))?;
                }
                let mut table = transaction.open_table(SIDE)?;
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
            Ok(())
        })
    }

    /// What is stored at a revision: whether it is a tombstone, and the message.
    pub fn get(&self, rev: Rev) -> Result<Option<(bool, Vec<u8>)>> {
        let key = key_of(rev);
        let found = guarded(&self.path, || {
            let table = self.db.begin_read()?.open_table(REVISIONS)?;
            Ok(table.get(&key)?.map(|value| unsealed(&key, value.value()).map(<[u8]>::to_vec)))
        })?;
        let Some(value) = found else { return Ok(None) };
        let value = value.ok_or_else(|| self.damaged(rev))?;
        let (tombstone, message) = self.form(rev, &value)?;
        Ok(Some((tombstone, message.to_vec())))
    }

    /// Calls `sink` with the revisions in [from, until), in order.
    pub fn scan(&self, from: Rev, until: Rev, sink: &mut dyn FnMut(Stored<'_>) -> Result<()>) -> Result<()> {
        let mut next = Some(from);
        while let Some(from) = next.take() {
            // An error of the sink is not one of redb's: it leaves through the side door.
            let mut outcome = Ok(());
            next = guarded(&self.path, || {
                let table = self.db.begin_read()?.open_table(REVISIONS)?;
                let mut bytes = 0;
                for entry in table.range::<&[u8; 16]>(&key_of(from)..&key_of(until))? {
                    let (key, value) = entry?;
                    let (key, value) = (key.value(), value.value());
                    if bytes >= SCAN_BYTES {
                        return Ok(Some(rev_of(key)));
                    }
                    bytes += value.len();
                    outcome = self.stored(key, value).and_then(&mut *sink);
                    if outcome.is_err() {
                        break;
                    }
                }
                Ok(None)
            })?;
            outcome?;
        }
        Ok(())
    }

    /// The last revision that is stored.
    pub fn last(&self) -> Result<Option<Rev>> {
        guarded(&self.path, || {
            let table = self.db.begin_read()?.open_table(REVISIONS)?;
            let last = redb::ReadableTable::last(&table)?;
            Ok(last.map(|(key, _)| rev_of(key.value())))
        })
    }

    /// The entries of a side table, in order of their keys.
    pub fn side(&self, space: Space) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
        let entries = guarded(&self.path, || {
            let table = self.db.begin_read()?.open_table(SIDE)?;
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

    fn stored<'a>(&self, key: &[u8; 16], value: &'a [u8]) -> Result<Stored<'a>> {
        let rev = rev_of(key);
        let value = unsealed(key, value).ok_or_else(|| self.damaged(rev))?;
        let (tombstone, message) = self.form(rev, value)?;
        Ok(Stored { rev, tombstone, message })
    }

    fn form<'a>(&self, rev: Rev, value: &'a [u8]) -> Result<(bool, &'a [u8])> {
        match value.split_first() {
            Some((&VALUE, message)) => Ok((false, message)),
            Some((&TOMBSTONE, message)) => Ok((true, message)),
            _ => Err(self.damaged(rev)),
        }
    }

    fn damaged(&self, rev: Rev) -> Error {
        damaged(&self.path, &format!("revision {rev} does not match its checksum"))
    }
}

impl fmt::Debug for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Backend").field("path", &self.path).finish_non_exhaustive()
    }
}

fn key_of(rev: Rev) -> [u8; 16] {
    let mut key = [0; 16];
    key[..8].copy_from_slice(&rev.main.to_be_bytes());
    key[8..].copy_from_slice(&rev.sub.to_be_bytes());
    key
}

fn rev_of(key: &[u8; 16]) -> Rev {
    let (main, sub) = key.split_first_chunk::<8>().expect("16 bytes");
    let sub = sub.first_chunk::<8>().expect("8 more");
    Rev { main: i64::from_be_bytes(*main), sub: i64::from_be_bytes(*sub) }
}

fn side_key(space: Space, key: &[u8]) -> Vec<u8> {
    [&[space as u8], key].concat()
}

fn seal(key: &[u8], value: &mut Vec<u8>) {
    let crc = crc32c(&[key, value]);
    value.extend_from_slice(&crc.to_le_bytes());
}

/// The value without its checksum, when that is right.
fn unsealed<'a>(key: &[u8], value: &'a [u8]) -> Option<&'a [u8]> {
    let (value, crc) = value.split_last_chunk::<CRC_BYTES>()?;
    (crc32c(&[key, value]) == u32::from_le_bytes(*crc)).then_some(value)
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
