//! The two proofs.
//!
//! **HashKV** is etcd's: CRC-32C over the word `key` and then, for each entry of that bucket in order, its key and value.
//! Asked for at revision R by a store compacted to C, it covers the entries up to R; of those up to C only the ones a
//! compaction to C would leave for a reader at R: the newest version of each key at or before R, unless it is a
//! tombstone. A tombstone exactly at C is never covered, because versions of etcd differ in whether they keep it. When no
//! key is alive at R, etcd leaves out the rule for entries up to C.
//!
//! **`state_digest`** is ours: the sum modulo 2^256 of the SHA-256 of each live fact. A live fact is the newest version
//! of a key that is not a tombstone, a lease, a user, a role, an alarm; its bytes are its record's number (16, 13, 9, 11,
//! 7), one byte, followed by the message as etcd stores it; of a lease only id and granted time to live, because the
//! remaining time runs on. The sum depends on no order, so it is the same before and after compaction, merging and
//! restoring, in any engine. It finds loss and error; against forgers there are signatures.
//!
//! Both need to know which version of a key is its newest (`fold`), so both take batches newest first.

use crate::base::digest::{Sha256, from_hex, hex};
use crate::base::error::{Error, Result};
use crate::snapshot::entry::{self, RevisionKey};
use crate::snapshot::record::{Record, Revision, lease_of};
use crate::snapshot::wire;

/// The sum of the SHA-256 of live facts, modulo 2^256.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StateDigest([u64; 4]);

impl StateDigest {
    /// The digest of one fact.
    pub fn fact(number: u8, stored: &[u8]) -> Sha256 {
        Sha256::of_parts(&[&[number], stored])
    }

    /// Adds a fact.
    pub fn add(&mut self, fact: &Sha256) {
        let mut carry = 0;
        for (limb, word) in self.0.iter_mut().zip(limbs(fact)) {
            let sum = u128::from(*limb) + u128::from(word) + carry;
            *limb = u64::try_from(sum & u128::from(u64::MAX)).expect("masked to 64 bits");
            carry = sum >> 64;
        }
    }

    /// Adds all that another one is the sum of.
    pub fn merge(&mut self, other: &StateDigest) {
        self.add(&Sha256(other.to_bytes()));
    }

    /// The number in 32 bytes, the highest first.
    pub fn to_bytes(self) -> [u8; 32] {
        let mut bytes = [0; 32];
        for (place, limb) in bytes.chunks_exact_mut(8).zip(self.0.iter().rev()) {
            place.copy_from_slice(&limb.to_be_bytes());
        }
        bytes
    }

    /// The number that stands in these bytes.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        StateDigest(limbs(&Sha256(bytes)))
    }

    /// Takes a fact away again.
    pub fn remove(&mut self, fact: &Sha256) {
        let mut borrow = false;
        for (limb, word) in self.0.iter_mut().zip(limbs(fact)) {
            let (difference, under) = limb.overflowing_sub(word);
            let (difference, under_again) = difference.overflowing_sub(u64::from(borrow));
            *limb = difference;
            borrow = under || under_again;
        }
    }
}

/// A SHA-256 as a big-endian number, least significant word first.
fn limbs(digest: &Sha256) -> [u64; 4] {
    let word = |i: usize| u64::from_be_bytes(digest.0[i * 8..i * 8 + 8].try_into().expect("8 bytes"));
    [word(3), word(2), word(1), word(0)]
}

impl std::fmt::Display for StateDigest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().rev().try_for_each(|limb| f.write_str(&hex(&limb.to_be_bytes())))
    }
}

impl std::str::FromStr for StateDigest {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let mut bytes = [0; 32];
        if !from_hex(text, &mut bytes) {
            return Err(Error::damaged(format!("{text:?} is not a state digest")));
        }
        Ok(StateDigest::from_bytes(bytes))
    }
}

