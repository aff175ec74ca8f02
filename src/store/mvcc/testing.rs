//! Changes into a backend as the flusher writes them, for tests.

use crate::api::Message;
use crate::api::mvccpb::KeyValue;
use crate::store::backend::{Backend, Brief, Revision, Stored};
use crate::store::mvcc::recent::Change;

/// Writes changes; what their messages say is told the index.
pub(super) fn store<'a>(backend: &Backend, changes: impl IntoIterator<Item = &'a Change>) {
    let read = |change: &'a Change| (change, KeyValue::decode(change.message.clone()).unwrap());
    let changes: Vec<_> = changes.into_iter().map(read).collect();
    let mut revisions = changes.iter().map(|(change, kv)| {
        let stored = Stored { rev: change.rev, tombstone: change.tombstone, message: &change.message };
        let (created, number) = (kv.create_revision, kv.version);
        Revision { stored, brief: Brief { key: &kv.key, created, number, lease: kv.lease } }
    });
    backend.write(&mut revisions, &[], &[]).unwrap();
}
