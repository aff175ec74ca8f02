//! Publishing a restore point: the order of durable steps that makes a listed point a whole one.
//!
//! ```text
//! 1 ... n    data objects                    put.rs; nothing lists them yet
//! n + 1      the lineage's document          when it is new; a lineage without points shows nothing
//! n + 2      the manifest, create-only       the one moment at which the point begins to exist
//! then       read the condemned lists again  withdraw the point, loudly, if a collector is about to take its chain
//!            look at its objects             the same, if a collector has taken them already
//! ```
//!
//! Killed between any two steps, a run leaves either nothing visible or the whole point; the next run needs to know
//! nothing about it.

use crate::base::error::{Error, Kind, Result};
use crate::base::steps::Steps;
use crate::base::stop::Stop;
use crate::vault::condemned;
use crate::vault::layout::{Location, PointName};
use crate::vault::lineage::{self, LineageDocument};
use crate::vault::manifest::Manifest;
use crate::vault::pack::Check;
use crate::vault::repository::{Repository, Stored};
use crate::vault::scrub::{Verification, verify};
use crate::vault::verdict::{Level, Verdict};

/// A point that now exists.
#[derive(Debug)]
pub struct Published {
    /// Its name.
    pub name: PointName,
    /// Why it is not certain that no collector is about to delete it, when it is not.
    pub doubts: Vec<String>,
}

/// Publishes a point whose data objects are stored. `opened` is its lineage when this backup opens it.
pub async fn publish(
    repository: &Repository,
    opened: Option<&LineageDocument>,
    manifest: &Manifest,
    steps: &Steps,
) -> Result<Published> {
    let name = manifest.name();
    manifest.validate(&name)?;
    if let Some(document) = opened {
        assert_eq!(document.lineage, manifest.lineage, "a point is published with the lineage it lies on");
        steps.step("register the lineage", lineage::register(repository, &name.cluster, document)).await?;
    }
    let at = Location::Point(name.clone());
    let stored = steps.step("publish the manifest", repository.put_manifest(manifest)).await?;
    let condemned = condemned::read(repository, &name.cluster).await.map_err(unsure)?;
    let safe = condemned.check([at.to_string().as_str()], manifest.objects.iter().map(|entry| entry.name.as_str()));
    if let Err(error) = safe {
        // What was there already is somebody else's.
        return Err(if stored == Stored::Created { withdraw(repository, &name, error).await } else { error });
    }
    let doubt = |error: &Error| format!("whether the point is about to be deleted is unknown: {}", error.as_warning());
    let doubts = condemned.damage.iter().map(doubt).collect();
    Ok(Published { name, doubts })
}

/// Takes back a point that was just published and cannot be relied on, so that no point is listed whose objects a
/// collector deleted; returns why.
pub async fn withdraw(repository: &Repository, name: &PointName, why: Error) -> Error {
    match repository.delete_if_there(&Location::Point(name.clone())).await {
        Ok(()) => why.during(format!("point {} was withdrawn", name.attempt)),
        Err(error) => {
            why.source(error).during(format!("point {} is not whole and could not be withdrawn", name.attempt))
        }
    }
}

/// A first look at a point that was just published: whether all its objects are there, and a verdict that says so.
///
/// A collector deletes its list last, so whoever published too late to see the list finds the objects gone: such a point
/// is withdrawn. Everybody who publishes looks.
pub async fn look(repository: &Repository, name: &PointName, stop: &Stop) -> Result<Verdict> {
    let verification = Verification { level: Level::Exists, prover: None, stop: stop.clone() };
    let verdict = verify(repository, name, verification, |_| ()).await?;
    let Some(gone) = verdict.findings.iter().find(|finding| finding.check == Check::Exists) else { return Ok(verdict) };
    let text = format!("{} was deleted while the point was made", gone.object);
    let error = Error::new(Kind::Failed, text).hint("run the command again: what is missing is stored anew");
    Err(withdraw(repository, name, error).await)
}

