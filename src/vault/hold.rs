//! Holds: points that must not go, whatever retention says.
//!
//! What is said about a point is a row of create-only documents, `holds/<point>/<n>.json`; the highest `n` counts.
//! Holding a point adds one, releasing it adds another: nothing is replaced, and who held what, when and why stays to be
//! read until the point itself is gone.
//!
//! A document that cannot be read may be a hold, so it is one: only a later document, which can be read, ends it.

use futures::stream::{self, StreamExt, TryStreamExt};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

use crate::base::clock::Time;
use crate::base::error::{Error, Kind, Result};
use crate::policy::retention::Hold;
use crate::vault::catalog::is_damage;
use crate::vault::layout::{Location, PointName, folder};
use crate::vault::manifest::Tool;
use crate::vault::repository::{LOADS_MAX, Repository, stray};
use crate::vault::sealed::{self, Document, HINT_DAMAGED};

/// Bytes of a reason.
pub const REASON_BYTES_MAX: usize = 1_000;
/// What can be said about one point.
const SAID_MAX: u32 = 10_000;
/// Others who say something at the same time are stepped aside for this often.
const TRIES_MAX: u32 = 10;

/// What was said about a point.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HoldDocument {
    /// Revision, kind and attempt of the point.
    pub point: String,
    /// Which of the documents about it this is.
    pub n: u32,
    /// Whether it is held from now on.
    pub held: bool,
    /// Until when; absent: until it is released.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "sealed::rfc3339_option")]
    pub until: Option<Time>,
    /// Why, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// When it was said, by the clock of its host.
    #[serde(with = "sealed::rfc3339")]
    pub created: Time,
    /// With what.
    pub tool: Tool,
}

impl Document for HoldDocument {
    const NAME: &'static str = "hold";
}

/// The holds of a cluster's points.
#[derive(Debug, Default)]
pub struct Holds {
    /// By the point's stem.
    held: BTreeMap<String, Hold>,
    /// What cannot be read, each with what to do about it.
    pub damage: Vec<Error>,
}

impl Holds {
    /// The hold on a point, also one that has ended.
    pub fn of(&self, stem: &str) -> Option<&Hold> {
        self.held.get(stem)
    }

    /// Whether a point is held at a moment.
    pub fn is_held(&self, stem: &str, now: Time) -> bool {
        self.of(stem).is_some_and(|hold| hold.until.is_none_or(|until| until > now))
    }
}

/// Says that a point is held, or that it is not any more.
pub async fn say(
    repository: &Repository,
    name: &PointName,
    hold: Option<&Hold>,
    reason: Option<&str>,
) -> Result<HoldDocument> {
    if reason.is_some_and(|reason| reason.len() > REASON_BYTES_MAX) {
        return Err(Error::new(Kind::Usage, format!("a reason of more than {REASON_BYTES_MAX} bytes"))
            .hint("say it in a sentence or two"));
    }
    let (point, reason, tool) = (name.stem(), reason.map(str::to_owned), Tool::this());
    let (held, until) = (hold.is_some(), hold.and_then(|hold| hold.until));
    let mut document = HoldDocument { point, n: 0, held, until, reason, created: repository.clock().now(), tool };
    for _ in 0..TRIES_MAX {
        let newest = newest(repository, &folder::holds_on(&name.cluster, &document.point)).await?;
        document.n = newest.places.get(&document.point).copied().unwrap_or(0).saturating_add(1);
        if document.n > SAID_MAX {
            return Err(Error::new(Kind::Failed, format!("too much was said about holding {}", document.point))
                .hint("it stays as it was said last; `holdfast list` shows it"));
        }
        let at = Location::Hold(name.cluster.clone(), document.point.clone(), document.n);
        match repository.put_document(&at, &document).await {
            Err(error) if error.kind() == Kind::Conflict => {}
            stored => {
                stored?;
                if held {
                    see(repository, name).await?;
                }
                return Ok(document);
            }
        }
    }
    Err(Error::new(Kind::Conflict, format!("others hold or release {} at the same time", document.point))
        .hint("run the command again"))
}

/// Fails when the point that was just held is gone: a collector that was about to delete it asks for holds before, so
/// whoever comes too late for that finds it deleted.
async fn see(repository: &Repository, name: &PointName) -> Result<()> {
    match repository.head(&Location::Point(name.clone())).await {
        Err(error) if error.kind() == Kind::NotFound => {
            Err(Error::new(Kind::NotFound, format!("point {} was deleted while it was being held", name.attempt))
                .hint("its grace was over; `holdfast list` shows the points that are left"))
        }
        there => there.map(|_| ()),
    }
}

/// Whether one point is held at a moment: what a collector asks before it deletes it.
pub(crate) async fn is_held(repository: &Repository, name: &PointName, now: Time) -> Result<bool> {
    let stem = name.stem();
    let Newest { places, .. } = newest(repository, &folder::holds_on(&name.cluster, &stem)).await?;
    let Some(n) = places.get(&stem) else { return Ok(false) };
    match load(repository, &name.cluster, &stem, *n).await {
        Ok(document) => Ok(document.held && document.until.is_none_or(|until| until > now)),
        Err(error) if is_damage(&error) => Ok(true),
        Err(error) => Err(error),
    }
}

async fn load(repository: &Repository, cluster: &str, stem: &str, n: u32) -> Result<HoldDocument> {
    let at = Location::Hold(cluster.to_owned(), stem.to_owned(), n);
    let document = repository.get_document::<HoldDocument>(&at).await?;
    if document.point == stem && document.n == n {
        return Ok(document);
    }
    Err(Error::damaged(format!("{at} is damaged: its content belongs elsewhere")).hint(HINT_DAMAGED))
}

