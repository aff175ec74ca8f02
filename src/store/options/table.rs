//! Every flag of etcd that a member may be given: its name, its form, its default, and what it does here.
//!
//! One table, so that the command line, its help, the environment, the configuration file and docs/configuration.md all
//! know the same flags. A flag that is not in it is an error.

/// How a value is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// Any text.
    Text,
    /// `true` or `false`; the bare flag is true.
    Switch,
    /// A whole number.
    Number,
    /// A whole number from 0 on.
    Count,
    /// A number and its unit, as in `100ms` or `1m30s`.
    Duration,
    /// URLs with commas between them.
    Urls,
    /// Words with commas between them.
    List,
}

impl Shape {
    /// What stands for the value in help texts.
    pub const fn placeholder(self) -> &'static str {
        match self {
            Shape::Text => "TEXT",
            Shape::Switch => "BOOL",
            Shape::Number | Shape::Count => "N",
            Shape::Duration => "TIME",
            Shape::Urls => "URLS",
            Shape::List => "LIST",
        }
    }
}

/// What a flag is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Group {
    /// The member and its directory.
    Member,
    /// The cluster at its birth.
    Cluster,
    /// How clients reach it.
    Clients,
    /// Certificates and names.
    Security,
    /// Limits.
    Limits,
    /// What becomes of old revisions.
    Compaction,
    /// Logs and metrics.
    Observation,
    /// What has no effect, and why.
    Without,
}

impl Group {
    /// Its heading.
    pub const fn title(self) -> &'static str {
        match self {
            Group::Member => "Member",
            Group::Cluster => "Cluster",
            Group::Clients => "Clients",
            Group::Security => "Security",
            Group::Limits => "Limits and times",
            Group::Compaction => "Compaction",
            Group::Observation => "Logs and metrics",
            Group::Without => "Accepted without effect",
        }
    }
}

