//! History against a list of everything that ever happened.
//!
//! Random transactions, compactions, prunings and flushes; beside them readers with random wishes, each at its own pace,
//! with limits so small that every chunk ends early. What a reader is told must be what the list says.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use crate::api::Message;
use crate::api::etcdserverpb::WatchResponse;
use crate::api::mvccpb::event::EventType;
use crate::api::mvccpb::{Event, KeyValue};
use crate::base::revision::Rev;
use crate::base::rng::Seeded;
use crate::store::backend::{Backend, CACHE_BYTES};
use crate::store::mvcc::index::Keys;
use crate::store::mvcc::testing::store;
use crate::store::mvcc::view::{Fault, View};
use crate::store::mvcc::watch::past::{Chunk, Limits, Past, Way};
use crate::store::mvcc::watch::{Events, Spec};
use crate::store::mvcc::write::Writer;

/// A change, as the list has it.
#[derive(Clone, Debug)]
struct Happened {
    event: Event,
    before: Option<KeyValue>,
}

impl Happened {
    fn main(&self) -> i64 {
        self.event.kv.as_ref().unwrap().mod_revision
    }

    fn key(&self) -> &Bytes {
        &self.event.kv.as_ref().unwrap().key
    }
}

struct World {
    backend: Arc<Backend>,
    writer: Writer,
    gone: Vec<Rev>,
    state: BTreeMap<Bytes, KeyValue>,
    all: Vec<Happened>,
}

/// One of three folders of eight keys; the first is written rarely.
fn key(rng: &mut Seeded) -> Bytes {
    let folder = ["a", "b", "b", "c", "c", "c", "c", "c"][usize::try_from(rng.below(8)).unwrap()];
    format!("{folder}/{}", rng.below(8)).into()
}

impl World {
    fn new(path: &std::path::Path) -> World {
        let backend = Arc::new(Backend::create(path, CACHE_BYTES).unwrap());
        let writer = Writer::open(Arc::clone(&backend), 0, |_, _| {}).unwrap();
        World { backend, writer, gone: vec![], state: BTreeMap::new(), all: vec![] }
    }

