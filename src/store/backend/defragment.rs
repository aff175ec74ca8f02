//! The file written anew, without the room that deletions left in it.

use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use redb::{Database, ReadableDatabase, ReadableTable};

use crate::base::durable::give_name;
use crate::base::error::Result;
use crate::base::revision::Rev;
use crate::store::backend::{
    Backend, Brief, Engine, INDEX, REVISIONS, Revision, SideChange, Space, Stored, beside, forget, guarded, made, rows,
    write_to,
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
    fn of(revision: &Revision<'_>) -> Held {
        let Revision { stored: Stored { rev, tombstone, message }, brief: Brief { key, created, number, lease } } =
            *revision;
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
        let (db, used) = copied?;
        self.steps.during("put the copy in place", || give_name(&path, &self.path))?;
        *self.db.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(Engine(Some(db)));
        self.used.store(used, Ordering::Relaxed);
        self.size.store(self.file_bytes()?, Ordering::Relaxed);
        Ok(())
    }

    fn copy_to(&self, path: &Path) -> Result<(Database, u64)> {
        let db = made(path, self.cache_bytes)?;
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
        self.whole(&mut |revision| {
            bytes += revision.stored.message.len();
            held.push(Held::of(&revision));
            if bytes >= COPY_BYTES {
                bytes = 0;
                put(&mut held)?;
            }
            Ok(())
        })?;
        put(&mut held)?;
        Ok((db, used))
    }

    /// Calls `sink` with every revision, in order, as both tables have it. In one transaction: nothing is written meanwhile,
    /// so the file does not grow because of it.
    fn whole(&self, sink: &mut dyn FnMut(Revision<'_>) -> Result<()>) -> Result<()> {
        // An error of the sink is not one of redb's: it leaves through the side door.
        let mut outcome = Ok(());
        guarded(&self.path, || {
            let transaction = self.db().begin_read()?;
            let (revisions, index) = (transaction.open_table(REVISIONS)?, transaction.open_table(INDEX)?);
            let mut listed = index.iter()?;
            for entry in revisions.iter()? {
                let (entry, row) = (entry?, listed.next().transpose()?);
                let row = row.as_ref().map(|(key, value)| (key.value(), value.value()));
                outcome = self.both((entry.0.value(), entry.1.value()), row).and_then(&mut *sink);
                if outcome.is_err() {
                    return Ok(());
                }
            }
            if listed.next().transpose()?.is_some() {
                outcome = Err(self.apart());
            }
            Ok(())
        })?;
        outcome
    }

    /// A revision from its two rows.
    fn both<'a>(
        &self,
        (key, value): (&rows::RowKey, &'a [u8]),
        row: Option<(&rows::RowKey, &'a [u8])>,
    ) -> Result<Revision<'a>> {
        let stored = self.stored(key, value)?;
        let (index_key, value) = row.ok_or_else(|| self.apart())?;
        let listed = self.listed(index_key, value)?;
        let revision = Revision { stored, brief: listed.brief };
        if index_key == key && revision.listed() == listed { Ok(revision) } else { Err(self.apart()) }
    }
}
