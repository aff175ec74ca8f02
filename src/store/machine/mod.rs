//! The replicated state machine: commands in, replies out, the same on every member.
//!
//! What the members agreed on is applied here in order, a batch at a time, in memory. The batch's changes wait in a queue
//! for the flusher, with the position in the log that they stand for; the log keeps them until they are durable. After each
//! batch a **State** is published: everything that readers, watchers and snapshots need, as it is after that batch, free to
//! copy and never changing.
//!
//! Invariants:
//! - Nothing here reads a clock, draws a number or asks the environment. Time arrives in commands; ids are chosen by who
//!   proposes.
//! - A refusal is a reply like any other, and changes nothing.
//! - What only one member has (a disk that fails, a checksum that does not match) is no reply: it ends the machine.

pub mod changes;
pub mod check;
pub mod command;
pub mod digest;
pub mod flush;
mod guard;
pub mod image;
pub mod permit;
pub mod records;
pub mod refusal;
mod rules;
pub mod scrub;
pub mod side;
pub mod state;
pub mod tally;
mod txn;

#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::Arc;

use crate::api::Message;
use crate::api::etcdserverpb::{
    AlarmResponse, CompactionResponse, DeleteRangeResponse, LeaseGrantResponse, LeaseRevokeResponse, PutResponse,
    RangeRequest, RangeResponse, ResponseHeader, TxnRequest, TxnResponse,
};
use crate::api::holdfast::v1::{Command, Requester};
use crate::base::error::Result;
use crate::base::revision::Rev;
use crate::snapshot::hash::StateDigest;
use crate::store::auth::rules::{Edit, Rules};
use crate::store::auth::sessions::Session;
use crate::store::backend::{Backend, SideChange, Space};
use crate::store::lease::lessor::Lessor;
use crate::store::machine::command::{Operation, Shape};
use crate::store::machine::digest::{Digest, Ledger, alarm_fact, lease_fact, rule_fact};
use crate::store::machine::flush::{Cut, Meta, Position};
use crate::store::machine::refusal::{Failure, Refusal};
use crate::store::machine::state::{Alarms, State};
use crate::store::machine::tally::Tally;
use crate::store::mvcc::index::Keys;
use crate::store::mvcc::recent::{Batch, Recent};
use crate::store::mvcc::view::Ground;
use crate::store::mvcc::write::Writer;

/// Keys that are looked at for what a compaction made superfluous, at once.
const PRUNE_KEYS: usize = 2000;

/// What a command answers. Headers hold the revision alone; the rest is the answering member's.
#[derive(Clone, Debug, PartialEq)]
pub enum Reply {
    /// To a put.
    Put(PutResponse),
    /// To a deletion.
    DeleteRange(DeleteRangeResponse),
    /// To a transaction.
    Txn(TxnResponse),
    /// To a compaction.
    Compaction(CompactionResponse),
    /// To the grant of a lease.
    LeaseGrant(LeaseGrantResponse),
    /// To the end of a lease.
    LeaseRevoke(LeaseRevokeResponse),
    /// To a question about alarms, or a change of one.
    Alarm(AlarmResponse),
    /// To a change of the rules of authentication.
    Rules(RulesReply),
    /// To a password that was right.
    Session(NewSession),
    /// To what members tell each other.
    Done,
}

impl Reply {
    /// Bytes that it takes as a message.
    pub fn bytes(&self) -> usize {
        match self {
            Reply::Put(reply) => reply.encoded_len(),
            Reply::DeleteRange(reply) => reply.encoded_len(),
            Reply::Txn(reply) => reply.encoded_len(),
            Reply::Compaction(reply) => reply.encoded_len(),
            Reply::LeaseGrant(reply) => reply.encoded_len(),
            Reply::LeaseRevoke(reply) => reply.encoded_len(),
            Reply::Alarm(reply) => reply.encoded_len(),
            Reply::Rules(_) | Reply::Session(_) | Reply::Done => 0,
        }
    }
}

/// A session that begins.
#[derive(Clone, Debug, PartialEq)]
pub struct NewSession {
    /// Where the store stands.
    pub header: Option<ResponseHeader>,
    /// What stands for it.
    pub token: String,
    /// Whose it is, and since when.
    pub session: Session,
}

/// What every change of the rules answers.
#[derive(Clone, Debug, PartialEq)]
pub struct RulesReply {
    /// Where the store stands.
    pub header: Option<ResponseHeader>,
}

/// What became of a command.
pub type Outcome = std::result::Result<Reply, Refusal>;

/// What a batch did.
#[derive(Debug)]
pub struct Applied {
    /// By the ids of the commands, in their order.
    pub replies: Vec<(u64, Outcome)>,
    /// What the flusher is to write; its changes of keys are what watchers want.
    pub cut: Cut,
    /// The store after it.
    pub state: Arc<State>,
    /// What it did to keys.
    pub tally: Tally,
}

