//! Listeners: sockets, TLS, HTTP/1.1 and HTTP/2 on one port, and an end without torn answers.
//!
//! One port serves everything: the first bytes of a connection tell HTTP/2 from HTTP/1.1 (with TLS, ALPN has), and the
//! content type tells gRPC from pages and from JSON (`gateway`). Sockets are bound before anything else is touched, so a port in use costs nothing.
//!
//! The end is in order: no connection is taken any more, clients are told to go elsewhere (GOAWAY), requests that are under
//! way get their answers, streams are ended (`calls`), and what is left after a while is cut.
//!
//! Invariants:
//! - A connection that does not finish its handshake, or its first request line, is cut after a while; so is one whose other
//!   end takes nothing of what it was sent.
//! - There are never more connections than the limit on files allows, with a reserve for the member's own.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::response::IntoResponse as _;
use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use http::{HeaderMap, Method, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tower::ServiceExt as _;

use crate::base::cork::corked;
use crate::base::error::{Error, IoContext, Kind, Result};
use crate::base::process::files_max;
use crate::base::socket::cut_when_unread;
use crate::base::stop::Stop;
use crate::base::tls::{ServerTls, common_name};
use crate::base::units;
use crate::store::options::value::Address;
use crate::store::options::{Connections, Listeners};
use crate::store::server::calls::Calls;
use crate::store::server::entry::{Entry, never};
use crate::store::server::gateway::{Afterwards, Gateway};
use crate::store::server::http::{Pages, misdirected, not_found};
use crate::store::server::inside::Inside;
use crate::store::server::lenient::lenient;
use crate::store::server::origins;
use crate::store::server::peer::{Closable, Peer, noted};
use crate::store::server::pings::counted;
use crate::store::server::rejections::Rejections;
use crate::store::server::socket::{self, Socket, SocketFile};

/// How long a client may take to greet.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);
/// How long one may take to send the head of a request over HTTP/1.1.
const HEAD_LIMIT: Duration = Duration::from_secs(30);
/// How long requests that are under way have at the end.
const DRAIN_LIMIT: Duration = Duration::from_secs(5);
/// After an error of the system that says nothing about one connection, so long until the next is taken.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Files that the member itself needs; etcd's figure.
const FILES_RESERVED: u64 = 150;
/// More connections than that are not worth their memory.
const CONNECTIONS_MAX: usize = 200_000;

const HINT_IN_USE: &str = "nothing was changed. Another program listens there, perhaps etcd or another member: stop it, or \
                           give another address";

/// Streams of a connection that the server ends because of what the client sent on them. Clients that give calls up at the
/// wrong moment come to a thousand in a day, which is where the library would end the connection; etcd has no such limit.
const RESETS_MAX: usize = 1 << 20;
/// Streams that a client gave up before they were looked at: as many as it may have at once, and some.
const RESETS_WAITING_MAX: usize = 4096;
/// What a listener answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Face {
    /// gRPC and pages.
    All,
    /// gRPC.
    Grpc,
    /// Pages.
    Pages,
    /// Metrics and probes.
    Probes,
}

/// A socket that is bound.
#[derive(Debug)]
pub struct Bound {
    socket: Socket,
    address: Address,
    face: Face,
}

/// Binds every socket, or none.
pub fn bind(listeners: &Listeners) -> Result<Vec<Bound>> {
    let grpc = if listeners.http.is_empty() { Face::All } else { Face::Grpc };
    let faces = [(&listeners.grpc, grpc), (&listeners.http, Face::Pages), (&listeners.metrics, Face::Probes)];
    let wanted = faces.into_iter().flat_map(|(addresses, face)| addresses.iter().map(move |address| (address, face)));
    let bind = |(address, face): (&Address, Face)| {
        Ok(Bound { socket: bind_one(address, listeners.shares_port)?, address: address.clone(), face })
    };
    wanted.map(bind).collect()
}

fn bind_one(address: &Address, shares_port: bool) -> Result<Socket> {
    socket::bind(address, shares_port).map_err(|error| {
        use std::io::ErrorKind;
        let (kind, hint) = match error.kind() {
            ErrorKind::AddrInUse => (Kind::Conflict, HINT_IN_USE),
            ErrorKind::AddrNotAvailable => (Kind::Usage, "this host does not have that address: give one that it has"),
            _ if address.scheme.is_unix() => (Kind::Denied, "give a file in a folder that this user may write to"),
            _ => (Kind::Denied, "give an address and a port that this user may listen at"),
        };
        Error::io(format!("listen at {}", address.text), error).kind_of(kind).hint(hint)
    })
}

