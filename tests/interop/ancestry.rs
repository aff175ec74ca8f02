//! Histories that fork: a cluster put back to an earlier state may keep its ids and its revisions, and is still told apart.

use serde_json::Value;
use std::path::{Path, PathBuf};

use crate::look::Look;
use crate::site::{Backup, Site};
use crate::support::etcd::Etcd;

fn put(etcd: &Etcd, from: i64, to: i64) {
    (from..to).for_each(|n| drop(etcd.etcdctl(&["put", &format!("key-{n}"), &format!("value-{n}")]).success()));
}

fn save(etcd: &Etcd, site: &Site) -> PathBuf {
    let file = site.path("earlier.db");
    etcd.etcdctl(&["snapshot", "save", file.to_str().unwrap()]).success();
    file
}

/// Puts the cluster back to `file`, keeping the ids that clients see.
fn put_back(etcd: &mut Etcd, file: &Path) {
    let before = Look::at(etcd, 0).position();
    let token = etcd.token().to_owned();
    etcd.roll_back(file, &token);
    let after = Look::at(etcd, 0).position();
    assert_eq!((after.cluster_id, after.member_id), (before.cluster_id, before.member_id));
}

/// A backup that must open a branch, with `word` in the reason.
#[track_caller]
fn forked(site: &Site, parent: &Backup, word: &str) -> Backup {
    let backup = site.backup(5);
    assert_ne!(backup.lineage(), parent.lineage());
    assert!(matches!(&backup.warnings[..], [one] if one.contains("branch") && one.contains(word)), "{backup:?}");
    assert_eq!(backup.verdict(), "equal");
    let lineage = format!("clusters/prod/lineages/{}.json", backup.lineage());
    let document: Value = serde_json::from_slice(&std::fs::read(site.repository().join(lineage)).unwrap()).unwrap();
    assert_eq!(document["parent"], parent.lineage());
    // That something went back tells that history forked, not where: nothing shared is claimed.
    assert_eq!(document.get("fork_revision"), None, "{document}");
    assert!(document["reason"].as_str().unwrap().contains(word), "{document}");
    assert_eq!(document["cluster_id"], backup.manifest["descriptor"]["cluster_id"]);
    latest_is(site, &backup);
    backup
}

#[track_caller]
fn latest_is(site: &Site, backup: &Backup) {
    let latest = site.holdfast(&["show", "latest"]).success().json();
    assert_eq!(latest["point"], *backup.id);
}

/// A point that is no longer on the current branch is listed as such, and can be shown, verified and restored.
fn still_there(site: &Site, backup: &Backup) {
    let listed = site.holdfast(&["list"]).success().json();
    let row = listed["points"].as_array().unwrap().iter().find(|row| row["id"] == *backup.id).expect("it is listed");
    assert_eq!((&row["current"], &row["lineage"]), (&Value::Bool(false), &Value::from(backup.lineage())));
    site.holdfast(&["show", &backup.id[..8]]).success();
    site.holdfast(&["verify", &backup.id]).success();
    let (_, report) = site.restore(&backup.id, &format!("{}.db", backup.id));
    assert_eq!(report["revision"], backup.revision());
    assert_eq!(report["state_digest"], backup.manifest["proofs"]["state_digest"]);
}

#[test]
fn a_cluster_put_back_with_its_ids_opens_a_branch() {
    let mut etcd = Etcd::start();
    let site = Site::of(&etcd);
    put(&etcd, 0, 10);
    let earlier = save(&etcd, &site);
    put(&etcd, 10, 30);
    let first = site.backup(0);
    put(&etcd, 30, 31);
    let second = site.backup(0);
    assert_eq!(second.lineage(), first.lineage());

    put_back(&mut etcd, &earlier);
    let branch = forked(&site, &second, "revision went back from 32 to 11");
    still_there(&site, &first);
    still_there(&site, &second);
    put(&etcd, 50, 52);
    let next = site.backup(0);
    assert_eq!(next.lineage(), branch.lineage());
    latest_is(&site, &next);
    let one_before = site.holdfast(&["show", "latest~1"]).success().json();
    assert_eq!(one_before["point"], *branch.id);
    assert_eq!(site.holdfast(&["show", "latest~2"]).exits(4).stdout(), "");
}

#[test]
fn a_cluster_put_back_that_has_overtaken_its_past_opens_a_branch() {
    let mut etcd = Etcd::start();
    let site = Site::of(&etcd);
    put(&etcd, 0, 10);
    let earlier = save(&etcd, &site);
    put(&etcd, 10, 14);
    // Entries that raise no revision: the log is now far ahead of the revisions.
    (0..20).for_each(|_| drop(etcd.etcdctl(&["lease", "grant", "3600"]).success()));
    let first = site.backup(0);
    put_back(&mut etcd, &earlier);
    put(&etcd, 20, 26);
    let branch = forked(&site, &first, "raft index went back");
    assert!(branch.revision() > first.revision());
    still_there(&site, &first);
}

#[test]
fn another_cluster_at_the_same_address_opens_a_branch() {
    let mut etcd = Etcd::start();
    let site = Site::of(&etcd);
    put(&etcd, 0, 5);
    let earlier = save(&etcd, &site);
    let first = site.backup(0);
    let before = Look::at(&etcd, 0).position();
    etcd.roll_back(&earlier, "another-token");
    let after = Look::at(&etcd, 0).position();
    assert_ne!(after.cluster_id, before.cluster_id);
    let branch = forked(&site, &first, "cluster's id changed");
    // The same state on two branches is two points.
    assert_eq!(branch.revision(), first.revision());
    assert_eq!(branch.manifest["proofs"]["state_digest"], first.manifest["proofs"]["state_digest"]);
    still_there(&site, &first);
    put(&etcd, 5, 6);
    let next = site.backup(0);
    assert_eq!(next.lineage(), branch.lineage());
    latest_is(&site, &next);
}
