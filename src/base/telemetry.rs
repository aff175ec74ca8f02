//! What a running member counts, and how it is told: Prometheus's text.
//!
//! The names are etcd's, and some of them break the rules of newer formats (a gauge that ends in `_total`), so the oldest
//! format is written, by these few lines. Counting is one atomic addition, for it happens on the way of every request.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// What only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// One more.
    pub fn increment(&self) {
        self.add(1);
    }

    /// So many more.
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    /// How many there were.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A number that is told anew from time to time.
#[derive(Debug, Default)]
pub struct Gauge(AtomicU64);

impl Gauge {
    /// From now on it is this.
    pub fn set(&self, n: u64) {
        self.0.store(n, Ordering::Relaxed);
    }

    /// What it was told last; 0 when nothing was.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// How often something took how long.
#[derive(Debug)]
pub struct Histogram {
    /// Upper ends of the buckets, in microseconds.
    bounds_us: Vec<u64>,
    /// One more than there are bounds.
    buckets: Vec<AtomicU64>,
    sum_us: AtomicU64,
}

impl Histogram {
    /// Buckets that end at these microseconds.
    pub fn of(bounds_us: Vec<u64>) -> Self {
        let buckets = (0..=bounds_us.len()).map(|_| AtomicU64::new(0)).collect();
        Histogram { bounds_us, buckets, sum_us: AtomicU64::new(0) }
    }

    /// So many buckets, the first up to `first_us` microseconds and each twice as long as the one before.
    pub fn doubling(first_us: u64, buckets: u32) -> Self {
        Histogram::of((0..buckets).map(|i| first_us << i).collect())
    }

    /// It took so long once.
    pub fn observe(&self, took: Duration) {
        let us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let bucket = self.bounds_us.partition_point(|bound| *bound < us);
        self.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        self.sum_us.fetch_add(us, Ordering::Relaxed);
    }

    /// How often.
    pub fn count(&self) -> u64 {
        self.buckets.iter().map(|bucket| bucket.load(Ordering::Relaxed)).sum()
    }
}

/// What a member counts of itself. It is raised where things happen and read by whoever is asked for metrics.
#[derive(Debug)]
pub struct Counters {
    /// Times that another member, or none, became the leader.
    pub leader_changes: Counter,
    /// Requests that were not agreed on.
    pub proposals_failed: Counter,
    /// Commands that were answered, and how many microseconds that took all of them together.
    pub answered: Counter,
    /// The microseconds.
    pub answered_us: Counter,
    /// How long the log took to be durable.
    pub log_sync: Histogram,
    /// Bytes that were appended to the log.
    pub log_bytes: Counter,
    /// How long changes took to be in the state file.
    pub flush: Histogram,
    /// How long defragmentation took.
    pub defragment: Histogram,
    /// Leases that were granted.
    pub leases_granted: Counter,
    /// Leases that were revoked, also at their end.
    pub leases_revoked: Counter,
    /// Leases whose time started again.
    pub leases_renewed: Counter,
    /// Leases that ended.
    pub leases_expired: Counter,
    /// Revisions that compaction deleted.
    pub compacted_revisions: Counter,
    /// Times that everything was read and was well.
    pub scrubs: Counter,
    /// Times that something was damaged.
    pub scrubs_failed: Counter,
    /// Bytes of messages that scrubs read.
    pub scrubbed_bytes: Counter,
    /// When the last one ended well, in milliseconds of Unix time.
    pub scrubbed_at_ms: Gauge,
}

impl Default for Counters {
    fn default() -> Self {
        Counters {
            leader_changes: Counter::default(),
            proposals_failed: Counter::default(),
            answered: Counter::default(),
            answered_us: Counter::default(),
            log_sync: Histogram::doubling(1_000, 14),
            log_bytes: Counter::default(),
            flush: Histogram::doubling(1_000, 14),
            defragment: Histogram::doubling(100_000, 13),
            leases_granted: Counter::default(),
            leases_revoked: Counter::default(),
            leases_renewed: Counter::default(),
            leases_expired: Counter::default(),
            compacted_revisions: Counter::default(),
            scrubs: Counter::default(),
            scrubs_failed: Counter::default(),
            scrubbed_bytes: Counter::default(),
            scrubbed_at_ms: Gauge::default(),
        }
    }
}

/// A page of metrics in the making.
#[derive(Debug, Default)]
pub struct Page {
    text: String,
}

impl Page {
    /// Opens the metric that the next samples belong to.
    pub fn metric(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    /// One of its samples.
    pub fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: f64) {
        let _ = writeln!(self.text, "{name}{} {value}", braced(labels));
    }

