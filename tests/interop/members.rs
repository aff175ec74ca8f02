//! Which member a restore point is taken from, what happens when members are missing, and how clusters are entered.

use std::fs;

use crate::look::{Look, Position};
use crate::site::{Backup, Site, Solo};
use crate::support::etcd::{Etcd, Tls};
use crate::support::load;

/// The `[cluster]` table for some addresses.
fn table(endpoints: &[String], hash_on_leader: &str) -> String {
    format!("[cluster]\nname = \"prod\"\nendpoints = {endpoints:?}\nhash_on_leader = {hash_on_leader:?}\n")
}

/// Where all members stand and how large their files are.
fn positions(looks: &[Look], etcd: &Etcd) -> Vec<(Position, u64)> {
    let file = |i: usize| fs::metadata(etcd.data_dir(i).join("member/snap/db")).unwrap().len();
    looks.iter().enumerate().map(|(i, look)| (look.settled(), file(i))).collect()
}

/// Three members; member numbers with the leader first, and the looks at all of them.
fn three() -> (Etcd, Vec<usize>, Vec<Look>) {
    let etcd = Etcd::options().members(3).start();
    load::fill(&etcd, 7, 0, 500);
    let looks: Vec<_> = (0..3).map(|i| Look::at(&etcd, i)).collect();
    let ids: Vec<_> = looks.iter().map(|look| look.wait_for(false)).collect();
    let leader = looks[0].position().leader;
    let mut order = vec![ids.iter().position(|id| *id == leader).unwrap()];
    order.extend((0..3).filter(|i| ids[*i] != leader));
    (etcd, order, looks)
}

fn not_compared(backup: &Backup, word: &str) {
    assert_eq!(backup.verdict(), "not_compared");
    assert!(backup.reason().contains(word), "{}", backup.reason());
}

/// A new cluster of three, each of whose members has all of it.
fn becomes_three_members(site: &Site, backup: &Backup, source: &Look) {
    let (file, _) = site.restore(&backup.id, "for-three.db");
    let restored = Etcd::options().members(3).restored_from(&file).start();
    let mut ids = vec![];
    for i in 0..3 {
        let look = Look::at(&restored, i);
        assert_eq!(look.hash_kv(backup.revision()).hash, backup.manifest["proofs"]["hash_kv"]["hash"]);
        assert_eq!(look.state(), source.state());
        ids.push(look.position().member_id);
    }
    ids.push(source.position().member_id);
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), 4);
}

#[test]
fn a_follower_that_hangs_is_passed_over() {
    let (etcd, order, looks) = three();
    drop(looks);
    let endpoints: Vec<_> = order.iter().map(|i| etcd.endpoint(*i)).collect();
    let site = Site::with(&table(&endpoints, "warn"));
    etcd.process(order[1]).pause();
    let backup = site.backup(5);
    etcd.process(order[1]).resume();
    assert_eq!((backup.source(), backup.verdict()), (&*endpoints[2], "equal"));
    assert!(matches!(&backup.warnings[..], [one] if one.contains(&endpoints[1])), "{:?}", backup.warnings);
}

