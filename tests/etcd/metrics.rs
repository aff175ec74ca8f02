//! What a member tells of itself, beside what etcd tells: the same names, kinds, labels and buckets, and the same numbers
//! after the same requests. What is meant to differ stands in lists here that must be met exactly.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use futures::channel::mpsc::unbounded;
use futures::stream::iter;
use holdfast::api::etcdserverpb as pb;
use holdfast::api::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use holdfast::api::etcdserverpb::request_op::Request as Op;
use holdfast::api::etcdserverpb::watch_request::RequestUnion;
use tonic::Request;
use tonic::transport::Channel;

use crate::support::etcd::Etcd;
use crate::support::member::{Member, get};

/// Beginnings of names that only etcd tells: Go's runtime and its library for metrics, etcd's proxy, its old store, and the
/// pages of its file.
const ETCD_ALONE: [&str; 6] = [
    "etcd_debugging_disk_backend_commit_",
    "etcd_debugging_store_",
    "etcd_grpc_proxy_",
    "etcd_server_go_version",
    "go_",
    "promhttp_",
];
/// Names that etcd 3.5.1 does not tell: those of later versions, and Holdfast's own.
const OURS_ALONE: [&str; 9] = [
    "etcd_debugging_server_alarms",
    "etcd_disk_wal_write_duration_seconds",
    "etcd_server_feature_enabled",
    "etcd_server_healthcheck",
    "etcd_server_healthchecks_total",
    "holdfast_scrub_last_timestamp_seconds",
    "holdfast_scrub_read_bytes_total",
    "holdfast_scrubs_failed_total",
    "holdfast_scrubs_total",
];
/// Metrics of one number that must be the same, whatever it is.
const SAME: [&str; 30] = [
    "etcd_debugging_auth_revision",
    "etcd_debugging_lease_granted_total",
    "etcd_debugging_lease_renewed_total",
    "etcd_debugging_lease_revoked_total",
    "etcd_debugging_lease_ttl_total",
    "etcd_debugging_mvcc_compact_revision",
    "etcd_debugging_mvcc_current_revision",
    "etcd_debugging_mvcc_db_compaction_keys_total",
    "etcd_debugging_mvcc_db_compaction_total_duration_milliseconds",
    "etcd_debugging_mvcc_events_total",
    "etcd_debugging_mvcc_keys_total",
    "etcd_debugging_mvcc_pending_events_total",
    "etcd_debugging_mvcc_range_total",
    "etcd_debugging_mvcc_slow_watcher_total",
    "etcd_debugging_mvcc_total_put_size_in_bytes",
    "etcd_debugging_mvcc_watch_stream_total",
    "etcd_debugging_mvcc_watcher_total",
    "etcd_disk_backend_defrag_duration_seconds",
    "etcd_disk_backend_snapshot_duration_seconds",
    "etcd_disk_defrag_inflight",
    "etcd_mvcc_delete_total",
    "etcd_mvcc_hash_duration_seconds",
    "etcd_mvcc_hash_rev_duration_seconds",
    "etcd_mvcc_put_total",
    "etcd_mvcc_range_total",
    "etcd_mvcc_txn_total",
    "etcd_server_health_success",
    "etcd_server_proposals_failed_total",
    "etcd_server_read_indexes_failed_total",
    "grpc_server_started_total",
];
/// Those with labels; of histograms, how often. Samples of 0 need not be there.
const SAME_BY_LABELS: [&str; 5] = [
    "etcd_server_client_requests_total",
    "grpc_server_handled_total",
    "grpc_server_msg_received_total",
    "grpc_server_msg_sent_total",
    "grpc_server_started_total",
];
/// Kinds of commands that are applied at both as often. The others are agreed on by one of them alone: etcd asks its log for
/// lists of users too, and members tell each other other things.
const APPLIED: [&str; 10] = [
    "Alarm",
    "AuthRoleAdd",
    "AuthRoleGrantPermission",
    "AuthUserAdd",
    "Compaction",
    "DeleteRange",
    "LeaseGrant",
    "LeaseRevoke",
    "Put",
    "Txn",
];

