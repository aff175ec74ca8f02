//! What watchers want of the past and the present, and events as the wire has them.
//!
//! A **Spec** says which changes of which keys. **Events** are the changes that one spec picked, of batches that everybody
//! shares: nothing is copied but a few numbers for each change, until the bytes are written into a connection's buffer.
//! Where they come from makes no difference: from the hub's ring, or read from history by `past`.

pub mod event;
pub mod past;

#[cfg(test)]
mod model;

use std::sync::Arc;

use bytes::{BufMut, Bytes};

use crate::store::mvcc::hub::Published;
use crate::store::mvcc::index::Keys;
use crate::store::mvcc::recent::Change;

/// Which changes somebody wants. Ordered, so that the same wish is recognised.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Spec {
    key: Bytes,
    range_end: Bytes,
    puts: bool,
    deletes: bool,
    before: bool,
}

impl Spec {
    /// Everything about the keys that `key` and `range_end` of a request mean. No key is the zero byte.
    pub fn of(key: &[u8], range_end: &[u8]) -> Self {
        let key = if key.is_empty() { &[0] } else { key };
        let (key, range_end) = (Bytes::copy_from_slice(key), Bytes::copy_from_slice(range_end));
        Spec { key, range_end, puts: true, deletes: true, before: false }
    }

    /// Leaves puts out.
    pub fn without_puts(self) -> Self {
        Spec { puts: false, ..self }
    }

    /// Leaves deletions out.
    pub fn without_deletes(self) -> Self {
        Spec { deletes: false, ..self }
    }

    /// With what each key was before.
    pub fn with_before(self) -> Self {
        Spec { before: true, ..self }
    }

    /// Which keys.
    pub fn keys(&self) -> Keys<'_> {
        Keys::of(&self.key, &self.range_end)
    }

    /// The key, when it is one.
    pub fn one(&self) -> Option<&Bytes> {
        self.keys().is_one().then_some(&self.key)
    }

    /// Whether the range ends before it begins, so that there is nothing to watch.
    pub fn is_empty(&self) -> bool {
        !matches!(*self.range_end, [] | [0]) && self.range_end <= self.key
    }

    /// Whether what a key was before is wanted, too.
    pub fn wants_before(&self) -> bool {
        self.before
    }

    /// Whether this kind of change is wanted.
    pub fn takes(&self, tombstone: bool) -> bool {
        if tombstone { self.deletes } else { self.puts }
    }
}

/// A change that was picked: of which batch, and which. With the bytes of its event.
#[derive(Clone, Copy, Debug)]
pub struct Pick {
    source: u32,
    at: u32,
    bytes: usize,
}

/// Changes that were picked, in order.
#[derive(Debug)]
pub struct Events {
    sources: Arc<[Arc<Published>]>,
    picks: Vec<Pick>,
    before: bool,
}

impl Events {
    /// Nothing yet, of these batches; `before`: with what keys were before.
    pub fn new(sources: Arc<[Arc<Published>]>, before: bool) -> Self {
        Events { sources, picks: vec![], before }
    }

    /// Picks the change `at` of a batch. When what was before is wanted, it is known by now.
    pub fn pick(&mut self, source: usize, at: usize) {
        let published = &self.sources[source];
        let bytes = event::bytes(&published.changes()[at], self.before_of(published, at));
        let number = |n: usize| u32::try_from(n).expect("a step has fewer than 2^32 changes");
        self.picks.push(Pick { source: number(source), at: number(at), bytes });
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.picks.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.picks.is_empty()
    }

    /// The main revision of one.
    pub fn main(&self, n: usize) -> i64 {
        self.change(n).0.rev.main
    }

    /// Bytes of one in a response.
    pub fn bytes(&self, n: usize) -> usize {
        self.picks[n].bytes
    }

    /// Writes one as a response holds it.
    pub fn encode(&self, n: usize, to: &mut impl BufMut) {
        let (change, before) = self.change(n);
        event::encode(change, before, to);
    }

    /// How many are before the main revision `main`.
    pub fn before_main(&self, main: i64) -> usize {
        self.picks
            .partition_point(|pick| self.sources[pick.source as usize].changes()[pick.at as usize].rev.main < main)
    }

    fn change(&self, n: usize) -> (&Change, Option<&Bytes>) {
        let pick = self.picks[n];
        let (published, at) = (&self.sources[pick.source as usize], pick.at as usize);
        (&published.changes()[at], self.before_of(published, at))
    }

    fn before_of<'a>(&self, published: &'a Published, at: usize) -> Option<&'a Bytes> {
        if self.before { published.before(at)?.as_ref() } else { None }
    }
}
