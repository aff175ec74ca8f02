//! A member's database file as it arrives: `Maintenance.Snapshot`, verified byte by byte.
//!
//! A member sends its bbolt file in messages of up to 32 KiB, each saying how many bytes of the file follow, and after the
//! last of them one more message: the SHA-256 of the file, 32 bytes that `remaining_bytes` does not count. etcdctl writes
//! all of it to a file and looks at the length; here the stream is held to what it announced:
//!
//! ```text
//!   message      1          2          3         n         n+1
//!   blob      [32 KiB]   [32 KiB]   [32 KiB] … [rest]   [SHA-256]
//!   remaining  L-32K      L-64K      L-96K   …    0         0        then the stream ends, status OK
//! ```
//!
//! Invariants:
//! - `next` returns `None` only after exactly the announced bytes arrived, their SHA-256 is the one that was sent, and the
//!   member ended the stream without an error. Whoever saw `None` has the member's file.
//! - A stream that is silent for longer than `stall` fails; one that flows may take all day.
//! - Nothing is kept: at most one message is here, and `channel::STREAM_WINDOW_BYTES` on the way.

use bytes::Bytes;
use std::collections::VecDeque;
use std::time::Duration;
use tonic::Streaming;

use crate::api::etcdserverpb::maintenance_client::MaintenanceClient;
use crate::api::etcdserverpb::{SnapshotRequest, SnapshotResponse};
use crate::base::digest::{Sha256, Sha256Hasher};
use crate::base::error::{Error, Kind, Result};
use crate::base::units;
use crate::client::channel::{Client, Question};
use crate::client::options::Endpoint;
use crate::client::status;

/// Largest message accepted, in bytes; etcd sends at most 32 KiB of blob.
pub const SNAPSHOT_MESSAGE_BYTES_MAX: usize = 4 << 20;
/// Messages without a byte accepted in one stream; etcd sends at most one.
pub const EMPTY_MESSAGES_MAX: u32 = 16;
/// Length of the SHA-256 that follows the file, in bytes.
const TRAILER_BYTES: usize = 32;
/// The file is a whole number of blocks: bbolt's smallest page, in bytes.
const BLOCK_BYTES: u64 = 512;

/// A snapshot that is arriving.
#[derive(Debug)]
pub struct Snapshot {
    endpoint: Endpoint,
    stream: Streaming<SnapshotResponse>,
    stall: Duration,
    /// The first message: it was read to learn the length.
    first: VecDeque<SnapshotResponse>,
    check: Check,
    is_done: bool,
}

/// What a whole snapshot turned out to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotTail {
    /// Length of the database file, in bytes.
    pub db_bytes: u64,
    /// Its SHA-256: computed here, and equal to the one the member sent.
    pub sha256: Sha256,
    /// The storage version the member told, such as `3.6.0`; empty before etcd 3.6.
    pub version: String,
}

impl Client {
    /// Begins to receive the database of the member at `endpoint`. Returns when its first message is here.
    pub async fn snapshot(&self, endpoint: &Endpoint) -> Result<Snapshot> {
        let stall = self.options().stall;
        let question = Question { what: "receive a snapshot", deadline: stall };
        let ask = |link| async move {
            let client = MaintenanceClient::new(link).max_decoding_message_size(SNAPSHOT_MESSAGE_BYTES_MAX);
            let mut stream = { client }.snapshot(SnapshotRequest {}).await?.into_inner();
            let first = stream.message().await?;
            Ok((stream, first))
        };
        let (stream, first) =
            self.at(endpoint, question, ask).await.map_err(|unanswered| unanswered.error(question, endpoint))?;
        let check = Check::begin(first.as_ref()).map_err(|error| failed(error, endpoint))?;
        Ok(Snapshot {
            endpoint: endpoint.clone(),
            stream,
            stall,
            first: first.into_iter().collect(),
            check,
            is_done: false,
        })
    }
}

impl Snapshot {
    /// Length of the database file, in bytes, as the member announced it.
    pub fn db_bytes(&self) -> u64 {
        self.check.total
    }

    /// The next piece of the database file; `None` when all of it was received and verified.
    pub async fn next(&mut self) -> Result<Option<Bytes>> {
        while !self.is_done {
            let message = match self.first.pop_front() {
                Some(first) => Some(first),
                None => self.receive().await?,
            };
            match message {
                Some(message) => {
                    let piece = self.check.take(message).map_err(|error| failed(error, &self.endpoint))?;
                    if !piece.is_empty() {
                        return Ok(Some(piece));
                    }
                }
                None => {
                    self.check.end().map_err(|error| failed(error, &self.endpoint))?;
                    self.is_done = true;
                }
            }
        }
        Ok(None)
    }

    /// What the snapshot turned out to be; what was not asked for yet is received and verified first.
    pub async fn finish(mut self) -> Result<SnapshotTail> {
        while self.next().await?.is_some() {}
        let sha256 = self.check.sha256.expect("the end was verified, so there is a digest");
        Ok(SnapshotTail { db_bytes: self.check.total, sha256, version: self.check.version })
    }

