//! `/metrics`: what a member knows of itself, under the names that etcd's dashboards and alerts ask for.
//!
//! A name of etcd's for something that cannot happen here, or not yet, is told as never having happened: a dashboard that
//! adds it to others must find a number. Left out are names of what is inside etcd alone: Go's runtime, its old store and
//! its file's pages. docs/metrics.md lists all of them, and a test compares the page with etcd's (tests/etcd).

use std::sync::atomic::{AtomicU64, Ordering};

use crate::base::process::{files_max, usage, virtual_max};
use crate::base::telemetry::{Counters, Histogram, Page};
use crate::store::node::Handle;
use crate::store::server::http::Pages;
use crate::store::server::{version, watch};

/// The format of the page.
pub(super) const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The whole page.
pub(super) fn page(pages: &Pages) -> String {
    let (mut page, handle, counters) = (Page::default(), &pages.handle, &pages.counters);
    server(&mut page, handle, counters);
    never(&mut page);
    features(&mut page, &pages.features);
    applied(&mut page, counters);
    leases(&mut page, counters);
    disk(&mut page, handle, counters);
    history(&mut page, handle, counters);
    scrubs(&mut page, counters);
    watches(&mut page, &pages.watches);
    pages.checks.tell(&mut page);
    pages.calls.tell(&mut page, pages.extensive);
    process(&mut page, signed(pages.started.timestamp()));
    page.into_text()
}

fn server(page: &mut Page, handle: &Handle, counters: &Counters) {
    let (status, member) = (handle.status(), handle.member());
    let id = format!("{:x}", member.member_id);
    let named = [
        ("etcd_server_id", "server_id", id.as_str(), "The member's id."),
        ("etcd_server_version", "server_version", version::SERVER, "The version of etcd's API that is spoken."),
        ("etcd_cluster_version", "cluster_version", version::CLUSTER_SHORT, "The version that the cluster speaks."),
        ("holdfast_version", "version", env!("CARGO_PKG_VERSION"), "The version of Holdfast."),
    ];
    for (name, label, value, help) in named {
        page.metric(name, "gauge", help);
        page.sample(name, &[(label, value)], 1.0);
    }
    page.gauge("etcd_server_has_leader", "Whether there is a leader.", truth(status.leader != 0));
    page.gauge("etcd_server_is_leader", "Whether this member leads.", truth(status.leader == member.member_id));
    page.counter("etcd_server_leader_changes_seen_total", "Changes of the leader.", counters.leader_changes.get());
    page.gauge("etcd_server_proposals_committed_total", "The last entry that was agreed on.", float(status.committed));
    page.gauge("etcd_server_proposals_applied_total", "The last entry that was applied.", float(status.applied));
    page.gauge("etcd_server_proposals_pending", "Requests that wait to be agreed on.", float(handle.waiting() as u64));
    let counted = [
        ("etcd_server_proposals_failed_total", "Requests that were not agreed on.", &counters.proposals_failed),
        ("etcd_server_slow_apply_total", "Requests that took longer than they should.", &counters.slow_applies),
        ("etcd_server_read_indexes_failed_total", "Reads that nobody could agree on.", &counters.read_indexes_failed),
    ];
    for (name, help, counter) in counted {
        page.counter(name, help, counter.get());
    }
    let quota = handle.tuning().quota_bytes.unwrap_or_default();
    page.gauge("etcd_server_quota_backend_bytes", "Bytes of the state file at which writes are refused.", float(quota));
    let revision = handle.state().rules.revision();
    page.gauge("etcd_debugging_auth_revision", "The revision of the rules of authentication.", float(revision));
    page.metric("etcd_debugging_server_alarms", "gauge", "Alarms that are active.");
    for alarm in handle.state().alarms.all(0) {
        let kind = alarm.alarm().as_str_name();
        page.sample(
            "etcd_debugging_server_alarms",
            &[("server_id", &format!("{:x}", alarm.member_id)), ("alarm_type", kind)],
            1.0,
        );
    }
}

