//! Queues of clients, which locks and elections are made of: who made the oldest key under a name is at the front.
//!
//! A place is a key `NAME/LEASE` under a lease. Its client gives it up by deleting the key, or by being gone for longer than
//! the lease; the state knows nothing of queues. Who waits looks for the newest place made before its own and waits until
//! that is gone, then looks again: a place that is given up wakes one client, not all of them.
//!
//! All of it is done by calling the member's own services as the client that asks: a queue gives nobody a right that its
//! client does not have. Who that is was made sure of when it asked; it may wait for longer than its token is good for.
//! Whatever those services refuse leaves as `Unknown` with their text, as etcd has it. Only what a client leaves behind that
//! stops waiting is taken away by the member itself, because nobody may be there any more who could be asked.
//!
//! Invariants:
//! - Who stops waiting, for whatever reason, leaves no place behind.
//! - Nobody is told that it is at the front after its place was gone.

use axum::Router;
use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream;
use tonic::metadata::MetadataMap;
use tonic::{Extensions, Request, Response, Status, Streaming};

use crate::api::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use crate::api::etcdserverpb::kv_client::KvClient;
use crate::api::etcdserverpb::lease_client::LeaseClient;
use crate::api::etcdserverpb::range_request::{SortOrder, SortTarget};
use crate::api::etcdserverpb::watch_client::WatchClient;
use crate::api::etcdserverpb::watch_create_request::FilterType;
use crate::api::etcdserverpb::watch_request::RequestUnion;
use crate::api::etcdserverpb::{
    Compare, DeleteRangeRequest, DeleteRangeResponse, LeaseGrantRequest, PutRequest, RangeRequest, RangeResponse,
    RequestOp, ResponseHeader, TxnRequest, TxnResponse, WatchCreateRequest, WatchRequest, WatchResponse, request_op,
    response_op,
};
use crate::api::mvccpb::KeyValue;
use crate::store::machine::command::Operation;
use crate::store::node::Handle;
use crate::store::server::SEND_BYTES_MAX;
use crate::store::server::identity::Claim;

/// A lease that the member grants, in seconds; etcd's figure.
const LEASE_TTL_S: i64 = 60;
/// What a client asks for beside its request: this goes with every call made for it.
const DEMANDS: [&str; 2] = ["hasleader", "client-api-version"];

/// What services of queues are made of.
#[derive(Clone, Debug)]
pub(super) struct Queues {
    handle: Handle,
    services: Router,
}

impl Queues {
    /// Over the other services of this member.
    pub(super) fn new(handle: &Handle, services: &Router) -> Self {
        Queues { handle: handle.clone(), services: services.clone() }
    }

    /// Those services as the client of this request, with what it asks for.
    pub(super) fn caller<T>(&self, request: Request<T>) -> (Caller, T) {
        let claim = Claim::of(&request).settled(&self.handle);
        let (all, mut extensions, message) = request.into_parts();
        extensions.insert(claim);
        let mut metadata = MetadataMap::new();
        for name in DEMANDS {
            if let Some(value) = all.get(name) {
                metadata.insert(name, value.clone());
            }
        }
        (Caller { queues: self.clone(), metadata, extensions }, message)
    }
}

/// The member's services, called as one of its clients.
#[derive(Clone, Debug)]
pub(super) struct Caller {
    queues: Queues,
    metadata: MetadataMap,
    extensions: Extensions,
}

macro_rules! client {
    ($caller:expr, $client:ident) => {
        $client::new($caller.queues.services.clone()).max_decoding_message_size(SEND_BYTES_MAX)
    };
}

impl Caller {
    fn request<T>(&self, message: T) -> Request<T> {
        Request::from_parts(self.metadata.clone(), self.extensions.clone(), message)
    }

    pub(super) async fn range(&self, request: RangeRequest) -> Result<RangeResponse, Status> {
        plain(client!(self, KvClient).range(self.request(request)).await)
    }

    pub(super) async fn txn(&self, request: TxnRequest) -> Result<TxnResponse, Status> {
        plain(client!(self, KvClient).txn(self.request(request)).await)
    }

    pub(super) async fn delete(&self, key: Bytes) -> Result<DeleteRangeResponse, Status> {
        let request = DeleteRangeRequest { key, ..DeleteRangeRequest::default() };
        plain(client!(self, KvClient).delete_range(self.request(request)).await)
    }

