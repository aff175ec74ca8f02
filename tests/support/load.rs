//! Seeded load on a live cluster, over etcd's gRPC API: fills one quickly, or keeps writing until it is stopped.
//!
//! What is written is what backups must carry: new keys, updates, deletions and rebirths, transactions of many keys,
//! leases with keys, revoked leases, compactions, users and roles. The order in which writers interleave is the
//! scheduler's; each writer's own sequence comes from the seed.

use holdfast::api::etcdserverpb as pb;
use holdfast::api::etcdserverpb::auth_client::AuthClient;
use holdfast::api::etcdserverpb::kv_client::KvClient;
use holdfast::api::etcdserverpb::lease_client::LeaseClient;
use holdfast::base::rng::Seeded;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Identity};
use tonic::{Request, Status};

use super::etcd::{Etcd, Tls};
use super::objects;

const CALL_LIMIT: Duration = Duration::from_secs(30);
const CONNECT_LIMIT: Duration = Duration::from_secs(5);
const LEASE_SECONDS: i64 = 3600;
/// etcd's limit is 128 operations in one transaction.
const TXN_OPERATIONS: u64 = 100;
/// How many transactions of `fill` are on their way at a time.
const FILL_IN_FLIGHT: u64 = 4;
/// A compaction leaves at least this much history.
const KEPT_REVISIONS: i64 = 50;
/// etcd refuses a request that met a change of users or roles on its way; its own client asks again.
const ATTEMPTS: usize = 20;

type Answer<T> = Result<T, Status>;
type Service = InterceptedService<Channel, Token>;

/// What a background load writes.
#[derive(Clone, Copy, Debug)]
pub struct LoadOptions {
    pub seed: u64,
    /// How many write at the same time.
    pub writers: u64,
    /// Each writer has this many keys, which it writes, deletes and writes again.
    pub keys: u64,
    /// Compactions among the writes.
    pub compactions: bool,
    /// Changes of users and roles among the writes.
    pub auth: bool,
    /// A writer waits this long between two writes.
    pub pause: Duration,
}

impl Default for LoadOptions {
    fn default() -> Self {
        LoadOptions { seed: 1, writers: 4, keys: 200, compactions: true, auth: true, pause: Duration::ZERO }
    }
}

/// What was written.
#[derive(Clone, Debug, Default)]
pub struct Written {
    /// How often each kind of write succeeded: `put`, `update`, `delete`, `txn`, `lease`, `revoke`, `compact`, `auth`.
    pub kinds: BTreeMap<&'static str, u64>,
    /// Writes that failed, and what the first one said.
    pub errors: u64,
    pub first_error: Option<String>,
    /// How long each successful write took, in microseconds, ascending.
    pub micros: Vec<u64>,
}

impl Written {
    /// All successful writes.
    pub fn total(&self) -> u64 {
        self.kinds.values().sum()
    }

    /// The latency that `percent` of the writes stayed at or below.
    pub fn percentile(&self, percent: usize) -> Duration {
        let last = self.micros.len().saturating_sub(1);
        self.micros.get(last * percent / 100).map_or(Duration::ZERO, |micros| Duration::from_micros(*micros))
    }

    fn add(&mut self, other: Written) {
        other.kinds.into_iter().for_each(|(kind, n)| *self.kinds.entry(kind).or_default() += n);
        self.errors += other.errors;
        self.first_error = self.first_error.take().or(other.first_error);
        self.micros.extend(other.micros);
    }
}

/// Writes `count` pods, `first` onwards, in transactions of 100; the revision after the last. Fast: for large states.
pub fn fill(etcd: &Etcd, seed: u64, first: u64, count: u64) -> i64 {
    fill_endpoint(&Endpoint::of(etcd, 0), seed, first, count)
}

/// The same into whatever listens at a plain URL.
pub fn fill_at(url: &str, seed: u64, first: u64, count: u64) -> i64 {
    fill_endpoint(&Endpoint { url: url.to_owned(), tls: None, user: None }, seed, first, count)
}

fn fill_endpoint(endpoint: &Endpoint, seed: u64, first: u64, count: u64) -> i64 {
    let runtime = runtime();
    let revision = runtime.block_on(async {
        let client = Client::connect(endpoint).await.expect("the cluster answers");
        let lane = |lane: u64| {
            let mut client = client.clone();
            let starts = (first..first + count).step_by(usize::try_from(TXN_OPERATIONS).unwrap());
            let starts = starts.skip(usize::try_from(lane).unwrap()).step_by(usize::try_from(FILL_IN_FLIGHT).unwrap());
            async move {
                let mut revision = 0;
                for start in starts {
                    let end = (start + TXN_OPERATIONS).min(first + count);
                    let puts = (start..end).map(|n| objects::pod(seed, n)).collect();
                    revision = client.txn_puts(puts).await.expect("the cluster takes writes");
                }
                revision
            }
        };
        let lanes: Vec<_> = (0..FILL_IN_FLIGHT).map(|n| tokio::spawn(lane(n))).collect();
        let mut revision = 0;
        for lane in lanes {
            revision = revision.max(lane.await.expect("no panic"));
        }
        revision
    });
    runtime.shutdown_background();
    revision
}

