//! What a client sees of one member, asked over gRPC: everything at once, where etcdctl would have to run for each lease
//! and each user.

use holdfast::api::authpb::Permission;
use holdfast::api::etcdserverpb as pb;
use holdfast::api::etcdserverpb::auth_client::AuthClient;
use holdfast::api::etcdserverpb::kv_client::KvClient;
use holdfast::api::etcdserverpb::lease_client::LeaseClient;
use holdfast::api::etcdserverpb::maintenance_client::MaintenanceClient;
use holdfast::api::mvccpb::KeyValue;
use std::time::Duration;
use tokio::runtime::Runtime;
use tonic::transport::Channel;
use tonic::{Code, Request};

use crate::support::etcd::{Etcd, HashKv};
use crate::support::run::wait_until;

const CALL_LIMIT: Duration = Duration::from_secs(30);
/// So many equal answers, 10 ms apart, mean rest: etcd commits every 100 ms.
const REST_ANSWERS: u32 = 20;

/// Everything that equal clusters have equal.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct State {
    pub(crate) revision: i64,
    pub(crate) kvs: Vec<KeyValue>,
    /// Id, granted seconds, attached keys.
    pub(crate) leases: Vec<(i64, i64, Vec<Vec<u8>>)>,
    pub(crate) users: Vec<(String, Vec<String>)>,
    pub(crate) roles: Vec<(String, Vec<Permission>)>,
    /// Whether authentication is on, and the revision of its rules.
    pub(crate) auth: (bool, u64),
}

/// Where a member stands: what a backup must leave as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Position {
    pub(crate) cluster_id: u64,
    pub(crate) member_id: u64,
    pub(crate) leader: u64,
    pub(crate) revision: i64,
    pub(crate) compact_revision: i64,
    pub(crate) raft_term: u64,
    pub(crate) raft_index: u64,
    /// Of the file; what of it is in use changes whenever etcd commits.
    pub(crate) db_bytes: i64,
}

/// A connection to one plain member, as the user of its cluster.
pub(crate) struct Look {
    runtime: Runtime,
    channel: Channel,
    token: Option<String>,
}

impl Look {
    /// At member `i`.
    pub(crate) fn at(etcd: &Etcd, i: usize) -> Look {
        let mut look = Look::at_endpoint(&etcd.endpoint(i));
        if let Some((name, password)) = etcd.user() {
            let request = pb::AuthenticateRequest { name: name.to_owned(), password: password.to_owned() };
            let answer = look.runtime.block_on(AuthClient::new(look.channel.clone()).authenticate(request));
            look.token = Some(answer.expect("the user may sign in").into_inner().token);
        }
        look
    }

    /// At an address, as nobody.
    pub(crate) fn at_endpoint(url: &str) -> Look {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let endpoint = Channel::from_shared(url.to_owned()).unwrap().timeout(CALL_LIMIT);
        let channel = runtime.block_on(async { endpoint.connect_lazy() });
        Look { runtime, channel, token: None }
    }

