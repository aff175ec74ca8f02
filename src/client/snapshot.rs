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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::fake::{self, Script, Step, message};
    use tonic::Status;

    const BLOCK: usize = 512;

    /// Three blocks of a database file, their trailer, and the stream a member would send.
    fn blocks() -> Vec<u8> {
        (0..3 * BLOCK).map(|n| u8::try_from(n % 251).unwrap()).collect()
    }

    fn healthy() -> Vec<Step> {
        let db = blocks();
        let part = |n: usize| db[n * BLOCK..(n + 1) * BLOCK].to_vec();
        vec![
            message(part(0), 2 * BLOCK as u64),
            message(part(1), BLOCK as u64),
            message(part(2), 0),
            message(Sha256::of(&db).0.to_vec(), 0),
        ]
    }

    async fn receive(steps: Vec<Step>) -> (Vec<u8>, Result<SnapshotTail>) {
        let (endpoint, _script) = fake::start(Script { snapshot: steps, ..Script::default() }).await;
        let options = crate::client::Options { stall: Duration::from_millis(200), ..fake::options(&[&endpoint]) };
        let client = Client::new(&options).unwrap();
        let endpoint = client.endpoints().next().unwrap().clone();
        let mut received = Vec::new();
        let result = async {
            let mut snapshot = client.snapshot(&endpoint).await?;
            while let Some(piece) = snapshot.next().await? {
                received.extend_from_slice(&piece);
            }
            snapshot.finish().await
        };
        let result = result.await;
        (received, result)
    }

    #[tokio::test]
    async fn a_whole_stream_is_the_members_file() {
        let (received, tail) = receive(healthy()).await;
        let tail = tail.unwrap();
        assert_eq!(received, blocks());
        assert_eq!((tail.db_bytes, tail.sha256), (3 * BLOCK as u64, Sha256::of(&blocks())));
        // Empty messages and a trailer in pieces are odd, but nothing is wrong with the bytes.
        let mut odd = healthy();
        odd.insert(1, message(vec![], 2 * BLOCK as u64));
        let Some(Step::Send(trailer)) = odd.pop() else { panic!() };
        odd.extend([message(trailer.blob.slice(..10), 0), message(trailer.blob.slice(10..), 0)]);
        assert!(receive(odd).await.1.is_ok());
    }

    #[tokio::test]
    async fn finish_receives_what_was_not_asked_for() {
        let (endpoint, _script) = fake::start(Script { snapshot: healthy(), ..Script::default() }).await;
        let client = Client::new(&fake::options(&[&endpoint])).unwrap();
        let endpoint = client.endpoints().next().unwrap().clone();
        let snapshot = client.snapshot(&endpoint).await.unwrap();
        assert_eq!(snapshot.db_bytes(), 3 * BLOCK as u64);
        assert_eq!(snapshot.finish().await.unwrap().sha256, Sha256::of(&blocks()));
    }

    /// The healthy stream after one change, the kind it must fail with, and words of the message.
    fn broken(change: impl FnOnce(&mut Vec<Step>), kind: Kind, words: &'static str) -> (Vec<Step>, Kind, &'static str) {
        let mut steps = healthy();
        change(&mut steps);
        (steps, kind, words)
    }

    fn edit(step: &mut Step, change: impl FnOnce(&mut SnapshotResponse)) {
        let Step::Send(message) = step else { panic!("only messages are edited") };
        change(message);
    }

    #[tokio::test]
    async fn every_other_stream_is_refused_with_its_reason() {
        let flipped = [&[1 ^ blocks()[BLOCK]][..], &blocks()[BLOCK + 1..2 * BLOCK]].concat();
        let cases = [
            broken(Vec::clear, Kind::Unavailable, "ended before its first byte"),
            broken(|s| s.truncate(1), Kind::Unavailable, "cut short: 512 of 1,536 bytes were received"),
            broken(|s| s.truncate(3), Kind::Unavailable, "1,536 of 1,536 bytes were received, but only 0 of 32 bytes"),
            broken(|s| edit(&mut s[3], |m| m.blob.truncate(31)), Kind::Unavailable, "but only 31 of 32 bytes"),
            broken(|s| s[1] = message(flipped, BLOCK as u64), Kind::Damaged, "the member says"),
            broken(|s| edit(&mut s[3], |m| m.blob = vec![0; 32].into()), Kind::Damaged, "the member says 0000"),
            broken(|s| edit(&mut s[1], |m| m.remaining_bytes += 1), Kind::Damaged, "the claim that 513 remain"),
            broken(
                |s| edit(&mut s[2], |m| m.remaining_bytes = u64::MAX),
                Kind::Damaged,
                "the claim that 18446744073709551615",
            ),
            broken(|s| drop(s.remove(1)), Kind::Damaged, "512 of 1,536 bytes were received, then 512 more"),
            broken(|s| edit(&mut s[2], |m| m.blob = vec![0; 600].into()), Kind::Damaged, "then 600 more"),
            broken(|s| s.push(message(vec![0], 0)), Kind::Damaged, "goes on after the SHA-256"),
            broken(|s| edit(&mut s[3], |m| m.remaining_bytes = 1), Kind::Damaged, "goes on after the SHA-256"),
            broken(|s| edit(&mut s[0], |m| m.remaining_bytes -= 1), Kind::Damaged, "not the length of a database file"),
            broken(
                |s| edit(&mut s[0], |m| m.remaining_bytes = u64::MAX),
                Kind::Damaged,
                "not the length of a database",
            ),
            broken(
                |s| s[2] = Step::Hang,
                Kind::Unavailable,
                "1,024 of 1,536 bytes were received: stalled: nothing came",
            ),
            broken(|s| s.push(Step::Hang), Kind::Unavailable, "stalled"),
            broken(|s| s[0] = Step::Hang, Kind::Unavailable, "no answer within 200 ms"),
            broken(
                |s| s[1] = Step::Fail(Status::internal("disk on fire")),
                Kind::Failed,
                "512 of 1,536 bytes were received: the member answered: disk on fire",
            ),
            broken(|s| s.push(Step::Fail(Status::unavailable("stopping"))), Kind::Unavailable, "stopping"),
            broken(
                |s| s[0] = Step::Fail(Status::permission_denied("etcdserver: permission denied")),
                Kind::Denied,
                "permission denied",
            ),
            broken(
                |s| drop(s.splice(1..1, (0..17).map(|_| message(vec![], 1024)))),
                Kind::Damaged,
                "more than 16 messages were empty",
            ),
            broken(
                |s| edit(&mut s[1], |m| m.blob = vec![0; SNAPSHOT_MESSAGE_BYTES_MAX + 1].into()),
                Kind::Failed,
                "too large",
            ),
        ];
        for (steps, kind, words) in cases {
            let (received, result) = receive(steps).await;
            let error = result.unwrap_err();
            assert!(error.chain().contains(words), "{words} is not in {}", error.chain());
            assert!(error.chain().starts_with("receive a snapshot from http://127.0.0.1:"), "{}", error.chain());
            assert!(error.kind() == kind && error.hint_text().is_some(), "{words}: {:?}", error.kind());
            assert!(received.len() <= blocks().len(), "{words}");
        }
    }

    #[tokio::test]
    async fn a_connection_cut_anywhere_is_never_a_whole_file() {
        // Goal: no way of ending is mistaken for the end. Method: a proxy that hangs up after so many bytes.
        let db: Vec<u8> = blocks().repeat(200);
        let mut left = db.len() as u64;
        let mut steps: Vec<Step> = db
            .chunks(32 << 10)
            .map(|part| {
                left -= part.len() as u64;
                message(part.to_vec(), left)
            })
            .collect();
        steps.push(message(Sha256::of(&db).0.to_vec(), 0));
        let (member, _script) = fake::start(Script { snapshot: steps, ..Script::default() }).await;
        let whole = fake::cut_after(&member, u64::MAX).await;
        let client = Client::new(&fake::options(&[&whole])).unwrap();
        let endpoint = client.endpoints().next().unwrap().clone();
        let tail = client.snapshot(&endpoint).await.unwrap().finish().await.unwrap();
        assert_eq!((tail.db_bytes, tail.sha256), (db.len() as u64, Sha256::of(&db)));
        for cut_bytes in (0..db.len() as u64).step_by(40_009).chain([db.len() as u64]) {
            let cut = fake::cut_after(&member, cut_bytes).await;
            let client = Client::new(&fake::options(&[&cut])).unwrap();
            let endpoint = client.endpoints().next().unwrap().clone();
            let error = match client.snapshot(&endpoint).await {
                Ok(snapshot) => snapshot.finish().await.unwrap_err(),
                Err(error) => error,
            };
            assert_eq!(error.kind(), Kind::Unavailable, "{cut_bytes}: {}", error.chain());
            assert!(error.hint_text().is_some(), "{cut_bytes}");
        }
    }
}
