//! Users, roles and permissions: by chance, on both members at once, as different users.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use holdfast::api::authpb::{Permission, UserAddOptions};
use holdfast::api::etcdserverpb as pb;
use holdfast::api::etcdserverpb::auth_client::AuthClient;
use holdfast::api::etcdserverpb::cluster_client::ClusterClient;
use holdfast::api::etcdserverpb::kv_client::KvClient;
use holdfast::api::etcdserverpb::lease_client::LeaseClient;
use holdfast::api::etcdserverpb::maintenance_client::MaintenanceClient;
use holdfast::api::etcdserverpb::request_op::Request as Op;
use holdfast::api::etcdserverpb::watch_client::WatchClient;
use holdfast::api::etcdserverpb::watch_request::RequestUnion;
use holdfast::base::rng::Seeded;
use tonic::transport::Channel;
use tonic::{Code, Request, Response, Status};

use crate::support;
use crate::support::etcd::Etcd;

/// Requests of one run.
const REQUESTS: usize = 10_000;
/// Requests on one connection: the client's library ends one after a thousand answers that came for streams that were given
/// up, whichever the server.
const CONNECTION_REQUESTS: usize = 500;
/// How long an answer may take.
const ANSWER_LIMIT: Duration = Duration::from_secs(20);
const FORGOTTEN_AFTER: Duration = Duration::from_secs(5);
/// Who asks: nobody, users who have signed in, and one whose token is none.
const WHO: [&str; 5] = ["", "root", "ann", "bob", "?"];
const ROLES: [&str; 4] = ["root", "reader", "writer", "both"];
/// Keys, and ends of ranges.
const KEYS: [&str; 5] = ["a", "b", "c", "d", "\0"];
const ENDS: [&str; 5] = ["", "c", "e", "\0", "a"];

#[derive(Clone, Debug)]
enum Call {
    Enable,
    Disable,
    Status,
    SignIn(String, String),
    UserAdd(pb::AuthUserAddRequest),
    UserDelete(String),
    UserPassword(String, String),
    UserGet(String),
    UserList,
    GrantRole(String, String),
    RevokeRole(String, String),
    RoleAdd(String),
    RoleDelete(String),
    RoleGet(String),
    RoleList,
    GrantPermission(String, Option<Permission>),
    RevokePermission(String, String, String),
    Put(pb::PutRequest),
    Range(pb::RangeRequest),
    Delete(pb::DeleteRangeRequest),
    Txn(pb::TxnRequest),
    Watch(pb::WatchCreateRequest),
    Grant(i64),
    Revoke(i64),
    TimeToLive(i64, bool),
    KeepAlive(i64),
    Leases,
    Alarms,
    Disarm,
    Compact(i64),
    Members,
    MemberRemove,
    Defragment,
    HashKv,
    Snapshot,
    MoveLeader,
}

/// The answer without what is each member's own, or the error.
type Outcome = Result<String, (Code, String)>;

struct Side {
    channel: Channel,
    tokens: BTreeMap<String, String>,
}

fn text<T: std::fmt::Debug>(
    response: Response<T>,
    header: impl FnOnce(&mut T) -> Option<&mut pb::ResponseHeader>,
) -> String {
    let mut reply = response.into_inner();
    if let Some(header) = header(&mut reply) {
        assert!(header.cluster_id != 0 && header.member_id != 0 && header.raft_term != 0, "{header:?}");
        *header = pb::ResponseHeader { revision: header.revision, ..Default::default() };
    }
    format!("{reply:?}")
}

macro_rules! said {
    ($response:expr) => {
        text($response.await?, |reply| reply.header.as_mut())
    };
}

impl Side {
    fn new(channel: Channel) -> Self {
        Side { channel, tokens: BTreeMap::new() }
    }

    fn asked<T>(&self, who: &str, message: T) -> Request<T> {
        let mut request = Request::new(message);
        let token = if who == "?" { Some("none.1") } else { self.tokens.get(who).map(String::as_str) };
        if let Some(token) = token {
            request.metadata_mut().insert("token", token.parse().unwrap());
        }
        request
    }

    async fn ask(&mut self, who: &str, call: &Call) -> Outcome {
        let said = self.send(who, call).await;
        said.map_err(|status| (status.code(), status.message().to_owned()))
    }

