//! Kubernetes: what its apiservers ask of a store, with ten thousand objects, several writers at a time, and caches that
//! are held to what lists say.

pub(crate) mod api;
mod cache;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::future::join_all;
use holdfast::base::rng::Seeded;
use tokio::sync::watch;
use tonic::Code;

use self::api::{Api, COMPACT_KEY, Items};
use self::cache::{Cache, is_compacted};
use crate::support::member::Member;

/// Objects of each kind when everything begins: ten thousand.
const KINDS: [(&str, usize); 4] = [("pods", 6_000), ("configmaps", 2_500), ("secrets", 1_000), ("leases", 500)];
/// How many write at a time, and how often each.
const WRITERS: usize = 8;
const WRITES: usize = 500;
/// Keys that all of them write.
const CONTESTED: u64 = 5;
/// How many requests are on their way while the objects are made.
const IN_FLIGHT: usize = 64;
/// All of it may take so long, on a busy machine.
const TIME_MAX: Duration = Duration::from_secs(60);
/// Flags of a member under Kubernetes, with bookmarks more often than kubeadm has them.
const FLAGS: [&str; 2] = ["--name=m0", "--watch-progress-notify-interval=1s"];

fn key(kind: &str, n: usize) -> String {
    format!("/registry/{kind}/namespace-{}/object-{n:05}", n % 20)
}

fn value(kind: &str, n: u64) -> Bytes {
    format!("k8s\0{{\"kind\":{kind:?},\"n\":{n},\"spec\":\"{}\"}}", "x".repeat(300)).into()
}

/// Makes every object; the revision of the last.
async fn fill(api: &Api) -> i64 {
    let objects: Vec<_> = KINDS.iter().flat_map(|(kind, count)| (0..*count).map(move |n| (*kind, n))).collect();
    let lane = async |lane: usize| {
        let mut last = 0;
        for (kind, n) in objects.iter().skip(lane).step_by(IN_FLIGHT) {
            let made = api.create(&key(kind, *n), &value(kind, 0), 0).await.unwrap();
            last = last.max(made.expect("nothing was there"));
        }
        last
    };
    join_all((0..IN_FLIGHT).map(lane)).await.into_iter().max().unwrap()
}

/// One controller: makes, changes and deletes objects of its own, and changes some that others change, too.
struct Writer {
    api: Api,
    number: usize,
    rng: Seeded,
    /// What it has, as it knows it.
    own: Vec<(String, i64)>,
    /// The revisions of what it wrote.
    revisions: Vec<i64>,
    conflicts: u64,
}

impl Writer {
    fn new(api: &Api, number: usize) -> Writer {
        let rng = Seeded::new(77 + number as u64);
        Writer { api: api.clone(), number, rng, own: vec![], revisions: vec![], conflicts: 0 }
    }

    async fn run(mut self) -> Writer {
        for n in 0..WRITES {
            match self.rng.below(10) {
                0..4 => self.make(n).await,
                4..7 => self.change(n).await,
                7..9 => self.remove().await,
                _ => self.contend(n).await,
            }
        }
        assert!(self.revisions.is_sorted_by(|a, b| a < b), "revisions go up: {:?}", self.revisions);
        self
    }

    async fn make(&mut self, n: usize) {
        let name = key("pods", 10_000 * (self.number + 1) + n);
        let revision = self.api.create(&name, &value("pods", 1), 0).await.unwrap().expect("its own name");
        // A second one of the same name is refused, and writes nothing.
        if n.is_multiple_of(7) {
            assert_eq!(self.api.create(&name, &value("pods", 2), 0).await.unwrap(), Err(None));
        }
        self.own.push((name, revision));
        self.revisions.push(revision);
    }

    fn pick(&mut self) -> Option<usize> {
        (!self.own.is_empty()).then(|| usize::try_from(self.rng.below(self.own.len() as u64)).unwrap())
    }

