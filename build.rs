//! Compiles the protobuf files under proto/ to Rust, without a protoc to install; see src/api.

use std::error::Error;

/// Everything else is imported by these.
const ROOTS: [&str; 7] = [
    "etcd/api/etcdserverpb/rpc.proto",
    "etcd/api/v3lockpb/v3lock.proto",
    "etcd/api/v3electionpb/v3election.proto",
    "holdfast/v1/records.proto",
    "holdfast/v1/service.proto",
    "holdfast/v1/command.proto",
    "holdfast/v1/log.proto",
];

/// Imports are relative to this folder, for protox here and for anybody's `protoc -I proto`.
const INCLUDE: &str = "proto";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed={INCLUDE}");
    let files = protox::compile(ROOTS, [INCLUDE])?;
    tonic_prost_build::configure()
        // Keys, values and snapshot blobs are shared slices of what was received: nothing is copied to hand them on.
        .bytes(".")
        .build_client(true)
        // Tests answer as a member does.
        .build_server(true)
        .emit_rerun_if_changed(false)
        .compile_fds(files)?;
    Ok(())
}
