//! Buffers as large as an object, used again: allocated by one thread and freed by another, over and over, they would stay
//! with the allocator and double the memory in use.
//!
//! Invariants:
//! - What waits was in use at once before: there are never more buffers than the most that anyone needed at a time, nor
//!   more than the limit.
//! - A buffer that is taken is empty.

use bytes::Bytes;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::vault::manifest::OBJECT_RAW_BYTES_MAX;

/// Room for any object of several records: a buffer that has it is never moved, and what is not written to costs nothing.
pub(crate) const BUFFER_BYTES_MIN: usize = (32 << 20) + (64 << 10);

/// Buffers that were used and wait for the next object.
#[derive(Debug)]
pub(crate) struct Buffers {
    waiting: Mutex<Vec<Vec<u8>>>,
    count_max: usize,
}

impl Buffers {
    /// Keeps so many at most.
    pub(crate) fn new(count_max: usize) -> Arc<Self> {
        Arc::new(Buffers { waiting: Mutex::default(), count_max })
    }

    /// An empty buffer.
    pub(crate) fn take(&self) -> Vec<u8> {
        self.waiting().pop().unwrap_or_default()
    }

    /// Gives a buffer back.
    pub(crate) fn give(&self, mut buffer: Vec<u8>) {
        buffer.clear();
        // What one huge record needed is not kept.
        if (1..=2 * OBJECT_RAW_BYTES_MAX).contains(&(buffer.capacity() as u64)) {
            let mut waiting = self.waiting();
            if waiting.len() < self.count_max {
                waiting.push(buffer);
            }
        }
    }

    /// What a buffer holds, for others: it comes back when the last of them has let go.
    pub(crate) fn lend(self: &Arc<Self>, buffer: Vec<u8>) -> Bytes {
        Bytes::from_owner(Lent { buffer, home: Arc::clone(self) })
    }

    fn waiting(&self) -> MutexGuard<'_, Vec<Vec<u8>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Lent {
    buffer: Vec<u8>,
    home: Arc<Buffers>,
}

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        &self.buffer
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        self.home.give(std::mem::take(&mut self.buffer));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_that_was_lent_comes_back_empty_and_few_wait() {
        let buffers = Buffers::new(2);
        let mut buffer = buffers.take();
        buffer.extend_from_slice(b"an object");
        let place = buffer.as_ptr();
        let lent = buffers.lend(buffer);
        let part = lent.slice(3..);
        drop(lent);
        assert!(buffers.waiting().is_empty(), "somebody still reads it");
        assert_eq!(part, b"object"[..]);
        drop(part);
        let again = buffers.take();
        assert!(again.is_empty() && again.as_ptr() == place, "the same memory");

        for capacity in [0, 10, 20, 30, usize::try_from(2 * OBJECT_RAW_BYTES_MAX).unwrap() + 1] {
            buffers.give(Vec::with_capacity(capacity));
        }
        let kept: Vec<usize> = buffers.waiting().iter().map(Vec::capacity).collect();
        assert_eq!(kept, [10, 20], "neither empty ones, nor more than two, nor huge ones");
    }
}
