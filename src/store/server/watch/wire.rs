//! Replies to watchers as bytes: a head that is encoded like any message, and events that are copied behind it as they are.

use std::ops::Range;
use std::sync::Arc;

use tonic::Status;
use tonic::codec::{Codec, EncodeBuf, Encoder};
use tonic_prost::{ProstCodec, ProstDecoder};

use crate::api::Message;
use crate::api::etcdserverpb::{WatchRequest, WatchResponse};
use crate::store::mvcc::watch::Events;

/// Some of the events that were found for somebody.
#[derive(Clone, Debug)]
pub(super) struct Slice {
    events: Arc<Events>,
    range: Range<usize>,
}

impl Slice {
    pub(super) fn new(events: Arc<Events>, range: Range<usize>) -> Self {
        Slice { events, range }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.range.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.range.len()
    }

    /// Bytes that they take in a response.
    pub(super) fn bytes(&self) -> usize {
        self.range.clone().map(|n| self.events.bytes(n)).sum()
    }

    /// Takes at least one from the front, and as many as stay below `bytes_max`.
    pub(super) fn take(&mut self, bytes_max: usize) -> Slice {
        let (first, mut end, mut bytes) = (self.range.start, self.range.start, 0);
        while end < self.range.end {
            bytes += self.events.bytes(end);
            if end > first && bytes >= bytes_max {
                break;
            }
            end += 1;
        }
        self.range.start = end;
        Slice { events: Arc::clone(&self.events), range: first..end }
    }
}

/// A response, its events beside it.
#[derive(Clone, Debug)]
pub(super) struct Reply {
    /// Everything but the events.
    pub(super) head: WatchResponse,
    slice: Option<Slice>,
}

impl From<WatchResponse> for Reply {
    fn from(head: WatchResponse) -> Self {
        Reply { head, slice: None }
    }
}

impl Reply {
    /// A response with events.
    pub(super) fn new(head: WatchResponse, slice: Slice) -> Self {
        Reply { head, slice: Some(slice) }
    }

    /// How many events it has.
    pub(super) fn events(&self) -> usize {
        self.slice.as_ref().map_or(0, Slice::len)
    }

    fn encode(&self, to: &mut EncodeBuf<'_>) {
        let bytes = self.head.encoded_len() + self.slice.as_ref().map_or(0, Slice::bytes);
        to.reserve(bytes);
        self.head.encode(to).expect("a buffer grows");
        // The field of the events has the highest number: this is where it belongs.
        if let Some(slice) = &self.slice {
            slice.range.clone().for_each(|n| slice.events.encode(n, to));
        }
    }
}

/// Requests as they are generated, and replies that are nearly bytes.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Wire;

impl Codec for Wire {
    type Encode = Reply;
    type Decode = WatchRequest;
    type Encoder = Wire;
    type Decoder = ProstDecoder<WatchRequest>;

    fn encoder(&mut self) -> Wire {
        Wire
    }

    fn decoder(&mut self) -> ProstDecoder<WatchRequest> {
        ProstCodec::<WatchResponse, WatchRequest>::default().decoder()
    }
}

impl Encoder for Wire {
    type Item = Reply;
    type Error = Status;

    fn encode(&mut self, reply: Reply, to: &mut EncodeBuf<'_>) -> Result<(), Status> {
        reply.encode(to);
        Ok(())
    }
}
