//! Condemned lists: what a collector is about to delete, said aloud before it happens.
//!
//! Deleting takes two phases. A collector publishes the list, waits, looks again who needs what, and only then deletes.
//! A backup that shares an object with an older point cannot know of a collector that decided a moment earlier; so it
//! reads the lists again *after* it has published, and fails loudly if its chain is on one. Either the collector sees
//! the new manifest during its second look, or the backup sees the list: never neither.
//!
//! A list that cannot be read proves nothing: what it names may be deleted soon. That is a doubt about every point, told
//! as a warning by whoever asks, and no reason to do without a point that is there.

use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

use crate::base::clock::Time;
use crate::base::error::{Error, Kind, Result};
use crate::vault::layout::{Location, folder};
use crate::vault::repository::{Repository, Stored};
use crate::vault::sealed::{self, Document, HINT_DAMAGED};

/// Paths in one list; a collector with more writes several.
pub const PATHS_MAX: usize = 100_000;

/// One list.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CondemnedList {
    /// The collector's epoch.
    pub epoch: u32,
    /// Its number within the epoch.
    pub n: u32,
    /// When it was published; the grace counts from the store's own time of the object.
    #[serde(with = "sealed::rfc3339")]
    pub created: Time,
    /// Data objects, as paths relative to the repository.
    pub objects: Vec<String>,
    /// Manifests, likewise.
    pub points: Vec<String>,
}

impl Document for CondemnedList {
    const NAME: &'static str = "condemned";
    const BYTES_MAX: u64 = 64 << 20;
}

/// Everything condemned in a cluster.
#[derive(Debug, Default)]
pub struct Condemned {
    /// Paths of data objects.
    pub objects: BTreeSet<String>,
    /// Paths of manifests.
    pub points: BTreeSet<String>,
    /// What lies among the lists and cannot be read as one, each with what to do about it.
    pub damage: Vec<Error>,
}

impl CondemnedList {
    /// Publishes the list.
    pub async fn create(&self, repository: &Repository, cluster: &str) -> Result<Stored> {
        let at = Location::Condemned(cluster.to_owned(), self.epoch, self.n);
        self.validate(&at, cluster)?;
        repository.put_document(&at, self).await
    }

    fn validate(&self, at: &Location, cluster: &str) -> Result<()> {
        let wrong = |why: String| Err(Error::damaged(format!("{at} contradicts itself: {why}")).hint(HINT_DAMAGED));
        if *at != Location::Condemned(cluster.to_owned(), self.epoch, self.n) {
            return wrong("its content belongs to another name".to_owned());
        }
        if self.objects.len() + self.points.len() > PATHS_MAX {
            return wrong(format!("more than {PATHS_MAX} paths"));
        }
        // A collector deletes what stands here: nothing but this cluster's data and manifests may.
        for path in self.objects.iter().chain(&self.points) {
            let own = match Location::parse(path).map_err(|error| error.during(format!("{at} is damaged")))? {
                Location::Data(name) => name.cluster == cluster,
                Location::Point(name) => name.cluster == cluster,
                _ => false,
            };
            if !own {
                return wrong(format!("{path} is not this cluster's to condemn"));
            }
        }
        Ok(())
    }
}

/// A list as it lies in the store.
#[derive(Debug)]
pub(crate) struct Listed {
    pub(crate) at: Location,
    pub(crate) list: CondemnedList,
    /// When the store says that it was published: what the grace counts from.
    pub(crate) published: Time,
}

