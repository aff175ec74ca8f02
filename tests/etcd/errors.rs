//! Every error of etcd's: who provokes it, and those that a client provokes with what is no proper request at all.
//!
//! `ERRORS` has all that etcd's table of errors has, each with the test that comes upon it. What the differential tests come
//! upon they count themselves (`coverage`); what is left is asked for here, of both members.

use std::time::Duration;

use futures::StreamExt as _;
use holdfast::api::etcdserverpb as pb;
use holdfast::api::etcdserverpb::downgrade_request::DowngradeAction;
use holdfast::api::etcdserverpb::kv_client::KvClient;
use holdfast::api::etcdserverpb::lease_client::LeaseClient;
use holdfast::api::etcdserverpb::maintenance_client::MaintenanceClient;
use holdfast::api::etcdserverpb::watch_client::WatchClient;
use holdfast::api::etcdserverpb::watch_request::RequestUnion;
use holdfast::base::rng::Seeded;
use prost::bytes::{Buf, BufMut};
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::metadata::{AsciiMetadataValue, MetadataValue};
use tonic::transport::Channel;
use tonic::{Code, Request, Response, Status, Streaming};

use crate::support::etcd::Etcd;
use crate::support::member::Member;

/// Where an error is come upon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Met {
    /// In the file of this name, beside this one.
    In(&'static str),
    /// By a test of the program itself, in the file of this name below src/store.
    Within(&'static str),
    /// No one member sends it, for this reason.
    Never(&'static str),
}
use Met::{In, Never, Within};

/// How long a stream may take to end.
const CLOSING_LIMIT: Duration = Duration::from_secs(5);
const LEARNERS: &str = "there is one member, which is no learner";
const DOWNGRADES: &str = "nothing is ever downgraded";

const ERRORS: &[(&str, Met)] = &[
    ("key is not provided", In("coverage")),
    ("key not found", In("coverage")),
    ("value is provided", In("coverage")),
    ("lease is provided", In("coverage")),
    ("too many operations in txn request", In("coverage")),
    ("duplicate key given in txn request", In("coverage")),
    ("invalid client api version", In("errors")),
    ("invalid sort option", In("differences")),
    ("request is too large", In("coverage")),
    ("given member URLs are invalid", In("keys")),
    ("user name is empty", In("auth")),
    ("role name is empty", In("auth")),
    ("authentication failed, invalid user ID or password", In("auth")),
    ("permission not given", In("auth")),
    ("invalid auth management", In("auth")),
    ("revision of auth store is old", In("tokens")),
    ("wrong downgrade target version format", In("errors")),
    ("invalid downgrade target version", In("errors")),
    ("mvcc: required revision has been compacted", In("keys")),
    ("mvcc: required revision is a future revision", In("keys")),
    ("too large lease TTL", In("coverage")),
    ("mvcc: database space exceeded", In("keys")),
    ("too many requests", Within("server/tests.rs")),
    ("requested lease not found", In("keys")),
    ("member not found", In("keys")),
    ("lease already exists", In("coverage")),
    ("member ID already exist", Never("ids are made of the time and do not meet")),
    ("Peer URLs already exists", In("keys")),
    ("re-configuration failed due to not enough started members", In("keys")),
    ("can only promote a learner member", In("keys")),
    ("can only promote a learner member which is in sync with leader", Never(LEARNERS)),
    ("too many learner members in cluster", Never(LEARNERS)),
    ("rpc not supported for learner", Never(LEARNERS)),
    ("cluster ID mismatch", Never("it is said between members")),
    ("root user does not exist", In("auth")),
    ("root user does not have root role", In("auth")),
    ("user name already exists", In("auth")),
    ("user name not found", In("auth")),
    ("role name already exists", In("auth")),
    ("role name not found", In("auth")),
    ("role is not granted to the user", In("auth")),
    ("permission is not granted to the role", In("auth")),
    ("authentication is not enabled", In("auth")),
    ("not leader", Never("one member leads, or is not there")),
    ("not capable", Never("all members have the same version")),
    ("bad leader transferee", In("keys")),
    ("cluster version not found during downgrade", Never(DOWNGRADES)),
    ("cluster has a downgrade job in progress", Never(DOWNGRADES)),
    ("no inflight downgrade job", In("errors")),
    ("permission denied", In("auth")),
    ("invalid auth token", In("auth")),
    ("no leader", Never("one member leads for as long as it serves")),
    ("leader changed", Never("one member leads from its start to its end")),
    ("server stopped", Within("server/watch/tests.rs")),
    ("request timed out", Never("one member agrees with itself, or has ended")),
    ("request timed out, possibly due to previous leader failure", Never("there is no other leader")),
    ("request timed out, possibly due to connection lost", Never("there is no other member")),
    (
        "request timed out, waiting for the applied index took too long",
        Never("what is read was applied before it could be asked for"),
    ),
    ("unhealthy cluster", Never("there is no other member")),
    ("corrupt cluster", In("coverage")),
    ("watch canceled", Never("who gives a stream up is not there to be told")),
];

#[test]
fn every_error_of_etcds_has_its_test() {
    let root = env!("CARGO_MANIFEST_DIR");
    for (text, met) in ERRORS {
        let path = match met {
            In(file) => format!("{root}/tests/etcd/{file}.rs"),
            Within(file) => format!("{root}/src/store/{file}"),
            Never(why) => {
                assert!(why.len() > 10, "{text}");
                continue;
            }
        };
        let source = std::fs::read_to_string(&path).unwrap();
        assert!(source.contains(text), "{path} does not come upon {text:?}");
    }
}

/// Both of them.
struct Pair {
    _etcd: Etcd,
    _member: Member,
    channels: [Channel; 2],
}

impl Pair {
    fn start() -> Pair {
        let (etcd, member) = (Etcd::start(), Member::start(&[]));
        let channel = |endpoint: String| Channel::from_shared(endpoint).unwrap().connect_lazy();
        let channels = [channel(etcd.endpoint(0)), channel(member.endpoint())];
        Pair { _etcd: etcd, _member: member, channels }
    }
}

fn told(status: &Status) -> (Code, String) {
    (status.code(), status.message().to_owned())
}

#[tokio::test]
async fn what_no_other_test_asks_for() {
    let pair = Pair::start();
    let mut all = vec![];
    for channel in &pair.channels {
        let mut maintenance = MaintenanceClient::new(channel.clone());
        let mut said = vec![];
        let downgrades = [
            (DowngradeAction::Validate, "three"),
            (DowngradeAction::Validate, "3.0.0"),
            (DowngradeAction::Enable, "4.1.0"),
            (DowngradeAction::Enable, ""),
            (DowngradeAction::Cancel, ""),
        ];
        for (action, version) in downgrades {
            let request = pb::DowngradeRequest { action: action as i32, version: version.to_owned() };
            said.push(told(&maintenance.downgrade(request).await.unwrap_err()));
        }
        all.push(said);
    }
    assert_eq!(all[1], all[0]);
    // etcd's library ends the whole connection over bytes that are no text.
    let mut request = Request::new(pb::RangeRequest { key: "a".into(), ..Default::default() });
    let version: AsciiMetadataValue = MetadataValue::try_from(&b"\xff\xfe"[..]).unwrap();
    request.metadata_mut().insert("client-api-version", version);
    let mut said = all.remove(1);
    said.push(told(&KvClient::new(pair.channels[1].clone()).range(request).await.unwrap_err()));
    let texts = [
        (Code::InvalidArgument, "etcdserver: wrong downgrade target version format"),
        (Code::InvalidArgument, "etcdserver: invalid downgrade target version"),
        (Code::InvalidArgument, "etcdserver: invalid downgrade target version"),
        (Code::InvalidArgument, "etcdserver: wrong downgrade target version format"),
        (Code::FailedPrecondition, "etcdserver: no inflight downgrade job"),
        (Code::InvalidArgument, "etcdserver: invalid client api version"),
    ];
    assert!(said.iter().map(|(code, text)| (*code, text.as_str())).eq(texts), "{said:?}");
}

type Told = Vec<Result<bool, (Code, String)>>;

/// What is told to who asks for this and has nothing more to ask; none when the stream does not end.
async fn closing<T, R>(answers: impl Future<Output = Result<Response<Streaming<T>>, Status>>, of: R) -> Option<Told>
where
    R: Fn(&T) -> bool,
{
    let all = async {
        match answers.await {
            Ok(replies) => {
                replies.into_inner().map(|reply| reply.map(|reply| of(&reply)).map_err(|s| told(&s))).collect().await
            }
            Err(status) => vec![Err(told(&status))],
        }
    };
    tokio::time::timeout(CLOSING_LIMIT, all).await.ok()
}

/// Who has no more leases to keep is answered, and the stream ends. Who has nothing more to watch goes on hearing of what it
/// watches: so does etcd, and whoever asked once and closed its side waits for just that.
#[tokio::test]
async fn a_stream_that_the_client_closes_is_answered() {
    let pair = Pair::start();
    let mut all = vec![];
    for channel in &pair.channels {
        let mut said = vec![];
        for ids in [vec![], vec![0], vec![7, 0]] {
            let asked = futures::stream::iter(ids.into_iter().map(|id| pb::LeaseKeepAliveRequest { id }));
            let mut client = LeaseClient::new(channel.clone());
            said.push(closing(client.lease_keep_alive(asked), |reply| reply.ttl == 0).await.expect("it ends"));
        }
        all.push(said);
    }
    assert_eq!(all[1], all[0]);
    assert_eq!(all[1].iter().map(Vec::len).collect::<Vec<_>>(), [0, 1, 2]);
    for channel in &pair.channels {
        let create = pb::WatchCreateRequest { key: "a".into(), ..Default::default() };
        let asked = pb::WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) };
        let mut client = WatchClient::new(channel.clone());
        let mut replies = client.watch(futures::stream::iter([asked])).await.unwrap().into_inner();
        assert!(replies.message().await.unwrap().unwrap().created);
        let put = pb::PutRequest { key: "a".into(), ..Default::default() };
        KvClient::new(channel.clone()).put(put).await.unwrap();
        let told = tokio::time::timeout(CLOSING_LIMIT, replies.message()).await.expect("it is told");
        assert_eq!(told.unwrap().unwrap().events.len(), 1);
    }
}

