//! The task that scrubs: reads everything that the member holds, now and then, slowly, behind everybody's back.
//!
//! What a scrub is stands in `machine::scrub`. One is made each time a long interval is over, and, where that is wanted, after
//! a compaction. It reads so many bytes in a second at most, so that whoever reads and writes does not feel it.
//!
//! Where it finds damage this member is no longer to be believed: the alarm CORRUPT is agreed on, by which writes are refused
//! from then on, and the member ends with the damage as its reason.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use tokio::sync::mpsc::WeakUnboundedSender;
use tokio::time::{sleep, timeout};

use crate::api::etcdserverpb::alarm_request::AlarmAction;
use crate::api::etcdserverpb::{AlarmRequest, AlarmType};
use crate::base::clock::{Clock, Stopwatch};
use crate::base::error::{Error, Kind, Result};
use crate::base::stop::{Stop, blocking};
use crate::store::machine::command::Operation;
use crate::store::machine::scrub::{Scrubbed, scrub};
use crate::store::machine::state::State;
use crate::store::node::core::Event;
use crate::store::node::handle::Shared;

/// Bytes that are read before it is looked at how fast that was.
const STEP_BYTES: u64 = 1 << 20;
/// The member ends without its alarm when that is not agreed on for so long.
const ALARM_PATIENCE: Duration = Duration::from_secs(10);

/// Holds a scrub to a number of bytes in a second, and ends it when the member does.
struct Brake {
    bytes_per_s: Option<u64>,
    stop: Stop,
    started: Stopwatch,
    bytes: u64,
    looked_at: u64,
}

impl Brake {
    fn new(bytes_per_s: Option<u64>, stop: Stop) -> Self {
        Brake { bytes_per_s, stop, started: Stopwatch::start(), bytes: 0, looked_at: 0 }
    }

    /// So many bytes were read.
    fn read(&mut self, bytes: u64) -> Result<()> {
        self.bytes += bytes;
        if bytes > 0 && self.bytes - self.looked_at < STEP_BYTES {
            return Ok(());
        }
        self.looked_at = self.bytes;
        self.stop.check()?;
        if let Some(rate) = self.bytes_per_s {
            let due = Duration::from_secs_f64(self.bytes as f64 / rate.max(1) as f64);
            thread::sleep(due.saturating_sub(self.started.elapsed()).min(Duration::from_secs(1)));
        }
        Ok(())
    }
}

/// Reads everything that a state shows, as fast as it may.
pub(super) async fn scrub_state(state: Arc<State>, bytes_per_s: Option<u64>, stop: &Stop) -> Result<Scrubbed> {
    let mut brake = Brake::new(bytes_per_s, stop.clone());
    blocking(move || scrub(&state, &mut |bytes| brake.read(bytes))).await
}

/// What the task has.
pub(super) struct Scrubber {
    pub(super) shared: Arc<Shared>,
    pub(super) events: WeakUnboundedSender<Event>,
    pub(super) stop: Stop,
}

impl Scrubber {
    /// Scrubs until the member ends, or damage is found.
    pub(super) async fn run(self) {
        let tuning = &self.shared.tuning;
        let (interval, look) = (tuning.scrub_interval, tuning.scrub_after_compaction);
        let (mut since, mut compacted) = (Stopwatch::start(), self.shared.state().view.compact_revision());
        loop {
            let due = interval.saturating_sub(since.elapsed());
            tokio::select! {
                () = self.stop.stopped() => return,
                () = sleep(look.map_or(due, |look| look.min(due))) => {}
            }
            let state = self.shared.state();
            let compaction = state.view.compact_revision();
            let is_wanted = look.is_some() && compaction > compacted;
            if !is_wanted && since.elapsed() < interval {
                continue;
            }
            (since, compacted) = (Stopwatch::start(), compaction);
            match scrub_state(state, Some(tuning.scrub_bytes_per_s), &self.stop).await {
                Ok(scrubbed) => self.found_well(scrubbed, &since),
                Err(error) if error.kind() == Kind::Interrupted => return,
                Err(error) => return self.found_damaged(error).await,
            }
            since = Stopwatch::start();
        }
    }

    fn found_well(&self, scrubbed: Scrubbed, since: &Stopwatch) {
        let counters = &self.shared.counters;
        counters.scrubs.increment();
        counters.scrubbed_bytes.add(scrubbed.bytes);
        counters.scrubbed_at_ms.set(Clock::System.now().timestamp_millis().unsigned_abs());
        let Scrubbed { revisions, bytes } = scrubbed;
        tracing::info!(revisions, bytes, took = ?since.elapsed(), "everything that is stored was read and is well");
    }

    async fn found_damaged(&self, error: Error) {
        self.shared.counters.scrubs_failed.increment();
        tracing::error!("what is stored is damaged; raising the alarm CORRUPT and ending: {error}");
        let member_id = self.shared.member.member_id;
        let request =
            AlarmRequest { action: AlarmAction::Activate as i32, member_id, alarm: AlarmType::Corrupt as i32 };
        let Some(events) = self.events.upgrade() else { return };
        let mut applied = self.shared.applied();
        // Where it cannot be told, the member has ended.
        let _ = events.send(Event::Own(Operation::Alarm(request)));
        let is_raised = applied.wait_for(|_| self.shared.state().alarms.is_active(AlarmType::Corrupt));
        // Whatever comes of it, the member ends.
        let _ = timeout(ALARM_PATIENCE, is_raised).await;
        let _ = events.send(Event::Failed(error));
    }
}
