//! One key's history: at which revisions it was written, at which it was deleted, and how long each message is.
//!
//! A **generation** is a key's life from its creation to its tombstone. etcd numbers the versions of a generation from 1 and
//! remembers the revision of its first; both stand in every stored message, and those of the newest one here, because the
//! next put needs them.
//!
//! Most keys have one version. It stands in the history itself; only more of them are allocated, shared with the views that
//! have seen them.

use std::sync::Arc;

use crate::base::revision::Rev;

const TOMBSTONE: u32 = 1 << 31;

/// A revision of a key: 16 bytes, because there are as many of them as the history has revisions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Version {
    main: i64,
    sub: u32,
    /// Length of the message; the highest bit tells a tombstone.
    shape: u32,
}

impl Version {
    /// The revision, whether the key ends there, and the length of its message.
    ///
    /// # Panics
    ///
    /// When there are more steps in a transaction, or bytes in a message, than requests can bring.
    pub fn new(rev: Rev, tombstone: bool, message_bytes: usize) -> Self {
        let bytes = u32::try_from(message_bytes).expect("a message is shorter than 2 GiB");
        assert!(bytes < TOMBSTONE, "a message is shorter than 2 GiB");
        let sub = u32::try_from(rev.sub).expect("a transaction has fewer than 2^32 steps");
        Version { main: rev.main, sub, shape: if tombstone { bytes | TOMBSTONE } else { bytes } }
    }

    /// The revision.
    pub fn rev(&self) -> Rev {
        Rev { main: self.main, sub: i64::from(self.sub) }
    }

    /// The main revision.
    pub fn main(&self) -> i64 {
        self.main
    }

    /// Whether the key ends here.
    pub fn is_tombstone(&self) -> bool {
        self.shape & TOMBSTONE != 0
    }

    /// Bytes of its message.
    pub fn message_bytes(&self) -> usize {
        (self.shape & !TOMBSTONE) as usize
    }
}

/// At least one version, oldest first.
#[derive(Clone, Debug)]
enum Versions {
    One(Version),
    Many(Arc<Vec<Version>>),
}

/// A key's history since the last compaction.
#[derive(Clone, Debug)]
pub struct History {
    versions: Versions,
    /// Of the newest generation: its first revision, and the number of its newest version.
    created: i64,
    version: i64,
}

impl History {
    /// The history of a key that is written for the first time, or met for the first time. `created` and `version` are
    /// what its message says.
    pub fn new(first: Version, created: i64, version: i64) -> Self {
        History { versions: Versions::One(first), created, version }
    }

    /// Every version, oldest first.
    pub fn versions(&self) -> &[Version] {
        match &self.versions {
            Versions::One(version) => std::slice::from_ref(version),
            Versions::Many(versions) => versions,
        }
    }

    /// The newest version, a tombstone or not.
    pub fn newest(&self) -> &Version {
        self.versions().last().expect("a history has a version")
    }

    /// What the key is at a main revision: its newest version up to there, unless that is a tombstone.
    pub fn at(&self, main: i64) -> Option<&Version> {
        let version = self.at_or_tombstone(main)?;
        (!version.is_tombstone()).then_some(version)
    }

    /// Of a key that is alive: the first revision of its generation, its newest revision, and that version's number.
    pub fn alive(&self) -> Option<(i64, i64, i64)> {
        let newest = self.newest();
        (!newest.is_tombstone()).then_some((self.created, newest.main, self.version))
    }

    /// The newest version up to a main revision, a tombstone or not.
    pub fn at_or_tombstone(&self, main: i64) -> Option<&Version> {
        let versions = self.versions();
        // Nearly everybody asks for the newest.
        let until = match versions.last() {
            Some(newest) if newest.main <= main => versions.len(),
            _ => versions.partition_point(|version| version.main <= main),
        };
        versions[..until].last()
    }

    /// The first revision of the generation, and the number of the version, that a put at `main` makes.
    pub fn next(&self, main: i64) -> (i64, i64) {
        if self.newest().is_tombstone() { (main, 1) } else { (self.created, self.version + 1) }
    }

