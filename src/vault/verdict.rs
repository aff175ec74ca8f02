//! Verdicts: what a verification found, kept beside the point and never inside it.

use futures::stream::TryStreamExt;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap, HashSet};

use crate::base::clock::{Time, next_ms};
use crate::base::error::{Error, Kind, Result};
use crate::vault::layout::{Location, PointName, folder};
use crate::vault::manifest::{Manifest, Tool};
use crate::vault::pack::{Check, Fault};
use crate::vault::repository::Repository;
use crate::vault::sealed::{self, Document};

/// Findings in one verdict; a point with more is damaged enough.
pub const FINDINGS_MAX: usize = 10_000;
/// Verdicts that are read to see whether a chain is known to be damaged, those on its newest points.
const DAMAGE_READS_MAX: usize = 32;
/// Verdicts of one level in one millisecond step aside this often.
const SAME_TIME_MAX: u32 = 100;

/// How deep a verification looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// L1: all objects exist with the right size.
    Exists,
    /// L2: every byte was read, digests are equal, everything decompresses.
    Bytes,
    /// L3: records decode and prove what the manifest says.
    Records,
}

impl Level {
    /// 1, 2 or 3.
    pub const fn number(self) -> u8 {
        match self {
            Level::Exists => 1,
            Level::Bytes => 2,
            Level::Records => 3,
        }
    }

    /// Reads 1, 2 or 3.
    pub fn from_number(number: u8) -> Result<Self> {
        let level = [Level::Exists, Level::Bytes, Level::Records].into_iter().find(|l| l.number() == number);
        level.ok_or_else(|| {
            Error::new(Kind::Usage, format!("there is no verification level {number}"))
                .hint("1: objects exist; 2: every byte is read; 3: records are decoded and proved")
        })
    }
}

/// Which of two verdicts is the newer one, by their names. A name that is dated later than the store says that it was
/// written counts as of then: whoever can write to a repository could otherwise say the last word for years.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Rank {
    said: Time,
    pub(crate) level: u8,
    pub(crate) time: Time,
}

impl Rank {
    /// Of the verdict that is named so and was stored then.
    pub(crate) fn new(time: Time, level: u8, stored: Time) -> Self {
        Rank { said: time.min(stored), level, time }
    }
}

/// L4: a member boots from it and serves what the manifest says. Only a drill looks as deep.
pub const MEMBER_LEVEL: u8 = 4;

/// The outcome of a verification.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// Nothing is wrong.
    Ok,
    /// Something is; see the findings.
    Failed,
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Finding {
    /// The object, as a path relative to the repository.
    pub object: String,
    /// The check it fails.
    pub check: Check,
    /// What was expected and what was found.
    pub detail: String,
}

impl Finding {
    pub(crate) fn of(object: impl Into<String>, fault: Fault) -> Self {
        Finding { object: object.into(), check: fault.check, detail: fault.detail }
    }
}

/// What a verification of a point found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    /// Revision, kind and attempt of the point.
    pub point: String,
    /// How deep it looked: 1 to 3, or `MEMBER_LEVEL`.
    pub level: u8,
    /// When it ended.
    #[serde(with = "sealed::rfc3339")]
    pub time: Time,
    /// The outcome.
    pub result: Outcome,
    /// Everything that is wrong, in order of the manifest.
    pub findings: Vec<Finding>,
    /// Who says so.
    pub tool: Tool,
}

impl Document for Verdict {
    const NAME: &'static str = "verdict";
    const BYTES_MAX: u64 = 16 << 20;
}

impl Verdict {
    /// The error that a failed verdict stands for.
    pub fn as_result(&self) -> Result<()> {
        let Some(first) = self.findings.first() else { return Ok(()) };
        let text = format!(
            "point {} fails verification at level {} in {} place(s); the first is {}: {}: {}",
            self.point,
            self.level,
            self.findings.len(),
            first.object,
            first.check,
            first.detail
        );
        Err(Error::damaged(text).hint("choose another point (`holdfast list`) and make a new backup now"))
    }

    /// The newest verdict on a point; none when it was never verified.
    pub async fn newest(repository: &Repository, name: &PointName) -> Result<Option<Self>> {
        let mut listed = repository.list(&folder::verdicts_on(&name.cluster, &name.stem()));
        let mut newest: Option<(Rank, Location)> = None;
        while let Some(object) = listed.try_next().await? {
            // A stray file is no verdict.
            let Ok(at) = Location::parse(&object.path) else { continue };
            let Location::Verdict(_, _, time, level) = at else { continue };
            let rank = Rank::new(time, level, object.modified);
            if newest.as_ref().is_none_or(|(before, _)| *before < rank) {
                newest = Some((rank, at));
            }
        }
        match newest {
            Some((_, at)) => repository.get_document(&at).await.map(Some),
            None => Ok(None),
        }
    }

