//! The task that has machine, driver and log to itself.

use std::collections::{HashMap, VecDeque};
use std::future::poll_fn;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::Duration;

use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::mpsc::error::TryRecvError;
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::api::etcdserverpb::alarm_request::AlarmAction;
use crate::api::etcdserverpb::{AlarmRequest, AlarmType, CompactionRequest};
use crate::api::holdfast::v1::{Command, Requester};
use crate::base::clock::{Clock, Stopwatch};
use crate::base::error::{Error, Kind, Result};
use crate::base::file::free_bytes;
use crate::store::consensus::driver::{Append, Driver};
use crate::store::consensus::log::{Entry, EntryKind, HardState, Keep, Log, Place};
use crate::store::lease::clock::Millis;
use crate::store::machine::check::cost;
use crate::store::machine::command::{self, Operation};
use crate::store::machine::flush::Position;
use crate::store::machine::refusal::Refusal;
use crate::store::machine::state::State;
use crate::store::machine::{Machine, Reply};
use crate::store::node::compactor::{Compactor, Removal};
use crate::store::node::flusher::{Behind, Flushed, room_for};
use crate::store::node::handle::{Fault, Shared, Ticket};
use crate::store::node::leases::Leases;
use crate::store::node::notes;
use crate::store::node::relief::Relief;

/// Where an answer to a command goes.
pub(super) type Waiter = oneshot::Sender<std::result::Result<Reply, Fault>>;

/// Everything that can happen.
pub(super) enum Event {
    /// A client wants something agreed on.
    Propose { operation: Operation, requester: Option<Requester>, bytes: usize, reply: Waiter, ticket: Ticket },
    /// This member itself wants something agreed on.
    Own(Operation),
    /// A client keeps a lease.
    KeepAlive { id: i64, since: Stopwatch, reply: oneshot::Sender<i64> },
    /// Somebody asks for all leases.
    Leases { reply: oneshot::Sender<Vec<(i64, Millis)>> },
    /// Somebody asks what is left of a lease.
    TimeLeft { id: i64, reply: oneshot::Sender<Option<Millis>> },
    /// Somebody waits until what was compacted is gone.
    Removed { reply: oneshot::Sender<()> },
    /// The state's file is to be written anew.
    Defragment { reply: oneshot::Sender<Result<()>> },
    /// The state's file has more.
    Flushed(Flushed),
    /// The disk, or what is on it, failed.
    Failed(Error),
    /// The member is to end.
    Stop,
}

/// A wait for the disk that is longer is worth another worker's waking.
const SLOW_APPEND: Duration = Duration::from_millis(1);
/// Events that are looked at before anything else is done: more than wait in practice, for what waited must be seen before
/// it is decided that a lease has ended.
const EVENTS_MAX: usize = 1 << 16;
/// Between two looks at the room that is left on the disk.
const DISK_INTERVAL: Duration = Duration::from_secs(1);
/// Between two slices of what a compaction takes out of the index.
const PRUNING_PAUSE: Duration = Duration::from_millis(1);

