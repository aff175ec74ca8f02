//! Whether a file continues the history of an older point: what the point remembers, held against what is there now.
//!
//! A point remembers two things: fingerprints of its newest revisions (`tail`), and the facts of sampled live keys. Within
//! what a compaction may have removed, both must still be as they were:
//! - a remembered revision that is there has the same content;
//! - one above the compaction is there;
//! - no revision stands between remembered ones that is not remembered.
//!
//! Nothing else proves kinship: ids, revisions and raft's position can all be the same after a forced new cluster.

use crate::base::error::Result;
use crate::snapshot::fold::key_digest;
use crate::snapshot::hash::StateDigest;
use crate::snapshot::proof::Sample;
use crate::snapshot::record::Revision;
use crate::snapshot::tail::{Print, Tail};

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Kinship {
    /// Remembered revisions and sampled keys that are there and the same.
    pub alike: u64,
    /// The first thing that contradicts a common history, for people.
    pub contradiction: Option<String>,
}

/// What a point remembers.
#[derive(Clone, Copy, Debug)]
pub struct Memory<'a> {
    /// Its newest revisions.
    pub tail: &'a Tail,
    /// Sampled live keys.
    pub samples: &'a [Sample],
}

/// Takes a revision.
pub type Each<'a> = dyn FnMut(&Revision<'_>) -> Result<()> + 'a;
/// Reads the revisions from main revision `first` up to `last`, ascending.
pub type Range<'a> = dyn FnMut(i64, i64, &mut Each<'_>) -> Result<()> + 'a;

/// Holds `memory` against the revisions of a file compacted to `compact_revision`, up to `last`: the lower one of the
/// point's revision and the file's.
pub fn kinship(memory: Memory<'_>, last: i64, compact_revision: i64, range: &mut Range<'_>) -> Result<Kinship> {
    let mut kinship = Kinship::default();
    newest(memory.tail, last, compact_revision, range, &mut kinship)?;
    for sample in memory.samples.iter().filter(|sample| sample.mod_revision <= last) {
        if kinship.contradiction.is_some() {
            break;
        }
        sampled(sample, compact_revision, range, &mut kinship)?;
    }
    Ok(kinship)
}

fn newest(tail: &Tail, last: i64, compact_revision: i64, range: &mut Range<'_>, kinship: &mut Kinship) -> Result<()> {
    let Kinship { alike, contradiction } = kinship;
    let prints = tail.prints();
    let Some(first) = prints.first().map(|print| print.rev) else { return Ok(()) };
    let gone = |print: &Print| {
        let needed = print.rev.main > compact_revision;
        needed.then(|| format!("revision {} is not there any more, and was not compacted", print.rev))
    };
    let mut rest = prints.iter().take_while(|print| print.rev.main <= last).peekable();
    range(first.main, last, &mut |revision| {
        while let Some(passed) = rest.next_if(|print| print.rev < revision.rev) {
            *contradiction = contradiction.take().or_else(|| gone(passed));
        }
        let rev = revision.rev;
        let found = match rest.next_if(|print| print.rev == rev) {
            Some(print) if *print == Print::of(revision) => {
                *alike += 1;
                None
            }
            Some(_) => Some(format!("revision {rev} has another content than it had")),
            // A transaction may begin before what is remembered.
            None if rev > first => Some(format!("revision {rev} was not there before")),
            None => None,
        };
        *contradiction = contradiction.take().or(found);
        Ok(())
    })?;
    *contradiction = contradiction.take().or_else(|| rest.find_map(gone));
    Ok(())
}

