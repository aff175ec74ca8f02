//! A server that does nothing: etcd's messages over tonic, answered at once. What a store loses against it is its own work;
//! what both lose against the machine is gRPC.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicI64, Ordering};

use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt};
use holdfast::api::etcdserverpb as pb;
use holdfast::api::etcdserverpb::kv_server::{Kv, KvServer};
use holdfast::api::etcdserverpb::maintenance_server::{Maintenance, MaintenanceServer};
use holdfast::api::mvccpb::KeyValue;
use tonic::{Request, Response, Status};

type Answer<T> = Result<Response<T>, Status>;
type Stream<T> = BoxStream<'static, Result<T, Status>>;

/// What stands in for every value that is read.
const VALUE: &[u8] = &[7; 256];

/// What its snapshots are made of.
static BLOB: [u8; 32 << 10] = [7; 32 << 10];

/// Serves until it is killed. Its snapshots have about so many bytes.
pub(crate) fn serve(address: SocketAddr, snapshot_bytes: u64) {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let idle = || Idle { revision: AtomicI64::new(0), snapshot_bytes };
    let server = tonic::transport::Server::builder()
        .tcp_nodelay(true)
        .add_service(KvServer::new(idle()))
        .add_service(MaintenanceServer::new(idle()));
    runtime.block_on(server.serve(address)).unwrap();
}

#[derive(Debug)]
struct Idle {
    revision: AtomicI64,
    snapshot_bytes: u64,
}

impl Idle {
    /// As after one more write.
    fn header(&self) -> Option<pb::ResponseHeader> {
        let revision = self.revision.fetch_add(1, Ordering::Relaxed) + 1;
        Some(pb::ResponseHeader { cluster_id: 1, member_id: 1, revision, raft_term: 1 })
    }
}

fn nothing<T>() -> Answer<T> {
    Err(Status::unimplemented("this server does nothing"))
}

#[tonic::async_trait]
impl Kv for Idle {
    type RangeStreamStream = Stream<pb::RangeStreamResponse>;

    async fn range(&self, request: Request<pb::RangeRequest>) -> Answer<pb::RangeResponse> {
        let request = request.into_inner();
        let is_one = request.range_end.is_empty();
        let kv = || KeyValue { key: request.key.clone(), value: VALUE.into(), mod_revision: 1, ..KeyValue::default() };
        let kvs: Vec<KeyValue> = is_one.then(kv).into_iter().collect();
        let count = i64::from(is_one);
        Ok(Response::new(pb::RangeResponse { header: self.header(), kvs, count, ..pb::RangeResponse::default() }))
    }

    async fn range_stream(&self, _: Request<pb::RangeRequest>) -> Answer<Self::RangeStreamStream> {
        nothing()
    }

    async fn put(&self, _: Request<pb::PutRequest>) -> Answer<pb::PutResponse> {
        Ok(Response::new(pb::PutResponse { header: self.header(), prev_kv: None }))
    }

    async fn delete_range(&self, _: Request<pb::DeleteRangeRequest>) -> Answer<pb::DeleteRangeResponse> {
        Ok(Response::new(pb::DeleteRangeResponse { header: self.header(), ..pb::DeleteRangeResponse::default() }))
    }

    async fn txn(&self, request: Request<pb::TxnRequest>) -> Answer<pb::TxnResponse> {
        use pb::response_op::Response::ResponsePut;
        let put = |_: &pb::RequestOp| pb::ResponseOp { response: Some(ResponsePut(pb::PutResponse::default())) };
        let responses = request.get_ref().success.iter().map(put).collect();
        Ok(Response::new(pb::TxnResponse { header: self.header(), succeeded: true, responses }))
    }

    async fn compact(&self, _: Request<pb::CompactionRequest>) -> Answer<pb::CompactionResponse> {
        nothing()
    }
}

#[tonic::async_trait]
impl Maintenance for Idle {
    type SnapshotStream = Stream<pb::SnapshotResponse>;

    async fn status(&self, _: Request<pb::StatusRequest>) -> Answer<pb::StatusResponse> {
        Ok(Response::new(pb::StatusResponse { header: self.header(), ..pb::StatusResponse::default() }))
    }

    async fn snapshot(&self, _: Request<pb::SnapshotRequest>) -> Answer<Self::SnapshotStream> {
        let digest = Bytes::from_static(&[7; 32]);
        let (size, blob) = (self.snapshot_bytes, Bytes::from_static(&BLOB));
        let message =
            move |remaining_bytes, blob| Ok(pb::SnapshotResponse { remaining_bytes, blob, ..Default::default() });
        let blobs = (0..size / BLOB.len() as u64).map(move |n| (size - (n + 1) * BLOB.len() as u64, blob.clone()));
        let messages = blobs.chain([(0, digest)]).map(move |(remaining, blob)| message(remaining, blob));
        Ok(Response::new(stream::iter(messages).boxed()))
    }

    async fn alarm(&self, _: Request<pb::AlarmRequest>) -> Answer<pb::AlarmResponse> {
        nothing()
    }

    async fn defragment(&self, _: Request<pb::DefragmentRequest>) -> Answer<pb::DefragmentResponse> {
        nothing()
    }

    async fn hash(&self, _: Request<pb::HashRequest>) -> Answer<pb::HashResponse> {
        nothing()
    }

    async fn hash_kv(&self, _: Request<pb::HashKvRequest>) -> Answer<pb::HashKvResponse> {
        nothing()
    }

    async fn move_leader(&self, _: Request<pb::MoveLeaderRequest>) -> Answer<pb::MoveLeaderResponse> {
        nothing()
    }

    async fn downgrade(&self, _: Request<pb::DowngradeRequest>) -> Answer<pb::DowngradeResponse> {
        nothing()
    }
}
