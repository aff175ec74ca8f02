//! The store against a model that keeps every state there ever was.
//!
//! Random transactions, compactions, prunings, flushes and restarts; after each, random questions about any revision, to
//! the newest view and to views that were kept. Both must say the same.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;

use crate::api::etcdserverpb::RangeRequest;
use crate::api::mvccpb::KeyValue;
use crate::base::revision::Rev;
use crate::base::rng::Seeded;
use crate::store::backend::{Backend, CACHE_BYTES, Stored, Witness};
use crate::store::mvcc::history::History;
use crate::store::mvcc::index::Keys;
use crate::store::mvcc::read::{Found, range};
use crate::store::mvcc::testing::store;
use crate::store::mvcc::view::{Fault, View};
use crate::store::mvcc::write::{FIRST_REVISION, Writer};

type State = BTreeMap<Bytes, KeyValue>;

/// Every state, by revision.
struct Model {
    states: BTreeMap<i64, State>,
    compact_revision: i64,
}

impl Model {
    fn revision(&self) -> i64 {
        *self.states.last_key_value().unwrap().0
    }

    fn put(&mut self, key: &Bytes, value: &Bytes, lease: i64, main: i64) {
        let state = self.open(main);
        let (create_revision, version) = state.get(key).map_or((main, 1), |kv| (kv.create_revision, kv.version + 1));
        let (key, value) = (key.clone(), value.clone());
        state.insert(key.clone(), KeyValue { key, value, create_revision, mod_revision: main, version, lease });
    }

    fn delete(&mut self, keys: Keys<'_>, main: i64) -> Vec<Bytes> {
        let last = &self.states[&self.revision()];
        let alive: Vec<Bytes> = last.keys().filter(|key| keys.contains(key)).cloned().collect();
        if !alive.is_empty() {
            let state = self.open(main);
            alive.iter().for_each(|key| drop(state.remove(key)));
        }
        alive
    }

    fn open(&mut self, main: i64) -> &mut State {
        let last = self.states.last_key_value().unwrap().1.clone();
        self.states.entry(main).or_insert(last)
    }

    /// By the words of the contract, without a thought for speed.
    fn range(&self, request: &RangeRequest, now: i64, compact_revision: i64) -> Result<Found, &'static str> {
        let main = if request.revision <= 0 { now } else { request.revision };
        if main > now {
            return Err("future");
        }
        if main < compact_revision {
            return Err("compacted");
        }
        let keys = Keys::of(&request.key, &request.range_end);
        let state = self.states.range(..=main).next_back().unwrap().1;
        let mut kvs: Vec<KeyValue> = state.values().filter(|kv| keys.contains(&kv.key)).cloned().collect();
        let count = i64::try_from(kvs.len()).unwrap();
        if request.count_only {
            return Ok(Found { count, ..Found::default() });
        }
        let bound = |n: i64, default: i64| if n == 0 { default } else { n };
        kvs.retain(|kv| {
            (bound(request.min_mod_revision, 0)..=bound(request.max_mod_revision, i64::MAX)).contains(&kv.mod_revision)
                && (bound(request.min_create_revision, 0)..=bound(request.max_create_revision, i64::MAX))
                    .contains(&kv.create_revision)
        });
        match request.sort_target {
            1 => kvs.sort_by_key(|kv| kv.version),
            2 => kvs.sort_by_key(|kv| kv.create_revision),
            3 => kvs.sort_by_key(|kv| kv.mod_revision),
            4 => kvs.sort_by(|a, b| a.value.cmp(&b.value)),
            _ => {}
        }
        if request.sort_order == 2 {
            // Turned round group by group: equals stay in the order of keys.
            let rank = |kv: &KeyValue| match request.sort_target {
                1 => kv.version.to_be_bytes().to_vec(),
                2 => kv.create_revision.to_be_bytes().to_vec(),
                3 => kv.mod_revision.to_be_bytes().to_vec(),
                4 => kv.value.to_vec(),
                _ => kv.key.to_vec(),
            };
            kvs.sort_by_key(|kv| std::cmp::Reverse(rank(kv)));
        }
        let limit = usize::try_from(request.limit).ok().filter(|n| *n > 0).unwrap_or(usize::MAX);
        let more = kvs.len() > limit;
        kvs.truncate(limit);
        if request.keys_only {
            kvs.iter_mut().for_each(|kv| kv.value = Bytes::new());
        }
        Ok(Found { kvs, more, count })
    }
}

fn key(rng: &mut Seeded) -> Bytes {
    let n = rng.below(24);
    format!("{}/{}", ["a", "b", "c"][usize::try_from(n % 3).unwrap()], n / 3).into()
}