/// The state machine of a member.
pub struct Machine {
    writer: Writer,
    lessor: Lessor,
    alarms: Alarms,
    rules: Rules,
    position: Position,
    /// Changes of side tables since the last batch ended.
    side: Vec<SideChange>,
    /// By how much they change the state digest.
    side_facts: StateDigest,
    ledger: Arc<Ledger>,
    /// The state's, after the last batch.
    digest: Digest,
    /// Since the last batch ended.
    tally: Tally,
}

impl Machine {
    /// The machine whose state is in `backend`.
    pub fn open(backend: &Arc<Backend>) -> Result<Self> {
        let meta = Meta::read(backend)?;
        let mut lessor = Lessor::load(backend.side(Space::Lease)?)?;
        let alarms = Alarms::load(backend.side(Space::Alarm)?)?;
        let [switch, users, roles] = [Space::Auth, Space::User, Space::Role].map(|space| backend.side(space));
        let rules = Rules::load(switch?, users?, roles?)?;
        let writer = Writer::open(Arc::clone(backend), meta.compact_revision, |index, listed| {
            let (key, lease) = (listed.brief.key, listed.brief.lease);
            // A lease may have ended since, in history that was not compacted.
            let is_held = !listed.tombstone && lease != 0 && lessor.get(lease).is_some();
            match is_held {
                true => lessor.attach(index.key(key).expect("the index has what is shown"), lease),
                false => lessor.detach(key),
            }
        })?;
        let all = || (writer.view(), lessor.clone(), alarms.clone(), rules.clone());
        let (ledger, digest) = Ledger::open(backend, writer.recent(), meta.digest, all);
        Ok(Machine {
            writer,
            lessor,
            alarms,
            rules,
            position: meta.position,
            side: vec![],
            side_facts: StateDigest::default(),
            ledger,
            digest,
            tally: Tally::default(),
        })
    }

    /// Up to where in the log everything is applied.
    pub fn position(&self) -> Position {
        self.position
    }

    /// The store as it is.
    pub fn state(&self) -> Arc<State> {
        Arc::new(State {
            view: self.writer.view(),
            lessor: self.lessor.clone(),
            alarms: self.alarms.clone(),
            rules: self.rules.clone(),
            position: self.position,
            digest: self.digest.clone(),
        })
    }

    /// The batches that wait for a flush.
    pub fn recent(&self) -> &Arc<Recent> {
        self.writer.recent()
    }

    /// Applies commands that were agreed on, up to `position`. After each of them `done` is told what it was and what
    /// came of it. An error is this member's own, and its last.
    pub fn apply(
        &mut self,
        position: Position,
        commands: Vec<Command>,
        done: &mut dyn FnMut(&Shape, &Outcome),
    ) -> Result<Applied> {
        assert!(position > self.position, "the log is applied once and in order");
        let mut replies = Vec::with_capacity(commands.len());
        for command in commands {
            let operation = command.operation.expect("commands without an operation are not decoded");
            let shape = Shape::of(&operation);
            let outcome = match self.apply_one(operation, command.own, command.requester.as_ref()) {
                Ok(reply) => Ok(reply),
                Err(Failure::Refused(refusal)) => Err(refusal),
                Err(Failure::Broken(error)) => return Err(error),
            };
            self.tally.end();
            done(&shape, &outcome);
            replies.push((command.id, outcome));
        }
        self.position = position;
        let batch = self.writer.seal();
        let (side, side_facts) = (std::mem::take(&mut self.side), std::mem::take(&mut self.side_facts));
        if batch.is_some() || side_facts != StateDigest::default() {
            self.digest = self.ledger.change(batch.as_ref(), side_facts);
        }
        let tally = std::mem::take(&mut self.tally);
        Ok(Applied { replies, cut: self.cut(batch, side, vec![]), state: self.state(), tally })
    }

    /// Whether compactions have left something in the index.
    pub fn is_pruning(&self) -> bool {
        self.writer.is_pruning()
    }

    /// Takes a slice of what compactions made superfluous out of the index; none when there is nothing to do, or somebody
    /// still looks at some of it.
    pub fn prune(&mut self) -> Option<Cut> {
        let gone = self.writer.prune(PRUNE_KEYS)?;
        Some(self.cut(None, vec![], gone))
    }

    fn cut(&self, batch: Option<Arc<Batch>>, side: Vec<SideChange>, gone: Vec<Rev>) -> Cut {
        Cut { batch, side, gone, position: self.position, digest: self.digest.clone() }
    }

