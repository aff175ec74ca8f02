//! What an operator asks of one member.

use std::sync::Arc;

use tokio::sync::Semaphore;
use tonic::{Request, Response, Status};

use crate::api::etcdserverpb as pb;
use crate::api::etcdserverpb::alarm_request::AlarmAction;
use crate::api::etcdserverpb::downgrade_request::DowngradeAction;
use crate::api::etcdserverpb::maintenance_server::Maintenance;
use crate::base::clock::Stopwatch;
use crate::base::stop::blocking;
use crate::base::telemetry::{Counters, Histogram};
use crate::store::machine::Reply;
use crate::store::machine::command::Operation;
use crate::store::machine::refusal::Failure;
use crate::store::machine::state::State;
use crate::store::node::Handle;
use crate::store::server::convert::{complete, header_of, propose};
use crate::store::server::export::{Exports, Pieces};
use crate::store::server::hash::{hash, hash_kv};
use crate::store::server::identity::{administrator, requester, somebody, subject};
use crate::store::server::status::Reason;
use crate::store::server::{status, version};

/// Checksums that are computed at the same time: each reads everything.
const HASHES_MAX: usize = 1;

type Answer<T> = Result<Response<T>, Status>;

/// The service.
#[derive(Clone, Debug)]
pub struct Service {
    handle: Handle,
    exports: Exports,
    hashing: Arc<Semaphore>,
}

impl Service {
    /// Of this member.
    pub fn new(handle: &Handle, exports: &Exports) -> Self {
        let handle = handle.clone();
        Service { handle, exports: exports.clone(), hashing: Arc::new(Semaphore::new(HASHES_MAX)) }
    }

    /// Computes a checksum of the present state, when it is its turn.
    async fn hashed<T: Send + 'static>(
        &self,
        hash: impl FnOnce(&State) -> Result<T, Failure> + Send + 'static,
        took: fn(&Counters) -> &Histogram,
    ) -> Result<(Option<pb::ResponseHeader>, T), Status> {
        let turn = Arc::clone(&self.hashing).acquire_owned().await;
        let state = self.handle.state();
        let (header, watch) = (header_of(&self.handle, &state), Stopwatch::start());
        let outcome = blocking(move || {
            // Kept to the end, whether somebody still waits for the answer or not.
            let _turn = turn;
            hash(&state)
        })
        .await;
        took(self.handle.counters()).observe(watch.elapsed());
        Ok((header, status::read(&self.handle, outcome)?))
    }
}

#[tonic::async_trait]
impl Maintenance for Service {
    type SnapshotStream = Pieces<pb::SnapshotResponse>;

    async fn alarm(&self, request: Request<pb::AlarmRequest>) -> Answer<pb::AlarmResponse> {
        let requester = requester(&self.handle, &request)?;
        let request = request.into_inner();
        if request.action == AlarmAction::Get as i32 {
            // Looking changes nothing, and must work where nothing else does.
            let state = self.handle.linearized().await?;
            subject(&state, &requester).is_somebody()?;
            let alarms = state.alarms.all(request.alarm);
            return Ok(Response::new(pb::AlarmResponse { header: header_of(&self.handle, &state), alarms }));
        }
        Ok(Response::new(propose!(&self.handle, requester, Alarm, request)))
    }

    async fn status(&self, request: Request<pb::StatusRequest>) -> Answer<pb::StatusResponse> {
        somebody(&self.handle, &request)?;
        let (status, state) = (self.handle.status(), self.handle.state());
        let leaderless = (status.leader == 0).then(|| "etcdserver: no leader".to_owned());
        let alarms = state.alarms.all(pb::AlarmType::None as i32).into_iter().map(|alarm| in_words(&alarm));
        let quota = self.handle.tuning().quota_bytes;
        Ok(Response::new(pb::StatusResponse {
            header: header_of(&self.handle, &state),
            version: version::SERVER.to_owned(),
            db_size: signed(status.file_bytes),
            leader: status.leader,
            raft_index: status.committed,
            raft_term: status.term,
            raft_applied_index: status.applied,
            errors: leaderless.into_iter().chain(alarms).collect(),
            db_size_in_use: signed(status.used_bytes),
            is_learner: false,
            storage_version: version::STORAGE.to_owned(),
            db_size_quota: quota.map_or(0, signed),
            downgrade_info: Some(pb::DowngradeInfo::default()),
        }))
    }

    async fn defragment(&self, request: Request<pb::DefragmentRequest>) -> Answer<pb::DefragmentResponse> {
        administrator(&self.handle, &request)?;
        self.handle.defragment().await.map_err(|error| status::failed(&error))?;
        // etcd's has no header either.
        Ok(Response::new(pb::DefragmentResponse { header: None }))
    }

    async fn hash(&self, request: Request<pb::HashRequest>) -> Answer<pb::HashResponse> {
        administrator(&self.handle, &request)?;
        let (header, hash) = self.hashed(hash, |counters| &counters.hash).await?;
        Ok(Response::new(pb::HashResponse { header, hash }))
    }

    async fn hash_kv(&self, request: Request<pb::HashKvRequest>) -> Answer<pb::HashKvResponse> {
        administrator(&self.handle, &request)?;
        let revision = request.into_inner().revision;
        let (header, hashed) = self.hashed(move |state| hash_kv(state, revision), |counters| &counters.hash_kv).await?;
        Ok(Response::new(pb::HashKvResponse {
            header,
            hash: hashed.hash,
            compact_revision: hashed.scope.compact_revision,
            hash_revision: hashed.scope.revision,
        }))
    }

    async fn snapshot(&self, request: Request<pb::SnapshotRequest>) -> Answer<Self::SnapshotStream> {
        administrator(&self.handle, &request)?;
        Ok(Response::new(self.exports.snapshot()?))
    }

    async fn move_leader(&self, request: Request<pb::MoveLeaderRequest>) -> Answer<pb::MoveLeaderResponse> {
        administrator(&self.handle, &request)?;
        // To the leader itself there is nothing to move.
        if request.into_inner().target_id == self.handle.member().member_id {
            Ok(Response::new(pb::MoveLeaderResponse { header: None }))
        } else {
            Err(Reason::BadLeaderTransferee.into())
        }
    }

    async fn downgrade(&self, request: Request<pb::DowngradeRequest>) -> Answer<pb::DowngradeResponse> {
        administrator(&self.handle, &request)?;
        let request = request.into_inner();
        if request.action == DowngradeAction::Cancel as i32 {
            return Err(Reason::NoDowngrade.into());
        }
        let (major, minor) = release(&request.version).ok_or(Reason::DowngradeFormat)?;
        if release(version::CLUSTER) != Some((major, minor + 1)) {
            return Err(Reason::DowngradeTarget.into());
        }
        Err(Status::unimplemented(
            "etcdserver: Holdfast's data directory is not read by an older etcd; restore a snapshot into that one instead",
        ))
    }
}

/// Major and minor of a version: two numbers, or three.
fn release(version: &str) -> Option<(u64, u64)> {
    let mut parts = version.split('.').map(|part| part.parse().ok());
    let (major, minor) = (parts.next()??, parts.next()??);
    let patch: Option<Option<u64>> = parts.next();
    (patch != Some(None) && parts.next().is_none()).then_some((major, minor))
}

/// An alarm as Go prints it.
fn in_words(alarm: &pb::AlarmMember) -> String {
    let name = pb::AlarmType::try_from(alarm.alarm)
        .map_or_else(|_| alarm.alarm.to_string(), |kind| kind.as_str_name().to_owned());
    format!("memberID:{} alarm:{name} ", alarm.member_id)
}

fn signed(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}
