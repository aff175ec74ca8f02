//! The policy files that are shipped, each checked as it is and each at work: its addresses and paths are replaced by those
//! of a real cluster of the kind it describes, and nothing else.

#![allow(clippy::unwrap_used, clippy::panic, clippy::disallowed_methods, reason = "tests fail by panicking")]

#[path = "../support/mod.rs"]
mod support;
mod units;

use age::secrecy::ExposeSecret;
use age::x25519::Identity;
use holdfast::base::clock::Clock;
use holdfast::policy::advice::warnings;
use holdfast::policy::{HashOnLeader, parse};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

use support::bucket::{Bucket, Dialect};
use support::etcd::{Etcd, Tls};
use support::run::{Run, holdfast};
use support::sink::Sink;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("policies")
}

fn text(name: &str) -> String {
    fs::read_to_string(folder().join(name)).unwrap()
}

/// The policy with the value of each named field replaced; every field must be there once.
fn adapted(name: &str, fields: &[(&str, String)]) -> String {
    let mut lines: Vec<String> = text(name).lines().map(str::to_owned).collect();
    for (field, value) in fields {
        let wanted = format!("{field} = ");
        let mut found: Vec<_> = lines.iter_mut().filter(|line| line.starts_with(&wanted)).collect();
        assert_eq!(found.len(), 1, "{name} has {field} once");
        *found[0] = format!("{wanted}{value}");
    }
    lines.join("\n")
}

/// Backs up by the policy `text`, verifies at level 3, restores; the manifest.
fn at_work(text: &str, dir: &TempDir, source: &Etcd) -> Value {
    let path = dir.path().join("policy.toml");
    fs::write(&path, text).unwrap();
    let policy = path.to_str().unwrap();
    holdfast(&["policy", "check", policy]).success();
    let made = holdfast(&["backup", "--policy", policy, "-o", "json"]).success().json();
    holdfast(&["verify", "latest", "--policy", policy, "--level", "3"]).success();
    let file = dir.path().join("restored.db");
    let target = ["--etcd-snapshot", file.to_str().unwrap(), "--yes", "-o", "json"];
    let restored = Run::holdfast().args(&["restore", "--policy", policy]).args(&target).run().success().json();
    let hash = source.hash_kv()[0];
    assert_eq!(restored["report"]["hash_kv"], hash.hash, "{restored}");
    assert_eq!(restored["report"]["revision"], hash.revision, "{restored}");
    let manifest = made["manifest"].clone();
    assert_eq!(manifest["proofs"]["hash_at_source"]["verdict"], "equal", "{manifest}");
    assert_eq!(manifest["objects"].as_array().unwrap().len(), 1, "a small cluster is one object");
    manifest
}

fn repository(dir: &TempDir) -> String {
    format!("\"file://{}/repository\"", dir.path().display())
}

