//! `policy check`: is the file right, and what does it mean.

use std::path::Path;
use std::time::Duration;

use serde::Serialize;

use crate::base::clock::{Time, rfc3339};
use crate::base::error::Result;
use crate::base::units;
use crate::cli::output::facts;
use crate::cli::run::{Context, Ended};
use crate::cli::target;
use crate::client::options::STALL_DEFAULT;
use crate::policy::advice::warnings;
use crate::policy::hooks::Event;
use crate::policy::retention::Rule;
use crate::policy::schedule::{Crontab, Job};
use crate::policy::{Encryption, HashOnLeader, Policy};
use crate::vault::repository::{Keys, check_url};

/// What a policy means.
#[derive(Serialize)]
struct Checked {
    cluster: String,
    endpoints: Vec<String>,
    tls: &'static str,
    user: Option<String>,
    hash_on_leader: &'static str,
    repository: String,
    encryption: &'static str,
    recipients: Vec<String>,
    reads_data: bool,
    signer: Option<String>,
    trusted_signers: Vec<String>,
    schedule: Schedule,
    retention: Retention,
    objectives: Objectives,
    hooks: Vec<&'static str>,
    warnings: Vec<Warning>,
}

#[derive(Serialize)]
struct Schedule {
    timezone: &'static str,
    full: Option<String>,
    incremental: Option<String>,
    capture_s: Option<f64>,
    verify: Option<String>,
    verify_level: Option<u8>,
    drill: Option<String>,
    next: Vec<Next>,
}

#[derive(Serialize)]
struct Next {
    job: &'static str,
    time: String,
}

#[derive(Serialize)]
struct Retention {
    last: u32,
    hourly: u32,
    daily: u32,
    weekly: u32,
    monthly: u32,
    yearly: u32,
    within_s: Option<f64>,
    window_s: Option<f64>,
    min_verified: u32,
}

#[derive(Serialize)]
struct Objectives {
    rpo_s: Option<f64>,
    rto_s: Option<f64>,
}

#[derive(Serialize)]
struct Warning {
    what: String,
    hint: String,
}

pub(crate) fn check(file: &Path, context: &Context) -> Result<Ended> {
    let policy = target::policy(file)?;
    check_url(&policy.repository.url)?;
    // Reading certificates and passwords now is better than at the first backup.
    target::client(&policy, STALL_DEFAULT)?;
    let keys = target::keys(&policy)?;
    let checked = checked(&policy, &keys, context.clock.now());
    context
        .output
        .show("policy_check", &checked, || format!("{} is valid\n\n{}", file.display(), text(&policy, &checked)))?;
    for warning in &checked.warnings {
        context.output.warn(&format!("{}\nhint: {}", warning.what, warning.hint));
    }
    Ok(if checked.warnings.is_empty() { Ended::Well } else { Ended::Warned })
}

fn checked(policy: &Policy, keys: &Keys, now: Time) -> Checked {
    let cluster = &policy.cluster;
    let hooks = &policy.hooks;
    let addresses = [("webhook", &hooks.webhook), ("ping_url", &hooks.ping_url)];
    let addresses = addresses.into_iter().filter(|(_, address)| address.is_some()).map(|(name, _)| name);
    let commands = Event::ALL.into_iter().filter(|event| hooks.command(*event).is_some()).map(Event::field);
    let warnings = warnings(policy, now).into_iter().map(|warning| Warning { what: warning.what, hint: warning.hint });
    Checked {
        cluster: cluster.name.clone(),
        endpoints: cluster.endpoints.clone(),
        tls: match (cluster.endpoints.iter().any(|e| e.starts_with("https")), &cluster.identity) {
            (false, _) => "none",
            (true, None) => "server certificate checked",
            (true, Some(_)) => "server and client certificates",
        },
        user: cluster.login.as_ref().map(|login| login.user.clone()),
        hash_on_leader: match cluster.hash_on_leader {
            HashOnLeader::Warn => "warn",
            HashOnLeader::Off => "off",
            HashOnLeader::On => "on",
        },
        repository: policy.repository.url.clone(),
        encryption: match &policy.repository.encryption {
            Encryption::None => "none",
            Encryption::Recipients(_) => "recipients",
            Encryption::PassphraseFile(_) => "passphrase",
        },
        recipients: match &policy.repository.encryption {
            Encryption::Recipients(names) => names.clone(),
            Encryption::None | Encryption::PassphraseFile(_) => vec![],
        },
        reads_data: policy.reads_data(),
        signer: keys.signing.as_ref().map(|key| key.public().to_string()),
        trusted_signers: keys.signers.trusted().iter().map(ToString::to_string).collect(),
        schedule: schedule(policy, now),
        retention: retention(policy),
        objectives: Objectives { rpo_s: seconds(policy.objectives.rpo), rto_s: seconds(policy.objectives.rto) },
        hooks: commands.chain(addresses).collect(),
        warnings: warnings.collect(),
    }
}