fn end(rng: &mut Seeded, key: &Bytes) -> Bytes {
    match rng.below(6) {
        0 => Bytes::from_static(b"\0"),
        1 => Bytes::from_static(b"c"),
        2 => [key.as_ref(), b"\0"].concat().into(),
        _ => Bytes::new(),
    }
}

fn request(rng: &mut Seeded, now: i64) -> RangeRequest {
    let below = |rng: &mut Seeded, n: i64| i64::try_from(rng.below(n.unsigned_abs())).unwrap();
    let key = key(rng);
    let mut request = RangeRequest { range_end: end(rng, &key), key, ..RangeRequest::default() };
    if rng.below(2) == 0 {
        request.revision = below(rng, now + 3) - 1;
    }
    if rng.below(3) == 0 {
        request.limit = below(rng, 6) - 1;
    }
    if rng.below(3) == 0 {
        request.sort_order = i32::try_from(rng.below(3)).unwrap();
        request.sort_target = i32::try_from(rng.below(5)).unwrap();
    }
    if rng.below(4) == 0 {
        request.min_mod_revision = below(rng, now);
        request.max_create_revision = below(rng, now);
    }
    request.keys_only = rng.below(5) == 0;
    request.count_only = rng.below(8) == 0;
    request
}

fn ask(model: &Model, view: &View, rng: &mut Seeded) -> &'static str {
    let request = request(rng, view.revision());
    let expected = model.range(&request, view.revision(), view.compact_revision());
    match (range(&view.ground(), &request), expected) {
        (Ok(found), Ok(expected)) => {
            assert_eq!(found, expected, "{request:?}");
            "found"
        }
        (Err(Fault::Future), Err("future")) => "future",
        (Err(Fault::Compacted), Err("compacted")) => "compacted",
        (found, expected) => panic!("{request:?}: {found:?}, not {expected:?}"),
    }
}

/// Writes the oldest batches into the backend, as the flusher does, and deletes what was pruned.
fn flush(writer: &Writer, backend: &Backend, gone: &mut Vec<Rev>, all: bool) {
    let batches = writer.recent().oldest(if all { usize::MAX } else { 1000 });
    store(backend, batches.iter().flat_map(|batch| batch.changes()));
    if let Some(last) = batches.last() {
        writer.recent().flushed(last.last());
    }
    if writer.recent().bytes() == 0 {
        backend.write(&mut std::iter::empty(), &[], &std::mem::take(gone)).unwrap();
    }
}

fn transaction(writer: &mut Writer, model: &mut Model, rng: &mut Seeded) {
    let main = model.revision() + 1;
    for _ in 0..=rng.below(3) {
        let key = key(rng);
        if rng.below(3) == 0 {
            let end = end(rng, &key);
            let keys = Keys::of(&key, &end);
            let ended: Vec<_> = writer.delete(keys).iter().map(|(key, _)| Bytes::copy_from_slice(key)).collect();
            assert_eq!(ended, model.delete(keys, main));
        } else if model.states.get(&main).is_none_or(|state| state.get(&key).is_none_or(|kv| kv.mod_revision < main)) {
            // A transaction names a key once.
            let value = Bytes::from(vec![b'v'; usize::try_from(rng.below(40)).unwrap()]);
            let lease = i64::try_from(rng.below(3)).unwrap();
            let before = model.states[&model.revision()].get(&key).map(|kv| kv.mod_revision);
            assert_eq!(writer.put(&key, &value, lease).map(|version| version.main()), before);
            model.put(&key, &value, lease, main);
        }
        let view = range(&writer.ground(), &RangeRequest { key: key.clone(), ..RangeRequest::default() }).unwrap();
        assert_eq!(view.kvs, model.states[&model.revision()].get(&key).cloned().into_iter().collect::<Vec<_>>());
    }
    assert_eq!(writer.end(), model.revision());
}

/// The store, the model, and what is on its way between them.
struct World {
    path: std::path::PathBuf,
    backend: Arc<Backend>,
    writer: Writer,
    model: Model,
    kept: Vec<View>,
    gone: Vec<Rev>,
}

impl World {
    fn new(path: std::path::PathBuf) -> World {
        let backend = Arc::new(Backend::create(&path, CACHE_BYTES).unwrap());
        let writer = Writer::open(Arc::clone(&backend), 0, |_, _| {}).unwrap();
        let model = Model { states: [(FIRST_REVISION, State::new())].into(), compact_revision: 0 };
        World { path, backend, writer, model, kept: vec![], gone: vec![] }
    }

