//! Streams that carry a whole state: made on a thread in the background, sent as fast as their reader takes them.
//!
//! Between the two is a short queue of bursts: small pieces are put there many at a time, because it costs both sides to wake
//! the reader, and a reader who finds more takes more at once. One that takes nothing for a while is cut off, by name: what it
//! holds (its view, its thread) is then free. One that goes away is noticed at the next burst. Writers are in nobody's way: a
//! stream reads a moment that does not change, in short looks.
//!
//! How many streams there are at once is limited too, because each one keeps what compactions made superfluous.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures::Stream;
use futures::future::BoxFuture;
use tokio::runtime;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::time::timeout;
use tonic::Status;

use crate::api::Message;
use crate::base::clock::Stopwatch;
use crate::base::error::{Error, Kind, Result};
use crate::base::stop::background;
use crate::base::units;
use crate::store::machine::records::{Origin, Picture};
use crate::store::node::{Fault, Handle};
use crate::store::server::pace::{Answered, BURST_BYTES, Pace};
use crate::store::server::peer::{self, Peer};
use crate::store::server::status;
use crate::store::server::views::{Reading, Views};

/// Before its first piece a stream rests at most so many times as long as it works, and no longer than this altogether: its
/// reader waits.
const RESTS_MAX: u32 = 20;
const REST_MAX: Duration = Duration::from_secs(10);

/// The streams of a member.
#[derive(Clone)]
pub struct Exports {
    handle: Handle,
    slots: Arc<Semaphore>,
    followers: Arc<Semaphore>,
    views: Views,
}

impl Exports {
    /// Of this member.
    pub fn new(handle: &Handle) -> Self {
        let [slots, followers] = [(); 2].map(|()| Arc::new(Semaphore::new(handle.tuning().exports_max)));
        let views =
            Views::new(handle.tuning().exports_max, handle.tuning().export_idle, handle.tuning().moment_age_max);
        Exports { handle: handle.clone(), slots, followers, views }
    }

    /// Holds a moment for its readers.
    pub(super) fn hold(&self, picture: Picture) -> Result<Reading> {
        let reading = self.views.hold(picture)?;
        if self.views.are_unswept() {
            let views = self.views.clone();
            runtime::Handle::current().spawn(async move {
                while let Some(pause) = views.sweep() {
                    tokio::time::sleep(pause).await;
                }
            });
        }
        Ok(reading)
    }

    /// Reads a moment that is held.
    pub(super) fn read(&self, token: &Bytes) -> Option<Reading> {
        self.views.read(token)
    }

    /// The member.
    pub(super) fn handle(&self) -> &Handle {
        &self.handle
    }

    /// The member, as its pictures name it.
    pub(super) fn origin(&self) -> Origin {
        let member = self.handle.member().clone();
        Origin {
            cluster_id: member.cluster_id,
            member_id: member.member_id,
            lineage: member.lineage,
            name: member.name,
            peer_urls: member.peer_urls,
            client_urls: member.client_urls,
        }
    }

    /// The right to one more stream.
    pub(super) fn slot(&self) -> Result<OwnedSemaphorePermit, Status> {
        Arc::clone(&self.slots).try_acquire_owned().map_err(|_| {
            let most = self.handle.tuning().exports_max;
            Status::resource_exhausted(format!("holdfast: {most} snapshots are being read already; try again later"))
        })
    }

    /// The right to one more stream that goes on.
    pub(super) fn follower(&self) -> Result<OwnedSemaphorePermit, Status> {
        Arc::clone(&self.followers).try_acquire_owned().map_err(|_| {
            let most = self.handle.tuning().exports_max;
            Status::resource_exhausted(format!("holdfast: {most} readers follow what happens already; try again later"))
        })
    }

    /// How many more streams there may be.
    #[cfg(test)]
    pub(super) fn free(&self) -> usize {
        self.slots.available_permits()
    }

    /// How many streams go on.
    #[cfg(test)]
    pub(super) fn following(&self) -> usize {
        self.handle.tuning().exports_max - self.followers.available_permits()
    }