/// What a flag does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// What etcd's does.
    Works,
    /// Nothing as long as there is one member.
    Peers,
    /// Nothing, and why.
    None(&'static str),
    /// Anything but the default is refused, and why.
    Refused(&'static str),
}

/// A flag.
#[derive(Clone, Copy, Debug)]
pub struct Flag {
    /// Without its dashes.
    pub name: &'static str,
    /// How its value is written.
    pub shape: Shape,
    /// What holds when it is not given; empty for nothing.
    pub default: &'static str,
    /// What it is about.
    pub group: Group,
    /// What it does here.
    pub effect: Effect,
    /// One line for whoever asks; empty where the effect says it all.
    pub help: &'static str,
}

const fn flag(
    group: Group,
    effect: Effect,
    shape: Shape,
    name: &'static str,
    default: &'static str,
    help: &'static str,
) -> Flag {
    Flag { name, shape, default, group, effect, help }
}

use Effect::{None, Peers, Refused, Works};
use Group::{Clients, Cluster, Compaction, Limits, Member, Observation, Security, Without};
use Shape::{Count, Duration, List, Number, Switch, Text, Urls};

const GO: &str = "it is about the Go runtime or its libraries";
const LOG_CUT: &str = "the log is cut as soon as the state holds what it says";
const OLD: &str = "etcd does not know it any more either";
const IGNORED: &str = "etcd ignores it too";
const DISCOVERY: &str = "members are not discovered; name them with --initial-cluster";
const TRACES: &str = "traces are not exported";

/// All flags, in the order in which they are shown.
pub const FLAGS: &[Flag] = &[
    flag(Member, Works, Text, "name", "default", "What this member is called"),
    flag(Member, Works, Text, "data-dir", "", "Its directory; NAME.etcd when not given"),
    flag(Member, Works, Text, "wal-dir", "", "A directory of its own for the log; DATA-DIR/member/wal when not given"),
    flag(
        Member,
        Works,
        Text,
        "config-file",
        "",
        "A YAML file with all of this; every other flag and ETCD_* is ignored then",
    ),
    flag(
        Member,
        Refused("recovery of a lost quorum is not in this version"),
        Switch,
        "force-new-cluster",
        "false",
        "Go on alone",
    ),
    flag(Cluster, Works, Urls, "initial-advertise-peer-urls", "http://localhost:2380", "Where peers reach this member"),
    flag(
        Cluster,
        Works,
        List,
        "initial-cluster",
        "",
        "NAME=URL of every member at the birth of the cluster; this one alone when not given",
    ),
    flag(
        Cluster,
        Works,
        Text,
        "initial-cluster-token",
        "etcd-cluster",
        "Tells clusters of equal addresses apart; ids are made of it",
    ),
    flag(Cluster, Works, Text, "initial-cluster-state", "new", "new, or existing to join"),
    flag(Clients, Works, Urls, "listen-client-urls", "http://localhost:2379", "Where to listen for clients"),
    flag(Clients, Works, Urls, "advertise-client-urls", "http://localhost:2379", "Where clients reach this member"),
    flag(
        Clients,
        Works,
        Urls,
        "listen-client-http-urls",
        "",
        "Where to listen for HTTP; listen-client-urls then speak gRPC only",
    ),
    flag(
        Clients,
        Works,
        Urls,
        "listen-metrics-urls",
        "",
        "Where to answer /metrics, /health, /livez and /readyz besides",
    ),
    flag(Clients, Works, Number, "max-concurrent-streams", "4294967295", "Requests on one connection"),
    flag(
        Clients,
        Works,
        Duration,
        "grpc-keepalive-min-time",
        "5s",
        "How often a client may ask whether the member lives; one that asks more often is cut off. 0s is 5m",
    ),
    flag(
        Clients,
        Works,
        Duration,
        "grpc-keepalive-interval",
        "2h",
        "How long a connection may be silent before it is asked whether it lives",
    ),
    flag(Clients, Works, Duration, "grpc-keepalive-timeout", "20s", "How long it may take to answer that"),
    flag(Clients, Works, Switch, "socket-reuse-port", "false", "Other processes may listen at the same addresses"),
    flag(Clients, Works, List, "host-whitelist", "*", "Names by which plain HTTP may address this member"),
    flag(Clients, Works, List, "cors", "*", "Origins of web pages that may ask over HTTP"),
    flag(Clients, Works, Switch, "enable-grpc-gateway", "true", "Whether to answer JSON over HTTP below /v3/"),
    flag(
        Clients,
        Works,
        Duration,
        "watch-progress-notify-interval",
        "10m",
        "How often idle watchers are told the revision",
    ),
    flag(Security, Works, Text, "cert-file", "", "Certificate that clients are shown"),
    flag(Security, Works, Text, "key-file", "", "Its private key"),
    flag(Security, Works, Text, "trusted-ca-file", "", "Authorities whose certificates clients must show"),
    flag(Security, Works, Switch, "client-cert-auth", "false", "Clients must show a certificate"),
    flag(
        Security,
        Works,
        Text,
        "auth-token",
        "simple",
        "What stands for a user who has shown a password: simple, jwt with its options, or nothing",
    ),
    flag(
        Security,
        Works,
        Count,
        "auth-token-ttl",
        "300",
        "Seconds after which a token that is not used stands for nobody",
    ),
    flag(Security, Works, Count, "bcrypt-cost", "10", "Rounds of bcrypt for new passwords, as the power of two"),
    flag(Security, Works, Text, "client-crl-file", "", "Certificates that were revoked"),
    flag(
        Security,
        Works,
        List,
        "client-cert-allowed-cn",
        "",
        "Common names that clients' certificates must have; one is enough. In etcd's file, and no flag of etcd's",
    ),
    flag(
        Security,
        Works,
        List,
        "client-cert-allowed-hostname",
        "",
        "Names that clients' certificates must have; one is enough",
    ),
    flag(Security, Works, List, "cipher-suites", "", "Cipher suites of TLS 1.2, by the names that Go has for them"),
    flag(Security, Works, Text, "tls-min-version", "TLS1.2", "TLS1.2 or TLS1.3"),
    flag(Security, Works, Text, "tls-max-version", "", "TLS1.2 or TLS1.3"),
    flag(Security, Works, Switch, "auto-tls", "false", "Make a certificate in DATA-DIR/fixtures/client and show that"),
    flag(
        Security,
        Works,
        Number,
        "self-signed-cert-validity",
        "1",
        "For how many years a certificate of --auto-tls is valid",
    ),
    flag(
        Limits,
        Works,
        Number,
        "quota-backend-bytes",
        "0",
        "Bytes of the state file at which writes are refused; 0 is 2 GiB, negative no limit",
    ),
    flag(Limits, Works, Number, "max-request-bytes", "1572864", "Bytes of a request"),
    flag(Limits, Works, Number, "max-txn-ops", "128", "Operations in a transaction"),
    flag(Limits, Works, Number, "heartbeat-interval", "100", "Milliseconds between two heartbeats"),
    flag(
        Limits,
        Works,
        Number,
        "election-timeout",
        "1000",
        "Milliseconds without a leader before an election; leases are at least 1.5 times as long",
    ),
    flag(
        Limits,
        Works,
        Duration,
        "backend-batch-interval",
        "0s",
        "How long an applied change may wait for the state file; 0 is 500ms. The log is synced at once whatever this says",
    ),
    flag(Limits, Works, Duration, "warning-unary-request-duration", "300ms", "Requests that take longer are logged"),
    flag(
        Limits,
        Works,
        Duration,
        "warning-apply-duration",
        "100ms",
        "Changes and reads that take longer once it is their turn are logged",
    ),
    flag(
        Limits,
        Works,
        Number,
        "bootstrap-defrag-threshold-megabytes",
        "0",
        "Free room in the state file at which a start defragments it; 0 never",
    ),
    flag(
        Limits,
        Works,
        Duration,
        "corrupt-check-time",
        "0s",
        "Between two times that everything stored is read and checked; 0 a day",
    ),
    flag(
        Limits,
        Works,
        Duration,
        "compact-hash-check-time",
        "1m",
        "With the gate CompactHashCheck: how soon after a compaction everything stored is read and checked",
    ),
    flag(Compaction, Works, Text, "auto-compaction-mode", "periodic", "periodic or revision"),
    flag(
        Compaction,
        Works,
        Text,
        "auto-compaction-retention",
        "0",
        "What is kept: hours or a time, or a number of revisions; 0 compacts nothing",
    ),
    flag(Observation, Works, Text, "log-level", "info", "debug, info, warn, error, panic or fatal"),
    flag(Observation, Works, Text, "log-format", "json", "json or console"),
    flag(
        Observation,
        Works,
        List,
        "log-outputs",
        "default",
        "stderr, stdout, or files to append to; default is stderr alone",
    ),
    flag(Observation, Works, Switch, "enable-log-rotation", "false", "Put the log's file aside when it is large"),
    flag(
        Observation,
        Works,
        Text,
        "log-rotation-config-json",
        "",
        "JSON with maxsize (MiB, 100), maxage (days) and maxbackups of the files put aside; 0 for no limit",
    ),
    flag(Observation, Works, Text, "metrics", "basic", "basic, or extensive with how long calls take"),
    flag(
        Observation,
        Works,
        Text,
        "feature-gates",
        "",
        "NAME=true|false of etcd's feature gates; CompactHashCheck and InitialCorruptCheck have what is stored checked, the others do nothing here",
    ),
    // What a cluster of more than one needs.
    flag(Cluster, Peers, Urls, "listen-peer-urls", "http://localhost:2380", "Where to listen for peers"),
    flag(Cluster, Peers, Text, "peer-cert-file", "", "Certificate that peers are shown"),
    flag(Cluster, Peers, Text, "peer-key-file", "", "Its private key"),
    flag(Cluster, Peers, Text, "peer-trusted-ca-file", "", "Authorities whose certificates peers must show"),
    flag(Cluster, Peers, Switch, "peer-client-cert-auth", "false", "Peers must show a certificate"),
    flag(Cluster, Peers, Text, "peer-client-cert-file", "", "Certificate that this member shows to peers"),
    flag(Cluster, Peers, Text, "peer-client-key-file", "", "Its private key"),
    flag(Cluster, Peers, Text, "peer-crl-file", "", "Certificates that were revoked"),
    flag(Cluster, Peers, List, "peer-cert-allowed-cn", "", "Names that peers' certificates must have"),
    flag(Cluster, Peers, List, "peer-cert-allowed-hostname", "", "Host names that peers' certificates must have"),
    flag(
        Cluster,
        Peers,
        Switch,
        "peer-skip-client-san-verification",
        "false",
        "Do not compare peers' addresses with their certificates",
    ),
    flag(Cluster, Peers, Switch, "peer-auto-tls", "false", "Make certificates for peers"),
    flag(
        Cluster,
        Peers,
        Switch,
        "strict-reconfig-check",
        "true",
        "Refuse changes of the membership that would lose the quorum",
    ),
    flag(Cluster, Peers, Switch, "pre-vote", "true", "Ask before standing for election"),
    flag(Cluster, Peers, Count, "snapshot-catchup-entries", "5000", "Entries kept for slow followers"),
    flag(Cluster, Peers, Count, "max-learners", "1", "Members that do not vote"),
    flag(Cluster, Peers, Switch, "initial-election-tick-advance", "true", "Stand for the first election early"),
    flag(Cluster, Peers, Duration, "raft-read-timeout", "5s", "How long a peer may be silent"),
    flag(Cluster, Peers, Duration, "raft-write-timeout", "5s", "How long a peer may take to read"),
    // What has no meaning here.
    flag(Without, None(LOG_CUT), Count, "snapshot-count", "10000", ""),
    flag(Without, None(LOG_CUT), Count, "max-wals", "5", ""),
    flag(Without, None(LOG_CUT), Count, "max-snapshots", "5", ""),
    flag(Without, None("what is written at once depends on how much there is"), Number, "backend-batch-limit", "0", ""),
    flag(Without, None("there is no freelist"), Text, "backend-bbolt-freelist-type", "map", ""),
    flag(Without, None("deletion gives way to requests by itself"), Number, "compaction-batch-limit", "1000", ""),
    flag(Without, None("deletion gives way to requests by itself"), Duration, "compaction-sleep-interval", "10ms", ""),
    flag(Without, None("this version is not downgraded"), Duration, "downgrade-check-time", "5s", ""),
    flag(Without, None("memory is not locked"), Switch, "memory-mlock", "false", ""),
    flag(Without, None("what is acknowledged is always synced"), Switch, "unsafe-no-fsync", "false", ""),
    flag(Without, None("this member asks nothing of itself over the network"), Text, "client-cert-file", "", ""),
    flag(Without, None("this member asks nothing of itself over the network"), Text, "client-key-file", "", ""),
    flag(Without, None(GO), Switch, "enable-pprof", "false", ""),
    flag(Without, None("there is one logger"), Text, "logger", "zap", ""),
    flag(Without, None("listeners take their address again at once"), Switch, "socket-reuse-address", "false", ""),
    flag(Without, None(TRACES), Switch, "enable-distributed-tracing", "false", ""),
    flag(Without, None(TRACES), Text, "distributed-tracing-address", "localhost:4317", ""),
    flag(Without, None(TRACES), Text, "distributed-tracing-service-name", "etcd", ""),
    flag(Without, None(TRACES), Text, "distributed-tracing-instance-id", "", ""),
    flag(Without, None(TRACES), Count, "distributed-tracing-sampling-rate", "0", ""),
    flag(Without, Refused(DISCOVERY), Text, "discovery", "", ""),
    flag(Without, Refused(DISCOVERY), Text, "discovery-srv", "", ""),
    flag(Without, Refused(DISCOVERY), Text, "discovery-srv-name", "", ""),
    flag(Without, Refused(DISCOVERY), Text, "discovery-token", "", ""),
    flag(Without, Refused(DISCOVERY), Text, "discovery-endpoints", "", ""),
    flag(Without, Refused(DISCOVERY), Text, "discovery-proxy", "", ""),
    flag(Without, None(DISCOVERY), Duration, "discovery-dial-timeout", "2s", ""),
    flag(Without, None(DISCOVERY), Duration, "discovery-request-timeout", "5s", ""),
    flag(Without, None(DISCOVERY), Duration, "discovery-keepalive-time", "2s", ""),
    flag(Without, None(DISCOVERY), Duration, "discovery-keepalive-timeout", "6s", ""),
    flag(Without, None(DISCOVERY), Switch, "discovery-insecure-transport", "true", ""),
    flag(Without, None(DISCOVERY), Switch, "discovery-insecure-skip-tls-verify", "false", ""),
    flag(Without, None(DISCOVERY), Text, "discovery-cert", "", ""),
    flag(Without, None(DISCOVERY), Text, "discovery-key", "", ""),
    flag(Without, None(DISCOVERY), Text, "discovery-cacert", "", ""),
    flag(Without, None(DISCOVERY), Text, "discovery-user", "", ""),
    flag(Without, None(DISCOVERY), Text, "discovery-password", "", ""),
    flag(Without, None(DISCOVERY), Text, "discovery-fallback", "exit", ""),
    flag(Without, Refused("this is no proxy"), Text, "proxy", "off", ""),
    flag(Without, None(OLD), Number, "proxy-failure-wait", "5000", ""),
    flag(Without, None(OLD), Number, "proxy-refresh-interval", "30000", ""),
    flag(Without, None(OLD), Number, "proxy-dial-timeout", "1000", ""),
    flag(Without, None(OLD), Number, "proxy-write-timeout", "5000", ""),
    flag(Without, None(OLD), Number, "proxy-read-timeout", "0", ""),
    flag(Without, None("the API of etcd 2 is gone"), Switch, "enable-v2", "false", ""),
    flag(Without, None("the API of etcd 2 is gone"), Text, "v2-deprecation", "", ""),
    flag(Without, None("the API of etcd 2 is gone"), Text, "experimental-enable-v2v3", "", ""),
    flag(Without, None(OLD), Switch, "experimental-enable-lease-checkpoint-persist", "false", ""),
    flag(Without, None(OLD), Text, "experimental-backend-bbolt-freelist-type", "", ""),
    flag(Without, None(OLD), Number, "experimental-wait-cluster-ready-timeout", "5", ""),
    flag(Without, None(IGNORED), Text, "cluster-active-size", "", ""),
    flag(Without, None(IGNORED), Text, "cluster-remove-delay", "", ""),
    flag(Without, None(IGNORED), Text, "cluster-sync-interval", "", ""),
    flag(Without, None(IGNORED), Text, "config", "", ""),
    flag(Without, None(IGNORED), Switch, "force", "false", ""),
    flag(Without, None(IGNORED), Text, "max-result-buffer", "", ""),
    flag(Without, None(IGNORED), Text, "max-retry-attempts", "", ""),
    flag(Without, None(IGNORED), Text, "peer-heartbeat-interval", "", ""),
    flag(Without, None(IGNORED), Text, "peer-election-timeout", "", ""),
    flag(Without, None(IGNORED), Text, "retry-interval", "", ""),
    flag(Without, None(IGNORED), Switch, "snapshot", "false", ""),
    flag(Without, None(IGNORED), Switch, "v", "false", ""),
    flag(Without, None(IGNORED), Switch, "vv", "false", ""),
];

/// What flags were called in earlier versions of etcd.
pub const ONCE_EXPERIMENTAL: &[&str] = &[
    "experimental-bootstrap-defrag-threshold-megabytes",
    "experimental-compact-hash-check-time",
    "experimental-compaction-batch-limit",
    "experimental-compaction-sleep-interval",
    "experimental-corrupt-check-time",
    "experimental-distributed-tracing-address",
    "experimental-distributed-tracing-instance-id",
    "experimental-distributed-tracing-sampling-rate",
    "experimental-distributed-tracing-service-name",
    "experimental-downgrade-check-time",
    "experimental-enable-distributed-tracing",
    "experimental-max-learners",
    "experimental-memory-mlock",
    "experimental-peer-skip-client-san-verification",
    "experimental-snapshot-catchup-entries",
    "experimental-warning-apply-duration",
    "experimental-warning-unary-request-duration",
    "experimental-watch-progress-notify-interval",
];

/// One of etcd's feature gates.
pub struct Gate {
    /// Its name.
    pub name: &'static str,
    /// The switch that it was before; empty when it was none.
    pub switch: &'static str,
    /// How far it has come in etcd 3.6: one that is BETA is on when nothing is said.
    pub stage: &'static str,
}

const fn alpha(name: &'static str, switch: &'static str) -> Gate {
    Gate { name, switch, stage: "ALPHA" }
}

const fn beta(name: &'static str, switch: &'static str) -> Gate {
    Gate { name, switch, stage: "BETA" }
}

/// etcd's feature gates.
pub const GATES: &[Gate] = &[
    alpha("AllAlpha", ""),
    beta("AllBeta", ""),
    alpha("CompactHashCheck", "experimental-compact-hash-check-enabled"),
    beta("FastLeaseKeepAlive", ""),
    alpha("InitialCorruptCheck", "experimental-initial-corrupt-check"),
    alpha("LeaseCheckpoint", "experimental-enable-lease-checkpoint"),
    alpha("LeaseCheckpointPersist", ""),
    alpha("PriorityRequest", ""),
    alpha("SetMemberLocalAddr", "experimental-set-member-localaddr"),
    alpha("StopGRPCServiceOnDefrag", "experimental-stop-grpc-service-on-defrag"),
    beta("TxnModeWriteWithSharedBuffer", "experimental-txn-mode-write-with-shared-buffer"),
];

/// Those that do something here.
pub const WORKING_GATES: &[&str] = &["CompactHashCheck", "InitialCorruptCheck"];

/// The flag of this name, or of which this is an earlier one.
pub fn find(name: &str) -> Option<&'static Flag> {
    let known = |name: &str| FLAGS.iter().find(|flag| flag.name == name);
    known(name).or_else(|| {
        let name = name.strip_prefix("experimental-").filter(|_| ONCE_EXPERIMENTAL.contains(&name))?;
        known(name)
    })
}

