//! The state digest, kept up to date with each batch, and worked out behind everybody's back.
//!
//! What it is stands in `snapshot::hash`: the sum of the digests of all live facts. So a batch adds those of its facts and
//! takes away those of the facts that it supersedes, in whatever order. Who applies the batch does not wait for that: it
//! goes into a **ledger**, and the sum is worked out when somebody asks for the digest of a state, which works off
//! everything up to that state. The flusher asks with every flush and writes the sum beside the position, so the ledger is
//! never longer than what waits for a flush, and a start has nothing to work out. What a file of an older version does not
//! say is worked out once, from all that is stored, when it is asked for first.
//!
//! The digests of the newest facts are remembered, because what is written often is superseded soon; of others the message
//! is read once more.
//!
//! Invariants:
//! - The sum of a state depends on its commands alone, and is that of the records that the state is streamed as.
//! - A batch is worked off before anything that it supersedes is deleted: deletions are flushed in the order of what made
//!   them possible, and a flush asks for the digest first.
//! - Nobody who applies waits for somebody who works.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use crate::api::Message;
use crate::api::etcdserverpb::AlarmType;
use crate::api::leasepb;
use crate::base::digest::Sha256;
use crate::base::error::Result;
use crate::base::revision::Rev;
use crate::snapshot::hash::{StateDigest, key_value_fact, side_fact};
use crate::snapshot::record::Record;
use crate::store::auth::rules::Rules;
use crate::store::backend::{Backend, Space};
use crate::store::lease::lessor::Lessor;
use crate::store::machine::records::CHUNK_BYTES;
use crate::store::machine::state::Alarms;
use crate::store::mvcc::chronicle::Chronicle;
use crate::store::mvcc::recent::{Batch, Recent};
use crate::store::mvcc::view::{View, message};

/// Facts whose digests are remembered, twice: about 56 bytes each.
const REMEMBERED_MAX: usize = 7 << 15;

type Value = Arc<OnceLock<StateDigest>>;

/// The digest of one state. Copies are the same one.
#[derive(Clone)]
pub struct Digest {
    value: Value,
    /// Where it is worked out; none when it was known from the beginning.
    ledger: Option<Arc<Ledger>>,
}

impl Digest {
    /// One that is known.
    pub fn known(digest: StateDigest) -> Self {
        Digest { value: Arc::new(OnceLock::from(digest)), ledger: None }
    }

    /// Its value, worked out if nobody has done so yet. What must be read for that and cannot be is an error.
    pub fn get(&self) -> Result<StateDigest> {
        match (self.value.get(), &self.ledger) {
            (Some(known), _) => Ok(*known),
            (None, Some(ledger)) => ledger.work(&self.value),
            (None, None) => unreachable!("what is not known is in a ledger"),
        }
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Digest").field(&self.value.get()).finish()
    }
}

/// What is to be worked off, and the sum so far.
pub(super) struct Ledger {
    recent: Arc<Recent>,
    backend: Arc<Backend>,
    /// Locked for a moment only.
    waiting: Mutex<VecDeque<Entry>>,
    /// Locked by who works, also while a file is read.
    sum: Mutex<Sum>,
}

/// A step from one state's digest to the next one's.
#[derive(Clone)]
struct Entry {
    step: Step,
    /// What it comes to.
    value: Value,
}

#[derive(Clone)]
enum Step {
    /// Everything that is stored.
    All(Box<(View, Lessor, Alarms, Rules)>),
    /// What a batch changed: of the keys, and by how much of everything else.
    Change(Option<Arc<Batch>>, StateDigest),
}

struct Sum {
    total: StateDigest,
    facts: Remembered,
}

impl Ledger {
    /// The ledger of a state that was opened: its digest is known, or to be worked out from all of it.
    pub(super) fn open(
        backend: &Arc<Backend>,
        recent: &Arc<Recent>,
        known: Option<StateDigest>,
        all: impl FnOnce() -> (View, Lessor, Alarms, Rules),
    ) -> (Arc<Self>, Digest) {
        let (recent, backend) = (Arc::clone(recent), Arc::clone(backend));
        let facts = Remembered::new(REMEMBERED_MAX);
        let sum = Mutex::new(Sum { total: known.unwrap_or_default(), facts });
        let ledger = Arc::new(Ledger { recent, backend, waiting: Mutex::default(), sum });
        let digest = known.map_or_else(|| ledger.note(Step::All(Box::new(all()))), Digest::known);
        (ledger, digest)
    }

    /// Notes what a batch changed; the digest after it.
    pub(super) fn change(self: &Arc<Self>, batch: Option<&Arc<Batch>>, side: StateDigest) -> Digest {
        self.note(Step::Change(batch.cloned(), side))
    }

    fn note(self: &Arc<Self>, step: Step) -> Digest {
        let value = Value::default();
        self.waiting().push_back(Entry { step, value: Arc::clone(&value) });
        Digest { value, ledger: Some(Arc::clone(self)) }
    }

