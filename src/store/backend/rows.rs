//! The bytes of rows: keys, forms and checksums, as docs/formats/state.md has them.
//!
//! Every value ends in a CRC-32C over its row's key and itself, so that neither a flipped bit nor a row in another's place
//! is ever read.

use crate::base::digest::crc32c;
use crate::base::revision::Rev;
use crate::store::backend::{Brief, Listed, Space, Stored};

/// The key of a revision's rows: main and sub revision, big-endian.
pub(super) type RowKey = [u8; 16];

const CRC_BYTES: usize = 4;
const VALUE: u8 = 0;
const TOMBSTONE: u8 = 1;

pub(super) fn key_of(rev: Rev) -> RowKey {
    let mut key = [0; 16];
    key[..8].copy_from_slice(&rev.main.to_be_bytes());
    key[8..].copy_from_slice(&rev.sub.to_be_bytes());
    key
}

pub(super) fn rev_of(key: &RowKey) -> Rev {
    let (main, sub) = key.split_first_chunk::<8>().expect("16 bytes");
    let sub = sub.first_chunk::<8>().expect("8 more");
    Rev { main: i64::from_be_bytes(*main), sub: i64::from_be_bytes(*sub) }
}

pub(super) fn side_key(space: Space, key: &[u8]) -> Vec<u8> {
    [&[space as u8], key].concat()
}

/// The value of a revision in its own table.
pub(super) fn seal_stored(key: &RowKey, stored: &Stored<'_>, value: &mut Vec<u8>) {
    value.clear();
    value.push(form_of(stored.tombstone));
    value.extend_from_slice(stored.message);
    seal(key, value);
}

/// What such a value says; none when it is not what was written.
pub(super) fn stored<'a>(key: &RowKey, value: &'a [u8]) -> Option<Stored<'a>> {
    let (form, message) = unsealed(key, value)?.split_first()?;
    Some(Stored { rev: rev_of(key), tombstone: is_tombstone(*form)?, message })
}

/// The value of a revision in the index.
pub(super) fn seal_listed(key: &RowKey, listed: &Listed<'_>, value: &mut Vec<u8>) {
    let Brief { key: name, created, number, lease } = listed.brief;
    value.clear();
    value.push(form_of(listed.tombstone));
    value.extend_from_slice(&listed.message_bytes.to_be_bytes());
    for number in [created, number, lease] {
        value.extend_from_slice(&number.to_be_bytes());
    }
    value.extend_from_slice(name);
    seal(key, value);
}

/// What such a value says; none when it is not what was written.
pub(super) fn listed<'a>(key: &RowKey, value: &'a [u8]) -> Option<Listed<'a>> {
    let (form, rest) = unsealed(key, value)?.split_first()?;
    let (message_bytes, rest) = rest.split_first_chunk()?;
    let (created, rest) = rest.split_first_chunk()?;
    let (number, rest) = rest.split_first_chunk()?;
    let (lease, key_bytes) = rest.split_first_chunk()?;
    let [created, number, lease] = [created, number, lease].map(|bytes| i64::from_be_bytes(*bytes));
    Some(Listed {
        rev: rev_of(key),
        tombstone: is_tombstone(*form)?,
        message_bytes: u32::from_be_bytes(*message_bytes),
        brief: Brief { key: key_bytes, created, number, lease },
    })
}

/// What both rows of a revision take of the file, their keys included, by the lengths of key and message.
pub(super) fn revision_bytes(key_bytes: usize, message_bytes: usize) -> u64 {
    let stored = 1 + message_bytes + CRC_BYTES;
    let listed = 1 + size_of::<u32>() + 3 * size_of::<i64>() + key_bytes + CRC_BYTES;
    (2 * size_of::<RowKey>() + stored + listed) as u64
}

/// The same for an entry of a side table.
pub(super) fn side_bytes(key: &[u8], value: &[u8]) -> u64 {
    (1 + key.len() + value.len() + CRC_BYTES) as u64
}

fn form_of(tombstone: bool) -> u8 {
    if tombstone { TOMBSTONE } else { VALUE }
}

fn is_tombstone(form: u8) -> Option<bool> {
    match form {
        VALUE => Some(false),
        TOMBSTONE => Some(true),
        _ => None,
    }
}

/// Appends the checksum.
pub(super) fn seal(key: &[u8], value: &mut Vec<u8>) {
    let crc = crc32c(&[key, value]);
    value.extend_from_slice(&crc.to_le_bytes());
}

/// The value without its checksum, when that is right.
pub(super) fn unsealed<'a>(key: &[u8], value: &'a [u8]) -> Option<&'a [u8]> {
    let (value, crc) = value.split_last_chunk::<CRC_BYTES>()?;
    (crc32c(&[key, value]) == u32::from_le_bytes(*crc)).then_some(value)
}
