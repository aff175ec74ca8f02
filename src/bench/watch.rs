//! Watchers, and how late what happens reaches them: from the acknowledgement of a write to the arrival of its event.
//!
//! An event may come before the acknowledgement, on another stream; that is no time at all, and noted as such. When all
//! clients have ended, the watchers are waited for until each has seen the last revision that was acknowledged. What they
//! did not see by then is an error, because a watcher must not miss anything.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::channel::mpsc;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tonic::{Status, Streaming};

use crate::api::etcdserverpb::watch_client::WatchClient;
use crate::api::etcdserverpb::watch_request::RequestUnion;
use crate::api::etcdserverpb::{WatchCreateRequest, WatchProgressRequest, WatchRequest, WatchResponse};
use crate::base::error::{Error, Kind, Result};
use crate::bench::Work;
use crate::bench::crew::{Client, Crew};
use crate::bench::keys::end_of;
use crate::bench::site::{Site, in_time};
use crate::bench::tally::Operation;
use crate::client::line::refused;

/// The largest message that is taken, in bytes.
const MESSAGE_BYTES_MAX: usize = 256 << 20;
/// Acknowledgements that are remembered: for one that is older, the time since is taken for the time of a newer one.
const ACKS: usize = 1 << 18;
/// How long the watchers may lag behind when all clients have ended.
const DRAIN_LIMIT: Duration = Duration::from_mins(1);
/// How often an API server asks how far its watchers are.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(1);
/// The watcher that answers to manual questions for progress name.
const EVERY_WATCHER: i64 = -1;

/// Watchers that are open; they take notes from `work` on.
#[derive(Debug, Default)]
pub(super) struct Watchers {
    streams: Vec<Stream>,
    watchers: usize,
    asks_progress: bool,
}

/// Some watchers on one stream.
#[derive(Debug)]
struct Stream {
    n: usize,
    watchers: usize,
    requests: mpsc::Sender<WatchRequest>,
    responses: Streaming<WatchResponse>,
}

/// When which revision was acknowledged.
#[derive(Debug)]
pub(super) struct Acks {
    slots: Vec<(AtomicI64, AtomicU64)>,
    count: AtomicU64,
    last: AtomicI64,
}

impl Acks {
    fn new(slots: usize) -> Arc<Self> {
        let slots = (0..slots).map(|_| (AtomicI64::new(0), AtomicU64::new(0))).collect();
        Arc::new(Acks { slots, count: AtomicU64::new(0), last: AtomicI64::new(0) })
    }

