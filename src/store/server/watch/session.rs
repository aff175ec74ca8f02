//! The watchers of one stream: what they want, how far each has come, and what is to be said to the client.
//!
//! A watcher is **synced** when everything up to the stream's position was told to it. All synced watchers go on together,
//! from the hub: a step picks out of the next batches what each wants. Those that want the same form a group, and are
//! picked for once. A watcher that wants the past **lags** until it has read it, and joins the others with the revision from
//! which on it needs them. When the hub has moved on before the stream had room, all of them lag.
//!
//! Nothing here waits, and nothing is sent: replies are returned. How they are sent, and when the next step is made, is told
//! in `stream`.
//!
//! Invariants:
//! - A reply with events tells whole main revisions, or is a fragment and says that more follows.
//! - After a reply whose header names a revision, nothing up to there is told to that watcher any more.
//! - Steps and chunks of history are bounded; what is in memory for a stream is one of them, and the watchers themselves.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use crate::api::Message;
use crate::api::etcdserverpb::watch_create_request::FilterType;
use crate::api::etcdserverpb::{ResponseHeader, WatchCreateRequest, WatchResponse};
use crate::base::error::Result;
use crate::store::mvcc::history::Version;
use crate::store::mvcc::hub::Published;
use crate::store::mvcc::view::View;
use crate::store::mvcc::watch::past::{Chunk, Past, Way, version_before};
use crate::store::mvcc::watch::{Events, Spec, event};
use crate::store::server::watch::groups::{Group, Groups};
use crate::store::server::watch::wire::{Reply, Slice};
use crate::store::server::watch::{Counters, Limits};

/// The id of a reply that is about no watcher, or about all of the stream.
const NO_ID: i64 = -1;

/// The last so many who lag are looked at for company, when another one comes.
const COMPANY_MAX: usize = 16;

/// Why a watcher could not be made, in etcd's words.
const EMPTY_RANGE: &str = "mvcc: watcher range is empty";
const COMPACTED: &str = "mvcc: required revision has been compacted";
const DUPLICATE_ID: &str = "mvcc: duplicate watch ID provided on the WatchStream";
const TOO_MANY: &str = "etcdserver: too many watchers on one stream, open another one";

/// The watchers of a stream.
#[derive(Debug)]
pub(super) struct Session {
    limits: Limits,
    counters: Arc<Counters>,
    /// Who answers; the revision is each reply's own.
    header: ResponseHeader,
    watchers: BTreeMap<i64, Watcher>,
    /// Watchers that a compaction ended. Their ids are taken until the client has canceled them, too.
    ended: BTreeSet<i64>,
    next_id: i64,
    synced: Groups,
    /// Up to where the synced ones were told everything.
    position: i64,
    lagging: VecDeque<Lag>,
}

#[derive(Debug)]
struct Watcher {
    spec: Spec,
    /// The first revision that the client asked for; 0 for the next one.
    start: i64,
    /// The first revision that it was not told of.
    from: i64,
    fragment: bool,
    notify: bool,
    /// Whether it was told nothing since the last time that a notification was due.
    quiet: bool,
    lagging: bool,
}

/// Watchers that read the same piece of history.
#[derive(Debug)]
pub(super) struct Lag {
    /// What they want.
    pub(super) spec: Spec,
    /// Where they are.
    pub(super) past: Past,
    ids: Vec<i64>,
}

/// What of some batches is wanted.
#[derive(Debug)]
pub(super) struct Step {
    sources: Arc<[Arc<Published>]>,
    /// Group, batch and change.
    matches: Vec<(usize, u32, u32)>,
    until: i64,
    /// Batch and change of which it must be known what was before.
    pub(super) unknown: Vec<(u32, u32)>,
}

impl Step {
    /// The batches that it is made of.
    pub(super) fn sources(&self) -> &Arc<[Arc<Published>]> {
        &self.sources
    }
}

impl Session {
    /// A stream without a watcher.
    pub(super) fn new(limits: Limits, counters: Arc<Counters>) -> Self {
        Session {
            limits,
            counters,
            header: ResponseHeader::default(),
            watchers: BTreeMap::new(),
            ended: BTreeSet::new(),
            next_id: 0,
            synced: Groups::default(),
            position: 0,
            lagging: VecDeque::new(),
        }
    }

    /// What is counted.
    pub(super) fn counters(&self) -> &Arc<Counters> {
        &self.counters
    }

    /// Says who answers from now on.
    pub(super) fn answer_as(&mut self, header: ResponseHeader) {
        self.header = header;
    }