/// A page, taken apart.
#[derive(Debug, Default)]
struct Told {
    kinds: BTreeMap<String, String>,
    /// By metric: names of labels of all its samples.
    labels: BTreeMap<String, BTreeSet<String>>,
    /// By metric: ends of buckets.
    buckets: BTreeMap<String, BTreeSet<String>>,
    /// By sample.
    values: BTreeMap<String, f64>,
}

impl Told {
    fn of(address: &str) -> Told {
        let (page, mut told, mut open) = (get(address, "/metrics").body, Told::default(), String::new());
        for line in page.lines() {
            if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').unwrap();
                open = name.to_owned();
                assert!(told.kinds.insert(open.clone(), kind.to_owned()).is_none(), "{name} is told twice");
            } else if !line.starts_with('#') {
                told.take(&open, line);
            }
        }
        told
    }

    fn take(&mut self, metric: &str, line: &str) {
        let (sample, value) = line.rsplit_once(' ').unwrap();
        assert!(sample.starts_with(metric), "{line} stands behind {metric}");
        let braced = sample.split_once('{').map_or("", |(_, rest)| rest.strip_suffix('}').unwrap());
        for pair in braced.split("\",").filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once("=\"").unwrap();
            self.labels.entry(metric.to_owned()).or_default().insert(name.to_owned());
            if name == "le" {
                let end = value.trim_end_matches('"').to_owned();
                self.buckets.entry(metric.to_owned()).or_default().insert(end);
            }
        }
        let earlier = self.values.insert(sample.to_owned(), value.parse().unwrap());
        assert!(earlier.is_none(), "{sample} is told twice");
    }

    /// The number of a metric; of a histogram, how often.
    fn number(&self, name: &str) -> f64 {
        let found = self.values.get(name).or_else(|| self.values.get(&format!("{name}_count")));
        found
            .copied()
            .unwrap_or_else(|| self.values.iter().filter(|(sample, _)| sample.starts_with(name)).map(|of| of.1).sum())
    }
}

/// A page before requests and after them.
struct Course {
    before: Told,
    after: Told,
}

impl Course {
    /// By how much a metric changed.
    fn change(&self, name: &str) -> f64 {
        self.after.number(name) - self.before.number(name)
    }

    /// By how much samples of a metric changed, if they did.
    fn changes(&self, name: &str) -> BTreeMap<String, f64> {
        let of = |sample: &str| sample.starts_with(name) && !sample.contains("method=\"Snapshot\"");
        let changed = self.after.values.iter().filter(|(sample, _)| of(sample)).map(|(sample, value)| {
            let before = self.before.values.get(sample).copied().unwrap_or_default();
            (sample.clone(), value - before)
        });
        changed.filter(|(_, change)| *change != 0.0).collect()
    }
}

/// What differs though it should not.
fn differences(etcd: &Course, ours: &Course) -> Vec<String> {
    let mut found = vec![];
    for name in SAME {
        let (theirs, mine) = (etcd.change(name), ours.change(name));
        if theirs.to_bits() != mine.to_bits() {
            found.push(format!("{name}: etcd {theirs}, ours {mine}"));
        }
    }
    let applied = APPLIED.map(|op| format!("etcd_server_apply_duration_seconds_count{{op=\"{op}\""));
    for name in SAME_BY_LABELS.into_iter().chain(applied.iter().map(String::as_str)) {
        let (theirs, mine) = (etcd.changes(name), ours.changes(name));
        if theirs != mine {
            let only = |these: &BTreeMap<String, f64>, those: &BTreeMap<String, f64>| -> Vec<String> {
                let apart = these.iter().filter(|(sample, change)| those.get(*sample) != Some(*change));
                apart.map(|(sample, change)| format!("{sample} {change}")).collect()
            };
            found.push(format!("{name}: etcd {:#?}, ours {:#?}", only(&theirs, &mine), only(&mine, &theirs)));
        }
    }
    found
}

fn put(key: &str, value: &str) -> pb::PutRequest {
    pb::PutRequest { key: key.to_owned().into(), value: value.to_owned().into(), ..Default::default() }
}

fn range(key: &str) -> pb::RangeRequest {
    pb::RangeRequest { key: key.to_owned().into(), ..Default::default() }
}

