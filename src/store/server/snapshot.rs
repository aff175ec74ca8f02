//! `Maintenance.Snapshot`: the state as a genuine etcd file, as etcd sends one.
//!
//! Messages hold at most 32 KiB and say how much follows; the last one holds the SHA-256 of everything before. The file's
//! first two pages are planned before the first byte is sent (`machine::image`), and nothing of it is stored on the way.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use tonic::Status;

use crate::api::etcdserverpb::SnapshotResponse;
use crate::base::clock::Stopwatch;
use crate::base::digest::Sha256Hasher;
use crate::base::error::Result;
use crate::base::slow::go_time;
use crate::snapshot::bbolt::shape::Sizes;
use crate::store::machine::image;
use crate::store::machine::records::{Picture, STORAGE_VERSION};
use crate::store::server::export::{Exports, Outlet, Pieces};
use crate::store::server::pace::BURST_BYTES;

/// Bytes of a message's blob; etcd's figure.
const BLOB_BYTES: usize = 32 << 10;
/// Messages that are sent together, and how often so many wait for a reader.
const BURST: usize = 16;
const QUEUE: usize = 2;
const _: () = assert!((BURST * BLOB_BYTES) as u64 == BURST_BYTES, "the pace counts by bursts");

impl Exports {
    /// The member's state at this moment as a file.
    pub fn snapshot(&self) -> Result<Pieces<SnapshotResponse>, Status> {
        self.snapshot_of(Sizes::default())
    }

    fn snapshot_of(&self, sizes: Sizes) -> Result<Pieces<SnapshotResponse>, Status> {
        let slot = self.slot()?;
        let (state, origin) = (self.handle().state(), self.origin());
        let (counters, watch) = (Arc::clone(self.handle().counters()), Stopwatch::start());
        Ok(self.stream(slot, QUEUE, move |outlet| {
            let mut go_on = || outlet.go_on();
            let picture = Picture::of(&state, &origin, &mut go_on)?;
            drop(state);
            let head = image::plan(&picture, sizes, &mut go_on)?;
            let total_bytes = head.file_bytes;
            tracing::info!("total-bytes" = total_bytes, "sending database snapshot to client");
            let mut file = File::new(outlet, total_bytes);
            image::write(&picture, sizes, &head, &mut |chunk| file.put(chunk))?;
            file.end()?;
            let took = watch.elapsed();
            counters.snapshot.observe(took);
            let took = go_time(took);
            tracing::info!("total-bytes" = total_bytes, took, "successfully sent database snapshot to client");
            Ok(())
        }))
    }
}

/// The file on its way out.
struct File<'a> {
    outlet: &'a mut Outlet<SnapshotResponse>,
    /// Bytes that no message holds yet.
    remaining_bytes: u64,
    blob: BytesMut,
    /// Messages that are not sent yet.
    burst: Vec<SnapshotResponse>,
    hasher: Sha256Hasher,
}

impl<'a> File<'a> {
    fn new(outlet: &'a mut Outlet<SnapshotResponse>, file_bytes: u64) -> Self {
        let blob = BytesMut::with_capacity(BLOB_BYTES);
        File { outlet, remaining_bytes: file_bytes, blob, burst: vec![], hasher: Sha256Hasher::default() }
    }

    fn put(&mut self, mut chunk: &[u8]) -> Result<()> {
        self.hasher.update(chunk);
        while !chunk.is_empty() {
            let (now, later) = chunk.split_at(chunk.len().min(BLOB_BYTES - self.blob.len()));
            self.blob.extend_from_slice(now);
            chunk = later;
            if self.blob.len() == BLOB_BYTES {
                self.send()?;
            }
        }
        Ok(())
    }

    fn send(&mut self) -> Result<()> {
        let blob = std::mem::replace(&mut self.blob, BytesMut::with_capacity(BLOB_BYTES)).freeze();
        self.remaining_bytes -= blob.len() as u64;
        self.burst.push(message(self.remaining_bytes, blob));
        if self.burst.len() < BURST { Ok(()) } else { self.outlet.send(std::mem::take(&mut self.burst)) }
    }

    fn end(mut self) -> Result<()> {
        if !self.blob.is_empty() {
            self.send()?;
        }
        assert_eq!(self.remaining_bytes, 0, "the file is as long as it was announced");
        let digest = self.hasher.finish();
        self.burst.push(message(0, Bytes::copy_from_slice(&digest.0)));
        self.outlet.send(self.burst)
    }
}

