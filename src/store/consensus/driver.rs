//! Raft as a value: told what happened, it says what is to be done. It reads no clock, no file and no network.
//!
//! ```text
//!   propose, step, tick ──> Driver ──work──> append (to the log) ──persisted──> Driver ──work──> committed entries
//!                                    └─────> messages (to other members)
//! ```
//!
//! One voter commits what it has made durable itself, several what most of them have. Many appends may be on their way at
//! once: each has a number, and the number of one that is durable says the same of all before it.
//!
//! Invariants (raft's, held by raft-rs):
//! - An entry is handed out as committed once, in order, and never before most voters have it durable.
//! - Messages that promise something are handed out only when what they promise is durable.

use raft::eraftpb::{EntryType, Message};
use raft::prelude::{Entry as RaftEntry, HardState as RaftHardState};
use raft::{Config, RawNode, StateRole};

use crate::base::error::{Error, Kind, Result};
use crate::store::consensus::bridge::Bridge;
use crate::store::consensus::log::{Entry, EntryKind, HardState, Place};
use crate::store::consensus::logger;

/// What a member knows when it starts.
#[derive(Clone, Debug, Default)]
pub struct Restored {
    /// Itself.
    pub id: u64,
    /// Everybody who votes.
    pub voters: Vec<u64>,
    /// The last hard state in the log.
    pub hard_state: HardState,
    /// The place before the first entry.
    pub previous: Place,
    /// The entries in the log.
    pub entries: Vec<Entry>,
    /// Up to where they are applied.
    pub applied: u64,
}

/// Raft's clock, in beats.
#[derive(Clone, Copy, Debug)]
pub struct Beats {
    /// Without a leader for so many, a member stands for election.
    pub election: usize,
    /// So many between two signs of life of a leader.
    pub heartbeat: usize,
}

/// A message to another member, in bytes that only raft reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Letter {
    /// Whom it is for.
    pub to: u64,
    /// What it says.
    pub bytes: Vec<u8>,
}

/// What is to be made durable.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Append {
    /// To be given back when it is.
    pub number: u64,
    /// Entries; they replace what follows the place of their first.
    pub entries: Vec<Entry>,
    /// The hard state, if it changed.
    pub hard_state: Option<HardState>,
    /// Whether anybody waits for it: without, it may be written with whatever is written next.
    pub urgent: bool,
    /// To be sent once all this is durable.
    pub letters: Vec<Letter>,
}

/// Where a member stands among the others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Role {
    /// Who leads; 0 for nobody.
    pub leader: u64,
    /// Whether it is this member, and everything from before its term is applied or handed out.
    pub leads: bool,
    /// The term.
    pub term: u64,
}

/// What is to be done.
#[derive(Clone, Debug, Default)]
pub struct Work {
    /// To be made durable, in this order, and reported if it is urgent.
    pub append: Append,
    /// To be sent now.
    pub letters: Vec<Letter>,
    /// To be applied.
    pub committed: Vec<Entry>,
}

/// One member's raft.
pub struct Driver {
    raw: RawNode<Bridge>,
}

impl Driver {
    /// Raft of a member that starts.
    pub fn new(restored: Restored, beats: Beats) -> Result<Self> {
        let Restored { id, voters, hard_state, previous, entries, applied } = restored;
        let mut state = RaftHardState::default();
        state.set_term(hard_state.term.max(previous.term));
        state.set_vote(hard_state.vote);
        // What is applied was agreed on, whether or not the log got to know that.
        state.set_commit(hard_state.commit.max(applied).max(previous.index));
        let bridge = Bridge::new(state, voters, previous, entries.into_iter().map(raft_entry).collect());
        let config = Config {
            id,
            applied,
            election_tick: beats.election,
            heartbeat_tick: beats.heartbeat,
            pre_vote: true,
            check_quorum: true,
            max_size_per_msg: MESSAGE_BYTES_MAX,
            max_inflight_msgs: INFLIGHT_MAX,
            ..Config::default()
        };
        let raw = RawNode::new(&config, bridge, &logger::logger()).map_err(|error| failed(&error))?;
        Ok(Driver { raw })
    }

    /// A beat of raft's clock.
    pub fn tick(&mut self) {
        self.raw.tick();
    }

    /// Stands for election now.
    pub fn campaign(&mut self) -> Result<()> {
        self.raw.campaign().map_err(|error| failed(&error))
    }

    /// Proposes an entry: its place, unless nobody leads here, so that it will not be agreed on.
    pub fn propose(&mut self, data: Vec<u8>) -> Option<Place> {
        // A member that does not lead would pass it on, and nobody would ever hear what became of it.
        if self.raw.raft.state != StateRole::Leader || self.raw.propose(vec![], data).is_err() {
            return None;
        }
        Some(Place { index: self.raw.raft.raft_log.last_index(), term: self.raw.raft.term })
    }

    /// Takes a message of another member. One that cannot be read, or is from nobody known, changes nothing.
    pub fn step(&mut self, bytes: &[u8]) -> Result<()> {
        let message: Message = protobuf::Message::parse_from_bytes(bytes)
            .map_err(|error| Error::new(Kind::Failed, "read a message of another member").source(error))?;
        self.raw.step(message).map_err(|error| failed(&error))
    }

