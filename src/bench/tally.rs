//! How long things took and what went wrong: counted while the run goes on, summed up at its end.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hdrhistogram::Histogram;

use crate::base::error::Error;

/// The longest latency that is told apart from longer ones, in nanoseconds.
const LATENCY_MAX_NS: u64 = 600_000_000_000;
/// Digits that a latency keeps.
const DIGITS: u8 = 3;
/// Bars of a histogram end at 1, 2 and 5 times a power of ten; the first, in nanoseconds.
const FIRST_BAR_NS: u64 = 10_000;

/// What was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Operation {
    Event,
    Put,
    Txn,
    Get,
    List,
    Create,
    Update,
    Delete,
    Grant,
    KeepAlive,
    Revoke,
    Progress,
}

impl Operation {
    fn name(self) -> &'static str {
        match self {
            Operation::Event => "event",
            Operation::Put => "put",
            Operation::Txn => "txn",
            Operation::Get => "get",
            Operation::List => "list",
            Operation::Create => "create",
            Operation::Update => "update",
            Operation::Delete => "delete",
            Operation::Grant => "grant",
            Operation::KeepAlive => "keep_alive",
            Operation::Revoke => "revoke",
            Operation::Progress => "progress",
        }
    }

    /// Whether a client asked for it and took a turn for that.
    fn is_request(self) -> bool {
        !matches!(self, Operation::Event | Operation::Progress)
    }
}

/// Everything of one kind.
#[derive(Clone, Debug, PartialEq)]
pub struct Series {
    /// `put`, `get`, `event` and so on.
    pub name: &'static str,
    /// How many.
    pub count: u64,
    /// How many in a second, until the last.
    pub per_s: f64,
    /// The mean.
    pub mean: Duration,
    /// Half of all took at most so long.
    pub p50: Duration,
    /// Nine in ten.
    pub p90: Duration,
    /// 99 in a hundred.
    pub p99: Duration,
    /// 999 in a thousand.
    pub p999: Duration,
    /// The longest.
    pub max: Duration,
}

/// One bar of a histogram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bar {
    /// Latencies up to here, and longer than the bar before.
    pub up_to: Duration,
    /// How many.
    pub count: u64,
}

/// Takes notes. Clients are spread over shards, as many as there are threads, so that none waits for another.
#[derive(Debug)]
pub(super) struct Tally {
    shards: Vec<Mutex<Notes>>,
}

/// The notes of one shard, or of all.
#[derive(Debug, Default)]
pub(super) struct Notes {
    kinds: BTreeMap<Operation, Kind>,
    errors: BTreeMap<String, u64>,
    first_error: Option<Error>,
}

#[derive(Debug)]
struct Kind {
    latencies: Histogram<u64>,
    /// When the last was done.
    until: Duration,
}

impl Default for Kind {
    fn default() -> Self {
        let latencies = Histogram::new_with_bounds(1, LATENCY_MAX_NS, DIGITS).expect("the bounds are constants");
        Kind { latencies, until: Duration::ZERO }
    }
}

impl Tally {
    pub(super) fn new(shards: usize) -> Self {
        Tally { shards: (0..shards.max(1)).map(|_| Mutex::default()).collect() }
    }

    /// Where the `n`-th client takes its notes.
    pub(super) fn shard(&self, n: usize) -> MutexGuard<'_, Notes> {
        self.shards[n % self.shards.len()].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Everything. Takes the first error with it.
    pub(super) fn sum(&self) -> Notes {
        let mut sum = Notes::default();
        for n in 0..self.shards.len() {
            let mut notes = self.shard(n);
            for (operation, kind) in &notes.kinds {
                let all = sum.kinds.entry(*operation).or_default();
                all.latencies.add(&kind.latencies).expect("all have the same bounds");
                all.until = all.until.max(kind.until);
            }
            notes.errors.iter().for_each(|(what, count)| *sum.errors.entry(what.clone()).or_default() += count);
            sum.first_error = sum.first_error.take().or_else(|| notes.first_error.take());
        }
        sum
    }
}

impl Notes {
    /// Something that began at `at` was done at `now`.
    pub(super) fn done(&mut self, operation: Operation, at: Duration, now: Duration) {
        self.took(operation, now.saturating_sub(at), now);
    }

