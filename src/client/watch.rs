//! Changes as they happen: one watcher on one stream, from a revision on.
//!
//! A watcher first gets what history still holds, then what is written, in order of revision and with all changes of one
//! revision together. A member may split a large revision; the pieces are handed on as they come, marked, because holding
//! them back would need memory without limit. What ends a watcher is not all the same: a compacted start means that
//! history is gone and is told as a value (somebody has to take a full backup), a lost connection is an error and the
//! caller begins again behind the last revision it has whole.
//!
//! Invariants:
//! - Revisions never go back and none before the start is handed on; a member that breaks this is reported, not believed.
//! - A progress notification is passed on as what it is, a claim: etcd 3.5.0 to 3.5.12 make it too early.
//! - One message is in memory, of at most `WATCH_MESSAGE_BYTES_MAX`; behind it only the window of the stream.
//! - The stream ends when the member loses its leader: a member on the wrong side of a partition would be silent for ever.

use futures::SinkExt as _;
use futures::channel::mpsc;
use std::time::Duration;
use tonic::metadata::AsciiMetadataValue;
use tonic::{Request, Streaming};

use crate::api::etcdserverpb::watch_client::WatchClient;
use crate::api::etcdserverpb::watch_request::RequestUnion;
use crate::api::etcdserverpb::{WatchCreateRequest, WatchProgressRequest, WatchRequest, WatchResponse};
use crate::api::mvccpb::event::EventType;
use crate::api::mvccpb::{Event, KeyValue};
use crate::base::error::{Error, Kind, Result};
use crate::base::id::EtcdId;
use crate::client::channel::{Client, Question};
use crate::client::kv::KeyRange;
use crate::client::options::Endpoint;
use crate::client::status;

/// Largest message accepted, in bytes. Members split what is larger than their request limit, 2 MiB by default.
pub const WATCH_MESSAGE_BYTES_MAX: usize = 64 << 20;
/// Requests waiting to be sent on the stream: the creation and the questions for progress.
const REQUESTS_MAX: usize = 4;

/// What to watch.
#[derive(Clone, Debug)]
pub struct WatchOptions {
    /// Which keys.
    pub range: KeyRange,
    /// First revision of interest; 0: the next one to come.
    pub start_revision: i64,
    /// Whether events carry the state before.
    pub prev_kv: bool,
}

/// A watcher.
#[derive(Debug)]
pub struct Watch {
    endpoint: Endpoint,
    stream: Streaming<WatchResponse>,
    requests: mpsc::Sender<WatchRequest>,
    order: Order,
    cluster_id: EtcdId,
    member_id: EtcdId,
}

/// What a watcher says.
#[derive(Clone, Debug, PartialEq)]
pub enum WatchItem {
    /// Changes.
    Changes(Changes),
    /// The member claims that no change up to this revision is still to come.
    Progress {
        /// The revision.
        revision: i64,
    },
    /// History before this revision is gone, and so is the watcher.
    Compacted {
        /// The first revision that can still be watched from.
        revision: i64,
    },
}

/// Changes in the order they were made.
#[derive(Clone, Debug, PartialEq)]
pub struct Changes {
    /// At least one.
    pub changes: Vec<Change>,
    /// Whether the last revision goes on in the next item.
    pub goes_on: bool,
}

/// One change.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    /// What happened.
    pub kind: ChangeKind,
    /// The state after; of a deletion only key and mod_revision. Slices of the message: copy what is kept.
    pub kv: KeyValue,
    /// The state before, if it was asked for and history holds it.
    pub before: Option<KeyValue>,
}

/// What happened to a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChangeKind {
    /// It was created or set.
    Put,
    /// It was deleted.
    Delete,
}

