//! How far a long job has come: counters that the work raises and whoever shows them reads.
//!
//! Showing is the reader's business: a bar on a terminal, a line a minute in a journal, one line on SIGUSR1. The work
//! never waits for it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// The progress of one job. Clones are the same job.
#[derive(Clone, Debug, Default)]
pub struct Progress(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    stage: Mutex<&'static str>,
    done_bytes: AtomicU64,
    total_bytes: AtomicU64,
}

/// A look at the counters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// What is being done, for people.
    pub stage: &'static str,
    /// Bytes done in this stage.
    pub done_bytes: u64,
    /// Bytes of this stage; 0 when not known.
    pub total_bytes: u64,
}

impl Progress {
    /// A job that has not begun.
    pub fn new() -> Self {
        Progress::default()
    }

    /// Begins a stage of `total_bytes`, 0 when not known.
    pub fn stage(&self, stage: &'static str, total_bytes: u64) {
        *self.0.stage.lock().unwrap_or_else(PoisonError::into_inner) = stage;
        self.0.done_bytes.store(0, Ordering::Relaxed);
        self.0.total_bytes.store(total_bytes, Ordering::Relaxed);
    }

    /// Counts bytes done.
    pub fn add(&self, bytes: u64) {
        self.0.done_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// The counters as they are.
    pub fn look(&self) -> Snapshot {
        Snapshot {
            stage: *self.0.stage.lock().unwrap_or_else(PoisonError::into_inner),
            done_bytes: self.0.done_bytes.load(Ordering::Relaxed),
            total_bytes: self.0.total_bytes.load(Ordering::Relaxed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stage_starts_from_nothing() {
        let progress = Progress::new();
        progress.stage("read", 10);
        progress.clone().add(7);
        assert_eq!(progress.look(), Snapshot { stage: "read", done_bytes: 7, total_bytes: 10 });
        progress.stage("write", 0);
        assert_eq!(progress.look(), Snapshot { stage: "write", done_bytes: 0, total_bytes: 0 });
    }
}
