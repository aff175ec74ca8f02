//! What a running member counts, and how it is told: Prometheus's text.
//!
//! The names are etcd's, and some of them break the rules of newer formats (a gauge that ends in `_total`), so the oldest
//! format is written, by these few lines. Counting is one atomic addition, for it happens on the way of every request.

use std::fmt::Write as _;
use std::sync::OnceLock;
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

/// How often something took how long, or was how much.
#[derive(Debug)]
pub struct Histogram {
    /// Upper ends of the buckets, in whole numbers: microseconds, if it is about time.
    bounds: Vec<u64>,
    /// One more than there are bounds.
    buckets: Vec<AtomicU64>,
    sum: AtomicU64,
    /// So many of its numbers are one of the unit in which it is told.
    per_unit: f64,
}

/// The `buckets` bounds from `first` on, each twice the one before.
fn doubled(first: u64, buckets: u32) -> Vec<u64> {
    (0..buckets).map(|i| first << i).collect()
}

impl Histogram {
    fn with(bounds: Vec<u64>, per_unit: f64) -> Self {
        let buckets = (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect();
        Histogram { bounds, buckets, sum: AtomicU64::new(0), per_unit }
    }

    /// Of times, told in seconds. Buckets end at these microseconds.
    pub fn of(bounds_us: Vec<u64>) -> Self {
        Histogram::with(bounds_us, 1e6)
    }

    /// Of times, told in seconds. So many buckets, the first up to `first_us` microseconds and each twice as long as the one
    /// before.
    pub fn doubling(first_us: u64, buckets: u32) -> Self {
        Histogram::of(doubled(first_us, buckets))
    }

    /// The same, told in milliseconds.
    pub fn doubling_ms(first_us: u64, buckets: u32) -> Self {
        Histogram::with(doubled(first_us, buckets), 1e3)
    }

    /// Of numbers, the first bucket up to `first`.
    pub fn doubling_numbers(first: u64, buckets: u32) -> Self {
        Histogram::with(doubled(first, buckets), 1.0)
    }

    /// It took so long once.
    pub fn observe(&self, took: Duration) {
        self.observe_number(u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
    }

    /// It was so much once.
    pub fn observe_number(&self, number: u64) {
        let bucket = self.bounds.partition_point(|bound| *bound < number);
        self.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        self.sum.fetch_add(number, Ordering::Relaxed);
    }

    /// How often.
    pub fn count(&self) -> u64 {
        self.buckets.iter().map(|bucket| bucket.load(Ordering::Relaxed)).sum()
    }

    #[expect(clippy::cast_precision_loss, reason = "a metric is a float")]
    fn told(&self, number: u64) -> f64 {
        number as f64 / self.per_unit
    }
}

/// What is counted by name, in places that fill as names come. Clients may invent names: when all places are taken, what
/// else comes is counted together.
#[derive(Debug)]
pub struct Named<T> {
    places: Box<[OnceLock<(String, T)>]>,
    others: T,
}

impl<T: Default> Named<T> {
    /// With so many places.
    pub fn new(places: usize) -> Self {
        Named { places: (0..places).map(|_| OnceLock::new()).collect(), others: T::default() }
    }

    /// What is counted under this name.
    pub fn of(&self, name: &str) -> &T {
        for place in &self.places {
            let (taken, counted) = place.get_or_init(|| (name.to_owned(), T::default()));
            if taken == name {
                return counted;
            }
        }
        &self.others
    }

    /// What is counted of names that have no place.
    pub fn others(&self) -> &T {
        &self.others
    }

    /// The names that have one.
    pub fn all(&self) -> impl Iterator<Item = (&str, &T)> {
        self.places.iter().map_while(OnceLock::get).map(|(name, counted)| (name.as_str(), counted))
    }
}

/// How long commands of one kind took to be applied.
#[derive(Debug)]
pub struct Applied {
    /// Those that were carried out.
    pub well: Histogram,
    /// Those that were refused.
    pub refused: Histogram,
}

impl Default for Applied {
    fn default() -> Self {
        let [well, refused] = [(); 2].map(|()| Histogram::doubling(100, 20));
        Applied { well, refused }
    }
}

/// Kinds of commands that are told apart; more than there are.
const KINDS: usize = 32;

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
    /// Times that keys were read, were written, were deleted, and that several of these were done at once.
    pub ranges: Counter,
    /// Written.
    pub puts: Counter,
    /// Deleted.
    pub deletes: Counter,
    /// Several at once.
    pub txns: Counter,
    /// Bytes of keys and values that were written.
    pub put_bytes: Counter,
    /// How long commands took to be applied, by kind.
    pub applied: Named<Applied>,
    /// Requests that took longer than they should.
    pub slow_applies: Counter,
    /// Reads that nobody could agree on.
    pub read_indexes_failed: Counter,
    /// How long writing to the log took, without waiting for the disk.
    pub log_write: Histogram,
    /// 1 while the state file is written anew.
    pub defragmenting: Gauge,
    /// How long snapshots took to be sent.
    pub snapshot: Histogram,
    /// How long checksums over everything took.
    pub hash: Histogram,
    /// And those over the keys.
    pub hash_kv: Histogram,
    /// The lives that leases were given, in seconds.
    pub lease_ttls: Histogram,
    /// How long each step of a compaction through the index took.
    pub index_pause: Histogram,
    /// How long each removal of revisions from the state file took.
    pub removal_pause: Histogram,
    /// How long a compaction took until what it removed was gone.
    pub removal: Histogram,
    /// When the last one was over, in seconds of Unix time.
    pub removed_at_s: Gauge,
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
            ranges: Counter::default(),
            puts: Counter::default(),
            deletes: Counter::default(),
            txns: Counter::default(),
            put_bytes: Counter::default(),
            applied: Named::new(KINDS),
            slow_applies: Counter::default(),
            read_indexes_failed: Counter::default(),
            log_write: Histogram::doubling(1_000, 14),
            defragmenting: Gauge::default(),
            snapshot: Histogram::doubling(10_000, 17),
            hash: Histogram::doubling(10_000, 15),
            hash_kv: Histogram::doubling(10_000, 15),
            lease_ttls: Histogram::doubling_numbers(1, 24),
            index_pause: Histogram::doubling_ms(500, 14),
            removal_pause: Histogram::doubling_ms(1_000, 13),
            removal: Histogram::doubling_ms(100_000, 14),
            removed_at_s: Gauge::default(),
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
        let ends = histogram.bounds.iter().map(|bound| bucket_end(histogram.told(*bound))).chain(["+Inf".to_owned()]);
        for (end, bucket) in ends.zip(&histogram.buckets) {
            count += bucket.load(Ordering::Relaxed);
            let labels: Vec<(&str, &str)> = labels.iter().copied().chain([("le", end.as_str())]).collect();
            let _ = writeln!(self.text, "{name}_bucket{} {count}", braced(&labels));
        }
        let (labels, sum) = (braced(labels), histogram.told(histogram.sum.load(Ordering::Relaxed)));
        let _ = writeln!(self.text, "{name}_sum{labels} {sum}\n{name}_count{labels} {count}");
    }

