//! Clients that ask too often whether the member lives are told to go, as grpc-go does for etcd.
//!
//! A PING costs its sender nothing and the member an answer, and a client that sends one each second over thousands of idle
//! connections does not know what it asks. grpc-go counts strikes: one for a PING that comes sooner after the last one than
//! it may, while requests are under way after `--grpc-keepalive-min-time`, on an idle connection after two hours. What the
//! server sends of an answer clears them, because clients measure the line with PINGs while data comes. With the third
//! strike the connection ends: GOAWAY, ENHANCE_YOUR_CALM, `too_many_pings`, for which etcd's clients look.
//!
//! The HTTP/2 library answers PINGs itself and tells nobody. So the frames of a connection are counted as they pass, in both
//! directions, by their heads alone; nothing is copied and nothing held.
//!
//! Invariants:
//! - Nothing is changed of what passes, until the connection is to end.
//! - The last words are written between two frames, or not at all.
//! - Whoever does not go when told to is cut off after a while.

use std::collections::BTreeSet;
use std::future::Future as _;
use std::io::{Error, IoSlice, Result};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

use crate::base::clock::Stopwatch;
use crate::base::layer::{Layer, Layered};
use crate::store::server::lenient::PREFACE;
use crate::store::server::peer::Peer;

const HEAD_BYTES: usize = 9;
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const FLAG_ACK: u8 = 1;
const FLAG_END_STREAM: u8 = 1;
/// ENHANCE_YOUR_CALM.
const CALM: u32 = 0xb;
const WHY: &[u8] = b"too_many_pings";
/// So many strikes are borne.
const STRIKES_MAX: u32 = 2;
/// On a connection without requests, PINGs may come after so long.
const IDLE_INTERVAL: Duration = Duration::from_hours(2);
/// How long a client that was told to go has to do so.
const LEAVE_LIMIT: Duration = Duration::from_secs(1);
/// So much of what it still sends is thrown away at once.
const SCRAP_BYTES: usize = 1024;

/// A stream whose PINGs are counted.
pub(super) type Counted<S> = Layered<S, Pings>;

/// The heads of frames, in whatever pieces they come.
#[derive(Debug, Default)]
struct Frames {
    head: [u8; HEAD_BYTES],
    /// So much of a head has come.
    known: usize,
    /// So much of a frame is still to come behind its head.
    left: usize,
}

impl Frames {
    /// Shows each head that these bytes complete: kind, flags, and the stream.
    fn walk(&mut self, mut bytes: &[u8], mut each: impl FnMut(u8, u8, u32)) {
        loop {
            let n = self.left.min(bytes.len());
            self.left -= n;
            bytes = &bytes[n..];
            if bytes.is_empty() {
                return;
            }
            let n = (HEAD_BYTES - self.known).min(bytes.len());
            self.head[self.known..self.known + n].copy_from_slice(&bytes[..n]);
            self.known += n;
            bytes = &bytes[n..];
            if self.known == HEAD_BYTES {
                let [a, b, c, kind, flags, id @ ..] = self.head;
                self.known = 0;
                self.left = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
                each(kind, flags, u32::from_be_bytes(id) & 0x7fff_ffff);
            }
        }
    }

    fn is_between_two(&self) -> bool {
        self.known == 0 && self.left == 0
    }
}

/// What a client speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Speech {
    /// So many bytes of HTTP/2's preface have come.
    Unknown(usize),
    Http2,
    Other,
}

/// What is counted of a connection.
#[derive(Debug)]
pub(super) struct Pings {
    peer: Arc<Peer>,
    interval_min: Duration,
    speech: Speech,
    received: Frames,
    sent: Frames,
    /// Requests that were not answered to their end.
    open: BTreeSet<u32>,
    newest: u32,
    /// Since the last PING something of an answer was sent.
    answered: bool,
    last: Option<Stopwatch>,
    strikes: u32,
    leaving: Option<Leaving>,
}

/// The end of a connection that is told to go.
#[derive(Debug)]
struct Leaving {
    words: Vec<u8>,
    /// So many of them are written.
    at: usize,
    is_told: bool,
    patience: Pin<Box<Sleep>>,
}

/// Around a stream that nothing was read from.
pub(super) fn counted<S>(stream: S, interval_min: Duration, peer: &Arc<Peer>) -> Counted<S> {
    let layer = Pings {
        peer: Arc::clone(peer),
        interval_min,
        speech: Speech::Unknown(0),
        received: Frames::default(),
        sent: Frames::default(),
        open: BTreeSet::new(),
        newest: 0,
        answered: false,
        last: None,
        strikes: 0,
        leaving: None,
    };
    Layered { stream, layer }
}

