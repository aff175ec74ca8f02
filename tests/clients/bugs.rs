//! Bugs that etcd had, by their numbers there: what users lost then is asked of a member of Holdfast.
//!
//! Not among them, because one member cannot show it: #15271 (a watch that goes back after a partition; there is nobody to be
//! parted from), #20418 (stale reads after a process was paused; nobody takes over meanwhile). Of #14571 and #18667, in which
//! members differed from one another, it is shown that a member is after a restart what it was before, since it then applies
//! its log anew as another member would. #20271 is a page of bbolt, a file that Holdfast only writes for others; what a kill
//! does to its own is under #14370 and #14685, and damage to it in tests/e2e/damage.rs and src/store/backend.
//!
//! Each was seen to fail with a member that was broken for it, as is said with the test; but for #18055, which would take a
//! panic.

use std::collections::BTreeSet;
use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use futures::future::join_all;
use holdfast::api::authpb::Permission;
use holdfast::api::authpb::permission::Type;
use holdfast::api::etcdserverpb as pb;
use holdfast::api::etcdserverpb::auth_client::AuthClient;
use holdfast::api::etcdserverpb::kv_client::KvClient;
use holdfast::api::etcdserverpb::maintenance_client::MaintenanceClient;
use holdfast::api::etcdserverpb::request_op::Request as Step;
use holdfast::api::etcdserverpb::watch_client::WatchClient;
use holdfast::api::etcdserverpb::watch_request::RequestUnion;
use holdfast::api::mvccpb::event::EventType;
use tokio::sync::mpsc;
use tonic::transport::Channel;
use tonic::{Code, Request, Status, Streaming};

use crate::support::member::{LIMIT, Member};

/// How long something that is due may take, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long nothing must come for it to count as nothing.
const SILENCE: Duration = Duration::from_millis(300);

/// A member and a connection to it.
struct Site {
    member: Member,
    channel: Channel,
}

impl Site {
    async fn start(args: &[&str]) -> Site {
        let mut member = Member::prepared(args);
        member.launch(|run| run);
        Site::reach(member).await
    }

