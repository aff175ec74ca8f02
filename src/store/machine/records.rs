//! A state as records: what snapshots are made of, whoever reads them.
//!
//! A **picture** is a state of which nothing is missing any more: its facts beside the history, gathered; its history, listed
//! in order of revisions. From there on everything streams. The facts are those of an etcd file, bucket by bucket, so that
//! the records are the same ones that reading such a file gives, and so are the files that are made of them.
//!
//! What holds the picture together is the state's view: as long as the picture lives, nothing that it names is deleted.

use std::collections::BTreeMap;
use std::sync::mpsc;

use crate::api::Message;
use crate::base::digest::Sha256;
use crate::base::error::Result;
use crate::base::id::EtcdId;
use crate::base::revision::Rev;
use crate::base::stop::beside;
use crate::snapshot::entry::{self, RevisionKey};
use crate::snapshot::record::{Descriptor, FORMAT, Record, Revision};
use crate::store::backend::Space;
use crate::store::lease::lessor::{Lessor, stored};
use crate::store::machine::side;
use crate::store::machine::state::State;
use crate::store::mvcc::chronicle::{Chronicle, Entry};

/// Version of etcd's storage that a picture is like.
pub const STORAGE_VERSION: &str = "3.6.0";
/// Bytes of messages that are read at once.
pub const CHUNK_BYTES: usize = 1 << 20;

/// The member that a picture is of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Origin {
    /// Its cluster.
    pub cluster_id: u64,
    /// Itself.
    pub member_id: u64,
    /// The branch of history that it was born on.
    pub lineage: Sha256,
    /// What it is called.
    pub name: String,
    /// Where other members reach it.
    pub peer_urls: Vec<String>,
    /// Where clients reach it.
    pub client_urls: Vec<String>,
}

/// Takes a record.
pub type Each<'a> = dyn FnMut(&Record<'_>) -> Result<()> + 'a;
/// Takes a version and its message.
pub type EachRevision<'a> = dyn FnMut(&Entry, &Revision<'_>) -> Result<()> + 'a;

type Bucket = BTreeMap<Vec<u8>, Vec<u8>>;

/// A state, ready to be streamed.
#[derive(Debug)]
pub struct Picture {
    descriptor: Descriptor<'static>,
    buckets: BTreeMap<Vec<u8>, Bucket>,
    lessor: Lessor,
    chronicle: Chronicle,
}

impl Picture {
    /// The picture of a state. `go_on` is asked now and then whether anybody still wants it.
    pub fn of(state: &State, origin: &Origin, go_on: &mut dyn FnMut() -> Result<()>) -> Result<Self> {
        let descriptor = describe(state, origin)?;
        let chronicle = Chronicle::of(&state.view, go_on)?;
        let (buckets, lessor) = (buckets(state, origin)?, state.lessor.clone());
        Ok(Picture { descriptor, buckets, lessor, chronicle })
    }

    /// What it is a picture of.
    pub fn descriptor(&self) -> Descriptor<'static> {
        self.descriptor
    }

    /// Everything beside history and leases, in the fixed order.
    pub fn side_records(&self) -> Vec<Record<'_>> {
        entry::side_records(
            self.buckets.iter().map(|(name, bucket)| {
                (&name[..], 0, bucket.iter().map(|(key, value)| (&key[..], &value[..])).collect())
            }),
        )
    }

    /// Every lease, in the order of an etcd file.
    pub fn leases(&self, each: &mut Each<'_>) -> Result<()> {
        let mut ids: Vec<i64> = self.lessor.all().map(|(id, _)| id).collect();
        ids.sort_unstable_by_key(|id| id.cast_unsigned());
        ids.into_iter()
            .filter_map(|id| Some((id, self.lessor.get(id)?)))
            .try_for_each(|(id, lease)| each(&Record::Lease { stored: &stored(id, lease) }))
    }

    /// Every version, oldest first.
    pub fn entries(&self) -> &[Entry] {
        self.chronicle.entries()
    }

    /// Calls `each` with the revisions after `after`, up to `last`, oldest first. It may take its time: nothing is held open
    /// meanwhile. While it works on one chunk, another thread reads the next.
    pub fn revisions(&self, after: Rev, last: Rev, each: &mut EachRevision<'_>) -> Result<()> {
        let (at, until) = (self.chronicle.after(after), self.chronicle.after(last));
        if at >= until {
            return Ok(());
        }
        let first = self.chunk(at, until, vec![])?;
        if first.next == until {
            return self.hand_out(&first, each);
        }
        std::thread::scope(|scope| {
            let (sender, chunks) = mpsc::sync_channel(0);
            let (spare, spares) = mpsc::channel();
            let next = first.next;
            beside(scope, "read ahead", move || self.read_ahead(next, until, &sender, &spares))?;
            self.hand_out(&first, each)?;
            for chunk in chunks {
                let chunk = chunk?;
                self.hand_out(&chunk, each)?;
                // Whoever reads may be done.
                let _ = spare.send(chunk.messages);
            }
            Ok(())
        })
    }

    fn chunk(&self, at: usize, until: usize, mut messages: Vec<u8>) -> Result<Chunk> {
        let next = self.chronicle.read(at, until, CHUNK_BYTES, &mut messages)?;
        Ok(Chunk { at, next, messages })
    }

    /// Reads chunk after chunk, until nobody wants more.
    fn read_ahead(
        &self,
        mut at: usize,
        until: usize,
        chunks: &mpsc::SyncSender<Result<Chunk>>,
        spares: &mpsc::Receiver<Vec<u8>>,
    ) {
        while at < until {
            let chunk = self.chunk(at, until, spares.try_recv().unwrap_or_default());
            at = chunk.as_ref().map_or(until, |chunk| chunk.next);
            if chunks.send(chunk).is_err() {
                return;
            }
        }
    }

    fn hand_out(&self, chunk: &Chunk, each: &mut EachRevision<'_>) -> Result<()> {
        let mut rest = &chunk.messages[..];
        for entry in &self.chronicle.entries()[chunk.at..chunk.next] {
            let (stored, others) = rest.split_at(entry.message_bytes());
            rest = others;
            each(entry, &Revision { rev: entry.rev(), tombstone: entry.is_tombstone(), stored })?;
        }
        Ok(())
    }
}

