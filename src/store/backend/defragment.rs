//! The file written anew, without the room that deletions left in it.
//!
//! Neither the copy nor the end of the old file may keep others from the disk. The copy goes in small steps, each durable by
//! itself, and whoever asked for it decides how long the disk is left to others between two of them. The old file loses its
//! name at once and its room little by little: a file system that frees a gigabyte in one transaction of its journal lets
//! everybody who syncs meanwhile wait for that (on ext4 a quarter of a second).
//!
//! Until the copy has the old file's name nothing is changed, and it can be given up at any step. When giving it that name
//! fails, nobody knows which of the two the next start will find: then neither may have anything more written into it, and
//! none loses its room.

use std::fs::{File, OpenOptions};
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::thread;
use std::time::Duration;

use crate::base::clock::Stopwatch;
use crate::base::durable::give_name;
use crate::base::error::{Error, IoContext as _, Result};
use crate::base::revision::Rev;
use crate::store::backend::{
    Backend, Brief, Engine, Revision, SideChange, Space, Stored, Witness, beside, forget, made, write_to,
};

/// Bytes that one step of a copy writes.
const COPY_BYTES: usize = 2 << 20;
/// Bytes of the old file that are freed at once, and the time between two of these.
const FREE_BYTES: u64 = 8 << 20;
const FREE_PAUSE: Duration = Duration::from_millis(10);
/// How often it is looked whether somebody still reads the old file.
const READ_PAUSE: Duration = Duration::from_millis(100);

/// Why a file was not written anew.
#[derive(Debug)]
pub enum Unfinished {
    /// The file is what it was.
    AsBefore(Error),
    /// Which file the next start will find is not known. Nothing may be written any more.
    Unsure(Error),
}

impl Unfinished {
    /// What went wrong.
    pub fn into_error(self) -> Error {
        let (Unfinished::AsBefore(error) | Unfinished::Unsure(error)) = self;
        error
    }
}

/// What is told how long each step of a copy took: it lets time pass before the next one, or ends the copy.
type Rest<'a> = &'a mut dyn FnMut(Duration) -> Result<()>;

/// A revision on its way from one file to the other.
struct Held {
    rev: Rev,
    tombstone: bool,
    message: Vec<u8>,
    key: Vec<u8>,
    created: i64,
    number: i64,
    lease: i64,
}

impl Held {
    fn of(stored: &Stored<'_>, brief: &Brief<'_>) -> Held {
        let (Stored { rev, tombstone, message }, Brief { key, created, number, lease }) = (*stored, *brief);
        Held { rev, tombstone, message: message.to_vec(), key: key.to_vec(), created, number, lease }
    }

    fn revision(&self) -> Revision<'_> {
        let Held { rev, tombstone, created, number, lease, .. } = *self;
        Revision {
            stored: Stored { rev, tombstone, message: &self.message },
            brief: Brief { key: &self.key, created, number, lease },
        }
    }
}

impl Backend {
    /// Writes the file anew, without the room that deletions left in it. Nothing else may be written meanwhile; reading
    /// goes on, in the old file until its transaction ends.
    pub fn defragment(&self, rest: Rest<'_>) -> Result<(), Unfinished> {
        let path = beside(&self.path);
        let (engine, used, file) = self.copied(&path, rest).map_err(Unfinished::AsBefore)?;
        let named = self.steps.during("put the copy in place", || give_name(&path, &self.path));
        named.map_err(Unfinished::Unsure)?;
        let old = std::mem::replace(&mut *self.db.write().unwrap_or_else(PoisonError::into_inner), Arc::new(engine));
        // Both take their time, and nobody waits for it. Where there is no thread for it the system does it at once.
        let _ = thread::Builder::new().name("old-state".to_owned()).spawn(move || free(old, &file));
        self.used.store(used, Ordering::Relaxed);
        self.size.store(self.file_bytes().map_err(Unfinished::Unsure)?, Ordering::Relaxed);
        Ok(())
    }

    /// The copy, what it uses, and the old file, held until the last of it is free.
    fn copied(&self, path: &Path, rest: Rest<'_>) -> Result<(Engine, u64, File)> {
        forget(path)?;
        let copied = self.steps.during("copy the state", || self.copy_to(path, rest)).and_then(|(engine, used)| {
            let file = OpenOptions::new().write(true).open(&self.path);
            Ok((engine, used, file.during(|| format!("use the state database {}", self.path.display()))?))
        });
        if copied.is_err() {
            // The first error is the one to tell.
            let _ = forget(path);
        }
        copied
    }

    fn copy_to(&self, path: &Path, rest: Rest<'_>) -> Result<(Engine, u64)> {
        let db = made(path, self.cache_bytes, &self.room)?;
        let mut side = vec![];
        for space in Space::ALL {
            let entries = self.side(space)?.into_iter();
            side.extend(entries.map(|(key, value)| SideChange { space, key, value: Some(value) }));
        }
        let mut used = write_to(&db, path, 0, &mut std::iter::empty(), &side, &[])?;
        let (mut held, mut bytes) = (vec![], 0);
        let mut put = |held: &mut Vec<Held>| -> Result<()> {
            let watch = Stopwatch::start();
            used = write_to(&db, path, used, &mut held.iter().map(Held::revision), &[], &[])?;
            held.clear();
            rest(watch.elapsed())
        };
        self.walk(Rev::default(), Rev::of(i64::MAX), Witness::Index, &mut |stored, brief| {
            bytes += stored.message.len();
            held.push(Held::of(&stored, &brief.expect("the index was asked")));
            if bytes >= COPY_BYTES {
                bytes = 0;
                put(&mut held)?;
            }
            Ok(())
        })?;
        put(&mut held)?;
        Ok((db, used))
    }
}

/// Closes an engine when nobody reads in it any more, and frees the room of its file, which has no name any more, little by
/// little.
fn free(mut engine: Arc<Engine>, file: &File) {
    loop {
        match Arc::try_unwrap(engine) {
            Ok(last) => break drop(last),
            Err(shared) => engine = shared,
        }
        thread::sleep(READ_PAUSE);
    }
    let mut left = file.metadata().map_or(0, |file| file.len());
    while left > 0 {
        left = left.saturating_sub(FREE_BYTES);
        // What cannot be freed so is when the file is closed.
        if file.set_len(left).is_err() {
            return;
        }
        thread::sleep(FREE_PAUSE);
    }
}
