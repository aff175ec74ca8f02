//! What is answered over plain HTTP: is the member well, may it be sent requests, which version is it, what does it count.
//!
//! Three kinds of probes, as etcd has them. `/health` is the oldest and takes every alarm for an illness. `/livez` asks
//! whether a restart would help, so it reads what is here and asks nobody else. `/readyz` asks whether requests should come:
//! a full disk is no reason to send them elsewhere, a corrupt state is.

use std::sync::Arc;

use axum::Router;
use axum::extract::{Path, RawQuery, State as Shared};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, any, get};
use http::{HeaderMap, StatusCode, header};
use serde_json::json;

use crate::api::etcdserverpb::AlarmType;
use crate::base::clock::Time;
use crate::base::process::files_max;
use crate::base::telemetry::{Counter, Counters, Gauge, Page};
use crate::store::machine::state::State;
use crate::store::mvcc::index::Keys;
use crate::store::node::{Fault, Handle};
use crate::store::server::calls::Calls;
use crate::store::server::{metrics, version, watch};

const TEXT: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";

/// What a probe can ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Check {
    DataCorruption,
    SerializableRead,
    LinearizableRead,
    NonLearner,
}

impl Check {
    const ALL: [Check; 4] =
        [Check::DataCorruption, Check::SerializableRead, Check::LinearizableRead, Check::NonLearner];
    const LIVE: [Check; 1] = [Check::SerializableRead];

    const fn name(self) -> &'static str {
        match self {
            Check::DataCorruption => "data_corruption",
            Check::SerializableRead => "serializable_read",
            Check::LinearizableRead => "linearizable_read",
            Check::NonLearner => "non_learner",
        }
    }
}

/// Which probe asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Probe {
    Live,
    Ready,
}

impl Probe {
    const fn name(self) -> &'static str {
        match self {
            Probe::Live => "livez",
            Probe::Ready => "readyz",
        }
    }

    const fn checks(self) -> &'static [Check] {
        match self {
            Probe::Live => &Check::LIVE,
            Probe::Ready => &Check::ALL,
        }
    }
}

/// How one check of one probe ended so far.
#[derive(Debug, Default)]
struct Tried {
    passed: Counter,
    failed: Counter,
    /// Whether it passed when it was tried last.
    passes: Gauge,
}

/// How probes ended so far.
#[derive(Debug, Default)]
pub struct Checks {
    well: Counter,
    ill: Counter,
    each: [[Tried; 4]; 2],
}

impl Checks {
    fn note(&self, probe: Probe, check: Check, passed: bool) {
        let tried = &self.each[probe as usize][check as usize];
        if passed {
            tried.passed.increment();
        } else {
            tried.failed.increment();
        }
        tried.passes.set(u64::from(passed));
    }

    /// Tells all of it.
    pub(super) fn tell(&self, page: &mut Page) {
        page.counter("etcd_server_health_success", "Times that /health said yes.", self.well.get());
        page.counter("etcd_server_health_failures", "Times that /health said no.", self.ill.get());
        let name = "etcd_server_healthchecks_total";
        page.metric(name, "counter", "Checks of /livez and /readyz, by how they ended.");
        for probe in [Probe::Live, Probe::Ready] {
            for check in probe.checks() {
                let Tried { passed, failed, .. } = &self.each[probe as usize][*check as usize];
                for (status, counter) in [("success", passed), ("error", failed)] {
                    let labels = [("type", probe.name()), ("name", check.name()), ("status", status)];
                    #[expect(clippy::cast_precision_loss, reason = "a metric is a float")]
                    page.sample(name, &labels, counter.get() as f64);
                }
            }
        }
        let name = "etcd_server_healthcheck";
        page.metric(name, "gauge", "Whether a check of /livez or /readyz passed when it was made last.");
        for probe in [Probe::Live, Probe::Ready] {
            for check in probe.checks() {
                let Tried { passed, failed, passes } = &self.each[probe as usize][*check as usize];
                if passed.get() + failed.get() > 0 {
                    let labels = [("type", probe.name()), ("name", check.name())];
                    #[expect(clippy::cast_precision_loss, reason = "a metric is a float")]
                    page.sample(name, &labels, passes.get() as f64);
                }
            }
        }
    }
}

/// What the pages are made of.
#[derive(Clone, Debug)]
pub struct Pages {
    /// The member.
    pub handle: Handle,
    /// What it counts.
    pub counters: Arc<Counters>,
    /// What its watches do.
    pub watches: Arc<watch::Counters>,
    /// What its calls cost.
    pub calls: Arc<Calls>,
    /// How probes ended.
    pub checks: Arc<Checks>,
    /// etcd's feature gates, how far each has come, and whether it is on.
    pub features: Vec<(&'static str, &'static str, bool)>,
    /// Whether metrics tell how long calls take.
    pub extensive: bool,
    /// When the process started.
    pub started: Time,
}

