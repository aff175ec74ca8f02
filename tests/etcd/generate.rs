//! Requests by chance: good ones, odd ones and bad ones, over so few keys that they meet.

use bytes::Bytes;
use holdfast::api::etcdserverpb as pb;
use holdfast::api::etcdserverpb::alarm_request::AlarmAction;
use holdfast::api::etcdserverpb::compare::TargetUnion;
use holdfast::api::etcdserverpb::request_op::Request as Op;
use holdfast::base::rng::Seeded;

use crate::ask::{Ask, Outcome, Reply};

/// Few, and some the beginning of others.
const KEYS: [&[u8]; 14] =
    [b"a", b"a\0", b"aa", b"ab", b"b", b"c", b"k/1", b"k/2", b"k/3", b"k/4", b"k0", b"\0", b"\0\0", b"\xff"];
const ENDS: [&[u8]; 6] = [b"k0", b"b", b"l", b"\xff\xff", b"\0\x01", b"k/3"];
const LEASES: [i64; 7] = [1, 2, 3, 77, i64::MAX, -5, i64::MIN];
/// How deep transactions are nested.
const DEPTH_MAX: u32 = 3;
/// Requests between two changes of members.
const REST: u32 = 30;
/// etcd's limit for operations in a transaction.
pub(crate) const OPERATIONS_MAX: usize = 128;
/// etcd's limit for a request, in bytes.
pub(crate) const REQUEST_BYTES_MAX: usize = 1_572_864;

/// A source of requests, which knows roughly how the members stand.
#[derive(Debug)]
pub(crate) struct Generator {
    rng: Seeded,
    revision: i64,
    compact_revision: i64,
    /// Requests until the alarm that was raised is taken back.
    alarm: Option<(pb::AlarmType, u32)>,
    /// Requests until members may be changed again.
    rest: u32,
}

impl Generator {
    /// The requests that a seed stands for, to members at this revision.
    pub(crate) fn new(seed: u64, revision: i64, compact_revision: i64) -> Self {
        Generator { rng: Seeded::new(seed), revision, compact_revision, alarm: None, rest: 0 }
    }

    /// Tells what came of a request.
    pub(crate) fn learn(&mut self, ask: &Ask, outcome: &Outcome) {
        let Ok(reply) = outcome else { return };
        self.revision = self.revision.max(reply.revision().unwrap_or_default());
        if let (Ask::Compact(request), Reply::Compact(_)) = (ask, reply) {
            self.compact_revision = request.revision;
        }
        if let (Ask::Alarm(action, alarm), Reply::Alarm(_)) = (ask, reply) {
            match action {
                AlarmAction::Activate if *alarm != pb::AlarmType::None => self.alarm = Some((*alarm, 30)),
                AlarmAction::Deactivate if self.alarm.is_some_and(|(active, _)| active == *alarm) => self.alarm = None,
                _ => {}
            }
        }
    }

    /// The next request.
    pub(crate) fn next(&mut self) -> Ask {
        self.rest = self.rest.saturating_sub(1);
        if let Some((alarm, left)) = &mut self.alarm {
            *left = left.saturating_sub(1);
            if *left == 0 {
                return Ask::Alarm(AlarmAction::Deactivate, *alarm);
            }
        }
        match self.rng.below(200) {
            // Not within transactions: etcd 3.5.1 would carry them out. Asked to sort by something unknown, it ends.
            0 => {
                let (sort_order, sort_target) = self.pick(&[(3, 0), (7, 3), (-1, 2)]);
                Ask::Range(pb::RangeRequest { sort_order, sort_target, ..self.range() })
            }
            1..50 => Ask::Range(self.range()),
            50..90 => Ask::Put(self.put()),
            90..106 => Ask::DeleteRange(self.delete_range()),
            106..150 => Ask::Txn(self.txn(0)),
            150..156 => self.compact(),
            156..166 => match self.ttl() {
                // One that could end meanwhile is not used by others.
                ttl @ ..600 => Ask::GrantAny(ttl),
                ttl => Ask::Grant(pb::LeaseGrantRequest { ttl, id: self.lease() }),
            },
            166..168 => Ask::GrantAny(self.ttl()),
            168..172 => Ask::Revoke(self.lease()),
            172..176 => {
                let ids = (0..self.rng.below(4)).map(|_| self.lease()).collect();
                Ask::KeepAlive(ids)
            }
            176..182 => Ask::TimeToLive(pb::LeaseTimeToLiveRequest { id: self.lease(), keys: self.half() }),
            182..185 => Ask::Leases,
            185..191 => self.hash(),
            191..194 => self.alarm(),
            194..197 => self.cluster(),
            _ => self.seldom(),
        }
    }

    fn half(&mut self) -> bool {
        self.rng.below(2) == 0
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.rng.below(n) == 0
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[usize::try_from(self.rng.below(from.len() as u64)).unwrap()]
    }

