//! The server: etcd's v3 services over a running member.
//!
//! A request comes in as protobuf and leaves as protobuf; between the two a service does four things and nothing else. It
//! checks whether the request can be meant (`machine::check`). It asks the member: a change is **proposed**, a read takes a
//! **state** and answers from it, at once when stale is good enough and after a round with the leader when not. It turns
//! what came of it into what etcd would say: `status` has every reason for a refusal with its code and its words. And it
//! fills in who answered (`convert`): the machine knows the revision alone.
//!
//! ```text
//!   gRPC ──> gate ──> kv, lease, watch, cluster, maintenance, ... ──> node::Handle
//!            (metadata, words of          │
//!             what tonic refuses)         └── status, convert
//! ```
//!
//! Invariants:
//! - A code or a text that clients match stands in `status` and nowhere else.
//! - A request that touches few keys is answered where it arrived; one that may touch many is answered on a thread for
//!   blocking work, because a worker of the runtime that counts a million keys keeps everybody else waiting.
//! - What a client sends is bounded before it is decoded, and what a stream holds for a client that does not read is
//!   bounded in number and in time.
//! - Nothing here is state: a server can be thrown away at any moment.

pub mod auth;
pub mod calls;
pub mod cluster;
pub mod convert;
pub mod election;
mod entry;
pub mod export;
mod follow;
mod frames;
pub mod gate;
mod gateway;
pub mod hash;
pub mod health;
pub mod http;
pub mod identity;
mod inside;
pub mod kv;
pub mod lease;
mod lenient;
pub mod listen;
pub mod lock;
pub mod maintenance;
pub mod metrics;
mod origins;
mod pace;
mod peer;
mod pings;
mod queue;
pub mod range_stream;
pub mod records;
mod rejections;
pub mod snapshot;
mod socket;
pub mod status;
mod unsent;
pub mod version;
mod views;
pub mod watch;

#[cfg(test)]
mod tests;

use tonic::service::Routes;
use tonic_health::pb::health_server::HealthServer;

use crate::api::etcdserverpb::auth_server::AuthServer;
use crate::api::etcdserverpb::cluster_server::ClusterServer;
use crate::api::etcdserverpb::kv_server::KvServer;
use crate::api::etcdserverpb::lease_server::LeaseServer;
use crate::api::etcdserverpb::maintenance_server::MaintenanceServer;
use crate::api::holdfast::v1::records_server::RecordsServer;
use crate::api::v3electionpb::election_server::ElectionServer;
use crate::api::v3lockpb::lock_server::LockServer;
use crate::store::node::Handle;
use crate::store::server::export::Exports;

/// Beyond the largest request that is agreed on, a message may have so many bytes more. etcd's figure.
const ENVELOPE_BYTES: usize = 512 << 10;
/// The longest message that is sent; etcd's figure is the longest that gRPC can send.
const SEND_BYTES_MAX: usize = i32::MAX as usize;

/// The services of a member, ready to be served.
pub async fn routes(handle: &Handle) -> axum::Router {
    joined(handle, watch::Service::new(handle)).await
}

/// The same with this service for watches.
pub async fn joined(handle: &Handle, watches: watch::Service) -> axum::Router {
    let receive_bytes_max = handle.tuning().request_bytes_max + ENVELOPE_BYTES;
    let exports = Exports::new(handle);
    macro_rules! limited {
        ($server:ident, $service:expr) => {
            $server::new($service)
                .max_decoding_message_size(receive_bytes_max)
                .max_encoding_message_size(SEND_BYTES_MAX)
        };
    }
    let routes = Routes::new(limited!(KvServer, kv::Service::new(handle)))
        .add_service(limited!(LeaseServer, lease::Service::new(handle)))
        .add_service(watches)
        .add_service(limited!(ClusterServer, cluster::Service::new(handle)))
        .add_service(limited!(AuthServer, auth::Service::new(handle)))
        .add_service(limited!(MaintenanceServer, maintenance::Service::new(handle, &exports)))
        .add_service(limited!(RecordsServer, records::Service::new(&exports)))
        .add_service(limited!(HealthServer, health::Service));
    let services = routes.prepare().into_axum_router().layer(gate::Gate::new(handle));
    // Clients of the others, as the client is that asks them.
    let queues = Routes::new(limited!(LockServer, lock::Service::new(handle, &services)))
        .add_service(limited!(ElectionServer, election::Service::new(handle, &services)));
    let queues = queues.prepare().into_axum_router().reset_fallback().layer(gate::Gate::new(handle));
    services.merge(queues)
}
