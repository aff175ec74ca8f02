//! Tests against Debian's packages: etcd 3.4 as a source of backups, `zstd` and `protoc` as readers of the formats, systemd
//! and `promtool` as readers of what is shipped for them, OpenSSL as maker of keys and judge of signatures.
//!
//! `make test-system` fetches them and names their folders in the environment. Without it every test here fails.
//!
//! A state that holds a bit of everything goes from etcd 3.4 through a restore point into etcd 3.4 and 3.5; and the stored
//! point is read back by `sha256sum`, `zstd` and `protoc` alone, as docs/formats/records.md says.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "tests fail by panicking, and read the environment"
)]

#[path = "../clients/ctl.rs"]
mod ctl;
#[path = "../support/mod.rs"]
mod support;

mod commands;
mod disk;
mod signing;
mod units;

use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

use support::etcd::Etcd;
use support::load::{self, LoadOptions};
use support::peers;
use support::run::{Run, holdfast};

/// Writes of every kind before the backup.
const WRITES: u64 = 300;

/// A program in the folder that the variable `folder` names.
fn program(folder: &str, name: &str) -> PathBuf {
    let value = std::env::var_os(folder).unwrap_or_else(|| panic!("{folder} is not set: run `make test-system`"));
    let path = PathBuf::from(value).join(name);
    assert!(path.is_file(), "{} is missing: run `make test-system`", path.display());
    path
}

#[test]
fn the_peers_are_the_ones_that_were_asked_for() {
    let version = |program: PathBuf, flag: &str| Run::new(program).args(&[flag]).run().success().stdout();
    let etcd = version(program("HOLDFAST_SYSTEM_ETCD", "etcd"), "--version");
    assert!(etcd.starts_with("etcd Version: 3.4."), "{etcd}");
    assert_eq!(program("HOLDFAST_SYSTEM_ETCD", "etcdctl"), peers::program(peers::ETCD_3_4, "etcdctl"));
    let zstd = version(program("HOLDFAST_SYSTEM_TOOLS", "zstd"), "--version");
    assert!(zstd.contains("Zstandard") || zstd.contains("zstd"), "{zstd}");
    let protoc = version(program("HOLDFAST_SYSTEM_TOOLS", "protoc"), "--version");
    assert!(protoc.starts_with("libprotoc"), "{protoc}");
}

#[test]
fn etcd_3_4_serves_saves_and_restores() {
    program("HOLDFAST_SYSTEM_ETCD", "etcd");
    let source = Etcd::options().peer(peers::ETCD_3_4).auth("root", "secret").start();
    source.etcdctl(&["put", "a", "1"]).success();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("snapshot.db");
    source.etcdctl(&["snapshot", "save", file.to_str().unwrap()]).success();
    let options = Etcd::options().peer(peers::ETCD_3_4).auth("root", "secret");
    let restored = options.restored_from(&file).start();
    assert_eq!(restored.state(), source.state());
    assert_eq!(restored.hash_kv(), source.hash_kv());
}

/// An etcd 3.4 with users, roles, leases, deletions and a compaction, and one restore point of it.
struct Protected {
    source: Etcd,
    dir: TempDir,
    policy: String,
    manifest: Value,
}

impl Protected {
    fn start() -> Protected {
        program("HOLDFAST_SYSTEM_ETCD", "etcd");
        let source = Etcd::options().peer(peers::ETCD_3_4).auth("root", "secret").start();
        let written = load::write(&source, LoadOptions { seed: 34, ..LoadOptions::default() }, WRITES);
        assert_eq!(written.errors, 0, "{:?}", written.first_error);
        for kind in ["put", "update", "delete", "txn", "lease", "revoke", "compact", "auth"] {
            assert!(written.kinds.get(kind).is_some_and(|n| *n > 0), "{kind}: {:?}", written.kinds);
        }
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("policy.toml");
        let url = format!("file://{}/repository", dir.path().display());
        let table = source.policy_table("old");
        fs::write(&path, format!("{table}\n[repository]\nurl = {url:?}\nencryption = \"none\"\n")).unwrap();
        let policy = path.to_str().unwrap().to_owned();
        let made = holdfast(&["backup", "--policy", &policy, "-o", "json"]).success().json();
        Protected { source, dir, policy, manifest: made["manifest"].clone() }
    }

    fn repository(&self) -> PathBuf {
        self.dir.path().join("repository")
    }

    fn objects(&self) -> Vec<String> {
        let objects = self.manifest["objects"].as_array().unwrap();
        objects.iter().map(|object| object["name"].as_str().unwrap().to_owned()).collect()
    }

    /// All records of the point, unpacked by Debian's zstd after coreutils checked every object.
    fn records(&self) -> Vec<u8> {
        let sums: String = self.manifest["objects"]
            .as_array()
            .unwrap()
            .iter()
            .map(|object| format!("{}  {}\n", object["sha256"].as_str().unwrap(), object["name"].as_str().unwrap()))
            .collect();
        Run::new("sha256sum").args(&["-c", "--quiet", "-"]).dir(self.repository()).stdin(sums).run().success();
        let zstd = Run::new(program("HOLDFAST_SYSTEM_TOOLS", "zstd")).args(&["-dcq"]);
        zstd.args(&self.objects()).dir(self.repository()).run().success().stdout_bytes
    }
}

