//! What a member is told when it starts, as values: etcd's flags, its environment and its configuration file.
//!
//! `table` has every flag; `given` collects what was said of each and where; `value` and `file` read; and here all of it
//! becomes `Options`, or one error that names the place, the value, and what to write instead. Pure: who calls reads the
//! environment and the file.
//!
//! Invariants:
//! - What has no effect is said in a warning, and what would be dangerous without one is refused.
//! - An existing unit file or static pod of etcd starts Holdfast, or is told in one sentence why not.

pub mod file;
pub mod given;
mod logs;
mod security;
pub mod table;
#[cfg(test)]
mod tests;
mod tokens;
pub mod tuning;
pub mod value;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use crate::base::error::{Error, Kind, Result};
use crate::base::jwt;
use crate::base::tls::{OwnFiles, ServerFiles};
use crate::base::units::GIB;
use crate::store::options::given::{Given, Sources};
pub use crate::store::options::logs::{LogOutput, Logs, Rotation};
use crate::store::options::table::Effect;
pub use crate::store::options::tuning::{AutoCompaction, QUOTA_BYTES, SCRUB_INTERVAL, Tokens, Tuning};
use crate::store::options::value::Address;

/// etcd's limit on `--election-timeout`.
const ELECTION_MS_MAX: i64 = 50_000;
/// The largest `--max-request-bytes`: several requests fit into a frame of the log, which has 32 MiB at most.
const REQUEST_BYTES_MAX: usize = 16 << 20;
/// A larger quota is served, and warned of: etcd's suggested maximum.
const QUOTA_SUGGESTED_MAX: u64 = 8 * GIB;
/// A smaller one is served, and warned of: the file of a member that holds nothing is nearly as large.
const QUOTA_SENSIBLE_MIN: u64 = 16 << 20;
/// Larger requests are served, and warned of: etcd's suggested maximum.
const REQUEST_SUGGESTED_MAX: usize = 10 << 20;
/// Of `--grpc-keepalive-min-time=0s`, which leaves it to the library that etcd is built with.
const PING_INTERVAL_MIN: Duration = Duration::from_mins(5);
/// etcd's limit on `--distributed-tracing-sampling-rate`: so many of a million.
const SAMPLING_RATE_MAX: u64 = 1_000_000;

/// Everything a member is told.
#[derive(Clone, Debug)]
pub struct Options {
    /// What it is called.
    pub name: String,
    /// Its directory.
    pub data_dir: PathBuf,
    /// A directory of its own for the log.
    pub wal_dir: Option<PathBuf>,
    /// The cluster, should it begin now.
    pub birth: Birth,
    /// Where clients are served.
    pub clients: Listeners,
    /// Where clients reach it, as other members and clients are told.
    pub advertised: Vec<String>,
    /// Certificates and keys of its listeners.
    pub tls: ServerFiles,
    /// Those that are to be made when they are not there.
    pub own_tls: Option<OwnFiles>,
    /// How connections are kept.
    pub connections: Connections,
    /// Limits and intervals of the member itself.
    pub tuning: Tuning,
    /// Whether it reads everything that is stored before it serves.
    pub scrub_at_start: bool,
    /// etcd's feature gates, how far each has come, and whether it is on.
    pub features: Vec<(&'static str, &'static str, bool)>,
    /// The keys of tokens that are signed; who starts the member reads them.
    pub token_keys: Option<jwt::Files>,
    /// Free bytes in the state file at which a start defragments it.
    pub defragment_at: Option<u64>,
    /// What is told of its doings.
    pub logs: Logs,
    /// Whether metrics tell how long calls take.
    pub extensive_metrics: bool,
    /// What the operator should know.
    pub warnings: Vec<String>,
}

/// What a cluster is born with. Once there is a member, none of it counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Birth {
    /// The members, with where their peers reach them.
    pub members: Vec<(String, Vec<String>)>,
    /// Where peers reach this one.
    pub peer_urls: Vec<String>,
    /// What tells it from clusters with the same addresses.
    pub token: String,
    /// Whether to join a cluster instead.
    pub joins: bool,
}

