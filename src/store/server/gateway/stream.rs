//! Streams: the questions of a body, the frames of a call, and the lines of an answer.

use std::convert::Infallible;

use axum::body::Body;
use bytes::{Buf as _, Bytes, BytesMut};
use futures::stream::{self, Stream, StreamExt as _};
use http::{HeaderMap, Response, StatusCode, header};
use http_body_util::BodyExt as _;
use hyper::body::Body as _;
use prost_reflect::MessageDescriptor;
use tokio::time::Instant;
use tonic::{Code, Status};

use crate::store::server::gateway::json::{self, Cutter, FRAME_HEAD_BYTES};
use crate::store::server::gateway::{gone, http_status, within};
use crate::store::server::peer;

/// The JSON in the body of a request.
pub(super) struct Questions {
    body: Body,
    come: BytesMut,
    cutter: Cutter,
    bytes_max: usize,
    /// Whether the end of a body says that a request is whole.
    ends: bool,
    ended: bool,
}

impl Questions {
    /// Of this body, with so many bytes in one question.
    pub(super) fn new(body: Body, bytes_max: usize) -> Self {
        Questions { body, come: BytesMut::new(), cutter: Cutter::default(), bytes_max, ends: true, ended: false }
    }

    /// The same of a body that goes on as long as its client is there.
    pub(super) fn endless(body: Body, bytes_max: usize) -> Self {
        Questions { ends: false, ..Questions::new(body, bytes_max) }
    }

    /// The frame of a request's only question; that of an empty one if there is none.
    pub(super) async fn only(mut self, message: &MessageDescriptor) -> Result<Bytes, Status> {
        if !self.ends {
            return self.next(message).await.map(Option::unwrap_or_default);
        }
        let announced = self.body.size_hint().lower();
        if announced > self.bytes_max as u64 {
            return Err(too_long(announced, self.bytes_max));
        }
        while !self.ended {
            self.read().await?;
        }
        json::frame(message, self.come.freeze()).await
    }

    /// The frame of the next question; none after the last.
    pub(super) async fn next(&mut self, message: &MessageDescriptor) -> Result<Option<Bytes>, Status> {
        loop {
            if let Some(question) = self.cutter.cut(&mut self.come) {
                return json::frame(message, question).await.map(Some);
            }
            if self.ended {
                // What is left is no whole value, or a bare word.
                let rest = std::mem::take(&mut self.come);
                return if rest.is_empty() { Ok(None) } else { json::frame(message, rest.freeze()).await.map(Some) };
            }
            self.read().await?;
        }
    }

    async fn read(&mut self) -> Result<(), Status> {
        let gone = |error: axum::Error| Status::cancelled(format!("the request broke off: {error}"));
        match self.body.frame().await.transpose().map_err(gone)? {
            None => self.ended = true,
            Some(frame) => {
                if let Some(data) = frame.data_ref() {
                    self.come.extend_from_slice(data);
                }
            }
        }
        if self.come.len() > self.bytes_max {
            return Err(too_long(self.come.len() as u64, self.bytes_max));
        }
        Ok(())
    }
}

/// The words for a message that is too long.
fn too_long(bytes: u64, bytes_max: usize) -> Status {
    Status::resource_exhausted(format!("grpc: received message larger than max ({bytes} vs. {bytes_max})"))
}

/// The body of a call that is asked with a stream. It ends with the first question that cannot be understood, as etcd's does.
pub(super) fn framed(first: Option<Bytes>, rest: Questions, message: &MessageDescriptor) -> Body {
    let rest = first.is_some().then(|| (rest, message.clone()));
    let rest = stream::unfold(rest, |rest| async move {
        let (mut questions, message) = rest?;
        match questions.next(&message).await {
            Ok(question) => Some((question?, Some((questions, message)))),
            Err(status) => {
                tracing::debug!(why = status.message(), "a stream of requests ended early");
                None
            }
        }
    });
    Body::from_stream(stream::iter(first).chain(rest).map(Ok::<_, Infallible>))
}

