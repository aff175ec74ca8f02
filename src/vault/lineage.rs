//! Lineages: the branches of a cluster's history.
//!
//! Within a lineage a revision means one state forever, so writers can only duplicate each other. History forks when
//! state goes back (a restore, a forced new cluster): from then on the same revision may mean something else, and that
//! something else belongs to a lineage of its own, which names its parent.
//!
//! ```text
//! 1 ---- 500 ---- 900            lineage a
//!          \
//!           501 ---- 1200        lineage b: parent a, fork revision 500, or none
//! ```
//!
//! Ids and revisions that went back tell that history forked, not where. So the fork revision is told only when shared
//! history was proved up to there (the same facts, compared by digest); whoever finds none must assume nothing shared.
//!
//! The **current** lineage is the one that nobody continues; should several be left (two restores side by side), it is
//! the one opened last. Points of the others stay selectable.
//!
//! A document that is damaged hides what its lineage continues. As long as another one continues it, that is of no
//! consequence. Otherwise it may be the current one, and nobody may go on where that is not known: a backup opens a
//! branch behind it instead, which makes the present known again, for the price of one full restore point.

use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

use crate::base::clock::Time;
use crate::base::digest::Sha256;
use crate::base::error::{Error, Kind, Result};
use crate::base::id::EtcdId;
use crate::vault::layout::{Lineage, Location, folder};
use crate::vault::repository::{Repository, Stored};
use crate::vault::sealed::{self, Document, HINT_DAMAGED};

/// A branch of a cluster's history.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LineageDocument {
    /// Its id.
    pub lineage: Lineage,
    /// The branch it continues.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<Lineage>,
    /// The last revision up to which it is proved to share its parent's history; none when nothing proves one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fork_revision: Option<i64>,
    /// Why it was opened, for people.
    pub reason: String,
    /// The cluster's own id on this branch.
    pub cluster_id: EtcdId,
    /// When it was opened.
    #[serde(with = "sealed::rfc3339")]
    pub opened: Time,
}

impl Document for LineageDocument {
    const NAME: &'static str = "lineage";
}

/// The branch of files that are imported for a cluster: one for each name, apart from all live ones.
pub fn imported(cluster: &str) -> Lineage {
    let digest = Sha256::of(format!("holdfast lineage\nimported\n{cluster}").as_bytes());
    Lineage::parse(&digest.to_string()[..32]).expect("a digest has more digits than a lineage")
}

/// Registers a lineage; registering the same one again changes nothing. Two backups at once open the same branch at
/// different moments, and may have proved different parts of what it shares: the one that was registered counts.
pub async fn register(repository: &Repository, cluster: &str, document: &LineageDocument) -> Result<Stored> {
    let at = Location::Lineage(cluster.to_owned(), document.lineage);
    match repository.put_document(&at, document).await {
        Err(error) if error.kind() == Kind::Conflict => {
            let there: LineageDocument = repository.get_document(&at).await.map_err(|error| {
                error.damage_hint("move that file out of the repository and run the command again: it is written anew")
            })?;
            let (opened, fork_revision) = (document.opened, document.fork_revision);
            let same = LineageDocument { opened, fork_revision, ..there } == *document;
            if same { Ok(Stored::AlreadyThere) } else { Err(error) }
        }
        stored => stored,
    }
}

/// A cluster's lineages.
#[derive(Debug, Default)]
pub struct Lineages {
    /// Those whose documents can be believed, oldest first.
    pub known: Vec<LineageDocument>,
    /// Those whose documents cannot.
    pub unreadable: BTreeSet<Lineage>,
    /// What is wrong in their folder, each with what to do about it.
    pub damage: Vec<Error>,
}

/// Which lineage is the current one.
#[derive(Debug, PartialEq)]
pub enum Current<'a> {
    /// There is none, or only a circle.
    None,
    /// This one.
    Known(&'a LineageDocument),
    /// Perhaps this one, whose document cannot be read.
    Unreadable(Lineage),
}