    fn compact(&mut self, rng: &mut Seeded) -> &'static str {
        let at = i64::try_from(rng.below(self.model.revision().unsigned_abs() + 3)).unwrap();
        match self.writer.compact(at) {
            Err(Fault::Compacted) if at <= self.model.compact_revision => "compact again",
            Err(Fault::Future) if at > self.model.revision() => "compact ahead",
            Ok(()) => {
                self.model.compact_revision = at;
                "compact"
            }
            result => panic!("{at}: {result:?}"),
        }
    }

    /// A clean end: what a crash loses, the log brings back.
    fn restarted(mut self) -> World {
        self.kept.clear();
        flush(&self.writer, &self.backend, &mut self.gone, true);
        let World { path, backend, writer, model, .. } = self;
        drop((writer, backend));
        let backend = Arc::new(Backend::open(&path, CACHE_BYTES).unwrap());
        let writer = Writer::open(Arc::clone(&backend), model.compact_revision, |_, _| {}).unwrap();
        World { path, backend, writer, model, kept: vec![], gone: vec![] }
    }

    fn step(mut self, rng: &mut Seeded) -> (World, &'static str) {
        let what = match rng.below(40) {
            0 => self.compact(rng),
            1 => {
                self.kept.push(self.writer.view());
                "keep"
            }
            2 if !self.kept.is_empty() => {
                let n = usize::try_from(rng.below(self.kept.len() as u64)).unwrap();
                drop(self.kept.remove(n));
                "let go"
            }
            3..6 => {
                flush(&self.writer, &self.backend, &mut self.gone, rng.below(2) == 0);
                "flush"
            }
            6..12 => match self.writer.prune(5) {
                Some(revs) => {
                    self.gone.extend(revs);
                    "prune"
                }
                None => "nothing to prune",
            },
            12 if rng.below(4) == 0 => return (self.restarted(), "restart"),
            _ => {
                transaction(&mut self.writer, &mut self.model, rng);
                "transaction"
            }
        };
        (self, what)
    }

    /// When nobody looks any more, nothing superfluous stays.
    fn settle(mut self) {
        self.kept.clear();
        while let Some(revs) = self.writer.prune(100) {
            self.gone.extend(revs);
        }
        flush(&self.writer, &self.backend, &mut self.gone, true);
        let mut stored = 0;
        let mut count = |_: Stored<'_>| {
            stored += 1;
            Ok(())
        };
        self.backend.scan(Rev::default(), Rev::of(i64::MAX), Witness::Index, &mut count).unwrap();
        let view = self.writer.view();
        let named: usize =
            view.index().range(Keys::of(b"\0", b"\0")).map(|(_, history)| history.versions().len()).sum();
        assert_eq!(stored, named);
        let compact = view.compact_revision();
        let superfluous = |(_, history): (_, &History)| history.superfluous(compact);
        assert_eq!(view.index().range(Keys::of(b"\0", b"\0")).map(superfluous).sum::<usize>(), 0);
    }
}

/// A compaction that does not begin anew with each one that comes after it gets round in the end.
#[test]
fn compactions_close_behind_one_another_delete_all_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let mut world = World::new(dir.path().join("db"));
    let put = |writer: &mut Writer, n: u64| {
        writer.put(&format!("{n:02}").into(), &"v".into(), 0);
        writer.end()
    };
    let mut gone = 0;
    for round in 0..40 {
        for n in 0..30 {
            put(&mut world.writer, n);
        }
        let last = put(&mut world.writer, 29);
        world.writer.seal();
        world.writer.compact(last).unwrap();
        // A tenth of the keys before the next compaction.
        gone += world.writer.prune(3).map_or(0, |revs| revs.len());
        assert!(round < 12 || gone > 10 * round, "{gone} after {round}");
    }
    while let Some(revs) = world.writer.prune(3) {
        gone += revs.len();
    }
    assert_eq!(gone, 40 * 31 - 30);
}

#[test]
fn whatever_happens_the_past_stays_what_it_was() {
    let mut told = BTreeMap::<&str, u64>::new();
    for seed in 0..6 {
        let mut rng = Seeded::new(seed);
        let dir = tempfile::tempdir().unwrap();
        let mut world = World::new(dir.path().join("db"));
        for _ in 0..600 {
            let what;
            (world, what) = world.step(&mut rng);
            *told.entry(what).or_default() += 1;
            world.writer.seal();
            let view = world.writer.view();
            let expected = (world.model.revision(), world.model.compact_revision);
            assert_eq!((view.revision(), view.compact_revision()), expected);
            *told.entry(ask(&world.model, &view, &mut rng)).or_default() += 1;
            for view in &world.kept {
                ask(&world.model, view, &mut rng);
            }
        }
        world.settle();
    }
    let expected = [
        "compact",
        "compact again",
        "compact ahead",
        "compacted",
        "flush",
        "found",
        "future",
        "keep",
        "let go",
        "nothing to prune",
        "prune",
        "restart",
        "transaction",
    ];
    assert_eq!(told.keys().copied().collect::<Vec<_>>(), expected, "{told:?}");
}
