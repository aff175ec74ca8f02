//! The two kinds of page a tree is made of, checked before anything in them is used.
//!
//! Both begin with a table of elements, each of which says where its bytes lie on the page. bbolt writes these bytes one
//! behind the other in the order of the table, and pages that say otherwise are refused: elements that overlap one another
//! or the table would unfold to far more than the file holds, and read one byte as two things.

use crate::base::error::{Error, Result};
use crate::snapshot::bbolt::page::{ELEMENT_BYTES, HEADER_BYTES, Header, LEAF, to_usize, u32_at, u64_at};
use crate::snapshot::bbolt::side::check_key;

/// A checked branch page: every key lies inside it, they ascend, and none is below what the parent allows.
#[derive(Debug)]
pub(crate) struct Branch {
    run: Vec<u8>,
    /// Children already taken, from the end the walk came from.
    taken: usize,
    count: usize,
}

impl Branch {
    /// Checks the branch page in `run`. `low`: the smallest key the parent allows.
    pub(crate) fn check(run: Vec<u8>, low: Option<&[u8]>) -> Result<Self> {
        let count = usize::from(Header::read(&run)?.count);
        let table_end = HEADER_BYTES + count * ELEMENT_BYTES;
        if count == 0 || table_end > run.len() {
            return Err(Error::damaged(format!("{count} children do not fit in a branch page")));
        }
        let branch = Branch { run, taken: 0, count };
        let mut free = table_end;
        for i in 0..count {
            let (start, end) = branch.bounds(i);
            if start < std::mem::replace(&mut free, end) || end > branch.run.len() {
                return Err(Error::damaged("a branch key lies outside its page or over another"));
            }
            let key = branch.key(i);
            check_key(key)?;
            // The first key may equal the parent's; later ones must ascend.
            let ascends = if i == 0 { low.is_none_or(|low| key >= low) } else { key > branch.key(i - 1) };
            if !ascends {
                return Err(Error::damaged("the keys of a branch page do not ascend"));
            }
        }
        Ok(branch)
    }

    fn bounds(&self, i: usize) -> (usize, usize) {
        let element = HEADER_BYTES + i * ELEMENT_BYTES;
        let start = element + to_usize(u64::from(u32_at(&self.run, element)));
        (start, start + to_usize(u64::from(u32_at(&self.run, element + 4))))
    }

    fn key(&self, i: usize) -> &[u8] {
        let (start, end) = self.bounds(i);
        &self.run[start..end]
    }

    /// Bytes the branch holds in memory.
    pub(crate) fn bytes(&self) -> usize {
        self.run.len()
    }

    /// Passes over the children that end before `key`, on the way forward.
    pub(crate) fn pass_before(&mut self, key: &[u8]) {
        let later = (1..self.count).find(|i| self.key(*i) > key).unwrap_or(self.count);
        self.taken = later - 1;
    }

    /// The next child and its smallest key: from the first on, or from the last.
    pub(crate) fn next_child(&mut self, forward: bool) -> Option<(u64, Vec<u8>)> {
        if self.taken == self.count {
            return None;
        }
        let i = if forward { self.taken } else { self.count - 1 - self.taken };
        self.taken += 1;
        Some((u64_at(&self.run, HEADER_BYTES + i * ELEMENT_BYTES + 8), self.key(i).to_vec()))
    }
}

/// A checked leaf page: every entry lies inside it and keys ascend.
#[derive(Clone, Debug)]
pub struct Leaf {
    run: Vec<u8>,
    count: usize,
}

/// One entry of a leaf.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry<'a> {
    /// `BUCKET` for a nested bucket.
    pub flags: u32,
    /// The key.
    pub key: &'a [u8],
    /// The value.
    pub value: &'a [u8],
}

impl Leaf {
    /// Checks the leaf page in `run`.
    pub(crate) fn check(run: Vec<u8>) -> Result<Self> {
        let header = Header::read(&run)?;
        if header.flags != LEAF {
            return Err(Error::damaged(format!("flags {:#x} are not a leaf's", header.flags)));
        }
        let count = usize::from(header.count);
        let table_end = HEADER_BYTES + count * ELEMENT_BYTES;
        if table_end > run.len() {
            return Err(Error::damaged(format!("{count} entries do not fit in a leaf page")));
        }
        let leaf = Leaf { run, count };
        // Entries lie one behind the other: overlapping ones would unfold to far more than the file holds.
        let mut free = table_end;
        for i in 0..count {
            let (start, middle, end) = leaf.bounds(i);
            if start < std::mem::replace(&mut free, end) || end > leaf.run.len() {
                return Err(Error::damaged("an entry lies outside its page or over another"));
            }
            check_key(&leaf.run[start..middle])?;
            if i > 0 && leaf.entry(i - 1).key >= &leaf.run[start..middle] {
                return Err(Error::damaged("the keys of a leaf page do not ascend"));
            }
        }
        Ok(leaf)
    }

