//! Connections to the members of one cluster, and the three things every question needs: a token, a deadline, another
//! member when the first cannot answer.
//!
//! There is one channel per endpoint, connected at its first use and again after it broke. A question either names its
//! member (`at`: status, hash, snapshot) or may be answered by any (`any`). `any` asks the member that answered last, then
//! the others in the order given; when all have had their turn and one of them said that the cluster cannot answer *now*
//! (an election, overload), it waits and begins again within a total time. Where nobody listens it does not wait: an
//! operator with a wrong address should hear of it at once.
//!
//! Invariants:
//! - A question goes to one member at a time, and only questions: nothing here can change a cluster, so asking twice is
//!   harmless.
//! - A token is fetched once and shared; it is fetched again only when a member no longer knows it, and then once for all
//!   who wait for it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::Mutex;
use tonic::metadata::AsciiMetadataValue;
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Certificate, Channel, ClientTlsConfig};
use tonic::{Request, Status};

use crate::api::etcdserverpb::AuthenticateRequest;
use crate::api::etcdserverpb::auth_client::AuthClient;
use crate::base::backoff::Backoff;
use crate::base::clock::Stopwatch;
use crate::base::error::{Error, Kind, Result};
use crate::base::rng;
use crate::base::tls::Tls;
use crate::base::units;
use crate::client::options::{Endpoint, Options, Secret, Target};
use crate::client::status;

/// What a member may send on one stream before we have taken it in, in bytes: what a stream in flight costs in memory.
pub const STREAM_WINDOW_BYTES: u32 = 8 << 20;
/// The same for all streams of one connection.
pub const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;
/// Pings on a connection with an open stream: a dead peer is noticed where silence is normal. etcd allows one per 5 s.
pub const PING_INTERVAL: Duration = Duration::from_secs(30);
/// A ping unanswered for so long means that the peer is gone.
pub const PING_TIMEOUT: Duration = Duration::from_secs(10);
/// First and longest wait between two rounds over all endpoints.
const RETRY_WAITS: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(2));
/// Endpoints named in one message; more would bury the reason.
const ENDPOINTS_TOLD_MAX: usize = 5;

/// A channel that adds our token to every call.
pub type Link = InterceptedService<Channel, Token>;

/// Ways to reach one cluster. Clones share connections and token. Where a call takes an endpoint, it is one of
/// `Client::endpoints`.
#[derive(Clone, Debug)]
pub struct Client(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    members: Vec<Member>,
    /// Position of the member that answered `any` last.
    preferred: AtomicUsize,
    user: Option<(String, Secret)>,
    session: Mutex<Session>,
    options: Options,
}

#[derive(Debug)]
struct Member {
    endpoint: Endpoint,
    channel: Channel,
}

/// The token in force. Its number tells those who failed with an old one from those who failed with this one.
#[derive(Debug, Default)]
struct Session {
    number: u64,
    token: Token,
}

/// What authenticates a call; nothing when the cluster has no users.
#[derive(Clone, Debug, Default)]
pub struct Token(Option<AsciiMetadataValue>);

impl Interceptor for Token {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(token) = &self.0 {
            request.metadata_mut().insert("token", token.clone());
        }
        Ok(request)
    }
}

/// One question: what it is called in an error, and how long an answer may take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Question {
    pub(super) what: &'static str,
    pub(super) deadline: Duration,
}

/// A question that was not answered.
#[derive(Debug)]
pub(super) struct Unanswered {
    /// Whether the member is reached over TLS.
    tls: bool,
    /// The question was not even asked, because signing in failed before it.
    at_sign_in: bool,
    refusal: Refusal,
}

#[derive(Debug)]
enum Refusal {
    /// The member, or the connection to it, said no.
    Status(Status),
    /// Silence until the deadline.
    Late(Duration),
    /// The member gave a token that cannot be sent back.
    OddToken,
}

