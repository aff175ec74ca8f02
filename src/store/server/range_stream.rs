//! A range in many messages, at one revision.
//!
//! The first message is small, so that the client has something at once; each next one grows towards the size of a request,
//! by what the last one weighed. Header, count and `more` come last, because only then they are known.
//!
//! The stream keeps a state, and with it everything that its revision shows. So there are only so many at once, a client
//! that stops reading is cut off after a while, and one that reads for ever too; each is told so.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::stream::{BoxStream, StreamExt as _, unfold};
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tonic::Status;

use crate::api::Message;
use crate::api::etcdserverpb::range_request::{SortOrder, SortTarget};
use crate::api::etcdserverpb::{RangeRequest, RangeResponse, RangeStreamResponse};
use crate::base::clock::Stopwatch;
use crate::base::stop::blocking;
use crate::base::units;
use crate::store::machine::refusal::Failure;
use crate::store::machine::state::State;
use crate::store::mvcc::index::Keys;
use crate::store::mvcc::read;
use crate::store::node::Handle;
use crate::store::server::peer::{self, Peer};
use crate::store::server::{convert, status};

/// Keys of the first message.
const FIRST_KEYS: usize = 10;
/// A message has at most so many keys, however short they are.
const CHUNK_KEYS_MAX: usize = 10_000;
/// How long a message waits for its client.
pub const STALL_MAX: Duration = Duration::from_secs(60);

/// Refuses what needs the whole range at once.
pub fn check(request: &RangeRequest) -> Result<(), Status> {
    let sorts = request.sort_order == SortOrder::Descend as i32 || request.sort_target != SortTarget::Key as i32;
    let filters =
        [request.min_mod_revision, request.max_mod_revision, request.min_create_revision, request.max_create_revision];
    if sorts || filters.iter().any(|bound| *bound != 0) {
        return Err(Status::unimplemented(
            "etcdserver: a range that is sorted or filtered by revisions cannot be streamed",
        ));
    }
    Ok(())
}

/// The messages of a range.
pub fn chunks(
    handle: &Handle,
    state: Arc<State>,
    request: RangeRequest,
    slot: OwnedSemaphorePermit,
    stall_max: Duration,
) -> Result<BoxStream<'static, Result<RangeStreamResponse, Status>>, Status> {
    let reads_at = state.view.ground().reads_at(request.revision).map_err(Failure::from);
    let at = status::read(handle, reads_at)?;
    let walk = Walk {
        at,
        next: request.key.clone(),
        limit: usize::try_from(request.limit).ok().filter(|limit| *limit > 0).unwrap_or(usize::MAX),
        keys: FIRST_KEYS,
        bytes_max: handle.tuning().request_bytes_max,
        seen: 0,
        state,
        request,
    };
    let (sender, receiver) = mpsc::channel(1);
    let (handle, reader) = (handle.clone(), peer::current());
    let sending = tokio::spawn(async move {
        let outcome = send(handle, walk, sender, stall_max, reader).await;
        drop(slot);
        outcome
    });
    let messages = unfold((receiver, Some(sending)), |(mut receiver, mut sending)| async move {
        if let Some(message) = receiver.recv().await {
            return Some((message, (receiver, sending)));
        }
        // The end of the messages is the end of the range only if the sender says so.
        match sending.take()?.await {
            Ok(Ok(())) => None,
            Ok(Err(status)) => Some((Err(status), (receiver, None))),
            Err(_) => {
                Some((Err(Status::internal("etcdserver: the range could not be read to its end")), (receiver, None)))
            }
        }
    });
    Ok(messages.boxed())
}

type Sender = mpsc::Sender<Result<RangeStreamResponse, Status>>;

async fn send(
    handle: Handle,
    mut walk: Walk,
    sender: Sender,
    stall_max: Duration,
    reader: Option<Arc<Peer>>,
) -> Result<(), Status> {
    let opened = Stopwatch::start();
    loop {
        if opened.elapsed() > handle.tuning().moment_age_max {
            let (reader, age) = (peer::name(reader.as_ref()), units::duration(handle.tuning().moment_age_max));
            tracing::warn!(remote_addr = reader, "a reader of a range took longer than {age} and was cut off");
            return Err(Status::aborted(format!("holdfast: the range was read for longer than {age}")));
        }
        let (rest, outcome) = blocking(move || {
            let outcome = walk.chunk();
            (walk, outcome)
        })
        .await;
        walk = rest;
        let (mut reply, last) = status::read(&handle, outcome)?;
        if last {
            reply.header = convert::header_of(&handle, &walk.state);
        }
        let message = Ok(RangeStreamResponse { range_response: Some(reply) });
        match tokio::time::timeout(stall_max, sender.send(message)).await {
            Ok(Ok(())) if !last => {}
            // Sent, or nobody is there any more.
            Ok(_) => return Ok(()),
            Err(_) => {
                let reader = peer::name(reader.as_ref());
                tracing::warn!(
                    remote_addr = reader,
                    "a reader of a range took nothing for {stall_max:?} and was cut off"
                );
                return Err(Status::deadline_exceeded(format!(
                    "etcdserver: the client has read nothing of the range for {stall_max:?}"
                )));
            }
        }
    }
}

/// How far a range was sent.
struct Walk {
    state: Arc<State>,
    request: RangeRequest,
    at: i64,
    /// The first key that was not looked at.
    next: Bytes,
    /// Keys that may still be sent.
    limit: usize,
    /// Keys of the next message.
    keys: usize,
    bytes_max: usize,
    /// Keys that were sent.
    seen: usize,
}

impl Walk {
    /// The next message, and whether it is the last.
    fn chunk(&mut self) -> Result<(RangeResponse, bool), Failure> {
        let state = Arc::clone(&self.state);
        let ground = state.view.ground();
        // A range that is one key has no rest.
        let rest = if self.seen > 0 && self.request.range_end.is_empty() { &[][..] } else { &self.next[..] };
        let mut alive = ground.index.alive(Keys::of(rest, &self.request.range_end), self.at);
        let (mut reply, mut bytes) = (RangeResponse::default(), 0);
        let most = self.keys.min(self.limit);
        while !self.request.count_only && reply.kvs.len() < most && bytes < self.bytes_max {
            let Some((key, version)) = alive.next() else { break };
            let mut kv = read::key_value(&ground, version)?;
            if self.request.keys_only {
                kv.value = Bytes::new();
            }
            bytes += kv.encoded_len();
            reply.kvs.push(kv);
            // The key right after: the same and a zero byte.
            self.next = [key, &[0][..]].concat().into();
        }
        let sent = reply.kvs.len();
        self.seen += sent;
        self.limit -= sent;
        if let Some(weight) = bytes.checked_div(sent) {
            self.keys = (self.bytes_max / weight.max(1)).clamp(FIRST_KEYS, CHUNK_KEYS_MAX).min(self.keys * 4);
        }
        let mut alive = alive.peekable();
        let last = self.limit == 0 || self.request.count_only || alive.peek().is_none();
        if last {
            let left = alive.count();
            reply.more = left > 0 && !self.request.count_only;
            reply.count = i64::try_from(self.seen + left).expect("keys fit into memory");
        }
        Ok((reply, last))
    }
}
