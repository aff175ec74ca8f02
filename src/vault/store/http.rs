//! Requests to a bucket: sent under a limit, watched for silence, tried again in one place.
//!
//! This stands under `object_store` as its HTTP service, and `object_store`'s own retries are off: whatever goes wrong on
//! the way (refused, reset, cut, silent, 429, 5xx) is dealt with here, for every kind of request alike, the pages of a
//! listing and the fetching of credentials included. It can be, because every request may be repeated: objects are
//! created with a condition, and a create that finds its own lost success is resolved by comparing content.
//!
//! Invariants:
//! - **One layer of retries**, exponential with full jitter, bounded by `patience` since the first failure. What a
//!   provider asks with Retry-After is waited, up to the longest wait.
//! - **Silence ends a try, duration never does**: a slow link is slow; a dead one moves no byte for `stall`.
//! - An answer is whole before anyone sees it, and has at most as many bytes as its reader wants.
//! - No URL appears in a message: a query may hold a token.

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream;
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use http_body_util::BodyExt;
use object_store::ClientOptions;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpRequestBody, HttpResponse, HttpService,
};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::base::backoff::Backoff;
use crate::base::clock::Stopwatch;
use crate::base::digest;
use crate::base::error::{Error, Kind, Result};
use crate::base::rng::{self, Seeded};
use crate::base::tls::TlsFiles;
use crate::base::units;
use crate::vault::store::answer::{Refusal, Verdict, judge, judge_listing};
use crate::vault::store::options::{
    ALTERED_TRIES_MAX, ANSWER_BYTES_MAX, BucketOptions, CONNECT, METADATA_PATIENCE, PATIENCE, STALL, WAIT_FIRST,
    WAIT_LONGEST, WAIT_PART,
};
use crate::vault::store::throttle::Throttle;

/// Bytes that move at a time: what limits and the watch for silence count.
const PIECE_BYTES: usize = 64 * 1024;
/// Where machines ask for their own credentials; outside of a cloud nobody answers there.
const METADATA_HOSTS: [&str; 6] =
    ["169.254.169.254", "169.254.170.2", "169.254.170.23", "[fd00:ec2::254]", "metadata.google.internal", "metadata"];

/// Bytes that a reader wants of an answer at most; travels with the request.
#[derive(Clone, Copy, Debug)]
pub(super) struct BytesMax(pub(super) u64);

/// Sends the body with its last byte changed, under the checksum of the right one: what `check` asks a bucket to refuse.
#[derive(Clone, Copy, Debug)]
pub(super) struct Altered;

/// How an upload says what it should be when it arrives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Checksum {
    /// It is in the request already.
    Given,
    /// As `x-goog-hash`, CRC32C.
    Google,
}

/// The HTTP service under a bucket.
#[derive(Debug)]
pub(super) struct Transport {
    client: reqwest::Client,
    checksum: Checksum,
    stall: Duration,
    patience: Duration,
    upload: Throttle,
    download: Throttle,
}

/// A try that came to nothing.
enum Trouble {
    /// The way there or back broke.
    Way(String),
    /// The answer is none that anyone asked for.
    Answer(Refusal),
}

/// A whole answer.
struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
}

impl Transport {
    pub(super) fn new(options: &BucketOptions, checksum: Checksum) -> Result<Self> {
        let ca = options.said.ca.clone().or_else(|| options.environment.path("AWS_CA_BUNDLE"));
        let tls = TlsFiles { ca, ..TlsFiles::default() }.load()?;
        let client = reqwest::Client::builder()
            .tls_backend_preconfigured(tls.client_config()?)
            .connect_timeout(CONNECT)
            .redirect(reqwest::redirect::Policy::none())
            .user_agent(concat!("holdfast/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|error| {
                Error::new(Kind::Failed, "prepare the connection to the bucket")
                    .source(error)
                    .hint("check the proxy variables of the environment (HTTPS_PROXY, NO_PROXY)")
            })?;
        Ok(Transport {
            client,
            checksum,
            stall: options.said.stall.unwrap_or(STALL),
            patience: options.said.patience.unwrap_or(PATIENCE),
            upload: Throttle::new(options.said.limit_upload),
            download: Throttle::new(options.said.limit_download),
        })
    }

