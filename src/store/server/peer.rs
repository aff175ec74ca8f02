//! Who is at the other end of a connection, and what is told of it when it is cut off.
//!
//! A connection and all its requests are one task (decisions/0029), so the peer is a value of that task: whoever works for
//! a request can name it without having been handed it.
//!
//! A client that is stopped, or gone with its network, holds memory here for as long as nobody notices. HTTP/2 asks it for
//! a sign of life now and then, and closes the connection without an answer; where so much was sent already that nothing
//! more goes out, neither does that question, and the system ends the connection (`base::socket`), as grpc-go has it do
//! for etcd. Neither says whose connection that was, and what it was waiting for. This module does.
//!
//! Over HTTP/1.1 nobody reads from a connection while a request is answered, so a client that gives up is not noticed
//! before something is sent to it. Where that may take long, as with a lock that somebody else has, the connection is
//! asked now and then whether its other end is closed.

use std::collections::BTreeMap;
use std::error::Error as StdError;
use std::fmt;
use std::io::{Error, ErrorKind, Result};
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use futures::FutureExt as _;
use tokio::io::{AsyncWrite, Interest, Ready};
use tokio::net::{TcpStream, UnixStream};

use crate::base::layer::{Layer, Layered};

/// What was called by a client that called nothing.
const NOTHING: &str = "nothing";
/// Between two looks whether a client that waits is still there.
const LOOK: Duration = Duration::from_millis(500);

tokio::task_local! {
    static PEER: Arc<Peer>;
}

/// The other end of a connection.
#[derive(Debug)]
pub(super) struct Peer {
    /// None when it came over a Unix socket.
    address: Option<SocketAddr>,
    /// The common name in the certificate that it showed, where that says who it is.
    common_name: OnceLock<String>,
    /// The system cut it off.
    cut: AtomicBool,
    /// What it asked last.
    last: Mutex<&'static str>,
    /// Requests that want to know whether it is still there.
    watching: AtomicUsize,
    /// It sends nothing more.
    closed: AtomicBool,
    /// Nothing is read or written any more.
    ended: AtomicBool,
    /// What was not answered to its end when the connection ended, and how often. What a client gives up by itself is not.
    unanswered: Mutex<BTreeMap<&'static str, u32>>,
}

impl Peer {
    /// At this address; none when it came over a Unix socket.
    pub(super) fn new(address: Option<SocketAddr>) -> Arc<Peer> {
        Arc::new(Peer {
            address,
            common_name: OnceLock::new(),
            cut: AtomicBool::default(),
            last: Mutex::new(NOTHING),
            watching: AtomicUsize::default(),
            closed: AtomicBool::default(),
            ended: AtomicBool::default(),
            unanswered: Mutex::default(),
        })
    }

    /// Its certificate has this common name.
    pub(super) fn is_named(&self, common_name: String) {
        // A connection has one handshake.
        let _ = self.common_name.set(common_name);
    }

    /// Runs the connection of this peer.
    pub(super) async fn scope<T>(self: &Arc<Self>, connection: impl Future<Output = T>) -> T {
        PEER.scope(Arc::clone(self), connection).await
    }

    /// Whether the connection ended, as this error says, because it gave no sign of life.
    pub(super) fn was_cut(&self, ended: Option<&(dyn StdError + 'static)>) -> bool {
        let silent = ended.and_then(|error| error.downcast_ref::<hyper::Error>()).is_some_and(hyper::Error::is_timeout);
        // Pages and JSON are asked for over HTTP/1.1, where whoever has nothing more to ask is let go the same way.
        let called = *self.last.lock().unwrap_or_else(PoisonError::into_inner) != NOTHING;
        self.cut.load(Ordering::Relaxed) || silent && called
    }

    /// Returns when it has closed its end: it waits for nothing any more.
    pub(super) async fn leaves(&self) {
        let _watching = Watching::of(&self.watching);
        // Each look wakes the connection's task, which looks in its turn (`Noting`).
        while !self.closed.load(Ordering::Relaxed) {
            tokio::time::sleep(LOOK).await;
        }
    }

    /// It asks for something.
    pub(super) fn asks(&self, method: &'static str) {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = method;
    }

    /// It was answered over HTTP. Whoever has nothing more to ask there is let go after a while, which nobody need know.
    pub(super) fn asks_nothing(&self) {
        self.asks(NOTHING);
    }

    /// It gave no sign of life while this was answered, and is let go.
    pub(super) fn is_silent(&self, method: &'static str) {
        self.asks(method);
        self.cut.store(true, Ordering::Relaxed);
    }

    /// Its connection is over; requests that are left are let go after this.
    pub(super) fn ends(&self) {
        self.ended.store(true, Ordering::Relaxed);
    }

    /// A call of it was given up.
    pub(super) fn gave_up(&self, method: &'static str) {
        if !self.ended.load(Ordering::Relaxed) {
            return;
        }
        *self.unanswered.lock().unwrap_or_else(PoisonError::into_inner).entry(method).or_default() += 1;
    }

    /// What it was doing: the calls that were not answered to their end, or else the last that was.
    pub(super) fn doing(&self) -> String {
        let unanswered = self.unanswered.lock().unwrap_or_else(PoisonError::into_inner);
        let calls: Vec<String> = unanswered.iter().map(|(method, n)| format!("{n} x {method}")).collect();
        if calls.is_empty() {
            return format!("1 x {}", self.last.lock().unwrap_or_else(PoisonError::into_inner));
        }
        calls.join(", ")
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.address {
            Some(address) => address.fmt(f),
            None => f.write_str("a Unix socket"),
        }
    }
}

/// One who wants to know whether a client is still there.
struct Watching<'a>(&'a AtomicUsize);

