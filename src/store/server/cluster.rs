//! Members: so far one, which can say who it is and no more.

use tonic::{Request, Response, Status};

use crate::api::etcdserverpb as pb;
use crate::api::etcdserverpb::cluster_server::Cluster;
use crate::api::etcdserverpb::{MemberListRequest, MemberListResponse};
use crate::store::node::Handle;
use crate::store::server::convert::header;
use crate::store::server::identity::{administrator, somebody};
use crate::store::server::status::Reason;

/// Said of changes that need a second member.
const ALONE: &str = "etcdserver: this version of Holdfast runs one member, which other members cannot join yet";

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

    fn is_me(&self, id: u64) -> bool {
        id == self.handle.member().member_id
    }
}

/// Whether these are addresses of a member, as etcd takes them: each with a scheme, a host and a port, and no more.
fn are_addresses(urls: &[String]) -> bool {
    let is_address = |url: &String| {
        let schemes = ["http://", "https://", "unix://", "unixs://"];
        let rest = schemes.iter().find_map(|scheme| url.strip_prefix(scheme));
        let host_and_port = rest.and_then(|rest| rest.rsplit_once(':'));
        host_and_port.is_some_and(|(host, port)| !host.contains('/') && port.parse::<u16>().is_ok())
    };
    !urls.is_empty() && urls.iter().all(is_address)
}

#[tonic::async_trait]
impl Cluster for Service {
    async fn member_list(&self, request: Request<MemberListRequest>) -> Answer<MemberListResponse> {
        somebody(&self.handle, &request)?;
        if request.into_inner().linearizable {
            self.handle.linearized().await?;
        }
        let member = self.handle.member();
        let member = pb::Member {
            id: member.member_id,
            name: member.name.clone(),
            peer_ur_ls: member.peer_urls.clone(),
            client_ur_ls: member.client_urls.clone(),
            is_learner: false,
        };
        // Members have nothing to do with keys: there is no revision.
        Ok(Response::new(MemberListResponse { header: header(&self.handle, 0), members: vec![member] }))
    }

    async fn member_add(&self, request: Request<pb::MemberAddRequest>) -> Answer<pb::MemberAddResponse> {
        administrator(&self.handle, &request)?;
        let urls = request.into_inner().peer_ur_ls;
        if !are_addresses(&urls) {
            return Err(Reason::MemberUrlsInvalid.into());
        }
        if urls.iter().any(|url| self.handle.member().peer_urls.contains(url)) {
            return Err(Reason::PeerUrlsExist.into());
        }
        Err(Status::unimplemented(ALONE))
    }

    async fn member_remove(&self, request: Request<pb::MemberRemoveRequest>) -> Answer<pb::MemberRemoveResponse> {
        administrator(&self.handle, &request)?;
        // Without the last one there would be nobody left to agree.
        Err(if self.is_me(request.into_inner().id) { Reason::NotEnoughStarted } else { Reason::MemberNotFound }.into())
    }

    async fn member_update(&self, request: Request<pb::MemberUpdateRequest>) -> Answer<pb::MemberUpdateResponse> {
        administrator(&self.handle, &request)?;
        Err(if self.is_me(request.into_inner().id) {
            Status::unimplemented(ALONE)
        } else {
            Reason::MemberNotFound.into()
        })
    }

    async fn member_promote(&self, request: Request<pb::MemberPromoteRequest>) -> Answer<pb::MemberPromoteResponse> {
        administrator(&self.handle, &request)?;
        Err(if self.is_me(request.into_inner().id) { Reason::NotLearner } else { Reason::MemberNotFound }.into())
    }
}