    /// Makes a watcher, or says why not. `now`: the revision of the store.
    pub(super) fn create(&mut self, request: &WatchCreateRequest, now: i64) -> Reply {
        // What was told already is not in the future, whatever state was looked at.
        let now = if self.synced.is_empty() { now } else { now.max(self.position) };
        let spec = spec_of(request);
        let refusal = if spec.is_empty() {
            EMPTY_RANGE
        } else if request.start_revision < 0 {
            COMPACTED
        } else if request.watch_id != 0 && self.is_taken(request.watch_id) {
            DUPLICATE_ID
        } else if self.watchers.len() + self.ended.len() >= self.limits.watchers_max {
            TOO_MANY
        } else {
            ""
        };
        if !refusal.is_empty() {
            return self.refuse(refusal, now);
        }
        let id = if request.watch_id == 0 { self.free_id() } else { request.watch_id };
        let start = request.start_revision;
        let from = if start == 0 { now + 1 } else { start };
        let (fragment, notify) = (request.fragment, request.progress_notify);
        self.watchers
            .insert(id, Watcher { spec: spec.clone(), start, from, fragment, notify, quiet: true, lagging: false });
        Counters::add(&self.counters.watchers, 1);
        if from > now {
            self.join(id, &spec, now);
        } else {
            self.lag(id, spec, from);
        }
        Reply::from(WatchResponse { created: true, ..self.head(id, now) })
    }

    /// Makes no watcher, and says why.
    pub(super) fn refuse(&self, reason: &str, now: i64) -> Reply {
        let head = WatchResponse { created: true, canceled: true, ..self.head(NO_ID, now) };
        Reply::from(WatchResponse { cancel_reason: reason.to_owned(), ..head })
    }

    /// Ends a watcher; nothing is said of one that does not exist.
    pub(super) fn cancel(&mut self, id: i64, now: i64) -> Option<Reply> {
        let ended = WatchResponse { canceled: true, ..self.head(id, now) };
        if self.ended.remove(&id) {
            return Some(Reply::from(ended));
        }
        let watcher = self.remove(id)?;
        if watcher.lagging {
            self.lagging.iter_mut().for_each(|lag| lag.ids.retain(|member| *member != id));
            self.lagging.retain(|lag| !lag.ids.is_empty());
        } else {
            self.synced.remove(&watcher.spec, id);
        }
        Some(Reply::from(ended))
    }

    /// How far the whole stream has come, when that can be said: every watcher is synced, and past its start.
    pub(super) fn progress(&self) -> Option<Reply> {
        let all = !self.watchers.is_empty() && self.watchers.values().all(|watcher| self.is_past(watcher));
        all.then(|| Reply::from(self.head(NO_ID, self.position)))
    }

    /// What is due to watchers that want to hear now and then how far they have come.
    pub(super) fn notify(&mut self) -> Vec<Reply> {
        let due = self.watchers.iter().filter(|(_, watcher)| watcher.notify && watcher.quiet && self.is_past(watcher));
        let replies = due.map(|(id, _)| Reply::from(self.head(*id, self.position))).collect();
        self.watchers.values_mut().for_each(|watcher| watcher.quiet = true);
        replies
    }

    /// The position, when there is somebody whom it is about.
    pub(super) fn position(&self) -> Option<i64> {
        (!self.synced.is_empty()).then_some(self.position)
    }

    /// Whether somebody reads history.
    pub(super) fn has_lagging(&self) -> bool {
        !self.lagging.is_empty()
    }

    /// Finds out what of the next batches is wanted, and by whom. `view` shows them.
    pub(super) fn step(&self, sources: Vec<Arc<Published>>, view: &View) -> Result<Step> {
        let ground = view.ground();
        let last = sources.last().map_or(self.position, |source| source.last());
        let mut step = Step { sources: sources.into(), matches: vec![], until: last, unknown: vec![] };
        let (mut main, mut mains, mut bytes) = (0, 0, 0);
        for (n, source) in step.sources.iter().enumerate() {
            let first = source.at(self.position + 1);
            for (at, change) in source.changes().iter().enumerate().skip(first) {
                if change.rev.main > main {
                    if mains >= self.limits.past.revisions_max || bytes >= self.limits.past.bytes_max {
                        step.until = main;
                        return Ok(step);
                    }
                    (main, mains) = (change.rev.main, mains + 1);
                }
                let key = event::key_of(change)?;
                let (mut wanted, mut before) = (false, false);
                self.synced.wanting(key, change.tombstone, |group, spec| {
                    (wanted, before) = (true, before || spec.wants_before());
                    step.matches.push((group, number(n), number(at)));
                });
                if wanted {
                    bytes += change.message.len();
                }
                if before {
                    if source.before(at).is_none() {
                        step.unknown.push((number(n), number(at)));
                    }
                    bytes += version_before(&ground, key, main).map_or(0, Version::message_bytes);
                }
            }
        }
        Ok(step)
    }