impl Pings {
    /// Looks at what the client sent.
    fn receives(&mut self, mut bytes: &[u8]) {
        if let Speech::Unknown(known) = self.speech {
            let n = bytes.len().min(PREFACE.len() - known);
            self.speech = match known + n {
                _ if bytes[..n] != PREFACE[known..known + n] => Speech::Other,
                all if all == PREFACE.len() => Speech::Http2,
                part => Speech::Unknown(part),
            };
            bytes = &bytes[n..];
        }
        if self.speech != Speech::Http2 {
            return;
        }
        let mut received = std::mem::take(&mut self.received);
        received.walk(bytes, |kind, flags, stream| match kind {
            // Trailers belong to a request that is known.
            HEADERS if stream > self.newest => {
                self.newest = stream;
                self.open.insert(stream);
            }
            RST_STREAM => drop(self.open.remove(&stream)),
            PING if flags & FLAG_ACK == 0 => self.asked(),
            _ => {}
        });
        self.received = received;
    }

    /// Looks at what the member sends.
    fn sends(&mut self, bytes: &[u8]) {
        if self.speech != Speech::Http2 {
            return;
        }
        let Pings { sent, open, answered, .. } = self;
        sent.walk(bytes, |kind, flags, stream| match kind {
            DATA | HEADERS => {
                *answered = true;
                if flags & FLAG_END_STREAM != 0 {
                    open.remove(&stream);
                }
            }
            RST_STREAM => drop(open.remove(&stream)),
            _ => {}
        });
    }

    /// A PING came.
    fn asked(&mut self) {
        let since = self.last.replace(Stopwatch::start()).map(|last| last.elapsed());
        if std::mem::take(&mut self.answered) {
            self.strikes = 0;
            return;
        }
        let least = if self.open.is_empty() { IDLE_INTERVAL } else { self.interval_min };
        if since.is_some_and(|since| since < least) {
            self.strikes += 1;
        }
    }

    fn last_words(&self) -> Vec<u8> {
        let length = u8::try_from(8 + WHY.len()).expect("a few bytes");
        let head = [0, 0, length, GOAWAY, 0, 0, 0, 0, 0];
        [&head[..], &self.newest.to_be_bytes(), &CALM.to_be_bytes(), WHY].concat()
    }

    /// Tells the client to go, and waits until it has gone.
    fn poll_leave<S: AsyncRead + AsyncWrite>(
        &mut self,
        mut stream: Pin<&mut S>,
        context: &mut Context<'_>,
    ) -> Poll<Result<()>> {
        let gone = || Poll::Ready(Err(Error::other("too many pings")));
        let can_tell = self.sent.is_between_two();
        let Some(leaving) = &mut self.leaving else { return gone() };
        if leaving.patience.as_mut().poll(context).is_ready() || !can_tell && !leaving.is_told {
            return gone();
        }
        if !leaving.is_told {
            while leaving.at < leaving.words.len() {
                leaving.at += ready!(stream.as_mut().poll_write(context, &leaving.words[leaving.at..]))?;
            }
            ready!(stream.as_mut().poll_flush(context))?;
            ready!(stream.as_mut().poll_shutdown(context))?;
            leaving.is_told = true;
        }
        // With unread bytes in it a socket that is closed loses what was written last.
        loop {
            let mut scrap = [0; SCRAP_BYTES];
            let mut scrap = ReadBuf::new(&mut scrap);
            ready!(stream.as_mut().poll_read(context, &mut scrap))?;
            if scrap.filled().is_empty() {
                return gone();
            }
        }
    }
}

