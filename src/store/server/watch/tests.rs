//! Watches over real connections, with limits so small that every way is taken, and counters that prove it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::AtomicU64;

use bytes::Bytes;
use futures::SinkExt as _;
use futures::channel::mpsc;
use tempfile::TempDir;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Channel, Server};
use tonic::{Code, Streaming};

use super::*;
use crate::api::etcdserverpb::request_op::Request as Step;
use crate::api::etcdserverpb::watch_client::WatchClient;
use crate::api::etcdserverpb::watch_create_request::FilterType;
use crate::api::etcdserverpb::watch_request::RequestUnion;
use crate::api::etcdserverpb::{
    CompactionRequest, DeleteRangeRequest, PutRequest, RequestOp, TxnRequest, WatchCancelRequest, WatchCreateRequest,
    WatchProgressRequest, WatchResponse,
};
use crate::api::mvccpb::Event;
use crate::base::rng::Seeded;
use crate::store::machine::command::Operation;
use crate::store::node::Member;
use crate::store::node::testing::begin;

/// A busy machine may take its time; a test that waits for what does not come must end.
const PATIENCE: Duration = Duration::from_secs(60);

/// A member whose watches are served.
struct Site {
    handle: Handle,
    service: Service,
    endpoint: String,
    _dir: TempDir,
}

impl Site {
    async fn start() -> Site {
        Site::tuned(Tuning::default(), |_| {}).await
    }

    async fn tuned(tuning: Tuning, change: impl FnOnce(&mut Limits)) -> Site {
        let dir = tempfile::tempdir().unwrap();
        let member = Member { cluster_id: 11, member_id: 22, name: "m".to_owned(), ..Member::default() };
        let handle = begin(dir.path(), member, tuning).await;
        let mut limits = Limits::of(handle.tuning());
        change(&mut limits);
        let service = Service::with(&handle, limits);
        let incoming = TcpIncoming::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let endpoint = format!("http://{}", incoming.local_addr().unwrap());
        tokio::spawn(Server::builder().add_service(service.clone()).serve_with_incoming(incoming));
        Site { handle, service, endpoint, _dir: dir }
    }

    async fn open(&self) -> Client {
        self.try_open().await.unwrap()
    }

    async fn try_open(&self) -> Result<Client, Status> {
        let channel = Channel::from_shared(self.endpoint.clone()).unwrap().connect().await.unwrap();
        let (ask, questions) = mpsc::channel(16);
        let mut client = WatchClient::new(channel).max_decoding_message_size(usize::MAX);
        let said = client.watch(questions).await?.into_inner();
        Ok(Client { ask, said })
    }

    async fn put(&self, key: &str, value: &str) -> i64 {
        let (key, value) = (Bytes::copy_from_slice(key.as_bytes()), Bytes::copy_from_slice(value.as_bytes()));
        self.handle.propose(Operation::Put(PutRequest { key, value, ..PutRequest::default() })).await.unwrap();
        self.revision()
    }

    /// Many keys in one revision.
    async fn put_all(&self, keys: impl IntoIterator<Item = String>, value: &str) -> i64 {
        let put = |key: String| PutRequest { key: key.into(), value: value.to_owned().into(), ..PutRequest::default() };
        let success = keys.into_iter().map(|key| RequestOp { request: Some(Step::RequestPut(put(key))) }).collect();
        self.handle.propose(Operation::Txn(TxnRequest { success, ..TxnRequest::default() })).await.unwrap();
        self.revision()
    }

    async fn delete(&self, key: &str) -> i64 {
        let key = Bytes::copy_from_slice(key.as_bytes());
        let request = DeleteRangeRequest { key, ..DeleteRangeRequest::default() };
        self.handle.propose(Operation::DeleteRange(request)).await.unwrap();
        self.revision()
    }

    async fn compact(&self, revision: i64) {
        let request = CompactionRequest { revision, physical: false };
        self.handle.propose(Operation::Compaction(request)).await.unwrap();
    }

    fn revision(&self) -> i64 {
        self.handle.state().view.revision()
    }