    /// The lease that was asked for, or one that is granted now.
    pub(super) async fn lease(&self, asked: i64) -> Result<i64, Status> {
        if asked != 0 {
            return Ok(asked);
        }
        let request = LeaseGrantRequest { ttl: LEASE_TTL_S, id: 0 };
        Ok(plain(client!(self, LeaseClient).lease_grant(self.request(request)).await)?.id)
    }

    /// Watches, one for each request, until the stream is dropped.
    pub(super) async fn watch(&self, creates: Vec<WatchCreateRequest>) -> Result<Streaming<WatchResponse>, Status> {
        let ask = |create| WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) };
        let asks = stream::iter(creates.into_iter().map(ask)).chain(stream::pending());
        plain(client!(self, WatchClient).watch(self.request(asks)).await)
    }

    /// Takes a place in the queue of a name, unless the lease has one already. Whoever stops waiting for this leaves no place
    /// behind: it is done to its end, and then given up.
    pub(super) async fn join(&self, name: &Bytes, lease: i64, value: Bytes) -> Result<Joined, Status> {
        let (caller, name) = (self.clone(), name.clone());
        let joined = tokio::spawn(async move { caller.joined(&name, lease, value).await }).await;
        joined.map_err(|_| Status::internal("a queue could not be joined"))?
    }

    async fn joined(&self, name: &[u8], lease: i64, value: Bytes) -> Result<Joined, Status> {
        let (prefix, key) = (prefix_of(name), key_of(name, lease));
        let put = PutRequest { key: key.clone(), value, lease, ..PutRequest::default() };
        let get = RangeRequest { key: key.clone(), ..RangeRequest::default() };
        let front = request_op::Request::RequestRange(first(&prefix));
        let steps = |step| [step, front.clone()].map(|step| RequestOp { request: Some(step) }).to_vec();
        let request = TxnRequest {
            compare: vec![created_at(key.clone(), 0)],
            success: steps(request_op::Request::RequestPut(put)),
            failure: steps(request_op::Request::RequestRange(get)),
        };
        let reply = self.txn(request).await?;
        let mut found = reply.responses.into_iter().map(|step| match step.response {
            Some(response_op::Response::ResponseRange(range)) => range.kvs.into_iter().next(),
            _ => None,
        });
        let (held, front) = (found.next().flatten(), found.next().flatten());
        let created = match &held {
            Some(held) => held.create_revision,
            None => reply.header.as_ref().map_or(0, |header| header.revision),
        };
        let at_front = front.is_none_or(|front| front.create_revision == created);
        // What the lease had before, and what is at the front, is not given up by asking for it once more.
        let kept = held.is_some() && at_front;
        let place = Place { caller: self.clone(), prefix, key, created, kept };
        Ok(Joined { place, held, at_front, header: reply.header })
    }
}

/// What came of joining a queue.
pub(super) struct Joined {
    /// Where the client stands.
    pub(super) place: Place,
    /// What the lease had there already.
    pub(super) held: Option<KeyValue>,
    /// Nobody is before it.
    pub(super) at_front: bool,
    /// Of the transaction that made it.
    pub(super) header: Option<ResponseHeader>,
}

/// A place in a queue. Given up when it is dropped before it is kept.
pub(super) struct Place {
    caller: Caller,
    prefix: Bytes,
    pub(super) key: Bytes,
    /// The revision that made it.
    pub(super) created: i64,
    kept: bool,
}

impl Place {
    /// It stays until its lease ends or its client gives it up.
    pub(super) fn keep(mut self) {
        self.kept = true;
    }

    /// Returns when nobody is before this place: at which revision, or none if the place itself was lost meanwhile.
    pub(super) async fn front(&self) -> Result<Option<ResponseHeader>, Status> {
        loop {
            let before = RangeRequest { max_create_revision: self.created - 1, ..last(&self.prefix) };
            let before = self.caller.range(before).await?;
            // Looked at after the others: a place that is there now was there while nobody was before it.
            let own = RangeRequest { key: self.key.clone(), keys_only: true, ..RangeRequest::default() };
            let own = self.caller.range(own).await?;
            if own.kvs.first().is_none_or(|own| own.create_revision != self.created) {
                return Ok(None);
            }
            let Some(before_me) = before.kvs.into_iter().next() else { return Ok(own.header) };
            let revision = before.header.map_or(0, |header| header.revision);
            self.gone([before_me.key, self.key.clone()], revision).await?;
        }
    }