/// Goes to the end of the queue, which wakes another worker, if all are asleep: it will look after the runtime (`relief`).
/// tokio's `yield_now` wakes nobody, and lets nobody else take what waits: a connection that always has more to send would
/// hold the core up for a fifth of a second.
async fn next_in_line() {
    let mut is_first = true;
    poll_fn(|context| {
        if std::mem::take(&mut is_first) {
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        Poll::Ready(())
    })
    .await;
}

struct Waiting {
    reply: Waiter,
    ticket: Ticket,
}

/// What a core begins with.
pub(super) struct Parts {
    pub(super) shared: Arc<Shared>,
    pub(super) machine: Machine,
    pub(super) driver: Driver,
    pub(super) log: Log,
    pub(super) behind: Behind,
    pub(super) relief: Arc<Relief>,
    /// Where ids of commands begin: a new start must not be answered for an old one.
    pub(super) first_id: u64,
    /// Told once the member leads.
    pub(super) ready: oneshot::Sender<()>,
}

/// Machine, driver, log, and everybody who waits for them.
pub(super) struct Core {
    shared: Arc<Shared>,
    machine: Machine,
    driver: Driver,
    log: Log,
    behind: Behind,
    relief: Arc<Relief>,
    /// The last append took long.
    disk_is_slow: bool,
    started: Stopwatch,
    next_id: u64,
    ready: Option<oneshot::Sender<()>>,
    /// Commands to be proposed.
    gathered: VecDeque<(Command, usize)>,
    waiting: HashMap<u64, Waiting>,
    /// Commands that were proposed here, and where: they are not read again when they are agreed on.
    proposed: VecDeque<(Place, Vec<Command>)>,
    /// Whether this member leads, and has applied everything from before it did.
    leads: bool,
    /// A hard state that nobody waits for.
    hard_state: Option<HardState>,
    leases: Leases,
    compactor: Compactor,
    /// What the last compactions removed, on its way out.
    removal: Removal,
    /// Who waits for removals, and for which cut.
    removing: Vec<(u64, oneshot::Sender<()>)>,
    /// Who waits for removals that are not in a cut yet.
    pruning: Vec<oneshot::Sender<()>>,
    /// There is more to take out of the index.
    pruning_goes_on: bool,
    next_tick: Duration,
    next_disk: Duration,
    /// An alarm is on its way.
    alarming: bool,
    /// What takes room is refused without being agreed on: the NOSPACE alarm is active.
    is_out_of_space: bool,
    /// The log has no room for what has gathered, and none could be made.
    is_stuck: bool,
}

impl Core {
    pub(super) fn new(parts: Parts) -> Self {
        let Parts { shared, machine, driver, log, behind, relief, first_id, ready } = parts;
        let started = Stopwatch::start();
        let compactor = Compactor::new(shared.tuning.auto_compaction, 0);
        let leases = Leases::new(&shared.tuning);
        let is_out_of_space = is_out_of_space(&shared.state());
        Core {
            shared,
            machine,
            driver,
            log,
            behind,
            relief,
            disk_is_slow: false,
            started,
            next_id: first_id,
            ready: Some(ready),
            gathered: VecDeque::new(),
            waiting: HashMap::new(),
            proposed: VecDeque::new(),
            leads: false,
            hard_state: None,
            leases,
            compactor,
            removal: Removal::default(),
            removing: vec![],
            pruning: vec![],
            pruning_goes_on: false,
            next_tick: Duration::ZERO,
            next_disk: Duration::ZERO,
            alarming: false,
            is_out_of_space,
            is_stuck: false,
        }
    }

    /// Runs until the member is told to end, or must.
    pub(super) async fn run(&mut self, events: &mut UnboundedReceiver<Event>) -> Result<()> {
        self.driver.campaign()?;
        loop {
            self.drive()?;
            self.beat()?;
            if self.disk_is_slow && self.may_propose() {
                next_in_line().await;
                if !self.listen(events)? {
                    return Ok(());
                }
            }
            if self.propose()? {
                self.drive()?;
            }
            self.behind.look(self.started.elapsed());
            if !self.hear(events).await? {
                return Ok(());
            }
        }
    }

    /// Waits for events, as long as there is nothing else to do; false when the member is to end.
    async fn hear(&mut self, events: &mut UnboundedReceiver<Event>) -> Result<bool> {
        if self.may_propose() || !events.is_empty() {
            // What the last turn answered goes out first: what this worker is to do next nobody else may take.
            next_in_line().await;
        } else {
            // Without an event it is time for something else.
            let Ok(event) = timeout(self.patience(), events.recv()).await else { return Ok(true) };
            let Some(event) = event else { return Ok(false) };
            if !self.on(event)? {
                return Ok(false);
            }
        }
        self.listen(events)
    }

    /// Takes the events that are there; false when the member is to end.
    fn listen(&mut self, events: &mut UnboundedReceiver<Event>) -> Result<bool> {
        for _ in 0..EVENTS_MAX {
            match events.try_recv() {
                Ok(event) => {
                    if !self.on(event)? {
                        return Ok(false);
                    }
                }
                Err(TryRecvError::Empty) => return Ok(true),
                Err(TryRecvError::Disconnected) => return Ok(false),
            }
        }
        Ok(true)
    }

    /// How long there is nothing to do but wait.
    fn patience(&self) -> Duration {
        if self.pruning_goes_on {
            return PRUNING_PAUSE;
        }
        let next = self.behind.due().map_or(self.next_tick, |due| due.min(self.next_tick));
        next.saturating_sub(self.started.elapsed())
    }

    fn on(&mut self, event: Event) -> Result<bool> {
        match event {
            Event::Propose { operation, reply, .. } if self.is_out_of_space && cost(&operation) > 0 => {
                // It would be refused in any case: the log's room is for what helps. Whoever asked may have gone.
                let _ = reply.send(Err(Fault::Refused(Refusal::NoSpace)));
            }
            Event::Propose { operation, requester, bytes, reply, ticket } => {
                let watched = self.watch_quota(&operation);
                let id = self.gather_for(operation, requester, bytes);
                self.waiting.insert(id, Waiting { reply, ticket });
                // The request that crosses the quota is still carried out.
                if let Some(alarm) = watched {
                    self.gather(alarm, 0);
                }
            }
            Event::Own(operation) => self.gather(operation, 0),
            Event::KeepAlive { id, since, reply } => {
                // It came in time, even if the disk kept this task waiting meanwhile.
                let came = self.now().saturating_sub(since.elapsed().as_millis().try_into().unwrap_or(Millis::MAX));
                self.shared.counters.leases_renewed.increment();
                let (state, next) = (self.shared.state(), self.next_id);
                if let Some(operation) = self.leases.keep_alive(&state.lessor, id, came, next, reply) {
                    self.gather(operation, 0);
                }
            }
            // Whoever asked may have gone.
            Event::Leases { reply } => drop(reply.send(self.leases.all(self.now()))),
            Event::TimeLeft { id, reply } => drop(reply.send(self.leases.left(id, self.now()))),
            Event::Removed { reply } => {
                self.pruning.push(reply);
                self.settle_removals();
            }
            // It would wait for what waits for room.
            Event::Defragment { reply } if self.lacks_room() => drop(reply.send(Err(no_room()))),
            Event::Defragment { reply } => self.behind.defragment(reply),
            Event::Flushed(flushed) => self.flushed(flushed)?,
            Event::Failed(error) => return Err(error),
            Event::Stop => return Ok(false),
        }
        Ok(true)
    }

    /// Whether a flush waits for room on the disk, or would.
    fn lacks_room(&self) -> bool {
        let needed = room_for(self.behind.waiting());
        self.shared.backend.lacks_room() || free_bytes(self.folder()).is_ok_and(|free| free < needed)
    }

    /// Where the state's file is.
    fn folder(&self) -> &Path {
        let path = self.shared.backend.path();
        path.parent().unwrap_or(path)
    }

    fn now(&self) -> Millis {
        Millis::try_from(self.started.elapsed().as_millis()).unwrap_or(Millis::MAX)
    }

    /// Puts a command of this member's own among those to be proposed.
    fn gather(&mut self, operation: Operation, bytes: usize) {
        let command = self.command(operation);
        self.gathered.push_back((Command { own: true, ..command }, bytes));
    }

    /// Puts somebody's command among those to be proposed; its id.
    fn gather_for(&mut self, operation: Operation, requester: Option<Requester>, bytes: usize) -> u64 {
        let command = self.command(operation);
        let id = command.id;
        self.gathered.push_back((Command { requester, ..command }, bytes));
        id
    }

    fn command(&mut self, operation: Operation) -> Command {
        let id = self.next_id;
        self.next_id = self.next_id.wrapping_add(1);
        let time_ms = Clock::System.now().timestamp_millis();
        Command { id, time_ms, operation: Some(operation), ..Command::default() }
    }

    fn may_propose(&self) -> bool {
        self.leads && !self.gathered.is_empty() && !self.is_stuck && !self.behind.is_full()
    }

    /// Proposes what has gathered as one entry, unless the state's file is behind; whether it did. While one is being written
    /// the next one gathers.
    fn propose(&mut self) -> Result<bool> {
        if !self.may_propose() {
            return Ok(false);
        }
        let (mut commands, mut bytes) = (vec![], 0);
        while let Some((command, more)) = self.gathered.pop_front() {
            if !commands.is_empty() && bytes + more > self.shared.tuning.entry_bytes_max {
                self.gathered.push_front((command, more));
                break;
            }
            bytes += more;
            commands.push(command);
        }
        let (mut entry, mut commands) = command::encode(commands);
        let (log, length) = (&mut self.log, entry.len());
        if !log.has_room(length, Keep::ForRelief) && !self.relief.during(|| log.make_room(length))? {
            let Some(kept) = self.make_do(commands) else { return Ok(false) };
            (entry, commands) = kept;
        }
        // When nobody leads here any more, whoever waits is answered when their time is over.
        let place = self.driver.propose(entry);
        self.proposed.extend(place.map(|place| (place, commands)));
        Ok(place.is_some())
    }

    /// Without room for another segment: what takes room is refused, and what may help goes into what is kept for that. None
    /// when that is used up too: then it waits.
    fn make_do(&mut self, commands: Vec<Command>) -> Option<(Vec<u8>, Vec<Command>)> {
        // The alarm is raised at the next beat.
        self.next_disk = Duration::ZERO;
        let takes_room = |command: &Command| command.operation.as_ref().is_some_and(|operation| cost(operation) > 0);
        let (refused, kept): (Vec<_>, Vec<_>) = commands.into_iter().partition(takes_room);
        for command in refused {
            if let Some(Waiting { reply, ticket }) = self.waiting.remove(&command.id) {
                drop(ticket);
                // Whoever asked may have gone.
                let _ = reply.send(Err(Fault::Refused(Refusal::NoSpace)));
            }
        }
        if kept.is_empty() {
            return None;
        }
        let (entry, kept) = command::encode(kept);
        if self.log.has_room(entry.len(), Keep::ForRaft) {
            return Some((entry, kept));
        }
        self.is_stuck = true;
        for command in kept.into_iter().rev() {
            let bytes = command.operation.as_ref().map_or(0, command::bytes);
            self.gathered.push_front((command, bytes));
        }
        None
    }

    /// The commands in an entry: as they were proposed here, or from its bytes.
    fn commands(&mut self, entry: Entry) -> Result<Vec<Command>> {
        while self.proposed.front().is_some_and(|(place, _)| place.index < entry.place.index) {
            self.proposed.pop_front();
        }
        // Raft: the same index and term are the same entry.
        match self.proposed.pop_front_if(|(place, _)| *place == entry.place) {
            Some((_, commands)) => Ok(commands),
            None => command::decode(entry.data),
        }
    }

    /// Does what raft wants done.
    fn drive(&mut self) -> Result<()> {
        while let Some(work) = self.driver.work() {
            self.shared.committed.store(self.driver.committed(), Ordering::Relaxed);
            self.append(&work.append)?;
            self.apply(work.committed)?;
        }
        let role = self.driver.role();
        self.shared.term.store(role.term, Ordering::Relaxed);
        // A leader that has not applied what the one before it had agreed on does not answer yet.
        let leads = role.leads && self.machine.position().term == role.term;
        self.shared.leader.store(
            if leads || role.leader != self.shared.member.member_id { role.leader } else { 0 },
            Ordering::Relaxed,
        );
        if leads != self.leads {
            self.leads = leads;
            self.shared.counters.leader_changes.add(u64::from(leads));
            self.leases.lead(leads, &self.shared.state().lessor, self.now());
            if let Some(ready) = self.ready.take_if(|_| leads) {
                // Whoever started the member may have given up.
                let _ = ready.send(());
            }
        }
        Ok(())
    }

    /// Makes what raft wants durable. A change that nobody waits for is written with the next one.
    fn append(&mut self, append: &Append) -> Result<()> {
        let hard_state = append.hard_state.or(self.hard_state.take());
        if !append.urgent {
            self.hard_state = hard_state;
            return Ok(());
        }
        let (watch, counters) = (Stopwatch::start(), &self.shared.counters);
        let written = self.relief.during(|| self.log.append(&append.entries, hard_state))?;
        let took = watch.elapsed();
        counters.log_write.observe(written);
        self.disk_is_slow = took > SLOW_APPEND;
        counters.log_sync.observe(took);
        notes::synced(took);
        counters.log_bytes.add(append.entries.iter().map(|entry| entry.data.len() as u64).sum());
        self.driver.persisted(append.number);
        Ok(())
    }

    /// Applies entries that are agreed on, as one batch, and tells everybody.
    fn apply(&mut self, entries: Vec<Entry>) -> Result<()> {
        let Some(last) = entries.last() else { return Ok(()) };
        let position = Position { index: last.place.index, term: last.place.term };
        let mut commands = vec![];
        for entry in entries {
            if entry.kind == EntryKind::Commands {
                commands.append(&mut self.commands(entry)?);
            }
        }
        let (shared, mut began) = (Arc::clone(&self.shared), Stopwatch::start());
        let applied = self.machine.apply(position, commands, &mut |shape, outcome| {
            let took = std::mem::replace(&mut began, Stopwatch::start()).elapsed();
            notes::applied(&shared.counters, &shared.slow, shape, outcome, took);
        })?;
        notes::tally(&shared.counters, &applied.tally);
        notes::alarms(&shared.state(), &applied.state);
        if applied.state.view.compact_revision() > shared.state().view.compact_revision() {
            self.removal.begin();
        }
        let now = self.now();
        self.leases.applied(&applied.cut.side, &applied.state.lessor, now);
        self.is_out_of_space = is_out_of_space(&applied.state);
        self.shared.publish(applied.state, applied.cut.batch.as_ref());
        self.behind.push(applied.cut, self.started.elapsed());
        self.settle_removals();
        for (id, outcome) in applied.replies {
            if let Ok(Reply::Session(new)) = &outcome {
                self.shared.begin_session(new.token.clone(), new.session.clone());
            }
            self.leases.answered(id);
            if let Some(Waiting { reply, ticket }) = self.waiting.remove(&id) {
                // Whoever compares the two sees no answer that took no time.
                self.shared.counters.answered_us.add(ticket.age().as_micros().try_into().unwrap_or(u64::MAX));
                self.shared.counters.answered.increment();
                // Whoever is answered has made room.
                drop(ticket);
                // Whoever asked may have gone.
                let _ = reply.send(outcome.map_err(Fault::Refused));
            }
        }
        // Of one voter: nobody else asks for entries that are applied.
        self.driver.applied(position.index, position.index);
        Ok(())
    }

    fn flushed(&mut self, flushed: Flushed) -> Result<()> {
        self.behind.written(flushed.cuts);
        if let Some(took) = self.removal.written(flushed.cuts) {
            notes::removed(self.shared.state().view.compact_revision(), took);
            self.shared.counters.removal.observe(took);
            self.shared.counters.removed_at_s.set(Clock::System.now().timestamp().unsigned_abs());
        }
        self.answer_removals(flushed.cuts);
        self.log.compact(flushed.position.index)
    }

    /// When nothing is left to take out of the index, whoever waits for that waits for the last cut.
    fn settle_removals(&mut self) {
        if !self.pruning.is_empty() && !self.machine.is_pruning() {
            let last = self.behind.came();
            self.removing.extend(self.pruning.drain(..).map(|reply| (last, reply)));
            self.behind.hand_over();
            self.answer_removals(self.behind.written_cuts());
        }
    }

    fn answer_removals(&mut self, written: u64) {
        for (_, reply) in self.removing.extract_if(.., |(cut, _)| *cut <= written) {
            // Whoever asked may have gone.
            let _ = reply.send(());
        }
    }

    /// The alarm to raise when an operation crosses the quota.
    fn watch_quota(&mut self, operation: &Operation) -> Option<Operation> {
        let quota = self.shared.tuning.quota_bytes?;
        let cost = cost(operation);
        if cost == 0 || self.alarming {
            return None;
        }
        let taken = self.shared.taken_bytes();
        if taken + cost as u64 <= quota || self.shared.state().alarms.is_active(AlarmType::Nospace) {
            return None;
        }
        tracing::warn!(taken, quota, "the state has reached its quota: the NOSPACE alarm is raised");
        Some(self.alarm())
    }

    fn alarm(&mut self) -> Operation {
        self.alarming = true;
        let member_id = self.shared.member.member_id;
        let (action, alarm) = (AlarmAction::Activate as i32, AlarmType::Nospace as i32);
        Operation::Alarm(AlarmRequest { action, member_id, alarm })
    }

    /// What time brings.
    fn beat(&mut self) -> Result<()> {
        let watch = Stopwatch::start();
        let slice = if self.behind.is_full() { None } else { self.machine.prune() };
        self.pruning_goes_on = match slice {
            Some(cut) => {
                self.shared.counters.index_pause.observe(watch.elapsed());
                self.behind.push(cut, self.started.elapsed());
                if !self.machine.is_pruning() {
                    self.removal.end(self.behind.came());
                }
                self.settle_removals();
                true
            }
            None => false,
        };
        let clock = self.started.elapsed();
        if clock < self.next_tick {
            return Ok(());
        }
        self.next_tick = clock + self.shared.tuning.heartbeat;
        self.driver.tick();
        self.drive()?;
        if !self.leads {
            return Ok(());
        }
        let (now, state) = (self.now(), self.shared.state());
        for operation in self.leases.tick(&state.lessor, now, self.next_id) {
            let ends = matches!(operation, Operation::LeaseRevoke(_));
            self.shared.counters.leases_expired.add(u64::from(ends));
            let bytes = command::bytes(&operation);
            self.gather(operation, bytes);
        }
        let due = self.compactor.tick(now, state.view.revision());
        if let Some(revision) = due.filter(|revision| *revision > state.view.compact_revision()) {
            self.gather(Operation::Compaction(CompactionRequest { revision, physical: false }), 0);
        }
        if clock >= self.next_disk {
            self.next_disk = clock + DISK_INTERVAL;
            self.alarming = false;
            self.log.look_ahead()?;
            self.is_stuck &= self.log.lacks_room();
            self.watch_disk(&state);
        }
        Ok(())
    }

    /// Raises the alarm while there still is room for everything that is under way, or when there is none any more for
    /// something that waits for it.
    fn watch_disk(&mut self, state: &State) {
        let is_raised = state.alarms.is_active(AlarmType::Nospace);
        let reserve = self.shared.tuning.disk_reserve_bytes;
        let is_short = match free_bytes(self.folder()) {
            Ok(free) if free < reserve && !is_raised => {
                tracing::error!(free, reserve, "the disk is nearly full: the NOSPACE alarm is raised");
                true
            }
            Ok(_) => false,
            Err(error) => {
                tracing::warn!("look for room on the disk: {error}");
                false
            }
        };
        if !is_raised && (is_short || self.shared.backend.lacks_room() || self.log.lacks_room()) {
            let alarm = self.alarm();
            self.gather(alarm, 0);
        }
    }
}

/// Whether what takes room is refused, and for that reason.
fn is_out_of_space(state: &State) -> bool {
    state.alarms.is_active(AlarmType::Nospace) && !state.alarms.is_active(AlarmType::Corrupt)
}

fn no_room() -> Error {
    Error::new(Kind::Full, "the disk of the state file is full, and what was acknowledged waits to be written there")
        .hint("free some space on that disk: the member goes on by itself, and can be defragmented then")
}