impl Client {
    /// Begins to watch at the member at `endpoint`. Returns when the member has confirmed it.
    pub async fn watch(&self, endpoint: &Endpoint, options: &WatchOptions) -> Result<Watch> {
        let question = Question { what: "watch for changes", deadline: self.options().deadline };
        let start = options.start_revision;
        let create = create_request(options);
        let ask = |link| {
            let create = create.clone();
            async move {
                let (mut requests, outgoing) = mpsc::channel(REQUESTS_MAX);
                requests.try_send(create).expect("a new queue has room for one");
                let mut request = Request::new(outgoing);
                request.metadata_mut().insert("hasleader", AsciiMetadataValue::from_static("true"));
                let mut client = WatchClient::new(link).max_decoding_message_size(WATCH_MESSAGE_BYTES_MAX);
                let mut stream = client.watch(request).await?.into_inner();
                let created = stream.message().await?;
                Ok((stream, requests, created))
            }
        };
        let (stream, requests, created) =
            self.at(endpoint, question, ask).await.map_err(|unanswered| unanswered.error(question, endpoint))?;
        let created = created.unwrap_or_default();
        accept_creation(&created).map_err(|error| failed(error, endpoint))?;
        let header = created.header.unwrap_or_default();
        let order = Order { last: start.max(1) - 1, is_open: false };
        let (cluster_id, member_id) = (EtcdId(header.cluster_id), EtcdId(header.member_id));
        Ok(Watch { endpoint: endpoint.clone(), stream, requests, order, cluster_id, member_id })
    }
}

fn create_request(options: &WatchOptions) -> WatchRequest {
    let (key, range_end) = options.range.request_bounds();
    let create = WatchCreateRequest {
        key,
        range_end,
        start_revision: options.start_revision,
        progress_notify: true,
        prev_kv: options.prev_kv,
        fragment: true,
        ..WatchCreateRequest::default()
    };
    WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) }
}

fn accept_creation(created: &WatchResponse) -> Result<()> {
    if created.created && !created.canceled {
        return Ok(());
    }
    let reason = if created.cancel_reason.is_empty() { "the stream ended" } else { &created.cancel_reason };
    let kind = if reason.contains("permission denied") { Kind::Denied } else { Kind::Failed };
    Err(Error::new(kind, format!("the member did not begin: {reason}"))
        .hint("the user needs read permission on the whole range: `etcdctl role grant-permission`"))
}

fn failed(error: Error, endpoint: &Endpoint) -> Error {
    error.during(format!("watch for changes from {endpoint}"))
}

impl Watch {
    /// The cluster that is watched.
    pub fn cluster_id(&self) -> EtcdId {
        self.cluster_id
    }

    /// The member that tells.
    pub fn member_id(&self) -> EtcdId {
        self.member_id
    }

    /// Waits for what comes next. After `Compacted` or an error the watcher is over.
    pub async fn next(&mut self) -> Result<WatchItem> {
        loop {
            let response = match self.stream.message().await {
                Ok(Some(response)) => response,
                Ok(None) => {
                    let ended = Error::new(Kind::Unavailable, "the member ended the stream")
                        .hint("it is stopping or restarting; watch again behind the last revision received");
                    return Err(failed(ended, &self.endpoint));
                }
                Err(status) => return Err(failed(status::reason(&status), &self.endpoint)),
            };
            if let Some(item) = self.order.take(response).map_err(|error| failed(error, &self.endpoint))? {
                return Ok(item);
            }
        }
    }

    /// Asks the member how far the watcher has come; the answer arrives as `Progress`, if the member thinks it is due.
    pub async fn request_progress(&mut self, deadline: Duration) -> Result<()> {
        let request = WatchRequest { request_union: Some(RequestUnion::ProgressRequest(WatchProgressRequest {})) };
        match tokio::time::timeout(deadline, self.requests.send(request)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) | Err(_) => {
                let error = Error::new(Kind::Unavailable, "the question for progress could not be sent")
                    .hint("the connection is gone; watch again behind the last revision received");
                Err(failed(error, &self.endpoint))
            }
        }
    }
}

/// How far the changes came. Knows no network.
#[derive(Debug)]
struct Order {
    /// The last revision of which everything was received, or the one before the start.
    last: i64,
    /// Whether revision `last` goes on in the next response.
    is_open: bool,
}

impl Order {
    /// Understands one response; nothing when it says nothing.
    fn take(&mut self, response: WatchResponse) -> Result<Option<WatchItem>> {
        if response.canceled {
            return self.cancelled(&response).map(Some);
        }
        let goes_on = response.fragment;
        let revision = response.header.map_or(0, |header| header.revision);
        if response.events.is_empty() {
            // The creation of the watcher was awaited already; whatever else is empty is a notification of progress.
            let is_progress = !response.created && !goes_on && revision > 0;
            return Ok(is_progress.then_some(WatchItem::Progress { revision }));
        }
        let mut changes = Vec::with_capacity(response.events.len());
        for event in response.events {
            let change = change(event)?;
            let revision = change.kv.mod_revision;
            // Within one response a revision may repeat: it may have several changes.
            let is_continued = self.is_open || !changes.is_empty();
            if revision < self.last || (revision == self.last && !is_continued) {
                let text = format!("the member sent revision {revision} after {}", self.last);
                return Err(Error::damaged(text)
                    .hint("watch another member, and compare hashes: `etcdctl endpoint hashkv --cluster`"));
            }
            self.last = revision;
            changes.push(change);
        }
        self.is_open = goes_on;
        Ok(Some(WatchItem::Changes(Changes { changes, goes_on })))
    }

