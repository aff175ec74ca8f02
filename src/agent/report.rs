//! What one run of a command came to, as those who are told of it need it: hooks, a webhook, metrics.
//!
//! Pure: which events a run is, and how each of them is told, follows from the report alone.
//!
//! Invariants:
//! - No secret, no key and no value is in a report: it goes to programs and to addresses of other people.
//! - A run that made a point is a success even when a warning stands; a point that differs from its cluster is none.

use std::time::Duration;

use serde_json::{Value, json};

use crate::base::clock::{Time, rfc3339};
use crate::base::units;
use crate::policy::hooks::Event;

/// Version of the JSON that webhooks get.
pub const EVENT_VERSION: u32 = 1;

/// One run.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// What ran: `backup`, `verify`, ...
    pub command: &'static str,
    /// The cluster it was for.
    pub cluster: String,
    /// When it began.
    pub started: Time,
    /// How long it took.
    pub duration: Duration,
    /// How it ended, as the exit code says it.
    pub exit_code: u8,
    /// Why it failed, and what to do next.
    pub failure: Option<Failure>,
    /// What it found out on its way.
    pub facts: Facts,
}

/// Why a run failed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Failure {
    /// The error with its causes.
    pub message: String,
    /// What to do next.
    pub hint: String,
}

/// What a run found out on its way; a failed one may have found some of it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Facts {
    /// The point it made.
    pub made: Option<Made>,
    /// What it verified.
    pub verified: Option<Verified>,
    /// Warnings that stand.
    pub warnings: u64,
    /// Objectives that were measured: their names, and whether they are missed.
    pub objectives: Vec<(&'static str, bool)>,
}

/// A point that was made.
#[derive(Clone, Debug, PartialEq)]
pub struct Made {
    /// Its id.
    pub point: String,
    /// Full or incremental.
    pub kind: String,
    /// Its revision.
    pub revision: i64,
    /// The moment whose state it holds, at the earliest.
    pub time: Time,
    /// Live keys in it.
    pub keys: u64,
    /// Its records, unpacked, those of its base included.
    pub raw_bytes: u64,
    /// The same as stored.
    pub stored_bytes: u64,
    /// What this run stored.
    pub new_stored_bytes: u64,
    /// `equal`, `differs` or `not_compared`.
    pub compared: &'static str,
}

/// What was verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verified {
    /// How deep, 1 to 3.
    pub level: u8,
    /// How many points.
    pub points: u64,
    /// How many of them failed.
    pub failed: u64,
}

impl Report {
    /// Whether the run did what it was for; warnings and missed objectives do not change that.
    pub fn succeeded(&self) -> bool {
        matches!(self.exit_code, 0 | 5)
    }

    /// What has happened, in the order in which it is told.
    pub fn events(&self) -> Vec<Event> {
        let mut events = vec![];
        if !self.succeeded() {
            events.push(Event::Failure);
        } else if self.facts.made.is_some() {
            events.push(Event::Success);
        }
        if self.command == "drill" {
            events.push(Event::Drill);
        }
        if self.facts.objectives.iter().any(|(_, missed)| *missed) {
            events.push(Event::MissedObjective);
        }
        events
    }

