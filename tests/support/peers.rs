//! Where the programs are that Holdfast is compared with. A missing one is a failure that says how to get it.

use std::path::PathBuf;

/// etcd 3.5.1 with etcdctl and etcdutl, from `make peers`.
pub const ETCD_3_5: &str = "etcd-3.5";
/// Debian's etcd 3.4 with etcdctl, from `make test-system`.
pub const ETCD_3_4: &str = "etcd-3.4";

/// The folder that tests/support/peers.py fills.
pub fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_TARGET_TMPDIR")).parent().expect("target/tmp").join("peers")
}

/// A program of a peer: `program("etcd-3.5", "etcdctl")`.
pub fn program(peer: &str, name: &str) -> PathBuf {
    found(folder().join(peer).join(name))
}

/// A tool: `protoc` or `zstd`.
pub fn tool(name: &str) -> PathBuf {
    program("bin", name)
}

/// A folder of a peer: `moto`.
pub fn library(name: &str) -> PathBuf {
    let path = folder().join(name);
    assert!(path.is_dir(), "{} is missing: run `make peers` first", path.display());
    path
}

fn found(path: PathBuf) -> PathBuf {
    let get = if path.to_string_lossy().contains(ETCD_3_4) { "make test-system" } else { "make peers" };
    assert!(path.is_file(), "{} is missing: run `{get}` first", path.display());
    path
}