    async fn reach(member: Member) -> Site {
        let deadline = Instant::now() + LIMIT;
        loop {
            if let Ok(channel) = Channel::from_shared(member.endpoint()).unwrap().connect().await
                && KvClient::new(channel.clone()).range(get("health")).await.is_ok()
            {
                return Site { member, channel };
            }
            assert!(Instant::now() < deadline, "it does not answer: {}", member.log());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// A power cut, and a new start.
    async fn again(mut self) -> Site {
        self.member.process.take().unwrap().kill();
        self.member.launch(|run| run);
        Site::reach(self.member).await
    }

    fn kv(&self) -> KvClient<Channel> {
        KvClient::new(self.channel.clone()).max_decoding_message_size(usize::MAX)
    }

    fn maintenance(&self) -> MaintenanceClient<Channel> {
        MaintenanceClient::new(self.channel.clone())
    }

    async fn put(&self, key: &str, value: &str) -> i64 {
        self.kv().put(put(key, value)).await.unwrap().into_inner().header.unwrap().revision
    }

    async fn delete(&self, key: &str) -> i64 {
        let request = pb::DeleteRangeRequest { key: key.to_owned().into(), ..Default::default() };
        self.kv().delete_range(request).await.unwrap().into_inner().header.unwrap().revision
    }

    async fn compact(&self, revision: i64, physical: bool) -> Result<(), Status> {
        self.kv().compact(pb::CompactionRequest { revision, physical }).await.map(drop)
    }

    async fn value(&self, key: &str) -> Option<String> {
        let reply = self.kv().range(get(key)).await.unwrap().into_inner();
        reply.kvs.first().map(|kv| String::from_utf8(kv.value.to_vec()).unwrap())
    }

    async fn revision(&self) -> i64 {
        self.kv().range(get("health")).await.unwrap().into_inner().header.unwrap().revision
    }

    /// The hash of all history at a revision, and how far it is compacted.
    async fn hash(&self, revision: i64) -> (u32, i64) {
        let reply = self.maintenance().hash_kv(pb::HashKvRequest { revision }).await.unwrap().into_inner();
        (reply.hash, reply.compact_revision)
    }

    async fn watch(&self, request: pb::WatchCreateRequest) -> Watch {
        Watch::open(&self.channel, request).await
    }
}

/// A stream with one watcher.
struct Watch {
    ask: mpsc::Sender<pb::WatchRequest>,
    said: Streaming<pb::WatchResponse>,
}

impl Watch {
    async fn open(channel: &Channel, request: pb::WatchCreateRequest) -> Watch {
        let (ask, questions) = mpsc::channel(16);
        let first = RequestUnion::CreateRequest(request);
        ask.send(pb::WatchRequest { request_union: Some(first) }).await.unwrap();
        let questions = futures::stream::unfold(questions, async |mut questions| {
            questions.recv().await.map(|question| (question, questions))
        });
        let mut client = WatchClient::new(channel.clone()).max_decoding_message_size(usize::MAX);
        let said = client.watch(questions).await.unwrap().into_inner();
        let mut watch = Watch { ask, said };
        let created = watch.next().await;
        assert!(created.created && !created.canceled, "{created:?}");
        watch
    }

    async fn next(&mut self) -> pb::WatchResponse {
        let reply = tokio::time::timeout(PATIENCE, self.said.message()).await.expect("something is due");
        reply.unwrap().expect("the stream goes on")
    }

    async fn ask_progress(&self) {
        let request = RequestUnion::ProgressRequest(pb::WatchProgressRequest {});
        self.ask.send(pb::WatchRequest { request_union: Some(request) }).await.unwrap();
    }

    async fn is_silent(&mut self) -> bool {
        tokio::time::timeout(SILENCE, self.said.message()).await.is_err()
    }

    /// Events until there are as many: revision, kind and key.
    async fn events(&mut self, count: usize) -> Vec<(i64, EventType, String)> {
        let mut events = vec![];
        while events.len() < count {
            let reply = self.next().await;
            assert!(!reply.canceled, "{reply:?}");
            events.extend(reply.events.iter().map(|event| {
                let kv = event.kv.as_ref().unwrap();
                (kv.mod_revision, event.r#type(), String::from_utf8(kv.key.to_vec()).unwrap())
            }));
        }
        events
    }
}

fn get(key: &str) -> pb::RangeRequest {
    pb::RangeRequest { key: key.to_owned().into(), ..Default::default() }
}

fn put(key: &str, value: &str) -> pb::PutRequest {
    pb::PutRequest { key: key.to_owned().into(), value: value.to_owned().into(), ..Default::default() }
}

fn txn(steps: Vec<Step>) -> pb::TxnRequest {
    let success = steps.into_iter().map(|step| pb::RequestOp { request: Some(step) }).collect();
    pb::TxnRequest { success, ..Default::default() }
}

fn watch(key: &str, end: &str, start_revision: i64) -> pb::WatchCreateRequest {
    let (key, range_end) = (key.to_owned().into(), end.to_owned().into());
    pb::WatchCreateRequest { key, range_end, start_revision, ..Default::default() }
}

/// Transactions of three keys each, by several clients, until the connection is cut; what was acknowledged.
async fn load(
    site: &Site,
    clients: usize,
    acknowledged: &Arc<AtomicI64>,
) -> Vec<tokio::task::JoinHandle<Vec<(i64, u64)>>> {
    let client = |client: usize| {
        let (mut kv, acknowledged) = (site.kv(), Arc::clone(acknowledged));
        tokio::spawn(async move {
            let mut done = vec![];
            for n in 1_u64.. {
                let value = n.to_string();
                let steps = ["a", "b", "c"].map(|part| Step::RequestPut(put(&format!("{part}/{client}"), &value)));
                let Ok(reply) = kv.txn(txn(steps.to_vec())).await else { return done };
                let revision = reply.into_inner().header.unwrap().revision;
                acknowledged.fetch_max(revision, Ordering::SeqCst);
                done.push((revision, n));
            }
            done
        })
    };
    (0..clients).map(client).collect()
}

/// Waits until so many revisions were acknowledged.
async fn reached(acknowledged: &AtomicI64, revision: i64) {
    let deadline = Instant::now() + PATIENCE;
    while acknowledged.load(Ordering::SeqCst) < revision {
        assert!(Instant::now() < deadline, "the load stands still");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

const CLIENTS: usize = 8;

/// After a crash under load, the revision counted some transactions twice or not at all.
///
/// Seen to fail with a log that writes nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn etcd_13766_the_revision_fits_to_what_is_there_after_a_crash_under_load() {
    let mut site = Site::start(&["--snapshot-count=500"]).await;
    for life in 0..4 {
        let acknowledged = Arc::new(AtomicI64::new(0));
        let before = site.revision().await;
        let clients = load(&site, CLIENTS, &acknowledged).await;
        reached(&acknowledged, before + 300).await;
        site = site.again().await;
        let done: Vec<_> = join_all(clients).await.into_iter().map(Result::unwrap).collect();
        let now = site.revision().await;
        let told = done.iter().flatten().map(|(revision, _)| *revision).collect::<BTreeSet<_>>();
        let (last, writes) = (*told.last().unwrap(), done.iter().map(Vec::len).sum::<usize>());
        assert_eq!(told.len(), writes, "no revision was told twice");
        // What was on its way may be there: one of each client.
        assert!((last..=before + i64::try_from(writes + CLIENTS).unwrap()).contains(&now), "life {life}: {now}");
        // Each transaction is there as a whole, and exactly one revision is each one's.
        let reply = site.kv().range(pb::RangeRequest { range_end: "d".into(), ..get("a") }).await.unwrap().into_inner();
        assert_eq!(reply.kvs.len(), 3 * CLIENTS);
        for kvs in [0, 1, 2].map(|part| &reply.kvs[part * CLIENTS..(part + 1) * CLIENTS]) {
            for (client, kv) in kvs.iter().enumerate() {
                let twin = &reply.kvs[client];
                assert_eq!((kv.mod_revision, &kv.value, kv.version), (twin.mod_revision, &twin.value, twin.version));
            }
        }
        let newest = reply.kvs.iter().map(|kv| kv.mod_revision).max().unwrap();
        assert_eq!(newest, now, "the last revision is that of the last transaction");
    }
}

/// A single member answered before its log was on the disk, and lost what it had acknowledged.
///
/// Seen to fail with a log that writes nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn etcd_14370_a_single_member_loses_no_acknowledged_write() {
    let mut site = Site::start(&[]).await;
    for _ in 0..4 {
        let acknowledged = Arc::new(AtomicI64::new(0));
        let clients = load(&site, CLIENTS, &acknowledged).await;
        let before = site.revision().await;
        reached(&acknowledged, before + 100).await;
        site = site.again().await;
        for (client, done) in join_all(clients).await.into_iter().map(Result::unwrap).enumerate() {
            let Some((revision, value)) = done.last().copied() else { continue };
            let found = site.kv().range(get(&format!("a/{client}"))).await.unwrap().into_inner().kvs.remove(0);
            let there: u64 = str::from_utf8(&found.value).unwrap().parse().unwrap();
            // The next one may have been on its way.
            assert!(found.mod_revision >= revision && (value..=value + 1).contains(&there), "{value}, and {found:?}");
        }
    }
}

/// Users and roles were not loaded with a state, and a member that started from one let everybody in, or nobody.
///
/// Seen to fail with a start that does not read the switch.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn etcd_14571_authentication_is_after_a_start_what_it_was() {
    let mut site = Site::start(&["--snapshot-count=10"]).await;
    let mut auth = AuthClient::new(site.channel.clone());
    for (name, role) in [("root", "root"), ("ann", "reader")] {
        let password = "secret".to_owned();
        auth.user_add(pb::AuthUserAddRequest { name: name.to_owned(), password, ..Default::default() }).await.unwrap();
        auth.role_add(pb::AuthRoleAddRequest { name: role.to_owned() }).await.unwrap();
        let grant = pb::AuthUserGrantRoleRequest { user: name.to_owned(), role: role.to_owned() };
        auth.user_grant_role(grant).await.unwrap();
    }
    let perm = Permission { perm_type: Type::Readwrite.into(), key: "a".into(), range_end: "b".into() };
    let grant = pb::AuthRoleGrantPermissionRequest { name: "reader".to_owned(), perm: Some(perm) };
    auth.role_grant_permission(grant).await.unwrap();
    auth.auth_enable(pb::AuthEnableRequest {}).await.unwrap();
    let mut told = None;
    for life in 0..3 {
        let mut auth = AuthClient::new(site.channel.clone());
        let sign_in = pb::AuthenticateRequest { name: "ann".to_owned(), password: "secret".to_owned() };
        let token = auth.authenticate(sign_in).await.unwrap().into_inner().token;
        let by_ann = |request| {
            let mut request = Request::new(request);
            request.metadata_mut().insert("token", token.parse().unwrap());
            request
        };
        // So many that the log is cut, and the next start is from the state.
        for n in 0..40 {
            site.kv().put(by_ann(put(&format!("a/{life}/{n}"), ""))).await.unwrap();
        }
        assert_eq!(site.kv().put(put("a", "")).await.unwrap_err().message(), "etcdserver: user name is empty");
        assert_eq!(site.kv().put(by_ann(put("c", ""))).await.unwrap_err().code(), Code::PermissionDenied);
        let mut status = Request::new(pb::AuthStatusRequest {});
        status.metadata_mut().insert("token", token.parse().unwrap());
        let status = auth.auth_status(status).await.unwrap().into_inner();
        assert!(status.enabled);
        assert_eq!(
            *told.get_or_insert(status.auth_revision),
            status.auth_revision,
            "its revision is part of the state"
        );
        // In good order it starts from its state alone, otherwise it applies its log anew.
        if life == 1 {
            assert_eq!(site.member.stop(), 0);
        } else {
            site.member.process.take().unwrap().kill();
        }
        site.member.launch(|run| run);
        let deadline = Instant::now() + LIMIT;
        site.channel = loop {
            if let Ok(channel) = Channel::from_shared(site.member.endpoint()).unwrap().connect().await
                && KvClient::new(channel.clone())
                    .range(get("a"))
                    .await
                    .is_err_and(|s| s.code() == Code::InvalidArgument)
            {
                break channel;
            }
            assert!(Instant::now() < deadline, "{}", site.member.log());
            tokio::time::sleep(Duration::from_millis(5)).await;
        };
    }
}

/// A crash in the midst of a defragmentation left a file that no member could start from.
///
/// Seen to fail with a start that leaves what a defragmentation left.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn etcd_14685_a_crash_in_a_defragmentation_changes_nothing() {
    const KEYS: usize = 3_000;
    let mut site = Site::start(&[]).await;
    let value = "v".repeat(2_000);
    let lanes = (0..30).map(|lane| {
        let (mut kv, value) = (site.kv(), value.clone());
        async move {
            for n in (lane..KEYS).step_by(30) {
                kv.put(put(&format!("k/{:04}", n % 1_500), &format!("{n}{value}"))).await.unwrap();
            }
        }
    });
    join_all(lanes).await;
    let now = site.revision().await;
    site.compact(now, true).await.unwrap();
    let hash = site.hash(now).await;
    let mut cut = 0;
    for delay in [0, 2, 5, 10, 20, 40] {
        let mut maintenance = site.maintenance();
        let defragment = tokio::spawn(async move { maintenance.defragment(pb::DefragmentRequest {}).await });
        tokio::time::sleep(Duration::from_millis(delay)).await;
        site = site.again().await;
        cut += usize::from(defragment.await.unwrap().is_err());
        assert_eq!((site.hash(now).await, site.revision().await), (hash, now), "after a crash at {delay} ms");
        let state = site.member.data_dir().join("member/snap");
        let files: Vec<_> = fs::read_dir(&state).unwrap().map(|file| file.unwrap().file_name()).collect();
        assert_eq!(files, ["db"], "what a defragmentation left is cleared at a start");
    }
    assert!(cut > 0, "no defragmentation was cut off");
    site.maintenance().defragment(pb::DefragmentRequest {}).await.unwrap();
    assert_eq!((site.hash(now).await, site.revision().await), (hash, now));
}

/// Progress was told ahead of events: a watcher that read history was not waited for.
///
/// Seen to fail with a stream that answers at once, while a watcher reads history.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn etcd_15220_progress_is_told_after_the_events_that_it_stands_for() {
    let site = Site::start(&["--watch-progress-notify-interval=1s"]).await;
    for n in 0..3_000 {
        if n % 100 == 0 {
            let lanes = (0..100).map(|lane| site.put("a", if lane % 2 == 0 { "even" } else { "odd" }));
            join_all(lanes).await;
        }
    }
    for _ in 0..20 {
        // From the past, with questions in the midst of it.
        let request = pb::WatchCreateRequest { progress_notify: true, ..watch("a", "", 2) };
        let mut reader = site.watch(request).await;
        let (mut told, mut last, mut asked) = (0, 1, 0);
        let now = site.put("a", "now").await;
        while told < now {
            if asked < 20 {
                reader.ask_progress().await;
                asked += 1;
            }
            let reply = reader.next().await;
            let said = reply.header.as_ref().unwrap().revision;
            for event in &reply.events {
                let revision = event.kv.as_ref().unwrap().mod_revision;
                assert_eq!(revision, last + 1, "nothing is left out, and nothing comes again");
                assert!(revision > told, "{revision} comes after it was said that everything up to {told} was told");
                last = revision;
            }
            if reply.events.is_empty() {
                assert!(said <= last, "{said} is said, and {last} was the last that was told");
                told = said;
            }
        }
        assert!(told >= now);
    }
}

