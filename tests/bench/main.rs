//! `make bench`: backup and restore side by side with etcd's own tools, on one live etcd with Kubernetes-like data.
//!
//! Everything is measured in one run on one machine, alternating, and the median of the rounds is printed: absolute times
//! are this machine's, ratios are what to read. The program exits with 1 when a goal is missed. The
//! arguments `day`, `keys`, `store`, `online` and `scrub` ask for something else: the bytes of a day of hourly points
//! (`day.rs`), memory where there are millions of keys (`keys.rs`), the store beside etcd (`store.rs`), and what clients feel of
//! what a member does beside its work (`online.rs`; of its scrubs alone).

#![allow(clippy::print_stdout, clippy::unwrap_used, clippy::disallowed_methods, reason = "a program for people")]

mod day;
mod keys;
mod nothing;
mod online;
mod store;
#[path = "../support/mod.rs"]
mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};
use support::etcd::Etcd;
use support::load::{self, Load, LoadOptions};
use support::peers;
use support::run::{Outcome, Run};

/// As in the program that is measured, so that a server that does nothing is no slower for it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// About 1.1 GiB of keys and values.
const OBJECTS: u64 = 400_000;
const ROUNDS: usize = 3;
const LIMIT: Duration = Duration::from_mins(10);
const QUOTA: &str = "--quota-backend-bytes=8589934592";

const BACKUP_RATIO_MAX: f64 = 1.35;
const SCRIPT_RATIO_MIN: f64 = 2.0;
const RESTORE_RATIO_MIN: f64 = 3.0;
const PEAK_RSS_MAX_BYTES: u64 = 256 << 20;
const INCREMENT_PERCENT_MAX: f64 = 3.0;

