//! Chains: a restore point as a base and the increments on top of it, read as one state.
//!
//! A manifest lists the objects of its whole chain, so a point depends on no other point. The objects fall into
//! **segments**: each is a stream of its own, from descriptor to end, and follows the revision that the segment before it
//! reaches.
//!
//! ```text
//! segment 0   full         ............... 900     all records of the state at 900
//! segment 1   incremental   900 < ........ 950     what came after 900, which revisions up to 900 are still there
//! segment 2   incremental   950 < ........ 990     what came after 950; nothing was compacted in between
//! ```
//!
//! The state at the end of a chain is: of the last segment everything; of the segments before it the revisions alone, and
//! of those the ones that are still there. A compaction only ever removes, so the newest list of older revisions decides,
//! and the lists of segments before it count no more.
//!
//! Invariants:
//! - A revision lies in the segment whose range it is in, or it is damage.
//! - A revision that a list names is found, or it is damage: nothing is quietly missing.

use serde::{Deserialize, Serialize};

use crate::base::clock::Time;
use crate::base::error::{Error, Result};
use crate::snapshot::kept::{Kept, Order, Selection};
use crate::snapshot::proof::KeptProof;
use crate::snapshot::record::{Descriptor, Record};
use crate::vault::manifest::Manifest;
use crate::vault::sealed;

/// Segments of a chain at most: a full point once in a while keeps it far below.
pub const SEGMENTS_MAX: usize = 1_000;

/// One stream of a chain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Segment {
    /// The revision it follows; 0 for a full one.
    pub base_revision: i64,
    /// The revision it reaches.
    pub revision: i64,
    /// When the backup that made it began; wall time, for people and for schedules.
    #[serde(with = "sealed::rfc3339")]
    pub started: Time,
    /// The compaction that shaped it.
    pub compact_revision: i64,
    /// How many of the manifest's objects are its own; they stand together, in order.
    pub objects: usize,
    /// What is still there of the revisions up to the base; none in a full one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kept: Option<SegmentKept>,
}

/// What is still there of the revisions up to the base.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SegmentKept {
    /// How many, and their digest.
    #[serde(flatten)]
    pub proof: KeptProof,
    /// Whether the segment lists them; otherwise all of them are still there.
    pub listed: bool,
}

impl Segment {
    /// The segment of a stream that was just stored as `objects` objects.
    pub fn of(descriptor: &Descriptor<'_>, started: Time, objects: usize, kept: Option<KeptProof>) -> Self {
        Segment {
            started,
            base_revision: descriptor.base_revision,
            revision: descriptor.revision,
            compact_revision: descriptor.compact_revision,
            objects,
            kept: kept.map(|proof| SegmentKept { proof, listed: descriptor.kept_listed }),
        }
    }
}

/// What is wrong with the segments of `manifest`; nothing when they fit together and with its objects.
pub(crate) fn fault(manifest: &Manifest) -> Option<String> {
    let segments = &manifest.segments;
    if !(1..=SEGMENTS_MAX).contains(&segments.len()) {
        return Some(format!("{} segments", segments.len()));
    }
    let (mut reached, mut objects) = (0, manifest.objects.iter());
    for segment in segments {
        let Segment { base_revision, revision, compact_revision, .. } = *segment;
        if base_revision != reached || revision < base_revision || !(0..=revision).contains(&compact_revision) {
            return Some(format!("a segment from {base_revision} to {revision} follows {reached}"));
        }
        if (base_revision == 0) == segment.kept.is_some() {
            return Some(format!("the segment that follows {base_revision} does not say what it needs"));
        }
        let own: Vec<_> = objects.by_ref().take(segment.objects).collect();
        if own.is_empty() || own.len() < segment.objects {
            return Some(format!("the segment that follows {base_revision} lacks objects"));
        }
        if let Some(entry) = own.iter().find(|entry| entry.first < base_revision || entry.last > revision) {
            return Some(format!("{} does not belong between {base_revision} and {revision}", entry.name));
        }
        // An increment that brings nothing new still reaches its base's revision.
        reached = revision;
        if revision == 0 {
            return Some("a segment reaches no revision".to_owned());
        }
    }
    let last = segments.last().expect("there is at least one");
    let described = (manifest.descriptor.revision, manifest.descriptor.compact_revision);
    if objects.next().is_some() || (last.revision, last.compact_revision) != described {
        return Some("its segments end elsewhere than it does".to_owned());
    }
    None
}

/// Where the objects of a chain belong.
#[derive(Clone, Debug)]
pub(crate) struct Chain {
    segments: Vec<Segment>,
    /// The number of objects up to the end of each segment.
    ends: Vec<usize>,
}

