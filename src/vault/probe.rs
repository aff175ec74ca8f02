//! The probe: does this store keep the promises that a repository rests on, and may we do what we must?
//!
//! Asked with objects of its own under `probe/`, which are deleted again. A promise that is broken is a check that
//! failed, with what to do about it; a right that is missing is named as the provider calls it. What follows from a
//! failure is not asked: where nothing can be created, nothing can be created twice.

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
    /// Whether backups are unsafe without it; otherwise it is advice.
    pub required: bool,
    /// What was seen.
    pub detail: String,
    /// What to do when it is broken.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

/// Something that must be allowed, as people who allow it call it.
#[derive(Clone, Copy)]
enum Right {
    List,
    Read,
    Create,
    Delete,
}

impl Right {
    fn names(self) -> (&'static str, &'static str) {
        match self {
            Right::List => ("s3:ListBucket", "storage.objects.list"),
            Right::Read => ("s3:GetObject", "storage.objects.get"),
            Right::Create => ("s3:PutObject", "storage.objects.create"),
            Right::Delete => ("s3:DeleteObject", "storage.objects.delete"),
        }
    }
}

/// The checks as they are made.
struct Probe<'a> {
    repository: &'a Repository,
    checks: Vec<ProbeCheck>,
}

impl Probe<'_> {
    /// Notes a check; whether it is kept.
    fn note(&mut self, name: &'static str, required: bool, right: Option<Right>, result: Result<String>) -> bool {
        let check = match result {
            Ok(detail) => ProbeCheck { name, ok: true, required, detail, hint: None },
            Err(error) => {
                let hint = right.filter(|_| error.kind() == Kind::Denied).and_then(|right| self.allow(right));
                let hint = hint.or_else(|| error.hint_text().map(str::to_owned));
                ProbeCheck { name, ok: false, required, detail: error.chain(), hint }
            }
        };
        self.checks.push(check);
        self.checks.last().is_some_and(|check| check.ok)
    }

    /// What to allow in a bucket; a directory's own hint is better.
    fn allow(&self, right: Right) -> Option<String> {
        let (s3, google) = right.names();
        let name = match self.repository.url().split(':').next() {
            Some("s3" | "s3a") => s3,
            Some("gs" | "gcs") => google,
            _ => return None,
        };
        let note = match right {
            Right::Delete => "; only `prune` needs it, and a host that only makes backups is safer without",
            _ => "",
        };
        Some(format!("allow {name} to these credentials{note}"))
    }
}

/// Asks the store for every promise.
pub async fn probe(repository: &Repository) -> Result<Vec<ProbeCheck>> {
    let mut probe = Probe { repository, checks: vec![] };
    let at = Location::Probe(Attempt::random()?);
    let listed = list(repository, &at).await.map(|_| "objects can be listed".to_owned());
    let lists = probe.note("list", true, Some(Right::List), listed);
    let created = repository.put_new(&at, Bytes::from_static(CONTENT)).await;
    let before = repository.clock().now();
    let created = created.map(|_| format!("{at} was created"));
    if !probe.note("create", true, Some(Right::Create), created) {
        return Ok(probe.checks);
    }
    let reads = probe.note("read back", true, Some(Right::Read), read_back(repository, &at).await);
    if reads {
        probe.note("create once", true, None, create_once(repository, &at).await);
    }
    if let Some(result) = altered(repository).await? {
        probe.note("altered upload", false, None, result);
    }
    if lists {
        probe.note("list after write", true, None, is_listed(repository, &at).await);
    }
    if reads {
        probe.note("clock", true, None, clock_skew(repository, &at, before).await);
        if repository.keeps_versions(&at).await? {
            let detail = "the bucket keeps old versions: what is deleted costs until a lifecycle rule ends it";
            probe.note("versions", false, None, Ok(detail.to_owned()));
        }
    }
    let directory = repository.url().starts_with("file:");
    probe.note("delete", directory, Some(Right::Delete), delete(repository, &at).await);
    Ok(probe.checks)
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
        Stored::Created => Err(Error::new(Kind::Failed, format!("{at} had vanished and could be created again"))
            .hint("do not keep backups there: the store loses what it was given")),
    }
}

/// Whether an upload that changed on the way is refused; none where nothing travels.
async fn altered(repository: &Repository) -> Result<Option<Result<String>>> {
    let at = Location::Probe(Attempt::random()?);
    let Some(put) = repository.put_altered(&at, Bytes::from_static(CONTENT)).await else { return Ok(None) };
    Ok(Some(match put {
        Err(error) if error.kind() == Kind::Failed => Ok("an upload that changed on the way was refused".to_owned()),
        Err(error) => Err(error),
        Ok(()) => {
            // It may not be ours to delete; what is left says what it is.
            drop(repository.delete(&at).await);
            let text = "the store took an upload that did not match its checksum";
            Err(Error::new(Kind::Failed, text).hint(
                "reach it over https, which protects uploads too, and verify new points at level 2 soon after they are made",
            ))
        }
    }))
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