/// Where to listen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listeners {
    /// For gRPC, and for HTTP unless that has its own.
    pub grpc: Vec<Address>,
    /// For HTTP alone.
    pub http: Vec<Address>,
    /// For metrics and probes.
    pub metrics: Vec<Address>,
    /// Names by which plain HTTP may address it; none for all.
    pub hosts: Option<Vec<String>>,
    /// Origins of web pages that may ask over HTTP; none for all.
    pub origins: Option<Vec<String>>,
    /// Whether the services are there as JSON.
    pub gateway: bool,
    /// Whether other processes may listen at the same addresses.
    pub shares_port: bool,
    /// Whether the common name in a client's certificate is a user's name.
    pub names_users: bool,
}

impl Listeners {
    /// Every address.
    pub fn all(&self) -> impl Iterator<Item = &Address> {
        self.grpc.iter().chain(&self.http).chain(&self.metrics)
    }
}

/// How connections are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connections {
    /// Requests on one of them.
    pub streams_max: u32,
    /// Clients may ask whether the member lives, but no more often; some such questions are let pass.
    pub ping_interval_min: Duration,
    /// Silence before it is asked whether it lives.
    pub keepalive_interval: Duration,
    /// How long it may take to answer that.
    pub keepalive_timeout: Duration,
    /// Requests that take longer are logged.
    pub slow_request: Duration,
}

impl Options {
    /// What the sources say, taken together.
    pub fn parse(sources: &Sources) -> Result<Options> {
        let given = Given::collect(sources)?;
        let mut warnings = given.warnings.clone();
        judge_effects(&given, &mut warnings)?;
        judge_idle(&given)?;
        let name = given.text("name").to_owned();
        if name.is_empty() {
            return Err(given.wrong("name", "a member must be called something", "give --name, as in --name=m1"));
        }
        let data_dir = match given.text("data-dir") {
            "" => PathBuf::from(format!("{name}.etcd")),
            path => PathBuf::from(path),
        };
        let wal_dir = Some(given.text("wal-dir")).filter(|path| !path.is_empty()).map(PathBuf::from);
        let clients = listeners(&given)?;
        let (tls, own_tls) = security::files(&given, &clients, &data_dir, &mut warnings)?;
        Ok(Options {
            birth: birth(&given, &name)?,
            advertised: advertised(&given)?,
            tls,
            own_tls,
            connections: connections(&given)?,
            tuning: tuning(&given, &mut warnings)?,
            scrub_at_start: gates(&given)?.contains(&"InitialCorruptCheck"),
            features: features(&given)?,
            token_keys: tokens::keys(&given, &mut warnings)?,
            defragment_at: match number(&given, "bootstrap-defrag-threshold-megabytes", 0)? {
                0 => None,
                megabytes => Some(megabytes << 20),
            },
            logs: logs::logs(&given, &mut warnings)?,
            extensive_metrics: one_of(&given, "metrics", &["basic", "extensive"])? == "extensive",
            name,
            data_dir,
            wal_dir,
            clients,
            warnings,
        })
    }
}

impl Birth {
    /// Refuses what this version cannot begin, and what etcd refuses.
    pub fn check(&self, name: &str) -> Result<()> {
        let wrong = |message: String, hint: String| Err(Error::new(Kind::Usage, message).hint(hint));
        if self.joins {
            let hint =
                "run one member with --initial-cluster-state=new; for several, run etcd and back it up with Holdfast";
            return wrong("this version does not join a cluster that is there".to_owned(), hint.to_owned());
        }
        let Some((_, listed)) = self.members.iter().find(|(member, _)| member == name) else {
            let hint = format!("give --initial-cluster={name}=URL, or --name as it stands there");
            return wrong(format!("--initial-cluster does not name this member, {name:?}"), hint);
        };
        if self.members.len() > 1 {
            let hint = format!(
                "name this member alone, --initial-cluster={name}={}; for several, run etcd and back it up with Holdfast",
                listed.join(&format!(",{name}="))
            );
            return wrong(
                format!("--initial-cluster names {} members, and this version runs one", self.members.len()),
                hint,
            );
        }
        let sorted = |urls: &[String]| {
            let mut urls = urls.to_vec();
            urls.sort_unstable();
            urls
        };
        if sorted(listed) != sorted(&self.peer_urls) {
            let (listed, own) = (listed.join(","), self.peer_urls.join(","));
            let hint = format!("give --initial-advertise-peer-urls={listed}, or correct --initial-cluster");
            return wrong(
                format!("--initial-cluster has {name} at {listed}, and --initial-advertise-peer-urls is {own}"),
                hint,
            );
        }
        Ok(())
    }
}

