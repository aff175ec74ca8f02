//! The probe: does this store keep the promises that a repository rests on?
//!
//! Asked with an object of its own under `probe/`, which is deleted again. A promise that is broken is a check that
//! failed, with what to do about it; the remaining ones are still asked where they can be.

use bytes::Bytes;
use futures::stream::TryStreamExt;
use serde::Serialize;

use crate::base::clock::Time;
use crate::base::error::{Error, Kind, Result};
use crate::base::units;
use crate::vault::layout::{Attempt, Location, folder};
use crate::vault::repository::{Repository, Stored};

/// The store's clock may differ from ours by this much before people should look at it.
pub const CLOCK_SKEW_MAX_S: i64 = 60;
const CONTENT: &[u8] = b"holdfast check: this object may be deleted\n";
const OTHER: &[u8] = b"holdfast check: this must never be stored\n";

/// One promise.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ProbeCheck {
    /// Its name.
    pub name: &'static str,
    /// Whether the store keeps it.
    pub ok: bool,
    /// What was seen.
    pub detail: String,
    /// What to do when it is broken.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

impl ProbeCheck {
    fn of(name: &'static str, result: Result<String>) -> Self {
        match result {
            Ok(detail) => ProbeCheck { name, ok: true, detail, hint: None },
            Err(error) => {
                ProbeCheck { name, ok: false, detail: error.chain(), hint: error.hint_text().map(str::to_owned) }
            }
        }
    }
}

/// Asks the store for every promise.
pub async fn probe(repository: &Repository) -> Result<Vec<ProbeCheck>> {
    let at = Location::Probe(Attempt::random()?);
    let created = repository.put_new(&at, Bytes::from_static(CONTENT)).await;
    let before = repository.clock().now();
    let begun = created.is_ok();
    let mut checks = vec![ProbeCheck::of("create", created.map(|_| format!("{at} was created")))];
    if !begun {
        return Ok(checks);
    }
    checks.push(ProbeCheck::of("create once", create_once(repository, &at).await));
    checks.push(ProbeCheck::of("read back", read_back(repository, &at).await));
    checks.push(ProbeCheck::of("list", is_listed(repository, &at).await));
    checks.push(ProbeCheck::of("clock", clock_skew(repository, &at, before).await));
    checks.push(ProbeCheck::of("delete", delete(repository, &at).await));
    Ok(checks)
}

async fn create_once(repository: &Repository, at: &Location) -> Result<String> {
    match repository.put_new(at, Bytes::from_static(OTHER)).await {
        Err(error) if error.kind() == Kind::Conflict => {}
        Err(error) => return Err(error),
        Ok(_) => {
            let text = format!("the store replaced {at}, although it was asked to create it");
            return Err(Error::new(Kind::Failed, text)
                .hint("do not keep backups there: two writers could overwrite each other"));
        }
    }
    match repository.put_new(at, Bytes::from_static(CONTENT)).await? {
        Stored::AlreadyThere => Ok("a second create was refused, and our own object recognised".to_owned()),
        _ => Err(Error::new(Kind::Failed, format!("{at} had vanished and could be created again"))),
    }
}

async fn read_back(repository: &Repository, at: &Location) -> Result<String> {
    let content = repository.get(at, CONTENT.len() as u64).await?;
    if content == CONTENT {
        return Ok(format!("{} bytes, equal", content.len()));
    }
    Err(Error::damaged(format!("{at} reads back different from what was written"))
        .hint("check the disk, and the memory of this host"))
}

async fn is_listed(repository: &Repository, at: &Location) -> Result<String> {
    let path = at.to_string();
    let listed = repository.list(folder::PROBE).try_filter(|listed| std::future::ready(listed.path == path));
    match listed.try_collect::<Vec<_>>().await?.len() {
        1 => Ok("a listing shows it at once".to_owned()),
        n => Err(Error::new(Kind::Failed, format!("a listing shows {at} {n} times"))
            .hint("backups need a store whose listings show every object that was written")),
    }
}

async fn clock_skew(repository: &Repository, at: &Location, before: Time) -> Result<String> {
    let skew = repository.head(at).await?.modified - before;
    let size = units::duration(skew.abs().to_std().unwrap_or_default());
    if skew.num_seconds().abs() <= CLOCK_SKEW_MAX_S {
        return Ok(format!("the store's clock and ours differ by {size}"));
    }
    let side = if skew.num_seconds() > 0 { "ahead of" } else { "behind" };
    Err(Error::new(Kind::Failed, format!("the store's clock is {size} {side} ours"))
        .hint("correct the clock of this host (or of the file server): ages and grace periods are shown wrong"))
}

async fn delete(repository: &Repository, at: &Location) -> Result<String> {
    repository.delete(at).await?;
    match repository.head(at).await {
        Err(error) if error.kind() == Kind::NotFound => Ok("it was deleted".to_owned()),
        Err(error) => Err(error),
        Ok(_) => Err(Error::new(Kind::Failed, format!("{at} is still there after it was deleted"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::clock::Clock;
    use crate::vault::repository::RepositoryOptions;
    use crate::vault::testing;

    #[tokio::test]
    async fn a_directory_keeps_every_promise_and_nothing_stays_behind() {
        let dir = tempfile::tempdir().unwrap();
        let options = RepositoryOptions { url: format!("file://{}", dir.path().display()), clock: Clock::System };
        // Before the first backup, too.
        let repository = Repository::attach(&options).await.unwrap();
        let checks = probe(&repository).await.unwrap();
        let names: Vec<&str> = checks.iter().map(|check| check.name).collect();
        assert_eq!(names, ["create", "create once", "read back", "list", "clock", "delete"]);
        assert!(checks.iter().all(|check| check.ok), "{checks:?}");
        assert_eq!(std::fs::read_dir(dir.path().join("probe")).unwrap().count(), 0);
        assert!(Repository::create_or_open(&options).await.is_ok());
    }

    #[tokio::test]
    async fn a_broken_promise_is_a_failed_check_with_a_hint() {
        // A repository whose clock stands still in another year.
        let (dir, repository) = testing::repository().await;
        let checks = probe(&repository).await.unwrap();
        let clock = checks.iter().find(|check| check.name == "clock").unwrap();
        assert!(!clock.ok && clock.hint.is_some(), "{clock:?}");
        std::fs::remove_dir(dir.path().join("probe")).unwrap();
        std::fs::File::create(dir.path().join("probe")).unwrap();
        let checks = probe(&repository).await.unwrap();
        assert_eq!((checks.len(), checks[0].ok), (1, false));
    }
}