fn sampled(sample: &Sample, compact_revision: i64, range: &mut Range<'_>, kinship: &mut Kinship) -> Result<()> {
    let at = sample.mod_revision;
    let mut same = None;
    range(at, at, &mut |revision| {
        if !revision.tombstone && key_digest(revision)? == sample.key_sha256 {
            same = Some(StateDigest::fact(16, revision.stored) == sample.fact_sha256);
        }
        Ok(())
    })?;
    match same {
        Some(true) => kinship.alike += 1,
        Some(false) => kinship.contradiction = Some(format!("a key changed at revision {at} had another content")),
        None if at > compact_revision => {
            kinship.contradiction = Some(format!("a key changed at revision {at} is not there any more"));
        }
        None => {}
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::digest::Sha256;
    use crate::snapshot::record::Rev;

    type Entry = (i64, i64, &'static [u8]);

    /// Entries as stored key values of one-letter keys.
    fn revision(entry: &Entry) -> Revision<'static> {
        Revision { rev: Rev { main: entry.0, sub: entry.1 }, tombstone: false, stored: entry.2 }
    }

    const A2: Entry = (2, 0, b"\x0a\x01a\x18\x02");
    const B3: Entry = (3, 0, b"\x0a\x01b\x18\x03");
    const C3: Entry = (3, 1, b"\x0a\x01c\x18\x03");
    const A4: Entry = (4, 0, b"\x0a\x01a\x18\x04");
    const X4: Entry = (4, 0, b"\x0a\x01x\x18\x04");
    const A5: Entry = (5, 0, b"\x0a\x01a\x18\x05");

    fn held(remembered: &[Entry], samples: &[Sample], file: &[Entry], last: i64, compacted: i64) -> Kinship {
        let tail = Tail::new(remembered.iter().map(|entry| Print::of(&revision(entry))).collect());
        let mut range = |first, last, each: &mut Each<'_>| {
            file.iter().filter(|e| (first..=last).contains(&e.0)).try_for_each(|e| each(&revision(e)))
        };
        kinship(Memory { tail: &tail, samples }, last, compacted, &mut range).unwrap()
    }

    fn sample(entry: &Entry, key: &[u8]) -> Sample {
        let fact_sha256 = StateDigest::fact(16, entry.2);
        Sample { key_sha256: Sha256::of(key), fact_sha256, mod_revision: entry.0 }
    }

    #[test]
    fn the_same_history_is_recognised_however_much_was_compacted() {
        let then = [A2, B3, C3, A4];
        for (file, last, compacted, alike) in [
            (&[A2, B3, C3, A4, A5][..], 4, 0, 4),
            (&[B3, C3, A5], 4, 5, 2),
            (&[A5], 4, 5, 0),
            (&[A2, B3, C3], 3, 0, 3),
            (&[B3, C3, A4], 4, 4, 3),
        ] {
            assert_eq!(held(&then, &[], file, last, compacted), Kinship { alike, contradiction: None }, "{file:?}");
        }
        // What is remembered begins in the middle of a transaction.
        assert_eq!(held(&[C3, A4], &[], &[A2, B3, C3, A4], 4, 0), Kinship { alike: 2, contradiction: None });
        assert_eq!(held(&[], &[], &[A2], 2, 0), Kinship::default());
    }

    #[test]
    fn another_history_contradicts_itself_by_name() {
        for (remembered, file, last, compacted, words) in [
            (&[A2, B3, C3, A4][..], &[A2, B3, C3, X4][..], 4, 0, "4/0 has another content"),
            (&[A2, A4], &[A2, B3, A4], 4, 0, "3/0 was not there before"),
            (&[A2, B3, C3, A4], &[A2, B3, A4], 4, 0, "3/1 is not there any more"),
            (&[A2, B3, C3, A4], &[A2, B3, C3], 4, 2, "4/0 is not there any more"),
            (&[A2, B3, C3, A4], &[B3, X4], 4, 9, "4/0 has another content"),
        ] {
            let contradiction = held(remembered, &[], file, last, compacted).contradiction.unwrap();
            assert!(contradiction.contains(words), "{contradiction}");
        }
    }

    #[test]
    fn sampled_keys_witness_older_history() {
        let samples = [sample(&A2, b"a"), sample(&C3, b"c"), sample(&A5, b"a")];
        assert_eq!(held(&[], &samples, &[A2, B3, C3, A4], 4, 0), Kinship { alike: 2, contradiction: None });
        assert_eq!(held(&[], &samples, &[B3, C3, A4], 4, 4), Kinship { alike: 1, contradiction: None });
        let other = [sample(&B3, b"c")];
        assert!(held(&[], &other, &[A2, B3, C3], 4, 9).contradiction.unwrap().contains("another content"));
        assert!(held(&[], &samples, &[B3, C3], 4, 0).contradiction.unwrap().contains("revision 2"));
    }
}
