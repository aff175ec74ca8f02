//! What API servers of Kubernetes ask of etcd: objects created, updated and deleted by transactions that compare the
//! revision, read one by one, and listed in pages at one revision; a few watchers on all of them that also ask how far they
//! are. Each client has a namespace whose objects nobody else writes.

use std::sync::Arc;

use bytes::Bytes;

use crate::api::etcdserverpb::{RangeRequest, TxnRequest};
use crate::bench::crew::Client;
use crate::bench::keys::end_of;
use crate::bench::pace::Turn;
use crate::bench::site::{Filled, behind, delete, get, put, unchanged};
use crate::bench::tally::Operation;
use crate::bench::txn::revision_of;
use crate::bench::watch::Acks;

/// Of a hundred turns so many are updates, most of them renewals of leases and statuses in a real cluster; then reads of
/// one object, creations, deletions; the rest are pages of lists.
const SHARES: [(Operation, u64); 4] =
    [(Operation::Update, 50), (Operation::Get, 20), (Operation::Create, 10), (Operation::Delete, 10)];
/// A client that has fewer objects creates one instead.
const OBJECTS_MIN: usize = 4;

/// The objects of each client, from those that were written before.
pub(super) fn objects(filled: Vec<Filled>, clients: usize) -> Vec<Vec<Filled>> {
    let mut objects = vec![vec![]; clients];
    for one in filled {
        // Written in no order; whose it is stands in its name.
        let namespace = one.key.rsplit(|byte| *byte == b'/').nth(1).and_then(|name| name.strip_prefix(b"ns-"));
        let owner =
            namespace.and_then(|digits| std::str::from_utf8(digits).ok()).and_then(|digits| digits.parse().ok());
        let owner: usize = owner.expect("keys of objects are ours");
        objects[owner].push(one);
    }
    objects
}

/// What one client knows.
struct Namespace {
    client: Client,
    acks: Arc<Acks>,
    objects: Vec<Filled>,
    /// The number of the next object.
    next: u64,
    /// Where the list goes on that is being read, and at which revision.
    page: Option<(Bytes, i64)>,
    limit: u32,
}

/// Lives in a namespace that holds these objects.
pub(super) async fn client(client: Client, objects: Vec<Filled>, acks: Arc<Acks>, limit: u32) {
    let next = objects.len() as u64;
    let mut namespace = Namespace { client, acks, objects, next, page: None, limit };
    while let Some(turn) = namespace.client.turn().await {
        match namespace.choose() {
            Operation::Create => namespace.create(turn).await,
            Operation::Update => namespace.update(turn).await,
            Operation::Delete => namespace.delete(turn).await,
            Operation::Get => namespace.get(turn).await,
            _ => namespace.list(turn).await,
        }
    }
}

impl Namespace {
    fn choose(&mut self) -> Operation {
        let mut dice = self.client.rng.below(100);
        let drawn = SHARES.iter().find(|(_, share)| {
            let is_it = dice < *share;
            dice = dice.saturating_sub(*share);
            is_it
        });
        match drawn {
            None => Operation::List,
            Some(_) if self.objects.len() < OBJECTS_MIN => Operation::Create,
            Some((operation, _)) => *operation,
        }
    }

    fn any(&mut self) -> usize {
        usize::try_from(self.client.rng.below(self.objects.len() as u64)).expect("one of them")
    }

    async fn create(&mut self, turn: Turn) {
        let key = self.client.crew.site.keys.object(self.client.n, self.next);
        self.next += 1;
        let success = vec![put(key.clone(), self.client.any_value())];
        let failure = vec![get(key.clone())];
        let request = TxnRequest { compare: vec![unchanged(key.clone(), 0)], success, failure };
        if let Some(Some(revision)) = self.txn(Operation::Create, turn, request).await {
            self.objects.push(Filled { key, revision });
        }
    }

    async fn update(&mut self, turn: Turn) {
        let chosen = self.any();
        let Filled { key, revision } = self.objects[chosen].clone();
        let success = vec![put(key.clone(), self.client.any_value())];
        let request = TxnRequest { compare: vec![unchanged(key.clone(), revision)], success, failure: vec![get(key)] };
        match self.txn(Operation::Update, turn, request).await {
            Some(Some(revision)) => self.objects[chosen].revision = revision,
            Some(None) => drop(self.objects.swap_remove(chosen)),
            None => {}
        }
    }

    async fn delete(&mut self, turn: Turn) {
        let chosen = self.any();
        let Filled { key, revision } = self.objects.swap_remove(chosen);
        let (success, failure) = (vec![delete(key.clone())], vec![get(key.clone())]);
        let request = TxnRequest { compare: vec![unchanged(key, revision)], success, failure };
        self.txn(Operation::Delete, turn, request).await;
    }

    /// Asks; the revision at which it was done. None inside: the object is not as this client had left it, so that it lets
    /// go of it.
    async fn txn(&mut self, operation: Operation, turn: Turn, request: TxnRequest) -> Option<Option<i64>> {
        let mut kv = self.client.kv.clone();
        let answer = self.client.ask(operation, turn, kv.txn(request)).await?;
        if !answer.succeeded {
            self.client.compare_failed();
            return Some(None);
        }
        let revision = revision_of(&answer);
        self.acks.note(revision, self.client.crew.pace.elapsed());
        Some(Some(revision))
    }

    async fn get(&mut self, turn: Turn) {
        let chosen = self.any();
        let request = RangeRequest { key: self.objects[chosen].key.clone(), limit: 1, ..RangeRequest::default() };
        let mut kv = self.client.kv.clone();
        self.client.ask(Operation::Get, turn, kv.range(request)).await;
    }

    /// One page of the list of all objects: the first, or the one after the last that was read.
    async fn list(&mut self, turn: Turn) {
        let prefix = self.client.crew.site.keys.objects();
        let first = || (Bytes::copy_from_slice(prefix.as_bytes()), 0);
        let (key, revision) = self.page.take().unwrap_or_else(first);
        let range_end = end_of(&prefix);
        let request = RangeRequest { key, range_end, revision, limit: self.limit.into(), ..RangeRequest::default() };
        let mut kv = self.client.kv.clone();
        let Some(answer) = self.client.ask(Operation::List, turn, kv.range(request)).await else { return };
        // All pages of one list are read as the cluster was at the first.
        let at = if revision == 0 { answer.header.unwrap_or_default().revision } else { revision };
        let last = answer.kvs.last().filter(|_| answer.more);
        self.page = last.map(|kv| (behind(&kv.key), at));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::keys::Keys;

    #[test]
    fn objects_go_to_whom_their_name_says() {
        let keys = Keys::new(1, 48);
        let filled = |(namespace, n)| Filled { key: keys.object(namespace, n), revision: 7 };
        let objects = objects([(2, 0), (0, 0), (2, 1)].map(filled).to_vec(), 3);
        assert_eq!(objects.iter().map(Vec::len).collect::<Vec<_>>(), [1, 0, 2]);
        assert_eq!(objects[2][1].key, keys.object(2, 1));
    }

    #[test]
    fn shares_leave_room_for_lists() {
        assert!(SHARES.iter().map(|(_, share)| share).sum::<u64>() < 100);
    }
}
