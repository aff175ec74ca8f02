//! Which older revisions are still there: the set that an incremental stream carries where the cluster compacted.
//!
//! A compaction removes older revisions, and what it removed cannot be told from the newer ones alone: a key that was
//! deleted and compacted away leaves nothing behind. So an increment says which revisions at or before its base still
//! exist. It names them by number, never by key: one or two bytes each, in runs of `Kept` records.
//!
//! The revisions of a run ascend, and so do the runs. From one revision to the next leads a step, by the lowest two
//! bits of its number n:
//!
//! | n & 3 | next revision |
//! |---|---|
//! | 0 | main + (n >> 2), sub 0 |
//! | 1 | main, sub + (n >> 2) |
//! | 2 | main + (n >> 2), and the number after it is sub |
//!
//! Invariants:
//! - Memory is what the steps take, not what they name: a set is walked beside the records it selects from, both in
//!   order, and one run is unfolded at a time.
//! - A revision that the set names and no record holds is an error: it is a loss.

use std::collections::VecDeque;

use crate::base::error::{Error, Kind, Result};
use crate::snapshot::record::{KeptRun, Rev};
use crate::snapshot::wire::{put_varint, take_varint};

/// Revisions in a run at most. Unfolded, that is 1 MiB.
pub const RUN_REVISIONS_MAX: usize = 1 << 16;
/// Bytes of all steps of a set at most: more than thirty million revisions.
pub const KEPT_BYTES_MAX: usize = 64 << 20;

/// A set of revisions in ascending runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Kept {
    runs: VecDeque<Run>,
    bytes: usize,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Run {
    first: Rev,
    steps: Vec<u8>,
}

impl Kept {
    /// Puts `revs`, which ascend, before everything in the set.
    pub fn prepend(&mut self, revs: &[Rev]) -> Result<()> {
        for part in revs.rchunks(RUN_REVISIONS_MAX) {
            if let Some(run) = self.run(part)? {
                self.runs.push_front(run);
            }
        }
        Ok(())
    }

    /// Puts `revs`, which ascend, behind everything in the set.
    pub fn append(&mut self, revs: &[Rev]) -> Result<()> {
        for part in revs.chunks(RUN_REVISIONS_MAX) {
            if let Some(run) = self.run(part)? {
                self.runs.push_back(run);
            }
        }
        Ok(())
    }

    fn run(&mut self, revs: &[Rev]) -> Result<Option<Run>> {
        let Some((first, rest)) = revs.split_first() else { return Ok(None) };
        let mut steps = Vec::with_capacity(rest.len());
        let mut at = *first;
        for next in rest {
            assert!(*next > at, "revisions of a run ascend");
            put_step(&mut steps, at, *next);
            at = *next;
        }
        self.count(steps.len())?;
        Ok(Some(Run { first: *first, steps }))
    }

    /// Adds runs that were read, in ascending order, at the end of the set where they belong: behind everything when they
    /// are read forward, before everything when they are read backward.
    pub fn add<'a>(&mut self, order: Order, runs: impl DoubleEndedIterator<Item = KeptRun<'a>>) -> Result<()> {
        let take = |run: KeptRun<'_>| {
            self.count(run.steps.len())?;
            let run = Run { first: run.first, steps: run.steps.to_vec() };
            match order {
                Order::Ascending => self.runs.push_back(run),
                Order::Descending => self.runs.push_front(run),
            }
            Ok(())
        };
        let mut runs = runs;
        if order == Order::Ascending { runs.try_for_each(take) } else { runs.rev().try_for_each(take) }
    }

    fn count(&mut self, bytes: usize) -> Result<()> {
        self.bytes += bytes + size_of::<Run>();
        if self.bytes <= KEPT_BYTES_MAX {
            return Ok(());
        }
        let text = format!("the older revisions that are still there take more than {KEPT_BYTES_MAX} bytes to list");
        Err(Error::new(Kind::Failed, text).hint("make a full backup: `holdfast backup --kind full`"))
    }

    /// The runs, in ascending order.
    pub fn runs(&self) -> impl Iterator<Item = KeptRun<'_>> {
        self.runs.iter().map(|run| KeptRun { first: run.first, steps: &run.steps })
    }

    /// Whether the set names nothing.
    pub fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// Walks the set beside records.
    pub fn select(self, order: Order) -> Selection {
        Selection { runs: self.runs, order, open: vec![] }
    }
}

