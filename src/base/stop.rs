//! Stopping: one signal that every long task listens to, the one way to run blocking work from async code, and threads that
//! the system may refuse.
//!
//! Invariants:
//! - Stopping is cooperative: a task asks `Stop::check` (or awaits `Stop::stopped`) at least once per block of work and
//!   leaves nothing half-done when it returns.
//! - A panic in blocking work is not swallowed: it continues in the task that waits for the result.

use std::thread::{Builder, Scope, ScopedJoinHandle};

use tokio_util::sync::CancellationToken;

use crate::base::error::{Error, Kind, Result};

/// A signal to stop, shared by everything that one command started. Clones are the same signal.
#[derive(Clone, Debug, Default)]
pub struct Stop(CancellationToken);

impl Stop {
    /// A signal that nobody has given yet.
    pub fn new() -> Self {
        Stop::default()
    }

    /// Gives the signal.
    pub fn stop(&self) {
        self.0.cancel();
    }

    /// Whether the signal was given.
    pub fn is_stopped(&self) -> bool {
        self.0.is_cancelled()
    }

    /// An `Interrupted` error once the signal was given.
    pub fn check(&self) -> Result<()> {
        if self.is_stopped() { Err(interrupted()) } else { Ok(()) }
    }

    /// Waits for the signal.
    pub async fn stopped(&self) {
        self.0.cancelled().await;
    }

    /// Runs `work` until it ends or the signal is given, whichever is first.
    pub async fn or<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        tokio::select! {
            biased;
            () = self.stopped() => Err(interrupted()),
            result = work => result,
        }
    }
}

fn interrupted() -> Error {
    Error::new(Kind::Interrupted, "interrupted").hint("nothing half-done was left behind; run the command again")
}

/// Runs blocking work (disk, compression, hashing) on the runtime's threads for it.
#[expect(clippy::disallowed_methods, reason = "this is the owner of blocking work")]
pub async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(value) => value,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // Blocking work is never aborted by us; the runtime drops it only while it shuts down.
            Err(_) => std::future::pending().await,
        },
    }
}

/// What work in the background gives up of its share of a processor that others want as well: a tenth is left to it.
const BACKGROUND_NICENESS: i32 = 10;

/// Runs blocking work that others must not feel, on a thread of its own that yields the processor to them. Threads that it
/// begins are like it.
pub async fn background<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    let runtime = tokio::runtime::Handle::current();
    blocking(move || {
        std::thread::scope(|scope| {
            let thread = beside(scope, "background", || {
                let _inside = runtime.enter();
                // A system without priorities has none to give up.
                let _ = rustix::process::setpriority_process(None, BACKGROUND_NICENESS);
                work()
            })?;
            Ok(thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
        })
    })
    .await
}

/// Begins a thread beside others.
pub fn beside<'scope, T: Send + 'scope>(
    scope: &'scope Scope<'scope, '_>,
    name: &str,
    work: impl FnOnce() -> T + Send + 'scope,
) -> Result<ScopedJoinHandle<'scope, T>> {
    Builder::new().name(name.to_owned()).spawn_scoped(scope, work).map_err(|error| no_thread(name, error))
}

/// A thread that the system refused.
pub fn no_thread(name: &str, error: std::io::Error) -> Error {
    Error::new(Kind::Failed, format!("start the thread {name}")).source(error).hint(
        "the system gives no more threads or memory: stop something else, or raise the limit (TasksMax, ulimit -u)",
    )
}

/// The number of the signal that meets a write beyond the limit on file sizes. It ends a process that does not listen.
pub fn file_limit_signal() -> i32 {
    rustix::process::Signal::XFSZ.as_raw()
}

/// Kills this process as `kill -9` does: no destructor, no buffer, nothing of it runs afterwards. For crash tests.
pub fn crash() {
    // Killing oneself is always allowed.
    let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
}

/// Kills every process of a group that was started with `process_group(0)`; `leader` is the id of its first process.
pub fn end_group(leader: u32) {
    let leader = i32::try_from(leader).ok().and_then(rustix::process::Pid::from_raw);
    if let Some(leader) = leader {
        // A group that is gone needs no ending.
        let _ = rustix::process::kill_process_group(leader, rustix::process::Signal::KILL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_given_signal_ends_waiting_work() {
        let stop = Stop::new();
        assert_eq!(stop.or(async { Ok(1) }).await.unwrap(), 1);
        stop.clone().stop();
        let error = stop.or(std::future::pending::<Result<()>>()).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Interrupted);
        assert_eq!(stop.check().unwrap_err().kind(), Kind::Interrupted);
    }

    #[tokio::test]
    async fn blocking_work_returns_its_value() {
        assert_eq!(blocking(|| 2 + 2).await, 4);
    }
}