/// A cluster's lineages, as far as they can be read.
pub async fn list(repository: &Repository, cluster: &str) -> Result<Lineages> {
    let belongs = |at: &Location, document: &LineageDocument| check(at, cluster, document);
    let found = repository.documents::<LineageDocument>(&folder::lineages(cluster), belongs).await?;
    let mut known: Vec<LineageDocument> = found.read.into_iter().map(|(_, document)| document).collect();
    known.sort_by_key(|l| (l.opened, l.lineage));
    let (mut unreadable, mut damage) = (BTreeSet::new(), found.strays);
    for (at, error) in found.damaged {
        if let Location::Lineage(_, lineage) = at {
            unreadable.insert(lineage);
        }
        damage.push(error.damage_hint(
            "put back a copy of that file; without one, make a backup first and then move it out of the repository",
        ));
    }
    Ok(Lineages { known, unreadable, damage })
}

/// A lineage document says what its name says.
fn check(at: &Location, cluster: &str, document: &LineageDocument) -> Result<()> {
    if *at == Location::Lineage(cluster.to_owned(), document.lineage) {
        return Ok(());
    }
    Err(Error::damaged(format!("{at} is damaged: its content belongs to lineage {}", document.lineage))
        .hint(HINT_DAMAGED))
}

impl Lineages {
    /// Whether this lineage was registered, readable or not.
    pub fn has(&self, lineage: Lineage) -> bool {
        self.unreadable.contains(&lineage) || self.known.iter().any(|document| document.lineage == lineage)
    }

    /// The current lineage among those that `counts` accepts: the one that nobody continues, the newest of them on a
    /// tie. Imported files come from no known cluster and count only where nothing else is.
    pub fn current(&self, counts: impl Fn(Lineage) -> bool) -> Current<'_> {
        let counted = || self.known.iter().filter(|document| counts(document.lineage));
        let is_last = |lineage: Lineage| counts(lineage) && !counted().any(|child| child.parent == Some(lineage));
        if let Some(lineage) = self.unreadable.iter().copied().find(|lineage| is_last(*lineage)) {
            return Current::Unreadable(lineage);
        }
        let last = counted().filter(|document| is_last(document.lineage));
        let newest = last.max_by_key(|l| (l.cluster_id != EtcdId(0), l.opened, l.lineage));
        newest.map_or(Current::None, Current::Known)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vault::testing;
    use chrono::TimeDelta;

    fn lineage(digit: &str, parent: Option<&str>, day: i64) -> LineageDocument {
        LineageDocument {
            lineage: Lineage::parse(&digit.repeat(32)).unwrap(),
            parent: parent.map(|digit| Lineage::parse(&digit.repeat(32)).unwrap()),
            fork_revision: parent.map(|_| 500),
            reason: "the first backup".into(),
            cluster_id: EtcdId(1),
            opened: testing::time() + TimeDelta::days(day),
        }
    }

    fn current_of(known: &[LineageDocument]) -> Option<String> {
        current_beside(known, "")
    }

    /// The first digit of the current lineage, with a `?` behind it when its document is one of those `unreadable`.
    fn current_beside(known: &[LineageDocument], unreadable: &str) -> Option<String> {
        let unreadable = unreadable.chars().map(|digit| Lineage::parse(&digit.to_string().repeat(32)).unwrap());
        let lineages = Lineages { known: known.to_vec(), unreadable: unreadable.collect(), damage: vec![] };
        match lineages.current(|_| true) {
            Current::None => None,
            Current::Known(document) => Some(document.lineage.to_string()[..1].to_owned()),
            Current::Unreadable(lineage) => Some(format!("{}?", &lineage.to_string()[..1])),
        }
    }

    #[test]
    fn the_current_branch_is_the_one_nobody_continues() {
        assert_eq!(current_of(&[]), None);
        assert_eq!(current_of(&[lineage("a", None, 0)]), Some("a".into()));
        // A clock that ran backwards does not make the abandoned branch current again.
        assert_eq!(current_of(&[lineage("a", None, 9), lineage("b", Some("a"), 1)]), Some("b".into()));
        let two_restores = [lineage("a", None, 0), lineage("b", Some("a"), 1), lineage("c", Some("a"), 2)];
        assert_eq!(current_of(&two_restores), Some("c".into()));
        assert_eq!(current_of(&[lineage("a", Some("b"), 0), lineage("b", Some("a"), 1)]), None);
    }

    #[test]
    fn a_document_that_cannot_be_read_matters_only_while_nobody_continues_its_branch() {
        assert_eq!(current_beside(&[], "a"), Some("a?".into()));
        assert_eq!(current_beside(&[lineage("b", Some("a"), 0)], "a"), Some("b".into()));
        assert_eq!(current_beside(&[lineage("a", None, 0)], "b"), Some("b?".into()));
        // What a backup does about it: a branch behind the one that cannot be read.
        assert_eq!(current_beside(&[lineage("a", None, 0), lineage("c", Some("b"), 1)], "b"), Some("c".into()));
        assert_eq!(current_beside(&[lineage("b", Some("a"), 0)], "ad"), Some("d?".into()));
    }

