//! What calls cost: how many began, how they ended, how long they took, and how many bytes they moved; by method.
//!
//! A response's body is wrapped, because how a call ended stands behind its last byte. The wrapper also ends streams when
//! the member stops: a watch has no end of its own, and its client must go elsewhere now and not when a timeout says so.
//! And it refuses a reply for which there is no room (`unsent`).

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::BoxError;
use axum::body::Body;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Response};
use hyper::body::{Frame, SizeHint};

use crate::base::clock::{Clock, Stopwatch};
use crate::base::slow::{Slow, go_time};
use crate::base::stop::Stop;
use crate::base::telemetry::{Counter, Histogram, Named, Page};
use crate::store::server::frames::Frames;
use crate::store::server::peer::{self, Peer};
use crate::store::server::unsent::Unsent;

const CLIENT_API_VERSION: HeaderName = HeaderName::from_static("client-api-version");
const STATUS: HeaderName = HeaderName::from_static("grpc-status");
const MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
const STOPPED: HeaderValue = HeaderValue::from_static("etcdserver: server stopped");
const TOO_MANY: HeaderValue = HeaderValue::from_static("etcdserver: too many requests");

/// gRPC's codes in order of their numbers, as metrics name them.
const CODES: [&str; 17] = [
    "OK",
    "Canceled",
    "Unknown",
    "InvalidArgument",
    "DeadlineExceeded",
    "NotFound",
    "AlreadyExists",
    "PermissionDenied",
    "ResourceExhausted",
    "FailedPrecondition",
    "Aborted",
    "OutOfRange",
    "Unimplemented",
    "Internal",
    "Unavailable",
    "DataLoss",
    "Unauthenticated",
];
const CANCELED: usize = 1;
const UNKNOWN: usize = 2;
const UNAVAILABLE: &str = "14";
const EXHAUSTED: &str = "8";

/// Upper ends of the buckets of call times, in microseconds: Prometheus's own.
const BUCKETS_US: [u64; 11] =
    [5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000, 5_000_000, 10_000_000];

/// How many messages go each way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Unary,
    /// One each way, and the answer comes when another client lets it.
    Waiting,
    Server,
    Bidi,
}

impl Form {
    const fn name(self) -> &'static str {
        match self {
            Form::Unary | Form::Waiting => "unary",
            Form::Server => "server_stream",
            Form::Bidi => "bidi_stream",
        }
    }

    const fn streams(self) -> bool {
        matches!(self, Form::Server | Form::Bidi)
    }
}