/// The messages of an answer, and how it ended.
pub(super) struct Frames {
    body: Body,
    come: Bytes,
    ended: bool,
}

impl Frames {
    /// Of an answer that is not a refusal.
    pub(super) fn of(response: Response<Body>) -> Result<Self, Status> {
        let (head, body) = response.into_parts();
        if let Some(status) = Status::from_header_map(&head.headers) {
            ended(&status)?;
        } else if head.status != StatusCode::OK || !head.headers.contains_key(header::CONTENT_TYPE) {
            return Err(Status::unknown(format!("the call was answered with {}", head.status)));
        }
        Ok(Frames { body, come: Bytes::new(), ended: false })
    }

    /// The next message; none after the last.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, Status> {
        loop {
            if let Some(length) = self.come.get(1..FRAME_HEAD_BYTES) {
                let length = length.iter().fold(0, |length, byte| length << 8 | usize::from(*byte));
                if self.come.len() >= FRAME_HEAD_BYTES + length {
                    self.come.advance(FRAME_HEAD_BYTES);
                    return Ok(Some(self.come.split_to(length)));
                }
            }
            if self.ended {
                return Ok(None);
            }
            match self.body.frame().await.transpose().map_err(|error| Status::unknown(error.to_string()))? {
                None => self.ended = true,
                Some(frame) => match frame.into_data() {
                    Ok(data) if self.come.is_empty() => self.come = data,
                    Ok(data) => {
                        // In place, as a rule: nobody else has what has come of a message that is not whole.
                        let come = std::mem::take(&mut self.come).try_into_mut();
                        let mut come = come.unwrap_or_else(|shared| BytesMut::from(&shared[..]));
                        come.extend_from_slice(&data);
                        self.come = come.freeze();
                    }
                    Err(frame) => self.end(frame.trailers_ref())?,
                },
            }
        }
    }

    fn end(&mut self, trailers: Option<&HeaderMap>) -> Result<(), Status> {
        self.ended = true;
        trailers.and_then(Status::from_header_map).map_or(Ok(()), |status| ended(&status))
    }
}

fn ended(status: &Status) -> Result<(), Status> {
    if status.code() == Code::Ok { Ok(()) } else { Err(Status::new(status.code(), status.message())) }
}

/// The lines of an answer: one for each message, and one for a failure.
pub(super) fn lines(
    first: Result<Option<Bytes>, Status>,
    frames: Frames,
    message: MessageDescriptor,
    deadline: Option<Instant>,
) -> impl Stream<Item = Result<Bytes, Infallible>> + Send + 'static {
    stream::unfold(Some((Some(first), frames)), move |rest| {
        let message = message.clone();
        async move {
            let (first, mut frames) = rest?;
            let next = match first {
                Some(first) => first,
                None => tokio::select! {
                    biased;
                    next = within(deadline, frames.next()) => next.and_then(|next| next),
                    () = gone(peer::current()) => return None,
                },
            };
            let line = match next {
                Ok(None) => return None,
                Ok(Some(reply)) => json::text(&message, reply).await,
                Err(status) => Err(status),
            };
            let rest = line.is_ok().then_some((None, frames));
            Some((Ok(line.map_or_else(|status| failure(&status), result)), rest))
        }
    })
}

#[expect(clippy::needless_pass_by_value, reason = "it is copied once, and not wanted any more")]
fn result(text: Bytes) -> Bytes {
    [b"{\"result\":", &text[..], b"}\n"].concat().into()
}

fn failure(status: &Status) -> Bytes {
    let http = http_status(status);
    let (message, reason) = (json::quoted(status.message()), http.canonical_reason().unwrap_or_default());
    let (code, http) = (status.code() as i32, http.as_u16());
    format!(
        "{{\"error\":{{\"grpc_code\":{code},\"http_code\":{http},\"message\":{message},\"http_status\":\"{reason}\"}}}}\n"
    )
    .into()
}