/// A write of `apply`.
#[derive(Clone, Debug)]
pub enum Change {
    Put(String, Vec<u8>),
    Delete(String),
}

impl Change {
    fn key(&self) -> &str {
        match self {
            Change::Put(key, _) | Change::Delete(key) => key,
        }
    }

    fn operation(self) -> pb::RequestOp {
        let request = match self {
            Change::Put(key, value) => {
                let put = pb::PutRequest { key: key.into(), value: value.into(), ..Default::default() };
                pb::request_op::Request::RequestPut(put)
            }
            Change::Delete(key) => {
                let delete = pb::DeleteRangeRequest { key: key.into(), ..Default::default() };
                pb::request_op::Request::RequestDeleteRange(delete)
            }
        };
        pb::RequestOp { request: Some(request) }
    }
}

/// Makes these changes in order, many in a transaction; the revision after the last. A transaction may name a key once.
pub fn apply(etcd: &Etcd, changes: impl IntoIterator<Item = Change>) -> i64 {
    let runtime = runtime();
    let endpoint = Endpoint::of(etcd, 0);
    let revision = runtime.block_on(async {
        let mut client = Client::connect(&endpoint).await.expect("the cluster answers");
        let (mut revision, mut keys, mut operations) = (0, BTreeSet::new(), vec![]);
        for change in changes {
            let full = operations.len() as u64 == TXN_OPERATIONS;
            if full || keys.contains(change.key()) {
                revision = client.txn(std::mem::take(&mut operations)).await.expect("the cluster takes writes");
                keys.clear();
            }
            keys.insert(change.key().to_owned());
            operations.push(change.operation());
        }
        if !operations.is_empty() {
            revision = client.txn(operations).await.expect("the cluster takes writes");
        }
        revision
    });
    runtime.shutdown_background();
    revision
}

/// Makes exactly `writes` writes of every kind, one after another: the same cluster state for the same seed.
pub fn write(etcd: &Etcd, options: LoadOptions, writes: u64) -> Written {
    let runtime = runtime();
    let endpoint = Endpoint::of(etcd, 0);
    let written = runtime.block_on(async {
        let mut writer = Writer::new(Client::connect(&endpoint).await.expect("the cluster answers"), options, 0);
        for _ in 0..writes {
            writer.write_one().await;
        }
        writer.finish()
    });
    runtime.shutdown_background();
    written
}

/// Writers that go on until they are stopped or dropped.
pub struct Load {
    runtime: Option<Runtime>,
    stop: Arc<AtomicBool>,
    total: Arc<AtomicU64>,
    writers: Vec<JoinHandle<Written>>,
}

impl Load {
    /// Starts writing; the writers spread over the endpoints.
    pub fn start(etcd: &Etcd, options: LoadOptions) -> Load {
        let runtime = runtime();
        let (stop, total) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let endpoints = etcd.endpoints().len() as u64;
        let writer = |n: u64| {
            let endpoint = Endpoint::of(etcd, usize::try_from(n % endpoints).unwrap());
            let (stop, total) = (stop.clone(), total.clone());
            runtime.spawn(async move {
                let client = Client::connect(&endpoint).await.expect("the cluster answers");
                let mut writer = Writer::new(client, options, n);
                while !stop.load(Ordering::Relaxed) {
                    writer.write_one().await;
                    total.fetch_add(1, Ordering::Relaxed);
                    tokio::time::sleep(options.pause).await;
                }
                writer.finish()
            })
        };
        let writers = (0..options.writers).map(writer).collect();
        Load { runtime: Some(runtime), stop, total, writers }
    }

    /// How many writes were made until now.
    pub fn total(&self) -> u64 {
        self.total.load(Ordering::Relaxed)
    }

    /// Stops the writers and waits for them; what they wrote.
    pub fn stop(mut self) -> Written {
        self.stop.store(true, Ordering::Relaxed);
        let runtime = self.runtime.take().expect("stopped once");
        let mut written = Written::default();
        for writer in self.writers.drain(..) {
            written.add(runtime.block_on(writer).expect("a writer does not panic"));
        }
        written.micros.sort_unstable();
        runtime.shutdown_background();
        written
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime")
}

/// What a writer needs to know of a member.
#[derive(Clone)]
struct Endpoint {
    url: String,
    tls: Option<ClientTlsConfig>,
    user: Option<(String, String)>,
}

impl Endpoint {
    fn of(etcd: &Etcd, i: usize) -> Endpoint {
        let read = |path| fs::read(path).expect("a certificate of the harness");
        let tls = etcd.certs().map(|certs| {
            let config = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(read(&certs.ca)));
            match etcd.tls() {
                Tls::Mutual => config.identity(Identity::from_pem(read(&certs.client_cert), read(&certs.client_key))),
                Tls::Off | Tls::Server => config,
            }
        });
        let user = etcd.user().map(|(user, password)| (user.to_owned(), password.to_owned()));
        Endpoint { url: etcd.endpoint(i), tls, user }
    }
}