    /// A write of this revision was acknowledged at `now`.
    pub(super) fn note(&self, revision: i64, now: Duration) {
        let (slot, at) = self.slot(revision);
        at.store(u64::try_from(now.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
        slot.store(revision, Ordering::Release);
        self.count.fetch_add(1, Ordering::Relaxed);
        self.last.fetch_max(revision, Ordering::Relaxed);
    }

    /// How long after the acknowledgement an event of this revision came that came at `now`.
    fn late(&self, revision: i64, now: Duration) -> Duration {
        let (slot, at) = self.slot(revision);
        if slot.load(Ordering::Acquire) < revision {
            return Duration::ZERO;
        }
        now.saturating_sub(Duration::from_nanos(at.load(Ordering::Relaxed)))
    }

    fn slot(&self, revision: i64) -> &(AtomicI64, AtomicU64) {
        let slots = u64::try_from(self.slots.len()).expect("a few hundred thousand");
        &self.slots[usize::try_from(revision.unsigned_abs() % slots).expect("below their number")]
    }
}

impl Watchers {
    /// Opens those that `work` wants; each has been confirmed when this returns.
    pub(super) async fn open(site: &Site, work: &Work) -> Result<Self> {
        let (watchers, per_stream, prefix, asks_progress) = match work {
            Work::Watch { watchers, per_stream } => (*watchers, *per_stream, site.prefix().to_owned(), false),
            Work::Kube { watchers, .. } => (*watchers, 1, site.keys.objects(), true),
            Work::Put { .. } | Work::Range { .. } | Work::Txn | Work::Lease => return Ok(Watchers::default()),
        };
        let mut streams = vec![];
        for (n, first) in (0..watchers).step_by(per_stream.max(1)).enumerate() {
            let here = per_stream.min(watchers - first);
            let opened = in_time(Stream::open(site, n, here, &prefix, asks_progress)).await;
            streams.push(opened.map_err(|status| refused(&status).during("open a watcher"))?);
        }
        Ok(Watchers { streams, watchers, asks_progress })
    }

    /// Lets the clients work, and waits until everybody has seen what they did.
    pub(super) async fn work<F: Future<Output = ()> + Send + 'static>(
        self,
        crew: &Arc<Crew>,
        mut client: impl FnMut(Client, Arc<Acks>) -> F,
    ) {
        let acks = Acks::new(ACKS);
        let (all_done, last) = watch::channel(None);
        let mut watching = JoinSet::new();
        for stream in self.streams {
            let (crew, acks, last) = (Arc::clone(crew), Arc::clone(&acks), last.clone());
            watching.spawn(stream.note(crew, acks, last, self.asks_progress));
        }
        crew.work(|one| client(one, Arc::clone(&acks))).await;
        all_done.send_replace(Some(acks.last.load(Ordering::Relaxed)));
        let mut seen = 0;
        let drained = async {
            while let Some(events) = watching.join_next().await {
                seen += events.unwrap_or(0);
            }
        };
        // Those that are not through by then have missed what they have not seen.
        let _ = tokio::time::timeout(DRAIN_LIMIT, drained).await;
        let expected = acks.count.load(Ordering::Relaxed) * self.watchers as u64;
        crew.tally.shard(0).failed("missed_event", expected.saturating_sub(seen), missed);
    }
}

fn missed() -> Error {
    Error::new(Kind::Unavailable, "a watcher did not see everything that was acknowledged")
        .hint("watchers were cancelled, or are still behind: watch fewer keys, or write less")
}

impl Stream {
    async fn open(site: &Site, n: usize, watchers: usize, prefix: &str, kube: bool) -> Result<Self, Status> {
        let create = WatchCreateRequest {
            key: Bytes::copy_from_slice(prefix.as_bytes()),
            range_end: end_of(prefix),
            prev_kv: kube,
            progress_notify: kube,
            ..WatchCreateRequest::default()
        };
        let create = WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) };
        let (mut requests, outgoing) = mpsc::channel(watchers);
        for _ in 0..watchers {
            requests.try_send(create.clone()).expect("the queue has room for all");
        }
        let mut client = WatchClient::new(site.line(n)).max_decoding_message_size(MESSAGE_BYTES_MAX);
        let mut responses = client.watch(outgoing).await?.into_inner();
        for _ in 0..watchers {
            let response = responses.message().await?.unwrap_or_default();
            if !response.created || response.canceled {
                let reason =
                    if response.cancel_reason.is_empty() { "it was not created" } else { &response.cancel_reason };
                return Err(Status::failed_precondition(reason));
            }
        }
        Ok(Stream { n, watchers, requests, responses })
    }

    /// Notes events until each watcher has seen the `last` revision; how many came.
    async fn note(
        mut self,
        crew: Arc<Crew>,
        acks: Arc<Acks>,
        mut last: watch::Receiver<Option<i64>>,
        asks: bool,
    ) -> u64 {
        let mut events = 0;
        let mut seen: BTreeMap<i64, i64> = BTreeMap::new();
        let mut asked: Option<Duration> = None;
        let mut questions = tokio::time::interval(PROGRESS_INTERVAL);
        loop {
            let end = *last.borrow_and_update();
            let is_through = |end| end == 0 || seen.values().filter(|seen| **seen >= end).count() == self.watchers;
            if end.is_some_and(is_through) {
                return events;
            }
            let response = tokio::select! {
                biased;
                response = self.responses.message() => response,
                _ = last.changed() => continue,
                _ = questions.tick(), if asks && asked.is_none() => {
                    let progress = RequestUnion::ProgressRequest(WatchProgressRequest {});
                    if self.requests.try_send(WatchRequest { request_union: Some(progress) }).is_ok() {
                        asked = Some(crew.pace.elapsed());
                    }
                    continue;
                }
            };
            let now = crew.pace.elapsed();
            let mut notes = crew.tally.shard(self.n);
            match response {
                Ok(Some(response)) if !response.canceled => {
                    for event in &response.events {
                        let revision = event.kv.as_ref().map_or(0, |kv| kv.mod_revision);
                        notes.took(Operation::Event, acks.late(revision, now), now);
                        events += 1;
                    }
                    if let Some(kv) = response.events.last().and_then(|event| event.kv.as_ref()) {
                        seen.insert(response.watch_id, kv.mod_revision);
                    } else if let Some(at) = asked.take_if(|_| response.watch_id == EVERY_WATCHER) {
                        notes.done(Operation::Progress, at, now);
                    }
                }
                Ok(Some(response)) => {
                    let reason = Status::unavailable(response.cancel_reason);
                    notes.failed("watcher_cancelled", 1, || refused(&reason));
                    return events;
                }
                Ok(None) => {
                    notes.failed("watcher_ended", 1, || refused(&Status::unavailable("the member ended the stream")));
                    return events;
                }
                Err(status) => {
                    notes.failed(&format!("{:?}", status.code()), 1, || refused(&status));
                    return events;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_late_since_its_acknowledgement() {
        const MS: Duration = Duration::from_millis(1);
        let acks = Acks::new(4);
        acks.note(5, 10 * MS);
        assert_eq!(acks.late(5, 13 * MS), 3 * MS);
        assert_eq!(acks.late(6, 13 * MS), Duration::ZERO, "not acknowledged yet");
        assert_eq!(acks.late(9, 13 * MS), Duration::ZERO, "in the place of 5, not acknowledged yet");
        acks.note(9, 20 * MS);
        assert_eq!(acks.late(5, 50 * MS), 30 * MS, "forgotten: since a newer one");
        assert_eq!((acks.count.load(Ordering::Relaxed), acks.last.load(Ordering::Relaxed)), (2, 9));
    }
}