    /// How many moments are held.
    #[cfg(test)]
    pub(super) fn held(&self) -> usize {
        self.views.len()
    }

    /// The stream of what `work` sends, of which so many bursts wait for their reader. It begins when the stream is first asked.
    pub(super) fn stream<T: Message + 'static>(
        &self,
        slot: OwnedSemaphorePermit,
        queue: usize,
        work: impl FnOnce(&mut Outlet<T>) -> Result<()> + Send + 'static,
    ) -> Pieces<T> {
        let (sender, bursts) = mpsc::channel(queue);
        let mut outlet = Outlet::new(sender, &self.handle);
        let handle = self.handle.clone();
        let working = background(move || {
            let outcome = work(&mut outlet);
            drop((outlet, slot));
            outcome.map_err(|error| match error.kind() {
                Kind::Interrupted => Status::aborted(format!("holdfast: the snapshot was broken off: {error}")),
                Kind::Damaged => status::broken(&handle, error),
                Kind::Unavailable => Fault::Stopped.into(),
                _ => status::failed(&error),
            })
        });
        let working = async move { working.await.unwrap_or_else(|refused| Err(status::failed(&refused))) };
        Pieces { bursts, burst: vec![].into_iter(), working: Some(Box::pin(working)), failed: None }
    }
}

impl fmt::Debug for Exports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Exports").field("free", &self.slots.available_permits()).finish_non_exhaustive()
    }
}

/// Where a stream's pieces are put, on a thread in the background.
#[derive(Debug)]
pub(super) struct Outlet<T> {
    sender: mpsc::Sender<Vec<T>>,
    stall: Duration,
    reader: Option<Arc<Peer>>,
    handle: Handle,
    pace: Pace,
    /// Since the state was taken that is sent.
    taken: Stopwatch,
    /// Bytes since the last burst ended, and when that was: before the pause after it, and after it.
    bytes: u64,
    ended: Stopwatch,
    began: Stopwatch,
    /// How long it rested before the first piece.
    rested: Duration,
    /// What is sent is what writers do: it does not give way to them.
    is_live: bool,
}

impl<T: Message> Outlet<T> {
    fn new(sender: mpsc::Sender<Vec<T>>, handle: &Handle) -> Self {
        let (stall, pace) = (handle.tuning().export_stall, Pace::new(answered(handle)));
        let [taken, ended, began] = [(); 3].map(|()| Stopwatch::start());
        let (reader, handle) = (peer::current(), handle.clone());
        Outlet {
            sender,
            stall,
            reader,
            handle,
            pace,
            taken,
            bytes: 0,
            ended,
            began,
            rested: Duration::ZERO,
            is_live: false,
        }
    }

    /// Puts pieces that are sent together, and waits as long as the reader has others to take first, or writers would feel it.
    pub(super) fn send(&mut self, burst: Vec<T>) -> Result<()> {
        self.bytes += burst.iter().map(|piece| piece.encoded_len() as u64).sum::<u64>();
        if self.bytes >= BURST_BYTES {
            self.rest(self.bytes, Duration::MAX);
        }
        if self.taken.elapsed() > self.handle.tuning().moment_age_max {
            return Err(self.cut_off("read a moment", self.handle.tuning().moment_age_max));
        }
        self.put(burst)
    }

    /// A part of what comes before the first piece is done, as much work as a burst: rests as after one, but not so long that
    /// a reader who waits would give up. That the reader went away is an error.
    pub(super) fn go_on(&mut self) -> Result<()> {
        let most = self.began.elapsed().saturating_mul(RESTS_MAX).min(REST_MAX.saturating_sub(self.rested));
        let rested = self.rest(BURST_BYTES, most);
        self.rested += rested;
        if self.sender.is_closed() { Err(gone()) } else { Ok(()) }
    }