    fn cancelled(&self, response: &WatchResponse) -> Result<WatchItem> {
        if response.compact_revision > 0 {
            return Ok(WatchItem::Compacted { revision: response.compact_revision });
        }
        let reason = match response.cancel_reason.as_str() {
            "" => "no reason given",
            reason => reason,
        };
        Err(Error::new(Kind::Unavailable, format!("the member ended the watcher: {reason}"))
            .hint("watch again behind the last revision received"))
    }
}

fn change(event: Event) -> Result<Change> {
    const HINT: &str = "is the peer an etcd 3.4 or newer?";
    let kind = match EventType::try_from(event.r#type) {
        Ok(EventType::Put) => ChangeKind::Put,
        Ok(EventType::Delete) => ChangeKind::Delete,
        Err(_) => return Err(Error::damaged(format!("a change of unknown kind {}", event.r#type)).hint(HINT)),
    };
    let kv = event.kv.ok_or_else(|| Error::damaged("a change without a key").hint(HINT))?;
    Ok(Change { kind, kv, before: event.prev_kv })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::etcdserverpb::ResponseHeader;

    fn response(revisions: &[i64], fragment: bool) -> WatchResponse {
        let events = revisions.iter().map(|revision| Event {
            kv: Some(KeyValue { mod_revision: *revision, ..KeyValue::default() }),
            ..Event::default()
        });
        WatchResponse { events: events.collect(), fragment, ..WatchResponse::default() }
    }

    fn order(last: i64) -> Order {
        Order { last, is_open: false }
    }

    #[test]
    fn changes_ascend_and_a_split_revision_is_marked() {
        let mut order = order(4);
        for (revisions, fragment) in
            [(&[5, 5, 6][..], false), (&[7], true), (&[7, 7], true), (&[7, 8], false), (&[9], false)]
        {
            let Some(WatchItem::Changes(item)) = order.take(response(revisions, fragment)).unwrap() else { panic!() };
            assert_eq!((item.changes.len(), item.goes_on), (revisions.len(), fragment));
        }
    }

    #[test]
    fn revisions_that_go_back_are_reported() {
        for (last, revisions) in [(4, &[4][..]), (4, &[3]), (4, &[6, 5])] {
            let error = order(last).take(response(revisions, false)).unwrap_err();
            assert!(error.kind() == Kind::Damaged && error.hint_text().is_some(), "{revisions:?}");
        }
        // A revision that was whole does not come again.
        let mut order = order(4);
        order.take(response(&[5], false)).unwrap();
        assert!(order.take(response(&[5], false)).is_err());
        let unknown = WatchResponse { events: vec![Event { r#type: 9, ..Event::default() }], ..response(&[], false) };
        assert!(order.take(unknown).is_err());
    }

    #[test]
    fn the_other_responses_have_their_meaning() {
        let header = |revision| Some(ResponseHeader { revision, ..ResponseHeader::default() });
        let progress = WatchResponse { header: header(9), ..WatchResponse::default() };
        assert_eq!(order(4).take(progress.clone()).unwrap(), Some(WatchItem::Progress { revision: 9 }));
        let created = WatchResponse { created: true, ..progress };
        assert_eq!(order(4).take(created).unwrap(), None);
        let compacted = WatchResponse { canceled: true, compact_revision: 8, ..WatchResponse::default() };
        assert_eq!(order(4).take(compacted).unwrap(), Some(WatchItem::Compacted { revision: 8 }));
        let ended = WatchResponse { canceled: true, ..WatchResponse::default() };
        assert_eq!(order(4).take(ended).unwrap_err().kind(), Kind::Unavailable);

        let denied = "rpc error: code = PermissionDenied desc = etcdserver: permission denied";
        let refused = WatchResponse {
            created: true,
            canceled: true,
            cancel_reason: denied.to_owned(),
            ..WatchResponse::default()
        };
        assert_eq!(accept_creation(&refused).unwrap_err().kind(), Kind::Denied);
    }
}
