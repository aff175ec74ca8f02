//! gRPC's own health service, for probes of orchestrators and load balancers. The server as a whole serves or is gone, as
//! in etcd: there is no other name to ask for, and quorum, alarms and the like are told by `http`.
//!
//! The messages are tonic-health's. Its service is not taken because it ends a watch of an unknown name, where the
//! protocol wants to be told that the name is unknown and to wait.

use futures::StreamExt as _;
use futures::stream::{self, BoxStream};
use tonic::{Request, Response, Status};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_server::Health;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

use crate::store::server::status::Reason;

/// The service.
#[derive(Clone, Copy, Debug, Default)]
pub struct Service;

#[tonic::async_trait]
impl Health for Service {
    async fn check(&self, request: Request<HealthCheckRequest>) -> Result<Response<HealthCheckResponse>, Status> {
        match status(request.get_ref()) {
            ServingStatus::ServiceUnknown => Err(Reason::UnknownService.into()),
            status => Ok(Response::new(reply(status))),
        }
    }

    type WatchStream = BoxStream<'static, Result<HealthCheckResponse, Status>>;

    async fn watch(&self, request: Request<HealthCheckRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let first = reply(status(request.get_ref()));
        // Nothing changes while the server is there; the stream ends with its connection.
        Ok(Response::new(stream::once(async move { Ok(first) }).chain(stream::pending()).boxed()))
    }
}

fn status(request: &HealthCheckRequest) -> ServingStatus {
    if request.service.is_empty() { ServingStatus::Serving } else { ServingStatus::ServiceUnknown }
}

fn reply(status: ServingStatus) -> HealthCheckResponse {
    HealthCheckResponse { status: status.into() }
}
