//! Where everything goes in a file that is written from sorted entries: leaves, branches and pages, from lengths alone.
//!
//! `Shape` is fed the entries of one bucket after another and says when a leaf closes and which pages it takes. The
//! writer follows it while it streams; a planner runs it ahead with lengths only, to know the metas, which come first in
//! the file but are settled last. Both run the same code, so a plan cannot differ from the file.
//!
//! ```text
//! page 0, 1  metas      page 2  an empty freelist
//! page 3..   per bucket, in the order fed: its leaves, then its branch pages level by level
//! last       the root bucket's leaf
//! ```
//!
//! A leaf takes entries until the next one would make it longer than `LEAF_BYTES`; so pages are full but for the rounding
//! of the last one, and values larger than a page cost no page of their own per entry. bbolt leaves up to four entries
//! unsplit on a run of pages itself, and splits longer leaves when it next writes to them. A bucket whose only leaf is
//! small enough lies inline in the root bucket, by bbolt's own rule (a quarter of a page).

use crate::snapshot::bbolt::page::{BUCKET_BYTES, ELEMENT_BYTES, HEADER_BYTES};

/// The page size of files that are written: that of the systems etcd runs on.
pub const PAGE_BYTES: usize = 4096;
/// A leaf is closed before it gets longer than this.
pub const LEAF_BYTES: usize = 8 * PAGE_BYTES;
/// Entries in a leaf at most: the page header counts in 16 bits, and 0xFFFF has a meaning of its own elsewhere.
const LEAF_ENTRIES_MAX: usize = 0xFFF0;
/// The first page after metas and freelist.
const FIRST_PAGE: u64 = 3;

/// Sizes that decide where things go. Tests use small ones, so that every path is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// Bytes of a page.
    pub page: usize,
    /// Bytes of a leaf at most, unless one entry is longer.
    pub leaf: usize,
}

impl Default for Sizes {
    fn default() -> Self {
        Sizes { page: PAGE_BYTES, leaf: LEAF_BYTES }
    }
}

/// A run of pages that something takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// Its first page.
    pub id: u64,
    /// How many.
    pub pages: u64,
}

/// A child of a branch page: its smallest key and its page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Child {
    /// The smallest key below it.
    pub key: Vec<u8>,
    /// Its page.
    pub id: u64,
}

/// A branch page to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BranchPage {
    /// Its page.
    pub run: Run,
    /// What it leads to.
    pub children: Vec<Child>,
}

/// How a bucket ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// Its only leaf lies inline in the root bucket.
    Inline,
    /// The last leaf takes `leaf`; the branch pages follow in this order; the tree begins at `root`.
    Pages {
        /// The run of the leaf that was still open.
        leaf: Run,
        /// Branch pages, innermost level first.
        branches: Vec<BranchPage>,
        /// Where the tree begins.
        root: u64,
    },
}

/// The layout in the making.
#[derive(Clone, Debug)]
pub struct Shape {
    sizes: Sizes,
    next_page: u64,
    /// The open leaf.
    leaf_bytes: usize,
    leaf_entries: usize,
    leaf_key: Vec<u8>,
    children: Vec<Child>,
    /// Bytes of the root bucket's leaf so far.
    root_bytes: usize,
}

impl Shape {
    /// The layout of an empty file.
    pub fn new(sizes: Sizes) -> Self {
        assert!(sizes.leaf >= sizes.page, "a leaf has at least one page");
        Shape {
            sizes,
            next_page: FIRST_PAGE,
            leaf_bytes: HEADER_BYTES,
            leaf_entries: 0,
            leaf_key: vec![],
            children: vec![],
            root_bytes: HEADER_BYTES,
        }
    }

    /// Adds an entry. When it opens a new leaf, the run of the one just closed is returned.
    pub fn put(&mut self, key: &[u8], value_len: usize) -> Option<Run> {
        let bytes = ELEMENT_BYTES + key.len() + value_len;
        let full = self.leaf_bytes + bytes > self.sizes.leaf || self.leaf_entries == LEAF_ENTRIES_MAX;
        let closed = (full && self.leaf_entries > 0).then(|| self.close_leaf());
        if self.leaf_entries == 0 {
            self.leaf_key.clear();
            self.leaf_key.extend_from_slice(key);
        }
        self.leaf_bytes += bytes;
        self.leaf_entries += 1;
        closed
    }

    fn close_leaf(&mut self) -> Run {
        let run = self.take_pages(self.leaf_bytes);
        self.children.push(Child { key: std::mem::take(&mut self.leaf_key), id: run.id });
        self.leaf_bytes = HEADER_BYTES;
        self.leaf_entries = 0;
        run
    }

    fn take_pages(&mut self, bytes: usize) -> Run {
        let pages = bytes.div_ceil(self.sizes.page) as u64;
        let run = Run { id: self.next_page, pages };
        self.next_page += pages;
        run
    }

    /// Ends the bucket called `name`.
    pub fn end_bucket(&mut self, name: &[u8]) -> Ending {
        let inline = self.children.is_empty() && BUCKET_BYTES + self.leaf_bytes <= self.sizes.page / 4;
        self.root_bytes += ELEMENT_BYTES + name.len() + BUCKET_BYTES;
        if inline {
            self.root_bytes += self.leaf_bytes;
            self.leaf_bytes = HEADER_BYTES;
            self.leaf_entries = 0;
            return Ending::Inline;
        }
        let leaf = self.close_leaf();
        let mut branches = vec![];
        let mut level = std::mem::take(&mut self.children);
        while level.len() > 1 {
            level = self.branch_level(level, &mut branches);
        }
        Ending::Pages { leaf, branches, root: level[0].id }
    }

    /// Puts branch pages over `children`; returns them as children of the next level.
    fn branch_level(&mut self, children: Vec<Child>, branches: &mut Vec<BranchPage>) -> Vec<Child> {
        let mut level = vec![];
        let mut open: Vec<Child> = vec![];
        let mut bytes = HEADER_BYTES;
        let mut rest = children.len();
        for child in children {
            let more = ELEMENT_BYTES + child.key.len();
            // A branch page needs two children to lead anywhere, so the last child never stands alone.
            if open.len() >= 2 && bytes + more > self.sizes.page && rest > 1 {
                level.push(self.close_branch(std::mem::take(&mut open), bytes, branches));
                bytes = HEADER_BYTES;
            }
            bytes += more;
            rest -= 1;
            open.push(child);
        }
        level.push(self.close_branch(open, bytes, branches));
        level
    }

    fn close_branch(&mut self, children: Vec<Child>, bytes: usize, branches: &mut Vec<BranchPage>) -> Child {
        let run = self.take_pages(bytes);
        let child = Child { key: children[0].key.clone(), id: run.id };
        branches.push(BranchPage { run, children });
        child
    }

    /// Ends the file: the run of the root bucket's leaf, and the number of pages of the whole file.
    pub fn end(mut self) -> (Run, u64) {
        assert!(self.leaf_entries == 0 && self.children.is_empty(), "the last bucket was not ended");
        let root = self.take_pages(self.root_bytes);
        (root, self.next_page)
    }
}
