//! Restore points of a live etcd under write load, each of them turned into a real etcd again that serves the same: full
//! ones and increments on top of them by turns.
//!
//! Twenty in all, half of them with authentication on. Points made while writers run are held against what the source
//! still answers for their revision, and against the hashes in their manifests, which the source's own hash bore out;
//! points made while writers pause, against everything a client can see of the source.

use holdfast::api::mvccpb::KeyValue;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use crate::look::{Look, Position, State};
use crate::site::{Backup, Site, on_file};
use crate::support::etcd::{Etcd, Options};
use crate::support::load::{self, Load, LoadOptions};
use crate::support::run::wait_until;

/// Points made while writers run, in each round; another one follows when they have stopped.
const ROUNDS: [usize; 3] = [3, 2, 2];
const WRITES_BETWEEN: u64 = 60;
const LIMIT: Duration = Duration::from_mins(1);
/// Of ten points, at least this many must be compared and equal: a compaction may overtake the others.
const EQUAL_MIN: usize = 8;
/// How many restored clusters run at a time.
const LANES: usize = 2;

/// A point, and what the source said about the same moment.
struct Made {
    backup: Backup,
    /// All of it, when nothing was written meanwhile.
    state: Option<State>,
    /// The keys at the point's revision, unless they were compacted before they could be asked for.
    kvs: Option<Vec<KeyValue>>,
}

fn options() -> Options {
    // Users come and go in this load, and etcd spends 60 ms on each password unless told not to.
    Etcd::options().args(&["--bcrypt-cost=4"])
}

#[test]
fn points_of_a_busy_etcd_become_equal_clusters() {
    let etcd = options().start();
    let (site, made) = make(&etcd, 11);
    restore_all(&site, &made, &options);
}

#[test]
fn points_of_a_busy_etcd_with_authentication_become_equal_clusters() {
    let with_root = || options().auth("root", "secret");
    let etcd = with_root().start();
    let (site, made) = make(&etcd, 12);
    assert!(made.iter().filter_map(|made| made.state.as_ref()).all(|state| state.auth.0));
    restore_all(&site, &made, &with_root);
}

/// Makes the points.
fn make(etcd: &Etcd, seed: u64) -> (Site, Vec<Made>) {
    load::fill(etcd, seed, 1_000_000, 1_000);
    let (site, mut made) = (Site::of(etcd), vec![]);
    let mut kinds: BTreeMap<&str, u64> = BTreeMap::new();
    for (round, busy) in ROUNDS.into_iter().enumerate() {
        let pause = Duration::from_millis(15);
        let load = LoadOptions { seed: seed * 100 + round as u64, writers: 2, pause, ..LoadOptions::default() };
        let load = Load::start(etcd, load);
        let look = Look::at(etcd, 0);
        for n in 0..busy {
            let before = load.total();
            wait_until("the writers have written", LIMIT, || load.total() >= before + WRITES_BETWEEN);
            let kind = if n == 0 { "full" } else { "incremental" };
            made.push(while_writing(&site, kind, &load, &look));
        }
        let written = load.stop();
        assert_eq!(written.errors, 0, "{:?}", written.first_error);
        written.kinds.into_iter().for_each(|(kind, count)| *kinds.entry(kind).or_default() += count);
        made.push(while_paused(&site, etcd));
    }
    let wanted = ["auth", "compact", "delete", "lease", "put", "revoke", "txn", "update"];
    assert!(wanted.iter().all(|kind| kinds.get(kind).is_some_and(|count| *count > 0)), "{kinds:?}");
    let increments = made.iter().filter(|made| made.backup.manifest["kind"] == "incremental").count();
    assert!((3..=7).contains(&increments), "{increments} of {} points are increments", made.len());
    check_verdicts(&made);
    check_cost(&site, &made);
    (site, made)
}

/// What the points cost: each is one object of its own, and nothing is left beside them.
fn check_cost(site: &Site, made: &[Made]) {
    for Made { backup, .. } in made {
        let (manifest, counts) = (&backup.manifest, &backup.manifest["counts"]);
        let segments = manifest["segments"].as_array().unwrap();
        assert!(segments.iter().all(|segment| segment["objects"] == 1), "{segments:?}");
        assert_eq!(segments.len() == 1, manifest["kind"] == "full");
        let [raw, stored] = ["raw_bytes", "stored_bytes"].map(|name| counts[name].as_u64().unwrap());
        assert!(stored * 3 < raw, "{stored} bytes are stored of {raw}");
        assert!(segments.len() > 1 || raw < manifest["descriptor"]["db_bytes"].as_u64().unwrap());
        assert_eq!(manifest["lineage"], made[0].backup.manifest["lineage"]);
    }
    let files = files_below(&site.repository());
    let count = |part: &str| files.iter().filter(|path| path.to_string_lossy().contains(part)).count();
    let verdicts = count("/verdicts/");
    assert_eq!([count("/points/"), count("/data/"), count("/lineages/"), count("/config/")], [10, 10, 1, 1]);
    assert_eq!((verdicts, files.len()), (10, 32), "{files:?}");
}