impl<S: AsyncRead + AsyncWrite> Layer<S> for Pings {
    fn poll_read(
        &mut self,
        mut stream: Pin<&mut S>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<Result<()>> {
        if self.leaving.is_none() {
            let before = into.filled().len();
            ready!(stream.as_mut().poll_read(context, into))?;
            self.receives(&into.filled()[before..]);
            if self.strikes <= STRIKES_MAX {
                return Poll::Ready(Ok(()));
            }
            into.set_filled(before);
            tracing::warn!(remote_addr = %self.peer, "a client asked too often whether the member lives and was told to go");
            let (words, patience) = (self.last_words(), Box::pin(tokio::time::sleep(LEAVE_LIMIT)));
            self.leaving = Some(Leaving { words, at: 0, is_told: false, patience });
        }
        self.poll_leave(stream, context)
    }

    fn poll_write(&mut self, stream: Pin<&mut S>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<Result<usize>> {
        if self.leaving.is_some() {
            // Nobody reads it any more.
            return Poll::Ready(Ok(bytes.len()));
        }
        let n = ready!(stream.poll_write(context, bytes))?;
        self.sends(&bytes[..n]);
        Poll::Ready(Ok(n))
    }

    fn poll_write_vectored(
        &mut self,
        stream: Pin<&mut S>,
        context: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<Result<usize>> {
        let first = pieces.iter().find(|piece| !piece.is_empty()).map_or(&[][..], |piece| piece);
        self.poll_write(stream, context, first)
    }

    fn is_write_vectored(&self, _: &S) -> bool {
        false
    }

    fn poll_flush(&mut self, stream: Pin<&mut S>, context: &mut Context<'_>) -> Poll<Result<()>> {
        if self.leaving.is_some() { Poll::Ready(Ok(())) } else { stream.poll_flush(context) }
    }

    fn poll_shutdown(&mut self, stream: Pin<&mut S>, context: &mut Context<'_>) -> Poll<Result<()>> {
        if self.leaving.is_some() { Poll::Ready(Ok(())) } else { stream.poll_shutdown(context) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};

    fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
    }

    fn ping() -> Vec<u8> {
        frame(PING, 0, 0, &[7; 8])
    }

    fn site(interval_min: Duration) -> (DuplexStream, Counted<DuplexStream>) {
        let (client, server) = duplex(1 << 16);
        (client, counted(server, interval_min, &Peer::new("127.0.0.1:7".parse().ok())))
    }

    /// Sends bytes, and reads them as the server does; whether the client is still welcome.
    async fn passes(client: &mut DuplexStream, server: &mut Counted<DuplexStream>, bytes: &[u8]) -> bool {
        client.write_all(bytes).await.unwrap();
        let mut got = vec![0; bytes.len()];
        let read = tokio::time::timeout(Duration::from_millis(500), server.read_exact(&mut got)).await;
        read.is_ok_and(|read| read.is_ok()) && got == bytes
    }

    const LONG: Duration = Duration::from_hours(1);

    #[tokio::test]
    async fn the_fourth_ping_on_an_idle_connection_is_the_last() {
        let (mut client, mut server) = site(Duration::from_nanos(1));
        assert!(passes(&mut client, &mut server, &[PREFACE, &frame(4, 0, 0, &[0; 6])].concat()).await);
        for _ in 0..3 {
            assert!(passes(&mut client, &mut server, &ping()).await);
        }
        assert!(!passes(&mut client, &mut server, &ping()).await);
        let mut told = vec![];
        client.read_to_end(&mut told).await.unwrap();
        let payload = [&[0, 0, 0, 0, 0, 0, 0, 0xb][..], b"too_many_pings"].concat();
        assert_eq!(told, frame(GOAWAY, 0, 0, &payload));
        // What the server still wants to say is for nobody, and the end comes.
        server.write_all(&[1; 100]).await.unwrap();
        drop(client);
        assert!(server.read(&mut [0; 10]).await.is_err());
    }

    #[tokio::test]
    async fn while_a_request_is_under_way_pings_may_come_as_often_as_it_was_said() {
        for (interval_min, welcome) in [(Duration::from_nanos(1), true), (LONG, false)] {
            let (mut client, mut server) = site(interval_min);
            let head = frame(HEADERS, 4, 1, &[0x82]);
            assert!(passes(&mut client, &mut server, &[PREFACE, &head].concat()).await);
            for _ in 0..3 {
                assert!(passes(&mut client, &mut server, &ping()).await);
            }
            assert_eq!(passes(&mut client, &mut server, &ping()).await, welcome);
        }
    }

    #[tokio::test]
    async fn an_answer_clears_strikes_and_its_end_leaves_the_connection_idle() {
        let (mut client, mut server) = site(Duration::from_nanos(1));
        assert!(passes(&mut client, &mut server, &[PREFACE, &frame(HEADERS, 4, 1, &[0x82])].concat()).await);
        for _ in 0..20 {
            assert!(passes(&mut client, &mut server, &[ping(), ping()].concat()).await);
            // In pieces that have nothing to do with frames.
            for byte in frame(DATA, 0, 1, &[1; 20]) {
                server.write_all(&[byte]).await.unwrap();
            }
        }
        server.write_all(&frame(HEADERS, 4 | FLAG_END_STREAM, 1, &[0x88])).await.unwrap();
        assert!(server.layer.open.is_empty());
        // The first is forgiven for the answer; then three strikes.
        for _ in 0..3 {
            assert!(passes(&mut client, &mut server, &ping()).await);
        }
        assert!(!passes(&mut client, &mut server, &ping()).await);
    }

    #[tokio::test]
    async fn requests_end_when_either_side_gives_them_up_and_what_is_not_http2_passes() {
        let (mut client, mut server) = site(LONG);
        let heads: Vec<u8> = [1, 3, 5].iter().flat_map(|stream| frame(HEADERS, 4, *stream, &[0x82])).collect();
        assert!(passes(&mut client, &mut server, &[PREFACE, &heads].concat()).await);
        assert!(passes(&mut client, &mut server, &frame(RST_STREAM, 0, 3, &[0; 4])).await);
        server.write_all(&frame(RST_STREAM, 0, 5, &[0; 4])).await.unwrap();
        // Trailers open nothing.
        assert!(passes(&mut client, &mut server, &frame(HEADERS, 5, 3, &[0x82])).await);
        assert_eq!(server.layer.open, BTreeSet::from([1]));
        // Answers to the member's own questions are no questions.
        for _ in 0..10 {
            assert!(passes(&mut client, &mut server, &frame(PING, FLAG_ACK, 0, &[7; 8])).await);
        }
        let (mut client, mut server) = site(LONG);
        assert!(passes(&mut client, &mut server, b"PRI is no method\r\n").await);
        for _ in 0..10 {
            assert!(passes(&mut client, &mut server, &ping()).await);
        }
    }
}