fn put_step(steps: &mut Vec<u8>, at: Rev, next: Rev) {
    let main = (next.main - at.main).cast_unsigned();
    match (main, next.sub) {
        (0, sub) => put_varint(steps, (sub - at.sub).cast_unsigned() << 2 | 1),
        (main, 0) => put_varint(steps, main << 2),
        (main, sub) => {
            put_varint(steps, main << 2 | 2);
            put_varint(steps, sub.cast_unsigned());
        }
    }
}

impl KeptRun<'_> {
    /// The revisions of the run.
    pub fn revisions(&self) -> Result<Vec<Rev>> {
        unfold(self.first, self.steps)
    }
}

fn unfold(first: Rev, mut rest: &[u8]) -> Result<Vec<Rev>> {
    let wrong = || Error::damaged("a list of older revisions cannot be read");
    let mut revs = vec![first];
    let mut at = first;
    while !rest.is_empty() {
        if revs.len() == RUN_REVISIONS_MAX {
            return Err(wrong());
        }
        let number = take_varint(&mut rest)?;
        let far = i64::try_from(number >> 2).map_err(|_| wrong())?;
        let next = match number & 3 {
            0 => at.main.checked_add(far).map(|main| Rev { main, sub: 0 }),
            1 => at.sub.checked_add(far).map(|sub| Rev { main: at.main, sub }),
            2 => {
                let sub = i64::try_from(take_varint(&mut rest)?).map_err(|_| wrong())?;
                at.main.checked_add(far).map(|main| Rev { main, sub })
            }
            _ => None,
        };
        at = next.filter(|next| *next > at).ok_or_else(wrong)?;
        revs.push(at);
    }
    Ok(revs)
}

/// In which order records are met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Oldest first.
    Ascending,
    /// Newest first.
    Descending,
}

/// A set being walked beside records.
#[derive(Debug)]
pub struct Selection {
    runs: VecDeque<Run>,
    order: Order,
    /// The open run; the next revision is the last.
    open: Vec<Rev>,
}

impl Selection {
    /// Whether the set names `rev`, which is beyond all revisions asked for so far.
    pub fn names(&mut self, rev: Rev) -> Result<bool> {
        self.fill()?;
        let Some(next) = self.open.last().copied() else { return Ok(false) };
        let passed = if self.order == Order::Ascending { next < rev } else { next > rev };
        if passed {
            return Err(lost(next));
        }
        if next == rev {
            self.open.pop();
        }
        Ok(next == rev)
    }

    /// Called after the last record: every revision must have been met.
    pub fn finish(&mut self) -> Result<()> {
        self.fill()?;
        self.open.last().map_or(Ok(()), |next| Err(lost(*next)))
    }

    fn fill(&mut self) -> Result<()> {
        if !self.open.is_empty() {
            return Ok(());
        }
        let run = if self.order == Order::Ascending { self.runs.pop_front() } else { self.runs.pop_back() };
        let Some(run) = run else { return Ok(()) };
        self.open = unfold(run.first, &run.steps)?;
        if self.order == Order::Ascending {
            self.open.reverse();
        }
        Ok(())
    }
}