    /// The names of the objectives that are missed.
    fn missed(&self) -> Vec<&'static str> {
        self.facts.objectives.iter().filter(|(_, missed)| *missed).map(|(name, _)| *name).collect()
    }

    /// One sentence for people.
    pub fn sentence(&self, event: Event) -> String {
        let Report { command, cluster, exit_code, .. } = self;
        let took = units::duration(self.duration);
        match (event, &self.failure, &self.facts.made) {
            (Event::Failure, Some(failure), _) => {
                format!("holdfast {command} of cluster {cluster} failed (exit code {exit_code}): {}", failure.message)
            }
            (Event::Failure, None, _) => {
                format!("holdfast {command} of cluster {cluster} ended with exit code {exit_code}")
            }
            (Event::MissedObjective, ..) => {
                format!("cluster {cluster} misses its objectives: {}", self.missed().join(", "))
            }
            (_, _, Some(made)) => format!(
                "holdfast {command} of cluster {cluster} made point {} at revision {} in {took}",
                made.point, made.revision
            ),
            _ => format!("holdfast {command} of cluster {cluster} ended with exit code {exit_code} after {took}"),
        }
    }

    /// The variables that a hook is given. What is not known is empty, so that none is inherited from elsewhere.
    pub fn environment(&self, event: Event) -> Vec<(&'static str, String)> {
        fn text<T: ToString>(value: Option<T>) -> String {
            value.map(|value| value.to_string()).unwrap_or_default()
        }
        let (made, verified) = (self.facts.made.as_ref(), self.facts.verified.as_ref());
        let failure = self.failure.as_ref();
        vec![
            ("HOLDFAST_EVENT", event.name().to_owned()),
            ("HOLDFAST_COMMAND", self.command.to_owned()),
            ("HOLDFAST_CLUSTER", self.cluster.clone()),
            ("HOLDFAST_STARTED", rfc3339(self.started)),
            ("HOLDFAST_DURATION_SECONDS", format!("{:.3}", self.duration.as_secs_f64())),
            ("HOLDFAST_EXIT_CODE", self.exit_code.to_string()),
            ("HOLDFAST_WARNINGS", self.facts.warnings.to_string()),
            ("HOLDFAST_POINT", text(made.map(|made| &made.point))),
            ("HOLDFAST_KIND", text(made.map(|made| &made.kind))),
            ("HOLDFAST_REVISION", text(made.map(|made| made.revision))),
            ("HOLDFAST_KEYS", text(made.map(|made| made.keys))),
            ("HOLDFAST_RAW_BYTES", text(made.map(|made| made.raw_bytes))),
            ("HOLDFAST_STORED_BYTES", text(made.map(|made| made.stored_bytes))),
            ("HOLDFAST_NEW_STORED_BYTES", text(made.map(|made| made.new_stored_bytes))),
            ("HOLDFAST_COMPARED", text(made.map(|made| made.compared))),
            ("HOLDFAST_VERIFIED_LEVEL", text(verified.map(|verified| verified.level))),
            ("HOLDFAST_VERIFY_FAILED", text(verified.map(|verified| verified.failed))),
            ("HOLDFAST_MISSED", self.missed().join(",")),
            // A variable cannot hold a zero byte, and a message may repeat one from outside.
            ("HOLDFAST_ERROR", text(failure.map(|failure| failure.message.replace('\0', "")))),
            ("HOLDFAST_HINT", text(failure.map(|failure| failure.hint.replace('\0', "")))),
            ("HOLDFAST_MESSAGE", self.sentence(event).replace('\0', "")),
        ]
    }

    /// What a webhook is sent.
    pub fn json(&self, event: Event) -> Value {
        let made = self.facts.made.as_ref().map(|made| {
            json!({
                "id": made.point,
                "kind": made.kind,
                "revision": made.revision,
                "time": rfc3339(made.time),
                "keys": made.keys,
                "raw_bytes": made.raw_bytes,
                "stored_bytes": made.stored_bytes,
                "new_stored_bytes": made.new_stored_bytes,
                "compared": made.compared,
            })
        });
        let verified = self
            .facts
            .verified
            .map(|verified| json!({ "level": verified.level, "points": verified.points, "failed": verified.failed }));
        let failure = self.failure.as_ref().map(|failure| json!({ "message": failure.message, "hint": failure.hint }));
        json!({
            "v": EVENT_VERSION,
            "type": "event",
            "event": event.name(),
            "text": self.sentence(event),
            "command": self.command,
            "cluster": self.cluster,
            "started": rfc3339(self.started),
            "duration_s": self.duration.as_secs_f64(),
            "exit_code": self.exit_code,
            "warnings": self.facts.warnings,
            "point": made,
            "verified": verified,
            "missed": self.missed(),
            "error": failure,
        })
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::base::clock::parse_rfc3339;

    /// A backup that went well.
    pub(crate) fn backup() -> Report {
        let started = parse_rfc3339("2026-11-20T12:00:00Z").unwrap();
        Report {
            command: "backup",
            cluster: "prod".to_owned(),
            started,
            duration: Duration::from_millis(2500),
            exit_code: 0,
            failure: None,
            facts: Facts {
                made: Some(Made {
                    point: "abcd".to_owned(),
                    kind: "full".to_owned(),
                    revision: 42,
                    time: started,
                    keys: 7,
                    raw_bytes: 1000,
                    stored_bytes: 100,
                    new_stored_bytes: 90,
                    compared: "equal",
                }),
                verified: Some(Verified { level: 1, points: 1, failed: 0 }),
                warnings: 0,
                objectives: vec![],
            },
        }
    }

    /// A backup that failed before it made anything.
    pub(crate) fn failed() -> Report {
        let failure = Failure { message: "no member answers".to_owned(), hint: "check the endpoints".to_owned() };
        Report { exit_code: 1, failure: Some(failure), facts: Facts::default(), ..backup() }
    }

    #[test]
    fn events_follow_from_how_a_run_ended() {
        assert_eq!(backup().events(), [Event::Success]);
        assert_eq!(Report { exit_code: 5, ..backup() }.events(), [Event::Success], "a warning is no failure");
        assert_eq!(failed().events(), [Event::Failure]);
        let differs = Report { exit_code: 3, ..backup() };
        assert_eq!(differs.events(), [Event::Failure], "a point that differs is told as a failure");
        let verify = Report { command: "verify", facts: Facts::default(), ..backup() };
        assert_eq!(verify.events(), [], "a success is a point that was made");
        let missed = Facts { objectives: vec![("rpo", false), ("rto", true)], ..Facts::default() };
        let drill = Report { command: "drill", exit_code: 5, facts: missed, ..backup() };
        assert_eq!(drill.events(), [Event::Drill, Event::MissedObjective]);
        assert_eq!(drill.sentence(Event::MissedObjective), "cluster prod misses its objectives: rto");
        let failed = Report { command: "drill", ..failed() };
        assert_eq!(failed.events(), [Event::Failure, Event::Drill]);
    }

    #[test]
    fn every_variable_is_set_whatever_happened() {
        let (well, ill) = (backup().environment(Event::Success), failed().environment(Event::Failure));
        let names = |set: &[(&'static str, String)]| set.iter().map(|(name, _)| *name).collect::<Vec<_>>();
        assert_eq!(names(&well), names(&ill), "an unset variable would be inherited");
        let value = |set: &[(&str, String)], wanted: &str| {
            set.iter().find(|(name, _)| *name == wanted).map(|(_, value)| value.clone()).unwrap()
        };
        assert_eq!(value(&well, "HOLDFAST_REVISION"), "42");
        assert_eq!(value(&well, "HOLDFAST_ERROR"), "");
        assert_eq!(value(&ill, "HOLDFAST_REVISION"), "");
        assert_eq!(value(&ill, "HOLDFAST_EXIT_CODE"), "1");
        assert_eq!(value(&ill, "HOLDFAST_HINT"), "check the endpoints");
        let message = "holdfast backup of cluster prod failed (exit code 1): no member answers";
        assert_eq!(value(&ill, "HOLDFAST_MESSAGE"), message);
    }

    #[test]
    fn a_webhook_gets_the_same_as_json() {
        let event = backup().json(Event::Success);
        assert_eq!((&event["v"], &event["event"]), (&1.into(), &"success".into()));
        assert_eq!((&event["point"]["revision"], &event["point"]["compared"]), (&42.into(), &"equal".into()));
        assert_eq!(event["text"], "holdfast backup of cluster prod made point abcd at revision 42 in 2.5 s");
        assert!(event["error"].is_null());
        let event = failed().json(Event::Failure);
        assert!(event["point"].is_null());
        assert_eq!(event["error"]["hint"], "check the endpoints");
    }
}