    fn ask<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        if let Some(token) = &self.token {
            request.metadata_mut().insert("token", token.parse().unwrap());
        }
        request
    }

    /// All keys at a revision, 0 for the newest; nothing when it is compacted. With the revision of the answer.
    pub(crate) fn range(&self, revision: i64) -> Option<(i64, Vec<KeyValue>)> {
        let everything =
            pb::RangeRequest { key: vec![0].into(), range_end: vec![0].into(), revision, ..Default::default() };
        let mut client = KvClient::new(self.channel.clone()).max_decoding_message_size(usize::MAX);
        loop {
            match self.runtime.block_on(client.range(self.ask(everything.clone()))) {
                Ok(answer) => {
                    let answer = answer.into_inner();
                    return Some((answer.header.unwrap().revision, answer.kvs));
                }
                Err(status) if status.code() == Code::OutOfRange => return None,
                // Users or roles changed while it was asked; their number has a limit, so this has one.
                Err(status) if status.message().starts_with("auth: revision ") => {}
                Err(status) => panic!("range: {status}"),
            }
        }
    }

    /// Every lease: id, granted seconds, attached keys.
    pub(crate) fn leases(&self) -> Vec<(i64, i64, Vec<Vec<u8>>)> {
        let mut lease = LeaseClient::new(self.channel.clone());
        self.runtime.block_on(async {
            let mut leases = vec![];
            for one in lease.lease_leases(self.ask(pb::LeaseLeasesRequest {})).await.unwrap().into_inner().leases {
                let request = self.ask(pb::LeaseTimeToLiveRequest { id: one.id, keys: true });
                let answer = lease.lease_time_to_live(request).await.unwrap().into_inner();
                let mut keys: Vec<_> = answer.keys.iter().map(|key| key.to_vec()).collect();
                keys.sort();
                leases.push((one.id, answer.granted_ttl, keys));
            }
            leases.sort();
            leases
        })
    }

    /// Everything a client can see.
    pub(crate) fn state(&self) -> State {
        let (revision, kvs) = self.range(0).expect("the newest revision is never compacted");
        let leases = self.leases();
        let mut auth = AuthClient::new(self.channel.clone());
        self.runtime.block_on(async {
            let (mut users, mut roles) = (vec![], vec![]);
            for name in auth.user_list(self.ask(pb::AuthUserListRequest {})).await.unwrap().into_inner().users {
                let request = self.ask(pb::AuthUserGetRequest { name: name.clone() });
                users.push((name, auth.user_get(request).await.unwrap().into_inner().roles));
            }
            for name in auth.role_list(self.ask(pb::AuthRoleListRequest {})).await.unwrap().into_inner().roles {
                let request = self.ask(pb::AuthRoleGetRequest { role: name.clone() });
                roles.push((name, auth.role_get(request).await.unwrap().into_inner().perm));
            }
            let status = auth.auth_status(self.ask(pb::AuthStatusRequest {})).await.unwrap().into_inner();
            State { revision, kvs, leases, users, roles, auth: (status.enabled, status.auth_revision) }
        })
    }

    /// The member's hash of its history up to `revision`.
    pub(crate) fn hash_kv(&self, revision: i64) -> HashKv {
        let mut client = MaintenanceClient::new(self.channel.clone());
        let answer = self.runtime.block_on(client.hash_kv(self.ask(pb::HashKvRequest { revision })));
        let answer = answer.expect("the revision is there").into_inner();
        HashKv { hash: answer.hash, revision: answer.header.unwrap().revision, compact: answer.compact_revision }
    }

    fn status(&self) -> Option<pb::StatusResponse> {
        let mut client = MaintenanceClient::new(self.channel.clone());
        self.runtime.block_on(client.status(self.ask(pb::StatusRequest {}))).ok().map(tonic::Response::into_inner)
    }

    /// Where the member stands.
    pub(crate) fn position(&self) -> Position {
        let status = self.status().expect("the member answers");
        let header = status.header.unwrap();
        Position {
            cluster_id: header.cluster_id,
            member_id: header.member_id,
            leader: status.leader,
            revision: header.revision,
            compact_revision: self.hash_kv(0).compact,
            raft_term: status.raft_term,
            raft_index: status.raft_index,
            db_bytes: status.db_size,
        }
    }

    /// Where the member stands once it is at rest: etcd goes on with a compaction after it has answered, and commits
    /// what it holds in memory a little later.
    pub(crate) fn settled(&self) -> Position {
        let (mut last, mut same) = (self.position(), 0);
        wait_until("the member is at rest", CALL_LIMIT, || {
            let now = self.position();
            same = if now == last { same + 1 } else { 0 };
            last = now;
            same == REST_ANSWERS
        });
        last
    }

    /// Waits until the member has a leader, and knows itself as a learner or not; its id.
    pub(crate) fn wait_for(&self, learner: bool) -> u64 {
        let mut id = 0;
        wait_until("the member has joined", CALL_LIMIT, || {
            let status = self.status().filter(|status| status.leader != 0 && status.is_learner == learner);
            id = status.as_ref().and_then(|status| status.header.as_ref()).map_or(0, |header| header.member_id);
            status.is_some()
        });
        id
    }
}
