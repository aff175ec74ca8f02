//! The thread that writes the state's file, behind everybody's back.
//!
//! Cuts gather until they are many or old, and are written at once. Nobody waits for it, unless unflushed changes take more
//! memory than they may: then nothing new is proposed until it has caught up.

use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, mpsc};

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
    /// To write a cut sooner or later.
    Cut(Cut),
    /// Not to wait for more.
    Now,
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

/// Where it writes.
pub(super) struct Flusher {
    pub(super) backend: Arc<Backend>,
    pub(super) recent: Arc<Recent>,
    pub(super) tuning: Tuning,
    pub(super) events: Sender<Event>,
    pub(super) counters: Arc<Counters>,
}

impl Flusher {
    /// Writes until nobody asks any more, then what is left.
    pub(super) fn run(self, tasks: &mpsc::Receiver<Task>) {
        let mut written = 0;
        while let Ok(first) = tasks.recv() {
            let (cuts, defragment) = self.gather(first, tasks);
            if let Some(last) = cuts.last() {
                let position = last.position;
                let watch = Stopwatch::start();
                if let Err(error) = flush(&self.backend, &self.recent, &cuts) {
                    // A core that hears nothing any more has ended.
                    let _ = self.events.send(Event::Failed(error));
                    return;
                }
                self.counters.flush.observe(watch.elapsed());
                self.counters.compacted_revisions.add(cuts.iter().map(|cut| cut.gone.len() as u64).sum());
                written += cuts.len() as u64;
                let _ = self.events.send(Event::Flushed(Flushed { cuts: written, position }));
            }
            if let Some(reply) = defragment {
                let watch = Stopwatch::start();
                let outcome = self.backend.defragment();
                self.counters.defragment.observe(watch.elapsed());
                // Who asked may have gone.
                let _ = reply.send(outcome);
            }
        }
    }

    fn gather(&self, first: Task, tasks: &Receiver<Task>) -> (Vec<Cut>, Option<oneshot::Sender<Result<()>>>) {
        let waited = Stopwatch::start();
        let (mut cuts, mut next) = (vec![], Some(first));
        loop {
            match next.take() {
                Some(Task::Cut(cut)) => cuts.push(cut),
                Some(Task::Now) => return (cuts, None),
                Some(Task::Defragment(reply)) => return (cuts, Some(reply)),
                None => {}
            }
            if self.recent.bytes() >= self.tuning.flush_bytes {
                // What is there already comes along.
                match tasks.try_recv() {
                    Ok(task) => next = Some(task),
                    Err(_) => return (cuts, None),
                }
                continue;
            }
            match tasks.recv_timeout(self.tuning.flush_interval.saturating_sub(waited.elapsed())) {
                Ok(task) => next = Some(task),
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => return (cuts, None),
            }
        }
    }
}
