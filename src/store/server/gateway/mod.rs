//! The gateway: every method of etcd's services by POST, with messages as JSON.
//!
//! It knows no method. A path names one; what its messages are is read from their descriptors (`api::DESCRIPTORS`); JSON is
//! made into the bytes of a gRPC call, which goes the way of all calls (`entry`), and the bytes that come back into JSON
//! (`json`). So a call through the gateway is checked, counted and refused as the same call by gRPC is.
//!
//! ```text
//!   POST /v3/kv/range {"key":"YQ=="} ──json──> /etcdserverpb.KV/Range ──entry──> services
//!                     {"kvs":[..]}   <──json── frames <─────────────────────────────┘
//! ```
//!
//! A method that answers with a stream answers with one line of JSON for each message, `{"result":..}`, and with a last line
//! `{"error":..}` if it fails; a method that is asked with a stream takes one JSON object after the other from the body. A
//! WebSocket carries the same (`websocket`).
//!
//! Invariants:
//! - A request is bounded before it is parsed, by `BODY_FACTOR` times what a message may have; what it is made into is bounded
//!   by the services, as any message.
//! - Of a stream no more than one message each way is held.
//! - Of a client's headers, only its token and what it marks as metadata goes on.

mod json;
mod stream;
mod websocket;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method as Verb, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use prost_reflect::{DescriptorPool, MessageDescriptor};
use tokio::time::{Instant, timeout_at};
use tonic::{Code, Status};

use crate::api::DESCRIPTORS;
use crate::base::stop::Stop;
use crate::store::node::Handle;
use crate::store::server::ENVELOPE_BYTES;
use crate::store::server::entry::Entry;
use crate::store::server::gateway::stream::{Frames, Questions, framed, lines};
pub(super) use crate::store::server::gateway::websocket::Afterwards;
use crate::store::server::identity::FROM_GATEWAY;
use crate::store::server::peer::{self, Peer};

/// Where etcd's methods are. Two versions ago they were elsewhere; those paths are still understood.
const ROOT: &str = "/v3/";
const FORMER_ROOT: &str = "/v3beta/";
/// Bytes of JSON for each byte that a message may have: base64 takes four for three, and names take theirs.
const BODY_FACTOR: usize = 2;
const METADATA: &str = "grpc-metadata-";
const GRPC: HeaderValue = HeaderValue::from_static("application/grpc");
const JSON: HeaderValue = HeaderValue::from_static("application/json");
const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");
const TIMEOUT: &str = "grpc-timeout";
const GRPC_METADATA_CONTENT_TYPE: HeaderName = HeaderName::from_static("grpc-metadata-content-type");