    async fn receive(&mut self) -> Result<Option<SnapshotResponse>> {
        let error = match tokio::time::timeout(self.stall, self.stream.message()).await {
            Ok(Ok(message)) => return Ok(message),
            Ok(Err(status)) => status::reason(&status),
            Err(_) => {
                Error::new(Kind::Unavailable, format!("stalled: nothing came for {}", units::duration(self.stall)))
                    .hint("the member or the network hangs; run the command again, or name another member first")
            }
        };
        Err(failed(error.during(self.check.progress()), &self.endpoint))
    }
}

fn failed(error: Error, endpoint: &Endpoint) -> Error {
    error.during(format!("receive a snapshot from {endpoint}"))
}

/// What a stream announced, and how far it came. Knows no network.
#[derive(Debug)]
struct Check {
    total: u64,
    received: u64,
    hasher: Sha256Hasher,
    trailer: Vec<u8>,
    sha256: Option<Sha256>,
    version: String,
    empty_messages: u32,
}

const HINT_STREAM: &str =
    "take the snapshot from another member; if this repeats, look for a proxy between, and at that member's log";

impl Check {
    /// Learns the length from the first message, without taking it in.
    fn begin(first: Option<&SnapshotResponse>) -> Result<Self> {
        let Some(first) = first else {
            return Err(Error::new(Kind::Unavailable, "the stream ended before its first byte").hint(HINT_STREAM));
        };
        let total = first.remaining_bytes.checked_add(first.blob.len() as u64);
        let total = total.filter(|total| *total > 0 && total.is_multiple_of(BLOCK_BYTES));
        let total = total.ok_or_else(|| {
            let (sent, more) = (first.blob.len(), first.remaining_bytes);
            Error::damaged(format!("{sent} bytes and {more} more are not the length of a database file"))
                .hint(HINT_STREAM)
        })?;
        Ok(Check {
            total,
            received: 0,
            hasher: Sha256Hasher::default(),
            trailer: Vec::with_capacity(TRAILER_BYTES),
            sha256: None,
            version: first.version.clone(),
            empty_messages: 0,
        })
    }

    /// Holds a message to what was announced; returns its bytes of the database file, none for the trailer.
    fn take(&mut self, message: SnapshotResponse) -> Result<Bytes> {
        let blob = message.blob;
        self.empty_messages += u32::from(blob.is_empty());
        if self.empty_messages > EMPTY_MESSAGES_MAX {
            let text = format!("{}, and more than {EMPTY_MESSAGES_MAX} messages were empty", self.progress());
            return Err(Error::damaged(text).hint(HINT_STREAM));
        }
        let missing = self.total - self.received;
        if missing == 0 {
            return self.take_trailer(&blob, message.remaining_bytes);
        }
        let expected = missing.checked_sub(blob.len() as u64);
        if expected != Some(message.remaining_bytes) {
            let (sent, more) = (blob.len(), message.remaining_bytes);
            let text = format!("{}, then {sent} more and the claim that {more} remain", self.progress());
            return Err(Error::damaged(text).hint(HINT_STREAM));
        }
        self.received += blob.len() as u64;
        self.hasher.update(&blob);
        Ok(blob)
    }

    fn take_trailer(&mut self, blob: &[u8], remaining: u64) -> Result<Bytes> {
        if remaining != 0 || self.trailer.len() + blob.len() > TRAILER_BYTES {
            let text = format!("{}, but the stream goes on after the SHA-256 that should end it", self.progress());
            return Err(Error::damaged(text).hint(HINT_STREAM));
        }
        self.trailer.extend_from_slice(blob);
        Ok(Bytes::new())
    }

    /// Judges a stream that ended without an error.
    fn end(&mut self) -> Result<()> {
        if self.received < self.total {
            return Err(Error::new(Kind::Unavailable, format!("cut short: {}", self.progress())).hint(HINT_STREAM));
        }
        let Ok(sent) = <[u8; TRAILER_BYTES]>::try_from(self.trailer.as_slice()) else {
            let text = format!("{}, but only {} of 32 bytes of their SHA-256", self.progress(), self.trailer.len());
            return Err(Error::new(Kind::Unavailable, text).hint(HINT_STREAM));
        };
        let ours = std::mem::take(&mut self.hasher).finish();
        if Sha256(sent) != ours {
            return Err(Error::damaged(format!("the bytes have SHA-256 {ours}, the member says {}", Sha256(sent)))
                .hint("bytes changed on the way or in the member's memory: take the snapshot again, then from another member"));
        }
        self.sha256 = Some(ours);
        Ok(())
    }

    fn progress(&self) -> String {
        format!("{} of {} bytes were received", units::count(self.received), units::count(self.total))
    }
}
