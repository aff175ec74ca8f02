//! The proof of a stream in its own order, where its sender marks which versions are superseded: one pass, nothing stored.
//!
//! The marks are checked and not believed. Per key, 16 bytes tell whether its newest version has been met or is owed: a
//! version after the newest one, a second newest one, a superseded one that nothing follows are errors. So a stream whose
//! marks pass has exactly one newest version of each key, its last one, and the proof is the same as one newest first.

use std::collections::VecDeque;
use std::iter::Peekable;
use std::vec;

use crate::base::error::{Error, Result};
use crate::snapshot::fold::{ByFingerprint, Fingerprint, key_digest};
use crate::snapshot::hash::{HashKv, Scope};
use crate::snapshot::kept::Kept;
use crate::snapshot::proof::{Base, KeptProof, Proof, Tally};
use crate::snapshot::record::{Record, Revision};
use crate::snapshot::tail::{Print, TAIL_MAX};

/// The pass, fed records in the order of the stream.
#[derive(Debug)]
pub struct Forward {
    scope: Scope,
    tally: Tally,
    hash_kv: HashKv,
    keys: Keys,
    tail: VecDeque<Print>,
    base: Option<Base>,
}

impl Forward {
    /// A pass over the whole state at the scope's revision.
    pub fn new(scope: Scope, sample_seed: u64) -> Self {
        Forward {
            scope,
            tally: Tally::new(sample_seed),
            hash_kv: HashKv::new(scope),
            keys: Keys::default(),
            tail: VecDeque::new(),
            base: None,
        }
    }

    /// The pass also proves what is still there of the revisions up to `revision`, and lists it when it is to `collect`.
    #[must_use]
    pub fn with_base(self, revision: i64, collect: bool) -> Self {
        Forward { base: Some(Base::new(revision, collect)), ..self }
    }

    /// Adds records that follow those before.
    pub fn batch(&mut self, records: &[Record<'_>], marks: &mut Marks) -> Result<()> {
        let mut revisions: Vec<Revision<'_>> = Vec::with_capacity(records.len());
        for record in records {
            self.tally.record(record)?;
            if let Record::Revision(revision) = record {
                revisions.push(*revision);
            }
        }
        for revision in &revisions {
            let newest = marks.next();
            let key = key_digest(revision)?;
            self.keys.take(Fingerprint::of_digest(&key), newest)?;
            self.tally.revision(revision, key, newest)?;
            self.hash_kv.next(revision, newest);
            if self.tail.len() == TAIL_MAX {
                self.tail.pop_front();
            }
            self.tail.push_back(Print::of(revision));
        }
        self.base.as_mut().map_or(Ok(()), |base| base.batch_after(&revisions))
    }

    /// Which revisions up to the base are still there, once all of them were met, and what they prove.
    pub fn kept(&mut self) -> Option<(Kept, KeptProof)> {
        self.base.as_mut().map(Base::take)
    }

    /// The result, after the last record.
    pub fn finish(self) -> Result<Proof> {
        self.keys.finish()?;
        let hash_kv = (self.hash_kv.any_alive(), self.hash_kv.finish());
        let kept = self.base.map(|mut base| base.take().1);
        Ok(self.tally.proof(hash_kv, self.scope, self.tail.into(), kept))
    }
}

/// The marks of a message: which of its revisions, counted from 0, are superseded.
#[derive(Debug)]
pub struct Marks {
    place: u32,
    superseded: Peekable<vec::IntoIter<u32>>,
}

impl Marks {
    /// The marks as they came, ascending.
    pub fn new(superseded: Vec<u32>) -> Self {
        Marks { place: 0, superseded: superseded.into_iter().peekable() }
    }

    /// Whether the next revision is the newest of its key.
    fn next(&mut self) -> bool {
        let place = self.place;
        self.place = place.saturating_add(1);
        self.superseded.next_if_eq(&place).is_none()
    }

    /// Called after the message's last revision: every mark must have met one.
    pub fn finish(mut self) -> Result<()> {
        self.superseded.next().map_or(Ok(()), |_| Err(wrong()))
    }
}

/// Which keys' newest versions were met, and which are owed.
#[derive(Debug, Default)]
struct Keys {
    met: ByFingerprint<()>,
    owed: ByFingerprint<()>,
}

impl Keys {
    fn take(&mut self, key: Fingerprint, newest: bool) -> Result<()> {
        if self.met.contains(key) {
            return Err(wrong());
        }
        if newest {
            self.owed.remove(key);
            self.met.insert(key, ());
        } else {
            self.owed.insert(key, ());
        }
        Ok(())
    }

