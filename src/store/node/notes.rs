//! What is counted and logged of what a member applies and reads. Logged are etcd's phrases with etcd's fields
//! (docs/logs.md), because that is what operators look for; of keys and values their lengths alone.

use std::time::Duration;

use crate::base::slow::{Slow, go_time};
use crate::base::telemetry::Counters;
use crate::store::machine::command::Shape;
use crate::store::machine::refusal::Refusal;
use crate::store::machine::state::State;
use crate::store::machine::tally::Tally;
use crate::store::machine::{Outcome, Reply};

/// Waiting for the disk for longer is told; etcd's figure.
const SLOW_SYNC: Duration = Duration::from_secs(1);

/// Notes a command that was applied.
pub(super) fn applied(counters: &Counters, slow: &Slow, shape: &Shape, outcome: &Outcome, took: Duration) {
    let applied = counters.applied.of(shape.kind);
    match outcome {
        // etcd's too counts a compaction that came late among what went well.
        Ok(_) | Err(Refusal::Compacted) => applied.well.observe(took),
        Err(_) => applied.refused.observe(took),
    }
    match outcome {
        Ok(Reply::LeaseGrant(granted)) => {
            counters.leases_granted.increment();
            counters.lease_ttls.observe_number(granted.ttl.unsigned_abs());
        }
        Ok(Reply::LeaseRevoke(_)) => counters.leases_revoked.increment(),
        _ => {}
    }
    if slow.is(took) {
        let response = outcome.as_ref().map_or(0, Reply::bytes);
        let error = outcome.as_ref().err().map(|refusal| format!("{refusal:?}"));
        too_long(counters, slow, took, "", &shape.to_string(), &format!("size:{response}"), error.as_deref());
    }
}

/// Counts and tells what took too long to be applied, or to be read.
pub(super) fn too_long(
    counters: &Counters,
    slow: &Slow,
    took: Duration,
    prefix: &str,
    request: &str,
    response: &str,
    error: Option<&str>,
) {
    counters.slow_applies.increment();
    let Some(untold) = slow.line() else { return };
    tracing::warn!(
        took = go_time(took),
        "expected-duration" = go_time(slow.limit()),
        prefix,
        request,
        response,
        error,
        untold = (untold > 0).then_some(untold),
        "apply request took too long"
    );
}

/// Tells that the disk of the log was slow.
pub(super) fn synced(took: Duration) {
    if took > SLOW_SYNC {
        tracing::warn!(took = go_time(took), "expected-duration" = go_time(SLOW_SYNC), "slow fdatasync");
    }
}

/// Counts what commands did to keys.
pub(super) fn tally(counters: &Counters, tally: &Tally) {
    counters.ranges.add(tally.ranges);
    counters.puts.add(tally.puts);
    counters.deletes.add(tally.deletes);
    counters.txns.add(tally.txns);
    counters.put_bytes.add(tally.put_bytes);
}

/// Tells which alarms are other ones than before.
pub(super) fn alarms(before: &State, after: &State) {
    let (before, after) = (before.alarms.all(0), after.alarms.all(0));
    for alarm in after.iter().filter(|alarm| !before.contains(alarm)) {
        let from = format!("{:x}", alarm.member_id);
        tracing::warn!(alarm = alarm.alarm().as_str_name(), from, "alarm raised");
    }
    for alarm in before.iter().filter(|alarm| !after.contains(alarm)) {
        let from = format!("{:x}", alarm.member_id);
        tracing::warn!(alarm = alarm.alarm().as_str_name(), from, "alarm disarmed");
    }
}

/// Tells that nothing of what a compaction made superfluous is left.
pub(super) fn removed(compact_revision: i64, took: Duration) {
    tracing::info!("compact-revision" = compact_revision, took = go_time(took), "finished scheduled compaction");
}