    /// Asks until it is answered: etcd 3.5.1 forgets a change of members that comes while it still carries out the one before,
    /// and whoever asked for it waits as long as it likes.
    async fn ask_again(&mut self, who: &str, call: &Call) -> Outcome {
        loop {
            match tokio::time::timeout(FORGOTTEN_AFTER, self.ask(who, call)).await {
                Ok(outcome) => return outcome,
                Err(_) => assert!(matches!(call, Call::MemberRemove), "{call:?} is not answered"),
            }
        }
    }

    async fn send(&mut self, who: &str, call: &Call) -> Result<String, Status> {
        let channel = || self.channel.clone();
        let mut auth = AuthClient::new(channel());
        let call = call.clone();
        Ok(match call {
            Call::Enable => said!(auth.auth_enable(self.asked(who, pb::AuthEnableRequest {}))),
            Call::Disable => said!(auth.auth_disable(self.asked(who, pb::AuthDisableRequest {}))),
            Call::Status => said!(auth.auth_status(self.asked(who, pb::AuthStatusRequest {}))),
            Call::SignIn(name, password) => {
                let request = pb::AuthenticateRequest { name: name.clone(), password };
                let mut response = auth.authenticate(self.asked(who, request)).await?;
                let token = std::mem::take(&mut response.get_mut().token);
                assert!(token.find('.') == Some(16) && token.len() > 17, "{token}");
                self.tokens.insert(name, token);
                text(response, |reply| reply.header.as_mut())
            }
            Call::UserAdd(request) => said!(auth.user_add(self.asked(who, request))),
            Call::UserDelete(name) => said!(auth.user_delete(self.asked(who, pb::AuthUserDeleteRequest { name }))),
            Call::UserPassword(name, password) => {
                let request = pb::AuthUserChangePasswordRequest { name, password, ..Default::default() };
                said!(auth.user_change_password(self.asked(who, request)))
            }
            Call::UserGet(name) => said!(auth.user_get(self.asked(who, pb::AuthUserGetRequest { name }))),
            Call::UserList => said!(auth.user_list(self.asked(who, pb::AuthUserListRequest {}))),
            Call::GrantRole(user, role) => {
                said!(auth.user_grant_role(self.asked(who, pb::AuthUserGrantRoleRequest { user, role })))
            }
            Call::RevokeRole(name, role) => {
                said!(auth.user_revoke_role(self.asked(who, pb::AuthUserRevokeRoleRequest { name, role })))
            }
            Call::RoleAdd(name) => said!(auth.role_add(self.asked(who, pb::AuthRoleAddRequest { name }))),
            Call::RoleDelete(role) => said!(auth.role_delete(self.asked(who, pb::AuthRoleDeleteRequest { role }))),
            Call::RoleGet(role) => said!(auth.role_get(self.asked(who, pb::AuthRoleGetRequest { role }))),
            Call::RoleList => said!(auth.role_list(self.asked(who, pb::AuthRoleListRequest {}))),
            Call::GrantPermission(name, perm) => {
                let request = pb::AuthRoleGrantPermissionRequest { name, perm };
                said!(auth.role_grant_permission(self.asked(who, request)))
            }
            Call::RevokePermission(role, key, range_end) => {
                let (key, range_end) = (key.into(), range_end.into());
                let request = pb::AuthRoleRevokePermissionRequest { role, key, range_end };
                said!(auth.role_revoke_permission(self.asked(who, request)))
            }
            other => self.send_others(who, other).await?,
        })
    }