#[test]
fn heavy_work_goes_to_a_follower_and_to_the_leader_last() {
    let (mut etcd, order, looks) = three();
    let endpoints: Vec<_> = order.iter().map(|i| etcd.endpoint(*i)).collect();
    let site = Site::with(&table(&endpoints, "warn"));
    let before = positions(&looks, &etcd);
    let backup = site.backup(0);
    assert_eq!(positions(&looks, &etcd), before);
    assert_eq!((backup.source(), backup.verdict()), (&*endpoints[1], "equal"));
    let follower = before[order[1]].0;
    assert_eq!(backup.manifest["descriptor"]["member_id"], format!("{:x}", follower.member_id));
    assert_eq!(backup.manifest["descriptor"]["cluster_id"], format!("{:x}", follower.cluster_id));
    assert_eq!(backup.manifest["source"]["version"], "3.5.1");
    assert!(backup.warnings.is_empty());
    becomes_three_members(&site, &backup, &looks[0]);

    // A policy that names only the leader means it.
    for (hash_on_leader, verdict) in [("on", "equal"), ("warn", "equal"), ("off", "not_compared")] {
        site.describe(&table(&endpoints[..1], hash_on_leader));
        let backup = site.backup(0);
        assert_eq!((backup.source(), backup.verdict()), (&*endpoints[0], verdict));
        assert!(backup.warnings.is_empty());
        if verdict == "not_compared" {
            not_compared(&backup, "hash_on_leader");
        }
    }

    // One member dead: another follower, and a warning.
    etcd.kill(order[1]);
    site.describe(&table(&endpoints, "warn"));
    let backup = site.backup(5);
    assert_eq!((backup.source(), backup.verdict()), (&*endpoints[2], "equal"));
    assert!(matches!(&backup.warnings[..], [one] if one.contains(&endpoints[1])), "{:?}", backup.warnings);
    let verified = site.holdfast(&["verify", &backup.id, "--level", "3"]).success().json();
    assert_eq!(verified["verdicts"][0]["result"], "ok");

    // No follower left among those named: the leader, which is said where the policy asks for it.
    for (hash_on_leader, warnings) in [("on", 1), ("warn", 2), ("off", 1)] {
        site.describe(&table(&endpoints[..2], hash_on_leader));
        let backup = site.backup(5);
        assert_eq!(backup.source(), endpoints[0]);
        assert_eq!(backup.warnings.len(), warnings, "{:?}", backup.warnings);
        assert!(backup.warnings[0].contains(&endpoints[1]));
        assert!(warnings == 1 || backup.warnings[1].contains("leader"), "{:?}", backup.warnings);
        assert_eq!(backup.verdict(), if hash_on_leader == "off" { "not_compared" } else { "equal" });
    }
    let looks: Vec<_> = [order[0], order[2]].iter().map(|i| Look::at(&etcd, *i)).collect();
    let revisions: Vec<_> = looks.iter().map(|look| look.position().revision).collect();
    assert_eq!(revisions, [follower.revision; 2]);
}

#[test]
fn a_single_member_that_may_not_hash_is_not_compared() {
    let etcd = Etcd::start();
    etcd.etcdctl(&["put", "a", "1"]).success();
    let site = Site::with(&table(&etcd.endpoints(), "off"));
    let look = Look::at(&etcd, 0);
    let before = look.settled();
    let backup = site.backup(0);
    assert_eq!(look.position(), before);
    not_compared(&backup, "hash_on_leader");
    assert!(backup.warnings.is_empty());
    site.holdfast(&["verify", "latest", "--level", "3"]).success();
}

#[test]
fn a_learner_is_not_chosen() {
    let etcd = Etcd::start();
    load::fill(&etcd, 8, 0, 200);
    let mut learner = Solo::claim("learner");
    let peer_flag = format!("--peer-urls={}", learner.peer_url());
    etcd.etcdctl(&["member", "add", "learner", "--learner", &peer_flag]).success();
    let members = format!("--initial-cluster={},learner={}", etcd.initial_cluster(), learner.peer_url());
    let site = Site::with(&table(&[learner.endpoint(), etcd.endpoint(0)], "on"));
    learner.start(&site.path("learner.etcd"), &[&members, "--initial-cluster-state=existing"]);
    Look::at_endpoint(&learner.endpoint()).wait_for(true);

    let backup = site.backup(0);
    assert_eq!((backup.source(), backup.verdict()), (&*etcd.endpoint(0), "equal"));
    let why = backup.manifest["source"]["chosen_because"].as_str().unwrap();
    assert!(why.contains(&learner.endpoint()) && why.contains("learner"), "{why}");
    assert_eq!(backup.manifest["counts"]["members"], 2);
}

#[test]
fn clusters_are_entered_as_the_policy_says() {
    let server = Etcd::options().tls(Tls::Server);
    let mutual = Etcd::options().tls(Tls::Mutual);
    let user = Etcd::options().auth("backup", "s3cret and more");
    let both = Etcd::options().tls(Tls::Mutual).auth("backup", "s3cret");
    for options in [server, mutual, user, both] {
        let etcd = options.args(&["--bcrypt-cost=4"]).start();
        etcd.etcdctl(&["put", "a", "1"]).success();
        let (site, revision) = (Site::of(&etcd), etcd.revision());
        let backup = site.backup(0);
        assert_eq!((backup.source(), backup.verdict()), (&*etcd.endpoint(0), "equal"));
        assert_eq!(backup.revision(), revision);
        assert_eq!(etcd.revision(), revision);
        let users = if etcd.user().is_some() { 2 } else { 0 };
        assert_eq!(backup.manifest["counts"]["users"], users);
        // Nothing secret is stored in the open beside the data.
        assert!(!backup.manifest.to_string().contains("s3cret"));
    }
}
