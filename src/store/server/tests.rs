//! Services over real gRPC, for what the comparison with etcd (tests/etcd) does not reach.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use tempfile::TempDir;
use tokio::sync::Semaphore;
use tonic::metadata::MetadataValue;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};

use crate::api::etcdserverpb as pb;
use crate::api::etcdserverpb::alarm_request::AlarmAction;
use crate::api::etcdserverpb::downgrade_request::DowngradeAction;
use crate::api::etcdserverpb::kv_client::KvClient;
use crate::api::etcdserverpb::lease_client::LeaseClient;
use crate::api::etcdserverpb::maintenance_client::MaintenanceClient;
use crate::base::rng::Seeded;
use crate::store::node::{Handle, Member, Paths, create};
use crate::store::options::Tuning;
use crate::store::server::{range_stream, routes};

struct Site {
    handle: Handle,
    channel: Channel,
    _dir: TempDir,
}

impl Site {
    async fn start(tuning: Tuning) -> Site {
        let dir = tempfile::tempdir().unwrap();
        let member = Member { cluster_id: 7, member_id: 9, name: "m".into(), ..Member::default() };
        let paths = Paths { state: dir.path().join("db"), log: dir.path().join("wal") };
        std::fs::create_dir(&paths.log).unwrap();
        create(&paths, &member, &tuning).unwrap();
        let handle = Handle::start(&paths, member, tuning).await.unwrap();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let routes = routes(&handle).await;
        tokio::spawn(async move { axum::serve(listener, routes).await });
        let channel = Endpoint::from_shared(endpoint).unwrap().connect().await.unwrap();
        Site { handle, channel, _dir: dir }
    }

    fn kv(&self) -> KvClient<Channel> {
        KvClient::new(self.channel.clone()).max_decoding_message_size(64 << 20)
    }

    fn maintenance(&self) -> MaintenanceClient<Channel> {
        MaintenanceClient::new(self.channel.clone())
    }

    async fn put(&self, key: &str, value: impl Into<bytes::Bytes>) {
        let request = pb::PutRequest { key: key.to_owned().into(), value: value.into(), ..Default::default() };
        self.kv().put(request).await.unwrap();
    }

    /// A range in many messages.
    async fn streamed(&self, request: pb::RangeRequest) -> Result<Vec<pb::RangeResponse>, Status> {
        let mut stream = self.kv().range_stream(request).await?.into_inner();
        let mut parts = vec![];
        while let Some(part) = stream.next().await {
            parts.push(part?.range_response.unwrap());
        }
        Ok(parts)
    }
}

fn refused<T: std::fmt::Debug>(outcome: Result<T, Status>) -> (Code, String) {
    let status = outcome.unwrap_err();
    (status.code(), status.message().to_owned())
}

fn a_range(key: &str, end: &str) -> pb::RangeRequest {
    pb::RangeRequest { key: key.to_owned().into(), range_end: end.to_owned().into(), ..Default::default() }
}

#[tokio::test]
async fn a_range_in_many_messages_is_the_range() {
    let site = Site::start(Tuning { request_bytes_max: 2000, ..Tuning::default() }).await;
    let mut rng = Seeded::new(5);
    for n in 0..300 {
        let length = usize::try_from(rng.below(60)).unwrap();
        site.put(&format!("k/{:03}", n % 250), vec![b'v'; length]).await;
    }
    for n in 0..60 {
        let request = pb::RangeRequest {
            limit: [0, 1, 10, 11, 240, 250, 251][n % 7],
            keys_only: n % 5 == 0,
            count_only: n % 11 == 0,
            revision: if n % 3 == 0 { 280 } else { 0 },
            serializable: n % 2 == 0,
            ..a_range("k/", ["k0", "\0", "k/1", "", "a"][n % 5])
        };
        let whole = site.kv().range(request.clone()).await.unwrap().into_inner();
        let parts = site.streamed(request.clone()).await.unwrap();
        let (last, before) = parts.split_last().unwrap();
        assert!(before.iter().all(|part| part.header.is_none() && part.count == 0 && !part.more), "{request:?}");
        let bound = |part: &pb::RangeResponse| part.kvs.iter().map(|kv| kv.value.len()).sum::<usize>() < 2000 + 60;
        assert!(parts.iter().all(bound) && parts[0].kvs.len() <= 10, "{request:?}");
        let kvs = parts.iter().flat_map(|part| part.kvs.clone()).collect();
        let joined = pb::RangeResponse { header: last.header, kvs, more: last.more, count: last.count };
        assert_eq!(joined, whole, "{request:?}");
        if whole.kvs.len() > 100 && !request.keys_only {
            assert!(parts.len() > 3, "{} messages", parts.len());
        }
    }
    let one = site.streamed(a_range("k/007", "")).await.unwrap();
    assert_eq!((one.len(), one[0].kvs.len(), one[0].count), (1, 1, 1));
}