    async fn send_others(&mut self, who: &str, call: Call) -> Result<String, Status> {
        let channel = || self.channel.clone();
        let (mut kv, mut lease) = (KvClient::new(channel()), LeaseClient::new(channel()));
        let (mut maintenance, mut cluster) = (MaintenanceClient::new(channel()), ClusterClient::new(channel()));
        Ok(match call {
            Call::Put(request) => said!(kv.put(self.asked(who, request))),
            Call::Range(request) => said!(kv.range(self.asked(who, request))),
            Call::Delete(request) => said!(kv.delete_range(self.asked(who, request))),
            Call::Txn(request) => said!(kv.txn(self.asked(who, request))),
            Call::Watch(request) => {
                let question = pb::WatchRequest { request_union: Some(RequestUnion::CreateRequest(request)) };
                let questions = futures::stream::iter([question]).chain(futures::stream::pending());
                let answers = WatchClient::new(channel()).watch(self.asked(who, questions)).await?;
                let mut reply = answers.into_inner().next().await.unwrap()?;
                if reply.canceled {
                    // Of a watch that is refused 3.5.1 says 0, what came later -1.
                    reply.watch_id = 0;
                }
                text(Response::new(reply), |reply| reply.header.as_mut())
            }
            Call::Grant(id) => said!(lease.lease_grant(self.asked(who, pb::LeaseGrantRequest { ttl: 600, id }))),
            Call::Revoke(id) => said!(lease.lease_revoke(self.asked(who, pb::LeaseRevokeRequest { id }))),
            Call::TimeToLive(id, keys) => {
                let mut reply =
                    lease.lease_time_to_live(self.asked(who, pb::LeaseTimeToLiveRequest { id, keys })).await?;
                reply.get_mut().ttl = reply.get_ref().ttl.min(1);
                text(reply, |reply| reply.header.as_mut())
            }
            Call::KeepAlive(id) => {
                let questions = futures::stream::iter([pb::LeaseKeepAliveRequest { id }]);
                let answers = lease.lease_keep_alive(self.asked(who, questions)).await?;
                let reply = answers.into_inner().next().await.unwrap()?;
                text(Response::new(reply), |reply| reply.header.as_mut())
            }
            Call::Leases => {
                let mut reply = lease.lease_leases(self.asked(who, pb::LeaseLeasesRequest {})).await?;
                reply.get_mut().leases.sort_by_key(|lease| lease.id);
                text(reply, |reply| reply.header.as_mut())
            }
            Call::Alarms => said!(maintenance.alarm(self.asked(who, pb::AlarmRequest::default()))),
            Call::Disarm => {
                let request = pb::AlarmRequest { action: 2, member_id: 7, alarm: 1 };
                said!(maintenance.alarm(self.asked(who, request)))
            }
            Call::Compact(revision) => {
                let request = pb::CompactionRequest { revision, physical: true };
                said!(kv.compact(self.asked(who, request)))
            }
            Call::Members => {
                cluster.member_list(self.asked(who, pb::MemberListRequest { linearizable: true })).await?;
                "members".to_owned()
            }
            Call::MemberRemove => said!(cluster.member_remove(self.asked(who, pb::MemberRemoveRequest { id: 77 }))),
            Call::Defragment => said!(maintenance.defragment(self.asked(who, pb::DefragmentRequest {}))),
            Call::HashKv => {
                let mut reply = maintenance.hash_kv(self.asked(who, pb::HashKvRequest::default())).await?;
                // 3.5.1 does not tell it.
                reply.get_mut().hash_revision = 0;
                text(reply, |reply| reply.header.as_mut())
            }
            Call::Snapshot => {
                let stream = maintenance.snapshot(self.asked(who, pb::SnapshotRequest {})).await?;
                stream.into_inner().next().await.unwrap()?;
                "a snapshot".to_owned()
            }
            Call::MoveLeader => {
                said!(maintenance.move_leader(self.asked(who, pb::MoveLeaderRequest { target_id: 77 })))
            }
            other => unreachable!("{other:?} is about users and roles"),
        })
    }
}

/// Requests by chance: mostly such that something comes of them.
struct Chance {
    seeded: Seeded,
}

impl Chance {
    fn next(&mut self) -> (String, Call) {
        let administers = self.likely(35);
        let who = if administers && self.likely(85) { "root".to_owned() } else { self.one(&WHO) };
        (who, if administers { self.administration() } else { self.work() })
    }

    fn one(&mut self, of: &[&str]) -> String {
        of[usize::try_from(self.seeded.below(of.len() as u64)).unwrap()].to_owned()
    }

    fn likely(&mut self, percent: u64) -> bool {
        self.seeded.below(100) < percent
    }

    fn user(&mut self) -> String {
        self.one(&["root", "ann", "bob", "cid", ""])
    }

    fn role(&mut self) -> String {
        if self.likely(3) { String::new() } else { self.one(&ROLES) }
    }

    /// A key and the end of a range that is none, or begins before it ends.
    fn range(&mut self) -> (String, String) {
        let (key, end) = (self.one(&KEYS), self.one(&ENDS));
        if end.is_empty() || end == "\0" || key < end { (key, end) } else { (key, String::new()) }
    }