/// An event was told twice to watchers that were made while transactions were applied.
///
/// Seen to fail with watchers that begin a revision early.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn etcd_17247_each_event_is_told_once_to_watchers_that_come_in_between() {
    const WATCHERS: usize = 60;
    let site = Site::start(&[]).await;
    let acknowledged = Arc::new(AtomicI64::new(0));
    let clients = load(&site, CLIENTS, &acknowledged).await;
    reached(&acknowledged, 50).await;
    let mut watchers = vec![];
    for n in 0..WATCHERS {
        let now = acknowledged.load(Ordering::SeqCst);
        // A little back, now, and a little ahead.
        let start = now - 2 + i64::try_from(n % 8).unwrap();
        let mut watcher = site.watch(watch("a", "d", start)).await;
        watchers.push(tokio::spawn(async move {
            let mut next = start;
            while next < start + 40 {
                let reply = watcher.next().await;
                // Three keys in each revision, and each revision once.
                assert!(reply.events.len().is_multiple_of(3), "{reply:?}");
                for events in reply.events.chunks(3) {
                    let kvs: Vec<_> = events.iter().map(|event| event.kv.as_ref().unwrap()).collect();
                    assert!(kvs.iter().all(|kv| kv.mod_revision == next), "{kvs:?} where {next} is due");
                    assert!(kvs.is_sorted_by(|a, b| a.key < b.key), "{kvs:?}");
                    next += 1;
                }
            }
        }));
        tokio::time::sleep(Duration::from_millis(3)).await;
    }
    for watcher in watchers {
        watcher.await.unwrap();
    }
    drop(site);
    assert_eq!(join_all(clients).await.len(), CLIENTS);
}

