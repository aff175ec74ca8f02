//! What the repository holds of a cluster, as it was before a backup looked at the cluster.
//!
//! The order matters. A backup that reads the repository after it has streamed may find a newer point, made by another
//! one meanwhile, and take its own, older file for a cluster that went back. Whatever was published before the cluster was
//! asked is not newer than the cluster.
//!
//! What nobody trusted has signed does not count as history: whoever can write to the repository could have put it there.

use crate::agent::ancestry::Position;
use crate::base::error::{Error, Result};
use crate::base::id::EtcdId;
use crate::base::stop::Stop;
use crate::vault::admit::PASSED_OVER_MAX;
use crate::vault::catalog::{Catalog, Point, is_damage};
use crate::vault::layout::{Lineage, PointName};
use crate::vault::lineage::Current;
use crate::vault::manifest::Manifest;
use crate::vault::repository::Repository;
use crate::vault::scrub;
use crate::vault::sign::Standing;
use crate::vault::verdict::Verdict;

/// The history that a new point may continue.
#[derive(Debug, Default)]
pub struct History {
    /// Every branch that is registered.
    pub lineages: Vec<Lineage>,
    /// The current branch, and the cluster on it.
    current: Option<(Lineage, EtcdId)>,
    /// The branch that may be the current one, and whose document cannot be read.
    pub lost: Option<Lineage>,
    /// The revision that it reached. Where nobody has to sign, also as the names of points tell that cannot be read.
    pub reached: i64,
    /// The newest point of the current branch that is believed.
    pub newest: Option<Newest>,
}

/// The newest point of the current branch.
#[derive(Debug)]
pub struct Newest {
    /// Its name.
    pub name: PointName,
    /// Its manifest.
    pub manifest: Manifest,
    /// Whether a collector is about to delete something it needs.
    pub condemned: bool,
    /// All points of its branch.
    points: Vec<PointName>,
}

impl History {
    /// Reads it. What is damaged is passed over with a warning: it must not stand in the way of the next backup.
    pub async fn load(repository: &Repository, cluster: &str, warnings: &mut Vec<String>) -> Result<Self> {
        let catalog = Catalog::look(repository, cluster).await?;
        let lineages = &catalog.lineages;
        warnings.extend(lineages.damage.iter().map(Error::as_warning));
        let mut history = History {
            lineages: lineages.known.iter().map(|document| document.lineage).collect(),
            ..History::default()
        };
        match lineages.current(|_| true) {
            Current::Known(document) => history.current = Some((document.lineage, document.cluster_id)),
            Current::Unreadable(lineage) => history.lost = Some(lineage),
            Current::None => {}
        }
        let current = history.current.map(|(lineage, _)| lineage);
        let mut foreign: Vec<(&PointName, Standing)> = vec![];
        // However many there are that cannot be used, a backup comes to its end.
        let on_current = |point: &&Point| current == Some(point.name.lineage);
        for point in catalog.points.iter().rev().filter(on_current).take(PASSED_OVER_MAX) {
            match repository.stored_manifest(&point.name).await {
                Ok((manifest, standing)) if repository.signers().believes(standing) => {
                    let condemned = catalog.condemns(&manifest);
                    let points = catalog.points.iter().map(|point| point.name.clone());
                    let points = points.filter(|name| name.lineage == point.name.lineage).collect();
                    history.reached = history.reached.max(point.name.revision);
                    history.newest = Some(Newest { name: point.name.clone(), manifest, condemned, points });
                    break;
                }
                Ok((_, standing)) => foreign.push((&point.name, standing)),
                // Also one that says that only a newer version may read it, which anybody can write into a manifest.
                Err(error) if is_damage(&error) => {
                    warnings.push(error.as_warning());
                    if repository.signers().believes(Standing::Unsigned) {
                        history.reached = history.reached.max(point.name.revision);
                    }
                }
                Err(error) => return Err(error),
            }
        }
        warnings.extend(passed_over(&foreign));
        Ok(history)
    }

    /// The current branch and where its newest point stood; at the beginning where it has none.
    pub fn position(&self) -> Option<(Lineage, Position)> {
        let (lineage, cluster_id) = self.current?;
        let newest = self.newest.as_ref().map(|newest| &newest.manifest.descriptor);
        let position = Position {
            cluster_id,
            revision: self.reached,
            raft_term: newest.map_or(0, |newest| newest.raft_term),
            raft_index: newest.map_or(0, |newest| newest.raft_index),
        };
        Some((lineage, position))
    }
}

/// What is said of points that nobody trusted has signed. No increment stands on them: it would be signed, and with it the
/// objects of whoever wrote them.
fn passed_over(foreign: &[(&PointName, Standing)]) -> Option<String> {
    let (newest, standing) = foreign.first()?;
    let how = match standing.signer() {
        Some(key) => format!("signed by {key}, which is not trusted"),
        None => "not signed".to_owned(),
    };
    let (count, attempt) = (foreign.len(), newest.attempt);
    let others = if count == 1 { String::new() } else { format!(", and {} before it,", count - 1) };
    Some(format!(
        "point {attempt}{others} was passed over: it is {how}, and nothing is built on it; `holdfast list` marks such \
         points: find out who made them"
    ))
}

impl Newest {
    /// What is wrong with the point; nothing when its whole chain is there.
    pub async fn broken(&self, repository: &Repository, stop: &Stop) -> Result<Option<String>> {
        if self.condemned {
            return Ok(Some("a collector is about to delete something of the point before".to_owned()));
        }
        if let Some(verdict) = Verdict::of_damage(repository, &self.manifest, &self.points).await? {
            let (level, point) = (verdict.level, verdict.point);
            return Ok(Some(format!(
                "what the point before stands on fails verification at level {level} (point {point})"
            )));
        }
        let missing = scrub::missing(repository, &self.manifest, stop).await?;
        Ok(missing.first().map(|finding| format!("{}: {}", finding.object, finding.detail)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vault::layout::Location;
    use crate::vault::testing;

    #[tokio::test]
    async fn what_cannot_be_believed_still_tells_how_far_history_came() {
        let (dir, repository) = testing::repository().await;
        let load = async || {
            let mut warnings = vec![];
            (History::load(&repository, "prod", &mut warnings).await.unwrap(), warnings.len())
        };
        let (none, warnings) = load().await;
        assert_eq!((none.position(), none.reached, warnings), (None, 0, 0));
        let older = testing::point(&repository, 4).await;
        let newer = testing::point(&repository, 9).await;
        testing::damage(&dir.path().join(Location::Point(newer.name()).to_string()));
        let (history, warnings) = load().await;
        assert_eq!((history.newest.as_ref().unwrap().name.clone(), warnings), (older.name(), 1));
        // A cluster that was put back to revision 7 is behind its history, whatever is left of that.
        assert_eq!(history.position().unwrap().1.revision, 9);
    }
}