    /// A range of a permission: of each key one. Of two that begin alike, etcd finds but the first again.
    fn granted(&mut self) -> (String, String) {
        let ranges = [("a", "c"), ("b", ""), ("c", "e"), ("d", "\0"), ("\0", "\0")];
        let among = if self.likely(80) { 3 } else { 5 };
        let at = usize::try_from(self.seeded.below(among)).unwrap();
        (ranges[at].0.to_owned(), ranges[at].1.to_owned())
    }

    fn range_request(&mut self) -> pb::RangeRequest {
        let (key, range_end) = self.range();
        let serializable = self.likely(30);
        pb::RangeRequest { key: key.into(), range_end: range_end.into(), serializable, ..Default::default() }
    }

    fn put(&mut self) -> pb::PutRequest {
        let lease = if self.likely(20) { i64::try_from(1 + self.seeded.below(3)).unwrap() } else { 0 };
        let (key, prev_kv) = (self.one(&["a", "b", "c", "d"]).into(), self.likely(30));
        pb::PutRequest { key, value: "v".into(), lease, prev_kv, ..Default::default() }
    }

    fn delete(&mut self) -> pb::DeleteRangeRequest {
        let (key, range_end) = self.range();
        pb::DeleteRangeRequest { key: key.into(), range_end: range_end.into(), prev_kv: self.likely(30) }
    }

    fn txn(&mut self) -> pb::TxnRequest {
        let side = |chance: &mut Chance| {
            let op = match chance.seeded.below(3) {
                0 => Op::RequestRange(chance.range_request()),
                1 => Op::RequestPut(chance.put()),
                _ => Op::RequestDeleteRange(chance.delete()),
            };
            vec![pb::RequestOp { request: Some(op) }]
        };
        let compare = pb::Compare { key: self.one(&KEYS).into(), ..Default::default() };
        let compare = if self.likely(40) { vec![compare] } else { vec![] };
        pb::TxnRequest { compare, success: side(self), failure: side(self) }
    }

    fn permission(&mut self) -> Option<Permission> {
        let (key, range_end) = self.granted();
        let perm_type = i32::try_from(self.seeded.below(3)).unwrap();
        Some(Permission { perm_type, key: key.into(), range_end: range_end.into() }).filter(|_| !self.likely(3))
    }

    fn administration(&mut self) -> Call {
        match self.seeded.below(16) {
            0 => Call::Enable,
            1 if self.likely(20) => Call::Disable,
            2 => {
                let (name, no_password) = (self.user(), self.likely(30));
                let options = self.likely(60).then_some(UserAddOptions { no_password });
                let password = if self.likely(90) { name.clone() } else { String::new() };
                Call::UserAdd(pb::AuthUserAddRequest { name, password, options, ..Default::default() })
            }
            3 if self.likely(40) => Call::UserDelete(self.user()),
            4 if self.likely(40) => {
                let name = self.user();
                Call::UserPassword(name.clone(), name)
            }
            5 => Call::UserGet(self.user()),
            6 => Call::UserList,
            7 => Call::GrantRole(self.user(), self.role()),
            8 if self.likely(50) => Call::RevokeRole(self.user(), self.role()),
            9 => Call::RoleAdd(self.role()),
            10 if self.likely(40) => Call::RoleDelete(self.role()),
            11 => Call::RoleGet(self.role()),
            12 => Call::RoleList,
            13 => Call::Status,
            14 => {
                let (role, (key, end)) = (self.role(), self.granted());
                Call::RevokePermission(role, key, end)
            }
            _ => Call::GrantPermission(self.role(), self.permission()),
        }
    }

    fn work(&mut self) -> Call {
        let id = i64::try_from(1 + self.seeded.below(3)).unwrap();
        match self.seeded.below(30) {
            0..8 => Call::Range(self.range_request()),
            8..13 => Call::Put(self.put()),
            13..15 => Call::Delete(self.delete()),
            15..18 => Call::Txn(self.txn()),
            18 | 19 => {
                let (key, range_end) = self.range();
                Call::Watch(pb::WatchCreateRequest {
                    key: key.into(),
                    range_end: range_end.into(),
                    ..Default::default()
                })
            }
            20 => Call::Grant(id),
            21 => Call::Revoke(id),
            22 => Call::TimeToLive(id, self.likely(50)),
            23 => Call::KeepAlive(id),
            24 => {
                if self.likely(50) {
                    Call::Leases
                } else {
                    Call::Alarms
                }
            }
            25 => {
                if self.likely(50) {
                    Call::Members
                } else {
                    Call::MemberRemove
                }
            }
            26 => {
                if self.likely(50) {
                    Call::Defragment
                } else {
                    Call::Snapshot
                }
            }
            27 => {
                if self.likely(50) {
                    Call::HashKv
                } else {
                    Call::Disarm
                }
            }
            28 => {
                if self.likely(50) {
                    Call::MoveLeader
                } else {
                    Call::Compact(1)
                }
            }
            _ => {
                let user = self.user();
                let password = if self.likely(80) { user.clone() } else { "wrong".to_owned() };
                Call::SignIn(user, password)
            }
        }
    }
}