/// What a member that is alone, or has no such thing, never comes to.
fn never(page: &mut Page) {
    let counters = [
        ("etcd_server_heartbeat_send_failures_total", "Heartbeats that were sent too late."),
        ("etcd_server_learner_promote_successes", "Members that were given a vote."),
        ("etcd_server_slow_read_indexes_total", "Reads that waited long to be agreed on."),
    ];
    for (name, help) in counters {
        page.counter(name, help, 0);
    }
    page.gauge("etcd_server_is_learner", "Whether this member does not vote.", 0.0);
    page.gauge("etcd_server_snapshot_apply_in_progress_total", "Snapshots of a leader that are being taken over.", 0.0);
    let histograms = [
        ("etcd_snap_fsync_duration_seconds", Histogram::doubling(1_000, 14)),
        ("etcd_snap_db_fsync_duration_seconds", Histogram::doubling(1_000, 14)),
        ("etcd_snap_db_save_total_duration_seconds", Histogram::doubling(100_000, 10)),
        ("etcd_debugging_snap_save_marshalling_duration_seconds", Histogram::doubling(1_000, 14)),
        ("etcd_debugging_snap_save_total_duration_seconds", Histogram::doubling(1_000, 14)),
    ];
    for (name, histogram) in histograms {
        page.metric(name, "histogram", "Files of raft's snapshots: there are none.");
        page.histogram(name, &[], &histogram);
    }
}

fn features(page: &mut Page, features: &[(&str, &str, bool)]) {
    let name = "etcd_server_feature_enabled";
    page.metric(name, "gauge", "Whether a feature gate is on.");
    for (feature, stage, is_on) in features {
        page.sample(name, &[("name", feature), ("stage", stage)], truth(*is_on));
    }
}

fn applied(page: &mut Page, counters: &Counters) {
    let name = "etcd_server_apply_duration_seconds";
    page.metric(name, "histogram", "How long changes took to be applied, once they were agreed on.");
    for (kind, applied) in counters.applied.all() {
        for (success, histogram) in [("true", &applied.well), ("false", &applied.refused)] {
            if histogram.count() > 0 {
                page.histogram(name, &[("op", kind), ("success", success), ("version", "v3")], histogram);
            }
        }
    }
}

fn leases(page: &mut Page, counters: &Counters) {
    let counted = [
        ("etcd_debugging_server_lease_expired_total", "Leases that ended.", &counters.leases_expired),
        ("etcd_debugging_lease_granted_total", "Leases that were granted.", &counters.leases_granted),
        ("etcd_debugging_lease_revoked_total", "Leases that were revoked.", &counters.leases_revoked),
        ("etcd_debugging_lease_renewed_total", "Leases whose time started again.", &counters.leases_renewed),
    ];
    for (name, help, counter) in counted {
        page.counter(name, help, counter.get());
    }
    let name = "etcd_debugging_lease_ttl_total";
    page.metric(name, "histogram", "The lives that leases were given, in seconds.");
    page.histogram(name, &[], &counters.lease_ttls);
}

fn disk(page: &mut Page, handle: &Handle, counters: &Counters) {
    let status = handle.status();
    let histograms = [
        ("etcd_disk_wal_fsync_duration_seconds", "How long the log took to be durable.", &counters.log_sync),
        ("etcd_disk_wal_write_duration_seconds", "How long writing to the log took.", &counters.log_write),
        (
            "etcd_disk_backend_commit_duration_seconds",
            "How long changes took to be in the state file.",
            &counters.flush,
        ),
        ("etcd_disk_backend_defrag_duration_seconds", "How long defragmentation took.", &counters.defragment),
        ("etcd_disk_backend_snapshot_duration_seconds", "How long snapshots took to be sent.", &counters.snapshot),
        ("etcd_mvcc_hash_duration_seconds", "How long checksums over everything took.", &counters.hash),
        ("etcd_mvcc_hash_rev_duration_seconds", "How long checksums over the keys took.", &counters.hash_kv),
    ];
    for (name, help, histogram) in histograms {
        page.metric(name, "histogram", help);
        page.histogram(name, &[], histogram);
    }
    let gauges = [
        ("etcd_disk_wal_write_bytes_total", "Bytes that were appended to the log.", counters.log_bytes.get()),
        ("etcd_disk_defrag_inflight", "Whether the state file is being written anew.", counters.defragmenting.get()),
        (
            "etcd_mvcc_db_total_size_in_bytes",
            "Bytes of the state file, with what is to be written into it.",
            status.file_bytes,
        ),
        ("etcd_mvcc_db_total_size_in_use_in_bytes", "Bytes of it that hold something, or will.", status.used_bytes),
        ("etcd_mvcc_db_open_read_transactions", "Who reads the state file now.", handle.readers() as u64),
    ];
    for (name, help, value) in gauges {
        page.gauge(name, help, float(value));
    }
}

