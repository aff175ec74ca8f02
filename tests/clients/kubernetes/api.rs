//! The requests of kube-apiserver's storage, and no others: optimistic transactions, lists in pages, watches with
//! progress, leases that are shared. Each is counted.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use holdfast::api::etcdserverpb as pb;
use holdfast::api::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use holdfast::api::etcdserverpb::kv_client::KvClient;
use holdfast::api::etcdserverpb::lease_client::LeaseClient;
use holdfast::api::etcdserverpb::maintenance_client::MaintenanceClient;
use holdfast::api::etcdserverpb::request_op::Request as Step;
use holdfast::api::etcdserverpb::response_op::Response as Done;
use holdfast::api::etcdserverpb::watch_client::WatchClient;
use holdfast::api::etcdserverpb::watch_request::RequestUnion;
use holdfast::api::mvccpb::KeyValue;
use tokio::sync::mpsc;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status, Streaming};

/// The first page of a list, and the longest.
const PAGE: i64 = 500;
const PAGE_MAX: i64 = 10_000;
/// What the client sends and how long it waits, as kube-apiserver has them.
const KEEPALIVE: Duration = Duration::from_secs(30);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
const DIAL_TIMEOUT: Duration = Duration::from_secs(20);
/// The key on which compactors agree.
pub(crate) const COMPACT_KEY: &str = "compact_rev_key";

/// What is there, as a list or a cache has it.
pub(crate) type Items = BTreeMap<Bytes, KeyValue>;

/// One apiserver's connection.
#[derive(Clone, Debug)]
pub(crate) struct Api {
    kv: KvClient<Channel>,
    watch: WatchClient<Channel>,
    lease: LeaseClient<Channel>,
    maintenance: MaintenanceClient<Channel>,
    requests: Arc<AtomicU64>,
}

/// What came of an optimistic transaction: its revision, or what is there instead.
pub(crate) type Outcome = Result<i64, Option<KeyValue>>;

/// A watch, and the way to ask for progress.
#[derive(Debug)]
pub(crate) struct Watch {
    ask: mpsc::Sender<pb::WatchRequest>,
    said: Streaming<pb::WatchResponse>,
}

impl Watch {
    /// RequestProgress.
    pub(crate) async fn request_progress(&self) {
        let request = RequestUnion::ProgressRequest(pb::WatchProgressRequest {});
        self.ask.send(pb::WatchRequest { request_union: Some(request) }).await.expect("the stream is open");
    }

    /// What is said next.
    pub(crate) async fn next(&mut self) -> Result<pb::WatchResponse, Status> {
        self.said.message().await?.ok_or_else(|| Status::aborted("the stream ended"))
    }
}

/// The end of the range of a prefix.
fn end_of(prefix: &str) -> Bytes {
    let mut end = prefix.as_bytes().to_vec();
    *end.last_mut().unwrap() += 1;
    end.into()
}

fn revision(header: Option<&pb::ResponseHeader>) -> i64 {
    let header = header.expect("every answer has a header");
    assert!(header.cluster_id != 0 && header.member_id != 0 && header.raft_term != 0 && header.revision > 0);
    header.revision
}

fn put(key: &str, value: &Bytes, lease: i64) -> Step {
    Step::RequestPut(pb::PutRequest { key: key.to_owned().into(), value: value.clone(), lease, ..Default::default() })
}

fn get(key: &str) -> Step {
    Step::RequestRange(pb::RangeRequest { key: key.to_owned().into(), ..Default::default() })
}

impl Api {
    /// A connection with the parameters of an apiserver.
    pub(crate) async fn connect(endpoint: &str) -> Api {
        let endpoint = Endpoint::from_shared(endpoint.to_owned()).unwrap().connect_timeout(DIAL_TIMEOUT);
        let endpoint = endpoint.http2_keep_alive_interval(KEEPALIVE).keep_alive_timeout(KEEPALIVE_TIMEOUT);
        let channel = endpoint.connect().await.expect("the member listens");
        Api {
            kv: KvClient::new(channel.clone()).max_decoding_message_size(usize::MAX),
            watch: WatchClient::new(channel.clone()).max_decoding_message_size(usize::MAX),
            lease: LeaseClient::new(channel.clone()),
            maintenance: MaintenanceClient::new(channel),
            requests: Arc::new(AtomicU64::new(0)),
        }
    }

