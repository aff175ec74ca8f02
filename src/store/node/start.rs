//! How a member begins: for the first time, and again.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::{Arc, mpsc};
use std::thread;

use tokio::runtime;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::base::error::{Error, HINT_MEMBER_DAMAGED, Result};
use crate::base::rng;
use crate::base::steps::Steps;
use crate::base::stop::{Stop, blocking, no_thread};
use crate::store::backend::Backend;
use crate::store::consensus::driver::{Beats, Driver, Restored};
use crate::store::consensus::log::{HardState, Identity, Log, Opened, Place};
use crate::store::machine::Machine;
use crate::store::machine::flush::Position;
use crate::store::node::Member;
use crate::store::node::core::{Core, Event, Parts};
use crate::store::node::flusher::{Behind, Flusher, tell};
use crate::store::node::handle::{Handle, Shared};
use crate::store::node::relief::Relief;
use crate::store::node::scrubber::Scrubber;
use crate::store::options::Tuning;

/// Where a member keeps what it must not lose.
#[derive(Clone, Debug)]
pub struct Paths {
    /// The state's file.
    pub state: PathBuf,
    /// The folder of the log.
    pub log: PathBuf,
}

/// Makes the empty state and the empty log of a new member, in folders that exist.
pub fn create(paths: &Paths, member: &Member, tuning: &Tuning) -> Result<()> {
    drop(Backend::create(&paths.state, tuning.cache_bytes)?);
    let beginning = (Place::default(), HardState::default());
    drop(Log::create(&paths.log, identity(member), beginning.0, beginning.1, tuning.segment_bytes)?);
    Ok(())
}

fn identity(member: &Member) -> Identity {
    Identity { cluster_id: member.cluster_id, member_id: member.member_id }
}

impl Handle {
    /// Starts a member on what it left when it stopped, however it stopped. Returns when it leads, and everything that it
    /// had acknowledged is there.
    pub async fn start(paths: &Paths, member: Member, tuning: Tuning) -> Result<Handle> {
        Handle::start_heard(paths, member, tuning, &Steps::unheard()).await
    }

    /// The same, with its durable steps announced.
    pub async fn start_heard(paths: &Paths, member: Member, tuning: Tuning, steps: &Steps) -> Result<Handle> {
        let (ready, leads) = oneshot::channel();
        let (paths, steps, stopped) =
            (paths.clone(), steps.clone(), || Error::damaged("the member ended while it started"));
        let handle = blocking(move || start(&paths, member, &tuning, &steps, ready)).await?;
        tokio::select! {
            Ok(()) = leads => Ok(handle),
            ended = handle.ended() => ended.and_then(|()| Err(stopped())),
        }
    }
}

fn start(paths: &Paths, member: Member, tuning: &Tuning, steps: &Steps, ready: oneshot::Sender<()>) -> Result<Handle> {
    // The log first: the engine of the state writes into its file when it opens it, and a member that is refused stays as
    // it is.
    let mut opened = Log::open(&paths.log, identity(&member), tuning.segment_bytes)?;
    opened.log.announce(steps);
    let mut backend = Backend::open(&paths.state, tuning.cache_bytes)?;
    backend.announce(steps);
    let backend = Arc::new(backend);
    let machine = Machine::open(&backend)?;
    let position = machine.position();
    check(&opened, position)?;
    if opened.torn {
        tracing::warn!("the log's last frame was torn and is cut off: it was never acknowledged");
    }
    let restored = Restored {
        id: member.member_id,
        voters: vec![member.member_id],
        hard_state: opened.hard_state,
        previous: opened.previous,
        entries: opened.entries,
        applied: position.index,
    };
    let beats = Beats { election: beats(tuning), heartbeat: 1 };
    let driver = Driver::new(restored, beats)?;
    let mut first_id = [0; 8];
    rng::fill(&mut first_id)?;

    let (events, happens) = unbounded_channel();
    let (tasks, to_flush) = mpsc::channel();
    let shared = Arc::new(Shared::new(member, tuning.clone(), Arc::clone(&backend), machine.state()));
    let behind = Behind::new(tasks, tuning, &shared.waiting_changes);
    // From now on the member says so when its disk is full, and goes on when it is not.
    backend.await_room(true);
    let ending = Stop::new();
    let flusher = Flusher {
        backend,
        recent: Arc::clone(machine.recent()),
        events: events.downgrade(),
        waiting: Arc::clone(&shared.waiting_changes),
        counters: Arc::clone(&shared.counters),
        bytes_in_no_hurry: tuning.unflushed_bytes_max / 2,
        ending: ending.clone(),
    };
    let failing = events.downgrade();
    let flusher = thread("flush", move || {
        if catch_unwind(AssertUnwindSafe(|| flusher.run(&to_flush))).is_err() {
            tell(&failing, Event::Failed(panicked()));
        }
    })?;
    let relief = Arc::new(Relief::default());
    let (core, runtime) = (Arc::downgrade(&relief), runtime::Handle::current());
    thread("relief", move || Relief::watch(&core, &runtime))?;
    let parts = Parts {
        relief,
        shared: Arc::clone(&shared),
        machine,
        driver,
        log: opened.log,
        behind,
        first_id: u64::from_be_bytes(first_id),
        ready,
    };
    let scrubber = Scrubber { shared: Arc::clone(&shared), events: events.downgrade(), stop: ending.clone() };
    let scrubber = tokio::spawn(scrubber.run());
    tokio::spawn(live(parts, happens, (flusher, scrubber), ending));
    Ok(Handle { shared, events })
}