#[test]
fn every_shipped_policy_is_right_as_it_is() {
    let mut names: Vec<_> = fs::read_dir(folder()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    let known =
        ["events.toml", "gfs-encrypted.toml", "hourly.toml", "kubernetes.toml", "local-dev.toml", "prod-mtls.toml"];
    assert_eq!(names, known, "a policy without a test here is not exercised");
    let now = Clock::System.now();
    for name in known {
        let policy = parse(&text(name), name).unwrap();
        let warned = warnings(&policy, now);
        assert!(warned.is_empty(), "{name}: a shipped policy keeps what it promises: {warned:?}");
    }
    let dev = parse(&text("local-dev.toml"), "local-dev.toml").unwrap();
    assert!(dev.cluster.identity.is_none() && dev.cluster.login.is_none());
    let prod = parse(&text("prod-mtls.toml"), "prod-mtls.toml").unwrap();
    assert!(prod.cluster.ca.is_some() && prod.cluster.identity.is_some() && prod.cluster.login.is_none());
    assert_eq!((prod.cluster.endpoints.len(), prod.cluster.hash_on_leader), (3, HashOnLeader::Warn));
}

#[test]
fn what_a_shipped_policy_offers_in_comments_is_right_too() {
    let offered =
        text("prod-mtls.toml").replace("# user = ", "user = ").replace("# password_file = ", "password_file = ");
    let login = parse(&offered, "prod-mtls.toml").unwrap().cluster.login.unwrap();
    assert_eq!(login.user, "root");
}

#[test]
fn local_dev_backs_up_an_etcd_on_this_machine() {
    let source = Etcd::start();
    source.etcdctl(&["put", "greeting", "hello"]).success();
    let dir = tempfile::tempdir().unwrap();
    let fields = [("endpoints", format!("{:?}", source.endpoints())), ("url", repository(&dir))];
    let manifest = at_work(&adapted("local-dev.toml", &fields), &dir, &source);
    assert_eq!(manifest["cluster"], "dev");
    assert_eq!(manifest["counts"]["live_keys"], 1);
}

#[test]
fn prod_mtls_backs_up_a_follower_of_three_members_with_certificates() {
    let source = Etcd::options().members(3).tls(Tls::Mutual).start();
    source.etcdctl(&["put", "/registry/pods/default/web", "{}"]).success();
    let certs = source.certs().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let fields = [
        ("endpoints", format!("{:?}", source.endpoints())),
        ("ca", format!("{:?}", certs.ca)),
        ("cert", format!("{:?}", certs.client_cert)),
        ("key", format!("{:?}", certs.client_key)),
        ("url", repository(&dir)),
    ];
    let manifest = at_work(&adapted("prod-mtls.toml", &fields), &dir, &source);
    assert_eq!((&manifest["cluster"], &manifest["counts"]["members"]), (&"prod".into(), &3.into()));
    let reason = manifest["source"]["chosen_because"].as_str().unwrap();
    assert!(reason.contains("does not lead"), "{reason}");
}

/// The folder of a unit's credentials: certificates, and keys that the harness's bucket takes.
fn credentials(source: &Etcd) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let keys = "[default]\naws_access_key_id = test\naws_secret_access_key = test\n";
    fs::write(dir.path().join("bucket"), keys).unwrap();
    let certs = source.certs().unwrap();
    for (name, from) in [("ca.crt", &certs.ca), ("client.crt", &certs.client_cert), ("client.key", &certs.client_key)] {
        fs::copy(from, dir.path().join(name)).unwrap();
    }
    dir
}

/// A policy for a bucket, at work on the harness's own: its keys and its authority come as credentials of a unit do.
#[test]
fn hourly_backs_up_into_a_bucket_and_tells_of_it() {
    let source = Etcd::options().members(3).tls(Tls::Mutual).start();
    source.etcdctl(&["put", "a", "1"]).success();
    let dir = credentials(&source);
    let bucket = Bucket::start(Dialect::S3, "my-cluster-backups");
    let sink = Sink::start(|_, _| 200);
    let text = adapted("hourly.toml", &[("endpoints", format!("{:?}", source.endpoints()))]);
    let endpoint = format!("[repository]\nendpoint = \"http://{}\"", bucket.address());
    let text = text
        .replace("[repository]", &endpoint)
        .replace("# [hooks]", "[hooks]")
        .replace("# ping_url = \"https://hc-ping.com/your-id\"", &format!("ping_url = {:?}", sink.url("/ping/id")))
        .replace(
            "# webhook = \"https://chat.example.com/hooks/your-token\"",
            &format!("webhook = {:?}", sink.url("/t")),
        );
    let path = dir.path().join("hourly.toml");
    fs::write(&path, text).unwrap();
    let run = |args: &[&str]| {
        let run = Run::holdfast().args(args).args(&["--policy", path.to_str().unwrap()]);
        run.env("CREDENTIALS_DIRECTORY", dir.path()).run()
    };
    let made = run(&["backup", "-o", "json"]).success().json();
    assert_eq!(made["manifest"]["proofs"]["hash_at_source"]["verdict"], "equal", "{made}");
    run(&["verify", "latest"]).success();
    let asked: Vec<String> = sink.take().into_iter().map(|request| request.target).collect();
    assert_eq!(asked, ["/t", "/ping/id"], "the backup told, the verification had nothing to tell");
}

