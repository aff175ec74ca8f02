//! Who the members are, as the cluster knows it.

use crate::api::etcdserverpb::MemberListRequest;
use crate::api::etcdserverpb::cluster_client::ClusterClient;
use crate::base::error::Result;
use crate::base::id::EtcdId;
use crate::client::channel::Client;

/// A member of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Never used again after the member was removed.
    pub id: EtcdId,
    /// Empty until the member has started for the first time.
    pub name: String,
    /// Where the other members reach it.
    pub peer_urls: Vec<String>,
    /// Where clients reach it; empty until it has started.
    pub client_urls: Vec<String>,
    /// Receives the log and does not vote.
    pub is_learner: bool,
}

/// The members, and the cluster that named them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Membership {
    /// The cluster.
    pub cluster_id: EtcdId,
    /// In the order of the answer.
    pub members: Vec<Member>,
}

impl Client {
    /// The members. `linearizable` asks the whole cluster and fails without a quorum; otherwise one member tells its own
    /// view, which may lag.
    pub async fn members(&self, linearizable: bool) -> Result<Membership> {
        let (response, _) = self
            .any(self.question("list the members"), |link| async move {
                ClusterClient::new(link).member_list(MemberListRequest { linearizable }).await
            })
            .await?;
        let response = response.into_inner();
        let members = response.members.into_iter().map(|member| Member {
            id: EtcdId(member.id),
            name: member.name,
            peer_urls: member.peer_ur_ls,
            client_urls: member.client_ur_ls,
            is_learner: member.is_learner,
        });
        let cluster_id = EtcdId(response.header.unwrap_or_default().cluster_id);
        Ok(Membership { cluster_id, members: members.collect() })
    }
}