/// Warns of flags without effect, and refuses those that must not be without one.
fn judge_effects(given: &Given, warnings: &mut Vec<String>) -> Result<()> {
    let (mut alone, mut without) = (vec![], vec![]);
    for (flag, value) in given.changed() {
        match flag.effect {
            Effect::Works => {}
            Effect::Peers => alone.push(flag.name),
            Effect::None(why) => without.push(format!("{} ({why})", flag.name)),
            // Nothing given is nothing refused.
            Effect::Refused(_) if value.text.is_empty() => {}
            Effect::Refused(why) => {
                return Err(given.wrong(flag.name, format!("cannot be had: {why}"), "leave this flag out"));
            }
        }
    }
    let gates = gates(given)?.into_iter().filter(|gate| !table::WORKING_GATES.contains(gate));
    without.extend(gates.map(|gate| format!("feature-gates {gate}")));
    if !alone.is_empty() {
        warnings.push(format!("of no effect as long as this member is alone: {}", alone.join(", ")));
    }
    if !without.is_empty() {
        warnings.push(format!("of no effect: {}", without.join(", ")));
    }
    Ok(())
}

/// What was said of feature gates, in that order.
fn said_of_gates(given: &Given) -> Result<Vec<(&'static str, bool)>> {
    let mut said = given.gates.clone();
    for pair in value::words(given.text("feature-gates")) {
        let (name, on) = pair.split_once('=').unwrap_or((&pair, ""));
        let Some(gate) = table::GATES.iter().find(|gate| gate.name == name) else {
            let known: Vec<&'static str> = table::GATES.iter().map(|gate| gate.name).collect();
            let hint = format!("etcd has {}", known.join(", "));
            return Err(given.wrong("feature-gates", format!("{name:?} is no feature gate"), hint));
        };
        let on = value::switch(on).map_err(|error| error.during(format!("--feature-gates: {name}")))?;
        said.push((gate.name, on));
    }
    Ok(said)
}

/// The feature gates that were asked for.
fn gates(given: &Given) -> Result<Vec<&'static str>> {
    let said = said_of_gates(given)?;
    let gates: Vec<&'static str> = said.into_iter().filter(|(_, on)| *on).map(|(gate, _)| gate).collect();
    if gates.contains(&"LeaseCheckpointPersist") && !gates.contains(&"LeaseCheckpoint") {
        let hint = "give LeaseCheckpoint=true too";
        return Err(given.wrong("feature-gates", "LeaseCheckpointPersist needs LeaseCheckpoint", hint));
    }
    Ok(gates)
}

/// Every feature gate, how far it has come, and whether it is on.
fn features(given: &Given) -> Result<Vec<(&'static str, &'static str, bool)>> {
    let said = said_of_gates(given)?;
    let is_on = |name: &str| said.iter().rev().find(|(gate, _)| *gate == name).map(|(_, on)| *on);
    let feature = |gate: &table::Gate| {
        let is_by_default = gate.stage == "BETA" && gate.name != "AllBeta";
        (gate.name, gate.stage, is_on(gate.name).unwrap_or(is_by_default))
    };
    Ok(table::GATES.iter().map(feature).collect())
}

