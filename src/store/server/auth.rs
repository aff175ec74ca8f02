//! Users and roles.
//!
//! Passwords never leave this place: a new one is hashed with bcrypt before it is proposed, so that the log and every member
//! hold the hash; one that is shown is compared with the stored hash here, and what is proposed is a token that stands for its
//! user from then on. A signed token needs no proposal: who reads it checks the signature. Hashing takes long on purpose, so
//! it is done on a thread for blocking work, a few at a time.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError, Weak};

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
use crate::store::server::peer;
use crate::store::server::status::{self, Reason};

/// Passwords that are hashed at the same time; the others wait their turn.
const HASHING_MAX: usize = 2;
/// And so many may wait, of all clients and of one address: more are refused.
const WAITING_MAX: usize = 4096;
const WAITING_HERE_MAX: usize = 256;
/// Of those of one address so many stand in line with those of the others: nobody waits for a crowd from elsewhere.
const IN_LINE_MAX: usize = 2;
/// Addresses that are remembered after their last one has gone.
const ADDRESSES_MAX: usize = 1024;
/// The longest password, in bytes: bcrypt looks at no more.
const PASSWORD_BYTES_MAX: usize = 72;
/// The largest cost of a hash that somebody else made: several seconds of a processor. A member that was told to take more
/// takes more.
const FOREIGN_COST_MAX: u32 = 16;
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
    queues: Arc<Mutex<HashMap<Option<IpAddr>, Weak<Queue>>>>,
}

/// Those of one address.
#[derive(Debug)]
struct Queue {
    waiting: Semaphore,
    in_line: Semaphore,
}

impl Service {
    /// Of this member.
    pub fn new(handle: &Handle) -> Self {
        let (hashing, waiting) = (Semaphore::new(HASHING_MAX), Semaphore::new(WAITING_MAX));
        let (hashing, waiting) = (Arc::new(hashing), Arc::new(waiting));
        Service { handle: handle.clone(), hashing, waiting, queues: Arc::default() }
    }

    /// Where those of an address wait.
    fn queue(&self, address: Option<IpAddr>) -> Arc<Queue> {
        let mut queues = self.queues.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(queue) = queues.get(&address).and_then(Weak::upgrade) {
            return queue;
        }
        if queues.len() >= ADDRESSES_MAX {
            queues.retain(|_, queue| queue.strong_count() > 0);
        }
        let queue = Queue { waiting: Semaphore::new(WAITING_HERE_MAX), in_line: Semaphore::new(IN_LINE_MAX) };
        let queue = Arc::new(queue);
        queues.insert(address, Arc::downgrade(&queue));
        queue
    }

    /// Does what takes long, when it is its turn.
    async fn slowly<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T, Status> {
        let queue = self.queue(peer::ip());
        let crowded = |_| Status::from(Fault::TooManyRequests);
        let _places = (queue.waiting.try_acquire().map_err(crowded)?, self.waiting.try_acquire().map_err(crowded)?);
        let _line = queue.in_line.acquire().await;
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
        if password.len() > PASSWORD_BYTES_MAX {
            return Err(Reason::PasswordTooLong.into());
        }
        let hash = self.slowly(move || bcrypt::hash(password, cost)).await?;
        let hash = hash.map_err(|error| Status::unknown(format!("bcrypt: {error}")))?;
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
        // What is no hash fits no password, and what takes hours is none here.
        if !self.is_affordable(hash) {
            return Err(Reason::AuthFailed.into());
        }
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
        if !password.is_empty() || hash.is_empty() {
            return self.hashed(password).await;
        }
        let readable = digest::bytes_of_base64(&hash).ok_or(Denial::PasswordHash)?;
        if self.is_affordable(&readable) { Ok(hash) } else { Err(Reason::PasswordHash.into()) }
    }

    /// Whether these bytes are a hash of bcrypt that a password can be compared with in reasonable time.
    fn is_affordable(&self, hash: &[u8]) -> bool {
        let parts = std::str::from_utf8(hash).ok().and_then(|hash| hash.parse::<bcrypt::HashParts>().ok());
        parts.is_some_and(|parts| parts.get_cost() <= self.handle.tuning().bcrypt_cost.max(FOREIGN_COST_MAX))
    }
}