/// The methods that are counted. Others do not exist, and a client may invent as many as it likes.
const METHODS: &[(&str, &str, Form)] = &[
    ("etcdserverpb.KV", "Range", Form::Unary),
    ("etcdserverpb.KV", "RangeStream", Form::Server),
    ("etcdserverpb.KV", "Put", Form::Unary),
    ("etcdserverpb.KV", "DeleteRange", Form::Unary),
    ("etcdserverpb.KV", "Txn", Form::Unary),
    ("etcdserverpb.KV", "Compact", Form::Unary),
    ("etcdserverpb.Watch", "Watch", Form::Bidi),
    ("etcdserverpb.Lease", "LeaseGrant", Form::Unary),
    ("etcdserverpb.Lease", "LeaseRevoke", Form::Unary),
    ("etcdserverpb.Lease", "LeaseKeepAlive", Form::Bidi),
    ("etcdserverpb.Lease", "LeaseTimeToLive", Form::Unary),
    ("etcdserverpb.Lease", "LeaseLeases", Form::Unary),
    ("etcdserverpb.Cluster", "MemberAdd", Form::Unary),
    ("etcdserverpb.Cluster", "MemberRemove", Form::Unary),
    ("etcdserverpb.Cluster", "MemberUpdate", Form::Unary),
    ("etcdserverpb.Cluster", "MemberList", Form::Unary),
    ("etcdserverpb.Cluster", "MemberPromote", Form::Unary),
    ("etcdserverpb.Maintenance", "Alarm", Form::Unary),
    ("etcdserverpb.Maintenance", "Status", Form::Unary),
    ("etcdserverpb.Maintenance", "Defragment", Form::Unary),
    ("etcdserverpb.Maintenance", "Hash", Form::Unary),
    ("etcdserverpb.Maintenance", "HashKV", Form::Unary),
    ("etcdserverpb.Maintenance", "Snapshot", Form::Server),
    ("etcdserverpb.Maintenance", "MoveLeader", Form::Unary),
    ("etcdserverpb.Maintenance", "Downgrade", Form::Unary),
    ("etcdserverpb.Auth", "AuthEnable", Form::Unary),
    ("etcdserverpb.Auth", "AuthDisable", Form::Unary),
    ("etcdserverpb.Auth", "AuthStatus", Form::Unary),
    ("etcdserverpb.Auth", "Authenticate", Form::Unary),
    ("etcdserverpb.Auth", "UserAdd", Form::Unary),
    ("etcdserverpb.Auth", "UserGet", Form::Unary),
    ("etcdserverpb.Auth", "UserList", Form::Unary),
    ("etcdserverpb.Auth", "UserDelete", Form::Unary),
    ("etcdserverpb.Auth", "UserChangePassword", Form::Unary),
    ("etcdserverpb.Auth", "UserGrantRole", Form::Unary),
    ("etcdserverpb.Auth", "UserRevokeRole", Form::Unary),
    ("etcdserverpb.Auth", "RoleAdd", Form::Unary),
    ("etcdserverpb.Auth", "RoleGet", Form::Unary),
    ("etcdserverpb.Auth", "RoleList", Form::Unary),
    ("etcdserverpb.Auth", "RoleDelete", Form::Unary),
    ("etcdserverpb.Auth", "RoleGrantPermission", Form::Unary),
    ("etcdserverpb.Auth", "RoleRevokePermission", Form::Unary),
    ("v3lockpb.Lock", "Lock", Form::Waiting),
    ("v3lockpb.Lock", "Unlock", Form::Unary),
    ("v3electionpb.Election", "Campaign", Form::Waiting),
    ("v3electionpb.Election", "Proclaim", Form::Unary),
    ("v3electionpb.Election", "Leader", Form::Unary),
    ("v3electionpb.Election", "Observe", Form::Server),
    ("v3electionpb.Election", "Resign", Form::Unary),
    ("grpc.health.v1.Health", "Check", Form::Unary),
    ("grpc.health.v1.Health", "Watch", Form::Server),
    ("holdfast.v1.Records", "Full", Form::Server),
    ("holdfast.v1.Records", "Changes", Form::Server),
];

/// What was counted of one method.
#[derive(Debug)]
struct Method {
    service: &'static str,
    name: &'static str,
    form: Form,
    path: String,
    started: Counter,
    received: Counter,
    sent: Counter,
    handled: [Counter; CODES.len()],
    took: Histogram,
}

/// Calls of clients of one version.
#[derive(Debug, Default)]
struct Asked {
    unary: Counter,
    streams: Counter,
}

/// Versions of clients that are told apart, and how long they may be: a client may send any.
const VERSIONS_MAX: usize = 16;
/// What all others are called. A client that calls itself so is one of them.
const OTHER: &str = "other";
const VERSION_BYTES_MAX: usize = 64;

/// What was counted of all calls.
#[derive(Debug)]
pub struct Calls {
    methods: Vec<Method>,
    versions: Named<Asked>,
    received_bytes: Counter,
    sent_bytes: Counter,
    /// Calls that take too long.
    slow: Slow,
    stop: Stop,
    unsent: Unsent,
}