/// All lists of a cluster, in order of their names, for whoever acts on them: one that cannot be read is an error.
pub(crate) async fn lists(repository: &Repository, cluster: &str) -> Result<Vec<Listed>> {
    let valid = |at: &Location, list: &CondemnedList| list.validate(at, cluster);
    let found = repository.documents::<CondemnedList>(&folder::condemned(cluster), valid).await?;
    if let Some(error) = found.strays.into_iter().chain(found.damaged.into_iter().map(|(_, error)| error)).next() {
        return Err(error.during("what is condemned is not known, so nothing is deleted").damage_hint(
            "put back a copy of that file, or move it out of the repository: what it names is then kept",
        ));
    }
    let mut lists = vec![];
    for (at, list) in found.read {
        match repository.head(&at).await {
            Ok(there) => lists.push(Listed { at, list, published: there.modified }),
            // A run beside this one has carried it out and taken it away since it was read.
            Err(error) if error.kind() == Kind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    lists.sort_by_key(|listed| (listed.list.epoch, listed.list.n));
    Ok(lists)
}

/// Reads all lists of a cluster.
pub async fn read(repository: &Repository, cluster: &str) -> Result<Condemned> {
    let valid = |at: &Location, list: &CondemnedList| list.validate(at, cluster);
    let found = repository.documents::<CondemnedList>(&folder::condemned(cluster), valid).await?;
    let mut condemned = Condemned { damage: found.strays, ..Condemned::default() };
    for (_, list) in found.read {
        condemned.objects.extend(list.objects);
        condemned.points.extend(list.points);
    }
    condemned.damage.extend(found.damaged.into_iter().map(|(_, error)| {
        error.damage_hint(
            "what it names may be deleted soon: put back a copy of that file, or move it out of the repository when no \
             `holdfast prune` runs, and `holdfast verify` the points",
        )
    }));
    Ok(condemned)
}

impl Condemned {
    /// Fails if any of these manifests or objects is about to be deleted.
    pub fn check<'a>(
        &self,
        points: impl IntoIterator<Item = &'a str>,
        objects: impl IntoIterator<Item = &'a str>,
    ) -> Result<()> {
        let point = points.into_iter().find(|path| self.points.contains(*path));
        let Some(path) = point.or_else(|| objects.into_iter().find(|path| self.objects.contains(*path))) else {
            return Ok(());
        };
        let text = format!("{path} is condemned: a collector is about to delete it, so the point cannot be relied on");
        Err(Error::new(Kind::Failed, text).hint("run the command again once `holdfast prune` has finished"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vault::testing;

    #[tokio::test]
    async fn what_is_condemned_is_found_across_lists() {
        let (_dir, repository) = testing::repository().await;
        let object = |first| testing::entry("prod", first, first).name;
        let list = |n, objects: Vec<String>, points: Vec<String>| CondemnedList {
            epoch: 3,
            n,
            created: testing::time(),
            objects,
            points,
        };
        let point = Location::Point(testing::manifest("prod", &[testing::entry("prod", 1, 1)]).name()).to_string();
        assert!(read(&repository, "prod").await.unwrap().objects.is_empty());
        list(1, vec![object(1), object(2)], vec![]).create(&repository, "prod").await.unwrap();
        list(2, vec![object(3)], vec![point.clone()]).create(&repository, "prod").await.unwrap();
        let condemned = read(&repository, "prod").await.unwrap();
        condemned.check([], [object(4).as_str()]).unwrap();
        for (points, objects) in [(vec![point.as_str()], vec![]), (vec![], vec![object(4), object(3)])] {
            let error = condemned.check(points, objects.iter().map(String::as_str)).unwrap_err();
            assert!(error.to_string().contains("condemned") && error.hint_text().is_some());
        }
        assert!(read(&repository, "other").await.unwrap().points.is_empty());

        for strange in ["../x", "config/00000001.json", &object(1).replace("/prod/", "/other/")] {
            assert!(list(9, vec![strange.to_owned()], vec![]).create(&repository, "prod").await.is_err(), "{strange}");
        }
    }

    #[tokio::test]
    async fn a_list_that_cannot_be_read_is_named_and_hides_no_other() {
        let (dir, repository) = testing::repository().await;
        for n in 1..=3 {
            let objects = vec![testing::entry("prod", n.into(), n.into()).name];
            let list = CondemnedList { epoch: 3, n, created: testing::time(), objects, points: vec![] };
            list.create(&repository, "prod").await.unwrap();
        }
        let path = |name: &str| format!("clusters/prod/condemned/{name}");
        let (damaged, alien) = (path("00000003-00000001.json"), path("00000003-00000003.json"));
        testing::damage(&dir.path().join(&damaged));
        std::fs::copy(dir.path().join(path("00000003-00000002.json")), dir.path().join(&alien)).unwrap();
        let escaping = path("00000003-00000004.json");
        let objects = vec!["../x".to_owned()];
        let list = CondemnedList { epoch: 3, n: 4, created: testing::time(), objects, points: vec![] };
        repository.put_document(&Location::parse(&escaping).unwrap(), &list).await.unwrap();
        let stray = path(".DS_Store");
        testing::overwrite(&dir.path().join(&stray), b"x");
        let condemned = read(&repository, "prod").await.unwrap();
        assert_eq!(condemned.objects.into_iter().collect::<Vec<_>>(), [testing::entry("prod", 2, 2).name]);
        assert_eq!(condemned.damage.len(), 4);
        for name in [damaged, alien, escaping, stray] {
            let named: Vec<&Error> =
                condemned.damage.iter().filter(|error| error.to_string().contains(&name)).collect();
            assert!(matches!(&named[..], [one] if one.hint_text().is_some()), "{name}: {named:?}");
        }
    }
}
