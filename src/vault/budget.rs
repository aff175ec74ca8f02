//! A budget: how many things, and how many bytes of them, may be held at once between two threads.
//!
//! Taking blocks until there is room. A thing larger than the whole budget is let in when nothing else is, so that one
//! oversized record passes instead of waiting forever.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::base::error::Result;
use crate::base::stop::Stop;

/// A waiting thread looks this often whether it should stop.
const STOP_CHECK_MS: u64 = 100;

/// A budget, shared by those who take and those who give back.
#[derive(Debug)]
pub(crate) struct Budget {
    count_max: usize,
    bytes_max: usize,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    count: usize,
    bytes: usize,
    count_peak: usize,
    closed: bool,
}

/// A part of a budget; dropping it gives it back.
#[derive(Debug)]
pub(crate) struct Share {
    budget: Arc<Budget>,
    bytes: usize,
}

impl Budget {
    /// Room for `count_max` things of `bytes_max` bytes together.
    pub(crate) fn new(count_max: usize, bytes_max: usize) -> Arc<Self> {
        Arc::new(Budget { count_max, bytes_max, state: Mutex::default(), changed: Condvar::new() })
    }

    /// Waits for room for `bytes`; none once the budget is closed.
    pub(crate) fn take(self: &Arc<Self>, bytes: usize, stop: &Stop) -> Result<Option<Share>> {
        let mut state = self.lock();
        loop {
            if state.closed {
                return Ok(None);
            }
            let fits = state.count < self.count_max && state.bytes.saturating_add(bytes) <= self.bytes_max;
            if fits || state.count == 0 {
                state.count += 1;
                state.bytes += bytes;
                state.count_peak = state.count_peak.max(state.count);
                return Ok(Some(Share { budget: Arc::clone(self), bytes }));
            }
            state = self.wait(state);
            stop.check()?;
        }
    }

    /// Waits until everything was given back.
    pub(crate) fn wait_idle(&self, stop: &Stop) -> Result<()> {
        let mut state = self.lock();
        while state.count > 0 {
            state = self.wait(state);
            stop.check()?;
        }
        Ok(())
    }

    /// Lets nothing in any more.
    pub(crate) fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_all();
    }

    /// The most things that were held at once.
    pub(crate) fn count_peak(&self) -> usize {
        self.lock().count_peak
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        let pause = Duration::from_millis(STOP_CHECK_MS);
        self.changed.wait_timeout(state, pause).unwrap_or_else(PoisonError::into_inner).0
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut state = self.budget.lock();
        state.count -= 1;
        state.bytes -= self.bytes;
        drop(state);
        self.budget.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::error::Kind;

    #[test]
    fn a_full_budget_waits_and_an_oversized_thing_passes_alone() {
        let (budget, stop) = (Budget::new(2, 10), Stop::new());
        let large = budget.take(99, &stop).unwrap().unwrap();
        let waiting = {
            let (budget, stop) = (Arc::clone(&budget), stop.clone());
            std::thread::spawn(move || budget.take(1, &stop).unwrap().is_some())
        };
        drop(large);
        assert!(waiting.join().unwrap());
        let (a, b) = (budget.take(5, &stop).unwrap(), budget.take(5, &stop).unwrap());
        assert_eq!(budget.count_peak(), 2);
        stop.stop();
        assert_eq!(budget.take(1, &stop).unwrap_err().kind(), Kind::Interrupted);
        drop((a, b));
        budget.wait_idle(&stop).unwrap();
        budget.close();
        assert!(budget.take(1, &stop).unwrap().is_none());
    }
}