fn files_below(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { files_below(&path) } else { vec![path] }).collect()
}

fn while_writing(site: &Site, kind: &str, load: &Load, look: &Look) -> Made {
    let before = load.total();
    let backup = site.backup_of_kind(kind, &[0, 5]);
    assert!(load.total() > before, "nothing was written during the backup");
    let kvs = look.range(backup.revision()).map(|(_, kvs)| kvs);
    Made { backup, state: None, kvs }
}

/// Nothing but the backup happens here, so whatever changes is its doing.
fn while_paused(site: &Site, etcd: &Etcd) -> Made {
    let look = Look::at(etcd, 0);
    let file = || fs::metadata(etcd.data_dir(0).join("member/snap/db")).unwrap().len();
    let (before, file_before) = (look.settled(), file());
    let backup = site.backup(0);
    let after = look.position();
    // Signing in is an entry in etcd's log; nothing else may be.
    let signed_in = u64::from(etcd.user().is_some());
    let added = after.raft_index - before.raft_index;
    assert!(added <= signed_in, "{added} entries were added to the log");
    assert_eq!(Position { raft_index: before.raft_index, ..after }, before);
    assert_eq!(file(), file_before);
    assert_eq!(backup.verdict(), "equal", "{}", backup.reason());
    let state = look.state();
    assert_eq!(backup.revision(), state.revision);
    Made { backup, kvs: Some(state.kvs.clone()), state: Some(state) }
}

fn check_verdicts(made: &[Made]) {
    let equal = made.iter().filter(|made| made.backup.verdict() == "equal").count();
    for Made { backup, .. } in made {
        assert!(["equal", "not_compared"].contains(&backup.verdict()), "{} {}", backup.id, backup.reason());
        let excused = backup.verdict() == "equal" || !backup.reason().is_empty();
        assert!(excused, "{} was not compared, and does not say why", backup.id);
    }
    let reasons: Vec<_> = made.iter().map(|made| made.backup.reason()).filter(|reason| !reason.is_empty()).collect();
    assert!(equal >= EQUAL_MIN, "{equal} of {} points are equal: {reasons:?}", made.len());
    let seen = made.iter().filter(|made| made.kvs.is_some()).count();
    println!("{} points, {equal} equal to the source {reasons:?}, {seen} held against its keys", made.len());
}

/// Restores every point into a real etcd of its own, a few at a time.
fn restore_all(site: &Site, made: &[Made], options: &(dyn Fn() -> Options + Sync)) {
    assert_eq!(made.len(), 10);
    let left = Mutex::new(made.iter());
    let lane = || {
        loop {
            let next = left.lock().unwrap().next();
            let Some(made) = next else { return };
            restore_one(site, made, options());
        }
    };
    std::thread::scope(|scope| {
        let lanes: Vec<_> = (0..LANES).map(|_| scope.spawn(lane)).collect();
        lanes.into_iter().for_each(|lane| lane.join().unwrap());
    });
}

fn restore_one(site: &Site, made: &Made, options: Options) {
    let Made { backup, state, kvs } = made;
    let (counts, proofs) = (&backup.manifest["counts"], &backup.manifest["proofs"]);
    let (file, report) = site.restore(&backup.id, &format!("{}.db", backup.id));
    assert_eq!(report["state_digest"], proofs["state_digest"]);

    let quick = ["--heartbeat-interval=20", "--election-timeout=200"];
    let mut restored = options.args(&quick).restored_from(&file).start();
    let look = Look::at(&restored, 0);
    let hash = look.hash_kv(backup.revision());
    assert_eq!(hash.hash, proofs["hash_kv"]["hash"], "{}", backup.id);
    assert_eq!(hash.compact.max(0), proofs["hash_kv"]["compact_revision"], "{}", backup.id);
    let found = look.state();
    assert_eq!(found.revision, backup.revision());
    if let Some(state) = state {
        assert!(found == *state, "{} is another state than the source's:\n{found:?}\n{state:?}", backup.id);
    }
    if let Some(kvs) = kvs {
        assert!(found.kvs == *kvs, "{} has other keys than the source had", backup.id);
    }
    let sizes = [("live_keys", found.kvs.len()), ("leases", found.leases.len())];
    for (name, size) in sizes.into_iter().chain([("users", found.users.len()), ("roles", found.roles.len())]) {
        assert_eq!(counts[name], size as u64, "{}: {name}", backup.id);
    }

    restored.stop(0);
    let proved = on_file(&["hashkv"], &restored.data_dir(0).join("member/snap/db"));
    assert_eq!(proved["stateDigest"], proofs["state_digest"], "{}", backup.id);
    assert_eq!(proved["hash"], proofs["hash_kv"]["hash"], "{}", backup.id);
    fs::remove_file(file).unwrap();
}
