//! The way into a member's services, by gRPC and by JSON alike: every call is let in, counted and ended here.

use std::convert::Infallible;
use std::sync::Arc;

use axum::body::Body;
use axum::{BoxError, Router};
use bytes::Bytes;
use http::{Request, Response};
use tonic::Status;
use tower::ServiceExt as _;

use crate::store::node::Fault;
use crate::store::server::calls::Calls;

/// The services, and what is counted of them.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    services: Router,
    calls: Arc<Calls>,
}

impl Entry {
    /// To these services.
    pub(super) fn new(services: Router, calls: Arc<Calls>) -> Self {
        Entry { services, calls }
    }

    /// What calls cost.
    pub(super) fn calls(&self) -> &Arc<Calls> {
        &self.calls
    }

    /// Calls a method. Whoever waits for another client goes elsewhere when the member stops.
    pub(super) async fn call<B>(&self, request: Request<B>) -> Response<Body>
    where
        B: hyper::body::Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<BoxError>,
    {
        let call = self.calls.begin(request.uri().path(), request.headers());
        let request = request.map(|body| self.calls.received(call.as_ref(), body));
        let answer = self.services.clone().oneshot(request);
        let Some(call) = call else { return never(answer.await) };
        let response = match call.until() {
            None => never(answer.await),
            Some(stop) => tokio::select! {
                answer = answer => never(answer),
                () = stop.stopped() => Status::from(Fault::Stopped).into_http(),
            },
        };
        call.answered(response)
    }
}

/// What cannot fail.
pub(super) fn never<T>(result: Result<T, Infallible>) -> T {
    match result {
        Ok(value) => value,
        Err(never) => match never {},
    }
}
