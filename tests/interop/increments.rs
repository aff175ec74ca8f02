//! Increments of a live etcd: what they cost, what they bring back, and when there is none.

use serde_json::Value;
use std::time::Duration;

use crate::look::Look;
use crate::site::{Backup, Site, on_file};
use crate::support::etcd::Etcd;
use crate::support::load;
use crate::support::proxy::{Fault, Proxy};
use crate::support::run::wait_until;

const KEYS: u64 = 20_000;
const LIMIT: Duration = Duration::from_mins(1);

/// A backup of this kind, which must exit with `code`; the whole answer beside it.
#[track_caller]
fn backup(site: &Site, kind: &str, code: i32) -> (Backup, Value) {
    let answer = site.holdfast(&["backup", "--kind", kind]).exits(code).json();
    (Backup::of(&answer), answer)
}

/// Restores a point and holds it against what the source serves now, which must not have changed since.
#[track_caller]
fn brings_back(site: &Site, point: &Backup, source: &Etcd) {
    let (file, report) = site.restore(&point.id, &format!("{}.db", point.id));
    assert_eq!(report["state_digest"], point.manifest["proofs"]["state_digest"]);
    let restored = Etcd::options().restored_from(&file).start();
    let (found, wanted) = (Look::at(&restored, 0), Look::at(source, 0));
    let hash = found.hash_kv(point.revision());
    assert_eq!(hash.hash, point.manifest["proofs"]["hash_kv"]["hash"]);
    assert!(found.state() == wanted.state(), "{} is another state than the source's", point.id);
    let proved = on_file(&["hashkv"], &file);
    assert_eq!(proved["stateDigest"], point.manifest["proofs"]["state_digest"]);
    site.holdfast(&["verify", &point.id, "--level", "3"]).success();
}

fn stored(answer: &Value) -> u64 {
    answer["new_stored_bytes"].as_u64().unwrap()
}

fn segments(point: &Backup) -> &Vec<Value> {
    point.manifest["segments"].as_array().unwrap()
}

#[test]
fn an_increment_costs_what_changed_and_brings_back_everything() {
    let etcd = Etcd::start();
    load::fill(&etcd, 3, 0, KEYS);
    let site = Site::of(&etcd);
    let (first, full) = backup(&site, "auto", 0);
    assert_eq!(
        (&full["manifest"]["kind"], &full["kind_reason"]),
        (&"full".into(), &"there is no point before it".into())
    );

    // One key in a hundred changes; nothing is compacted: all older revisions are still there.
    load::fill(&etcd, 3, 0, KEYS / 100);
    let (second, increment) = backup(&site, "auto", 0);
    assert_eq!(second.manifest["kind"], "incremental");
    assert_eq!(second.lineage(), first.lineage());
    assert_eq!(second.verdict(), "equal");
    let kept = &segments(&second)[1]["kept"];
    assert_eq!((&kept["listed"], &kept["revisions"]), (&false.into(), &first.manifest["counts"]["revisions"]));
    let percent = |answer: &Value| stored(answer) * 100 / stored(&full);
    assert!(stored(&increment) * 100 <= stored(&full) * 3, "{} of {} bytes", stored(&increment), stored(&full));
    assert_eq!(increment["new_objects"], 1);
    brings_back(&site, &second, &etcd);

    // Keys are deleted, others change, and all of it is compacted: what is gone must stay gone.
    etcd.etcdctl(&["del", "--prefix", "/registry/pods/payments/api-1"]).success();
    let revision = load::fill(&etcd, 3, 500, KEYS / 100);
    etcd.etcdctl(&["compact", "--physical", &(revision - 1).to_string()]).success();
    let (third, increment) = backup(&site, "auto", 0);
    assert_eq!((third.manifest["kind"].as_str(), segments(&third).len()), (Some("incremental"), 3));
    let kept = &segments(&third)[2]["kept"];
    assert_eq!(kept["listed"], true);
    assert!(kept["revisions"].as_u64() < second.manifest["counts"]["revisions"].as_u64());
    assert!(percent(&increment) <= 3, "{} of {} bytes", stored(&increment), stored(&full));
    assert_eq!(third.verdict(), "equal");
    brings_back(&site, &third, &etcd);
    let live = |point: &Backup| point.manifest["counts"]["live_keys"].as_u64().unwrap();
    assert!(live(&third) < live(&second), "nothing was deleted");

    // An increment on top of a list of older revisions; the points before are what they were.
    etcd.etcdctl(&["put", "one", "more"]).success();
    let (fourth, _) = backup(&site, "auto", 0);
    assert_eq!((segments(&fourth).len(), &segments(&fourth)[3]["kept"]["listed"]), (4, &Value::Bool(false)));
    brings_back(&site, &fourth, &etcd);
    for (point, keys) in [(&first, live(&first)), (&second, live(&second)), (&third, live(&third))] {
        let listed = site.holdfast(&["keys", "ls", "--point", &point.id, "--by-kind"]).success().json();
        let objects = listed["kinds"].as_array().unwrap().iter().map(|kind| kind["objects"].as_u64().unwrap());
        assert_eq!(objects.sum::<u64>(), keys);
        let (_, report) = site.restore(&point.id, &format!("again-{}.db", point.id));
        assert_eq!(report["state_digest"], point.manifest["proofs"]["state_digest"]);
    }
    let diff = site.holdfast(&["diff", &third.id, &fourth.id]).success().json();
    assert_eq!((&diff["added"], &diff["changed"], &diff["removed"]), (&1.into(), &0.into(), &0.into()));
}

