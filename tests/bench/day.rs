//! `make bench-day`: what a day of hourly points weighs, beside hourly snapshots that are gzipped.
//!
//! A made-up Kubernetes cluster of 125 nodes: 40,000 objects at rest, 8,000 pods, 15,000 events that live an hour. In an
//! hour 45,000 renewals of leases, 20,000 updates of pods (some far more often than others), 15,000 new events and as many
//! that end, 5,400 of leaders' locks, 1,500 statuses of nodes, 480 pods replaced by others; every five minutes a
//! compaction that leaves the last five. Hours pass as fast as the member takes the writes. Some writes share a
//! transaction, which changes the number of revisions and not what is stored.

use std::fs;
use std::path::{Path, PathBuf};

use holdfast::base::rng::Seeded;

use super::support::etcd::Etcd;
use super::support::load::{self, Change};
use super::support::objects;
use super::support::run::Run;
use super::{LIMIT, QUOTA, goal, policy};

const HOURS: u64 = 24;
const NODES: u64 = 125;
const OBJECTS_AT_REST: u64 = 40_000;
const PODS: u64 = 8_000;
const LOCKS: u64 = 3;
const SEED: u64 = 31;

/// Ten seconds of the cluster's life are made at a time, five minutes lie between compactions.
const TICKS_PER_COMPACTION: u64 = 30;
const TICKS_PER_HOUR: u64 = 360;
const EVENTS_PER_HOUR: u64 = 15_000;
const UPDATES_PER_HOUR: u64 = 20_000;
const STATUSES_PER_HOUR: u64 = 1_500;
const REPLACED_PER_HOUR: u64 = 480;
const LOCK_RENEWALS_PER_TICK: u64 = 5;

/// The day's points weigh at most this part of the gzipped snapshots.
const SHARE_MAX: f64 = 0.33;

/// Lives through the day; whether the goal is met.
pub(crate) fn day() -> bool {
    let dir = tempfile::TempDir::with_prefix_in("day-", env!("CARGO_TARGET_TMPDIR")).unwrap();
    let source = Etcd::options().args(&[QUOTA]).start();
    let policy = policy(&source, dir.path(), "day");
    let mut cluster = Cluster::new(&source);
    // One hour before the first point: a member's file has free pages and a history.
    cluster.hour();
    let (mut zipped, mut stored, mut raw) = (0, 0, 0);
    println!("hour  snapshot MiB  gzipped MiB  point MiB  kind         why");
    for hour in 0..HOURS {
        cluster.hour();
        let (file, packed) = snapshot(&source, &dir.path().join("save.db"));
        let point = Run::holdfast().args(&["backup", "-o", "json", "--policy"]).args(&[&policy]).limit(LIMIT).run();
        let point = point.success().json();
        let bytes = point["new_stored_bytes"].as_u64().unwrap();
        let (kind, why) = (point["manifest"]["kind"].as_str().unwrap(), point["kind_reason"].as_str().unwrap());
        let (whole, gzip, ours) = (mib(file), mib(packed), mib(bytes));
        println!("{hour:4}  {whole:12.1}  {gzip:11.1}  {ours:9.1}  {kind:11}  {why}");
        (zipped, stored, raw) = (zipped + packed, stored + bytes, raw + file);
    }
    println!(
        "a day: {:.0} MiB of snapshots, {:.0} MiB gzipped, {:.0} MiB of points",
        mib(raw),
        mib(zipped),
        mib(stored)
    );
    let verify = Run::holdfast().args(&["verify", "--level", "3", "--policy"]).args(&[&policy]).limit(LIMIT).run();
    verify.success();
    goal("points / gzipped fulls", stored as f64 / zipped as f64, SHARE_MAX, false)
}

/// Bytes of a snapshot as etcdctl saves it, and gzipped.
fn snapshot(source: &Etcd, file: &Path) -> (u64, u64) {
    drop(fs::remove_file(file));
    source.etcdctl_run(&["snapshot", "save", file.to_str().unwrap()]).limit(LIMIT).run().success();
    Run::new("gzip").args(&["-kf"]).args(&[file]).limit(LIMIT).run().success();
    let packed = PathBuf::from(format!("{}.gz", file.display()));
    (fs::metadata(file).unwrap().len(), fs::metadata(packed).unwrap().len())
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

/// The cluster and what it remembers of itself.
struct Cluster<'a> {
    source: &'a Etcd,
    rng: Seeded,
    tick: u64,
    /// Which pod lives in each place; a replacement gets the next number.
    pods: Vec<u64>,
    next_pod: u64,
    /// The revision at the last compaction's time.
    marked: i64,
}

