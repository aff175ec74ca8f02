//! `holdfast.v1.Records`: the state as records, without a file between.
//!
//! A stream is what a data object of a restore point holds, record by record. With the revisions goes what the member's
//! index knows and a reader in order cannot: which of them are not the newest of their key. With it a reader proves the
//! state in one pass; that the marks are right can be seen at the end of the stream.

use bytes::Bytes;
use tonic::{Request, Response, Status};

use crate::api::holdfast::v1::records_server::Records;
use crate::api::holdfast::v1::{ChangesRequest, FullRequest, HistoryPlace, RecordsResponse};
use crate::base::clock::Stopwatch;
use crate::base::error::{Error, Kind, Result};
use crate::base::revision::Rev;
use crate::snapshot::encode::{Block, Encoder};
use crate::snapshot::kept::Kept;
use crate::snapshot::record::{Descriptor, Record, Revision, STORED_BYTES_MAX};
use crate::store::machine::records::Picture;
use crate::store::mvcc::chronicle::Entry;
use crate::store::server::export::{Exports, Outlet, Pieces};
use crate::store::server::follow;
use crate::store::server::identity::administrator;

/// Messages of about 1 MiB that wait for a reader.
const QUEUE: usize = 4;
const LAST: Rev = Rev { main: i64::MAX, sub: i64::MAX };

type Answer<T> = Result<Response<T>, Status>;

/// The service.
#[derive(Clone, Debug)]
pub struct Service {
    exports: Exports,
}

impl Service {
    /// Of this member's streams.
    pub fn new(exports: &Exports) -> Self {
        Service { exports: exports.clone() }
    }
}

#[tonic::async_trait]
impl Records for Service {
    type FullStream = Pieces<RecordsResponse>;
    type ChangesStream = Pieces<RecordsResponse>;

    async fn full(&self, request: Request<FullRequest>) -> Answer<Self::FullStream> {
        administrator(self.exports.handle(), &request)?;
        let FullRequest { view, after, until, last } = request.into_inner();
        let part = (after.is_some() || until.is_some())
            .then(|| Part { after: after.map_or(Rev::default(), place), until: until.map_or(LAST, place) });
        let slot = self.exports.slot()?;
        if view.is_empty() {
            let (exports, state, origin) = (self.exports.clone(), self.exports.handle().state(), self.exports.origin());
            return Ok(Response::new(self.exports.stream(slot, QUEUE, move |outlet| {
                let picture = Picture::of(&state, &origin, &mut || outlet.go_on())?;
                drop(state);
                let reading = exports.hold(picture)?;
                if last {
                    reading.last();
                }
                Sending::new(outlet, reading.token().clone()).full(reading.picture(), part)
            })));
        }
        let reading = self.exports.read(&view).ok_or_else(|| {
            Status::not_found("holdfast: the moment that was asked for is not held any more; begin with a new one")
        })?;
        if last {
            reading.last();
        }
        Ok(Response::new(self.exports.stream(slot, QUEUE, move |outlet| {
            Sending::new(outlet, reading.token().clone()).full(reading.picture(), part)
        })))
    }

    async fn changes(&self, request: Request<ChangesRequest>) -> Answer<Self::ChangesStream> {
        administrator(self.exports.handle(), &request)?;
        let ChangesRequest { since, follow } = request.into_inner();
        let (state, origin) = (self.exports.handle().state(), self.exports.origin());
        let revision = state.view.revision();
        if since < 1 || since > revision {
            return Err(Status::out_of_range(format!(
                "holdfast: changes since revision {since} cannot be told: the member is at {revision}"
            )));
        }
        let slot = self.exports.slot()?;
        if !follow {
            return Ok(Response::new(self.exports.stream(slot, QUEUE, move |outlet| {
                let picture = Picture::of(&state, &origin, &mut || outlet.go_on())?;
                drop(state);
                Sending::new(outlet, Bytes::new()).changes(&picture, since)
            })));
        }
        let follower = self.exports.follower()?;
        Ok(Response::new(self.exports.stream(follower, QUEUE, move |outlet| {
            let picture = Picture::of(&state, &origin, &mut || outlet.go_on())?;
            Sending::new(outlet, Bytes::new()).changes(&picture, since)?;
            drop((picture, slot));
            follow::follow(outlet, &origin, state)
        })))
    }
}