#[test]
fn points_of_a_cluster_that_does_not_change_cost_next_to_nothing() {
    let etcd = Etcd::start();
    load::fill(&etcd, 3, 0, 1_000);
    etcd.etcdctl(&["lease", "grant", "3600"]).success();
    let site = Site::of(&etcd);
    let (_, full) = backup(&site, "auto", 0);
    let mut chains = vec![];
    for _ in 0..3 {
        let (point, increment) = backup(&site, "auto", 0);
        assert_eq!(point.manifest["kind"], "incremental");
        assert!(stored(&increment) * 20 < stored(&full), "{}", stored(&increment));
        chains.push(segments(&point).len());
        brings_back(&site, &point, &etcd);
    }
    // What reaches the same revision is made anew, not followed.
    assert_eq!(chains, [2, 2, 2]);
}

#[test]
fn damage_that_was_found_in_a_chain_ends_the_chain() {
    let etcd = Etcd::start();
    load::fill(&etcd, 3, 0, 500);
    let site = Site::of(&etcd);
    let (full, _) = backup(&site, "auto", 0);
    etcd.etcdctl(&["put", "a", "b"]).success();
    backup(&site, "incremental", 0);
    // Somebody changes the full point's object, and a verification of that point, begun earlier, finds it.
    let object = site.repository().join(full.manifest["objects"][0]["name"].as_str().unwrap());
    let mut bytes = std::fs::read(&object).unwrap();
    bytes[100] ^= 1;
    std::fs::remove_file(&object).unwrap();
    std::fs::write(&object, &bytes).unwrap();
    etcd.etcdctl(&["put", "a", "c"]).success();
    let (blind, _) = backup(&site, "incremental", 0);
    assert_eq!(segments(&blind).len(), 3, "nobody knows of it yet, and looking at sizes does not show it");
    site.holdfast(&["verify", &full.id, "--level", "2"]).exits(3);
    // That the newest point was looked at since, less deeply, changes nothing.
    site.holdfast(&["verify", "latest", "--level", "1"]).success();
    etcd.etcdctl(&["put", "a", "d"]).success();
    let (whole, answer) = backup(&site, "auto", 5);
    assert_eq!((&whole.manifest["kind"], segments(&whole).len()), (&"full".into(), 1));
    let reason = answer["kind_reason"].as_str().unwrap();
    assert!(reason.contains("fails verification at level 2") && reason.contains(&full.id), "{reason}");
    brings_back(&site, &whole, &etcd);
    // The chain that was begun since is not blamed for it.
    etcd.etcdctl(&["put", "a", "e"]).success();
    let (next, _) = backup(&site, "incremental", 0);
    assert_eq!(segments(&next).len(), 2);
}

