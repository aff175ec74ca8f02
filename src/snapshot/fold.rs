//! Folding: which records of a history are still needed to know the state at chosen revisions.
//!
//! Given boundaries b1 > b2 > ..., a reader at a boundary needs, of each key, the newest version at or before it. Records
//! above the `window` are needed too, all of them: any revision there can be asked for. What etcd keeps after compacting
//! to C is the fold with the boundary C and the window above C.
//!
//! Records are met newest first (see the module above), so a version is the newest at or before a boundary exactly when
//! its key was not met since that boundary was crossed. One set of fingerprints, emptied at each boundary, is all the
//! memory this takes: 16 bytes per key, the first half of the key's SHA-256, and never the key; with the room that a hash
//! table keeps free, 20 to 39.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use crate::base::digest::Sha256;
use crate::base::error::Result;
use crate::snapshot::record::{Revision, key_of};

/// The first half of the SHA-256 of a key: two keys with the same one are not to be found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Fingerprint(u128);

impl Fingerprint {
    /// The fingerprint of `key`.
    pub fn of(key: &[u8]) -> Self {
        Fingerprint::of_digest(&Sha256::of(key))
    }

    /// The fingerprint of the key with this SHA-256.
    pub fn of_digest(digest: &Sha256) -> Self {
        Fingerprint(u128::from_be_bytes(*digest.0.first_chunk().expect("32 bytes have a first half")))
    }

    /// The fingerprint as a number, uniformly distributed.
    pub fn number(self) -> u128 {
        self.0
    }
}

/// A hasher for keys that are random already.
#[derive(Debug, Default)]
pub struct Uniform(u64);

impl Hasher for Uniform {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u128(&mut self, n: u128) {
        self.0 = u64::try_from(n >> 64).expect("the high half of 128 bits");
    }
}

/// Parts of a table by fingerprint.
const PARTS: usize = 16;

/// Values by fingerprint. A hash table that grows holds its old and its new half at once; this one grows in parts, one at
/// a time, which costs a third less memory at the worst moment.
#[derive(Debug)]
pub struct ByFingerprint<V> {
    parts: [HashMap<Fingerprint, V, BuildHasherDefault<Uniform>>; PARTS],
}

impl<V> Default for ByFingerprint<V> {
    fn default() -> Self {
        ByFingerprint { parts: std::array::from_fn(|_| HashMap::default()) }
    }
}

impl<V> ByFingerprint<V> {
    /// The part by the last bits: the first ones are what the table hashes by.
    fn part(fingerprint: Fingerprint) -> usize {
        usize::try_from(fingerprint.0 % PARTS as u128).expect("one of a few parts")
    }

    /// Puts a value; the one that was there before, if any.
    pub fn insert(&mut self, fingerprint: Fingerprint, value: V) -> Option<V> {
        self.parts[Self::part(fingerprint)].insert(fingerprint, value)
    }

    /// Whether a value is there.
    pub fn contains(&self, fingerprint: Fingerprint) -> bool {
        self.parts[Self::part(fingerprint)].contains_key(&fingerprint)
    }

    /// Takes a value out.
    pub fn remove(&mut self, fingerprint: Fingerprint) -> Option<V> {
        self.parts[Self::part(fingerprint)].remove(&fingerprint)
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.parts.iter().all(HashMap::is_empty)
    }

    /// Takes all of them out.
    pub fn clear(&mut self) {
        self.parts.iter_mut().for_each(HashMap::clear);
    }
}

/// Where a record stands in a fold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Above every boundary.
    Beyond,
    /// The newest version of its key at or before a boundary.
    Newest,
    /// Older than that.
    Older,
}

/// A fold in progress, fed newest record first.
#[derive(Debug)]
pub struct Fold {
    /// Boundaries not crossed yet, ascending: the next one is the last.
    boundaries: Vec<i64>,
    crossed: bool,
    seen: ByFingerprint<()>,
    /// Main revision of the record before, to hold the order.
    previous: i64,
}

impl Fold {
    /// A fold to `boundaries`, in any order.
    pub fn new(boundaries: &[i64]) -> Self {
        let mut boundaries = boundaries.to_vec();
        boundaries.sort_unstable();
        Fold { boundaries, crossed: false, seen: ByFingerprint::default(), previous: i64::MAX }
    }

    /// Where the version at main revision `main` of the key with `fingerprint` stands. Revisions must not ascend from
    /// call to call.
    pub fn place(&mut self, main: i64, fingerprint: Fingerprint) -> Place {
        assert!(main <= self.previous, "records are folded newest first");
        self.previous = main;
        while self.boundaries.last().is_some_and(|boundary| main <= *boundary) {
            self.boundaries.pop();
            self.crossed = true;
            self.seen.clear();
        }
        if !self.crossed {
            Place::Beyond
        } else if self.seen.insert(fingerprint, ()).is_none() {
            Place::Newest
        } else {
            Place::Older
        }
    }
}

/// The SHA-256 of the key of `revision`.
pub fn key_digest(revision: &Revision<'_>) -> Result<Sha256> {
    Ok(Sha256::of(key_of(revision.stored)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Newest at or before a boundary, by the definition.
    fn by_definition(history: &[(i64, u8)], boundaries: &[i64], at: usize) -> Place {
        let (main, key) = history[at];
        if boundaries.iter().all(|b| main > *b) {
            return Place::Beyond;
        }
        let newest_for = |b: &i64| main <= *b && !history.iter().any(|(m, k)| *k == key && *m > main && m <= b);
        if boundaries.iter().any(newest_for) { Place::Newest } else { Place::Older }
    }

    #[test]
    fn a_fold_agrees_with_its_definition() {
        let mut rng = crate::base::rng::Seeded::new(1);
        for _ in 0..500 {
            let history: Vec<_> = (1..30).map(|main| (main, u8::try_from(rng.below(5)).unwrap())).collect();
            let boundaries: Vec<_> = (0..rng.below(4)).map(|_| i64::try_from(rng.below(32)).unwrap()).collect();
            let mut fold = Fold::new(&boundaries);
            for at in (0..history.len()).rev() {
                let (main, key) = history[at];
                let place = fold.place(main, Fingerprint::of(&[key]));
                assert_eq!(place, by_definition(&history, &boundaries, at), "{history:?} {boundaries:?} {main}");
            }
        }
    }
}
