//! Whether a request can be meant: what is checked before anything is proposed or read, by the request alone.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use crate::api::etcdserverpb::range_request::{SortOrder, SortTarget};
use crate::api::etcdserverpb::request_op::Request;
use crate::api::etcdserverpb::{DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest};
use crate::store::machine::command::Operation;
use crate::store::machine::refusal::Refusal;

type Result<T = ()> = std::result::Result<T, Refusal>;

/// A range.
pub fn range(request: &RangeRequest) -> Result {
    if request.key.is_empty() {
        return Err(Refusal::EmptyKey);
    }
    if SortOrder::try_from(request.sort_order).is_err() || SortTarget::try_from(request.sort_target).is_err() {
        return Err(Refusal::InvalidSortOption);
    }
    Ok(())
}

/// Transactions that one may be in, itself included. protobuf's reader takes messages in a hundred others and no more, with two
/// for each transaction, and what was agreed on must be readable in the log.
const NESTED_MAX: usize = 32;

/// A put.
pub fn put(request: &PutRequest) -> Result {
    if request.key.is_empty() {
        return Err(Refusal::EmptyKey);
    }
    if request.ignore_value && !request.value.is_empty() {
        return Err(Refusal::ValueProvided);
    }
    if request.ignore_lease && request.lease != 0 {
        return Err(Refusal::LeaseProvided);
    }
    Ok(())
}

/// A deletion.
pub fn delete_range(request: &DeleteRangeRequest) -> Result {
    if request.key.is_empty() { Err(Refusal::EmptyKey) } else { Ok(()) }
}

/// A transaction of at most so many comparisons, and so many operations on either side.
pub fn txn(request: &TxnRequest, operations_max: usize) -> Result {
    operations(request, operations_max, NESTED_MAX - 1)?;
    Touched::by(&request.success)?;
    Touched::by(&request.failure)?;
    Ok(())
}

fn operations(request: &TxnRequest, most: usize, nested: usize) -> Result {
    let deeper = nested.checked_sub(1).ok_or(Refusal::TooManyOperations);
    let here = request.compare.len().max(request.success.len()).max(request.failure.len());
    let left = most.checked_sub(here).ok_or(Refusal::TooManyOperations)?;
    if request.compare.iter().any(|compare| compare.key.is_empty()) {
        return Err(Refusal::EmptyKey);
    }
    for operation in request.success.iter().chain(&request.failure) {
        match &operation.request {
            Some(Request::RequestRange(request)) => range(request)?,
            Some(Request::RequestPut(request)) => put(request)?,
            Some(Request::RequestDeleteRange(request)) => delete_range(request)?,
            Some(Request::RequestTxn(request)) => operations(request, left, deeper?)?,
            None => return Err(Refusal::KeyNotFound),
        }
    }
    Ok(())
}

/// The keys that a list of operations writes, and those it deletes: no key may be both, or written twice.
#[derive(Default)]
struct Touched<'a> {
    puts: BTreeSet<&'a [u8]>,
    deletes: Spans<'a>,
}

/// Keys that are deleted: single ones, and ranges from a key to another that is not in it, apart from one another. A
/// transaction in another may name as many as a request has room for, so each is looked up and none walked past.
#[derive(Default)]
struct Spans<'a> {
    keys: BTreeSet<&'a [u8]>,
    ranges: BTreeMap<&'a [u8], &'a [u8]>,
}

impl<'a> Spans<'a> {
    fn add(&mut self, key: &'a [u8], range_end: &'a [u8]) {
        if range_end.is_empty() {
            self.keys.insert(key);
        } else if key < range_end {
            self.add_range(key, range_end);
        }
    }

    fn add_range(&mut self, mut first: &'a [u8], mut end: &'a [u8]) {
        if let Some((before, until)) = self.ranges.range(..=first).next_back().filter(|(_, until)| **until >= first) {
            (first, end) = (*before, end.max(until));
        }
        while let Some((next, until)) = self.ranges.range(first..).next().filter(|(next, _)| **next <= end) {
            let (next, until) = (*next, *until);
            end = end.max(until);
            self.ranges.remove(next);
        }
        self.ranges.insert(first, end);
    }

    fn append(&mut self, other: Spans<'a>) {
        self.keys.extend(other.keys);
        other.ranges.into_iter().for_each(|(first, end)| self.add_range(first, end));
    }

    fn contains(&self, key: &[u8]) -> bool {
        let range = self.ranges.range::<[u8], _>((Bound::Unbounded, Bound::Included(key))).next_back();
        self.keys.contains(key) || range.is_some_and(|(_, end)| key < *end)
    }
}