fn has_version(key: &str, version: i64) -> pb::Compare {
    pb::Compare {
        result: CompareResult::Equal as i32,
        target: CompareTarget::Version as i32,
        key: key.to_owned().into(),
        target_union: Some(TargetUnion::Version(version)),
        ..Default::default()
    }
}

fn ops(ops: Vec<Op>) -> Vec<pb::RequestOp> {
    ops.into_iter().map(|op| pb::RequestOp { request: Some(op) }).collect()
}

async fn keys(channel: &Channel) {
    let mut kv = pb::kv_client::KvClient::new(channel.clone());
    let mut request = Request::new(put("a", "1"));
    request.metadata_mut().insert("client-api-version", "3.5".parse().unwrap());
    kv.put(request).await.unwrap();
    for n in 0..20 {
        kv.put(put(&format!("k{n}"), "value")).await.unwrap();
    }
    kv.put(pb::PutRequest { prev_kv: true, ..put("a", "22") }).await.unwrap();
    kv.put(pb::PutRequest { ignore_value: true, ..put("a", "") }).await.unwrap();
    kv.put(pb::PutRequest { ignore_value: true, ..put("none", "") }).await.unwrap_err();
    kv.put(put("", "no key")).await.unwrap_err();
    kv.range(range("a")).await.unwrap();
    kv.range(pb::RangeRequest { range_end: vec![0].into(), limit: 3, ..range("k") }).await.unwrap();
    kv.range(pb::RangeRequest { revision: 9000, ..range("a") }).await.unwrap_err();
    kv.range(pb::RangeRequest { serializable: true, ..range("a") }).await.unwrap();
    let end = b"k1\xff".to_vec().into();
    let several = pb::DeleteRangeRequest { key: "k1".into(), range_end: end, prev_kv: true };
    assert!(kv.delete_range(several).await.unwrap().into_inner().deleted > 5);
    kv.delete_range(pb::DeleteRangeRequest { key: "none".into(), ..Default::default() }).await.unwrap();
}

async fn txns(channel: &Channel) {
    let mut kv = pb::kv_client::KvClient::new(channel.clone());
    let inner = pb::TxnRequest {
        compare: vec![has_version("a", 99)],
        failure: ops(vec![Op::RequestPut(put("inner", "x")), Op::RequestRange(range("inner"))]),
        ..Default::default()
    };
    let requests = [
        (vec![has_version("a", 3), has_version("k2", 1)], vec![Op::RequestPut(put("t", "1"))]),
        (vec![has_version("a", 99), has_version("k2", 1)], vec![Op::RequestPut(put("t", "2"))]),
        (vec![has_version("a", 3)], vec![Op::RequestRange(range("a"))]),
        (vec![], vec![Op::RequestRange(range("a")), Op::RequestRange(range("t"))]),
        (vec![], vec![Op::RequestPut(put("t", "3"))]),
        (vec![], vec![Op::RequestPut(pb::PutRequest { ignore_lease: true, ..put("t", "4") }), Op::RequestTxn(inner)]),
        (
            vec![has_version("t", 3)],
            vec![
                Op::RequestPut(pb::PutRequest { prev_kv: true, ..put("u", "5") }),
                Op::RequestDeleteRange(pb::DeleteRangeRequest { key: "t".into(), prev_kv: true, ..Default::default() }),
                Op::RequestRange(range("u")),
            ],
        ),
        (vec![], vec![]),
    ];
    for (compare, success) in requests {
        let failure = ops(vec![Op::RequestRange(range("a"))]);
        kv.txn(pb::TxnRequest { compare, success: ops(success), failure }).await.unwrap();
    }
    let missing = ops(vec![Op::RequestPut(pb::PutRequest { ignore_value: true, ..put("none", "") })]);
    kv.txn(pb::TxnRequest { success: missing, ..Default::default() }).await.unwrap_err();
    let unread = ops(vec![Op::RequestRange(pb::RangeRequest { revision: 9000, ..range("a") })]);
    let compare = vec![has_version("a", 3)];
    kv.txn(pb::TxnRequest { compare, success: unread, ..Default::default() }).await.unwrap_err();
}

