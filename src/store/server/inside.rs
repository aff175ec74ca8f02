//! A connection and all its requests in one task.
//!
//! HTTP/2 carries many requests at once. The usual way gives each a task of its own: then every answer is a wake-up of its
//! own, on another thread as often as not, and every one takes the connection's lock there to queue its frames. Here the
//! requests of a connection are polled by the task that reads and writes it. A batch of writes that became durable wakes a
//! connection once, and leaves it in as few packets as fit.
//!
//! The price: what requests of one connection do at once, they do one after the other. So nothing may compute for long here;
//! what may goes to a thread for blocking work.

use std::future::poll_fn;
use std::panic::AssertUnwindSafe;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

use futures::stream::FuturesUnordered;
use futures::task::AtomicWaker;
use futures::{FutureExt as _, StreamExt as _};
use hyper::rt::Executor;
use tokio::task::coop::has_budget_remaining;

/// After so many answers the connection is polled: clients read the first while the next are made.
const ANSWERS_AT_ONCE: usize = 12;

type Work = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Where a connection puts the requests that it read.
#[derive(Clone, Default)]
pub(super) struct Inside {
    arrived: Arc<Mutex<Vec<Work>>>,
}

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for Inside {
    fn execute(&self, request: F) {
        // One that panics ends by itself, as if it had a task of its own.
        let request = AssertUnwindSafe(request).catch_unwind().map(drop);
        self.arrived.lock().unwrap_or_else(PoisonError::into_inner).push(Box::pin(request));
    }
}

impl Inside {
    /// Runs a connection, and what it puts here, to its end. Requests that are left then have nobody to answer to.
    pub(super) async fn drive<T>(&self, connection: impl Future<Output = T>) -> T {
        let _emptied = Emptied(self);
        let mut connection = pin!(connection);
        let mut requests = FuturesUnordered::new();
        let bell = Arc::new(Bell::default());
        let waker = Waker::from(Arc::clone(&bell));
        poll_fn(|task| {
            bell.task.register(task.waker());
            let context = &mut Context::from_waker(&waker);
            loop {
                bell.listen();
                if let Poll::Ready(end) = connection.as_mut().poll(context) {
                    return Poll::Ready(end);
                }
                requests.extend(self.arrived.lock().unwrap_or_else(PoisonError::into_inner).drain(..));
                let mut is_answered =
                    || has_budget_remaining() && requests.poll_next_unpin(context) == Poll::Ready(Some(()));
                let answered = (0..ANSWERS_AT_ONCE).take_while(|_| is_answered()).count();
                if !has_budget_remaining() {
                    // Others have their turn first.
                    task.waker().wake_by_ref();
                    return Poll::Pending;
                }
                if answered < ANSWERS_AT_ONCE && !bell.has_rung() {
                    return Poll::Pending;
                }
            }
        })
        .await
    }
}

/// Requests hold what puts them here: those that were never polled would keep themselves alive.
struct Emptied<'a>(&'a Inside);

impl Drop for Emptied<'_> {
    fn drop(&mut self) {
        let left = std::mem::take(&mut *self.0.arrived.lock().unwrap_or_else(PoisonError::into_inner));
        drop(left);
    }
}

/// Nobody polls: whoever rings wakes the task.
const QUIET: u8 = 0;
/// Somebody polls, and will look again before they stop.
const BUSY: u8 = 1;
/// There is something to poll for.
const RUNG: u8 = 2;

/// Wakes the task unless it is awake: a connection and its requests wake each other all the time.
#[derive(Default)]
struct Bell {
    state: AtomicU8,
    task: AtomicWaker,
}

impl Bell {
    /// From here on, what rings is seen by `has_rung`.
    fn listen(&self) {
        self.state.swap(BUSY, Ordering::SeqCst);
    }

    /// Whether it rang since; when it did not, whatever rings from here on wakes the task.
    fn has_rung(&self) -> bool {
        self.state.compare_exchange(BUSY, QUIET, Ordering::SeqCst, Ordering::SeqCst).is_err()
    }
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if self.state.swap(RUNG, Ordering::SeqCst) == QUIET {
            self.task.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;
    use std::time::Duration;
    use tokio::sync::oneshot;

    /// A connection that has read so many requests, of which the first few panic: how many were answered. Each waits for
    /// somebody elsewhere, and then wakes the connection, as one does that has something to send.
    async fn answered(n: usize, panics: usize) -> usize {
        let (inside, done, connection) =
            (Inside::default(), Arc::new(AtomicUsize::new(0)), Arc::new(AtomicWaker::new()));
        let mut waiting = vec![];
        for nth in 0..n {
            let (answer, wait) = oneshot::channel();
            waiting.push(answer);
            let (done, connection) = (Arc::clone(&done), Arc::clone(&connection));
            inside.execute(async move {
                wait.await.unwrap();
                assert!(nth >= panics, "a request that panics");
                done.fetch_add(1, Ordering::SeqCst);
                connection.wake();
            });
        }
        let elsewhere = std::thread::spawn(move || {
            for (nth, answer) in waiting.into_iter().enumerate() {
                answer.send(()).unwrap();
                if nth % 100 == 0 {
                    std::thread::sleep(Duration::from_millis(1));
                }
            }
        });
        let sent = poll_fn(|context| {
            connection.register(context.waker());
            if done.load(Ordering::SeqCst) == n - panics { Poll::Ready(()) } else { Poll::Pending }
        });
        tokio::time::timeout(Duration::from_secs(20), inside.drive(sent)).await.expect("nobody is forgotten");
        elsewhere.join().unwrap();
        done.load(Ordering::SeqCst)
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn every_request_is_polled_to_its_end_however_many_answers_come_at_once() {
        for n in [1, ANSWERS_AT_ONCE, ANSWERS_AT_ONCE + 1, 3000] {
            assert_eq!(answered(n, 0).await, n);
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_request_that_panics_ends_alone() {
        assert_eq!(answered(20, 3).await, 17);
    }

    #[tokio::test]
    async fn requests_that_were_never_polled_are_let_go_with_their_connection() {
        let (inside, witness) = (Inside::default(), Arc::new(()));
        let held = (inside.clone(), Arc::clone(&witness));
        inside.execute(async move {
            let _held = held;
            std::future::pending::<()>().await;
        });
        inside.drive(async {}).await;
        drop(inside);
        assert_eq!(Arc::strong_count(&witness), 1);
    }
}
