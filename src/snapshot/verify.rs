//! Whether a stream is a whole and plausible picture, checked newest batch first.
//!
//! What is checked: the stream opens with one `Descriptor` and closes with one `End` whose count and CRC-32C are right;
//! kinds stand in the fixed order; revisions ascend strictly; above the compaction every main revision is there and sub
//! revisions run from 0 without holes (etcd raises the revision by one for each change, so a hole is a loss); each key
//! value agrees with the revision it is stored under; the descriptor's revision and compaction are those of the records.

use crate::base::error::{Error, Result};
use crate::snapshot::record::{Descriptor, End, KeyValue, Record, Rev, Revision};
use crate::snapshot::wire::take_varint;

/// What a verified stream said about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Summary {
    /// From the descriptor.
    pub revision: i64,
    /// From the descriptor.
    pub compact_revision: i64,
    /// Records, without `End`.
    pub records: u64,
}

/// The check in progress.
#[derive(Debug)]
pub struct Verifier {
    compact_revision: i64,
    /// The revision an increment follows; 0 for a full stream.
    base_revision: i64,
    end: Option<End>,
    descriptor: Option<(i64, i64)>,
    records: u64,
    crc32c: u32,
    crc_bytes: usize,
    /// Kind of the oldest record met so far.
    oldest_rank: u32,
    /// Revision of the oldest record met so far.
    oldest: Option<Rev>,
    newest: i64,
    compacted: i64,
    /// Whether older revisions are listed.
    lists: bool,
}

impl Verifier {
    /// A check of a stream whose manifest or file says it was compacted to `compact_revision`, and follows
    /// `base_revision` (0: it is full).
    pub fn new(compact_revision: i64, base_revision: i64) -> Self {
        Verifier {
            compact_revision,
            base_revision,
            end: None,
            descriptor: None,
            records: 0,
            crc32c: 0,
            crc_bytes: 0,
            oldest_rank: u32::MAX,
            oldest: None,
            newest: 0,
            compacted: 0,
            lists: false,
        }
    }