    /// Where this member stands.
    pub fn role(&self) -> Role {
        let raft = &self.raw.raft;
        let leads = raft.state == StateRole::Leader && raft.commit_to_current_term();
        Role { leader: raft.leader_id, leads, term: raft.term }
    }

    /// The last entry that is agreed on.
    pub fn committed(&self) -> u64 {
        self.raw.raft.raft_log.committed
    }

    /// What is to be done now, if anything is.
    pub fn work(&mut self) -> Option<Work> {
        if !self.raw.has_ready() {
            return None;
        }
        let mut ready = self.raw.ready();
        let entries = ready.take_entries();
        let hard_state = ready.hs().map(hard_state_of);
        let append = Append {
            number: ready.number(),
            entries: entries.iter().map(entry_of).collect(),
            hard_state,
            urgent: ready.must_sync(),
            letters: letters(ready.persisted_messages()),
        };
        let letters = letters(ready.messages());
        let committed: Vec<_> = ready.take_committed_entries().iter().map(entry_of).collect();
        self.raw.mut_store().append(&entries);
        self.raw.advance_append_async(ready);
        Some(Work { append, letters, committed })
    }

    /// What was numbered so is durable, and everything before it.
    pub fn persisted(&mut self, number: u64) {
        self.raw.on_persist_ready(number);
    }

    /// Everything up to `index` is applied, and nobody will ask for entries up to `forget`.
    pub fn applied(&mut self, index: u64, forget: u64) {
        self.raw.advance_apply_to(index);
        self.raw.mut_store().forget(forget.min(index));
    }

    /// How many entries are held in memory.
    pub fn held(&self) -> usize {
        self.raw.store().len()
    }
}

/// Bytes of entries in one message to another member.
const MESSAGE_BYTES_MAX: u64 = 1 << 20;
/// Messages with entries that are on their way to one member.
const INFLIGHT_MAX: usize = 512;

fn letters(messages: &[Message]) -> Vec<Letter> {
    let bytes = |message: &Message| {
        protobuf::Message::write_to_bytes(message).expect("a message in memory has a form in bytes")
    };
    messages.iter().map(|message| Letter { to: message.to, bytes: bytes(message) }).collect()
}

fn hard_state_of(state: &RaftHardState) -> HardState {
    HardState { term: state.term, vote: state.vote, commit: state.commit }
}

fn entry_of(entry: &RaftEntry) -> Entry {
    let kind = match entry.get_entry_type() {
        EntryType::EntryNormal => EntryKind::Commands,
        EntryType::EntryConfChange => EntryKind::Change,
        EntryType::EntryConfChangeV2 => EntryKind::ChangeV2,
    };
    Entry { place: Place { index: entry.index, term: entry.term }, kind, data: entry.data.clone() }
}

fn raft_entry(entry: Entry) -> RaftEntry {
    let kind = match entry.kind {
        EntryKind::Commands => EntryType::EntryNormal,
        EntryKind::Change => EntryType::EntryConfChange,
        EntryKind::ChangeV2 => EntryType::EntryConfChangeV2,
    };
    let mut raft = RaftEntry::default();
    raft.set_entry_type(kind);
    (raft.index, raft.term, raft.data) = (entry.place.index, entry.place.term, entry.data);
    raft
}

