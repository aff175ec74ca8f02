//! `Maintenance.Snapshot`: the state as a genuine etcd file, as etcd sends one.
//!
//! Messages hold at most 32 KiB and say how much follows; the last one holds the SHA-256 of everything before. The file's
//! first two pages are planned before the first byte is sent (`machine::image`), and nothing of it is stored on the way.

use bytes::{Bytes, BytesMut};
use tonic::Status;

use crate::api::etcdserverpb::SnapshotResponse;
use crate::base::digest::Sha256Hasher;
use crate::base::error::Result;
use crate::snapshot::bbolt::shape::Sizes;
use crate::store::machine::image;
use crate::store::machine::records::{Picture, STORAGE_VERSION};
use crate::store::server::export::{Exports, Outlet, Pieces};

/// Bytes of a message's blob; etcd's figure.
const BLOB_BYTES: usize = 32 << 10;

impl Exports {
    /// The member's state at this moment as a file.
    pub fn snapshot(&self) -> Result<Pieces<SnapshotResponse>, Status> {
        self.snapshot_of(Sizes::default())
    }

    fn snapshot_of(&self, sizes: Sizes) -> Result<Pieces<SnapshotResponse>, Status> {
        let slot = self.slot()?;
        let (state, origin) = (self.handle().state(), self.origin());
        Ok(self.stream(slot, move |outlet| {
            let mut go_on = || outlet.check();
            let picture = Picture::of(&state, origin, &mut go_on)?;
            drop(state);
            let head = image::plan(&picture, sizes, &mut go_on)?;
            let mut file = File::new(outlet, head.file_bytes);
            image::write(&picture, sizes, &head, &mut |chunk| file.put(chunk))?;
            file.end()
        }))
    }
}

/// The file on its way out.
struct File<'a> {
    outlet: &'a Outlet<SnapshotResponse>,
    /// Bytes that no message holds yet.
    remaining_bytes: u64,
    blob: BytesMut,
    hasher: Sha256Hasher,
}

impl<'a> File<'a> {
    fn new(outlet: &'a Outlet<SnapshotResponse>, file_bytes: u64) -> Self {
        let blob = BytesMut::with_capacity(BLOB_BYTES);
        File { outlet, remaining_bytes: file_bytes, blob, hasher: Sha256Hasher::default() }
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
        self.outlet.send(message(self.remaining_bytes, blob))
    }

    fn end(mut self) -> Result<()> {
        if !self.blob.is_empty() {
            self.send()?;
        }
        assert_eq!(self.remaining_bytes, 0, "the file is as long as it was announced");
        let digest = self.hasher.finish();
        self.outlet.send(message(0, Bytes::copy_from_slice(&digest.0)))
    }
}

fn message(remaining_bytes: u64, blob: Bytes) -> SnapshotResponse {
    SnapshotResponse { header: None, remaining_bytes, blob, version: STORAGE_VERSION.to_owned() }
}