    /// What verifications that read bytes have found wrong with anything that `manifest` stands on, and no later one right
    /// again. `points` are those of its lineage. Only a chain's own time counts: what was wrong before its full point was
    /// made is not in it, or was repaired by that.
    pub async fn of_damage(repository: &Repository, manifest: &Manifest, points: &[PointName]) -> Result<Option<Self>> {
        let Some(first) = manifest.segments.first() else { return Ok(None) };
        let chained = (first.revision..=manifest.descriptor.revision, manifest.lineage);
        let revisions: HashMap<String, i64> = points
            .iter()
            .filter(|name| chained.0.contains(&name.revision) && chained.1 == name.lineage)
            .map(|name| (name.stem(), name.revision))
            .collect();
        let mut newest: BTreeMap<(i64, u8, String), Rank> = BTreeMap::new();
        let mut listed = repository.list(&folder::verdicts(&manifest.cluster));
        while let Some(object) = listed.try_next().await? {
            let Ok(Location::Verdict(_, stem, time, level)) = Location::parse(&object.path) else { continue };
            if let Some(revision) =
                revisions.get(&stem).filter(|_| level > Level::Exists.number() && time >= first.started)
            {
                let rank = Rank::new(time, level, object.modified);
                let last = newest.entry((*revision, level, stem)).or_insert(rank);
                *last = (*last).max(rank);
            }
        }
        let mut sound: Vec<Rank> = vec![];
        for ((_, level, stem), rank) in newest.into_iter().rev().take(DAMAGE_READS_MAX) {
            // A later point holds all objects of those before it in its chain.
            if sound.iter().any(|later| later.level >= level && *later > rank) {
                continue;
            }
            let at = Location::Verdict(manifest.cluster.clone(), stem, rank.time, level);
            match repository.get_document::<Self>(&at).await {
                Ok(verdict) if verdict.result == Outcome::Ok => sound.push(rank),
                Ok(verdict) if verdict.is_about(manifest) => return Ok(Some(verdict)),
                Ok(_) => {}
                Err(error) if [Kind::Damaged, Kind::NotFound].contains(&error.kind()) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    /// Whether anything in the chain of `manifest` is among the findings.
    fn is_about(&self, manifest: &Manifest) -> bool {
        let objects: HashSet<&str> = manifest.objects.iter().map(|entry| entry.name.as_str()).collect();
        let revisions: HashSet<i64> = manifest.segments.iter().map(|segment| segment.revision).collect();
        self.findings.iter().any(|finding| match Location::parse(&finding.object) {
            // A manifest of a point before is needed no more; what its records do not prove is.
            Ok(Location::Point(name)) => {
                finding.check != Check::Manifest
                    && name.lineage == manifest.lineage
                    && revisions.contains(&name.revision)
            }
            _ => objects.contains(finding.object.as_str()),
        })
    }

    /// Stores the verdict under its time; another one of the same millisecond moves it by one.
    pub(crate) async fn store(&mut self, repository: &Repository, name: &PointName) -> Result<()> {
        for _ in 0..SAME_TIME_MAX {
            let at = Location::Verdict(name.cluster.clone(), self.point.clone(), self.time, self.level);
            match repository.put_document(&at, self).await {
                Err(error) if error.kind() == Kind::Conflict => self.time = next_ms(self.time),
                result => return result.map(|_| ()),
            }
        }
        Err(Error::new(Kind::Conflict, format!("too many verdicts on {} at {}", self.point, self.time)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::clock::parse_rfc3339;

    #[test]
    fn a_verdict_dated_ahead_is_as_old_as_its_file() {
        let at = |text: &str| parse_rfc3339(&format!("{text}T00:00:00Z")).unwrap();
        let forged = Rank::new(at("9000-01-01"), 3, at("2026-05-15"));
        // What was stored later is newer; what was stored earlier, or copied here long after it was said, is older.
        assert!(Rank::new(at("2026-05-16"), 1, at("2026-05-16")) > forged);
        assert!(Rank::new(at("2026-05-14"), 3, at("2026-05-14")) < forged);
        assert!(Rank::new(at("2026-05-14"), 3, at("2026-06-01")) < forged);
        assert_eq!((forged.level, forged.time), (3, at("9000-01-01")));
    }
}
