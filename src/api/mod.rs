//! The messages and services of etcd's v3 API, and Holdfast's own, as Rust types; compiled from proto/ by build.rs.
//!
//! Invariants:
//! - No logic lives here. What a field means is said in the .proto files; what an answer means is said by `client` and
//!   `store::server`.
//! - Every `bytes` field is a `bytes::Bytes`: a slice of the buffer it arrived in. Whoever keeps one for long copies it,
//!   because a kept slice of 10 bytes keeps the whole buffer.
//! - The modules nest as the protobuf packages do, because generated code refers to its neighbours by `super::`.

pub use holdfast::v1 as records;
pub use prost::Message;

/// What all messages and services are, as an encoded `google.protobuf.FileDescriptorSet`: for who meets them by name.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

/// Users and roles, as etcd stores and sends them.
#[allow(missing_docs, clippy::all, reason = "generated; the .proto file is the document")]
pub mod authpb {
    include!(concat!(env!("OUT_DIR"), "/authpb.rs"));
}

/// etcd's services and their messages.
#[allow(missing_docs, clippy::all, reason = "generated; the .proto file is the document")]
pub mod etcdserverpb {
    include!(concat!(env!("OUT_DIR"), "/etcdserverpb.rs"));
}

/// Leases, as etcd stores them.
#[allow(missing_docs, clippy::all, reason = "generated; the .proto file is the document")]
pub mod leasepb {
    include!(concat!(env!("OUT_DIR"), "/leasepb.rs"));
}

/// Key values and events.
#[allow(missing_docs, clippy::all, reason = "generated; the .proto file is the document")]
pub mod mvccpb {
    include!(concat!(env!("OUT_DIR"), "/mvccpb.rs"));
}

/// Locks by name.
#[allow(missing_docs, clippy::all, reason = "generated; the .proto file is the document")]
pub mod v3lockpb {
    include!(concat!(env!("OUT_DIR"), "/v3lockpb.rs"));
}

/// Elections by name.
#[allow(missing_docs, clippy::all, reason = "generated; the .proto file is the document")]
pub mod v3electionpb {
    include!(concat!(env!("OUT_DIR"), "/v3electionpb.rs"));
}

/// Holdfast's own packages.
pub mod holdfast {
    /// The record vocabulary of restore points.
    #[allow(missing_docs, clippy::all, reason = "generated; the .proto file is the document")]
    pub mod v1 {
        include!(concat!(env!("OUT_DIR"), "/holdfast.v1.rs"));
    }
}
