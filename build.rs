//! Compiles the protobuf files under proto/ to Rust, without a protoc to install; see src/api.

use std::error::Error;
use std::path::PathBuf;

use protox::prost::Message as _;

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

/// What the messages are, for who reads them without their types; beside the code that is made of them.
const DESCRIPTORS: &str = "descriptors.bin";

/// Imports are relative to this folder, for protox here and for anybody's `protoc -I proto`.
const INCLUDE: &str = "proto";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed={INCLUDE}");
    let files = protox::compile(ROOTS, [INCLUDE])?;
    let mut described = files.clone();
    described.file.iter_mut().for_each(|file| file.source_code_info = None);
    write(&described.encode_to_vec())?;
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

#[expect(
    clippy::disallowed_methods,
    reason = "what a build leaves is made again, and the environment is how it is told where"
)]
fn write(descriptors: &[u8]) -> Result<(), Box<dyn Error>> {
    let folder = std::env::var_os("OUT_DIR").ok_or("a build has a folder to write to")?;
    Ok(std::fs::write(PathBuf::from(folder).join(DESCRIPTORS), descriptors)?)
}