/// Below the root, and the method that is there.
const PATHS: &[(&str, &str)] = &[
    ("kv/range", "etcdserverpb.KV/Range"),
    ("kv/put", "etcdserverpb.KV/Put"),
    ("kv/deleterange", "etcdserverpb.KV/DeleteRange"),
    ("kv/txn", "etcdserverpb.KV/Txn"),
    ("kv/compaction", "etcdserverpb.KV/Compact"),
    ("watch", "etcdserverpb.Watch/Watch"),
    ("lease/grant", "etcdserverpb.Lease/LeaseGrant"),
    ("lease/revoke", "etcdserverpb.Lease/LeaseRevoke"),
    ("kv/lease/revoke", "etcdserverpb.Lease/LeaseRevoke"),
    ("lease/keepalive", "etcdserverpb.Lease/LeaseKeepAlive"),
    ("lease/timetolive", "etcdserverpb.Lease/LeaseTimeToLive"),
    ("kv/lease/timetolive", "etcdserverpb.Lease/LeaseTimeToLive"),
    ("lease/leases", "etcdserverpb.Lease/LeaseLeases"),
    ("kv/lease/leases", "etcdserverpb.Lease/LeaseLeases"),
    ("cluster/member/add", "etcdserverpb.Cluster/MemberAdd"),
    ("cluster/member/remove", "etcdserverpb.Cluster/MemberRemove"),
    ("cluster/member/update", "etcdserverpb.Cluster/MemberUpdate"),
    ("cluster/member/list", "etcdserverpb.Cluster/MemberList"),
    ("cluster/member/promote", "etcdserverpb.Cluster/MemberPromote"),
    ("maintenance/alarm", "etcdserverpb.Maintenance/Alarm"),
    ("maintenance/status", "etcdserverpb.Maintenance/Status"),
    ("maintenance/defragment", "etcdserverpb.Maintenance/Defragment"),
    ("maintenance/hash", "etcdserverpb.Maintenance/Hash"),
    ("maintenance/hashkv", "etcdserverpb.Maintenance/HashKV"),
    ("maintenance/snapshot", "etcdserverpb.Maintenance/Snapshot"),
    ("maintenance/transfer-leadership", "etcdserverpb.Maintenance/MoveLeader"),
    ("maintenance/downgrade", "etcdserverpb.Maintenance/Downgrade"),
    ("auth/enable", "etcdserverpb.Auth/AuthEnable"),
    ("auth/disable", "etcdserverpb.Auth/AuthDisable"),
    ("auth/status", "etcdserverpb.Auth/AuthStatus"),
    ("auth/authenticate", "etcdserverpb.Auth/Authenticate"),
    ("auth/user/add", "etcdserverpb.Auth/UserAdd"),
    ("auth/user/get", "etcdserverpb.Auth/UserGet"),
    ("auth/user/list", "etcdserverpb.Auth/UserList"),
    ("auth/user/delete", "etcdserverpb.Auth/UserDelete"),
    ("auth/user/changepw", "etcdserverpb.Auth/UserChangePassword"),
    ("auth/user/grant", "etcdserverpb.Auth/UserGrantRole"),
    ("auth/user/revoke", "etcdserverpb.Auth/UserRevokeRole"),
    ("auth/role/add", "etcdserverpb.Auth/RoleAdd"),
    ("auth/role/get", "etcdserverpb.Auth/RoleGet"),
    ("auth/role/list", "etcdserverpb.Auth/RoleList"),
    ("auth/role/delete", "etcdserverpb.Auth/RoleDelete"),
    ("auth/role/grant", "etcdserverpb.Auth/RoleGrantPermission"),
    ("auth/role/revoke", "etcdserverpb.Auth/RoleRevokePermission"),
    ("lock/lock", "v3lockpb.Lock/Lock"),
    ("lock/unlock", "v3lockpb.Lock/Unlock"),
    ("election/campaign", "v3electionpb.Election/Campaign"),
    ("election/proclaim", "v3electionpb.Election/Proclaim"),
    ("election/leader", "v3electionpb.Election/Leader"),
    ("election/observe", "v3electionpb.Election/Observe"),
    ("election/resign", "v3electionpb.Election/Resign"),
];

/// etcd's answer to a client whose certificate has a common name, where those are users.
const NAMED: &str = "CommonName of client sending a request against gateway will be ignored and not used as expected\n";

/// A method of a service.
#[derive(Debug)]
struct Method {
    name: &'static str,
    path: String,
    input: MessageDescriptor,
    output: MessageDescriptor,
    /// Whether it is asked with a stream.
    hears: bool,
    /// Whether it answers with one.
    tells: bool,
}

/// The gateway of a member.
#[derive(Debug)]
pub(super) struct Gateway {
    methods: HashMap<&'static str, Arc<Method>>,
    entry: Entry,
    handle: Handle,
    body_bytes_max: usize,
    /// After how long a client that is connected by a WebSocket is asked for a sign of life, and how long it has for it.
    patience: Option<(Duration, Duration)>,
    stop: Stop,
}

