//! The state machine by itself: what commands do, and that a kill changes nothing of it.

use super::*;
use crate::api::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use crate::api::etcdserverpb::request_op::Request;
use crate::api::etcdserverpb::response_op::Response;
use crate::api::etcdserverpb::{
    AlarmRequest, AlarmType, CompactionRequest, Compare, DeleteRangeRequest, LeaseGrantRequest, LeaseRevokeRequest,
    PutRequest, RequestOp,
};
use crate::base::error::{Error, Kind};
use crate::base::revision::Rev;
use crate::base::rng::Seeded;
use crate::snapshot::hash::Scope;
use crate::snapshot::proof::Prover;
use crate::snapshot::record::{Record, Rev as Place};
use crate::store::backend::{Brief, CACHE_BYTES, Revision, Stored};
use crate::store::machine::flush::flush;
use crate::store::machine::records::{self, Origin};
use crate::store::machine::scrub::{Scrubbed, scrub};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// A machine on a database, with everything that was applied and is not flushed yet.
struct Member {
    backend: Arc<Backend>,
    machine: Machine,
    cuts: Vec<Cut>,
}

impl Member {
    fn create(path: &Path) -> Member {
        Member::on(Backend::create(path, CACHE_BYTES).unwrap())
    }

    fn on(backend: Backend) -> Member {
        let backend = Arc::new(backend);
        let machine = Machine::open(&backend).unwrap();
        Member { backend, machine, cuts: vec![] }
    }

    fn apply(&mut self, operations: Vec<Operation>) -> Vec<Outcome> {
        let position = Position { index: self.machine.position().index + 1, term: 1 };
        let ids = 1_u64..;
        let commands = ids.zip(operations).map(|(id, operation)| Command {
            id,
            time_ms: 5,
            operation: Some(operation),
            ..Command::default()
        });
        let applied = self.machine.apply(position, commands.collect(), &mut |_, _| {}).unwrap();
        assert!(applied.replies.iter().map(|(id, _)| *id).eq(1..=applied.replies.len() as u64));
        assert_eq!(applied.state.position, position);
        self.cuts.push(applied.cut);
        applied.replies.into_iter().map(|(_, outcome)| outcome).collect()
    }

    fn one(&mut self, operation: Operation) -> Outcome {
        self.apply(vec![operation]).remove(0)
    }

    fn flush(&mut self, cuts: usize) {
        let cuts: Vec<_> = self.cuts.drain(..cuts).collect();
        flush(&self.backend, self.machine.recent(), &cuts).unwrap();
    }

    fn get(&self, key: &str) -> Vec<(String, i64)> {
        let request = RangeRequest { key: key.to_owned().into(), range_end: "\0".into(), ..RangeRequest::default() };
        let found = range(&self.machine.state(), &request).unwrap().kvs;
        found.iter().map(|kv| (String::from_utf8(kv.key.to_vec()).unwrap(), kv.mod_revision)).collect()
    }
}

fn put_of(key: &str, value: &str, lease: i64) -> PutRequest {
    PutRequest { key: key.to_owned().into(), value: value.to_owned().into(), lease, ..PutRequest::default() }
}

fn put(key: &str, value: &str) -> Operation {
    Operation::Put(put_of(key, value, 0))
}

fn delete(key: &str, end: &str) -> DeleteRangeRequest {
    DeleteRangeRequest { key: key.to_owned().into(), range_end: end.to_owned().into(), prev_kv: true }
}

fn op(request: Request) -> RequestOp {
    RequestOp { request: Some(request) }
}

fn get(key: &str) -> RequestOp {
    op(Request::RequestRange(RangeRequest { key: key.to_owned().into(), ..RangeRequest::default() }))
}

fn version_is(key: &str, version: i64) -> Compare {
    Compare {
        result: CompareResult::Equal as i32,
        target: CompareTarget::Version as i32,
        key: key.to_owned().into(),
        target_union: Some(TargetUnion::Version(version)),
        ..Compare::default()
    }
}

