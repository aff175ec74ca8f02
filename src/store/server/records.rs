//! `holdfast.v1.Records`: the state as records, without a file between.
//!
//! A stream is what a data object of a restore point holds, record by record. With the revisions goes what the member's
//! index knows and a reader in order cannot: which of them are not the newest of their key. With it a reader proves the
//! state in one pass; that the marks are right can be seen at the end of the stream.

use bytes::Bytes;
use tonic::{Request, Response, Status};

use crate::api::holdfast::v1::records_server::Records;
use crate::api::holdfast::v1::{ChangesRequest, FullRequest, HistoryPlace, RecordsResponse};
use crate::base::error::{Error, Kind, Result};
use crate::base::revision::Rev;
use crate::snapshot::encode::{Block, Encoder};
use crate::snapshot::kept::Kept;
use crate::snapshot::record::{Descriptor, Record, STORED_BYTES_MAX};
use crate::store::machine::records::Picture;
use crate::store::server::export::{Exports, Outlet, Pieces};

/// Messages of about 1 MiB that wait for a reader.
const QUEUE_PIECES: usize = 4;
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
        let FullRequest { view, after, until } = request.into_inner();
        let part = (after.is_some() || until.is_some())
            .then(|| Part { after: after.map_or(Rev::default(), place), until: until.map_or(LAST, place) });
        let slot = self.exports.slot()?;
        if view.is_empty() {
            let (exports, state, origin) = (self.exports.clone(), self.exports.handle().state(), self.exports.origin());
            return Ok(Response::new(self.exports.stream(slot, QUEUE_PIECES, move |outlet| {
                let picture = Picture::of(&state, origin, &mut || outlet.check())?;
                drop(state);
                let reading = exports.hold(picture)?;
                Sending::new(outlet, reading.token().clone()).full(reading.picture(), part)
            })));
        }
        let reading = self.exports.read(&view).ok_or_else(|| {
            Status::not_found("holdfast: the moment that was asked for is not held any more; begin with a new one")
        })?;
        Ok(Response::new(self.exports.stream(slot, QUEUE_PIECES, move |outlet| {
            Sending::new(outlet, reading.token().clone()).full(reading.picture(), part)
        })))
    }

    async fn changes(&self, request: Request<ChangesRequest>) -> Answer<Self::ChangesStream> {
        let since = request.into_inner().since;
        let (state, origin) = (self.exports.handle().state(), self.exports.origin());
        let revision = state.view.revision();
        if since < 1 || since > revision {
            return Err(Status::out_of_range(format!(
                "holdfast: changes since revision {since} cannot be told: the member is at {revision}"
            )));
        }
        let slot = self.exports.slot()?;
        Ok(Response::new(self.exports.stream(slot, QUEUE_PIECES, move |outlet| {
            let picture = Picture::of(&state, origin, &mut || outlet.check())?;
            drop(state);
            Sending::new(outlet, Bytes::new()).changes(&picture, since)
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
struct Sending<'a> {
    outlet: &'a Outlet<RecordsResponse>,
    /// For the first message.
    view: Bytes,
    encoder: Encoder,
    /// Of the revisions since the last message: how many, and which are not the newest of their key.
    revisions: u32,
    superseded: Vec<u32>,
}

impl<'a> Sending<'a> {
    fn new(outlet: &'a Outlet<RecordsResponse>, view: Bytes) -> Self {
        Sending { outlet, view, encoder: Encoder::new(), revisions: 0, superseded: vec![] }
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
        let older = picture.entries().iter().map(|entry| entry.rev()).take_while(|rev| rev.main <= since);
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
            if revision.stored.len() > STORED_BYTES_MAX {
                let text = format!("revision {} is longer than the {STORED_BYTES_MAX} bytes of a record", revision.rev);
                return Err(Error::new(Kind::Failed, text));
            }
            self.put(&Record::Revision(*revision))?;
            if !entry.is_newest() {
                self.superseded.push(self.revisions);
            }
            self.revisions += 1;
            Ok(())
        })
    }

    fn put(&mut self, record: &Record<'_>) -> Result<()> {
        match self.encoder.put(record) {
            Some(block) => self.send(block),
            None => Ok(()),
        }
    }

    fn send(&mut self, block: Block) -> Result<()> {
        self.revisions = 0;
        self.outlet.send(RecordsResponse {
            records: block.bytes.into(),
            superseded: std::mem::take(&mut self.superseded),
            view: std::mem::take(&mut self.view),
        })
    }

    fn end(mut self) -> Result<()> {
        let (blocks, _) = std::mem::take(&mut self.encoder).end();
        blocks.into_iter().try_for_each(|block| self.send(block))
    }
}