    /// How many requests were made, by this connection and its clones.
    pub(crate) fn requests(&self) -> u64 {
        self.requests.load(Ordering::SeqCst)
    }

    fn counted<T>(&self, message: T) -> Request<T> {
        self.requests.fetch_add(1, Ordering::SeqCst);
        Request::new(message)
    }

    async fn optimistic(&self, key: &str, expected: i64, then: Step, or_get: bool) -> Result<Outcome, Status> {
        let compare = pb::Compare {
            result: CompareResult::Equal.into(),
            target: CompareTarget::Mod.into(),
            key: key.to_owned().into(),
            target_union: Some(TargetUnion::ModRevision(expected)),
            ..Default::default()
        };
        let failure = if or_get { vec![pb::RequestOp { request: Some(get(key)) }] } else { vec![] };
        let success = vec![pb::RequestOp { request: Some(then) }];
        let txn = pb::TxnRequest { compare: vec![compare], success, failure };
        let reply = self.kv.clone().txn(self.counted(txn)).await?.into_inner();
        let revision = revision(reply.header.as_ref());
        if reply.succeeded {
            return Ok(Ok(revision));
        }
        let [Some(Done::ResponseRange(found))] =
            &reply.responses.iter().map(|op| op.response.clone()).collect::<Vec<_>>()[..]
        else {
            assert!(!or_get && reply.responses.is_empty(), "{reply:?}");
            return Ok(Err(None));
        };
        Ok(Err(found.kvs.first().cloned()))
    }

    /// Create: refused where there is something.
    pub(crate) async fn create(&self, key: &str, value: &Bytes, lease: i64) -> Result<Outcome, Status> {
        self.optimistic(key, 0, put(key, value, lease), false).await
    }

    /// Update of what was seen at this revision; otherwise what is there.
    pub(crate) async fn update(&self, key: &str, seen: i64, value: &Bytes) -> Result<Outcome, Status> {
        self.optimistic(key, seen, put(key, value, 0), true).await
    }

    /// Deletion of what was seen at this revision; otherwise what is there.
    pub(crate) async fn delete(&self, key: &str, seen: i64) -> Result<Outcome, Status> {
        let delete = pb::DeleteRangeRequest { key: key.to_owned().into(), ..Default::default() };
        self.optimistic(key, seen, Step::RequestDeleteRange(delete), true).await
    }

    async fn range(&self, request: pb::RangeRequest) -> Result<(i64, pb::RangeResponse), Status> {
        let reply = self.kv.clone().range(self.counted(request)).await?.into_inner();
        Ok((revision(reply.header.as_ref()), reply))
    }

    /// One object, and the revision of the store.
    pub(crate) async fn get(&self, key: &str, revision: i64) -> Result<(i64, Option<KeyValue>), Status> {
        let request = pb::RangeRequest { key: key.to_owned().into(), limit: 1, revision, ..Default::default() };
        let (revision, reply) = self.range(request).await?;
        Ok((revision, reply.kvs.into_iter().next()))
    }

    /// How many objects, without them.
    pub(crate) async fn count(&self, prefix: &str) -> Result<i64, Status> {
        let (key, range_end) = (prefix.to_owned().into(), end_of(prefix));
        let request = pb::RangeRequest { key, range_end, count_only: true, ..Default::default() };
        let (_, reply) = self.range(request).await?;
        assert!(reply.kvs.is_empty() && !reply.more);
        Ok(reply.count)
    }

    /// Keys and their revisions, without values.
    pub(crate) async fn keys(&self, prefix: &str) -> Result<Vec<KeyValue>, Status> {
        let (key, range_end) = (prefix.to_owned().into(), end_of(prefix));
        let request = pb::RangeRequest { key, range_end, keys_only: true, ..Default::default() };
        Ok(self.range(request).await?.1.kvs)
    }

    /// A page from a key on, at a revision if it is not 0.
    pub(crate) async fn page(
        &self,
        prefix: &str,
        from: &Bytes,
        limit: i64,
        revision: i64,
    ) -> Result<(i64, pb::RangeResponse), Status> {
        let request =
            pb::RangeRequest { key: from.clone(), range_end: end_of(prefix), limit, revision, ..Default::default() };
        self.range(request).await
    }