/// Messages as they are.
#[derive(Clone, Copy, Debug, Default)]
struct Bytes;

impl Encoder for Bytes {
    type Item = Vec<u8>;
    type Error = Status;

    fn encode(&mut self, item: Vec<u8>, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put_slice(&item);
        Ok(())
    }
}

impl Decoder for Bytes {
    type Item = Vec<u8>;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Vec<u8>>, Status> {
        let mut bytes = vec![0; buffer.remaining()];
        buffer.copy_to_slice(&mut bytes);
        Ok(Some(bytes))
    }
}

impl Codec for Bytes {
    type Encode = Vec<u8>;
    type Decode = Vec<u8>;
    type Encoder = Bytes;
    type Decoder = Bytes;

    fn encoder(&mut self) -> Bytes {
        Bytes
    }

    fn decoder(&mut self) -> Bytes {
        Bytes
    }
}

async fn call(channel: &Channel, path: &'static str, message: Vec<u8>) -> Result<(), Code> {
    let mut client = tonic::client::Grpc::new(channel.clone());
    client.ready().await.unwrap();
    let answer = client.unary(Request::new(message), path.parse().unwrap(), Bytes).await;
    answer.map(drop).map_err(|status| status.code())
}

/// Bytes that are no message: both refuse them with the same code, and go on.
#[tokio::test]
async fn what_is_no_message_is_refused_and_nothing_is_the_worse_for_it() {
    let pair = Pair::start();
    let mut chance = Seeded::new(19);
    let methods = [
        "/etcdserverpb.KV/Range",
        "/etcdserverpb.KV/DeleteRange",
        "/etcdserverpb.Lease/LeaseTimeToLive",
        "/etcdserverpb.Auth/UserGet",
        "/etcdserverpb.Cluster/MemberUpdate",
        "/etcdserverpb.Maintenance/Hash",
        "/etcdserverpb.KV/None",
        "/none.None/None",
    ];
    let (mut refused, mut unknown) = (0, 0);
    for n in 0..4000 {
        let mut byte = || u8::try_from(chance.below(256)).unwrap();
        let message = match n % 4 {
            // A field of a group, a number that is cut off, a length beyond the end, and anything.
            0 => vec![0x0b, byte()],
            1 => vec![0x08, 0xff],
            2 => vec![0x0a, 0x7f, byte(), byte()],
            _ => (0..n % 9).map(|_| byte()).collect(),
        };
        let path = methods[n % methods.len()];
        let (theirs, ours) = tokio::join!(
            call(&pair.channels[0], path, message.clone()),
            call(&pair.channels[1], path, message.clone())
        );
        assert_eq!(ours, theirs, "{path} {message:02x?}");
        refused += u32::from(ours == Err(Code::Internal));
        unknown += u32::from(ours == Err(Code::Unimplemented));
    }
    assert!(refused > 1000 && unknown > 900, "{refused} {unknown}");
    for channel in &pair.channels {
        KvClient::new(channel.clone()).range(pb::RangeRequest { key: "a".into(), ..Default::default() }).await.unwrap();
    }
}
