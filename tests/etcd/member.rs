//! A member to ask, whoever runs it.

use std::time::Duration;

use holdfast::api::etcdserverpb as pb;
use holdfast::api::etcdserverpb::cluster_client::ClusterClient;
use holdfast::api::etcdserverpb::kv_client::KvClient;
use holdfast::api::etcdserverpb::lease_client::LeaseClient;
use holdfast::api::etcdserverpb::maintenance_client::MaintenanceClient;
use tonic::transport::{Channel, Endpoint};

const MESSAGE_BYTES_MAX: usize = 64 << 20;
const CONNECT_LIMIT: Duration = Duration::from_secs(30);

/// A member's services.
#[derive(Clone, Debug)]
pub(crate) struct Member {
    pub(crate) kv: KvClient<Channel>,
    pub(crate) lease: LeaseClient<Channel>,
    pub(crate) cluster: ClusterClient<Channel>,
    pub(crate) maintenance: MaintenanceClient<Channel>,
    /// Its id, which is its own.
    pub(crate) id: u64,
}

impl Member {
    /// The member at an address.
    pub(crate) async fn connect(endpoint: &str) -> Member {
        let endpoint = Endpoint::from_shared(endpoint.to_owned()).unwrap().connect_timeout(CONNECT_LIMIT);
        let channel = endpoint.connect().await.expect("the member listens");
        let mut maintenance = MaintenanceClient::new(channel.clone()).max_decoding_message_size(MESSAGE_BYTES_MAX);
        let status = maintenance.status(pb::StatusRequest {}).await.expect("the member tells how it is").into_inner();
        Member {
            kv: KvClient::new(channel.clone()).max_decoding_message_size(MESSAGE_BYTES_MAX),
            lease: LeaseClient::new(channel.clone()),
            cluster: ClusterClient::new(channel),
            maintenance,
            id: status.header.unwrap().member_id,
        }
    }
}