    /// Tells what a step found. What was before is known by now.
    pub(super) fn take(&mut self, step: &Step) -> Vec<Reply> {
        let mut found = BTreeMap::<usize, Events>::new();
        for (group, source, at) in &step.matches {
            let events = found
                .entry(*group)
                .or_insert_with(|| Events::new(Arc::clone(&step.sources), self.synced.get(*group).spec.wants_before()));
            events.pick(*source as usize, *at as usize);
        }
        self.position = step.until;
        Counters::add(&self.counters.steps, 1);
        let mut replies = vec![];
        for (group, events) in found {
            let events = Arc::new(events);
            let last = events.main(events.len() - 1);
            for id in &self.synced.get(group).members {
                let watcher = self.watchers.get_mut(id).expect("a member of a group is a watcher");
                let first = events.before_main(watcher.from);
                let slice = Slice::new(Arc::clone(&events), first..events.len());
                let counters = &self.counters;
                replies.extend(watcher.tell(slice, head(&self.header, *id, last), &self.limits, counters));
            }
        }
        replies
    }

    /// The hub has moved on: what comes after the position must be read from history. The hub is at `now`.
    pub(super) fn fall_behind(&mut self, now: i64) {
        Counters::add(&self.counters.fell_behind, 1);
        for Group { spec, members } in self.synced.take_all() {
            let mut lags = BTreeMap::<i64, Vec<i64>>::new();
            for id in members {
                let from = self.watchers[&id].from.max(self.position + 1);
                if from > now {
                    self.synced.add(&spec, id);
                } else {
                    self.set_lagging(id, true);
                    lags.entry(from).or_default().push(id);
                }
            }
            let lags = lags.into_iter().map(|(from, ids)| Lag { spec: spec.clone(), past: Past::from(from), ids });
            self.lagging.extend(lags);
        }
        self.position = now;
    }

    /// Who reads history next.
    pub(super) fn next_lag(&mut self) -> Option<Lag> {
        self.lagging.pop_front()
    }

    /// Tells what was read, and lets those join who have read everything.
    pub(super) fn caught_up(&mut self, lag: Lag, chunk: Chunk) -> Vec<Reply> {
        match chunk.way {
            Way::Scan => Counters::add(&self.counters.scans, 1),
            Way::Index => Counters::add(&self.counters.lookups, 1),
            Way::Present => {}
        }
        let Chunk { events, until, is_last, .. } = chunk;
        let (events, mut replies) = (Arc::new(events), vec![]);
        for id in &lag.ids {
            let watcher = self.watchers.get_mut(id).expect("who lags is a watcher");
            let slice = Slice::new(Arc::clone(&events), 0..events.len());
            let counters = &self.counters;
            replies.extend(watcher.tell(slice, head(&self.header, *id, until), &self.limits, counters));
            watcher.from = until + 1;
        }
        // A view that is older than what the others were told of does not count as the present.
        if is_last && (self.synced.is_empty() || until >= self.position) {
            for id in &lag.ids {
                self.join(*id, &lag.spec, until);
            }
        } else {
            self.lagging.push_back(lag);
        }
        replies
    }

    /// History was compacted away before it was read.
    pub(super) fn compacted(&mut self, lag: &Lag, compact_revision: i64) -> Vec<Reply> {
        let mut replies = vec![];
        for id in &lag.ids {
            self.remove(*id);
            self.ended.insert(*id);
            replies.push(Reply::from(WatchResponse { canceled: true, compact_revision, ..self.head(*id, 0) }));
            Counters::add(&self.counters.compacted, 1);
        }
        replies
    }

    fn free_id(&mut self) -> i64 {
        while self.is_taken(self.next_id) {
            self.next_id += 1;
        }
        self.next_id += 1;
        self.next_id - 1
    }

    fn is_taken(&self, id: i64) -> bool {
        self.watchers.contains_key(&id) || self.ended.contains(&id)
    }

    fn join(&mut self, id: i64, spec: &Spec, now: i64) {
        if self.synced.is_empty() {
            self.position = now;
        }
        self.set_lagging(id, false);
        self.synced.add(spec, id);
    }

