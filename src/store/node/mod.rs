//! The running member: joins consensus, machine and time.
//!
//! What a server asks of it goes through a `Handle`, which is free to copy.

use std::fmt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use crate::api::holdfast::v1::Command;
use crate::base::clock::Clock;
use crate::base::error::{Error, Result};
use crate::store::backend::Backend;
use crate::store::lease::clock::{Deadlines, Millis};
use crate::store::machine::command::Operation;
use crate::store::machine::flush::{Position, flush};
use crate::store::machine::refusal::Refusal;
use crate::store::machine::state::State;
use crate::store::machine::{Machine, Reply};
use crate::store::options::Tuning;

/// Who this member is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Member {
    /// Its cluster.
    pub cluster_id: u64,
    /// Itself.
    pub member_id: u64,
    /// What it is called.
    pub name: String,
    /// Where other members reach it.
    pub peer_urls: Vec<String>,
    /// Where clients reach it.
    pub client_urls: Vec<String>,
}

/// Why a request was not carried out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// For a reason that every member has.
    Refused(Refusal),
    /// More wait already than may wait.
    TooManyRequests,
    /// It is larger than requests may be.
    TooLarge,
    /// It was not agreed on in time. It may still be.
    TimedOut,
    /// There is no leader to agree with.
    NoLeader,
    /// The member is stopping, or stopped because its own state cannot be trusted.
    Stopped,
}

/// How a member stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// Who leads; 0 for nobody.
    pub leader: u64,
    /// Raft's term.
    pub term: u64,
    /// The last entry that was agreed on.
    pub committed: u64,
    /// The last entry that was applied.
    pub applied: u64,
    /// Bytes of the state file.
    pub file_bytes: u64,
    /// Bytes of it that hold something.
    pub used_bytes: u64,
}

/// A running member, as its server sees it. Copies are the same member.
#[derive(Clone)]
pub struct Handle {
    shared: Arc<Shared>,
}

struct Shared {
    member: Member,
    tuning: Tuning,
    backend: Arc<Backend>,
    machine: Mutex<Machine>,
    deadlines: Mutex<Deadlines>,
    started: Instant,
    id: AtomicU64,
}

impl Handle {
    /// STAND-IN: applies at once, without a log. The real node replaces the insides of this file.
    pub fn start(folder: &Path, member: Member, tuning: Tuning) -> Result<Handle> {
        let path = folder.join("db");
        let backend = Arc::new(if path.exists() {
            Backend::open(&path, tuning.cache_bytes)?
        } else {
            Backend::create(&path, tuning.cache_bytes)?
        });
        let machine = Mutex::new(Machine::open(&backend)?);
        let shared = Shared {
            member,
            tuning,
            backend,
            machine,
            deadlines: Mutex::default(),
            started: Instant::now(),
            id: AtomicU64::new(1),
        };
        Ok(Handle { shared: Arc::new(shared) })
    }

    /// Who it is.
    pub fn member(&self) -> &Member {
        &self.shared.member
    }

    /// What it was told.
    pub fn tuning(&self) -> &Tuning {
        &self.shared.tuning
    }

    /// How it stands.
    pub fn status(&self) -> Status {
        let position = self.state().position;
        let file_bytes = self.shared.backend.file_bytes().unwrap_or_default();
        Status {
            leader: self.shared.member.member_id,
            term: position.term,
            committed: position.index,
            applied: position.index,
            file_bytes,
            used_bytes: file_bytes,
        }
    }

    /// Raft's term, for the header of every reply.
    pub fn term(&self) -> u64 {
        self.state().position.term
    }

    /// What is stored here cannot be read: this member must not go on, because what it answers could be wrong.
    pub fn poison(&self, error: Error) {
        drop(error);
    }

    /// The state as it is here, which may be behind what others know.
    pub fn state(&self) -> Arc<State> {
        self.machine().state()
    }

    /// The state with everything in it that was acknowledged before this call.
    pub async fn linearized(&self) -> Result<Arc<State>, Fault> {
        Ok(self.state())
    }

    /// Has an operation agreed on and applied; what came of it. Requests were checked before (`machine::check`).
    pub async fn propose(&self, operation: Operation) -> Result<Reply, Fault> {
        let shared = &self.shared;
        let id = shared.id.fetch_add(1, Ordering::Relaxed);
        let command = Command { id, time_ms: Clock::System.now().timestamp_millis(), operation: Some(operation) };
        let mut machine = self.machine();
        let position = machine.position();
        let position = Position { index: position.index + 1, term: 1 };
        let applied = machine.apply(position, vec![command]).map_err(|_| Fault::Stopped)?;
        flush(&shared.backend, machine.recent(), &[applied.cut]).map_err(|_| Fault::Stopped)?;
        let (_, outcome) = applied.replies.into_iter().next().ok_or(Fault::Stopped)?;
        outcome.map_err(Fault::Refused)
    }

    /// Starts a lease's time again; how many seconds it has now, 0 when there is no such lease.
    pub async fn keep_alive(&self, id: i64) -> Result<i64, Fault> {
        Ok(self.state().lessor.get(id).map_or(0, |lease| lease.ttl_s))
    }

    /// Milliseconds that are left of each lease, the one that ends first at the front.
    pub async fn leases(&self) -> Result<Vec<(i64, Millis)>, Fault> {
        Ok(self.state().lessor.all().map(|(id, lease)| (id, lease.ttl_s.unsigned_abs() * 1000)).collect())
    }

    /// Milliseconds that are left of a lease; none when there is no such lease.
    pub async fn time_left(&self, id: i64) -> Result<Option<Millis>, Fault> {
        Ok(self.state().lessor.get(id).map(|lease| lease.ttl_s.unsigned_abs() * 1000))
    }

    /// Returns when nothing from before the compaction at `revision` is stored any more.
    pub async fn removed(&self, _revision: i64) -> Result<(), Fault> {
        Ok(())
    }

    /// Writes the state file anew, without the room that deletions left in it.
    pub async fn defragment(&self) -> Result<()> {
        Ok(())
    }

    /// Stops the member: what was acknowledged is durable already.
    pub async fn stop(&self) {}

    fn machine(&self) -> std::sync::MutexGuard<'_, Machine> {
        self.shared.machine.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handle").field("member", &self.shared.member).finish_non_exhaustive()
    }
}