/// Refuses values that etcd refuses, of flags that do nothing here: a mistake is not left for the day when they do.
fn judge_idle(given: &Given) -> Result<()> {
    one_of(given, "logger", &["zap"])?;
    one_of(given, "discovery-fallback", &["exit", "proxy"])?;
    one_of(given, "v2-deprecation", &["", "not-yet", "write-only", "write-only-drop-data", "gone"])?;
    number(given, "max-learners", 1)?;
    at_most(given, "distributed-tracing-sampling-rate", 0, SAMPLING_RATE_MAX)?;
    Ok(())
}

fn addresses(given: &Given, name: &str) -> Result<Vec<Address>> {
    value::urls(given.text(name)).map_err(|error| error.during(format!("--{name}")))
}

/// Where to listen: addresses, because a name may mean several or another one tomorrow.
fn local_addresses(given: &Given, name: &str) -> Result<Vec<Address>> {
    let mut addresses = addresses(given, name)?;
    // One that is said twice is taken once.
    let mut said = BTreeSet::new();
    addresses.retain(|address| said.insert(address.text.clone()));
    match addresses.iter().find(|address| !address.is_local()) {
        Some(address) => Err(given.wrong(
            name,
            format!("{} is no IP address to listen at", address.text),
            "give an IP address of this host, or localhost",
        )),
        None => Ok(addresses),
    }
}

fn reached(given: &Given, name: &str) -> Result<Vec<String>> {
    let addresses = addresses(given, name)?;
    match addresses.iter().find(|address| address.host.is_empty()) {
        Some(address) => Err(given.wrong(
            name,
            format!("{} names no host", address.text),
            "give the address at which others reach this member",
        )),
        None => Ok(addresses.into_iter().map(|address| address.text).collect()),
    }
}

fn listeners(given: &Given) -> Result<Listeners> {
    let grpc = local_addresses(given, "listen-client-urls")?;
    if grpc.is_empty() {
        return Err(given.wrong(
            "listen-client-urls",
            "there must be an address to listen at",
            "give --listen-client-urls=http://127.0.0.1:2379",
        ));
    }
    local_addresses(given, "listen-peer-urls")?;
    let listed = |name| {
        let words = value::words(given.text(name));
        (!words.is_empty() && !words.iter().any(|word| word == "*")).then_some(words)
    };
    let origins = listed("cors");
    for origin in origins.iter().flatten() {
        Address::parse(origin).map_err(|error| error.during("--cors"))?;
    }
    Ok(Listeners {
        grpc,
        http: local_addresses(given, "listen-client-http-urls")?,
        metrics: local_addresses(given, "listen-metrics-urls")?,
        hosts: listed("host-whitelist"),
        origins,
        gateway: value::switch(given.text("enable-grpc-gateway"))?,
        shares_port: value::switch(given.text("socket-reuse-port"))?,
        names_users: value::switch(given.text("client-cert-auth"))?,
    })
}

fn advertised(given: &Given) -> Result<Vec<String>> {
    if given.get("advertise-client-urls").is_none()
        && let Some(listen) = given.get("listen-client-urls")
    {
        let hint = "give --advertise-client-urls, the addresses at which clients reach this member";
        return Err(given.wrong("advertise-client-urls", format!("required when {} is set", listen.place), hint));
    }
    reached(given, "advertise-client-urls")
}

fn birth(given: &Given, name: &str) -> Result<Birth> {
    let peer_urls = reached(given, "initial-advertise-peer-urls")?;
    let state = one_of(given, "initial-cluster-state", &["new", "existing"])?;
    let mut members: Vec<(String, Vec<String>)> = vec![];
    for pair in value::words(given.text("initial-cluster")) {
        let wrong = |why: &str| {
            given.wrong(
                "initial-cluster",
                format!("{pair:?} {why}"),
                "write NAME=URL for each member, with commas between them",
            )
        };
        let (member, url) = pair.split_once('=').ok_or_else(|| wrong("has no name before its URL"))?;
        Address::parse(url).map_err(|error| error.during("--initial-cluster"))?;
        match members.iter_mut().find(|(known, _)| known == member) {
            Some((_, urls)) => urls.push(url.to_owned()),
            None => members.push((member.to_owned(), vec![url.to_owned()])),
        }
    }
    if members.is_empty() {
        members.push((name.to_owned(), peer_urls.clone()));
    }
    Ok(Birth { members, peer_urls, token: given.text("initial-cluster-token").to_owned(), joins: state == "existing" })
}