impl Calls {
    /// Nothing yet. Streams end when `stop` is given; large replies that wait for their readers have so many bytes.
    pub fn new(slow: Duration, unsent_bytes_max: usize, stop: Stop) -> Self {
        let method = |(service, name, form): &(&'static str, &'static str, Form)| Method {
            service,
            name,
            form: *form,
            path: format!("/{service}/{name}"),
            started: Counter::default(),
            received: Counter::default(),
            sent: Counter::default(),
            handled: Default::default(),
            took: Histogram::of(BUCKETS_US.to_vec()),
        };
        let (received_bytes, sent_bytes) = (Counter::default(), Counter::default());
        let (methods, unsent) = (METHODS.iter().map(method).collect(), Unsent::new(unsent_bytes_max));
        let (versions, slow) = (Named::new(VERSIONS_MAX), Slow::over(slow));
        Calls { methods, versions, received_bytes, sent_bytes, slow, stop, unsent }
    }

    /// A call begins; none when there is no such method.
    pub(super) fn begin(self: &Arc<Self>, path: &str, metadata: &HeaderMap) -> Option<Call> {
        let method = self.methods.iter().position(|method| method.path == path)?;
        self.methods[method].started.increment();
        self.note_version(&self.methods[method], metadata);
        let peer = peer::current();
        if let Some(peer) = &peer {
            peer.asks(self.methods[method].name);
        }
        Some(Call {
            calls: Arc::clone(self),
            method,
            peer,
            watch: Stopwatch::start(),
            frames: Frames::default(),
            ended: false,
        })
    }

    /// Counts a call by the version that its client says it speaks. One that makes no sense is refused, and not counted.
    fn note_version(&self, method: &Method, metadata: &HeaderMap) {
        let version =
            metadata.get(CLIENT_API_VERSION).map_or(Ok("unknown"), |version| str::from_utf8(version.as_bytes()));
        let Ok(version) = version else { return };
        let is_named = version.len() <= VERSION_BYTES_MAX && version != OTHER;
        let asked = if is_named { self.versions.of(version) } else { self.versions.others() };
        if method.form.streams() { asked.streams.increment() } else { asked.unary.increment() }
    }

    /// The body of a call's request, what it holds counted.
    pub(super) fn received(
        self: &Arc<Self>,
        call: Option<&Call>,
        body: impl hyper::body::Body<Data = Bytes, Error: Into<BoxError>> + Send + Unpin + 'static,
    ) -> Body {
        let method = call.map(|call| call.method);
        Body::new(Received { calls: Arc::clone(self), method, frames: Frames::default(), body })
    }

    /// Room for an answer that is made of a reply; none when too much waits for its readers already.
    pub(super) fn hold(&self, data: Bytes) -> Option<Bytes> {
        self.unsent.hold(data)
    }

    /// Tells all of it.
    pub(super) fn tell(&self, page: &mut Page, extensive: bool) {
        let name = "grpc_server_started_total";
        page.metric(name, "counter", "Calls that began.");
        for method in &self.methods {
            page.sample(name, &method.labels(), precise(method.started.get()));
        }
        type Messages = fn(&Method) -> &Counter;
        let messages: [(&str, &str, Messages); 2] = [
            ("grpc_server_msg_received_total", "Messages that clients sent.", |method| &method.received),
            ("grpc_server_msg_sent_total", "Messages that clients were sent.", |method| &method.sent),
        ];
        for (name, help, counter) in messages {
            page.metric(name, "counter", help);
            for method in &self.methods {
                page.sample(name, &method.labels(), precise(counter(method).get()));
            }
        }
        let name = "grpc_server_handled_total";
        page.metric(name, "counter", "Calls that ended, by how.");
        for method in &self.methods {
            for (code, handled) in CODES.iter().zip(&method.handled) {
                let labels: Vec<_> = [("grpc_code", *code)].into_iter().chain(method.labels()).collect();
                page.sample(name, &labels, precise(handled.get()));
            }
        }
        if extensive {
            let name = "grpc_server_handling_seconds";
            page.metric(name, "histogram", "How long calls took.");
            for method in &self.methods {
                page.histogram(name, &method.labels(), &method.took);
            }
        }
        self.tell_versions(page);
        page.counter(
            "etcd_network_client_grpc_received_bytes_total",
            "Bytes that clients sent.",
            self.received_bytes.get(),
        );
        page.counter(
            "etcd_network_client_grpc_sent_bytes_total",
            "Bytes that clients were sent.",
            self.sent_bytes.get(),
        );
    }
}