fn failed(error: &raft::Error) -> Error {
    Error::new(Kind::Failed, format!("raft refused: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::rng::Seeded;
    use std::collections::{BTreeMap, VecDeque};

    const BEATS: Beats = Beats { election: 10, heartbeat: 1 };

    /// A member whose disk is slow: appends wait until they are made durable, or are lost with a crash.
    struct Member {
        id: u64,
        driver: Driver,
        waiting: VecDeque<Append>,
        durable: Restored,
        /// What it applied, by index.
        applied: Vec<Entry>,
    }

    fn restored(id: u64, voters: &[u64]) -> Restored {
        Restored { id, voters: voters.to_vec(), ..Restored::default() }
    }

    impl Member {
        fn new(id: u64, voters: &[u64]) -> Member {
            let durable = restored(id, voters);
            let driver = Driver::new(durable.clone(), BEATS).unwrap();
            Member { id, driver, waiting: VecDeque::new(), durable, applied: vec![] }
        }

        /// Does what is to be done but for the disk; what is to be sent.
        fn drive(&mut self) -> Vec<Letter> {
            let mut letters = vec![];
            while let Some(work) = self.driver.work() {
                letters.extend(work.letters);
                self.waiting.push_back(work.append);
                for entry in work.committed {
                    assert_eq!(entry.place.index, self.applied.len() as u64 + 1, "in order, once");
                    self.applied.push(entry);
                }
                let applied = self.applied.len() as u64;
                // Others may ask for anything still.
                self.driver.applied(applied, 0);
            }
            letters
        }

        /// The disk has written what waited first.
        fn write(&mut self) -> Vec<Letter> {
            let Some(append) = self.waiting.pop_front() else { return vec![] };
            if let Some(first) = append.entries.first() {
                self.durable.entries.truncate(usize::try_from(first.place.index - 1).unwrap());
            }
            self.durable.entries.extend(append.entries);
            self.durable.hard_state = append.hard_state.unwrap_or(self.durable.hard_state);
            self.driver.persisted(append.number);
            append.letters
        }

        /// A power cut: what waited is gone. What was applied is kept by whoever applies.
        fn crash(&mut self) {
            self.waiting.clear();
            let applied = self.applied.len() as u64;
            self.driver = Driver::new(Restored { applied, ..self.durable.clone() }, BEATS).unwrap();
        }
    }

    fn entry(data: u64) -> Vec<u8> {
        data.to_be_bytes().to_vec()
    }

    fn told(member: &Member) -> Vec<u64> {
        let some = member.applied.iter().filter(|entry| !entry.data.is_empty());
        some.map(|entry| u64::from_be_bytes(entry.data.as_ref().try_into().unwrap())).collect()
    }

    #[test]
    fn one_voter_commits_what_is_durable_and_nothing_else() {
        let mut member = Member::new(1, &[1]);
        assert!(member.driver.propose(entry(0)).is_none(), "nobody leads yet");
        member.driver.campaign().unwrap();
        member.drive();
        assert!(!member.driver.role().leads, "nothing of its term is durable yet");
        while !member.waiting.is_empty() {
            member.write();
            member.drive();
        }
        assert_eq!(member.driver.role(), Role { leader: 1, leads: true, term: 1 });
        for data in 0..10 {
            assert!(member.driver.propose(entry(data)).is_some());
            member.drive();
        }
        assert_eq!(told(&member), [0_u64; 0]);
        // Several are on their way; each that arrives commits its own and those before it.
        let urgent = member.waiting.iter().filter(|append| append.urgent).count();
        assert_eq!(urgent, 10);
        member.write();
        member.write();
        member.write();
        member.drive();
        assert_eq!(told(&member), [0, 1, 2]);
        member.crash();
        member.driver.campaign().unwrap();
        for _ in 0..10 {
            member.drive();
            member.write();
        }
        assert_eq!(told(&member), [0, 1, 2]);
        assert_eq!(member.driver.role().term, 2);
        let applied = member.applied.len() as u64;
        assert_eq!((member.driver.committed(), member.driver.held() as u64), (applied, applied));
        member.driver.applied(applied, applied);
        assert_eq!(member.driver.held(), 0);
    }

    /// Three members, letters that are lost, doubled and late, slow disks and power cuts: they apply the same, and nothing
    /// that one of them applied is ever lost.
    #[test]
    fn three_voters_apply_the_same_in_all_weathers() {
        let mut seen = BTreeMap::<&str, u64>::new();
        for seed in 0..6 {
            let mut rng = Seeded::new(seed);
            let voters = [1, 2, 3];
            let mut members: Vec<_> = voters.iter().map(|id| Member::new(*id, &voters)).collect();
            let mut net: Vec<Letter> = vec![];
            let mut next = 0;
            for step in 0..6000 {
                let calm = step > 5000;
                let at = usize::try_from(rng.below(3)).unwrap();
                match rng.below(20) {
                    0..3 => members[at].driver.tick(),
                    3..6 => {
                        next += u64::from(members[at].driver.propose(entry(next)).is_some());
                    }
                    6..10 => net.extend(members[at].write()),
                    10 if !calm && rng.below(10) == 0 => {
                        members[at].crash();
                        *seen.entry("crash").or_default() += 1;
                    }
                    _ if !net.is_empty() => {
                        let letter = net.remove(usize::try_from(rng.below(net.len() as u64)).unwrap());
                        let fate = if calm { 9 } else { rng.below(10) };
                        if fate == 0 {
                            *seen.entry("lost").or_default() += 1;
                            continue;
                        }
                        if fate == 1 {
                            *seen.entry("doubled").or_default() += 1;
                            net.push(letter.clone());
                        }
                        let to = members.iter_mut().find(|member| member.id == letter.to).unwrap();
                        to.driver.step(&letter.bytes).unwrap();
                    }
                    _ => {}
                }
                net.extend(members[at].drive());
                for member in &members {
                    let (one, other) = (&members[0].applied, &member.applied);
                    let both = one.len().min(other.len());
                    assert_eq!(one[..both], other[..both], "seed {seed}");
                }
            }
            *seen.entry("agreed").or_default() += told(&members[0]).len() as u64;
        }
        let paths: Vec<_> = seen.keys().copied().collect();
        assert_eq!(paths, ["agreed", "crash", "doubled", "lost"], "{seen:?}");
        assert!(seen["agreed"] > 500, "{seen:?}");
    }

    #[test]
    fn what_is_no_message_changes_nothing() {
        let mut member = Member::new(1, &[1, 2]);
        assert!(member.driver.step(&[0xff; 40]).is_err());
        assert!(member.driver.step(&[]).is_err(), "an empty message is one that a member sends to itself only");
        assert_eq!(member.driver.role().leader, 0);
    }
}
