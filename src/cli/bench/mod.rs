//! `bench`: load on a cluster, and what came of it as a table, a histogram, or JSON.

pub(crate) mod args;

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

use crate::base::error::Result;
use crate::base::stop::blocking;
use crate::base::units;
use crate::bench::{Bar, End, Plan, Report, Series, run};
use crate::cli::bench::args::Bench;
use crate::cli::output::{facts, table};
use crate::cli::run::{Context, Ended};
use crate::cli::target;
use crate::client::options::Options;

/// Signs in the longest bar.
const BAR_SIGNS: u64 = 50;

/// What is shown.
#[derive(Serialize)]
struct Shown {
    workload: &'static str,
    endpoints: Vec<String>,
    prefix: String,
    clients: usize,
    connections: usize,
    threads: usize,
    rate: Option<u64>,
    key_bytes: usize,
    value_bytes: usize,
    key_space: u64,
    seed: u64,
    duration_s: f64,
    requests: u64,
    requests_per_s: f64,
    operations: Vec<Operation>,
    histogram: Vec<Bucket>,
    errors: BTreeMap<String, u64>,
    first_error: Option<String>,
    warnings: Vec<String>,
}

#[derive(Serialize)]
struct Operation {
    name: &'static str,
    count: u64,
    per_s: f64,
    mean_s: f64,
    p50_s: f64,
    p90_s: f64,
    p99_s: f64,
    p99_9_s: f64,
    max_s: f64,
}

#[derive(Serialize)]
struct Bucket {
    up_to_s: f64,
    count: u64,
}

pub(crate) async fn bench(args: Bench, context: &Context) -> Result<Ended> {
    let (plan, load) = args.plan();
    let options = target::reached(&load.endpoints, Options::default().stall)?;
    // What is wrong is said before what will be done.
    plan.check()?;
    let endpoints: Vec<String> = options.target()?.endpoints.iter().map(ToString::to_string).collect();
    context.output.remark(&announced(&plan, &endpoints));
    let (running, stop) = (plan.clone(), context.stop.clone());
    let report = blocking(move || run(&options, &running, &stop)).await?;
    let shown = Shown::new(&plan, endpoints, report);
    context.output.show("bench", &shown, || text(&shown))?;
    for warning in &shown.warnings {
        context.output.warn(warning);
    }
    Ok(if shown.warnings.is_empty() { Ended::Well } else { Ended::Warned })
}

fn announced(plan: &Plan, endpoints: &[String]) -> String {
    let end = match plan.end {
        End::Total(total) => format!("{} requests", units::count(total)),
        End::After(time) => units::duration(time),
    };
    let rate = plan.rate.map_or_else(|| "as fast as it answers".to_owned(), |rate| format!("{rate} due in a second"));
    let (clients, connections, endpoints) = (plan.clients, plan.connections, endpoints.join(", "));
    format!("{} on {endpoints}: clients {clients}, connections {connections}, {end}, {rate}", plan.work.name())
}

impl Shown {
    fn new(plan: &Plan, endpoints: Vec<String>, report: Report) -> Self {
        let failed: u64 = report.errors.values().sum();
        let first = report.first_error.as_deref().unwrap_or_default();
        let errors = (failed > 0).then(|| format!("{} errors, first: {first}", units::count(failed)));
        Shown {
            workload: plan.work.name(),
            endpoints,
            prefix: report.prefix,
            clients: plan.clients,
            connections: plan.connections,
            threads: plan.threads,
            rate: plan.rate,
            key_bytes: plan.key_bytes,
            value_bytes: plan.value_bytes,
            key_space: plan.key_space,
            seed: plan.seed,
            duration_s: report.elapsed.as_secs_f64(),
            requests: report.requests,
            requests_per_s: report.requests_per_s,
            operations: report.series.iter().map(Operation::new).collect(),
            histogram: report.histogram.iter().map(Bucket::new).collect(),
            errors: report.errors,
            first_error: report.first_error,
            warnings: errors.into_iter().chain(report.left).collect(),
        }
    }
}

impl Operation {
    fn new(series: &Series) -> Self {
        let [mean_s, p50_s, p90_s, p99_s, p99_9_s, max_s] =
            [series.mean, series.p50, series.p90, series.p99, series.p999, series.max].map(|time| time.as_secs_f64());
        Operation {
            name: series.name,
            count: series.count,
            per_s: series.per_s,
            mean_s,
            p50_s,
            p90_s,
            p99_s,
            p99_9_s,
            max_s,
        }
    }

    fn row(&self) -> Vec<String> {
        let times = [self.mean_s, self.p50_s, self.p90_s, self.p99_s, self.p99_9_s, self.max_s];
        let head = [self.name.to_owned(), units::count(self.count), format!("{:.0}", self.per_s)];
        head.into_iter().chain(times.map(|time| format!("{:.3}", time * 1e3))).collect()
    }
}

impl Bucket {
    fn new(bar: &Bar) -> Self {
        Bucket { up_to_s: bar.up_to.as_secs_f64(), count: bar.count }
    }
}

/// For people.
fn text(shown: &Shown) -> String {
    let header = ["OPERATION", "COUNT", "PER S", "MEAN ms", "P50", "P90", "P99", "P99.9", "MAX"];
    let mut text = table(&header, &header[1..], shown.operations.iter().map(Operation::row).collect());
    let mut rows = vec![(
        "requests",
        format!(
            "{} in {:.2} s: {:.0} per second",
            units::count(shown.requests),
            shown.duration_s,
            shown.requests_per_s
        ),
    )];
    let errors: Vec<String> =
        shown.errors.iter().map(|(what, count)| format!("{what}: {}", units::count(*count))).collect();
    if !errors.is_empty() {
        rows.push(("errors", errors.join("\n")));
    }
    text.push('\n');
    text.push_str(&facts(&rows));
    if let Some(first) = shown.operations.first() {
        text.push_str(&format!("\n{} took at most\n", first.name));
        text.push_str(&bars(&shown.histogram));
    }
    text
}

/// A histogram for people.
fn bars(histogram: &[Bucket]) -> String {
    let most = histogram.iter().map(|bucket| bucket.count).max().unwrap_or(0).max(1);
    let bar = |bucket: &Bucket| {
        let signs = (bucket.count * BAR_SIGNS).div_ceil(most);
        let signs = "#".repeat(usize::try_from(signs).unwrap_or_default());
        let up_to = Duration::from_secs_f64(bucket.up_to_s);
        format!("{:>9}  {:>12}  {signs}", short(up_to), units::count(bucket.count)).trim_end().to_owned() + "\n"
    };
    histogram.iter().map(bar).collect()
}

/// A round time: `50 us`, `2 ms`, `1 s`.
fn short(time: Duration) -> String {
    match time.as_micros() {
        micros @ 0..1_000 => format!("{micros} us"),
        micros @ 1_000..1_000_000 => format!("{} ms", micros / 1_000),
        micros => format!("{} s", micros / 1_000_000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_are_as_long_as_they_count() {
        let bucket = |up_to_s, count| Bucket { up_to_s, count };
        let text = bars(&[bucket(0.000_05, 1), bucket(0.001, 1_000), bucket(0.002, 0), bucket(5.0, 500)]);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "    50 us             1  #");
        assert_eq!(lines[1], format!("     1 ms         1,000  {}", "#".repeat(50)));
        assert_eq!(lines[2], "     2 ms             0");
        assert_eq!(lines[3], format!("      5 s           500  {}", "#".repeat(25)));
    }
}