    /// Something that took so long was done at `now`.
    pub(super) fn took(&mut self, operation: Operation, latency: Duration, now: Duration) {
        let kind = self.kinds.entry(operation).or_default();
        kind.latencies.saturating_record(u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX));
        kind.until = kind.until.max(now);
    }

    /// So many things went wrong, for this reason; `told` is what the cluster said.
    pub(super) fn failed(&mut self, what: &str, count: u64, told: impl FnOnce() -> Error) {
        if count > 0 {
            *self.errors.entry(what.to_owned()).or_default() += count;
            if self.first_error.is_none() {
                self.first_error = Some(told());
            }
        }
    }

    /// How many requests were answered well, and when the last was.
    pub(super) fn requests(&self) -> (u64, Duration) {
        let requests = self.kinds.iter().filter(|(operation, _)| operation.is_request()).map(|(_, kind)| kind);
        requests.fold((0, Duration::ZERO), |(count, until), kind| (count + kind.latencies.len(), until.max(kind.until)))
    }

    /// All series; that of `main` stands first.
    pub(super) fn series(&self, main: Operation) -> Vec<Series> {
        let others = self.kinds.iter().filter(|(operation, _)| **operation != main);
        let all = self.kinds.get_key_value(&main).into_iter().chain(others);
        all.map(|(operation, kind)| kind.series(*operation)).collect()
    }

    /// How the latencies of `main` are spread, from the first bar to the last.
    pub(super) fn histogram(&self, main: Operation) -> Vec<Bar> {
        self.kinds.get(&main).map_or_else(Vec::new, Kind::bars)
    }

    pub(super) fn errors(self) -> (BTreeMap<String, u64>, Option<Error>) {
        (self.errors, self.first_error)
    }
}

impl Kind {
    fn series(&self, operation: Operation) -> Series {
        let at = |quantile| Duration::from_nanos(self.latencies.value_at_quantile(quantile));
        let count = self.latencies.len();
        Series {
            name: operation.name(),
            count,
            per_s: rate(count, self.until),
            mean: Duration::from_secs_f64(self.latencies.mean() / 1e9),
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p999: at(0.999),
            max: Duration::from_nanos(self.latencies.max()),
        }
    }

    fn bars(&self) -> Vec<Bar> {
        let mut bars: Vec<Bar> = vec![];
        let mut ends = [1, 2, 5].into_iter().cycle();
        let mut decade = FIRST_BAR_NS;
        for step in self.latencies.iter_recorded() {
            while bars.last().is_none_or(|bar| bar.up_to < Duration::from_nanos(step.value_iterated_to())) {
                let end = ends.next().expect("it goes round");
                bars.push(Bar { up_to: Duration::from_nanos(end * decade), count: 0 });
                decade *= if end == 5 { 10 } else { 1 };
            }
            bars.last_mut().expect("one was pushed").count += step.count_at_value();
        }
        let first = bars.iter().position(|bar| bar.count > 0).unwrap_or(0);
        bars.split_off(first)
    }
}

/// So many in a second.
pub(super) fn rate(count: u64, time: Duration) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
    let count = count as f64;
    if time.is_zero() { 0.0 } else { count / time.as_secs_f64() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::error::Kind;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn shards_sum_up() {
        let tally = Tally::new(2);
        for n in 1..=1000 {
            let took = MS * u32::try_from(n).unwrap();
            tally.shard(n).took(Operation::Put, took, 2 * took);
        }
        tally.shard(0).took(Operation::Event, MS, 10 * MS);
        let told = |text: &'static str| move || Error::new(Kind::Unavailable, text).hint("wait");
        tally.shard(1).failed("Unavailable", 2, told("the second shard"));
        tally.shard(0).failed("Unavailable", 1, told("the first shard"));
        tally.shard(0).failed("Unavailable", 1, told("later"));
        tally.shard(0).failed("not_sent", 0, told("never"));
        let sum = tally.sum();
        assert_eq!(sum.requests(), (1000, 2000 * MS));
        let series = sum.series(Operation::Put);
        assert_eq!([series[0].name, series[1].name], ["put", "event"]);
        let put = &series[0];
        let near = |value: Duration, ms: u32| value.abs_diff(MS * ms) <= MS;
        assert!(near(put.p50, 500) && near(put.p90, 900) && near(put.p99, 990) && near(put.p999, 999), "{put:?}");
        assert!(near(put.mean, 500) && near(put.max, 1000) && put.count == 1000, "{put:?}");
        assert!((put.per_s - 500.0).abs() < 1.0, "{put:?}");
        let (errors, first) = sum.errors();
        assert_eq!(errors, BTreeMap::from([("Unavailable".to_owned(), 4)]));
        assert_eq!(first.unwrap().chain(), "the first shard");
    }

    #[test]
    fn bars_hold_everything_once() {
        let mut notes = Notes::default();
        let latencies = [5, 11, 12, 400, 900, 70_000].map(Duration::from_micros);
        latencies.iter().for_each(|latency| notes.done(Operation::Get, Duration::ZERO, *latency));
        let bars = notes.histogram(Operation::Get);
        assert_eq!(bars.iter().map(|bar| bar.count).sum::<u64>(), 6);
        assert_eq!(bars[0], Bar { up_to: Duration::from_micros(10), count: 1 });
        assert_eq!(bars.last(), Some(&Bar { up_to: 100 * MS, count: 1 }));
        assert!(bars.is_sorted_by_key(|bar| bar.up_to));
        assert_eq!(Notes::default().histogram(Operation::Get), []);
        notes.took(Operation::Get, Duration::from_secs(10_000), MS);
        assert!(
            notes.series(Operation::Get)[0].max > Duration::from_secs(590),
            "longer ones are as long as the longest"
        );
    }
}