impl Calls {
    fn tell_versions(&self, page: &mut Page) {
        let name = "etcd_server_client_requests_total";
        page.metric(name, "counter", "Calls, by the version of etcd's API that clients say they speak.");
        for (version, asked) in self.versions.all().chain([(OTHER, self.versions.others())]) {
            for (form, counter) in [("unary", &asked.unary), ("stream", &asked.streams)] {
                if counter.get() > 0 {
                    page.sample(name, &[("client_api_version", version), ("type", form)], precise(counter.get()));
                }
            }
        }
    }
}

impl Method {
    fn labels(&self) -> [(&'static str, &'static str); 3] {
        [("grpc_method", self.name), ("grpc_service", self.service), ("grpc_type", self.form.name())]
    }
}

#[expect(clippy::cast_precision_loss, reason = "a metric is a float")]
fn precise(n: u64) -> f64 {
    n as f64
}

/// A call that has begun. Dropped before its end, it was given up by its client.
#[derive(Debug)]
pub(super) struct Call {
    calls: Arc<Calls>,
    method: usize,
    peer: Option<Arc<Peer>>,
    watch: Stopwatch,
    /// What was sent of the response.
    frames: Frames,
    ended: bool,
}

impl Call {
    /// The signal that ends the wait of a call that others let go on; none of any other call.
    pub(super) fn until(&self) -> Option<Stop> {
        let waits = self.calls.methods[self.method].form == Form::Waiting;
        waits.then(|| self.calls.stop.clone())
    }

    /// The response, watched to its end.
    pub(super) fn answered(mut self, response: Response<Body>) -> Response<Body> {
        // An answer that is nothing but a refusal has its status in front.
        if response.headers().contains_key(STATUS) {
            self.end(code_of(response.headers()));
            return response;
        }
        let streams = self.calls.methods[self.method].form.streams();
        let stopped: Option<Stopped> = streams.then(|| {
            let stop = self.calls.stop.clone();
            Box::pin(async move { stop.stopped().await }) as Stopped
        });
        response.map(|body| Body::new(Answered { body, call: self, stopped }))
    }

    /// A piece of the response, counted; or the end of it, when too much waits for its readers already. Streams have limits
    /// of their own.
    fn counted(&mut self, data: Bytes) -> Frame<Bytes> {
        let bytes = data.len() as u64;
        let is_stream = self.calls.methods[self.method].form.streams();
        let held = if is_stream { Some(data) } else { self.calls.unsent.hold(data) };
        let Some(data) = held else { return self.broken_off(EXHAUSTED, TOO_MANY) };
        self.calls.sent_bytes.add(bytes);
        self.calls.methods[self.method].sent.add(self.frames.pass(&data));
        Frame::data(data)
    }

    /// The last piece of a response that is not brought to its end.
    fn broken_off(&mut self, code: &'static str, message: HeaderValue) -> Frame<Bytes> {
        let trailers = HeaderMap::from_iter([(STATUS, HeaderValue::from_static(code)), (MESSAGE, message)]);
        self.end(code_of(&trailers));
        Frame::trailers(trailers)
    }

    /// Tells of a call that took too long, in etcd's words; of what was asked nothing.
    fn tell_slow(&self, took: Duration) {
        let Some(untold) = self.calls.slow.line() else { return };
        let started = Clock::System.now() - took;
        tracing::warn!(
            "start time" = %started.to_rfc3339(),
            "time spent" = go_time(took),
            remote = self.peer.as_ref().map(ToString::to_string),
            "response type" = self.calls.methods[self.method].path,
            untold = (untold > 0).then_some(untold),
            "request stats"
        );
    }