fn lost(rev: Rev) -> Error {
    Error::damaged(format!("revision {rev} should still be there, and no object holds it"))
        .hint("do not use this point; `holdfast list` shows others, and a full backup starts afresh")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::rng::Seeded;

    fn history(rng: &mut Seeded, len: u64) -> Vec<Rev> {
        let mut revs = vec![];
        let mut at = Rev { main: 2, sub: 0 };
        for _ in 0..len {
            revs.push(at);
            at = match rng.below(4) {
                0 => Rev { main: at.main, sub: at.sub + 1 + i64::try_from(rng.below(300)).unwrap() },
                1 => Rev { main: at.main + 1 + i64::try_from(rng.below(1 << 40)).unwrap(), sub: 0 },
                2 => Rev { main: at.main + 1, sub: i64::try_from(rng.below(3)).unwrap() },
                _ => Rev { main: at.main + 1, sub: 0 },
            };
        }
        revs
    }

    #[test]
    fn a_set_selects_what_it_names_in_either_order() {
        let mut rng = Seeded::new(7);
        for round in 0..50 {
            let all = history(&mut rng, 400);
            let chosen: Vec<Rev> = all.iter().copied().filter(|_| rng.below(3) > 0).collect();
            let mut built = Kept::default();
            // Fed as a walk backwards meets them: pieces in descending order, each ascending.
            for piece in chosen.rchunks(1 + round) {
                built.prepend(piece).unwrap();
            }
            let mut read = Kept::default();
            let runs: Vec<_> = built.runs().collect();
            let (front, back) = runs.split_at(runs.len() / 2);
            read.add(Order::Descending, back.iter().copied()).unwrap();
            read.add(Order::Descending, front.iter().copied()).unwrap();
            assert_eq!(read, built);
            let mut selection = read.clone().select(Order::Ascending);
            let found: Vec<Rev> = all.iter().copied().filter(|rev| selection.names(*rev).unwrap()).collect();
            assert_eq!(found, chosen);
            selection.finish().unwrap();
            let mut selection = read.select(Order::Descending);
            let mut found: Vec<Rev> = all.iter().rev().copied().filter(|rev| selection.names(*rev).unwrap()).collect();
            found.reverse();
            assert_eq!(found, chosen);
            selection.finish().unwrap();
        }
    }

    #[test]
    fn a_named_revision_that_no_record_holds_is_a_loss() {
        let rev = |main| Rev { main, sub: 0 };
        let mut kept = Kept::default();
        kept.prepend(&[rev(3), rev(5), rev(9)]).unwrap();
        let mut selection = kept.clone().select(Order::Ascending);
        assert!(selection.names(rev(3)).unwrap());
        assert!(!selection.names(rev(4)).unwrap());
        let error = selection.names(rev(6)).unwrap_err();
        assert!(error.to_string().contains("revision 5/0") && error.hint_text().is_some());
        let mut selection = kept.select(Order::Descending);
        assert!(selection.names(rev(9)).unwrap());
        assert!(selection.finish().unwrap_err().to_string().contains("5/0"));
    }

    #[test]
    fn dense_history_takes_a_byte_a_revision_and_hostile_steps_are_errors() {
        let dense: Vec<Rev> = (2..200_002).map(|main| Rev { main, sub: 0 }).collect();
        let mut kept = Kept::default();
        kept.prepend(&dense).unwrap();
        assert!(kept.runs().count() == 4 && kept.bytes < 201_000, "{}", kept.bytes);
        let first = Rev { main: i64::MAX - 1, sub: 5 };
        for steps in [&[0][..], &[1], &[3], &[2], &[8], &[0x80], &[4, 4], &[0xff; 10]] {
            assert_eq!(unfold(first, steps).unwrap_err().kind(), Kind::Damaged, "{steps:?}");
        }
        assert!(unfold(Rev { main: 1, sub: 0 }, &vec![4; RUN_REVISIONS_MAX]).is_err());
        let mut full = Kept { bytes: KEPT_BYTES_MAX, ..Kept::default() };
        let run = KeptRun { first, steps: &[4] };
        assert!(full.add(Order::Ascending, std::iter::once(run)).unwrap_err().hint_text().is_some());
    }
}
