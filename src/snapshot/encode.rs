//! Records to bytes: blocks of whole length-delimited records, in the fixed order, closed by `End`.
//!
//! The codec is written out by hand over the wire format, because a `Revision` must carry the stored key value without
//! decoding it; tests/compat/schema.rs holds it against the code generated from the schema.

use crate::snapshot::record::{Descriptor, End, Extra, FORMAT, RECORD_BYTES_MAX, Record, Rev, Revision};
use crate::snapshot::wire;

/// How a descriptor calls the whole state.
pub(crate) const FULL: &[u8] = b"full";
/// How a descriptor calls what came after a base.
pub(crate) const INCREMENTAL: &[u8] = b"incremental";
/// The longest block, in bytes; only a single record that is longer has a longer block, of its own.
pub const BLOCK_BYTES_MAX: usize = 1 << 20;

/// Whole records, in order, ready to be stored.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Block {
    /// The records, each preceded by its length as a varint.
    pub bytes: Vec<u8>,
    /// How many there are.
    pub records: u64,
    /// Main revision of the first `Revision` among them; 0 when there is none.
    pub first: i64,
    /// Main revision of the last `Revision` among them; 0 when there is none.
    pub last: i64,
}

/// Turns records into blocks.
///
/// Invariants, asserted: the first record is the `Descriptor`; kinds never go back in the order of their numbers;
/// revisions ascend strictly; nothing follows `End`.
#[derive(Debug, Default)]
pub struct Encoder {
    block: Block,
    records: u64,
    crc32c: u32,
    last_rank: u32,
    ended: bool,
    last_rev: Option<Rev>,
    scratch: Vec<u8>,
}

impl Encoder {
    /// An encoder at the start of a stream.
    pub fn new() -> Self {
        Encoder::default()
    }

    /// Appends a record; returns the block before it when the two together would be too long.
    pub fn put(&mut self, record: &Record<'_>) -> Option<Block> {
        let (number, rank) = (record.number(), record.rank());
        assert!(!self.ended, "nothing follows the end of a stream");
        assert!(self.last_rank > 0 || number == 1, "a stream opens with its descriptor");
        assert!(rank >= self.last_rank, "a record of kind {number} comes too late");
        self.last_rank = rank;
        self.ended = matches!(record, Record::End(_));
        let (before, start, main);
        if let Record::Revision(revision) = record {
            assert!(self.last_rev < Some(revision.rev), "revision {} does not ascend", revision.rev);
            self.last_rev = Some(revision.rev);
            let head = RevisionHead::of(revision);
            before = self.room(head.record_len());
            start = self.block.bytes.len();
            head.put_before(&mut self.block.bytes, revision.stored);
            main = revision.rev.main;
        } else {
            self.scratch.clear();
            put_fact(&mut self.scratch, record);
            before = self.room(record_len(number, self.scratch.len()));
            start = self.block.bytes.len();
            put_record(&mut self.block.bytes, number, &self.scratch);
            main = 0;
        }
        let written = &self.block.bytes[start..];
        assert!(written.len() <= RECORD_BYTES_MAX, "a record of {} bytes is over the limit", written.len());
        self.crc32c = crc32c::crc32c_append(self.crc32c, written);
        self.records += 1;
        self.block.records += 1;
        if main != 0 {
            self.block.first = if self.block.first == 0 { main } else { self.block.first };
            self.block.last = main;
        }
        before
    }

    /// Makes room for a record; the block before it when that is full. A block's memory is taken at once and never moves.
    fn room(&mut self, len: usize) -> Option<Block> {
        let held = self.block.bytes.len();
        let before = (held > 0 && held + len > BLOCK_BYTES_MAX).then(|| std::mem::take(&mut self.block));
        if self.block.bytes.is_empty() {
            self.block.bytes.reserve_exact(BLOCK_BYTES_MAX.max(len));
        }
        before
    }

    /// Appends `End` and returns the last one or two blocks.
    pub fn end(mut self) -> (Vec<Block>, End) {
        let end = End { records: self.records, crc32c: self.crc32c };
        let before = self.put(&Record::End(end));
        (before.into_iter().chain([self.block]).collect(), end)
    }
}

/// How long a record with so long a fact is.
fn record_len(number: u32, fact_len: usize) -> usize {
    let len = message_len(number, fact_len);
    wire::varint_len(len as u64) + len
}

/// The same without its own length.
fn message_len(number: u32, fact_len: usize) -> usize {
    // Kinds 16 and above have two-byte tags.
    let tag_len = if number < 16 { 1 } else { 2 };
    tag_len + wire::varint_len(fact_len as u64) + fact_len
}

/// Appends one record: its length, the tag of its kind, the fact.
fn put_record(out: &mut Vec<u8>, number: u32, fact: &[u8]) {
    wire::put_varint(out, message_len(number, fact.len()) as u64);
    wire::put_message(out, number, fact);
}

/// A `Revision` record but for its stored bytes, which are written without a copy between.
struct RevisionHead {
    /// The fields before the stored bytes, and their tag; at most 25 bytes.
    bytes: [u8; 32],
    len: usize,
    stored_len: usize,
}

impl RevisionHead {
    const NUMBER: u32 = 16;

