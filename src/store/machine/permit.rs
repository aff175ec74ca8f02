//! Whether whoever asks may do what they ask for.
//!
//! An operation is looked at when it is applied, against the rules as they are then: between a request and its turn the
//! rules may have changed. A read is looked at against the rules of the very state that it reads. So there is no moment at
//! which something is done or shown that the rules of that moment forbid.
//!
//! Which access a request needs is etcd's: a put needs to write the key, to read it where the previous value is asked for,
//! and to write every key of a lease that it attaches to; a transaction needs what all its conditions and the operations
//! of both its sides need, those of nested transactions too, whichever side is taken.

use crate::api::etcdserverpb::alarm_request::AlarmAction;
use crate::api::etcdserverpb::request_op::Request;
use crate::api::etcdserverpb::{DeleteRangeRequest, PutRequest, RangeRequest, TxnRequest};
use crate::store::auth::Denial;
use crate::store::auth::grant::Access;
use crate::store::auth::rules::Subject;
use crate::store::lease::lessor::Lessor;
use crate::store::machine::command::Operation;

type Result = std::result::Result<(), Denial>;

/// Whether a range may be read.
pub fn range(subject: &Subject<'_>, request: &RangeRequest) -> Result {
    subject.may(Access::Read, &request.key, &request.range_end)
}

/// Whether a transaction may be carried out.
pub fn txn(subject: &Subject<'_>, lessor: &Lessor, request: &TxnRequest) -> Result {
    for compare in &request.compare {
        subject.may(Access::Read, &compare.key, &compare.range_end)?;
    }
    for operation in request.success.iter().chain(&request.failure) {
        match &operation.request {
            Some(Request::RequestRange(request)) => range(subject, request)?,
            Some(Request::RequestPut(request)) => put(subject, lessor, request)?,
            Some(Request::RequestDeleteRange(request)) => delete_range(subject, request)?,
            Some(Request::RequestTxn(request)) => txn(subject, lessor, request)?,
            None => {}
        }
    }
    Ok(())
}

/// Whether the keys of a lease may all be accessed so.
pub fn lease(subject: &Subject<'_>, lessor: &Lessor, id: i64, access: Access) -> Result {
    subject.is_somebody()?;
    let Some(lease) = lessor.get(id).filter(|_| !subject.is_free()) else { return Ok(()) };
    lease.keys.iter().try_for_each(|key| subject.may(access, key, &[]))
}

fn put(subject: &Subject<'_>, lessor: &Lessor, request: &PutRequest) -> Result {
    subject.may(Access::Write, &request.key, &[])?;
    if request.lease != 0 {
        // Whoever attaches a key to a lease could end the others with it.
        lease(subject, lessor, request.lease, Access::Write)?;
    }
    if request.prev_kv { subject.may(Access::Read, &request.key, &[]) } else { Ok(()) }
}

fn delete_range(subject: &Subject<'_>, request: &DeleteRangeRequest) -> Result {
    subject.may(Access::Write, &request.key, &request.range_end)?;
    if request.prev_kv { subject.may(Access::Read, &request.key, &request.range_end) } else { Ok(()) }
}

/// Whether an operation may be carried out.
pub(super) fn operation(subject: &Subject<'_>, lessor: &Lessor, operation: &Operation) -> Result {
    if subject.is_free() {
        return Ok(());
    }
    match operation {
        Operation::Put(request) => put(subject, lessor, request),
        Operation::DeleteRange(request) => delete_range(subject, request),
        Operation::Txn(request) => txn(subject, lessor, request),
        Operation::LeaseRevoke(request) => lease(subject, lessor, request.id, Access::Write),
        Operation::LeaseGrant(_) => subject.is_somebody(),
        Operation::Alarm(request) if request.action == AlarmAction::Get as i32 => subject.is_somebody(),
        // A password is what makes somebody of nobody.
        Operation::Authenticate(_) => Ok(()),
        Operation::Alarm(_)
        | Operation::Compaction(_)
        | Operation::AuthEnable(_)
        | Operation::AuthDisable(_)
        | Operation::UserAdd(_)
        | Operation::UserDelete(_)
        | Operation::UserChangePassword(_)
        | Operation::UserGrantRole(_)
        | Operation::UserRevokeRole(_)
        | Operation::RoleAdd(_)
        | Operation::RoleDelete(_)
        | Operation::RoleGrantPermission(_)
        | Operation::RoleRevokePermission(_)
        | Operation::LeaseCheckpoints(_)
        | Operation::Publish(_)
        | Operation::ClusterVersion(_) => subject.administers(),
    }
}