impl Client {
    /// Prepares connections without making them. Reads the TLS files; must be called inside a Tokio runtime.
    pub fn new(options: &Options) -> Result<Self> {
        let Target { endpoints, tls, user } = options.target()?;
        let mut members = Vec::with_capacity(endpoints.len());
        for endpoint in endpoints {
            let channel = channel(&endpoint, tls.as_ref(), options.connect_timeout)
                .map_err(|error| error.during(format!("prepare a connection to {endpoint}")))?;
            members.push(Member { endpoint, channel });
        }
        Ok(Client(Arc::new(Shared {
            members,
            preferred: AtomicUsize::new(0),
            user,
            session: Mutex::default(),
            options: options.clone(),
        })))
    }

    /// The endpoints, in the order given.
    pub fn endpoints(&self) -> impl ExactSizeIterator<Item = &Endpoint> + Clone {
        self.0.members.iter().map(|member| &member.endpoint)
    }

    /// The options the client was made with.
    pub(super) fn options(&self) -> &Options {
        &self.0.options
    }

    /// A question with the usual deadline.
    pub(super) fn question(&self, what: &'static str) -> Question {
        Question { what, deadline: self.0.options.deadline }
    }

    /// Asks one member.
    pub(super) async fn at<T, F, Fut>(&self, endpoint: &Endpoint, question: Question, ask: F) -> Result<T, Unanswered>
    where
        F: Fn(Link) -> Fut,
        Fut: Future<Output = Result<T, Status>>,
    {
        let member = self.0.members.iter().find(|member| member.endpoint == *endpoint);
        let member = member.expect("endpoints come from this client");
        let (number, token) = self.session(member, None).await?;
        let answer = member.ask(token, question.deadline, &ask).await;
        let is_stale = |unanswered: &Unanswered| unanswered.status().is_some_and(status::wants_new_token);
        if self.0.user.is_none() || !answer.as_ref().is_err_and(is_stale) {
            return answer;
        }
        let (_, token) = self.session(member, Some(number)).await?;
        member.ask(token, question.deadline, &ask).await
    }

    /// The bare connection to one member, with the token in force.
    pub(super) async fn link(&self, endpoint: &Endpoint) -> Result<Link, Unanswered> {
        let member = self.0.members.iter().find(|member| member.endpoint == *endpoint);
        let member = member.expect("endpoints come from this client");
        let (_, token) = self.session(member, None).await?;
        Ok(InterceptedService::new(member.channel.clone(), token))
    }

    /// Asks one member after the other until one answers; tells which.
    pub(super) async fn any<T, F, Fut>(&self, question: Question, ask: F) -> Result<(T, Endpoint)>
    where
        F: Fn(Link) -> Fut,
        Fut: Future<Output = Result<T, Status>>,
    {
        let mut seed = [0; 8];
        rng::fill(&mut seed)?;
        let rng = rng::Seeded::new(u64::from_le_bytes(seed));
        let mut backoff = Backoff::new(RETRY_WAITS.0, RETRY_WAITS.1, self.0.options.retry_total, rng);
        let began = Stopwatch::start();
        loop {
            let members = &self.0.members;
            let first = self.0.preferred.load(Ordering::Relaxed);
            let mut refusals = Vec::new();
            let mut is_passing = false;
            for n in (0..members.len()).map(|n| (first + n) % members.len()) {
                let endpoint = &members[n].endpoint;
                match self.at(endpoint, question, &ask).await {
                    Ok(answer) => {
                        self.0.preferred.store(n, Ordering::Relaxed);
                        return Ok((answer, endpoint.clone()));
                    }
                    Err(unanswered) if unanswered.is_final() => return Err(unanswered.error(question, endpoint)),
                    Err(unanswered) => {
                        is_passing |= unanswered.is_passing();
                        refusals.push((endpoint, unanswered));
                    }
                }
            }
            match backoff.wait(began.elapsed()).filter(|_| is_passing) {
                Some(wait) => tokio::time::sleep(wait).await,
                None => return Err(nobody_answered(question, refusals)),
            }
        }
    }

    /// The token in force, fetched from `member` if there is none yet, or if the one numbered `stale` is still in force.
    async fn session(&self, member: &Member, stale: Option<u64>) -> Result<(u64, Token), Unanswered> {
        let Some((name, password)) = &self.0.user else { return Ok((0, Token::default())) };
        let mut session = self.0.session.lock().await;
        if session.number == 0 || stale == Some(session.number) {
            session.token = member.authenticate(name, password, self.0.options.deadline).await?;
            session.number += 1;
        }
        Ok((session.number, session.token.clone()))
    }
}

