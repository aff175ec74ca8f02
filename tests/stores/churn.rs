//! Sixty points of clusters that never rest, in every kind of store: full ones and increments, while keys, leases and
//! users come and go and history is compacted away. Each is restored, and what was written is held against what the
//! source's own hash bore out.

use std::fs;
use std::time::Duration;

use crate::site::{Kind, Site};
use crate::support::etcd::Etcd;
use crate::support::load::{self, Load, LoadOptions};
use crate::support::run::wait_until;

const POINTS: u64 = 20;
/// Every so many points a full one is asked for.
const FULL_EVERY: u64 = 7;
const WRITES_BETWEEN: u64 = 40;
/// Of twenty points, at least this many are compared and equal: a compaction may overtake the others.
const EQUAL_MIN: usize = 16;
const LIMIT: Duration = Duration::from_mins(1);

fn twenty(kind: Kind, seed: u64) {
    let etcd = Etcd::options().args(&["--bcrypt-cost=4"]).auth("root", "secret").start();
    load::fill(&etcd, seed, 1_000_000, 2_000);
    let site = Site::new(kind);
    site.policy(&etcd.policy_table("prod"));
    let load = LoadOptions { seed, writers: 2, pause: Duration::from_millis(10), ..LoadOptions::default() };
    let load = Load::start(&etcd, load);
    let mut made = vec![];
    for n in 0..POINTS {
        let before = load.total();
        wait_until("the writers have written", LIMIT, || load.total() >= before + WRITES_BETWEEN);
        let wanted = if n % FULL_EVERY == 0 { "full" } else { "incremental" };
        let outcome = site.holdfast(&["backup", "--kind", wanted, "-o", "json"]);
        assert!([0, 5].contains(&outcome.code()), "{outcome}");
        let answer = outcome.json();
        // The cluster's history never forks here, so nothing may stand in the way of an increment.
        assert_eq!(answer["manifest"]["kind"], wanted, "{kind:?}: {}", answer["warnings"]);
        made.push(answer);
    }
    let written = load.stop();
    assert!(
        ["compact", "delete", "lease", "auth"].iter().all(|kind| written.kinds.get(kind) > Some(&0)),
        "{written:?}"
    );

    let listed = made.iter().filter(|answer| {
        let segments = answer["manifest"]["segments"].as_array().unwrap();
        segments.last().unwrap()["kept"]["listed"] == true
    });
    assert!(listed.count() >= 5, "{kind:?}: compactions were not met");
    let equal = made.iter().filter(|a| a["manifest"]["proofs"]["hash_at_source"]["verdict"] == "equal").count();
    assert!(equal >= EQUAL_MIN, "{kind:?}: {equal} points are equal");
    for answer in &made {
        let id = answer["point"].as_str().unwrap();
        let proofs = &answer["manifest"]["proofs"];
        assert_ne!(proofs["hash_at_source"]["verdict"], "differs", "{kind:?} {id}");
        let file = site.text(&format!("{id}.db"));
        let args = ["restore", "--point", id, "--etcd-snapshot", &file, "--bump", "none", "--yes", "-o", "json"];
        let report = site.holdfast(&args).success().json()["report"].clone();
        assert_eq!(report["state_digest"], proofs["state_digest"], "{kind:?} {id}");
        assert_eq!(report["hash_kv"], proofs["hash_kv"]["hash"], "{kind:?} {id}");
        fs::remove_file(&file).unwrap();
    }
    let verdicts = site.holdfast(&["verify", "--level", "3", "-o", "json"]).success().json();
    let verdicts = verdicts["verdicts"].as_array().unwrap();
    assert!(verdicts.len() == made.len() && verdicts.iter().all(|verdict| verdict["result"] == "ok"));
    let bytes = |wanted: &str| -> u64 {
        let of_kind = made.iter().filter(|answer| answer["manifest"]["kind"] == wanted);
        of_kind.map(|answer| answer["new_stored_bytes"].as_u64().unwrap()).sum()
    };
    let (full, increments) = (bytes("full"), bytes("incremental"));
    // Three full points and seventeen increments.
    assert!(increments < full, "{kind:?}: {increments} bytes of increments beside {full} of full points");
}

#[test]
fn twenty_points_in_a_directory() {
    twenty(Kind::Directory, 21);
}

#[test]
fn twenty_points_in_s3() {
    twenty(Kind::S3, 22);
}

#[test]
fn twenty_points_in_google_cloud_storage() {
    twenty(Kind::Google, 23);
}
