//! One stream: hears its client, waits for what is published, and sends when there is room.
//!
//! There is one task for each stream, and it does one thing at a time: it does not read the hub, nor history, nor the next
//! question, before what it has to say was taken. That is what bounds it.

use std::future::{pending, ready};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures::Stream;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::time::{Interval, MissedTickBehavior, interval_at};
use tonic::{Code, Status, Streaming};

use crate::api::etcdserverpb::watch_request::RequestUnion;
use crate::api::etcdserverpb::{WatchCreateRequest, WatchRequest};
use crate::base::error::Error;
use crate::base::rng;
use crate::base::stop::blocking;
use crate::store::auth::grant::Access;
use crate::store::machine::state::State;
use crate::store::mvcc::hub::Published;
use crate::store::mvcc::view::Fault;
use crate::store::mvcc::watch::past::read_before;
use crate::store::node::{self, Handle};
use crate::store::server::convert::header;
use crate::store::server::gate;
use crate::store::server::identity::{Claim, subject};
use crate::store::server::status::{Reason, broken};
use crate::store::server::watch::Counters;
use crate::store::server::watch::Limits;
use crate::store::server::watch::session::{Session, Step};
use crate::store::server::watch::wire::Reply;

/// Without a leader for so many election timeouts, a stream that wants one ends. etcd's figure.
const LEADERLESS_MAX: u32 = 3;
/// How long the reason for a stream's end waits for the connection to take it.
const LAST_WORD: Duration = Duration::from_secs(1);

/// Replies that are handed over together, or why there are no more.
pub(super) type Burst = Result<Replies, Status>;

/// Replies on their way to the client; their events are pending until it takes them, or has gone.
#[derive(Debug)]
pub(super) struct Replies {
    replies: Vec<Reply>,
    events: usize,
    counters: Arc<Counters>,
}

impl Replies {
    fn new(replies: Vec<Reply>, counters: &Arc<Counters>) -> Self {
        let events = replies.iter().map(Reply::events).sum();
        Counters::add(&counters.pending, events);
        Replies { replies, events, counters: Arc::clone(counters) }
    }

    fn take(mut self) -> Vec<Reply> {
        std::mem::take(&mut self.replies)
    }
}

impl Drop for Replies {
    fn drop(&mut self) {
        Counters::sub(&self.counters.pending, self.events);
    }
}

/// A refusal as etcd's watches quote it: Go's print of a gRPC error.
fn in_words_of_go(refusal: &Status) -> String {
    format!("rpc error: code = {:?} desc = {}", refusal.code(), refusal.message())
}

/// What a stream says, reply by reply.
#[derive(Debug)]
pub(super) struct Said {
    bursts: mpsc::Receiver<Burst>,
    burst: std::vec::IntoIter<Reply>,
}

impl Said {
    pub(super) fn new(bursts: mpsc::Receiver<Burst>) -> Self {
        Said { bursts, burst: vec![].into_iter() }
    }
}

impl Stream for Said {
    type Item = Result<Reply, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            if let Some(reply) = self.burst.next() {
                return Poll::Ready(Some(Ok(reply)));
            }
            match ready!(self.bursts.poll_recv(context)) {
                Some(Ok(burst)) => self.burst = burst.take().into_iter(),
                Some(Err(status)) => return Poll::Ready(Some(Err(status))),
                None => return Poll::Ready(None),
            }
        }
    }
}

/// The task of a stream.
pub(super) struct Talk {
    handle: Handle,
    claim: Claim,
    session: Session,
    limits: Limits,
    readers: Arc<Semaphore>,
    published: watch::Receiver<i64>,
    /// What is to be said next.
    replies: Vec<Reply>,
    /// The client asked how far it has come; at least this far is to be told.
    asked: Option<i64>,
    leader: Leader,
}

impl Talk {
    pub(super) fn new(
        handle: &Handle,
        session: Session,
        limits: Limits,
        readers: Arc<Semaphore>,
        claim: Claim,
        wants_leader: bool,
    ) -> Self {
        Talk {
            handle: handle.clone(),
            claim,
            session,
            limits,
            readers,
            published: handle.published(),
            replies: vec![],
            asked: None,
            leader: Leader::new(wants_leader.then(|| handle.tuning().election)),
        }
    }