impl Pages {
    /// Metrics and probes, as `--listen-metrics-urls` has them.
    pub fn probes(&self) -> Router {
        Router::new()
            .route("/health", only(get(health)))
            .route("/livez", only(get(live)))
            .route("/livez/{check}", only(get(live_check)))
            .route("/readyz", only(get(ready)))
            .route("/readyz/{check}", only(get(ready_check)))
            .route("/metrics", any(told))
            .with_state(self.clone())
    }

    /// All pages.
    pub fn all(&self) -> Router {
        let others = Router::new().route("/version", only(get(versions))).route("/debug/vars", only(get(variables)));
        self.probes().merge(others.with_state(self.clone()))
    }

    async fn run(&self, probe: Probe, checks: &[Check]) -> (bool, String) {
        let (mut passed, mut text) = (true, String::new());
        for check in checks {
            let outcome = self.check(*check).await;
            self.checks.note(probe, *check, outcome.is_ok());
            match outcome {
                Ok(()) => text += &format!("[+]{} ok\n", check.name()),
                Err(why) => {
                    passed = false;
                    text += &format!("[-]{} failed: {why}\n", check.name());
                }
            }
        }
        (passed, text)
    }

    async fn check(&self, check: Check) -> Result<(), String> {
        match check {
            Check::DataCorruption if self.handle.state().alarms.is_active(AlarmType::Corrupt) => {
                Err("alarm activated: CORRUPT".to_owned())
            }
            Check::SerializableRead => self.read(&self.handle.state()),
            Check::LinearizableRead => self.linearized().await,
            Check::DataCorruption | Check::NonLearner => Ok(()),
        }
    }

    async fn linearized(&self) -> Result<(), String> {
        let state = self.handle.linearized().await.map_err(|fault| fault_text(&fault).to_owned())?;
        self.read(&state)
    }

    /// Reads something, whatever there is: one key, and not how many there are.
    fn read(&self, state: &State) -> Result<(), String> {
        self.counters.ranges.increment();
        let ground = state.view.ground();
        let first = ground.index.alive(Keys::of(&[0], &[0]), i64::MAX).next();
        first.map_or(Ok(()), |(_, version)| {
            ground.message(version).map(drop).map_err(|_| "the state cannot be read".to_owned())
        })
    }

    /// What is wrong, in the words of `/health`.
    async fn illness(&self, excluded: &[String], serializable: bool) -> Result<(), String> {
        for alarm in self.handle.state().alarms.all(AlarmType::None as i32) {
            let name = alarm.alarm().as_str_name();
            if !excluded.iter().any(|excluded| excluded == name) {
                return Err(format!("ALARM {name}"));
            }
        }
        if !serializable && self.handle.status().leader == 0 {
            return Err("RAFT NO LEADER".to_owned());
        }
        let read = if serializable { self.read(&self.handle.state()) } else { self.linearized().await };
        read.map_err(|why| format!("RANGE ERROR:{why}"))
    }
}

fn fault_text(fault: &Fault) -> &'static str {
    match fault {
        Fault::TimedOut => "etcdserver: request timed out",
        Fault::NoLeader => "etcdserver: no leader",
        Fault::Stopped => "etcdserver: server stopped",
        Fault::TooManyRequests => "etcdserver: too many requests",
        Fault::Refused(_) | Fault::TooLarge => "the read was refused",
    }
}

/// The values of `name` in a query; a name without a value has an empty one.
fn values(query: Option<&str>, name: &str) -> Vec<String> {
    let pairs = url::form_urlencoded::parse(query.unwrap_or_default().as_bytes());
    pairs.filter(|(key, _)| key == name).map(|(_, value)| value.into_owned()).collect()
}

async fn health(Shared(pages): Shared<Pages>, RawQuery(query): RawQuery) -> Response {
    let serializable = values(query.as_deref(), "serializable").iter().any(|value| value == "true");
    let outcome = pages.illness(&values(query.as_deref(), "exclude"), serializable).await;
    let (counter, status) = match &outcome {
        Ok(()) => (&pages.checks.well, StatusCode::OK),
        Err(reason) => {
            tracing::warn!(reason, "/health: not well");
            (&pages.checks.ill, StatusCode::SERVICE_UNAVAILABLE)
        }
    };
    counter.increment();
    // Order and quotes are what probes compare.
    let reason = serde_json::to_string(&outcome.err().unwrap_or_default()).unwrap_or_default();
    let body = format!("{{\"health\":\"{}\",\"reason\":{reason}}}", status == StatusCode::OK);
    (status, [(header::CONTENT_TYPE, JSON)], body).into_response()
}

async fn live(pages: Shared<Pages>, RawQuery(query): RawQuery) -> Response {
    probe(&pages, Probe::Live, query.as_deref()).await
}

