//! Disks that are really full, or read-only: a small file system in memory, mounted for one test. Root.

use holdfast::base::digest::Sha256;
use std::collections::BTreeMap;
use std::fs;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

use super::support::etcd::Etcd;
use super::support::load;
use super::support::member::{LIMIT, Member};
use super::support::peers::{ETCD_3_5, program};
use super::support::ports::Port;
use super::support::run::{Outcome, Run, wait_until};

/// A file system of its own, unmounted when dropped.
struct Disk {
    path: PathBuf,
}

impl Disk {
    fn mount(path: PathBuf, options: &str) -> Disk {
        fs::create_dir(&path).unwrap();
        let target = path.to_str().unwrap();
        Run::new("mount").args(&["-t", "tmpfs", "-o", options, "tmpfs", target]).run().success();
        Disk { path }
    }

    fn remount(&self, options: &str) {
        let options = format!("remount,{options}");
        Run::new("mount").args(&["-o", &options, self.path.to_str().unwrap()]).run().success();
    }

    /// Leaves room for `bytes`, and no more.
    fn fill(&self, disk_bytes: u64, bytes: u64) -> PathBuf {
        let ballast = self.path.join("lost+found");
        fs::create_dir_all(&ballast).unwrap();
        let file = ballast.join("ballast");
        let used: u64 = tree(&self.path).values().map(|(bytes, _)| bytes.next_multiple_of(4096) + 4096).sum();
        let size = usize::try_from((disk_bytes - used - bytes) / 4096 * 4096).unwrap();
        fs::write(&file, vec![1; size]).unwrap();
        file
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        Run::new("umount").args(&["-l", self.path.to_str().unwrap()]).run().success();
    }
}

fn tree(dir: &Path) -> BTreeMap<PathBuf, (u64, Sha256)> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.append(&mut tree(&path));
        } else {
            let bytes = fs::read(&path).unwrap();
            found.insert(path, (bytes.len() as u64, Sha256::of(&bytes)));
        }
    }
    found
}

#[test]
fn a_member_on_a_read_only_disk_does_not_start_and_says_why() {
    let dir = tempfile::tempdir().unwrap();
    let disk = Disk::mount(dir.path().join("disk"), "size=256m");
    let port = Port::claim();
    let url = format!("http://{}", port.address());
    let serve = |data: &str| {
        let flags = [
            format!("--data-dir={}", disk.path.join(data).display()),
            format!("--listen-client-urls={url}"),
            format!("--advertise-client-urls={url}"),
            "--log-level=error".to_owned(),
        ];
        Run::holdfast().args(&["serve"]).args(&flags)
    };
    let mut member = serve("old").start(dir.path().join("log"));
    wait_until("it serves", LIMIT, || {
        TcpStream::connect(port.address()).is_ok() && disk.path.join("old/member").is_dir()
    });
    assert_eq!(member.terminate(LIMIT).code(), Some(0));
    let before = tree(&disk.path);
    disk.remount("ro");
    for data in ["new", "old"] {
        let outcome = serve(data).run().exits(1);
        assert!(outcome.stderr.contains("Read-only file system"), "{outcome}");
        assert!(outcome.stderr.contains("\nhint: that file system is read-only"), "{outcome}");
        assert_eq!(outcome.stderr.lines().count(), 2, "{outcome}");
    }
    assert_eq!(tree(&disk.path), before);
    // Mounted for writing it goes on.
    disk.remount("rw");
    let mut member = serve("old").start(dir.path().join("log"));
    wait_until("it serves", LIMIT, || TcpStream::connect(port.address()).is_ok());
    assert_eq!(member.terminate(LIMIT).code(), Some(0));
}

/// A member of its own on that disk, or with its log there.
fn member_on(disk: &Disk, is_log: bool) -> Member {
    let mut member = Member::prepared(&[]);
    let at = disk.path.join("member");
    member.args = match is_log {
        true => vec![format!("--wal-dir={}", at.display())],
        // The last one counts.
        false => vec![format!("--data-dir={}", at.display())],
    };
    member
}

