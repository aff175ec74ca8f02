//! Files that may not grow: a limit on their size stands for a full disk where no file system can be mounted. (A disk that
//! is really full needs root: tests/system.) The program fails by its own words, not by the signal, and leaves nothing.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::files::fixture;
use crate::place::{Place, loaded};
use crate::support::member::{LIMIT, Member};
use crate::support::peers::{ETCD_3_5, program};
use crate::support::ports::Port;
use crate::support::run::{Outcome, Run, wait_until};

/// Runs the binary under a limit on the size of every file it writes, in blocks of 512 bytes.
fn limited(place: &Place, blocks: u64, args: &[&str]) -> Outcome {
    let script = format!("ulimit -f {blocks} && exec {:?} \"$@\"", env!("CARGO_BIN_EXE_holdfast"));
    let run = Run::new("sh").env("HOLDFAST_SCRATCH", place.path("scratch")).dir(place.root());
    run.args(&["-c", &script, "sh"]).args(args).run()
}

#[track_caller]
fn full(outcome: Outcome) -> Outcome {
    let outcome = outcome.exits(1);
    assert!(outcome.stderr.contains("hint: free some space"), "{outcome}");
    outcome
}

#[test]
fn a_file_that_may_not_grow_fails_the_command_cleanly() {
    let (place, etcd) = (Place::new(), loaded());
    let (policy, address) = (place.policy_at(&etcd.address(0)), etcd.address(0));
    // The spool of the snapshot; then the file it is saved to.
    let outcome = full(limited(&place, 4_000, &["backup", "--policy", &policy]));
    assert!(outcome.stderr.contains("scratch"), "{outcome}");
    assert!(place.points().is_empty());
    full(limited(&place, 4_000, &["snapshot", "save", "out/s.db", "--endpoints", &address]));
    place.assert_nothing_left();
    place.with_policy(&["backup"]).success();
    // The target of a restore and of an export.
    for args in [
        &["restore", "--etcd-snapshot", "out/r.db", "--yes", "--policy", &policy][..],
        &["export", "latest", "out/e.db", "--policy", &policy],
    ] {
        full(limited(&place, 4_000, args));
        place.assert_nothing_left();
    }
    // A verdict that cannot be written is no verdict.
    let before = place.tree("repository");
    full(limited(&place, 0, &["verify", "latest", "--policy", &policy]));
    assert_eq!(place.tree("repository"), before);
    assert_eq!(place.verify_all(), 1);
    place.with_policy(&["restore", "--etcd-snapshot", "out/r.db", "--yes"]).success();
}

#[test]
fn a_member_that_may_not_grow_is_not_born_and_is_once_it_may() {
    let (place, port) = (Place::new(), Port::claim());
    let url = format!("http://{}", port.address());
    let (data, listen, advertise) =
        (place.text("out/data"), format!("--listen-client-urls={url}"), format!("--advertise-client-urls={url}"));
    let args = ["serve", "--data-dir", &data, &listen, &advertise, "--log-level=error"];
    // Not the identity; not the state; not the log.
    for blocks in [0, 4, 4_000] {
        full(limited(&place, blocks, &args));
        let left: Vec<_> = fs::read_dir(&data).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, ["holdfast.lock"], "{blocks}");
    }
    let mut member = Member::start(&[&format!("--data-dir={data}")]);
    member.etcdctl(&["put", "a", "1"]).success();
    assert_eq!(member.stop(), 0);
}

#[test]
fn a_member_whose_state_may_not_grow_ends_and_what_it_acknowledged_is_there() {
    let (mut member, dir) = (Member::prepared(&[]), Place::new());
    // Room for a segment of the log, and little more for the state.
    let url = member.endpoint();
    let script = format!(
        "ulimit -f 150000 && exec {:?} serve --data-dir={} --listen-client-urls={url} --advertise-client-urls={url}",
        env!("CARGO_BIN_EXE_holdfast"),
        member.data_dir().display()
    );
    member.process = Some(Run::new("sh").args(&["-c", &script]).start(member.dir.path().join("log")));
    member.wait();
    let flags = [format!("--endpoints={url}"), "--command-timeout=5s".to_owned()];
    let etcdctl =
        |args: &[&str]| Run::new(program(ETCD_3_5, "etcdctl")).env("ETCDCTL_API", "3").args(&flags).args(args);
    let mut watch = etcdctl(&["watch", "key-", "--prefix"]).start(dir.path("watch"));
    let value = "v".repeat(1_000_000);
    let mut acknowledged = vec![];
    let refused = (0..300).find_map(|i| {
        let outcome = etcdctl(&["put", &format!("key-{i:03}")]).stdin(value.clone()).run();
        if outcome.code() != 0 {
            return Some(outcome);
        }
        acknowledged.push(format!("key-{i:03}"));
        None
    });
    let refused = refused.expect("the state meets its limit");
    assert!(refused.stderr.contains("Error: ") && !acknowledged.is_empty(), "{refused}");
    let mut process = member.process.take().unwrap();
    wait_until("the member has ended", LIMIT, || process.ended().is_some());
    assert_eq!(process.ended().unwrap().code(), Some(1), "{}", process.said());
    let log = member.log();
    for part in ["the member stops", "error: use the state database", "File too large", "\nhint: free some space"] {
        assert!(log.contains(part), "no {part} in {log}");
    }
    watch.kill();
    // With room it goes on where it was.
    member.launch(|run| run);
    member.wait();
    let keys = member.etcdctl(&["get", "key-", "--prefix", "--keys-only"]).success().stdout();
    let there: Vec<&str> = keys.lines().filter(|line| !line.is_empty()).collect();
    assert!(acknowledged.iter().all(|key| there.contains(&key.as_str())), "{acknowledged:?} and {there:?}");
    assert!(there.len() <= acknowledged.len() + 1, "{there:?}");
    assert_eq!(member.stop(), 0);
}