    fn number(&mut self, below: i64) -> i64 {
        i64::try_from(self.rng.below(below.unsigned_abs())).unwrap()
    }

    fn key(&mut self) -> Bytes {
        if self.one_in(40) { Bytes::new() } else { Bytes::from_static(self.pick(&KEYS)) }
    }

    fn end(&mut self) -> Bytes {
        match self.rng.below(10) {
            0..5 => Bytes::new(),
            5..7 => Bytes::from_static(b"\0"),
            7 => Bytes::from_static(self.pick(&KEYS)),
            _ => Bytes::from_static(self.pick(&ENDS)),
        }
    }

    fn value(&mut self) -> Bytes {
        let values: [&[u8]; 6] = [b"", b"v", b"v", b"w", b"\0\xff", b"a longer value than the others"];
        Bytes::from_static(self.pick(&values))
    }

    fn lease(&mut self) -> i64 {
        // 0 means another thing to each request: it is asked for where that is wanted.
        self.pick(&LEASES)
    }

    fn ttl(&mut self) -> i64 {
        match self.rng.below(8) {
            0 => 0,
            1 => -1,
            2 => 9_000_000_001,
            3 => i64::MAX,
            _ => 600 + self.number(1000),
        }
    }

    /// One that is there, has gone, or is to come.
    fn a_revision(&mut self) -> i64 {
        match self.rng.below(10) {
            0..4 => 0,
            4 => -self.number(3),
            5 => self.compact_revision + self.number(3) - 1,
            6 => self.revision + self.number(4) - 1,
            _ => self.compact_revision + self.number((self.revision - self.compact_revision).max(1)),
        }
    }

    fn range(&mut self) -> pb::RangeRequest {
        let plain = self.half();
        let mut request = pb::RangeRequest {
            key: self.key(),
            range_end: self.end(),
            revision: self.a_revision(),
            serializable: self.one_in(5),
            ..Default::default()
        };
        if self.one_in(3) {
            request.limit = self.number(6) - 1;
        }
        if plain {
            return request;
        }
        if self.half() {
            (request.sort_order, request.sort_target) = (self.small(3), self.small(5));
        }
        (request.keys_only, request.count_only) = (self.one_in(6), self.one_in(8));
        let bounds = [
            &mut request.min_mod_revision,
            &mut request.max_mod_revision,
            &mut request.min_create_revision,
            &mut request.max_create_revision,
        ];
        for bound in bounds {
            if self.one_in(5) {
                *bound = self.number(self.revision + 2);
            }
        }
        request
    }

    fn small(&mut self, below: i64) -> i32 {
        i32::try_from(self.number(below)).unwrap()
    }

    fn put(&mut self) -> pb::PutRequest {
        let lease = match self.rng.below(10) {
            0..5 => 0,
            5 => 4711,
            _ => self.lease(),
        };
        let (ignore_value, ignore_lease) = (self.one_in(8), self.one_in(8));
        // Mostly as a sane client would.
        let sane = !self.one_in(4);
        pb::PutRequest {
            key: self.key(),
            value: if ignore_value && sane { Bytes::new() } else { self.value() },
            lease: if ignore_lease && sane { 0 } else { lease },
            prev_kv: self.one_in(3),
            ignore_value,
            ignore_lease,
        }
    }

    fn delete_range(&mut self) -> pb::DeleteRangeRequest {
        // Not everything, each time.
        let range_end = if self.one_in(3) { self.end() } else { Bytes::new() };
        pb::DeleteRangeRequest { key: self.key(), range_end, prev_kv: self.half() }
    }

    fn txn(&mut self, depth: u32) -> pb::TxnRequest {
        if depth == 0 && self.one_in(30) {
            return self.long_txn();
        }
        let compares = if self.one_in(4) { 0 } else { self.rng.below(3) };
        let reads = self.one_in(5);
        pb::TxnRequest {
            compare: (0..compares).map(|_| self.compare()).collect(),
            success: self.operations(depth, reads),
            failure: self.operations(depth, reads),
        }
    }

    fn operations(&mut self, depth: u32, reads: bool) -> Vec<pb::RequestOp> {
        (0..self.rng.below(4)).map(|_| pb::RequestOp { request: self.operation(depth, reads) }).collect()
    }

    fn operation(&mut self, depth: u32, reads: bool) -> Option<Op> {
        match self.rng.below(40) {
            0 => None,
            _ if reads => {
                let mut request = self.range();
                if self.half() {
                    (request.serializable, request.revision) = (true, 0);
                }
                Some(Op::RequestRange(request))
            }
            1..12 => Some(Op::RequestRange(self.range())),
            12..26 => Some(Op::RequestPut(self.put())),
            26..32 => Some(Op::RequestDeleteRange(self.delete_range())),
            // Without space, etcd does not see what a nested transaction puts.
            _ if depth < DEPTH_MAX && self.alarm.is_none_or(|(alarm, _)| alarm != pb::AlarmType::Nospace) => {
                Some(Op::RequestTxn(self.txn(depth + 1)))
            }
            _ => Some(Op::RequestPut(self.put())),
        }
    }

