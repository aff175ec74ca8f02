//! Admission: from a point that somebody selected to a manifest that may be used.
//!
//! A listing shows every point and marks those that nobody trusted has signed. Whoever uses data passes through here
//! instead. `latest` that was forged is refused and not skipped: nobody is to be handed an older state without hearing of
//! it. So the refusal names the newest point that could be used.

use crate::base::error::{Error, Result};
use crate::vault::catalog::{Catalog, Point, is_damage};
use crate::vault::layout::PointName;
use crate::vault::manifest::Manifest;
use crate::vault::repository::Repository;

/// How many points are passed over in search of one that may be used: who can write to a bucket can put any number there.
pub const PASSED_OVER_MAX: usize = 100;

/// A manifest that may be used.
#[derive(Debug)]
pub struct Admitted {
    /// It.
    pub manifest: Manifest,
    /// What is to be said of it: it is used because the operator allows it.
    pub doubt: Option<String>,
}

/// The manifest of a point of `catalog`. One that may not be used is an error, which names the newest that may.
pub async fn admit(repository: &Repository, catalog: &Catalog, name: &PointName) -> Result<Admitted> {
    let (manifest, standing) = repository.stored_manifest(name).await?;
    let signers = repository.signers();
    let Err(error) = signers.check(&format!("point {} of cluster {}", name.attempt, name.cluster), standing) else {
        return Ok(Admitted { manifest, doubt: signers.doubt(standing) });
    };
    let others = catalog.points.iter().rev().filter(|point| point.name != *name);
    let newest = match newest(repository, others).await? {
        Some(newest) => {
            let PointName { attempt, revision, .. } = newest.name();
            format!("the newest point that can be used is {attempt} (revision {revision})")
        }
        None => "no other point that can be used was found".to_owned(),
    };
    let hint = format!("{newest}; {}", error.hint_text().unwrap_or_default());
    Err(error.hint(hint))
}

/// The manifest of the first of `points` that may be used, newest first; none: there is none among the first of them.
pub async fn newest<'a>(
    repository: &Repository,
    points: impl Iterator<Item = &'a Point>,
) -> Result<Option<Manifest>> {
    for point in points.take(PASSED_OVER_MAX) {
        match repository.manifest(&point.name).await {
            Ok(manifest) => return Ok(Some(manifest)),
            Err(error) if is_damage(&error) => {}
            Err(error) => return Err(Error::during(error, "look for a point that can be used")),
        }
    }
    Ok(None)
}
