//! Puts, deletions and transactions, step by step.
//!
//! A transaction's conditions are all decided first, those of nested transactions too, against the store as it was before.
//! Then the way that will be taken is checked to its end: revisions that can be read, leases that exist, keys whose value is
//! to be kept. Only then the first step is made, so that a transaction is carried out whole or refused whole.

use std::cmp::Ordering;

use crate::api::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use crate::api::etcdserverpb::request_op::Request;
use crate::api::etcdserverpb::response_op::Response;
use crate::api::etcdserverpb::{
    Compare, DeleteRangeRequest, DeleteRangeResponse, PutRequest, PutResponse, RangeRequest, RangeResponse, RequestOp,
    ResponseHeader, ResponseOp, TxnRequest, TxnResponse,
};
use crate::api::mvccpb::KeyValue;
use crate::store::lease::lessor::Lessor;
use crate::store::machine::refusal::{Failure, Refusal};
use crate::store::machine::state::State;
use crate::store::machine::tally::Tally;
use crate::store::machine::{Machine, header};
use crate::store::mvcc::history::History;
use crate::store::mvcc::index::Keys;
use crate::store::mvcc::read;
use crate::store::mvcc::view::Ground;

type Result<T = ()> = std::result::Result<T, Failure>;

/// The compaction of a store that was never compacted, as etcd counts.
const NEVER_COMPACTED: i64 = -1;

/// Which side each transaction takes, outer before inner, in the order of operations.
type Path = Vec<bool>;

impl Machine {
    pub(super) fn put(&mut self, request: &PutRequest) -> Result<PutResponse> {
        // Of two reasons a put alone names the lease, as etcd's does; in a transaction it is the key.
        check_lease(&self.lessor, request)?;
        if request.prev_kv || keeps(request) {
            self.tally.range();
        }
        check_put(&self.ground(), &self.lessor, request)?;
        let ground = self.ground();
        let before =
            (request.prev_kv || request.ignore_value).then(|| before(&ground, &request.key)).transpose()?.flatten();
        let value = match &before {
            Some(before) if request.ignore_value => &before.value,
            _ => &request.value,
        };
        let lease = if request.ignore_lease { self.lessor.owner(&request.key) } else { request.lease };
        self.tally.put(request.key.len() + value.len());
        self.writer.put(&request.key, value, lease);
        // Most keys never have a lease.
        if lease != 0 || self.lessor.owner(&request.key) != 0 {
            self.lessor.attach(&(*request.key).into(), lease);
        }
        let prev_kv = before.filter(|_| request.prev_kv);
        Ok(PutResponse { header: header(self.ground().revision), prev_kv })
    }

    pub(super) fn delete_range(&mut self, request: &DeleteRangeRequest) -> Result<DeleteRangeResponse> {
        let keys = Keys::of(&request.key, &request.range_end);
        let mut prev_kvs = vec![];
        if request.prev_kv {
            self.tally.range();
            let ground = self.ground();
            for (_, version) in ground.index.alive(keys, i64::MAX) {
                prev_kvs.push(read::key_value(&ground, version)?);
            }
        }
        self.tally.delete();
        let ended = self.writer.delete(keys);
        for (key, _) in &ended {
            self.lessor.detach(key);
        }
        let deleted = i64::try_from(ended.len()).expect("keys fit into memory");
        Ok(DeleteRangeResponse { header: header(self.ground().revision), deleted, prev_kvs })
    }

    pub(super) fn txn(&mut self, request: &TxnRequest) -> Result<TxnResponse> {
        let mut path = Path::new();
        let (ground, tally) = (self.writer.ground(), &mut self.tally);
        decide(&ground, &self.lessor, request, &mut path, tally)?;
        foresee(&ground, &self.lessor, request, &path, tally)?;
        tally.end();
        self.execute(request, &mut path.iter())
    }