    /// Everything below a prefix, in pages that double, at the revision of the first one or at this one.
    pub(crate) async fn list(&self, prefix: &str, at: i64) -> Result<(i64, Items), Status> {
        let (mut from, mut limit, mut pinned) = (Bytes::from(prefix.to_owned()), PAGE, at);
        let mut items = Items::new();
        loop {
            let (revision, page) = self.page(prefix, &from, limit, pinned).await?;
            assert!(revision >= pinned, "an answer at {pinned} says {revision}");
            if pinned == 0 {
                pinned = revision;
            }
            let got = i64::try_from(page.kvs.len()).unwrap();
            assert!(got <= limit && page.more == (page.count > got), "{got} of {}, at most {limit}", page.count);
            assert!(page.kvs.is_sorted_by(|a, b| a.key < b.key), "keys in order");
            let last = page.kvs.last().map(|kv| kv.key.clone());
            for kv in page.kvs {
                assert!(kv.mod_revision <= pinned && kv.key >= from, "{kv:?} at {pinned}");
                assert!(items.insert(kv.key.clone(), kv).is_none(), "a key twice");
            }
            let Some(last) = last.filter(|_| page.more) else { return Ok((pinned, items)) };
            from = [&last[..], &[0]].concat().into();
            limit = PAGE_MAX.min(limit * 2);
        }
    }

    /// A watch of a prefix after a revision.
    pub(crate) async fn watch(&self, prefix: &str, after: i64) -> Result<Watch, Status> {
        let request = pb::WatchCreateRequest {
            key: prefix.to_owned().into(),
            range_end: end_of(prefix),
            start_revision: after + 1,
            prev_kv: true,
            progress_notify: true,
            ..Default::default()
        };
        let (ask, questions) = mpsc::channel(16);
        let create = RequestUnion::CreateRequest(request);
        ask.send(pb::WatchRequest { request_union: Some(create) }).await.unwrap();
        let questions = futures::stream::unfold(questions, async |mut questions| {
            questions.recv().await.map(|question| (question, questions))
        });
        let mut request = self.counted(questions);
        request.metadata_mut().insert("hasleader", "true".parse().unwrap());
        let said = self.watch.clone().watch(request).await?.into_inner();
        let mut watch = Watch { ask, said };
        let created = watch.next().await?;
        assert!(created.created && created.events.is_empty() && created.watch_id == 0, "{created:?}");
        Ok(watch)
    }

    /// A lease for objects that end by themselves.
    pub(crate) async fn lease(&self, ttl: i64) -> Result<i64, Status> {
        let request = self.counted(pb::LeaseGrantRequest { ttl, id: 0 });
        let reply = self.lease.clone().lease_grant(request).await?.into_inner();
        assert_eq!(reply.ttl, ttl);
        Ok(reply.id)
    }

    /// What the feature check and the metrics ask for: version and size.
    pub(crate) async fn status(&self) -> Result<(String, i64), Status> {
        let reply = self.maintenance.clone().status(self.counted(pb::StatusRequest {})).await?.into_inner();
        Ok((reply.version, reply.db_size))
    }

    /// One round of a compactor that last saw the key at `version`: whether it is the one that goes on, and at which version
    /// the key is then, with the revision that stands in it.
    pub(crate) async fn claim_compaction(&self, version: i64, revision: i64) -> Result<(bool, i64, i64), Status> {
        let compare = pb::Compare {
            result: CompareResult::Equal.into(),
            target: CompareTarget::Version.into(),
            key: COMPACT_KEY.into(),
            target_union: Some(TargetUnion::Version(version)),
            ..Default::default()
        };
        let text = Bytes::from(revision.to_string());
        let success = vec![pb::RequestOp { request: Some(put(COMPACT_KEY, &text, 0)) }];
        let failure = vec![pb::RequestOp { request: Some(get(COMPACT_KEY)) }];
        let txn = pb::TxnRequest { compare: vec![compare], success, failure };
        let reply = self.kv.clone().txn(self.counted(txn)).await?.into_inner();
        if reply.succeeded {
            return Ok((true, version + 1, revision));
        }
        let [Some(Done::ResponseRange(found))] =
            &reply.responses.into_iter().map(|op| op.response).collect::<Vec<_>>()[..]
        else {
            panic!("a get was asked for");
        };
        let kv = &found.kvs[0];
        Ok((false, kv.version, str::from_utf8(&kv.value).unwrap().parse().unwrap()))
    }

    /// Compact.
    pub(crate) async fn compact(&self, revision: i64) -> Result<(), Status> {
        let request = pb::CompactionRequest { revision, physical: false };
        self.kv.clone().compact(self.counted(request)).await.map(drop)
    }
}