impl Gateway {
    /// To these services of a member, with so much patience for clients, until `stop`.
    pub(super) fn new(entry: Entry, handle: &Handle, patience: Option<(Duration, Duration)>, stop: Stop) -> Self {
        let pool = DescriptorPool::decode(DESCRIPTORS).expect("the build wrote what it had compiled");
        let methods = PATHS.iter().map(|(path, name)| {
            let (service, name) = name.split_once('/').expect("a service and its method");
            let service = pool.get_service_by_name(service).expect("a service that is served");
            let method = service.methods().find(|method| method.name() == name).expect("a method that it has");
            let found = Method {
                name,
                path: format!("/{}/{name}", service.full_name()),
                input: method.input(),
                output: method.output(),
                hears: method.is_client_streaming(),
                tells: method.is_server_streaming(),
            };
            (*path, Arc::new(found))
        });
        let methods = methods.collect();
        let body_bytes_max = BODY_FACTOR * (handle.tuning().request_bytes_max + ENVELOPE_BYTES);
        Gateway { methods, entry, handle: handle.clone(), body_bytes_max, patience, stop }
    }

    /// Whether this path is the gateway's.
    pub(super) fn has(path: &str) -> bool {
        path.starts_with(ROOT) || path.starts_with(FORMER_ROOT)
    }

    /// Whether a request wants a connection that neither asks nor answers by HTTP any more.
    pub(super) fn is_socket(request: &Request<Incoming>) -> bool {
        websocket::is_wanted(request)
    }