/// Where many streams share a connection, some of them were starved and lost events.
///
/// Seen to fail with streams that skip what they have fallen behind by: more is written than a member keeps for those who
/// follow.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn etcd_17529_no_event_is_lost_where_many_streams_share_a_connection() {
    const STREAMS: usize = 40;
    /// So many of them watch every key, the others one.
    const OF_ALL: usize = 3;
    const WRITES: usize = 400;
    const KEYS: usize = 50;
    let site = Site::start(&[]).await;
    let value = "v".repeat(200_000);
    // Another connection than that of the writes, whose answers would be behind events that nobody reads.
    let shared = Channel::from_shared(site.member.endpoint()).unwrap().connect().await.unwrap();
    let mut watchers = vec![];
    for n in 0..STREAMS {
        let request = if n < OF_ALL { watch("k/", "k0", 0) } else { watch("k/7", "", 0) };
        watchers.push(Watch::open(&shared, request).await);
    }
    for n in 0..WRITES {
        site.put(&format!("k/{}", n % KEYS), &value).await;
    }
    // Nobody has read until now, and what waits is more than the windows of the connection.
    let readers = watchers.into_iter().enumerate().map(async |(n, mut watcher)| {
        let due: Vec<i64> = (2..).take(WRITES).collect();
        let due = if n < OF_ALL { due } else { due.into_iter().skip(7).step_by(KEYS).collect() };
        let events = watcher.events(due.len()).await;
        assert_eq!(events.iter().map(|event| event.0).collect::<Vec<_>>(), due, "stream {n}");
        watcher.ask_progress().await;
        assert!(watcher.next().await.events.is_empty());
    });
    join_all(readers).await;
}