fn main() -> ExitCode {
    let mut told = std::env::args().skip_while(|arg| arg != store::NOTHING).skip(1);
    if let (Some(address), Some(snapshot_bytes)) = (told.next(), told.next()) {
        nothing::serve(address.parse().unwrap(), snapshot_bytes.parse().unwrap());
    }
    for (name, program) in [
        ("day", day::day as fn() -> bool),
        ("keys", keys::keys),
        ("store", store::store),
        ("online", online::online),
        ("scrub", online::scrub),
    ] {
        if std::env::args().any(|arg| arg == name) {
            return if program() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
        }
    }
    let objects = objects();
    let bench = Bench::start(objects);
    let mut met = vec![bench.backups()];
    // For work on backups: measure them alone.
    if std::env::var_os("HOLDFAST_BENCH_BACKUPS_ONLY").is_none() {
        met.extend([bench.latencies(), bench.restores(), bench.increments(objects)]);
    }
    if met.iter().all(|met| *met) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// How many objects there are; fewer for a look at the harness itself.
fn objects() -> u64 {
    std::env::var("HOLDFAST_BENCH_OBJECTS").map_or(OBJECTS, |n| n.parse().expect("a number of objects"))
}

/// A policy for `source`, whose repository is in `dir` as well.
fn policy(source: &Etcd, dir: &Path, name: &str) -> PathBuf {
    let (file, repository) = (dir.join("policy.toml"), dir.join("repository"));
    let table = format!("\n[repository]\nurl = \"file://{}\"\nencryption = \"none\"\n", repository.display());
    fs::write(&file, source.policy_table(name) + &table).unwrap();
    file
}

struct Bench {
    source: Etcd,
    dir: tempfile::TempDir,
    policy: PathBuf,
}

impl Bench {
    fn start(objects: u64) -> Bench {
        let dir = tempfile::TempDir::with_prefix_in("bench-", env!("CARGO_TARGET_TMPDIR")).unwrap();
        let source = Etcd::options().args(&[QUOTA]).start();
        let started = Instant::now();
        load::fill(&source, 1, 0, objects);
        println!("filled a live etcd with {objects} objects in {}", seconds(started.elapsed()));
        let policy = policy(&source, dir.path(), "bench");
        Bench { source, dir, policy }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn save(&self, file: &Path) -> Outcome {
        drop(fs::remove_file(file));
        self.source.etcdctl_run(&["snapshot", "save", file.to_str().unwrap()]).limit(LIMIT).run().success()
    }

    fn backup(&self, kind: &str) -> Outcome {
        let backup = Run::holdfast().args(&["backup", "-o", "json", "--kind", kind, "--policy"]).args(&[&self.policy]);
        backup.limit(LIMIT).run().success()
    }

    fn backups(&self) -> bool {
        let (mut save, mut script, mut backup, mut peak) = (vec![], vec![], vec![], 0);
        let (file, copy) = (self.path("save.db"), self.path("copy.db.gz"));
        for _ in 0..ROUNDS {
            save.push(self.save(&file).elapsed);
            let rest = format!("gzip -kf {f} && cp {f}.gz {c} && sync {c}", f = file.display(), c = copy.display());
            let packed = Run::new("sh").args(&["-c", &rest]).limit(LIMIT).run().success();
            script.push(*save.last().unwrap() + packed.elapsed);
            let outcome = self.backup("full");
            peak = peak.max(outcome.peak_rss_bytes);
            let stages = outcome.json()["stages"].as_array().unwrap().clone();
            let stage = |stage: &serde_json::Value| {
                format!("{} {:.2} s", stage["name"].as_str().unwrap(), stage["duration_s"].as_f64().unwrap())
            };
            println!("  a backup's stages: {}", stages.iter().map(stage).collect::<Vec<_>>().join(", "));
            backup.push(outcome.elapsed);
        }
        println!("database file: {} MiB", fs::metadata(&file).unwrap().len() >> 20);
        let (save, script, backup) = (median(save), median(script), median(backup));
        println!("etcdctl snapshot save   {}", seconds(save));
        println!("save + gzip + copy      {}", seconds(script));
        println!("holdfast backup         {}, peak memory {} MiB", seconds(backup), peak >> 20);
        let met = [
            goal("backup / save", ratio(backup, save), BACKUP_RATIO_MAX, false),
            goal("script / backup", ratio(script, backup), SCRIPT_RATIO_MIN, true),
            goal("peak memory, MiB", (peak >> 20) as f64, (PEAK_RSS_MAX_BYTES >> 20) as f64, false),
        ];
        met.iter().all(|met| *met)
    }

    /// What the source's clients feel. Reported, not judged: HashKV and the snapshot are etcd's own work.
    fn latencies(&self) -> bool {
        let options = LoadOptions {
            writers: 8,
            pause: Duration::from_millis(5),
            compactions: false,
            auth: false,
            ..LoadOptions::default()
        };
        let during = |what: &str, work: &dyn Fn()| {
            let load = Load::start(&self.source, options);
            work();
            let written = load.stop();
            let (half, most) = (written.percentile(50), written.percentile(99));
            println!("writes while {what:22} p50 {:>9}  p99 {:>9}  ({})", millis(half), millis(most), written.total());
        };
        during("nothing else runs", &|| std::thread::sleep(Duration::from_secs(5)));
        during("etcdctl snapshot save", &|| drop(self.save(&self.path("save.db"))));
        during("holdfast backup", &|| drop(self.backup("full")));
        true
    }

    fn restores(&self) -> bool {
        let (mut unpacking, mut theirs, mut ours) = (vec![], vec![], vec![]);
        let (packed, plain, data) = (self.path("copy.db.gz"), self.path("plain.db"), self.path("data"));
        let restored = self.path("restored.db");
        for _ in 0..ROUNDS {
            drop((fs::remove_file(&plain), fs::remove_dir_all(&data), fs::remove_file(&restored)));
            let unpack = format!("gunzip -kc {} > {}", packed.display(), plain.display());
            let unpacked = Run::new("sh").args(&["-c", &unpack]).limit(LIMIT).run().success();
            let etcdutl = Run::new(peers::program(peers::ETCD_3_5, "etcdutl")).args(&["snapshot", "restore"]);
            let etcdutl = etcdutl.args(&[&plain]).args(&[Path::new("--data-dir"), &data]).limit(LIMIT).run().success();
            unpacking.push(unpacked.elapsed);
            theirs.push(unpacked.elapsed + etcdutl.elapsed);
            let restore = Run::holdfast().args(&["restore", "-q", "--yes", "--point", "latest", "--policy"]);
            let restore =
                restore.args(&[&self.policy]).args(&[Path::new("--etcd-snapshot"), &restored]).limit(LIMIT).run();
            ours.push(restore.success().elapsed);
        }
        let (unpacking, theirs, ours) = (median(unpacking), median(theirs), median(ours));
        println!("gunzip alone             {}", seconds(unpacking));
        println!("gunzip + etcdutl restore {}", seconds(theirs));
        println!("holdfast restore         {}", seconds(ours));
        let start = |file: &Path| {
            let started = Instant::now();
            drop(Etcd::options().args(&[QUOTA]).restored_from(file).start());
            started.elapsed()
        };
        for (whose, before, file) in [("gunzip", unpacking, &plain), ("holdfast restore", ours, &restored)] {
            let rest = median((0..ROUNDS).map(|_| start(file)).collect());
            let whole = seconds(before + rest);
            println!("{whose:16} + etcdutl restore + a started etcd: {whole} ({} of it after the file)", seconds(rest));
        }
        goal("etcd's way / restore", ratio(theirs, ours), RESTORE_RATIO_MIN, true)
    }
}

impl Bench {
    /// One key in a hundred changes, everything before is compacted: what an increment costs, and what its chain costs a
    /// restore.
    fn increments(&self, objects: u64) -> bool {
        let full = self.backup("full");
        let bytes = |outcome: &Outcome| outcome.json()["new_stored_bytes"].as_u64().unwrap();
        let (mut times, mut shares) = (vec![], vec![]);
        for round in 0..ROUNDS as u64 {
            let revision = load::fill(&self.source, 1, round * objects / 100, objects / 100);
            let compact = ["compact", "--physical", &(revision - 1).to_string()];
            self.source.etcdctl_run(&compact).limit(LIMIT).run().success();
            let outcome = self.backup("incremental");
            assert_eq!(outcome.json()["manifest"]["kind"], "incremental");
            times.push(outcome.elapsed);
            shares.push(bytes(&outcome) as f64 / bytes(&full) as f64 * 100.0);
        }
        shares.sort_unstable_by(f64::total_cmp);
        println!("full backup              {}, {} MiB stored", seconds(full.elapsed), bytes(&full) >> 20);
        println!("incremental, 1 % changed {}, {:.2} % of that", seconds(median(times)), shares[ROUNDS / 2]);
        let restored = self.path("chain.db");
        let restore = Run::holdfast().args(&["restore", "-q", "--yes", "--policy"]).args(&[&self.policy]);
        let restore = restore.args(&[Path::new("--etcd-snapshot"), &restored]).limit(LIMIT).run().success();
        println!("restore of a chain of {}  {}", ROUNDS + 1, seconds(restore.elapsed));
        goal("increment / full, %", shares[ROUNDS / 2], INCREMENT_PERCENT_MAX, false)
    }
}

fn goal(what: &str, value: f64, bound: f64, at_least: bool) -> bool {
    let met = if at_least { value >= bound } else { value <= bound };
    let (word, verdict) = (if at_least { "least" } else { "most" }, if met { "met" } else { "MISSED" });
    println!("goal: {what:22} {value:7.2}, at {word} {bound}: {verdict}");
    met
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

fn ratio(a: Duration, b: Duration) -> f64 {
    a.as_secs_f64() / b.as_secs_f64()
}

fn seconds(time: Duration) -> String {
    format!("{:.2} s", time.as_secs_f64())
}

fn millis(time: Duration) -> String {
    format!("{:.2} ms", time.as_secs_f64() * 1e3)
}