    /// Talks until the client, the member or the leader is gone.
    pub(super) async fn run(mut self, questions: Streaming<WatchRequest>, said: mpsc::Sender<Burst>) {
        let handle = self.handle.clone();
        let end = tokio::select! {
            biased;
            () = handle.stopped() => Err(node::Fault::Stopped.into()),
            end = self.talk(questions, &said) => end,
        };
        // Watchers are gone before the client is told why.
        drop(self);
        if let Err(status) = end {
            // Who does not read is not waited for.
            let _ = tokio::time::timeout(LAST_WORD, said.send(Err(status))).await;
        }
    }

    async fn talk(&mut self, mut questions: Streaming<WatchRequest>, said: &mpsc::Sender<Burst>) -> Result<(), Status> {
        let mut hears = true;
        let mut notes = ticks(jittered(self.limits.progress)?);
        loop {
            self.session.answer_as(header(&self.handle, 0).unwrap_or_default());
            self.answer_progress();
            if !self.replies.is_empty() {
                tokio::select! {
                    biased;
                    lost = self.leader.lost(&self.handle) => return Err(lost.into()),
                    room = said.reserve() => match room {
                        Ok(room) => {
                            let replies = std::mem::take(&mut self.replies);
                            room.send(Ok(Replies::new(replies, self.session.counters())));
                        }
                        Err(_) => return Ok(()),
                    }
                }
                continue;
            }
            let busy = self.is_busy();
            tokio::select! {
                biased;
                lost = self.leader.lost(&self.handle) => return Err(lost.into()),
                () = said.closed() => return Ok(()),
                // A question is answered before the next one is read.
                question = questions.message(), if hears && self.asked.is_none() => match question {
                    Ok(Some(question)) => self.hear(question),
                    // Who asks nothing more may listen on.
                    Ok(None) => hears = false,
                    Err(status) => return Err(ended(status)),
                },
                _ = notes.tick() => self.replies = self.session.notify(),
                () = ready(()), if busy => self.work().await?,
                more = self.published.changed(), if !busy => if more.is_err() {
                    return Err(node::Fault::Stopped.into());
                },
            }
        }
    }

    fn hear(&mut self, question: WatchRequest) {
        match question.request_union {
            Some(RequestUnion::CreateRequest(request)) => {
                let now = self.handle.state().view.revision();
                let reply = match self.permit(&request) {
                    Ok(()) => self.session.create(&request, now),
                    Err(refusal) => self.session.refuse(&in_words_of_go(&refusal), now),
                };
                self.replies.push(reply);
            }
            Some(RequestUnion::CancelRequest(request)) => {
                let now = self.handle.state().view.revision();
                self.replies.extend(self.session.cancel(request.watch_id, now));
            }
            Some(RequestUnion::ProgressRequest(_)) => self.asked = Some(self.handle.hub().revision()),
            // etcd overhears what it does not understand.
            None => {}
        }
    }

    /// Whether its client may watch this: asked for each watcher, because a stream outlives tokens and rules.
    fn permit(&self, request: &WatchCreateRequest) -> Result<(), Status> {
        let requester = self.claim.requester(&self.handle)?;
        let key = if request.key.is_empty() { &[0][..] } else { &request.key };
        Ok(subject(&self.handle.state(), &requester).may(Access::Read, key, &request.range_end)?)
    }

    /// Answers the question how far the stream has come, once it has come as far as the store was when it was asked. Nobody
    /// answers for a stream on which somebody reads history.
    fn answer_progress(&mut self) {
        let Some(asked) = self.asked else { return };
        if self.session.position().is_none_or(|position| position >= asked) {
            self.replies.extend(self.session.progress());
            self.asked = None;
        }
    }

    fn is_busy(&self) -> bool {
        let behind = self.session.position().is_some_and(|position| position < self.handle.hub().revision());
        behind || self.session.has_lagging()
    }

    /// Takes what was published, and a piece of history for one of those who lag.
    async fn work(&mut self) -> Result<(), Status> {
        if let Some(position) = self.session.position() {
            match self.handle.hub().since(position, self.limits.past.bytes_max) {
                Some(sources) if sources.is_empty() => {}
                Some(sources) => self.step(sources).await?,
                None => self.session.fall_behind(self.handle.hub().revision()),
            }
        }
        self.read_history().await
    }

