//! The probe: does this store keep the promises that a repository rests on, and may we do what we must?
//!
//! Asked with objects of its own under `probe/`, which are deleted again. A promise that is broken is a check that
//! failed, with what to do about it; a right that is missing is named as the provider calls it. What follows from a
//! failure is not asked: where nothing can be created, nothing can be created twice.

use bytes::Bytes;
use futures::stream::TryStreamExt;
use serde::Serialize;
use std::time::Duration;

use crate::base::clock::Time;
use crate::base::error::{Error, Kind, Result};
use crate::base::units;
use crate::vault::layout::{Attempt, Location, folder};
use crate::vault::repository::{PATIENCE, Repository, Stored};

/// The store's clock may differ from ours by this much before people should look at it.
pub const CLOCK_SKEW_MAX_S: i64 = 60;
/// A person waits for a check, so its requests are not tried again for longer than this.
const PATIENCE_MAX: Duration = Duration::from_secs(30);
const CONTENT: &[u8] = b"holdfast check: this object may be deleted\n";
const OTHER: &[u8] = b"holdfast check: this must never be stored\n";

/// One promise.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ProbeCheck {
    /// Its name.
    pub name: &'static str,
    /// Whether the store keeps it.
    pub ok: bool,
    /// Whether backups are unsafe without it; otherwise it is advice.
    pub required: bool,
    /// What was seen.
    pub detail: String,
    /// What to do when it is broken.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

/// How long the requests of a check are tried again, where this is said for those of other commands.
pub fn patience(said: Option<Duration>) -> Duration {
    said.unwrap_or(PATIENCE).min(PATIENCE_MAX)
}

/// Notes a check; whether the promise is kept.
fn note(checks: &mut Vec<ProbeCheck>, name: &'static str, required: bool, result: Result<String>) -> bool {
    let ok = result.is_ok();
    checks.push(match result {
        Ok(detail) => ProbeCheck { name, ok, required, detail, hint: None },
        Err(error) => {
            let hint = error.hint_text().map(str::to_owned);
            ProbeCheck { name, ok, required, detail: error.chain(), hint }
        }
    });
    ok
}

/// Asks the store for every promise.
pub async fn probe(repository: &Repository) -> Result<Vec<ProbeCheck>> {
    let mut checks = vec![];
    let at = Location::Probe(Attempt::random()?);
    let listed = list(repository, &at).await.map(|_| "objects can be listed".to_owned());
    let lists = note(&mut checks, "list", true, listed);
    let created = repository.put_new(&at, Bytes::from_static(CONTENT)).await;
    let before = repository.clock().now();
    let created = created.map(|_| format!("{at} was created"));
    if !note(&mut checks, "create", true, created) {
        return Ok(checks);
    }
    let reads = note(&mut checks, "read back", true, read_back(repository, &at).await);
    if reads {
        note(&mut checks, "create once", true, create_once(repository, &at).await);
    }
    if let Some(result) = altered(repository).await? {
        note(&mut checks, "altered upload", false, result);
    }
    if lists {
        note(&mut checks, "list after write", true, is_listed(repository, &at).await);
    }
    if reads {
        note(&mut checks, "clock", true, clock_skew(repository, &at, before).await);
        if repository.keeps_versions(&at).await? {
            let detail = "the bucket keeps old versions: what is deleted costs until a lifecycle rule ends it";
            note(&mut checks, "versions", false, Ok(detail.to_owned()));
        }
    }
    let directory = repository.url().starts_with("file:");
    note(&mut checks, "delete", directory, delete(repository, &at).await);
    Ok(checks)
}

async fn list(repository: &Repository, at: &Location) -> Result<usize> {
    let path = at.to_string();
    let listed = repository.list(folder::PROBE).try_filter(|listed| std::future::ready(listed.path == path));
    Ok(listed.try_collect::<Vec<_>>().await?.len())
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
        _ => Err(Error::new(Kind::Failed, format!("{at} had vanished and could be created again"))
            .hint("do not keep backups there: the store loses what it was given")),
    }
}

/// Whether an upload that changed on the way is refused; none where nothing travels.
async fn altered(repository: &Repository) -> Result<Option<Result<String>>> {
    let at = Location::Probe(Attempt::random()?);
    let Some(put) = repository.put_altered(&at, Bytes::from_static(CONTENT)).await else { return Ok(None) };
    Ok(Some(match put {
        Err(error) if error.kind() == Kind::Failed => Ok("an upload that changed on the way was refused".to_owned()),
        // Some have no better answer to a wrong checksum. What counts is whether anything was stored.
        Err(error) if error.kind() == Kind::Unavailable => match repository.head(&at).await {
            Err(gone) if gone.kind() == Kind::NotFound => {
                Ok("an upload that changed on the way was refused, with a server error".to_owned())
            }
            Err(_) => Err(error),
            Ok(_) => Err(taken(repository, &at).await),
        },
        Err(error) => Err(error),
        Ok(()) => Err(taken(repository, &at).await),
    }))
}

/// What is said of a store that holds an upload which changed on the way.
async fn taken(repository: &Repository, at: &Location) -> Error {
    // It may not be ours to delete; what is left says what it is.
    drop(repository.delete(at).await);
    Error::new(Kind::Failed, "the store took an upload that did not match its checksum").hint(
        "reach it over https, which protects uploads too, and verify new points at level 2 soon after they are made",
    )
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
    match list(repository, at).await? {
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
        Ok(_) => Err(Error::new(Kind::Failed, format!("{at} is still there after it was deleted"))
            .hint("`prune` cannot make room there")),
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
        let options = RepositoryOptions {
            url: format!("file://{}", dir.path().display()),
            clock: Clock::System,
            ..RepositoryOptions::default()
        };
        // Before the first backup, too.
        let repository = Repository::attach(&options).await.unwrap();
        let checks = probe(&repository).await.unwrap();
        let names: Vec<&str> = checks.iter().map(|check| check.name).collect();
        assert_eq!(names, ["list", "create", "read back", "create once", "list after write", "clock", "delete"]);
        assert!(checks.iter().all(|check| check.ok), "{checks:?}");
        assert_eq!(std::fs::read_dir(dir.path().join("probe")).unwrap().count(), 0);
        assert!(Repository::create_or_open(&options).await.is_ok());
    }

    #[test]
    fn nobody_waits_for_a_check_as_long_as_a_backup_would() {
        assert_eq!(patience(None), PATIENCE_MAX);
        assert_eq!(patience(Some(Duration::from_hours(1))), PATIENCE_MAX);
        assert_eq!(patience(Some(Duration::from_millis(500))), Duration::from_millis(500));
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
        let last = checks.last().unwrap();
        assert_eq!((last.name, last.ok, last.required), ("create", false, true));
    }
}