    fn lag(&mut self, id: i64, spec: Spec, from: i64) {
        self.set_lagging(id, true);
        let same = |lag: &&mut Lag| lag.spec == spec && lag.past.next() == from;
        match self.lagging.iter_mut().rev().take(COMPANY_MAX).find(same) {
            Some(lag) => lag.ids.push(id),
            None => self.lagging.push_back(Lag { spec, past: Past::from(from), ids: vec![id] }),
        }
    }

    fn set_lagging(&mut self, id: i64, lagging: bool) {
        let watcher = self.watchers.get_mut(&id).expect("only a watcher lags");
        match (std::mem::replace(&mut watcher.lagging, lagging), lagging) {
            (false, true) => Counters::add(&self.counters.lagging, 1),
            (true, false) => Counters::sub(&self.counters.lagging, 1),
            _ => {}
        }
    }

    fn remove(&mut self, id: i64) -> Option<Watcher> {
        let watcher = self.watchers.remove(&id)?;
        Counters::sub(&self.counters.watchers, 1);
        Counters::sub(&self.counters.lagging, usize::from(watcher.lagging));
        Some(watcher)
    }

    /// Whether it was told everything up to the position, and wanted to be.
    fn is_past(&self, watcher: &Watcher) -> bool {
        !watcher.lagging && watcher.start <= self.position && watcher.from <= self.position + 1
    }

    fn head(&self, id: i64, revision: i64) -> WatchResponse {
        head(&self.header, id, revision)
    }
}

impl Watcher {
    /// Tells it some events: in no reply if there are none, in one, or in fragments.
    fn tell(&mut self, mut events: Slice, head: WatchResponse, limits: &Limits, counters: &Counters) -> Vec<Reply> {
        if events.is_empty() {
            return vec![];
        }
        self.quiet = false;
        Counters::add(&counters.events, events.len());
        let bytes_max = limits.fragment_bytes;
        if !self.fragment || events.len() < 2 || head.encoded_len() + events.bytes() < bytes_max {
            return vec![Reply::new(head, events)];
        }
        Counters::add(&counters.fragmented, 1);
        let (head, mut replies) = (WatchResponse { fragment: true, ..head }, vec![]);
        while !events.is_empty() {
            let piece = events.take(bytes_max.saturating_sub(head.encoded_len()));
            let fragment = !events.is_empty();
            replies.push(Reply::new(WatchResponse { fragment, ..head.clone() }, piece));
        }
        replies
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let ids: Vec<i64> = self.watchers.keys().copied().collect();
        for id in ids {
            self.remove(id);
        }
    }
}

fn head(header: &ResponseHeader, id: i64, revision: i64) -> WatchResponse {
    let header = Some(ResponseHeader { revision, ..*header });
    WatchResponse { header, watch_id: id, ..WatchResponse::default() }
}

fn number(n: usize) -> u32 {
    u32::try_from(n).expect("a step has fewer than 2^32 changes")
}