    fn apply_one(&mut self, operation: Operation, own: bool, requester: Option<&Requester>) -> Result<Reply, Failure> {
        guard::admit(&self.alarms, &operation)?;
        if !own {
            let (user, revision) = requester.map_or(("", 0), |requester| (&requester.user, requester.revision));
            let subject = self.rules.subject(user, revision);
            permit::operation(&subject, &self.lessor, &operation).map_err(Refusal::from)?;
        }
        match operation {
            Operation::Put(request) => {
                let reply = self.put(&request)?;
                self.writer.end();
                Ok(Reply::Put(reply))
            }
            Operation::DeleteRange(request) => {
                let reply = self.delete_range(&request)?;
                let revision = self.writer.end();
                Ok(Reply::DeleteRange(DeleteRangeResponse { header: header(revision), ..reply }))
            }
            Operation::Txn(request) => {
                let reply = self.txn(&request)?;
                let revision = self.writer.end();
                Ok(Reply::Txn(TxnResponse { header: header(revision), ..reply }))
            }
            Operation::Compaction(request) => {
                self.writer.compact(request.revision)?;
                self.side.push(Meta::compacted(request.revision));
                // etcd learns its revision by a read.
                self.tally.range();
                Ok(Reply::Compaction(CompactionResponse { header: self.header() }))
            }
            Operation::LeaseGrant(request) => {
                if self.lessor.get(request.id).is_some() {
                    return Err(Refusal::LeaseExists.into());
                }
                self.side.push(self.lessor.grant(request.id, request.ttl));
                self.side_facts.add(&lease_fact(request.id, request.ttl));
                let (id, ttl) = (request.id, request.ttl);
                Ok(Reply::LeaseGrant(LeaseGrantResponse { header: self.header(), id, ttl, error: String::new() }))
            }
            Operation::LeaseRevoke(request) => self.revoke(request.id),
            Operation::LeaseCheckpoints(request) => {
                for checkpoint in request.checkpoints {
                    self.side.extend(self.lessor.checkpoint(checkpoint.id, checkpoint.remaining));
                }
                Ok(Reply::Done)
            }
            Operation::Alarm(request) => {
                let (alarms, change) = self.alarms.apply(&request);
                match &change {
                    Some(SideChange { key, value: Some(_), .. }) => self.side_facts.add(&alarm_fact(key)),
                    Some(SideChange { key, value: None, .. }) => self.side_facts.remove(&alarm_fact(key)),
                    None => {}
                }
                self.side.extend(change);
                Ok(Reply::Alarm(AlarmResponse { header: self.header(), alarms }))
            }
            // Of one member alone: there is nobody to tell yet.
            Operation::Publish(_) | Operation::ClusterVersion(_) => Ok(Reply::Done),
            Operation::Authenticate(request) => {
                let since = rules::authenticate(&self.rules, &request).map_err(Refusal::from)?;
                let session = Session { user: request.user.into(), since };
                Ok(Reply::Session(NewSession { header: self.header(), token: request.token, session }))
            }
            operation => self.rule(&operation),
        }
    }

    /// What is about users and roles.
    fn rule(&mut self, operation: &Operation) -> Result<Reply, Failure> {
        let edits = rules::change(&mut self.rules, operation).map_err(Refusal::from)?;
        for Edit { change, before } in edits {
            for (stored, is_new) in [(before.as_ref(), false), (change.value.as_ref(), true)] {
                match stored.and_then(|stored| rule_fact(change.space, stored)) {
                    Some(fact) if is_new => self.side_facts.add(&fact),
                    Some(fact) => self.side_facts.remove(&fact),
                    None => {}
                }
            }
            self.side.push(change);
        }
        Ok(Reply::Rules(RulesReply { header: self.header() }))
    }

    fn revoke(&mut self, id: i64) -> Result<Reply, Failure> {
        let lease = self.lessor.get(id).ok_or(Refusal::LeaseNotFound)?;
        let (keys, ttl_s) = (lease.keys.clone(), lease.ttl_s);
        self.side.push(self.lessor.revoke(id));
        self.side_facts.remove(&lease_fact(id, ttl_s));
        for key in &keys {
            self.tally.delete();
            self.writer.delete(Keys::of(key, &[]));
        }
        self.writer.end();
        Ok(Reply::LeaseRevoke(LeaseRevokeResponse { header: self.header() }))
    }

    fn header(&self) -> Option<ResponseHeader> {
        header(self.writer.revision())
    }

    fn ground(&self) -> Ground<'_> {
        self.writer.ground()
    }
}

impl fmt::Debug for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Machine").field("position", &self.position).finish_non_exhaustive()
    }
}

/// A header that holds a revision and nothing else.
fn header(revision: i64) -> Option<ResponseHeader> {
    Some(ResponseHeader { revision, ..ResponseHeader::default() })
}

/// Answers a range from a state.
pub fn range(state: &State, request: &RangeRequest) -> Result<RangeResponse, Failure> {
    txn::range(&state.view.ground(), request)
}

/// Answers a transaction that only reads from a state; what it read is counted whatever comes of it.
pub fn read(state: &State, request: &TxnRequest, tally: &mut Tally) -> Result<TxnResponse, Failure> {
    let outcome = txn::read(state, request, tally);
    tally.end();
    outcome
}
