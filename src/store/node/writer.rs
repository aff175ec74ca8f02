//! The thread that waits for the log's disk.
//!
//! Whatever has gathered while it waited is one frame and one wait.

use std::sync::mpsc::{Receiver, Sender};

use crate::base::clock::Stopwatch;
use crate::base::error::Result;
use crate::base::telemetry::Counters;
use crate::store::consensus::driver::Append;
use crate::store::consensus::log::{Entry, HardState, Log};
use crate::store::node::core::Event;

/// What it is asked.
pub(super) enum Task {
    /// To make something durable, and say so.
    Append(Append),
    /// To give up what holds nothing after an index.
    Compact(u64),
}

/// Serves the log until nobody asks any more, or it fails.
pub(super) fn run(mut log: Log, tasks: &Receiver<Task>, events: &Sender<Event>, counters: &Counters) {
    while let Ok(first) = tasks.recv() {
        let mut gathered = Gathered::default();
        gathered.take(first);
        while let Ok(task) = tasks.try_recv() {
            gathered.take(task);
        }
        let number = gathered.number;
        let event = match gathered.write(&mut log, counters) {
            Ok(()) if number == 0 => continue,
            Ok(()) => Event::Persisted(number),
            Err(error) => Event::Failed(error),
        };
        // A core that hears nothing any more has ended.
        let failed = matches!(event, Event::Failed(_));
        if events.send(event).is_err() || failed {
            return;
        }
    }
}

/// What becomes one frame.
#[derive(Default)]
struct Gathered {
    number: u64,
    entries: Vec<Entry>,
    hard_state: Option<HardState>,
    compact: Option<u64>,
}

impl Gathered {
    fn take(&mut self, task: Task) {
        match task {
            Task::Append(append) => {
                if let Some(first) = append.entries.first() {
                    // A new leader's entries replace what the one before it had left.
                    self.entries.retain(|entry| entry.place.index < first.place.index);
                }
                self.entries.extend(append.entries);
                self.hard_state = append.hard_state.or(self.hard_state);
                self.number = append.number;
            }
            Task::Compact(through) => self.compact = Some(through),
        }
    }

    fn write(self, log: &mut Log, counters: &Counters) -> Result<()> {
        if self.number > 0 {
            let watch = Stopwatch::start();
            log.append(&self.entries, self.hard_state)?;
            counters.log_sync.observe(watch.elapsed());
            counters.log_bytes.add(self.entries.iter().map(|entry| entry.data.len() as u64).sum());
        }
        self.compact.map_or(Ok(()), |through| log.compact(through))
    }
}