    async fn step(&mut self, sources: Vec<Arc<Published>>) -> Result<(), Status> {
        let state = self.handle.state();
        let step = self.session.step(sources, &state.view).map_err(|error| broken(&self.handle, error))?;
        if !step.unknown.is_empty() {
            self.look_up(&step, state).await.map_err(|error| broken(&self.handle, error))?;
        }
        self.replies.extend(self.session.take(&step));
        Ok(())
    }

    /// Looks up what keys were before, for everybody.
    async fn look_up(&self, step: &Step, state: Arc<State>) -> Result<(), Error> {
        let _turn = self.readers.acquire().await;
        let mut unknown = step.unknown.clone();
        let sources = Arc::clone(step.sources());
        // Somebody else may have done it while this one waited.
        unknown.retain(|(source, at)| sources[*source as usize].before(*at as usize).is_none());
        if unknown.is_empty() {
            return Ok(());
        }
        self.session.counters().befores.fetch_add(unknown.len() as u64, Ordering::Relaxed);
        let found = blocking(move || {
            let ground = state.view.ground();
            let mut found: Vec<Vec<_>> = sources.iter().map(|_| vec![]).collect();
            for (source, at) in unknown {
                let (source, at) = (source as usize, at as usize);
                found[source].push((at, read_before(&ground, &sources[source].changes()[at])?));
            }
            Ok::<_, Error>(found)
        });
        let notes = found.await?.into_iter();
        step.sources().iter().zip(notes).for_each(|(source, notes)| self.handle.hub().note(source, notes));
        Ok(())
    }

    async fn read_history(&mut self) -> Result<(), Status> {
        let Some(mut lag) = self.session.next_lag() else { return Ok(()) };
        let _turn = self.readers.acquire().await;
        let (handle, limits) = (self.handle.clone(), self.limits.past);
        let read = blocking(move || {
            // Held for this piece alone: whoever stalls after it holds no compaction back.
            let view = &handle.state().view;
            let chunk = lag.past.read(&lag.spec, view, &limits);
            (lag, chunk, view.compact_revision())
        });
        let (lag, chunk, compact_revision) = read.await;
        let replies = match chunk {
            Ok(chunk) => self.session.caught_up(lag, chunk),
            Err(Fault::Failed(error)) => return Err(broken(&self.handle, error)),
            Err(Fault::Compacted | Fault::Future) => self.session.compacted(&lag, compact_revision),
        };
        self.replies.extend(replies);
        Ok(())
    }
}

/// Whether there is a leader, for a stream that must have one.
struct Leader {
    looks: Option<Interval>,
    leaderless: u32,
}

impl Leader {
    fn new(election: Option<Duration>) -> Self {
        Leader { looks: election.map(ticks), leaderless: 0 }
    }

    /// Returns when there has been none for too long.
    async fn lost(&mut self, handle: &Handle) -> Reason {
        let Some(looks) = &mut self.looks else { return pending().await };
        loop {
            looks.tick().await;
            self.leaderless = if handle.status().leader == 0 { self.leaderless + 1 } else { 0 };
            if self.leaderless >= LEADERLESS_MAX {
                return Reason::NoLeader;
            }
        }
    }
}

fn ticks(period: Duration) -> Interval {
    let mut ticks = interval_at(tokio::time::Instant::now() + period, period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

/// Up to a tenth longer, so that streams do not all speak at once.
fn jittered(period: Duration) -> Result<Duration, Status> {
    let mut seed = [0; 8];
    rng::fill(&mut seed).map_err(|error| Status::internal(error.to_string()))?;
    let percent = rng::Seeded::new(u64::from_be_bytes(seed)).below(1001);
    Ok(period + period.mul_f64(f64::from(u32::try_from(percent).unwrap_or_default()) / 10_000.0))
}

/// Why a client is not heard any more.
fn ended(status: Status) -> Status {
    match status.code() {
        // It has gone, or ended the call.
        Code::Cancelled | Code::Unknown => Reason::WatchCanceled.into(),
        _ => gate::too_long(&status).unwrap_or(status),
    }
}
