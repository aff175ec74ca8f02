//! Users and roles: this version has none. It says so to whoever asks, and refuses to make any.

use tonic::{Request, Response, Status};

use crate::api::etcdserverpb as pb;
use crate::api::etcdserverpb::auth_server::Auth;
use crate::store::node::Handle;
use crate::store::server::convert::header_of;
use crate::store::server::status::Reason;

/// Said to whoever would make users or roles.
const NONE: &str =
    "etcdserver: this version of Holdfast has no users and roles; let clients in by certificates (--client-cert-auth)";
/// The revision of rules that were never changed.
const FIRST_REVISION: u64 = 1;

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
}

// Outside of the impl because `async_trait` must see whole functions.
macro_rules! auth_without {
    ($($name:ident: $request:ident -> $response:ident),* $(,)?) => {
        #[tonic::async_trait]
        impl Auth for Service {
            async fn auth_status(&self, _: Request<pb::AuthStatusRequest>) -> Answer<pb::AuthStatusResponse> {
                let header = header_of(&self.handle, &self.handle.state());
                Ok(Response::new(pb::AuthStatusResponse { header, enabled: false, auth_revision: FIRST_REVISION }))
            }

            async fn auth_disable(&self, _: Request<pb::AuthDisableRequest>) -> Answer<pb::AuthDisableResponse> {
                let header = header_of(&self.handle, &self.handle.state());
                Ok(Response::new(pb::AuthDisableResponse { header }))
            }

            async fn authenticate(&self, _: Request<pb::AuthenticateRequest>) -> Answer<pb::AuthenticateResponse> {
                Err(Reason::AuthNotEnabled.into())
            }

            $(
                async fn $name(&self, _: Request<pb::$request>) -> Answer<pb::$response> {
                    Err(Status::unimplemented(NONE))
                }
            )*
        }
    };
}

auth_without! {
    auth_enable: AuthEnableRequest -> AuthEnableResponse,
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
