//! The index: every key, in order of its bytes, with its history.
//!
//! It is a B-tree whose copies share their nodes. A copy costs one reference; the next change copies the few nodes on its
//! way. So a reader keeps the index as it was for as long as it likes, without a lock and in nobody's way.

use std::ops::Bound;
use std::sync::Arc;

use imbl::OrdMap;

use crate::base::revision::Rev;
use crate::store::mvcc::history::{History, Version};

/// A key, shared by the index, its copies, and everybody on the way.
pub type Key = Arc<[u8]>;

/// Which keys, as etcd's requests say it: a key alone, everything from a key on, or from a key to before another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keys<'a> {
    first: &'a [u8],
    end: End<'a>,
}

type Bounds<'a> = (Bound<&'a [u8]>, Bound<&'a [u8]>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End<'a> {
    Alone,
    Open,
    Before(&'a [u8]),
}

impl<'a> Keys<'a> {
    /// What `key` and `range_end` of a request mean: no end is the key alone, a zero byte as the end is no end at all, and
    /// a zero byte as the key is the beginning, which the order of bytes says already.
    pub fn of(key: &'a [u8], range_end: &'a [u8]) -> Self {
        let end = match range_end {
            [] => End::Alone,
            [0] => End::Open,
            end => End::Before(end),
        };
        Keys { first: key, end }
    }

    /// Whether this is one key and not a range.
    pub fn is_one(&self) -> bool {
        self.end == End::Alone
    }

    /// Whether `key` is one of them.
    pub fn contains(&self, key: &[u8]) -> bool {
        match self.end {
            End::Alone => key == self.first,
            End::Open => key >= self.first,
            End::Before(end) => key >= self.first && key < end,
        }
    }

    /// Of a range that has a beginning and an end in the right order.
    fn bounds(&self) -> Option<Bounds<'a>> {
        let upper = match self.end {
            End::Alone => return None,
            End::Open => Bound::Unbounded,
            End::Before(end) if end > self.first => Bound::Excluded(end),
            End::Before(_) => return None,
        };
        Some((Bound::Included(self.first), upper))
    }
}

/// Every key with its history.
#[derive(Clone, Debug, Default)]
pub struct Index {
    keys: OrdMap<Key, History>,
    /// How many of them are alive.
    alive: usize,
}

