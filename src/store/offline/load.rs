//! Records into a new state: as they come, in few large writes.
//!
//! What belongs to the cluster that they were taken from stays behind: its members, its place in its log. What this store
//! does not interpret is kept for whoever takes the state out again.

use crate::base::error::Result;
use crate::base::revision::Rev;
use crate::snapshot::entry;
use crate::snapshot::forward::{Forward, Marks};
use crate::snapshot::record::{Extra, Record, Revision};
use crate::store::backend::{Backend, SideChange, Space, Stored};
use crate::store::machine::{flush, side};

/// Bytes that are written at once.
const WRITE_BYTES: usize = 32 << 20;

/// What becomes of authentication.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Auth {
    /// It is as it was.
    Keep,
    /// It is off afterwards. Users and roles are kept.
    Off,
}

/// A state in the making.
pub(super) struct Loader<'a> {
    backend: &'a Backend,
    /// Told what is not to be found in the state again, so that it is counted.
    proof: &'a mut Forward,
    auth: Auth,
    /// Revisions that wait to be written: where their messages lie.
    revisions: Vec<(Rev, bool, std::ops::Range<usize>)>,
    messages: Vec<u8>,
    side: Vec<SideChange>,
    side_bytes: usize,
    /// The newest compaction that was met.
    pub(super) compact_revision: i64,
}

impl<'a> Loader<'a> {
    pub(super) fn new(backend: &'a Backend, proof: &'a mut Forward, auth: Auth) -> Self {
        Loader {
            backend,
            proof,
            auth,
            revisions: vec![],
            messages: vec![],
            side: vec![],
            side_bytes: 0,
            compact_revision: 0,
        }
    }

    /// Takes a record. They come in the fixed order.
    pub(super) fn put(&mut self, record: &Record<'_>) -> Result<()> {
        match record {
            Record::Revision(revision) => {
                let Revision { rev, tombstone, stored } = *revision;
                flush::revision(Stored { rev, tombstone, message: stored })?;
                let start = self.messages.len();
                self.messages.extend_from_slice(stored);
                self.revisions.push((rev, tombstone, start..self.messages.len()));
            }
            // These are read back: what is proved is what is there.
            Record::Lease { .. } | Record::Alarm { .. } | Record::User { .. } | Record::Role { .. } => {
                self.keep(record)?;
            }
            _ => {
                self.proof.batch(std::slice::from_ref(record), &mut Marks::new(vec![]))?;
                self.keep(record)?;
            }
        }
        if self.messages.len() + self.side_bytes >= WRITE_BYTES { self.flush() } else { Ok(()) }
    }

    fn keep(&mut self, record: &Record<'_>) -> Result<()> {
        if let Record::Compacted(compacted) = record {
            self.compact_revision = self.compact_revision.max(compacted.revision);
            return Ok(());
        }
        if let Record::Extra(Extra { bucket, key: None, .. }) = record {
            return if is_etcds(bucket) { Ok(()) } else { self.change(side::extra(bucket, None, &[])?) };
        }
        let off = self.auth == Auth::Off;
        let mut changes = vec![];
        entry::entries(record, &mut |bucket, key, value| {
            let value = if off && (bucket, key) == (entry::AUTH, entry::AUTH_ENABLED) { &[0][..] } else { value };
            changes.extend(kept(bucket, key, value)?);
            Ok(())
        })?;
        changes.into_iter().try_for_each(|change| self.change(change))
    }

    fn change(&mut self, change: SideChange) -> Result<()> {
        self.side_bytes += change.key.len() + change.value.as_ref().map_or(0, Vec::len);
        self.side.push(change);
        Ok(())
    }

    /// Writes what waits.
    pub(super) fn flush(&mut self) -> Result<()> {
        let messages = &self.messages;
        let mut rows = self.revisions.iter().map(|(rev, tombstone, place)| {
            let stored = Stored { rev: *rev, tombstone: *tombstone, message: &messages[place.clone()] };
            flush::revision(stored).expect("it was read when it came")
        });
        self.backend.write(&mut rows, &self.side, &[])?;
        self.revisions.clear();
        self.messages.clear();
        self.side.clear();
        self.side_bytes = 0;
        Ok(())
    }
}

/// Where an entry of an etcd file lies in a state; none when it belongs to the cluster that it was taken from.
fn kept(bucket: &[u8], key: &[u8], value: &[u8]) -> Result<Option<SideChange>> {
    let space = match bucket {
        entry::LEASE => Space::Lease,
        entry::ALARM => Space::Alarm,
        entry::AUTH => Space::Auth,
        entry::AUTH_USERS => Space::User,
        entry::AUTH_ROLES => Space::Role,
        entry::MEMBERS | entry::MEMBERS_REMOVED => return Ok(None),
        entry::CLUSTER if key == entry::CLUSTER_VERSION => return Ok(None),
        entry::META => match key {
            entry::CONSISTENT_INDEX | entry::TERM | entry::CONF_STATE | entry::STORAGE_VERSION => return Ok(None),
            _ => return side::extra(bucket, Some(key), value).map(Some),
        },
        _ => return side::extra(bucket, Some(key), value).map(Some),
    };
    Ok(Some(SideChange { space, key: key.to_vec(), value: Some(value.to_vec()) }))
}

/// Whether a bucket is in every file of etcd.
fn is_etcds(bucket: &[u8]) -> bool {
    entry::BUCKETS.contains(&bucket)
}
