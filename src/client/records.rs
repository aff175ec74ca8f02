//! A Holdfast member's state as records, as it arrives: whole streams, gone on with when the connection breaks.
//!
//! Each stream of the member counts and checks itself (`End`). When one breaks, another is asked for that goes on after the
//! last revision that came, at the same moment; the member holds it for a while. What is handed on is one stream: one
//! descriptor, the facts beside history, the revisions, each once, and no `End`.

use bytes::Bytes;
use std::time::Duration;
use tonic::{Code, Streaming};

use crate::api::holdfast::v1::records_client::RecordsClient;
use crate::api::holdfast::v1::{FullRequest, HistoryPlace, RecordsResponse};
use crate::base::error::{Error, Kind, Result};
use crate::base::units;
use crate::client::channel::{Client, Question};
use crate::client::options::Endpoint;
use crate::client::status;
use crate::snapshot::arrival::Arrival;
use crate::snapshot::record::{Descriptor, RECORD_BYTES_MAX, Rev};

/// Largest message accepted, in bytes: one record with what stands around it, or about 1 MiB of small ones.
const MESSAGE_BYTES_MAX: usize = RECORD_BYTES_MAX + (2 << 20);
/// Streams after the first that are asked for before the last reason counts.
pub const RESUMES_MAX: u32 = 5;
const HINT_STREAM: &str =
    "take the backup from another member; if this repeats, look for a proxy between, and at that member's log";

/// Some records in order, without an `End`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Whole length-delimited records.
    pub records: Bytes,
    /// Of the revisions among them, counted from 0, those that are not the newest of their key at the moment.
    pub superseded: Vec<u32>,
}

/// A moment of a member, which the member holds for a while. Clones are the same moment.
#[derive(Clone, Debug)]
pub struct Moment {
    client: Client,
    endpoint: Endpoint,
    /// What the moment is asked for with.
    view: Bytes,
    /// What arrived of it: its descriptor.
    opened: Arrival,
}

/// A state that is arriving, or a part of its history.
#[derive(Debug)]
pub struct RecordStream {
    moment: Moment,
    stream: Streaming<RecordsResponse>,
    stall: Duration,
    waiting: Option<Piece>,
    arrival: Arrival,
    /// Where a part of the history ends.
    until: Option<Rev>,
    resumes: u32,
}

type Opened = (Streaming<RecordsResponse>, RecordsResponse);

impl Client {
    /// The present moment of the member at `endpoint`; none when it is no Holdfast member.
    pub async fn moment(&self, endpoint: &Endpoint) -> Result<Option<Moment>> {
        // Nothing of the history: only what the moment is.
        let last = Some(place(Rev { main: i64::MAX, sub: i64::MAX }));
        let request = FullRequest { after: last, until: last, ..FullRequest::default() };
        let Some((stream, first)) = self.open_records(endpoint, request).await? else { return Ok(None) };
        let (client, endpoint, view) = (self.clone(), endpoint.clone(), first.view.clone());
        let moment = Moment { client, endpoint, view, opened: Arrival::default() };
        let mut stream = RecordStream::begin(&moment, Arrival::default(), None, (stream, first))?;
        while stream.next().await?.is_some() {}
        Ok(Some(Moment { opened: stream.arrival, ..moment }))
    }

    /// A stream and its first message; none when the member has no such streams.
    async fn open_records(&self, endpoint: &Endpoint, request: FullRequest) -> Result<Option<Opened>> {
        let question = Question { what: "receive records", deadline: self.options().stall };
        let ask = |link| {
            let request = request.clone();
            async move {
                let client = RecordsClient::new(link).max_decoding_message_size(MESSAGE_BYTES_MAX);
                let mut stream = { client }.full(request).await?.into_inner();
                let first = stream.message().await?;
                Ok((stream, first))
            }
        };
        match self.at(endpoint, question, ask).await {
            Ok((stream, Some(first))) => Ok(Some((stream, first))),
            Ok((_, None)) => Err(failed(cut_short(), endpoint)),
            Err(refused) if refused.status().is_some_and(|status| status.code() == Code::Unimplemented) => Ok(None),
            Err(unanswered) => Err(unanswered.error(question, endpoint)),
        }
    }
}

