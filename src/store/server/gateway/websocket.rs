//! A call over a WebSocket (RFC 6455), for web pages: a browser's other ways to ask have no stream of questions.
//!
//! The paths are those of all calls. Each message of the client is what would stand next in the body of its request, and each
//! line of the answer is a message; when the answer ends, so does the connection. A browser cannot give a page's token in a
//! header of its own: it stands in place of a protocol, `Bearer` and then the token, as etcd's proxy has it.
//!
//! ```text
//!   GET /v3/watch, Upgrade: websocket ──begin──> 101
//!   {"create_request":{"key":"YQ=="}} ──listen──> a body ──gateway──> a call
//!   {"result":{"created":true}}       <──tell─── lines  <───────────────┘
//! ```
//!
//! The connection's task goes on with the session when HTTP is done with it (`Afterwards`): so it is limited, named and
//! ended as any connection.
//!
//! Invariants:
//! - A message is as long as a body may be, and none is taken before the one before it is wanted.
//! - A client that gives no sign of life is cut off, as over HTTP/2.

use std::convert::Infallible;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::body::Body;
use axum::extract::FromRequestParts as _;
use axum::extract::ws::{CloseFrame, Message, Utf8Bytes, WebSocket, WebSocketUpgrade, close_code};
use axum::response::IntoResponse as _;
use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::{self, SplitSink, SplitStream, StreamExt as _};
use futures::{FutureExt as _, SinkExt as _};
use http::{HeaderMap, HeaderValue, Request, Response, Version, header};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{interval_at, timeout};

use crate::store::server::gateway::stream::Questions;
use crate::store::server::gateway::{Gateway, Method};
use crate::store::server::peer;

/// The protocol in front of a token.
const BEARER: &str = "Bearer";
/// How long a client may take to say good-bye in its turn.
const FAREWELL_LIMIT: Duration = Duration::from_secs(1);
/// RFC 6455 §5.5: what a frame of control may hold, less the code.
const REASON_BYTES_MAX: usize = 123;

