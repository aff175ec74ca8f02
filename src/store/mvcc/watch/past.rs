//! History for one spec, a chunk at a time, until it has become the present.
//!
//! A reader has its revision and no view: each chunk is read from a view of its own, so that whoever stalls between two
//! chunks holds nothing back. What is compacted away meanwhile is told as such.
//!
//! Two ways lead there. All revisions can be **scanned** in order, as they are stored, picking out what is wanted; or the
//! **index** names the versions of the keys in the range, and only those messages are read. Which is less work depends on
//! how many others wrote meanwhile; the index is asked first, and given up as soon as a scan would have been cheaper.
//!
//! Invariants:
//! - A chunk has whole main revisions, and everything that is wanted up to where it says it goes.
//! - Nobody is told of a version that the compaction of the view made superfluous. Exactly at the compaction there may be
//!   some, of keys that one transaction wrote more than once; whether they are deleted already makes no difference. After
//!   it a view shows every revision, tombstones too.

use std::ops::ControlFlow;
use std::sync::Arc;

use bytes::Bytes;

use crate::base::error::{Error, Kind, Result};
use crate::base::revision::Rev;
use crate::store::backend::{Stored, Witness};
use crate::store::mvcc::history::{History, Version};
use crate::store::mvcc::hub::{Before, Published};
use crate::store::mvcc::recent::{Batch, Change};
use crate::store::mvcc::view::{Fault, Ground, View};
use crate::store::mvcc::watch::{Events, Spec, event};

/// The price of looking at a stored revision in a scan, at a key of the index, and of reading a message by its revision,
/// in the same unit.
const SCAN_PRICE: u64 = 4;
const KEY_PRICE: u64 = 1;
const READ_PRICE: u64 = 16;

/// How much one chunk may be.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Main revisions that it tells of.
    pub revisions_max: usize,
    /// Bytes of its messages. The revision that goes beyond is told as a whole.
    pub bytes_max: usize,
    /// Main revisions that are scanned for it, wanted or not.
    pub scan_max: i64,
    /// Versions that are kept in mind from one look into the index.
    pub plan_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits { revisions_max: 1000, bytes_max: 1 << 20, scan_max: 20_000, plan_max: 64 << 10 }
    }
}

/// How a chunk was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Way {
    /// It is not history any more.
    Present,
    /// By looking at all revisions.
    Scan,
    /// By looking the keys up.
    Index,
}

/// A piece of history.
#[derive(Debug)]
pub struct Chunk {
    /// What is wanted of it; maybe nothing.
    pub events: Events,
    /// Up to where it goes.
    pub until: i64,
    /// Whether that is where the view ends.
    pub is_last: bool,
    /// How it was found.
    pub way: Way,
    /// Revisions that were looked at.
    pub looked_at: u64,
}

/// Where a reader of history is.
#[derive(Debug)]
pub struct Past {
    next: i64,
    plan: Option<Plan>,
}

/// Versions to read, in order.
#[derive(Debug)]
struct Plan {
    versions: Vec<Version>,
    /// The next of them.
    at: usize,
    /// They are all there are up to here.
    until: i64,
    /// The compaction of the view they were found in: a later one may have deleted some.
    compact_revision: i64,
}

impl Past {
    /// From the main revision `next` on.
    pub fn from(next: i64) -> Self {
        Past { next, plan: None }
    }

    /// The first main revision that was not read yet.
    pub fn next(&self) -> i64 {
        self.next
    }

    /// Reads on.
    pub fn read(&mut self, spec: &Spec, view: &View, limits: &Limits) -> Result<Chunk, Fault> {
        let ground = view.ground();
        if self.next < ground.compact_revision {
            return Err(Fault::Compacted);
        }
        let mut chunk = Gathered::new(spec, &ground, limits);
        if self.next > ground.revision {
            return Ok(chunk.end(self.next - 1, Way::Present)?);
        }
        if self.plan.as_ref().is_none_or(|plan| plan.compact_revision != ground.compact_revision) {
            self.plan = plan(spec, &ground, self.next, limits.plan_max);
        }
        let (until, way) = match self.plan.as_mut() {
            Some(plan) => (follow(plan, &mut chunk)?, Way::Index),
            None => (scan(self.next, &mut chunk)?, Way::Scan),
        };
        if self.plan.as_ref().is_some_and(|plan| plan.at == plan.versions.len()) {
            self.plan = None;
        }
        self.next = until + 1;
        Ok(chunk.end(until, way)?)
    }
}

/// The versions that the index names, unless a scan is cheaper.
fn plan(spec: &Spec, ground: &Ground<'_>, next: i64, plan_max: usize) -> Option<Plan> {
    let scan_price = (ground.revision - next + 1).unsigned_abs() * SCAN_PRICE;
    let (mut price, mut versions) = (0, vec![]);
    for (_, history) in ground.index.range(spec.keys()) {
        let all = &history.versions()[history.superfluous(ground.compact_revision)..];
        let new = &all[all.partition_point(|version| version.main() < next)..];
        versions.extend(new.iter().filter(|version| spec.takes(version.is_tombstone())));
        price += KEY_PRICE + READ_PRICE * new.len() as u64;
        if price > scan_price {
            return None;
        }
    }
    versions.sort_unstable_by_key(Version::rev);
    let mut until = ground.revision;
    if versions.len() > plan_max {
        let last = versions[plan_max.max(1) - 1].main();
        versions.truncate(versions.partition_point(|version| version.main() <= last));
        until = last;
    }
    Some(Plan { versions, at: 0, until, compact_revision: ground.compact_revision })
}