impl serde::Serialize for StateDigest {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for StateDigest {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// The digest of a live fact that is a key value: the newest version of its key, and no tombstone.
pub fn key_value_fact(stored: &[u8]) -> Sha256 {
    StateDigest::fact(16, stored)
}

/// The digest of a live fact that is no key value; `None` for records that are no live facts.
pub fn side_fact(record: &Record<'_>) -> Result<Option<Sha256>> {
    Ok(match record {
        Record::Alarm { stored } => Some(StateDigest::fact(7, stored)),
        Record::User { stored } => Some(StateDigest::fact(9, stored)),
        Record::Role { stored } => Some(StateDigest::fact(11, stored)),
        Record::Lease { stored } => {
            let (id, ttl_s) = lease_of(stored)?;
            let mut lease = vec![];
            wire::put_number(&mut lease, 1, id.cast_unsigned());
            wire::put_number(&mut lease, 2, ttl_s.cast_unsigned());
            Some(StateDigest::fact(13, &lease))
        }
        _ => None,
    })
}

/// What HashKV covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scope {
    /// Entries above it are left out.
    pub revision: i64,
    /// The compaction the answering store had seen; 0 or less for none.
    pub compact_revision: i64,
}

/// HashKV in the making, fed newest batch first.
#[derive(Clone, Debug)]
pub struct HashKv {
    scope: Scope,
    /// CRC and length of everything covered so far, under the rule that leaves out what a compaction would remove.
    kept: Suffix,
    /// The same without that rule, for stores in which no key is alive.
    all: Suffix,
    alive: bool,
}

/// The CRC-32C of the end of a byte string whose beginning is not known yet.
#[derive(Clone, Copy, Debug, Default)]
struct Suffix {
    crc32c: u32,
    len: usize,
}

impl Suffix {
    fn prepend(&mut self, part: Suffix) {
        self.crc32c = crc32c::crc32c_combine(part.crc32c, self.crc32c, self.len);
        self.len += part.len;
    }

    fn append(&mut self, bytes: &[u8]) {
        self.crc32c = crc32c::crc32c_append(self.crc32c, bytes);
        self.len += bytes.len();
    }
}

impl HashKv {
    /// The hash of nothing yet.
    pub fn new(scope: Scope) -> Self {
        HashKv { scope, kept: Suffix::default(), all: Suffix::default(), alive: false }
    }

    /// Adds a revision that comes after all that were fed so far: for those who are told which versions are the newest of
    /// their keys. A hash is fed in one way or the other.
    pub fn next(&mut self, record: &Revision<'_>, newest: bool) {
        let Scope { revision, compact_revision } = self.scope;
        if record.rev.main > revision {
            return;
        }
        let live = newest && !record.tombstone;
        self.alive |= live;
        if record.tombstone && record.rev.main == compact_revision {
            return;
        }
        let key = RevisionKey::new(record.rev, record.tombstone);
        if record.rev.main > compact_revision || live {
            self.kept.append(key.as_bytes());
            self.kept.append(record.stored);
        }
        if !self.alive {
            self.all.append(key.as_bytes());
            self.all.append(record.stored);
        }
    }