#[tokio::test]
async fn a_range_that_cannot_be_streamed_is_refused_as_unknown() {
    let site = Site::start(Tuning::default()).await;
    let range = a_range("a", "\0");
    for request in [
        pb::RangeRequest { sort_order: 2, ..range.clone() },
        pb::RangeRequest { sort_target: 3, ..range.clone() },
        pb::RangeRequest { max_create_revision: 3, ..range.clone() },
    ] {
        assert_eq!(refused(site.streamed(request).await).0, Code::Unimplemented);
    }
    let future = pb::RangeRequest { revision: 99, ..range.clone() };
    assert_eq!(refused(site.streamed(future).await).0, Code::OutOfRange);
    assert_eq!(refused(site.streamed(a_range("", "")).await).0, Code::InvalidArgument);
    let ascending = pb::RangeRequest { sort_order: 1, ..range };
    assert_eq!(site.streamed(ascending).await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_client_that_stops_reading_is_cut_off_by_name() {
    let site = Site::start(Tuning { request_bytes_max: 2000, ..Tuning::default() }).await;
    for n in 0..50 {
        site.put(&format!("k/{n:02}"), vec![b'v'; 100]).await;
    }
    let state = site.handle.state();
    let held = Arc::downgrade(&state);
    let slot = Arc::new(Semaphore::new(1)).try_acquire_owned().unwrap();
    let (range, stall) = (a_range("k/", "k0"), Duration::from_millis(1));
    let mut parts = range_stream::chunks(&site.handle, state, range, slot, stall).unwrap();
    site.put("another", "state").await;
    // Nobody reads: what the range was read from is let go.
    while held.upgrade().is_some() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let mut last = None;
    while let Some(part) = parts.next().await {
        last = Some(part);
    }
    let status = last.unwrap().unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded);
    assert!(status.message().contains("has read nothing of the range for 1ms"), "{status}");
}

/// What they keep is kept for nobody else: they are few, and none goes on for ever.
#[tokio::test]
async fn ranges_that_are_streamed_are_bounded_in_number_and_time() {
    let site = Site::start(Tuning { range_streams_max: 1, ..Tuning::default() }).await;
    for n in 0..200 {
        site.put(&format!("k/{n:03}"), vec![b'v'; 20_000]).await;
    }
    let first = site.kv().range_stream(a_range("k/", "k0")).await.unwrap();
    let (code, text) = refused(site.kv().range_stream(a_range("k/", "k0")).await);
    assert_eq!(
        (code, text.as_str()),
        (Code::ResourceExhausted, "holdfast: too many ranges are being streamed; try again later")
    );
    assert_eq!(site.kv().range(a_range("k/0", "k/1")).await.unwrap().into_inner().count, 100);
    drop(first);
    // A slot is free again once the server has noticed.
    while site.streamed(a_range("k/", "k0")).await.is_err() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }

    let site = Site::start(Tuning { moment_age_max: Duration::ZERO, ..Tuning::default() }).await;
    site.put("k", vec![1]).await;
    let (code, text) = refused(site.streamed(a_range("k", "")).await);
    assert_eq!((code, text.as_str()), (Code::Aborted, "holdfast: the range was read for longer than 0 ms"));
}

#[tokio::test]
async fn metadata_must_make_sense_and_a_message_has_a_limit() {
    let site = Site::start(Tuning { request_bytes_max: 1000, ..Tuning::default() }).await;
    let with = |name: &'static str, value: &[u8]| {
        let mut request = Request::new(a_range("a", ""));
        request.metadata_mut().insert(name, MetadataValue::try_from(value).unwrap());
        request
    };
    let not_text = refused(site.kv().range(with("client-api-version", b"\xff\xfe")).await);
    assert_eq!(not_text, (Code::InvalidArgument, "etcdserver: invalid client api version".to_owned()));
    site.kv().range(with("client-api-version", b"3.5.1")).await.unwrap();
    site.kv().range(with("hasleader", b"true")).await.unwrap();

    let put = |bytes: usize| pb::PutRequest { key: "a".into(), value: vec![1; bytes].into(), ..Default::default() };
    let too_large = (Code::InvalidArgument, "etcdserver: request is too large".to_owned());
    assert_eq!(refused(site.kv().put(put(1000)).await), too_large);
    let (code, text) = refused(site.kv().put(put(1000 + (512 << 10))).await);
    assert_eq!(code, Code::ResourceExhausted);
    assert_eq!(text, "grpc: received message larger than max (525295 vs. 525288)");
    let long = pb::RangeRequest { key: vec![1; 600 << 10].into(), ..Default::default() };
    assert_eq!(refused(site.kv().range(long).await).0, Code::ResourceExhausted);
}