    /// Rests after so many bytes as long as the pace says, but for so long at most, and not when the reader or the member is
    /// gone. How long.
    fn rest(&mut self, bytes: u64, most: Duration) -> Duration {
        let (passed, worked) = (self.ended.elapsed(), self.began.elapsed());
        self.ended = Stopwatch::start();
        let pause = self.pace.sent(bytes, passed, worked, answered(&self.handle)).min(most);
        if !pause.is_zero() && !self.is_live {
            runtime::Handle::current().block_on(async {
                tokio::select! {
                    () = tokio::time::sleep(pause) => {}
                    () = self.sender.closed() => {}
                    () = self.handle.stopped() => {}
                }
            });
        }
        (self.bytes, self.began) = (0, Stopwatch::start());
        pause
    }

    fn put(&self, burst: Vec<T>) -> Result<()> {
        match self.sender.try_send(burst) {
            Ok(()) => Ok(()),
            Err(TrySendError::Closed(_)) => Err(gone()),
            Err(TrySendError::Full(burst)) => {
                let sent = runtime::Handle::current().block_on(timeout(self.stall, self.sender.send(burst)));
                match sent {
                    Ok(Ok(())) => Ok(()),
                    Ok(Err(_)) => Err(gone()),
                    Err(_) => Err(self.cut_off("took nothing", self.stall)),
                }
            }
        }
    }

    /// Waits for something to be applied, for so long at most. That the reader or the member is gone is an error.
    pub(super) fn wait(&self, applied: &mut watch::Receiver<u64>, most: Duration) -> Result<()> {
        let stopping = || Error::new(Kind::Unavailable, "the member is stopping");
        runtime::Handle::current().block_on(async {
            tokio::select! {
                biased;
                () = self.sender.closed() => Err(gone()),
                () = self.handle.stopped() => Err(stopping()),
                _ = timeout(most, applied.changed()) => Ok(()),
            }
        })
    }

    /// After so long a reader that takes nothing is cut off.
    pub(super) fn stall(&self) -> Duration {
        self.stall
    }

    /// The member.
    pub(super) fn handle(&self) -> &Handle {
        &self.handle
    }

    /// Cuts a reader off.
    pub(super) fn cut_off(&self, why: &str, time: Duration) -> Error {
        let (time, reader) = (units::duration(time), peer::name(self.reader.as_ref()));
        tracing::warn!(remote_addr = reader, "a reader of a snapshot {why} for {time} and was cut off");
        Error::new(Kind::Interrupted, format!("its reader {why} for {time}"))
    }

    /// What is sent from now on is what became different since: a newer state, as fast as its writers made it.
    pub(super) fn takes_another(&mut self) {
        (self.taken, self.is_live) = (Stopwatch::start(), true);
    }
}

fn answered(handle: &Handle) -> Answered {
    let counters = handle.counters();
    Answered { count: counters.answered.get(), total_us: counters.answered_us.get(), waiting: handle.waiting() }
}

fn gone() -> Error {
    Error::new(Kind::Interrupted, "its reader went away")
}

/// A stream, as gRPC sends it.
pub struct Pieces<T> {
    bursts: mpsc::Receiver<Vec<T>>,
    /// The rest of the one that is being taken.
    burst: std::vec::IntoIter<T>,
    working: Option<BoxFuture<'static, Result<(), Status>>>,
    failed: Option<Status>,
}

impl<T: Send + Unpin + 'static> Stream for Pieces<T> {
    type Item = Result<T, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if let Some(working) = &mut self.working
            && let Poll::Ready(outcome) = working.as_mut().poll(context)
        {
            self.working = None;
            self.failed = outcome.err();
        }
        loop {
            if let Some(piece) = self.burst.next() {
                return Poll::Ready(Some(Ok(piece)));
            }
            match ready!(self.bursts.poll_recv(context)) {
                Some(burst) => self.burst = burst.into_iter(),
                // The work has let go of the queue and is about to say how it ended.
                None if self.working.is_some() => return Poll::Pending,
                None => return Poll::Ready(self.failed.take().map(Err)),
            }
        }
    }
}

impl<T> fmt::Debug for Pieces<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pieces").field("working", &self.working.is_some()).finish_non_exhaustive()
    }
}
