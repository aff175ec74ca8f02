//! A crash at every durable step: a member that was killed anywhere has everything that it acknowledged, and nothing that
//! nobody asked for.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::api::etcdserverpb::alarm_request::AlarmAction;
use crate::api::etcdserverpb::{
    AlarmRequest, AlarmType, CompactionRequest, DeleteRangeRequest, LeaseGrantRequest, LeaseRevokeRequest, PutRequest,
};
use crate::base::error::{Error, Kind};
use crate::base::revision::Rev;
use crate::base::rng::Seeded;
use crate::base::steps::{Edge, Steps};
use crate::snapshot::hash::StateDigest;
use crate::snapshot::record::Record;
use crate::store::machine::command::Operation;
use crate::store::machine::records::{self, Origin};
use crate::store::node::testing::{self, paths};
use crate::store::node::{Handle, Member};
use crate::store::options::Tuning;

fn small() -> Tuning {
    Tuning {
        flush_bytes: 800,
        flush_interval: Duration::from_millis(5),
        segment_bytes: 2 << 10,
        cache_bytes: 1 << 20,
        heartbeat: Duration::from_millis(10),
        disk_reserve_bytes: 0,
        ..Tuning::default()
    }
}

/// Steps that are walked to side by side.
const AT_ONCE: u32 = 8;

/// Walks through all steps that follow the first, until each was met by name.
const AGAIN_MAX: u32 = 9;
const STEPS: [&str; 7] = [
    "append to the log",
    "begin a segment",
    "copy the state",
    "flush the state",
    "give segments up",
    "prepare a segment",
    "put the copy in place",
];

/// What happens to a member.
#[derive(Clone, Debug)]
enum Deed {
    Operation(Operation),
    Defragment,
}

/// The same for each seed.
fn story(seed: u64) -> Vec<Deed> {
    let mut rng = Seeded::new(seed);
    let mut revision = 1;
    let mut lease = 0;
    let mut deeds = vec![];
    for n in 0..36 {
        let key = format!("key-{}", rng.below(8)).into();
        let operation = match rng.below(12) {
            0 => {
                lease += 1;
                Operation::LeaseGrant(LeaseGrantRequest { id: lease, ttl: 1000 })
            }
            1 if lease > 0 => Operation::LeaseRevoke(LeaseRevokeRequest { id: lease }),
            2 => Operation::DeleteRange(DeleteRangeRequest { key, ..DeleteRangeRequest::default() }),
            3 if n > 8 => Operation::Compaction(CompactionRequest { revision: revision / 2, physical: false }),
            4 => {
                let alarm = |action: AlarmAction| {
                    Operation::Alarm(AlarmRequest {
                        action: action as i32,
                        member_id: 3,
                        alarm: AlarmType::Nospace as i32,
                    })
                };
                deeds.push(Deed::Operation(alarm(AlarmAction::Activate)));
                alarm(AlarmAction::Deactivate)
            }
            what => {
                revision += 1;
                let value = vec![b'v'; usize::try_from(rng.below(200)).unwrap()].into();
                // One that was revoked refuses it.
                let lease = if what < 8 { lease } else { 0 };
                Operation::Put(PutRequest { key, value, lease, ..PutRequest::default() })
            }
        };
        deeds.push(Deed::Operation(operation));
        if n % 18 == 17 {
            deeds.push(Deed::Defragment);
        }
    }
    deeds
}

/// Everything that a state holds, but what was compacted: its records, whose keys belong to which lease, and the digest that
/// is kept of it.
#[derive(Debug, PartialEq)]
struct Picture {
    revision: i64,
    compact_revision: i64,
    records: Vec<String>,
    owners: Vec<i64>,
    digest: StateDigest,
}

fn picture(handle: &Handle) -> Picture {
    let state = handle.state();
    let all = records::Picture::of(&state, &Origin::default(), &mut || Ok(())).unwrap();
    // Where it is in the log is not part of it: a new start has its own entries there.
    let is_meta = |record: &&Record<'_>| matches!(record, Record::Extra(extra) if extra.bucket == b"meta");
    let side = all.side_records();
    let mut told: Vec<_> = side.iter().filter(|record| !is_meta(record)).map(|record| format!("{record:?}")).collect();
    let mut tell = |record: &Record<'_>| {
        told.push(format!("{record:?}"));
        Ok(())
    };
    all.leases(&mut tell).unwrap();
    all.revisions(Rev::default(), Rev::of(i64::MAX), &mut |_, revision| tell(&Record::Revision(*revision))).unwrap();
    Picture {
        revision: state.view.revision(),
        compact_revision: state.view.compact_revision(),
        records: told,
        owners: (0..8).map(|n| state.lessor.owner(format!("key-{n}").as_bytes())).collect(),
        digest: state.digest.get().unwrap(),
    }
}

fn member() -> Member {
    Member { cluster_id: 7, member_id: 8, ..Member::default() }
}

