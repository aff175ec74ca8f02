//! A request of any kind, and what came of it, told so that two members' answers can be compared.

use futures::StreamExt as _;
use holdfast::api::etcdserverpb as pb;
use holdfast::api::etcdserverpb::alarm_request::AlarmAction;
use holdfast::api::etcdserverpb::request_op::Request as Step;
use holdfast::api::etcdserverpb::response_op::Response as Op;
use holdfast::api::mvccpb::KeyValue;
use tonic::metadata::MetadataValue;
use tonic::{Code, Request, Status};

use crate::member::Member;

/// A request.
#[derive(Clone, Debug)]
pub(crate) enum Ask {
    Range(pb::RangeRequest),
    Put(pb::PutRequest),
    DeleteRange(pb::DeleteRangeRequest),
    Txn(pb::TxnRequest),
    Compact(pb::CompactionRequest),
    Grant(pb::LeaseGrantRequest),
    /// Grants one under an id of the member's choice, and revokes it.
    GrantAny(i64),
    Revoke(i64),
    KeepAlive(Vec<i64>),
    TimeToLive(pb::LeaseTimeToLiveRequest),
    Leases,
    HashKv(i64),
    /// An alarm of the member that is asked.
    Alarm(AlarmAction, pb::AlarmType),
    MemberAdd(Vec<String>),
    /// With the address of the member that is asked.
    MemberAddAgain,
    /// Of the member that is asked, or of one that does not exist.
    MemberRemove(bool),
    MemberPromote(bool),
    MemberUpdate(Vec<String>),
    MoveLeader(bool),
    /// A range with metadata that names the client's version.
    Version(&'static [u8]),
}

/// An answer.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Reply {
    Range(pb::RangeResponse),
    Put(pb::PutResponse),
    DeleteRange(pb::DeleteRangeResponse),
    Txn(pb::TxnResponse),
    Compact(pb::CompactionResponse),
    Grant(pb::LeaseGrantResponse),
    Revoke(pb::LeaseRevokeResponse),
    KeepAlive(Vec<pb::LeaseKeepAliveResponse>),
    TimeToLive(pb::LeaseTimeToLiveResponse),
    Leases(pb::LeaseLeasesResponse),
    HashKv(pb::HashKvResponse),
    Alarm(pb::AlarmResponse),
    MoveLeader(pb::MoveLeaderResponse),
    Members,
}

/// What came of a request.
pub(crate) type Outcome = Result<Reply, (Code, String)>;

/// The id of a member that is not there.
const NOBODY: u64 = 0xdead;

impl Ask {
    /// Asks a member. What is each member's own (ids, terms) is left out of the answer.
    pub(crate) async fn of(&self, member: &Member) -> Outcome {
        match self.send(&mut member.clone()).await {
            Ok(mut reply) => {
                reply.common(member.id);
                self.settle(&mut reply);
                Ok(reply)
            }
            Err(status) => Err((status.code(), status.message().to_owned())),
        }
    }

    /// Among keys that sort alike, etcd's order is any. That they are sorted is checked here; who is first among equals is
    /// not compared.
    fn settle(&self, reply: &mut Reply) {
        match (self, reply) {
            (Ask::Range(request), Reply::Range(reply)) => settle_range(request, reply),
            (Ask::Txn(request), Reply::Txn(reply)) => settle_txn(request, reply),
            _ => {}
        }
    }

