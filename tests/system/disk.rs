//! Disks that are really full, or read-only: a small file system in memory, mounted for one test. Root.

use holdfast::base::digest::Sha256;
use std::collections::BTreeMap;
use std::fs;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

use super::support::etcd::Etcd;
use super::support::load;
use super::support::member::LIMIT;
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