    /// Answers a request for such a path, at once or `afterwards`.
    pub(super) async fn answer(
        self: &Arc<Self>,
        request: Request<Incoming>,
        afterwards: &Afterwards,
    ) -> Response<Body> {
        // Whoever has a certificate with a name could take it for a user's; a page in its browser, too.
        if peer::common_name().is_some() && self.handle.state().rules.is_enabled() {
            return plain(StatusCode::BAD_REQUEST, NAMED);
        }
        let path = request.uri().path();
        let below = path.strip_prefix(ROOT).or_else(|| path.strip_prefix(FORMER_ROOT));
        let Some(method) = below.and_then(|below| self.methods.get(below)) else {
            return plain(StatusCode::NOT_FOUND, "Not Found\n");
        };
        if websocket::is_wanted(&request) {
            return websocket::begin(self, method, request, afterwards).await;
        }
        if request.method() != Verb::POST {
            return plain(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed\n");
        }
        let (parts, body) = request.into_parts();
        let questions = Questions::new(Body::new(body), self.body_bytes_max);
        tokio::select! {
            biased;
            answer = self.reply(method, &parts.headers, questions) => answer,
            // Whatever it waited for is let go.
            () = gone(peer::current()) => refused(&Status::cancelled("context canceled")),
        }
    }

    /// What is replied to these questions, refusals too.
    async fn reply(&self, method: &Method, headers: &HeaderMap, questions: Questions) -> Response<Body> {
        let answer = async {
            let deadline = deadline(headers)?;
            let answer = self.ask(method, headers, questions, deadline);
            // A stream that is too late says so in its own way.
            if method.tells { answer.await } else { within(deadline, answer).await? }
        };
        answer.await.unwrap_or_else(|status| refused(&status))
    }

    async fn ask(
        &self,
        method: &Method,
        headers: &HeaderMap,
        mut body: Questions,
        deadline: Option<Instant>,
    ) -> Result<Response<Body>, Status> {
        // Of a stream, the first question is read before anything is answered; what follows, when it is asked for.
        let asked = if method.hears {
            // etcd's code for it.
            let first = body.next(&method.input).await.map_err(|status| Status::unknown(status.message()))?;
            framed(first, body, &method.input)
        } else {
            Body::from(body.only(&method.input).await?)
        };
        let mut request = Request::new(asked);
        *request.method_mut() = Verb::POST;
        *request.uri_mut() = method.path.parse().map_err(|_| Status::internal("no path of a method"))?;
        *request.headers_mut() = metadata(headers);
        let answer = self.entry.call(request).await;
        if let Some(peer) = peer::current() {
            peer.asks_nothing();
        }
        let mut frames = Frames::of(answer)?;
        if method.tells {
            let first = within(deadline, frames.next()).await.and_then(|first| first);
            return Ok(streamed(first, frames, method, deadline));
        }
        let reply = frames.next().await?.ok_or_else(|| Status::unknown("a call ended without an answer"))?;
        let text = json::text(&method.output, reply).await?;
        // Its end, which is counted.
        frames.next().await?;
        let text = self.entry.calls().hold(text);
        let text = text.ok_or_else(|| Status::resource_exhausted("etcdserver: too many requests"))?;
        Ok(answered(StatusCode::OK, Body::from(text)))
    }
}

/// An answer of many lines, the first of which decides about its status.
fn streamed(
    first: Result<Option<Bytes>, Status>,
    frames: Frames,
    method: &Method,
    deadline: Option<Instant>,
) -> Response<Body> {
    let (status, is_empty) =
        (first.as_ref().map_or_else(http_status, |_| StatusCode::OK), !matches!(first, Ok(Some(_))));
    let mut response = answered(status, Body::from_stream(lines(first, frames, method.output.clone(), deadline)));
    if is_empty {
        response.headers_mut().remove(GRPC_METADATA_CONTENT_TYPE);
    }
    response
}

/// Returns when the client is gone.
async fn gone(peer: Option<Arc<Peer>>) {
    match peer {
        Some(peer) => peer.leaves().await,
        None => std::future::pending().await,
    }
}

/// What comes of it before it is too late.
async fn within<T>(deadline: Option<Instant>, work: impl Future<Output = T>) -> Result<T, Status> {
    match deadline {
        None => Ok(work.await),
        Some(deadline) => timeout_at(deadline, work).await.map_err(|_| late()),
    }
}

fn late() -> Status {
    Status::deadline_exceeded("context deadline exceeded")
}

/// Until when a client wants an answer: as gRPC writes it, digits and a unit.
fn deadline(headers: &HeaderMap) -> Result<Option<Instant>, Status> {
    let Some(value) = headers.get(TIMEOUT) else { return Ok(None) };
    let text = value.to_str().unwrap_or_default();
    let wrong = || Status::invalid_argument(format!("invalid grpc-timeout: {text}"));
    let (digits, unit) = text.split_at_checked(text.len().saturating_sub(1)).ok_or_else(wrong)?;
    let count: u64 = digits.parse().map_err(|_| wrong())?;
    let limit = match unit {
        "H" => Duration::from_secs(count.saturating_mul(3600)),
        "M" => Duration::from_secs(count.saturating_mul(60)),
        "S" => Duration::from_secs(count),
        "m" => Duration::from_millis(count),
        "u" => Duration::from_micros(count),
        "n" => Duration::from_nanos(count),
        _ => return Err(wrong()),
    };
    // What is farther away than time goes is never.
    Ok(Instant::now().checked_add(limit))
}

/// The metadata of a call: who asks, and what it marked as metadata.
fn metadata(headers: &HeaderMap) -> HeaderMap {
    let mut metadata = HeaderMap::new();
    for (name, value) in headers {
        let name = match name.as_str().strip_prefix(METADATA) {
            Some(rest) => HeaderName::try_from(rest).ok().filter(|name| !is_protocol(name)),
            None => Some(name.clone()).filter(|name| name == header::AUTHORIZATION),
        };
        if let Some(name) = name {
            metadata.append(name, value.clone());
        }
    }
    metadata.insert(header::CONTENT_TYPE, GRPC);
    metadata.insert(header::TE, HeaderValue::from_static("trailers"));
    // Whose certificate the connection has is not who asks.
    metadata.insert(FROM_GATEWAY, JSON);
    metadata
}

/// Whether a header is between gRPC's ends and nobody else's.
fn is_protocol(name: &HeaderName) -> bool {
    name.as_str().starts_with("grpc-")
        || [header::CONTENT_TYPE, header::CONTENT_LENGTH, header::TE, header::TRANSFER_ENCODING, header::CONNECTION]
            .contains(name)
}

/// A refusal: etcd 3.5 says the text twice, and 3.6 has its readers look for the second.
fn refused(status: &Status) -> Response<Body> {
    let message = json::quoted(status.message());
    let body = format!("{{\"error\":{message},\"code\":{},\"message\":{message}}}", status.code() as i32);
    let mut response = answered(http_status(status), Body::from(body));
    response.headers_mut().remove(GRPC_METADATA_CONTENT_TYPE);
    response
}

fn answered(status: StatusCode, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, JSON);
    response.headers_mut().insert(GRPC_METADATA_CONTENT_TYPE, GRPC);
    response
}