fn history(page: &mut Page, handle: &Handle, counters: &Counters) {
    let state = handle.state();
    page.gauge("etcd_debugging_mvcc_keys_total", "Keys that are there.", float(state.view.index().alive_len() as u64));
    page.gauge("etcd_debugging_mvcc_current_revision", "The newest revision.", signed(state.view.revision()));
    // etcd's says the same of a store that was never compacted.
    let compacted = if state.view.compact_revision() > 0 { state.view.compact_revision() } else { -1 };
    page.gauge("etcd_debugging_mvcc_compact_revision", "Up to where history was compacted.", signed(compacted));
    let counted = [
        ("etcd_mvcc_range_total", "Times that keys were read.", &counters.ranges),
        ("etcd_debugging_mvcc_range_total", "Times that keys were read.", &counters.ranges),
        ("etcd_mvcc_put_total", "Times that a key was written.", &counters.puts),
        ("etcd_mvcc_delete_total", "Times that keys were deleted.", &counters.deletes),
        ("etcd_mvcc_txn_total", "Times that several of these were done at once.", &counters.txns),
        (
            "etcd_debugging_mvcc_db_compaction_keys_total",
            "Revisions that compaction deleted.",
            &counters.compacted_revisions,
        ),
    ];
    for (name, help, counter) in counted {
        page.counter(name, help, counter.get());
    }
    let bytes = float(counters.put_bytes.get());
    page.gauge("etcd_debugging_mvcc_total_put_size_in_bytes", "Bytes of keys and values that were written.", bytes);
    compaction(page, counters);
}

fn compaction(page: &mut Page, counters: &Counters) {
    let last = float(counters.removed_at_s.get());
    page.gauge("etcd_debugging_mvcc_db_compaction_last", "When compaction was last over, in Unix time.", last);
    let histograms = [
        (
            "etcd_debugging_mvcc_index_compaction_pause_duration_milliseconds",
            "How long each step of a compaction through the index took.",
            &counters.index_pause,
        ),
        (
            "etcd_debugging_mvcc_db_compaction_pause_duration_milliseconds",
            "How long each removal from the state file took.",
            &counters.removal_pause,
        ),
        (
            "etcd_debugging_mvcc_db_compaction_total_duration_milliseconds",
            "How long a compaction took until all was removed.",
            &counters.removal,
        ),
    ];
    for (name, help, histogram) in histograms {
        page.metric(name, "histogram", help);
        page.histogram(name, &[], histogram);
    }
}

fn scrubs(page: &mut Page, counters: &Counters) {
    page.counter("holdfast_scrubs_total", "Times that everything stored was read and was well.", counters.scrubs.get());
    page.counter(
        "holdfast_scrubs_failed_total",
        "Times that something stored was damaged.",
        counters.scrubs_failed.get(),
    );
    page.counter("holdfast_scrub_read_bytes_total", "Bytes that scrubs read.", counters.scrubbed_bytes.get());
    page.gauge(
        "holdfast_scrub_last_timestamp_seconds",
        "When everything stored was last read and was well, in Unix time.",
        float(counters.scrubbed_at_ms.get() / 1000),
    );
}

fn watches(page: &mut Page, counters: &watch::Counters) {
    let now = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    page.gauge("etcd_debugging_mvcc_watch_stream_total", "Streams of watches.", float(now(&counters.streams)));
    page.gauge("etcd_debugging_mvcc_watcher_total", "Watches.", float(now(&counters.watchers)));
    page.gauge("etcd_debugging_mvcc_slow_watcher_total", "Watches that are behind.", float(now(&counters.lagging)));
    page.counter("etcd_debugging_mvcc_events_total", "Changes that watchers were sent.", now(&counters.events));
    let pending = float(now(&counters.pending));
    page.gauge("etcd_debugging_mvcc_pending_events_total", "Changes that wait to be sent to watchers.", pending);
}

fn process(page: &mut Page, started_s: f64) {
    let usage = usage();
    page.metric("process_cpu_seconds_total", "counter", "Processor time.");
    page.sample("process_cpu_seconds_total", &[], usage.cpu_s);
    page.gauge("process_resident_memory_bytes", "Resident memory.", float(usage.resident_bytes));
    page.gauge("process_virtual_memory_bytes", "Virtual memory.", float(usage.virtual_bytes));
    page.gauge("process_open_fds", "Files that are open.", float(usage.files));
    page.gauge("process_max_fds", "Files that may be open.", float(files_max()));
    page.gauge("process_virtual_memory_max_bytes", "Virtual memory that there may be.", float(virtual_max()));
    page.gauge("process_start_time_seconds", "When the process started.", started_s);
    page.gauge("os_fd_used", "Files that are open.", float(usage.files));
    page.gauge("os_fd_limit", "Files that may be open.", float(files_max()));
}

fn truth(yes: bool) -> f64 {
    if yes { 1.0 } else { 0.0 }
}

#[expect(clippy::cast_precision_loss, reason = "a metric is a float")]
fn float(n: u64) -> f64 {
    n as f64
}

#[expect(clippy::cast_precision_loss, reason = "a metric is a float")]
fn signed(n: i64) -> f64 {
    n as f64
}
