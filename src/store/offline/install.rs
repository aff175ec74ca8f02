//! A new member's directory, from records.
//!
//! The state is loaded in the order of revisions, then read back and proved, and only when the proof is what was expected
//! are its revisions raised, its log begun, and the directory given its name (`store::datadir`). Before that step there is no
//! member: whatever ends the work leaves a folder that the next start sweeps away.
//!
//! **Raising** revisions: everything up to a revision that the old cluster cannot have reached counts as compacted. Whoever
//! watched the old cluster is told so and begins anew, and does not take new revisions for old ones.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::base::error::{Error, Kind, Result};
use crate::base::stop::Stop;
use crate::snapshot::forward::{Forward, Marks};
use crate::snapshot::hash::Scope;
use crate::snapshot::proof::Proof;
use crate::snapshot::record::{Record, Revision};
use crate::store::backend::{Backend, CACHE_BYTES, Space};
use crate::store::consensus::log::{HardState, Identity as LogIdentity, Log, Place, SEGMENT_BYTES};
use crate::store::datadir::identity::Identity;
use crate::store::datadir::{Datadir, Places};
use crate::store::machine::Machine;
use crate::store::machine::flush::{Cut, Meta, Position, flush};
use crate::store::mvcc::chronicle::Chronicle;
use crate::store::mvcc::recent::Recent;
use crate::store::mvcc::view::View;
use crate::store::offline::load::Loader;

pub use crate::store::offline::load::Auth;

/// Where a new member's log begins: after an entry that no log holds.
const BEGINNING: Position = Position { index: 1, term: 1 };
/// Bytes of messages that are read back at once.
const CHUNK_BYTES: usize = 1 << 20;

/// A member to be made.
#[derive(Clone, Debug)]
pub struct Birth {
    /// Its directory.
    pub data_dir: PathBuf,
    /// The folder of its log, if that is another one.
    pub wal_dir: Option<PathBuf>,
    /// Who it is.
    pub identity: Identity,
    /// By how much its revisions are raised.
    pub raise: i64,
    /// What becomes of authentication.
    pub auth: Auth,
}

/// What the records must prove.
#[derive(Clone, Copy, Debug)]
pub struct Expected {
    /// What HashKV covers.
    pub scope: Scope,
    /// Chooses the sampled keys.
    pub sample_seed: u64,
    /// The revision up to which older revisions are proved on their own, where they are.
    pub base_revision: Option<i64>,
}

/// A member that was made.
#[derive(Clone, Debug)]
pub struct Installed {
    /// What was read back.
    pub proof: Proof,
    /// The revision it begins at.
    pub revision: i64,
    /// What counts as compacted there.
    pub compact_revision: i64,
    /// Bytes of its state.
    pub state_bytes: u64,
}

/// Takes some records.
pub type Put<'a> = dyn FnMut(&[Record<'_>]) -> Result<()> + 'a;
/// Hands on the records of a whole state, in the fixed order.
pub type Feed<'a> = dyn FnMut(&mut Put<'_>) -> Result<()> + 'a;

/// Whether a member can be made there, without changing anything: what stands in the way is an error.
pub fn vacant(data_dir: &Path, wal_dir: Option<&Path>) -> Result<()> {
    for folder in [Some(data_dir), wal_dir].into_iter().flatten() {
        let occupied = match std::fs::read_dir(folder) {
            Ok(mut entries) => entries.any(|entry| entry.is_ok_and(|entry| !is_leftover(&entry.file_name()))),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => false,
            Err(error) => return Err(Error::io(format!("look into {}", folder.display()), error)),
        };
        if occupied {
            return Err(Error::new(Kind::Conflict, format!("{} is not empty", folder.display()))
                .hint("nothing was changed; choose another directory, or move what is there away first"));
        }
    }
    Ok(())
}

/// What a restore that was cut off leaves, and what every disk has.
fn is_leftover(name: &std::ffi::OsStr) -> bool {
    ["holdfast.lock", "member.tmp", "bootstrap.tmp", "log", "lost+found"].iter().any(|known| name == *known)
}