async fn ready(pages: Shared<Pages>, RawQuery(query): RawQuery) -> Response {
    probe(&pages, Probe::Ready, query.as_deref()).await
}

async fn live_check(pages: Shared<Pages>, Path(name): Path<String>, RawQuery(query): RawQuery) -> Response {
    one_check(&pages, Probe::Live, &name, query.as_deref()).await
}

async fn ready_check(pages: Shared<Pages>, Path(name): Path<String>, RawQuery(query): RawQuery) -> Response {
    one_check(&pages, Probe::Ready, &name, query.as_deref()).await
}

async fn probe(pages: &Pages, probe: Probe, query: Option<&str>) -> Response {
    let excluded = values(query, "exclude");
    let known = |name: &String| probe.checks().iter().any(|check| check.name() == name);
    if let Some(unknown) = excluded.iter().find(|name| !known(name)) {
        tracing::warn!(check = unknown, "/{}: there is no such check to exclude", probe.name());
    }
    let checks = probe.checks().iter().filter(|check| !excluded.iter().any(|name| name == check.name()));
    answer(pages.run(probe, &checks.copied().collect::<Vec<_>>()).await, query)
}

async fn one_check(pages: &Pages, probe: Probe, name: &str, query: Option<&str>) -> Response {
    match probe.checks().iter().find(|check| check.name() == name) {
        Some(check) => answer(pages.run(probe, &[*check]).await, query),
        None => not_found().await,
    }
}

/// What failed is always said, what passed when asked for.
fn answer((passed, text): (bool, String), query: Option<&str>) -> Response {
    let headers = [(header::CONTENT_TYPE, TEXT), (header::X_CONTENT_TYPE_OPTIONS, "nosniff")];
    if !passed {
        return (StatusCode::SERVICE_UNAVAILABLE, headers, text + "\n").into_response();
    }
    let told = if values(query, "verbose").is_empty() { String::new() } else { text };
    (StatusCode::OK, headers, told + "ok\n").into_response()
}

async fn told(Shared(pages): Shared<Pages>) -> Response {
    ([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], metrics::page(&pages)).into_response()
}

async fn versions() -> Response {
    let (server, cluster, storage) = (version::SERVER, version::CLUSTER, version::STORAGE);
    let body = format!("{{\"etcdserver\":\"{server}\",\"etcdcluster\":\"{cluster}\",\"storage\":\"{storage}\"}}");
    ([(header::CONTENT_TYPE, JSON)], body).into_response()
}

async fn variables(Shared(pages): Shared<Pages>) -> Response {
    let (status, member) = (pages.handle.status(), pages.handle.member());
    let raft = json!({
        "id": format!("{:x}", member.member_id),
        "term": status.term,
        "commit": status.committed,
        "applied": status.applied,
        "lead": format!("{:x}", status.leader),
    });
    let body = json!({ "file_descriptor_limit": files_max(), "raft.status": raft }).to_string();
    ([(header::CONTENT_TYPE, "application/json; charset=utf-8")], body).into_response()
}

/// A page that is there for GET alone, as etcd has it: not for HEAD either.
fn only<S: Clone + Send + Sync + 'static>(page: MethodRouter<S>) -> MethodRouter<S> {
    page.head(no_such_method).fallback(no_such_method)
}

async fn no_such_method() -> Response {
    let headers = [(header::ALLOW, "GET"), (header::CONTENT_TYPE, TEXT), (header::X_CONTENT_TYPE_OPTIONS, "nosniff")];
    (StatusCode::METHOD_NOT_ALLOWED, headers, "Method Not Allowed\n").into_response()
}

/// The answer to every other path.
pub(super) async fn not_found() -> Response {
    let headers = [(header::CONTENT_TYPE, TEXT), (header::X_CONTENT_TYPE_OPTIONS, "nosniff")];
    (StatusCode::NOT_FOUND, headers, "404 page not found\n").into_response()
}

/// The refusal for a name by which this member may not be addressed; none when it may. A web page could otherwise have its
/// reader's browser ask a member that it cannot reach itself.
pub(super) fn misdirected(headers: &HeaderMap, authority: Option<&str>, hosts: &[String]) -> Option<Response> {
    let host = authority.or_else(|| headers.get(header::HOST)?.to_str().ok()).unwrap_or_default();
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|c| c.is_ascii_digit()) => name,
        _ => host,
    };
    let name = name.trim_start_matches('[').trim_end_matches(']');
    if hosts.iter().any(|known| known == name) {
        return None;
    }
    let body = "this member may not be addressed by that name: use TLS, or start it with --host-whitelist\n";
    Some((StatusCode::MISDIRECTED_REQUEST, [(header::CONTENT_TYPE, TEXT)], body).into_response())
}
