//! Watches: changes as they happen, and history that is not compacted yet.
//!
//! Many watchers share a stream. A stream **pulls**: it knows how far it has told, and when the connection has room it takes
//! what was published since from the node's hub, picks out what its watchers want (`session`), and hands it to the
//! connection. Nobody queues anything for it, so a client that does not read costs nothing but its place; when the hub has
//! moved on meanwhile, the stream goes on from history and joins again. Several revisions that wait go into one reply.
//!
//! Events never become messages here: what is stored is copied between a few bytes of framing (`wire`, `mvcc::watch`), and
//! everybody who wants the same shares what was picked.
//!
//! ```text
//!   hub ──since──> step ──┐
//!                         ├── replies ──> channel of one burst ──> connection
//!   history ──chunk──> ───┘
//! ```
//!
//! Where this differs from etcd, it is on purpose:
//! - A reply holds all that waits for a watcher, up to 1,000 revisions, and not one revision each. Its header names the last
//!   revision in it.
//! - While a watcher catches up over several replies, each header says how far it has come; etcd names the store's revision
//!   in all of them, ahead of events that are still to come. In the last one both say the same.
//! - There may be too many watchers, or streams; etcd takes them all.

mod groups;
mod session;
mod stream;
mod wire;

#[cfg(test)]
mod tests;

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::{BoxFuture, Ready, ready};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tonic::body::Body;
use tonic::server::{Grpc, NamedService, StreamingService};
use tonic::{Request, Response, Status, Streaming};

use crate::api::etcdserverpb::WatchRequest;
use crate::store::mvcc::watch::past;
use crate::store::node::Handle;
use crate::store::options::Tuning;
use crate::store::server::identity::Claim;
use crate::store::server::status::Reason;
use crate::store::server::watch::session::Session;
use crate::store::server::watch::stream::{Said, Talk};
use crate::store::server::watch::wire::{Reply, Wire};
use crate::store::server::{ENVELOPE_BYTES, gate};

const METHOD: &str = "/etcdserverpb.Watch/Watch";
/// Bursts of replies that wait for the connection, beside the one that is being written.
const BURSTS_MAX: usize = 1;
/// Streams that read history at the same time; the others wait their turn.
const READERS_MAX: usize = 4;

/// What streams and watchers may take.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Streams.
    pub streams_max: usize,
    /// Watchers of one stream.
    pub watchers_max: usize,
    /// A reply of so many bytes is split, for who wants that.
    pub fragment_bytes: usize,
    /// Between two notes of how far a watcher has come.
    pub progress: Duration,
    /// What is told at once, whether it comes from the hub or from history.
    pub past: past::Limits,
}

impl Limits {
    /// What a member was told.
    pub fn of(tuning: &Tuning) -> Self {
        Limits {
            streams_max: tuning.watch_streams_max,
            watchers_max: tuning.watchers_max,
            fragment_bytes: tuning.request_bytes_max + ENVELOPE_BYTES,
            progress: tuning.watch_progress,
            past: past::Limits::default(),
        }
    }
}

/// How much is watched, and which ways were taken.
#[derive(Debug, Default)]
pub struct Counters {
    /// Streams that are open.
    pub streams: AtomicU64,
    /// Watchers there are.
    pub watchers: AtomicU64,
    /// Watchers that read history.
    pub lagging: AtomicU64,
    /// Events that were told.
    pub events: AtomicU64,
    /// Events that wait for their stream.
    pub pending: AtomicU64,
    /// Steps from the hub.
    pub steps: AtomicU64,
    /// Keys that were looked up for what they were before, for steps.
    pub befores: AtomicU64,
    /// Chunks of history that were scanned.
    pub scans: AtomicU64,
    /// Chunks of history that the index named.
    pub lookups: AtomicU64,
    /// Times that a stream found the hub gone on.
    pub fell_behind: AtomicU64,
    /// Watchers that ended because history was compacted before they had read it.
    pub compacted: AtomicU64,
    /// Replies that were split.
    pub fragmented: AtomicU64,
}

impl Counters {
    fn add(counter: &AtomicU64, n: usize) {
        counter.fetch_add(n as u64, Ordering::Relaxed);
    }

    fn sub(counter: &AtomicU64, n: usize) {
        counter.fetch_sub(n as u64, Ordering::Relaxed);
    }
}

/// The service.
#[derive(Clone, Debug)]
pub struct Service {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    handle: Handle,
    limits: Limits,
    counters: Arc<Counters>,
    streams: Arc<Semaphore>,
    readers: Arc<Semaphore>,
}

impl Service {
    /// Of this member.
    pub fn new(handle: &Handle) -> Self {
        Service::with(handle, Limits::of(handle.tuning()))
    }

    /// Of this member, with limits of its own.
    pub fn with(handle: &Handle, limits: Limits) -> Self {
        let inner = Inner {
            handle: handle.clone(),
            limits,
            counters: Arc::default(),
            streams: Arc::new(Semaphore::new(limits.streams_max)),
            readers: Arc::new(Semaphore::new(READERS_MAX)),
        };
        Service { inner: Arc::new(inner) }
    }

    /// What it does.
    pub fn counters(&self) -> &Arc<Counters> {
        &self.inner.counters
    }

    fn open(&self, request: Request<Streaming<WatchRequest>>) -> Result<Response<Said>, Status> {
        let inner = &self.inner;
        let place = Arc::clone(&inner.streams).try_acquire_owned().map_err(|_| Reason::TooManyStreams)?;
        let wants_leader = gate::wants_leader(request.metadata().as_ref());
        let (sender, said) = mpsc::channel(BURSTS_MAX);
        let session = Session::new(inner.limits, Arc::clone(&inner.counters));
        let (claim, readers) = (Claim::of(&request), Arc::clone(&inner.readers));
        let talk = Talk::new(&inner.handle, session, inner.limits, readers, claim, wants_leader);
        let open = Open::new(place, &inner.counters);
        tokio::spawn(async move {
            talk.run(request.into_inner(), sender).await;
            drop(open);
        });
        Ok(Response::new(Said::new(said)))
    }
}

/// A stream's place among the streams.
struct Open {
    counters: Arc<Counters>,
    _place: OwnedSemaphorePermit,
}

impl Open {
    fn new(place: OwnedSemaphorePermit, counters: &Arc<Counters>) -> Self {
        Counters::add(&counters.streams, 1);
        Open { counters: Arc::clone(counters), _place: place }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        Counters::sub(&self.counters.streams, 1);
    }
}

impl NamedService for Service {
    const NAME: &'static str = "etcdserverpb.Watch";
}

/// The only method.
struct Watch(Service);

impl StreamingService<WatchRequest> for Watch {
    type Response = Reply;
    type ResponseStream = Said;
    type Future = Ready<Result<Response<Said>, Status>>;

    fn call(&mut self, request: Request<Streaming<WatchRequest>>) -> Self::Future {
        ready(self.0.open(request))
    }
}

impl<B> tower::Service<http::Request<B>> for Service
where
    B: tonic::codegen::Body + Send + 'static,
    B::Error: Into<tonic::codegen::StdError> + Send + 'static,
{
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        if request.uri().path() != METHOD {
            return ready(Ok(Status::unimplemented("").into_http())).boxed();
        }
        let watch = Watch(self.clone());
        let receive_bytes_max = self.inner.limits.fragment_bytes;
        async move {
            let mut grpc = Grpc::new(Wire).max_decoding_message_size(receive_bytes_max);
            Ok(grpc.streaming(watch, request).await)
        }
        .boxed()
    }
}