/// Makes a member. `check` is given what was read back and refuses what is not the source. Blocks.
pub fn install(
    birth: &Birth,
    expected: Expected,
    feed: &mut Feed<'_>,
    check: &dyn Fn(&Proof) -> Result<()>,
    stop: &Stop,
) -> Result<Installed> {
    vacant(&birth.data_dir, birth.wal_dir.as_deref())?;
    let (datadir, found) = Datadir::open(&birth.data_dir, birth.wal_dir.as_deref())?;
    if found.is_some() {
        let text = format!("{} holds a member already", birth.data_dir.display());
        return Err(Error::new(Kind::Conflict, text).hint("nothing was changed; choose another directory"));
    }
    let mut installed = None;
    let made = datadir.bootstrap(&birth.identity, |places| {
        installed = Some(make(birth, places, expected, feed, check, stop)?);
        Ok(())
    });
    if let Err(error) = made {
        // What was half made holds secrets. Opening sweeps it away; if that fails, the next start does.
        drop(datadir);
        let _ = Datadir::open(&birth.data_dir, birth.wal_dir.as_deref());
        return Err(error);
    }
    Ok(installed.expect("a member that was made was read back"))
}

fn make(
    birth: &Birth,
    places: &Places,
    expected: Expected,
    feed: &mut Feed<'_>,
    check: &dyn Fn(&Proof) -> Result<()>,
    stop: &Stop,
) -> Result<Installed> {
    let backend = Arc::new(Backend::create(&places.state, CACHE_BYTES)?);
    let mut proof = Forward::new(expected.scope, expected.sample_seed);
    if let Some(base) = expected.base_revision {
        proof = proof.with_base(base, false);
    }
    let mut loader = Loader::new(&backend, &mut proof, birth.auth);
    feed(&mut |records| {
        stop.check()?;
        records.iter().try_for_each(|record| loader.put(record))
    })?;
    loader.flush()?;
    let compacted = loader.compact_revision;
    let proof = read_back(&backend, proof, stop)?;
    check(&proof)?;
    let revision = expected.scope.revision + birth.raise;
    let compact_revision = if birth.raise > 0 { revision } else { compacted };
    let side = if compact_revision > 0 { vec![Meta::compacted(compact_revision)] } else { vec![] };
    flush(&backend, &Recent::default(), &[Cut { batch: None, side, gone: vec![], position: BEGINNING }])?;
    let state_bytes = backend.file_bytes()?;
    drop(backend);
    let Position { index, term } = BEGINNING;
    let who = LogIdentity { cluster_id: birth.identity.cluster_id.0, member_id: birth.identity.member_id.0 };
    let hard_state = HardState { term, vote: 0, commit: index };
    drop(Log::create(&places.wal, who, Place { index, term }, hard_state, SEGMENT_BYTES)?);
    Ok(Installed { proof, revision, compact_revision, state_bytes })
}

/// Proves what is in the state now.
fn read_back(backend: &Arc<Backend>, mut proof: Forward, stop: &Stop) -> Result<Proof> {
    let mut none = Marks::new(vec![]);
    for space in [Space::Alarm, Space::User, Space::Role, Space::Lease] {
        for (key, value) in backend.side(space)? {
            let record = match space {
                Space::Alarm => Record::Alarm { stored: &key },
                Space::User => Record::User { stored: &value },
                Space::Role => Record::Role { stored: &value },
                _ => Record::Lease { stored: &value },
            };
            proof.batch(&[record], &mut none)?;
        }
    }
    // Nothing is compacted in this state yet, so its view shows everything there is.
    let view: View = Machine::open(backend)?.state().view.clone();
    let chronicle = Chronicle::of(&view, &mut || stop.check())?;
    let (mut at, mut messages) = (0, vec![]);
    while at < chronicle.entries().len() {
        stop.check()?;
        let next = chronicle.read(at, chronicle.entries().len(), CHUNK_BYTES, &mut messages)?;
        let entries = &chronicle.entries()[at..next];
        let mut rest = &messages[..];
        let mut records = Vec::with_capacity(entries.len());
        for entry in entries {
            let (stored, others) = rest.split_at(entry.message_bytes());
            rest = others;
            records.push(Record::Revision(Revision { rev: entry.rev(), tombstone: entry.is_tombstone(), stored }));
        }
        let superseded = (0_u32..).zip(entries).filter(|(_, entry)| !entry.is_newest()).map(|(place, _)| place);
        proof.batch(&records, &mut Marks::new(superseded.collect()))?;
        at = next;
    }
    proof.finish()
}

#[cfg(test)]
mod tests;