    /// Adds a batch in ascending order; `newest[i]` says whether record i is the newest version of its key at or before
    /// the scope's revision.
    pub fn batch(&mut self, revisions: &[Revision<'_>], newest: &[bool]) {
        assert_eq!(revisions.len(), newest.len(), "one verdict per revision");
        let Scope { revision, compact_revision } = self.scope;
        let (mut kept, mut all) = (Suffix::default(), Suffix::default());
        for (record, newest) in revisions.iter().zip(newest) {
            if record.rev.main > revision {
                continue;
            }
            let live = *newest && !record.tombstone;
            self.alive |= live;
            if record.tombstone && record.rev.main == compact_revision {
                continue;
            }
            let key = RevisionKey::new(record.rev, record.tombstone);
            if record.rev.main > compact_revision || live {
                kept.append(key.as_bytes());
                kept.append(record.stored);
            }
            if !self.alive {
                all.append(key.as_bytes());
                all.append(record.stored);
            }
        }
        self.kept.prepend(kept);
        if !self.alive {
            self.all.prepend(all);
        }
    }

    /// The hash, after the last batch.
    pub fn finish(mut self) -> u32 {
        let mut name = Suffix::default();
        name.append(entry::KEY);
        let covered = if self.alive { &mut self.kept } else { &mut self.all };
        covered.prepend(name);
        covered.crc32c
    }

    /// Whether a key was alive. Without one, HashKV depends on how far a store has come with removing entries, and
    /// different members may answer differently.
    pub fn any_alive(&self) -> bool {
        self.alive
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_digest_is_a_multiset_sum() {
        let facts: Vec<_> = (0..100_u8).map(|n| StateDigest::fact(16, &[n])).collect();
        let mut forward = StateDigest::default();
        let mut backward = StateDigest::default();
        facts.iter().for_each(|fact| forward.add(fact));
        facts.iter().rev().for_each(|fact| backward.add(fact));
        assert_eq!(forward, backward);
        assert_eq!(forward.to_string().parse::<StateDigest>().unwrap(), forward);
        facts.iter().for_each(|fact| forward.remove(fact));
        assert_eq!(forward, StateDigest::default());
        assert_ne!(backward, StateDigest::default());
        // All ones plus one carries through every word.
        let mut wrap = StateDigest([u64::MAX; 4]);
        let mut one = Sha256::default();
        one.0[31] = 1;
        wrap.add(&one);
        assert_eq!(wrap, StateDigest::default());
        wrap.remove(&one);
        assert_eq!(wrap, StateDigest([u64::MAX; 4]));
        // In parts, and as bytes.
        let (mut first, mut second) = (StateDigest::default(), StateDigest::default());
        facts[..30].iter().for_each(|fact| first.add(fact));
        facts[30..].iter().for_each(|fact| second.add(fact));
        first.merge(&second);
        assert_eq!(first, backward);
        assert_eq!(StateDigest::from_bytes(first.to_bytes()), first);
        assert_eq!(hex(&first.to_bytes()), first.to_string());
    }

    /// The same numbers stand in docs/formats/records.md, where `sha256sum` makes them.
    #[test]
    fn the_worked_example_of_the_document_is_right() {
        let example = [
            StateDigest::fact(16, b"\x0a\x03foo\x10\x02\x18\x02\x20\x01\x2a\x03bar"),
            StateDigest::fact(16, b"\x0a\x03new\x10\x04\x18\x04\x20\x01\x2a\x01x\x30\x07"),
            side_fact(&Record::Lease { stored: b"\x08\x07\x10\x3c\x18\x28" }).unwrap().unwrap(),
            side_fact(&Record::User { stored: b"\x0a\x03bob" }).unwrap().unwrap(),
        ];
        let mut sum = StateDigest::default();
        example.iter().for_each(|fact| sum.add(fact));
        let document = include_str!("../../docs/formats/records.md");
        for number in example.iter().map(Sha256::to_string).chain([sum.to_string()]) {
            assert!(document.contains(&number), "{number}");
        }
    }

    #[test]
    fn a_lease_counts_by_id_and_granted_time() {
        let fresh = Record::Lease { stored: b"\x08\x07\x10\x3c" };
        let used = Record::Lease { stored: b"\x08\x07\x10\x3c\x18\x0a" };
        let other = Record::Lease { stored: b"\x08\x07\x10\x3d" };
        assert_eq!(side_fact(&fresh).unwrap(), side_fact(&used).unwrap());
        assert_ne!(side_fact(&fresh).unwrap(), side_fact(&other).unwrap());
        assert_eq!(side_fact(&Record::MemberGone(crate::base::id::EtcdId(1))).unwrap(), None);
    }
}