/// The holds on all points of a cluster.
pub async fn read(repository: &Repository, cluster: &str) -> Result<Holds> {
    let Newest { places, strays } = newest(repository, &folder::holds(cluster)).await?;
    let mut holds = Holds { held: BTreeMap::new(), damage: strays };
    let load = |(stem, n): (String, u32)| async move {
        let document = load(repository, cluster, &stem, n).await;
        (stem, document)
    };
    let mut loaded = stream::iter(places.into_iter().map(load)).buffered(LOADS_MAX);
    while let Some((stem, document)) = loaded.next().await {
        match document {
            Ok(HoldDocument { held: true, until, .. }) => drop(holds.held.insert(stem, Hold { until })),
            Ok(_) => {}
            Err(error) if is_damage(&error) => {
                holds.held.insert(stem, Hold { until: None });
                holds
                    .damage
                    .push(error.damage_hint("the point counts as held: `holdfast hold` or `holdfast release` it anew"));
            }
            Err(error) => return Err(error),
        }
    }
    Ok(holds)
}

/// The number of what was said last about each point, by its stem.
#[derive(Default)]
struct Newest {
    places: BTreeMap<String, u32>,
    strays: Vec<Error>,
}

async fn newest(repository: &Repository, folder: &str) -> Result<Newest> {
    let mut newest = Newest::default();
    let mut listed = repository.list(folder);
    while let Some(object) = listed.try_next().await? {
        match Location::parse(&object.path) {
            Ok(Location::Hold(_, stem, n)) => {
                let last = newest.places.entry(stem).or_default();
                *last = n.max(*last);
            }
            Ok(_) => newest.strays.push(stray(Error::damaged(format!("{} holds nothing", object.path)))),
            Err(error) => newest.strays.push(stray(error)),
        }
    }
    Ok(newest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vault::testing;
    use std::time::Duration;

    #[tokio::test]
    async fn what_was_said_last_counts_and_all_of_it_stays() {
        let (dir, repository) = testing::repository().await;
        let name = testing::point(&repository, 1).await.name();
        let stem = name.stem();
        let until = testing::time() + Duration::from_secs(60);
        let hold = Hold { until: Some(until) };
        assert!(read(&repository, "prod").await.unwrap().of(&stem).is_none());
        say(&repository, &name, Some(&hold), Some("audit")).await.unwrap();
        let holds = read(&repository, "prod").await.unwrap();
        assert_eq!(holds.of(&stem), Some(&hold));
        assert!(holds.is_held(&stem, testing::time()) && !holds.is_held(&stem, until));
        say(&repository, &name, None, None).await.unwrap();
        assert!(read(&repository, "prod").await.unwrap().of(&stem).is_none());
        let third = say(&repository, &name, Some(&Hold { until: None }), None).await.unwrap();
        assert_eq!(third.n, 3);
        let files = std::fs::read_dir(dir.path().join("clusters/prod/holds").join(&stem)).unwrap().count();
        assert_eq!(files, 3);
        assert!(say(&repository, &name, None, Some(&"x".repeat(1_001))).await.is_err());
    }

    #[tokio::test]
    async fn a_word_that_nobody_can_follow_is_not_followed_in_vain() {
        for n in [SAID_MAX, 99_999_999, u32::MAX] {
            let (_dir, repository) = testing::repository().await;
            let name = testing::manifest("prod", &[testing::entry("prod", 1, 1)]).name();
            let mut said = say(&repository, &name, None, None).await.unwrap();
            said.n = n;
            repository.put_document(&Location::Hold("prod".into(), name.stem(), n), &said).await.unwrap();
            let error = say(&repository, &name, Some(&Hold { until: None }), None).await.unwrap_err();
            assert_eq!((error.kind(), error.hint_text().is_some()), (Kind::Failed, true), "{n}: {error}");
        }
    }

    #[tokio::test]
    async fn people_at_once_are_all_heard() {
        let (_dir, repository) = testing::repository().await;
        let name = testing::point(&repository, 1).await.name();
        let reasons: Vec<String> = (0..5).map(|n| format!("reason {n}")).collect();
        let hold = Hold { until: None };
        let said = reasons.iter().map(|reason| say(&repository, &name, Some(&hold), Some(reason)));
        let mut numbers: Vec<u32> =
            futures::future::join_all(said).await.into_iter().map(|said| said.unwrap().n).collect();
        numbers.sort_unstable();
        assert_eq!(numbers, [1, 2, 3, 4, 5]);
    }

    #[tokio::test]
    async fn what_cannot_be_read_holds_until_something_newer_is_said() {
        let (dir, repository) = testing::repository().await;
        let name = testing::manifest("prod", &[testing::entry("prod", 1, 1)]).name();
        say(&repository, &name, None, None).await.unwrap();
        testing::damage(&dir.path().join(Location::Hold("prod".into(), name.stem(), 1).to_string()));
        testing::overwrite(&dir.path().join("clusters/prod/holds/notes.txt"), b"x");
        let holds = read(&repository, "prod").await.unwrap();
        assert!(holds.is_held(&name.stem(), testing::time()));
        assert_eq!(holds.damage.len(), 2);
        assert!(holds.damage.iter().all(|error| error.hint_text().is_some()));
        say(&repository, &name, None, None).await.unwrap();
        assert!(read(&repository, "prod").await.unwrap().of(&name.stem()).is_none());
    }
}