#[tokio::test]
async fn a_flood_is_refused_and_what_was_taken_is_done() {
    const AT_ONCE: usize = 400;
    let site = Site::start(Tuning { queue_max: 8, ..Tuning::default() }).await;
    let (mut done, mut refusals) = (0, 0);
    // Whether more than eight wait at once is the scheduler's: a few rounds, until some did.
    for round in 0..100 {
        let puts = (0..AT_ONCE).map(|n| {
            let key = format!("{round}/{n}").into_bytes();
            let mut kv = site.kv();
            async move {
                kv.put(pb::PutRequest { key: key.into(), value: vec![1; 1000].into(), ..Default::default() }).await
            }
        });
        for outcome in futures::future::join_all(puts).await {
            match outcome {
                Ok(_) => done += 1,
                Err(status) => {
                    let told = (status.code(), status.message());
                    assert_eq!(told, (Code::Unknown, "etcdserver: too many requests"));
                    refusals += 1;
                }
            }
        }
        if refusals > 0 {
            break;
        }
    }
    assert!(refusals > 0 && done > 0, "{done} done, {refusals} refused");
    // Nothing of the flood is left, and no refused one was done.
    site.put("after", "it").await;
    let all = pb::RangeRequest { count_only: true, ..a_range("\0", "\0") };
    assert_eq!(site.kv().range(all).await.unwrap().into_inner().count, done + 1);
}

#[tokio::test]
async fn an_unknown_sort_is_refused() {
    let site = Site::start(Tuning::default()).await;
    for (sort_order, sort_target) in [(3, 0), (0, 5), (-1, 1)] {
        let range = pb::RangeRequest { sort_order, sort_target, ..a_range("a", "") };
        let op = pb::RequestOp { request: Some(pb::request_op::Request::RequestRange(range.clone())) };
        let expected = (Code::InvalidArgument, "etcdserver: invalid sort option".to_owned());
        assert_eq!(refused(site.kv().range(range).await), expected);
        let txn = pb::TxnRequest { failure: vec![op], ..Default::default() };
        assert_eq!(refused(site.kv().txn(txn).await), expected);
    }
}

#[tokio::test]
async fn a_member_tells_how_it_is() {
    let site = Site::start(Tuning::default()).await;
    site.put("a", "b").await;
    let mut maintenance = site.maintenance();
    let status = maintenance.status(pb::StatusRequest {}).await.unwrap().into_inner();
    let header = status.header.unwrap();
    assert_eq!((header.cluster_id, header.member_id, header.revision), (7, 9, 2));
    assert!(header.raft_term > 0 && status.raft_term == header.raft_term);
    assert_eq!((status.version.as_str(), status.storage_version.as_str()), ("3.6.14", "3.6.0"));
    assert_eq!((status.leader, status.is_learner, status.errors.len()), (9, false, 0));
    assert_eq!(status.db_size_quota, 2 << 30);
    assert!(status.db_size > 0 && status.db_size >= status.db_size_in_use, "{status:?}");
    assert!(status.raft_applied_index > 0 && status.raft_index >= status.raft_applied_index);

    let alarm = pb::AlarmRequest { action: AlarmAction::Activate as i32, member_id: 9, alarm: 1 };
    maintenance.alarm(alarm).await.unwrap();
    let status = maintenance.status(pb::StatusRequest {}).await.unwrap().into_inner();
    assert_eq!(status.errors, ["memberID:9 alarm:NOSPACE "]);
    assert!(maintenance.defragment(pb::DefragmentRequest {}).await.unwrap().into_inner().header.is_none());
}

#[tokio::test]
async fn a_downgrade_is_refused_by_its_reason() {
    let site = Site::start(Tuning::default()).await;
    let ask = async |action: DowngradeAction, version: &str| {
        let request = pb::DowngradeRequest { action: action as i32, version: version.to_owned() };
        refused(site.maintenance().downgrade(request).await)
    };
    let format = (Code::InvalidArgument, "etcdserver: wrong downgrade target version format".to_owned());
    let target = (Code::InvalidArgument, "etcdserver: invalid downgrade target version".to_owned());
    for version in ["", "3", "3.x", "3.5.0.1", "3.5.x", "v3.5"] {
        assert_eq!(ask(DowngradeAction::Validate, version).await, format, "{version}");
    }
    for version in ["3.6", "3.4.0", "3.7.0", "2.5"] {
        assert_eq!(ask(DowngradeAction::Enable, version).await, target, "{version}");
    }
    assert_eq!(ask(DowngradeAction::Validate, "3.5.0").await.0, Code::Unimplemented);
    let none = (Code::FailedPrecondition, "etcdserver: no inflight downgrade job".to_owned());
    assert_eq!(ask(DowngradeAction::Cancel, "").await, none);
}