fn message(remaining_bytes: u64, blob: Bytes) -> SnapshotResponse {
    SnapshotResponse { header: None, remaining_bytes, blob, version: STORAGE_VERSION.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::etcdserverpb::PutRequest;
    use crate::base::digest::Sha256;
    use crate::snapshot::bbolt::read::Db;
    use crate::snapshot::bbolt::records::Source;
    use crate::store::machine::command::Operation;
    use crate::store::node::{Handle, Member, Paths, create};
    use crate::store::options::Tuning;
    use futures::StreamExt;
    use std::time::Duration;

    async fn member(tuning: Tuning) -> (tempfile::TempDir, Handle) {
        let dir = tempfile::tempdir().unwrap();
        let member = Member { cluster_id: 7, member_id: 8, name: "one".into(), ..Member::default() };
        let paths = Paths { state: dir.path().join("db"), log: dir.path().join("wal") };
        std::fs::create_dir(&paths.log).unwrap();
        create(&paths, &member, &tuning).unwrap();
        let handle = Handle::start(&paths, member, tuning).await.unwrap();
        (dir, handle)
    }

    async fn put(handle: &Handle, key: String, value_bytes: usize) {
        let value = vec![1; value_bytes].into();
        let request = PutRequest { key: key.into(), value, ..PutRequest::default() };
        handle.propose(Operation::Put(request)).await.unwrap();
    }

    /// More than waits in the queue, so that a reader who does not read is noticed.
    async fn fill(handle: &Handle) {
        for n in 0..20 {
            put(handle, format!("key-{n}"), 100_000).await;
        }
    }

    async fn until_free(exports: &Exports, slots: usize) {
        while exports.free() < slots {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// What is announced is what comes, and a write between two pieces is not in it.
    #[tokio::test]
    async fn a_stream_is_the_file_of_its_moment_piece_by_piece() {
        let (_dir, handle) = member(Tuning::default()).await;
        fill(&handle).await;
        let exports = Exports::new(&handle);
        let index = handle.state().position.index;
        let mut stream = exports.snapshot().unwrap();
        let first = stream.next().await.unwrap().unwrap();
        let mut remaining = first.remaining_bytes + first.blob.len() as u64;
        let total = remaining;
        let mut file = vec![];
        let mut pieces = vec![first];
        while let Some(piece) = stream.next().await {
            put(&handle, "later".to_owned(), 10).await;
            pieces.push(piece.unwrap());
        }
        let digest = pieces.pop().unwrap();
        assert_eq!((digest.remaining_bytes, digest.blob.len()), (0, 32));
        assert_eq!(pieces.len() as u64, total.div_ceil(BLOB_BYTES as u64));
        for piece in &pieces {
            assert!(piece.blob.len() == BLOB_BYTES || piece.remaining_bytes == 0);
            remaining -= piece.blob.len() as u64;
            assert_eq!((piece.remaining_bytes, piece.version.as_str()), (remaining, "3.6.0"));
            file.extend_from_slice(&piece.blob);
        }
        assert_eq!(digest.blob, Sha256::of(&file).0[..]);
        let db = Db::open(&file[..]).unwrap();
        let facts = Source::open(&db).unwrap().facts().clone();
        assert_eq!((facts.revision, facts.raft_index), (21, index));
        assert!(handle.state().view.revision() > 21);
    }

    #[tokio::test]
    async fn a_reader_that_takes_nothing_is_cut_off_and_one_that_goes_is_let_go() {
        let tuning = Tuning { export_stall: Duration::from_millis(30), exports_max: 2, ..Tuning::default() };
        let (_dir, handle) = member(tuning).await;
        fill(&handle).await;
        let exports = Exports::new(&handle);
        let mut stalled = exports.snapshot().unwrap();
        let mut gone = exports.snapshot().unwrap();
        let refused = exports.snapshot().unwrap_err();
        assert_eq!(refused.code(), tonic::Code::ResourceExhausted, "{refused}");
        gone.next().await.unwrap().unwrap();
        drop(gone);
        stalled.next().await.unwrap().unwrap();
        // Both are over before anybody asks again: nothing is held for who does not read.
        until_free(&exports, 2).await;
        let last = loop {
            if let Err(status) = stalled.next().await.expect("a stream that is cut off says so") {
                break status;
            }
        };
        assert_eq!(last.code(), tonic::Code::Aborted);
        assert!(last.message().contains("its reader took nothing for 30 ms"), "{last}");
        assert!(stalled.next().await.is_none());
    }
}
