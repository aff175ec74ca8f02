//! A member as its server sees it.

use std::fmt;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::{oneshot, watch};

use crate::api::holdfast::v1::Requester;
use crate::base::clock::Stopwatch;
use crate::base::error::{Error, Kind, Result};
use crate::base::slow::Slow;
use crate::base::stop::Stop;
use crate::base::telemetry::Counters;
use crate::store::auth::sessions::{Session, Sessions};
use crate::store::backend::Backend;
use crate::store::lease::clock::Millis;
use crate::store::machine::Reply;
use crate::store::machine::command::{self, Operation};
use crate::store::machine::refusal::Refusal;
use crate::store::machine::scrub::Scrubbed;
use crate::store::machine::state::State;
use crate::store::machine::tally::Tally;
use crate::store::mvcc::hub::{self, Hub};
use crate::store::mvcc::recent::Batch;
use crate::store::node::Member;
use crate::store::node::core::Event;
use crate::store::node::flusher::Waiting;
use crate::store::node::notes;
use crate::store::node::scrubber::scrub_state;
use crate::store::options::Tuning;

/// Why a request was not carried out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// For a reason that every member has.
    Refused(Refusal),
    /// More wait already than may wait.
    TooManyRequests,
    /// It is larger than requests may be.
    TooLarge,
    /// It was not agreed on in time. It may still be.
    TimedOut,
    /// There is no leader to agree with.
    NoLeader,
    /// The member is stopping, or stopped because its own state cannot be trusted.
    Stopped,
}

/// How a member stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// Who leads; 0 for nobody.
    pub leader: u64,
    /// Raft's term.
    pub term: u64,
    /// The last entry that was agreed on.
    pub committed: u64,
    /// The last entry that was applied.
    pub applied: u64,
    /// Bytes of the state file, with what is to be written into it: what the quota is held against.
    pub file_bytes: u64,
    /// Bytes of it that hold something, or will.
    pub used_bytes: u64,
}

/// A running member. Copies are the same member, which ends with the last of them if nobody has stopped it.
#[derive(Clone)]
pub struct Handle {
    pub(super) shared: Arc<Shared>,
    pub(super) events: UnboundedSender<Event>,
}

/// What core and handles share.
pub(super) struct Shared {
    pub(super) member: Member,
    pub(super) tuning: Tuning,
    pub(super) backend: Arc<Backend>,
    state: RwLock<Arc<State>>,
    hub: Arc<Hub>,
    published: watch::Sender<i64>,
    applied: watch::Sender<u64>,
    pub(super) leader: AtomicU64,
    pub(super) term: AtomicU64,
    pub(super) committed: AtomicU64,
    waiting: AtomicUsize,
    waiting_bytes: AtomicUsize,
    /// Changes that the state's file does not hold yet.
    pub(super) waiting_changes: Arc<Waiting>,
    pub(super) counters: Arc<Counters>,
    /// What takes too long to be applied, or read.
    pub(super) slow: Slow,
    pub(super) end: Arc<End>,
    started: Stopwatch,
    sessions: Mutex<Sessions>,
}

/// How a member ends; apart from it, because this is what is left.
#[derive(Default)]
pub(super) struct End {
    failure: Mutex<Option<Error>>,
    ended: watch::Sender<bool>,
}

impl End {
    /// The member has ended, for a reason or because it was told to.
    pub(super) fn come(&self, failure: Option<Error>) {
        *self.failure.lock().unwrap_or_else(PoisonError::into_inner) = failure;
        self.ended.send_replace(true);
    }

    /// Returns when it has.
    pub(super) async fn wait(&self) {
        // The sender lives as long as this.
        let _ = self.ended.subscribe().wait_for(|ended| *ended).await;
    }
}

impl Shared {
    pub(super) fn new(member: Member, tuning: Tuning, backend: Arc<Backend>, state: Arc<State>) -> Self {
        let revision = state.view.revision();
        let (published, applied) = (watch::Sender::new(revision), watch::Sender::new(state.position.index));
        let limits = hub::Limits { bytes_max: tuning.hub_bytes_max, batches_max: tuning.hub_batches_max };
        let sessions = Mutex::new(Sessions::new(tuning.session_ttl));
        let slow = Slow::over(tuning.slow_apply);
        Shared {
            slow,
            started: Stopwatch::start(),
            sessions,
            member,
            tuning,
            backend,
            state: RwLock::new(state),
            hub: Arc::new(Hub::new(revision, limits)),
            published,
            applied,
            leader: AtomicU64::default(),
            term: AtomicU64::default(),
            committed: AtomicU64::default(),
            waiting: AtomicUsize::default(),
            waiting_bytes: AtomicUsize::default(),
            waiting_changes: Arc::default(),
            counters: Arc::default(),
            end: Arc::default(),
        }
    }

