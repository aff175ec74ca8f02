//! The store and real etcd: a file that it streams is etcd's file, a backup of it is etcd's state, and the way back.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use holdfast::api::etcdserverpb as pb;
use holdfast::api::etcdserverpb::kv_client::KvClient;
use holdfast::api::etcdserverpb::lease_client::LeaseClient;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tonic::transport::Channel;

use crate::fixtures::fixture;
use crate::look::Look;
use crate::site::{Site, etcdutl, on_file};
use crate::support::etcd::Etcd;
use crate::support::member::Member;
use crate::support::run::Run;

/// A member with nothing in it.
fn empty() -> Member {
    Member::start(&[])
}

/// A member that is made by what `restore` does, given its directory.
fn made(name: &str, restore: impl FnOnce(&str)) -> Member {
    let mut member = Member::prepared(&["--name", name]);
    restore(member.data_dir().to_str().unwrap());
    member.launch(|run| run);
    member.wait();
    member
}

fn look(member: &Member) -> Look {
    Look::at_endpoint(&member.endpoint())
}

fn revision(member: &Member) -> i64 {
    look(member).range(0).unwrap().0
}

/// Writes, overwrites, deletes, leases, in each round other ones. A few keys of each round nobody touches again.
fn fill(member: &Member, round: u8) {
    Runtime::new().unwrap().block_on(async {
        let channel = Channel::from_shared(member.endpoint()).unwrap().connect().await.unwrap();
        let (mut kv, mut lease) = (KvClient::new(channel.clone()), LeaseClient::new(channel));
        let id = 7000 + i64::from(round);
        lease.lease_grant(pb::LeaseGrantRequest { ttl: 3600, id }).await.unwrap();
        for n in 0..300 {
            let key = if n < 20 { format!("/stable/{round}/{n}") } else { format!("/registry/pods/{}", n % 120) };
            let value = vec![b'a' + round; 10 + n * n % 20_000];
            let lease = if n % 10 == 0 { id } else { 0 };
            let put = pb::PutRequest { key: key.into(), value: value.into(), lease, ..Default::default() };
            kv.put(put).await.unwrap();
            if n % 25 == 24 {
                let key = format!("/registry/pods/{}", n % 120 - 3).into();
                kv.delete_range(pb::DeleteRangeRequest { key, ..Default::default() }).await.unwrap();
            }
        }
    });
}

/// The revision after a restart.
fn revision_again(member: &mut Member) -> i64 {
    member.launch(|run| run);
    member.wait();
    revision(member)
}

fn compact(member: &Member, revision: i64) {
    member.etcdctl(&["compaction", &revision.to_string()]).success();
}

/// The branch of history that a member was born on.
fn lineage(member: &Member) -> Value {
    let identity = fs::read(member.data_dir().join("member/identity.json")).unwrap();
    serde_json::from_slice::<Value>(&identity).unwrap()["lineage"].clone()
}

/// What both answer alike: revision, every key, leases with what they own, HashKV.
#[track_caller]
fn same(ours: &Look, theirs: &Look) {
    assert_eq!(ours.range(0).unwrap(), theirs.range(0).unwrap());
    assert_eq!(ours.leases(), theirs.leases());
    let (ours, theirs) = (ours.hash_kv(0), theirs.hash_kv(0));
    assert_eq!((ours.hash, ours.revision, ours.compact), (theirs.hash, theirs.revision, theirs.compact));
}