    async fn send(&self, member: &mut Member) -> Result<Reply, Status> {
        let own = |own: bool| if own { member.id } else { NOBODY };
        Ok(match self.clone() {
            Ask::Range(request) => Reply::Range(member.kv.range(request).await?.into_inner()),
            Ask::Put(request) => Reply::Put(member.kv.put(request).await?.into_inner()),
            Ask::DeleteRange(request) => Reply::DeleteRange(member.kv.delete_range(request).await?.into_inner()),
            Ask::Txn(request) => Reply::Txn(member.kv.txn(request).await?.into_inner()),
            Ask::Compact(request) => Reply::Compact(member.kv.compact(request).await?.into_inner()),
            Ask::Grant(request) => Reply::Grant(member.lease.lease_grant(request).await?.into_inner()),
            Ask::GrantAny(ttl) => {
                let request = pb::LeaseGrantRequest { ttl, id: 0 };
                let mut reply = member.lease.lease_grant(request).await?.into_inner();
                assert!(reply.id > 0, "{reply:?}");
                member.lease.lease_revoke(pb::LeaseRevokeRequest { id: std::mem::take(&mut reply.id) }).await?;
                Reply::Grant(reply)
            }
            Ask::Revoke(id) => {
                let request = pb::LeaseRevokeRequest { id };
                Reply::Revoke(member.lease.lease_revoke(request).await?.into_inner())
            }
            Ask::KeepAlive(ids) => {
                let questions = futures::stream::iter(ids.into_iter().map(|id| pb::LeaseKeepAliveRequest { id }));
                let mut answers = member.lease.lease_keep_alive(questions).await?.into_inner();
                let mut replies = vec![];
                while let Some(reply) = answers.next().await {
                    replies.push(reply?);
                }
                Reply::KeepAlive(replies)
            }
            Ask::TimeToLive(request) => Reply::TimeToLive(member.lease.lease_time_to_live(request).await?.into_inner()),
            Ask::Leases => Reply::Leases(member.lease.lease_leases(pb::LeaseLeasesRequest {}).await?.into_inner()),
            Ask::HashKv(revision) => {
                let request = pb::HashKvRequest { revision };
                Reply::HashKv(member.maintenance.hash_kv(request).await?.into_inner())
            }
            Ask::Alarm(action, alarm) => {
                let member_id = if action == AlarmAction::Get { 0 } else { member.id };
                let request = pb::AlarmRequest { action: action as i32, member_id, alarm: alarm as i32 };
                Reply::Alarm(member.maintenance.alarm(request).await?.into_inner())
            }
            Ask::MemberAdd(peer_ur_ls) => {
                member.cluster.member_add(pb::MemberAddRequest { peer_ur_ls, is_learner: false }).await?;
                Reply::Members
            }
            Ask::MemberAddAgain => {
                let list = member.cluster.member_list(pb::MemberListRequest { linearizable: true }).await?.into_inner();
                let [me] = list.members.try_into().unwrap();
                assert_eq!(list.header.unwrap().revision, 0, "members have nothing to do with keys");
                assert!(me.id == member.id && !me.name.is_empty() && !me.client_ur_ls.is_empty() && !me.is_learner);
                let request = pb::MemberAddRequest { peer_ur_ls: me.peer_ur_ls, is_learner: true };
                member.cluster.member_add(request).await?;
                Reply::Members
            }
            Ask::MemberRemove(it) => {
                member.cluster.member_remove(pb::MemberRemoveRequest { id: own(it) }).await?;
                Reply::Members
            }
            Ask::MemberPromote(it) => {
                member.cluster.member_promote(pb::MemberPromoteRequest { id: own(it) }).await?;
                Reply::Members
            }
            Ask::MemberUpdate(peer_ur_ls) => {
                member.cluster.member_update(pb::MemberUpdateRequest { id: NOBODY, peer_ur_ls }).await?;
                Reply::Members
            }
            Ask::MoveLeader(it) => {
                let request = pb::MoveLeaderRequest { target_id: own(it) };
                Reply::MoveLeader(member.maintenance.move_leader(request).await?.into_inner())
            }
            Ask::Version(version) => {
                let mut request = Request::new(pb::RangeRequest { key: "a".into(), ..Default::default() });
                let version = MetadataValue::try_from(version).unwrap();
                request.metadata_mut().insert("client-api-version", version);
                Reply::Range(member.kv.range(request).await?.into_inner())
            }
        })
    }
}

