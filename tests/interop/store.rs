//! The store and real etcd: a file that it streams is etcd's file, a backup of it is etcd's state, and the way back.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use holdfast::api::etcdserverpb as pb;
use holdfast::api::etcdserverpb::kv_client::KvClient;
use holdfast::api::etcdserverpb::lease_client::LeaseClient;
use holdfast::store::node::{Handle, Member};
use holdfast::store::options::Tuning;
use holdfast::store::server::routes;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tonic::transport::Channel;

use crate::fixtures::fixture;
use crate::look::Look;
use crate::site::{Site, etcdutl, on_file};
use crate::support::etcd::Etcd;
use crate::support::peers;
use crate::support::run::{Outcome, Run};

/// A member of our own in this process.
struct Served {
    endpoint: String,
    runtime: Runtime,
    _dir: Option<TempDir>,
}

impl Served {
    /// On an empty state.
    fn new() -> Served {
        let dir = TempDir::with_prefix_in("store-", env!("CARGO_TARGET_TMPDIR")).unwrap();
        let served = Served::on(dir.path());
        Served { _dir: Some(dir), ..served }
    }

    /// On the state in a folder.
    fn on(folder: &Path) -> Served {
        let runtime = Runtime::new().unwrap();
        let member = Member {
            cluster_id: 0x1234,
            member_id: 0x5678,
            name: "m1".to_owned(),
            peer_urls: vec!["http://127.0.0.1:2380".to_owned()],
            client_urls: vec!["http://127.0.0.1:2379".to_owned()],
        };
        let endpoint = runtime.block_on(async {
            let handle = Handle::start(folder, member, Tuning::default()).unwrap();
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let endpoint = format!("http://{}", listener.local_addr().unwrap());
            let routes = routes(&handle).await;
            tokio::spawn(async move { axum::serve(listener, routes).await.unwrap() });
            endpoint
        });
        Served { endpoint, runtime, _dir: None }
    }

    fn etcdctl(&self, args: &[&str]) -> Outcome {
        let endpoint = format!("--endpoints={}", self.endpoint);
        Run::new(peers::program(peers::ETCD_3_5, "etcdctl")).env("ETCDCTL_API", "3").args(&[endpoint]).args(args).run()
    }

    fn look(&self) -> Look {
        Look::at_endpoint(&self.endpoint)
    }

    /// A policy's `[cluster]` table.
    fn table(&self) -> String {
        format!("[cluster]\nname = \"prod\"\nendpoints = [{:?}]\n", self.endpoint)
    }