    fn count(&self, counter: impl Fn(&Counters) -> &AtomicU64) -> u64 {
        counter(self.service.counters()).load(Ordering::Relaxed)
    }

    /// Waits until a counter says this.
    async fn until(&self, counter: impl Fn(&Counters) -> &AtomicU64, expected: u64) {
        let asked = async {
            while self.count(&counter) != expected {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(PATIENCE, asked).await.unwrap();
    }
}

/// A stream, as its client sees it.
struct Client {
    ask: mpsc::Sender<WatchRequest>,
    said: Streaming<WatchResponse>,
}

impl Client {
    async fn ask(&mut self, request: RequestUnion) {
        self.ask.send(WatchRequest { request_union: Some(request) }).await.unwrap();
    }

    async fn create(&mut self, request: WatchCreateRequest) -> WatchResponse {
        self.ask(RequestUnion::CreateRequest(request)).await;
        let reply = self.next().await;
        assert!(reply.created && reply.events.is_empty(), "{reply:?}");
        reply
    }

    async fn cancel(&mut self, watch_id: i64) {
        self.ask(RequestUnion::CancelRequest(WatchCancelRequest { watch_id })).await;
    }

    async fn ask_progress(&mut self) {
        self.ask(RequestUnion::ProgressRequest(WatchProgressRequest {})).await;
    }

    /// Everything that was asked before is answered when this returns; what was said until then.
    async fn fence(&mut self) -> Vec<WatchResponse> {
        self.ask(RequestUnion::CreateRequest(create("b", "a"))).await;
        let mut said = vec![];
        loop {
            match self.next().await {
                reply if reply.created && reply.canceled => return said,
                reply => said.push(reply),
            }
        }
    }

    async fn next(&mut self) -> WatchResponse {
        let next = tokio::time::timeout(PATIENCE, self.said.message()).await;
        next.expect("a reply is due").unwrap().expect("the stream goes on")
    }

    async fn end(&mut self) -> Status {
        let end = async {
            loop {
                match self.said.message().await {
                    Ok(Some(_)) => {}
                    Ok(None) => return Status::ok("ended"),
                    Err(status) => return status,
                }
            }
        };
        tokio::time::timeout(PATIENCE, end).await.expect("an end is due")
    }
}

fn create(key: &str, end: &str) -> WatchCreateRequest {
    let (key, range_end) = (Bytes::copy_from_slice(key.as_bytes()), Bytes::copy_from_slice(end.as_bytes()));
    WatchCreateRequest { key, range_end, ..WatchCreateRequest::default() }
}

fn from(start_revision: i64, request: WatchCreateRequest) -> WatchCreateRequest {
    WatchCreateRequest { start_revision, ..request }
}

fn revision(reply: &WatchResponse) -> i64 {
    reply.header.as_ref().unwrap().revision
}

/// An event in a few letters: kind, key, revision, and what the key was before.
fn short(event: &Event) -> String {
    let kv = event.kv.as_ref().unwrap();
    let kind = if event.r#type == 1 { "-" } else { "+" };
    let before = event.prev_kv.as_ref().map(|kv| format!(" was {}", String::from_utf8_lossy(&kv.value)));
    format!("{kind}{}@{}{}", String::from_utf8_lossy(&kv.key), kv.mod_revision, before.unwrap_or_default())
}

fn shorts(reply: &WatchResponse) -> Vec<String> {
    assert!(!reply.created && !reply.canceled, "{reply:?}");
    reply.events.iter().map(short).collect()
}

#[tokio::test]
async fn a_watcher_is_told_what_happens_to_its_keys() {
    let site = Site::start().await;
    site.put("a/1", "one").await;
    let mut client = site.open().await;
    let created = client.create(WatchCreateRequest { prev_kv: true, ..create("a/", "a0") }).await;
    let header = created.header.unwrap();
    assert_eq!((header.cluster_id, header.member_id, header.revision, created.watch_id), (11, 22, 2, 0));
    let filters = vec![FilterType::Noput as i32];
    client.create(WatchCreateRequest { filters, ..create("\0", "\0") }).await;
    site.put("b", "").await;
    assert_eq!(site.put("a/1", "two").await, 4);
    let told = client.next().await;
    assert_eq!((told.watch_id, revision(&told), shorts(&told)), (0, 4, vec!["+a/1@4 was one".to_owned()]));
    let kv = told.events[0].kv.clone().unwrap();
    assert_eq!((kv.create_revision, kv.version, &*kv.value), (2, 2, &b"two"[..]));
    site.delete("a/1").await;
    let mut told = [client.next().await, client.next().await];
    told.sort_by_key(|reply| reply.watch_id);
    assert_eq!(shorts(&told[0]), ["-a/1@5 was two"]);
    assert_eq!(shorts(&told[1]), ["-a/1@5"]);
    let kv = told[0].events[0].kv.clone().unwrap();
    assert_eq!((kv.create_revision, kv.version, kv.value.len()), (0, 0, 0));
    // A new life has nothing before it.
    site.put_all((0..3).map(|n| format!("a/{n}")), "three").await;
    assert_eq!(shorts(&client.next().await), ["+a/0@6", "+a/1@6", "+a/2@6"]);
    assert!(site.count(|c| &c.steps) > 0 && site.count(|c| &c.befores) == 5);
    assert_eq!((site.count(|c| &c.scans), site.count(|c| &c.lookups), site.count(|c| &c.fell_behind)), (0, 0, 0));
    assert_eq!((site.count(|c| &c.events), site.count(|c| &c.watchers)), (6, 2));
}

#[tokio::test]
async fn what_cannot_be_watched_is_refused_in_words() {
    let site = Site::tuned(Tuning::default(), |limits| limits.watchers_max = 5).await;
    let mut client = site.open().await;
    let mut ids = vec![];
    for (watch_id, expected) in [(0, 0), (1, 1), (0, 2), (7, 7)] {
        let reply = client.create(WatchCreateRequest { watch_id, ..create("a", "") }).await;
        assert_eq!((reply.watch_id, reply.canceled, &*reply.cancel_reason), (expected, false, ""));
        ids.push(reply.watch_id);
    }
    let refused = |reply: WatchResponse| {
        assert_eq!((reply.watch_id, reply.created, reply.canceled, revision(&reply)), (-1, true, true, 1));
        reply.cancel_reason
    };
    let duplicate = WatchCreateRequest { watch_id: 7, ..create("b", "") };
    assert_eq!(refused(client.create(duplicate).await), "mvcc: duplicate watch ID provided on the WatchStream");
    assert_eq!(refused(client.create(create("b", "a")).await), "mvcc: watcher range is empty");
    assert_eq!(refused(client.create(create("b", "b")).await), "mvcc: watcher range is empty");
    assert_eq!(refused(client.create(from(-1, create("b", ""))).await), "mvcc: required revision has been compacted");
    assert_eq!(client.create(create("", "")).await.watch_id, 3);
    assert_eq!(
        refused(client.create(create("c", "")).await),
        "etcdserver: too many watchers on one stream, open another one"
    );
    // What does not exist ends in silence; ids are not used again.
    client.cancel(99).await;
    client.ask.send(WatchRequest::default()).await.unwrap();
    client.cancel(0).await;
    let ended = client.next().await;
    assert_eq!((ended.watch_id, ended.canceled, ended.created, &*ended.cancel_reason), (0, true, false, ""));
    client.cancel(0).await;
    assert_eq!(client.create(create("c", "")).await.watch_id, 4);
    site.put("a", "").await;
    let told: BTreeSet<i64> =
        [client.next().await, client.next().await, client.next().await].map(|r| r.watch_id).into();
    assert_eq!(told, [1, 2, 7].into());
}

#[tokio::test]
async fn history_is_told_before_the_present() {
    let site = Site::tuned(Tuning::default(), |limits| limits.past.revisions_max = 4).await;
    for n in 0..40 {
        site.put(if n % 10 == 0 { "rare" } else { "often" }, &n.to_string()).await;
    }
    let mut client = site.open().await;
    assert_eq!(revision(&client.create(from(2, create("rare", ""))).await), 41);
    let told = client.next().await;
    // All of it fits: the watcher knows everything up to now.
    assert_eq!(
        (revision(&told), shorts(&told)),
        (41, ["+rare@2", "+rare@12", "+rare@22", "+rare@32"].map(String::from).into())
    );
    assert_eq!((site.count(|c| &c.scans), site.count(|c| &c.lookups)), (0, 1));
    client.create(from(30, WatchCreateRequest { prev_kv: true, ..create("\0", "\0") })).await;
    let mut seen = vec![];
    for expected in [33, 37, 41] {
        let told = client.next().await;
        assert_eq!(revision(&told), expected);
        seen.extend(told.events.iter().map(|event| event.kv.as_ref().unwrap().mod_revision));
        let before = told.events.iter().map(|event| event.prev_kv.as_ref().unwrap().mod_revision);
        assert!(before.zip(&seen[seen.len() - 4..]).all(|(before, now)| before < *now));
    }
    assert_eq!(seen, (30..42).collect::<Vec<_>>());
    assert_eq!((site.count(|c| &c.scans), site.count(|c| &c.lagging)), (3, 0));
    site.put("rare", "").await;
    let told: BTreeMap<i64, _> = [client.next().await, client.next().await].map(|r| (r.watch_id, shorts(&r))).into();
    assert_eq!(told, [(0, vec!["+rare@42".to_owned()]), (1, vec!["+rare@42 was 30".to_owned()])].into());
}

#[tokio::test]
async fn what_is_compacted_away_is_told_as_that() {
    let site = Site::start().await;
    for n in 0..9 {
        site.put("a", &n.to_string()).await;
    }
    site.delete("b").await;
    site.compact(6).await;
    let mut client = site.open().await;
    assert!(!client.create(from(5, create("a", ""))).await.canceled);
    let ended = client.next().await;
    assert_eq!((ended.watch_id, ended.canceled, ended.compact_revision, &*ended.cancel_reason), (0, true, 6, ""));
    assert_eq!(
        ended.header.unwrap(),
        crate::api::etcdserverpb::ResponseHeader {
            cluster_id: 11,
            member_id: 22,
            revision: 0,
            raft_term: site.handle.term()
        }
    );
    assert_eq!((site.count(|c| &c.compacted), site.count(|c| &c.watchers), site.count(|c| &c.lagging)), (1, 0, 0));
    // It is there until the client has ended it, too.
    client.cancel(0).await;
    assert_eq!((client.next().await.watch_id, client.create(create("zz", "")).await.watch_id), (0, 1));
    // The compaction itself can be read, what was before it cannot.
    client.create(from(6, WatchCreateRequest { prev_kv: true, ..create("a", "") })).await;
    assert_eq!(shorts(&client.next().await), ["+a@6", "+a@7 was 4", "+a@8 was 5", "+a@9 was 6", "+a@10 was 7"]);
    // One that is synced does not mind.
    site.compact(10).await;
    site.put("a", "x").await;
    assert_eq!(shorts(&client.next().await), ["+a@11 was 8"]);
}

#[tokio::test]
async fn the_future_is_waited_for() {
    let site = Site::start().await;
    let mut client = site.open().await;
    client.create(from(4, create("a", ""))).await;
    client.ask_progress().await;
    assert_eq!(client.fence().await, []);
    for _ in 0..2 {
        site.put("a", "").await;
    }
    client.ask_progress().await;
    // Nothing is said of 2 and 3, and not how far it has come either.
    assert_eq!(client.fence().await, []);
    site.put("a", "").await;
    assert_eq!(shorts(&client.next().await), ["+a@4"]);
    client.ask_progress().await;
    let progress = client.next().await;
    assert_eq!((progress.watch_id, revision(&progress), progress.events.len()), (-1, 4, 0));
    // Several revisions at once, the first of them too early for one of two.
    client.create(from(7, create("a", ""))).await;
    for _ in 0..4 {
        site.put("a", "").await;
    }
    let mut told = BTreeMap::<i64, Vec<String>>::new();
    while told.values().map(Vec::len).sum::<usize>() < 6 {
        let reply = client.next().await;
        told.entry(reply.watch_id).or_default().extend(shorts(&reply));
    }
    let expected = |mains: std::ops::RangeInclusive<i64>| mains.map(|main| format!("+a@{main}")).collect::<Vec<_>>();
    assert_eq!(told, [(0, expected(5..=8)), (1, expected(7..=8))].into());
}

#[tokio::test]
async fn progress_is_told_when_all_have_come_so_far() {
    let site = Site::start().await;
    let mut client = site.open().await;
    // Nobody watches.
    client.ask_progress().await;
    assert_eq!(client.fence().await, []);
    client.create(create("a", "")).await;
    client.create(create("b", "")).await;
    for n in 0..20 {
        let now = site.put("a", "").await;
        client.ask_progress().await;
        assert_eq!(shorts(&client.next().await), [format!("+a@{now}")], "{n}");
        // The event first, then that it was all.
        let progress = client.next().await;
        assert_eq!((progress.watch_id, revision(&progress), progress.events.len()), (-1, now, 0));
    }
    let now = site.put("c", "").await;
    client.ask_progress().await;
    assert_eq!(revision(&client.next().await), now);
}

#[tokio::test]
async fn who_wants_to_hear_now_and_then_does() {
    let tuning = Tuning { watch_progress: Duration::from_millis(20), ..Tuning::default() };
    let site = Site::tuned(tuning, |_| {}).await;
    let mut client = site.open().await;
    client.create(WatchCreateRequest { progress_notify: true, ..create("a", "") }).await;
    client.create(create("a", "")).await;
    client.create(from(100, WatchCreateRequest { progress_notify: true, ..create("a", "") })).await;
    for _ in 0..3 {
        let note = client.next().await;
        assert_eq!((note.watch_id, revision(&note), note.events.len()), (0, 1, 0));
    }
    let now = site.put("c", "").await;
    while revision(&client.next().await) < now {}
}

#[tokio::test]
async fn large_replies_are_split_for_who_wants_that() {
    const BYTES: usize = 700;
    let site = Site::tuned(Tuning::default(), |limits| limits.fragment_bytes = BYTES).await;
    let mut client = site.open().await;
    client.create(WatchCreateRequest { fragment: true, ..create("a", "b") }).await;
    client.create(create("a", "b")).await;
    site.put("a", "small").await;
    assert!(!client.next().await.fragment && !client.next().await.fragment);
    let keys = || (0..20).map(|n| format!("a/{n:02}"));
    let now = site.put_all(keys(), &"x".repeat(100)).await;
    let expected: Vec<String> = keys().map(|key| format!("+{key}@{now}")).collect();
    let mut pieces = BTreeMap::<i64, Vec<WatchResponse>>::new();
    while pieces.values().flatten().map(|piece| piece.events.len()).sum::<usize>() < 40 {
        let piece = client.next().await;
        pieces.entry(piece.watch_id).or_default().push(piece);
    }
    let split = &pieces[&0];
    assert_eq!(split.iter().map(|piece| piece.fragment).collect::<Vec<_>>(), [true, true, true, false]);
    for piece in split {
        let bytes = crate::api::Message::encoded_len(piece);
        assert!(bytes < BYTES && revision(piece) == now, "{bytes}");
    }
    assert_eq!(split.iter().flat_map(shorts).collect::<Vec<_>>(), expected);
    assert_eq!((pieces[&1].len(), shorts(&pieces[&1][0])), (1, expected));
    assert_eq!(site.count(|c| &c.fragmented), 1);
    // One event is one reply, whatever its size.
    site.put("a", &"x".repeat(2 * BYTES)).await;
    assert!(!client.next().await.fragment && !client.next().await.fragment);
}

#[tokio::test]
async fn without_a_ring_history_tells_it_all() {
    let site = Site::tuned(Tuning { hub_bytes_max: 0, ..Tuning::default() }, |_| {}).await;
    let mut client = site.open().await;
    client.create(WatchCreateRequest { prev_kv: true, ..create("a", "") }).await;
    client.create(from(20, create("a", ""))).await;
    let mut told = BTreeMap::<i64, Vec<String>>::new();
    for _ in 0..30 {
        let now = site.put("a", "v").await;
        for _ in 0..1 + usize::from(now >= 20) {
            let reply = client.next().await;
            assert_eq!(revision(&reply), now);
            told.entry(reply.watch_id).or_default().extend(shorts(&reply));
        }
    }
    let mains = |first: i64| first..=31;
    let with = mains(2).map(|main| format!("+a@{main}{}", if main > 2 { " was v" } else { "" }));
    assert_eq!(told[&0], with.collect::<Vec<_>>());
    assert_eq!(told[&1], mains(20).map(|main| format!("+a@{main}")).collect::<Vec<_>>());
    assert!(site.count(|c| &c.fell_behind) > 0 && site.count(|c| &c.scans) + site.count(|c| &c.lookups) >= 30);
}

/// Who does not read is waited for by nobody, and misses nothing unless it is compacted away.
#[tokio::test]
async fn a_client_that_does_not_read_holds_nobody_up() {
    let tuning = Tuning { hub_bytes_max: 256 << 10, ..Tuning::default() };
    let site = Site::tuned(tuning, |limits| limits.past.bytes_max = 64 << 10).await;
    let (mut slow, mut stalled, mut quick) = (site.open().await, site.open().await, site.open().await);
    for client in [&mut slow, &mut stalled, &mut quick] {
        client.create(create("a", "")).await;
    }
    let value = "x".repeat(32 << 10);
    for n in 0..200 {
        let now = site.put("a", &value).await;
        assert_eq!(shorts(&quick.next().await), [format!("+a@{now}")], "{n}");
    }
    let mut expected = 2;
    while expected <= 201 {
        for event in slow.next().await.events {
            assert_eq!(event.kv.unwrap().mod_revision, expected);
            expected += 1;
        }
    }
    assert!(site.count(|c| &c.fell_behind) > 0 && site.count(|c| &c.lookups) + site.count(|c| &c.scans) > 0);
    // The other one read nothing, and holds nothing back.
    site.compact(201).await;
    tokio::time::timeout(PATIENCE, site.handle.removed()).await.unwrap().unwrap();
    let mut expected = 2;
    let ended = loop {
        let reply = stalled.next().await;
        if reply.canceled {
            break reply;
        }
        for event in reply.events {
            assert_eq!(event.kv.unwrap().mod_revision, expected);
            expected += 1;
        }
    };
    assert!(ended.compact_revision == 201 && expected < 201, "{ended:?} {expected}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_joins_whenever_misses_nothing_and_hears_nothing_twice() {
    let mut counts = [0; 5];
    // With a ring that has what streams want, and with none.
    for hub_batches_max in [64, 0] {
        let site = join_under_load(hub_batches_max).await;
        let counters = site.service.counters();
        let ways = [&counters.steps, &counters.scans, &counters.lookups, &counters.befores, &counters.fell_behind];
        counts.iter_mut().zip(ways).for_each(|(count, way)| *count += way.load(Ordering::Relaxed));
    }
    assert!(counts.iter().all(|count| *count > 0), "{counts:?}");
}

/// 200 watchers on ten streams, made while keys are written.
async fn join_under_load(hub_batches_max: usize) -> Arc<Site> {
    const PUTS: i64 = 1000;
    let tuning = Tuning { hub_batches_max, ..Tuning::default() };
    let site = Arc::new(
        Site::tuned(tuning, |limits| {
            limits.past = past::Limits { revisions_max: 50, bytes_max: 4 << 10, scan_max: 100, plan_max: 20 };
        })
        .await,
    );
    let load = tokio::spawn(put_some(Arc::clone(&site), PUTS));
    let mut rng = Seeded::new(5);
    let mut joined = vec![];
    for _ in 0..10 {
        let mut client = site.open().await;
        let mut wanted = BTreeMap::<i64, Vec<i64>>::new();
        for _ in 0..20 {
            let now = site.revision();
            let start = 2 + i64::try_from(rng.below(now.unsigned_abs() + 20)).unwrap();
            let start = if rng.below(4) == 0 { 0 } else { start.min(PUTS) };
            let one = rng.below(3) == 0;
            let mut request = from(start, if one { create("k/3", "") } else { create("k/", "k0") });
            request.prev_kv = rng.below(2) == 0;
            request.watch_id = i64::try_from(wanted.len()).unwrap() + 100;
            let watch_id = request.watch_id;
            client.ask(RequestUnion::CreateRequest(request)).await;
            let first = loop {
                let reply = client.next().await;
                if reply.created {
                    break if start == 0 { revision(&reply) + 1 } else { start };
                }
                take(&mut wanted, &reply);
            };
            let mains = (first.max(2)..=PUTS + 1).filter(|main| !one || (main - 2) % 10 == 3);
            wanted.insert(watch_id, mains.rev().collect());
        }
        joined.push(tokio::spawn(async move {
            while wanted.values().any(|rest| !rest.is_empty()) {
                let reply = client.next().await;
                take(&mut wanted, &reply);
            }
            client
        }));
    }
    load.await.unwrap();
    for client in joined {
        let mut client = client.await.unwrap();
        // Nothing more comes: the next thing that is said is that this was all, once nobody reads history.
        let said = loop {
            client.ask_progress().await;
            let said = client.fence().await;
            if !said.is_empty() {
                break said;
            }
        };
        assert_eq!((said.len(), said[0].watch_id, revision(&said[0])), (1, -1, PUTS + 1), "{said:?}");
    }
    site
}

async fn put_some(site: Arc<Site>, puts: i64) {
    for n in 0..puts {
        site.put(&format!("k/{}", n % 10), &n.to_string()).await;
        if n % 16 == 0 {
            tokio::task::yield_now().await;
        }
    }
}

/// Takes from what is wanted what was told; it must be what is wanted next.
fn take(wanted: &mut BTreeMap<i64, Vec<i64>>, reply: &WatchResponse) {
    let rest = wanted.get_mut(&reply.watch_id).unwrap();
    for event in &reply.events {
        let main = event.kv.as_ref().unwrap().mod_revision;
        assert_eq!(rest.pop(), Some(main), "watcher {}", reply.watch_id);
        if let Some(before) = &event.prev_kv {
            assert_eq!(before.mod_revision, main - 10);
        }
    }
    assert!(reply.events.last().is_none_or(|event| event.kv.as_ref().unwrap().mod_revision <= revision(reply)));
}

#[tokio::test]
async fn streams_end_as_they_should() {
    let site = Site::tuned(Tuning::default(), |limits| limits.streams_max = 2).await;
    let mut listener = site.open().await;
    listener.create(create("a", "")).await;
    let mut leaver = site.open().await;
    leaver.create(create("a", "")).await;
    let refused = site.try_open().await.map(|_| ()).unwrap_err();
    assert_eq!((refused.code(), refused.message()), (Code::ResourceExhausted, "etcdserver: too many watch streams"));
    // Who goes leaves nothing behind, and makes room.
    drop(leaver);
    site.until(|c| &c.streams, 1).await;
    assert_eq!(site.count(|c| &c.watchers), 1);
    let mut third = site.open().await;
    third.create(create("a", "")).await;
    // Who asks nothing more listens on.
    listener.ask.close_channel();
    for client in [&mut listener, &mut third] {
        let now = site.put("a", "").await;
        while revision(&client.next().await) < now {}
    }
    site.handle.stop().await;
    for client in [&mut listener, &mut third] {
        let end = client.end().await;
        assert_eq!((end.code(), end.message()), (Code::Unavailable, "etcdserver: server stopped"));
    }
    site.until(|c| &c.streams, 0).await;
    assert_eq!(site.count(|c| &c.watchers), 0);
}
