//! Users and roles.
//!
//! Passwords never leave this place: a new one is hashed with bcrypt before it is proposed, so that the log and every member
//! hold the hash; one that is shown is compared with the stored hash here, and what is proposed is a token that stands for its
//! user from then on. A signed token needs no proposal: who reads it checks the signature. Hashing takes long on purpose, so
//! it is done on a thread for blocking work, a few at a time.

use std::sync::Arc;

use tokio::sync::Semaphore;
use tonic::{Request, Response, Status};

use crate::api::etcdserverpb as pb;
use crate::api::etcdserverpb::auth_server::Auth;
use crate::api::holdfast::v1::{Authenticate, Requester};
use crate::base::clock::Clock;
use crate::base::digest;
use crate::base::jwt::{CannotSign, Claims, Keys};
use crate::base::rng;
use crate::base::stop::blocking;
use crate::store::auth::Denial;
use crate::store::machine::Reply;
use crate::store::machine::command::Operation;
use crate::store::machine::refusal::Refusal;
use crate::store::node::{Fault, Handle};
use crate::store::options::Tokens;
use crate::store::server::convert::{complete, header_of};
use crate::store::server::identity::{administrator, requester, somebody, subject};
use crate::store::server::status::{self, Reason};

/// Passwords that are hashed at the same time; the others wait their turn.
const HASHING_MAX: usize = 2;
/// And so many may wait: more are refused.
const WAITING_MAX: usize = 256;
/// Letters at the beginning of a token; etcd's.
const TOKEN_LETTERS: usize = 16;
/// How often a password is compared again because the rules changed meanwhile.
const COMPARED_MAX: usize = 8;

type Answer<T> = Result<Response<T>, Status>;

/// The service.
#[derive(Clone, Debug)]
pub struct Service {
    handle: Handle,
    hashing: Arc<Semaphore>,
    waiting: Arc<Semaphore>,
}

impl Service {
    /// Of this member.
    pub fn new(handle: &Handle) -> Self {
        let (hashing, waiting) = (Semaphore::new(HASHING_MAX), Semaphore::new(WAITING_MAX));
        Service { handle: handle.clone(), hashing: Arc::new(hashing), waiting: Arc::new(waiting) }
    }

    /// Does what takes long, when it is its turn.
    async fn slowly<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T, Status> {
        let _place = self.waiting.try_acquire().map_err(|_| Status::from(Fault::TooManyRequests))?;
        let turn = Arc::clone(&self.hashing).acquire_owned().await;
        Ok(blocking(move || {
            // Kept to the end, whether somebody still waits for the answer or not.
            let _turn = turn;
            work()
        })
        .await)
    }

    /// The hash of a new password, as requests hold it.
    async fn hashed(&self, password: String) -> Result<String, Status> {
        let cost = self.handle.tuning().bcrypt_cost;
        let hash = self.slowly(move || bcrypt::non_truncating_hash(password, cost)).await?;
        let hash = hash.map_err(|error| match error {
            bcrypt::BcryptError::Truncation(_) => Reason::PasswordTooLong.into(),
            other => Status::unknown(format!("bcrypt: {other}")),
        })?;
        Ok(digest::base64(hash.as_bytes()))
    }

    /// Has a change of the rules agreed on.
    async fn change(
        &self,
        requester: Option<Requester>,
        operation: Operation,
    ) -> Result<Option<pb::ResponseHeader>, Status> {
        match self.handle.propose_for(requester, operation).await? {
            Reply::Rules(mut reply) => {
                complete(&self.handle, &mut reply.header);
                Ok(reply.header)
            }
            other => unreachable!("a change of the rules is answered by a reply of its kind, not by {other:?}"),
        }
    }

    /// A signed token for a user whose password was compared. It begins nothing, so there is nothing to agree on.
    async fn signed(&self, keys: &Arc<Keys>, username: String, revision: u64) -> Answer<pb::AuthenticateResponse> {
        let (keys, claims) = (Arc::clone(keys), Claims { username, revision });
        let token = self.slowly(move || keys.write(&claims, Clock::System.now())).await?;
        let token = token.map_err(|CannotSign| Reason::CannotSign)?;
        let header = header_of(&self.handle, &self.handle.state());
        Ok(Response::new(pb::AuthenticateResponse { header, token }))
    }