    #[tokio::test]
    async fn of_two_backups_at_once_that_open_a_branch_both_may_go_on() {
        let (_dir, repository) = testing::repository().await;
        // Both saw the cluster's id change; one of them a little later, at a higher revision.
        let opened = [lineage("b", Some("a"), 0), lineage("b", Some("a"), 1)];
        let [first, second] = [(&opened[0], None), (&opened[1], Some(510))]
            .map(|(document, fork_revision)| LineageDocument { fork_revision, ..document.clone() });
        let both = tokio::join!(register(&repository, "prod", &first), register(&repository, "prod", &second));
        let mut how = [both.0.unwrap(), both.1.unwrap()];
        how.sort_by_key(|how| *how == Stored::AlreadyThere);
        assert_eq!(how, [Stored::Created, Stored::AlreadyThere]);
        let registered = list(&repository, "prod").await.unwrap().known;
        assert!(registered == [first] || registered == [second], "{registered:?}");
    }

    #[tokio::test]
    async fn a_lineage_is_registered_once() {
        let (_dir, repository) = testing::repository().await;
        let first = lineage("a", None, 0);
        assert_eq!(register(&repository, "prod", &first).await.unwrap(), Stored::Created);
        assert_eq!(register(&repository, "prod", &first).await.unwrap(), Stored::AlreadyThere);
        let later = lineage("a", None, 7);
        assert_ne!(later, first);
        assert_eq!(register(&repository, "prod", &later).await.unwrap(), Stored::AlreadyThere);
        for other in [
            LineageDocument { reason: "another".into(), ..first.clone() },
            LineageDocument { cluster_id: EtcdId(2), ..first.clone() },
            LineageDocument { parent: Some(Lineage::parse(&"b".repeat(32)).unwrap()), ..first.clone() },
        ] {
            let error = register(&repository, "prod", &other).await.unwrap_err();
            assert_eq!(error.kind(), Kind::Conflict);
        }
        assert_eq!(list(&repository, "prod").await.unwrap().known, [first]);
        assert_eq!(list(&repository, "none").await.unwrap().known, []);
    }

    #[tokio::test]
    async fn what_cannot_be_read_is_named_and_hides_nothing_else() {
        let (dir, repository) = testing::repository().await;
        let documents = ["a", "b", "d"].map(|digit| lineage(digit, None, 0));
        for document in &documents {
            register(&repository, "prod", document).await.unwrap();
        }
        let path = |digit: &str| format!("clusters/prod/lineages/{}.json", digit.repeat(32));
        // Another one's content, a flipped bit, an empty file, and what file managers and editors leave.
        let at = Location::parse(&path("c")).unwrap();
        repository.put_document(&at, &documents[0]).await.unwrap();
        testing::damage(&dir.path().join(path("b")));
        testing::overwrite(&dir.path().join(path("d")), b"");
        let strays = [".DS_Store", "notes.json~", "old/a.json"].map(|name| format!("clusters/prod/lineages/{name}"));
        std::fs::create_dir(dir.path().join("clusters/prod/lineages/old")).unwrap();
        for stray in &strays {
            testing::overwrite(&dir.path().join(stray), b"x");
        }
        let lineages = list(&repository, "prod").await.unwrap();
        assert_eq!(lineages.known, documents[..1]);
        assert_eq!(lineages.unreadable.len(), 3);
        assert_eq!(lineages.damage.len(), 6);
        for name in [path("b"), path("c"), path("d")].iter().chain(&strays) {
            let named: Vec<&Error> = lineages.damage.iter().filter(|error| error.to_string().contains(name)).collect();
            assert!(matches!(&named[..], [one] if one.hint_text().is_some()), "{name}: {named:?}");
        }
        assert!(["a", "b"].iter().all(|digit| lineages.has(Lineage::parse(&digit.repeat(32)).unwrap())));
        assert!(!lineages.has(Lineage::parse(&"e".repeat(32)).unwrap()));
        let error = register(&repository, "prod", &documents[1]).await.unwrap_err();
        assert_eq!((error.kind(), error.hint_text().is_some()), (Kind::Damaged, true), "{error}");
    }
}