    /// Checks a batch: records in ascending order, all before those met so far. `bytes` are the records as stored.
    pub fn batch(&mut self, records: &[Record<'_>], bytes: &[u8]) -> Result<()> {
        records.iter().rev().try_for_each(|record| self.record(record))?;
        // `End` covers what stands before it.
        let ends = matches!(records.last(), Some(Record::End(_)));
        let crc_bytes = if ends { before_last_record(bytes)? } else { bytes };
        self.crc32c = crc32c::crc32c_combine(crc32c::crc32c(crc_bytes), self.crc32c, self.crc_bytes);
        self.crc_bytes += crc_bytes.len();
        Ok(())
    }

    fn record(&mut self, record: &Record<'_>) -> Result<()> {
        if self.descriptor.is_some() {
            return Err(Error::damaged("a record stands before the descriptor"));
        }
        let (kind, rank) = (record.number(), record.rank());
        let first_met = self.oldest_rank == u32::MAX;
        if first_met != matches!(record, Record::End(_)) {
            let what =
                if first_met { "the stream is cut short: its last record is no End" } else { "an End in between" };
            return Err(Error::damaged(what));
        }
        if rank > self.oldest_rank {
            return Err(Error::damaged(format!("a record of kind {kind} stands behind kinds that belong behind it")));
        }
        self.oldest_rank = rank;
        match record {
            Record::End(end) => self.end = Some(*end),
            Record::Revision(revision) => self.revision(revision)?,
            Record::Kept(_) => self.lists = true,
            Record::Compacted(compacted) => self.compacted = self.compacted.max(compacted.revision),
            Record::Descriptor(descriptor) => self.descriptor(descriptor)?,
            _ => {}
        }
        self.records += u64::from(!first_met);
        Ok(())
    }

    fn revision(&mut self, revision: &Revision<'_>) -> Result<()> {
        let rev = revision.rev;
        if rev.main <= self.base_revision {
            let base = self.base_revision;
            return Err(Error::damaged(format!("revision {rev} stands in an increment that follows {base}")));
        }
        if let Some(next) = self.oldest {
            if rev >= next {
                return Err(Error::damaged(format!("revision {next} stands behind {rev}")));
            }
            if !self.follows(rev, next) {
                return Err(Error::damaged(format!("history has a hole between {rev} and {next}")));
            }
        } else {
            self.newest = rev.main;
        }
        self.oldest = Some(rev);
        check_key_value(revision).map_err(|error| error.during(format!("revision {rev}")))
    }

    /// Whether `next` may follow `rev` without a hole.
    fn follows(&self, rev: Rev, next: Rev) -> bool {
        if next.main <= self.compact_revision {
            // Up to the compaction, entries may have been removed, in the middle of a transaction too.
            true
        } else if rev.main == next.main {
            rev.sub + 1 == next.sub
        } else {
            next.sub == 0 && next.main - 1 <= rev.main.max(self.compact_revision)
        }
    }

    fn descriptor(&mut self, descriptor: &Descriptor<'_>) -> Result<()> {
        self.descriptor = Some((descriptor.revision, descriptor.compact_revision));
        let floor = self.compact_revision.max(self.base_revision).max(1);
        let opens = self
            .oldest
            .is_none_or(|oldest| oldest.main <= self.compact_revision || (oldest.sub == 0 && oldest.main - 1 <= floor));
        if !opens {
            let (oldest, compacted, base) =
                (self.oldest.unwrap_or_default(), self.compact_revision, self.base_revision);
            let text = format!("history starts at {oldest}, but was compacted only to {compacted} and follows {base}");
            return Err(Error::damaged(text));
        }
        if self.lists && !descriptor.kept_listed {
            return Err(Error::damaged("the stream lists older revisions and does not say so"));
        }
        if descriptor.is_live {
            return Err(Error::damaged("the stream is a step of one that goes on, and no part of a restore point"));
        }
        if descriptor.base_revision != self.base_revision {
            let (said, base) = (descriptor.base_revision, self.base_revision);
            return Err(Error::damaged(format!("the stream follows revision {said}, not {base}")));
        }
        let revision = self.newest.max(self.compacted).max(self.base_revision).max(1);
        let said = (descriptor.revision, descriptor.compact_revision);
        if said != (revision, self.compacted) || self.compacted != self.compact_revision {
            return Err(Error::damaged(format!(
                "the descriptor says revision {} compacted to {}, the records say {revision} compacted to {}",
                said.0, said.1, self.compacted
            )));
        }
        Ok(())
    }

    /// What the stream said, after the last batch.
    pub fn finish(self) -> Result<Summary> {
        let Some((revision, compact_revision)) = self.descriptor else {
            return Err(Error::damaged("the stream does not open with a descriptor"));
        };
        let end = self.end.ok_or_else(|| Error::damaged("the stream is cut short: it has no End"))?;
        if end.records != self.records || end.crc32c != self.crc32c {
            return Err(Error::damaged(format!(
                "End says {} records with CRC-32C {:08x}, there are {} with {:08x}",
                end.records, end.crc32c, self.records, self.crc32c
            )));
        }
        Ok(Summary { revision, compact_revision, records: self.records })
    }
}

/// A key value must say what it is stored under. A tombstone holds its key only. The empty entry is what
/// `etcdutl snapshot restore --bump-revision` writes.
fn check_key_value(revision: &Revision<'_>) -> Result<()> {
    let kv = KeyValue::parse(revision.stored)?;
    if revision.stored.is_empty() {
        return Ok(());
    }
    let plausible = if revision.tombstone {
        kv == KeyValue { key: kv.key, ..KeyValue::default() }
    } else {
        kv.mod_revision == revision.rev.main
            && (1..=kv.mod_revision).contains(&kv.create_revision)
            && (1..=kv.mod_revision - kv.create_revision + 1).contains(&kv.version)
    };
    if plausible { Ok(()) } else { Err(Error::damaged("the key value does not agree with its revision")) }
}

/// The bytes of all length-delimited records but the last.
fn before_last_record(bytes: &[u8]) -> Result<&[u8]> {
    let mut rest = bytes;
    loop {
        let start = bytes.len() - rest.len();
        let len = take_varint(&mut rest)?;
        let after = usize::try_from(len).ok().and_then(|len| rest.get(len..));
        rest = after.ok_or_else(|| Error::damaged("a record is longer than what holds it"))?;
        if rest.is_empty() {
            return Ok(&bytes[..start]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::decode::Records;
    use crate::snapshot::encode::Encoder;
    use crate::snapshot::record::{Compacted, FORMAT};

    /// The stream of a store with entries at `revs`, compacted to `compact_revision`.
    fn stream(compact_revision: i64, revs: &[(i64, i64)]) -> Vec<u8> {
        let revision = revs.last().map_or(1, |rev| rev.0).max(compact_revision);
        let mut encoder = Encoder::new();
        let mut put = |record| assert_eq!(encoder.put(&record), None);
        put(Record::Descriptor(Descriptor { format: FORMAT, revision, compact_revision, ..Descriptor::default() }));
        if compact_revision > 0 {
            put(Record::Compacted(Compacted { revision: compact_revision, finished: true }));
        }
        for &(main, sub) in revs {
            put(Record::Revision(Revision { rev: Rev { main, sub }, tombstone: true, stored: b"\x0a\x01k" }));
        }
        encoder.end().0.remove(0).bytes
    }

    fn verify_bytes(compact_revision: i64, bytes: &[u8]) -> Result<Summary> {
        let records = Records::of(bytes).collect::<Result<Vec<_>>>()?;
        let mut verifier = Verifier::new(compact_revision, 0);
        verifier.batch(&records, bytes)?;
        verifier.finish()
    }

    fn verify(compact_revision: i64, revs: &[(i64, i64)]) -> Result<Summary> {
        verify_bytes(compact_revision, &stream(compact_revision, revs))
    }

    #[test]
    fn any_valid_encoding_of_the_end_is_taken() {
        let bytes = stream(0, &[(2, 0)]);
        let start = before_last_record(&bytes).unwrap().len();
        let (before, end) = bytes.split_at(start);
        // The same length and the same End, with a varint longer than it must be and a field that nobody knows.
        let mut other = before.to_vec();
        other.extend([u8::try_from(end.len() + 1).unwrap() | 0x80, 0, end[1], end[2], end[3] + 2]);
        other.extend_from_slice(&end[4..]);
        other.extend([0x78, 1]);
        verify_bytes(0, &other).unwrap();
        other[3] ^= 1;
        verify_bytes(0, &other).unwrap_err();
    }

    #[test]
    fn history_is_dense_above_the_compaction_only() {
        for (compact_revision, revs) in [
            (0, &[][..]),
            (0, &[(2, 0), (3, 0), (3, 1), (3, 2), (4, 0)]),
            (9, &[]),
            (9, &[(10, 0)]),
            // A compaction takes revisions, beginnings, middles and ends of transactions.
            (9, &[(3, 1), (3, 4), (7, 2), (10, 0), (10, 1)]),
            (9, &[(9, 1), (9, 3), (10, 0)]),
        ] {
            let summary = verify(compact_revision, revs).unwrap_or_else(|e| panic!("{revs:?}: {}", e.chain()));
            assert_eq!(summary.compact_revision, compact_revision);
        }
        for (compact_revision, revs, words) in [
            (0, &[(3, 0)][..], "starts at 3/0"),
            (0, &[(2, 1)], "starts at 2/1"),
            (0, &[(2, 0), (4, 0)], "hole between 2/0 and 4/0"),
            (0, &[(2, 0), (3, 1)], "hole between 2/0 and 3/1"),
            (0, &[(2, 0), (2, 2)], "hole between 2/0 and 2/2"),
            (9, &[(11, 0)], "starts at 11/0"),
            (9, &[(3, 1), (11, 0)], "hole between 3/1 and 11/0"),
            (9, &[(10, 1)], "starts at 10/1"),
            (9, &[(9, 3), (10, 1)], "hole between 9/3 and 10/1"),
            (9, &[(10, 0), (10, 2)], "hole between 10/0 and 10/2"),
        ] {
            let error = verify(compact_revision, revs).unwrap_err();
            assert!(error.chain().contains(words), "{revs:?}: {}", error.chain());
        }
    }
}
