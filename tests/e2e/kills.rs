//! kill -9 of a member under load: everything that it acknowledged is there, and nothing that nobody asked for.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use holdfast::api::etcdserverpb as pb;
use holdfast::api::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use holdfast::api::etcdserverpb::kv_client::KvClient;
use holdfast::api::etcdserverpb::request_op::Request;
use holdfast::base::rng::Seeded;
use tokio::runtime::Runtime;
use tonic::transport::Channel;

use crate::support::member::Member;

/// Lives of one member, each ended by a kill. `make kill` asks for more.
const LIVES_VARIABLE: &str = "HOLDFAST_TEST_KILLS";
const LIVES: u64 = 20;
const CLIENTS: u64 = 8;
/// A life lasts so long at most before it is ended.
const LIFE: Duration = Duration::from_millis(700);

/// What a client knows of its own key.
#[derive(Clone, Copy, Debug, Default)]
struct Known {
    /// The last value that was acknowledged.
    acknowledged: u64,
    /// The last value that was sent.
    sent: u64,
}

struct World {
    known: Mutex<BTreeMap<u64, Known>>,
    /// The greatest revision that a reply named.
    revision: Mutex<i64>,
    over: AtomicBool,
    writes: AtomicU64,
}

fn key(client: u64) -> Vec<u8> {
    format!("/kills/{client}").into_bytes()
}

/// Counts its own key up, each time by a transaction that expects the value before.
async fn count(world: Arc<World>, channel: Channel, client: u64) {
    let mut kv = KvClient::new(channel);
    while !world.over.load(Ordering::Relaxed) {
        let (before, next) = {
            let mut known = world.known.lock().unwrap();
            let known = known.entry(client).or_default();
            known.sent += 1;
            (known.acknowledged, known.sent)
        };
        let put = pb::PutRequest { key: key(client).into(), value: next.to_string().into(), ..Default::default() };
        let noise = pb::PutRequest {
            key: format!("/noise/{client}/{}", next % 50).into(),
            value: vec![b'n'; usize::try_from(next % 3000).unwrap()].into(),
            ..Default::default()
        };
        let (result, target) = (CompareResult::Equal as i32, CompareTarget::Value as i32);
        let target_union = Some(TargetUnion::Value(before.to_string().into()));
        let is = pb::Compare { result, target, key: key(client).into(), target_union, ..Default::default() };
        let op = |request| pb::RequestOp { request: Some(request) };
        let success = vec![op(Request::RequestPut(put)), op(Request::RequestPut(noise))];
        let compare = if before == 0 { vec![] } else { vec![is] };
        let Ok(reply) = kv.txn(pb::TxnRequest { compare, success, failure: vec![] }).await else { return };
        let reply = reply.into_inner();
        assert!(reply.succeeded, "client {client}: {before} was acknowledged and is not there");
        world.known.lock().unwrap().get_mut(&client).unwrap().acknowledged = next;
        let mut revision = world.revision.lock().unwrap();
        *revision = (*revision).max(reply.header.unwrap().revision);
        drop(revision);
        world.writes.fetch_add(1, Ordering::Relaxed);
    }
}

/// What a member that has just started holds is what was acknowledged, or what was on its way when it was killed.
async fn check(world: &World, channel: Channel, life: u64) {
    let mut kv = KvClient::new(channel);
    let mut known = world.known.lock().unwrap().clone();
    for (client, known) in &mut known {
        let request = pb::RangeRequest { key: key(*client).into(), ..Default::default() };
        let reply = kv.range(request).await.unwrap().into_inner();
        let revision = *world.revision.lock().unwrap();
        assert!(reply.header.unwrap().revision >= revision, "life {life}: revision {revision} was acknowledged");
        let value = reply.kvs.first().map_or(0, |kv| String::from_utf8_lossy(&kv.value).parse().unwrap());
        let fits = value == known.acknowledged || value == known.sent;
        assert!(fits, "life {life}, client {client}: {value} is there, {known:?}");
        *known = Known { acknowledged: value, sent: value.max(known.sent) };
    }
    *world.known.lock().unwrap() = known;
}

#[test]
fn a_member_that_is_killed_again_and_again_keeps_what_it_acknowledged() {
    let lives = std::env::var(LIVES_VARIABLE).map_or(LIVES, |text| text.parse().unwrap());
    let runtime = Runtime::new().unwrap();
    let mut rng = Seeded::new(9);
    let mut member = Member::prepared(&[]);
    let world = Arc::new(World {
        known: Mutex::default(),
        revision: Mutex::default(),
        over: AtomicBool::new(false),
        writes: AtomicU64::default(),
    });
    for life in 0..lives {
        member.launch(|run| run);
        let channel = runtime.block_on(reach(&member));
        runtime.block_on(check(&world, channel.clone(), life));
        let begun = Instant::now();
        let clients: Vec<_> =
            (0..CLIENTS).map(|client| runtime.spawn(count(Arc::clone(&world), channel.clone(), client))).collect();
        let until = LIFE.mul_f64(0.05 + 0.95 * (rng.below(1000) as f64 / 1000.0));
        while begun.elapsed() < until {
            std::thread::sleep(Duration::from_millis(1));
        }
        member.process.take().unwrap().kill();
        for client in clients {
            runtime.block_on(client).unwrap();
        }
    }
    let writes = world.writes.load(Ordering::Relaxed);
    assert!(writes > lives * CLIENTS * 5, "{writes} writes in {lives} lives");
    member.launch(|run| run);
    let channel = runtime.block_on(reach(&member));
    runtime.block_on(check(&world, channel, lives));
    assert_eq!(member.stop(), 0);
    println!("{lives} kills, {writes} acknowledged writes");
}

/// A channel to the member, once it answers.
async fn reach(member: &Member) -> Channel {
    let deadline = Instant::now() + crate::support::member::LIMIT;
    loop {
        let endpoint = Channel::from_shared(member.endpoint()).unwrap();
        if let Ok(channel) = endpoint.connect().await {
            let request = pb::RangeRequest { key: "a".into(), ..Default::default() };
            if KvClient::new(channel.clone()).range(request).await.is_ok() {
                return channel;
            }
        }
        assert!(Instant::now() < deadline, "it does not answer: {}", member.log());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
