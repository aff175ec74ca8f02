//! Telling others how a run ended: hooks, a webhook, a dead man's switch.
//!
//! A hook is a program of the operator's; a webhook gets every event as JSON; the dead man's switch is a service that
//! expects a ping after every backup, and raises the alarm when none comes: it is the only one of the three that notices a
//! backup that never ran.
//!
//! Invariants:
//! - The run is over before anyone is told. Whatever goes wrong here is a warning: it neither fails a backup nor undoes
//!   one.
//! - All are told, one after the other, each within a limit of time, whether the one before could be told or not.
//! - Only a backup that succeeded pings. A verification that runs every night must not hide backups that stopped.
//! - No address appears in a message: it usually holds a token. A program gets the report and a few harmless variables,
//!   not our credentials.

mod program;
mod web;

use std::ffi::OsString;
use std::time::Duration;

use crate::agent::notify::program::run;
use crate::agent::notify::web::Web;
use crate::agent::report::Report;
use crate::base::error::{Error, Result};
use crate::policy::hooks::{Event, Hooks};

pub use program::{CAPTURED_BYTES_MAX, HOOK_TIME};
pub use web::{CALL_TIME, CALL_TRIES_MAX};

/// Variables that a hook inherits when they are set. Nothing else: credentials of buckets stand in the environment too.
pub const INHERITED: [&str; 10] =
    ["PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LC_ALL", "TZ", "TMPDIR", "XDG_RUNTIME_DIR"];

/// How long one party may take.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// A hook, from start to end.
    pub hook: Duration,
    /// One try of a call.
    pub call: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Limits { hook: HOOK_TIME, call: CALL_TIME }
    }
}

/// Who is told, and how.
#[derive(Clone, Debug)]
pub struct Notifier {
    /// Whom the policy names.
    pub hooks: Hooks,
    /// Our own environment; of it only `INHERITED` goes on.
    pub environment: Vec<(OsString, OsString)>,
    /// How long each may take.
    pub limits: Limits,
}

impl Notifier {
    /// Tells everybody who wants to know of this run; what went wrong with that.
    pub async fn tell(&self, report: &Report) -> Vec<Error> {
        let mut errors = vec![];
        let mut note = |result: Result<()>| errors.extend(result.err());
        for event in report.events() {
            if let Some(command) = self.hooks.command(event) {
                note(self.run(command, event, report).await);
            }
        }
        let pings = report.command == "backup" && self.hooks.ping_url.is_some();
        if self.hooks.webhook.is_none() && !pings {
            return errors;
        }
        let web = match Web::new(self.limits.call) {
            Ok(web) => web,
            Err(error) => return errors.into_iter().chain([error]).collect(),
        };
        let mut note = |result: Result<()>| errors.extend(result.err());
        if let Some(webhook) = &self.hooks.webhook {
            for event in report.events() {
                note(web.post("webhook", webhook, &report.json(event)).await);
            }
        }
        if let Some(address) = self.hooks.ping_url.as_ref().filter(|_| pings) {
            if report.succeeded() {
                note(web.ping(address).await);
            } else {
                note(web.ping_failure(address, &report.sentence(Event::Failure)).await);
            }
        }
        errors
    }

    async fn run(&self, command: &[String], event: Event, report: &Report) -> Result<()> {
        let inherited = self.environment.iter().filter(|(name, _)| INHERITED.iter().any(|kept| name == kept));
        let given = report.environment(event).into_iter().map(|(name, value)| (name.into(), value.into()));
        let environment: Vec<(OsString, OsString)> = inherited.cloned().chain(given).collect();
        run(event.field(), command, &environment, self.limits.hook).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::report::tests::{backup, failed};

    fn notifier(table: &str) -> Notifier {
        let text = format!(
            "[cluster]\nname = \"prod\"\nendpoints = [\"http://127.0.0.1:1\"]\n[repository]\n\
             url = \"file:///nowhere\"\nencryption = \"none\"\n[hooks]\n{table}\n"
        );
        let limits = Limits { hook: Duration::from_secs(20), call: Duration::from_millis(300) };
        let environment = [("PATH", "/usr/bin:/bin"), ("AWS_SECRET_ACCESS_KEY", "secret"), ("HOLDFAST_KEYS", "old")];
        let environment = environment.map(|(name, value)| (name.into(), value.into())).to_vec();
        Notifier { hooks: crate::policy::parse(&text, "test.toml").unwrap().hooks, environment, limits }
    }

    #[tokio::test]
    async fn a_hook_is_given_the_facts_and_no_credentials() {
        let dir = tempfile::tempdir().unwrap();
        let seen = dir.path().join("seen");
        let script = format!("env > {}; echo said; exit 0", seen.display());
        let notifier = notifier(&format!("on_failure = [\"sh\", \"-c\", {script:?}]\non_success = [\"false\"]"));
        assert!(notifier.tell(&failed()).await.is_empty());
        let seen = std::fs::read_to_string(seen).unwrap();
        let lines: Vec<&str> = seen.lines().collect();
        for wanted in ["HOLDFAST_EVENT=failure", "HOLDFAST_CLUSTER=prod", "HOLDFAST_EXIT_CODE=1", "HOLDFAST_KEYS="] {
            assert!(lines.contains(&wanted), "{wanted} in {seen}");
        }
        assert!(!seen.contains("secret"), "{seen}");
    }

    #[tokio::test]
    async fn everybody_is_told_although_each_of_them_fails() {
        let notifier = notifier(
            "on_success = [\"sh\", \"-c\", \"echo what went wrong >&2; exit 7\"]\n\
             webhook = \"http://127.0.0.1:1/token-a\"\nping_url = \"http://127.0.0.1:1/token-b\"",
        );
        let errors = notifier.tell(&backup()).await;
        let said: Vec<String> = errors.iter().map(Error::as_warning).collect();
        assert_eq!(errors.len(), 3, "{said:?}");
        assert!(said[0].contains("on_success") && said[0].contains("exit code 7"), "{said:?}");
        assert!(said[1].contains("webhook") && said[2].contains("ping_url"), "{said:?}");
        assert!(errors.iter().all(|error| error.hint_text().is_some()), "{said:?}");
        assert!(!said.concat().contains("token"), "an address is shown to nobody: {said:?}");
    }

    #[tokio::test]
    async fn a_program_that_is_not_there_is_named() {
        let errors = notifier("on_success = [\"/nowhere/notify\"]").tell(&backup()).await;
        assert!(errors[0].chain().contains("/nowhere/notify"), "{}", errors[0].chain());
    }
}