fn connections(given: &Given) -> Result<Connections> {
    let span = |name: &str| value::duration(given.text(name)).map_err(|error| error.during(format!("--{name}")));
    Ok(Connections {
        streams_max: u32::try_from(at_most(given, "max-concurrent-streams", 1, u64::from(u32::MAX))?)
            .unwrap_or(u32::MAX),
        ping_interval_min: match span("grpc-keepalive-min-time")? {
            Duration::ZERO => PING_INTERVAL_MIN,
            least => least,
        },
        keepalive_interval: span("grpc-keepalive-interval")?,
        keepalive_timeout: span("grpc-keepalive-timeout")?,
        slow_request: span("warning-unary-request-duration")?,
    })
}

/// A request is agreed on as one entry of the log, whose frames have an end.
fn request_bytes_max(given: &Given) -> Result<usize> {
    let bytes = number(given, "max-request-bytes", 1)?;
    let bytes = usize::try_from(bytes).ok().filter(|bytes| *bytes <= REQUEST_BYTES_MAX);
    bytes.ok_or_else(|| {
        let message = format!("a request may have {REQUEST_BYTES_MAX} bytes at most");
        given.wrong("max-request-bytes", message, "give 1572864, or up to 10485760 as etcd advises")
    })
}

fn tuning(given: &Given, warnings: &mut Vec<String>) -> Result<Tuning> {
    let defaults = Tuning::default();
    let size = |name: &str| number(given, name, 1).map(|n| usize::try_from(n).unwrap_or(usize::MAX));
    let span = |name: &str| value::duration(given.text(name)).map_err(|error| error.during(format!("--{name}")));
    let heartbeat = number(given, "heartbeat-interval", 1)?;
    let election = number(given, "election-timeout", 1)?;
    if election < heartbeat.saturating_mul(5) {
        let message = format!("{election} ms is less than 5 times --heartbeat-interval, {heartbeat} ms");
        return Err(given.wrong("election-timeout", message, "give about 10 times the heartbeat interval"));
    }
    if election > ELECTION_MS_MAX.unsigned_abs() {
        let message = format!("{election} ms is more than {ELECTION_MS_MAX} ms");
        return Err(given.wrong("election-timeout", message, "give about 10 times the heartbeat interval"));
    }
    let quota_bytes = match value::number(given.text("quota-backend-bytes"))? {
        0 => Some(QUOTA_BYTES),
        bytes => u64::try_from(bytes).ok(),
    };
    if quota_bytes.is_some_and(|bytes| bytes > QUOTA_SUGGESTED_MAX) {
        warnings.push(
            "quota-backend-bytes is more than 8 GiB: a member that large takes long to start and to copy".to_owned(),
        );
    }
    if quota_bytes.is_some_and(|bytes| bytes < QUOTA_SENSIBLE_MIN) {
        warnings.push(
            "quota-backend-bytes is less than 16 MiB: the state file of a member that holds little may reach it, and then \
             nothing can be written"
                .to_owned(),
        );
    }
    let request_bytes = request_bytes_max(given)?;
    if request_bytes > REQUEST_SUGGESTED_MAX {
        warnings.push("max-request-bytes is more than 10 MiB: requests that large hold up all others".to_owned());
    }
    let flush_interval = span("backend-batch-interval")?;
    let progress = span("watch-progress-notify-interval")?;
    if progress < Duration::from_millis(100) {
        return Err(given.wrong(
            "watch-progress-notify-interval",
            "less than 100ms would tell watchers of nothing else",
            "give 5s or more",
        ));
    }
    let after_compaction = time_or(given, "compact-hash-check-time", Duration::from_secs(1))?;
    Ok(Tuning {
        request_bytes_max: request_bytes,
        txn_operations_max: size("max-txn-ops")?,
        quota_bytes,
        flush_interval: if flush_interval.is_zero() { defaults.flush_interval } else { flush_interval },
        heartbeat: Duration::from_millis(heartbeat),
        election: Duration::from_millis(election),
        watch_progress: progress,
        slow_apply: span("warning-apply-duration")?,
        auto_compaction: auto_compaction(given)?,
        // 0 is etcd's way to say nothing.
        session_ttl: Some(number(given, "auth-token-ttl", 0)?)
            .filter(|seconds| *seconds > 0)
            .map_or(defaults.session_ttl, Duration::from_secs),
        bcrypt_cost: bcrypt_cost(given)?,
        tokens: tokens::simple(given),
        scrub_interval: time_or(given, "corrupt-check-time", SCRUB_INTERVAL)?,
        scrub_after_compaction: gates(given)?.contains(&"CompactHashCheck").then_some(after_compaction),
        ..defaults
    })
}

