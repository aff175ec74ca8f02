//! A member that does what a test tells it: for everything a real etcd does only when it is broken.
//!
//! Each call takes the next scripted answer of its kind; a call without one is answered as a healthy member of one
//! would, or with `Unimplemented`. What was asked is recorded.

use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt as _};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};

use crate::api::etcdserverpb as pb;
use crate::api::etcdserverpb::SnapshotResponse;
use crate::api::etcdserverpb::auth_server::{Auth, AuthServer};
use crate::api::etcdserverpb::maintenance_server::{Maintenance, MaintenanceServer};
use crate::client::Options;

/// One step of a snapshot stream. After the last step the stream ends well.
#[derive(Clone)]
pub(super) enum Step {
    Send(SnapshotResponse),
    Fail(Status),
    Hang,
}

/// What the member will answer, and what it was asked.
#[derive(Default)]
pub(super) struct Script {
    pub(super) snapshot: Vec<Step>,
    /// Answers to Status, in order; then healthy ones.
    pub(super) statuses: VecDeque<Status>,
    /// Answers to Authenticate, in order; then `token N`.
    pub(super) sign_ins: VecDeque<Status>,
    /// Tokens that came with calls of Status, in order.
    pub(super) tokens: Vec<Option<String>>,
    pub(super) signed_in: usize,
}

pub(super) type Shared = Arc<Mutex<Script>>;

#[derive(Clone)]
struct Member(Shared);

/// Starts a member; returns its endpoint and its script.
pub(super) async fn start(script: Script) -> (String, Shared) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let script = Arc::new(Mutex::new(script));
    let member = Member(script.clone());
    let server = Server::builder()
        .add_service(MaintenanceServer::new(member.clone()))
        .add_service(AuthServer::new(member))
        .serve_with_incoming(TcpIncoming::from(listener));
    tokio::spawn(server);
    (endpoint, script)
}

/// An address where nobody listens.
pub(super) async fn nobody() -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    format!("http://{}", listener.local_addr().unwrap())
}

/// An address that leads to `endpoint` and hangs up once so many bytes came back from there.
pub(super) async fn cut_after(endpoint: &str, bytes: u64) -> String {
    use tokio::io::AsyncReadExt as _;
    use tokio::net::{TcpListener, TcpStream};
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let behind = endpoint.strip_prefix("http://").unwrap().to_owned();
    tokio::spawn(async move {
        while let Ok((mut near, _)) = listener.accept().await {
            let mut far = TcpStream::connect(&behind).await.unwrap();
            let (mut near_read, mut near_write) = near.split();
            let (far_read, mut far_write) = far.split();
            let mut far_read = far_read.take(bytes);
            tokio::select! {
                _ = tokio::io::copy(&mut near_read, &mut far_write) => {}
                _ = tokio::io::copy(&mut far_read, &mut near_write) => {}
            }
        }
    });
    address
}

pub(super) fn options(endpoints: &[&String]) -> Options {
    Options { endpoints: endpoints.iter().map(ToString::to_string).collect(), ..Options::default() }
}

/// A message of a snapshot.
pub(super) fn message(blob: impl Into<Bytes>, remaining_bytes: u64) -> Step {
    Step::Send(SnapshotResponse { blob: blob.into(), remaining_bytes, ..SnapshotResponse::default() })
}

type Answer<T> = Result<Response<T>, Status>;

fn unimplemented<T>() -> Answer<T> {
    Err(Status::unimplemented("not in this test"))
}

#[tonic::async_trait]
impl Maintenance for Member {
    type SnapshotStream = BoxStream<'static, Result<SnapshotResponse, Status>>;

    async fn snapshot(&self, _: Request<pb::SnapshotRequest>) -> Answer<Self::SnapshotStream> {
        let steps = self.0.lock().unwrap().snapshot.clone();
        let answers = stream::iter(steps).then(|step| async move {
            match step {
                Step::Send(message) => Ok(message),
                Step::Fail(status) => Err(status),
                Step::Hang => std::future::pending().await,
            }
        });
        Ok(Response::new(answers.boxed()))
    }

