//! Epochs: which collector may delete.
//!
//! A collector claims the next number before it condemns anything; whoever holds the highest number may delete, all
//! others stop. Writers never need one: they only add facts.
//!
//! A claim is a create-only document with a random id in it, so of two collectors that want the same number one has it.
//! The moment at which the store says that the claim was written is the collector's present: what is old enough is told
//! by the store's clock alone, and a host whose clock is wrong deletes nothing early.

use futures::stream::TryStreamExt;
use serde::{Deserialize, Serialize};
use std::time::Duration;

use crate::base::clock::Time;
use crate::base::error::{Error, Kind, Result};
use crate::vault::layout::{Attempt, Location, folder};
use crate::vault::manifest::Tool;
use crate::vault::repository::{Repository, stray};
use crate::vault::sealed::{self, Document};

/// The last number that a name has room for.
const EPOCH_MAX: u32 = 99_999_999;

/// A collector's claim, as stored.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Claim {
    /// The number that is claimed.
    pub epoch: u32,
    /// Who claims it: one run.
    pub attempt: Attempt,
    /// What for: `prune` or `undelete`.
    pub purpose: String,
    /// When, by the clock of its host.
    #[serde(with = "sealed::rfc3339")]
    pub created: Time,
    /// What claims it.
    pub tool: Tool,
}

impl Document for Claim {
    const NAME: &'static str = "epoch";
}

/// An epoch that is ours until somebody claims a higher one.
#[derive(Clone, Debug)]
pub struct Epoch {
    /// Its number.
    pub number: u32,
    /// When it was claimed, by the store's clock.
    pub now: Time,
    cluster: String,
}

/// The highest epoch claimed in a cluster; 0 before the first.
pub async fn highest(repository: &Repository, cluster: &str) -> Result<u32> {
    Ok(all(repository, cluster).await?.into_iter().map(|(epoch, _)| epoch).max().unwrap_or(0))
}

/// Every epoch that is claimed, and when. A name that is none could be a claim that this version cannot read, so it is an error.
async fn all(repository: &Repository, cluster: &str) -> Result<Vec<(u32, Time)>> {
    let mut listed = repository.list(&folder::epochs(cluster));
    let mut epochs = vec![];
    while let Some(object) = listed.try_next().await? {
        match Location::parse(&object.path) {
            Ok(Location::Epoch(_, epoch)) => epochs.push((epoch, object.modified)),
            Ok(_) => return Err(stray(Error::damaged(format!("{} is no epoch", object.path)))),
            Err(error) => return Err(stray(error)),
        }
    }
    Ok(epochs)
}

impl Epoch {
    /// Claims the next number.
    pub async fn claim(repository: &Repository, cluster: &str, purpose: &str) -> Result<Self> {
        let last = highest(repository, cluster).await?;
        if last >= EPOCH_MAX {
            return Err(Error::damaged(format!("epoch {last} of cluster {cluster} is the last there can be"))
                .hint("no collector counts that far: see who wrote that file, and move it out of the repository"));
        }
        let number = last + 1;
        let (attempt, created) = (Attempt::random()?, repository.clock().now());
        let (purpose, tool) = (purpose.to_owned(), Tool::this());
        let at = Location::Epoch(cluster.to_owned(), number);
        match repository.put_document(&at, &Claim { epoch: number, attempt, purpose, created, tool }).await {
            Err(error) if error.kind() == Kind::Conflict => return Err(taken_over(cluster, number)),
            stored => stored?,
        };
        let now = match repository.head(&at).await {
            // Claims are forgotten by who has a later one.
            Err(error) if error.kind() == Kind::NotFound => return Err(taken_over(cluster, number + 1)),
            there => there?.modified,
        };
        Ok(Epoch { number, now, cluster: cluster.to_owned() })
    }

