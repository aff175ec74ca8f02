//! The clients of a run: what each of them has, and how they all come to an end.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tonic::{Response, Status};

use crate::api::etcdserverpb::kv_client::KvClient;
use crate::base::error::{Error, Kind, Result};
use crate::base::rng::Seeded;
use crate::base::stop::Stop;
use crate::bench::pace::{BACKLOG_LIMIT, Pace, Turn};
use crate::bench::site::{Site, in_time};
use crate::bench::tally::{Operation, Tally, rate};
use crate::bench::{Plan, Report};
use crate::client::line::{Line, refused};

/// How long a client waits after an answer that is none: a cluster that is down is not asked a million times a second.
const PAUSE: Duration = Duration::from_millis(20);
/// How long answers are still waited for after a signal to stop.
const STOP_LIMIT: Duration = Duration::from_secs(5);

/// Everything that clients share.
#[derive(Debug)]
pub(super) struct Crew {
    pub(super) site: Arc<Site>,
    pub(super) pace: Arc<Pace>,
    pub(super) tally: Tally,
    main: Operation,
    clients: usize,
    key_space: u64,
    seed: u64,
    stop: Stop,
}

/// One that asks.
#[derive(Debug)]
pub(super) struct Client {
    /// Which, from 0.
    pub(super) n: usize,
    pub(super) kv: KvClient<Line>,
    pub(super) rng: Seeded,
    pub(super) crew: Arc<Crew>,
}

impl Crew {
    /// Those of `plan`; the run begins.
    pub(super) fn gather(site: &Arc<Site>, plan: &Plan, stop: &Stop) -> Result<Arc<Self>> {
        Ok(Arc::new(Crew {
            site: Arc::clone(site),
            pace: Pace::begin(plan.end, plan.rate, plan.clients, stop)?,
            tally: Tally::new(plan.threads),
            main: plan.work.main(),
            clients: plan.clients,
            key_space: plan.key_space.max(1),
            seed: plan.seed,
            stop: stop.clone(),
        }))
    }

    /// Starts a client after the other, and waits until all have ended.
    pub(super) async fn work<F: Future<Output = ()> + Send + 'static>(
        self: &Arc<Self>,
        mut client: impl FnMut(Client) -> F,
    ) {
        let mut clients = JoinSet::new();
        for n in 0..self.clients {
            let rng = Seeded::new(self.seed.wrapping_add(1).wrapping_mul(n as u64 + 1));
            clients.spawn(client(Client { n, kv: self.site.kv(n), rng, crew: Arc::clone(self) }));
        }
        let mut all = std::pin::pin!(clients.join_all());
        tokio::select! {
            _ = &mut all => {}
            () = self.stop.stopped() => drop(tokio::time::timeout(STOP_LIMIT, all).await),
        }
    }

    /// What it came to; an error when nothing was answered well.
    pub(super) fn report(&self) -> Result<Report> {
        self.tally.shard(0).failed("not_sent", self.pace.not_sent(), not_sent);
        let notes = self.tally.sum();
        let (requests, elapsed) = notes.requests();
        let (series, histogram) = (notes.series(self.main), notes.histogram(self.main));
        let (errors, first_error) = notes.errors();
        let first_error = match first_error {
            Some(error) if requests == 0 => return Err(error.during("nothing was answered well")),
            first => first.map(|error| error.as_warning()),
        };
        let requests_per_s = rate(requests, elapsed);
        let prefix = self.site.prefix().to_owned();
        Ok(Report { prefix, elapsed, requests, requests_per_s, series, errors, first_error, histogram, left: None })
    }
}

fn not_sent() -> Error {
    let text = format!(
        "the cluster is so far behind the rate that requests were not even sent {BACKLOG_LIMIT:?} after the end"
    );
    Error::new(Kind::Unavailable, text).hint("ask for a lower --rate, or for more --clients")
}

impl Client {
    /// Waits for a turn; none when the run is over.
    pub(super) async fn turn(&self) -> Option<Turn> {
        self.crew.pace.turn().await
    }

    /// A key of the run, any.
    pub(super) fn any_key(&mut self) -> bytes::Bytes {
        self.crew.site.keys.key(self.rng.below(self.crew.key_space))
    }

    /// The key of a turn, where one comes after the other.
    pub(super) fn key_of(&self, turn: Turn) -> bytes::Bytes {
        self.crew.site.keys.key(turn.number % self.crew.key_space)
    }

    /// A value of the run, any.
    pub(super) fn any_value(&mut self) -> bytes::Bytes {
        self.crew.site.values.any(&mut self.rng)
    }

    /// Waits for an answer and notes how long it took since the turn, or what was wrong.
    pub(super) async fn ask<T>(
        &self,
        operation: Operation,
        turn: Turn,
        call: impl Future<Output = Result<Response<T>, Status>>,
    ) -> Option<T> {
        let status = match in_time(call).await {
            Ok(answer) => {
                self.crew.tally.shard(self.n).done(operation, turn.at, self.crew.pace.elapsed());
                return Some(answer.into_inner());
            }
            Err(status) => status,
        };
        self.failed(&format!("{:?}", status.code()), || refused(&status));
        tokio::time::sleep(PAUSE).await;
        None
    }

    /// Notes that something went wrong.
    pub(super) fn failed(&self, what: &str, told: impl FnOnce() -> Error) {
        self.crew.tally.shard(self.n).failed(what, 1, told);
    }

    /// Notes that a key was not as this client had left it, although nobody else writes it.
    pub(super) fn compare_failed(&self) {
        self.failed("compare_failed", || {
            Error::damaged("a key that one client alone writes was not as it had left it")
                .hint("an earlier answer may have been lost; otherwise check the cluster: `etcdctl endpoint hashkv --cluster`")
        });
    }
}
