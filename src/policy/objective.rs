//! Objectives: how much may be lost (RPO), how long recovery may take (RTO), and whether that holds.
//!
//! Whether an objective is met is measured, never assumed: the age of what could be restored now, and the time that a
//! restore really took. Where a measurement is missing, the objective is missed; hope is not a measurement.
//!
//! Deliberately unknown here: where points are kept, and what a drill does.

use std::fmt;
use std::time::Duration;

use crate::base::clock::{Time, rfc3339};
use crate::base::error::Result;
use crate::base::units;
use crate::policy::raw::Table;
use crate::policy::schedule::CLOCK_SKEW_MAX;

/// What is promised. None: nothing is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Objectives {
    /// Changes younger than this may be lost.
    pub rpo: Option<Duration>,
    /// A restore may take so long.
    pub rto: Option<Duration>,
}

/// What is known at a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Measured {
    /// The moment.
    pub now: Time,
    /// Up to when the newest sound point, or captured change, reaches.
    pub newest: Option<Time>,
    /// How long the last measured restore took.
    pub restore: Option<Duration>,
}

/// An objective that does not hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Missed {
    /// More would be lost now than is allowed.
    Rpo {
        /// What is allowed.
        allowed: Duration,
        /// What would be lost.
        exposed: Duration,
    },
    /// There is nothing to restore.
    NothingStored,
    /// The newest point is dated in the future, so its age is not known.
    FutureDated(Time),
    /// A restore takes longer than is allowed.
    Rto {
        /// What is allowed.
        allowed: Duration,
        /// What was measured.
        measured: Duration,
    },
    /// No restore was ever measured.
    NeverRehearsed,
}

impl Objectives {
    /// The objectives that do not hold; none when all do.
    pub fn missed(&self, measured: &Measured) -> Vec<Missed> {
        let rpo = self.rpo.and_then(|allowed| match measured.newest {
            None => Some(Missed::NothingStored),
            Some(newest) if newest > measured.now + CLOCK_SKEW_MAX => Some(Missed::FutureDated(newest)),
            Some(newest) => {
                let exposed = (measured.now - newest).to_std().unwrap_or_default();
                (exposed > allowed).then_some(Missed::Rpo { allowed, exposed })
            }
        });
        let rto = self.rto.and_then(|allowed| match measured.restore {
            None => Some(Missed::NeverRehearsed),
            Some(measured) => (measured > allowed).then_some(Missed::Rto { allowed, measured }),
        });
        rpo.into_iter().chain(rto).collect()
    }

    /// The table [objectives] of a policy, when it is there.
    pub(super) fn read(root: &mut Table<'_>) -> Result<Self> {
        let Some(mut table) = root.optional("objectives", &["rpo", "rto"])? else { return Ok(Objectives::default()) };
        let mut positive = |name: &str| match table.duration(name)? {
            Some(field) if field.value.is_zero() => {
                Err(field.wrong(format!("{name} is zero, which nothing can meet")).hint("write a duration, as in 1m"))
            }
            field => Ok(field.map(|field| field.value)),
        };
        Ok(Objectives { rpo: positive("rpo")?, rto: positive("rto")? })
    }
}

impl Missed {
    /// The objective's name in the policy file.
    pub const fn objective(&self) -> &'static str {
        match self {
            Missed::Rpo { .. } | Missed::NothingStored | Missed::FutureDated(_) => "rpo",
            Missed::Rto { .. } | Missed::NeverRehearsed => "rto",
        }
    }
}

impl fmt::Display for Missed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = units::duration;
        match self {
            Missed::Rpo { allowed, exposed } => {
                write!(f, "rpo: {} of changes would be lost now, {} may be", text(*exposed), text(*allowed))
            }
            Missed::NothingStored => write!(f, "rpo: there is no restore point"),
            Missed::FutureDated(time) => {
                write!(f, "rpo: the newest point is dated {}, in the future: its age is not known", rfc3339(*time))
            }
            Missed::Rto { allowed, measured } => {
                write!(f, "rto: a restore took {}, {} are allowed", text(*measured), text(*allowed))
            }
            Missed::NeverRehearsed => write!(f, "rto: no restore was ever measured"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::clock::parse_rfc3339;

    const MINUTE: Duration = Duration::from_secs(60);

    fn missed(
        rpo: Option<Duration>,
        rto: Option<Duration>,
        age: Option<i64>,
        restore: Option<Duration>,
    ) -> Vec<String> {
        let now = parse_rfc3339("2026-11-20T12:00:00Z").unwrap();
        let newest =
            age.map(|seconds| crate::base::clock::parse_rfc3339("2026-11-20T12:00:00Z").unwrap() - span(seconds));
        let missed = Objectives { rpo, rto }.missed(&Measured { now, newest, restore });
        missed
            .iter()
            .map(|missed| {
                assert!(missed.to_string().starts_with(missed.objective()));
                missed.to_string()
            })
            .collect()
    }

    fn span(seconds: i64) -> chrono::TimeDelta {
        chrono::TimeDelta::seconds(seconds)
    }

    #[test]
    fn an_objective_holds_up_to_its_last_second() {
        let none: Vec<String> = vec![];
        assert_eq!(missed(Some(MINUTE), Some(MINUTE), Some(60), Some(MINUTE)), none);
        assert_eq!(missed(None, None, None, None), none, "nothing is promised");
        let over = missed(Some(MINUTE), Some(MINUTE), Some(61), Some(MINUTE * 2));
        assert_eq!(
            over,
            [
                "rpo: 1 min 01 s of changes would be lost now, 1 min 00 s may be",
                "rto: a restore took 2 min 00 s, 1 min 00 s are allowed",
            ]
        );
    }

    #[test]
    fn what_was_never_measured_is_missed() {
        assert_eq!(
            missed(Some(MINUTE), Some(MINUTE), None, None),
            ["rpo: there is no restore point", "rto: no restore was ever measured",]
        );
    }

    #[test]
    fn a_point_of_the_future_has_no_age() {
        assert_eq!(missed(Some(MINUTE), None, Some(-300), None).len(), 0, "clocks may differ a little");
        assert_eq!(
            missed(Some(MINUTE), None, Some(-86_400), None),
            ["rpo: the newest point is dated 2026-11-21T12:00:00Z, in the future: its age is not known",]
        );
    }
}