    fn execute(&mut self, request: &TxnRequest, path: &mut std::slice::Iter<'_, bool>) -> Result<TxnResponse> {
        let (succeeded, operations) = side(request, path);
        let mut responses = Vec::with_capacity(operations.len());
        for operation in operations {
            let response = match &operation.request {
                Some(Request::RequestRange(request)) => {
                    self.tally.range();
                    Response::ResponseRange(range(&self.ground(), request)?)
                }
                Some(Request::RequestPut(request)) => Response::ResponsePut(self.put(request)?),
                Some(Request::RequestDeleteRange(request)) => {
                    Response::ResponseDeleteRange(self.delete_range(request)?)
                }
                Some(Request::RequestTxn(request)) => Response::ResponseTxn(self.execute(request, path)?),
                None => continue,
            };
            responses.push(ResponseOp { response: Some(response) });
        }
        // The revision is filled in where the outermost transaction ends; inside, the header is there and empty.
        Ok(TxnResponse { header: Some(ResponseHeader::default()), succeeded, responses })
    }
}

/// Answers a range.
pub(super) fn range(ground: &Ground<'_>, request: &RangeRequest) -> Result<RangeResponse> {
    let read::Found { kvs, more, count } = read::range(ground, request)?;
    Ok(RangeResponse { header: header(ground.revision), kvs, more, count })
}

/// Answers a transaction that has ranges and nothing else.
pub(super) fn read(state: &State, request: &TxnRequest, tally: &mut Tally) -> Result<TxnResponse> {
    let ground = state.view.ground();
    let mut path = Path::new();
    decide(&ground, &state.lessor, request, &mut path, tally)?;
    foresee(&ground, &state.lessor, request, &path, tally)?;
    let (succeeded, operations) = side(request, &mut path.iter());
    let mut responses = Vec::with_capacity(operations.len());
    for operation in operations {
        if let Some(Request::RequestRange(request)) = &operation.request {
            tally.range();
            let response = Some(Response::ResponseRange(range(&ground, request)?));
            responses.push(ResponseOp { response });
        }
    }
    Ok(TxnResponse { header: header(ground.revision), succeeded, responses })
}

fn side<'a>(request: &'a TxnRequest, path: &mut std::slice::Iter<'_, bool>) -> (bool, &'a [RequestOp]) {
    let succeeded = *path.next().expect("the path has a step for each transaction on it");
    (succeeded, if succeeded { &request.success } else { &request.failure })
}

/// Decides which side each transaction takes.
fn decide(ground: &Ground<'_>, lessor: &Lessor, request: &TxnRequest, path: &mut Path, tally: &mut Tally) -> Result {
    let mut succeeded = true;
    for compare in &request.compare {
        tally.range();
        if !holds(ground, lessor, compare)? {
            succeeded = false;
            break;
        }
    }
    path.push(succeeded);
    for operation in if succeeded { &request.success } else { &request.failure } {
        if let Some(Request::RequestTxn(request)) = &operation.request {
            decide(ground, lessor, request, path, tally)?;
        }
    }
    Ok(())
}

/// Refuses what would fail on the way. Of several reasons etcd names that of a put first, wherever it stands.
fn foresee(ground: &Ground<'_>, lessor: &Lessor, request: &TxnRequest, path: &Path, tally: &mut Tally) -> Result {
    let puts = &mut |operation: &Request| match operation {
        Request::RequestPut(request) => {
            if keeps(request) {
                tally.range();
            }
            check_put(ground, lessor, request)
        }
        _ => Ok(()),
    };
    visit(request, &mut path.iter(), puts)?;
    let ranges = &mut |operation: &Request| match operation {
        Request::RequestRange(request) => check_revision(ground, request.revision),
        _ => Ok(()),
    };
    visit(request, &mut path.iter(), ranges)
}

/// Shows every operation on the way, but for transactions, whose own operations are shown.
fn visit(
    request: &TxnRequest,
    path: &mut std::slice::Iter<'_, bool>,
    sees: &mut dyn FnMut(&Request) -> Result,
) -> Result {
    for operation in side(request, path).1.iter().filter_map(|operation| operation.request.as_ref()) {
        match operation {
            Request::RequestTxn(request) => visit(request, path, sees)?,
            operation => sees(operation)?,
        }
    }
    Ok(())
}