/// A crash in a compaction made the revision go back at the next start, where deletions were the newest.
///
/// Seen to fail with a compaction that takes deletions at it, and a start that does not look at the compaction for
/// the revision.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn etcd_17780_the_revision_does_not_go_back_after_a_crash_in_a_compaction() {
    let mut site = Site::start(&[]).await;
    for round in 0..6_u64 {
        let lanes = (0..20).map(async |lane| {
            for n in 0..20 {
                site.put(&format!("k/{lane}/{n}"), &round.to_string()).await;
            }
        });
        join_all(lanes).await;
        // The newest revisions are deletions, of which nothing is left when they are compacted.
        for lane in 0..20 {
            site.delete(&format!("k/{lane}/0")).await;
        }
        let now = site.revision().await;
        let hash = site.hash(now).await.0;
        let mut kv = site.kv();
        let compact =
            tokio::spawn(async move { kv.compact(pb::CompactionRequest { revision: now, physical: true }).await });
        tokio::time::sleep(Duration::from_millis(round)).await;
        site = site.again().await;
        let answered = compact.await.unwrap().is_ok();
        assert_eq!(site.revision().await, now, "round {round}");
        // Either it was taken or it was not; once more is then refused, or done.
        let again = site.compact(now, true).await;
        assert!(
            again.is_ok() || again.as_ref().is_err_and(|status| status.message().contains("compacted")),
            "{again:?}"
        );
        assert!(!(answered && again.is_ok()), "a compaction that was acknowledged is forgotten");
        let (compacted, to) = site.hash(now).await;
        assert_eq!(to, now);
        assert_ne!(compacted, hash, "history is gone");
        // And from the compacted state alone.
        assert_eq!(site.member.stop(), 0);
        site.member.launch(|run| run);
        site = Site::reach(site.member).await;
        assert_eq!((site.revision().await, site.hash(now).await.0), (now, compacted), "round {round}");
        assert_eq!(site.put("next", "").await, now + 1, "the next revision is the next");
        site.delete("next").await;
    }
}

