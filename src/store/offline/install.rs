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
use crate::store::machine::digest::Digest;
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
    // Raising the revision changes no fact.
    let digest = Digest::known(proof.state_digest);
    let cut = Cut { batch: None, side, gone: vec![], position: BEGINNING, digest };
    flush(&backend, &Recent::default(), &[cut])?;
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

/// Real etcd files into members, read back key for key; and every way of not getting there.
#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::etcdserverpb::{RangeRequest, RangeResponse};
    use crate::snapshot::bbolt::read::Db;
    use crate::snapshot::bbolt::records::Source;
    use crate::snapshot::decode::Records;
    use crate::snapshot::encode::Encoder;
    use crate::snapshot::proof::Prover;
    use crate::snapshot::record::{Descriptor, KeyValue, Rev};
    use crate::store::auth::Denial;
    use crate::store::consensus::log::Opened;
    use crate::store::datadir::identity::{Origin, Reason};
    use crate::store::machine::range;
    use crate::store::machine::state::State;
    use tempfile::TempDir;

    const KUBERNETES: &str = "k8s-etcd-3.6.db";
    const AUTH: &str = "etcd-3.5-auth.db";

    fn fixture(name: &str) -> Vec<u8> {
        std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/etcd").join(name)).unwrap()
    }

    /// The records of a file, and what they prove.
    fn records(name: &str) -> (Vec<u8>, Expected, Proof) {
        let bytes = fixture(name);
        let bytes = &bytes[..bytes.len() - 32];
        let db = Db::open(bytes).unwrap();
        let source = Source::open(&db).unwrap();
        let descriptor = source.descriptor(Default::default(), Default::default());
        let mut encoded = vec![];
        source
            .encode(&descriptor, &mut |block| {
                encoded.extend_from_slice(&block.bytes);
                Ok(())
            })
            .unwrap();
        let scope = Scope { revision: descriptor.revision, compact_revision: descriptor.compact_revision };
        let mut prover = Prover::new(scope, 3);
        source.newest_first(&descriptor, &mut |batch| prover.batch(batch)).unwrap();
        (encoded, Expected { scope, sample_seed: 3, base_revision: None }, prover.finish())
    }

    fn birth(dir: &TempDir, raise: i64, auth: Auth) -> Birth {
        let members = [("m1".to_owned(), vec!["http://127.0.0.1:2380".to_owned()])];
        let origin =
            Origin { parent: None, ancestry: &[], source: "file", fork_revision: Some(9), reason: Reason::Restore };
        let identity = Identity::born(&origin, "m1", "token", &members).unwrap();
        Birth { data_dir: dir.path().join("m1"), wal_dir: None, identity, raise, auth }
    }

    fn feed(bytes: &[u8]) -> impl FnMut(&mut Put<'_>) -> Result<()> {
        move |put| {
            let records = Records::of(bytes).collect::<Result<Vec<_>>>()?;
            records.chunks(100).try_for_each(put)
        }
    }

    /// Opens what was made, as a start does.
    fn opened(birth: &Birth) -> (Datadir, Opened, Arc<State>) {
        let (datadir, identity) = Datadir::open(&birth.data_dir, None).unwrap();
        assert_eq!(identity.as_ref(), Some(&birth.identity));
        let places = datadir.places();
        let who = LogIdentity { cluster_id: birth.identity.cluster_id.0, member_id: birth.identity.member_id.0 };
        let log = Log::open(&places.wal, who, SEGMENT_BYTES).unwrap();
        let machine = Machine::open(&Arc::new(Backend::open(&places.state, CACHE_BYTES).unwrap())).unwrap();
        assert_eq!(machine.position(), BEGINNING);
        assert_eq!((log.previous.index, log.hard_state.commit, log.entries.len()), (1, 1, 0));
        let state = machine.state();
        (datadir, log, state)
    }

    fn all(state: &State) -> RangeResponse {
        range(state, &RangeRequest { key: "\0".into(), range_end: "\0".into(), ..RangeRequest::default() }).unwrap()
    }

    #[test]
    fn kubernetes_is_read_back_key_for_key_with_its_lease() {
        let dir = tempfile::tempdir().unwrap();
        let (bytes, expected, proof) = records(KUBERNETES);
        let birth = birth(&dir, 1_000_000, Auth::Keep);
        let check = |found: &Proof| {
            assert_eq!(*found, proof);
            Ok(())
        };
        let made = install(&birth, expected, &mut feed(&bytes), &check, &Stop::new()).unwrap();
        assert_eq!((made.revision, made.compact_revision), (1_001_677, 1_001_677));
        let (_lock, _, state) = opened(&birth);
        assert_eq!((state.view.revision(), state.view.compact_revision()), (1_001_677, 1_001_677));
        let answer = all(&state);
        let line = |kv: &crate::api::mvccpb::KeyValue| {
            let digest = crate::base::digest::Sha256::of(&kv.value);
            let numbers = format!("{}\t{}\t{}\t{}", kv.mod_revision, kv.create_revision, kv.version, kv.lease);
            format!("{numbers}\t{}\t{digest}\t{}", kv.value.len(), String::from_utf8_lossy(&kv.key))
        };
        let listed = String::from_utf8(fixture("k8s-etcd-3.6.keys.tsv")).unwrap();
        let listed: Vec<_> = listed.lines().filter(|line| line.starts_with(|c: char| c.is_ascii_digit())).collect();
        assert_eq!(answer.kvs.iter().map(line).collect::<Vec<_>>(), listed);
        // Its lease owns the keys that say so.
        let leased: Vec<_> = answer.kvs.iter().filter(|kv| kv.lease != 0).collect();
        assert!(!leased.is_empty());
        for kv in leased {
            assert!(state.lessor.get(kv.lease).unwrap().keys.contains(&*kv.key));
        }
        // What came before is compacted for who asks.
        let old = RangeRequest { key: "a".into(), revision: 1677, ..RangeRequest::default() };
        assert!(range(&state, &old).is_err());
    }

    #[test]
    fn without_a_raise_the_history_stays_what_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let (bytes, expected, _) = records(KUBERNETES);
        let birth = birth(&dir, 0, Auth::Keep);
        let made = install(&birth, expected, &mut feed(&bytes), &|_| Ok(()), &Stop::new()).unwrap();
        assert_eq!((made.revision, made.compact_revision), (1677, 900));
        let (_lock, _, state) = opened(&birth);
        assert_eq!((state.view.revision(), state.view.compact_revision()), (1677, 900));
        let old = RangeRequest { key: "\0".into(), range_end: "\0".into(), revision: 1000, ..RangeRequest::default() };
        assert!(range(&state, &old).unwrap().count > 0);
    }

    #[test]
    fn authentication_stays_as_it_was_unless_it_is_said_to_be_off() {
        let dir = tempfile::tempdir().unwrap();
        let (bytes, expected, proof) = records(AUTH);
        let other = tempfile::tempdir().unwrap();
        let kept = birth(&other, 0, Auth::Keep);
        install(&kept, expected, &mut feed(&bytes), &|_| Ok(()), &Stop::new()).unwrap();
        let (_lock, _, state) = opened(&kept);
        assert!(state.rules.is_enabled() && state.rules.users().count() == 3);
        assert_eq!(state.rules.subject("", 0).administers(), Err(Denial::UserEmpty));
        assert_eq!(state.rules.subject("root", state.rules.revision()).administers(), Ok(()));
        let off = birth(&dir, 5, Auth::Off);
        let check = |found: &Proof| {
            assert_eq!(*found, proof);
            Ok(())
        };
        install(&off, expected, &mut feed(&bytes), &check, &Stop::new()).unwrap();
        let (_lock, _, state) = opened(&off);
        let recorded: serde_json::Value = serde_json::from_slice(&fixture("etcd-3.5-auth.range.json")).unwrap();
        let recorded = recorded["kvs"].as_array().unwrap();
        let answer = all(&state);
        assert_eq!(answer.kvs.len(), recorded.len());
        for (kv, recorded) in answer.kvs.iter().zip(recorded) {
            let text = |field: &str| recorded[field].as_str().unwrap_or_default().to_owned();
            let number = |field: &str| recorded[field].as_i64().unwrap_or_default();
            assert_eq!(crate::base::digest::base64(&kv.key), text("key"));
            assert_eq!(crate::base::digest::base64(&kv.value), text("value"));
            let numbers = (kv.create_revision, kv.mod_revision, kv.version, kv.lease);
            assert_eq!(
                numbers,
                (number("create_revision"), number("mod_revision"), number("version"), number("lease"))
            );
        }
        let leases: Vec<_> = state.lessor.all().map(|(_, lease)| lease.keys.len()).collect();
        assert_eq!(leases, [3]);
        // Users and roles are kept for whoever takes the state out again; the switch is off.
        assert_eq!(state.view.side(Space::User).unwrap().len(), 3);
        let switch = state.view.side(Space::Auth).unwrap();
        assert!(switch.iter().any(|(key, value)| key == b"authEnabled" && value == &[0]));
    }

    #[test]
    fn what_is_not_the_source_or_is_broken_off_leaves_no_member() {
        let dir = tempfile::tempdir().unwrap();
        let (bytes, expected, _) = records(KUBERNETES);
        let birth = birth(&dir, 1, Auth::Keep);
        let refuse = |_: &Proof| Err(Error::damaged("it is another"));
        let stop = Stop::new();
        let error = install(&birth, expected, &mut feed(&bytes), &refuse, &stop).unwrap_err();
        assert_eq!(error.to_string(), "it is another");
        let cut = bytes.len() / 2;
        install(&birth, expected, &mut feed(&bytes[..cut]), &|_| Ok(()), &stop).unwrap_err();
        stop.stop();
        let stopped = install(&birth, expected, &mut feed(&bytes), &|_| Ok(()), &stop).unwrap_err();
        assert_eq!(stopped.kind(), Kind::Interrupted);
        let left: Vec<_> =
            std::fs::read_dir(&birth.data_dir).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, ["holdfast.lock"]);
        // The same place serves for another try, and then no more.
        install(&birth, expected, &mut feed(&bytes), &|_| Ok(()), &Stop::new()).unwrap();
        let again = install(&birth, expected, &mut feed(&bytes), &|_| Ok(()), &Stop::new()).unwrap_err();
        assert!(again.kind() == Kind::Conflict && again.hint_text().is_some(), "{}", again.chain());
        opened(&birth);
    }

    /// etcd's own tool notes raised revisions as an entry without a key.
    #[test]
    fn the_mark_of_a_raise_by_etcds_tool_is_taken_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let mut encoder = Encoder::new();
        encoder.put(&Record::Descriptor(Descriptor { format: 1, revision: 900, ..Descriptor::default() }));
        let stored = KeyValue { key: b"a", create_revision: 2, mod_revision: 2, version: 1, ..KeyValue::default() };
        let stored = stored.to_stored();
        encoder.put(&Record::Revision(Revision { rev: Rev::of(2), tombstone: false, stored: &stored }));
        encoder.put(&Record::Revision(Revision { rev: Rev::of(900), tombstone: false, stored: b"" }));
        let bytes: Vec<u8> = encoder.end().0.into_iter().flat_map(|block| block.bytes).collect();
        let scope = Scope { revision: 900, compact_revision: 0 };
        let expected = Expected { scope, sample_seed: 0, base_revision: None };
        let mut prover = Prover::new(scope, 0);
        let all_records = Records::of(&bytes).collect::<Result<Vec<_>>>().unwrap();
        prover.batch(&all_records[..all_records.len() - 1]).unwrap();
        let wanted = prover.finish();
        let birth = birth(&dir, 0, Auth::Keep);
        let made = install(&birth, expected, &mut feed(&bytes), &|_| Ok(()), &Stop::new()).unwrap();
        assert_eq!(made.proof, wanted);
        let (_lock, _, state) = opened(&birth);
        assert_eq!((state.view.revision(), all(&state).kvs.len()), (900, 1));
    }
}