/// Puts the user's token on every request.
#[derive(Clone, Default)]
struct Token(Option<MetadataValue<Ascii>>);

impl tonic::service::Interceptor for Token {
    fn call(&mut self, mut request: Request<()>) -> Answer<Request<()>> {
        if let Some(token) = &self.0 {
            request.metadata_mut().insert("token", token.clone());
        }
        Ok(request)
    }
}

#[derive(Clone)]
struct Client {
    kv: KvClient<Service>,
    lease: LeaseClient<Service>,
    auth: AuthClient<Service>,
}

impl Client {
    async fn connect(endpoint: &Endpoint) -> Answer<Client> {
        let channel = Channel::from_shared(endpoint.url.clone()).expect("a URL of the harness");
        let mut channel = channel.connect_timeout(CONNECT_LIMIT).timeout(CALL_LIMIT);
        if let Some(tls) = &endpoint.tls {
            channel = channel.tls_config(tls.clone()).expect("certificates of the harness");
        }
        let channel = channel.connect_lazy();
        let mut token = Token::default();
        if let Some((name, password)) = endpoint.user.clone() {
            let request = pb::AuthenticateRequest { name, password };
            let answer = AuthClient::new(channel.clone()).authenticate(request).await?.into_inner();
            token = Token(Some(answer.token.parse().expect("a token is ASCII")));
        }
        Ok(Client {
            kv: KvClient::with_interceptor(channel.clone(), token.clone()),
            lease: LeaseClient::with_interceptor(channel.clone(), token.clone()),
            auth: AuthClient::with_interceptor(channel, token),
        })
    }

    async fn put(&mut self, key: String, value: Vec<u8>, lease: i64) -> Answer<i64> {
        let request = pb::PutRequest { key: key.into(), value: value.into(), lease, ..Default::default() };
        let answer = self.kv.put(request).await?.into_inner();
        Ok(revision(answer.header))
    }

    async fn delete(&mut self, key: String) -> Answer<i64> {
        let request = pb::DeleteRangeRequest { key: key.into(), ..Default::default() };
        let answer = self.kv.delete_range(request).await?.into_inner();
        Ok(revision(answer.header))
    }

    async fn txn_puts(&mut self, pairs: Vec<(String, Vec<u8>)>) -> Answer<i64> {
        self.txn(pairs.into_iter().map(|(key, value)| Change::Put(key, value).operation()).collect()).await
    }

    async fn txn(&mut self, success: Vec<pb::RequestOp>) -> Answer<i64> {
        let request = pb::TxnRequest { success, ..Default::default() };
        let answer = self.kv.txn(request).await?.into_inner();
        Ok(revision(answer.header))
    }
}

fn revision(header: Option<pb::ResponseHeader>) -> i64 {
    header.expect("every answer has a header").revision
}

/// One writer: its own keys, its own sequence.
struct Writer {
    client: Client,
    options: LoadOptions,
    number: u64,
    rng: Seeded,
    writes: u64,
    revision: i64,
    leases: Vec<i64>,
    written: Written,
}

impl Writer {
    fn new(client: Client, options: LoadOptions, number: u64) -> Writer {
        let rng = Seeded::new(options.seed.wrapping_mul(1_000_003).wrapping_add(number << 32));
        let written = Written::default();
        Writer { client, options, number, rng, writes: 0, revision: 0, leases: vec![], written }
    }

    fn finish(mut self) -> Written {
        self.written.micros.sort_unstable();
        self.written
    }

    async fn write_one(&mut self) {
        self.writes += 1;
        let started = Instant::now();
        let (kind, result) = match self.rng.below(100) {
            0..25 => ("put", self.put_new().await),
            25..60 => ("update", self.update().await),
            60..72 => ("delete", self.delete().await),
            72..82 => ("txn", self.txn().await),
            82..90 => ("lease", self.leased().await),
            90..93 => ("revoke", self.revoke().await),
            93..97 if self.options.compactions => ("compact", self.compact().await),
            97.. if self.options.auth => ("auth", self.change_auth().await),
            _ => ("update", self.update().await),
        };
        match result {
            Ok(revision) => {
                self.revision = self.revision.max(revision);
                *self.written.kinds.entry(kind).or_default() += 1;
                self.written.micros.push(u64::try_from(started.elapsed().as_micros()).expect("a short time"));
            }
            Err(status) => {
                self.written.errors += 1;
                self.written.first_error.get_or_insert_with(|| format!("{kind}: {status}"));
            }
        }
    }

