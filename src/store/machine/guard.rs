//! What alarms forbid.

use crate::api::etcdserverpb::AlarmType;
use crate::store::machine::check::txn_cost;
use crate::store::machine::command::Operation;
use crate::store::machine::refusal::Refusal;
use crate::store::machine::state::Alarms;

/// Whether the alarms let an operation through. When members differ nothing is changed any more; when there is no room,
/// nothing that takes some.
pub(super) fn admit(alarms: &Alarms, operation: &Operation) -> Result<(), Refusal> {
    if alarms.is_active(AlarmType::Corrupt)
        && matches!(
            operation,
            Operation::Put(_)
                | Operation::DeleteRange(_)
                | Operation::Txn(_)
                | Operation::Compaction(_)
                | Operation::LeaseGrant(_)
                | Operation::LeaseRevoke(_)
        )
    {
        return Err(Refusal::Corrupt);
    }
    let takes_room = match operation {
        Operation::Put(_) | Operation::LeaseGrant(_) => true,
        Operation::Txn(request) => txn_cost(request) > 0,
        _ => false,
    };
    if takes_room && alarms.is_active(AlarmType::Nospace) { Err(Refusal::NoSpace) } else { Ok(()) }
}