fn revision(outcome: &Outcome) -> i64 {
    let header = match outcome {
        Ok(Reply::Put(reply)) => reply.header,
        Ok(Reply::DeleteRange(reply)) => reply.header,
        Ok(Reply::Txn(reply)) => reply.header,
        Ok(Reply::LeaseRevoke(reply)) => reply.header,
        other => panic!("{other:?}"),
    };
    header.unwrap().revision
}

fn member() -> (tempfile::TempDir, Member) {
    let dir = tempfile::tempdir().unwrap();
    let member = Member::create(&dir.path().join("db"));
    (dir, member)
}

#[test]
fn conditions_are_decided_before_the_first_step_and_reads_see_the_steps_before_them() {
    let (_dir, mut member) = member();
    let inner = TxnRequest {
        // Before the outer put: the key is not there yet.
        compare: vec![version_is("a", 0)],
        success: vec![get("a"), op(Request::RequestPut(put_of("b", "inner", 0)))],
        failure: vec![op(Request::RequestPut(put_of("c", "never", 0)))],
    };
    let outer = TxnRequest {
        compare: vec![],
        success: vec![op(Request::RequestPut(put_of("a", "outer", 0))), op(Request::RequestTxn(inner))],
        failure: vec![],
    };
    let outcome = member.one(Operation::Txn(outer));
    assert_eq!(revision(&outcome), 2);
    let Ok(Reply::Txn(reply)) = outcome else { panic!("{outcome:?}") };
    let Some(Response::ResponseTxn(inner)) = &reply.responses[1].response else { panic!("{reply:?}") };
    assert_eq!((inner.succeeded, inner.header), (true, Some(ResponseHeader::default())));
    let Some(Response::ResponseRange(seen)) = &inner.responses[0].response else { panic!("{inner:?}") };
    assert_eq!((seen.kvs[0].value.as_ref(), seen.header.unwrap().revision), (&b"outer"[..], 2));
    assert_eq!(member.get("\0"), [("a".into(), 2), ("b".into(), 2)]);
}

#[test]
fn a_transaction_is_refused_whole() {
    let (_dir, mut member) = member();
    let keeps = PutRequest { ignore_value: true, ..put_of("none", "", 0) };
    for (step, refusal) in [
        (op(Request::RequestPut(keeps)), Refusal::KeyNotFound),
        (op(Request::RequestPut(put_of("b", "", 77))), Refusal::LeaseNotFound),
        (
            op(Request::RequestRange(RangeRequest { key: "a".into(), revision: 99, ..RangeRequest::default() })),
            Refusal::FutureRevision,
        ),
    ] {
        let first = op(Request::RequestPut(put_of("a", "first", 0)));
        let nested = TxnRequest { success: vec![step], ..TxnRequest::default() };
        let txn = TxnRequest { success: vec![first, op(Request::RequestTxn(nested))], ..TxnRequest::default() };
        assert_eq!(member.one(Operation::Txn(txn)), Err(refusal));
        assert_eq!(member.machine.state().view.revision(), 1);
    }
    assert_eq!(member.get("\0"), []);
}

#[test]
fn what_changes_nothing_makes_no_revision_and_what_is_kept_stays() {
    let (_dir, mut member) = member();
    assert_eq!(revision(&member.one(Operation::DeleteRange(delete("a", "z")))), 1);
    assert_eq!(revision(&member.one(Operation::Txn(TxnRequest::default()))), 1);
    member.one(Operation::LeaseGrant(LeaseGrantRequest { id: 7, ttl: 60 })).unwrap();
    member.one(Operation::Put(put_of("a", "one", 7))).unwrap();
    let keeps = PutRequest { ignore_lease: true, prev_kv: true, ..put_of("a", "two", 0) };
    let Ok(Reply::Put(reply)) = member.one(Operation::Put(keeps)) else { panic!("a put") };
    assert_eq!(reply.prev_kv.unwrap().lease, 7);
    let keeps = PutRequest { ignore_value: true, prev_kv: true, ..put_of("a", "", 0) };
    let Ok(Reply::Put(reply)) = member.one(Operation::Put(keeps)) else { panic!("a put") };
    assert_eq!((reply.prev_kv.as_ref().unwrap().lease, reply.prev_kv.unwrap().value.as_ref()), (7, &b"two"[..]));
    // The lease was left, because none was named.
    assert!(member.machine.state().lessor.get(7).unwrap().keys.is_empty());
    let Ok(Reply::DeleteRange(reply)) = member.one(Operation::DeleteRange(delete("a", ""))) else {
        panic!("a deletion")
    };
    assert_eq!((reply.deleted, reply.prev_kvs[0].value.as_ref(), reply.prev_kvs[0].version), (1, &b"two"[..], 3));
}

