//! Signed tokens: what one member signs the other believes, and both refuse the same.

use holdfast::api::authpb::{Permission, UserAddOptions};
use holdfast::api::etcdserverpb as pb;
use holdfast::api::etcdserverpb::auth_client::AuthClient;
use holdfast::api::etcdserverpb::kv_client::KvClient;
use holdfast::api::v3lockpb::lock_client::LockClient;
use holdfast::api::v3lockpb::{LockRequest, UnlockRequest};
use std::time::Duration;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};

use crate::support::etcd::Etcd;
use crate::support::member::Member;

const KEYS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/tokens");

/// The answer without its header, or the error.
type Outcome = Result<String, (Code, String)>;

/// One member, as somebody with a token.
struct Side {
    auth: AuthClient<Channel>,
    kv: KvClient<Channel>,
}

fn with<T>(token: &str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    if !token.is_empty() {
        request.metadata_mut().insert("authorization", token.parse().unwrap());
    }
    request
}

fn told(status: &Status) -> (Code, String) {
    (status.code(), status.message().to_owned())
}

impl Side {
    fn new(endpoint: String) -> Side {
        let channel = Channel::from_shared(endpoint).unwrap().connect_lazy();
        Side { auth: AuthClient::new(channel.clone()), kv: KvClient::new(channel) }
    }

    async fn sign_in(&mut self, name: &str) -> Result<String, (Code, String)> {
        let request = pb::AuthenticateRequest { name: name.into(), password: "pw".into() };
        Ok(self.auth.authenticate(request).await.map_err(|status| told(&status))?.into_inner().token)
    }

    async fn put(&mut self, token: &str, key: &str) -> Outcome {
        let request = pb::PutRequest { key: key.to_owned().into(), value: b"v".to_vec().into(), ..Default::default() };
        self.kv
            .put(with(token, request))
            .await
            .map_err(|status| told(&status))
            .map(|reply| format!("{:?}", reply.get_ref().prev_kv))
    }

    async fn get(&mut self, token: &str, key: &str) -> Outcome {
        let request = pb::RangeRequest { key: key.to_owned().into(), ..Default::default() };
        self.kv
            .range(with(token, request))
            .await
            .map_err(|status| told(&status))
            .map(|reply| format!("{:?}", reply.get_ref().kvs))
    }

    async fn users(&mut self, token: &str) -> Outcome {
        let reply =
            self.auth.user_list(with(token, pb::AuthUserListRequest {})).await.map_err(|status| told(&status))?;
        Ok(format!("{:?}", reply.get_ref().users))
    }

    /// Users root and ann, who may do everything to keys that begin with a; and authentication is on.
    async fn prepare(&mut self) -> Result<(), Status> {
        for name in ["root", "ann"] {
            let options = Some(UserAddOptions { no_password: false });
            let request =
                pb::AuthUserAddRequest { name: name.into(), password: "pw".into(), options, ..Default::default() };
            self.auth.user_add(request).await?;
            self.auth.role_add(pb::AuthRoleAddRequest { name: name.into() }).await?;
            self.auth.user_grant_role(pb::AuthUserGrantRoleRequest { user: name.into(), role: name.into() }).await?;
        }
        let perm = Some(Permission { perm_type: 2, key: b"a".to_vec().into(), range_end: b"b".to_vec().into() });
        self.auth.role_grant_permission(pb::AuthRoleGrantPermissionRequest { name: "ann".into(), perm }).await?;
        self.auth.auth_enable(pb::AuthEnableRequest {}).await?;
        Ok(())
    }

    /// What a token is good for.
    async fn tried(&mut self, token: &str) -> [Outcome; 4] {
        [self.put(token, "a1").await, self.get(token, "a1").await, self.get(token, "b").await, self.users(token).await]
    }
}

struct Both {
    etcd: Etcd,
    member: Member,
    theirs: Side,
    ours: Side,
}

impl Both {
    async fn start(spec: &str) -> Both {
        let spec = format!("--auth-token=jwt,{}", spec.replace("@", &format!("{KEYS}/")));
        let etcd = Etcd::options().args(&["--bcrypt-cost=4", &spec]).start();
        let member = Member::start(&["--bcrypt-cost=4", &spec]);
        let (mut theirs, mut ours) = (Side::new(etcd.endpoint(0)), Side::new(member.endpoint()));
        theirs.prepare().await.unwrap();
        ours.prepare().await.unwrap();
        Both { etcd, member, theirs, ours }
    }

    /// Tries a token on both, which must agree.
    async fn agree(&mut self, what: &str, token: &str) -> [Outcome; 4] {
        let (theirs, ours) = (self.theirs.tried(token).await, self.ours.tried(token).await);
        assert_eq!(ours, theirs.map(|outcome| outcome.map_err(later)), "{what}");
        ours
    }
}

/// What 3.5.1 says otherwise than its successors (docs/differences.md).
fn later((code, text): (Code, String)) -> (Code, String) {
    match text.as_str() {
        "auth: revision in header is old" => (Code::InvalidArgument, OLD.unwrap().to_owned()),
        "etcdserver: user name not found" => (Code::PermissionDenied, DENIED.unwrap().to_owned()),
        _ => (code, text),
    }
}

fn refused(outcomes: &[Outcome; 4]) -> [Option<&str>; 4] {
    outcomes.each_ref().map(|outcome| outcome.as_ref().err().map(|(_, text)| text.as_str()))
}