async fn leases(channel: &Channel) {
    let (mut lease, mut kv) =
        (pb::lease_client::LeaseClient::new(channel.clone()), pb::kv_client::KvClient::new(channel.clone()));
    for (id, ttl) in [(7, 60), (8, 100_000), (7, 5)] {
        let granted = lease.lease_grant(pb::LeaseGrantRequest { id, ttl }).await;
        assert_eq!(granted.is_ok(), ttl != 5);
    }
    for key in ["held1", "held2", "held3"] {
        kv.put(pb::PutRequest { lease: 7, ..put(key, "x") }).await.unwrap();
    }
    let renewals = iter([pb::LeaseKeepAliveRequest { id: 8 }, pb::LeaseKeepAliveRequest { id: 8 }]);
    let mut renewed = lease.lease_keep_alive(renewals).await.unwrap().into_inner();
    while renewed.message().await.unwrap().is_some() {}
    lease.lease_revoke(pb::LeaseRevokeRequest { id: 7 }).await.unwrap();
    lease.lease_revoke(pb::LeaseRevokeRequest { id: 77 }).await.unwrap_err();
}

/// A watch that is still open when the page is read is returned.
async fn watches(channel: &Channel) -> Vec<impl Sized + use<>> {
    let (mut watch, mut kv) =
        (pb::watch_client::WatchClient::new(channel.clone()), pb::kv_client::KvClient::new(channel.clone()));
    let mut open = vec![];
    for stays in [true, false] {
        let create = |key: &str| pb::WatchRequest {
            request_union: Some(RequestUnion::CreateRequest(pb::WatchCreateRequest {
                key: key.to_owned().into(),
                ..Default::default()
            })),
        };
        let (sender, requests) = unbounded();
        // etcd answers nothing, not even that it heard, before it is asked for something.
        sender.unbounded_send(create("w")).unwrap();
        let mut replies = watch.watch(requests).await.unwrap().into_inner();
        assert!(replies.message().await.unwrap().unwrap().created);
        sender.unbounded_send(create("a")).unwrap();
        assert!(replies.message().await.unwrap().unwrap().created);
        for _ in 0..3 {
            kv.put(put("w", "x")).await.unwrap();
            assert_eq!(replies.message().await.unwrap().unwrap().events.len(), 1);
        }
        if stays {
            open.push((sender, replies));
        }
    }
    open
}

async fn the_rest(channel: &Channel, address: &str) {
    let mut maintenance = pb::maintenance_client::MaintenanceClient::new(channel.clone());
    let mut kv = pb::kv_client::KvClient::new(channel.clone());
    let mut auth = pb::auth_client::AuthClient::new(channel.clone());
    auth.role_add(pb::AuthRoleAddRequest { name: "r".into() }).await.unwrap();
    auth.role_add(pb::AuthRoleAddRequest { name: "r".into() }).await.unwrap_err();
    let add = pb::AuthUserAddRequest { name: "u".into(), password: "p".into(), ..Default::default() };
    auth.user_add(add).await.unwrap();
    kv.compact(pb::CompactionRequest { revision: 20, physical: true }).await.unwrap();
    kv.compact(pb::CompactionRequest { revision: 10, physical: false }).await.unwrap_err();
    maintenance.hash(pb::HashRequest {}).await.unwrap();
    maintenance.hash_kv(pb::HashKvRequest { revision: 0 }).await.unwrap();
    maintenance.status(pb::StatusRequest {}).await.unwrap();
    maintenance.alarm(pb::AlarmRequest { action: 1, member_id: 1, alarm: 1 }).await.unwrap();
    maintenance.alarm(pb::AlarmRequest { action: 2, member_id: 1, alarm: 1 }).await.unwrap();
    let mut snapshot = maintenance.snapshot(pb::SnapshotRequest {}).await.unwrap().into_inner();
    while snapshot.message().await.unwrap().is_some() {}
    maintenance.defragment(pb::DefragmentRequest {}).await.unwrap();
    assert_eq!(get(address, "/health").status, 200);
}