    /// Tries until there is an answer to use, or no reason to go on.
    async fn answer(&self, request: HttpRequest) -> Result<Answer, Refusal> {
        let (mut parts, body) = request.into_parts();
        let body = gather(body).await;
        if self.checksum == Checksum::Google && parts.method == Method::PUT {
            let value = format!("crc32c={}", digest::crc32c_base64(&body));
            parts.headers.insert("x-goog-hash", HeaderValue::from_str(&value).expect("base64 is plain text"));
        }
        let altering = parts.extensions.get::<Altered>().is_some();
        let body = if altering { alter(&body) } else { body };
        let host = parts.uri.host().unwrap_or_default().to_owned();
        let patience = if is_metadata(&host) { self.patience.min(METADATA_PATIENCE) } else { self.patience };
        let longest = WAIT_LONGEST.min(patience / WAIT_PART).max(WAIT_FIRST);
        let mut backoff = Backoff::new(WAIT_FIRST, longest, patience, Seeded::new(seed()));
        let (mut failing, mut tries, mut altered) = (None, 0_u32, 0_u32);
        loop {
            tries += 1;
            let (why, wish) = match self.attempt(&parts, &body, &host).await {
                Err(Trouble::Answer(refusal)) => return Err(refusal),
                Err(Trouble::Way(why)) => (why, Duration::ZERO),
                Ok(answer) => match judged(&parts, &host, &answer) {
                    Verdict::Use => return Ok(answer),
                    Verdict::Refuse(refusal) if is_metadata(&host) => return Err(no_credentials(refusal.what)),
                    Verdict::Refuse(refusal) => return Err(refusal),
                    // Altered on purpose: a server that answers so each time means it, and a person waits.
                    Verdict::Again(why) if altering && tries == ALTERED_TRIES_MAX => {
                        let elapsed = failing.as_ref().map_or(Duration::ZERO, Stopwatch::elapsed);
                        return Err(given_up(&host, &why, tries, elapsed));
                    }
                    Verdict::Again(why) => (why, retry_after(&answer.headers)),
                    Verdict::Altered(why) => {
                        altered += 1;
                        if altered == ALTERED_TRIES_MAX {
                            return Err(damaged_upload(&why));
                        }
                        (why, Duration::ZERO)
                    }
                },
            };
            let elapsed = failing.get_or_insert_with(Stopwatch::start).elapsed();
            let Some(wait) = backoff.wait(elapsed) else { return Err(given_up(&host, &why, tries, elapsed)) };
            tracing::debug!(%host, method = %parts.method, tries, why, "a request is tried again");
            tokio::time::sleep(wait.max(wish.min(longest))).await;
        }
    }

    /// One try, watched for silence.
    async fn attempt(&self, parts: &http::request::Parts, body: &Bytes, host: &str) -> Result<Answer, Trouble> {
        let moved = Arc::new(AtomicU64::new(0));
        let limit = parts.extensions.get::<BytesMax>().map_or(ANSWER_BYTES_MAX, |max| max.0.max(ANSWER_BYTES_MAX));
        let stall = if is_metadata(host) { self.stall.min(METADATA_PATIENCE) } else { self.stall };
        let mut work = std::pin::pin!(self.exchange(parts, body, host, limit, &moved));
        loop {
            let before = moved.load(Ordering::Relaxed);
            if let Ok(done) = tokio::time::timeout(stall, &mut work).await {
                return done;
            }
            if moved.load(Ordering::Relaxed) == before {
                return Err(Trouble::Way(format!("{host} was silent for {}", units::duration(stall))));
            }
        }
    }

    async fn exchange(
        &self,
        parts: &http::request::Parts,
        body: &Bytes,
        host: &str,
        limit: u64,
        moved: &Arc<AtomicU64>,
    ) -> Result<Answer, Trouble> {
        let broken = |error: reqwest::Error| Trouble::Way(in_words(host, &error));
        let url = parts.uri.to_string();
        let mut request = self.client.request(parts.method.clone(), url).headers(parts.headers.clone());
        if !body.is_empty() {
            request = request.body(self.pieces(body.clone(), Arc::clone(moved)));
        }
        let mut response = request.send().await.map_err(broken)?;
        let (status, headers) = (response.status(), response.headers().clone());
        let too_large = |bytes: u64| {
            let what = format!("{host} answers with {bytes} bytes or more, of at most {limit}");
            Trouble::Answer(Refusal::new(Kind::Damaged, what, "what is stored there is not what was written there"))
        };
        let expected = response.content_length().unwrap_or(0);
        if parts.method != Method::HEAD && expected > limit {
            return Err(too_large(expected));
        }
        let mut gathered = Vec::with_capacity(usize::try_from(expected.min(limit)).unwrap_or(0));
        while let Some(piece) = response.chunk().await.map_err(broken)? {
            moved.fetch_add(piece.len() as u64, Ordering::Relaxed);
            self.download.take(piece.len()).await;
            gathered.extend_from_slice(&piece);
            if gathered.len() as u64 > limit {
                return Err(too_large(gathered.len() as u64));
            }
        }
        Ok(Answer { status, headers, body: gathered.into() })
    }