#[test]
fn events_backs_up_a_lone_leader_without_asking_it_for_a_hash() {
    let source = Etcd::options().tls(Tls::Mutual).start();
    source.etcdctl(&["put", "/registry/events/default/x", "{}"]).success();
    let dir = credentials(&source);
    let fields = [("endpoints", format!("{:?}", source.endpoints())), ("url", repository(&dir))];
    let path = dir.path().join("events.toml");
    fs::write(&path, adapted("events.toml", &fields)).unwrap();
    let run = Run::holdfast().args(&["backup", "-o", "json", "--policy", path.to_str().unwrap()]);
    let made = run.env("CREDENTIALS_DIRECTORY", dir.path()).run().success().json();
    assert_eq!(made["manifest"]["proofs"]["hash_at_source"]["verdict"], "not_compared", "{made}");
    assert_eq!(made["manifest"]["kind"], "full", "{made}");
}

/// One host writes, verifies and prunes what it cannot read; whoever has one of the two identities reads it back.
#[test]
fn gfs_encrypted_backs_up_for_two_keys_that_are_elsewhere() {
    let source = Etcd::options().members(3).tls(Tls::Mutual).start();
    source.etcdctl(&["put", "a", "1"]).success();
    let (dir, elsewhere) = (credentials(&source), tempfile::tempdir().unwrap());
    let bucket = Bucket::start(Dialect::S3, "my-cluster-backups");
    let mut text = adapted("gfs-encrypted.toml", &[("endpoints", format!("{:?}", source.endpoints()))]);
    text = text.replace("[repository]", &format!("[repository]\nendpoint = \"http://{}\"", bucket.address()));
    let examples: Vec<String> = text.lines().filter(|line| line.starts_with("  \"age1")).map(str::to_owned).collect();
    let mut identities = vec![];
    for (n, example) in examples.iter().enumerate() {
        let key = Identity::generate();
        text = text.replace(example, &format!("  \"{}\",", key.to_public()));
        let file = elsewhere.path().join(format!("{n}.key"));
        fs::write(&file, key.to_string().expose_secret()).unwrap();
        identities.push(file);
    }
    assert_eq!(identities.len(), 2);
    let path = dir.path().join("gfs.toml");
    let run = |args: &[&str]| {
        let run = Run::holdfast().args(args).args(&["--policy", path.to_str().unwrap(), "-o", "json"]);
        run.env("CREDENTIALS_DIRECTORY", dir.path()).run()
    };
    fs::write(&path, &text).unwrap();
    let full = run(&["backup"]).success().json();
    assert_eq!(full["manifest"]["recipients"].as_array().unwrap().len(), 2, "{full}");
    source.etcdctl(&["put", "b", "2"]).success();
    let made = run(&["backup", "--kind", "incremental"]).success().json();
    assert_eq!((&made["manifest"]["kind"], &made["new_objects"]), (&"incremental".into(), &1.into()), "{made}");
    // What the shipped units run.
    assert_eq!(run(&["verify", "latest"]).success().json()["level"], 2);
    let pruned = run(&["prune", "--yes"]).success().json();
    assert_eq!(run(&["list"]).success().json()["points"].as_array().unwrap().len(), 2, "{pruned}");

    let file = elsewhere.path().join("restored.db");
    let restore = ["restore", "--etcd-snapshot", file.to_str().unwrap(), "--yes"];
    let denied = run(&restore).exits(1);
    assert!(denied.stderr.contains("--identity FILE") && !file.exists(), "{denied}");
    let identity = |n: usize| ["--identity", identities[n].to_str().unwrap()];
    run(&[&["verify", "latest", "--level", "3"][..], &identity(0)].concat()).success();
    let restored = run(&[&restore[..], &identity(1)].concat()).success().json();
    assert_eq!(restored["report"]["hash_kv"], source.hash_kv()[0].hash, "{restored}");
    // The line that the comments offer.
    fs::write(&path, text.replace("# identity = ", "identity = ")).unwrap();
    fs::copy(&identities[0], dir.path().join("age.key")).unwrap();
    run(&["verify", "latest", "--level", "3"]).success();
}
