//! What changed between two states, fact by fact.
//!
//! Three passes, each newest first: the left state is remembered by fingerprints (32 bytes a fact), the right one is
//! held against it, and what the right one did not have is given its name by going over the left one again.

use crate::base::error::Result;
use crate::base::id::EtcdId;
use crate::snapshot::fold::{ByFingerprint, Fingerprint, Fold, Place};
use crate::snapshot::hash::{StateDigest, side_fact};
use crate::snapshot::record::{KeyValue, Record, lease_of, name_of};

/// What happened to a fact.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Only the right state has it.
    Added,
    /// Both have it, with different content.
    Changed,
    /// Only the left state has it.
    Removed,
}

/// A fact of the state, by the name people know it by.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Subject {
    /// A key.
    Key(Vec<u8>),
    /// A lease.
    Lease(i64),
    /// A user.
    User(Vec<u8>),
    /// A role.
    Role(Vec<u8>),
    /// An alarm, by its stored bytes.
    Alarm(Vec<u8>),
}

/// One difference.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Difference {
    /// What it is about.
    pub subject: Subject,
    /// What happened.
    pub kind: Kind,
    /// The key's revision on the left; 0 when it is not there or no key.
    pub left_revision: i64,
    /// The key's revision on the right; 0 when it is not there or no key.
    pub right_revision: i64,
}

/// What the names of all differences may take in memory, in bytes: some 150,000 keys of usual length.
pub const NAMES_BYTES_MAX: usize = 32 << 20;
/// What a difference takes beside its name, until it is shown.
const DIFFERENCE_BYTES: usize = 160;

/// What a comparison found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Differences by name.
    pub differences: Vec<Difference>,
    /// Differences that were counted but are too many to be named.
    pub unnamed: u64,
    /// Facts that only the right state has.
    pub added: u64,
    /// Facts with different content.
    pub changed: u64,
    /// Facts that only the left state has.
    pub removed: u64,
    /// Facts that are the same.
    pub unchanged: u64,
    names_bytes: usize,
}