/// What a connection does when HTTP is done with it.
#[derive(Clone, Default)]
pub(in crate::store::server) struct Afterwards(Arc<Mutex<Option<BoxFuture<'static, ()>>>>);

impl Afterwards {
    fn put(&self, session: BoxFuture<'static, ()>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(session);
    }

    /// What it is; none of a connection that has ended.
    pub(in crate::store::server) fn take(&self) -> Option<BoxFuture<'static, ()>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// Whether a request wants to become one.
pub(super) fn is_wanted(request: &Request<Incoming>) -> bool {
    let says = |name, word: &str| {
        let values = request.headers().get_all(name).iter().filter_map(|value| value.to_str().ok());
        values.flat_map(|value| value.split(',')).any(|value| value.trim().eq_ignore_ascii_case(word))
    };
    request.version() == Version::HTTP_11 && says(header::UPGRADE, "websocket") && says(header::CONNECTION, "upgrade")
}

/// Answers such a request for a method, and has the connection go on with its call.
pub(super) async fn begin(
    gateway: &Arc<Gateway>,
    method: &Arc<Method>,
    request: Request<Incoming>,
    afterwards: &Afterwards,
) -> Response<Body> {
    let (mut parts, _) = request.into_parts();
    let upgrade = match WebSocketUpgrade::from_request_parts(&mut parts, &()).await {
        Ok(upgrade) => upgrade,
        Err(refusal) => return refusal.into_response(),
    };
    let mut headers = parts.headers;
    if let Some(token) = token(&headers) {
        headers.insert(header::AUTHORIZATION, token);
    }
    let (gateway, method, bytes_max) = (Arc::clone(gateway), Arc::clone(method), gateway.body_bytes_max);
    let (ready, socket) = oneshot::channel();
    let session = Session { gateway, method, headers };
    afterwards.put(
        async move {
            if let Ok(socket) = socket.await {
                session.run(socket).await;
            }
        }
        .boxed(),
    );
    let upgrade = upgrade.protocols([BEARER]).max_message_size(bytes_max).max_frame_size(bytes_max);
    upgrade.on_upgrade(|socket| async move { drop(ready.send(socket)) })
}

/// The token that stands in place of a protocol.
fn token(headers: &HeaderMap) -> Option<HeaderValue> {
    let protocols = headers.get(header::SEC_WEBSOCKET_PROTOCOL)?.to_str().ok()?;
    let (_, token) = protocols.split_once(',').filter(|(first, _)| first.trim() == BEARER)?;
    HeaderValue::from_str(token.trim()).ok()
}

/// A call over a WebSocket.
struct Session {
    gateway: Arc<Gateway>,
    method: Arc<Method>,
    headers: HeaderMap,
}

/// How listening to a client ended.
enum End {
    /// It went, or said good-bye.
    Gone,
    /// It gave no sign of life.
    Silent,
    /// It sent what is no message.
    Wrong(String),
}

impl Session {
    async fn run(self, socket: WebSocket) {
        let (mut told, mut heard) = socket.split();
        let patience = self.gateway.patience;
        let limit = patience.map(|(interval, timeout)| interval + timeout);
        // A client may be connected for long before it asks: it holds up no end.
        let first = tokio::select! {
            biased;
            first = next(&mut heard, limit) => first,
            () = self.gateway.stop.stopped() => return bye(&mut told, close_code::AWAY, "").await,
            () = ping(&mut told, patience) => return,
        };
        let first = match first {
            Ok(first) => first,
            Err(end) => return self.part(end, &mut told).await,
        };
        let (questions, asked) = mpsc::channel(1);
        let mut listening = pin!(listen(heard, questions, limit));
        let end = tokio::select! {
            biased;
            end = &mut listening => Some(end),
            () = self.tell(first, asked, &mut told, patience) => None,
        };
        if let Some(end) = end {
            return self.part(end, &mut told).await;
        }
        let code = if self.gateway.stop.is_stopped() { close_code::AWAY } else { close_code::NORMAL };
        bye(&mut told, code, "").await;
        // What it still sends is read: a socket that is closed before takes the last lines with it.
        drop(timeout(FAREWELL_LIMIT, listening).await);
    }

    /// Calls the method, and sends what it answers.
    async fn tell(
        &self,
        first: Bytes,
        asked: mpsc::Receiver<Bytes>,
        told: &mut SplitSink<WebSocket, Message>,
        patience: Option<(Duration, Duration)>,
    ) {
        let rest = stream::unfold(asked, |mut asked| async move { asked.recv().await.map(|next| (next, asked)) });
        // A word without brackets ends where something else begins.
        let pieces =
            stream::iter([first]).chain(rest).flat_map(|piece| stream::iter([piece, Bytes::from_static(b"\n")]));
        let body = Body::from_stream(pieces.map(Ok::<_, Infallible>));
        let questions = Questions::endless(body, self.gateway.body_bytes_max);
        let mut answer = tokio::select! {
            answer = self.gateway.reply(&self.method, &self.headers, questions) => answer.into_body(),
            () = ping(told, patience) => return,
        };
        loop {
            let frame = tokio::select! {
                biased;
                frame = answer.frame() => frame,
                () = ping(told, patience) => return,
            };
            let Some(Ok(frame)) = frame else { return };
            let Ok(line) = frame.into_data() else { continue };
            let line = line.strip_suffix(b"\n").map_or_else(|| line.clone(), |text| line.slice_ref(text));
            // JSON is text.
            let Ok(text) = Utf8Bytes::try_from(line) else { return };
            if told.send(Message::Text(text)).await.is_err() {
                return;
            }
        }
    }

    /// Lets go of a client that is gone, and says why to one that is not.
    async fn part(&self, end: End, told: &mut SplitSink<WebSocket, Message>) {
        if let End::Silent = end
            && let Some(peer) = peer::current()
        {
            peer.is_silent(self.method.name);
        }
        if let End::Wrong(why) = end {
            bye(told, close_code::PROTOCOL, &why).await;
        }
    }
}

/// Asks for a sign of life now and then, until that cannot be sent.
async fn ping(told: &mut SplitSink<WebSocket, Message>, patience: Option<(Duration, Duration)>) {
    let Some((interval, _)) = patience else { return std::future::pending().await };
    let mut due = interval_at(tokio::time::Instant::now() + interval, interval);
    loop {
        due.tick().await;
        if told.send(Message::Ping(Bytes::new())).await.is_err() {
            return;
        }
    }
}

/// Hands on what a client asks, each when the one before it was taken, until the client goes.
async fn listen(mut heard: SplitStream<WebSocket>, questions: mpsc::Sender<Bytes>, limit: Option<Duration>) -> End {
    loop {
        // What nobody wants is read all the same: the client's end stands behind it.
        let room = questions.reserve().await.ok();
        match next(&mut heard, limit).await {
            Ok(question) => {
                if let Some(room) = room {
                    room.send(question);
                }
            }
            Err(end) => return end,
        }
    }
}

/// What a client asks next.
async fn next(heard: &mut SplitStream<WebSocket>, limit: Option<Duration>) -> Result<Bytes, End> {
    loop {
        let message = match limit {
            None => heard.next().await,
            Some(limit) => timeout(limit, heard.next()).await.map_err(|_| End::Silent)?,
        };
        match message {
            Some(Ok(Message::Text(text))) => return Ok(text.into()),
            Some(Ok(Message::Binary(bytes))) => return Ok(bytes),
            Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Close(_))) => {}
            Some(Err(error)) => return Err(End::Wrong(error.to_string())),
            None => return Err(End::Gone),
        }
    }
}

/// Says good-bye, and why.
async fn bye(told: &mut SplitSink<WebSocket, Message>, code: u16, why: &str) {
    let reason = why[..why.floor_char_boundary(REASON_BYTES_MAX)].into();
    // Whoever is gone does not hear it.
    let _ = told.send(Message::Close(Some(CloseFrame { code, reason }))).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_stands_in_place_of_a_protocol() {
        let of = |protocols: &'static str| {
            let headers = [(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(protocols))];
            token(&HeaderMap::from_iter(headers)).map(|token| token.to_str().unwrap().to_owned())
        };
        assert_eq!(of("Bearer, abc.7"), Some("abc.7".to_owned()));
        assert_eq!(of("Bearer,abc.7"), Some("abc.7".to_owned()));
        assert_eq!(
            [of("Bearer"), of("other, abc"), of("abc"), token(&HeaderMap::new()).map(|_| String::new())],
            [const { None }; 4]
        );
    }
}