/// Before work is done for somebody: whether they may ask for it.
fn administers(handle: &Handle, requester: &Option<Requester>) -> Result<(), Status> {
    Ok(subject(&handle.state(), requester).administers()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::node::{Member, testing};
    use crate::store::options::Tuning;
    use crate::store::server::peer::Peer;
    use futures::future::join_all;
    use tonic::Code;

    async fn service(dir: &std::path::Path) -> Service {
        let member = Member { cluster_id: 7, member_id: 8, name: "one".to_owned(), ..Member::default() };
        Service::new(&testing::begin(dir, member, Tuning { bcrypt_cost: 4, ..Tuning::default() }).await)
    }

    fn user(name: &str, password: &str, hashed_password: &str) -> Request<pb::AuthUserAddRequest> {
        let (name, password, hashed_password) = (name.to_owned(), password.to_owned(), hashed_password.to_owned());
        Request::new(pb::AuthUserAddRequest { name, password, hashed_password, options: None })
    }

    async fn sign_in(service: &Service, address: [u8; 4], name: &str, password: &str) -> Option<(Code, String)> {
        let request = pb::AuthenticateRequest { name: name.to_owned(), password: password.to_owned() };
        let peer = Peer::new(Some((address, 1).into()));
        let outcome = peer.scope(service.authenticate(Request::new(request))).await;
        outcome.err().map(|status| (status.code(), status.message().to_owned()))
    }

    async fn enable(service: &Service) {
        service.user_add(user("root", "pw", "")).await.unwrap();
        let grant = pb::AuthUserGrantRoleRequest { user: "root".to_owned(), role: "root".to_owned() };
        service.user_grant_role(Request::new(grant)).await.unwrap();
        service.auth_enable(Request::new(pb::AuthEnableRequest {})).await.unwrap();
    }

    #[tokio::test]
    async fn passwords_have_bcrypts_length_and_hashes_must_be_bcrypts_and_bearable() {
        let dir = tempfile::tempdir().unwrap();
        let service = service(dir.path()).await;
        service.user_add(user("a", &"p".repeat(72), "")).await.unwrap();
        let error = service.user_add(user("b", &"p".repeat(73), "")).await.unwrap_err();
        assert_eq!(error.message(), "bcrypt: password length exceeds 72 bytes");
        let hash = bcrypt::hash("known", 5).unwrap();
        service.user_add(user("c", "", &digest::base64(hash.as_bytes()))).await.unwrap();
        let costly = hash.replace("$05$", "$31$");
        for wrong in [costly.as_str(), "", "no hash at all", "$2b$05$short"] {
            let error = service.user_add(user("d", "", &digest::base64(format!("{wrong} ").trim().as_bytes()))).await;
            if wrong.is_empty() {
                // None at all is the hash of the empty password, as in etcd.
                service.user_delete(Request::new(pb::AuthUserDeleteRequest { name: "d".to_owned() })).await.unwrap();
            } else {
                assert_eq!(error.unwrap_err().code(), Code::InvalidArgument, "{wrong}");
            }
        }
        let error = service.user_add(user("d", "", "?")).await.unwrap_err();
        assert_eq!(error.code(), Code::Unknown, "{error}");
        enable(&service).await;
        let here = [127, 0, 0, 1];
        assert_eq!(sign_in(&service, here, "a", &"p".repeat(72)).await, None);
        assert_eq!(sign_in(&service, here, "a", &"p".repeat(71)).await.unwrap().0, Code::InvalidArgument);
        assert_eq!(sign_in(&service, here, "c", "known").await, None);
        service.handle.stop().await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_crowd_from_one_address_keeps_nobody_else_out() {
        let dir = tempfile::tempdir().unwrap();
        let service = service(dir.path()).await;
        // Some milliseconds each.
        service.user_add(user("slow", "", &digest::base64(bcrypt::hash("pw", 8).unwrap().as_bytes()))).await.unwrap();
        enable(&service).await;
        let crowd = (0..WAITING_HERE_MAX + 50).map(|_| sign_in(&service, [10, 0, 0, 1], "slow", "wrong"));
        let crowd = {
            let mut crowd = Box::pin(join_all(crowd));
            // Everybody of it has asked.
            assert!(futures::poll!(&mut crowd).is_pending());
            assert_eq!(sign_in(&service, [10, 0, 0, 2], "root", "pw").await, None);
            assert!(service.waiting.available_permits() < WAITING_MAX - WAITING_HERE_MAX / 2, "most of it still wait");
            crowd.await
        };
        let of = |code| crowd.iter().flatten().filter(|(found, _)| *found == code).count();
        assert_eq!((of(Code::InvalidArgument), of(Code::Unknown)), (WAITING_HERE_MAX, 50));
        assert_eq!(service.waiting.available_permits(), WAITING_MAX);
        service.handle.stop().await;
    }
}
