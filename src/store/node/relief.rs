//! Looks after the runtime while the core waits for the disk.
//!
//! The core waits on a worker of the runtime. When all others sleep, that was the one who looks after sockets, timers and
//! signals, and the runtime wakes another one only for work that it knows of: until the disk is done nobody is heard. To wake
//! one before every wait costs a third of the writes where the disk is fast. So the core does that where the last wait was
//! long, and a thread that sees it wait longer than usual does it from outside, once.

use std::sync::Weak;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use tokio::runtime::Handle;

/// Between two looks while something is written, and while nothing is.
const INTERVALS: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(50));

/// Tells when the core waits.
#[derive(Debug, Default)]
pub(super) struct Relief {
    /// Beginnings and ends of waits: odd while there is one.
    turns: AtomicU64,
}

impl Relief {
    /// Does something that waits for the disk.
    pub(super) fn during<T>(&self, wait: impl FnOnce() -> T) -> T {
        self.turns.fetch_add(1, Ordering::Relaxed);
        let done = wait();
        self.turns.fetch_add(1, Ordering::Relaxed);
        done
    }

    /// Looks, until there is no core any more.
    pub(super) fn watch(core: &Weak<Relief>, runtime: &Handle) {
        let (mut seen, mut relieved) = (0, 0);
        while let Some(turns) = core.upgrade().map(|core| core.turns.load(Ordering::Relaxed)) {
            let waits = turns % 2 == 1;
            if waits && turns == seen && turns != relieved {
                // From outside any work wakes a worker, which then stays with the sockets.
                drop(runtime.spawn(async {}));
                relieved = turns;
            }
            thread::sleep(if turns == seen && !waits { INTERVALS.1 } else { INTERVALS.0 });
            seen = turns;
        }
    }
}