    /// The page.
    pub fn into_text(self) -> String {
        self.text
    }
}

/// The end of a bucket as Go writes it. A label is a text: written otherwise it is another one.
fn bucket_end(end: f64) -> String {
    let scientific = format!("{end:e}");
    match scientific.split_once('e').and_then(|(digits, exponent)| Some((digits, exponent.parse::<i32>().ok()?))) {
        Some((digits, exponent @ 6..)) => format!("{digits}e+{exponent:02}"),
        _ => end.to_string(),
    }
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
    fn units_are_told_as_etcd_tells_them() {
        let ends = |histogram: &Histogram, of: &str| -> Vec<String> {
            let mut page = Page::default();
            page.histogram("t", &[], histogram);
            let text = page.into_text();
            let ends = text.lines().filter_map(|line| line.strip_prefix(of)?.split('"').next().map(str::to_owned));
            ends.collect()
        };
        let of = "t_bucket{le=\"";
        assert_eq!(ends(&Histogram::doubling_ms(500, 3), of), ["0.5", "1", "2", "+Inf"]);
        let numbers = ends(&Histogram::doubling_numbers(1, 24), of);
        assert_eq!(
            numbers[18..],
            ["262144", "524288", "1.048576e+06", "2.097152e+06", "4.194304e+06", "8.388608e+06", "+Inf"]
        );
        assert_eq!(ends(&Histogram::doubling(100, 20), of)[..2], ["0.0001", "0.0002"]);
        assert_eq!([1e6, 16_777_216.0, 999_999.0].map(bucket_end), ["1e+06", "1.6777216e+07", "999999"]);
    }

    #[test]
    fn names_that_clients_invent_take_no_more_places_than_there_are() {
        let named: Named<Counter> = Named::new(2);
        for name in ["a", "b", "a", "c", "d", "b", "a"] {
            named.of(name).increment();
        }
        let counted: Vec<(&str, u64)> = named.all().map(|(name, counter)| (name, counter.get())).collect();
        assert_eq!((counted, named.others().get()), (vec![("a", 3), ("b", 2)], 2));
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
