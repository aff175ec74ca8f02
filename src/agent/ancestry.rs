//! Which branch of history a new restore point belongs to: proved by the facts at hand, not assumed.
//!
//! A restore or a forced new cluster can keep ids and revisions, so equal ids prove nothing by themselves. A point
//! continues the current branch only when the cluster's id is the same, neither its revision nor its raft position went
//! back, and nothing that the newest point remembers is contradicted; otherwise it opens a branch of its own, and the
//! reason is told.
//!
//! What went back is asked of the cluster as a whole, not of the file: a follower may lag, a cluster does not.

use crate::base::digest::Sha256;
use crate::base::error::Result;
use crate::base::id::EtcdId;
use crate::vault::layout::Lineage;

/// Where a history stood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// The cluster.
    pub cluster_id: EtcdId,
    /// Its revision.
    pub revision: i64,
    /// Raft term of the last applied entry; 0 when the source does not say.
    pub raft_term: u64,
    /// Raft index of the last applied entry; 0 when the source does not say.
    pub raft_index: u64,
}

/// The branch a point belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Branch {
    /// The current one.
    Continues(Lineage),
    /// A new one.
    Opens {
        /// Its id.
        lineage: Lineage,
        /// The branch it leaves, if there was one.
        parent: Option<Lineage>,
        /// Why, for people.
        reason: String,
    },
}

/// Decides. `current`: the current branch and the position of its newest point, when it has one. `now`: where the cluster
/// stands. `contradiction`: what the newest point remembers otherwise. `attempt` makes the id of a branch unique where
/// nothing else tells it apart.
pub fn branch(
    current: Option<(Lineage, Position)>,
    now: Position,
    contradiction: Option<&str>,
    attempt: &str,
) -> Result<Branch> {
    // A branch of imported files names no cluster: nothing live can continue it.
    let Some((parent, then)) = current.filter(|(_, then)| then.cluster_id != EtcdId(0)) else {
        // Two first backups at once must open the same branch.
        let lineage = derive(&["first", &now.cluster_id.to_string()])?;
        return Ok(Branch::Opens { lineage, parent: None, reason: "the first restore point".to_owned() });
    };
    if now.cluster_id != then.cluster_id {
        let lineage = derive(&["cluster", &parent.to_string(), &now.cluster_id.to_string()])?;
        let reason = format!("the cluster's id changed from {} to {}", then.cluster_id, now.cluster_id);
        return Ok(Branch::Opens { lineage, parent: Some(parent), reason });
    }
    let back = [
        ("revision", i128::from(then.revision), i128::from(now.revision)),
        ("raft term", i128::from(then.raft_term), i128::from(now.raft_term)),
        ("raft index", i128::from(then.raft_index), i128::from(now.raft_index)),
    ];
    // A file before etcd 3.5 may not tell its term.
    let back = back.into_iter().find(|(_, then, now)| *now != 0 && now < then);
    let back = back.map(|(what, then, now)| format!("the {what} went back from {then} to {now}"));
    let Some(why) = back.as_deref().or(contradiction) else { return Ok(Branch::Continues(parent)) };
    let lineage = derive(&["fork", &parent.to_string(), attempt])?;
    let reason = format!("{why}: the cluster was restored or forced");
    Ok(Branch::Opens { lineage, parent: Some(parent), reason })
}

/// A branch behind `parent`, which may be the current one and whose document cannot be read: nothing can be proved to
/// continue it, and a branch of its own is right whatever the document said.
pub fn behind(parent: Lineage, attempt: &str) -> Result<Branch> {
    let lineage = derive(&["fork", &parent.to_string(), attempt])?;
    let reason = format!("the document of lineage {parent}, the last one, cannot be read");
    Ok(Branch::Opens { lineage, parent: Some(parent), reason })
}

fn derive(parts: &[&str]) -> Result<Lineage> {
    let digest = Sha256::of(format!("holdfast lineage\n{}", parts.join("\n")).as_bytes());
    Lineage::parse(&digest.to_string()[..32])
}

#[cfg(test)]
mod tests {
    use super::*;

    const THEN: Position = Position { cluster_id: EtcdId(1), revision: 100, raft_term: 3, raft_index: 500 };

    fn current() -> Option<(Lineage, Position)> {
        Some((Lineage::parse(&"a".repeat(32)).unwrap(), THEN))
    }

    fn reason(now: Position) -> Option<String> {
        match branch(current(), now, None, "x").unwrap() {
            Branch::Continues(_) => None,
            Branch::Opens { reason, parent, .. } => {
                assert!(parent.is_some());
                Some(reason)
            }
        }
    }

    #[test]
    fn going_on_continues_and_going_back_opens_a_branch() {
        assert_eq!(reason(THEN), None);
        assert_eq!(reason(Position { revision: 101, raft_index: 501, ..THEN }), None);
        assert_eq!(reason(Position { raft_term: 0, ..THEN }), None);
        for (now, word) in [
            (Position { cluster_id: EtcdId(2), ..THEN }, "id changed"),
            (Position { revision: 99, ..THEN }, "revision went back"),
            (Position { raft_term: 2, ..THEN }, "raft term went back"),
            (Position { raft_index: 499, ..THEN }, "raft index went back"),
        ] {
            assert!(reason(now).unwrap().contains(word));
        }
        let contradicted = branch(current(), THEN, Some("revision 7/0 has another content"), "x").unwrap();
        let Branch::Opens { reason, .. } = contradicted else { panic!("it continued") };
        assert!(reason.starts_with("revision 7/0 has another content: "), "{reason}");
    }

    #[test]
    fn the_first_live_point_beside_imported_files_is_a_first_point() {
        let imported = current().map(|(lineage, then)| (lineage, Position { cluster_id: EtcdId(0), ..then }));
        let Branch::Opens { lineage, parent, .. } = branch(imported, THEN, None, "x").unwrap() else {
            panic!("continued")
        };
        assert_eq!(parent, None);
        assert_eq!(branch(None, THEN, None, "y").unwrap(), branch(imported, THEN, None, "x").unwrap());
        assert_ne!(lineage, current().unwrap().0);
    }

    #[test]
    fn a_branch_behind_one_that_cannot_be_read_names_it_as_its_parent() {
        let lost = current().unwrap().0;
        let open = |attempt| match behind(lost, attempt).unwrap() {
            Branch::Opens { lineage, parent, reason } if parent == Some(lost) && reason.contains(&lost.to_string()) => {
                lineage
            }
            other => panic!("{other:?}"),
        };
        assert_eq!(open("x"), open("x"));
        assert_ne!(open("x"), open("y"));
    }

    #[test]
    fn first_points_agree_and_forks_do_not() {
        let first = |attempt| branch(None, THEN, None, attempt).unwrap();
        assert_eq!(first("x"), first("y"));
        let fork = |attempt| branch(current(), Position { revision: 1, ..THEN }, None, attempt).unwrap();
        assert_ne!(fork("x"), fork("y"));
    }
}