/// What chance would hardly come upon: a user who has a certificate only shows a password.
fn script() -> Vec<(String, Call)> {
    let add = |name: &str, no_password| {
        let (name, options) = (name.to_owned(), Some(UserAddOptions { no_password }));
        Call::UserAdd(pb::AuthUserAddRequest { password: name.clone(), name, options, ..Default::default() })
    };
    let root = || "root".to_owned();
    let calls = [
        add("root", false),
        Call::RoleAdd(root()),
        Call::GrantRole(root(), root()),
        add("cid", true),
        Call::Enable,
        Call::SignIn("cid".to_owned(), "cid".to_owned()),
        Call::SignIn(root(), root()),
    ];
    calls.into_iter().map(|call| (String::new(), call)).collect()
}

/// Names of intended differences, as docs/differences.md has them.
const NAMES: [&str; 6] = [
    "calls without a user",
    "reasons of refused watches",
    "refusals of maintenance",
    "status of authentication",
    "tokens while authentication is off",
    "watches to the last key",
];

/// Every error of authentication that requests can bring a member to.
const ERRORS: [&str; 17] = [
    "FailedPrecondition etcdserver: authentication is not enabled",
    "FailedPrecondition etcdserver: permission is not granted to the role",
    "FailedPrecondition etcdserver: role is not granted to the user",
    "FailedPrecondition etcdserver: role name already exists",
    "FailedPrecondition etcdserver: role name not found",
    "FailedPrecondition etcdserver: root user does not exist",
    "FailedPrecondition etcdserver: root user does not have root role",
    "FailedPrecondition etcdserver: user name already exists",
    "FailedPrecondition etcdserver: user name not found",
    "InvalidArgument etcdserver: authentication failed, invalid user ID or password",
    "InvalidArgument etcdserver: invalid auth management",
    "InvalidArgument etcdserver: permission not given",
    "InvalidArgument etcdserver: role name is empty",
    "InvalidArgument etcdserver: user name is empty",
    "PermissionDenied etcdserver: permission denied",
    "Unauthenticated etcdserver: invalid auth token",
    "Unknown auth: authentication failed, password was given for no password user",
];