#[test]
fn a_lease_ends_with_its_keys_in_one_revision() {
    let (_dir, mut member) = member();
    let grant = |id| Operation::LeaseGrant(LeaseGrantRequest { id, ttl: 60 });
    let revoke = |id| Operation::LeaseRevoke(LeaseRevokeRequest { id });
    assert!(member.one(grant(7)).is_ok());
    assert_eq!(member.one(grant(7)), Err(Refusal::LeaseExists));
    assert_eq!(member.one(revoke(8)), Err(Refusal::LeaseNotFound));
    let puts = ["c", "a", "b"].map(|key| Operation::Put(put_of(key, "", 7)));
    member.apply(puts.into());
    member.one(put("d", "")).unwrap();
    member.one(put("b", "left")).unwrap();
    assert_eq!(revision(&member.one(revoke(7))), 7);
    assert_eq!(member.get("\0"), [("b".into(), 6), ("d".into(), 5)]);
    let last = member.cuts.last().unwrap().batch.as_ref().unwrap().changes();
    assert_eq!(
        last.iter().map(|change| (change.rev.sub, change.tombstone)).collect::<Vec<_>>(),
        [(0, true), (1, true)]
    );
    assert!(member.one(grant(9)).is_ok());
    assert_eq!(revision(&member.one(revoke(9))), 7);
}

#[test]
fn alarms_forbid_what_takes_room_and_let_the_way_out_through() {
    let (_dir, mut member) = member();
    member.one(put("a", "")).unwrap();
    let alarm = |action: i32, alarm| Operation::Alarm(AlarmRequest { action, member_id: 3, alarm: alarm as i32 });
    member.one(alarm(1, AlarmType::Nospace)).unwrap();
    assert_eq!(member.one(put("b", "")), Err(Refusal::NoSpace));
    assert_eq!(member.one(Operation::LeaseGrant(LeaseGrantRequest { id: 1, ttl: 5 })), Err(Refusal::NoSpace));
    let txn = |request| Operation::Txn(TxnRequest { success: vec![op(request)], ..TxnRequest::default() });
    assert_eq!(member.one(txn(Request::RequestPut(put_of("b", "", 0)))), Err(Refusal::NoSpace));
    assert!(member.one(txn(Request::RequestDeleteRange(delete("a", "")))).is_ok());
    assert!(member.one(Operation::Compaction(CompactionRequest { revision: 3, physical: false })).is_ok());
    member.one(alarm(1, AlarmType::Corrupt)).unwrap();
    assert_eq!(member.one(Operation::DeleteRange(delete("a", ""))), Err(Refusal::Corrupt));
    // Alarms are part of the state.
    let cuts = member.cuts.len();
    member.flush(cuts);
    assert_eq!(Machine::open(&member.backend).unwrap().state().alarms, member.machine.state().alarms);
    let Ok(Reply::Alarm(reply)) = member.one(alarm(0, AlarmType::None)) else { panic!("alarms") };
    assert_eq!(reply.alarms.len(), 2);
    member.one(alarm(2, AlarmType::Corrupt)).unwrap();
    member.one(alarm(2, AlarmType::Nospace)).unwrap();
    assert!(member.one(put("b", "")).is_ok());
}