impl Moment {
    /// What it is.
    pub fn descriptor(&self) -> Result<Descriptor<'_>> {
        self.opened.descriptor().map_err(|error| failed(error.hint(HINT_STREAM), &self.endpoint))
    }

    /// Everything.
    pub async fn whole(&self) -> Result<RecordStream> {
        let request = FullRequest { view: self.view.clone(), last: true, ..FullRequest::default() };
        let opened = self.open(request).await?;
        RecordStream::begin(self, Arrival::default(), None, opened)
    }

    /// The revisions with main revisions from `first` to `last`.
    pub async fn part(&self, first: i64, last: i64) -> Result<RecordStream> {
        let after = Rev { main: first.saturating_sub(1), sub: i64::MAX };
        let until = Rev { main: last, sub: i64::MAX };
        let (after_place, until_place) = (Some(place(after)), Some(place(until)));
        let request = FullRequest { view: self.view.clone(), after: after_place, until: until_place, last: false };
        let opened = self.open(request).await?;
        RecordStream::begin(self, self.opened.part(after), Some(until), opened)
    }

    async fn open(&self, request: FullRequest) -> Result<Opened> {
        let opened = self.client.open_records(&self.endpoint, request).await?;
        opened.ok_or_else(|| failed(cut_short(), &self.endpoint))
    }
}

impl RecordStream {
    fn begin(moment: &Moment, arrival: Arrival, until: Option<Rev>, (stream, first): Opened) -> Result<Self> {
        let (moment, stall) = (moment.clone(), moment.client.options().stall);
        let mut records = RecordStream { moment, stream, stall, waiting: None, arrival, until, resumes: 0 };
        records.take(first)?;
        Ok(records)
    }

    /// How often the stream broke and was gone on with.
    pub fn resumes(&self) -> u32 {
        self.resumes
    }

    /// The next records; `None` when all of them were received and checked.
    pub async fn next(&mut self) -> Result<Option<Piece>> {
        loop {
            if let Some(piece) = self.waiting.take() {
                return Ok(Some(piece));
            }
            match self.receive().await {
                Ok(Some(message)) => self.take(message)?,
                Ok(None) if self.arrival.is_ended() => return Ok(None),
                Ok(None) => self.go_on(cut_short()).await?,
                Err(error) => self.go_on(error).await?,
            }
        }
    }

    async fn receive(&mut self) -> Result<Option<RecordsResponse>> {
        match tokio::time::timeout(self.stall, self.stream.message()).await {
            Ok(Ok(message)) => Ok(message),
            Ok(Err(status)) => Err(status::reason(&status)),
            Err(_) => {
                Err(Error::new(Kind::Unavailable, format!("stalled: nothing came for {}", units::duration(self.stall)))
                    .hint("the member or the network hangs; run the command again, or name another member first"))
            }
        }
    }

    /// Asks for the rest, at the same moment. Where that cannot be had, the first reason is the one that counts.
    async fn go_on(&mut self, error: Error) -> Result<()> {
        let after = if self.resumes < RESUMES_MAX { self.arrival.breaks() } else { None };
        let Some(after) = after else { return Err(failed(error, &self.moment.endpoint)) };
        self.resumes += 1;
        let (after, until) = (Some(place(after)), self.until.map(place));
        let request = FullRequest { view: self.moment.view.clone(), after, until, last: self.until.is_none() };
        match self.moment.open(request).await {
            Ok((stream, first)) => {
                self.stream = stream;
                self.take(first)
            }
            Err(_) => Err(failed(error, &self.moment.endpoint)),
        }
    }

    fn take(&mut self, message: RecordsResponse) -> Result<()> {
        let RecordsResponse { records, superseded, .. } = message;
        let new =
            self.arrival.take(&records).map_err(|error| failed(error.hint(HINT_STREAM), &self.moment.endpoint))?;
        if !new.is_empty() {
            self.waiting = Some(Piece { records: records.slice(new), superseded });
        }
        Ok(())
    }
}

fn place(rev: Rev) -> HistoryPlace {
    HistoryPlace { main: rev.main, sub: rev.sub }
}

fn cut_short() -> Error {
    Error::new(Kind::Unavailable, "the stream is cut short").hint(HINT_STREAM)
}

fn failed(error: Error, endpoint: &Endpoint) -> Error {
    error.during(format!("receive records from {endpoint}"))
}
