//! The file written anew, without the room that deletions left in it.

use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use crate::base::durable::give_name;
use crate::base::error::Result;
use crate::base::revision::Rev;
use crate::store::backend::{
    Backend, Brief, Engine, Revision, SideChange, Space, Stored, Witness, beside, forget, made, write_to,
};

/// Bytes that one transaction of a copy writes.
const COPY_BYTES: usize = 16 << 20;

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
    pub fn defragment(&self) -> Result<()> {
        let path = beside(&self.path);
        forget(&path)?;
        let copied = self.steps.during("copy the state", || self.copy_to(&path));
        if copied.is_err() {
            // The first error is the one to tell.
            let _ = forget(&path);
        }
        let (engine, used) = copied?;
        self.steps.during("put the copy in place", || give_name(&path, &self.path))?;
        let old = std::mem::replace(&mut *self.db.write().unwrap_or_else(PoisonError::into_inner), Arc::new(engine));
        // Closing takes its time, and nobody waits for it.
        drop(old);
        self.used.store(used, Ordering::Relaxed);
        self.size.store(self.file_bytes()?, Ordering::Relaxed);
        Ok(())
    }

    fn copy_to(&self, path: &Path) -> Result<(Engine, u64)> {
        let db = made(path, self.cache_bytes, &self.room)?;
        let mut side = vec![];
        for space in Space::ALL {
            let entries = self.side(space)?.into_iter();
            side.extend(entries.map(|(key, value)| SideChange { space, key, value: Some(value) }));
        }
        let mut used = write_to(&db, path, 0, &mut std::iter::empty(), &side, &[])?;
        let (mut held, mut bytes) = (vec![], 0);
        let mut put = |held: &mut Vec<Held>| -> Result<()> {
            used = write_to(&db, path, used, &mut held.iter().map(Held::revision), &[], &[])?;
            held.clear();
            Ok(())
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
