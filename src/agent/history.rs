//! What the repository holds of a cluster, as it was before a backup looked at the cluster.
//!
//! The order matters. A backup that reads the repository after it has streamed may find a newer point, made by another
//! one meanwhile, and take its own, older file for a cluster that went back. Whatever was published before the cluster was
//! asked is not newer than the cluster.

use crate::base::error::{Error, Kind, Result};
use crate::base::stop::Stop;
use crate::vault::catalog::Catalog;
use crate::vault::layout::{Lineage, PointName};
use crate::vault::manifest::Manifest;
use crate::vault::repository::Repository;
use crate::vault::scrub;
use crate::vault::verdict::{Outcome, Verdict};

/// The history that a new point may continue.
#[derive(Debug, Default)]
pub struct History {
    /// Every branch that is registered.
    pub lineages: Vec<Lineage>,
    /// The newest point of the current branch that can be believed.
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
}

impl History {
    /// Reads it. What is damaged is passed over with a warning: it must not stand in the way of the next backup.
    pub async fn load(repository: &Repository, cluster: &str, warnings: &mut Vec<String>) -> Result<Self> {
        let catalog = match Catalog::load(repository, cluster).await {
            Ok(catalog) => catalog,
            Err(error) if error.kind() == Kind::NotFound => return Ok(History::default()),
            Err(error) => return Err(error),
        };
        warnings.extend(catalog.damage.iter().map(Error::chain));
        let lineages = catalog.lineages.iter().map(|document| document.lineage).collect();
        let current = catalog.current.or_else(|| {
            let latest = catalog.points.iter().max_by_key(|point| point.modified)?;
            warnings.push(format!(
                "which branch of history is current cannot be read; {} is taken for it",
                latest.name.lineage
            ));
            Some(latest.name.lineage)
        });
        let mut newest = None;
        for point in catalog.points.iter().rev().filter(|point| current == Some(point.name.lineage)) {
            match repository.manifest(&point.name).await {
                Ok(manifest) => {
                    let condemned = point.condemned || catalog.condemns(&manifest);
                    newest = Some(Newest { name: point.name.clone(), manifest, condemned });
                    break;
                }
                Err(error) if [Kind::Damaged, Kind::NotFound].contains(&error.kind()) => warnings.push(error.chain()),
                Err(error) => return Err(error),
            }
        }
        Ok(History { lineages, newest })
    }
}

impl Newest {
    /// Why nothing can be built on the point; nothing when its whole chain is there.
    pub async fn unfit(&self, repository: &Repository, stop: &Stop) -> Result<Option<String>> {
        if self.condemned {
            return Ok(Some("a collector is about to delete something of the point before".to_owned()));
        }
        match Verdict::newest(repository, &self.name).await {
            Ok(Some(verdict)) if verdict.result == Outcome::Failed => {
                return Ok(Some(format!("the point before fails verification at level {}", verdict.level)));
            }
            Ok(_) => {}
            Err(error) if error.kind() == Kind::Damaged => {}
            Err(error) => return Err(error),
        }
        let missing = scrub::missing(repository, &self.manifest, stop).await?;
        Ok(missing.first().map(|finding| format!("{}: {}", finding.object, finding.detail)))
    }
}
