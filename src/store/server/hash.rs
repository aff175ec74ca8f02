//! Checksums over a state, by which members are compared.
//!
//! HashKV covers what a compaction leaves, whether the compaction has come to it yet or not: equal members answer equally
//! at every moment. Its rule stands in `snapshot::hash`. Which versions it is about, and which of them are the newest of
//! their keys, is known from the index; their messages are read in blocks, the newest first.

use crate::api::Message;
use crate::api::etcdserverpb::AlarmType;
use crate::api::leasepb;
use crate::base::digest::crc32c;
use crate::base::error::Result;
use crate::snapshot::entry;
use crate::snapshot::hash::{HashKv, Scope};
use crate::snapshot::record::Revision;
use crate::store::machine::refusal::Failure;
use crate::store::machine::state::State;
use crate::store::mvcc::history::Version;
use crate::store::mvcc::index::Keys;
use crate::store::mvcc::view::View;

/// Bytes of messages that are read at once.
const BLOCK_BYTES: usize = 4 << 20;
/// Versions whose messages are read at once.
const BLOCK_VERSIONS: usize = 16 << 10;
/// The compaction of a store that was never compacted, as etcd tells it.
const NEVER_COMPACTED: i64 = -1;

/// A hash, and what it covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hashed {
    /// The checksum.
    pub hash: u32,
    /// The revisions it is about.
    pub scope: Scope,
}

/// HashKV at a revision; 0 and below is the newest.
pub fn hash_kv(state: &State, revision: i64) -> Result<Hashed, Failure> {
    let view = &state.view;
    let compact_revision = if view.compact_revision() > 0 { view.compact_revision() } else { NEVER_COMPACTED };
    let scope = Scope { revision: view.ground().reads_at(revision)?, compact_revision };
    let mut hash = HashKv::new(scope);
    let covered = covered(view, scope);
    let mut rest = covered.as_slice();
    while !rest.is_empty() {
        let (older, block) = rest.split_at(rest.len() - block_len(rest));
        feed(view, block, &mut hash)?;
        rest = older;
    }
    Ok(Hashed { hash: hash.finish(), scope })
}

/// A checksum over everything that members have in common.
pub fn hash(state: &State) -> Result<u32, Failure> {
    let keys = hash_kv(state, 0)?.hash.to_be_bytes();
    let mut parts = vec![keys.to_vec(), entry::LEASE.to_vec()];
    for (id, lease) in state.lessor.all() {
        parts.push(leasepb::Lease { id, ttl: lease.ttl_s, remaining_ttl: lease.remaining_s }.encode_to_vec());
    }
    parts.push(b"alarm".to_vec());
    parts.extend(state.alarms.all(AlarmType::None as i32).iter().map(Message::encode_to_vec));
    Ok(crc32c(&parts.iter().map(Vec::as_slice).collect::<Vec<_>>()))
}

/// A version, and whether it is its key's newest at the revision that is asked about.
#[derive(Clone, Copy, Debug)]
struct Covered {
    version: Version,
    newest: bool,
}

/// What the compaction leaves up to the revision, in order.
fn covered(view: &View, scope: Scope) -> Vec<Covered> {
    let mut covered = vec![];
    for (_, history) in view.index().range(Keys::of(&[], &[0])) {
        let newest = history.at_or_tombstone(scope.revision).map(Version::rev);
        let kept = history.at(scope.compact_revision).map(Version::rev);
        for version in history.versions() {
            let rev = version.rev();
            if rev.main <= scope.revision && (rev.main > scope.compact_revision || kept == Some(rev)) {
                covered.push(Covered { version: *version, newest: newest == Some(rev) });
            }
        }
    }
    covered.sort_unstable_by_key(|covered| covered.version.rev());
    covered
}

/// How many versions at the end of a list are read at once.
fn block_len(covered: &[Covered]) -> usize {
    let mut bytes = 0;
    let fits = |covered: &&Covered| {
        let before = bytes;
        bytes += covered.version.message_bytes();
        before < BLOCK_BYTES
    };
    covered.iter().rev().take(BLOCK_VERSIONS).take_while(fits).count()
}

fn feed(view: &View, block: &[Covered], hash: &mut HashKv) -> Result<()> {
    let mut messages = Vec::with_capacity(block.len());
    view.messages(block.iter().map(|covered| covered.version), |message| messages.push(message.to_vec()))?;
    let revisions: Vec<_> = block
        .iter()
        .zip(&messages)
        .map(|(covered, stored)| Revision {
            rev: covered.version.rev(),
            tombstone: covered.version.is_tombstone(),
            stored,
        })
        .collect();
    hash.batch(&revisions, &block.iter().map(|covered| covered.newest).collect::<Vec<_>>());
    Ok(())
}