    fn transaction(&mut self, rng: &mut Seeded) {
        let main = self.writer.revision() + 1;
        let mut touched = vec![];
        for _ in 0..=rng.below(3) {
            let key = key(rng);
            if touched.contains(&key) {
                continue;
            }
            touched.push(key.clone());
            let before = self.state.get(&key).cloned();
            if rng.below(4) == 0 {
                self.delete(key, main, before);
            } else {
                let value = Bytes::from(vec![b'v'; usize::try_from(rng.below(60)).unwrap()]);
                self.writer.put(&key, &value, 0);
                let (create_revision, version) =
                    before.as_ref().map_or((main, 1), |kv| (kv.create_revision, kv.version + 1));
                let kv = KeyValue { key, create_revision, mod_revision: main, version, value, lease: 0 };
                self.state.insert(kv.key.clone(), kv.clone());
                let event = Event { r#type: EventType::Put as i32, kv: Some(kv.clone()), prev_kv: None };
                self.all.push(Happened { event, before: before.clone() });
                // As a transaction within a transaction may, behind another one.
                if rng.below(3) == 0 {
                    self.delete(kv.key, main, before);
                }
            }
        }
        self.writer.end();
    }

    fn delete(&mut self, key: Bytes, main: i64, before: Option<KeyValue>) {
        if self.writer.delete(Keys::of(&key, b"")).is_empty() {
            return;
        }
        self.state.remove(&key);
        let kv = KeyValue { key, mod_revision: main, ..KeyValue::default() };
        let event = Event { r#type: EventType::Delete as i32, kv: Some(kv), prev_kv: None };
        self.all.push(Happened { event, before });
    }

    /// Whether a change happened at a compaction, and another followed it in the same transaction.
    fn is_superfluous(&self, happened: &Happened, compact_revision: i64) -> bool {
        let at_once = |other: &&Happened| other.main() == happened.main() && other.key() == happened.key();
        let last = self.all.iter().rev().find(at_once).expect("itself at least");
        happened.main() == compact_revision && !std::ptr::eq(last, happened)
    }

    fn flush(&mut self) {
        let batches = self.writer.recent().oldest(1000);
        store(&self.backend, batches.iter().flat_map(|batch| batch.changes()));
        if let Some(last) = batches.last() {
            self.writer.recent().flushed(last.last());
        }
        if self.writer.recent().bytes() == 0 {
            self.backend.write(&mut std::iter::empty(), &[], &std::mem::take(&mut self.gone)).unwrap();
        }
    }

    fn step(&mut self, rng: &mut Seeded) {
        match rng.below(40) {
            0 => {
                let at = self.writer.revision() - i64::try_from(rng.below(12)).unwrap();
                let _ = self.writer.compact(at);
            }
            1..8 => self.flush(),
            8..14 => self.gone.extend(self.writer.prune(5).unwrap_or_default()),
            _ => self.transaction(rng),
        }
        self.writer.seal();
    }

    /// What the list says of [from, until], and what is missing of it.
    fn expected(&self, wish: &Wish, from: i64, until: i64, compact_revision: i64) -> (Vec<Event>, bool) {
        let mut missing = false;
        let within = self.all.iter().filter(|happened| (from..=until).contains(&happened.main()));
        let within = within.filter(|happened| !self.is_superfluous(happened, compact_revision));
        let wanted = within.filter(|happened| wish.wants(&happened.event)).map(|happened| {
            let mut event = happened.event.clone();
            if wish.spec.wants_before() {
                event.prev_kv = happened.before.clone().filter(|_| happened.main() > compact_revision);
                missing |= event.prev_kv.is_none() && happened.before.is_some();
            }
            event
        });
        (wanted.collect(), missing)
    }
}

/// A wish in both languages.
struct Wish {
    key: String,
    end: String,
    puts: bool,
    deletes: bool,
    spec: Spec,
}

impl Wish {
    fn random(rng: &mut Seeded) -> Wish {
        let key = String::from_utf8(key(rng).to_vec()).unwrap();
        let (key, end) = match rng.below(6) {
            0 => (key, String::new()),
            1 => (key, "\0".to_owned()),
            2 => (key.clone(), key + "\0"),
            3 => ("\0".to_owned(), "\0".to_owned()),
            _ => (key[..2].to_owned(), key[..1].to_owned() + "0"),
        };
        let mut spec = Spec::of(key.as_bytes(), end.as_bytes());
        let (puts, deletes) =
            [(true, true), (true, true), (true, false), (false, true)][usize::try_from(rng.below(4)).unwrap()];
        if !puts {
            spec = spec.without_puts();
        }
        if !deletes {
            spec = spec.without_deletes();
        }
        if rng.below(2) == 0 {
            spec = spec.with_before();
        }
        Wish { key, end, puts, deletes, spec }
    }

    fn wants(&self, event: &Event) -> bool {
        let key = String::from_utf8(event.kv.as_ref().unwrap().key.to_vec()).unwrap();
        let within = match self.end.as_str() {
            "" => key == self.key,
            "\0" => key >= self.key,
            end => key >= self.key && *key < *end,
        };
        within && if event.r#type == EventType::Put as i32 { self.puts } else { self.deletes }
    }
}

fn decoded(events: &Events) -> Vec<Event> {
    let mut bytes = BytesMut::new();
    (0..events.len()).for_each(|n| events.encode(n, &mut bytes));
    assert_eq!(bytes.len(), (0..events.len()).map(|n| events.bytes(n)).sum::<usize>());
    WatchResponse::decode(bytes).unwrap().events
}

fn limits(rng: &mut Seeded) -> Limits {
    let below = |rng: &mut Seeded, n| 1 + usize::try_from(rng.below(n)).unwrap();
    Limits {
        revisions_max: below(rng, 6),
        bytes_max: below(rng, 500),
        scan_max: 1 + i64::try_from(rng.below(20)).unwrap(),
        plan_max: below(rng, 8),
    }
}

/// Reads a chunk and holds it against the list; what happened.
fn read(world: &World, view: &View, wish: &Wish, past: &mut Past, limits: &Limits) -> Vec<&'static str> {
    let (from, compact_revision) = (past.next(), view.compact_revision());
    let chunk = match past.read(&wish.spec, view, limits) {
        Err(Fault::Compacted) => {
            assert!(from < compact_revision);
            return vec!["compacted"];
        }
        chunk => chunk.unwrap(),
    };
    let Chunk { events, until, is_last, way, looked_at } = chunk;
    assert!(from >= compact_revision && until >= from - 1 && past.next() == until + 1);
    let (expected, missing) = world.expected(wish, from, until, compact_revision);
    assert_eq!(decoded(&events), expected, "{from}..={until} {:?}", wish.spec);
    assert_eq!(is_last, until >= view.revision());
    let mut told = vec![];
    let mut mains: Vec<i64> = (0..events.len()).map(|n| events.main(n)).collect();
    for (n, main) in mains.iter().enumerate() {
        assert_eq!(events.before_main(*main), mains.iter().position(|first| first == main).unwrap(), "{n}");
    }
    mains.dedup();
    assert!(mains.len() <= limits.revisions_max);
    match way {
        Way::Present => assert!(events.is_empty() && is_last),
        Way::Scan => {
            assert!(looked_at >= events.len() as u64 && until - from < limits.scan_max);
            told.push("scan");
            if until - from + 1 == limits.scan_max && !is_last {
                told.push("scanned enough");
            }
        }
        Way::Index => {
            // Nothing that is not wanted was read.
            assert_eq!(looked_at, events.len() as u64);
            told.push("index");
        }
    }
    if mains.len() == limits.revisions_max && !is_last {
        told.push("enough revisions");
    }
    if mains.len() < limits.revisions_max && !is_last && way == Way::Index && !mains.is_empty() {
        told.push("enough bytes or plan");
    }
    if missing {
        told.push("before is compacted away");
    }
    if is_last {
        told.push("caught up");
    }
    told
}

#[test]
fn history_is_told_without_gap_or_addition() {
    let mut told = BTreeMap::<&str, u64>::new();
    for seed in 0..6 {
        let mut rng = Seeded::new(seed);
        let dir = tempfile::tempdir().unwrap();
        let mut world = World::new(&dir.path().join("db"));
        let mut readers: Vec<(Wish, Past, Limits)> = vec![];
        for _ in 0..500 {
            world.step(&mut rng);
            if readers.len() < 8 {
                let back = i64::try_from(rng.below(60)).unwrap();
                let from = (world.writer.revision() - back).max(world.writer.compact_revision()).max(1);
                readers.push((Wish::random(&mut rng), Past::from(from), limits(&mut rng)));
            }
            let n = usize::try_from(rng.below(readers.len() as u64)).unwrap();
            let view = world.writer.view();
            let (wish, past, limits) = &mut readers[n];
            let what = read(&world, &view, wish, past, limits);
            // Some go on when they have caught up, and meet the present again.
            if what.contains(&"compacted") || what.contains(&"caught up") && rng.below(3) == 0 {
                readers.swap_remove(n);
            }
            what.into_iter().for_each(|what| *told.entry(what).or_default() += 1);
        }
    }
    let expected = [
        "before is compacted away",
        "caught up",
        "compacted",
        "enough bytes or plan",
        "enough revisions",
        "index",
        "scan",
        "scanned enough",
    ];
    assert_eq!(told.keys().copied().collect::<Vec<_>>(), expected, "{told:?}");
}

#[test]
fn the_cheaper_way_is_taken() {
    let dir = tempfile::tempdir().unwrap();
    let mut world = World::new(&dir.path().join("db"));
    for n in 0..1000 {
        let key = if n % 100 == 0 { "rare/1".to_owned() } else { format!("often/{}", n % 50) };
        world.writer.put(&Bytes::from(key), &Bytes::from_static(b"v"), 0);
        world.writer.end();
        world.writer.seal();
        if n < 900 {
            world.flush();
        }
    }
    let view = world.writer.view();
    let read = |key: &str, end: &str, from| {
        let mut past = Past::from(from);
        let chunk = past.read(&Spec::of(key.as_bytes(), end.as_bytes()), &view, &Limits::default()).unwrap();
        (chunk.way, chunk.events.len(), chunk.looked_at, chunk.is_last)
    };
    assert_eq!(read("rare/1", "", 2), (Way::Index, 10, 10, true));
    assert_eq!(read("rare/", "rare0", 2), (Way::Index, 10, 10, true));
    assert_eq!(read("\0", "\0", 2), (Way::Scan, 1000, 1000, true));
    assert_eq!(read("often/", "often0", 2), (Way::Scan, 990, 1000, true));
    // Little happened since: looking at it all is cheaper than looking through the keys.
    assert_eq!(read("often/", "often0", 999), (Way::Scan, 3, 3, true));
    assert_eq!(read("none", "", 2), (Way::Index, 0, 0, true));
    assert_eq!(read("\0", "\0", 1002), (Way::Present, 0, 0, true));
}