    fn bounds(&self, i: usize) -> (usize, usize, usize) {
        let element = HEADER_BYTES + i * ELEMENT_BYTES;
        let start = element + to_usize(u64::from(u32_at(&self.run, element + 4)));
        let middle = start + to_usize(u64::from(u32_at(&self.run, element + 8)));
        (start, middle, middle + to_usize(u64::from(u32_at(&self.run, element + 12))))
    }

    /// The number of entries.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether the leaf has no entries.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Bytes the leaf holds in memory.
    pub fn bytes(&self) -> usize {
        self.run.len()
    }

    /// Entry `i`, in ascending order of keys.
    pub fn entry(&self, i: usize) -> Entry<'_> {
        assert!(i < self.count, "entry {i} of {}", self.count);
        let (start, middle, end) = self.bounds(i);
        let flags = u32_at(&self.run, HEADER_BYTES + i * ELEMENT_BYTES);
        Entry { flags, key: &self.run[start..middle], value: &self.run[middle..end] }
    }

    /// All entries, in ascending order of keys.
    pub fn entries(&self) -> impl Iterator<Item = Entry<'_>> {
        (0..self.count).map(|i| self.entry(i))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::bbolt::page::BRANCH;

    /// A page of elements (position on the page, length of the key), with the letters a, b, c, .. behind the table.
    fn page(flags: u16, elements: &[(usize, usize)]) -> Vec<u8> {
        let count = u16::try_from(elements.len()).unwrap();
        let mut page = vec![];
        Header { id: 9, flags, count, overflow: 0 }.write(&mut page);
        for (i, (at, len)) in elements.iter().enumerate() {
            let short = |n: usize| u32::try_from(n).unwrap().to_le_bytes();
            let position = short(at.wrapping_sub(HEADER_BYTES + i * ELEMENT_BYTES) & 0xffff_ffff);
            if flags == BRANCH {
                page.extend([position, short(*len), short(100 + i), short(0)].concat());
            } else {
                page.extend([short(0), position, short(*len), short(0)].concat());
            }
        }
        page.extend(b"abcdefghijklmnopqrstuvwxyz");
        page
    }

    #[test]
    fn elements_lie_one_behind_the_other_as_bbolt_writes_them() {
        // Two elements end at byte 48; the letters begin there.
        for (elements, right) in [
            (&[(48, 2), (50, 1)][..], true),
            // Room between them harms nobody.
            (&[(48, 1), (60, 14)], true),
            (&[(48, 0), (48, 1)], true),
            // The second begins inside the first; in the order of the page it would come first.
            (&[(48, 3), (50, 1)], false),
            (&[(60, 1), (48, 1)], false),
            // Over the table, in the header, past the end.
            (&[(47, 2), (50, 1)], false),
            (&[(48, 2), (46, 1)], false),
            (&[(0, 1), (50, 1)], false),
            (&[(48, 2), (73, 2)], false),
            (&[(48, 2), (usize::MAX, 2)], false),
        ] {
            let branch = Branch::check(page(BRANCH, elements), None);
            assert_eq!(branch.is_ok(), right, "branch {elements:?}: {branch:?}");
            let leaf = Leaf::check(page(LEAF, elements));
            assert_eq!(leaf.is_ok(), right, "leaf {elements:?}: {leaf:?}");
        }
    }

    #[test]
    fn children_come_from_either_end_and_above_the_parents_key() {
        let elements = [(48, 2), (50, 1)];
        for (forward, expected) in [
            (true, [(100, b"ab".to_vec()), (101, b"c".to_vec())]),
            (false, [(101, b"c".to_vec()), (100, b"ab".to_vec())]),
        ] {
            let mut branch = Branch::check(page(BRANCH, &elements), Some(b"ab")).unwrap();
            let children: Vec<_> = std::iter::from_fn(|| branch.next_child(forward)).collect();
            assert_eq!(children, expected);
        }
        assert!(Branch::check(page(BRANCH, &elements), Some(b"abc")).is_err());
        assert!(Branch::check(page(BRANCH, &[(50, 1), (51, 0)]), None).is_err(), "keys ascend");
        assert!(Branch::check(page(BRANCH, &[]), None).is_err(), "a branch leads somewhere");
    }
}
