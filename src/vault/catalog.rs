//! The catalog: which restore points of a cluster there are.
//!
//! Facts come from names, so listing costs one pass over names whatever the number of points; whoever needs a manifest
//! reads that one. What is damaged stays in the list as damaged: hiding it would read as "no such point",
//! which is the wrong thing to believe at the wrong moment.
//!
//! The current lineage is chosen among those that have points. A lineage registered by a backup that died before its
//! manifest changes nothing that anyone sees.

use futures::stream::TryStreamExt;
use std::collections::{HashMap, HashSet};

use crate::base::clock::Time;
use crate::base::error::{Error, Kind, Result};
use crate::base::id;
use crate::vault::condemned::{self, Condemned};
use crate::vault::layout::{Lineage, Location, PointName, folder};
use crate::vault::lineage::{self, Current, Lineages};
use crate::vault::manifest::Manifest;
use crate::vault::repository::{Repository, stray};

/// A restore point as listed.
#[derive(Debug)]
pub struct Point {
    /// Its name, which tells lineage, revision, kind and attempt.
    pub name: PointName,
    /// Size of its manifest.
    pub manifest_bytes: u64,
    /// When the store says that the manifest was written.
    pub modified: Time,
    /// Whether a collector is about to delete it; for its chain ask `Catalog::condemns`.
    pub condemned: bool,
}

/// The restore points of one cluster: abandoned branches first, then the current one; within a branch by revision.
#[derive(Debug)]
pub struct Catalog {
    /// The cluster.
    pub cluster: String,
    /// The repository's address, for messages.
    pub url: String,
    /// All points, the newest of the current lineage last.
    pub points: Vec<Point>,
    /// The branches that are registered, with points and without.
    pub lineages: Lineages,
    /// The branch that `latest` means; none when damage makes it unknowable.
    pub current: Option<Lineage>,
    /// Strange names among the points, and condemned lists that cannot be read.
    pub(crate) damage: Vec<Error>,
    condemned: Condemned,
}

impl Catalog {
    /// Lists the points of a cluster. None at all is an error of kind `NotFound` that names the clusters there are.
    pub async fn load(repository: &Repository, cluster: &str) -> Result<Self> {
        let catalog = Catalog::look(repository, cluster).await?;
        if catalog.points.is_empty() && catalog.damage.is_empty() {
            return Err(nothing(repository, cluster).await);
        }
        Ok(catalog)
    }

    /// The same where there may be none yet.
    pub async fn look(repository: &Repository, cluster: &str) -> Result<Self> {
        id::check_name("cluster", cluster)?;
        let mut damage = vec![];
        let mut points = list_points(repository, cluster, &mut damage).await?;
        let lineages = lineage::list(repository, cluster).await?;
        let mut condemned = condemned::read(repository, cluster).await?;
        let current = current_lineage(&points, &lineages);
        damage.append(&mut condemned.damage);
        let opened: HashMap<Lineage, Time> = lineages.known.iter().map(|l| (l.lineage, l.opened)).collect();
        points.sort_by_key(|p| {
            let lineage = p.name.lineage;
            (
                current == Some(lineage),
                opened.get(&lineage).copied(),
                lineage,
                p.name.revision,
                p.modified,
                p.name.attempt,
            )
        });
        for point in &mut points {
            point.condemned = condemned.points.contains(&Location::Point(point.name.clone()).to_string());
        }
        let (cluster, url) = (cluster.to_owned(), repository.url().to_owned());
        Ok(Catalog { cluster, url, points, lineages, current, damage, condemned })
    }

    /// What is wrong beside the points: strange names, damaged lineage documents or condemned lists.
    pub fn damage(&self) -> impl Iterator<Item = &Error> {
        self.lineages.damage.iter().chain(&self.damage)
    }

    /// Whether a collector is about to delete the point or an object of its chain.
    pub fn condemns(&self, manifest: &Manifest) -> bool {
        let path = Location::Point(manifest.name()).to_string();
        self.condemned.points.contains(&path)
            || manifest.objects.iter().any(|entry| self.condemned.objects.contains(&entry.name))
    }
}

/// Damaged, gone since it was listed, or from a newer version: in each case it stays visible with the reason.
pub fn is_damage(error: &Error) -> bool {
    matches!(error.kind(), Kind::Damaged | Kind::NotFound | Kind::Usage)
}

