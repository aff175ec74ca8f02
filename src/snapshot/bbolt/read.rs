//! Reading a file: metas, buckets, and the leaves of a bucket in either direction.
//!
//! The tree is walked with an explicit stack of branch pages, so depth costs no recursion and has a limit. A bitmap of
//! pages already met turns cycles and double references into errors and bounds the walk by the size of the file.

use crate::base::error::{Error, Kind, Result};
use crate::snapshot::bbolt::Pages;
use crate::snapshot::bbolt::node::{Branch, Entry, Leaf};
use crate::snapshot::bbolt::page::{
    BRANCH, BUCKET, BUCKET_BYTES, Header, LEAF, META_BYTES, Meta, PAGE_SIZES, to_usize, u64_at,
};

/// The longest run of pages that is read as one page, in bytes: a record at its limit and its page.
pub const RUN_BYTES_MAX: u64 = 80 << 20;
/// The deepest tree that is walked. With two children per branch page, 2^48 leaves.
pub const DEPTH_MAX: usize = 48;
/// What all branch pages on the way to a leaf may take together, in bytes. bbolt splits a branch at the size of a page.
pub const BRANCHES_BYTES_MAX: usize = 16 << 20;
/// The most buckets a file may have. etcd has a dozen.
pub const BUCKETS_MAX: usize = 1024;
/// What names and inline pages of all buckets may take together, in bytes. etcd's take a few kilobytes.
pub const BUCKET_LIST_BYTES_MAX: usize = 4 << 20;
/// The most pages a file may have: 256 GiB of the usual size. Which of them were met is noted in one bit for each.
pub const PAGES_MAX: u64 = 1 << 26;
/// Bytes of the SHA-256 that `etcdctl snapshot save` appends.
pub const TRAILER_BYTES: u64 = 32;
/// What the length of a file with that trailer leaves when divided by it.
const SECTOR_BYTES: u64 = 512;
/// Pages read at once where nothing around is wanted; leaves of usual objects have two or three.
const SPECULATIVE_PAGES: u64 = 4;
/// Bytes read at once where pages are wanted in the order of the file, or nearly so.
const WINDOW_BYTES: u64 = 256 << 10;

/// An open file.
#[derive(Debug)]
pub struct Db<P> {
    pages: P,
    meta: Meta,
}

/// One of the file's buckets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bucket {
    /// Its name.
    pub name: Vec<u8>,
    /// Its sequence number; etcd never uses it.
    pub sequence: u64,
    /// Where its tree begins.
    pub root: Root,
}

/// Where a bucket's tree begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Root {
    /// On a page of its own.
    Page(u64),
    /// In the bucket's entry: a leaf page.
    Inline(Vec<u8>),
}

/// Which end of a bucket comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Smallest key first.
    Forward,
    /// Largest key first. Within a leaf, entries stay in ascending order.
    Backward,
}

/// One pass over a file: the pages met so far, and what was read ahead.
#[derive(Clone, Debug)]
pub struct Walk {
    /// A bit for each page.
    met: Vec<u64>,
    window: Window,
}

/// A part of the file in memory.
#[derive(Clone, Debug, Default)]
struct Window {
    start: u64,
    bytes: Vec<u8>,
    /// Where the page before began.
    last: u64,
}

impl<P: Pages> Db<P> {
    /// Opens a file by its newest valid meta.
    pub fn open(pages: P) -> Result<Self> {
        let meta = newest_meta(&pages)?;
        let size = meta.high_water.checked_mul(u64::from(meta.page_size));
        match size {
            Some(size) if size <= pages.len() => {}
            _ => {
                let page = meta.page_size;
                return Err(Error::damaged(format!(
                    "the file is cut short: {} pages of {page} bytes are in use, the file has {} bytes",
                    meta.high_water,
                    pages.len()
                ))
                .hint("copy the file again, or use another snapshot"));
            }
        }
        if meta.high_water > PAGES_MAX {
            return Err(Error::damaged(format!(
                "{} pages are more than the {PAGES_MAX} that are read",
                meta.high_water
            ))
            .hint("check that this is the file you meant; etcd keeps its database below 8 GiB by default"));
        }
        if meta.high_water < 3 {
            return Err(Error::damaged(format!("{} pages cannot hold a tree", meta.high_water)));
        }
        Ok(Db { pages, meta })
    }