/// A member's life, from its first election until its end is told.
async fn live(
    parts: Parts,
    mut happens: UnboundedReceiver<Event>,
    (flusher, scrubber): (thread::JoinHandle<()>, JoinHandle<()>),
    ending: Stop,
) {
    let (end, backend) = (Arc::clone(&parts.shared.end), Arc::clone(&parts.shared.backend));
    let core = tokio::spawn(async move {
        let mut core = Core::new(parts);
        let outcome = core.run(&mut happens).await;
        (outcome, happens)
    });
    let (outcome, happens) = match core.await {
        Ok((outcome, happens)) => (outcome, Some(happens)),
        Err(_) => (Err(panicked()), None),
    };
    if let Err(error) = &outcome {
        tracing::error!("the member stops: {error}");
    }
    // The core is gone, and nobody waits for room any more. Without tasks, the flusher finishes what it was given, and ends. What it could not do is said here.
    backend.await_room(false);
    drop(backend);
    // A scrub may have the file open, and a defragmentation may take minutes.
    ending.stop();
    let outcome = outcome.and(scrubber.await.map_err(|_| panicked()));
    let outcome = outcome.and(blocking(|| flusher.join()).await.map_err(|_| panicked()));
    let failed = happens.and_then(|mut happens| {
        std::iter::from_fn(|| happens.try_recv().ok()).find_map(|event| match event {
            Event::Failed(error) => Some(error),
            _ => None,
        })
    });
    end.come(outcome.err().or(failed));
}

fn panicked() -> Error {
    Error::damaged("a thread of the member ended by a panic").hint(HINT_MEMBER_DAMAGED)
}

/// Beats of raft's clock without a leader, until an election.
fn beats(tuning: &Tuning) -> usize {
    let beats = tuning.election.as_millis() / tuning.heartbeat.as_millis().max(1);
    usize::try_from(beats).unwrap_or(usize::MAX).max(2)
}

/// Log and state must be of one piece: the state somewhere between the log's ends.
fn check(opened: &Opened, position: Position) -> Result<()> {
    let damaged = |why: String| Err(Error::damaged(why).hint(HINT_MEMBER_DAMAGED));
    let (first, last) = (opened.previous.index, opened.entries.last().map_or(opened.previous, |entry| entry.place));
    if position.index < first {
        return damaged(format!("the state ends at entry {}, and the log begins after entry {first}", position.index));
    }
    if position.index > last.index {
        return damaged(format!("the log ends at entry {}, and the state has entry {}", last.index, position.index));
    }
    let at = usize::try_from(position.index - first).unwrap_or(usize::MAX);
    let term =
        at.checked_sub(1).and_then(|at| opened.entries.get(at)).map_or(opened.previous.term, |entry| entry.place.term);
    if position.index > 0 && term != position.term {
        return damaged(format!("log and state have different entries {}", position.index));
    }
    Ok(())
}

fn thread(name: &str, work: impl FnOnce() + Send + 'static) -> Result<thread::JoinHandle<()>> {
    thread::Builder::new().name(name.to_owned()).spawn(work).map_err(|error| no_thread(name, error))
}