    /// Whether a password is a user's, and at which revision of the rules that is so.
    async fn compared(&self, name: &str, password: &str) -> Result<u64, Status> {
        let state = self.handle.linearized().await?;
        if !state.rules.is_enabled() {
            return Err(Denial::NotEnabled.into());
        }
        let user = state.rules.user(name).ok_or(Reason::AuthFailed)?;
        let hash = user.password_hash().ok_or(Reason::NoPassword)?;
        if matches!(self.handle.tuning().tokens, Tokens::None) {
            return Err(Reason::AuthFailed.into());
        }
        // What is no hash fits no password.
        let (hash, password) = (String::from_utf8_lossy(hash).into_owned(), password.to_owned());
        let fits = self.slowly(move || bcrypt::verify(password, &hash).unwrap_or(false)).await?;
        if fits { Ok(state.rules.revision()) } else { Err(Reason::AuthFailed.into()) }
    }

    /// A word that nobody has guessed, and where the log stands, as etcd's tokens end.
    fn token(&self) -> Result<String, Status> {
        let mut bytes = [0; TOKEN_LETTERS];
        rng::fill(&mut bytes).map_err(|error| status::failed(&error))?;
        const LETTERS: &[u8; 52] = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
        let word: String = bytes.iter().map(|byte| char::from(LETTERS[usize::from(*byte) % LETTERS.len()])).collect();
        Ok(format!("{word}.{}", self.handle.status().applied))
    }
}

// Outside of the impl because `async_trait` must see whole functions.
macro_rules! auth_with {
    ({ $($by_hand:tt)* } $($name:ident: $request:ident -> $response:ident = $operation:ident),* $(,)?) => {
        #[tonic::async_trait]
        impl Auth for Service {
            $($by_hand)*

            $(
                async fn $name(&self, request: Request<pb::$request>) -> Answer<pb::$response> {
                    let requester = requester(&self.handle, &request)?;
                    let header = self.change(requester, Operation::$operation(request.into_inner())).await?;
                    Ok(Response::new(pb::$response { header }))
                }
            )*
        }
    };
}