    async fn status(&self, request: Request<pb::StatusRequest>) -> Answer<pb::StatusResponse> {
        let mut script = self.0.lock().unwrap();
        script.tokens.push(request.metadata().get("token").map(|token| token.to_str().unwrap().to_owned()));
        match script.statuses.pop_front() {
            Some(status) => Err(status),
            None => Ok(Response::new(pb::StatusResponse::default())),
        }
    }

    async fn alarm(&self, _: Request<pb::AlarmRequest>) -> Answer<pb::AlarmResponse> {
        match self.0.lock().unwrap().statuses.pop_front() {
            Some(status) => Err(status),
            None => Ok(Response::new(pb::AlarmResponse::default())),
        }
    }

    async fn defragment(&self, _: Request<pb::DefragmentRequest>) -> Answer<pb::DefragmentResponse> {
        unimplemented()
    }

    async fn hash(&self, _: Request<pb::HashRequest>) -> Answer<pb::HashResponse> {
        unimplemented()
    }

    async fn hash_kv(&self, _: Request<pb::HashKvRequest>) -> Answer<pb::HashKvResponse> {
        unimplemented()
    }

    async fn move_leader(&self, _: Request<pb::MoveLeaderRequest>) -> Answer<pb::MoveLeaderResponse> {
        unimplemented()
    }

    async fn downgrade(&self, _: Request<pb::DowngradeRequest>) -> Answer<pb::DowngradeResponse> {
        unimplemented()
    }
}

impl Member {
    fn sign_in(&self, request: &pb::AuthenticateRequest) -> Answer<pb::AuthenticateResponse> {
        assert_eq!((request.name.as_str(), request.password.as_str()), ("root", "hunter2"));
        let mut script = self.0.lock().unwrap();
        script.signed_in += 1;
        match script.sign_ins.pop_front() {
            Some(status) => Err(status),
            None => {
                let token = format!("token {}", script.signed_in);
                Ok(Response::new(pb::AuthenticateResponse { token, ..Default::default() }))
            }
        }
    }
}

/// Auth with one call answered; the macro is outside the impl because `async_trait` must see whole functions.
macro_rules! auth_without {
    ($($name:ident: $request:ident -> $response:ident),* $(,)?) => {
        #[tonic::async_trait]
        impl Auth for Member {
            async fn authenticate(&self, request: Request<pb::AuthenticateRequest>) -> Answer<pb::AuthenticateResponse> {
                self.sign_in(request.get_ref())
            }
            $(
                async fn $name(&self, _: Request<pb::$request>) -> Answer<pb::$response> {
                    unimplemented()
                }
            )*
        }
    };
}

auth_without! {
    auth_enable: AuthEnableRequest -> AuthEnableResponse,
    auth_disable: AuthDisableRequest -> AuthDisableResponse,
    auth_status: AuthStatusRequest -> AuthStatusResponse,
    user_add: AuthUserAddRequest -> AuthUserAddResponse,
    user_get: AuthUserGetRequest -> AuthUserGetResponse,
    user_list: AuthUserListRequest -> AuthUserListResponse,
    user_delete: AuthUserDeleteRequest -> AuthUserDeleteResponse,
    user_change_password: AuthUserChangePasswordRequest -> AuthUserChangePasswordResponse,
    user_grant_role: AuthUserGrantRoleRequest -> AuthUserGrantRoleResponse,
    user_revoke_role: AuthUserRevokeRoleRequest -> AuthUserRevokeRoleResponse,
    role_add: AuthRoleAddRequest -> AuthRoleAddResponse,
    role_get: AuthRoleGetRequest -> AuthRoleGetResponse,
    role_list: AuthRoleListRequest -> AuthRoleListResponse,
    role_delete: AuthRoleDeleteRequest -> AuthRoleDeleteResponse,
    role_grant_permission: AuthRoleGrantPermissionRequest -> AuthRoleGrantPermissionResponse,
    role_revoke_permission: AuthRoleRevokePermissionRequest -> AuthRoleRevokePermissionResponse,
}