impl Reply {
    /// Leaves out what is one member's own. Headers inside of transactions are left as they are: they have nothing of it.
    fn common(&mut self, own: u64) {
        let clean = |header: &mut Option<pb::ResponseHeader>| {
            if let Some(header) = header {
                assert_ne!((header.cluster_id, header.member_id, header.raft_term), (0, 0, 0), "who answered is told");
                *header = pb::ResponseHeader { revision: header.revision, ..Default::default() };
            }
        };
        match self {
            Reply::Range(reply) => clean(&mut reply.header),
            Reply::Put(reply) => clean(&mut reply.header),
            Reply::DeleteRange(reply) => clean(&mut reply.header),
            Reply::Txn(reply) => clean(&mut reply.header),
            Reply::Compact(reply) => clean(&mut reply.header),
            Reply::Grant(reply) => clean(&mut reply.header),
            Reply::Revoke(reply) => clean(&mut reply.header),
            Reply::KeepAlive(replies) => replies.iter_mut().for_each(|reply| clean(&mut reply.header)),
            Reply::TimeToLive(reply) => {
                clean(&mut reply.header);
                // Written to one member a moment before the other.
                if reply.ttl > 0 {
                    assert!((0..=60).contains(&(reply.granted_ttl - reply.ttl)), "{reply:?}");
                    reply.ttl = reply.granted_ttl;
                }
                reply.keys.sort();
            }
            Reply::Leases(reply) => {
                clean(&mut reply.header);
                reply.leases.sort_by_key(|lease| lease.id);
            }
            Reply::HashKv(reply) => {
                clean(&mut reply.header);
                // Told since 3.6.
                reply.hash_revision = 0;
            }
            Reply::Alarm(reply) => {
                clean(&mut reply.header);
                for alarm in &mut reply.alarms {
                    assert_eq!(alarm.member_id, own);
                    alarm.member_id = 0;
                }
            }
            Reply::MoveLeader(_) | Reply::Members => {}
        }
    }

    /// The revision of its header, where it has one.
    pub(crate) fn revision(&self) -> Option<i64> {
        let header = match self {
            Reply::Range(reply) => &reply.header,
            Reply::Put(reply) => &reply.header,
            Reply::DeleteRange(reply) => &reply.header,
            Reply::Txn(reply) => &reply.header,
            Reply::Compact(reply) => &reply.header,
            Reply::Grant(reply) => &reply.header,
            Reply::Revoke(reply) => &reply.header,
            _ => &None,
        };
        header.as_ref().map(|header| header.revision)
    }
}

/// The replies inside of a transaction's, those of nested ones too, and how deep each is.
pub(crate) fn steps(reply: &pb::TxnResponse) -> Vec<(usize, &Op)> {
    let mut steps = vec![];
    for op in reply.responses.iter().filter_map(|op| op.response.as_ref()) {
        steps.push((0, op));
        if let Op::ResponseTxn(nested) = op {
            steps.extend(self::steps(nested).into_iter().map(|(depth, op)| (depth + 1, op)));
        }
    }
    steps
}

fn settle_txn(request: &pb::TxnRequest, reply: &mut pb::TxnResponse) {
    let taken = if reply.succeeded { &request.success } else { &request.failure };
    for (request, reply) in taken.iter().zip(&mut reply.responses) {
        match (&request.request, &mut reply.response) {
            (Some(Step::RequestRange(request)), Some(Op::ResponseRange(reply))) => settle_range(request, reply),
            (Some(Step::RequestTxn(request)), Some(Op::ResponseTxn(reply))) => settle_txn(request, reply),
            _ => {}
        }
    }
}

fn settle_range(request: &pb::RangeRequest, reply: &mut pb::RangeResponse) {
    let number = |kv: &KeyValue| match request.sort_target {
        1 => kv.version,
        2 => kv.create_revision,
        _ => kv.mod_revision,
    };
    if request.sort_target == 0
        || !(0..=2).contains(&request.sort_order)
        || (request.sort_target == 4 && request.keys_only)
    {
        return;
    }
    let order = |a: &KeyValue, b: &KeyValue| {
        let order = if request.sort_target == 4 { a.value.cmp(&b.value) } else { number(a).cmp(&number(b)) };
        if request.sort_order == 2 { order.reverse() } else { order }
    };
    assert!(reply.kvs.is_sorted_by(|a, b| order(a, b).is_le()), "{request:?} is not sorted: {reply:?}");
    reply.kvs.sort_by(|a, b| order(a, b).then_with(|| a.key.cmp(&b.key)));
    if reply.more {
        // Which of the last ones were left out is any, too.
        let last = reply.kvs.last().cloned().unwrap();
        reply.kvs.retain(|kv| order(kv, &last).is_ne());
    }
}
