//! A stream of changes that goes on: what the member applies, a step at a time.
//!
//! When a reader is up to date, **steps** follow. Each is a small stream of its own that leads from the state which the one
//! before it reached to one that the member published since: a descriptor of that state (revision, raft's position, state
//! digest), what became different, and an `End`. So each proves itself, and after any of them a reader may stop and go on
//! later from its revision. Without news there is a step now and then that says so.
//!
//! A step is made from two states, not from a queue of events: nothing is gathered for a reader, however slow, and writers
//! know nothing of it. The state that a reader has reached is held until the next step was sent, so that no compaction takes
//! away what that one is to bring. Therefore a reader that does not keep up is cut off, by name: when it takes nothing for a
//! while, or when a single step takes it as long. It may come back and say how far it came; what was compacted meanwhile is
//! then told by what is left.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::api::holdfast::v1::RecordsResponse;
use crate::base::clock::Stopwatch;
use crate::base::error::Result;
use crate::snapshot::record::{Descriptor, Record};
use crate::store::machine::changes::{changes, differ};
use crate::store::machine::records::{Origin, describe};
use crate::store::machine::state::State;
use crate::store::server::export::Outlet;
use crate::store::server::records::Sending;

/// So many steps without news there are in the time after which a reader that takes nothing is cut off.
const BEATS: u32 = 4;
/// What is applied within this time is told in one step.
const GATHER: Duration = Duration::from_millis(10);

/// Sends steps from the state that the reader has, until one side is gone.
pub(super) fn follow(outlet: &mut Outlet<RecordsResponse>, origin: &Origin, mut reached: Arc<State>) -> Result<()> {
    let beat = outlet.stall() / BEATS;
    let mut applied = outlet.handle().applied();
    let mut quiet = Stopwatch::start();
    loop {
        applied.mark_unchanged();
        let now = outlet.handle().state();
        if quiet.elapsed() >= beat || differ(&reached, &now) {
            step(outlet, origin, &reached, &now)?;
            quiet = Stopwatch::start();
            std::thread::sleep(GATHER);
        }
        reached = now;
        outlet.wait(&mut applied, beat.saturating_sub(quiet.elapsed()))?;
    }
}