    /// Works everything off up to this value.
    fn work(&self, wanted: &Value) -> Result<StateDigest> {
        let mut sum = self.sum.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(known) = wanted.get() {
                return Ok(*known);
            }
            let entry = self.waiting().front().cloned().expect("what is not known is waiting");
            let total = match &entry.step {
                Step::All(opened) => all(&opened.0, &opened.1, &opened.2, &opened.3)?,
                Step::Change(batch, side) => self.changed(&mut sum, batch.as_deref(), side)?,
            };
            sum.total = total;
            // Set once: it is taken off only here, by whoever holds the sum.
            let _ = entry.value.set(total);
            self.waiting().pop_front();
        }
    }

    fn changed(&self, sum: &mut Sum, batch: Option<&Batch>, side: &StateDigest) -> Result<StateDigest> {
        let mut total = sum.total;
        total.merge(side);
        let Some(batch) = batch else { return Ok(total) };
        for change in batch.changes().iter().filter(|change| !change.tombstone) {
            let fact = key_value_fact(&change.message);
            total.add(&fact);
            sum.facts.put(change.rev, fact);
        }
        for version in batch.superseded() {
            let fact = match sum.facts.take(version.rev()) {
                Some(fact) => fact,
                None => key_value_fact(&message(&self.recent, &self.backend, version)?),
            };
            total.remove(&fact);
        }
        Ok(total)
    }

    fn waiting(&self) -> MutexGuard<'_, VecDeque<Entry>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The digests of the newest facts by their revisions, in two halves: when the younger one is full, the older is forgotten.
struct Remembered {
    most: usize,
    young: HashMap<Rev, Sha256>,
    old: HashMap<Rev, Sha256>,
}

impl Remembered {
    /// Each half has so many.
    fn new(most: usize) -> Self {
        Remembered { most, young: HashMap::new(), old: HashMap::new() }
    }

    fn put(&mut self, rev: Rev, fact: Sha256) {
        if self.young.len() >= self.most {
            std::mem::swap(&mut self.young, &mut self.old);
            self.young.clear();
        }
        self.young.insert(rev, fact);
    }

    /// A fact is superseded once.
    fn take(&mut self, rev: Rev) -> Option<Sha256> {
        self.young.remove(&rev).or_else(|| self.old.remove(&rev))
    }
}

/// The digest of what a state has beside its keys.
pub(super) fn of_sides(lessor: &Lessor, alarms: &Alarms, rules: &Rules) -> StateDigest {
    let mut total = StateDigest::default();
    for (space, _, stored) in rules.stored() {
        rule_fact(space, &stored).iter().for_each(|fact| total.add(fact));
    }
    lessor.all().for_each(|(id, lease)| total.add(&lease_fact(id, lease.ttl_s)));
    for alarm in alarms.all(AlarmType::None as i32) {
        total.add(&alarm_fact(&alarm.encode_to_vec()));
    }
    total
}

/// The digest of a state, from everything that it shows.
fn all(view: &View, lessor: &Lessor, alarms: &Alarms, rules: &Rules) -> Result<StateDigest> {
    let mut total = of_sides(lessor, alarms, rules);
    let chronicle = Chronicle::of(view, &mut || Ok(()))?;
    let (entries, mut at, mut messages) = (chronicle.entries(), 0, vec![]);
    while at < entries.len() {
        let next = chronicle.read(at, entries.len(), CHUNK_BYTES, &mut messages)?;
        let mut rest = &messages[..];
        for entry in &entries[at..next] {
            let (stored, others) = rest.split_at(entry.message_bytes());
            rest = others;
            if entry.is_newest() && !entry.is_tombstone() {
                total.add(&key_value_fact(stored));
            }
        }
        at = next;
    }
    Ok(total)
}

/// A lease as a fact: its id and for how long it was granted.
pub(super) fn lease_fact(id: i64, ttl_s: i64) -> Sha256 {
    fact(&Record::Lease { stored: &leasepb::Lease { id, ttl: ttl_s, remaining_ttl: 0 }.encode_to_vec() })
}

/// An alarm as a fact.
pub(super) fn alarm_fact(stored: &[u8]) -> Sha256 {
    fact(&Record::Alarm { stored })
}

/// A user or a role as a fact. The switch of authentication and the revision of its rules are none.
pub(super) fn rule_fact(space: Space, stored: &[u8]) -> Option<Sha256> {
    match space {
        Space::User => Some(fact(&Record::User { stored })),
        Space::Role => Some(fact(&Record::Role { stored })),
        _ => None,
    }
}

fn fact(record: &Record<'_>) -> Sha256 {
    side_fact(record).ok().flatten().expect("leases, alarms, users and roles are facts, and what is stored can be read")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_new_is_remembered_once_and_what_is_old_is_not() {
        let mut facts = Remembered::new(4);
        let fact = |main: i64| Sha256::of(&main.to_be_bytes());
        (0..10).for_each(|main| facts.put(Rev::of(main), fact(main)));
        let found = |main| facts.take(Rev::of(main));
        assert_eq!([0, 3, 4, 9, 9].map(found), [None, None, Some(fact(4)), Some(fact(9)), None]);
    }
}
