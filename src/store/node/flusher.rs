//! The thread that writes the state's file, behind everybody's back.
//!
//! Cuts gather in the core until they are many or old, and are written at once. Nobody waits for that, unless unflushed
//! changes take more memory than they may: then nothing new is proposed until it has caught up.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender};
use std::time::Duration;

use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::oneshot;

use crate::base::clock::Stopwatch;
use crate::base::error::Result;
use crate::base::telemetry::Counters;
use crate::store::backend::Backend;
use crate::store::machine::flush::{Cut, Position, flush};
use crate::store::mvcc::recent::Recent;
use crate::store::node::core::Event;
use crate::store::options::Tuning;

/// What it is asked.
pub(super) enum Task {
    /// To write these cuts.
    Write(Vec<Cut>),
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

/// The cuts that are not written yet, and those that are being written. Handing each over by itself would wake the other
/// thread once for every batch, only to have it wait for more.
pub(super) struct Behind {
    tasks: Sender<Task>,
    interval: Duration,
    bytes: usize,
    gathered: Vec<Cut>,
    /// When the oldest of them came.
    since: Duration,
    /// Cuts that came, were handed over, and are written, since the start.
    came: u64,
    handed: u64,
    written: u64,
}

impl Behind {
    pub(super) fn new(tasks: Sender<Task>, tuning: &Tuning) -> Self {
        let (interval, bytes) = (tuning.flush_interval, tuning.flush_bytes);
        Behind { tasks, interval, bytes, gathered: vec![], since: Duration::ZERO, came: 0, handed: 0, written: 0 }
    }

    /// Takes the next cut.
    pub(super) fn push(&mut self, cut: Cut, clock: Duration) {
        if self.gathered.is_empty() {
            self.since = clock;
        }
        self.gathered.push(cut);
        self.came += 1;
    }

    /// How many cuts came.
    pub(super) fn came(&self) -> u64 {
        self.came
    }

    /// When there will be something to hand over, if nothing more comes.
    pub(super) fn due(&self) -> Option<Duration> {
        (!self.gathered.is_empty() && self.handed == self.written).then(|| self.since + self.interval)
    }

    /// Hands over what is due, given the memory that unflushed changes take.
    pub(super) fn look(&mut self, clock: Duration, unflushed_bytes: usize) {
        if self.due().is_some_and(|due| due <= clock || unflushed_bytes >= self.bytes) {
            self.hand_over();
        }
    }

    /// Hands over what there is, due or not.
    pub(super) fn hand_over(&mut self) {
        self.handed = self.came;
        if !self.gathered.is_empty() {
            let cuts = std::mem::take(&mut self.gathered);
            self.send(Task::Write(cuts));
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
    pub(super) events: UnboundedSender<Event>,
    pub(super) counters: Arc<Counters>,
}

impl Flusher {
    /// Writes until nobody asks any more.
    pub(super) fn run(self, tasks: &Receiver<Task>) {
        let mut written = 0;
        while let Ok(task) = tasks.recv() {
            match task {
                Task::Write(cuts) => match self.write(&cuts) {
                    Ok(position) => {
                        written += cuts.len() as u64;
                        // A core that hears nothing any more has ended.
                        let _ = self.events.send(Event::Flushed(Flushed { cuts: written, position }));
                    }
                    Err(error) => {
                        let _ = self.events.send(Event::Failed(error));
                        return;
                    }
                },
                Task::Defragment(reply) => {
                    let watch = Stopwatch::start();
                    let outcome = self.backend.defragment();
                    self.counters.defragment.observe(watch.elapsed());
                    // Who asked may have gone.
                    let _ = reply.send(outcome);
                }
            }
        }
    }

    fn write(&self, cuts: &[Cut]) -> Result<Position> {
        let watch = Stopwatch::start();
        flush(&self.backend, &self.recent, cuts)?;
        self.counters.flush.observe(watch.elapsed());
        self.counters.compacted_revisions.add(cuts.iter().map(|cut| cut.gone.len() as u64).sum());
        Ok(cuts.last().map(|cut| cut.position).unwrap_or_default())
    }
}