    /// Writes, overwrites, deletes, leases; from `round` on other ones.
    fn fill(&self, round: usize) {
        self.runtime.block_on(async {
            let channel = Channel::from_shared(self.endpoint.clone()).unwrap().connect().await.unwrap();
            let (mut kv, mut lease) = (KvClient::new(channel.clone()), LeaseClient::new(channel));
            let id = 7000 + i64::try_from(round).unwrap();
            lease.lease_grant(pb::LeaseGrantRequest { ttl: 3600, id }).await.unwrap();
            for n in 0..300 {
                let key = format!("/registry/pods/{}", n % 120);
                let value = vec![b'a' + u8::try_from(round).unwrap(); 10 + n * n % 20_000];
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

    fn compact(&self, revision: i64) {
        self.etcdctl(&["compaction", &revision.to_string()]).success();
    }

    fn revision(&self) -> i64 {
        self.look().range(0).unwrap().0
    }
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
    let store = Served::new();
    let dir = TempDir::with_prefix_in("saved-", env!("CARGO_TARGET_TMPDIR")).unwrap();
    for round in 0..3 {
        let file = dir.path().join(format!("{round}.db"));
        if round > 0 {
            store.fill(round);
        }
        if round == 2 {
            store.compact(store.revision() - 200);
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
            assert_eq!(on_file(&["hashkv"], &file)["hash"], json!(store.look().hash_kv(0).hash));
            let etcd = Etcd::options().restored_from(&file).start();
            same(&store.look(), &Look::at(&etcd, 0));
        }
    }
}

/// No scratch, no file: records go from the member into the repository. What becomes of them is checked with etcd.
#[test]
fn a_backup_of_a_store_takes_its_records_and_they_become_an_etcd_and_a_store() {
    let store = Served::new();
    store.fill(0);
    let site = Site::with(&store.table());
    let nowhere = site.path("there-is-no-scratch");
    let backup = |kind: &str| -> Value {
        let outcome = site.holdfast_in(&nowhere, &["backup", "--kind", kind]);
        assert_eq!(outcome.code(), 0, "{outcome}");
        outcome.json()
    };
    let full = backup("auto");
    let manifest = &full["manifest"];
    assert_eq!((&manifest["kind"], &manifest["fidelity"]), (&json!("full"), &json!("full")), "{manifest}");
    assert_eq!(manifest["proofs"]["hash_at_source"]["verdict"], "equal");
    assert!(manifest["descriptor"].get("db_bytes").is_none_or(Value::is_null), "{manifest}");
    store.fill(1);
    store.compact(store.revision() - 100);
    store.fill(2);
    let increment = backup("auto");
    let manifest = &increment["manifest"];
    assert_eq!((&manifest["kind"], &manifest["counts"]["leases"]), (&json!("incremental"), &json!(3)), "{manifest}");
    assert_eq!(manifest["proofs"]["hash_at_source"]["verdict"], "equal");
    // Nothing happened: an increment that follows nothing.
    let again = backup("auto");
    assert_eq!(again["manifest"]["descriptor"]["revision"], manifest["descriptor"]["revision"]);
    for point in [&full, &increment, &again] {
        site.holdfast(&["verify", point["point"].as_str().unwrap(), "--level", "3"]).success();
    }

    let (file, report) = site.restore("latest", "restored.db");
    assert_eq!(report["hash_kv"], json!(store.look().hash_kv(0).hash));
    let etcd = Etcd::options().restored_from(&file).start();
    same(&store.look(), &Look::at(&etcd, 0));

    let (data_dir, plan, report) = site.restore_member(&["--bump", "none"], "m1");
    assert_eq!((&report["live_keys"], &plan["bump"]), (&json!(store.look().range(0).unwrap().1.len()), &json!(0)));
    let restored = Served::on(&data_dir.join("member/snap"));
    same(&store.look(), &restored.look());
}

#[test]
fn real_files_become_stores_that_answer_as_etcd_did_and_go_back() {
    let site = Site::with("[cluster]\nname = \"prod\"\nendpoints = [\"http://127.0.0.1:1\"]\n");
    let file = site.path("source.db");
    fs::write(&file, fixture("k8s-etcd-3.6.db")).unwrap();
    let data_dir = site.path("m1");
    let run = |args: &[&str]| {
        let mut all = vec!["snapshot", "restore", file.to_str().unwrap(), "--data-dir", data_dir.to_str().unwrap()];
        all.extend(args);
        Run::holdfast().args(&all).args(&["-o", "json"]).env("HOLDFAST_SCRATCH", site.path("")).run()
    };
    let flags = ["--name", "m1", "--initial-cluster", "m1=http://127.0.0.1:2380", "--initial-cluster-token", "t"];
    let report = run(&flags).success().json()["report"].clone();
    assert_eq!((&report["source_revision"], &report["revision"]), (&json!(1677), &json!(1_001_677)));
    assert_eq!(report["hash_kv"], json!(2_801_650_115_u32));
    // A second time there is somebody there.
    assert_eq!(run(&flags).code(), 1);

    let store = Served::on(&data_dir.join("member/snap"));
    let etcd = Etcd::options().restored_from(&file).start();
    let (ours, theirs) = (store.look().range(0).unwrap(), Look::at(&etcd, 0).range(0).unwrap());
    assert_eq!((ours.0, theirs.0, ours.1.len()), (1_001_677, 1677, 700));
    assert_eq!(ours.1, theirs.1);
    assert_eq!(store.look().leases(), Look::at(&etcd, 0).leases());

    // Back to etcd: its file, its tool, its server. Whoever watched is told that history begins anew.
    let back = site.path("back.db");
    store.etcdctl(&["snapshot", "save", back.to_str().unwrap()]).success();
    let home = Etcd::options().restored_from(&back).start();
    assert_eq!(Look::at(&home, 0).range(0).unwrap().1, theirs.1);
    assert_eq!(home.revision(), 1_001_677);
    store.etcdctl(&["put", "after", "all"]).success();
    assert_eq!(store.revision(), 1_001_678);
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
        (&[][..], 2, "authentication is on"),
        (&["--auth-off", "--initial-cluster", "a=http://h:1,b=http://h:2", "--name", "a"], 2, "this version runs one"),
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
    run(&["--auth-off"]).success();
    let store = Served::on(&target.join("member/snap"));
    assert_eq!(store.look().range(0).unwrap().1.len(), 41);
    assert_eq!(store.look().leases()[0].2.len(), 3);
}