    /// The meta the file was opened by.
    pub fn meta(&self) -> &Meta {
        &self.meta
    }

    /// Bytes in use: what `etcdutl snapshot status` calls total size.
    pub fn size(&self) -> u64 {
        self.meta.high_water * u64::from(self.meta.page_size)
    }

    /// The bytes behind the file.
    pub fn pages(&self) -> &P {
        &self.pages
    }

    /// A pass that has met no page yet.
    pub fn walk(&self) -> Walk {
        Walk { met: vec![0; to_usize(self.meta.high_water.div_ceil(64))], window: Window::default() }
    }

    /// The file's buckets, by name.
    pub fn buckets(&self, walk: &mut Walk) -> Result<Vec<Bucket>> {
        let (mut buckets, mut bytes) = (vec![], 0);
        let mut leaves = self.leaves(&Root::Page(self.meta.root), Direction::Forward);
        while let Some(leaf) = leaves.next_leaf(walk).map_err(|error| error.during("the list of buckets"))? {
            for entry in leaf.entries() {
                if buckets.len() == BUCKETS_MAX {
                    return Err(Error::damaged(format!("the file has more than {BUCKETS_MAX} buckets")));
                }
                bytes += entry.key.len() + entry.value.len();
                if bytes > BUCKET_LIST_BYTES_MAX {
                    return Err(Error::damaged(format!(
                        "the list of buckets has more than {BUCKET_LIST_BYTES_MAX} bytes"
                    )));
                }
                buckets.push(read_bucket(&entry)?);
            }
        }
        Ok(buckets)
    }

    /// The leaves of the tree at `root`.
    pub fn leaves(&self, root: &Root, direction: Direction) -> Leaves<'_, P> {
        Leaves { db: self, start: Some(root.clone()), stack: vec![], direction, edge: None, from: None }
    }

    /// The leaves of the tree at `root`, forward, from the one that holds `key` or would hold it.
    pub fn leaves_from(&self, root: &Root, key: &[u8]) -> Leaves<'_, P> {
        Leaves { from: Some(key.to_vec()), ..self.leaves(root, Direction::Forward) }
    }

    /// Reads a page with everything that belongs to it.
    fn run(&self, id: u64, walk: &mut Walk) -> Result<Vec<u8>> {
        let page_size = u64::from(self.meta.page_size);
        if id < 2 || id >= self.meta.high_water {
            return Err(Error::damaged(format!("page {id} lies outside the file")));
        }
        let (start, end) = (id * page_size, self.size());
        let ahead = walk.window.holding(&self.pages, start, page_size, end)?;
        let header = Header::read(ahead)?;
        if header.id != id {
            return Err(Error::damaged(format!("page {id} carries the number {}", header.id)));
        }
        let pages = u64::from(header.overflow) + 1;
        if pages > self.meta.high_water - id || pages * page_size > RUN_BYTES_MAX {
            return Err(Error::damaged(format!("page {id} claims {pages} pages")));
        }
        let len = to_usize(pages * page_size);
        let run = match ahead.get(..len) {
            Some(run) => run.to_vec(),
            None => {
                let mut run = vec![0; len];
                self.pages.read(start, &mut run)?;
                run
            }
        };
        walk.mark(id, pages)?;
        Ok(run)
    }
}

impl Walk {
    /// Notes the run of `pages` pages at `id`; an error when one of them was met before.
    fn mark(&mut self, id: u64, pages: u64) -> Result<()> {
        for page in id..id + pages {
            let word = &mut self.met[to_usize(page / 64)];
            let bit = 1 << (page % 64);
            if *word & bit != 0 {
                return Err(Error::damaged(format!("page {page} is referenced twice")));
            }
            *word |= bit;
        }
        Ok(())
    }
}

