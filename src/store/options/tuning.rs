//! Limits and intervals of a running member. Defaults are etcd's.

use std::sync::Arc;
use std::time::Duration;

use crate::base::jwt::Keys;

/// Bytes of the state file that a member may fill when it was told nothing.
pub const QUOTA_BYTES: u64 = 2 << 30;

/// Between two scrubs of a member that was told nothing. A day, as etcd's users compare backups: damage is found while there
/// are copies from before it.
pub const SCRUB_INTERVAL: Duration = Duration::from_hours(24);

/// When history is compacted without being asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AutoCompaction {
    /// Never.
    #[default]
    Off,
    /// So much time is kept.
    Periodic(Duration),
    /// So many revisions are kept.
    Revisions(i64),
}

/// What stands for somebody who has shown a password.
#[derive(Clone, Debug, Default)]
pub enum Tokens {
    /// Nothing: users come with certificates.
    None,
    /// A word, which the members know.
    #[default]
    Simple,
    /// A text that these keys signed.
    Signed(Arc<Keys>),
}

/// Limits and intervals of a running member. Every one is small in some test, so that what happens at it is seen.
#[derive(Clone, Debug)]
pub struct Tuning {
    /// Bytes of a request as it is agreed on.
    pub request_bytes_max: usize,
    /// Operations in a transaction.
    pub txn_operations_max: usize,
    /// Bytes of the state file at which the NOSPACE alarm is raised; none for no limit.
    pub quota_bytes: Option<u64>,
    /// Requests that wait for their answer.
    pub queue_max: usize,
    /// Bytes of requests that wait for their answer.
    pub queue_bytes_max: usize,
    /// Bytes of requests that are agreed on at once; one alone may be larger.
    pub entry_bytes_max: usize,
    /// Bytes of applied changes that wait for a flush; beyond it nothing is proposed until one has ended.
    pub unflushed_bytes_max: usize,
    /// Bytes of applied changes that start a flush.
    pub flush_bytes: usize,
    /// How long a change waits for a flush at most.
    pub flush_interval: Duration,
    /// Bytes of a segment of the log.
    pub segment_bytes: u64,
    /// Bytes of the disk that stay free: with less, the NOSPACE alarm is raised.
    pub disk_reserve_bytes: u64,
    /// When history is compacted without being asked.
    pub auto_compaction: AutoCompaction,
    /// Between two scrubs, which read everything that is stored.
    pub scrub_interval: Duration,
    /// How often it is looked for a compaction after which one is made; none for none.
    pub scrub_after_compaction: Option<Duration>,
    /// Bytes that a scrub reads in a second at most.
    pub scrub_bytes_per_s: u64,
    /// Memory for pages of the state file, in bytes.
    pub cache_bytes: usize,
    /// Between two beats of raft's clock.
    pub heartbeat: Duration,
    /// Without a leader for so long, a member stands for election.
    pub election: Duration,
    /// Between two looks for leases that have ended.
    pub lease_scan: Duration,
    /// Leases that are revoked at one look.
    pub lease_revokes_max: usize,
    /// Between two notes of what is left of long leases.
    pub lease_checkpoint: Duration,
    /// Streams of the whole state at once.
    pub exports_max: usize,
    /// Such a stream is cut off when its reader takes nothing for so long.
    pub export_stall: Duration,
    /// A moment that was streamed is held for so long after its last stream, to be gone on with.
    pub export_idle: Duration,
    /// Bytes of large replies that wait for their readers.
    pub unsent_bytes_max: usize,
    /// Ranges that are streamed at once.
    pub range_streams_max: usize,
    /// Who reads the state of a moment for longer is cut off: what compactions made superfluous is kept for them.
    pub moment_age_max: Duration,
    /// Memory of the newest batches, which watchers read.
    pub hub_bytes_max: usize,
    /// How many of them there are.
    pub hub_batches_max: usize,
    /// Streams of watches.
    pub watch_streams_max: usize,
    /// Watches on one stream.
    pub watchers_max: usize,
    /// Between two notes to a watcher that wants to hear now and then how far it has come.
    pub watch_progress: Duration,
    /// What takes longer to be applied, or to be read, is told.
    pub slow_apply: Duration,
    /// A session ends when its token was not used for so long.
    pub session_ttl: Duration,
    /// What somebody who shows a password is given.
    pub tokens: Tokens,
    /// Rounds of bcrypt for new passwords, as the power of two.
    pub bcrypt_cost: u32,
}

impl Default for Tuning {
    fn default() -> Self {
        Tuning {
            request_bytes_max: 1_572_864,
            txn_operations_max: 128,
            quota_bytes: Some(QUOTA_BYTES),
            queue_max: 5000,
            queue_bytes_max: 512 << 20,
            entry_bytes_max: 1 << 20,
            unflushed_bytes_max: 256 << 20,
            flush_bytes: 16 << 20,
            flush_interval: Duration::from_millis(500),
            segment_bytes: 64 << 20,
            disk_reserve_bytes: 256 << 20,
            auto_compaction: AutoCompaction::Off,
            scrub_interval: SCRUB_INTERVAL,
            scrub_after_compaction: None,
            scrub_bytes_per_s: 32 << 20,
            cache_bytes: 64 << 20,
            heartbeat: Duration::from_millis(100),
            election: Duration::from_secs(1),
            lease_scan: Duration::from_millis(500),
            lease_revokes_max: 500,
            lease_checkpoint: Duration::from_secs(300),
            exports_max: 8,
            export_stall: Duration::from_secs(60),
            export_idle: Duration::from_secs(120),
            unsent_bytes_max: 256 << 20,
            range_streams_max: 256,
            moment_age_max: Duration::from_hours(4),
            hub_bytes_max: 64 << 20,
            hub_batches_max: 16 << 10,
            watch_streams_max: 50_000,
            watchers_max: 100_000,
            watch_progress: Duration::from_secs(600),
            slow_apply: Duration::from_millis(100),
            session_ttl: Duration::from_secs(300),
            tokens: Tokens::Simple,
            bcrypt_cost: 10,
        }
    }
}

impl Tuning {
    /// The shortest lease, in seconds: one that outlives an election. etcd's rule.
    pub fn lease_ttl_min_s(&self) -> i64 {
        let ticks = self.election.as_millis().div_ceil(self.heartbeat.as_millis().max(1));
        let millis = (3 * ticks).div_ceil(2) * self.heartbeat.as_millis();
        i64::try_from(millis.div_ceil(1000)).unwrap_or(i64::MAX)
    }

    /// After so long a request is given up.
    pub fn request_timeout(&self) -> Duration {
        Duration::from_secs(5) + 2 * self.election
    }
}
