//! Load on a cluster, and what the cluster made of it.
//!
//! Clients work side by side, each in a loop of its own: it waits for its turn (`pace`), asks, and has the time noted
//! (`tally`). In a closed loop a turn comes as soon as the answer before it, so so many requests are on their way as there
//! are clients, and the cluster sets the pace: that measures what it can do. In an open loop turns come at fixed moments
//! whatever the answers do, as users come, and time counts from the moment at which a request was due, even if no client
//! was free to send it then: a member that stalls for a second is charged with everything that came in that second. (To
//! count from the sending would leave out what a stall holds back: coordinated omission.)
//!
//! ```text
//!   Plan ──> site: connections, keys, values, what must be there before, what is cleared away after
//!             |
//!            crew: clients  <──turns── pace
//!             |   put · range · txn · watch · lease · kube      one file per kind of load
//!             v
//!            tally ──> Report: rate, percentiles, errors by code, histogram
//! ```
//!
//! Who measures takes processor time from the measured when both run on one machine: so all clients share one thread
//! unless more are asked for, many share a connection, and values are slices of one random block.
//!
//! Invariants:
//! - Everything is written below one prefix with a random name, and cleared away when the run ends, however it ends.
//! - A run with the same plan and seed asks for the same keys with the same sizes; what is random otherwise is the prefix.
//! - A call has a deadline, a backlog of turns has an end, and what was not sent is said.

mod crew;
mod keys;
mod kube;
mod lease;
mod pace;
mod put;
mod range;
mod site;
mod tally;
mod txn;
mod watch;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::base::error::{Error, IoContext as _, Kind, Result};
use crate::base::stop::Stop;
use crate::bench::crew::Crew;
use crate::bench::keys::KEY_BYTES_MIN;
use crate::bench::site::Site;
use crate::bench::tally::Operation;
use crate::bench::watch::Watchers;
use crate::client::options::Options;

pub use tally::{Bar, Series};

/// Below this everything is written.
pub const PREFIX: &str = "/holdfast-bench/";
/// How many clients share a connection unless something else is asked for. One connection is one task at either end: with
/// fewer clients on it both write small packets, with many more one core does all the framing.
pub const CLIENTS_PER_CONNECTION: usize = 64;
/// The most clients, connections and watchers.
pub const CLIENTS_MAX: usize = 100_000;
/// The largest value, in bytes: more than any member accepts unless it is told to.
pub const VALUE_BYTES_MAX: usize = 64 << 20;

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// Writes of single keys.
    Put {
        /// One key after the other instead of any.
        sequential: bool,
    },
    /// Reads: of single keys, or lists.
    Range {
        /// So many keys in one answer; single keys otherwise.
        limit: Option<u32>,
        /// Answered by the member that is asked, without asking the others.
        serializable: bool,
    },
    /// Transactions that set a key if it is as its client left it.
    Txn,
    /// Watchers on one prefix, with clients that write below it.
    Watch {
        /// How many.
        watchers: usize,
        /// How many share a stream.
        per_stream: usize,
    },
    /// Leases: granted, kept alive, revoked.
    Lease,
    /// What API servers of Kubernetes do.
    Kube {
        /// Watchers on all objects.
        watchers: usize,
        /// Objects in one page of a list.
        limit: u32,
    },
}

impl Work {
    /// How many streams of watchers it has.
    fn streams(&self) -> usize {
        match self {
            Work::Watch { watchers, per_stream } => watchers.div_ceil(*per_stream.max(&1)),
            Work::Kube { watchers, .. } => *watchers,
            Work::Put { .. } | Work::Range { .. } | Work::Txn | Work::Lease => 0,
        }
    }

    /// What it is about.
    fn main(&self) -> Operation {
        match self {
            Work::Put { .. } => Operation::Put,
            Work::Range { limit: None, .. } => Operation::Get,
            Work::Range { .. } => Operation::List,
            Work::Txn => Operation::Txn,
            Work::Watch { .. } => Operation::Event,
            Work::Lease => Operation::Grant,
            Work::Kube { .. } => Operation::Update,
        }
    }

    /// What it is called.
    pub fn name(&self) -> &'static str {
        match self {
            Work::Put { .. } => "put",
            Work::Range { .. } => "range",
            Work::Txn => "txn",
            Work::Watch { .. } => "watch",
            Work::Lease => "lease",
            Work::Kube { .. } => "kube",
        }
    }
}

/// When it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// After so many requests.
    Total(u64),
    /// After so long.
    After(Duration),
}