/// Every point by its name; what lies among them and is none goes to `damage`.
pub(crate) async fn list_points(repository: &Repository, cluster: &str, damage: &mut Vec<Error>) -> Result<Vec<Point>> {
    let mut points = vec![];
    let mut listed = repository.list(&folder::points(cluster));
    while let Some(object) = listed.try_next().await? {
        match Location::parse(&object.path) {
            Ok(Location::Point(name)) => {
                let (manifest_bytes, modified) = (object.bytes, object.modified);
                points.push(Point { name, manifest_bytes, modified, condemned: false });
            }
            Ok(_) => damage.push(stray(Error::damaged(format!("{} is no restore point", object.path)))),
            Err(error) => damage.push(stray(error)),
        }
    }
    Ok(points)
}

fn current_lineage(points: &[Point], lineages: &Lineages) -> Option<Lineage> {
    let with_points: HashSet<Lineage> = points.iter().map(|p| p.name.lineage).collect();
    if with_points.len() == 1 {
        return with_points.into_iter().next();
    }
    // A branch without any document says as little as one that cannot be read, and nobody can tell of it who knows.
    let children = || lineages.known.iter().filter(|document| with_points.contains(&document.lineage));
    let continued = |lineage: &Lineage| children().any(|child| child.parent == Some(*lineage));
    if with_points.iter().any(|lineage| !lineages.has(*lineage) && !continued(lineage)) {
        return None;
    }
    match lineages.current(|lineage| with_points.contains(&lineage)) {
        Current::Known(document) => Some(document.lineage),
        Current::None | Current::Unreadable(_) => None,
    }
}

/// The error of a cluster without points, with what there is instead.
pub(crate) async fn nothing(repository: &Repository, cluster: &str) -> Error {
    let text = format!("no restore points of cluster {cluster} in {}", repository.url());
    let error = Error::new(Kind::NotFound, text);
    match repository.clusters().await {
        Ok(others) if others.iter().any(|other| other == cluster) => {
            error.hint("a backup began there but none was ever finished; run `holdfast backup`")
        }
        Ok(others) if !others.is_empty() => error.hint(format!("it holds points of: {}", others.join(", "))),
        _ => error.hint("make the first backup with `holdfast backup`"),
    }
}

