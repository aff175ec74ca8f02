//! Around a command that runs unattended: what it came to is written as metrics and told to whom the policy names.
//!
//! Invariants:
//! - What the command did is done and shown, and nothing here changes it: what goes wrong here is a warning, and a run that
//!   was well ends with 5 then. Only an error is printed later, as the last thing that is said.
//! - A run that fails before it has read its policy still leaves its metrics, because that is a failure somebody waits to
//!   hear of.

use std::path::{Path, PathBuf};

use crate::agent::metrics::{FILE_BYTES_MAX, cluster_of, textfile};
use crate::agent::notify::{Limits, Notifier};
use crate::agent::report::{Facts, Failure, Report};
use crate::base::clock::{Clock, Stopwatch, Time};
use crate::base::durable::replace_public;
use crate::base::error::{Error, Kind, Result};
use crate::base::file::read_small;
use crate::cli::args;
use crate::cli::run::{Context, Ended};
use crate::cli::target::policy;
use crate::policy::hooks::Hooks;

/// A run that somebody is told of.
pub(crate) struct Told {
    command: &'static str,
    policy: Option<PathBuf>,
    metrics: Option<PathBuf>,
    started: Time,
    watch: Stopwatch,
}

impl Told {
    /// Begins a run of `command`.
    pub(crate) fn begin(command: &'static str, policy: Option<&Path>, metrics: &args::Metrics) -> Self {
        Told {
            command,
            policy: policy.map(Path::to_owned),
            metrics: metrics.file.clone(),
            started: Clock::System.now(),
            watch: Stopwatch::start(),
        }
    }

    /// Ends it: metrics first, because they cannot hang.
    pub(crate) async fn end(self, result: Result<Ended>, facts: Facts, context: &Context) -> Result<Ended> {
        // What is wrong with the policy was the command's to say.
        let policy = self.policy.as_deref().and_then(|file| policy(file).ok());
        let (cluster, hooks) = match policy {
            Some(policy) => (Some(policy.cluster.name), policy.hooks),
            None => (None, Hooks::default()),
        };
        let failure = result
            .as_ref()
            .err()
            .map(|error| Failure { message: error.chain(), hint: error.hint_text().unwrap_or_default().to_owned() });
        let mut report = Report {
            command: self.command,
            cluster: cluster.unwrap_or_default(),
            started: self.started,
            duration: self.watch.elapsed(),
            exit_code: result.as_ref().map_or_else(|error| error.kind().exit_code(), |ended| ended.code()),
            failure,
            facts,
        };
        let mut errors = vec![];
        if let Some(file) = &self.metrics {
            errors.extend(write(file, &mut report, self.policy.as_deref()).err());
        }
        let notifier = Notifier { hooks, environment: std::env::vars_os().collect(), limits: Limits::default() };
        errors.extend(notifier.tell(&report).await);
        errors.iter().for_each(|error| context.output.warn_afterwards(&error.as_warning()));
        match result {
            Ok(Ended::Well) if !errors.is_empty() => Ok(Ended::Warned),
            result => result,
        }
    }
}

/// Writes the metrics, with what the file already tells of earlier runs.
fn write(file: &Path, report: &mut Report, policy: Option<&Path>) -> Result<()> {
    let former = match read_small(file, FILE_BYTES_MAX) {
        Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        // None yet; or one that cannot be read is not ours, and replaced.
        Err(_) => String::new(),
    };
    if report.cluster.is_empty() {
        // As the file had it; or after the policy's file, which is named after its cluster.
        let stem = || policy.and_then(Path::file_stem).map(|stem| stem.to_string_lossy().into_owned());
        report.cluster = cluster_of(&former).or_else(stem).unwrap_or_default();
    }
    let text = textfile(report, Clock::System.now(), &former);
    replace_public(file, text.as_bytes()).map_err(|error| match error.kind() {
        Kind::NotFound => Error::new(Kind::NotFound, format!("write metrics to {}: no such folder", file.display()))
            .hint("make the folder, readable for node_exporter, or correct --metrics-file"),
        _ => error.during("write metrics").or_hint("check the path given with --metrics-file"),
    })
}