fn step(outlet: &mut Outlet<RecordsResponse>, origin: &Origin, before: &State, after: &State) -> Result<()> {
    outlet.takes_another();
    let is_live = true;
    let descriptor = Descriptor { base_revision: before.view.revision(), is_live, ..describe(after, origin)? };
    let mut sending = Sending::new(outlet, Bytes::new()).in_time();
    sending.put(&Record::Descriptor(descriptor))?;
    changes(before, after, &mut |record| sending.put(record))?;
    sending.end()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::etcdserverpb::{
        AlarmRequest, CompactionRequest, DeleteRangeRequest, LeaseGrantRequest, LeaseRevokeRequest, PutRequest,
    };
    use crate::api::holdfast::v1::ChangesRequest;
    use crate::api::holdfast::v1::records_server::Records as _;
    use crate::base::revision::Rev;
    use crate::base::rng::Seeded;
    use crate::snapshot::decode::Records;
    use crate::snapshot::hash::Scope;
    use crate::snapshot::proof::Prover;
    use crate::snapshot::record::{Revision, lease_of};
    use crate::store::machine::command::Operation;
    use crate::store::node::testing::{begin, paths};
    use crate::store::node::{Handle, Member};
    use crate::store::options::Tuning;
    use crate::store::server::export::{Exports, Pieces};
    use crate::store::server::records::Service;
    use futures::StreamExt;
    use std::collections::{BTreeMap, BTreeSet};
    use std::sync::atomic::{AtomicBool, Ordering};
    use tonic::{Code, Request, Status};

    const WAIT: Duration = Duration::from_secs(20);

    /// What a reader makes of a stream: every record in its place, and after each `End` the proof.
    #[derive(Default)]
    struct Copy {
        leases: BTreeMap<i64, Vec<u8>>,
        alarms: BTreeSet<Vec<u8>>,
        history: BTreeMap<Rev, (bool, Vec<u8>)>,
        /// Of the step at hand, and of the last one that is whole.
        at: Descriptor<'static>,
        reached: Descriptor<'static>,
        records: u64,
        crc32c: u32,
        /// Older revisions that are still there, where the step lists them.
        kept: BTreeSet<Rev>,
        /// The last revision of the step.
        last: Rev,
        /// Steps that went on, and those of them without news.
        steps: u64,
        beats: u64,
        gone: u64,
    }

    impl Copy {
        fn take(&mut self, bytes: &[u8]) {
            let mut walk = Records::of(bytes);
            while walk.left() > 0 {
                let start = bytes.len() - walk.left();
                let record = walk.next().unwrap().unwrap();
                if let Record::End(end) = record {
                    assert_eq!((end.records, end.crc32c), (self.records, self.crc32c));
                    self.prove();
                    continue;
                }
                if let Record::Descriptor(descriptor) = record {
                    self.open(descriptor);
                }
                self.put(&record);
                self.records += 1;
                let record_bytes = &bytes[start..bytes.len() - walk.left()];
                self.crc32c = crc32c::crc32c_append(self.crc32c, record_bytes);
            }
        }

        fn open(&mut self, descriptor: Descriptor<'_>) {
            let descriptor = Descriptor { storage_version: "", ..descriptor };
            assert!(descriptor.raft_index >= self.reached.raft_index && descriptor.lineage == Some(Default::default()));
            if descriptor.is_live {
                assert_eq!(descriptor.base_revision, self.reached.revision, "each goes on where the last one ended");
                self.steps += 1;
            } else {
                self.leases.clear();
                self.alarms.clear();
            }
            let last = Rev { main: descriptor.base_revision, sub: i64::MAX };
            (self.at, self.last, self.records, self.crc32c) = (descriptor, last, 0, 0);
            self.kept.clear();
        }

        fn put(&mut self, record: &Record<'_>) {
            match record {
                Record::Lease { stored } => drop(self.leases.insert(lease_of(stored).unwrap().0, stored.to_vec())),
                Record::LeaseGone(id) => {
                    assert!(self.leases.remove(id).is_some());
                    self.gone += 1;
                }
                Record::Alarm { stored } => drop(self.alarms.insert(stored.to_vec())),
                Record::AlarmGone { stored } => {
                    assert!(self.alarms.remove(*stored));
                    self.gone += 1;
                }
                Record::Kept(run) => self.kept.extend(run.revisions().unwrap()),
                Record::Revision(Revision { rev, tombstone, stored }) => {
                    // Only in what brings a reader up to date a compaction has left holes.
                    let compact = if self.at.is_live { 0 } else { self.at.compact_revision };
                    let dense = *rev == Rev { sub: self.last.sub.wrapping_add(1), ..self.last }
                        || *rev == Rev::of(self.last.main.max(compact) + 1);
                    assert!(dense || rev.main <= compact, "{rev} after {}", self.last);
                    self.history.insert(*rev, (*tombstone, stored.to_vec()));
                    self.last = *rev;
                }
                _ => {}
            }
        }

        /// What is here now is what the member had.
        fn prove(&mut self) {
            let Descriptor { revision, compact_revision, base_revision, is_live, .. } = self.at;
            if !is_live {
                let (base, kept) = (Rev { main: base_revision, sub: i64::MAX }, std::mem::take(&mut self.kept));
                assert!(kept.iter().all(|rev| self.history.contains_key(rev)), "what is kept was told before");
                self.history.retain(|rev, _| *rev > base || kept.contains(rev));
            }
            assert_eq!(self.history.last_key_value().map_or(1, |(rev, _)| rev.main), revision);
            let mut prover = Prover::new(Scope { revision, compact_revision }, 1);
            let records: Vec<_> = self
                .history
                .iter()
                .map(|(rev, (tombstone, stored))| {
                    Record::Revision(Revision { rev: *rev, tombstone: *tombstone, stored })
                })
                .chain(self.leases.values().map(|stored| Record::Lease { stored }))
                .chain(self.alarms.iter().map(|stored| Record::Alarm { stored }))
                .collect();
            prover.batch(&records).unwrap();
            assert_eq!(Some(prover.finish().state_digest), self.at.state_digest, "at revision {revision}");
            self.beats += u64::from(is_live && self.records == 1);
            self.reached = self.at;
        }
    }

    fn member() -> Member {
        Member { cluster_id: 7, member_id: 8, ..Member::default() }
    }

    async fn open(service: &Service, since: i64) -> Pieces<RecordsResponse> {
        service.changes(Request::new(ChangesRequest { since, follow: true })).await.unwrap().into_inner()
    }

    async fn next(stream: &mut Pieces<RecordsResponse>) -> Option<Result<RecordsResponse, Status>> {
        tokio::time::timeout(WAIT, stream.next()).await.expect("a stream says something or ends")
    }

    async fn propose(handle: &Handle, operation: Operation) {
        // What is refused changes nothing.
        let _ = handle.propose(operation).await;
    }

    fn put(key: String, value_bytes: usize, lease: i64) -> Operation {
        let value = vec![b'v'; value_bytes].into();
        Operation::Put(PutRequest { key: key.into(), value, lease, ..PutRequest::default() })
    }

    fn random(rng: &mut Seeded, revision: i64) -> Operation {
        let key = format!("key-{}", rng.below(30));
        let id = 1 + i64::try_from(rng.below(5)).unwrap();
        match rng.below(24) {
            0 | 1 => Operation::LeaseGrant(LeaseGrantRequest { ttl: 600 + id, id }),
            2 => Operation::LeaseRevoke(LeaseRevokeRequest { id }),
            3 => Operation::DeleteRange(DeleteRangeRequest { key: key.into(), ..DeleteRangeRequest::default() }),
            4 => Operation::DeleteRange(DeleteRangeRequest {
                key: key.into(),
                range_end: "key-3".into(),
                ..DeleteRangeRequest::default()
            }),
            5 => Operation::Compaction(CompactionRequest { revision: revision - 9, physical: false }),
            6 | 7 => Operation::Alarm(AlarmRequest { action: 1, member_id: 3, alarm: 1 }),
            8..11 => Operation::Alarm(AlarmRequest { action: 2, member_id: 3, alarm: 1 }),
            11 => put(key, 90_000, 0),
            12..16 => put(key, 20, id),
            _ => put(key, 20, 0),
        }
    }

    /// So many, and more until nobody reads any longer.
    async fn write(handle: Handle, seed: u64, operations: usize, read: Arc<AtomicBool>) {
        let mut rng = Seeded::new(seed);
        let mut written = 0..operations;
        while written.next().is_some() || !read.load(Ordering::Relaxed) {
            let revision = handle.state().view.revision();
            propose(&handle, random(&mut rng, revision)).await;
        }
    }

    /// Reads until the copy is what the member is.
    async fn catch_up(copy: &mut Copy, service: &Service, handle: &Handle) {
        let mut stream = open(service, copy.reached.revision.max(1)).await;
        propose(handle, Operation::Alarm(AlarmRequest { action: 2, member_id: 3, alarm: 1 })).await;
        let state = handle.state();
        let last = (state.view.revision(), state.view.compact_revision(), Some(state.digest.get().unwrap()));
        loop {
            copy.take(&next(&mut stream).await.unwrap().unwrap().records);
            let reached = (copy.reached.revision, copy.reached.compact_revision, copy.reached.state_digest);
            if reached == last {
                break;
            }
        }
        let leases: Vec<_> = state.lessor.all().map(|(id, _)| id).collect();
        assert_eq!(copy.leases.keys().copied().collect::<Vec<_>>(), leases);
    }

    /// At every step the copy is proved; through connections that end anywhere, and a member that is started again.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_copy_that_follows_is_what_the_member_was_at_every_step() {
        let dir = tempfile::tempdir().unwrap();
        let (flush_interval, export_stall) = (Duration::from_millis(5), Duration::from_secs(4));
        let tuning = Tuning { flush_interval, export_stall, ..Tuning::default() };
        let mut handle = begin(dir.path(), member(), tuning.clone()).await;
        let (mut copy, mut rng) = (Copy::default(), Seeded::new(8));
        copy.reached.revision = 1;
        for round in 0..4 {
            let exports = Exports::new(&handle);
            let service = Service::new(&exports);
            let read = Arc::new(AtomicBool::new(false));
            let write = |n: u64| tokio::spawn(write(handle.clone(), 10 * round + n, 120, Arc::clone(&read)));
            let writers: Vec<_> = (0..3).map(write).collect();
            for _ in 0..3 {
                // Broken off anywhere, also in the middle of a step: what is not proved does not count.
                let mut stream = open(&service, copy.reached.revision).await;
                for _ in 0..1 + rng.below(12) {
                    copy.take(&next(&mut stream).await.unwrap().unwrap().records);
                }
                drop(stream);
                let reached = copy.reached.revision;
                copy.history.retain(|rev, _| rev.main <= reached);
            }
            read.store(true, Ordering::Relaxed);
            for writer in writers {
                writer.await.unwrap();
            }
            catch_up(&mut copy, &service, &handle).await;
            handle.stop().await;
            // Whoever still follows has the file open.
            while exports.following() > 0 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            drop((handle, service, exports));
            handle = Handle::start(&paths(dir.path()), member(), tuning.clone()).await.unwrap();
        }
        assert!(copy.steps > 10 && copy.gone > 3 && copy.reached.compact_revision > 100, "{} steps", copy.steps);
        handle.stop().await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn without_news_it_says_so_and_when_the_member_stops_that() {
        let dir = tempfile::tempdir().unwrap();
        let tuning = Tuning { export_stall: Duration::from_millis(80), exports_max: 1, ..Tuning::default() };
        let handle = begin(dir.path(), member(), tuning).await;
        let exports = Exports::new(&handle);
        let service = Service::new(&exports);
        let (mut stream, mut copy) = (open(&service, 1).await, Copy::default());
        copy.reached.revision = 1;
        while copy.beats < 2 {
            copy.take(&next(&mut stream).await.unwrap().unwrap().records);
        }
        // It takes no other's place: only one who follows is refused.
        let again = service.changes(Request::new(ChangesRequest { since: 1, follow: true })).await.unwrap_err();
        assert_eq!(again.code(), Code::ResourceExhausted, "{again}");
        assert_eq!(exports.free(), 1);
        handle.stop().await;
        let end = loop {
            match next(&mut stream).await.unwrap() {
                Ok(message) => copy.take(&message.records),
                Err(status) => break status,
            }
        };
        assert_eq!((end.code(), end.message()), (Code::Unavailable, "etcdserver: server stopped"));
        assert!(next(&mut stream).await.is_none());
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_reader_that_takes_nothing_is_cut_off_and_writers_do_not_know() {
        let dir = tempfile::tempdir().unwrap();
        let tuning = Tuning { export_stall: Duration::from_millis(60), exports_max: 1, ..Tuning::default() };
        let handle = begin(dir.path(), member(), tuning).await;
        let service = Service::new(&Exports::new(&handle));
        let mut stream = open(&service, 1).await;
        next(&mut stream).await.unwrap().unwrap();
        // More than waits for a reader.
        for n in 0..12 {
            handle.propose(put(format!("key-{n}"), 1 << 20, 0)).await.unwrap();
        }
        // Its place is free without a word of it.
        while let Err(refused) = service.changes(Request::new(ChangesRequest { since: 1, follow: true })).await {
            assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let end = loop {
            if let Err(status) = next(&mut stream).await.unwrap() {
                break status;
            }
        };
        assert_eq!(end.code(), Code::Aborted);
        // On a busy machine it may be the whole step that takes too long.
        assert!(end.message().contains("its reader ") && end.message().ends_with(" for 60 ms"), "{end}");
        handle.stop().await;
    }

    /// While it is read, a compaction takes nothing away from a stream. Whoever comes back later is told what is left.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_compaction_does_not_overtake_a_reader_that_is_there() {
        let dir = tempfile::tempdir().unwrap();
        let handle = begin(dir.path(), member(), Tuning::default()).await;
        let service = Service::new(&Exports::new(&handle));
        let (mut stream, mut copy) = (open(&service, 1).await, Copy::default());
        copy.reached.revision = 1;
        copy.take(&next(&mut stream).await.unwrap().unwrap().records);
        for n in 0..24 {
            handle.propose(put(format!("key-{}", n % 3), 1 << 20, 0)).await.unwrap();
        }
        let revision = handle.state().view.revision();
        let compaction = CompactionRequest { revision, physical: true };
        handle.propose(Operation::Compaction(compaction)).await.unwrap();
        while copy.reached.compact_revision < revision {
            copy.take(&next(&mut stream).await.unwrap().unwrap().records);
        }
        // Every version of the three keys came, though all but three are compacted away.
        assert_eq!((copy.history.len(), copy.steps > 1), (24, true));
        tokio::time::timeout(WAIT, handle.removed()).await.expect("then nothing is held back").unwrap();
        let mut late = Copy { history: copy.history.split_off(&Rev::of(0)), ..Copy::default() };
        late.history.retain(|rev, _| rev.main <= 5);
        late.reached.revision = 5;
        let mut stream = open(&service, 5).await;
        while late.reached.compact_revision < revision {
            late.take(&next(&mut stream).await.unwrap().unwrap().records);
        }
        assert_eq!((late.history.len(), late.reached.revision), (3, revision));
        handle.stop().await;
    }
}