/// etcd's bounds are Go's: from 4 to 31.
fn bcrypt_cost(given: &Given) -> Result<u32> {
    let cost = at_most(given, "bcrypt-cost", 4, 31)?;
    Ok(u32::try_from(cost).expect("it is at most 31"))
}

/// A time, or this one for none.
fn time_or(given: &Given, name: &str, none: Duration) -> Result<Duration> {
    let time = value::duration(given.text(name)).map_err(|error| error.during(format!("--{name}")))?;
    Ok(if time.is_zero() { none } else { time })
}

fn auto_compaction(given: &Given) -> Result<AutoCompaction> {
    let retention = given.text("auto-compaction-retention");
    let wrong = |hint: &str| {
        given.wrong("auto-compaction-retention", format!("{retention:?} says nothing about what to keep"), hint)
    };
    let number: Option<i64> = retention.parse().ok().filter(|n| *n >= 0);
    let mode = one_of(given, "auto-compaction-mode", &["periodic", "revision"])?;
    if number == Some(0) {
        return Ok(AutoCompaction::Off);
    }
    if mode == "revision" {
        let keep = number.ok_or_else(|| wrong("in this mode, give a number of revisions, as in 10000"))?;
        return Ok(AutoCompaction::Revisions(keep));
    }
    let span = match number {
        // A bare number is hours.
        Some(hours) => u32::try_from(hours).ok().map(|hours| Duration::from_secs(3600) * hours),
        None => value::duration(retention).ok(),
    };
    match span.ok_or_else(|| wrong("give hours, as in 8, or a time, as in 30m"))? {
        Duration::ZERO => Ok(AutoCompaction::Off),
        span => Ok(AutoCompaction::Periodic(span)),
    }
}

/// A number that is at least `least`.
fn number(given: &Given, name: &str, least: u64) -> Result<u64> {
    let n = value::number(given.text(name)).map_err(|error| error.during(format!("--{name}")))?;
    let fits = u64::try_from(n).ok().filter(|n| *n >= least);
    fits.ok_or_else(|| given.wrong(name, format!("{n} is too small"), format!("give {least} or more")))
}

/// A number that is at least `least`, and at most `most`.
fn at_most(given: &Given, name: &str, least: u64, most: u64) -> Result<u64> {
    let n = number(given, name, least)?;
    if n <= most {
        return Ok(n);
    }
    Err(given.wrong(name, format!("{n} is too large"), format!("give {most} or less")))
}

fn one_of<'a>(given: &'a Given, name: &str, known: &[&str]) -> Result<&'a str> {
    let text = given.text(name);
    if known.contains(&text) {
        return Ok(text);
    }
    let known: Vec<&str> = known.iter().copied().filter(|known| !known.is_empty()).collect();
    let hint = match known[..] {
        [only] => format!("give {only}"),
        _ => format!("give one of {}", known.join(", ")),
    };
    Err(given.wrong(name, format!("{text:?} is not one of them"), hint))
}
