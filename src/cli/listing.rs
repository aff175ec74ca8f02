//! Keys as `keys ls` lists them: in order, with a limit on the memory that takes.
//!
//! Keys are met newest change first, so an ordered list must be held before its first line can be written. A listing holds
//! the keys alone, never their values; with `--limit` no more of them than were asked for.

use std::collections::BinaryHeap;
use std::mem::size_of;

use serde::{Serialize, Serializer};

use crate::base::error::{Error, Kind, Result};
use crate::base::units;
use crate::cli::run::Context;
use crate::snapshot::record::KeyValue;

/// What the keys of a listing may take in memory, in bytes: some 400,000 of usual length.
pub(crate) const LISTING_BYTES_MAX: usize = 64 << 20;
/// What the allocator adds to a key, about.
const ALLOCATION_BYTES: usize = 16;

/// A live key without its value.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Found {
    key: Vec<u8>,
    create_revision: i64,
    mod_revision: i64,
    version: i64,
    lease: i64,
    value_bytes: usize,
}

impl Found {
    fn bytes(&self) -> usize {
        size_of::<Found>() + self.key.len() + ALLOCATION_BYTES
    }
}

/// The keys found so far: all of them, or the first in order.
#[derive(Debug)]
pub(crate) struct Listing {
    keys_max: Option<usize>,
    bytes_max: usize,
    /// The largest key comes out first.
    keys: BinaryHeap<Found>,
    bytes: usize,
    matched: u64,
}

impl Listing {
    /// A listing of all keys, or of the first `keys_max` of them.
    pub(crate) fn new(keys_max: Option<usize>, bytes_max: usize) -> Self {
        Listing { keys_max, bytes_max, keys: BinaryHeap::new(), bytes: 0, matched: 0 }
    }

    /// Adds a key, in any order.
    pub(crate) fn add(&mut self, kv: &KeyValue<'_>) -> Result<()> {
        let KeyValue { create_revision, mod_revision, version, lease, .. } = *kv;
        self.matched += 1;
        let full = self.keys_max.is_some_and(|max| self.keys.len() >= max);
        if full && self.keys.peek().is_none_or(|largest| largest.key.as_slice() < kv.key) {
            return Ok(());
        }
        if full && let Some(largest) = self.keys.pop() {
            self.bytes -= largest.bytes();
        }
        let (key, value_bytes) = (kv.key.to_vec(), kv.value.len());
        let found = Found { key, create_revision, mod_revision, version, lease, value_bytes };
        self.bytes += found.bytes();
        if self.bytes > self.bytes_max {
            let count = units::count(self.keys.len() as u64);
            return Err(Error::new(Kind::Usage, format!("more than {count} keys are too many to be listed in order"))
                .hint("give a (longer) PREFIX, --limit N for the first N keys, or --by-kind to count them"));
        }
        self.keys.push(found);
        Ok(())
    }

    /// Shows the keys in order.
    pub(crate) fn show(self, revision: i64, context: &Context) -> Result<()> {
        #[derive(Serialize)]
        struct Shown<'a> {
            revision: i64,
            matched: u64,
            #[serde(serialize_with = "rows")]
            keys: &'a [Found],
        }
        let matched = self.matched;
        let keys = self.keys.into_sorted_vec();
        context.output.show("keys_ls", &Shown { revision, matched, keys: &keys }, || text(&keys))?;
        let (shown, all) = (units::count(keys.len() as u64), units::count(matched));
        context.output.remark(&if keys.len() as u64 == matched {
            format!("{all} keys at revision {revision}")
        } else {
            format!("the first {shown} of {all} keys at revision {revision}")
        });
        Ok(())
    }
}