impl Chain {
    pub(crate) fn of(manifest: &Manifest) -> Self {
        let ends = manifest.segments.iter().scan(0, |end, segment| {
            *end += segment.objects;
            Some(*end)
        });
        Chain { segments: manifest.segments.clone(), ends: ends.collect() }
    }

    /// The segments, oldest first.
    pub(crate) fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// The segment of object `index`.
    pub(crate) fn segment_of(&self, index: usize) -> usize {
        self.ends.partition_point(|end| *end <= index)
    }

    /// The objects of a segment.
    pub(crate) fn objects_of(&self, segment: usize) -> std::ops::Range<usize> {
        let start = segment.checked_sub(1).map_or(0, |before| self.ends[before]);
        start..self.ends[segment]
    }

    pub(crate) fn last(&self) -> usize {
        self.segments.len() - 1
    }

    /// The newest segment that lists which older revisions are still there.
    pub(crate) fn lists(&self) -> Option<usize> {
        self.segments.iter().rposition(|segment| segment.kept.is_some_and(|kept| kept.listed))
    }
}

/// What of a chain's records belongs to its state, met in either order.
#[derive(Debug)]
pub(crate) struct Merge {
    chain: Chain,
    order: Order,
    kept: Kept,
    selection: Option<Selection>,
}

impl Merge {
    pub(crate) fn new(chain: Chain, order: Order) -> Self {
        Merge { chain, order, kept: Kept::default(), selection: None }
    }