/// What is served, and how.
#[derive(Debug)]
pub struct Server {
    /// etcd's services.
    pub services: Router,
    /// Pages.
    pub pages: Pages,
    /// What calls cost.
    pub calls: Arc<Calls>,
    /// Certificates, where a listener needs them.
    pub tls: Option<Arc<ServerTls>>,
    /// How connections are kept.
    pub connections: Connections,
    /// Names by which plain HTTP may address the member; none for all.
    pub hosts: Option<Vec<String>>,
    /// Origins of web pages that may ask over HTTP; none for all.
    pub origins: Option<Vec<String>>,
    /// Whether the services are there as JSON.
    pub gateway: bool,
    /// Whether the common name in a client's certificate is a user's name.
    pub names_users: bool,
}

/// What every connection is given.
struct Shared {
    entry: Entry,
    pages: Router,
    probes: Router,
    gateway: Option<Arc<Gateway>>,
    hosts: Option<Vec<String>>,
    origins: Option<Vec<String>>,
    names_users: bool,
    connections: Connections,
    permits: Arc<Semaphore>,
    rejections: Rejections,
}

impl Server {
    /// Serves until `stop`, and returns when everything is answered or cut.
    pub async fn serve(self, bound: Vec<Bound>, stop: Stop) -> Result<()> {
        let files = usize::try_from(files_max().saturating_sub(FILES_RESERVED)).unwrap_or(usize::MAX);
        let entry = Entry::new(self.services, self.calls);
        let files = files.clamp(1, CONNECTIONS_MAX);
        let permits = Arc::new(Semaphore::new(files));
        let patience = Some((self.connections.keepalive_interval, self.connections.keepalive_timeout));
        let patience = patience.filter(|(interval, timeout)| !interval.is_zero() && !timeout.is_zero());
        let gateway = || Arc::new(Gateway::new(entry.clone(), &self.pages.handle, patience, stop.clone()));
        let shared = Arc::new(Shared {
            gateway: self.gateway.then(gateway),
            entry,
            pages: self.pages.all().fallback(not_found),
            probes: self.pages.probes().fallback(not_found),
            hosts: self.hosts,
            origins: self.origins,
            names_users: self.names_users,
            connections: self.connections,
            permits: Arc::clone(&permits),
            rejections: Rejections::default(),
        });
        let mut listening = vec![];
        for bound in bound {
            let doorway = Doorway::of(bound.socket).during(|| format!("listen at {}", bound.address.text))?;
            let is_secure = bound.address.scheme.is_secure();
            let tls = self.tls.clone().filter(|_| is_secure);
            if is_secure && tls.is_none() {
                let hint = "give a certificate and its key";
                return Err(Error::new(Kind::Usage, format!("{} needs a certificate", bound.address.text)).hint(hint));
            }
            let one = Listener { doorway, tls, face: bound.face, shared: Arc::clone(&shared) };
            listening.push(tokio::spawn(one.run(stop.clone())));
        }
        stop.stopped().await;
        for listener in listening {
            // It ends with the signal; a panic in it has been told already.
            drop(listener.await);
        }
        // Each connection has one.
        let all = u32::try_from(files).unwrap_or(u32::MAX);
        if timeout(DRAIN_LIMIT, permits.acquire_many(all)).await.is_err() {
            tracing::warn!("connections that were still busy after {DRAIN_LIMIT:?} are cut");
        }
        Ok(())
    }
}

/// A socket from which connections are taken.
enum Doorway {
    Tcp(TcpListener),
    /// The file is removed with it.
    Unix {
        socket: UnixListener,
        _file: SocketFile,
    },
}

/// A connection as it was taken.
enum Taken {
    Tcp(TcpStream, SocketAddr),
    Unix(UnixStream),
}

