//! The layout of one page, byte by byte: headers, elements, metas. All numbers are little-endian, as on every machine
//! etcd runs on.
//!
//! ```text
//! page     0 id u64 | 8 flags u16 | 10 count u16 | 12 overflow u32 | 16 ...
//! leaf     16 bytes per element: flags u32 | pos u32 | ksize u32 | vsize u32; then keys and values
//! branch   16 bytes per element: pos u32 | ksize u32 | child u64; then keys
//! bucket   an element with flag 1; its value: root u64 | sequence u64 | the page itself when root is 0
//! meta     16 magic u32 | 20 version u32 | 24 page size u32 | 28 flags u32 | 32 root u64 | 40 sequence u64
//!          48 freelist u64 | 56 high-water mark u64 | 64 transaction id u64 | 72 FNV-64a of 16..72
//! ```
//!
//! `pos` counts from the start of its own element.

use crate::base::error::{Error, Result};

/// bbolt's magic number.
pub const MAGIC: u32 = 0xED0C_DAED;
/// The only version of the format.
pub const VERSION: u32 = 2;
/// Bytes of a page header.
pub const HEADER_BYTES: usize = 16;
/// Bytes of an element in a leaf or branch page.
pub const ELEMENT_BYTES: usize = 16;
/// Bytes before an inline page in a bucket's value.
pub const BUCKET_BYTES: usize = 16;
/// Bytes of a meta, header included.
pub const META_BYTES: usize = 80;
/// The longest key that bbolt stores, in bytes.
pub const KEY_BYTES_MAX: usize = 32768;
/// Smallest and largest page size that bbolt files have, in bytes.
pub const PAGE_SIZES: std::ops::RangeInclusive<u32> = 1024..=65536;

/// Page flags.
pub const BRANCH: u16 = 0x01;
/// Page flags.
pub const LEAF: u16 = 0x02;
/// Page flags.
pub const META: u16 = 0x04;
/// Page flags.
pub const FREELIST: u16 = 0x10;
/// Element flag of a nested bucket.
pub const BUCKET: u32 = 0x01;

/// The first 16 bytes of a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// The page's own number; 0 for an inline page.
    pub id: u64,
    /// What the page is.
    pub flags: u16,
    /// Elements in it.
    pub count: u16,
    /// Pages that follow and belong to it.
    pub overflow: u32,
}

impl Header {
    /// Reads the header at the start of `page`.
    pub fn read(page: &[u8]) -> Result<Self> {
        if page.len() < HEADER_BYTES {
            return Err(Error::damaged(format!("a page of {} bytes has no header", page.len())));
        }
        Ok(Header { id: u64_at(page, 0), flags: u16_at(page, 8), count: u16_at(page, 10), overflow: u32_at(page, 12) })
    }

    /// Appends the header.
    pub fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.id.to_le_bytes());
        out.extend_from_slice(&self.flags.to_le_bytes());
        out.extend_from_slice(&self.count.to_le_bytes());
        out.extend_from_slice(&self.overflow.to_le_bytes());
    }
}

/// What a meta page says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Meta {
    /// Bytes of a page.
    pub page_size: u32,
    /// The root bucket's page.
    pub root: u64,
    /// The freelist's page, or `u64::MAX` when it is not stored.
    pub freelist: u64,
    /// Pages in the file: the first number that was never used.
    pub high_water: u64,
    /// The transaction that wrote it; the higher valid one counts.
    pub txid: u64,
}

impl Meta {
    /// Reads and checks the meta in `page`.
    pub fn read(page: &[u8]) -> Result<Self> {
        if page.len() < META_BYTES {
            return Err(Error::damaged("the file is too short for a meta page"));
        }
        if u32_at(page, 16) != MAGIC {
            return Err(Error::damaged("the magic number is not bbolt's"));
        }
        if u32_at(page, 20) != VERSION {
            return Err(Error::damaged(format!("version {} is not known", u32_at(page, 20))));
        }
        if u64_at(page, 72) != fnv64a(&page[16..72]) {
            return Err(Error::damaged("the meta page's checksum is wrong"));
        }
        let meta = Meta {
            page_size: u32_at(page, 24),
            root: u64_at(page, 32),
            freelist: u64_at(page, 48),
            high_water: u64_at(page, 56),
            txid: u64_at(page, 64),
        };
        if !meta.page_size.is_power_of_two() || !PAGE_SIZES.contains(&meta.page_size) {
            return Err(Error::damaged(format!("{} is not a page size", meta.page_size)));
        }
        Ok(meta)
    }

    /// Appends a whole meta page with number `id`.
    pub fn write(&self, id: u64, out: &mut Vec<u8>) {
        let start = out.len();
        Header { id, flags: META, count: 0, overflow: 0 }.write(out);
        for number in [MAGIC, VERSION, self.page_size, 0] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        for number in [self.root, 0, self.freelist, self.high_water, self.txid] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        let checksum = fnv64a(&out[start + 16..start + 72]);
        out.extend_from_slice(&checksum.to_le_bytes());
        let page_size = usize::try_from(self.page_size).expect("at most 64 KiB");
        out.resize(start + page_size, 0);
    }
}

/// FNV-1a, 64 bits (Fowler, Noll, Vo), as bbolt seals its metas.
pub fn fnv64a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

/// The little-endian number at `at`, which must lie inside.
pub(crate) fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(bytes[at..at + 2].try_into().expect("2 bytes"))
}

/// The little-endian number at `at`, which must lie inside.
pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("4 bytes"))
}

/// The little-endian number at `at`, which must lie inside.
pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("8 bytes"))
}

/// A length that fits in memory: the program runs on 64-bit machines.
pub(crate) fn to_usize(n: u64) -> usize {
    usize::try_from(n).expect("64-bit addresses")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fnv_agrees_with_the_published_vectors() {
        assert_eq!(fnv64a(b""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(fnv64a(b"foobar"), 0x8594_4171_f739_67e8);
    }

    #[test]
    fn metas_round_trip_and_notice_every_flip() {
        let meta = Meta { page_size: 4096, root: 3, freelist: 2, high_water: 9, txid: 1 };
        let mut page = vec![];
        meta.write(0, &mut page);
        assert_eq!(page.len(), 4096);
        assert_eq!(Meta::read(&page).unwrap(), meta);
        for at in 16..META_BYTES {
            page[at] ^= 1;
            assert!(Meta::read(&page).is_err(), "byte {at}");
            page[at] ^= 1;
        }
    }
}