    /// Takes the lists of older revisions out of the records of an object of `segment`.
    pub(crate) fn learn(&mut self, segment: usize, records: &[Record<'_>]) -> Result<()> {
        if self.chain.lists() != Some(segment) {
            return Ok(());
        }
        let runs = records.iter().filter_map(|record| match record {
            Record::Kept(run) => Some(*run),
            _ => None,
        });
        self.kept.add(self.order, runs)
    }

    /// The records of an object of `segment` that belong to the state, in the order they stand in. Objects come in the
    /// order that was chosen, and what `learn` needs has come before.
    pub(crate) fn belonging<'a>(&mut self, segment: usize, records: Vec<Record<'a>>) -> Result<Vec<Record<'a>>> {
        let is_last = segment == self.chain.last();
        let older = self.chain.lists().is_some_and(|lists| segment < lists);
        let Segment { base_revision, revision: reach, .. } = self.chain.segments[segment];
        if older && self.selection.is_none() {
            self.selection = Some(std::mem::take(&mut self.kept).select(self.order));
        }
        let mut names = |rev| match &mut self.selection {
            Some(selection) if older => selection.names(rev),
            _ => Ok(true),
        };
        let mut belongs = |record: &Record<'_>| -> Result<bool> {
            match record {
                Record::Revision(revision) if base_revision < revision.rev.main && revision.rev.main <= reach => {
                    names(revision.rev)
                }
                Record::Revision(revision) => {
                    let text = format!("revision {} stands between {base_revision} and {reach}", revision.rev);
                    Err(Error::damaged(text).hint("do not use this point; `holdfast list` shows others"))
                }
                Record::Kept(_) => Ok(false),
                _ => Ok(is_last),
            }
        };
        let marks: Result<Vec<bool>> = match self.order {
            Order::Ascending => records.iter().map(&mut belongs).collect(),
            Order::Descending => records.iter().rev().map(&mut belongs).collect(),
        };
        let mut marks = marks?;
        if self.order == Order::Descending {
            marks.reverse();
        }
        Ok(records.into_iter().zip(marks).filter_map(|(record, belongs)| belongs.then_some(record)).collect())
    }

    /// Called after the last object: every revision that should still be there was found.
    pub(crate) fn finish(&mut self) -> Result<()> {
        self.selection.as_mut().map_or(Ok(()), Selection::finish)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::error::Kind;
    use crate::snapshot::hash::StateDigest;
    use crate::snapshot::record::{End, KeptRun, Rev, Revision};
    use crate::vault::layout::PointKind;
    use crate::vault::testing;

    fn segment(base_revision: i64, revision: i64, objects: usize, listed: Option<bool>) -> Segment {
        let proof = KeptProof { revisions: 1, digest: StateDigest::default() };
        let kept = listed.map(|listed| SegmentKept { proof, listed });
        Segment { base_revision, revision, started: testing::time(), compact_revision: 0, objects, kept }
    }

    /// A full point up to 9, an increment to 20 that lists, and one to 30 that does not.
    fn manifest() -> Manifest {
        let entries = [(0, 5), (5, 9), (9, 20), (20, 30)].map(|(first, last)| testing::entry("prod", first, last));
        let mut manifest = testing::manifest("prod", &entries);
        manifest.kind = PointKind::Incremental;
        manifest.segments =
            vec![segment(0, 9, 2, None), segment(9, 20, 1, Some(true)), segment(20, 30, 1, Some(false))];
        manifest
    }

    #[test]
    fn segments_that_do_not_fit_together_are_told() {
        let right = manifest();
        assert_eq!(fault(&right), None);
        right.validate(&right.name()).unwrap();
        type Change = fn(&mut Manifest);
        let changes: &[(&str, Change)] = &[
            ("0 segments", |m| m.segments.clear()),
            ("follows 9", |m| m.segments[1].base_revision = 8),
            ("follows 0", |m| {
                m.segments.remove(0);
            }),
            ("does not say what it needs", |m| m.segments[1].kept = None),
            ("does not say what it needs", |m| m.segments[0].kept = m.segments[1].kept),
            ("lacks objects", |m| m.segments[2].objects = 0),
            ("lacks objects", |m| m.segments[2].objects = 2),
            ("end elsewhere", |m| m.segments.truncate(2)),
            ("does not belong", |m| {
                m.segments[0].objects = 1;
                m.segments[1].objects = 2;
            }),
            ("follows 9", |m| m.segments[1].revision = 5),
            ("follows 20", |m| m.segments[2].compact_revision = 31),
            ("end elsewhere", |m| m.segments[2].compact_revision = 7),
        ];
        for (words, change) in changes {
            let mut wrong = right.clone();
            change(&mut wrong);
            let found = fault(&wrong).unwrap();
            assert!(found.contains(words), "{words}: {found}");
            assert_eq!(wrong.validate(&wrong.name()).unwrap_err().kind(), Kind::Damaged);
        }
        let mut wrong = right;
        wrong.kind = PointKind::Full;
        assert!(wrong.validate(&wrong.name()).unwrap_err().chain().contains("its kind"));
    }

    fn at(main: i64) -> Record<'static> {
        Record::Revision(Revision { rev: Rev { main, sub: 0 }, tombstone: false, stored: b"" })
    }

    fn mains(records: &[Record<'_>]) -> Vec<i64> {
        let main = |record: &Record<'_>| match record {
            Record::Revision(revision) => revision.rev.main,
            other => -i64::from(other.number()),
        };
        records.iter().map(main).collect()
    }

    /// Of the revisions 2 to 9 only 3 and 8 are still there when segment 1 is made.
    fn objects() -> Vec<Vec<Record<'static>>> {
        let end = Record::End(End { records: 0, crc32c: 0 });
        let lease = Record::Lease { stored: b"" };
        // From 3 it is five to 8.
        let kept = Record::Kept(KeptRun { first: Rev { main: 3, sub: 0 }, steps: b"\x14" });
        vec![
            vec![lease, at(2), at(3), at(5)],
            vec![at(6), at(8), at(9), end],
            vec![lease, kept, at(10), at(20), end],
            vec![lease, lease, at(21), at(30), end],
        ]
    }

    fn merged(order: Order, objects: &[Vec<Record<'static>>]) -> Result<Vec<Vec<i64>>> {
        let chain = Chain::of(&manifest());
        let mut merge = Merge::new(chain.clone(), order);
        let mut indices: Vec<usize> = (0..objects.len()).collect();
        if order == Order::Ascending {
            merge.learn(1, &objects[2])?;
        } else {
            indices.reverse();
        }
        let mut found = vec![];
        for index in indices {
            let segment = chain.segment_of(index);
            if order == Order::Descending {
                merge.learn(segment, &objects[index])?;
            }
            found.push(mains(&merge.belonging(segment, objects[index].clone())?));
        }
        merge.finish()?;
        Ok(found)
    }

    #[test]
    fn a_chain_is_one_state_in_either_order() {
        let forward = merged(Order::Ascending, &objects()).unwrap();
        assert_eq!(forward, [vec![3], vec![8], vec![10, 20], vec![-13, -13, 21, 30, -17]]);
        let mut backward = merged(Order::Descending, &objects()).unwrap();
        backward.reverse();
        assert_eq!(backward, forward);
        let chain = Chain::of(&manifest());
        assert_eq!((chain.lists(), chain.last(), chain.objects_of(0), chain.objects_of(2)), (Some(1), 2, 0..2, 3..4));
    }

    #[test]
    fn what_is_missing_or_stands_elsewhere_is_damage() {
        for order in [Order::Ascending, Order::Descending] {
            let mut lost = objects();
            lost[1].remove(1);
            let error = merged(order, &lost).unwrap_err();
            assert!(error.kind() == Kind::Damaged && error.chain().contains("8/0"), "{}", error.chain());
            let mut moved = objects();
            moved[3].insert(2, at(20));
            assert!(merged(order, &moved).unwrap_err().hint_text().is_some());
        }
    }
}