/// Reads what was planned; up to where that went.
fn follow(plan: &mut Plan, chunk: &mut Gathered<'_>) -> Result<i64> {
    while let Some(version) = plan.versions.get(plan.at) {
        if chunk.is_full(version.main()) {
            return Ok(version.main() - 1);
        }
        let message = chunk.ground.message(version)?;
        chunk.take(Change { rev: version.rev(), tombstone: version.is_tombstone(), message })?;
        plan.at += 1;
    }
    Ok(plan.until)
}

/// Looks at every revision from `next` on; up to where that went.
fn scan(next: i64, chunk: &mut Gathered<'_>) -> Result<i64> {
    let ground = chunk.ground;
    let until = ground.revision.min(next + chunk.limits.scan_max.max(1) - 1);
    // What leaves memory while the file is read is in these batches already.
    let recent = ground.recent.since(Rev::of(next));
    let end = Rev::of(until + 1);
    let stored_end = recent.first().map_or(end, |batch| batch.first().min(end));
    if let ControlFlow::Break(until) = scan_stored(Rev::of(next), stored_end, chunk)? {
        return Ok(until);
    }
    for change in recent.iter().flat_map(|batch| batch.changes()) {
        if change.rev >= end {
            break;
        }
        if change.rev.main < next {
            continue;
        }
        if chunk.wants(change.tombstone, event::key(&change.message), change.rev)? {
            if chunk.is_full(change.rev.main) {
                return Ok(change.rev.main - 1);
            }
            chunk.take(change.clone())?;
        }
    }
    Ok(until)
}

fn scan_stored(from: Rev, end: Rev, chunk: &mut Gathered<'_>) -> Result<ControlFlow<i64>> {
    let backend = chunk.ground.backend;
    let mut full = None;
    let outcome = backend.scan(from, end, Witness::Index, &mut |stored: Stored<'_>| {
        let Stored { rev, tombstone, message } = stored;
        if chunk.wants(tombstone, event::key(message), rev)? {
            if chunk.is_full(rev.main) {
                full = Some(rev.main - 1);
                return Err(Error::new(Kind::Interrupted, "a chunk of history is full"));
            }
            chunk.take(Change { rev, tombstone, message: Bytes::copy_from_slice(message) })?;
        }
        Ok(())
    });
    match full {
        Some(until) => Ok(ControlFlow::Break(until)),
        None => outcome.map(ControlFlow::Continue),
    }
}

/// A chunk in the making.
struct Gathered<'a> {
    spec: &'a Spec,
    ground: &'a Ground<'a>,
    limits: &'a Limits,
    changes: Vec<Change>,
    /// Main revisions among them.
    mains: usize,
    bytes: usize,
    looked_at: u64,
}

impl<'a> Gathered<'a> {
    fn new(spec: &'a Spec, ground: &'a Ground<'a>, limits: &'a Limits) -> Self {
        Gathered { spec, ground, limits, changes: vec![], mains: 0, bytes: 0, looked_at: 0 }
    }

    /// Whether it ends before the main revision `main`.
    fn is_full(&self, main: i64) -> bool {
        let begins = self.changes.last().is_some_and(|last| last.rev.main < main);
        begins && (self.mains >= self.limits.revisions_max || self.bytes >= self.limits.bytes_max)
    }

    fn wants(&mut self, tombstone: bool, key: Option<&[u8]>, rev: Rev) -> Result<bool> {
        self.looked_at += 1;
        let key = key.ok_or_else(|| event::no_key(rev))?;
        let wanted = self.spec.takes(tombstone) && self.spec.keys().contains(key);
        Ok(wanted && (rev.main > self.ground.compact_revision || !self.is_superfluous(key, rev)))
    }

    /// Whether the compaction left nothing of this version.
    fn is_superfluous(&self, key: &[u8], rev: Rev) -> bool {
        let kept = |history: &History| {
            let kept = &history.versions()[history.superfluous(self.ground.compact_revision)..];
            kept.binary_search_by_key(&rev, Version::rev).is_ok()
        };
        !self.ground.index.get(key).is_some_and(kept)
    }

    fn take(&mut self, change: Change) -> Result<()> {
        if self.changes.last().is_none_or(|last| last.rev.main < change.rev.main) {
            self.mains += 1;
        }
        self.bytes += change.message.len();
        if self.spec.wants_before() {
            let before = version_before(self.ground, event::key_of(&change)?, change.rev.main);
            self.bytes += before.map_or(0, Version::message_bytes);
        }
        self.changes.push(change);
        Ok(())
    }

    fn end(self, until: i64, way: Way) -> Result<Chunk> {
        let (is_last, before) = (until >= self.ground.revision, self.spec.wants_before());
        let looked_at = if way == Way::Index { self.changes.len() as u64 } else { self.looked_at };
        let mut events = Events::new(Arc::from([]), before);
        if !self.changes.is_empty() {
            let source = Arc::new(Published::new(Arc::new(Batch::new(self.changes, vec![]))));
            if before {
                for (at, change) in source.changes().iter().enumerate() {
                    source.note(at, read_before(self.ground, change)?);
                }
            }
            let n = source.changes().len();
            events = Events::new(Arc::from([source]), before);
            (0..n).for_each(|at| events.pick(0, at));
        }
        Ok(Chunk { events, until, is_last, way, looked_at })
    }
}

/// The version that a key had before the main revision `main`; none when it was not, or when that is compacted away.
pub fn version_before<'a>(ground: &Ground<'a>, key: &[u8], main: i64) -> Option<&'a Version> {
    let before = main - 1;
    if before < ground.compact_revision { None } else { ground.index.get(key)?.at(before) }
}

/// What the key of a change was before.
pub fn read_before(ground: &Ground<'_>, change: &Change) -> Result<Before> {
    let version = version_before(ground, event::key_of(change)?, change.rev.main);
    version.map(|version| ground.message(version)).transpose()
}
