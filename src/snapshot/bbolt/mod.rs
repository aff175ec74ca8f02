//! etcd's own file format: bbolt, a copy-on-write B+tree of pages.
//!
//! ```text
//! page 0, 1   meta: magic, version, page size, root bucket, freelist, high-water mark, transaction id, FNV-64a
//! page 2..    branch, leaf and freelist pages; a page with overflow n is followed by n pages of the same run
//! then        32 bytes of SHA-256 over all before, in files that `etcdctl snapshot save` wrote
//! ```
//!
//! The root bucket's leaves name the other buckets; a small bucket lies inline in its entry. etcd keeps history in the
//! bucket `key` under (revision, `_`, sub-revision) and everything else in a dozen small buckets (`entry`).
//!
//! Files are read through the `Pages` trait and written as a stream of chunks; neither side knows a path. Reading
//! trusts nothing: each page must carry its own number, be referenced once, and keep every element inside its run; keys
//! must ascend over the whole tree. The two metas are tried in the order bbolt tries them. The freelist is not needed to
//! read and is not read, so files with and without a synced freelist are the same here.
//!
//! Invariants:
//! - A damaged or hostile file gives an error that names page and check, never a panic, and never an allocation above
//!   named limits: `RUN_BYTES_MAX` for one page, `BRANCHES_BYTES_MAX` for the way to it, `BUCKET_LIST_BYTES_MAX` for the
//!   list of buckets, `SIDE_BYTES_MAX` and `SIDE_ENTRIES_MAX` for all small buckets together, a bit for each of at most
//!   `PAGES_MAX` pages.
//! - What is written is what bbolt itself could have written: real etcd opens it, `etcdutl` accepts it.

pub mod build;
pub mod node;
pub mod page;
pub mod read;
pub mod records;
pub mod shape;
pub mod side;
pub mod status;
pub mod write;

use crate::base::error::Result;
use crate::base::file::ReadAt;

/// Where the bytes of a file come from.
pub trait Pages {
    /// Length in bytes.
    fn len(&self) -> u64;

    /// Whether there are no bytes at all.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Fills `buffer` with the bytes at `offset`; past the end is an error.
    fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<()>;
}

impl Pages for ReadAt {
    fn len(&self) -> u64 {
        ReadAt::len(self)
    }

    fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        ReadAt::read(self, offset, buffer)
    }
}

impl Pages for &[u8] {
    fn len(&self) -> u64 {
        <[u8]>::len(self) as u64
    }

    fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        let start = usize::try_from(offset).ok();
        let end = start.and_then(|start| start.checked_add(buffer.len()));
        let bytes = start.zip(end).and_then(|(start, end)| self.get(start..end));
        let bytes = bytes.ok_or_else(|| crate::base::error::Error::damaged(format!("no bytes at {offset}")))?;
        buffer.copy_from_slice(bytes);
        Ok(())
    }
}