fn random(rng: &mut Seeded) -> Operation {
    let key = format!("key-{}", rng.below(12));
    let lease = i64::try_from(rng.below(4)).unwrap();
    match rng.below(20) {
        0 => Operation::LeaseGrant(LeaseGrantRequest { id: lease + 1, ttl: 60 }),
        1 => Operation::LeaseRevoke(LeaseRevokeRequest { id: lease }),
        2 => Operation::DeleteRange(delete(&key, "key-5")),
        3 => Operation::Compaction(CompactionRequest {
            revision: i64::try_from(rng.below(900)).unwrap(),
            physical: false,
        }),
        4..8 => Operation::Txn(TxnRequest {
            compare: vec![version_is(&key, 1)],
            success: vec![op(Request::RequestDeleteRange(delete(&key, "")))],
            failure: vec![op(Request::RequestPut(put_of(&key, "txn", lease))), get(&key)],
        }),
        _ => Operation::Put(put_of(&key, &"v".repeat(usize::try_from(rng.below(30)).unwrap()), lease)),
    }
}

/// A kill loses what was not flushed; the log brings it back. Wherever it falls, the member ends as one that was never
/// killed, and says the same on the way.
#[test]
fn a_state_that_was_cut_anywhere_becomes_the_same_again() {
    let mut told = BTreeMap::<&str, u64>::new();
    for seed in 0..4 {
        let dir = tempfile::tempdir().unwrap();
        let mut rng = Seeded::new(seed);
        let mut whole = Member::create(&dir.path().join("whole"));
        let path = dir.path().join("cut");
        let mut cut = Member::create(&path);
        let mut log: Vec<(Vec<Operation>, Vec<Outcome>)> = vec![];
        for _ in 0..300 {
            let operations: Vec<_> = (0..=rng.below(4)).map(|_| random(&mut rng)).collect();
            let outcomes = whole.apply(operations.clone());
            for outcome in &outcomes {
                *told.entry(if outcome.is_ok() { "done" } else { "refused" }).or_default() += 1;
            }
            log.push((operations, outcomes));
            if rng.below(3) == 0 {
                let some = usize::try_from(rng.below(whole.cuts.len() as u64 + 1)).unwrap();
                whole.flush(some);
            }
            while cut.machine.position().index < log.len() as u64 && rng.below(4) > 0 {
                let (operations, outcomes) = &log[usize::try_from(cut.machine.position().index).unwrap()];
                assert_eq!(&cut.apply(operations.clone()), outcomes);
            }
            let some = usize::try_from(rng.below(cut.cuts.len() as u64 + 1)).unwrap();
            cut.flush(some);
            if rng.below(12) == 0 {
                let Member { backend, machine, cuts } = cut;
                *told.entry(if cuts.is_empty() { "killed when all was flushed" } else { "killed" }).or_default() += 1;
                drop((machine, cuts));
                drop(Arc::into_inner(backend).expect("nobody else has it"));
                cut = Member::on(Backend::open(&path, CACHE_BYTES).unwrap());
            }
        }
        while let Some((operations, outcomes)) = log.get(usize::try_from(cut.machine.position().index).unwrap()) {
            assert_eq!(&cut.apply(operations.clone()), outcomes);
        }
        assert_eq!(picture(&whole), picture(&cut));
        for member in [&mut whole, &mut cut] {
            let cuts = member.cuts.len();
            member.flush(cuts);
            let again = Machine::open(&member.backend).unwrap();
            assert_eq!(again.position(), member.machine.position());
            let opened = Member { backend: Arc::clone(&member.backend), machine: again, cuts: vec![] };
            assert_eq!(picture(&opened), picture(member));
        }
    }
    let expected = ["done", "killed", "killed when all was flushed", "refused"];
    assert_eq!(told.keys().copied().collect::<Vec<_>>(), expected, "{told:?}");
}

