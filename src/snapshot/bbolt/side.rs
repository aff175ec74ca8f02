//! What the small buckets of an etcd file may take together, whether they are read from a file or gathered from records.
//!
//! They are the part of a file that is held in memory: all buckets but history and leases, which are streamed. An entry
//! costs some hundred bytes there beside its own, so bytes alone bound nothing: entries are counted too.

use crate::base::error::{Error, Result};
use crate::snapshot::bbolt::page::KEY_BYTES_MAX;

/// What all entries outside the buckets `key` and `lease` may take together, in bytes, with the names of all buckets.
/// etcd's take a few kilobytes.
pub const SIDE_BYTES_MAX: usize = 32 << 20;
/// How many entries there may be outside the buckets `key` and `lease`: users, roles, members that were removed. Clusters
/// have dozens.
pub const SIDE_ENTRIES_MAX: usize = 100_000;

/// What has been taken so far.
#[derive(Debug, Default)]
pub(crate) struct Taken {
    bytes: usize,
    entries: usize,
}

impl Taken {
    /// Takes room for this many entries and bytes.
    pub(crate) fn add(&mut self, entries: usize, bytes: usize) -> Result<()> {
        self.entries = self.entries.saturating_add(entries);
        self.bytes = self.bytes.saturating_add(bytes);
        if self.entries > SIDE_ENTRIES_MAX {
            return Err(Error::damaged(format!(
                "the buckets beside history and leases have more than {SIDE_ENTRIES_MAX} entries"
            )));
        }
        if self.bytes > SIDE_BYTES_MAX {
            return Err(Error::damaged(format!(
                "the buckets beside history and leases take more than {SIDE_BYTES_MAX} bytes"
            )));
        }
        Ok(())
    }
}

/// Refuses a key or a bucket's name that bbolt would not store.
pub(crate) fn check_key(key: &[u8]) -> Result<()> {
    if key.len() <= KEY_BYTES_MAX {
        return Ok(());
    }
    Err(Error::damaged(format!("a key of {} bytes: bbolt stores none above {KEY_BYTES_MAX}", key.len())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_and_bytes_are_limited_each_on_its_own() {
        let mut taken = Taken::default();
        taken.add(SIDE_ENTRIES_MAX, SIDE_BYTES_MAX).unwrap();
        assert!(taken.add(1, 0).unwrap_err().chain().contains("entries"));
        let mut taken = Taken::default();
        taken.add(1, SIDE_BYTES_MAX).unwrap();
        assert!(taken.add(0, 1).unwrap_err().chain().contains("bytes"));
        assert!(taken.add(usize::MAX, usize::MAX).is_err());
        check_key(&[0; KEY_BYTES_MAX]).unwrap();
        check_key(&[0; KEY_BYTES_MAX + 1]).unwrap_err();
    }
}
