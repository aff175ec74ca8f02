//! What holds for every call of every service: metadata that must make sense, and the words in which a message that is too
//! long is refused.

use std::convert::Infallible;
use std::task::{Context, Poll};

use axum::extract::Request;
use axum::response::Response;
use axum::routing::Route;
use futures::FutureExt as _;
use futures::future::{Either, Map, Ready, ready};
use http::HeaderMap;
use tonic::{Code, Status};
use tower::{Layer, Service};

use crate::store::node::Handle;
use crate::store::server::status::Reason;

const CLIENT_API_VERSION: &str = "client-api-version";
const HAS_LEADER: &str = "hasleader";
const GRPC_STATUS: &str = "grpc-status";
/// How tonic begins to say that a message is longer than allowed.
const TOO_LONG: &str = "Error, decoded message length too large: ";

/// Puts a gate before services.
#[derive(Clone, Debug)]
pub struct Gate {
    handle: Handle,
}

impl Gate {
    /// A gate to this member.
    pub fn new(handle: &Handle) -> Self {
        Gate { handle: handle.clone() }
    }

    fn admit(&self, metadata: &HeaderMap) -> Result<(), Reason> {
        if let Some(version) = metadata.get(CLIENT_API_VERSION)
            && str::from_utf8(version.as_bytes()).is_err()
        {
            return Err(Reason::InvalidClientApiVersion);
        }
        if wants_leader(metadata) && self.handle.status().leader == 0 {
            return Err(Reason::NoLeader);
        }
        Ok(())
    }
}

impl Layer<Route> for Gate {
    type Service = Gated;

    fn layer(&self, services: Route) -> Gated {
        Gated { gate: self.clone(), services }
    }
}

/// Services behind a gate.
#[derive(Clone, Debug)]
pub struct Gated {
    gate: Gate,
    services: Route,
}

type Answer = Result<Response, Infallible>;

impl Service<Request> for Gated {
    type Response = Response;
    type Error = Infallible;
    type Future = Either<Ready<Answer>, Map<<Route as Service<Request>>::Future, fn(Answer) -> Answer>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Service::<Request>::poll_ready(&mut self.services, context)
    }

    fn call(&mut self, request: Request) -> Self::Future {
        match self.gate.admit(request.headers()) {
            Err(reason) => Either::Left(ready(Ok(Status::from(reason).into_http()))),
            Ok(()) => Either::Right(self.services.call(request).map(in_words_of_etcd)),
        }
    }
}

/// Whether a call is to fail, and a stream to end, without a leader.
pub(super) fn wants_leader(metadata: &HeaderMap) -> bool {
    metadata.get(HAS_LEADER).is_some_and(|value| value == "true")
}

/// A refusal that never reached a service says what etcd's would.
fn in_words_of_etcd(answer: Answer) -> Answer {
    let Ok(response) = answer;
    // Only an answer that is nothing but a refusal has its status in front.
    let refused = response.headers().get(GRPC_STATUS).is_some_and(|code| code == "11");
    match refused.then(|| Status::from_header_map(response.headers())).flatten().and_then(|status| too_long(&status)) {
        Some(status) => Ok(status.into_http()),
        None => Ok(response),
    }
}

/// The status for a message that is longer than allowed, where tonic's says that.
pub(super) fn too_long(status: &Status) -> Option<Status> {
    let rest = status.message().strip_prefix(TOO_LONG).filter(|_| status.code() == Code::OutOfRange)?;
    let mut numbers = rest.split(|c: char| !c.is_ascii_digit()).filter(|number| !number.is_empty());
    let (found, most) = (numbers.next()?, numbers.next()?);
    Some(Status::resource_exhausted(format!("grpc: received message larger than max ({found} vs. {most})")))
}