fn plain(status: StatusCode, text: &'static str) -> Response<Body> {
    let mut response = Response::new(Body::from(text));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, TEXT);
    response.headers_mut().insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

/// HTTP's word for a code of gRPC.
fn http_status(status: &Status) -> StatusCode {
    match status.code() {
        Code::Ok => StatusCode::OK,
        Code::Cancelled => StatusCode::REQUEST_TIMEOUT,
        Code::InvalidArgument | Code::FailedPrecondition | Code::OutOfRange => StatusCode::BAD_REQUEST,
        Code::DeadlineExceeded => StatusCode::GATEWAY_TIMEOUT,
        Code::NotFound => StatusCode::NOT_FOUND,
        Code::AlreadyExists | Code::Aborted => StatusCode::CONFLICT,
        Code::PermissionDenied => StatusCode::FORBIDDEN,
        Code::Unauthenticated => StatusCode::UNAUTHORIZED,
        Code::ResourceExhausted => StatusCode::TOO_MANY_REQUESTS,
        Code::Unimplemented => StatusCode::NOT_IMPLEMENTED,
        Code::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        Code::Unknown | Code::Internal | Code::DataLoss => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deadlines_are_read_as_grpc_writes_them() {
        let of = |text: &str| {
            let headers = HeaderMap::from_iter([(HeaderName::from_static(TIMEOUT), text.parse().unwrap())]);
            deadline(&headers).map(|deadline| deadline.map(|deadline| deadline - Instant::now()))
        };
        assert!(deadline(&HeaderMap::new()).unwrap().is_none());
        for (text, most) in [("2H", 7200), ("3M", 180), ("5S", 5), ("5000m", 5), ("5000000u", 5), ("5000000000n", 5)] {
            let left = of(text).unwrap().unwrap();
            assert!(left <= Duration::from_secs(most) && left > Duration::from_secs(most - 2), "{text}: {left:?}");
        }
        for text in ["", "5", "S", "-5S", "5s", "5 S", "99999999999999999999S"] {
            let status = of(text).unwrap_err();
            assert_eq!(
                (status.code(), status.message()),
                (Code::InvalidArgument, &*format!("invalid grpc-timeout: {text}"))
            );
        }
        assert_eq!(of("18446744073709551615S").unwrap(), None);
    }

    #[test]
    fn only_the_token_and_metadata_go_on() {
        let headers = [
            ("authorization", "abc"),
            ("grpc-metadata-hasleader", "true"),
            ("grpc-metadata-grpc-encoding", "gzip"),
            ("grpc-metadata-content-type", "text/plain"),
            ("cookie", "x"),
            ("token", "x"),
        ];
        let headers = headers.map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)));
        let sent = metadata(&HeaderMap::from_iter(headers));
        let mut sent: Vec<_> = sent.iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap())).collect();
        sent.sort_unstable();
        let expected = [
            ("authorization", "abc"),
            ("content-type", "application/grpc"),
            ("grpcgateway-accept", "application/json"),
            ("hasleader", "true"),
            ("te", "trailers"),
        ];
        assert_eq!(sent, expected);
    }
}