    fn finish(&self) -> Result<()> {
        if self.owed.is_empty() { Ok(()) } else { Err(wrong()) }
    }
}

fn wrong() -> Error {
    Error::damaged("the stream is wrong about which versions are superseded")
        .hint("take the backup from another member, and report this one's version")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::rng::Seeded;
    use crate::snapshot::proof::Prover;
    use crate::snapshot::record::{KeyValue, Rev};

    /// (revision, key, tombstone), and whether it is the newest of its key.
    type Entry = (i64, u8, bool, bool);

    fn history(rng: &mut Seeded, len: i64) -> Vec<Entry> {
        let mut entries: Vec<Entry> =
            (2..2 + len).map(|main| (main, u8::try_from(rng.below(9)).unwrap(), rng.below(4) == 0, false)).collect();
        for at in 0..entries.len() {
            entries[at].3 = !entries[at + 1..].iter().any(|later| later.1 == entries[at].1);
        }
        entries
    }

    fn stored(entries: &[Entry]) -> Vec<Vec<u8>> {
        let of = |(main, key, tombstone, _): &Entry| {
            let whole = KeyValue { key: &[*key], mod_revision: *main, version: 1, ..KeyValue::default() };
            if *tombstone { KeyValue { mod_revision: 0, version: 0, ..whole } } else { whole }.to_stored()
        };
        entries.iter().map(of).collect()
    }

    fn records<'a>(entries: &[Entry], stored: &'a [Vec<u8>]) -> Vec<Record<'a>> {
        let mut records = vec![Record::Lease { stored: b"\x08\x07\x10\x3c" }, Record::Alarm { stored: b"\x08\x01" }];
        records.extend(entries.iter().zip(stored).map(|((main, _, tombstone, _), stored)| {
            Record::Revision(Revision { rev: Rev::of(*main), tombstone: *tombstone, stored })
        }));
        records
    }

    fn marks(entries: &[Entry]) -> Marks {
        Marks::new((0_u32..).zip(entries).filter(|(_, entry)| !entry.3).map(|(place, _)| place).collect())
    }

    #[test]
    fn the_proof_is_the_same_as_newest_first() {
        let mut rng = Seeded::new(5);
        for round in 0..200 {
            let len = i64::try_from(rng.below(60)).unwrap();
            let entries = history(&mut rng, len);
            let stored = stored(&entries);
            let records = records(&entries, &stored);
            let scope = Scope { revision: len + 1, compact_revision: i64::try_from(rng.below(40)).unwrap() };
            let base = i64::try_from(rng.below(40)).unwrap();
            let mut backward = Prover::new(scope, round).with_base(base, true);
            backward.batch(&records).unwrap();
            let mut forward = Forward::new(scope, round).with_base(base, true);
            forward.batch(&records[..2], &mut marks(&[])).unwrap();
            // In two parts, each with its own count.
            let (first, second) = entries.split_at(entries.len() / 2);
            forward.batch(&records[2..2 + first.len()], &mut marks(first)).unwrap();
            let mut rest = marks(second);
            // A message in several batches.
            for batch in records[2 + first.len()..].chunks(7) {
                forward.batch(batch, &mut rest).unwrap();
            }
            rest.finish().unwrap();
            let (expected, kept) = backward.finish_with_kept();
            let (listed, proof) = forward.kept().unwrap();
            assert_eq!(Some(proof), expected.kept);
            let revs = |kept: &Kept| kept.runs().flat_map(|run| run.revisions().unwrap()).collect::<Vec<_>>();
            assert_eq!(revs(&listed), revs(&kept));
            assert_eq!(forward.finish().unwrap(), expected, "round {round}");
        }
    }

    #[test]
    fn wrong_marks_are_noticed() {
        let mut rng = Seeded::new(6);
        let entries = history(&mut rng, 40);
        let stored = stored(&entries);
        let records = records(&entries, &stored);
        for flip in 0..entries.len() {
            let mut wrong = entries.clone();
            wrong[flip].3 = !wrong[flip].3;
            let mut forward = Forward::new(Scope { revision: 99, compact_revision: 0 }, 1);
            let outcome = forward.batch(&records, &mut marks(&wrong)).and_then(|()| forward.finish().map(drop));
            assert!(outcome.is_err(), "mark {flip}");
        }
        assert!(Marks::new(vec![4000]).finish().is_err());
    }
}