#[tokio::test]
async fn equal_members_have_equal_hashes_whatever_they_have_removed_yet() {
    let (one, other) = (Site::start(Tuning::default()).await, Site::start(Tuning::default()).await);
    for site in [&one, &other] {
        for n in 0..40 {
            site.put(&format!("k/{}", n % 7), format!("{n}")).await;
        }
    }
    // Somebody who looks at one of them holds the removal back there.
    let view = one.handle.state();
    for site in [&one, &other] {
        site.kv().compact(pb::CompactionRequest { revision: 30, physical: false }).await.unwrap();
    }
    other.kv().compact(pb::CompactionRequest { revision: 31, physical: true }).await.unwrap();
    one.kv().compact(pb::CompactionRequest { revision: 31, physical: false }).await.unwrap();
    let mut told = vec![];
    for site in [&one, &other] {
        let mut maintenance = site.maintenance();
        let at_40 = maintenance.hash_kv(pb::HashKvRequest { revision: 40 }).await.unwrap().into_inner();
        assert_eq!((at_40.compact_revision, at_40.hash_revision), (31, 40));
        let hash = maintenance.hash(pb::HashRequest {}).await.unwrap().into_inner().hash;
        told.push((at_40.hash, hash));
    }
    assert_eq!(told[0], told[1]);
    assert_ne!(told[0].0, told[0].1);
    drop(view);
}

#[tokio::test]
async fn a_lease_ends_by_itself_and_takes_its_keys_along() {
    let tuning = Tuning {
        election: Duration::from_millis(100),
        heartbeat: Duration::from_millis(10),
        lease_scan: Duration::from_millis(10),
        ..Tuning::default()
    };
    let site = Site::start(tuning).await;
    let mut lease = LeaseClient::new(site.channel.clone());
    let granted = lease.lease_grant(pb::LeaseGrantRequest { ttl: -3, id: 5 }).await.unwrap().into_inner();
    assert_eq!((granted.id, granted.ttl), (5, 1));
    let long = lease.lease_grant(pb::LeaseGrantRequest { ttl: 100, id: 4 }).await.unwrap().into_inner();
    assert_eq!((long.id, long.ttl), (4, 100));
    let listed = lease.lease_leases(pb::LeaseLeasesRequest {}).await.unwrap().into_inner().leases;
    assert_eq!(listed.iter().map(|lease| lease.id).collect::<Vec<_>>(), [5, 4], "the one that ends first is first");
    let put = pb::PutRequest { key: "a".into(), lease: 5, ..Default::default() };
    site.kv().put(put).await.unwrap();
    let mut published = site.handle.published();
    published.wait_for(|revision| *revision == 3).await.unwrap();
    let gone = lease.lease_time_to_live(pb::LeaseTimeToLiveRequest { id: 5, keys: true }).await.unwrap().into_inner();
    assert_eq!((gone.ttl, gone.granted_ttl, gone.keys.len()), (-1, 0, 0));
    assert_eq!(site.kv().range(a_range("a", "")).await.unwrap().into_inner().count, 0);
}

#[tokio::test]
async fn probes_are_told_that_it_serves() {
    use tonic_health::pb::HealthCheckRequest;
    use tonic_health::pb::health_check_response::ServingStatus;
    use tonic_health::pb::health_client::HealthClient;
    let site = Site::start(Tuning::default()).await;
    let mut health = HealthClient::new(site.channel.clone());
    let answer = health.check(HealthCheckRequest::default()).await.unwrap().into_inner();
    assert_eq!(answer.status(), ServingStatus::Serving);
    let unknown = health.check(HealthCheckRequest { service: "other".into() }).await;
    assert_eq!(refused(unknown), (Code::NotFound, "unknown service".to_owned()));
    // Who watches is told, and waits.
    for (service, status) in [("", ServingStatus::Serving), ("other", ServingStatus::ServiceUnknown)] {
        let watch = health.watch(HealthCheckRequest { service: service.into() }).await;
        let mut watch = watch.unwrap().into_inner();
        assert_eq!(watch.message().await.unwrap().unwrap().status(), status);
        let more = tokio::time::timeout(std::time::Duration::from_millis(50), watch.message()).await;
        assert!(more.is_err(), "{more:?}");
    }
}