fn schedule(policy: &Policy, now: Time) -> Schedule {
    let schedule = &policy.schedule;
    let written = |job: Job| schedule.of(job).map(Crontab::to_string);
    let next = |job: Job| schedule.next(job, now).map(|time| Next { job: job.name(), time: rfc3339(time) });
    Schedule {
        timezone: schedule.zone.name(),
        full: written(Job::Full),
        incremental: written(Job::Incremental),
        capture_s: seconds(schedule.capture),
        verify: written(Job::Verify),
        verify_level: schedule.verify.as_ref().map(|verify| verify.level),
        drill: written(Job::Drill),
        next: Job::ALL.into_iter().filter_map(next).collect(),
    }
}

fn retention(policy: &Policy) -> Retention {
    let rules = &policy.retention;
    Retention {
        last: rules.last,
        hourly: rules.hourly,
        daily: rules.daily,
        weekly: rules.weekly,
        monthly: rules.monthly,
        yearly: rules.yearly,
        within_s: seconds(rules.within),
        window_s: seconds(rules.window),
        min_verified: rules.min_verified,
    }
}

fn seconds(duration: Option<Duration>) -> Option<f64> {
    duration.map(|duration| duration.as_secs_f64())
}

/// The same for people.
fn text(policy: &Policy, checked: &Checked) -> String {
    facts(&[
        ("cluster", checked.cluster.clone()),
        ("endpoints", checked.endpoints.join("\n")),
        ("TLS", checked.tls.to_owned()),
        ("user", checked.user.clone().unwrap_or_else(|| "none".to_owned())),
        ("hash on leader", checked.hash_on_leader.to_owned()),
        ("repository", checked.repository.clone()),
        ("encryption", encryption_text(checked)),
        ("signing", signing_text(checked)),
        ("trusts", trusted_text(checked)),
        ("schedule", schedule_text(policy, &checked.schedule)),
        ("retention", retention_text(policy)),
        ("objectives", objectives_text(policy)),
        ("hooks", if checked.hooks.is_empty() { "none".to_owned() } else { checked.hooks.join(", ") }),
    ])
}

/// For whom, and what this host can do.
fn encryption_text(checked: &Checked) -> String {
    const NOT_HERE: &str =
        "this host cannot read: restore, export, verify --level 3, drill, keys and diff need an identity";
    let lines = [checked.encryption].into_iter().chain(checked.recipients.iter().map(String::as_str));
    lines.chain((!checked.reads_data).then_some(NOT_HERE)).collect::<Vec<_>>().join("\n")
}

/// By whom points made here are signed.
fn signing_text(checked: &Checked) -> String {
    match (&checked.signer, checked.trusted_signers.is_empty()) {
        (Some(key), _) => format!("by {key}"),
        (None, true) => "points made here are not signed".to_owned(),
        (None, false) => "this host makes no points: backup and import need signing_key".to_owned(),
    }
}

/// Whose points are used.
fn trusted_text(checked: &Checked) -> String {
    match checked.trusted_signers.is_empty() {
        true => "nobody named: points are used that are not signed".to_owned(),
        false => checked.trusted_signers.join("\n"),
    }
}

/// One line for each job, with when it runs next.
fn schedule_text(policy: &Policy, schedule: &Schedule) -> String {
    let line = |next: &Next| {
        let written = Job::ALL.into_iter().find(|job| job.name() == next.job).and_then(|job| policy.schedule.of(job));
        let written = written.map(Crontab::to_string).unwrap_or_default();
        let level = schedule.verify_level.filter(|_| next.job == Job::Verify.name());
        let level = level.map(|level| format!(" at level {level}")).unwrap_or_default();
        format!("{}{level}: {written}, next {}", next.job, next.time)
    };
    let capture = policy.schedule.capture.map(|period| format!("capture every {}", units::duration(period)));
    let lines: Vec<_> = schedule.next.iter().map(line).chain(capture).collect();
    match lines.is_empty() {
        true => "none".to_owned(),
        false => format!("times are {}\n{}", schedule.timezone, lines.join("\n")),
    }
}

fn retention_text(policy: &Policy) -> String {
    let rules = &policy.retention;
    if !rules.removes() {
        return "everything is kept".to_owned();
    }
    let counts = Rule::ALL.into_iter().map(|rule| (rule.name(), rules.count(rule))).filter(|(_, count)| *count > 0);
    let counts = counts.map(|(name, count)| format!("{name} {count}"));
    let spans = [("within", rules.within), ("window", rules.window)];
    let spans = spans.into_iter().filter_map(|(name, span)| Some(format!("{name} {}", units::duration(span?))));
    let floor = format!("verified at least {}", rules.min_verified.max(1));
    counts.chain(spans).chain([floor]).collect::<Vec<_>>().join(", ")
}

fn objectives_text(policy: &Policy) -> String {
    let objectives = [("rpo", policy.objectives.rpo), ("rto", policy.objectives.rto)];
    let text = objectives.into_iter().filter_map(|(name, span)| Some(format!("{name} {}", units::duration(span?))));
    let text = text.collect::<Vec<_>>().join(", ");
    if text.is_empty() { "none".to_owned() } else { text }
}
