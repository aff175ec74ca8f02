//! Records that arrive over a network, made one stream again: what broke is gone on with, and nothing is lost or twice.
//!
//! Each stream counts and checks itself (`End`). One that goes on after another opens with the same descriptor, because it
//! is of the same moment, and holds the revisions after the last one that came. What is handed on reads like one stream
//! that never broke, without its `End`.

use std::ops::Range;

use crate::base::error::{Error, Result};
use crate::snapshot::decode::Records;
use crate::snapshot::record::{Descriptor, Record, Rev};

/// What arrived so far.
#[derive(Clone, Debug, Default)]
pub struct Arrival {
    /// The first record of all, delimited.
    descriptor: Vec<u8>,
    /// Whether the stream at hand brings history only: it goes on after another one, or is a part.
    continues: bool,
    /// The last revision that came.
    reached: Option<Rev>,
    /// Records of the stream at hand.
    records: u64,
    crc32c: u32,
    is_ended: bool,
}

impl Arrival {
    /// The part of this moment's history after `after`, as another stream brings it.
    #[must_use]
    pub fn part(&self, after: Rev) -> Self {
        Arrival { descriptor: self.descriptor.clone(), continues: true, reached: Some(after), ..Arrival::default() }
    }

    /// The stream broke. Where another one must begin; none when it broke before the history, with which it begins anew.
    pub fn breaks(&mut self) -> Option<Rev> {
        let reached = self.reached?;
        *self = Arrival { descriptor: std::mem::take(&mut self.descriptor), ..self.part(reached) };
        Some(reached)
    }

    /// What the stream is a picture of, once its first message came.
    pub fn descriptor(&self) -> Result<Descriptor<'_>> {
        match Records::of(&self.descriptor).next() {
            Some(Ok(Record::Descriptor(descriptor))) => Ok(descriptor),
            _ => Err(Error::damaged("the stream does not open with a descriptor")),
        }
    }

    /// Whether all of it came.
    pub fn is_ended(&self) -> bool {
        self.is_ended
    }

    /// Takes a message of whole records in; which of its bytes are to be handed on.
    pub fn take(&mut self, bytes: &[u8]) -> Result<Range<usize>> {
        let mut walk = Records::of(bytes);
        let mut new = 0..0;
        while walk.left() > 0 {
            let start = bytes.len() - walk.left();
            let Some(record) = walk.next().transpose()? else { break };
            let record_bytes = &bytes[start..bytes.len() - walk.left()];
            if self.is_ended {
                return Err(Error::damaged("something follows the end of the stream"));
            }
            if let Record::End(end) = record {
                if (end.records, end.crc32c) != (self.records, self.crc32c) {
                    return Err(Error::damaged("what came is not what the end of the stream says"));
                }
                self.is_ended = true;
                continue;
            }
            self.order(&record, record_bytes)?;
            self.records += 1;
            self.crc32c = crc32c::crc32c_append(self.crc32c, record_bytes);
            let end = start + record_bytes.len();
            new = if self.continues && self.records == 1 { end..end } else { new.start..end };
        }
        Ok(new)
    }

    /// Refuses a record where it does not belong. The order of kinds is for who stores them to check.
    fn order(&mut self, record: &Record<'_>, bytes: &[u8]) -> Result<()> {
        match (record, self.records) {
            (Record::Descriptor(_), 0) if !self.continues => self.descriptor = bytes.to_vec(),
            (Record::Descriptor(_), 0) if self.descriptor == bytes => {}
            (Record::Descriptor(_), 0) => return Err(Error::damaged("the stream goes on with another moment")),
            (_, 0) => return Err(Error::damaged("the stream does not open with a descriptor")),
            (Record::Revision(revision), _) if self.reached < Some(revision.rev) => self.reached = Some(revision.rev),
            (Record::Revision(revision), _) => {
                return Err(Error::damaged(format!("revision {} does not ascend", revision.rev)));
            }
            (other, _) if self.continues => {
                let kind = other.number();
                return Err(Error::damaged(format!("a record of kind {kind} stands in a stream that brings history")));
            }
            _ => {}
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::encode::Encoder;
    use crate::snapshot::record::{FORMAT, Revision};

    /// A stream of a lease, where it is a whole one, and revisions.
    fn stream(revision: i64, lease: bool, mains: Range<i64>) -> Vec<u8> {
        let mut encoder = Encoder::new();
        encoder.put(&Record::Descriptor(Descriptor { format: FORMAT, revision, ..Descriptor::default() }));
        if lease {
            encoder.put(&Record::Lease { stored: b"\x08\x07\x10\x3c" });
        }
        for main in mains {
            let rev = Rev::of(main);
            encoder.put(&Record::Revision(Revision { rev, tombstone: false, stored: b"\x0a\x01k" }));
        }
        encoder.end().0.remove(0).bytes
    }

    /// Where records of the bytes end.
    fn cuts(bytes: &[u8]) -> Vec<usize> {
        let mut walk = Records::of(bytes);
        let mut cuts = vec![0];
        while walk.next().is_some() {
            cuts.push(bytes.len() - walk.left());
        }
        cuts
    }

    #[test]
    fn a_stream_that_broke_anywhere_is_one_stream() {
        let whole = stream(20, true, 2..21);
        let cuts = cuts(&whole);
        let end = cuts[cuts.len() - 2];
        for cut in &cuts {
            let mut arrival = Arrival::default();
            let mut got = whole[..*cut][arrival.take(&whole[..*cut]).unwrap()].to_vec();
            if !arrival.is_ended() {
                let Some(reached) = arrival.breaks() else {
                    assert!(*cut <= cuts[2], "only before the history nothing can be gone on with");
                    continue;
                };
                let rest = stream(20, false, reached.main + 1..21);
                // In two messages.
                let middle = self::cuts(&rest)[1];
                for part in [&rest[..middle], &rest[middle..]] {
                    got.extend_from_slice(&part[arrival.take(part).unwrap()]);
                }
            }
            assert!(arrival.is_ended() && got == whole[..end], "cut at {cut}");
            assert_eq!(arrival.descriptor().unwrap().revision, 20);
        }
    }

    #[test]
    fn what_does_not_belong_there_is_refused() {
        let whole = stream(20, true, 2..21);
        let refused = |arrival: &mut Arrival, bytes: &[u8]| arrival.take(bytes).unwrap_err().to_string();
        for byte in 0..whole.len() {
            let mut wrong = whole.clone();
            wrong[byte] ^= 1;
            let mut arrival = Arrival::default();
            assert!(arrival.take(&wrong).is_err() || !arrival.is_ended(), "byte {byte}");
        }
        let mut arrival = Arrival::default();
        arrival.take(&whole).unwrap();
        assert!(refused(&mut arrival, &whole).contains("follows the end"));
        let broken = || {
            let mut arrival = Arrival::default();
            arrival.take(&whole[..cuts(&whole)[9]]).unwrap();
            arrival.breaks().unwrap();
            arrival
        };
        assert!(refused(&mut broken(), &stream(21, false, 9..21)).contains("another moment"));
        assert!(refused(&mut broken(), &stream(20, false, 3..21)).contains("does not ascend"));
        assert!(refused(&mut broken(), &stream(20, true, 9..21)).contains("kind 13"));
        assert!(refused(&mut Arrival::default(), &whole[cuts(&whole)[1]..]).contains("descriptor"));
        assert!(Arrival::default().descriptor().is_err());
    }
}
