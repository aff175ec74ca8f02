//! Tests against Debian's packages: etcd 3.4 as a source of backups, `zstd` and `protoc` as readers of the formats.
//!
//! `make test-system` fetches them and names their folders in the environment. Without it every test here fails.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "tests fail by panicking, and read the environment"
)]

#[path = "../support/mod.rs"]
mod support;

mod disk;

use std::path::PathBuf;
use support::etcd::Etcd;
use support::peers;
use support::run::Run;

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
