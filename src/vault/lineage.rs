//! Lineages: the branches of a cluster's history.
//!
//! Within a lineage a revision means one state forever, so writers can only duplicate each other. History forks when
//! state goes back (a restore, a forced new cluster): from then on the same revision may mean something else, and that
//! something else belongs to a lineage of its own, which names its parent and the last revision they share.
//!
//! ```text
//! 1 ---- 500 ---- 900            lineage a
//!          \
//!           501 ---- 1200        lineage b: parent a, forked at 500
//! ```
//!
//! The **current** lineage is the one that nobody continues; should several be left (two restores side by side), it is
//! the one opened last. Points of the others stay selectable.

use serde::{Deserialize, Serialize};

use crate::base::clock::Time;
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
    /// The last revision it shares with its parent.
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

/// Registers a lineage; registering the same one again changes nothing. Two first backups at once open the same branch
/// at different moments: the one that was registered counts.
pub async fn register(repository: &Repository, cluster: &str, document: &LineageDocument) -> Result<Stored> {
    let at = Location::Lineage(cluster.to_owned(), document.lineage);
    match repository.put_document(&at, document).await {
        Err(error) if error.kind() == Kind::Conflict => {
            let there = LineageDocument { opened: document.opened, ..repository.get_document(&at).await? };
            if there == *document { Ok(Stored::AlreadyThere) } else { Err(error) }
        }
        stored => stored,
    }
}

/// A cluster's lineages, oldest first.
pub async fn list(repository: &Repository, cluster: &str) -> Result<Vec<LineageDocument>> {
    let mut lineages = vec![];
    for (at, document) in repository.documents::<LineageDocument>(&folder::lineages(cluster)).await? {
        check(&at, cluster, &document)?;
        lineages.push(document);
    }
    lineages.sort_by_key(|l| (l.opened, l.lineage));
    Ok(lineages)
}

/// A lineage document says what its name says.
pub(crate) fn check(at: &Location, cluster: &str, document: &LineageDocument) -> Result<()> {
    if *at == Location::Lineage(cluster.to_owned(), document.lineage) {
        return Ok(());
    }
    Err(Error::damaged(format!("{at} is damaged: its content belongs to lineage {}", document.lineage))
        .hint(HINT_DAMAGED))
}

/// The branch that nobody continues, the newest of them on a tie; none when there is none, or only a circle. Imported
/// files come from no known cluster and count only where nothing else is.
pub fn current(lineages: &[LineageDocument]) -> Option<&LineageDocument> {
    let continued = |l: &LineageDocument| lineages.iter().any(|child| child.parent == Some(l.lineage));
    lineages.iter().filter(|l| !continued(l)).max_by_key(|l| (l.cluster_id != EtcdId(0), l.opened, l.lineage))
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

    fn current_of(lineages: &[LineageDocument]) -> Option<String> {
        current(lineages).map(|l| l.lineage.to_string()[..1].to_owned())
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

    #[tokio::test]
    async fn a_lineage_is_registered_once() {
        let (_dir, repository) = testing::repository().await;
        let first = lineage("a", None, 0);
        assert_eq!(register(&repository, "prod", &first).await.unwrap(), Stored::Created);
        assert_eq!(register(&repository, "prod", &first).await.unwrap(), Stored::AlreadyThere);
        let later = lineage("a", None, 7);
        assert_ne!(later, first);
        assert_eq!(register(&repository, "prod", &later).await.unwrap(), Stored::AlreadyThere);
        let other = LineageDocument { reason: "another".into(), ..first.clone() };
        assert_eq!(register(&repository, "prod", &other).await.unwrap_err().kind(), Kind::Conflict);
        assert_eq!(list(&repository, "prod").await.unwrap(), std::slice::from_ref(&first));
        assert_eq!(list(&repository, "none").await.unwrap(), []);
        let at = Location::Lineage("prod".into(), Lineage::parse(&"c".repeat(32)).unwrap());
        repository.put_document(&at, &first).await.unwrap();
        assert_eq!(list(&repository, "prod").await.unwrap_err().kind(), Kind::Damaged);
    }
}
