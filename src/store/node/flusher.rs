//! The thread that writes the state's file, behind everybody's back.
//!
//! Cuts gather in the core until they are many or old, and are written at once. Nobody waits for that, unless unflushed
//! changes take more memory than they may: then nothing new is proposed until it has caught up.
//!
//! On a full disk a write waits (`backend`), and so does what comes meanwhile. A member that ends then lets it be: the log has
//! everything.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender};
use std::thread;
use std::time::Duration;

use tokio::sync::mpsc::WeakUnboundedSender;
use tokio::sync::oneshot;

use crate::base::clock::Stopwatch;
use crate::base::error::{Kind, Result};
use crate::base::slow::go_time;
use crate::base::stop::Stop;
use crate::base::telemetry::Counters;
use crate::store::backend::{Backend, Unfinished};
use crate::store::machine::flush::{Cut, Position, Size, flush};
use crate::store::mvcc::recent::Recent;
use crate::store::node::core::Event;
use crate::store::options::Tuning;

/// Room that a flush wants on the disk beside twice what it writes: for pages that are written anew.
const ROOM_BYTES: u64 = 4 << 20;

/// The longest rest after one step of a defragmentation.
const REST_MAX: Duration = Duration::from_millis(50);

/// What a flush wants free on the disk before it begins.
pub(super) fn room_for(size: Size) -> u64 {
    2 * size.rows + ROOM_BYTES
}

/// What it is asked.
pub(super) enum Task {
    /// To write these cuts, which take so much.
    Write(Vec<Cut>, Size),
    /// To write the file anew.
    Defragment(oneshot::Sender<Result<()>>),
}

/// How far it came.
#[derive(Clone, Copy, Debug)]
pub(super) struct Flushed {
    /// Cuts written since the start.
    pub(super) cuts: u64,
    /// The position after the last of them.
    pub(super) position: Position,
}

/// What takes memory and will take room in the file: everything that is not written yet. Raised by who brings it, lowered by
/// who writes it, read by everybody.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    memory: AtomicUsize,
    revisions: AtomicU64,
    rows: AtomicU64,
}

impl Waiting {
    fn add(&self, size: Size) {
        self.memory.fetch_add(size.memory, Ordering::Relaxed);
        self.revisions.fetch_add(size.revisions, Ordering::Relaxed);
        self.rows.fetch_add(size.rows, Ordering::Relaxed);
    }

    fn sub(&self, size: Size) {
        self.memory.fetch_sub(size.memory, Ordering::Relaxed);
        self.revisions.fetch_sub(size.revisions, Ordering::Relaxed);
        self.rows.fetch_sub(size.rows, Ordering::Relaxed);
    }

    /// How much it is.
    pub(super) fn size(&self) -> Size {
        Size {
            memory: self.memory.load(Ordering::Relaxed),
            revisions: self.revisions.load(Ordering::Relaxed),
            rows: self.rows.load(Ordering::Relaxed),
        }
    }
}

/// The cuts that are not written yet, and those that are being written. Handing each over by itself would wake the other
/// thread once for every batch, only to have it wait for more.
pub(super) struct Behind {
    tasks: Sender<Task>,
    interval: Duration,
    bytes: usize,
    bytes_max: usize,
    waiting: Arc<Waiting>,
    gathered: Vec<Cut>,
    /// What they take.
    size: Size,
    /// When the oldest of them came.
    since: Duration,
    /// Cuts that came, were handed over, and are written, since the start.
    came: u64,
    handed: u64,
    written: u64,
}

impl Behind {
    pub(super) fn new(tasks: Sender<Task>, tuning: &Tuning, waiting: &Arc<Waiting>) -> Self {
        Behind {
            tasks,
            interval: tuning.flush_interval,
            bytes: tuning.flush_bytes,
            bytes_max: tuning.unflushed_bytes_max,
            waiting: Arc::clone(waiting),
            gathered: vec![],
            size: Size::default(),
            since: Duration::ZERO,
            came: 0,
            handed: 0,
            written: 0,
        }
    }

    /// Takes the next cut.
    pub(super) fn push(&mut self, cut: Cut, clock: Duration) {
        if self.gathered.is_empty() {
            self.since = clock;
        }
        let size = cut.size();
        self.size.add(size);
        self.waiting.add(size);
        self.gathered.push(cut);
        self.came += 1;
    }

    /// What is not written yet.
    pub(super) fn waiting(&self) -> Size {
        self.waiting.size()
    }

    /// Whether that is more than may be.
    pub(super) fn is_full(&self) -> bool {
        self.waiting().memory > self.bytes_max
    }

    /// How many cuts came.
    pub(super) fn came(&self) -> u64 {
        self.came
    }

    /// When there will be something to hand over, if nothing more comes.
    pub(super) fn due(&self) -> Option<Duration> {
        (!self.gathered.is_empty() && self.handed == self.written).then(|| self.since + self.interval)
    }

    /// Hands over what is due, or much.
    pub(super) fn look(&mut self, clock: Duration) {
        if self.due().is_some_and(|due| due <= clock || self.size.memory >= self.bytes) {
            self.hand_over();
        }
    }

    /// Hands over what there is, due or not.
    pub(super) fn hand_over(&mut self) {
        self.handed = self.came;
        if !self.gathered.is_empty() {
            let (cuts, size) = (std::mem::take(&mut self.gathered), std::mem::take(&mut self.size));
            self.send(Task::Write(cuts, size));
        }
    }

    /// Has the file written anew, after everything that came before.
    pub(super) fn defragment(&mut self, reply: oneshot::Sender<Result<()>>) {
        self.hand_over();
        self.send(Task::Defragment(reply));
    }