/// Revisions, the state at each of them, and the keys of each lease.
type Picture = (i64, i64, Vec<RangeResponse>, Vec<(i64, Vec<Vec<u8>>)>);

/// Everything that can be asked.
fn picture(member: &Member) -> Picture {
    let state = member.machine.state();
    let (revision, compact_revision) = (state.view.revision(), state.view.compact_revision());
    let at = |revision| RangeRequest { key: "\0".into(), range_end: "\0".into(), revision, ..RangeRequest::default() };
    let history = (compact_revision.max(1)..=revision).map(|revision| range(&state, &at(revision)).unwrap()).collect();
    let keys = |lease: &crate::store::lease::lessor::Lease| lease.keys.iter().map(|key| key.to_vec()).collect();
    let leases = state.lessor.all().map(|(id, lease)| (id, keys(lease))).collect();
    (revision, compact_revision, history, leases)
}

/// The digest of a state as whoever reads its records works it out.
fn proved(state: &State) -> StateDigest {
    let picture = records::Picture::of(state, &Origin::default(), &mut || Ok(())).unwrap();
    let mut stored = vec![];
    let last = Place { main: i64::MAX, sub: i64::MAX };
    picture
        .revisions(Place::default(), last, &mut |_, revision| {
            stored.push((revision.rev, revision.tombstone, revision.stored.to_vec()));
            Ok(())
        })
        .unwrap();
    let revisions: Vec<_> = stored
        .iter()
        .map(|(rev, tombstone, stored)| {
            Record::Revision(crate::snapshot::record::Revision { rev: *rev, tombstone: *tombstone, stored })
        })
        .collect();
    let (revision, compact_revision) = (state.view.revision(), state.view.compact_revision());
    let mut prover = Prover::new(Scope { revision, compact_revision }, 1);
    prover.batch(&revisions).unwrap();
    picture.leases(&mut |record| prover.batch(&[*record])).unwrap();
    prover.batch(&picture.side_records()).unwrap();
    prover.finish().state_digest
}

/// What the state says of its digest, and at which index.
fn scrubbed(state: &State) -> Result<Scrubbed> {
    scrub(state, &mut |_| Ok(()))
}

fn note(sum: Option<(u64, [u8; 32])>) -> SideChange {
    let value = sum.map(|(index, sum)| [&index.to_be_bytes()[..], &sum].concat());
    SideChange { space: Space::Meta, key: b"digest".to_vec(), value }
}

/// What a limit cuts off is cut off on the way, and that shows in nothing.
#[test]
fn an_order_with_a_limit_is_the_beginning_of_the_order() {
    let (_dir, mut member) = member();
    for n in 0..3000 {
        member.one(put(&format!("{:04}", n * 7919 % 3000), &format!("{}", n * 31 % 400))).unwrap();
    }
    let state = member.machine.state();
    for sort_target in 0..5 {
        for sort_order in 0..3 {
            let request = RangeRequest {
                key: "\0".into(),
                range_end: "\0".into(),
                sort_target,
                sort_order,
                min_mod_revision: 500,
                ..RangeRequest::default()
            };
            let all = range(&state, &request).unwrap();
            assert_eq!((all.kvs.len(), all.count, all.more), (2502, 3000, false));
            for limit in [1, 7, 1500, 2501, 2502, 2503] {
                let some = range(&state, &RangeRequest { limit, ..request.clone() }).unwrap();
                let limit = usize::try_from(limit).unwrap().min(2502);
                assert_eq!((some.count, some.more), (3000, limit < 2502));
                assert!(some.kvs == all.kvs[..limit], "{sort_target} {sort_order} {limit}");
            }
        }
    }
}

