//! What a drill found: a document of the repository, the same as JSON, and the matter of the page.

use serde::{Deserialize, Serialize};

use crate::base::clock::Time;
use crate::recovery::drill::plan::Plan;
use crate::vault::manifest::Tool;
use crate::vault::sealed::{self, Document};

/// How a drill ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Everything was proved, and every objective holds.
    Passed,
    /// What was looked at is right; but an objective is missed, or something that matters could not be proved.
    Missed,
    /// A proof failed.
    Failed,
}

/// How far a drill went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// A real member booted and was looked at.
    Member,
    /// The file was restored; no member was started from it.
    FileOnly,
}

/// What was looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Through {
    /// The restored file, read back from disk.
    File,
    /// The running member, over the network.
    Member,
}

/// The result of one proof.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// It is as expected.
    Equal,
    /// It is not.
    Differs,
    /// It could not be looked at; `found` says why.
    Skipped,
}

/// One proof.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Proof {
    /// What is proved.
    pub what: String,
    /// Where it was looked at.
    pub through: Through,
    /// What the manifest says.
    pub expected: String,
    /// What was found.
    pub found: String,
    /// Whether that is the same.
    pub verdict: Verdict,
}

/// One stage, measured.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Stage {
    /// What was done.
    pub name: String,
    /// How long it took.
    pub duration_s: f64,
    /// Whether a recovery would have to wait for it before the cluster serves.
    pub counts: bool,
}

/// What was promised, and what was measured. Seconds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    /// How much may be lost.
    pub rpo_allowed_s: Option<f64>,
    /// How much would have been lost when the drill began: the age of the newest point.
    pub rpo_s: f64,
    /// How long a recovery may take.
    pub rto_allowed_s: Option<f64>,
    /// How long it took until a member served; none when no member did.
    pub rto_s: Option<f64>,
    /// The objectives that do not hold, in words.
    pub missed: Vec<String>,
}

/// A drill.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// How it ended.
    pub outcome: Outcome,
    /// How far it went.
    pub level: Level,
    /// The cluster.
    pub cluster: String,
    /// The point's id.
    pub point: String,
    /// Its revision.
    pub revision: i64,
    /// When its backup began.
    #[serde(with = "sealed::rfc3339")]
    pub point_time: Time,
    /// When the drill began.
    #[serde(with = "sealed::rfc3339")]
    pub started: Time,
    /// When it ended.
    #[serde(with = "sealed::rfc3339")]
    pub finished: Time,
    /// What was planned.
    pub plan: Plan,
    /// What took how long.
    pub stages: Vec<Stage>,
    /// RPO and RTO.
    pub measured: Measured,
    /// What was proved, and what was not.
    pub proofs: Vec<Proof>,
    /// What this drill says nothing about.
    pub not_proved: Vec<String>,
    /// Who says so.
    pub tool: Tool,
    /// The version of etcd that served; empty when none did.
    pub etcd_version: String,
    /// The version that the point was taken from; empty when unknown.
    pub source_version: String,
}

impl Document for Report {
    const NAME: &'static str = "drill";
}

impl Report {
    /// How it ended, by what it holds.
    pub fn judged(mut self) -> Self {
        let any = |verdict| self.proofs.iter().any(|proof| proof.verdict == verdict);
        self.outcome = if any(Verdict::Differs) {
            Outcome::Failed
        } else if self.level == Level::FileOnly || any(Verdict::Skipped) || !self.measured.missed.is_empty() {
            Outcome::Missed
        } else {
            Outcome::Passed
        };
        self
    }
}