fn count(manifest: &Value, what: &str) -> u64 {
    manifest["counts"][what].as_u64().unwrap_or_else(|| panic!("{what}: {manifest}"))
}

#[test]
fn a_point_of_etcd_3_4_becomes_an_etcd_3_4_and_an_etcd_3_5() {
    let Protected { source, dir, policy, manifest } = Protected::start();
    let version = manifest["source"]["version"].as_str().unwrap();
    assert!(version.starts_with("3.4."), "{version}");
    let hash = source.hash_kv()[0];
    let proofs = &manifest["proofs"];
    assert_eq!(proofs["hash_at_source"]["verdict"], "equal", "{manifest}");
    assert_eq!(proofs["hash_kv"]["hash"], hash.hash);
    assert_eq!(proofs["hash_kv"]["compact_revision"], hash.compact);
    assert_eq!(
        (&manifest["descriptor"]["revision"], &manifest["descriptor"]["storage_version"]),
        (&hash.revision.into(), &"".into())
    );
    for what in ["leases", "users", "roles", "tombstones", "live_keys", "members"] {
        assert!(count(&manifest, what) > 0, "{what}: {manifest}");
    }
    assert_eq!(manifest["objects"].as_array().unwrap().len(), 1, "a small state is one object");
    holdfast(&["verify", "latest", "--policy", &policy, "--level", "3"]).success();

    let file = dir.path().join("restored.db");
    let target = ["--etcd-snapshot", file.to_str().unwrap(), "--yes", "-o", "json"];
    let report = Run::holdfast().args(&["restore", "--policy", &policy]).args(&target).run().success().json();
    assert_eq!(report["report"]["hash_kv"], hash.hash);
    assert_eq!(report["report"]["state_digest"], proofs["state_digest"]);
    let state = source.state();
    for peer in [peers::ETCD_3_4, peers::ETCD_3_5] {
        let restored = Etcd::options().peer(peer).auth("root", "secret").restored_from(&file).start();
        assert_eq!(restored.state(), state, "{peer}");
        assert_eq!(restored.hash_kv(), [hash], "{peer}");
        // A member that took a write has taken the file for its own.
        restored.etcdctl(&["put", "after", "restore"]).success();
        assert_eq!(restored.revision(), hash.revision + 1, "{peer}");
    }
}

#[test]
fn a_point_is_read_with_sha256sum_zstd_and_protoc_alone() {
    let protected = Protected::start();
    let manifest = &protected.manifest;
    let records = protected.records();
    assert_eq!(records.len() as u64, count(manifest, "raw_bytes"));
    let text = protoc_all(protected.dir.path(), &records);
    // Lines of the outermost message that open one kind of fact.
    let facts = |kind: &str| text.lines().filter(|line| *line == format!("  {kind} {{")).count() as u64;
    let opened = text.lines().filter(|line| *line == "record {").count() as u64;
    assert_eq!(opened, count(manifest, "records"));
    for (kind, what) in [
        ("revision", "revisions"),
        ("lease", "leases"),
        ("user", "users"),
        ("role", "roles"),
        ("member", "members"),
        ("extra", "extras"),
    ] {
        assert_eq!(facts(kind), count(manifest, what), "{kind}");
    }
    assert_eq!((facts("descriptor"), facts("auth_config"), facts("end")), (1, 1, 1));
    let tombstones = text.lines().filter(|line| *line == "    tombstone: true").count() as u64;
    assert_eq!(tombstones, count(manifest, "tombstones"));
    assert!(text.contains(&format!("    revision: {}\n", manifest["descriptor"]["revision"])));
    let (end, before) = (count(manifest, "records") - 1, text.rsplit_once("  end {").unwrap().1);
    assert!(before.contains(&format!("records: {end}\n")), "{before}");
}

/// All records as text, by one run of protoc: a stream of delimited messages becomes one message with a repeated field
/// when the field's tag is put in front of every length.
fn protoc_all(dir: &Path, records: &[u8]) -> String {
    let proto = Path::new(env!("CARGO_MANIFEST_DIR")).join("proto");
    let wrapper = "syntax = \"proto3\"; import \"holdfast/v1/records.proto\"; message All { repeated holdfast.v1.Record record = 1; }";
    fs::write(dir.join("all.proto"), wrapper).unwrap();
    let mut all = Vec::with_capacity(records.len() + records.len() / 16);
    let mut rest = records;
    while !rest.is_empty() {
        let (size, after) = varint(rest);
        let end = rest.len() - after.len() + size;
        all.push(1 << 3 | 2);
        all.extend_from_slice(&rest[..end]);
        rest = &rest[end..];
    }
    let flags = ["--decode=All".to_owned(), format!("-I{}", dir.display()), format!("-I{}", proto.display())];
    let protoc = Run::new(program("HOLDFAST_SYSTEM_TOOLS", "protoc")).args(&flags).args(&["all.proto"]);
    protoc.stdin(all).run().success().stdout()
}

/// The varint at the front of `bytes`, and what follows it.
fn varint(bytes: &[u8]) -> (usize, &[u8]) {
    let len = 1 + bytes.iter().take_while(|byte| **byte & 0x80 != 0).count();
    let value = bytes[..len].iter().rev().fold(0, |value, byte| value << 7 | usize::from(byte & 0x7f));
    (value, &bytes[len..])
}