    /// A metric of one sample that only grows.
    pub fn counter(&mut self, name: &str, help: &str, value: u64) {
        self.metric(name, "counter", help);
        let _ = writeln!(self.text, "{name} {value}");
    }

    /// A metric of one sample that rises and falls.
    pub fn gauge(&mut self, name: &str, help: &str, value: f64) {
        self.metric(name, "gauge", help);
        self.sample(name, &[], value);
    }

    /// The samples of a histogram.
    pub fn histogram(&mut self, name: &str, labels: &[(&str, &str)], histogram: &Histogram) {
        let mut count = 0;
        let ends = histogram.bounds_us.iter().map(|bound| seconds(*bound).to_string()).chain(["+Inf".to_owned()]);
        for (end, bucket) in ends.zip(&histogram.buckets) {
            count += bucket.load(Ordering::Relaxed);
            let labels: Vec<(&str, &str)> = labels.iter().copied().chain([("le", end.as_str())]).collect();
            let _ = writeln!(self.text, "{name}_bucket{} {count}", braced(&labels));
        }
        let (labels, sum) = (braced(labels), seconds(histogram.sum_us.load(Ordering::Relaxed)));
        let _ = writeln!(self.text, "{name}_sum{labels} {sum}\n{name}_count{labels} {count}");
    }

    /// The page.
    pub fn into_text(self) -> String {
        self.text
    }
}

#[expect(clippy::cast_precision_loss, reason = "a metric is a float")]
fn seconds(us: u64) -> f64 {
    us as f64 / 1e6
}

fn braced(labels: &[(&str, &str)]) -> String {
    if labels.is_empty() {
        return String::new();
    }
    let escaped = |value: &str| value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
    let pairs: Vec<String> = labels.iter().map(|(name, value)| format!("{name}=\"{}\"", escaped(value))).collect();
    format!("{{{}}}", pairs.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_histogram_counts_up_to_and_with_its_bounds() {
        let histogram = Histogram::doubling(1_000, 3);
        for us in [0, 1_000, 1_001, 4_000, 4_001, 60_000_000] {
            histogram.observe(Duration::from_micros(us));
        }
        assert_eq!(histogram.count(), 6);
        let mut page = Page::default();
        page.metric("t", "histogram", "h");
        page.histogram("t", &[("a", "b")], &histogram);
        let lines = [
            "# HELP t h",
            "# TYPE t histogram",
            "t_bucket{a=\"b\",le=\"0.001\"} 2",
            "t_bucket{a=\"b\",le=\"0.002\"} 3",
            "t_bucket{a=\"b\",le=\"0.004\"} 4",
            "t_bucket{a=\"b\",le=\"+Inf\"} 6",
            "t_sum{a=\"b\"} 60.010002",
            "t_count{a=\"b\"} 6",
        ];
        assert_eq!(page.into_text().lines().collect::<Vec<_>>(), lines);
    }

    #[test]
    fn labels_are_written_so_that_they_can_be_read() {
        let mut page = Page::default();
        page.sample("t", &[("a", "\"\\\n")], 1.5);
        page.counter("c", "h", 7);
        page.gauge("g", "h", -2.0);
        let text = "t{a=\"\\\"\\\\\\n\"} 1.5\n# HELP c h\n# TYPE c counter\nc 7\n# HELP g h\n# TYPE g gauge\ng -2\n";
        assert_eq!(page.into_text(), text);
    }
}