const DENIED: Option<&str> = Some("etcdserver: permission denied");
const INVALID: Option<&str> = Some("etcdserver: invalid auth token");
const OLD: Option<&str> = Some("etcdserver: revision of auth store is old");
const EMPTY: Option<&str> = Some("etcdserver: user name is empty");

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_signs_the_other_believes() {
    // etcd 3.5.1 knows keys of elliptic curves only as openssl's older command writes them.
    for spec in [
        "sign-method=HS256,priv-key=@secret",
        "sign-method=RS512,priv-key=@rsa.pem,pub-key=@rsa.pub,ttl=1h",
        "sign-method=ES256,priv-key=@ec1.pem,pub-key=@ec.pub",
        "sign-method=ES384,priv-key=@ec384.pem",
    ] {
        let mut both = Both::start(spec).await;
        for (name, good) in [("root", [None, None, None, None]), ("ann", [None, None, DENIED, DENIED])] {
            let tokens = [both.theirs.sign_in(name).await.unwrap(), both.ours.sign_in(name).await.unwrap()];
            for token in &tokens {
                assert_eq!(refused(&both.agree(spec, token).await), good, "{spec} {name}");
                // 3.5.1 takes what browsers and proxies send for a part of the token.
                both.ours.get(&format!("Bearer {token}"), "a1").await.unwrap();
            }
            // The same claims in the same shape; only the moment and the signature are each one's own.
            let lengths = tokens.each_ref().map(|token| token.rfind('.').unwrap());
            assert_eq!(lengths[0], lengths[1], "{tokens:?}");
        }
        assert_eq!(both.theirs.sign_in("bob").await, both.ours.sign_in("bob").await, "{spec}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_is_no_longer_good_when_its_user_is_another() {
    let mut both = Both::start("sign-method=HS256,priv-key=@secret,ttl=3s").await;
    let (root, ann) = (both.ours.sign_in("root").await.unwrap(), both.theirs.sign_in("ann").await.unwrap());
    assert_eq!(refused(&both.agree("at first", &ann).await), [None, None, DENIED, DENIED]);
    for wrong in ["", "none.1", "a.b.c", &format!("{ann}x"), &ann.replace('.', ",")] {
        let outcomes = both.agree(wrong, wrong).await;
        assert_eq!(refused(&outcomes), [if wrong.is_empty() { EMPTY } else { INVALID }; 4], "{wrong:?}");
    }
    for side in [&mut both.theirs, &mut both.ours] {
        let request = pb::AuthUserDeleteRequest { name: "ann".into() };
        side.auth.user_delete(with(&root, request)).await.unwrap();
    }
    assert_eq!(refused(&both.agree("of a deleted user", &ann).await), [OLD, OLD, OLD, DENIED]);
    assert_eq!(refused(&both.agree("older than the rules", &root).await), [OLD, OLD, OLD, None]);
    let root = both.ours.sign_in("root").await.unwrap();
    assert_eq!(refused(&both.agree("a new one", &root).await), [None; 4]);
    tokio::time::sleep(Duration::from_millis(4100)).await;
    assert_eq!(refused(&both.agree("when its time is over", &root).await), [INVALID; 4]);
    // Nothing of a token is told.
    let log = both.member.log();
    assert!(!log.contains(&root[root.rfind('.').unwrap()..]), "{log}");
    drop(both.etcd);
}

/// Who waits for a lock asks for nothing meanwhile, so its token ends; its place is its own to the end of its call, and no
/// longer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_waits_for_a_lock_may_wait_for_longer_than_its_token_is_good_for() {
    let member = Member::start(&["--bcrypt-cost=4", "--auth-token-ttl=1"]);
    let mut side = Side::new(member.endpoint());
    side.prepare().await.unwrap();
    let token = side.sign_in("ann").await.unwrap();
    let mut locks = LockClient::new(Channel::from_shared(member.endpoint()).unwrap().connect_lazy());
    let lock = |token: &str| with(token, LockRequest { name: "a".into(), lease: 0 });
    let first = locks.lock(lock(&token)).await.unwrap().into_inner().key;
    for is_given_up in [true, false] {
        let token = side.sign_in("ann").await.unwrap();
        let mut waiter = locks.clone();
        let request = lock(&token);
        let waiting = tokio::spawn(async move { waiter.lock(request).await });
        tokio::time::sleep(Duration::from_millis(2500)).await;
        assert_eq!(side.put(&token, "a1").await.unwrap_err().1, INVALID.unwrap(), "the token has ended");
        let root = side.sign_in("root").await.unwrap();
        let places = async |side: &mut Side| {
            let request = pb::RangeRequest { key: "a/".into(), range_end: "a0".into(), ..Default::default() };
            side.kv.range(with(&root, request)).await.unwrap().into_inner().kvs
        };
        assert_eq!(places(&mut side).await.len(), 2);
        if is_given_up {
            waiting.abort();
            tokio::time::timeout(Duration::from_secs(10), async {
                while places(&mut side).await.len() > 1 {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            })
            .await
            .expect("a place that is given up goes");
        } else {
            let ann = side.sign_in("ann").await.unwrap();
            locks.unlock(with(&ann, UnlockRequest { key: first.clone() })).await.unwrap();
            let key = waiting.await.unwrap().unwrap().into_inner().key;
            assert!(places(&mut side).await.iter().map(|kv| &kv.key).eq([&key]));
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_a_public_key_alone_tokens_are_checked_and_none_are_made() {
    let mut signer = Both::start("sign-method=RS256,priv-key=@rsa1.pem").await;
    let token = signer.ours.sign_in("ann").await.unwrap();
    let mut both = Both::start("sign-method=RS256,pub-key=@rsa.pub").await;
    assert_eq!(refused(&both.agree("signed elsewhere", &token).await), [None, None, DENIED, DENIED]);
    let (theirs, ours) = (both.theirs.sign_in("ann").await, both.ours.sign_in("ann").await);
    assert_eq!(ours, theirs);
    assert_eq!(ours, Err((Code::Unknown, "auth: token signing attempted with verify-only key".to_owned())));
}