impl Member {
    async fn ask<T, F, Fut>(&self, token: Token, deadline: Duration, ask: &F) -> Result<T, Unanswered>
    where
        F: Fn(Link) -> Fut,
        Fut: Future<Output = Result<T, Status>>,
    {
        let link = InterceptedService::new(self.channel.clone(), token);
        let refusal = match tokio::time::timeout(deadline, ask(link)).await {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(status)) => Refusal::Status(status),
            Err(_) => Refusal::Late(deadline),
        };
        Err(Unanswered { tls: self.endpoint.tls, at_sign_in: false, refusal })
    }

    async fn authenticate(&self, name: &str, password: &Secret, deadline: Duration) -> Result<Token, Unanswered> {
        let ask = |link| {
            let request = AuthenticateRequest { name: name.to_owned(), password: password.reveal().to_owned() };
            async move { AuthClient::new(link).authenticate(request).await }
        };
        match self.ask(Token::default(), deadline, &ask).await {
            Ok(response) => match AsciiMetadataValue::try_from(response.into_inner().token) {
                Ok(mut token) => {
                    token.set_sensitive(true);
                    Ok(Token(Some(token)))
                }
                Err(_) => Err(Unanswered { tls: self.endpoint.tls, at_sign_in: true, refusal: Refusal::OddToken }),
            },
            // As etcd's own clients: credentials for a cluster without users are not an error.
            Err(unanswered) if unanswered.status().is_some_and(status::is_auth_disabled) => Ok(Token::default()),
            Err(unanswered) => Err(Unanswered { at_sign_in: true, ..unanswered }),
        }
    }
}

impl Unanswered {
    /// The status, if it was one.
    pub(super) fn status(&self) -> Option<&Status> {
        match &self.refusal {
            Refusal::Status(status) => Some(status),
            Refusal::Late(_) | Refusal::OddToken => None,
        }
    }

    /// Whether other members would say the same.
    fn is_final(&self) -> bool {
        self.status()
            .is_some_and(|status| status::is_answer(status) && status::reason(status).kind() != Kind::Unavailable)
    }

    /// Whether the member is there and may be able to answer soon.
    fn is_passing(&self) -> bool {
        self.status().is_some_and(|status| status::is_answer(status) && !status::is_from_learner(status))
            && !self.is_final()
    }

    /// What happened, without where.
    fn reason(&self) -> Error {
        let reason = match &self.refusal {
            Refusal::Status(status) => status::first_reason(status, self.tls),
            Refusal::Late(deadline) => {
                Error::new(Kind::Unavailable, format!("no answer within {}", units::duration(*deadline)))
                    .hint("the member hangs or the network drops packets; raise the deadline if it is only slow")
            }
            Refusal::OddToken => Error::damaged("the token is not text").hint("name the client port of an etcd member"),
        };
        if self.at_sign_in { reason.during("sign in") } else { reason }
    }

    /// What happened, and where.
    pub(super) fn error(self, question: Question, endpoint: &Endpoint) -> Error {
        self.reason().during(format!("{} from {endpoint}", question.what))
    }
}

/// One error for a round in which nobody answered.
fn nobody_answered(question: Question, mut refusals: Vec<(&Endpoint, Unanswered)>) -> Error {
    if refusals.len() == 1 {
        let (endpoint, unanswered) = refusals.remove(0);
        return unanswered.error(question, endpoint);
    }
    let reasons: Vec<Error> = refusals.iter().map(|(_, unanswered)| unanswered.reason()).collect();
    let first = reasons.first().expect("a client has at least one endpoint");
    let is_alike = reasons.iter().all(|reason| reason.kind() == first.kind());
    let told = refusals.iter().zip(&reasons).take(ENDPOINTS_TOLD_MAX);
    let told: Vec<String> = told.map(|((endpoint, _), reason)| format!("{endpoint}: {}", reason.chain())).collect();
    let more = match reasons.len().saturating_sub(ENDPOINTS_TOLD_MAX) {
        0 => String::new(),
        n => format!("; and {n} more"),
    };
    let kind = if is_alike { first.kind() } else { Kind::Unavailable };
    Error::new(kind, format!("{}: no member answered: {}{more}", question.what, told.join("; ")))
        .hint(first.hint_text().unwrap_or("check the endpoints"))
}