impl<'a> Watching<'a> {
    fn of(watching: &'a AtomicUsize) -> Self {
        watching.fetch_add(1, Ordering::Relaxed);
        Watching(watching)
    }
}

impl Drop for Watching<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A socket that knows whether its other end is closed, without reading from it.
pub(super) trait Closable {
    /// Whether it is.
    fn is_closed(&self) -> bool;
}

/// Whether a look that need not wait says so.
fn says_closed(ready: impl Future<Output = Result<Ready>>) -> bool {
    ready.now_or_never().is_some_and(|ready| ready.is_ok_and(Ready::is_read_closed))
}

impl Closable for TcpStream {
    fn is_closed(&self) -> bool {
        says_closed(self.ready(Interest::READABLE))
    }
}

impl Closable for UnixStream {
    fn is_closed(&self) -> bool {
        says_closed(self.ready(Interest::READABLE))
    }
}

/// The peer of the connection that this task is.
pub(super) fn current() -> Option<Arc<Peer>> {
    PEER.try_with(Arc::clone).ok()
}

/// The address of the other end of this connection; none over a Unix socket.
pub(super) fn ip() -> Option<IpAddr> {
    current()?.address.map(|address| address.ip())
}

/// The common name in the certificate of this connection, where that says who it is.
pub(super) fn common_name() -> Option<String> {
    current()?.common_name.get().cloned()
}

/// Its name in a log; of a task that is no connection, what it is.
pub(super) fn name(peer: Option<&Arc<Peer>>) -> String {
    peer.map_or_else(|| "this process".to_owned(), ToString::to_string)
}

/// A connection's stream, which notes that the system cut it.
pub(super) type Noted<S> = Layered<S, Noting>;

/// Whose stream it is.
#[derive(Debug)]
pub(super) struct Noting(Arc<Peer>);

/// The stream of this peer.
pub(super) fn noted<S>(stream: S, peer: &Arc<Peer>) -> Noted<S> {
    Layered { stream, layer: Noting(Arc::clone(peer)) }
}

impl<S: Closable> Layer<S> for Noting {
    fn poll_flush(&mut self, stream: Pin<&mut S>, context: &mut Context<'_>) -> Poll<Result<()>>
    where
        S: AsyncWrite,
    {
        if self.0.watching.load(Ordering::Relaxed) > 0 && stream.is_closed() {
            self.0.closed.store(true, Ordering::Relaxed);
        }
        Layer::<S>::seen(self, stream.poll_flush(context))
    }

    fn seen<T>(&mut self, polled: Poll<Result<T>>) -> Poll<Result<T>> {
        if let Poll::Ready(Err(error)) = &polled
            && Error::kind(error) == ErrorKind::TimedOut
        {
            self.0.cut.store(true, Ordering::Relaxed);
        }
        polled
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_peer_is_named_with_what_it_waited_for() {
        let peer = Peer::new("127.0.0.1:7".parse().ok());
        peer.asks("KV/Range");
        assert_eq!((peer.to_string().as_str(), peer.doing().as_str()), ("127.0.0.1:7", "1 x KV/Range"));
        peer.gave_up("Lease/LeaseKeepAlive");
        peer.ends();
        peer.gave_up("Watch/Watch");
        peer.gave_up("Watch/Watch");
        peer.gave_up("Maintenance/Snapshot");
        assert_eq!(peer.doing(), "1 x Maintenance/Snapshot, 2 x Watch/Watch");
        assert!(!peer.was_cut(None) && !peer.was_cut(Some(&Error::other("x"))));
        peer.cut.store(true, Ordering::Relaxed);
        assert!(peer.was_cut(None));
        assert!(current().is_none());
        peer.scope(async { assert_eq!(name(current().as_ref()), "127.0.0.1:7") }).await;
    }
}
