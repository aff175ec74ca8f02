//! `/metrics`: what a member knows of itself, under the names that etcd's dashboards and alerts ask for.
//!
//! Told is what there is. A name of etcd's that would always be 0 here, because there is nothing behind it, is left out:
//! an alert that can never fire is worse than one that finds nothing. docs/metrics.md lists all of them.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::base::process::{files_max, usage};
use crate::base::telemetry::{Counters, Page};
use crate::store::node::Handle;
use crate::store::server::http::Pages;
use crate::store::server::{version, watch};

/// The format of the page.
pub(super) const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The whole page.
pub(super) fn page(pages: &Pages) -> String {
    let (mut page, handle, counters) = (Page::default(), &pages.handle, &pages.counters);
    server(&mut page, handle, counters);
    disk(&mut page, handle, counters);
    history(&mut page, handle, counters);
    watches(&mut page, &pages.watches);
    pages.checks.tell(&mut page);
    pages.calls.tell(&mut page, pages.extensive);
    process(&mut page, signed(pages.started.timestamp()));
    page.into_text()
}

fn server(page: &mut Page, handle: &Handle, counters: &Counters) {
    let (status, member) = (handle.status(), handle.member());
    let id = format!("{:x}", member.member_id);
    page.metric("etcd_server_id", "gauge", "The member's id.");
    page.sample("etcd_server_id", &[("server_id", &id)], 1.0);
    page.metric("etcd_server_version", "gauge", "The version of etcd's API that is spoken.");
    page.sample("etcd_server_version", &[("server_version", version::SERVER)], 1.0);
    page.metric("etcd_cluster_version", "gauge", "The version that the cluster speaks.");
    page.sample("etcd_cluster_version", &[("cluster_version", version::CLUSTER_SHORT)], 1.0);
    page.metric("holdfast_version", "gauge", "The version of Holdfast.");
    page.sample("holdfast_version", &[("version", env!("CARGO_PKG_VERSION"))], 1.0);
    page.gauge("etcd_server_has_leader", "Whether there is a leader.", truth(status.leader != 0));
    page.gauge("etcd_server_is_leader", "Whether this member leads.", truth(status.leader == member.member_id));
    page.gauge("etcd_server_is_learner", "Whether this member does not vote.", 0.0);
    page.counter("etcd_server_leader_changes_seen_total", "Changes of the leader.", counters.leader_changes.get());
    page.gauge("etcd_server_proposals_committed_total", "The last entry that was agreed on.", float(status.committed));
    page.gauge("etcd_server_proposals_applied_total", "The last entry that was applied.", float(status.applied));
    page.gauge("etcd_server_proposals_pending", "Requests that wait to be agreed on.", float(handle.waiting() as u64));
    page.counter(
        "etcd_server_proposals_failed_total",
        "Requests that were not agreed on.",
        counters.proposals_failed.get(),
    );
    let quota = handle.tuning().quota_bytes.unwrap_or_default();
    page.gauge("etcd_server_quota_backend_bytes", "Bytes of the state file at which writes are refused.", float(quota));
    page.counter("etcd_debugging_server_lease_expired_total", "Leases that ended.", counters.leases_expired.get());
    page.counter("etcd_debugging_lease_granted_total", "Leases that were granted.", counters.leases_granted.get());
    page.counter("etcd_debugging_lease_revoked_total", "Leases that were revoked.", counters.leases_revoked.get());
    page.counter(
        "etcd_debugging_lease_renewed_total",
        "Leases whose time started again.",
        counters.leases_renewed.get(),
    );
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

fn disk(page: &mut Page, handle: &Handle, counters: &Counters) {
    let status = handle.status();
    let histograms = [
        ("etcd_disk_wal_fsync_duration_seconds", "How long the log took to be durable.", &counters.log_sync),
        (
            "etcd_disk_backend_commit_duration_seconds",
            "How long changes took to be in the state file.",
            &counters.flush,
        ),
        ("etcd_disk_backend_defrag_duration_seconds", "How long defragmentation took.", &counters.defragment),
    ];
    for (name, help, histogram) in histograms {
        page.metric(name, "histogram", help);
        page.histogram(name, &[], histogram);
    }
    page.counter("etcd_disk_wal_write_bytes_total", "Bytes that were appended to the log.", counters.log_bytes.get());
    page.gauge(
        "etcd_mvcc_db_total_size_in_bytes",
        "Bytes of the state file, with what is to be written into it.",
        float(status.file_bytes),
    );
    page.gauge(
        "etcd_mvcc_db_total_size_in_use_in_bytes",
        "Bytes of it that hold something, or will.",
        float(status.used_bytes),
    );
}

fn history(page: &mut Page, handle: &Handle, counters: &Counters) {
    let state = handle.state();
    page.gauge("etcd_debugging_mvcc_keys_total", "Keys with a history.", float(state.view.index().len() as u64));
    page.gauge("etcd_debugging_mvcc_current_revision", "The newest revision.", signed(state.view.revision()));
    page.gauge(
        "etcd_debugging_mvcc_compact_revision",
        "Up to where history was compacted.",
        signed(state.view.compact_revision()),
    );
    page.counter(
        "etcd_debugging_mvcc_db_compaction_keys_total",
        "Revisions that compaction deleted.",
        counters.compacted_revisions.get(),
    );
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
}

fn process(page: &mut Page, started_s: f64) {
    let usage = usage();
    page.metric("process_cpu_seconds_total", "counter", "Processor time.");
    page.sample("process_cpu_seconds_total", &[], usage.cpu_s);
    page.gauge("process_resident_memory_bytes", "Resident memory.", float(usage.resident_bytes));
    page.gauge("process_virtual_memory_bytes", "Virtual memory.", float(usage.virtual_bytes));
    page.gauge("process_open_fds", "Files that are open.", float(usage.files));
    page.gauge("process_max_fds", "Files that may be open.", float(files_max()));
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