#[test]
fn a_full_point_is_made_when_asked_for_and_where_nothing_can_be_built_on() {
    let etcd = Etcd::start();
    load::fill(&etcd, 3, 0, 500);
    let site = Site::of(&etcd);
    let (first, answer) = backup(&site, "incremental", 5);
    assert_eq!(first.manifest["kind"], "full");
    assert_eq!(answer["warnings"][0], "a full point is made: there is no point before it");
    let (full, _) = backup(&site, "full", 0);
    assert_eq!(full.manifest["kind"], "full");
    etcd.etcdctl(&["put", "a", "b"]).success();
    let (point, _) = backup(&site, "incremental", 0);
    assert_eq!(segments(&point).len(), 2);

    // An object of the chain is gone: the next point stands on its own.
    let object = point.manifest["objects"][0]["name"].as_str().unwrap();
    std::fs::remove_file(site.repository().join(object)).unwrap();
    etcd.etcdctl(&["put", "a", "c"]).success();
    let (whole, answer) = backup(&site, "auto", 5);
    assert_eq!(whole.manifest["kind"], "full");
    let warning = answer["warnings"][0].as_str().unwrap();
    assert!(warning.contains(object) && warning.contains("missing"), "{warning}");
    brings_back(&site, &whole, &etcd);
}

/// Ids, revision and raft's position all go on as if nothing had happened: only what the points remember tells.
#[test]
fn a_history_that_was_put_back_and_overtaken_in_everything_is_told_by_its_content() {
    let mut etcd = Etcd::start();
    let site = Site::of(&etcd);
    load::fill(&etcd, 1, 0, 300);
    let earlier = site.path("earlier.db");
    etcd.etcdctl(&["snapshot", "save", earlier.to_str().unwrap()]).success();
    etcd.etcdctl(&["put", "lost", "1"]).success();
    let (first, _) = backup(&site, "auto", 0);
    let token = etcd.token().to_owned();
    etcd.roll_back(&earlier, &token);
    (0..40).for_each(|n| drop(etcd.etcdctl(&["put", "other", &n.to_string()]).success()));
    let then = first.manifest["descriptor"]["raft_index"].as_u64().unwrap();
    let now = Look::at(&etcd, 0).position();
    assert!(now.raft_index > then && now.revision > first.revision(), "{now:?} {then}");
    let (branch, answer) = backup(&site, "auto", 5);
    assert_ne!(branch.lineage(), first.lineage());
    assert_eq!(branch.manifest["kind"], "full");
    let warning = answer["warnings"][0].as_str().unwrap();
    assert!(warning.contains("has another content"), "{warning}");
    brings_back(&site, &branch, &etcd);
    let latest = site.holdfast(&["show", "latest"]).success().json();
    assert_eq!(latest["point"], *branch.id);
}

#[test]
fn a_slow_backup_that_is_overtaken_opens_no_branch_and_is_not_the_latest() {
    let etcd = Etcd::start();
    load::fill(&etcd, 1, 0, 2_000);
    let proxy = Proxy::before(etcd.address(0));
    let fast = Site::of(&etcd);
    let first = fast.backup(0);
    load::fill(&etcd, 2, 0, 100);
    let slow =
        Site::beside(&fast, &format!("[cluster]\nname = \"prod\"\nendpoints = [\"http://{}\"]\n", proxy.address()));
    let (slow_point, fast_point) = std::thread::scope(|scope| {
        let slowly = scope.spawn(|| backup(&slow, "full", 0).0);
        wait_until("the slow backup streams", LIMIT, || proxy.bytes() > 200_000);
        proxy.set(Fault::Delay(Duration::from_millis(40)));
        load::fill(&etcd, 3, 0, 100);
        let fast_point = fast.backup(0);
        proxy.set(Fault::None);
        (slowly.join().unwrap(), fast_point)
    });
    assert!(proxy.fired() > 0, "the proxy never delayed anything");
    assert!(slow_point.revision() < fast_point.revision());
    for point in [&slow_point, &fast_point] {
        assert_eq!(point.lineage(), first.lineage());
    }
    assert_eq!(fast.holdfast(&["show", "latest"]).success().json()["point"], *fast_point.id);
    let (next, _) = backup(&fast, "auto", 0);
    assert_eq!((next.manifest["kind"].as_str(), next.lineage()), (Some("incremental"), first.lineage()));
}