/// The name of a difference that is meant, if it is one.
fn intended(call: &Call, etcd: &Outcome, ours: &Outcome, off: bool) -> Option<&'static str> {
    let code = |outcome: &Outcome| outcome.as_ref().err().map(|(code, _)| *code);
    let is_token = |text: &str| text.contains("invalid auth token") || text.contains("PermissionDenied desc");
    let said = |outcome: &Outcome| outcome.as_ref().map_or_else(|(_, text)| is_token(text), |text| is_token(text));
    if said(etcd) && !said(ours) && off {
        // 3.5.1 looks at tokens even then; what came later does not.
        return Some("tokens while authentication is off");
    }
    let canceled = |outcome: &Outcome| outcome.as_ref().is_ok_and(|text| text.contains("canceled: true"));
    if matches!(call, Call::Watch(_)) && canceled(etcd) && canceled(ours) {
        // 3.5.1 has one reason for all; what came later says which.
        return Some("reasons of refused watches");
    }
    let unnamed = [Code::InvalidArgument, Code::PermissionDenied, Code::Unauthenticated];
    match call {
        // etcd 3.5.1 lets everybody ask these; 3.5.28 and 3.6.9 do not.
        Call::Members
        | Call::Grant(_)
        | Call::TimeToLive(..)
        | Call::KeepAlive(_)
        | Call::Leases
        | Call::Alarms
        | Call::Disarm
            if code(ours).is_some_and(|code| unnamed.contains(&code)) =>
        {
            Some("calls without a user")
        }
        Call::Defragment | Call::HashKv | Call::Snapshot | Call::MoveLeader
            if (code(etcd) == Some(Code::Unknown) || matches!(call, Call::MoveLeader))
                && code(ours).is_some_and(|code| unnamed.contains(&code)) =>
        {
            Some("refusals of maintenance")
        }
        // Asked from a key on, 3.5.1 looks at the permission for that key alone.
        Call::Watch(request) if request.range_end == "\0" && canceled(ours) => Some("watches to the last key"),
        Call::Status if ours.is_ok() && code(etcd) == Some(Code::PermissionDenied) => Some("status of authentication"),
        _ => None,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn users_and_roles_are_those_of_etcd() {
    let etcd = Etcd::options().args(&["--bcrypt-cost=4"]).start();
    let holdfast = support::member::Member::start(&["--bcrypt-cost=4"]);
    let connect = |endpoint: String| Channel::from_shared(endpoint).unwrap().connect_lazy();
    let mut theirs = Side::new(connect(etcd.endpoint(0)));
    let mut ours = Side::new(connect(holdfast.endpoint()));
    let (started, mut chance) = (Instant::now(), Chance { seeded: Seeded::new(3) });
    let (mut errors, mut differences, mut met) =
        (BTreeSet::new(), BTreeMap::<_, u64>::new(), BTreeMap::<_, u64>::new());
    let mut is_on = false;
    let mut script = script().into_iter();
    for n in 0..REQUESTS {
        if n % CONNECTION_REQUESTS == 0 {
            (theirs.channel, ours.channel) = (connect(etcd.endpoint(0)), connect(holdfast.endpoint()));
        }
        let (who, call) = script.next().unwrap_or_else(|| chance.next());
        // Where etcd 3.5.1 asks for less, or for more, the two would no longer be equal afterwards.
        let off = !is_on;
        let who = match call {
            Call::Range(_) | Call::Watch(_) => who,
            Call::Grant(_) | Call::Revoke(_) if is_on && (who.is_empty() || who == "?") => "root".to_owned(),
            Call::Compact(_) if is_on => "root".to_owned(),
            _ if off => String::new(),
            _ => who,
        };
        let is_somebody = ours.tokens.contains_key(&who);
        if is_on && !is_somebody && matches!(call, Call::Grant(_) | Call::Revoke(_) | Call::Compact(_)) {
            continue;
        }
        let (their, our) = tokio::join!(
            tokio::time::timeout(ANSWER_LIMIT, theirs.ask_again(&who, &call)),
            tokio::time::timeout(ANSWER_LIMIT, ours.ask(&who, &call))
        );
        let (Ok(their), Ok(our)) = (&their, &our) else {
            panic!("request {n} of {who:?} is not answered: {call:?}\nHoldfast: {our:?}\netcd: {their:?}")
        };
        let (their, our) = (their.clone(), our.clone());
        let difference = if their == our { None } else { intended(&call, &their, &our, off) };
        assert!(
            their == our || difference.is_some(),
            "request {n} of {who:?}: {call:?}\nHoldfast: {our:?}\netcd: {their:?}"
        );
        difference.into_iter().for_each(|name| *differences.entry(name).or_default() += 1);
        is_on = match call {
            Call::Enable if our.is_ok() => true,
            Call::Disable if our.is_ok() => false,
            _ => is_on,
        };
        if let Err((code, text)) = &their {
            errors.insert(format!("{code:?} {text}"));
        }
        let name = format!("{call:?}").split([' ', '(']).next().unwrap().to_owned();
        *met.entry((name, their.is_ok())).or_default() += 1;
    }
    met.iter().for_each(|((name, done), n)| println!("{n:>7}  {name} {}", if *done { "done" } else { "refused" }));
    println!("{REQUESTS} requests in {:.1?}; {differences:?}; {errors:#?}", started.elapsed());
    let missing: Vec<_> = ERRORS.iter().filter(|error| !errors.contains(**error)).collect();
    assert!(missing.is_empty(), "never met: {missing:?}");
    assert!(differences.keys().eq(NAMES.iter()), "an intended difference was not met: {differences:?}");
    let document = include_str!("../../docs/differences.md");
    assert!(NAMES.iter().all(|name| document.contains(&format!("**{name}**"))), "docs/differences.md tells of all");
}
