//! Locks: the queue of a name, whose front has the lock.

use axum::Router;
use bytes::Bytes;
use tonic::{Request, Response, Status};

use crate::api::v3lockpb::lock_server::Lock;
use crate::api::v3lockpb::{LockRequest, LockResponse, UnlockRequest, UnlockResponse};
use crate::store::node::Handle;
use crate::store::server::queue::Queues;

type Answer<T> = Result<Response<T>, Status>;

/// The service.
#[derive(Clone, Debug)]
pub struct Service {
    queues: Queues,
}

impl Service {
    /// Over the member's other services.
    pub fn new(handle: &Handle, services: &Router) -> Self {
        Service { queues: Queues::new(handle, services) }
    }
}

#[tonic::async_trait]
impl Lock for Service {
    async fn lock(&self, request: Request<LockRequest>) -> Answer<LockResponse> {
        let (caller, LockRequest { name, lease }) = self.queues.caller(request);
        let lease = caller.lease(lease).await?;
        let joined = caller.join(&name, lease, Bytes::new()).await?;
        let place = joined.place;
        let header = if joined.at_front { joined.header } else { place.front().await?.map_or_else(lost, Ok)?.into() };
        let key = place.key.clone();
        place.keep();
        Ok(Response::new(LockResponse { header, key }))
    }

    async fn unlock(&self, request: Request<UnlockRequest>) -> Answer<UnlockResponse> {
        let (caller, UnlockRequest { key }) = self.queues.caller(request);
        let header = caller.delete(key).await?.header;
        Ok(Response::new(UnlockResponse { header }))
    }
}

/// etcd's words for a place that ended while its client waited.
fn lost<T>() -> Result<T, Status> {
    Err(Status::unknown("mutex: session is expired"))
}