    fn end(&mut self, code: usize) {
        if std::mem::replace(&mut self.ended, true) {
            return;
        }
        let method = &self.calls.methods[self.method];
        let took = self.watch.elapsed();
        method.handled[code].increment();
        method.took.observe(took);
        if method.form == Form::Unary && self.calls.slow.is(took) {
            self.tell_slow(took);
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        if let Some(peer) = self.peer.as_ref().filter(|_| !self.ended) {
            peer.gave_up(self.calls.methods[self.method].name);
        }
        self.end(CANCELED);
    }
}

fn code_of(headers: &HeaderMap) -> usize {
    let code = headers.get(STATUS).and_then(|code| code.to_str().ok()).and_then(|code| code.parse::<usize>().ok());
    code.filter(|code| *code < CODES.len()).unwrap_or(UNKNOWN)
}

type Stopped = Pin<Box<dyn Future<Output = ()> + Send>>;

/// The body of a response.
struct Answered {
    body: Body,
    call: Call,
    /// Until when a stream may go on.
    stopped: Option<Stopped>,
}

impl hyper::body::Body for Answered {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let this = &mut *self;
        if this.call.ended {
            return Poll::Ready(None);
        }
        if let Some(stopped) = &mut this.stopped
            && stopped.as_mut().poll(context).is_ready()
        {
            this.stopped = None;
            return Poll::Ready(Some(Ok(this.call.broken_off(UNAVAILABLE, STOPPED))));
        }
        let frame = ready!(Pin::new(&mut this.body).poll_frame(context));
        let Some(Ok(frame)) = frame else {
            this.call.end(UNKNOWN);
            return Poll::Ready(frame);
        };
        if let Some(trailers) = frame.trailers_ref() {
            this.call.end(code_of(trailers));
        }
        Poll::Ready(Some(Ok(match frame.into_data() {
            Ok(data) => this.call.counted(data),
            Err(other) => other,
        })))
    }