impl Window {
    /// The bytes of the file from `start` on that are at hand: at least `page_size` of them.
    ///
    /// Leaves of neighbouring keys are mostly neighbours in the file, in files that grew by appending; then a whole
    /// window is read. In a file whose pages were reused in any order that would be wasted, and a few pages are read.
    fn holding<P: Pages>(&mut self, pages: &P, start: u64, page_size: u64, end: u64) -> Result<&[u8]> {
        let held = self.start..self.start + self.bytes.len() as u64;
        if !(held.contains(&start) && start + page_size <= held.end) {
            let near = start.abs_diff(self.last) <= WINDOW_BYTES;
            let (from, len) = if near {
                (start / WINDOW_BYTES * WINDOW_BYTES, WINDOW_BYTES)
            } else {
                (start, SPECULATIVE_PAGES * page_size)
            };
            let len = to_usize(len.min(end - from));
            // Until it is filled, the window holds nothing: a failed read must leave no bytes behind.
            self.bytes.clear();
            self.start = from;
            let mut bytes = std::mem::take(&mut self.bytes);
            bytes.resize(len, 0);
            pages.read(from, &mut bytes)?;
            self.bytes = bytes;
        }
        self.last = start;
        Ok(&self.bytes[to_usize(start - self.start)..])
    }
}

/// The newest valid meta. As bbolt does: the page size stands in the first meta; when that one is damaged, the second is
/// looked for at every possible page size.
fn newest_meta<P: Pages>(pages: &P) -> Result<Meta> {
    let at = |offset: u64| -> Result<Meta> {
        if offset + META_BYTES as u64 > pages.len() {
            return Err(Error::damaged(format!("the file has only {} bytes", pages.len())));
        }
        let mut page = [0; META_BYTES];
        pages.read(offset, &mut page)?;
        Meta::read(&page)
    };
    let first = at(0);
    let second = match &first {
        Ok(meta) => at(u64::from(meta.page_size)).ok(),
        Err(_) => {
            let mut sizes = (0..).map(|n| PAGE_SIZES.start() << n).take_while(|size| PAGE_SIZES.contains(size));
            sizes.find_map(|size| at(u64::from(size)).ok().filter(|meta| meta.page_size == size))
        }
    };
    match (first, second.filter(|meta| PAGE_SIZES.contains(&meta.page_size))) {
        (Ok(first), Some(second)) if second.page_size == first.page_size && second.txid > first.txid => Ok(second),
        (Ok(first), _) => Ok(first),
        (Err(_), Some(second)) => Ok(second),
        (Err(error), None) => Err(error
            .during("this is not an etcd database file: neither meta page is valid")
            .kind_of(Kind::Damaged)
            .hint("check that this is the file you meant: a snapshot, or member/snap/db of a stopped etcd")),
    }
}

/// The length of the database in a file of `len` bytes, and whether a SHA-256 follows it: etcd's own rule.
pub fn split_trailer(len: u64) -> (u64, bool) {
    if len % SECTOR_BYTES == TRAILER_BYTES { (len - TRAILER_BYTES, true) } else { (len, false) }
}

fn read_bucket(entry: &Entry<'_>) -> Result<Bucket> {
    let name = String::from_utf8_lossy(entry.key);
    if entry.flags & BUCKET == 0 {
        return Err(Error::damaged(format!("{name:?} stands beside the buckets and is none")));
    }
    if entry.value.len() < BUCKET_BYTES {
        return Err(Error::damaged(format!("the entry of bucket {name:?} is cut short")));
    }
    let root = match u64_at(entry.value, 0) {
        0 => {
            let page = entry.value[BUCKET_BYTES..].to_vec();
            Leaf::check(page.clone()).map_err(|error| error.during(format!("the inline page of bucket {name:?}")))?;
            Root::Inline(page)
        }
        id => Root::Page(id),
    };
    Ok(Bucket { name: entry.key.to_vec(), sequence: u64_at(entry.value, 8), root })
}