impl<'a> Touched<'a> {
    /// As etcd looks at it: the deletions of this level first, then nested transactions one after another, whose two sides
    /// may write the same key because only one of them runs, then the puts of this level.
    fn by(operations: &'a [RequestOp]) -> Result<Self> {
        let mut touched = Touched::default();
        for operation in operations {
            if let Some(Request::RequestDeleteRange(request)) = &operation.request {
                // What etcd takes for an interval that ends before it begins meets no key.
                if request.range_end != [0_u8][..] {
                    touched.deletes.add(&request.key, &request.range_end);
                }
            }
        }
        for operation in operations {
            if let Some(Request::RequestTxn(request)) = &operation.request {
                let (success, failure) = (Touched::by(&request.success)?, Touched::by(&request.failure)?);
                let both: BTreeSet<_> = success.puts.union(&failure.puts).copied().collect();
                for key in both {
                    touched.put(key)?;
                }
                touched.deletes.append(success.deletes);
                touched.deletes.append(failure.deletes);
            }
        }
        for operation in operations {
            if let Some(Request::RequestPut(request)) = &operation.request {
                touched.put(&request.key)?;
            }
        }
        Ok(touched)
    }

    fn put(&mut self, key: &'a [u8]) -> Result {
        if self.deletes.contains(key) || !self.puts.insert(key) {
            return Err(Refusal::DuplicateKey);
        }
        Ok(())
    }
}

/// Whether a transaction reads only, and has no other transaction within: those need not be agreed on.
pub fn reads_only(request: &TxnRequest) -> bool {
    let reads = |operation: &RequestOp| matches!(operation.request, Some(Request::RequestRange(_)));
    request.success.iter().chain(&request.failure).all(reads)
}

/// Whether all that a transaction reads may be stale.
pub fn may_be_stale(request: &TxnRequest) -> bool {
    let stale = |operation: &RequestOp| match &operation.request {
        Some(Request::RequestRange(request)) => request.serializable,
        _ => false,
    };
    request.success.iter().chain(&request.failure).all(stale)
}

/// What a put costs of the quota beside key and value, in bytes.
const PUT_COST_BYTES: usize = 256;
/// What a lease costs of the quota, in bytes.
const LEASE_COST_BYTES: usize = 64;

/// What a put costs of the quota, in bytes.
fn put_cost(request: &PutRequest) -> usize {
    PUT_COST_BYTES + request.key.len() + request.value.len()
}

/// What a transaction costs of the quota at most, in bytes: its dearer side. None is free.
pub(super) fn txn_cost(request: &TxnRequest) -> usize {
    let side = |operations: &[RequestOp]| -> usize {
        let cost = |operation: &RequestOp| match &operation.request {
            Some(Request::RequestPut(request)) => put_cost(request),
            Some(Request::RequestTxn(request)) => txn_cost(request),
            _ => 0,
        };
        operations.iter().map(cost).sum()
    };
    side(&request.success).max(side(&request.failure))
}