    fn is_end_stream(&self) -> bool {
        self.call.ended
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}

/// The body of a request.
struct Received<B> {
    calls: Arc<Calls>,
    method: Option<usize>,
    frames: Frames,
    body: B,
}

impl<B: hyper::body::Body<Data = Bytes> + Unpin> hyper::body::Body for Received<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        if let Some(Ok(frame)) = &frame
            && let Some(data) = frame.data_ref()
        {
            self.calls.received_bytes.add(data.len() as u64);
            if let Some(method) = self.method {
                let ended = self.frames.pass(data);
                self.calls.methods[method].received.add(ended);
            }
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt as _;

    fn calls() -> (Arc<Calls>, Stop) {
        let stop = Stop::new();
        (Arc::new(Calls::new(Duration::from_secs(1), 100 << 10, stop.clone())), stop)
    }

    fn told(calls: &Calls) -> Vec<String> {
        let mut page = Page::default();
        calls.tell(&mut page, false);
        page.into_text()
            .lines()
            .filter(|line| !line.starts_with('#') && !line.ends_with(" 0"))
            .map(str::to_owned)
            .collect()
    }

    fn trailed(data: &'static str, code: &'static str) -> Response<Body> {
        let frames = [
            Ok::<_, axum::Error>(Frame::data(Bytes::from(data))),
            Ok(Frame::trailers(HeaderMap::from_iter([(STATUS, HeaderValue::from_static(code))]))),
        ];
        Response::new(Body::new(http_body_util::StreamBody::new(futures::stream::iter(frames))))
    }

    #[tokio::test]
    async fn calls_are_counted_by_how_they_end() {
        let (calls, _stop) = calls();
        let put = "/etcdserverpb.KV/Put";
        let body = calls.begin(put, &HeaderMap::new()).unwrap().answered(trailed("\0\0\0\0\u{2}ab", "0")).into_body();
        assert_eq!(body.collect().await.unwrap().to_bytes(), "\0\0\0\0\u{2}ab");
        let mut refused = Response::new(Body::empty());
        refused.headers_mut().insert(STATUS, HeaderValue::from_static("8"));
        drop(calls.begin(put, &HeaderMap::new()).unwrap().answered(refused));
        drop(calls.begin(put, &HeaderMap::new()).unwrap().answered(trailed("", "0")));
        assert!(calls.begin("/etcdserverpb.KV/Invented", &HeaderMap::new()).is_none());
        let labels = "grpc_method=\"Put\",grpc_service=\"etcdserverpb.KV\",grpc_type=\"unary\"";
        let expected = [
            format!("grpc_server_started_total{{{labels}}} 3"),
            format!("grpc_server_msg_sent_total{{{labels}}} 1"),
            format!("grpc_server_handled_total{{grpc_code=\"OK\",{labels}}} 1"),
            format!("grpc_server_handled_total{{grpc_code=\"Canceled\",{labels}}} 1"),
            format!("grpc_server_handled_total{{grpc_code=\"ResourceExhausted\",{labels}}} 1"),
            "etcd_server_client_requests_total{client_api_version=\"unknown\",type=\"unary\"} 3".to_owned(),
            "etcd_network_client_grpc_sent_bytes_total 7".to_owned(),
        ];
        assert_eq!(told(&calls), expected);
    }

    #[tokio::test]
    async fn a_stream_ends_when_the_member_stops() {
        let (calls, stop) = calls();
        let endless = || {
            Response::new(Body::new(http_body_util::StreamBody::new(futures::stream::pending::<
                Result<Frame<Bytes>, axum::Error>,
            >())))
        };
        let mut watch =
            calls.begin("/etcdserverpb.Watch/Watch", &HeaderMap::new()).unwrap().answered(endless()).into_body();
        stop.stop();
        let last = watch.frame().await.unwrap().unwrap();
        let trailers = last.trailers_ref().unwrap();
        assert_eq!(
            (trailers[STATUS].to_str().unwrap(), trailers[MESSAGE].to_str().unwrap()),
            ("14", "etcdserver: server stopped")
        );
        assert!(watch.frame().await.is_none());
        assert!(
            told(&calls).iter().any(|line| line.contains("grpc_code=\"Unavailable\"") && line.contains("\"Watch\""))
        );
    }

    #[tokio::test]
    async fn a_reply_without_room_is_refused_and_the_others_are_not() {
        let (calls, _stop) = calls();
        let large: &'static str = "x".repeat(80 << 10).leak();
        let begin = |data| {
            calls.begin("/etcdserverpb.KV/Range", &HeaderMap::new()).unwrap().answered(trailed(data, "0")).into_body()
        };
        let mut first = begin(large);
        let unread = first.frame().await.unwrap().unwrap();
        assert_eq!(begin("small").collect().await.unwrap().to_bytes(), "small");
        let refused = begin(large).collect().await.unwrap();
        let trailers = refused.trailers().unwrap();
        assert_eq!(
            (trailers[STATUS].to_str().unwrap(), trailers[MESSAGE].to_str().unwrap()),
            ("8", "etcdserver: too many requests")
        );
        assert!(refused.to_bytes().is_empty());
        drop((first, unread));
        assert_eq!(begin(large).collect().await.unwrap().to_bytes(), large);
        assert!(
            told(&calls).iter().any(|line| line.contains("grpc_code=\"ResourceExhausted\"") && line.ends_with(" 1"))
        );
    }

    #[tokio::test]
    async fn what_clients_send_is_counted() {
        let (calls, _stop) = calls();
        let sent = http_body_util::Full::new(Bytes::from("123")).map_err(|never| match never {});
        calls.received(None, sent).collect().await.unwrap();
        assert_eq!(told(&calls), ["etcd_network_client_grpc_received_bytes_total 3"]);
    }
}
