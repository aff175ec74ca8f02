//! The whole way of a restore point through every store, by the built binary: made, listed, shown, verified, restored,
//! exported, imported.

use std::fs;

use crate::site::{BUCKETS, KINDS, Kind, Site};
use crate::support::etcd::Etcd;
use crate::support::load;
use crate::support::weather::Weather;

/// Pods of a cluster whose points have several objects.
const PODS: u64 = 1_500;

fn cluster() -> Etcd {
    let etcd = Etcd::start();
    load::fill(&etcd, 7, 0, PODS);
    etcd
}

/// Every key and value.
pub(crate) fn state(etcd: &Etcd) -> Vec<u8> {
    etcd.etcdctl(&["get", "", "--from-key"]).success().stdout_bytes
}

#[test]
fn a_point_goes_the_whole_way_through_every_store() {
    let etcd = cluster();
    for kind in KINDS {
        let site = Site::new(kind);
        site.policy(&etcd.policy_table("prod"));
        let made = site.holdfast(&["backup", "--kind", "full", "-o", "json"]).success().json();
        assert_eq!(made["manifest"]["proofs"]["hash_at_source"]["verdict"], "equal", "{kind:?}: {made}");
        let points = site.points();
        assert_eq!(points.len(), 1, "{kind:?}");
        let shown = site.holdfast(&["show", "latest", "-o", "json"]).success().json();
        assert!(shown["manifest"]["objects"].as_array().unwrap().len() > 1, "{kind:?}");
        for level in ["1", "2", "3"] {
            let verdicts = site.holdfast(&["verify", "--level", level, "-o", "json"]).success().json();
            assert_eq!(verdicts["verdicts"][0]["result"], "ok", "{kind:?} {level}: {verdicts}");
        }
        // Made again: what is the same is found, not stored twice.
        let again = site.holdfast(&["backup", "--kind", "full", "-o", "json"]).success().json();
        assert_eq!(again["manifest"]["objects"], made["manifest"]["objects"], "{kind:?}");
        assert_eq!(site.points().len(), 2, "{kind:?}");
        let (restored, exported) = (site.text("restored.db"), site.text("exported.db"));
        site.holdfast(&["restore", "--point", "latest", "--etcd-snapshot", &restored, "--bump", "none", "--yes"])
            .success();
        site.holdfast(&["export", "latest", &exported]).success();
        assert!(fs::read(&restored).unwrap() == fs::read(&exported).unwrap(), "{kind:?}");
        let back = Etcd::options().restored_from(&restored).start();
        assert!(state(&back) == state(&etcd), "{kind:?}: every key value came back");
        // And in again, from the file, beside the others.
        let imported = Site::new(kind);
        imported.policy(&etcd.policy_table("prod"));
        imported.holdfast(&["import", &exported]).success();
        assert_eq!(imported.points().len(), 1, "{kind:?}");
        imported.holdfast(&["verify", "--level", "3"]).success();
    }
}

#[test]
fn a_backup_costs_one_request_for_each_object_and_few_besides() {
    let etcd = cluster();
    for kind in BUCKETS {
        let site = Site::new(kind);
        site.policy(&etcd.policy_table("prod"));
        site.holdfast(&["backup", "--kind", "full"]).success();
        let shown = site.holdfast(&["show", "latest", "-o", "json"]).success().json();
        let objects = shown["manifest"]["objects"].as_array().unwrap().len() as u64;
        let stored = shown["manifest"]["counts"]["stored_bytes"].as_u64().unwrap();
        let proxy = site.proxy();
        proxy.set(Weather::default());
        site.holdfast(&["backup", "--kind", "full"]).success();
        // The same content again: each object is offered and found (one read each), and of documents there are a
        // manifest and a verdict.
        assert_eq!(proxy.count("PUT"), objects + 2, "{kind:?}");
        assert!(proxy.count("LIST") <= 12, "{kind:?}: {} listings", proxy.count("LIST"));
        assert!(proxy.sent() < stored + 400_000, "{kind:?}: {} bytes sent for {stored}", proxy.sent());
        proxy.set(Weather::default());
        site.holdfast(&["verify", "latest", "--level", "3"]).success();
        assert!(proxy.received() < stored + 1_000_000, "{kind:?}: {} bytes read for {stored}", proxy.received());
        assert!(proxy.count("GET") <= objects + 8, "{kind:?}: {} reads of {objects} objects", proxy.count("GET"));
        proxy.set(Weather::default());
        let listed = site.holdfast(&["list", "-o", "json"]).success().json();
        assert_eq!(listed["points"].as_array().unwrap().len(), 2);
        assert!(proxy.requests() <= 16, "{kind:?}: {} requests to list two points", proxy.requests());
    }
}

#[test]
fn keys_come_from_a_file_that_the_policy_names_and_are_never_said() {
    let etcd = Etcd::start();
    load::fill(&etcd, 7, 0, 3);
    let mut site = Site::new(Kind::StrictS3);
    site.more = "credentials_file = \"keys\"\nprofile = \"backup\"\nstorage_class = \"STANDARD_IA\"\n".to_owned();
    site.policy(&etcd.policy_table("prod"));
    fs::write(site.path("keys"), "[backup]\naws_access_key_id = AKIDFILE\naws_secret_access_key = hushhush\n").unwrap();
    let unset = |args: &[&str]| {
        site.run(args).env("AWS_ACCESS_KEY_ID", "").env("AWS_SECRET_ACCESS_KEY", "").env("HOLDFAST_LOG", "trace").run()
    };
    let outcome = unset(&["backup"]).success();
    assert!(!outcome.stderr.contains("hushhush") && !outcome.stdout().contains("hushhush"), "{outcome}");
    fs::write(site.path("keys"), "[other]\naws_access_key_id = A\naws_secret_access_key = hushhush\n").unwrap();
    let outcome = unset(&["list"]).exits(2);
    assert!(outcome.stderr.contains("has no profile \"backup\"") && !outcome.stderr.contains("hushhush"), "{outcome}");
}

#[test]
fn an_import_reads_the_manifests_of_its_own_revision_alone() {
    let etcd = Etcd::start();
    for kind in BUCKETS {
        let site = Site::new(kind);
        site.policy(&etcd.policy_table("prod"));
        let mut file = String::new();
        for n in 0..5 {
            etcd.etcdctl(&["put", "a", &n.to_string()]).success();
            file = site.text(&format!("{n}.db"));
            etcd.etcdctl(&["snapshot", "save", &file]).success();
            site.holdfast(&["import", &file]).success();
        }
        let proxy = site.proxy();
        proxy.set(Weather::default());
        let again = site.holdfast(&["import", &file, "-o", "json"]).success().json();
        assert_eq!(again["imported"][0]["already_there"], true, "{kind:?}: {again}");
        // The config, the lineage, one manifest of five, once more by the verifier, and its object.
        assert!(proxy.count("GET") <= 5, "{kind:?}: {} reads", proxy.count("GET"));
        // A new one looks at its point once it is published: nothing but its own object.
        etcd.etcdctl(&["put", "a", "new"]).success();
        let file = site.text("new.db");
        etcd.etcdctl(&["snapshot", "save", &file]).success();
        proxy.set(Weather::default());
        site.holdfast(&["import", &file]).success();
        // Object, manifest, verdict.
        assert_eq!(proxy.count("PUT"), 3, "{kind:?}");
        let reads = proxy.count("GET") + proxy.count("HEAD");
        assert!(reads <= 6, "{kind:?}: {reads} reads");
        site.holdfast(&["verify", "--level", "3"]).success();
    }
}