auth_with! {
    {
        async fn auth_status(&self, request: Request<pb::AuthStatusRequest>) -> Answer<pb::AuthStatusResponse> {
            somebody(&self.handle, &request)?;
            let state = self.handle.linearized().await?;
            let (enabled, auth_revision) = (state.rules.is_enabled(), state.rules.revision());
            let header = header_of(&self.handle, &state);
            Ok(Response::new(pb::AuthStatusResponse { header, enabled, auth_revision }))
        }

        async fn authenticate(&self, request: Request<pb::AuthenticateRequest>) -> Answer<pb::AuthenticateResponse> {
            let pb::AuthenticateRequest { name, password } = request.into_inner();
            for _ in 0..COMPARED_MAX {
                let revision = self.compared(&name, &password).await?;
                if let Tokens::Signed(keys) = &self.handle.tuning().tokens {
                    return self.signed(keys, name, revision).await;
                }
                let (user, token) = (name.clone(), self.token()?);
                let operation = Operation::Authenticate(Authenticate { user, token, revision });
                match self.handle.propose(operation).await {
                    Ok(Reply::Session(mut new)) => {
                        complete(&self.handle, &mut new.header);
                        return Ok(Response::new(pb::AuthenticateResponse { header: new.header, token: new.token }));
                    }
                    // The rules have changed meanwhile: perhaps it is another password now.
                    Err(Fault::Refused(Refusal::Auth(Denial::OldRevision))) => {}
                    Err(fault) => return Err(fault.into()),
                    Ok(other) => unreachable!("a session is answered by one, not by {other:?}"),
                }
            }
            Err(Denial::OldRevision.into())
        }

        async fn user_add(&self, request: Request<pb::AuthUserAddRequest>) -> Answer<pb::AuthUserAddResponse> {
            let requester = requester(&self.handle, &request)?;
            administers(&self.handle, &requester)?;
            let mut request = request.into_inner();
            let password = std::mem::take(&mut request.password);
            if !request.options.is_some_and(|options| options.no_password) && !request.name.is_empty() {
                request.hashed_password = self.hash_of(password, request.hashed_password).await?;
            }
            let header = self.change(requester, Operation::UserAdd(request)).await?;
            Ok(Response::new(pb::AuthUserAddResponse { header }))
        }

        async fn user_change_password(
            &self,
            request: Request<pb::AuthUserChangePasswordRequest>,
        ) -> Answer<pb::AuthUserChangePasswordResponse> {
            let requester = requester(&self.handle, &request)?;
            administers(&self.handle, &requester)?;
            let mut request = request.into_inner();
            let password = std::mem::take(&mut request.password);
            request.hashed_password = self.hash_of(password, request.hashed_password).await?;
            let header = self.change(requester, Operation::UserChangePassword(request)).await?;
            Ok(Response::new(pb::AuthUserChangePasswordResponse { header }))
        }

        async fn user_get(&self, request: Request<pb::AuthUserGetRequest>) -> Answer<pb::AuthUserGetResponse> {
            let requester = requester(&self.handle, &request)?;
            let name = request.into_inner().name;
            let state = self.handle.linearized().await?;
            let subject = subject(&state, &requester);
            // Everybody may know what they are themselves.
            if !subject.is(&name) {
                subject.administers()?;
            }
            let roles = state.rules.user(&name).ok_or(Denial::UserNotFound)?.roles().to_vec();
            Ok(Response::new(pb::AuthUserGetResponse { header: header_of(&self.handle, &state), roles }))
        }

        async fn user_list(&self, request: Request<pb::AuthUserListRequest>) -> Answer<pb::AuthUserListResponse> {
            administrator(&self.handle, &request)?;
            let state = self.handle.linearized().await?;
            let users = state.rules.users().map(str::to_owned).collect();
            Ok(Response::new(pb::AuthUserListResponse { header: header_of(&self.handle, &state), users }))
        }

        async fn role_get(&self, request: Request<pb::AuthRoleGetRequest>) -> Answer<pb::AuthRoleGetResponse> {
            let requester = requester(&self.handle, &request)?;
            let name = request.into_inner().role;
            let state = self.handle.linearized().await?;
            let subject = subject(&state, &requester);
            if !subject.has(&name) {
                subject.administers()?;
            }
            let role = state.rules.role(&name).ok_or(Denial::RoleNotFound)?;
            let perm = role.permissions().to_vec();
            Ok(Response::new(pb::AuthRoleGetResponse { header: header_of(&self.handle, &state), perm }))
        }

        async fn role_list(&self, request: Request<pb::AuthRoleListRequest>) -> Answer<pb::AuthRoleListResponse> {
            administrator(&self.handle, &request)?;
            let state = self.handle.linearized().await?;
            let roles = state.rules.roles().map(str::to_owned).collect();
            Ok(Response::new(pb::AuthRoleListResponse { header: header_of(&self.handle, &state), roles }))
        }
    }
    auth_enable: AuthEnableRequest -> AuthEnableResponse = AuthEnable,
    auth_disable: AuthDisableRequest -> AuthDisableResponse = AuthDisable,
    user_delete: AuthUserDeleteRequest -> AuthUserDeleteResponse = UserDelete,
    user_grant_role: AuthUserGrantRoleRequest -> AuthUserGrantRoleResponse = UserGrantRole,
    user_revoke_role: AuthUserRevokeRoleRequest -> AuthUserRevokeRoleResponse = UserRevokeRole,
    role_add: AuthRoleAddRequest -> AuthRoleAddResponse = RoleAdd,
    role_delete: AuthRoleDeleteRequest -> AuthRoleDeleteResponse = RoleDelete,
    role_grant_permission: AuthRoleGrantPermissionRequest -> AuthRoleGrantPermissionResponse = RoleGrantPermission,
    role_revoke_permission: AuthRoleRevokePermissionRequest -> AuthRoleRevokePermissionResponse = RoleRevokePermission,
}

impl Service {
    /// The hash of a new password: the client's own where it sent no password but one.
    async fn hash_of(&self, password: String, hash: String) -> Result<String, Status> {
        if password.is_empty() && !hash.is_empty() { Ok(hash) } else { self.hashed(password).await }
    }
}

/// Before work is done for somebody: whether they may ask for it.
fn administers(handle: &Handle, requester: &Option<Requester>) -> Result<(), Status> {
    Ok(subject(&handle.state(), requester).administers()?)
}
