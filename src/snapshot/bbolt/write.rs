//! Writing a file from sorted entries, as a stream of chunks in the order of the file.
//!
//! Each byte of a value is copied once, into the leaf that is open. The metas come first in the file and are settled last:
//! whoever writes to a file leaves room for `head_bytes` and fills it from `finish`; whoever streams runs a `Plan` first.
//!
//! Invariants, asserted: keys ascend strictly within a bucket; a bucket is written once; the planned head equals the one
//! the file ends up with.

use std::collections::BTreeMap;

use crate::base::error::Result;
use crate::snapshot::bbolt::page::{BRANCH, BUCKET, ELEMENT_BYTES, FREELIST, HEADER_BYTES, Header, LEAF, Meta};
use crate::snapshot::bbolt::shape::{BranchPage, Ending, Run, Shape, Sizes};

/// Where chunks of the file go, in order.
pub type Sink<'a> = dyn FnMut(&[u8]) -> Result<()> + 'a;

/// The finished file's first two pages and its length.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// Pages 0 and 1.
    pub bytes: Vec<u8>,
    /// Bytes of the whole file, head included.
    pub file_bytes: u64,
}

/// What sorted entries become: a file, or the plan of one.
pub trait Output {
    /// Adds an entry to the bucket that is open.
    fn put_entry(&mut self, key: &[u8], value: &[u8], sink: &mut Sink<'_>) -> Result<()>;

    /// Ends the bucket that is open and calls it `name`.
    fn end_bucket(&mut self, name: &[u8], sequence: u64, sink: &mut Sink<'_>) -> Result<()>;

    /// Ends the file and returns its head.
    fn finish(self, sink: &mut Sink<'_>) -> Result<Head>;
}

impl Output for Writer {
    fn put_entry(&mut self, key: &[u8], value: &[u8], sink: &mut Sink<'_>) -> Result<()> {
        self.put(key, value, sink)
    }

    fn end_bucket(&mut self, name: &[u8], sequence: u64, sink: &mut Sink<'_>) -> Result<()> {
        Writer::end_bucket(self, name, sequence, sink)
    }

    fn finish(self, sink: &mut Sink<'_>) -> Result<Head> {
        Writer::finish(self, sink)
    }
}

impl Output for Plan {
    fn put_entry(&mut self, key: &[u8], value: &[u8], _sink: &mut Sink<'_>) -> Result<()> {
        self.put(key, value.len());
        Ok(())
    }

    fn end_bucket(&mut self, name: &[u8], _sequence: u64, _sink: &mut Sink<'_>) -> Result<()> {
        Plan::end_bucket(self, name);
        Ok(())
    }

    fn finish(self, _sink: &mut Sink<'_>) -> Result<Head> {
        Ok(self.head())
    }
}

/// A file in the making.
#[derive(Debug)]
pub struct Writer {
    sizes: Sizes,
    shape: Shape,
    leaf: LeafPage,
    last_key: Option<Vec<u8>>,
    /// Entries of the root bucket, by name.
    roots: BTreeMap<Vec<u8>, Vec<u8>>,
    written: u64,
}

impl Writer {
    /// Bytes of the head that goes before the first chunk.
    pub fn head_bytes(&self) -> usize {
        2 * self.sizes.page
    }

    /// Starts a file: hands on the page after the head.
    pub fn start(sizes: Sizes, sink: &mut Sink<'_>) -> Result<Self> {
        let shape = Shape::new(sizes);
        let leaf = LeafPage::default();
        let mut writer = Writer { sizes, shape, leaf, last_key: None, roots: BTreeMap::new(), written: 0 };
        let mut page = vec![];
        Header { id: 2, flags: FREELIST, count: 0, overflow: 0 }.write(&mut page);
        writer.pad(&mut page, Run { id: 2, pages: 1 });
        writer.emit(&page, sink)?;
        Ok(writer)
    }

    /// Adds an entry to the bucket that is open.
    pub fn put(&mut self, key: &[u8], value: &[u8], sink: &mut Sink<'_>) -> Result<()> {
        assert!(self.last_key.as_deref().is_none_or(|last| last < key), "keys ascend within a bucket");
        let last = self.last_key.get_or_insert_default();
        last.clear();
        last.extend_from_slice(key);
        if let Some(run) = self.shape.put(key, value.len()) {
            self.emit_leaf(run, sink)?;
        }
        self.leaf.put(0, key, value);
        Ok(())
    }

    /// Ends the bucket that is open and calls it `name`.
    pub fn end_bucket(&mut self, name: &[u8], sequence: u64, sink: &mut Sink<'_>) -> Result<()> {
        let mut entry = vec![];
        match self.shape.end_bucket(name) {
            Ending::Inline => {
                entry.extend_from_slice(&0_u64.to_le_bytes());
                entry.extend_from_slice(&sequence.to_le_bytes());
                self.leaf.write(0, 0, &mut entry);
                self.leaf = LeafPage::default();
            }
            Ending::Pages { leaf, branches, root } => {
                self.emit_leaf(leaf, sink)?;
                for branch in &branches {
                    self.emit_branch(branch, sink)?;
                }
                entry.extend_from_slice(&root.to_le_bytes());
                entry.extend_from_slice(&sequence.to_le_bytes());
            }
        }
        self.last_key = None;
        let replaced = self.roots.insert(name.to_vec(), entry);
        assert!(replaced.is_none(), "a bucket is written once");
        Ok(())
    }

    /// Ends the file and returns its head.
    pub fn finish(mut self, sink: &mut Sink<'_>) -> Result<Head> {
        for (name, entry) in std::mem::take(&mut self.roots) {
            self.leaf.put(BUCKET, &name, &entry);
        }
        let (run, pages) = self.shape.clone().end();
        self.emit_leaf(run, sink)?;
        let head = head(self.sizes, run.id, pages);
        assert_eq!(self.written + head.bytes.len() as u64, head.file_bytes, "the file is as long as its shape");
        Ok(head)
    }

    fn emit_leaf(&mut self, run: Run, sink: &mut Sink<'_>) -> Result<()> {
        let mut leaf = std::mem::take(&mut self.leaf);
        let mut page = Vec::with_capacity(usize::try_from(run.pages).expect("64-bit addresses") * self.sizes.page);
        leaf.write(run.id, overflow(run), &mut page);
        self.pad(&mut page, run);
        self.emit(&page, sink)?;
        leaf.clear();
        self.leaf = leaf;
        Ok(())
    }

    fn emit_branch(&mut self, branch: &BranchPage, sink: &mut Sink<'_>) -> Result<()> {
        let count = branch.children.len();
        let mut page = vec![];
        header(branch.run, BRANCH, count).write(&mut page);
        let mut at = HEADER_BYTES + count * ELEMENT_BYTES;
        for (i, child) in branch.children.iter().enumerate() {
            let pos = at - (HEADER_BYTES + i * ELEMENT_BYTES);
            page.extend_from_slice(&short(pos).to_le_bytes());
            page.extend_from_slice(&short(child.key.len()).to_le_bytes());
            page.extend_from_slice(&child.id.to_le_bytes());
            at += child.key.len();
        }
        branch.children.iter().for_each(|child| page.extend_from_slice(&child.key));
        self.pad(&mut page, branch.run);
        self.emit(&page, sink)
    }

    fn pad(&self, page: &mut Vec<u8>, run: Run) {
        let len = usize::try_from(run.pages).expect("64-bit addresses") * self.sizes.page;
        assert!(page.len() <= len && page.len() + self.sizes.page > len, "a run is as long as its shape");
        page.resize(len, 0);
    }

    fn emit(&mut self, chunk: &[u8], sink: &mut Sink<'_>) -> Result<()> {
        self.written += chunk.len() as u64;
        sink(chunk)
    }
}

/// The head of a file, from lengths alone.
#[derive(Debug)]
pub struct Plan {
    sizes: Sizes,
    shape: Shape,
}

impl Plan {
    /// The plan of an empty file.
    pub fn new(sizes: Sizes) -> Self {
        Plan { sizes, shape: Shape::new(sizes) }
    }

    /// Adds an entry to the bucket that is open.
    pub fn put(&mut self, key: &[u8], value_len: usize) {
        self.shape.put(key, value_len);
    }

    /// Ends the bucket that is open and calls it `name`.
    pub fn end_bucket(&mut self, name: &[u8]) {
        self.shape.end_bucket(name);
    }

    /// The head of the file.
    pub fn head(self) -> Head {
        let (run, pages) = self.shape.end();
        head(self.sizes, run.id, pages)
    }
}

fn head(sizes: Sizes, root: u64, pages: u64) -> Head {
    let page_size = short(sizes.page);
    let mut bytes = vec![];
    // As in a snapshot that etcd streams: both metas are the same but for the transaction, the first is the newer.
    for (id, txid) in [(0, 1), (1, 0)] {
        Meta { page_size, root, freelist: 2, high_water: pages, txid }.write(id, &mut bytes);
    }
    Head { bytes, file_bytes: pages * sizes.page as u64 }
}

/// The entries of the open leaf, laid out as they will stand on the page.
#[derive(Debug, Default)]
struct LeafPage {
    /// Flags, length of key, length of value.
    elements: Vec<(u32, usize, usize)>,
    data: Vec<u8>,
}

impl LeafPage {
    fn put(&mut self, flags: u32, key: &[u8], value: &[u8]) {
        self.elements.push((flags, key.len(), value.len()));
        self.data.extend_from_slice(key);
        self.data.extend_from_slice(value);
    }

    fn write(&self, id: u64, overflow: u32, page: &mut Vec<u8>) {
        let count = self.elements.len();
        let count16 = u16::try_from(count).expect("a leaf is closed before it has so many entries");
        Header { id, flags: LEAF, count: count16, overflow }.write(page);
        let mut at = count * ELEMENT_BYTES;
        for (i, (flags, key_len, value_len)) in self.elements.iter().enumerate() {
            for number in [*flags, short(at - i * ELEMENT_BYTES), short(*key_len), short(*value_len)] {
                page.extend_from_slice(&number.to_le_bytes());
            }
            at += key_len + value_len;
        }
        page.extend_from_slice(&self.data);
    }

    fn clear(&mut self) {
        self.elements.clear();
        self.data.clear();
    }
}

fn header(run: Run, flags: u16, count: usize) -> Header {
    let count = u16::try_from(count).expect("a branch page has few children");
    Header { id: run.id, flags, count, overflow: overflow(run) }
}

fn overflow(run: Run) -> u32 {
    u32::try_from(run.pages - 1).expect("a run is limited by the longest record")
}

/// A length on a page; runs are limited far below 4 GiB.
fn short(n: usize) -> u32 {
    u32::try_from(n).expect("runs are limited far below 4 GiB")
}