/// A value that is longer than an argument may be.
fn put(member: &Member, key: &str, value: &str) -> Outcome {
    let endpoint = format!("--endpoints={}", member.endpoint());
    let run = Run::new(program(ETCD_3_5, "etcdctl")).env("ETCDCTL_API", "3").stdin(value);
    run.args(&[&endpoint, "put", key]).run()
}

/// How often it has said something in all its lives.
fn said(member: &Member, words: &str) -> usize {
    member.log().matches(words).count()
}

/// Asks until something holds of a member's alarms.
fn wait_for_alarm(member: &Member, raised: bool) {
    wait_until("the alarm is as expected", LIMIT, || {
        member.etcdctl(&["alarm", "list"]).success().stdout().contains("NOSPACE") == raised
    });
}

#[track_caller]
fn refused(outcome: &Outcome) {
    assert!(outcome.code() != 0 && outcome.stderr.contains("mvcc: database space exceeded"), "{outcome}");
}

/// The state's file meets a disk that is full: at a start, and while it serves. Nothing ends, nothing is lost, and what was
/// acknowledged is written when there is room.
#[test]
fn a_member_on_a_full_disk_serves_and_goes_on_when_there_is_room() {
    const BYTES: u64 = 600 << 20;
    let dir = tempfile::tempdir().unwrap();
    let disk = Disk::mount(dir.path().join("disk"), &format!("size={BYTES}"));
    let mut member = member_on(&disk, false);
    // What is put is in the log alone until the member stops, and then nowhere else.
    member.args.push("--backend-batch-interval=1h".to_owned());
    member.launch(|run| run);
    member.wait();
    let value = "v".repeat(400_000);
    for key in 0..12 {
        put(&member, &format!("key-{key:02}"), &value).success();
    }
    member.process.take().unwrap().kill();
    member.args.pop();
    let mut ballast = disk.fill(BYTES, 0);
    for round in 1..3 {
        member.launch(|run| run);
        wait_until("it serves", LIMIT, || TcpStream::connect(member.client.address()).is_ok());
        wait_for_alarm(&member, true);
        wait_until("the flush waits", LIMIT, || said(&member, "no room on the disk of the state file") == round);
        let keys = member.etcdctl(&["get", "key-", "--prefix", "--keys-only"]).success().stdout();
        assert_eq!(keys.lines().filter(|line| !line.is_empty()).count(), 12, "{round}");
        let read = member.etcdctl(&["get", "key-03", "--print-value-only"]).success().stdout();
        assert!(read.trim() == value, "{round}: {} bytes", read.len());
        refused(&member.etcdctl(&["put", "more", "v"]));
        let defrag = member.etcdctl(&["defrag"]);
        assert!(defrag.code() != 0 && defrag.stderr.contains("the disk of the state file is full"), "{defrag}");
        // It stays raised, however often it is disarmed.
        member.etcdctl(&["alarm", "disarm"]).success();
        wait_for_alarm(&member, true);
        assert_eq!(member.stop(), 0, "{round}: {}", member.log());
        assert_eq!(said(&member, "the next start catches up from the log"), round, "{}", member.log());
    }
    member.launch(|run| run);
    wait_until("it serves", LIMIT, || TcpStream::connect(member.client.address()).is_ok());
    wait_for_alarm(&member, true);
    wait_until("the flush waits", LIMIT, || said(&member, "no room on the disk of the state file") == 3);
    // With room it goes on, without another start.
    fs::remove_file(&ballast).unwrap();
    wait_until("the flush ends", LIMIT, || said(&member, "waits for room on its disk no longer") == 3);
    member.etcdctl(&["defrag"]).success();
    member.etcdctl(&["alarm", "disarm"]).success();
    wait_for_alarm(&member, false);
    member.etcdctl(&["put", "more", "v"]).success();
    // Full while it serves: the alarm comes before anything fails, and the way out is the same.
    ballast = disk.fill(BYTES, 0);
    wait_for_alarm(&member, true);
    refused(&member.etcdctl(&["put", "more", "w"]));
    for key in 0..6 {
        member.etcdctl(&["del", &format!("key-{key:02}")]).success();
    }
    fs::remove_file(&ballast).unwrap();
    let revision = member.etcdctl(&["get", "more", "-w", "json"]).success().json()["header"]["revision"].to_string();
    member.etcdctl(&["compact", &revision, "--physical"]).success();
    member.etcdctl(&["defrag"]).success();
    member.etcdctl(&["alarm", "disarm"]).success();
    member.etcdctl(&["put", "more", "w"]).success();
    assert_eq!(member.stop(), 0);
    member.launch(|run| run);
    member.wait();
    let keys = member.etcdctl(&["get", "", "--prefix", "--keys-only"]).success().stdout();
    assert_eq!(keys.lines().filter(|line| !line.is_empty()).count(), 7);
    assert_eq!(member.stop(), 0);
}