#[cfg(test)]
impl Catalog {
    /// A catalog of points that no store holds.
    pub(crate) fn of(points: Vec<Point>, current: Option<Lineage>, condemned: Condemned) -> Self {
        let (cluster, url) = ("prod".to_owned(), "file:///backups".to_owned());
        Catalog { cluster, url, points, lineages: Lineages::default(), current, damage: vec![], condemned }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::id::EtcdId;
    use crate::vault::condemned::CondemnedList;
    use crate::vault::lineage::LineageDocument;
    use crate::vault::testing;
    use chrono::TimeDelta;

    fn lineage_of(digit: char) -> Lineage {
        Lineage::parse(&digit.to_string().repeat(32)).unwrap()
    }

    async fn add(repository: &Repository, lineage: char, revision: i64) -> PointName {
        let mut entry = testing::entry("prod", revision, revision);
        entry.name = entry.name.replace(testing::LINEAGE, &lineage.to_string().repeat(32));
        let mut manifest = testing::manifest("prod", &[entry]);
        manifest.lineage = lineage_of(lineage);
        repository.put_document(&Location::Point(manifest.name()), &manifest).await.unwrap();
        manifest.name()
    }

    async fn register(repository: &Repository, lineage: char, parent: Option<char>, day: i64) {
        let document = LineageDocument {
            lineage: lineage_of(lineage),
            parent: parent.map(lineage_of),
            fork_revision: None,
            reason: "test".into(),
            cluster_id: EtcdId(1),
            opened: testing::time() + TimeDelta::days(day),
        };
        lineage::register(repository, "prod", &document).await.unwrap();
    }

    #[tokio::test]
    async fn points_are_ordered_by_revision_within_the_current_lineage() {
        let (_dir, repository) = testing::repository().await;
        register(&repository, 'a', None, 5).await;
        register(&repository, 'b', Some('a'), 1).await;
        for (lineage, revision) in [('a', 900), ('b', 510), ('a', 20), ('b', 600), ('a', 100)] {
            add(&repository, lineage, revision).await;
        }
        // Registered, but its backup died before the manifest: it is not there for anyone.
        register(&repository, 'c', Some('b'), 2).await;
        let catalog = Catalog::load(&repository, "prod").await.unwrap();
        let order: Vec<i64> = catalog.points.iter().map(|p| p.name.revision).collect();
        assert_eq!(order, [20, 100, 900, 510, 600]);
        assert_eq!(catalog.current, Some(lineage_of('b')));
        assert_eq!(catalog.damage().count(), 0);
    }

    #[tokio::test]
    async fn damaged_points_stay_visible_and_condemned_ones_are_marked() {
        let (dir, repository) = testing::repository().await;
        register(&repository, 'a', None, 0).await;
        let (one, two, three) =
            (add(&repository, 'a', 1).await, add(&repository, 'a', 2).await, add(&repository, 'a', 3).await);
        testing::damage(&dir.path().join(Location::Point(one.clone()).to_string()));
        let shared = repository.manifest(&two).await.unwrap().objects[0].name.clone();
        let points = vec![Location::Point(three.clone()).to_string()];
        let list = CondemnedList { epoch: 1, n: 1, created: testing::time(), objects: vec![shared], points };
        list.create(&repository, "prod").await.unwrap();
        std::fs::File::create(dir.path().join("clusters/prod/points/stray.json")).unwrap();

        let catalog = Catalog::load(&repository, "prod").await.unwrap();
        assert_eq!(catalog.points.iter().map(|p| p.condemned).collect::<Vec<_>>(), [false, false, true]);
        assert_eq!(repository.manifest(&one).await.unwrap_err().kind(), Kind::Damaged);
        for (name, condemned) in [(&two, true), (&three, true), (&add(&repository, 'a', 4).await, false)] {
            assert_eq!(catalog.condemns(&repository.manifest(name).await.unwrap()), condemned, "{name:?}");
        }
        assert!(catalog.damage[0].to_string().contains("stray.json"), "{:?}", catalog.damage);
    }

    #[tokio::test]
    async fn nothing_there_is_said_with_what_is_and_an_unreadable_listing_is_not_nothing() {
        let (dir, repository) = testing::repository().await;
        let error = Catalog::load(&repository, "prod").await.unwrap_err();
        assert_eq!(error.kind(), Kind::NotFound);
        assert!(error.to_string().starts_with("no restore points of cluster prod in file://"));
        add(&repository, 'a', 1).await;
        let error = Catalog::load(&repository, "prd").await.unwrap_err();
        assert!(error.hint_text().unwrap().contains("prod"));
        assert_eq!(Catalog::load(&repository, "../x").await.unwrap_err().kind(), Kind::Usage);
        // A folder that leads in a circle stands for any listing that fails half-way (root ignores permissions).
        std::os::unix::fs::symlink(dir.path(), dir.path().join("clusters/prod/points/loop")).unwrap();
        let error = Catalog::load(&repository, "prod").await.unwrap_err();
        assert_eq!(error.kind(), Kind::Failed, "{}", error.chain());
    }

    #[tokio::test]
    async fn one_damaged_lineage_document_makes_latest_unknowable_only_when_it_matters() {
        let (dir, repository) = testing::repository().await;
        register(&repository, 'a', None, 0).await;
        add(&repository, 'a', 1).await;
        let path = |c| dir.path().join(Location::Lineage("prod".into(), lineage_of(c)).to_string());
        testing::damage(&path('a'));
        let catalog = Catalog::load(&repository, "prod").await.unwrap();
        assert_eq!((catalog.current, catalog.damage().count()), (Some(lineage_of('a')), 1));
        register(&repository, 'b', Some('a'), 1).await;
        add(&repository, 'b', 2).await;
        // `b` says that it continues `a`: what the document of `a` said does not matter any more.
        let catalog = Catalog::load(&repository, "prod").await.unwrap();
        assert_eq!((catalog.current, catalog.damage().count()), (Some(lineage_of('b')), 1));
        testing::damage(&path('b'));
        let catalog = Catalog::load(&repository, "prod").await.unwrap();
        assert_eq!((catalog.current, catalog.damage().count()), (None, 2));
        let error = catalog.select("latest").unwrap_err();
        assert_eq!((error.kind(), error.hint_text().is_some()), (Kind::Damaged, true));
        // A document that is missing tells as little.
        std::fs::remove_file(path('b')).unwrap();
        assert_eq!(Catalog::load(&repository, "prod").await.unwrap().current, None);
    }
}
