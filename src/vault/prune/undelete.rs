//! Taking a condemned point back, while all that it needs is there.
//!
//! An undelete is a collector that keeps: it claims the next epoch, which stops whoever is deleting, publishes the lists
//! anew without the point and its objects, and deletes the old ones. The grace of what else they named starts again.

use std::collections::HashSet;

use crate::base::error::{Error, Kind, Result};
use crate::base::steps::Steps;
use crate::base::stop::Stop;
use crate::vault::condemned::{self, CondemnedList};
use crate::vault::epoch::Epoch;
use crate::vault::layout::{Location, PointName};
use crate::vault::manifest::Manifest;
use crate::vault::repository::Repository;
use crate::vault::scrub::missing;

/// A point that was taken back.
#[derive(Debug, PartialEq, Eq)]
pub struct Undeleted {
    /// Objects of its chain, all of which are there.
    pub objects: u64,
    /// Lists that named it or part of its chain.
    pub lists: u64,
}

/// Takes a condemned point back.
pub async fn undelete(repository: &Repository, name: &PointName, steps: &Steps, stop: &Stop) -> Result<Undeleted> {
    let manifest = repository.manifest(name).await?;
    let path = Location::Point(name.clone()).to_string();
    let own: HashSet<&str> = manifest.objects.iter().map(|entry| entry.name.as_str()).collect();
    let is_own = |listed: &str| listed == path || own.contains(listed);
    let lists = condemned::lists(repository, &name.cluster).await?;
    let names = |list: &CondemnedList| list.points.iter().chain(&list.objects).any(|listed| is_own(listed));
    let lists: Vec<_> = lists.into_iter().filter(|listed| names(&listed.list)).collect();
    if lists.is_empty() {
        return Err(Error::new(Kind::NotFound, format!("point {} is not condemned", name.attempt))
            .hint("there is nothing to take back; `holdfast hold` keeps a point from being condemned"));
    }
    check_whole(repository, &manifest, name, stop).await?;
    let epoch = steps.step("claim the epoch", Epoch::claim(repository, &name.cluster, "undelete")).await?;
    for (n, listed) in (1..).zip(&lists) {
        let keep = |paths: &[String]| paths.iter().filter(|listed| !is_own(listed)).cloned().collect::<Vec<_>>();
        let (points, objects) = (keep(&listed.list.points), keep(&listed.list.objects));
        if points.is_empty() && objects.is_empty() {
            continue;
        }
        let created = repository.clock().now();
        let list = CondemnedList { epoch: epoch.number, n, created, objects, points };
        steps.step("condemn the rest", list.create(repository, &name.cluster)).await?;
    }
    for listed in &lists {
        epoch.check(repository).await?;
        steps.step("delete a condemned list", repository.delete_if_there(&listed.at)).await?;
    }
    // A collector that was deleting stops at its next look at the epochs; what it took before that is told.
    repository.manifest(name).await.map_err(|error| too_late(name, &error.chain()))?;
    check_whole(repository, &manifest, name, stop).await?;
    Ok(Undeleted { objects: manifest.objects.len() as u64, lists: lists.len() as u64 })
}

async fn check_whole(repository: &Repository, manifest: &Manifest, name: &PointName, stop: &Stop) -> Result<()> {
    match missing(repository, manifest, stop).await?.first() {
        None => Ok(()),
        Some(finding) => Err(too_late(name, &format!("{}: {}", finding.object, finding.detail))),
    }
}

fn too_late(name: &PointName, why: &str) -> Error {
    Error::damaged(format!("point {} cannot be taken back: {why}", name.attempt))
        .hint("the grace was over; choose another point with `holdfast list`")
}