/// Runs the binary as somebody whom the modes of files bind: root without what lets it pass them by.
fn bound(place: &Place, args: &[&str]) -> Outcome {
    let binary = env!("CARGO_BIN_EXE_holdfast");
    let run = if rustix::process::geteuid().is_root() {
        let capabilities = ["--inh-caps=-all", "--ambient-caps=-all", "--bounding-set=-all"];
        Run::new("setpriv").args(&capabilities).args(&[binary])
    } else {
        Run::new(binary)
    };
    run.dir(place.root()).args(args).run()
}

#[test]
fn a_directory_that_may_not_be_written_is_told_and_left_as_it_is() {
    let (place, port) = (Place::new(), Port::claim());
    let url = format!("http://{}", port.address());
    let (listen, advertise) = (format!("--listen-client-urls={url}"), format!("--advertise-client-urls={url}"));
    let closed = |path: &Path, closed: bool| {
        fs::set_permissions(path, Permissions::from_mode(if closed { 0o500 } else { 0o700 })).unwrap();
    };
    let parent = place.path("closed");
    fs::create_dir(&parent).unwrap();
    // A member that was stopped, too.
    let old = place.text("old");
    let mut member = Member::start(&[&format!("--data-dir={old}")]);
    member.etcdctl(&["put", "a", "1"]).success();
    assert_eq!(member.stop(), 0);
    fs::remove_file(place.path("old/holdfast.lock")).unwrap();
    closed(&parent, true);
    closed(&place.path("old"), true);
    let before = place.tree("");
    for args in [
        &["serve", "--data-dir=closed/data", &listen, &advertise, "--log-level=error"][..],
        &["serve", "--data-dir=closed", &listen, &advertise, "--log-level=error"],
        &["serve", "--data-dir=old", &listen, &advertise, "--log-level=error"],
        &["serve", "--data-dir=new", "--wal-dir=closed/log", &listen, &advertise, "--log-level=error"],
        &["dev", "--dir=closed/dev", "--listen-client-url", &url],
    ] {
        let outcome = bound(&place, args).exits(1);
        assert!(outcome.stderr.contains("Permission denied"), "{outcome}");
        assert!(outcome.stderr.contains("\nhint: ") && outcome.stderr.lines().count() == 2, "{outcome}");
        // A lock is no trace of a member.
        drop(fs::remove_dir_all(place.path("new")));
        assert_eq!(place.tree(""), before, "{outcome}");
    }
    closed(&parent, false);
    closed(&place.path("old"), false);
    let mut member = Member::start(&[&format!("--data-dir={old}")]);
    assert_eq!(member.etcdctl(&["get", "a"]).success().stdout(), "a\n1\n");
    assert_eq!(member.stop(), 0);
}

#[test]
fn a_repository_that_may_not_grow_publishes_nothing() {
    let place = Place::new();
    let file = place.write("k8s.db", fixture("k8s-etcd-3.6.db"));
    place.policy_at("127.0.0.1:1");
    let url = place.url();
    let args = ["import", &file, "--repository", &url, "--cluster", "prod"];
    // Nothing at all; the config but no object; objects but no manifest.
    for blocks in [0, 2, 40] {
        full(limited(&place, blocks, &args));
        assert!(place.points().is_empty(), "{blocks}");
        assert!(!place.tree("repository").keys().any(|path| path.contains("/points/")), "{blocks}");
        place.assert_nothing_left();
    }
    place.run(&args).run().success();
    assert_eq!(place.verify_all(), 1);
    fs::remove_dir_all(place.repository()).unwrap();
}