    /// So far the flusher came.
    pub(super) fn written(&mut self, cuts: u64) {
        self.written = cuts;
    }

    /// How many cuts are written.
    pub(super) fn written_cuts(&self) -> u64 {
        self.written
    }

    fn send(&self, task: Task) {
        // A flusher that hears nothing any more has said why.
        let _ = self.tasks.send(task);
    }
}

impl Drop for Behind {
    fn drop(&mut self) {
        self.hand_over();
    }
}

/// Where it writes.
pub(super) struct Flusher {
    pub(super) backend: Arc<Backend>,
    pub(super) recent: Arc<Recent>,
    /// Weak, so that a member that nobody has any more ends.
    pub(super) events: WeakUnboundedSender<Event>,
    pub(super) waiting: Arc<Waiting>,
    pub(super) counters: Arc<Counters>,
    /// Bytes that may wait for a defragmentation that gives way. With more of them it must come to its end.
    pub(super) bytes_in_no_hurry: usize,
    /// Given when the member ends: a defragmentation is not brought to its end then.
    pub(super) ending: Stop,
}

impl Flusher {
    /// Writes until nobody asks any more.
    pub(super) fn run(self, tasks: &Receiver<Task>) {
        let mut written = 0;
        while let Ok(task) = tasks.recv() {
            match task {
                Task::Write(cuts, size) => match self.write(&cuts, size) {
                    Ok(position) => {
                        written += cuts.len() as u64;
                        self.waiting.sub(size);
                        tell(&self.events, Event::Flushed(Flushed { cuts: written, position }));
                    }
                    Err(error) if error.kind() == Kind::Full && !self.backend.awaits_room() => {
                        tracing::warn!(
                            "the member ends with a state file that is behind, and the next start catches up from the log: {}",
                            error.chain()
                        );
                        return;
                    }
                    Err(error) => {
                        tell(&self.events, Event::Failed(error));
                        return;
                    }
                },
                Task::Defragment(reply) => match self.defragment() {
                    // Who asked may have gone.
                    Ok(()) => drop(reply.send(Ok(()))),
                    Err(Unfinished::AsBefore(error)) => drop(reply.send(Err(error))),
                    Err(Unfinished::Unsure(error)) => {
                        tell(&self.events, Event::Failed(error));
                        return;
                    }
                },
            }
        }
    }

    /// Writes the file anew, counts it and tells of it.
    fn defragment(&self) -> Result<(), Unfinished> {
        let watch = Stopwatch::start();
        self.counters.defragmenting.set(1);
        let before = self.tell_size();
        let mut answered = self.counters.answered.get();
        let outcome = self.backend.defragment(&mut |took| self.make_way(took, &mut answered));
        self.counters.defragmenting.set(0);
        self.counters.defragment.observe(watch.elapsed());
        self.defragmented(&outcome, before, watch.elapsed());
        outcome
    }

    /// Leaves the disk to others for as long as a step of a defragmentation had it, if anybody was answered meanwhile. What
    /// they write waits for this thread; it does not wait for ever.
    fn make_way(&self, took: Duration, answered: &mut u64) -> Result<()> {
        self.ending.check()?;
        let before = std::mem::replace(answered, self.counters.answered.get());
        if *answered != before && self.waiting.size().memory < self.bytes_in_no_hurry {
            thread::sleep(took.min(REST_MAX));
        }
        Ok(())
    }

    /// Tells that the file is written anew, in etcd's words, and how large it is; its bytes.
    fn tell_size(&self) -> u64 {
        let (path, bytes) = (self.backend.path().display(), self.backend.size_bytes());
        let used = self.backend.used_bytes();
        tracing::info!(
            path = %path,
            "current-db-size-bytes" = bytes,
            "current-db-size-in-use-bytes" = used,
            "defragmenting"
        );
        bytes
    }

    /// Tells how that ended.
    fn defragmented(&self, outcome: &Result<(), Unfinished>, before: u64, took: Duration) {
        let path = self.backend.path().display();
        match outcome {
            Ok(()) => {
                let (bytes, used) = (self.backend.size_bytes(), self.backend.used_bytes());
                tracing::info!(
                    path = %path,
                    "current-db-size-bytes-diff" = bytes.cast_signed() - before.cast_signed(),
                    "current-db-size-bytes" = bytes,
                    "current-db-size-in-use-bytes" = used,
                    took = go_time(took),
                    "finished defragmenting directory"
                );
            }
            Err(Unfinished::AsBefore(error) | Unfinished::Unsure(error)) => {
                tracing::warn!(path = %path, error = error.as_warning(), "failed to defragment");
            }
        }
    }

    fn write(&self, cuts: &[Cut], size: Size) -> Result<Position> {
        self.backend.await_room_for(room_for(size));
        let watch = Stopwatch::start();
        flush(&self.backend, &self.recent, cuts)?;
        self.counters.flush.observe(watch.elapsed());
        let gone: usize = cuts.iter().map(|cut| cut.gone.len()).sum();
        if gone > 0 {
            self.counters.removal_pause.observe(watch.elapsed());
        }
        self.counters.compacted_revisions.add(gone as u64);
        Ok(cuts.last().map(|cut| cut.position).unwrap_or_default())
    }
}

/// Tells the core. One that nobody has any more has ended, or is about to: then it is said here what went wrong.
pub(super) fn tell(events: &WeakUnboundedSender<Event>, event: Event) {
    let unheard = match events.upgrade() {
        Some(events) => events.send(event).err().map(|unheard| unheard.0),
        None => Some(event),
    };
    if let Some(Event::Failed(error)) = unheard {
        tracing::error!("a member that is over already failed: {}", error.as_warning());
    }
}
