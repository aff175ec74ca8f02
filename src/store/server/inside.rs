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
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use futures::task::AtomicWaker;
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
        self.arrived.lock().unwrap_or_else(PoisonError::into_inner).push(Box::pin(request));
    }
}

impl Inside {
    /// Runs a connection, and what it puts here, to its end. Requests that are left then have nobody to answer to.
    pub(super) async fn drive<T>(&self, connection: impl Future<Output = T>) -> T {
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
                let answered =
                    (0..ANSWERS_AT_ONCE).take_while(|_| requests.poll_next_unpin(context) == Poll::Ready(Some(())));
                let goes_on = answered.count() == ANSWERS_AT_ONCE || bell.has_rung();
                if !goes_on {
                    return Poll::Pending;
                }
                if !has_budget_remaining() {
                    // Others have their turn first.
                    task.waker().wake_by_ref();
                    return Poll::Pending;
                }
            }
        })
        .await
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
        self.state.store(BUSY, Ordering::SeqCst);
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