/// Two snapshots within a short time ended the member.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn etcd_18055_two_snapshots_in_short_time_are_both_whole() {
    let mut site = Site::start(&["--snapshot-count=1"]).await;
    for n in 0..200 {
        site.put(&format!("k/{n}"), &"v".repeat(1_000)).await;
    }
    let acknowledged = Arc::new(AtomicI64::new(0));
    let clients = load(&site, 4, &acknowledged).await;
    reached(&acknowledged, 210).await;
    let snapshots = (0..4).map(async |_| {
        let stream = site.maintenance().snapshot(pb::SnapshotRequest {}).await.unwrap().into_inner();
        let parts: Vec<_> = stream.map(|part| part.unwrap()).collect().await;
        assert_eq!(parts.last().unwrap().remaining_bytes, 0);
        parts.iter().map(|part| part.blob.len()).sum::<usize>()
    });
    for bytes in join_all(snapshots).await {
        assert!(bytes % 512 == 32 && bytes > 200_000, "{bytes} bytes");
    }
    // The log was cut behind nearly each of these writes; a start is from what is left.
    site = site.again().await;
    let told: Vec<_> = join_all(clients).await.into_iter().map(Result::unwrap).collect();
    let last = told.iter().flatten().map(|(revision, _)| *revision).max().unwrap();
    assert!(site.revision().await >= last);
    assert_eq!(site.value("k/199").await.unwrap().len(), 1_000);
}

/// A deletion was forgotten by watchers that had not come to it when the compaction was exactly there.
///
/// Seen to fail with a compaction that takes deletions at it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn etcd_18089_a_deletion_is_told_although_the_compaction_is_at_it() {
    let site = Site::start(&[]).await;
    for round in 0..20 {
        site.put("k", "1").await;
        let made = site.put("k", "2").await;
        // One that is there before, one that begins with the deletion while the compaction is on its way.
        let mut before = site.watch(watch("k", "", made)).await;
        let gone = site.delete("k").await;
        let compact = tokio::spawn({
            let mut kv = site.kv();
            async move { kv.compact(pb::CompactionRequest { revision: gone, physical: true }).await }
        });
        let mut with = site.watch(watch("k", "", gone)).await;
        compact.await.unwrap().unwrap();
        let next = site.put("k", "3").await;
        let deletion = (gone, EventType::Delete, "k".to_owned());
        let put = (next, EventType::Put, "k".to_owned());
        assert_eq!(with.events(2).await, [deletion.clone(), put.clone()], "round {round}");
        assert_eq!(before.events(3).await[1..], [deletion, put], "round {round}");
    }
}