fn place(place: HistoryPlace) -> Rev {
    Rev { main: place.main, sub: place.sub }
}

/// A part of the history.
#[derive(Clone, Copy, Debug)]
struct Part {
    after: Rev,
    until: Rev,
}

/// A stream on its way out.
pub(super) struct Sending<'a> {
    outlet: &'a mut Outlet<RecordsResponse>,
    /// For the first message.
    view: Bytes,
    encoder: Encoder,
    /// Of the revisions since the last message: how many, and which are not the newest of their key.
    revisions: u32,
    superseded: Vec<u32>,
    /// Since when it is sent, where all of it must be taken in time.
    since: Option<Stopwatch>,
}

impl<'a> Sending<'a> {
    pub(super) fn new(outlet: &'a mut Outlet<RecordsResponse>, view: Bytes) -> Self {
        Sending { outlet, view, encoder: Encoder::new(), revisions: 0, superseded: vec![], since: None }
    }

    /// A reader that takes longer than it may take nothing is cut off.
    pub(super) fn in_time(self) -> Self {
        Sending { since: Some(Stopwatch::start()), ..self }
    }

    fn full(mut self, picture: &Picture, part: Option<Part>) -> Result<()> {
        self.put(&Record::Descriptor(picture.descriptor()))?;
        let Part { after, until } = match part {
            Some(part) => part,
            None => {
                self.side(picture)?;
                Part { after: Rev::default(), until: LAST }
            }
        };
        self.history(picture, after, until)?;
        self.end()
    }

    fn changes(mut self, picture: &Picture, since: i64) -> Result<()> {
        let descriptor = Descriptor { base_revision: since, kept_listed: true, ..picture.descriptor() };
        self.put(&Record::Descriptor(descriptor))?;
        self.side(picture)?;
        let mut kept = Kept::default();
        let older = picture.entries().iter().map(Entry::rev).take_while(|rev| rev.main <= since);
        kept.prepend(&older.collect::<Vec<_>>())?;
        kept.runs().try_for_each(|run| self.put(&Record::Kept(run)))?;
        self.history(picture, Rev { main: since, sub: i64::MAX }, LAST)?;
        self.end()
    }

    fn side(&mut self, picture: &Picture) -> Result<()> {
        picture.side_records().iter().try_for_each(|record| self.put(record))?;
        picture.leases(&mut |record| self.put(record))
    }

    fn history(&mut self, picture: &Picture, after: Rev, until: Rev) -> Result<()> {
        picture.revisions(after, until, &mut |entry, revision| {
            self.put(&Record::Revision(*revision))?;
            if !entry.is_newest() {
                self.superseded.push(self.revisions);
            }
            self.revisions += 1;
            Ok(())
        })
    }

    pub(super) fn put(&mut self, record: &Record<'_>) -> Result<()> {
        if let Record::Revision(Revision { rev, stored, .. }) = record
            && stored.len() > STORED_BYTES_MAX
        {
            let text = format!("revision {rev} is longer than the {STORED_BYTES_MAX} bytes of a record");
            return Err(Error::new(Kind::Failed, text));
        }
        match self.encoder.put(record) {
            Some(block) => self.send(block),
            None => Ok(()),
        }
    }

    fn send(&mut self, block: Block) -> Result<()> {
        if self.since.as_ref().is_some_and(|since| since.elapsed() > self.outlet.stall()) {
            return Err(self.outlet.cut_off("was behind what happens", self.outlet.stall()));
        }
        self.revisions = 0;
        let mut records = block.bytes;
        if records.len() < records.capacity() / 2 {
            // A block has room for more; what waits for a reader takes what it needs.
            records.shrink_to_fit();
        }
        let piece = RecordsResponse {
            records: records.into(),
            superseded: std::mem::take(&mut self.superseded),
            view: std::mem::take(&mut self.view),
        };
        self.outlet.send(vec![piece])
    }