/// The log has a disk of its own, and that has room for one segment and no other.
#[test]
fn a_log_that_cannot_grow_refuses_writes_and_goes_on_when_it_can() {
    let dir = tempfile::tempdir().unwrap();
    let disk = Disk::mount(dir.path().join("disk"), "size=100m");
    let mut member = member_on(&disk, true);
    member.launch(|run| run);
    member.wait();
    let value = "v".repeat(1_000_000);
    let put = |key: u32| put(&member, &format!("key-{key:03}"), &value);
    let refusal = (0..100).find_map(|key| Some(put(key)).filter(|outcome| outcome.code() != 0));
    refused(&refusal.expect("the log meets its limit"));
    wait_for_alarm(&member, true);
    assert_eq!(tree(&disk.path).len(), 1, "nothing half made takes room");
    assert!(member.log().contains("no room for the next segment of the log"), "{}", member.log());
    let keys = member.etcdctl(&["get", "key-", "--prefix", "--keys-only"]).success().stdout();
    let there = keys.lines().filter(|line| !line.is_empty()).count();
    assert!(there > 25, "half of a segment, at least: {there}");
    member.etcdctl(&["del", "key-000"]).success();
    disk.remount("size=300m");
    wait_until("the segment is made", LIMIT, || tree(&disk.path).len() == 2);
    member.etcdctl(&["alarm", "disarm"]).success();
    for key in 100..150 {
        put(key).success();
    }
    assert_eq!(member.stop(), 0);
    member.launch(|run| run);
    member.wait();
    let keys = member.etcdctl(&["get", "key-", "--prefix", "--keys-only"]).success().stdout();
    assert_eq!(keys.lines().filter(|line| !line.is_empty()).count(), there - 1 + 50);
    assert_eq!(member.stop(), 0);
}

const DISK_BYTES: u64 = 8 << 20;
const PODS: u64 = 1_500;

struct Bench {
    etcd: Etcd,
    // Before the folder it is mounted in.
    disk: Disk,
    dir: TempDir,
}

impl Bench {
    fn new() -> Bench {
        let etcd = Etcd::start();
        load::fill(&etcd, 9, 0, PODS);
        let dir = tempfile::tempdir().unwrap();
        let disk = Disk::mount(dir.path().join("disk"), &format!("size={DISK_BYTES}"));
        fs::create_dir(dir.path().join("scratch")).unwrap();
        Bench { etcd, disk, dir }
    }

    fn policy(&self, repository: &Path) -> String {
        let policy = self.dir.path().join("policy.toml");
        let table = self.etcd.policy_table("prod");
        let url = format!("file://{}", repository.display());
        fs::write(&policy, format!("{table}\n[repository]\nurl = {url:?}\nencryption = \"none\"\n")).unwrap();
        policy.to_str().unwrap().to_owned()
    }