fn names_kinds_and_labels(etcd: &Told, ours: &Told) {
    let alone = |name: &str| ETCD_ALONE.iter().any(|begin| name.starts_with(begin));
    let missing: Vec<_> = etcd.kinds.keys().filter(|name| !ours.kinds.contains_key(*name) && !alone(name)).collect();
    assert!(missing.is_empty(), "not told here: {missing:?}");
    for begin in ETCD_ALONE {
        assert!(etcd.kinds.keys().any(|name| name.starts_with(begin)), "etcd tells nothing of {begin}");
        assert!(!ours.kinds.keys().any(|name| name.starts_with(begin)), "{begin} is told here too");
    }
    let more: BTreeSet<_> = ours.kinds.keys().filter(|name| !etcd.kinds.contains_key(*name)).collect();
    let more: Vec<_> = more.into_iter().filter(|name| *name != "holdfast_version").collect();
    assert_eq!(more, OURS_ALONE);
    for (name, kind) in etcd.kinds.iter().filter(|(name, _)| ours.kinds.contains_key(*name)) {
        assert_eq!((kind, etcd.labels.get(name)), (&ours.kinds[name], ours.labels.get(name)), "{name}");
        assert_eq!(etcd.buckets.get(name), ours.buckets.get(name), "{name}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_tells_of_itself_what_etcd_does() {
    let etcd = Etcd::options().args(&["--metrics=extensive"]).start();
    let member = Member::start(&["--metrics=extensive"]);
    let sides = [(etcd.endpoint(0), etcd.address(0)), (member.endpoint(), member.client.address())];
    let told = |side: usize| Told::of(&sides[side].1);
    let mut course = [0, 1].map(|side| Course { before: told(side), after: Told::default() });
    for course in &course {
        assert_eq!(course.before.number("etcd_debugging_mvcc_compact_revision").to_bits(), (-1.0_f64).to_bits());
    }
    let mut open = vec![];
    for (endpoint, address) in &sides {
        let channel = Channel::from_shared(endpoint.clone()).unwrap().connect().await.unwrap();
        let asked = async {
            keys(&channel).await;
            txns(&channel).await;
            leases(&channel).await;
            open.extend(watches(&channel).await);
            the_rest(&channel, address).await;
        };
        tokio::time::timeout(Duration::from_secs(60), asked).await.expect("all of it is answered");
    }
    // Streams end, and what is compacted goes, a moment after their clients have heard of it.
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        for (side, course) in course.iter_mut().enumerate() {
            course.after = told(side);
        }
        let found = differences(&course[0], &course[1]);
        if found.is_empty() {
            break;
        }
        assert!(Instant::now() < deadline, "{}", found.join("\n"));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let [etcd, ours] = course.each_ref().map(|course| &course.after);
    names_kinds_and_labels(etcd, ours);
    let streams = "etcd_debugging_mvcc_watch_stream_total";
    assert_eq!([etcd, ours].map(|told| told.number(streams).to_bits()), [1.0_f64.to_bits(); 2]);
    drop(open);
}

/// Whatever clients say of themselves, no series is there twice: those who read the page would refuse all of it.
#[tokio::test]
async fn a_client_that_calls_itself_other_doubles_no_series() {
    let member = Member::start(&[]);
    let channel = Channel::from_shared(member.endpoint()).unwrap().connect().await.unwrap();
    let mut kv = pb::kv_client::KvClient::new(channel);
    for n in 0..40 {
        let version = if n % 10 == 0 { "other".to_owned() } else { format!("3.{n}") };
        let mut request = Request::new(put("a", "1"));
        request.metadata_mut().insert("client-api-version", version.parse().unwrap());
        kv.put(request).await.unwrap();
    }
    let page = get(&member.client.address(), "/metrics").body;
    let mut seen = BTreeSet::new();
    for line in page.lines().filter(|line| !line.starts_with('#')) {
        let (series, _) = line.rsplit_once(' ').unwrap();
        assert!(seen.insert(series), "twice: {series}");
    }
    let others = "etcd_server_client_requests_total{client_api_version=\"other\",type=\"unary\"}";
    assert!(page.contains(&format!("{others} 24")) || page.contains(&format!("{others} 25")), "{page}");
}