/// Whether a range within a transaction can be read. Outside of one anything below 0 is the newest revision; here etcd
/// compares it as it is.
fn check_revision(ground: &Ground<'_>, asked: i64) -> Result {
    let first = if ground.compact_revision > 0 { ground.compact_revision } else { NEVER_COMPACTED };
    if asked < first && asked != 0 {
        return Err(Refusal::Compacted.into());
    }
    ground.reads_at(asked)?;
    Ok(())
}

/// Whether a put leaves something of its key as it is.
fn keeps(request: &PutRequest) -> bool {
    request.ignore_value || request.ignore_lease
}

fn check_put(ground: &Ground<'_>, lessor: &Lessor, request: &PutRequest) -> Result {
    if keeps(request) && ground.index.get(&request.key).and_then(History::alive).is_none() {
        return Err(Refusal::KeyNotFound.into());
    }
    check_lease(lessor, request)
}

fn check_lease(lessor: &Lessor, request: &PutRequest) -> Result {
    let missing = request.lease != 0 && lessor.get(request.lease).is_none();
    if missing { Err(Refusal::LeaseNotFound.into()) } else { Ok(()) }
}

/// What a key is before a change.
fn before(ground: &Ground<'_>, key: &[u8]) -> Result<Option<KeyValue>> {
    let Some(version) = ground.index.get(key).and_then(|history| history.at(i64::MAX)) else { return Ok(None) };
    Ok(Some(read::key_value(ground, version)?))
}

/// Whether a condition holds: for every key of its range, or for a key that is not there.
fn holds(ground: &Ground<'_>, lessor: &Lessor, compare: &Compare) -> Result<bool> {
    let Ok(target) = CompareTarget::try_from(compare.target) else {
        return Ok(satisfied(compare.result, Ordering::Equal));
    };
    let operand = number(target, compare);
    let mut none = true;
    for (key, history) in ground.index.range(Keys::of(&compare.key, &compare.range_end)) {
        let Some((created, modified, version)) = history.alive() else { continue };
        none = false;
        let order = match target {
            CompareTarget::Version => version.cmp(&operand),
            CompareTarget::Create => created.cmp(&operand),
            CompareTarget::Mod => modified.cmp(&operand),
            CompareTarget::Lease => lessor.owner(key).cmp(&operand),
            CompareTarget::Value => {
                let value: &[u8] =
                    if let Some(TargetUnion::Value(value)) = &compare.target_union { value } else { &[] };
                read::key_value(ground, history.newest())?.value.as_ref().cmp(value)
            }
        };
        if !satisfied(compare.result, order) {
            return Ok(false);
        }
    }
    // A key that is not there has no value to compare, and 0 for everything else.
    Ok(!none || (target != CompareTarget::Value && satisfied(compare.result, 0.cmp(&operand))))
}

/// The number that a condition compares with; one for another target is none.
fn number(target: CompareTarget, compare: &Compare) -> i64 {
    match (target, &compare.target_union) {
        (CompareTarget::Version, Some(TargetUnion::Version(number)))
        | (CompareTarget::Create, Some(TargetUnion::CreateRevision(number)))
        | (CompareTarget::Mod, Some(TargetUnion::ModRevision(number)))
        | (CompareTarget::Lease, Some(TargetUnion::Lease(number))) => *number,
        _ => 0,
    }
}

fn satisfied(result: i32, order: Ordering) -> bool {
    match CompareResult::try_from(result) {
        Ok(CompareResult::Equal) => order.is_eq(),
        Ok(CompareResult::NotEqual) => order.is_ne(),
        Ok(CompareResult::Greater) => order.is_gt(),
        Ok(CompareResult::Less) => order.is_lt(),
        // etcd lets a comparison of no kind pass.
        Err(_) => true,
    }
}