    /// About as many operations as are allowed, on one level or on two.
    fn long_txn(&mut self) -> pb::TxnRequest {
        let list = |n: usize| -> Vec<_> {
            // The same key may be deleted twice, and stays one key to look at.
            let delete = || pb::DeleteRangeRequest { key: "c".into(), ..Default::default() };
            (0..n).map(|_| pb::RequestOp { request: Some(Op::RequestDeleteRange(delete())) }).collect()
        };
        let over = usize::from(self.half());
        if self.half() {
            return pb::TxnRequest { success: list(OPERATIONS_MAX + over), ..Default::default() };
        }
        let nested = pb::TxnRequest { failure: list(OPERATIONS_MAX - 1 + over), ..Default::default() };
        let nested = pb::RequestOp { request: Some(Op::RequestTxn(nested)) };
        pb::TxnRequest { failure: vec![nested], ..Default::default() }
    }

    fn compare(&mut self) -> pb::Compare {
        let target = self.small(5);
        let number = if self.half() { self.number(4) } else { self.number(self.revision + 1) };
        let union = match target {
            0 => TargetUnion::Version(number),
            1 => TargetUnion::CreateRevision(number),
            2 => TargetUnion::ModRevision(number),
            3 => TargetUnion::Value(self.value()),
            _ => TargetUnion::Lease(self.lease()),
        };
        let mut compare = pb::Compare {
            result: self.small(4),
            target,
            key: if self.one_in(30) { Bytes::new() } else { self.key() },
            range_end: if self.one_in(4) { self.end() } else { Bytes::new() },
            target_union: if self.one_in(8) { None } else { Some(union) },
        };
        match self.rng.below(40) {
            0 => compare.result = 9,
            1 => compare.target = 9,
            // An operand for something else.
            2 => compare.target_union = Some(TargetUnion::Version(1)),
            _ => {}
        }
        compare
    }

    fn compact(&mut self) -> Ask {
        let revision = match self.rng.below(6) {
            0 => self.compact_revision - self.number(2),
            1 => self.revision + 1 + self.number(3),
            2 => self.revision,
            _ => self.compact_revision + 1 + self.number((self.revision - self.compact_revision).clamp(1, 40)),
        };
        // A hash depends on how far a compaction has come.
        Ask::Compact(pb::CompactionRequest { revision, physical: !self.one_in(8) })
    }

    fn hash(&mut self) -> Ask {
        Ask::HashKv(match self.rng.below(4) {
            0 => 0,
            1 => (self.compact_revision + self.number(3) - 1).max(0),
            2 => self.revision + self.number(3),
            _ => self.compact_revision + 1 + self.number((self.revision - self.compact_revision).max(1)),
        })
    }

    fn alarm(&mut self) -> Ask {
        let alarm = self.pick(&[pb::AlarmType::None, pb::AlarmType::Nospace, pb::AlarmType::Corrupt]);
        // With two of them, etcd 3.5.1 forgets what the other one forbids as soon as one is taken back.
        let raise = if self.alarm.is_some() { AlarmAction::Get } else { AlarmAction::Activate };
        let action = self.pick(&[AlarmAction::Get, raise, AlarmAction::Deactivate]);
        Ask::Alarm(action, alarm)
    }

    fn cluster(&mut self) -> Ask {
        let urls: [&[&str]; 5] =
            [&[], &["127.0.0.1:1"], &["http://127.0.0.1:1/path"], &["ftp://127.0.0.1:1"], &["http://nobody"]];
        let urls: Vec<_> = self.pick(&urls).iter().map(|url| (*url).to_owned()).collect();
        // etcd 3.5.1 forgets a change of members that follows another at once, and never answers it.
        let change = if self.rest == 0 { self.rng.below(6) } else { self.rng.below(2) + 4 };
        if change < 4 {
            self.rest = REST;
        }
        match change {
            0 => Ask::MemberAdd(urls),
            1 => Ask::MemberUpdate(urls),
            2 => Ask::MemberRemove(self.half()),
            3 => Ask::MemberPromote(self.half()),
            4 => Ask::MoveLeader(self.half()),
            _ => Ask::Version(self.pick(&[&b"3.5.1"[..], b"nonsense"])),
        }
    }

    /// What takes long.
    fn seldom(&mut self) -> Ask {
        if !self.one_in(10) {
            return Ask::Range(self.range());
        }
        let bytes = self.pick(&[REQUEST_BYTES_MAX - 1000, REQUEST_BYTES_MAX, REQUEST_BYTES_MAX + (512 << 10)]);
        Ask::Put(pb::PutRequest { key: "big".into(), value: vec![7; bytes].into(), ..Default::default() })
    }
}