/// Does deed after deed; how many were acknowledged before the member ended.
async fn live(handle: &Handle, deeds: &[Deed]) -> usize {
    for (n, deed) in deeds.iter().enumerate() {
        match deed {
            Deed::Operation(operation) => match handle.propose(operation.clone()).await {
                Ok(_) | Err(crate::store::node::Fault::Refused(_)) => {}
                Err(_) => return n,
            },
            Deed::Defragment => {
                if handle.defragment().await.is_err() {
                    return n;
                }
            }
        }
    }
    deeds.len()
}

/// What a member that is never killed looks like after each deed.
async fn pictures(deeds: &[Deed]) -> Vec<Picture> {
    let dir = tempfile::tempdir().unwrap();
    let handle = testing::begin(dir.path(), member(), small()).await;
    let mut pictures = vec![picture(&handle)];
    for deed in deeds {
        assert_eq!(live(&handle, std::slice::from_ref(deed)).await, 1);
        pictures.push(picture(&handle));
    }
    handle.stop().await;
    pictures
}

/// Steps that end everything at one of them, and the names of those that were reached.
fn killing_at(number: u32, edge: Edge, names: &Arc<Mutex<BTreeMap<&'static str, u32>>>) -> (Steps, Arc<AtomicBool>) {
    let (dead, names) = (Arc::new(AtomicBool::new(false)), Arc::clone(names));
    let killed = Arc::clone(&dead);
    let steps = Steps::heard_by(move |step| {
        if (step.number, step.edge) == (number, edge) {
            *names.lock().unwrap().entry(step.name).or_default() += 1;
            dead.store(true, Ordering::SeqCst);
        }
        // Once it is dead nothing of it reaches the disk any more.
        if dead.load(Ordering::SeqCst) {
            return Err(Error::new(Kind::Interrupted, "killed").hint("this happens in tests alone"));
        }
        Ok(())
    });
    (steps, killed)
}

async fn gone(handle: Handle) {
    handle.stop().await;
    drop(handle);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_at_any_step_a_member_has_what_it_acknowledged() {
    let names = Arc::new(Mutex::new(BTreeMap::new()));
    let deeds = story(5);
    let expected = pictures(&deeds).await;
    let (deeds, expected) = (Arc::new(deeds), Arc::new(expected));
    let (mut kills, mut first, mut again) = (0, 1, 0);
    loop {
        // Side by side, because each waits for the disk most of the time.
        let walks = (first..first + AT_ONCE).flat_map(|number| [(number, Edge::Before), (number, Edge::After)]);
        let walks = walks.map(|(number, edge)| {
            let (deeds, expected, kill) = (Arc::clone(&deeds), Arc::clone(&expected), killing_at(number, edge, &names));
            tokio::spawn(async move {
                let dir = tempfile::tempdir().unwrap();
                walk(dir.path(), &deeds, &expected, kill).await
            })
        });
        let killed = futures::future::join_all(walks).await;
        let killed = killed.into_iter().filter(|killed| *killed.as_ref().unwrap()).count();
        if killed == 0 {
            // Which number a step has depends on when flushes fall: what was passed by is walked to once more.
            if again == AGAIN_MAX || names.lock().unwrap().len() == STEPS.len() {
                break;
            }
            (first, again) = (1, again + 1);
            continue;
        }
        (kills, first) = (kills + killed, first + AT_ONCE);
    }
    let names: BTreeSet<_> = names.lock().unwrap().keys().copied().collect();
    assert_eq!(names, BTreeSet::from(STEPS));
    assert!(kills > 80, "{kills}");
}

/// One life, a kill, a second life to the end; whether it was killed.
async fn walk(dir: &Path, deeds: &[Deed], expected: &[Picture], (steps, killed): (Steps, Arc<AtomicBool>)) -> bool {
    std::fs::create_dir_all(dir.join("wal")).unwrap();
    super::create(&paths(dir), &member(), &small()).unwrap();
    let done = match Handle::start_heard(&paths(dir), member(), small(), &steps).await {
        Ok(handle) => {
            let done = live(&handle, deeds).await;
            gone(handle).await;
            done
        }
        Err(_) => 0,
    };
    let was_killed = killed.load(Ordering::SeqCst);
    assert!(was_killed || done == deeds.len());
    let handle = Handle::start(&paths(dir), member(), small()).await.unwrap();
    let found = picture(&handle);
    // What was on its way may be there or not.
    let may = &expected[done..(done + 2).min(expected.len())];
    let at = may.iter().position(|picture| *picture == found);
    let at = done + at.unwrap_or_else(|| panic!("{found:?} is none of {may:?}"));
    assert_eq!(live(&handle, &deeds[at..]).await, deeds.len() - at);
    assert_eq!(&picture(&handle), expected.last().unwrap());
    handle.removed().await.unwrap();
    gone(handle).await;
    let handle = Handle::start(&paths(dir), member(), small()).await.unwrap();
    assert_eq!(&picture(&handle), expected.last().unwrap());
    gone(handle).await;
    was_killed
}