fn unsure(error: Error) -> Error {
    error
        .during("the point is published, but whether a collector is about to delete its data could not be read")
        .or_hint("look at it with `holdfast list` and `holdfast verify`, or make another backup")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::steps::Edge;
    use crate::vault::catalog::Catalog;
    use crate::vault::condemned::CondemnedList;
    use crate::vault::testing;

    #[tokio::test]
    async fn killed_before_or_after_any_step_nothing_half_is_visible_and_the_next_run_succeeds() {
        let (_dir, repository) = testing::repository().await;
        let mut walked = 0;
        loop {
            // Each run dies at one edge further: before step 1, after step 1, before step 2...
            let at = (walked / 2 + 1, if walked % 2 == 0 { Edge::Before } else { Edge::After });
            let steps = Steps::heard_by(move |step| match (step.number, step.edge) == at {
                true => Err(Error::new(Kind::Interrupted, "killed")),
                false => Ok(()),
            });
            let cluster = format!("c{walked}");
            let result = testing::publish_point(&repository, &cluster, 4, &steps).await;
            let visible = Catalog::load(&repository, &cluster).await;
            match (&result, &visible) {
                (Ok(_), _) => break,
                (Err(_), Ok(catalog)) => {
                    // The manifest was written and the run died right after: the point is whole.
                    let manifest = repository.manifest(&catalog.points[0].name).await.unwrap();
                    testing::assert_readable(&repository, &manifest).await;
                }
                (Err(_), Err(error)) => assert_eq!(error.kind(), Kind::NotFound),
            }
            let next = testing::publish_point(&repository, &cluster, 4, &Steps::unheard()).await.unwrap();
            let catalog = Catalog::load(&repository, &cluster).await.unwrap();
            assert_eq!(catalog.select("latest").unwrap().name.revision, next.descriptor.revision);
            testing::assert_readable(&repository, &next).await;
            walked += 1;
        }
        // At least four data objects, the lineage and the manifest, each with two edges.
        assert!(walked >= 12, "{walked}");
    }

    #[tokio::test]
    async fn two_writers_at_once_make_two_whole_points() {
        let (_dir, repository) = testing::repository().await;
        let steps = Steps::unheard();
        let (one, two) = tokio::join!(
            testing::publish_point(&repository, "prod", 5, &steps),
            testing::publish_point(&repository, "prod", 5, &steps)
        );
        let (one, two) = (one.unwrap(), two.unwrap());
        assert_eq!(one.objects, two.objects, "equal records share their objects");
        assert_ne!(one.attempt, two.attempt);
        assert_eq!(Catalog::load(&repository, "prod").await.unwrap().points.len(), 2);
        testing::assert_readable(&repository, &one).await;
    }

    #[tokio::test]
    async fn a_chain_that_was_condemned_meanwhile_fails_the_backup() {
        let (_dir, repository) = testing::repository().await;
        let older = testing::publish_point(&repository, "prod", 3, &Steps::unheard()).await.unwrap();
        let objects = vec![older.objects[1].name.clone()];
        let list = CondemnedList { epoch: 1, n: 1, created: testing::time(), objects, points: vec![] };
        list.create(&repository, "prod").await.unwrap();
        let error = testing::publish_point(&repository, "prod", 3, &Steps::unheard()).await.unwrap_err();
        assert!(error.chain().contains(&older.objects[1].name) && error.chain().contains("withdrawn"), "{error}");
        assert!(error.hint_text().is_some());
        // Nobody sees it any more.
        let points = Catalog::load(&repository, "prod").await.unwrap().points;
        assert!(matches!(&points[..], [point] if point.name == older.name()), "{points:?}");
    }

    #[tokio::test]
    async fn a_point_whose_objects_a_collector_took_meanwhile_is_withdrawn() {
        let (dir, repository) = testing::repository().await;
        let point = testing::publish_point(&repository, "prod", 3, &Steps::unheard()).await.unwrap();
        let verdict = look(&repository, &point.name(), &Stop::new()).await.unwrap();
        assert_eq!((verdict.level, verdict.findings.len()), (1, 0));
        std::fs::remove_file(dir.path().join(&point.objects[1].name)).unwrap();
        let error = look(&repository, &point.name(), &Stop::new()).await.unwrap_err();
        assert!(error.chain().contains("withdrawn") && error.hint_text().is_some(), "{}", error.chain());
        assert_eq!(Catalog::load(&repository, "prod").await.unwrap_err().kind(), Kind::NotFound);
    }
}