    /// Appends what happens next.
    ///
    /// # Panics
    ///
    /// When that is not later than everything before.
    pub fn push(&mut self, next: Version, created: i64, version: i64) {
        assert!(next.rev() > self.newest().rev(), "history only grows");
        self.created = created;
        self.version = version;
        match &mut self.versions {
            Versions::One(first) => self.versions = Versions::Many(Arc::new(vec![*first, next])),
            Versions::Many(versions) => Arc::make_mut(versions).push(next),
        }
    }

    /// How many of the oldest versions nobody can ask for after a compaction at `compact`: all that are older than the
    /// newest one up to there; and that one too, if it is a tombstone from before. A tombstone exactly at the compaction
    /// stays, because a watcher may begin there.
    pub fn superfluous(&self, compact: i64) -> usize {
        let versions = self.versions();
        let until = versions.partition_point(|version| version.main <= compact);
        match until.checked_sub(1).map(|last| &versions[last]) {
            Some(last) if last.is_tombstone() && last.main < compact => until,
            Some(_) => until - 1,
            None => 0,
        }
    }

    /// The history without its `n` oldest versions; none when that is all of it.
    pub fn without_oldest(&self, n: usize) -> Option<History> {
        let versions = match &self.versions()[n..] {
            [] => return None,
            [one] => Versions::One(*one),
            many => Versions::Many(Arc::new(many.to_vec())),
        };
        Some(History { versions, ..*self })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(main: i64) -> Version {
        Version::new(Rev::of(main), false, 10)
    }

    fn end(main: i64) -> Version {
        Version::new(Rev::of(main), true, 3)
    }

    /// Written at 2, 4, deleted at 6, written at 8 and 9.
    fn history() -> History {
        let mut history = History::new(put(2), 2, 1);
        for version in [put(4), end(6), put(8), put(9)] {
            let (created, number) = if version.is_tombstone() { (0, 0) } else { history.next(version.main()) };
            history.push(version, created, number);
        }
        history
    }

    #[test]
    fn a_version_is_small_and_keeps_what_it_is_told() {
        assert_eq!(size_of::<Version>(), 16);
        assert!(size_of::<History>() <= 40);
        let version = Version::new(Rev { main: i64::MAX, sub: 7 }, true, (1 << 31) - 1);
        assert_eq!((version.rev(), version.is_tombstone()), (Rev { main: i64::MAX, sub: 7 }, true));
        assert_eq!(version.message_bytes(), (1 << 31) - 1);
    }

    #[test]
    fn a_key_is_what_it_was_at_each_revision() {
        let history = history();
        let at: Vec<_> = (1..11).map(|main| history.at(main).map(Version::main)).collect();
        assert_eq!(at, [None, Some(2), Some(2), Some(4), Some(4), None, None, Some(8), Some(9), Some(9)]);
        assert_eq!(history.at_or_tombstone(7).map(Version::main), Some(6));
        assert_eq!(history.next(10), (8, 3));
        let mut ended = history.clone();
        ended.push(end(10), 0, 0);
        assert_eq!(ended.next(11), (11, 1));
        // What was copied before has not seen it.
        assert_eq!(history.newest().main(), 9);
    }

    #[test]
    fn a_compaction_leaves_what_can_still_be_asked_for() {
        let left = |compact| {
            let history = history();
            let rest = history.without_oldest(history.superfluous(compact));
            rest.map_or(vec![], |rest| rest.versions().iter().map(Version::main).collect())
        };
        assert_eq!(left(1), [2, 4, 6, 8, 9]);
        assert_eq!(left(2), [2, 4, 6, 8, 9]);
        assert_eq!(left(5), [4, 6, 8, 9]);
        assert_eq!(left(6), [6, 8, 9]);
        assert_eq!(left(7), [8, 9]);
        assert_eq!(left(8), [8, 9]);
        assert_eq!(left(99), [9]);
        let mut ended = history();
        ended.push(end(12), 0, 0);
        assert_eq!(ended.without_oldest(ended.superfluous(12)).unwrap().versions().len(), 1);
        assert!(ended.without_oldest(ended.superfluous(13)).is_none());
    }
}