impl Doorway {
    fn of(socket: Socket) -> std::io::Result<Doorway> {
        match socket {
            Socket::Tcp(socket) => TcpListener::from_std(socket).map(Doorway::Tcp),
            Socket::Unix(socket, file) => Ok(Doorway::Unix { socket: UnixListener::from_std(socket)?, _file: file }),
        }
    }

    async fn accept(&self) -> std::io::Result<Taken> {
        match self {
            Doorway::Tcp(socket) => socket.accept().await.map(|(stream, address)| Taken::Tcp(stream, address)),
            Doorway::Unix { socket, .. } => socket.accept().await.map(|(stream, _)| Taken::Unix(stream)),
        }
    }
}

struct Listener {
    doorway: Doorway,
    tls: Option<Arc<ServerTls>>,
    face: Face,
    shared: Arc<Shared>,
}

impl Listener {
    /// The next connection, once there is room for one.
    async fn next(&self) -> (OwnedSemaphorePermit, std::io::Result<Taken>) {
        let permit = Arc::clone(&self.shared.permits).acquire_owned().await;
        (permit.expect("nobody closes the semaphore"), self.doorway.accept().await)
    }

    async fn run(self, stop: Stop) {
        loop {
            let (permit, taken) = tokio::select! {
                biased;
                () = stop.stopped() => return,
                next = self.next() => next,
            };
            match taken {
                Ok(Taken::Tcp(stream, address)) => {
                    self.shared.tune(&stream);
                    self.welcome(stream, Some(address), permit, &stop);
                }
                Ok(Taken::Unix(stream)) => self.welcome(stream, None, permit, &stop),
                Err(error) => {
                    tracing::warn!("take a connection: {error}");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    /// Gives a connection a task of its own.
    fn welcome(
        &self,
        stream: impl AsyncRead + AsyncWrite + Closable + Unpin + Send + 'static,
        address: Option<SocketAddr>,
        permit: OwnedSemaphorePermit,
        stop: &Stop,
    ) {
        let (tls, shared, face) = (self.tls.clone(), Arc::clone(&self.shared), self.face);
        let (stop, peer) = (stop.clone(), Peer::new(address));
        tokio::spawn(async move {
            tokio::select! {
                () = greet(stream, tls, shared, face, &peer, &stop) => {}
                () = seldom(late(&stop)) => {}
            }
            drop(permit);
        });
    }
}

/// Returns some time after the signal, when connections have had time to end.
async fn late(stop: &Stop) {
    stop.stopped().await;
    tokio::time::sleep(DRAIN_LIMIT).await;
}

/// The same, looked at when it wakes and not whenever the connection does: all connections wait for one signal, which has
/// a lock.
async fn seldom(rare: impl Future<Output = ()>) {
    let mut rare = FuturesUnordered::from_iter([rare]);
    rare.next().await;
}

/// A connection from its handshake to its end.
async fn greet(
    stream: impl AsyncRead + AsyncWrite + Closable + Unpin + Send + 'static,
    tls: Option<Arc<ServerTls>>,
    shared: Arc<Shared>,
    face: Face,
    peer: &Arc<Peer>,
    stop: &Stop,
) {
    let stream = noted(stream, peer);
    let Some(tls) = tls else { return converse(stream, shared, (face, false), peer, stop).await };
    let handshake = timeout(HANDSHAKE_LIMIT, TlsAcceptor::from(tls.config()).accept(stream));
    let greeted = tokio::select! {
        // Whoever has not even greeted is not waited for.
        () = stop.stopped() => return,
        greeted = handshake => greeted,
    };
    match greeted {
        Ok(Ok(stream)) => {
            if shared.names_users
                && let Some(certificate) = stream.get_ref().1.peer_certificates().and_then(<[_]>::first)
                && let Some(name) = common_name(certificate)
            {
                peer.is_named(name);
            }
            converse(stream, shared, (face, true), peer, stop).await;
        }
        Ok(Err(error)) => shared.rejections.tell(peer, &error.to_string()),
        Err(_) => tracing::debug!(remote_addr = %peer, "a client did not finish its handshake"),
    }
}

async fn converse(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    shared: Arc<Shared>,
    (face, secure): (Face, bool),
    peer: &Arc<Peer>,
    stop: &Stop,
) {
    let inside = Inside::default();
    let mut builder = Builder::new(inside.clone());
    let connections = &shared.connections;
    let patience = connections.keepalive_timeout;
    // Whoever closes its half when it has asked, as scripts do that pipe a request, is answered.
    builder.http1().half_close(true).timer(TokioTimer::new()).header_read_timeout(HEAD_LIMIT);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(connections.streams_max)
        .max_local_error_reset_streams(Some(RESETS_MAX))
        .max_pending_accept_reset_streams(Some(RESETS_WAITING_MAX))
        .keep_alive_interval(Some(connections.keepalive_interval).filter(|interval| !interval.is_zero()))
        .keep_alive_timeout(connections.keepalive_timeout);
    let stream = counted(corked(lenient(stream)), connections.ping_interval_min, peer);
    let afterwards = Afterwards::default();
    let later = afterwards.clone();
    let service = service_fn(move |request| {
        let (shared, later) = (Arc::clone(&shared), later.clone());
        async move { Ok::<_, Infallible>(shared.answer(request, &later, face, secure).await) }
    });
    let stopped = seldom(stop.stopped());
    let connection = async {
        let mut connection = pin!(builder.serve_connection_with_upgrades(TokioIo::new(stream), service));
        let ended = tokio::select! {
            biased;
            ended = connection.as_mut() => ended,
            () = stopped => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        // What is let go from here on has nobody to answer to.
        peer.ends();
        ended
    };
    let connection = inside.drive(connection);
    let ended = peer.scope(async {
        let ended = connection.await;
        if ended.is_ok()
            && let Some(session) = afterwards.take()
        {
            session.await;
        }
        ended
    });
    let ended = ended.await;
    if peer.was_cut(ended.as_ref().err().map(|error| &**error as _)) {
        let (patience, doing) = (units::duration(patience), peer.doing());
        tracing::warn!(remote_addr = %peer, calls = doing, "a client gave no sign of life for {patience} and was cut off");
    } else if let Err(error) = ended {
        tracing::debug!(remote_addr = %peer, "a connection ended: {error}");
    }
}

impl Shared {
    fn tune(&self, stream: &TcpStream) {
        // Answers are written whole.
        let _ = stream.set_nodelay(true);
        let connections = &self.connections;
        if !connections.keepalive_interval.is_zero() && !connections.keepalive_timeout.is_zero() {
            // A system that cannot is asked by HTTP/2 alone.
            let _ = cut_when_unread(stream, connections.keepalive_timeout);
        }
    }

    async fn answer(
        &self,
        request: Request<Incoming>,
        afterwards: &Afterwards,
        face: Face,
        secure: bool,
    ) -> Response<Body> {
        // Over HTTP/1 it is what a browser sends, whose page may be of anybody.
        let is_grpc = request.version() == http::Version::HTTP_2 && is_grpc(request.headers());
        if is_grpc && matches!(face, Face::All | Face::Grpc) {
            return self.entry.call(request).await;
        }
        if !secure
            && let Some(hosts) = &self.hosts
            && let Some(refusal) =
                misdirected(request.headers(), request.uri().authority().map(http::uri::Authority::as_str), hosts)
        {
            return refusal;
        }
        match face {
            Face::Probes => never(self.probes.clone().oneshot(request.map(Body::new)).await),
            Face::Grpc => not_found().await,
            Face::All | Face::Pages => self.page(request, afterwards).await,
        }
    }

    /// Answers over HTTP, and tells browsers who may read it.
    async fn page(&self, request: Request<Incoming>, afterwards: &Afterwards) -> Response<Body> {
        let origin = request.headers().get(header::ORIGIN).cloned();
        let mut response = match &self.gateway {
            // What a browser asks before it asks.
            _ if request.method() == Method::OPTIONS => Response::default(),
            _ if Gateway::is_socket(&request) && !origins::may_talk(self.origins.as_deref(), origin.as_ref()) => {
                StatusCode::FORBIDDEN.into_response()
            }
            Some(gateway) if Gateway::has(request.uri().path()) => gateway.answer(request, afterwards).await,
            _ => never(self.pages.clone().oneshot(request.map(Body::new)).await),
        };
        origins::tell(self.origins.as_deref(), origin.as_ref(), &mut response);
        response
    }
}

fn is_grpc(headers: &HeaderMap) -> bool {
    headers.get(header::CONTENT_TYPE).is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"))
}