impl Outcome {
    /// Counts a difference, and names it while there is room.
    fn add(&mut self, record: &Record<'_>, kind: Kind, left_revision: i64, right_revision: i64) {
        match kind {
            Kind::Added => self.added += 1,
            Kind::Changed => self.changed += 1,
            Kind::Removed => self.removed += 1,
        }
        let subject = subject_of(record);
        self.names_bytes += DIFFERENCE_BYTES + 2 * subject.name_bytes();
        if self.names_bytes > NAMES_BYTES_MAX {
            self.unnamed += 1;
        } else {
            self.differences.push(Difference { subject, kind, left_revision, right_revision });
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Version {
    revision: i64,
    /// The first eight bytes of the fact's SHA-256: enough to notice a change, as nobody is being deceived here.
    digest: u64,
}

type Facts = ByFingerprint<Version>;

/// The comparison in progress.
#[derive(Debug)]
pub struct Diff {
    left: Facts,
    fold: Fold,
    outcome: Outcome,
}

impl Diff {
    /// A comparison whose left state is the one at `revision`.
    pub fn new(revision: i64) -> Self {
        Diff { left: Facts::default(), fold: Fold::new(&[revision]), outcome: Outcome::default() }
    }

    /// First pass: a batch of the left state.
    pub fn left(&mut self, records: &[Record<'_>]) -> Result<()> {
        let left = &mut self.left;
        live(&mut self.fold, records, &mut |_, fingerprint, version| {
            left.insert(fingerprint, version);
        })
    }

    /// Between the passes: the right state is the one at `revision`.
    pub fn turn_right(&mut self, revision: i64) {
        self.fold = Fold::new(&[revision]);
    }

    /// Second pass: a batch of the right state.
    pub fn right(&mut self, records: &[Record<'_>]) -> Result<()> {
        let Diff { left, fold, outcome } = self;
        live(fold, records, &mut |record, fingerprint, right| {
            let (kind, left_revision) = match left.remove(fingerprint) {
                Some(left) if left == right => {
                    outcome.unchanged += 1;
                    return;
                }
                Some(left) => (Kind::Changed, left.revision),
                None => (Kind::Added, 0),
            };
            outcome.add(record, kind, left_revision, right.revision);
        })
    }

    /// Between the passes: the left state again, at `revision`. False when every name is known already.
    pub fn turn_left(&mut self, revision: i64) -> bool {
        self.fold = Fold::new(&[revision]);
        !self.left.is_empty()
    }

    /// Third pass: a batch of the left state.
    pub fn names(&mut self, records: &[Record<'_>]) -> Result<()> {
        let Diff { left, fold, outcome } = self;
        live(fold, records, &mut |record, fingerprint, _| {
            if let Some(version) = left.remove(fingerprint) {
                outcome.add(record, Kind::Removed, version.revision, 0);
            }
        })
    }

    /// What was found, by name.
    pub fn finish(mut self) -> Outcome {
        assert!(self.left.is_empty(), "the third pass names what the right state lacks");
        self.outcome.differences.sort();
        self.outcome
    }
}

/// Calls `each` with every live fact of a batch.
fn live(
    fold: &mut Fold,
    records: &[Record<'_>],
    each: &mut dyn FnMut(&Record<'_>, Fingerprint, Version),
) -> Result<()> {
    for record in records.iter().rev() {
        if let Record::Revision(revision) = record {
            let kv = KeyValue::parse(revision.stored)?;
            let fingerprint = Fingerprint::of(kv.key);
            let place = fold.place(revision.rev.main, fingerprint);
            if place == Place::Newest && !revision.tombstone {
                let digest = short(&StateDigest::fact(16, revision.stored));
                each(record, fingerprint, Version { revision: kv.mod_revision, digest });
            }
        } else if let Some(fact) = side_fact(record)? {
            let fingerprint = Fingerprint::of(&side_name(record)?);
            each(record, fingerprint, Version { revision: 0, digest: short(&fact) });
        }
    }
    Ok(())
}

/// A name no key can have by chance: the record's number, then what identifies it.
fn side_name(record: &Record<'_>) -> Result<Vec<u8>> {
    let id = match record {
        Record::Lease { stored } => lease_of(stored)?.0.to_be_bytes().to_vec(),
        Record::User { stored } | Record::Role { stored } => name_of(stored)?.to_vec(),
        Record::Alarm { stored } => stored.to_vec(),
        _ => vec![],
    };
    let mut name = b"\0holdfast\0".to_vec();
    name.extend_from_slice(&record.number().to_be_bytes());
    name.extend(id);
    Ok(name)
}

fn subject_of(record: &Record<'_>) -> Subject {
    let parsed = "a live fact was read before it was compared";
    match record {
        Record::Revision(revision) => Subject::Key(KeyValue::parse(revision.stored).expect(parsed).key.to_vec()),
        Record::Lease { stored } => Subject::Lease(lease_of(stored).expect(parsed).0),
        Record::User { stored } => Subject::User(name_of(stored).expect(parsed).to_vec()),
        Record::Role { stored } => Subject::Role(name_of(stored).expect(parsed).to_vec()),
        Record::Alarm { stored } => Subject::Alarm(stored.to_vec()),
        other => unreachable!("a record of kind {} is no live fact", other.number()),
    }
}

impl Subject {
    fn name_bytes(&self) -> usize {
        match self {
            Subject::Key(name) | Subject::User(name) | Subject::Role(name) | Subject::Alarm(name) => name.len(),
            Subject::Lease(_) => 0,
        }
    }
}

fn short(digest: &crate::base::digest::Sha256) -> u64 {
    u64::from_be_bytes(*digest.0.first_chunk().expect("32 bytes"))
}

impl std::fmt::Display for Subject {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Subject::Key(key) => write!(f, "{}", key.escape_ascii()),
            Subject::Lease(id) => write!(f, "lease {}", EtcdId(id.cast_unsigned())),
            Subject::User(name) => write!(f, "user {}", name.escape_ascii()),
            Subject::Role(name) => write!(f, "role {}", name.escape_ascii()),
            Subject::Alarm(_) => write!(f, "alarm"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::record::{Rev, Revision};

    type State<'a> = [(i64, bool, &'a [u8])];

    fn records<'a>(state: &'a State<'a>) -> Vec<Record<'a>> {
        let revision =
            |&(main, tombstone, stored)| Record::Revision(Revision { rev: Rev { main, sub: 0 }, tombstone, stored });
        state.iter().map(revision).collect()
    }

    #[test]
    fn additions_changes_and_removals_are_named() {
        let left: &State<'_> =
            &[(2, false, b"\x0a\x01a\x18\x02"), (3, false, b"\x0a\x01b\x18\x03"), (4, false, b"\x0a\x01c\x18\x04")];
        let right: &State<'_> = &[
            (4, false, b"\x0a\x01c\x18\x04"),
            (5, false, b"\x0a\x01a\x18\x05"),
            (6, true, b"\x0a\x01b"),
            (7, false, b"\x0a\x01d\x18\x07"),
        ];
        let user = [Record::User { stored: b"\x0a\x03bob" }];
        let mut diff = Diff::new(4);
        diff.left(&records(left)).unwrap();
        diff.turn_right(7);
        diff.right(&records(right)).unwrap();
        diff.right(&user).unwrap();
        assert!(diff.turn_left(4));
        diff.names(&records(left)).unwrap();
        let Outcome { differences, unchanged, unnamed, added, changed, removed, .. } = diff.finish();
        assert_eq!((added, changed, removed, unnamed), (2, 1, 1, 0));
        let lines: Vec<_> = differences
            .iter()
            .map(|d| format!("{} {:?} {} {}", d.subject, d.kind, d.left_revision, d.right_revision))
            .collect();
        assert_eq!(lines, ["a Changed 2 5", "b Removed 3 0", "d Added 0 7", "user bob Added 0 0"]);
        assert_eq!(unchanged, 1);
    }

    #[test]
    fn differences_beyond_the_limit_are_counted_and_not_named() {
        let stored = |n: u32| [b"\x0a\x04", &n.to_be_bytes()[..], b"\x18\x02"].concat();
        let keys: Vec<Vec<u8>> = (0..300_000).map(stored).collect();
        let added: Vec<Record<'_>> = keys
            .iter()
            .zip(1..)
            .map(|(stored, main)| Record::Revision(Revision { rev: Rev { main, sub: 0 }, tombstone: false, stored }))
            .collect();
        let mut diff = Diff::new(1);
        diff.turn_right(300_000);
        diff.right(&added).unwrap();
        assert!(!diff.turn_left(1));
        let outcome = diff.finish();
        assert_eq!((outcome.added, outcome.differences.len() as u64 + outcome.unnamed), (300_000, 300_000));
        assert_eq!(outcome.differences.len(), NAMES_BYTES_MAX / (DIFFERENCE_BYTES + 8));
    }
}