/// What a picture of a state is called.
pub fn describe(state: &State, origin: &Origin) -> Result<Descriptor<'static>> {
    Ok(Descriptor {
        format: FORMAT,
        cluster_id: EtcdId(origin.cluster_id),
        member_id: EtcdId(origin.member_id),
        revision: state.view.revision(),
        compact_revision: state.view.compact_revision(),
        raft_term: state.position.term,
        raft_index: state.position.index,
        storage_version: STORAGE_VERSION,
        page_size: 0,
        base_revision: 0,
        kept_listed: false,
        is_live: false,
        lineage: Some(origin.lineage),
        state_digest: Some(state.digest.get()?),
    })
}

/// Messages that were read at once.
struct Chunk {
    at: usize,
    /// Where the next one begins.
    next: usize,
    messages: Vec<u8>,
}

/// The facts beside history and leases, as they stand in an etcd file: etcd's buckets are all there, empty or not.
fn buckets(state: &State, origin: &Origin) -> Result<BTreeMap<Vec<u8>, Bucket>> {
    let mut buckets = BTreeMap::<Vec<u8>, Bucket>::new();
    for name in entry::BUCKETS {
        buckets.insert(name.to_vec(), Bucket::new());
    }
    for (key, value) in state.view.side(Space::Extra)? {
        let (bucket, key) = side::extra_of(&key)?;
        let entries = buckets.entry(bucket.to_vec()).or_default();
        entries.extend(key.map(|key| (key.to_vec(), value)));
    }
    // With entries of a later version, which the rules do not know.
    buckets.entry(entry::AUTH.to_vec()).or_default().extend(state.view.side(Space::Auth)?);
    for (space, key, stored) in state.rules.stored() {
        let bucket = match space {
            Space::User => entry::AUTH_USERS,
            Space::Role => entry::AUTH_ROLES,
            _ => entry::AUTH,
        };
        buckets.entry(bucket.to_vec()).or_default().insert(key, stored);
    }
    let mut put = |bucket: &[u8], key: &[u8], value: Vec<u8>| {
        buckets.entry(bucket.to_vec()).or_default().insert(key.to_vec(), value);
    };
    for alarm in state.alarms.all(0) {
        put(entry::ALARM, &alarm.encode_to_vec(), vec![]);
    }
    put(entry::CLUSTER, entry::CLUSTER_VERSION, STORAGE_VERSION.into());
    put(entry::MEMBERS, EtcdId(origin.member_id).to_string().as_bytes(), member_json(origin));
    put(entry::META, entry::CONSISTENT_INDEX, state.position.index.to_be_bytes().to_vec());
    put(entry::META, entry::TERM, state.position.term.to_be_bytes().to_vec());
    let voters = format!("{{\"voters\":[{}],\"auto_leave\":false}}", origin.member_id);
    put(entry::META, entry::CONF_STATE, voters.into());
    put(entry::META, entry::STORAGE_VERSION, STORAGE_VERSION.into());
    let compact_revision = state.view.compact_revision();
    if compact_revision > 0 {
        let rev = RevisionKey::new(Rev::of(compact_revision), false);
        put(entry::META, entry::SCHEDULED, rev.as_bytes().to_vec());
        put(entry::META, entry::FINISHED, rev.as_bytes().to_vec());
    }
    Ok(buckets)
}

/// A member as etcd stores it.
fn member_json(origin: &Origin) -> Vec<u8> {
    #[derive(serde::Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Member<'a> {
        id: u64,
        #[serde(rename = "peerURLs")]
        peer_urls: &'a [String],
        name: &'a str,
        #[serde(rename = "clientURLs")]
        client_urls: &'a [String],
    }
    let Origin { member_id, name, peer_urls, client_urls, .. } = origin;
    serde_json::to_vec(&Member { id: *member_id, peer_urls, name, client_urls }).expect("text and numbers are JSON")
}