    /// Fails if somebody has claimed a higher number since.
    pub async fn check(&self, repository: &Repository) -> Result<()> {
        match highest(repository, &self.cluster).await? {
            highest if highest == self.number => Ok(()),
            highest => Err(taken_over(&self.cluster, highest)),
        }
    }

    /// Whether a collector that did not end began less than `ago` before this one: it may have been killed, or be waiting
    /// out an outage with deletions under way. The last thing a run does is to forget the claims before its own, so of
    /// older claims the first is of a run that ended, and the others are of runs that did not.
    pub(crate) async fn has_stragglers(&self, repository: &Repository, ago: Duration) -> Result<bool> {
        let mut older = all(repository, &self.cluster).await?;
        older.retain(|(epoch, _)| *epoch < self.number);
        older.sort_unstable();
        Ok(older.into_iter().skip(1).any(|(_, claimed)| claimed + ago > self.now))
    }

    /// Deletes the claims before this one: they say nothing any more.
    pub(crate) async fn forget_older(&self, repository: &Repository) -> Result<()> {
        for (epoch, _) in all(repository, &self.cluster).await?.into_iter().filter(|(epoch, _)| *epoch < self.number) {
            repository.delete_if_there(&Location::Epoch(self.cluster.clone(), epoch)).await?;
        }
        Ok(())
    }
}

fn taken_over(cluster: &str, epoch: u32) -> Error {
    Error::new(Kind::Conflict, format!("another collector of cluster {cluster} has begun, with epoch {epoch}"))
        .hint("let that `holdfast prune` or `holdfast undelete` finish, then run the command again")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vault::testing;

    #[tokio::test]
    async fn the_highest_claim_wins_and_whoever_has_an_older_one_stops() {
        let (_dir, repository) = testing::repository().await;
        assert_eq!(highest(&repository, "prod").await.unwrap(), 0);
        for epoch in [9, 10, 2] {
            let at = Location::Epoch("prod".into(), epoch);
            repository.put_new(&at, "{}".into()).await.unwrap();
        }
        assert_eq!(highest(&repository, "prod").await.unwrap(), 10);
        assert_eq!(highest(&repository, "other").await.unwrap(), 0);
        let first = Epoch::claim(&repository, "prod", "prune").await.unwrap();
        first.check(&repository).await.unwrap();
        let second = Epoch::claim(&repository, "prod", "undelete").await.unwrap();
        assert_eq!((first.number, second.number), (11, 12));
        let error = first.check(&repository).await.unwrap_err();
        assert_eq!((error.kind(), error.hint_text().is_some()), (Kind::Conflict, true), "{error}");
        second.forget_older(&repository).await.unwrap();
        let left: Vec<u32> = all(&repository, "prod").await.unwrap().into_iter().map(|(epoch, _)| epoch).collect();
        assert_eq!(left, [12]);
    }

    #[tokio::test]
    async fn of_claims_at_once_one_has_the_number() {
        let (_dir, repository) = testing::repository().await;
        let claims = (0..8).map(|_| Epoch::claim(&repository, "prod", "prune"));
        let mut numbers: Vec<u32> = vec![];
        for claim in futures::future::join_all(claims).await {
            match claim {
                Ok(epoch) => numbers.push(epoch.number),
                Err(error) => assert_eq!(error.kind(), Kind::Conflict),
            }
        }
        let mut unique = numbers.clone();
        unique.dedup();
        assert!(!numbers.is_empty() && unique == numbers, "{numbers:?}");
    }

    #[tokio::test]
    async fn what_could_be_a_claim_stops_everybody() {
        for name in ["99999999.json", "notes.txt"] {
            let (dir, repository) = testing::repository().await;
            let folder = dir.path().join("clusters/prod/epochs");
            std::fs::create_dir_all(&folder).unwrap();
            testing::overwrite(&folder.join(name), b"x");
            let error = Epoch::claim(&repository, "prod", "prune").await.unwrap_err();
            assert!(error.kind() == Kind::Damaged && error.hint_text().is_some(), "{name}: {error}");
        }
    }
}