/// What an operation costs of the quota at most, in bytes.
pub fn cost(operation: &Operation) -> usize {
    match operation {
        Operation::Put(request) => put_cost(request),
        Operation::Txn(request) => txn_cost(request),
        Operation::LeaseGrant(_) => LEASE_COST_BYTES,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::holdfast::v1::Command;
    use crate::base::rng::Seeded;
    use crate::store::machine::command;
    use crate::store::mvcc::index::Keys;

    fn put_of(key: &str) -> Request {
        Request::RequestPut(PutRequest { key: key.to_owned().into(), ..PutRequest::default() })
    }

    fn delete_of(key: &str, end: &str) -> Request {
        let (key, range_end) = (key.to_owned().into(), end.to_owned().into());
        Request::RequestDeleteRange(DeleteRangeRequest { key, range_end, ..DeleteRangeRequest::default() })
    }

    fn txn_of(success: Vec<Request>, failure: Vec<Request>) -> TxnRequest {
        let list = |requests: Vec<Request>| {
            requests.into_iter().map(|request| RequestOp { request: Some(request) }).collect::<Vec<_>>()
        };
        TxnRequest { success: list(success), failure: list(failure), ..TxnRequest::default() }
    }

    fn nested(success: Vec<Request>, failure: Vec<Request>) -> Request {
        Request::RequestTxn(txn_of(success, failure))
    }

    #[test]
    fn a_key_is_named_once_on_each_way_through_a_transaction() {
        let check = |request| txn(&request, 128);
        let twice = Err(Refusal::DuplicateKey);
        assert_eq!(check(txn_of(vec![put_of("a"), put_of("b")], vec![put_of("a")])), Ok(()));
        assert_eq!(check(txn_of(vec![put_of("a"), put_of("a")], vec![])), twice);
        assert_eq!(check(txn_of(vec![], vec![put_of("a"), put_of("a")])), twice);
        assert_eq!(check(txn_of(vec![put_of("b"), delete_of("a", "c")], vec![])), twice);
        assert_eq!(check(txn_of(vec![put_of("c"), delete_of("a", "c"), delete_of("b", "")], vec![])), Ok(()));
        assert_eq!(check(txn_of(vec![nested(vec![put_of("a")], vec![put_of("a")])], vec![])), Ok(()));
        assert_eq!(check(txn_of(vec![nested(vec![put_of("a")], vec![]), put_of("a")], vec![])), twice);
        assert_eq!(
            check(txn_of(vec![nested(vec![put_of("a")], vec![]), nested(vec![], vec![put_of("a")])], vec![])),
            twice
        );
        assert_eq!(check(txn_of(vec![nested(vec![delete_of("a", "")], vec![]), put_of("a")], vec![])), twice);
        assert_eq!(check(txn_of(vec![nested(vec![put_of("a")], vec![]), delete_of("a", "")], vec![])), twice);
    }

    /// Beside the ranges as they were said, whatever they overlap; and as many as a request brings take no time that
    /// anybody else would feel.
    #[test]
    fn spans_hold_what_their_ranges_hold() {
        let key = |n: u64| format!("{n:02}").into_bytes();
        for seed in 0..300 {
            let mut rng = Seeded::new(seed);
            let said: Vec<_> = (0..rng.below(12))
                .map(|_| (key(rng.below(40)), if rng.below(4) == 0 { vec![] } else { key(rng.below(40)) }))
                .collect();
            let (mut spans, mut more) = (Spans::default(), Spans::default());
            for (n, (first, end)) in said.iter().enumerate() {
                if n % 3 == 0 { &mut more } else { &mut spans }.add(first, end);
            }
            spans.append(more);
            for n in 0..40 {
                let expected = said.iter().any(|(first, end)| Keys::of(first, end).contains(&key(n)));
                assert_eq!(spans.contains(&key(n)), expected, "{n} {said:?}");
            }
            let apart = spans.ranges.iter().zip(spans.ranges.iter().skip(1)).all(|((_, end), (next, _))| end < next);
            assert!(apart, "{:?}", spans.ranges);
        }
    }

    #[test]
    fn operations_are_counted_by_depth_and_checked_on_both_sides() {
        let puts = |n: usize| (0..n).map(|n| put_of(&n.to_string())).collect::<Vec<_>>();
        assert_eq!(txn(&txn_of(puts(128), puts(128)), 128), Ok(()));
        assert_eq!(txn(&txn_of(puts(129), vec![]), 128), Err(Refusal::TooManyOperations));
        assert_eq!(txn(&txn_of(vec![nested(puts(127), vec![])], vec![]), 128), Ok(()));
        assert_eq!(txn(&txn_of(vec![nested(puts(128), vec![])], vec![]), 128), Err(Refusal::TooManyOperations));
        assert_eq!(txn(&txn_of(vec![], vec![put_of("")]), 128), Err(Refusal::EmptyKey));
        let nothing = TxnRequest { success: vec![RequestOp { request: None }], ..TxnRequest::default() };
        assert_eq!(txn(&nothing, 128), Err(Refusal::KeyNotFound));
        assert!(reads_only(&TxnRequest::default()) && may_be_stale(&TxnRequest::default()));
        assert!(!reads_only(&txn_of(vec![nested(vec![], vec![])], vec![])));
    }

    /// What is accepted can be read again from the log, where it stands in two messages more.
    #[test]
    fn transactions_in_transactions_have_an_end() {
        let deep = |n: usize| {
            (1..n).fold(txn_of(vec![put_of("a")], vec![]), |inner, _| txn_of(vec![Request::RequestTxn(inner)], vec![]))
        };
        assert_eq!(txn(&deep(NESTED_MAX + 1), 128), Err(Refusal::TooManyOperations));
        assert_eq!(txn(&deep(NESTED_MAX), 128), Ok(()));
        let operation = Some(Operation::Txn(deep(NESTED_MAX)));
        let (entry, commands) = command::encode(vec![Command { id: 1, time_ms: 2, operation, ..Command::default() }]);
        assert_eq!(command::decode(entry.into()).unwrap(), commands);
    }

    #[test]
    fn the_dearer_side_is_what_a_transaction_costs() {
        let one = PUT_COST_BYTES + 1;
        assert_eq!(txn_cost(&txn_of(vec![put_of("a")], vec![put_of("a"), put_of("b")])), 2 * one);
        assert_eq!(txn_cost(&txn_of(vec![nested(vec![put_of("a")], vec![])], vec![delete_of("a", "")])), one);
        assert_eq!(txn_cost(&txn_of(vec![delete_of("a", "")], vec![])), 0);
    }
}