    /// Returns when one of these keys may have been deleted after a revision.
    async fn gone(&self, keys: [Bytes; 2], revision: i64) -> Result<(), Status> {
        let create = |key| WatchCreateRequest {
            key,
            start_revision: revision + 1,
            filters: vec![FilterType::Noput as i32],
            ..WatchCreateRequest::default()
        };
        let mut told = self.caller.watch(keys.map(create).to_vec()).await?;
        loop {
            match next(&mut told).await? {
                Some(reply) if reply.events.is_empty() => {}
                // Compacted meanwhile: what is there now says more.
                None | Some(_) => return Ok(()),
            }
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.kept {
            return;
        }
        let (key, handle) = (std::mem::take(&mut self.key), &self.caller.queues.handle);
        handle.want(Operation::Txn(leaving(key, self.created)));
    }
}

/// Gives up a place that a revision made; what a later one made stays.
fn leaving(key: Bytes, created: i64) -> TxnRequest {
    let delete = DeleteRangeRequest { key: key.clone(), ..DeleteRangeRequest::default() };
    provided(key, created, request_op::Request::RequestDeleteRange(delete))
}

/// Does something provided that a key was made by a revision.
fn provided(key: Bytes, created: i64, step: request_op::Request) -> TxnRequest {
    let success = vec![RequestOp { request: Some(step) }];
    TxnRequest { compare: vec![created_at(key, created)], success, failure: vec![] }
}

impl Caller {
    /// Gives up a place that a revision made; what a later one made stays.
    pub(super) async fn leave(&self, key: Bytes, created: i64) -> Result<Option<ResponseHeader>, Status> {
        self.txn(leaving(key, created)).await.map(|reply| reply.header)
    }

    /// Does something provided that a key was made by a revision.
    pub(super) async fn only_if(
        &self,
        key: Bytes,
        created: i64,
        step: request_op::Request,
    ) -> Result<TxnResponse, Status> {
        self.txn(provided(key, created, step)).await
    }
}

/// The next of what a watch tells; none when it must be begun again, because history was compacted before it was read.
pub(super) async fn next(told: &mut Streaming<WatchResponse>) -> Result<Option<WatchResponse>, Status> {
    match told.message().await.map_err(|status| unknown(&status))? {
        Some(reply) if reply.canceled && reply.compact_revision != 0 => Ok(None),
        Some(reply) if reply.canceled => Err(Status::unknown(reply.cancel_reason)),
        Some(reply) => Ok(Some(reply)),
        None => Err(Status::unknown("etcdserver: watch canceled")),
    }
}

/// The oldest key of a queue.
pub(super) fn first(prefix: &Bytes) -> RangeRequest {
    RangeRequest { sort_order: SortOrder::Ascend as i32, ..last(prefix) }
}

/// The newest one.
fn last(prefix: &Bytes) -> RangeRequest {
    RangeRequest {
        key: prefix.clone(),
        range_end: end_of(prefix),
        limit: 1,
        sort_order: SortOrder::Descend as i32,
        sort_target: SortTarget::Create as i32,
        ..RangeRequest::default()
    }
}

/// What all keys of a name begin with.
pub(super) fn prefix_of(name: &[u8]) -> Bytes {
    [name, b"/"].concat().into()
}

/// The end of the range of keys that begin with a prefix, whose last byte is a slash.
pub(super) fn end_of(prefix: &Bytes) -> Bytes {
    let mut end = prefix.to_vec();
    if let Some(last) = end.last_mut() {
        *last = b'/' + 1;
    }
    end.into()
}

fn key_of(name: &[u8], lease: i64) -> Bytes {
    let sign = if lease < 0 { "-" } else { "" };
    [name, format!("/{sign}{:x}", lease.unsigned_abs()).as_bytes()].concat().into()
}

fn created_at(key: Bytes, revision: i64) -> Compare {
    Compare {
        result: CompareResult::Equal as i32,
        target: CompareTarget::Create as i32,
        key,
        target_union: Some(TargetUnion::CreateRevision(revision)),
        ..Compare::default()
    }
}

fn plain<T>(answer: Result<Response<T>, Status>) -> Result<T, Status> {
    answer.map(Response::into_inner).map_err(|status| unknown(&status))
}

/// A refusal as it leaves: etcd's services of this kind are clients of the others, and pass on no code.
fn unknown(status: &Status) -> Status {
    Status::unknown(status.message())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_named_by_its_lease() {
        assert_eq!(key_of(b"mo", 77), "mo/4d");
        assert_eq!(key_of(b"", -5), "/-5");
        assert_eq!(key_of(b"x", i64::MIN), "x/-8000000000000000");
        assert_eq!((prefix_of(b"mo"), end_of(&prefix_of(b"mo"))), ("mo/".into(), "mo0".into()));
    }
}