/// A read of a compacted revision, inside of a transaction, failed after what stood before it was written.
///
/// Seen to fail with transactions of which reads are not checked beforehand.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn etcd_18667_a_transaction_that_reads_what_is_compacted_writes_nothing() {
    let mut site = Site::start(&[]).await;
    for n in 0..10 {
        site.put("k", &n.to_string()).await;
    }
    site.compact(8, true).await.unwrap();
    let now = site.revision().await;
    let at = |revision| Step::RequestRange(pb::RangeRequest { revision, ..get("k") });
    let nested = |revision| Step::RequestTxn(txn(vec![Step::RequestPut(put("c", "")), at(revision)]));
    for (steps, words) in [
        (vec![Step::RequestPut(put("a", "")), at(3)], "compacted"),
        (vec![at(7), Step::RequestPut(put("a", ""))], "compacted"),
        (vec![Step::RequestPut(put("b", "")), at(now + 5)], "future"),
        (vec![Step::RequestPut(put("a", "")), nested(3)], "compacted"),
    ] {
        let refused = site.kv().txn(txn(steps)).await.unwrap_err();
        assert!(refused.code() == Code::OutOfRange && refused.message().contains(words), "{refused}");
    }
    let hash = site.hash(0).await;
    site = site.again().await;
    assert_eq!((site.revision().await, site.hash(0).await), (now, hash), "a replay of the log writes nothing either");
    for key in ["a", "b", "c"] {
        assert_eq!(site.value(key).await, None);
    }
    // The compaction itself can be read.
    let done = site.kv().txn(txn(vec![at(8), Step::RequestPut(put("a", ""))])).await.unwrap().into_inner();
    assert_eq!(done.header.unwrap().revision, now + 1);
}

/// A deletion was not told to watchers that begin at the revision of the compaction, where that is the deletion's.
///
/// Seen to fail with a compaction that takes deletions at it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn etcd_19179_a_deletion_is_told_to_a_watcher_that_begins_at_the_compaction() {
    let mut site = Site::start(&[]).await;
    for key in ["a", "b"] {
        site.put(key, "").await;
    }
    let range = pb::DeleteRangeRequest { key: "a".into(), range_end: "c".into(), ..Default::default() };
    let gone = site.kv().delete_range(range).await.unwrap().into_inner().header.unwrap().revision;
    site.compact(gone, true).await.unwrap();
    let due = ["a", "b"].map(|key| (gone, EventType::Delete, key.to_owned()));
    let mut watcher = site.watch(watch("a", "c", gone)).await;
    assert_eq!(watcher.events(2).await, due);
    // After a start, too.
    site = site.again().await;
    let mut watcher = site.watch(watch("a", "c", gone)).await;
    assert_eq!(watcher.events(2).await, due);
    // And before it there is nothing any more.
    let mut late = site.watch(watch("a", "c", gone - 1)).await;
    let end = late.next().await;
    assert!(end.canceled && end.compact_revision == gone && end.events.is_empty(), "{end:?}");
}

/// A watcher of a revision that is still to come was told of older ones, after a start or by progress.
///
/// Seen to fail with watchers that begin with the next revision whatever they ask for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn etcd_20221_a_watcher_of_the_future_is_told_nothing_before() {
    let mut site = Site::start(&["--watch-progress-notify-interval=1s"]).await;
    for ahead in [2, 5] {
        let now = site.put("k", "").await;
        let start = now + ahead;
        let request = pb::WatchCreateRequest { progress_notify: true, ..watch("k", "", start) };
        let mut watcher = site.watch(request).await;
        // The past of the same key is told to others.
        assert_eq!(site.watch(watch("k", "", now)).await.events(1).await[0].0, now);
        watcher.ask_progress().await;
        // Longer than a notification takes.
        tokio::time::sleep(Duration::from_millis(1_500)).await;
        assert!(watcher.is_silent().await, "nothing is due");
        for _ in 0..ahead {
            site.put("k", "").await;
        }
        assert_eq!(watcher.events(1).await, [(start, EventType::Put, "k".to_owned())]);
        site = site.again().await;
        let mut watcher = site.watch(watch("k", "", start + 2)).await;
        site.put("k", "").await;
        assert!(watcher.is_silent().await, "nothing is due");
        site.put("k", "").await;
        assert_eq!(watcher.events(1).await[0].0, start + 2);
    }
}