/// The feature gate that a switch became.
pub fn gate(name: &str) -> Option<&'static str> {
    let gate = GATES.iter().find(|gate| !gate.switch.is_empty() && gate.switch == name);
    gate.map(|gate| gate.name)
}

/// Every name that may be given: those of flags, their earlier ones, and switches that became gates.
pub fn names() -> impl Iterator<Item = &'static str> {
    let switches = GATES.iter().map(|gate| gate.switch).filter(|switch| !switch.is_empty());
    FLAGS.iter().map(|flag| flag.name).chain(ONCE_EXPERIMENTAL.iter().copied()).chain(switches)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn names_are_there_once_and_lead_to_their_flag() {
        let all: Vec<&str> = names().collect();
        assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), all.len());
        for name in &all {
            assert!(find(name).is_some() || gate(name).is_some(), "{name}");
        }
        assert_eq!(find("experimental-watch-progress-notify-interval").unwrap().name, "watch-progress-notify-interval");
        assert!(find("experimental-name").is_none() && find("Name").is_none());
    }

    #[test]
    fn what_does_something_says_what() {
        for flag in FLAGS {
            let says = !flag.help.is_empty() || matches!(flag.effect, None(_) | Refused(_));
            assert!(says && (flag.shape != Switch || ["true", "false"].contains(&flag.default)), "{}", flag.name);
        }
    }
}
