//! The flags of `bench`, and the plan that they make.

use std::num::NonZeroU64;
use std::time::Duration;

use clap::{Args, Subcommand};

use crate::base::error::{Error, Kind, Result};
use crate::base::units;
use crate::bench::{CLIENTS_MAX, CLIENTS_PER_CONNECTION, End, Plan, VALUE_BYTES_MAX, Work};
use crate::cli::args::Endpoints;

/// How long a run takes unless something else is said.
const DURATION_DEFAULT: Duration = Duration::from_secs(10);
/// What an object of Kubernetes weighs, more or less, in bytes.
const OBJECT_BYTES: usize = 2048;

/// What to measure.
#[derive(Debug, Subcommand)]
pub(crate) enum Bench {
    /// Write single keys
    #[command(
        after_help = "It writes into the cluster, below /holdfast-bench/, and deletes that afterwards.\n\nExamples:\n  \
                            holdfast bench put --endpoints https://10.0.0.1:2379 --clients 256 --duration 30s\n  \
                            holdfast bench put --rate 2000 --duration 1m      (open loop: latency at a given load)"
    )]
    Put {
        /// One key after the other instead of any
        #[arg(long)]
        sequential: bool,
        #[command(flatten)]
        load: Load,
    },
    /// Read single keys, or lists with --limit
    #[command(after_help = "It writes what it reads into the cluster first, below /holdfast-bench/, and deletes that \
                            afterwards.\n\nExamples:\n  holdfast bench range --clients 64\n  \
                            holdfast bench range --serializable --limit 500")]
    Range {
        /// Read lists of so many keys
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
        limit: Option<u32>,
        /// Let the member that is asked answer by itself
        #[arg(long)]
        serializable: bool,
        #[command(flatten)]
        load: Load,
    },
    /// Set a key of each client if it is as the client left it
    #[command(
        after_help = "It writes into the cluster, below /holdfast-bench/, and deletes that afterwards.\n\nExample:\n  \
                            holdfast bench txn --clients 64 --total 100000"
    )]
    Txn {
        #[command(flatten)]
        load: Load,
    },
    /// Watch a prefix while clients write below it
    #[command(
        after_help = "It writes into the cluster, below /holdfast-bench/, and deletes that afterwards.\n\nExample:\n  \
                            holdfast bench watch --watchers 100 --clients 8 --connections 10"
    )]
    Watch {
        /// How many watchers, spread over the connections
        #[arg(long, value_name = "N", default_value_t = 100, value_parser = some())]
        watchers: usize,
        /// How many watchers share a stream
        #[arg(long, value_name = "N", default_value_t = 1, value_parser = some())]
        watchers_per_stream: usize,
        #[command(flatten)]
        load: Load,
    },
    /// Grant leases, keep them alive, revoke them
    #[command(after_help = "It grants leases in the cluster and revokes them.\n\nExample:\n  \
                            holdfast bench lease --clients 64")]
    Lease {
        #[command(flatten)]
        load: Load,
    },
    /// Do what API servers of Kubernetes do: create, update, delete, list, watch
    #[command(
        after_help = "It writes into the cluster, below /holdfast-bench/, and deletes that afterwards. Values have \
                            2048 bytes unless --value-size says something else.\n\nExample:\n  \
                            holdfast bench kube --clients 32 --key-space 20000"
    )]
    Kube {
        /// How many watchers on all objects
        #[arg(long, value_name = "N", default_value_t = 8, value_parser = some())]
        watchers: usize,
        /// Objects in one page of a list
        #[arg(long, value_name = "N", default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..))]
        limit: u32,
        #[command(flatten)]
        load: Load,
    },
}

/// How much, over what, for how long.
#[derive(Clone, Debug, Args)]
pub(crate) struct Load {
    #[command(flatten)]
    pub(crate) endpoints: Endpoints,
    /// How many ask at the same time
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = some())]
    clients: usize,
    /// Over how many connections; one for every 64 clients unless said
    #[arg(long, value_name = "N", value_parser = some())]
    connections: Option<usize>,
    /// Threads of this program; more than one when the machine has processors to spare
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(1..=256))]
    threads: usize,
    /// End after so many requests
    #[arg(long, value_name = "N", conflicts_with = "duration")]
    total: Option<NonZeroU64>,
    /// End after so long; 10s unless said
    #[arg(long, value_name = "TIME", value_parser = some_time)]
    duration: Option<Duration>,
    /// Requests due in a second, whatever the answers do: time counts from when a request was due. As fast as answers come
    /// when not said
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    rate: Option<u64>,
    /// Length of a key, prefix and all
    #[arg(long, value_name = "BYTES", default_value_t = 48, value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(1..=65_536))]
    key_size: usize,
    /// Length of a value; 256 unless said
    #[arg(long, value_name = "BYTES", value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(0..=VALUE_BYTES_MAX as u64))]
    value_size: Option<usize>,
    /// How many keys there are
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..=100_000_000))]
    key_space: u64,
    /// Which keys and values come in which order
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Leave what was written in the cluster
    #[arg(long)]
    pub(crate) keep: bool,
}

fn some() -> clap::builder::RangedU64ValueParser<usize> {
    clap::builder::RangedU64ValueParser::new().range(1..=CLIENTS_MAX as u64)
}

impl Bench {
    /// What is measured, and with how much.
    pub(crate) fn plan(&self) -> (Plan, &Load) {
        let (work, load, value_bytes) = match self {
            Bench::Put { sequential, load } => (Work::Put { sequential: *sequential }, load, 256),
            Bench::Range { limit, serializable, load } => {
                (Work::Range { limit: *limit, serializable: *serializable }, load, 256)
            }
            Bench::Txn { load } => (Work::Txn, load, 256),
            Bench::Watch { watchers, watchers_per_stream, load } => {
                (Work::Watch { watchers: *watchers, per_stream: *watchers_per_stream }, load, 256)
            }
            Bench::Lease { load } => (Work::Lease, load, 256),
            Bench::Kube { watchers, limit, load } => {
                (Work::Kube { watchers: *watchers, limit: *limit }, load, OBJECT_BYTES)
            }
        };
        (load.plan(work, value_bytes), load)
    }
}

/// A time in which something can be measured.
fn some_time(text: &str) -> Result<Duration> {
    let time = units::parse_duration(text)?;
    if time.is_zero() {
        return Err(Error::new(Kind::Usage, "nothing can be measured in no time").hint("give a time, as in 10s"));
    }
    Ok(time)
}

impl Load {
    fn plan(&self, work: Work, value_bytes: usize) -> Plan {
        let after = || End::After(self.duration.unwrap_or(DURATION_DEFAULT));
        Plan {
            work,
            clients: self.clients,
            connections: self.connections.unwrap_or(self.clients.div_ceil(CLIENTS_PER_CONNECTION)),
            threads: self.threads,
            end: self.total.map_or_else(after, |total| End::Total(total.get())),
            rate: self.rate,
            key_bytes: self.key_size,
            value_bytes: self.value_size.unwrap_or(value_bytes),
            key_space: self.key_space,
            seed: self.seed,
            keep: self.keep,
        }
    }
}
