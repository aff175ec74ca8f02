//! Files that may not grow: a limit on their size stands for a full disk where no file system can be mounted. (A disk that
//! is really full needs root: tests/system.) The program fails by its own words, not by the signal, and leaves nothing.

use std::fs;

use crate::files::fixture;
use crate::place::{Place, loaded};
use crate::support::member::Member;
use crate::support::ports::Port;
use crate::support::run::{Outcome, Run};

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
