//! Members: so far one, which can say who it is and no more.

use tonic::{Request, Response, Status};

use crate::api::etcdserverpb as pb;
use crate::api::etcdserverpb::cluster_server::Cluster;
use crate::api::etcdserverpb::{MemberListRequest, MemberListResponse};
use crate::store::node::Handle;
use crate::store::server::convert::header;
use crate::store::server::status::Reason;

/// Said of changes that need a second member.
const ALONE: &str = "etcdserver: this version of Holdfast runs one member; it cannot add others";

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

    /// What is said to a change of a member: that there is none of that id, or that this one cannot be changed.
    fn unchangeable<T>(&self, id: u64, why: &str) -> Answer<T> {
        if id == self.handle.member().member_id {
            Err(Status::unimplemented(why))
        } else {
            Err(Reason::MemberNotFound.into())
        }
    }
}

#[tonic::async_trait]
impl Cluster for Service {
    async fn member_list(&self, request: Request<MemberListRequest>) -> Answer<MemberListResponse> {
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

    async fn member_add(&self, _: Request<pb::MemberAddRequest>) -> Answer<pb::MemberAddResponse> {
        Err(Status::unimplemented(ALONE))
    }

    async fn member_remove(&self, request: Request<pb::MemberRemoveRequest>) -> Answer<pb::MemberRemoveResponse> {
        let id = request.into_inner().id;
        self.unchangeable(id, "etcdserver: the only member of a cluster cannot be removed")
    }

    async fn member_update(&self, request: Request<pb::MemberUpdateRequest>) -> Answer<pb::MemberUpdateResponse> {
        let id = request.into_inner().id;
        self.unchangeable(id, "etcdserver: this version of Holdfast runs one member; its peer URLs have no use yet")
    }

    async fn member_promote(&self, request: Request<pb::MemberPromoteRequest>) -> Answer<pb::MemberPromoteResponse> {
        let id = request.into_inner().id;
        if id == self.handle.member().member_id {
            Err(Reason::NotLearner.into())
        } else {
            Err(Reason::MemberNotFound.into())
        }
    }
}