    fn of(revision: &Revision<'_>) -> Self {
        let mut bytes = [0; 32];
        let len = revision_head(&mut bytes, revision);
        RevisionHead { bytes, len, stored_len: revision.stored.len() }
    }

    fn fact_len(&self) -> usize {
        self.len + wire::varint_len(self.stored_len as u64) + self.stored_len
    }

    fn record_len(&self) -> usize {
        record_len(Self::NUMBER, self.fact_len())
    }

    fn put_before(&self, out: &mut Vec<u8>, stored: &[u8]) {
        wire::put_varint(out, message_len(Self::NUMBER, self.fact_len()) as u64);
        wire::put_varint(out, u64::from(Self::NUMBER) << 3 | u64::from(wire::BYTES));
        wire::put_varint(out, self.fact_len() as u64);
        out.extend_from_slice(&self.bytes[..self.len]);
        wire::put_varint(out, self.stored_len as u64);
        out.extend_from_slice(stored);
    }
}

fn revision_head(head: &mut [u8; 32], revision: &Revision<'_>) -> usize {
    let mut at = 0;
    let mut push = |mut value: u64| {
        while value >= 0x80 {
            head[at] = u8::try_from(value & 0x7f).expect("seven bits") | 0x80;
            value >>= 7;
            at += 1;
        }
        head[at] = u8::try_from(value).expect("seven bits");
        at += 1;
    };
    for (number, value) in [(1, revision.rev.main), (2, revision.rev.sub), (3, i64::from(revision.tombstone))] {
        if value != 0 {
            push(number << 3 | u64::from(wire::VARINT));
            push(value.cast_unsigned());
        }
    }
    push(4 << 3 | u64::from(wire::BYTES));
    at
}

/// Appends the fields of every kind but `Revision`.
fn put_fact(out: &mut Vec<u8>, record: &Record<'_>) {
    match record {
        Record::Descriptor(descriptor) => put_descriptor(out, descriptor),
        Record::Extra(extra) => put_extra(out, extra),
        Record::Compacted(compacted) => {
            wire::put_number(out, 1, compacted.revision.cast_unsigned());
            wire::put_number(out, 2, u64::from(compacted.finished));
        }
        Record::ClusterVersion(version) => wire::put_bytes(out, 1, version.as_bytes()),
        Record::Member { id, json } => {
            wire::put_number(out, 1, id.0);
            wire::put_bytes(out, 2, json);
        }
        Record::MemberGone(id) => wire::put_number(out, 1, id.0),
        Record::Alarm { stored } | Record::User { stored } | Record::Role { stored } | Record::Lease { stored } => {
            wire::put_message(out, 1, stored);
        }
        Record::AuthConfig { enabled, revision } => {
            // Presence matters here: the fields are `optional` in the schema.
            for (number, value) in [(1, enabled.map(u64::from)), (2, *revision)] {
                if let Some(value) = value {
                    wire::put_varint(out, number << 3 | u64::from(wire::VARINT));
                    wire::put_varint(out, value);
                }
            }
        }
        Record::UserGone(name) | Record::RoleGone(name) => wire::put_bytes(out, 1, name),
        Record::LeaseGone(id) => wire::put_number(out, 1, id.cast_unsigned()),
        Record::Moment { revision, unix_ms } => {
            wire::put_number(out, 1, revision.cast_unsigned());
            wire::put_number(out, 2, unix_ms.cast_unsigned());
        }
        Record::Revision(_) => unreachable!("revisions are written without this copy"),
        Record::Kept(run) => {
            wire::put_number(out, 1, run.first.main.cast_unsigned());
            wire::put_number(out, 2, run.first.sub.cast_unsigned());
            wire::put_bytes(out, 3, run.steps);
        }
        Record::End(end) => {
            wire::put_number(out, 1, end.records);
            if end.crc32c != 0 {
                wire::put_varint(out, 2 << 3 | u64::from(wire::FIXED32));
                out.extend_from_slice(&end.crc32c.to_le_bytes());
            }
        }
    }
}

fn put_descriptor(out: &mut Vec<u8>, descriptor: &Descriptor<'_>) {
    assert_eq!(descriptor.format, FORMAT, "only the current format is written");
    wire::put_number(out, 1, u64::from(descriptor.format));
    wire::put_bytes(out, 2, if descriptor.base_revision == 0 { FULL } else { INCREMENTAL });
    wire::put_number(out, 3, descriptor.cluster_id.0);
    wire::put_number(out, 4, descriptor.member_id.0);
    wire::put_number(out, 5, descriptor.revision.cast_unsigned());
    wire::put_number(out, 6, descriptor.compact_revision.cast_unsigned());
    wire::put_number(out, 7, descriptor.raft_term);
    wire::put_number(out, 8, descriptor.raft_index);
    wire::put_bytes(out, 9, descriptor.storage_version.as_bytes());
    wire::put_number(out, 10, u64::from(descriptor.page_size));
    wire::put_number(out, 11, descriptor.base_revision.cast_unsigned());
    wire::put_number(out, 12, u64::from(descriptor.kept_listed));
}

fn put_extra(out: &mut Vec<u8>, extra: &Extra<'_>) {
    wire::put_bytes(out, 1, extra.bucket);
    if let Some(key) = extra.key {
        wire::put_message(out, 2, key);
    }
    wire::put_bytes(out, 3, extra.value);
    wire::put_number(out, 4, extra.sequence);
}