/// The leaves of one tree, one after another.
#[derive(Debug)]
pub struct Leaves<'db, P> {
    db: &'db Db<P>,
    start: Option<Root>,
    stack: Vec<Branch>,
    direction: Direction,
    /// The key the next leaf must lie beyond: the last one forward, the first one backward.
    edge: Option<Vec<u8>>,
    /// Until the first leaf: what lies before the leaf of this key is passed over.
    from: Option<Vec<u8>>,
}

impl<P: Pages> Leaves<'_, P> {
    /// The next leaf that has entries; `None` after the last.
    pub fn next_leaf(&mut self, walk: &mut Walk) -> Result<Option<Leaf>> {
        loop {
            let leaf = match self.start.take() {
                Some(Root::Inline(page)) => Leaf::check(page)?,
                Some(Root::Page(id)) => match self.descend(id, None, walk)? {
                    Some(leaf) => leaf,
                    None => continue,
                },
                None => match self.step(walk)? {
                    Step::Leaf(leaf) => leaf,
                    Step::Deeper => continue,
                    Step::Done => return Ok(None),
                },
            };
            self.from = None;
            if leaf.is_empty() {
                continue;
            }
            self.check_edge(&leaf)?;
            return Ok(Some(leaf));
        }
    }

    /// Follows the next child of the innermost branch page that has one left.
    fn step(&mut self, walk: &mut Walk) -> Result<Step> {
        loop {
            let Some(branch) = self.stack.last_mut() else { return Ok(Step::Done) };
            let Some((id, low)) = branch.next_child(self.direction == Direction::Forward) else {
                self.stack.pop();
                continue;
            };
            return Ok(self.descend(id, Some(&low), walk)?.map_or(Step::Deeper, Step::Leaf));
        }
    }

    /// Reads page `id`: a leaf is returned, a branch is pushed. `low`: the smallest key the parent allows.
    fn descend(&mut self, id: u64, low: Option<&[u8]>, walk: &mut Walk) -> Result<Option<Leaf>> {
        let run = self.db.run(id, walk)?;
        let named = |error: Error| error.during(format!("page {id}"));
        match Header::read(&run).map_err(named)?.flags {
            LEAF => {
                let leaf = Leaf::check(run).map_err(named)?;
                if !leaf.is_empty() && low.is_some_and(|low| leaf.entry(0).key < low) {
                    return Err(named(Error::damaged("a key is smaller than the branch that leads to it")));
                }
                Ok(Some(leaf))
            }
            BRANCH => {
                if self.stack.len() == DEPTH_MAX {
                    return Err(named(Error::damaged(format!("the tree is deeper than {DEPTH_MAX} pages"))));
                }
                let bytes = run.len() + self.stack.iter().map(Branch::bytes).sum::<usize>();
                if bytes > BRANCHES_BYTES_MAX {
                    return Err(named(Error::damaged(format!("the way here takes {bytes} bytes of branch pages"))));
                }
                let mut branch = Branch::check(run, low).map_err(named)?;
                if let Some(from) = &self.from {
                    branch.pass_before(from);
                }
                self.stack.push(branch);
                Ok(None)
            }
            flags => Err(named(Error::damaged(format!("flags {flags:#x} are neither a branch's nor a leaf's")))),
        }
    }

    fn check_edge(&mut self, leaf: &Leaf) -> Result<()> {
        let (first, last) = (leaf.entry(0).key, leaf.entry(leaf.len() - 1).key);
        let beyond = match (self.direction, &self.edge) {
            (_, None) => true,
            (Direction::Forward, Some(edge)) => first > &edge[..],
            (Direction::Backward, Some(edge)) => last < &edge[..],
        };
        if !beyond {
            return Err(Error::damaged("keys do not ascend from one leaf to the next"));
        }
        let edge = if self.direction == Direction::Forward { last } else { first };
        self.edge = Some(edge.to_vec());
        Ok(())
    }
}

enum Step {
    Leaf(Leaf),
    Deeper,
    Done,
}