    /// One of this writer's keys.
    fn key_number(&mut self) -> u64 {
        self.number * self.options.keys + self.rng.below(self.options.keys)
    }

    async fn put_new(&mut self) -> Answer<i64> {
        let (key, value) = objects::pod(self.options.seed, self.key_number());
        let client = &self.client;
        again(|| async { client.clone().put(key.clone(), value.clone(), 0).await }).await
    }

    async fn update(&mut self) -> Answer<i64> {
        let (key, value) = objects::pod_update(self.options.seed, self.key_number(), self.writes);
        let client = &self.client;
        again(|| async { client.clone().put(key.clone(), value.clone(), 0).await }).await
    }

    async fn delete(&mut self) -> Answer<i64> {
        let (key, _) = objects::pod(self.options.seed, self.key_number());
        let client = &self.client;
        again(|| async { client.clone().delete(key.clone()).await }).await
    }

    async fn txn(&mut self) -> Answer<i64> {
        // A transaction may name a key once.
        let pairs: BTreeMap<_, _> =
            (0..8).map(|_| objects::pod_update(self.options.seed, self.key_number(), self.writes)).collect();
        let pairs: Vec<_> = pairs.into_iter().collect();
        let client = &self.client;
        again(|| async { client.clone().txn_puts(pairs.clone()).await }).await
    }

    /// A lease with two keys.
    async fn leased(&mut self) -> Answer<i64> {
        let client = &self.client;
        let grant = pb::LeaseGrantRequest { ttl: LEASE_SECONDS, ..Default::default() };
        let lease = again(|| async { client.clone().lease.lease_grant(grant).await }).await?.into_inner().id;
        self.leases.push(lease);
        let mut revision = 0;
        for part in ["lock", "holder"] {
            let key = format!("/registry/leases/writer-{}/{part}-{}", self.number, self.writes);
            revision = again(|| async { client.clone().put(key.clone(), b"held".to_vec(), lease).await }).await?;
        }
        Ok(revision)
    }

    async fn revoke(&mut self) -> Answer<i64> {
        if self.leases.is_empty() {
            return self.leased().await;
        }
        let place = usize::try_from(self.rng.below(self.leases.len() as u64)).unwrap();
        let request = pb::LeaseRevokeRequest { id: self.leases.swap_remove(place) };
        let client = &self.client;
        let answer = again(|| async { client.clone().lease.lease_revoke(request).await }).await?;
        Ok(revision(answer.into_inner().header))
    }

    async fn compact(&mut self) -> Answer<i64> {
        if self.revision <= KEPT_REVISIONS {
            return self.update().await;
        }
        let back = i64::try_from(self.rng.below(100)).expect("below 100");
        let request =
            pb::CompactionRequest { revision: (self.revision - KEPT_REVISIONS - back).max(1), ..Default::default() };
        let client = &self.client;
        match again(|| async { client.clone().kv.compact(request).await }).await {
            Ok(answer) => Ok(revision(answer.into_inner().header)),
            // Another writer compacted further meanwhile.
            Err(status) if status.message().contains("has been compacted") => Ok(self.revision),
            Err(status) => Err(status),
        }
    }

    /// A user and a role of this writer, made new each time under another name, and every second one taken away again.
    async fn change_auth(&mut self) -> Answer<i64> {
        let name = format!("writer-{}-{}", self.number, self.writes);
        let client = &self.client;
        let add = pb::AuthUserAddRequest { name: name.clone(), password: "secret".to_owned(), ..Default::default() };
        again(|| async { client.clone().auth.user_add(add.clone()).await }).await?;
        let role = pb::AuthRoleAddRequest { name: name.clone() };
        again(|| async { client.clone().auth.role_add(role.clone()).await }).await?;
        let grant = pb::AuthUserGrantRoleRequest { user: name.clone(), role: name.clone() };
        again(|| async { client.clone().auth.user_grant_role(grant.clone()).await }).await?;
        if self.writes.is_multiple_of(2) {
            let delete = pb::AuthUserDeleteRequest { name };
            again(|| async { client.clone().auth.user_delete(delete.clone()).await }).await?;
        }
        Ok(self.revision)
    }
}

/// Makes a call, and makes it again while etcd says that users or roles changed under it.
async fn again<T, F: Future<Output = Answer<T>>>(mut call: impl FnMut() -> F) -> Answer<T> {
    let mut left = ATTEMPTS;
    loop {
        left -= 1;
        match call().await {
            Err(status) if left > 0 && status.message().starts_with("auth: revision ") => {}
            result => return result,
        }
    }
}