/// The rows one after another: they are made while they are written.
fn rows<S: Serializer>(keys: &[Found], serializer: S) -> std::result::Result<S::Ok, S::Error> {
    #[derive(Serialize)]
    struct Row {
        /// Bytes that are no text are escaped, as in \xff.
        key: String,
        create_revision: i64,
        mod_revision: i64,
        version: i64,
        lease: String,
        value_bytes: usize,
    }
    serializer.collect_seq(keys.iter().map(|found| Row {
        key: found.key.escape_ascii().to_string(),
        create_revision: found.create_revision,
        mod_revision: found.mod_revision,
        version: found.version,
        lease: format!("{:x}", found.lease),
        value_bytes: found.value_bytes,
    }))
}

/// The table. A table of cells would take ten times the memory of the keys.
fn text(keys: &[Found]) -> String {
    const HEADER: [&str; 4] = ["KEY", "MODIFIED AT", "VERSION", "VALUE"];
    let cells = |found: &Found| {
        let value = units::bytes(found.value_bytes as u64);
        [found.key.escape_ascii().to_string(), found.mod_revision.to_string(), found.version.to_string(), value]
    };
    let mut widths = HEADER.map(str::len);
    for found in keys {
        widths.iter_mut().zip(cells(found)).for_each(|(width, cell)| *width = cell.len().max(*width));
    }
    let mut text = String::new();
    let mut line = |[key, modified, version, value]: [&str; 4]| {
        let [a, b, c, d] = widths;
        text.push_str(&format!("{key:<a$}  {modified:>b$}  {version:>c$}  {value:>d$}\n"));
    };
    line(HEADER);
    keys.iter().for_each(|found| line(cells(found).each_ref().map(String::as_str)));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fill(listing: &mut Listing, keys: &[&str]) -> Result<()> {
        keys.iter()
            .try_for_each(|key| listing.add(&KeyValue { key: key.as_bytes(), value: b"v", ..KeyValue::default() }))
    }

    fn keys(listing: Listing) -> Vec<String> {
        listing.keys.into_sorted_vec().iter().map(|found| found.key.escape_ascii().to_string()).collect()
    }

    #[test]
    fn keys_come_out_in_order_all_or_the_first_of_them() {
        let met = ["d", "a", "e", "c", "b"];
        for (keys_max, expected) in [
            (None, &["a", "b", "c", "d", "e"][..]),
            (Some(9), &["a", "b", "c", "d", "e"]),
            (Some(2), &["a", "b"]),
            (Some(0), &[]),
        ] {
            let mut listing = Listing::new(keys_max, LISTING_BYTES_MAX);
            fill(&mut listing, &met).unwrap();
            assert_eq!(listing.matched, 5);
            assert_eq!(keys(listing), expected, "{keys_max:?}");
        }
    }

    #[test]
    fn too_many_keys_are_refused_with_a_way_out_and_a_limit_is_one() {
        let met: Vec<String> = (0..1000).rev().map(|n| format!("{n:04}")).collect();
        let met: Vec<&str> = met.iter().map(String::as_str).collect();
        let bytes_max = 10 * (size_of::<Found>() + 4 + ALLOCATION_BYTES);
        let mut listing = Listing::new(None, bytes_max);
        let error = fill(&mut listing, &met).unwrap_err();
        assert_eq!((error.kind(), listing.keys.len()), (Kind::Usage, 10));
        assert!(error.hint_text().unwrap().contains("--limit"), "{}", error.chain());
        let mut listing = Listing::new(Some(10), bytes_max);
        fill(&mut listing, &met).unwrap();
        assert_eq!((listing.bytes, listing.matched), (bytes_max, 1000));
        assert_eq!(keys(listing)[9], "0009");
    }

    #[test]
    fn the_table_is_aligned() {
        let mut listing = Listing::new(None, LISTING_BYTES_MAX);
        fill(&mut listing, &["a\u{e9}", "b"]).unwrap();
        let expected = "KEY        MODIFIED AT  VERSION  VALUE\na\\xc3\\xa9            0        0    1 B\nb                    0        0    1 B\n";
        assert_eq!(text(&listing.keys.into_sorted_vec()), expected);
    }
}