impl Index {
    /// How many keys have a history, alive or not.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// How many keys are alive.
    pub fn alive_len(&self) -> usize {
        self.alive
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// A key's history.
    pub fn get(&self, key: &[u8]) -> Option<&History> {
        self.keys.get(key)
    }

    /// A key as everybody shares it.
    pub fn key(&self, key: &[u8]) -> Option<&Key> {
        self.keys.get_key_value(key).map(|(key, _)| key)
    }

    /// The histories of some keys, in order.
    pub fn range<'a>(&'a self, keys: Keys<'_>) -> impl DoubleEndedIterator<Item = (&'a Key, &'a History)> + use<'a> {
        // Nearly every request is about one key: no walk is begun for it.
        let one = keys.is_one().then(|| self.keys.get_key_value(keys.first)).flatten();
        let many = keys.bounds().map(|bounds| self.keys.range::<_, [u8]>(bounds));
        one.into_iter().chain(many.into_iter().flatten())
    }

    /// What is alive of some keys at a main revision, in order.
    pub fn alive<'a>(&'a self, keys: Keys<'_>, main: i64) -> impl Iterator<Item = (&'a Key, &'a Version)> + use<'a> {
        self.range(keys).filter_map(move |(key, history)| Some((key, history.at(main)?)))
    }

    /// Notes a put at `rev`; the first revision of its generation, its version's number, and what the key was before.
    /// `message_bytes` has the length of the message, told both.
    pub fn put(&mut self, key: &[u8], rev: Rev, message_bytes: impl FnOnce(i64, i64) -> usize) -> Option<Version> {
        let before = match self.keys.get_mut(key) {
            Some(history) => {
                let before = history.at(rev.main).copied();
                let (created, version) = history.next(rev.main);
                history.push(Version::new(rev, false, message_bytes(created, version)), created, version);
                before
            }
            None => {
                let first = Version::new(rev, false, message_bytes(rev.main, 1));
                self.keys.insert(key.into(), History::new(first, rev.main, 1));
                None
            }
        };
        self.alive += usize::from(before.is_none());
        before
    }

    /// Notes a key's end at `rev`. The key must be alive.
    pub fn end(&mut self, key: &[u8], rev: Rev, message_bytes: usize) {
        let history = self.keys.get_mut(key).expect("only a key that is alive can be deleted");
        assert!(!history.newest().is_tombstone(), "only a key that is alive can be deleted");
        history.push(Version::new(rev, true, message_bytes), 0, 0);
        self.alive -= 1;
    }

    /// Notes what is already stored, in ascending order: how the index is built when a member starts.
    pub fn load(&mut self, key: &[u8], version: Version, created: i64, number: i64) {
        let (was_alive, is_alive) = match self.keys.get_mut(key) {
            Some(history) => {
                let was_alive = !history.newest().is_tombstone();
                history.push(version, created, number);
                (was_alive, !version.is_tombstone())
            }
            None => {
                self.keys.insert(key.into(), History::new(version, created, number));
                (false, !version.is_tombstone())
            }
        };
        self.alive = self.alive + usize::from(is_alive) - usize::from(was_alive);
    }

    /// Forgets what a compaction at `compact` made superfluous, of at most `keys_max` keys after `after`; their revisions
    /// go to `gone`. The key to go on after, or none when the end was reached.
    pub fn prune(&mut self, after: Option<&Key>, keys_max: usize, compact: i64, gone: &mut Vec<Rev>) -> Option<Key> {
        let from = after.map_or(Bound::Unbounded, |key| Bound::Excluded(&**key));
        let mut last = None;
        let mut changed = vec![];
        for (key, history) in self.keys.range::<_, [u8]>((from, Bound::Unbounded)).take(keys_max) {
            last = Some(key.clone());
            let n = history.superfluous(compact);
            if n > 0 {
                gone.extend(history.versions()[..n].iter().map(Version::rev));
                changed.push((key.clone(), history.without_oldest(n)));
            }
        }
        for (key, rest) in changed {
            match rest {
                Some(rest) => drop(self.keys.insert(key, rest)),
                None => drop(self.keys.remove(&*key)),
            }
        }
        last
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn index(keys: &[&str]) -> Index {
        let mut index = Index::default();
        for (n, key) in keys.iter().enumerate() {
            index.put(key.as_bytes(), Rev::of(2 + i64::try_from(n).unwrap()), |_, _| 1);
        }
        index
    }

    fn found(index: &Index, key: &str, end: &str) -> Vec<String> {
        let keys = Keys::of(key.as_bytes(), end.as_bytes());
        let all = index.alive(keys, i64::MAX).map(|(key, _)| String::from_utf8(key.to_vec()).unwrap()).collect();
        for key in ["", "a", "a/1", "b", "c", "zz"] {
            let inside = index.range(keys).any(|(known, _)| **known == *key.as_bytes());
            assert!(!inside || keys.contains(key.as_bytes()), "{key}");
        }
        all
    }

    #[test]
    fn ranges_are_those_of_requests() {
        let index = index(&["b", "a", "a/1", "c", "a/2"]);
        assert_eq!(found(&index, "a", ""), ["a"]);
        assert_eq!(found(&index, "x", ""), [""; 0]);
        assert_eq!(found(&index, "a/", "a0"), ["a/1", "a/2"]);
        assert_eq!(found(&index, "b", "\0"), ["b", "c"]);
        assert_eq!(found(&index, "\0", "\0"), ["a", "a/1", "a/2", "b", "c"]);
        assert_eq!(found(&index, "b", "b"), [""; 0]);
        assert_eq!(found(&index, "b", "a"), [""; 0]);
    }

    /// A length that says what it was made from.
    fn told(created: i64, version: i64) -> usize {
        usize::try_from(created * 10 + version).unwrap()
    }

    #[test]
    fn a_copy_stays_as_it_was() {
        let mut index = index(&["a", "b"]);
        let before = index.clone();
        index.end(b"a", Rev::of(10), 3);
        assert_eq!(index.put(b"b", Rev::of(11), told).unwrap().main(), 3);
        assert_eq!(index.put(b"a", Rev::of(12), told), None);
        assert_eq!(index.get(b"b").unwrap().newest().message_bytes(), 32);
        assert_eq!(index.get(b"a").unwrap().newest().message_bytes(), 121);
        assert_eq!(before.get(b"a").unwrap().versions().len(), 1);
        assert_eq!(before.get(b"b").unwrap().newest().main(), 3);
    }

    #[test]
    fn pruning_goes_in_slices_and_leaves_what_can_be_asked_for() {
        let names: Vec<String> = (0..100).map(|n| format!("key-{n:03}")).collect();
        let mut index = Index::default();
        for round in 0..3 {
            for (n, name) in names.iter().enumerate() {
                index.put(name.as_bytes(), Rev::of(2 + round * 100 + i64::try_from(n).unwrap()), |_, _| 1);
            }
        }
        index.end(b"key-007", Rev::of(400), 1);
        let before = index.clone();
        let (mut gone, mut after, mut slices) = (vec![], None, 0);
        loop {
            after = index.prune(after.as_ref(), 30, 401, &mut gone);
            slices += 1;
            if after.is_none() {
                break;
            }
        }
        assert_eq!((slices, gone.len(), index.len(), before.len()), (5, 202, 99, 100));
        assert!(index.get(b"key-007").is_none());
        assert!(index.range(Keys::of(b"\0", b"\0")).all(|(_, history)| history.versions().len() == 1));
        assert_eq!(before.get(b"key-001").unwrap().at(50).unwrap().main(), 3);
        assert_eq!((index.alive_len(), before.alive_len()), (99, 99));
    }

    /// Whether it is made anew or grows: as many as a walk finds.
    #[test]
    fn keys_that_are_alive_are_counted() {
        let (mut grown, mut loaded) = (Index::default(), Index::default());
        let mut rng = crate::base::rng::Seeded::new(7);
        for main in 2..600 {
            let (key, rev) = ([b'a' + u8::try_from(rng.below(9)).unwrap()], Rev::of(main));
            let is_alive = grown.get(&key).is_some_and(|history| history.alive().is_some());
            if is_alive && rng.below(2) == 0 {
                grown.end(&key, rev, 1);
            } else {
                grown.put(&key, rev, |_, _| 1);
            }
            let newest = *grown.get(&key).unwrap().newest();
            loaded.load(&key, newest, 1, 1);
            let walked = grown.alive(Keys::of(b"\0", b"\0"), i64::MAX).count();
            assert_eq!([grown.alive_len(), loaded.alive_len()], [walked; 2]);
        }
        let walked = |index: &Index| index.alive(Keys::of(b"\0", b"\0"), i64::MAX).count();
        grown.prune(None, 100, 599, &mut vec![]);
        assert_eq!(grown.alive_len(), walked(&grown));
    }
}