#[test]
fn what_etcdctl_saves_from_a_store_is_etcds_file_and_becomes_an_etcd() {
    let store = empty();
    let dir = TempDir::with_prefix_in("saved-", env!("CARGO_TARGET_TMPDIR")).unwrap();
    for round in 0..3_u8 {
        let file = dir.path().join(format!("{round}.db"));
        if round > 0 {
            fill(&store, round);
        }
        if round == 2 {
            compact(&store, revision(&store) - 200);
        }
        store.etcdctl(&["snapshot", "save", file.to_str().unwrap()]).success();
        let (ours, theirs) = (
            on_file(&["snapshot", "status"], &file),
            etcdutl(&["snapshot", "status", file.to_str().unwrap(), "-w", "json"]).success().json(),
        );
        for field in ["hash", "revision", "totalKey", "totalSize"] {
            assert_eq!(ours[field], theirs[field], "{field} in round {round}");
        }
        assert_eq!(ours["sha256"], "right");
        if round > 0 {
            assert_eq!(on_file(&["hashkv"], &file)["hash"], json!(look(&store).hash_kv(0).hash));
            let etcd = Etcd::options().restored_from(&file).start();
            same(&look(&store), &Look::at(&etcd, 0));
        }
    }
}

/// No scratch, no file: records go from the member into the repository. What becomes of them is checked with etcd.
#[test]
fn a_backup_of_a_store_takes_its_records_and_they_become_an_etcd_and_a_store() {
    let store = empty();
    fill(&store, 0);
    let site = Site::with(&format!("[cluster]\nname = \"prod\"\nendpoints = [{:?}]\n", store.endpoint()));
    let nowhere = site.path("there-is-no-scratch");
    let backup = |kind: &str| -> Value {
        let outcome = site.holdfast_in(&nowhere, &["backup", "--kind", kind]);
        assert_eq!(outcome.code(), 0, "{outcome}");
        outcome.json()
    };
    let full = backup("auto");
    let manifest = &full["manifest"];
    assert_eq!((&manifest["kind"], &manifest["fidelity"]), (&json!("full"), &json!("full")));
    assert_eq!(manifest["proofs"]["hash_at_source"]["verdict"], "equal");
    assert_eq!(manifest["proofs"]["digest_at_source"], "equal");
    assert_eq!(manifest["descriptor"]["member_lineage"], lineage(&store)["id"]);
    assert!(manifest["descriptor"].get("db_bytes").is_none_or(Value::is_null));
    fill(&store, 1);
    compact(&store, revision(&store) - 100);
    fill(&store, 2);
    let increment = backup("auto");
    let manifest = &increment["manifest"];
    assert_eq!(
        (&manifest["kind"], &manifest["counts"]["leases"]),
        (&json!("incremental"), &json!(3)),
        "{}",
        increment["kind_reason"]
    );
    assert_eq!(manifest["proofs"]["hash_at_source"]["verdict"], "equal");
    // Nothing happened: an increment that follows nothing.
    let again = backup("auto");
    assert_eq!(again["manifest"]["descriptor"]["revision"], manifest["descriptor"]["revision"]);
    for point in [&full, &increment, &again] {
        site.holdfast(&["verify", point["point"].as_str().unwrap(), "--level", "3"]).success();
    }

    let (file, report) = site.restore("latest", "restored.db");
    assert_eq!(report["hash_kv"], json!(look(&store).hash_kv(0).hash));
    let etcd = Etcd::options().restored_from(&file).start();
    same(&look(&store), &Look::at(&etcd, 0));

    let restored = made("m1", |data_dir| {
        let args = ["restore", "--data-dir", data_dir, "--name", "m1", "--bump", "none", "--yes"];
        let answer = site.holdfast(&args).success().json();
        let live_keys = look(&store).range(0).unwrap().1.len();
        assert_eq!((&answer["report"]["live_keys"], &answer["plan"]["bump"]), (&json!(live_keys), &json!(0)));
    });
    same(&look(&store), &look(&restored));
    assert_eq!(lineage(&restored)["parent"], lineage(&store)["id"]);
}