    async fn change(&mut self, n: usize) {
        let Some(at) = self.pick() else { return self.make(n).await };
        let (name, seen) = self.own[at].clone();
        // With an old revision it is told what is there.
        if n.is_multiple_of(5) {
            let found = self.api.update(&name, seen - 1, &value("pods", 0)).await.unwrap().unwrap_err().unwrap();
            assert_eq!((found.mod_revision, &found.key[..]), (seen, name.as_bytes()));
        }
        let revision = self.api.update(&name, seen, &value("pods", n as u64)).await.unwrap().expect("nobody else's");
        self.own[at].1 = revision;
        self.revisions.push(revision);
    }

    async fn remove(&mut self) {
        let Some(at) = self.pick() else { return };
        let (name, seen) = self.own.swap_remove(at);
        let revision = self.api.delete(&name, seen).await.unwrap().expect("nobody else's");
        assert_eq!(self.api.delete(&name, seen).await.unwrap(), Err(None), "nothing to delete");
        self.revisions.push(revision);
    }

    /// Changes what others change, as often as it takes.
    async fn contend(&mut self, n: usize) {
        let name = format!("/registry/leases/contested/{}", self.rng.below(CONTESTED));
        let mut seen = self.api.get(&name, 0).await.unwrap().1;
        loop {
            let value = value("leases", n as u64);
            let done = match &seen {
                None => self.api.create(&name, &value, 0).await.unwrap(),
                Some(kv) => self.api.update(&name, kv.mod_revision, &value).await.unwrap(),
            };
            match done {
                Ok(revision) => return self.revisions.push(revision),
                Err(Some(found)) => {
                    assert_ne!(Some(&found), seen.as_ref(), "refused although nothing changed");
                    seen = Some(found);
                }
                Err(None) => seen = self.api.get(&name, 0).await.unwrap().1,
            }
            self.conflicts += 1;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn caches_are_what_lists_are_while_many_write() {
    let member = Member::start(&FLAGS);
    let started = Instant::now();
    let api = Api::connect(&member.endpoint()).await;
    let first = fill(&api).await;
    assert_eq!((first, api.requests()), (10_001, 10_000), "a request and a revision for each object");
    reads(&api, first).await;

    // Caches of two apiservers, each stream on the one connection of its apiserver.
    let (end, ends) = watch::channel(0);
    let mut caches = vec![];
    for prefix in
        ["/registry/", "/registry/pods/", "/registry/leases/", "/registry/secrets/", "/registry/pods/namespace-3/"]
    {
        let server = Api::connect(&member.endpoint()).await;
        let (cache, watch) = Cache::open(&server, prefix).await;
        caches.push(tokio::spawn(cache.follow(server, watch, ends.clone())));
    }
    let writers = join_all((0..WRITERS).map(|n| tokio::spawn(Writer::new(&api, n).run())));
    // One more that begins in the midst of it.
    let late = async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        let server = Api::connect(&member.endpoint()).await;
        let (cache, watch) = Cache::open(&server, "/registry/").await;
        (cache, server, watch)
    };
    let (writers, (cache, server, watch)) = tokio::join!(writers, late);
    let late = tokio::spawn(cache.follow(server, watch, ends));
    let writers: Vec<_> = writers.into_iter().map(Result::unwrap).collect();
    let written: BTreeSet<_> = writers.iter().flat_map(|writer| &writer.revisions).copied().collect();
    let last = *written.last().unwrap();
    assert_eq!(written, (first + 1..=last).collect(), "each revision was told to one writer");
    assert!(writers.iter().any(|writer| writer.conflicts > 0), "nobody met anybody");
    // In silence, bookmarks come unasked.
    tokio::time::sleep(Duration::from_millis(2500)).await;
    end.send(last).unwrap();
    caches.push(late);
    let caches: Vec<_> = join_all(caches).await.into_iter().map(Result::unwrap).collect();
    for cache in &caches {
        assert!(cache.compared >= 5 && cache.answers >= 5, "{} and {} times", cache.compared, cache.answers);
    }
    assert!(caches.iter().map(|cache| cache.bookmarks).sum::<u64>() > 0, "no bookmark came");
    assert_eq!(caches[0].events(), written.len() as u64, "each write is told once");
    assert_eq!(caches[3].events(), 0, "of what nobody wrote nothing is told");
    assert!(caches[0].items == caches.last().unwrap().items, "both caches of everything are the same");
    let (took, compared) = (started.elapsed(), caches.iter().map(|cache| cache.compared).sum::<u64>());
    println!("kubernetes: {} writes beside ten thousand, {compared} comparisons, {took:.1?}", written.len());
    assert!(took < TIME_MAX, "{took:?}");
}

/// Lists, counts, keys and revisions of ten thousand objects, and what they cost.
async fn reads(api: &Api, first: i64) {
    let before = api.requests();
    let (revision, items) = api.list("/registry/", 0).await.unwrap();
    assert_eq!((revision, items.len()), (first, 10_000));
    assert_eq!(api.requests() - before, 5, "pages of 500, 1000, 2000, 4000 and the rest");
    let total = KINDS.iter().map(|(_, count)| i64::try_from(*count).unwrap()).sum::<i64>();
    assert_eq!(api.count("/registry/").await.unwrap(), total);
    assert_eq!(api.count("/registry/pods/").await.unwrap(), 6_000);
    assert_eq!(api.count("/registry/none/").await.unwrap(), 0);
    let keys = api.keys("/registry/secrets/").await.unwrap();
    assert!(keys.len() == 1_000 && keys.iter().all(|kv| kv.value.is_empty() && kv.mod_revision > 0 && kv.version == 1));
    let name = key("secrets", 5);
    let (now, found) = api.get(&name, 0).await.unwrap();
    assert_eq!((now, found.unwrap().value), (first, value("secrets", 0)));
    // Health, which is asked of a key that is not there; and the feature check.
    assert_eq!(api.get("/registry/health", 0).await.unwrap(), (first, None));
    let (version, size) = api.status().await.unwrap();
    let numbers: Vec<u64> = version.split('.').map(|part| part.parse().expect("a plain version")).collect();
    let [major, minor, patch] = numbers[..] else { panic!("{version} is no plain version") };
    assert!((major, minor, patch) >= (3, 5, 13), "RequestProgress is not used with {version}");
    assert!(size > 1_000_000, "{size} bytes of ten thousand objects");
    let future = api.list("/registry/", first + 1000).await.unwrap_err();
    let text = "etcdserver: mvcc: required revision is a future revision";
    assert_eq!((future.code(), future.message()), (Code::OutOfRange, text));
}

/// The next page of a list that began before a compaction.
async fn crossing(api: &Api, items: &Items, revision: i64) -> Result<i64, tonic::Status> {
    let (place, _) = items.iter().nth(499).unwrap();
    let from: Bytes = [&place[..], &[0]].concat().into();
    api.page("/registry/", &from, 500, revision).await.map(|(_, page)| page.count)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn compactions_end_old_lists_and_watches_and_no_others() {
    let member = Member::start(&FLAGS);
    let (api, other) = (Api::connect(&member.endpoint()).await, Api::connect(&member.endpoint()).await);
    for n in 0..1_200 {
        api.create(&key("pods", n), &value("pods", 0), 0).await.unwrap().unwrap();
    }
    let (old, items) = api.list("/registry/", 0).await.unwrap();
    // A cache that goes on through all compactions, and one of the compactors' key.
    let (end, ends) = watch::channel(0);
    let (cache, watch) = Cache::open(&other, "/registry/").await;
    let mut told = cache.told();
    let cache = tokio::spawn(cache.follow(other.clone(), watch, ends.clone()));
    let (claims, watch) = Cache::open(&other, COMPACT_KEY).await;
    let claims = tokio::spawn(claims.follow(other.clone(), watch, ends));

    let (mut versions, mut last) = ([0, 0], old);
    for round in 1..=10_i64 {
        // What is compacted is old, as with a compactor that comes every five minutes: of what is newer, caches want to
        // be told what was before.
        let past = last;
        told.wait_for(|told| *told >= past).await.unwrap();
        for n in 0..100 {
            let name = key("pods", n);
            let seen = api.get(&name, 0).await.unwrap().1.unwrap().mod_revision;
            last = api.update(&name, seen, &value("pods", round.unsigned_abs())).await.unwrap().unwrap();
        }
        // Two apiservers at once; one goes on, and the other learns from it. Neither ever sees another version.
        let [one, two] = versions;
        let (one, two) = tokio::join!(api.claim_compaction(one, past), other.claim_compaction(two, past));
        let (one, two) = (one.unwrap(), two.unwrap());
        assert!(one.0 != two.0, "{one:?} and {two:?}");
        assert_eq!((one.1, two.1, one.2, two.2), (round, round, past, past), "the key's version counts the rounds");
        versions = [one.1, two.1];
        let winner = if one.0 { &api } else { &other };
        winner.compact(past).await.unwrap();
        let again = winner.compact(past).await.unwrap_err();
        assert!(is_compacted(&again), "{again}");

        // A list that began before is gone, one that began at the compaction or later is not.
        if past > old {
            let gone = crossing(&api, &items, old).await.unwrap_err();
            assert!(is_compacted(&gone), "{gone}");
        }
        for kept in [past, last] {
            assert_eq!(crossing(&api, &items, kept).await.unwrap(), 700);
        }
        let mut gone = api.watch("/registry/", old - 2).await.unwrap();
        let end = gone.next().await.unwrap();
        assert!(end.canceled && end.compact_revision == past && end.events.is_empty(), "{end:?}");
        assert_eq!((end.header.unwrap().revision, end.cancel_reason.as_str()), (0, ""), "in the form that is 410");
    }
    let now = api.get("/registry/health", 0).await.unwrap().0;
    end.send(now).unwrap();
    let (cache, claims) = (cache.await.unwrap(), claims.await.unwrap());
    assert_eq!((cache.modified, cache.added, cache.deleted), (1_000, 0, 0));
    assert_eq!((claims.added, claims.modified), (1, 9));
    assert_eq!(api.list("/registry/", 0).await.unwrap().1, cache.items);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn objects_of_a_shared_lease_end_together() {
    /// Objects that one lease may have, and how long they stay.
    const SHARED: usize = 1_000;
    const TTL: i64 = 6;
    let member = Member::start(&FLAGS);
    let api = Api::connect(&member.endpoint()).await;
    let (end, ends) = watch::channel(0);
    let (cache, watch) = Cache::open(&api, "/registry/events/").await;
    let cache = tokio::spawn(cache.follow(api.clone(), watch, ends));
    let (granted, before) = (Instant::now(), api.requests());
    // A twentieth longer than asked for, so that the last object on it stays long enough.
    let mut leases = vec![];
    for _ in 0..2 {
        leases.push(api.lease(TTL + TTL / 20).await.unwrap());
    }
    let lane = async |lane: usize| {
        for n in (lane..SHARED + SHARED / 2).step_by(IN_FLIGHT) {
            let made = api.create(&key("events", n), &value("events", 0), leases[n / SHARED]).await.unwrap();
            made.expect("nothing was there");
        }
    };
    join_all((0..IN_FLIGHT).map(lane)).await;
    api.create("/registry/events/kept", &value("events", 0), 0).await.unwrap().unwrap();
    let cost = api.requests() - before;
    assert_eq!(api.count("/registry/events/").await.unwrap(), 1_501);
    assert!((1_503..1_700).contains(&cost), "two leases, one request for each object, and what the cache asks: {cost}");
    let (made, _) = api.get("/registry/health", 0).await.unwrap();
    while api.count("/registry/events/").await.unwrap() > 1 {
        assert!(granted.elapsed() < TIME_MAX, "they do not end");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(granted.elapsed() >= Duration::from_secs(TTL.unsigned_abs()), "after {:?}", granted.elapsed());
    let (now, _) = api.get("/registry/health", 0).await.unwrap();
    assert_eq!(now - made, 2, "one revision for each lease");
    end.send(now).unwrap();
    let cache = cache.await.unwrap();
    assert_eq!((cache.added, cache.deleted, cache.items.len()), (1_501, 1_500, 1));
}
