//! Durable steps, numbered: where a crash can fall between two of them.
//!
//! Whatever makes something durable announces itself before and after. In production nobody listens; the crash walk
//! listens and stops the run at each announcement in turn, which is how "killed at any step" is a test and not a hope.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::base::error::Result;

/// Which side of a durable step has been reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Edge {
    /// It has not happened yet.
    Before,
    /// It is durable.
    After,
}

/// A durable step of a run.
#[derive(Clone, Debug)]
pub struct Step {
    /// Counted from 1 in the order of starting.
    pub number: u32,
    /// What it does.
    pub name: &'static str,
    /// Which side of it.
    pub edge: Edge,
}

type Hook = dyn Fn(&Step) -> Result<()> + Send + Sync;

/// Announces durable steps to whoever listens. Clones share the count.
#[derive(Clone, Default)]
pub struct Steps {
    hook: Option<Arc<Hook>>,
    count: Arc<AtomicU32>,
}

impl Steps {
    /// Nobody listens.
    pub fn unheard() -> Self {
        Steps::default()
    }

    /// `hook` hears every step; an error from it ends the run there, as a crash would.
    pub fn heard_by(hook: impl Fn(&Step) -> Result<()> + Send + Sync + 'static) -> Self {
        Steps { hook: Some(Arc::new(hook)), count: Arc::default() }
    }

    /// Runs one durable step.
    pub async fn step<T>(&self, name: &'static str, work: impl Future<Output = Result<T>>) -> Result<T> {
        let number = self.count.fetch_add(1, Ordering::Relaxed) + 1;
        self.announce(&Step { number, name, edge: Edge::Before })?;
        let value = work.await?;
        self.announce(&Step { number, name, edge: Edge::After })?;
        Ok(value)
    }

    /// The same for work that waits for the disk itself.
    pub fn during<T>(&self, name: &'static str, work: impl FnOnce() -> Result<T>) -> Result<T> {
        let number = self.count.fetch_add(1, Ordering::Relaxed) + 1;
        self.announce(&Step { number, name, edge: Edge::Before })?;
        let value = work()?;
        self.announce(&Step { number, name, edge: Edge::After })?;
        Ok(value)
    }

    fn announce(&self, step: &Step) -> Result<()> {
        self.hook.as_ref().map_or(Ok(()), |hook| hook(step))
    }
}

impl fmt::Debug for Steps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Steps").field("count", &self.count).finish_non_exhaustive()
    }
}