    pub(super) fn end(mut self) -> Result<()> {
        let (blocks, _) = std::mem::take(&mut self.encoder).end();
        blocks.into_iter().try_for_each(|block| self.send(block))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::etcdserverpb::{CompactionRequest, DeleteRangeRequest, LeaseGrantRequest, PutRequest};
    use crate::base::digest::Sha256;
    use crate::snapshot::arrival::Arrival;
    use crate::snapshot::decode;
    use crate::snapshot::forward::{Forward, Marks};
    use crate::snapshot::hash::Scope;
    use crate::snapshot::verify::Verifier;
    use crate::store::machine::command::Operation;
    use crate::store::node::{Handle, Member, Paths, create};
    use crate::store::options::Tuning;
    use crate::store::server::hash::hash_kv;
    use futures::StreamExt;
    use std::time::Duration;

    async fn member(tuning: Tuning) -> (tempfile::TempDir, Handle) {
        let dir = tempfile::tempdir().unwrap();
        let lineage = Sha256::of(b"born");
        let member = Member { cluster_id: 7, member_id: 8, lineage, name: "one".into(), ..Member::default() };
        let paths = Paths { state: dir.path().join("db"), log: dir.path().join("wal") };
        std::fs::create_dir(&paths.log).unwrap();
        create(&paths, &member, &tuning).unwrap();
        let handle = Handle::start(&paths, member, tuning).await.unwrap();
        let propose = async |operation| drop(handle.propose(operation).await.unwrap());
        propose(Operation::LeaseGrant(LeaseGrantRequest { ttl: 600, id: 77 })).await;
        for n in 0..60 {
            let (key, value) = (format!("key-{}", n % 17).into(), vec![b'v'; 60_000 + n].into());
            propose(Operation::Put(PutRequest { key, value, lease: 77, ..PutRequest::default() })).await;
            if n % 10 == 9 {
                let key = format!("key-{}", n % 13).into();
                propose(Operation::DeleteRange(DeleteRangeRequest { key, ..DeleteRangeRequest::default() })).await;
            }
        }
        propose(Operation::Compaction(CompactionRequest { revision: 30, physical: false })).await;
        (dir, handle)
    }

    async fn messages(answer: Answer<Pieces<RecordsResponse>>) -> Vec<RecordsResponse> {
        answer.unwrap().into_inner().map(|piece| piece.unwrap()).collect().await
    }

    fn part(view: &Bytes, first: i64, last: i64) -> Request<FullRequest> {
        let place = |main, sub| Some(HistoryPlace { main, sub });
        Request::new(FullRequest { view: view.clone(), after: place(first - 1, 9), until: place(last, 9), last: false })
    }

    fn revisions(messages: &[RecordsResponse]) -> Vec<Rev> {
        let records = messages.iter().flat_map(|message| decode::Records::of(&message.records));
        records
            .filter_map(|record| match record.unwrap() {
                Record::Revision(revision) => Some(revision.rev),
                _ => None,
            })
            .collect()
    }

    #[tokio::test]
    async fn a_whole_stream_is_proved_as_it_comes_and_its_parts_are_of_the_same_moment() {
        let (_dir, handle) = member(Tuning::default()).await;
        let service = Service::new(&Exports::new(&handle));
        let whole = messages(service.full(Request::new(FullRequest::default())).await).await;
        assert!(whole.len() > 2, "more than one message");
        let mut arrival = Arrival::default();
        let mut forward = None;
        for message in &whole {
            let new = arrival.take(&message.records).unwrap();
            let descriptor = arrival.descriptor().unwrap();
            let scope = Scope { revision: descriptor.revision, compact_revision: descriptor.compact_revision };
            let records: Vec<_> = decode::Records::of(&message.records[new]).map(Result::unwrap).collect();
            let mut marks = Marks::new(message.superseded.clone());
            forward.get_or_insert_with(|| Forward::new(scope, 1)).batch(&records, &mut marks).unwrap();
            marks.finish().unwrap();
        }
        assert!(arrival.is_ended());
        assert_eq!(arrival.descriptor().unwrap().lineage, Some(Sha256::of(b"born")));
        let proof = forward.unwrap().finish().unwrap();
        let hashed = hash_kv(&handle.state(), 0).unwrap();
        assert_eq!((proof.hash_kv, proof.scope), (hashed.hash, hashed.scope));
        assert_eq!((proof.counts.leases, proof.counts.members, proof.counts.alarms), (1, 1, 0));
        let all: Vec<u8> = whole.iter().flat_map(|message| message.records.to_vec()).collect();
        let records: Vec<_> = decode::Records::of(&all).map(Result::unwrap).collect();
        let mut verifier = Verifier::new(30, 0);
        verifier.batch(&records, &all).unwrap();
        assert_eq!(verifier.finish().unwrap().revision, handle.state().view.revision());

        // Later writes are not of this moment.
        let put = PutRequest { key: "later".into(), ..PutRequest::default() };
        handle.propose(Operation::Put(put)).await.unwrap();
        let view = &whole[0].view;
        let revs = revisions(&whole);
        let some = messages(service.full(part(view, 28, 40)).await).await;
        let mut again = arrival.part(Rev { main: 27, sub: 9 });
        for message in &some {
            again.take(&message.records).unwrap();
        }
        assert!(again.is_ended());
        let expected: Vec<_> = revs.iter().filter(|rev| (28..=40).contains(&rev.main)).copied().collect();
        assert_eq!(revisions(&some), expected);
        let last = messages(service.full(part(view, 60, 999)).await).await;
        assert_eq!(revisions(&last).last(), revs.last());
    }

    #[tokio::test]
    async fn a_moment_is_held_for_a_while_and_then_unknown() {
        let idle = Duration::from_millis(40);
        let (_dir, handle) = member(Tuning { export_idle: idle, exports_max: 2, ..Tuning::default() }).await;
        let exports = Exports::new(&handle);
        let service = Service::new(&exports);
        let mut views = vec![];
        for _ in 0..3 {
            views.push(messages(service.full(Request::new(FullRequest::default())).await).await[0].view.clone());
        }
        // Of three, the one that was idle longest went.
        let gone = service.full(part(&views[0], 1, 2)).await.unwrap_err();
        assert_eq!(gone.code(), tonic::Code::NotFound, "{gone}");
        while exports.held() > 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert_eq!(service.full(part(&views[2], 1, 2)).await.unwrap_err().code(), tonic::Code::NotFound);
    }

    #[tokio::test]
    async fn a_part_that_ends_before_it_begins_is_empty() {
        let (_dir, handle) = member(Tuning::default()).await;
        let service = Service::new(&Exports::new(&handle));
        for (first, last) in [(40, 35), (i64::MAX, 1), (40, i64::MIN)] {
            let place = |main| Some(HistoryPlace { main, sub: 0 });
            let request = FullRequest { after: place(first), until: place(last), ..FullRequest::default() };
            let answered = messages(service.full(Request::new(request)).await).await;
            assert!(!answered.is_empty() && revisions(&answered).is_empty(), "{first}, {last}");
        }
    }

    #[tokio::test]
    async fn changes_carry_what_came_after_and_what_is_still_there_of_before() {
        let (_dir, handle) = member(Tuning::default()).await;
        let service = Service::new(&Exports::new(&handle));
        let whole = revisions(&messages(service.full(Request::new(FullRequest::default())).await).await);
        for since in [1, 20, 30, 45, handle.state().view.revision()] {
            let changes = messages(service.changes(Request::new(ChangesRequest { since, follow: false })).await).await;
            let (older, newer): (Vec<_>, Vec<_>) = whole.iter().partition(|rev| rev.main <= since);
            assert_eq!(revisions(&changes), newer);
            let all: Vec<u8> = changes.iter().flat_map(|message| message.records.to_vec()).collect();
            let records: Vec<_> = decode::Records::of(&all).map(Result::unwrap).collect();
            let kept = records.iter().filter_map(|record| match record {
                Record::Kept(run) => Some(run.revisions().unwrap()),
                _ => None,
            });
            assert_eq!(kept.flatten().collect::<Vec<_>>(), older);
            assert!(records.iter().any(|record| matches!(record, Record::Lease { .. })));
            let mut verifier = Verifier::new(30, since);
            verifier.batch(&records, &all).unwrap();
            verifier.finish().unwrap();
        }
        for since in [0, -1, 1000] {
            let refused = service.changes(Request::new(ChangesRequest { since, follow: false })).await.unwrap_err();
            assert_eq!(refused.code(), tonic::Code::OutOfRange, "{refused}");
        }
    }
}