    /// A body in pieces, each let through by the limit and counted as it goes.
    fn pieces(&self, body: Bytes, moved: Arc<AtomicU64>) -> reqwest::Body {
        // The pieces outlive this borrow, so they hold the limit themselves.
        let throttle = self.upload.clone();
        let pieces = stream::unfold((body, throttle, moved), |(mut rest, throttle, moved)| async move {
            if rest.is_empty() {
                return None;
            }
            let piece = rest.split_to(PIECE_BYTES.min(rest.len()));
            throttle.take(piece.len()).await;
            moved.fetch_add(piece.len() as u64, Ordering::Relaxed);
            Some((Ok::<_, std::io::Error>(piece), (rest, throttle, moved)))
        });
        reqwest::Body::wrap_stream(pieces)
    }
}

#[async_trait]
impl HttpService for Transport {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let answer = self.answer(request).await.map_err(|refusal| HttpError::new(HttpErrorKind::Unknown, refusal))?;
        let mut response = HttpResponse::new(answer.body.into());
        *response.status_mut() = answer.status;
        *response.headers_mut() = answer.headers;
        Ok(response)
    }
}

/// Hands the one transport to everything that `object_store` connects for a bucket: requests and credentials.
#[derive(Clone, Debug)]
pub(super) struct Connector(Arc<Transport>);

impl Connector {
    pub(super) fn new(transport: Transport) -> Self {
        Connector(Arc::new(transport))
    }
}

impl HttpConnector for Connector {
    fn connect(&self, _: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(Shared(Arc::clone(&self.0))))
    }
}

#[derive(Debug)]
struct Shared(Arc<Transport>);

#[async_trait]
impl HttpService for Shared {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        self.0.call(request).await
    }
}

/// What an answer means, by what was asked.
fn judged(parts: &http::request::Parts, host: &str, answer: &Answer) -> Verdict {
    let (query, status) = (parts.uri.query().unwrap_or_default(), answer.status.as_u16());
    match parts.method == Method::GET && query.contains("list-type=2") {
        true => judge_listing(host, query, status, &answer.body),
        false => judge(host, status, &answer.body),
    }
}

async fn gather(body: HttpRequestBody) -> Bytes {
    // A body in memory has no way to fail.
    body.collect().await.map_or_else(|_| Bytes::new(), http_body_util::Collected::to_bytes)
}

fn alter(body: &Bytes) -> Bytes {
    let mut altered = body.to_vec();
    if let Some(last) = altered.last_mut() {
        *last ^= 1;
    }
    altered.into()
}

fn is_metadata(host: &str) -> bool {
    METADATA_HOSTS.contains(&host)
}

/// Spreads the waits of clients that fail together.
fn seed() -> u64 {
    let mut bytes = [0; 8];
    // Without randomness the waits are still right, only less spread.
    drop(rng::fill(&mut bytes));
    u64::from_le_bytes(bytes)
}

/// What a provider asks to wait; in seconds, as buckets write it.
fn retry_after(headers: &HeaderMap) -> Duration {
    let value = headers.get(http::header::RETRY_AFTER).and_then(|value| value.to_str().ok());
    Duration::from_secs(value.and_then(|value| value.trim().parse().ok()).unwrap_or(0))
}

/// A failure of the connection, without the URL.
fn in_words(host: &str, error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    let what = if error.is_connect() { "cannot be reached" } else { "broke the connection" };
    format!("{host} {what}: {cause}")
}

fn given_up(host: &str, why: &str, tries: u32, elapsed: Duration) -> Refusal {
    let what = format!("{why}; given up after {tries} tries in {}", units::duration(elapsed));
    if is_metadata(host) {
        return no_credentials(what);
    }
    let hint = "check the network and the provider's status, then run the command again; what was stored stays";
    Refusal::new(Kind::Unavailable, what, hint)
}

fn no_credentials(what: String) -> Refusal {
    let hint = "no credentials were found: set them in the environment or name a credentials_file in [repository] \
                (docs/providers.md); only machines of the provider have them by themselves";
    Refusal::new(Kind::Denied, what, hint)
}

fn damaged_upload(why: &str) -> Refusal {
    let hint = "something alters data on the way (memory, network card, proxy): run the command on another host";
    Refusal::new(Kind::Failed, format!("{why}; given up after {ALTERED_TRIES_MAX} uploads"), hint)
}