/// What a request wants. Filters that this program does not know leave nothing out.
fn spec_of(request: &WatchCreateRequest) -> Spec {
    let mut spec = Spec::of(&request.key, &request.range_end);
    for filter in &request.filters {
        spec = match FilterType::try_from(*filter) {
            Ok(FilterType::Noput) => spec.without_puts(),
            Ok(FilterType::Nodelete) => spec.without_deletes(),
            Err(_) => spec,
        };
    }
    if request.prev_kv { spec.with_before() } else { spec }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::backend::{Backend, CACHE_BYTES};
    use crate::store::mvcc::hub::{self, Hub};
    use crate::store::mvcc::write::Writer;

    struct Store {
        writer: Writer,
        hub: Hub,
        session: Session,
        _dir: tempfile::TempDir,
    }

    impl Store {
        fn new() -> Store {
            let dir = tempfile::tempdir().unwrap();
            let backend = Arc::new(Backend::create(&dir.path().join("db"), CACHE_BYTES).unwrap());
            let writer = Writer::open(backend, 0, |_, _| {}).unwrap();
            let hub = Hub::new(writer.revision(), hub::Limits::default());
            let limits = Limits::of(&crate::store::options::Tuning::default());
            Store { writer, hub, session: Session::new(limits, Arc::default()), _dir: dir }
        }

        fn put(&mut self, key: &'static str) {
            self.writer.put(&key.into(), &"v".into(), 0);
            self.writer.end();
            self.hub.push(self.writer.seal().unwrap());
        }

        /// Replies as ids and revisions.
        fn step(&mut self) -> Vec<(i64, i64)> {
            let sources = self.hub.since(self.session.position().unwrap(), usize::MAX).unwrap();
            let step = self.session.step(sources, &self.writer.view()).unwrap();
            told(&self.session.take(&step))
        }

        fn create(&mut self, request: &WatchCreateRequest) {
            let reply = self.session.create(request, self.writer.revision());
            assert!(!reply.head.canceled, "{reply:?}");
        }
    }

    fn told(replies: &[Reply]) -> Vec<(i64, i64)> {
        replies.iter().map(|reply| (reply.head.watch_id, reply.head.header.unwrap().revision)).collect()
    }

    fn notified(key: &'static str, start_revision: i64) -> WatchCreateRequest {
        WatchCreateRequest { key: key.into(), progress_notify: true, start_revision, ..WatchCreateRequest::default() }
    }

    #[test]
    fn notes_are_for_those_who_heard_nothing_and_have_heard_all() {
        let mut store = Store::new();
        store.put("a");
        store.create(&notified("a", 0));
        store.create(&notified("b", 0));
        store.create(&notified("a", 5));
        store.create(&WatchCreateRequest { key: "b".into(), ..WatchCreateRequest::default() });
        store.create(&notified("a", 2));
        assert_eq!(told(&store.session.notify()), [(0, 2), (1, 2)]);
        store.put("a");
        // Not told yet: the note must not go ahead of it.
        assert_eq!(told(&store.session.notify()), [(0, 2), (1, 2)]);
        assert_eq!(store.step(), [(0, 3)]);
        assert_eq!(told(&store.session.notify()), [(1, 3)]);
        assert_eq!(told(&store.session.notify()), [(0, 3), (1, 3)]);
        // Who lags has not heard all, and nobody answers for the stream.
        assert!(store.session.progress().is_none() && store.session.has_lagging());
        let mut lag = store.session.next_lag().unwrap();
        let chunk = lag.past.read(&lag.spec, &store.writer.view(), &store.session.limits.past).unwrap();
        assert_eq!(told(&store.session.caught_up(lag, chunk)), [(4, 3)]);
        assert!(store.session.progress().is_none(), "one of them is in the future");
        assert!(store.session.cancel(2, 3).is_some());
        assert_eq!(told(&store.session.progress().into_iter().collect::<Vec<_>>()), [(-1, 3)]);
    }

    #[test]
    fn steps_are_bounded_and_end_between_revisions() {
        let mut store = Store::new();
        store.session.limits.past.revisions_max = 3;
        store.create(&WatchCreateRequest { key: "a".into(), ..WatchCreateRequest::default() });
        for _ in 0..5 {
            store.put("a");
        }
        store.put("b");
        assert_eq!((store.step(), store.step(), store.session.position()), (vec![(0, 4)], vec![(0, 6)], Some(7)));
        store.session.limits.past.bytes_max = 1;
        store.put("a");
        store.put("a");
        assert_eq!((store.step(), store.step()), (vec![(0, 8)], vec![(0, 9)]));
    }

    #[test]
    fn who_wants_the_same_reads_history_once() {
        let mut store = Store::new();
        for _ in 0..5 {
            store.put("a");
        }
        for start_revision in [2, 2, 3, 2] {
            store.create(&WatchCreateRequest { key: "a".into(), start_revision, ..WatchCreateRequest::default() });
        }
        assert_eq!(store.session.counters().lagging.load(std::sync::atomic::Ordering::Relaxed), 4);
        let first = store.session.next_lag().unwrap();
        assert_eq!((first.ids.clone(), store.session.next_lag().unwrap().ids), (vec![0, 1, 3], vec![2]));
        // A view from before what the others were told is not the present.
        let mut store = Store::new();
        store.put("a");
        let old = store.writer.view();
        store.create(&WatchCreateRequest { key: "a".into(), ..WatchCreateRequest::default() });
        store.create(&WatchCreateRequest { key: "a".into(), start_revision: 2, ..WatchCreateRequest::default() });
        store.put("a");
        assert_eq!(store.step(), [(0, 3)]);
        let mut lag = store.session.next_lag().unwrap();
        let limits = store.session.limits.past;
        let chunk = lag.past.read(&lag.spec, &old, &limits).unwrap();
        assert_eq!((told(&store.session.caught_up(lag, chunk)), store.session.has_lagging()), (vec![(1, 2)], true));
        let mut lag = store.session.next_lag().unwrap();
        let chunk = lag.past.read(&lag.spec, &store.writer.view(), &limits).unwrap();
        assert_eq!((told(&store.session.caught_up(lag, chunk)), store.session.has_lagging()), (vec![(1, 3)], false));
        store.put("a");
        assert_eq!(store.step(), [(0, 4), (1, 4)]);
    }
}
