//! Elections: the queue of a name, whose front leads, and says something.

use std::collections::VecDeque;

use axum::Router;
use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::{self, BoxStream};
use tonic::{Request, Response, Status, Streaming};

use crate::api::etcdserverpb::watch_create_request::FilterType;
use crate::api::etcdserverpb::{PutRequest, ResponseHeader, WatchCreateRequest, WatchResponse, request_op};
use crate::api::mvccpb::KeyValue;
use crate::api::mvccpb::event::EventType;
use crate::api::v3electionpb::election_server::Election;
use crate::api::v3electionpb::{
    CampaignRequest, CampaignResponse, LeaderKey, LeaderRequest, LeaderResponse, ProclaimRequest, ProclaimResponse,
    ResignRequest, ResignResponse,
};
use crate::store::node::Handle;
use crate::store::server::queue::{Caller, Queues, end_of, first, next, prefix_of};

type Answer<T> = Result<Response<T>, Status>;

/// etcd's words.
const NO_LEADER: &str = "election: no leader";
const NOT_LEADER: &str = "election: not leader";
const NO_KEY: &str = "\"leader\" field must be provided";

/// The service.
#[derive(Clone, Debug)]
pub struct Service {
    queues: Queues,
}

impl Service {
    /// Over the member's other services.
    pub fn new(handle: &Handle, services: &Router) -> Self {
        Service { queues: Queues::new(handle, services) }
    }
}

#[tonic::async_trait]
impl Election for Service {
    type ObserveStream = BoxStream<'static, Result<LeaderResponse, Status>>;

    async fn campaign(&self, request: Request<CampaignRequest>) -> Answer<CampaignResponse> {
        let (caller, CampaignRequest { name, lease, value }) = self.queues.caller(request);
        let lease = caller.lease(lease).await?;
        let joined = caller.join(&name, lease, value.clone()).await?;
        let place = joined.place;
        let leader = LeaderKey { name, key: place.key.clone(), rev: place.created, lease };
        if joined.held.is_some_and(|held| held.value != value) {
            proclaim(&caller, &leader, value).await?;
        }
        if !joined.at_front && place.front().await?.is_none() {
            return Err(Status::unknown(NOT_LEADER));
        }
        place.keep();
        Ok(Response::new(CampaignResponse { header: joined.header, leader: Some(leader) }))
    }

    async fn proclaim(&self, request: Request<ProclaimRequest>) -> Answer<ProclaimResponse> {
        let (caller, ProclaimRequest { leader, value }) = self.queues.caller(request);
        let mut leader = leader.ok_or_else(|| Status::unknown(NO_KEY))?;
        leader.lease = caller.lease(leader.lease).await?;
        let header = proclaim(&caller, &leader, value).await?;
        Ok(Response::new(ProclaimResponse { header }))
    }

    async fn leader(&self, request: Request<LeaderRequest>) -> Answer<LeaderResponse> {
        let (caller, LeaderRequest { name }) = self.queues.caller(request);
        let reply = caller.range(first(&prefix_of(&name))).await?;
        let kv = reply.kvs.into_iter().next().ok_or_else(|| Status::unknown(NO_LEADER))?;
        Ok(Response::new(LeaderResponse { header: reply.header, kv: Some(kv) }))
    }

    async fn observe(&self, request: Request<LeaderRequest>) -> Answer<Self::ObserveStream> {
        let (caller, LeaderRequest { name }) = self.queues.caller(request);
        let observer = Observer { caller, prefix: prefix_of(&name), seen: VecDeque::new(), watch: None, leader: None };
        let told = stream::unfold(Some(observer), |observer| async move {
            let mut observer = observer?;
            match observer.next().await {
                Ok(told) => Some((Ok(told), Some(observer))),
                Err(status) => Some((Err(status), None)),
            }
        });
        Ok(Response::new(told.boxed()))
    }

    async fn resign(&self, request: Request<ResignRequest>) -> Answer<ResignResponse> {
        let (caller, ResignRequest { leader }) = self.queues.caller(request);
        let leader = leader.ok_or_else(|| Status::unknown(NO_KEY))?;
        let header = caller.leave(leader.key, leader.rev).await?;
        Ok(Response::new(ResignResponse { header }))
    }
}

/// Has a candidate say something else.
async fn proclaim(caller: &Caller, leader: &LeaderKey, value: Bytes) -> Result<Option<ResponseHeader>, Status> {
    let LeaderKey { key, rev, lease, .. } = leader.clone();
    let put = PutRequest { key: key.clone(), value, lease, ..PutRequest::default() };
    let reply = caller.only_if(key, rev, request_op::Request::RequestPut(put)).await?;
    if reply.succeeded { Ok(reply.header) } else { Err(Status::unknown(NOT_LEADER)) }
}

/// Somebody who wants to hear everything that leaders say.
struct Observer {
    caller: Caller,
    prefix: Bytes,
    /// What it was not told yet: what one reply of a watch held.
    seen: VecDeque<LeaderResponse>,
    /// Changes of the leader's key, or the first key where there is no leader.
    watch: Option<Streaming<WatchResponse>>,
    leader: Option<Bytes>,
}

impl Observer {
    async fn next(&mut self) -> Result<LeaderResponse, Status> {
        loop {
            if let Some(told) = self.seen.pop_front() {
                return Ok(told);
            }
            match &mut self.watch {
                None => self.look().await?,
                Some(watch) => match next(watch).await? {
                    Some(reply) => self.hear(reply).await?,
                    None => self.watch = None,
                },
            }
        }
    }

    /// Who leads now, and where to listen from here.
    async fn look(&mut self) -> Result<(), Status> {
        let reply = self.caller.range(first(&self.prefix)).await?;
        let revision = reply.header.as_ref().map_or(0, |header| header.revision);
        match reply.kvs.into_iter().next() {
            Some(kv) => self.follow(reply.header, kv, revision).await,
            None => {
                self.leader = None;
                let watch = WatchCreateRequest {
                    key: self.prefix.clone(),
                    range_end: end_of(&self.prefix),
                    start_revision: revision + 1,
                    filters: vec![FilterType::Nodelete as i32],
                    ..WatchCreateRequest::default()
                };
                self.watch = Some(self.caller.watch(vec![watch]).await?);
                Ok(())
            }
        }
    }

    async fn follow(&mut self, header: Option<ResponseHeader>, kv: KeyValue, revision: i64) -> Result<(), Status> {
        let key = kv.key.clone();
        self.seen.push_back(LeaderResponse { header, kv: Some(kv) });
        let watch = WatchCreateRequest { key: key.clone(), start_revision: revision + 1, ..Default::default() };
        self.watch = Some(self.caller.watch(vec![watch]).await?);
        self.leader = Some(key);
        Ok(())
    }

    async fn hear(&mut self, reply: WatchResponse) -> Result<(), Status> {
        for event in reply.events {
            let is_put = event.r#type == EventType::Put as i32;
            let Some(kv) = event.kv.filter(|_| is_put) else {
                // The leader is gone, and another one may be there.
                self.watch = None;
                return Ok(());
            };
            // A reply may tell of several revisions.
            let header = reply.header.map(|header| ResponseHeader { revision: kv.mod_revision, ..header });
            if self.leader.is_none() {
                let revision = kv.mod_revision;
                return self.follow(header, kv, revision).await;
            }
            self.seen.push_back(LeaderResponse { header, kv: Some(kv) });
        }
        Ok(())
    }
}