impl<'a> Cluster<'a> {
    fn new(source: &'a Etcd) -> Self {
        load::fill(source, SEED + 1, 0, OBJECTS_AT_REST);
        load::fill(source, SEED, 0, PODS);
        let marked = load::apply(source, (0..NODES).map(|n| node(n, 0)));
        Cluster { source, rng: Seeded::new(SEED), tick: 0, pods: (0..PODS).collect(), next_pod: PODS, marked }
    }

    /// Lives for an hour.
    fn hour(&mut self) {
        for _ in 0..TICKS_PER_HOUR / TICKS_PER_COMPACTION {
            let mut changes = vec![];
            for _ in 0..TICKS_PER_COMPACTION {
                self.tick(&mut changes);
            }
            let now = load::apply(self.source, changes);
            self.source.etcdctl_run(&["compact", &self.marked.to_string()]).limit(LIMIT).run().success();
            self.marked = now;
        }
    }

    fn tick(&mut self, changes: &mut Vec<Change>) {
        self.tick += 1;
        let tick = self.tick;
        // How many of so many an hour this tick brings.
        let share = |an_hour: u64| an_hour * tick / TICKS_PER_HOUR - an_hour * (tick - 1) / TICKS_PER_HOUR;
        changes.extend((0..NODES).map(|n| small("leases/kube-node-lease", n, tick)));
        for renewal in 0..LOCK_RENEWALS_PER_TICK {
            let at = tick * LOCK_RENEWALS_PER_TICK + renewal;
            changes.extend((0..LOCKS).map(|n| small("leases/kube-system", n, at)));
        }
        for _ in 0..share(UPDATES_PER_HOUR) {
            let place = self.often();
            let (key, value) = objects::pod_update(SEED, self.pods[place], tick);
            changes.push(Change::Put(key, value));
        }
        let first = EVENTS_PER_HOUR * (tick - 1) / TICKS_PER_HOUR;
        for n in first..first + share(EVENTS_PER_HOUR) {
            changes.push(event(n));
            if let Some(ended) = n.checked_sub(EVENTS_PER_HOUR) {
                changes.push(Change::Delete(event_key(ended)));
            }
        }
        for _ in 0..share(STATUSES_PER_HOUR) {
            changes.push(node(self.rng.below(NODES), tick));
        }
        for _ in 0..share(REPLACED_PER_HOUR) {
            let place = usize::try_from(self.rng.below(PODS)).unwrap();
            changes.push(Change::Delete(objects::pod(SEED, self.pods[place]).0));
            self.pods[place] = self.next_pod;
            let (key, value) = objects::pod(SEED, self.next_pod);
            changes.push(Change::Put(key, value));
            self.next_pod += 1;
        }
    }

    /// A place among the pods, by Zipf's law with exponent 1: the logarithm of the rank is uniform.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a rank from 1 to the number of pods")]
    fn often(&mut self) -> usize {
        let uniform = self.rng.below(1 << 32) as f64 / (1_u64 << 32) as f64;
        (PODS as f64).powf(uniform) as usize - 1
    }
}

/// A status of a node: 11 KiB of which little changes.
fn node(n: u64, tick: u64) -> Change {
    let parts = (0..4).map(|part| objects::pod(SEED + 2, n * 4 + part).1);
    let mut value = parts.collect::<Vec<_>>().concat();
    value.extend_from_slice(format!("heartbeat {tick}").as_bytes());
    Change::Put(format!("/registry/minions/node-{n:03}"), value)
}

/// A lease or a lock of 400 bytes with the time of its renewal.
fn small(folder: &str, n: u64, at: u64) -> Change {
    let mut value = objects::pod(SEED + 3, n).1;
    value.truncate(380);
    value.extend_from_slice(format!("renewed {at:012}").as_bytes());
    Change::Put(format!("/registry/{folder}/holder-{n:03}"), value)
}

fn event_key(n: u64) -> String {
    format!("/registry/events/default/pod-{:05}.{:016x}", n % PODS, 0x17_a000_0000_0000 + n)
}

fn event(n: u64) -> Change {
    let mut value = objects::pod(SEED + 4, n).1;
    value.truncate(900);
    Change::Put(event_key(n), value)
}
