//! What became different between two states, as records: a step of a stream that goes on.
//!
//! Made from the states themselves, not from what led from one to the other, so nothing can be missed. What came and went
//! in between is not part of it, but for the history of keys, which is whole: as long as the earlier state is held, no
//! compaction deletes any of it.

use crate::api::Message;
use crate::base::error::Result;
use crate::base::revision::Rev;
use crate::snapshot::record::{Compacted, Record, Revision};
use crate::store::auth::rules::Rules;
use crate::store::lease::lessor::stored;
use crate::store::machine::records::Each;
use crate::store::machine::state::State;

/// Whether anything became different.
pub fn differ(before: &State, after: &State) -> bool {
    before.view.revision() != after.view.revision()
        || before.view.compact_revision() != after.view.compact_revision()
        || before.alarms != after.alarms
        || before.rules.revision() != after.rules.revision()
        || before.rules.is_enabled() != after.rules.is_enabled()
        || after.lessor.since(&before.lessor).next().is_some()
}

/// Calls `each` with what became different, in the fixed order.
pub fn changes(before: &State, after: &State, each: &mut Each<'_>) -> Result<()> {
    let compact_revision = after.view.compact_revision();
    if compact_revision > before.view.compact_revision() {
        each(&Record::Compacted(Compacted { revision: compact_revision, finished: true }))?;
    }
    for alarm in after.alarms.without(&before.alarms) {
        each(&Record::Alarm { stored: &alarm.encode_to_vec() })?;
    }
    for alarm in before.alarms.without(&after.alarms) {
        each(&Record::AlarmGone { stored: &alarm.encode_to_vec() })?;
    }
    rules(&before.rules, &after.rules, each)?;
    let mut leases: Vec<_> = after.lessor.since(&before.lessor).collect();
    // In the order of an etcd file.
    leases.sort_unstable_by_key(|(id, _)| id.cast_unsigned());
    for (id, lease) in leases.iter().filter_map(|(id, lease)| Some((*id, (*lease)?))) {
        each(&Record::Lease { stored: &stored(id, lease) })?;
    }
    leases.iter().filter(|(_, lease)| lease.is_none()).try_for_each(|(id, _)| each(&Record::LeaseGone(*id)))?;
    let (from, until) = (before.view.revision() + 1, after.view.revision() + 1);
    after.view.scan(Rev::of(from), Rev::of(until), &mut |found| {
        let (rev, tombstone, stored) = (found.rev, found.tombstone, found.message);
        each(&Record::Revision(Revision { rev, tombstone, stored }))
    })
}

/// Users and roles.
fn rules(before: &Rules, after: &Rules, each: &mut Each<'_>) -> Result<()> {
    let config = |rules: &Rules| (rules.is_enabled(), rules.revision());
    if config(before) == config(after) {
        return Ok(());
    }
    each(&Record::AuthConfig { enabled: Some(after.is_enabled()), revision: Some(after.revision()) })?;
    for user in after.users().filter_map(|name| after.user(name).filter(|user| before.user(name) != Some(user))) {
        each(&Record::User { stored: user.stored() })?;
    }
    for gone in before.users().filter(|name| after.user(name).is_none()) {
        each(&Record::UserGone(gone.as_bytes()))?;
    }
    for role in after.roles().filter_map(|name| after.role(name).filter(|role| before.role(name) != Some(role))) {
        each(&Record::Role { stored: role.stored() })?;
    }
    before
        .roles()
        .filter(|name| after.role(name).is_none())
        .try_for_each(|gone| each(&Record::RoleGone(gone.as_bytes())))
}