fn channel(endpoint: &Endpoint, tls: Option<&Tls>, connect_timeout: Duration) -> Result<Channel> {
    let unusable = |error: tonic::transport::Error| {
        let mut cause: &dyn std::error::Error = &error;
        while let Some(inner) = cause.source() {
            cause = inner;
        }
        let cause = cause.to_string();
        Error::new(Kind::Usage, format!("the TLS files cannot be used: {cause}"))
            .hint("certificate and key must belong together; without `ca` the system's authorities must be installed")
    };
    let mut builder = Channel::from_shared(endpoint.to_string())
        .map_err(|error| {
            Error::new(Kind::Usage, "the address cannot be used")
                .source(error)
                .hint("write it as https://10.0.0.1:2379")
        })?
        .user_agent(concat!("holdfast/", env!("CARGO_PKG_VERSION")))
        .map_err(unusable)?
        .connect_timeout(connect_timeout)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .http2_keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT)
        .keep_alive_while_idle(false)
        .tcp_nodelay(true);
    if let Some(tls) = tls {
        let mut config = ClientTlsConfig::new().timeout(connect_timeout);
        config = match &tls.ca {
            Some(ca) => config.ca_certificate(Certificate::from_pem(ca)),
            None => config.with_native_roots(),
        };
        if let Some(identity) = &tls.identity {
            config = config.identity(tonic::transport::Identity::from_pem(&identity.cert, &identity.key));
        }
        builder = builder.tls_config(config).map_err(unusable)?;
    }
    Ok(builder.connect_lazy())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::fake::{self, Script};

    const NO_LEADER: &str = "etcdserver: no leader";

    fn with_user(options: Options) -> Options {
        Options { user: Some("root".to_owned()), password: Some(Secret::new("hunter2")), ..options }
    }

    fn refusals(code: tonic::Code, text: &str, count: usize) -> std::collections::VecDeque<Status> {
        (0..count).map(|_| Status::new(code, text)).collect()
    }

    #[tokio::test]
    async fn a_question_goes_on_to_the_next_member_and_stays_there() {
        let dead = fake::nobody().await;
        let (alive, script) = fake::start(Script::default()).await;
        let client = Client::new(&fake::options(&[&dead, &alive])).unwrap();
        client.alarms().await.unwrap();
        assert_eq!(client.0.preferred.load(Ordering::Relaxed), 1);
        // A refusal that every member would repeat is final: the dead one is not asked, or it would be in the message.
        script.lock().unwrap().statuses = refusals(tonic::Code::PermissionDenied, "etcdserver: permission denied", 1);
        let error = client.alarms().await.unwrap_err();
        assert_eq!(error.kind(), Kind::Denied);
        assert_eq!(
            error.chain(),
            format!("list the alarms from {alive}: the member answered: etcdserver: permission denied")
        );
    }

    #[tokio::test]
    async fn an_election_is_waited_for_and_a_wrong_address_is_not() {
        let (alive, script) = fake::start(Script::default()).await;
        script.lock().unwrap().statuses = refusals(tonic::Code::Unavailable, NO_LEADER, 3);
        Client::new(&fake::options(&[&alive])).unwrap().alarms().await.unwrap();

        let (a, b) = (fake::nobody().await, fake::nobody().await);
        let began = Stopwatch::start();
        let error = Client::new(&fake::options(&[&a, &b])).unwrap().alarms().await.unwrap_err();
        assert!(began.elapsed() < RETRY_WAITS.1, "it did not wait");
        let told = "nothing listens there (connection refused)";
        assert_eq!(error.chain(), format!("list the alarms: no member answered: {a}: {told}; {b}: {told}"));
        assert!(error.kind() == Kind::Unavailable && error.hint_text().is_some());
    }

    #[tokio::test]
    async fn a_learner_is_not_waited_for() {
        let (learner, script) = fake::start(Script::default()).await;
        let refused = "etcdserver: rpc not supported for learner";
        script.lock().unwrap().statuses = refusals(tonic::Code::FailedPrecondition, refused, 2);
        let client = Client::new(&fake::options(&[&learner])).unwrap();
        assert_eq!(client.alarms().await.unwrap_err().kind(), Kind::Unavailable);
        assert_eq!(script.lock().unwrap().statuses.len(), 1);
        let (voter, _script) = fake::start(Script::default()).await;
        Client::new(&fake::options(&[&learner, &voter])).unwrap().alarms().await.unwrap();
    }

    #[tokio::test]
    async fn waiting_has_an_end() {
        let (alive, script) = fake::start(Script::default()).await;
        script.lock().unwrap().statuses = refusals(tonic::Code::Unavailable, NO_LEADER, 1_000);
        let options = Options { retry_total: Duration::from_millis(50), ..fake::options(&[&alive]) };
        let error = Client::new(&options).unwrap().alarms().await.unwrap_err();
        assert_eq!(error.kind(), Kind::Unavailable);
        assert!(script.lock().unwrap().statuses.len() > 900, "each round asks once and waits");
    }

    #[tokio::test]
    async fn a_token_is_shared_and_renewed_when_it_is_no_longer_known() {
        let (alive, script) = fake::start(Script::default()).await;
        let client = Client::new(&with_user(fake::options(&[&alive]))).unwrap();
        let endpoint = client.endpoints().next().unwrap().clone();
        client.member_status(&endpoint).await.unwrap();
        client.clone().member_status(&endpoint).await.unwrap();
        script.lock().unwrap().statuses = refusals(tonic::Code::Unauthenticated, "etcdserver: invalid auth token", 1);
        client.member_status(&endpoint).await.unwrap();
        {
            let script = script.lock().unwrap();
            let tokens: Vec<&str> = script.tokens.iter().map(|token| token.as_deref().unwrap()).collect();
            assert_eq!(tokens, ["token 1", "token 1", "token 1", "token 2"]);
            assert_eq!(script.signed_in, 2);
        }
        // One new token is worth a try; a second refusal is the answer.
        script.lock().unwrap().statuses =
            refusals(tonic::Code::InvalidArgument, "etcdserver: revision of auth store is old", 2);
        assert_eq!(client.member_status(&endpoint).await.unwrap_err().kind(), Kind::Unavailable);
        assert_eq!(script.lock().unwrap().signed_in, 3);
    }

    #[tokio::test]
    async fn signing_in_can_fail_or_be_needless() {
        let (alive, script) = fake::start(Script::default()).await;
        let wrong = "etcdserver: authentication failed, invalid user ID or password";
        script.lock().unwrap().sign_ins = refusals(tonic::Code::InvalidArgument, wrong, 1);
        let client = Client::new(&with_user(fake::options(&[&alive]))).unwrap();
        let endpoint = client.endpoints().next().unwrap().clone();
        let error = client.member_status(&endpoint).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Denied);
        let text = format!("{}: {:?}: {:?}", error.chain(), error.hint_text(), client);
        assert!(text.contains("sign in: the member answered: etcdserver: authentication failed"), "{text}");
        assert!(!text.contains("hunter2"));

        let needless = "etcdserver: authentication is not enabled";
        script.lock().unwrap().sign_ins = refusals(tonic::Code::FailedPrecondition, needless, 1);
        client.member_status(&endpoint).await.unwrap();
        assert_eq!(script.lock().unwrap().tokens, [None]);
    }

    #[tokio::test]
    async fn silence_has_a_deadline() {
        // A listener that accepts and says nothing: the kernel completes the connection.
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let silent = listener.local_addr().unwrap().to_string();
        let options = Options { deadline: Duration::from_millis(50), ..fake::options(&[&silent]) };
        let error = Client::new(&options).unwrap().alarms().await.unwrap_err();
        assert_eq!(error.chain(), format!("list the alarms from http://{silent}: no answer within 50 ms"));
        assert!(error.kind() == Kind::Unavailable && error.hint_text().is_some());
    }
}