    /// Bytes of the state file, with what is to be written into it.
    pub(super) fn taken_bytes(&self) -> u64 {
        self.backend.size_bytes() + self.waiting_changes.size().rows
    }

    pub(super) fn state(&self) -> Arc<State> {
        Arc::clone(&self.state.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Word of each entry that is applied.
    pub(super) fn applied(&self) -> watch::Receiver<u64> {
        self.applied.subscribe()
    }

    fn sessions(&self) -> MutexGuard<'_, Sessions> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From here on the token stands for its user.
    pub(super) fn begin_session(&self, token: String, session: Session) {
        self.sessions().begin(token, session, self.started.elapsed());
    }

    /// Shows a new state to everybody, then the batch that made it to those who watch.
    pub(super) fn publish(&self, state: Arc<State>, batch: Option<&Arc<Batch>>) {
        let (revision, index) = (state.view.revision(), state.position.index);
        *self.state.write().unwrap_or_else(PoisonError::into_inner) = state;
        if let Some(batch) = batch {
            self.hub.push(Arc::clone(batch));
            self.published.send_replace(revision);
        }
        self.applied.send_replace(index);
    }
}

/// A place among those who wait; given back when it is dropped.
pub(super) struct Ticket {
    shared: Arc<Shared>,
    bytes: usize,
    drawn: Stopwatch,
}

impl Ticket {
    fn draw(shared: &Arc<Shared>, bytes: usize) -> Option<Ticket> {
        let ticket = Ticket { shared: Arc::clone(shared), bytes, drawn: Stopwatch::start() };
        let before = shared.waiting.fetch_add(1, Ordering::Relaxed);
        let bytes_before = shared.waiting_bytes.fetch_add(bytes, Ordering::Relaxed);
        let fits = before < shared.tuning.queue_max && bytes_before + bytes <= shared.tuning.queue_bytes_max;
        fits.then_some(ticket)
    }

    /// The time since it was drawn.
    pub(super) fn age(&self) -> Duration {
        self.drawn.elapsed()
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.shared.waiting.fetch_sub(1, Ordering::Relaxed);
        self.shared.waiting_bytes.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

impl Handle {
    /// Who it is.
    pub fn member(&self) -> &Member {
        &self.shared.member
    }

    /// What it was told.
    pub fn tuning(&self) -> &Tuning {
        &self.shared.tuning
    }

    /// What it counts of itself.
    pub fn counters(&self) -> &Arc<Counters> {
        &self.shared.counters
    }

    /// Notes what a read did and how long it took; `told` says what was asked and what was answered, if it was too long.
    pub fn note(&self, prefix: &str, tally: &Tally, took: Duration, told: impl FnOnce() -> (String, String)) {
        let shared = &self.shared;
        notes::tally(&shared.counters, tally);
        if shared.slow.is(took) {
            let (request, response) = told();
            notes::too_long(&shared.counters, &shared.slow, took, prefix, &request, &response, None);
        }
    }

    /// Transactions that are open and read the state file.
    pub fn readers(&self) -> usize {
        self.shared.backend.readers()
    }

    /// Requests that wait for their answer.
    pub fn waiting(&self) -> usize {
        self.shared.waiting.load(Ordering::Relaxed)
    }

    /// How it stands.
    pub fn status(&self) -> Status {
        let shared = &self.shared;
        Status {
            leader: shared.leader.load(Ordering::Relaxed),
            term: shared.term.load(Ordering::Relaxed),
            committed: shared.committed.load(Ordering::Relaxed),
            applied: self.state().position.index,
            file_bytes: shared.taken_bytes(),
            used_bytes: shared.backend.used_bytes() + shared.waiting_changes.size().revisions,
        }
    }

    /// Raft's term, for the header of every reply.
    pub fn term(&self) -> u64 {
        self.shared.term.load(Ordering::Relaxed)
    }

    /// What is stored here cannot be read: this member must not go on, because what it answers could be wrong.
    pub fn poison(&self, error: Error) {
        // One that has ended goes on no more.
        let _ = self.events.send(Event::Failed(error));
    }

    /// The state as it is here, which may be behind what others know.
    pub fn state(&self) -> Arc<State> {
        self.shared.state()
    }

    /// The state with everything in it that was acknowledged before this call. Of one voter that is what it published: a
    /// reply is sent later.
    pub async fn linearized(&self) -> Result<Arc<State>, Fault> {
        if self.shared.leader.load(Ordering::Relaxed) != self.shared.member.member_id {
            self.shared.counters.read_indexes_failed.increment();
            return Err(Fault::NoLeader);
        }
        Ok(self.state())
    }

    /// The newest batches, for those who watch.
    pub fn hub(&self) -> &Arc<Hub> {
        &self.shared.hub
    }

    /// The revision that was published last, and word of each that follows: state and hub have it.
    pub fn published(&self) -> watch::Receiver<i64> {
        self.shared.published.subscribe()
    }

    /// The entry that was applied last, and word of each that follows: the state has it, whatever it changed.
    pub fn applied(&self) -> watch::Receiver<u64> {
        self.shared.applied()
    }

    /// Has an operation agreed on and applied that nobody who is known asks for; what came of it. Requests were checked
    /// before (`machine::check`).
    pub async fn propose(&self, operation: Operation) -> Result<Reply, Fault> {
        self.propose_for(None, operation).await
    }

    /// The same for somebody, whose permission is looked at when it is applied.
    pub async fn propose_for(&self, requester: Option<Requester>, operation: Operation) -> Result<Reply, Fault> {
        let bytes = command::bytes(&operation);
        if bytes > self.shared.tuning.request_bytes_max {
            return Err(Fault::TooLarge);
        }
        let ticket = Ticket::draw(&self.shared, bytes).ok_or(Fault::TooManyRequests)?;
        let agreed = self.ask(|reply| Event::Propose { operation, requester, bytes, reply, ticket }).await;
        agreed.inspect_err(|_| self.shared.counters.proposals_failed.increment())?
    }

    /// Has an operation agreed on that this member itself wants, whoever asked for what led to it. Nobody waits for it.
    pub fn want(&self, operation: Operation) {
        // A member that has ended wants nothing more.
        let _ = self.events.send(Event::Own(operation));
    }

    /// Reads everything that is stored, as fast as it can be read; damage is an error. Ends early when `stop` says so.
    pub async fn scrub(&self, stop: &Stop) -> Result<Scrubbed> {
        scrub_state(self.state(), None, stop).await
    }

    /// The session that a token stands for, which is used by this; none when the rules of the state know it no longer.
    pub fn session(&self, token: &str) -> Option<Session> {
        let session = self.shared.sessions().of(token, self.shared.started.elapsed())?;
        self.state().rules.honours(&session).then_some(session)
    }

    /// Starts a lease's time again; how many seconds it has now, 0 when there is no such lease.
    pub async fn keep_alive(&self, id: i64) -> Result<i64, Fault> {
        self.ask(|reply| Event::KeepAlive { id, since: Stopwatch::start(), reply }).await
    }

    /// The leases, the one that ends first at the front, and the milliseconds left of each.
    pub async fn leases(&self) -> Result<Vec<(i64, Millis)>, Fault> {
        self.ask(|reply| Event::Leases { reply }).await
    }

    /// Milliseconds that are left of a lease; none when there is no such lease.
    pub async fn time_left(&self, id: i64) -> Result<Option<Millis>, Fault> {
        self.ask(|reply| Event::TimeLeft { id, reply }).await
    }

    /// Returns when nothing from before the last compaction is stored any more.
    pub async fn removed(&self) -> Result<(), Fault> {
        // As long as somebody looks at what is to be removed this waits, and not for the limit of a request.
        let (reply, answer) = oneshot::channel();
        self.events.send(Event::Removed { reply }).map_err(|_| Fault::Stopped)?;
        answer.await.map_err(|_| Fault::Stopped)
    }

    /// Writes the state file anew, without the room that deletions left in it.
    pub async fn defragment(&self) -> Result<()> {
        let stopped = || Error::new(Kind::Failed, "the member is stopping").hint("start it again");
        let (reply, answer) = oneshot::channel();
        self.events.send(Event::Defragment { reply }).map_err(|_| stopped())?;
        answer.await.map_err(|_| stopped())?
    }

    /// Stops the member: what was acknowledged is durable already, and is in the state's file when this returns, unless that
    /// has no room on its disk.
    pub async fn stop(&self) {
        // A member that has ended hears nothing.
        let _ = self.events.send(Event::Stop);
        self.stopped().await;
    }

    /// Returns when the member has ended, for whatever reason.
    pub async fn stopped(&self) {
        self.shared.end.wait().await;
    }

    /// Returns when the member has ended, with the reason if it was its own.
    pub async fn ended(&self) -> Result<()> {
        self.stopped().await;
        self.shared.end.failure.lock().unwrap_or_else(PoisonError::into_inner).take().map_or(Ok(()), Err)
    }

    async fn ask<T>(&self, event: impl FnOnce(oneshot::Sender<T>) -> Event) -> Result<T, Fault> {
        let (reply, answer) = oneshot::channel();
        self.events.send(event(reply)).map_err(|_| Fault::Stopped)?;
        match tokio::time::timeout(self.shared.tuning.request_timeout(), answer).await {
            Ok(answer) => answer.map_err(|_| Fault::Stopped),
            Err(_) => Err(Fault::TimedOut),
        }
    }
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handle").field("member", &self.shared.member).finish_non_exhaustive()
    }
}