/// A run.
#[derive(Clone, Debug)]
pub struct Plan {
    /// What is measured.
    pub work: Work,
    /// How many ask at the same time.
    pub clients: usize,
    /// Over how many connections, spread over the endpoints.
    pub connections: usize,
    /// Threads of this program.
    pub threads: usize,
    /// When it ends.
    pub end: End,
    /// Requests due in a second; as fast as answers come otherwise.
    pub rate: Option<u64>,
    /// Length of a key, prefix and all, in bytes.
    pub key_bytes: usize,
    /// Length of a value, in bytes.
    pub value_bytes: usize,
    /// How many keys there are.
    pub key_space: u64,
    /// What is repeatable begins here.
    pub seed: u64,
    /// Leave what was written.
    pub keep: bool,
}

/// What a run came to.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// Everything was written below this.
    pub prefix: String,
    /// How long it took, without what came before and after.
    pub elapsed: Duration,
    /// Requests that were answered well.
    pub requests: u64,
    /// The same, in a second.
    pub requests_per_s: f64,
    /// Each kind of request, and events; the one that the run is about first.
    pub series: Vec<Series>,
    /// Requests that were not answered well, by gRPC's name of the code, and what else went wrong.
    pub errors: BTreeMap<String, u64>,
    /// What the first of them was told.
    pub first_error: Option<String>,
    /// How latencies of the first series are spread.
    pub histogram: Vec<Bar>,
    /// Why something is left below the prefix that should not be.
    pub left: Option<String>,
}

/// Runs a plan to its end, or until told to stop. Blocks; it has threads of its own.
pub fn run(options: &Options, plan: &Plan, stop: &Stop) -> Result<Report> {
    plan.check()?;
    let runtime = match plan.threads {
        1 => tokio::runtime::Builder::new_current_thread().enable_all().build(),
        threads => tokio::runtime::Builder::new_multi_thread().worker_threads(threads).enable_all().build(),
    };
    let runtime = runtime.during(|| "start the threads of the load".to_owned())?;
    let report = runtime.block_on(load(options, plan, stop));
    // Whoever is still waiting for an answer is not waited for.
    runtime.shutdown_background();
    report
}

async fn load(options: &Options, plan: &Plan, stop: &Stop) -> Result<Report> {
    let site = Arc::new(stop.or(Site::open(options, plan)).await?);
    let measured = measure(&site, plan, stop).await;
    // Also after an error and after a signal: the cluster is somebody's.
    let left = if plan.keep { None } else { site.clear().await.err() };
    match (measured, left) {
        (Ok(report), left) => Ok(Report { left: left.map(|error| error.as_warning()), ..report }),
        (Err(error), Some(_)) => Err(error.during(format!("what was written below {} is left there", site.prefix()))),
        (Err(error), None) => Err(error),
    }
}

async fn measure(site: &Arc<Site>, plan: &Plan, stop: &Stop) -> Result<Report> {
    let filled = stop.or(site.fill(plan)).await?;
    let watchers = stop.or(Watchers::open(site, &plan.work)).await?;
    let crew = Crew::gather(site, plan, stop)?;
    match plan.work {
        Work::Put { sequential } => crew.work(|client| put::client(client, sequential)).await,
        Work::Range { limit, serializable } => crew.work(|client| range::client(client, limit, serializable)).await,
        Work::Txn => crew.work(txn::client).await,
        Work::Lease => crew.work(lease::client).await,
        Work::Watch { .. } => watchers.work(&crew, put::watched).await,
        Work::Kube { limit, .. } => {
            let mut objects = kube::objects(filled, plan.clients).into_iter();
            let client = |client, acks| kube::client(client, objects.next().unwrap_or_default(), acks, limit);
            watchers.work(&crew, client).await;
        }
    }
    stop.check()?;
    crew.report()
}

impl Plan {
    /// What cannot be, said before anything is done.
    pub fn check(&self) -> Result<()> {
        let usage = |message: String, hint: &str| Err(Error::new(Kind::Usage, message).hint(hint));
        if self.connections > self.clients.max(self.work.streams()) {
            let message = format!("{} connections for {} clients", self.connections, self.clients);
            return usage(message, "a connection without a client does nothing: ask for fewer, or for more --clients");
        }
        if self.key_bytes < KEY_BYTES_MIN {
            let message = format!("keys of {} bytes have no room for the prefix", self.key_bytes);
            return usage(message, &format!("give a --key-size of at least {KEY_BYTES_MIN}"));
        }
        Ok(())
    }
}
