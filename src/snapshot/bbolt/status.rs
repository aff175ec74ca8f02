//! What `etcdutl snapshot status` says about a file, computed the way it does.

use crate::base::error::Result;
use crate::base::stop::Stop;
use crate::snapshot::bbolt::Pages;
use crate::snapshot::bbolt::read::{Db, Direction};
use crate::snapshot::entry;

/// A file in five numbers.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// CRC-32C over each bucket's name, keys and values, in order.
    pub hash: u32,
    /// Main revision of the last entry of `key`; 0 when there is none.
    pub revision: i64,
    /// Entries of all buckets, as etcd up to 3.5 counts.
    pub total_key: u64,
    /// Bytes in use, without the trailing SHA-256.
    pub total_size: u64,
    /// etcd's storage version; empty before 3.6.
    pub version: String,
}

/// Reads the whole file.
pub fn status<P: Pages>(db: &Db<P>, stop: &Stop) -> Result<Status> {
    let mut walk = db.walk();
    let mut status = Status { hash: 0, revision: 0, total_key: 0, total_size: db.size(), version: String::new() };
    for bucket in db.buckets(&mut walk)? {
        status.hash = crc32c::crc32c_append(status.hash, &bucket.name);
        let named = |error: crate::base::error::Error| {
            error.during(format!("bucket {:?}", String::from_utf8_lossy(&bucket.name)))
        };
        let mut leaves = db.leaves(&bucket.root, Direction::Forward);
        while let Some(leaf) = leaves.next_leaf(&mut walk).map_err(named)? {
            stop.check()?;
            for item in leaf.entries() {
                status.hash = crc32c::crc32c_append(status.hash, item.key);
                status.hash = crc32c::crc32c_append(status.hash, item.value);
                status.total_key += 1;
                if bucket.name == entry::KEY {
                    status.revision = entry::revision_of(item.key, item.value).map_err(named)?.rev.main;
                } else if bucket.name == entry::META && item.key == entry::STORAGE_VERSION {
                    status.version = String::from_utf8_lossy(item.value).into_owned();
                }
            }
        }
    }
    Ok(status)
}