/// What is stored is not what the index in memory says, one way or the other.
#[test]
fn a_scrub_reads_all_and_finds_what_is_gone_and_what_is_too_many() {
    let (_dir, mut member) = member();
    for n in 0..40 {
        member.one(put(&format!("{}", n % 10), &"v".repeat(n))).unwrap();
    }
    member.one(Operation::DeleteRange(delete("3", ""))).unwrap();
    member.one(Operation::Compaction(CompactionRequest { revision: 21, physical: false })).unwrap();
    member.flush(30);
    let (mut read, state) = (0, member.machine.state());
    let scrubbed_all = scrub(&state, &mut |bytes| {
        read += bytes;
        Ok(())
    });
    // Nothing is deleted yet: what the compaction made superfluous is read too.
    let scrubbed_all = scrubbed_all.unwrap();
    assert_eq!((scrubbed_all.revisions, scrubbed_all.bytes), (41, read));
    let stopped = scrub(&state, &mut |_| Err(Error::new(Kind::Interrupted, "enough"))).unwrap_err();
    assert_eq!(stopped.kind(), Kind::Interrupted);
    member.flush(12);
    let gone = |mains: &[i64]| mains.iter().copied().map(Rev::of).collect::<Vec<_>>();
    // Revision 5 is superfluous, and may be deleted. 21 is the newest of its key up to the compaction.
    member.backend.write(&mut std::iter::empty(), &[], &gone(&[5])).unwrap();
    assert_eq!(scrubbed(&state).unwrap().revisions, 40);
    let kept = member.backend.get(Rev::of(12)).unwrap().unwrap();
    member.backend.write(&mut std::iter::empty(), &[], &gone(&[21, 35])).unwrap();
    let error = scrubbed(&state).unwrap_err();
    assert_eq!(error.to_string(), "29 revisions are stored of 31 that there are");
    assert_eq!(error.kind(), Kind::Damaged);
    let stored = Stored { rev: Rev::of(35), tombstone: false, message: &kept.1 };
    let brief = Brief { key: b"0", created: 2, number: 4, lease: 0 };
    member.backend.write(&mut std::iter::once(Revision { stored, brief }), &[], &[]).unwrap();
    let error = scrubbed(&state).unwrap_err().to_string();
    assert_eq!(error, "revision 35/0 is stored, and is of no key");
}

/// A member, what was applied to it, and states that somebody looks at.
struct World {
    path: PathBuf,
    member: Member,
    log: Vec<Vec<Operation>>,
    kept: Vec<Arc<State>>,
}

impl World {
    fn new(path: PathBuf) -> World {
        World { member: Member::create(&path), path, log: vec![], kept: vec![] }
    }

    fn apply(&mut self, rng: &mut Seeded) {
        let operation = |rng: &mut Seeded| {
            let (action, member_id) = (1 + i32::try_from(rng.below(2)).unwrap(), rng.below(2));
            let alarm = AlarmRequest { action, member_id, alarm: AlarmType::Nospace as i32 };
            if rng.below(9) == 0 { Operation::Alarm(alarm) } else { random(rng) }
        };
        let operations: Vec<_> = (0..=rng.below(4)).map(|_| operation(rng)).collect();
        self.member.apply(operations.clone());
        self.log.push(operations);
    }

    fn step(mut self, rng: &mut Seeded) -> (World, &'static str) {
        let World { member, kept, .. } = &mut self;
        let all = member.cuts.len();
        let what = match rng.below(12) {
            0 => {
                let state = member.machine.state();
                assert_eq!(state.digest.get().unwrap(), proved(&state));
                scrubbed(&state).unwrap();
                "asked"
            }
            1..4 => {
                kept.push(member.machine.state());
                "kept"
            }
            4 if !kept.is_empty() => {
                let state = kept.remove(usize::try_from(rng.below(kept.len() as u64)).unwrap());
                assert_eq!(state.digest.get().unwrap(), proved(&state));
                scrubbed(&state).unwrap();
                "asked late"
            }
            5..8 => {
                member.flush(usize::try_from(rng.below(all as u64 + 1)).unwrap());
                "flushed"
            }
            8 => match member.machine.prune() {
                Some(cut) => {
                    member.cuts.push(cut);
                    "pruned"
                }
                None => "not pruned",
            },
            9 => {
                member.flush(all);
                member.backend.defragment(&mut |_| Ok(())).unwrap();
                "defragmented"
            }
            10 if rng.below(3) == 0 => return self.killed(rng),
            _ => "nothing",
        };
        (self, what)
    }

