//! Leases.

use futures::stream::{self, BoxStream, StreamExt as _};
use tonic::{Request, Response, Status, Streaming};

use crate::api::etcdserverpb::lease_server::Lease;
use crate::api::etcdserverpb::{
    AlarmType, LeaseGrantRequest, LeaseGrantResponse, LeaseKeepAliveRequest, LeaseKeepAliveResponse,
    LeaseLeasesRequest, LeaseLeasesResponse, LeaseRevokeRequest, LeaseRevokeResponse, LeaseStatus,
    LeaseTimeToLiveRequest, LeaseTimeToLiveResponse,
};
use crate::base::rng;
use crate::store::auth::grant::Access;
use crate::store::machine::command::Operation;
use crate::store::machine::refusal::Refusal;
use crate::store::machine::{Reply, permit};
use crate::store::node::Handle;
use crate::store::server::convert::{complete, header_of, propose};
use crate::store::server::identity::{Claim, requester, somebody, subject};
use crate::store::server::{gate, status};

/// The longest lease, in seconds. etcd's figure.
const TTL_MAX_S: i64 = 9_000_000_000;
/// What a lease that does not exist has left.
const NO_TTL_S: i64 = -1;

type Answer<T> = Result<Response<T>, Status>;

/// The service.
#[derive(Clone, Debug)]
pub struct Service {
    handle: Handle,
}

impl Service {
    /// Of this member.
    pub fn new(handle: &Handle) -> Self {
        Service { handle: handle.clone() }
    }

    /// What is said to a lease longer than any: what alarms say comes before.
    fn too_long(&self) -> Refusal {
        let alarms = &self.handle.state().alarms;
        match (alarms.is_active(AlarmType::Corrupt), alarms.is_active(AlarmType::Nospace)) {
            (true, _) => Refusal::Corrupt,
            (false, true) => Refusal::NoSpace,
            (false, false) => Refusal::LeaseTtlTooLarge,
        }
    }

    async fn keep_alive(&self, claim: &Claim, id: i64) -> Result<LeaseKeepAliveResponse, Status> {
        // Asked each time: a stream outlives tokens and rules.
        let requester = claim.requester(&self.handle)?;
        subject(&self.handle.state(), &requester).is_somebody()?;
        // Taken before: a client must not believe that the lease lived at a later revision.
        let header = header_of(&self.handle, &self.handle.state());
        let ttl = self.handle.keep_alive(id).await?;
        Ok(LeaseKeepAliveResponse { header, id, ttl })
    }
}

/// An id that nobody chose.
fn random_id() -> Result<i64, Status> {
    let mut bytes = [0; 8];
    loop {
        rng::fill(&mut bytes).map_err(|error| status::failed(&error))?;
        let id = i64::from_be_bytes(bytes) & i64::MAX;
        if id != 0 {
            return Ok(id);
        }
    }
}

#[tonic::async_trait]
impl Lease for Service {
    type LeaseKeepAliveStream = BoxStream<'static, Result<LeaseKeepAliveResponse, Status>>;

    async fn lease_grant(&self, request: Request<LeaseGrantRequest>) -> Answer<LeaseGrantResponse> {
        let requester = requester(&self.handle, &request)?;
        let LeaseGrantRequest { ttl, id } = request.into_inner();
        if ttl > TTL_MAX_S {
            return Err(self.too_long().into());
        }
        let ttl = ttl.max(self.handle.tuning().lease_ttl_min_s());
        let id = if id == 0 { random_id()? } else { id };
        Ok(Response::new(propose!(&self.handle, requester, LeaseGrant, LeaseGrantRequest { ttl, id })))
    }

    async fn lease_revoke(&self, request: Request<LeaseRevokeRequest>) -> Answer<LeaseRevokeResponse> {
        let requester = requester(&self.handle, &request)?;
        Ok(Response::new(propose!(&self.handle, requester, LeaseRevoke, request.into_inner())))
    }

    async fn lease_keep_alive(
        &self,
        request: Request<Streaming<LeaseKeepAliveRequest>>,
    ) -> Answer<Self::LeaseKeepAliveStream> {
        // One question is answered before the next one is read: a client that does not read is not read from either.
        let claim = Claim::of(&request);
        let answers = stream::unfold(Some((self.clone(), claim, request.into_inner())), |talk| async move {
            let (service, claim, mut questions) = talk?;
            let answer = match questions.message().await {
                Ok(Some(LeaseKeepAliveRequest { id })) => service.keep_alive(&claim, id).await,
                Ok(None) => return None,
                Err(status) => Err(gate::too_long(&status).unwrap_or(status)),
            };
            let rest = answer.is_ok().then_some((service, claim, questions));
            Some((answer, rest))
        });
        Ok(Response::new(answers.boxed()))
    }

    async fn lease_time_to_live(&self, request: Request<LeaseTimeToLiveRequest>) -> Answer<LeaseTimeToLiveResponse> {
        let requester = requester(&self.handle, &request)?;
        let LeaseTimeToLiveRequest { id, keys } = request.into_inner();
        let state = self.handle.linearized().await?;
        let subject = subject(&state, &requester);
        if keys {
            permit::lease(&subject, &state.lessor, id, Access::Read)?;
        } else {
            subject.is_somebody()?;
        }
        let left = self.handle.time_left(id).await?;
        let mut reply = LeaseTimeToLiveResponse { id, ttl: NO_TTL_S, ..LeaseTimeToLiveResponse::default() };
        reply.header = header_of(&self.handle, &state);
        if let (Some(lease), Some(left_ms)) = (state.lessor.get(id), left) {
            reply.ttl = i64::try_from(left_ms / 1000).unwrap_or(i64::MAX);
            reply.granted_ttl = lease.ttl_s;
            if keys {
                reply.keys = lease.keys.iter().map(|key| key.to_vec().into()).collect();
            }
        }
        Ok(Response::new(reply))
    }

    async fn lease_leases(&self, request: Request<LeaseLeasesRequest>) -> Answer<LeaseLeasesResponse> {
        somebody(&self.handle, &request)?;
        let state = self.handle.linearized().await?;
        let leases = self.handle.leases().await?;
        let leases = leases.into_iter().map(|(id, _)| LeaseStatus { id }).collect();
        Ok(Response::new(LeaseLeasesResponse { header: header_of(&self.handle, &state), leases }))
    }
}
