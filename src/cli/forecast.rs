//! `policy plan`: what a year under a policy comes to: what is kept, why, until when, and what that costs a month.

use serde::Serialize;

use crate::agent::kind::increments_max;
use crate::base::clock::rfc3339;
use crate::base::error::Result;
use crate::base::units::{self, MIB};
use crate::cli::args;
use crate::cli::output::table;
use crate::cli::run::{Context, Ended};
use crate::cli::target;
use crate::policy::simulate::{Forecast, S3_STANDARD, Sizes, forecast};
use crate::vault::manifest::OBJECT_STORED_BYTES_MAX;

/// Days that are simulated.
const DAYS: u32 = 365;
/// Billionths of a dollar.
const NANO: f64 = 1e9;

#[derive(Serialize)]
struct Shown {
    cluster: String,
    days: u32,
    end: String,
    made: usize,
    kept: usize,
    kept_full: usize,
    full_bytes: u64,
    incremental_bytes: u64,
    stored_bytes: u64,
    increments_bytes: u64,
    prices: &'static str,
    monthly: Monthly,
    points: Vec<Row>,
}

/// Dollars.
#[derive(Serialize)]
struct Monthly {
    total_usd: f64,
    storage_usd: f64,
    points_usd: f64,
    capture_usd: f64,
    reading_usd: f64,
}

#[derive(Serialize)]
struct Row {
    time: String,
    reasons: Vec<String>,
    until: Option<String>,
}

pub(crate) fn plan(args: &args::PolicyPlan, context: &Context) -> Result<Ended> {
    let policy = target::policy(&args.file)?;
    let (full, incremental) = (args.full_mib.saturating_mul(MIB), args.incremental_mib.saturating_mul(MIB));
    let sizes = Sizes { full, incremental, object: OBJECT_STORED_BYTES_MAX, row: increments_max(full, incremental) };
    let forecast = forecast(&policy, &sizes, &S3_STANDARD, context.clock.now(), DAYS)?;
    let dollars = |nano: u64| nano as f64 / NANO;
    let monthly = forecast.monthly;
    let shown = Shown {
        cluster: policy.cluster.name.clone(),
        days: DAYS,
        end: rfc3339(forecast.end),
        made: forecast.made,
        kept: forecast.points.len(),
        kept_full: forecast.full,
        full_bytes: full,
        incremental_bytes: incremental,
        stored_bytes: forecast.stored_bytes,
        increments_bytes: forecast.increments_bytes,
        prices: S3_STANDARD.name,
        monthly: Monthly {
            total_usd: dollars(monthly.total()),
            storage_usd: dollars(monthly.storage),
            points_usd: dollars(monthly.points),
            capture_usd: dollars(monthly.capture),
            reading_usd: dollars(monthly.reading),
        },
        points: rows(&forecast),
    };
    context.output.show("policy_plan", &shown, || text(&shown, &forecast))?;
    Ok(Ended::Well)
}

fn rows(forecast: &Forecast) -> Vec<Row> {
    let kept = forecast.plan.decisions.iter().filter(|decision| decision.keep);
    kept.map(|decision| Row {
        time: rfc3339(forecast.points[decision.point].taken),
        reasons: decision.reasons.iter().map(ToString::to_string).collect(),
        until: decision.until.map(rfc3339),
    })
    .collect()
}

fn text(shown: &Shown, forecast: &Forecast) -> String {
    let cells = shown.points.iter().map(|row| {
        let until = row.until.clone().unwrap_or_else(|| "-".to_owned());
        vec![row.time.clone(), until, row.reasons.join("; ")]
    });
    let mut text = table(&["POINT OF", "KEPT UNTIL", "WHY"], &[], cells.collect());
    let (made, kept) = (units::count(shown.made as u64), units::count(shown.kept as u64));
    text.push_str(&format!(
        "\n{made} points in {DAYS} days, {kept} of them kept at the end ({} full), {} stored, {} of it increments\n",
        shown.kept_full,
        units::bytes(shown.stored_bytes),
        units::bytes(shown.increments_bytes)
    ));
    text.push_str(&format!("a month costs {} ({})\n", forecast.monthly, shown.prices));
    let (full, incremental) = (units::bytes(shown.full_bytes), units::bytes(shown.incremental_bytes));
    text.push_str(&format!("with full points of {full} and {incremental} more for each incremental one\n"));
    if shown.increments_bytes > 0 {
        let row = units::count(increments_max(shown.full_bytes, shown.incremental_bytes));
        text.push_str(&format!(
            "an incremental point keeps what it stands on, back to its full one: at most {row} increments, which weigh \
             about as much as that\n"
        ));
    }
    text
}