    /// What was not flushed is applied again.
    fn killed(self, rng: &mut Seeded) -> (World, &'static str) {
        let World { path, member: Member { backend, machine, cuts }, log, kept } = self;
        drop((machine, cuts, kept));
        let index = Meta::read(&backend).unwrap().position.index;
        let is_older = index > 0 && rng.below(3) == 0;
        if is_older {
            // As an older version leaves it: the position moved, and what is said of the digest did not.
            let change = if rng.below(2) == 0 { None } else { Some((index - 1, [9; 32])) };
            backend.write(&mut std::iter::empty(), &[note(change)], &[]).unwrap();
        }
        drop(Arc::into_inner(backend).expect("nobody else has it"));
        let mut member = Member::on(Backend::open(&path, CACHE_BYTES).unwrap());
        while let Some(operations) = log.get(usize::try_from(member.machine.position().index).unwrap()) {
            member.apply(operations.clone());
        }
        (World { path, member, log, kept: vec![] }, if is_older { "opened after an older version" } else { "opened" })
    }
}

/// Whenever it is asked for, of whatever state: now, or when later ones were asked for, flushed, compacted and deleted.
#[test]
fn the_digest_is_that_of_the_records_whatever_happened() {
    let mut told = BTreeMap::<&str, u64>::new();
    for seed in 0..6 {
        let (dir, mut rng) = (tempfile::tempdir().unwrap(), Seeded::new(100 + seed));
        let mut world = World::new(dir.path().join("db"));
        for _ in 0..250 {
            world.apply(&mut rng);
            let what;
            (world, what) = world.step(&mut rng);
            *told.entry(what).or_default() += 1;
        }
        let state = world.member.machine.state();
        assert_eq!(state.digest.get().unwrap(), proved(&state), "seed {seed}");
        scrubbed(&state).unwrap();
    }
    let expected = [
        "asked",
        "asked late",
        "defragmented",
        "flushed",
        "kept",
        "not pruned",
        "nothing",
        "opened",
        "opened after an older version",
        "pruned",
    ];
    assert_eq!(told.keys().copied().collect::<Vec<_>>(), expected, "{told:?}");
}

/// The sum is written with each flush, so that a start works nothing out; and because it is believed then, whoever reads the
/// records must find out when it is wrong.
#[test]
fn a_sum_that_is_stored_is_believed_and_found_out_when_it_is_wrong() {
    let (_dir, mut member) = member();
    member.one(put("a", "one")).unwrap();
    member.one(Operation::LeaseGrant(LeaseGrantRequest { id: 7, ttl: 60 })).unwrap();
    member.flush(2);
    let digest = member.machine.state().digest.get().unwrap();
    let meta = Meta::read(&member.backend).unwrap();
    assert_eq!((meta.digest, meta.position.index), (Some(digest), 2));
    let opened = || Machine::open(&member.backend).unwrap().state();
    assert_eq!(proved(&opened()), digest);
    let mut wrong = digest.to_bytes();
    wrong[17] ^= 1;
    member.backend.write(&mut std::iter::empty(), &[note(Some((2, wrong)))], &[]).unwrap();
    let state = opened();
    assert_eq!(state.digest.get().unwrap(), StateDigest::from_bytes(wrong));
    assert_ne!(state.digest.get().unwrap(), proved(&state));
    let error = scrubbed(&state).unwrap_err();
    assert!(error.to_string().starts_with("at revision 2 the state is "), "{error}");
    let cut = SideChange { value: Some(vec![1; 39]), ..note(None) };
    member.backend.write(&mut std::iter::empty(), &[cut], &[]).unwrap();
    let error = Machine::open(&member.backend).unwrap_err();
    assert!(error.to_string().contains("the state's digest cannot be read"), "{error}");
}
