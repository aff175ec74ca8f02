//! A member to ask, whoever runs it.

use std::time::Duration;

use holdfast::api::etcdserverpb as pb;
use holdfast::api::etcdserverpb::cluster_client::ClusterClient;
use holdfast::api::etcdserverpb::kv_client::KvClient;
use holdfast::api::etcdserverpb::lease_client::LeaseClient;
use holdfast::api::etcdserverpb::maintenance_client::MaintenanceClient;
use holdfast::store::node::{Handle, Member as Identity, Paths, create};
use holdfast::store::options::Tuning;
use holdfast::store::server;
use tempfile::TempDir;
use tonic::transport::{Channel, Endpoint};

use crate::support::ports::Port;

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

/// Holdfast's own, in this process.
#[derive(Debug)]
pub(crate) struct Holdfast {
    pub(crate) handle: Handle,
    port: Port,
    _dir: TempDir,
}

impl Holdfast {
    /// A new member; it ends with the runtime.
    pub(crate) async fn start(tuning: Tuning) -> Holdfast {
        let dir = TempDir::with_prefix_in("holdfast-", env!("CARGO_TARGET_TMPDIR")).unwrap();
        let port = Port::claim();
        let listener = tokio::net::TcpListener::bind(port.address()).await.unwrap();
        let url = format!("http://{}", port.address());
        let identity = Identity {
            cluster_id: 7,
            member_id: 9,
            name: "m0".into(),
            peer_urls: vec!["http://127.0.0.1:2380".into()],
            client_urls: vec![url],
        };
        let paths = Paths { state: dir.path().join("db"), log: dir.path().join("wal") };
        std::fs::create_dir(&paths.log).unwrap();
        create(&paths, &identity, &tuning).unwrap();
        let handle = Handle::start(&paths, identity, tuning).await.unwrap();
        let routes = server::routes(&handle).await;
        tokio::spawn(async move { axum::serve(listener, routes).await });
        Holdfast { handle, port, _dir: dir }
    }

    pub(crate) fn endpoint(&self) -> String {
        format!("http://{}", self.port.address())
    }
}