#[test]
fn real_files_become_stores_that_answer_as_etcd_did_and_go_back() {
    let site = Site::with("[cluster]\nname = \"prod\"\nendpoints = [\"http://127.0.0.1:1\"]\n");
    let file = site.path("source.db");
    fs::write(&file, fixture("k8s-etcd-3.6.db")).unwrap();
    let mut store = made("m1", |data_dir| {
        let run = || {
            let flags = ["--name", "m1", "--initial-cluster", "m1=http://127.0.0.1:2380", "--data-dir", data_dir];
            let run = Run::holdfast().args(&["snapshot", "restore", file.to_str().unwrap(), "-o", "json"]).args(&flags);
            run.env("HOLDFAST_SCRATCH", site.path("")).run()
        };
        let report = run().success().json()["report"].clone();
        assert_eq!((&report["source_revision"], &report["revision"]), (&json!(1677), &json!(1_001_677)));
        assert_eq!(report["hash_kv"], json!(2_801_650_115_u32));
        // A second time there is somebody there.
        assert_eq!(run().code(), 1);
    });
    let etcd = Etcd::options().restored_from(&file).start();
    let (ours, theirs) = (look(&store).range(0).unwrap(), Look::at(&etcd, 0).range(0).unwrap());
    assert_eq!((ours.0, theirs.0, ours.1.len()), (1_001_677, 1677, 700));
    assert_eq!(ours.1, theirs.1);
    assert_eq!(look(&store).leases(), Look::at(&etcd, 0).leases());

    // Back to etcd: its file, its tool, its server. Whoever watched is told that history begins anew.
    let back = site.path("back.db");
    store.etcdctl(&["snapshot", "save", back.to_str().unwrap()]).success();
    let home = Etcd::options().restored_from(&back).start();
    assert_eq!(Look::at(&home, 0).range(0).unwrap().1, theirs.1);
    assert_eq!(home.revision(), 1_001_677);
    store.etcdctl(&["put", "after", "all"]).success();
    assert_eq!((store.stop(), revision_again(&mut store)), (0, 1_001_678));
}

#[test]
fn what_cannot_become_a_member_is_refused_with_what_to_do() {
    let site = Site::with("[cluster]\nname = \"prod\"\nendpoints = [\"http://127.0.0.1:1\"]\n");
    let file: PathBuf = site.path("auth.db");
    fs::write(&file, fixture("etcd-3.5-auth.db")).unwrap();
    let target = site.path("m1");
    let run = |args: &[&str]| {
        let (file, target) = (file.to_str().unwrap(), target.to_str().unwrap());
        let base = ["restore", "--file", file, "--data-dir", target, "--yes", "-o", "json"];
        Run::holdfast()
            .args(&base)
            .args(args)
            .env("HOLDFAST_SCRATCH", site.path(""))
            .limit(Duration::from_secs(60))
            .run()
    };
    for (args, code, words) in [
        (
            &["--auth-off", "--initial-cluster", "a=http://h:1,b=http://h:2", "--name", "a"][..],
            2,
            "this version runs one",
        ),
        (&["--auth-off", "--initial-cluster", "a=http://h:1"], 2, "does not name this member"),
        (
            &[
                "--auth-off",
                "--initial-cluster",
                "a=http://h:1",
                "--name",
                "a",
                "--initial-advertise-peer-urls",
                "http://h:2",
            ],
            2,
            "--initial-advertise-peer-urls says",
        ),
    ] {
        let outcome = run(args);
        assert_eq!(outcome.code(), code, "{outcome}");
        assert!(outcome.to_string().contains(words), "{words}: {outcome}");
        assert!(!target.exists(), "nothing was changed: {args:?}");
    }
    let plan = run(&["--auth-off", "--dry-run"]).success().json();
    assert!(plan["plan"]["risks"].to_string().contains("everybody who reaches"), "{plan}");
    assert!(!target.exists());
    let store = made("default", |data_dir| {
        let args = ["restore", "--file", file.to_str().unwrap(), "--data-dir", data_dir, "--auth-off", "--yes"];
        Run::holdfast().args(&args).env("HOLDFAST_SCRATCH", site.path("")).run().success();
    });
    assert_eq!(look(&store).range(0).unwrap().1.len(), 41);
    assert_eq!(look(&store).leases()[0].2.len(), 3);
}