    fn run(&self, args: &[&str], policy: &str) -> Outcome {
        let scratch = self.dir.path().join("scratch");
        Run::holdfast().env("HOLDFAST_SCRATCH", scratch).args(args).args(&["--policy", policy]).run()
    }
}

#[track_caller]
fn full(outcome: &Outcome) {
    assert!(outcome.code() == 1 && outcome.stderr.contains("\nhint: "), "{outcome}");
    let words = ["No space left on device", "no storage space", "are free"];
    assert!(words.iter().any(|words| outcome.stderr.contains(words)), "{outcome}");
}

#[test]
fn a_full_repository_publishes_nothing_and_takes_the_next_backup_when_there_is_room() {
    let bench = Bench::new();
    let policy = bench.policy(&bench.disk.path);
    // No room for the config; for an object; for the manifest behind the objects.
    for room in [0, 64 << 10, 300 << 10] {
        let ballast = bench.disk.fill(DISK_BYTES, room);
        full(&bench.run(&["backup"], &policy));
        let files = tree(&bench.disk.path);
        assert!(!files.keys().any(|path| path.to_str().unwrap().contains("/points/")), "{room}: {files:?}");
        fs::remove_file(ballast).unwrap();
    }
    bench.run(&["backup"], &policy).success();
    bench.run(&["verify", "--level", "3"], &policy).success();
    let listed = bench.run(&["list", "-o", "json"], &policy).success().json();
    assert_eq!(listed["points"].as_array().unwrap().len(), 1);
}

#[test]
fn a_full_scratch_or_target_leaves_nothing() {
    let bench = Bench::new();
    let policy = bench.policy(&bench.dir.path().join("repository"));
    let ballast = bench.disk.fill(DISK_BYTES, 1 << 20);
    let before = tree(&bench.disk.path);
    let disk = bench.disk.path.to_str().unwrap();
    full(&bench.run(&["backup", "--scratch", disk], &policy));
    assert_eq!(tree(&bench.disk.path), before);
    bench.run(&["backup"], &policy).success();
    let target = bench.disk.path.join("r.db");
    let target = target.to_str().unwrap();
    // A plan sees that there is too little room; an export finds out while it writes.
    full(&bench.run(&["restore", "--etcd-snapshot", target, "--yes"], &policy));
    full(&bench.run(&["export", "latest", target], &policy));
    let endpoint = bench.etcd.endpoint(0);
    full(&Run::holdfast().args(&["snapshot", "save", target, "--endpoints", &endpoint]).run());
    assert_eq!(tree(&bench.disk.path), before);
    fs::remove_file(ballast).unwrap();
    bench.run(&["restore", "--etcd-snapshot", target, "--yes"], &policy).success();
}

#[test]
fn a_read_only_repository_is_denied_and_still_read() {
    let bench = Bench::new();
    let policy = bench.policy(&bench.disk.path);
    bench.run(&["backup"], &policy).success();
    bench.disk.remount("ro");
    let before = tree(&bench.disk.path);
    for command in [&["backup"][..], &["verify", "latest"]] {
        let outcome = bench.run(command, &policy).exits(1);
        assert!(
            outcome.stderr.to_lowercase().contains("read-only") && outcome.stderr.contains("\nhint: "),
            "{outcome}"
        );
        let json = bench.run(&[command, &["-o", "json"]].concat(), &policy).exits(1);
        let error: serde_json::Value = serde_json::from_str(&json.stderr).unwrap();
        assert_eq!(error["kind"], "denied", "{error}");
    }
    bench.run(&["list"], &policy).success();
    let target = bench.dir.path().join("r.db");
    bench.run(&["restore", "--etcd-snapshot", target.to_str().unwrap(), "--yes"], &policy).success();
    assert_eq!(tree(&bench.disk.path), before);
}
