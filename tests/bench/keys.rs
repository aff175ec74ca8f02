//! `make bench-keys`: memory of a backup, full and incremental, of a live cluster of three million small keys.

use std::path::Path;

use super::support::etcd::Etcd;
use super::support::load::{self, Change};
use super::support::run::{Outcome, Run};
use super::{LIMIT, PEAK_RSS_MAX_BYTES, QUOTA, goal, policy, seconds};

const KEYS: u64 = 3_000_000;
/// Changes that are made at a time.
const BATCH: u64 = 100_000;
/// Every so manieth key is written again before the increment.
const CHANGED_EVERY: usize = 100;

/// Measures; whether the goals are met.
pub(crate) fn keys() -> bool {
    let dir = tempfile::TempDir::with_prefix_in("keys-", env!("CARGO_TARGET_TMPDIR")).unwrap();
    let source = Etcd::options().args(&[QUOTA]).start();
    let policy = policy(&source, dir.path(), "keys");
    for first in (0..KEYS).step_by(usize::try_from(BATCH).unwrap()) {
        load::apply(&source, (first..first + BATCH).map(|n| change(n, "first")));
    }
    let full = backup(&policy, "full");
    let mut met = vec![report("full", &full)];
    for round in ["second", "third"] {
        let revision = load::apply(&source, (0..KEYS).step_by(CHANGED_EVERY).map(|n| change(n, round)));
        source.etcdctl_run(&["compact", "--physical", &(revision - 1).to_string()]).limit(LIMIT).run().success();
        let increment = backup(&policy, "incremental");
        assert_eq!(increment.json()["manifest"]["kind"], "incremental");
        met.push(report("incremental", &increment));
    }
    let verify =
        Run::holdfast().args(&["verify", "--level", "3", "-q", "--policy"]).args(&[&policy]).limit(LIMIT).run();
    met.push(report("verify of the chain", &verify.success()));
    let file = dir.path().join("restored.db");
    let restore = Run::holdfast().args(&["restore", "-q", "--yes", "--policy"]).args(&[&policy]);
    let restore = restore.args(&[Path::new("--etcd-snapshot"), &file]).limit(LIMIT).run();
    met.push(report("restore of the chain", &restore.success()));
    met.iter().all(|met| *met)
}

fn change(n: u64, round: &str) -> Change {
    Change::Put(format!("/registry/items/namespace-{:04}/item-{n:010}", n % 1000), format!("{n:0>56} {round}").into())
}

fn backup(policy: &Path, kind: &str) -> Outcome {
    let backup = Run::holdfast().args(&["backup", "-o", "json", "--kind", kind, "--policy"]).args(&[policy]);
    backup.limit(LIMIT).run().success()
}

fn report(what: &str, outcome: &Outcome) -> bool {
    println!("{what}: {}", seconds(outcome.elapsed));
    let peak = outcome.peak_rss_bytes >> 20;
    goal(&format!("{what}, peak MiB"), peak as f64, (PEAK_RSS_MAX_BYTES >> 20) as f64, false)
}
