//! The state's file on a disk that may be full.
//!
//! The engine takes the first error of its file for the last: from then on it neither writes nor reads. That a disk is full says
//! nothing against the file, and passes. So whoever writes waits for room before the engine is asked at all, and while they
//! wait, everybody reads. Should the disk become full while the engine writes, that write waits here, below the engine, and is
//! tried again: the engine sees a write that took long, and nothing has to be opened again. (It holds locks then that readers
//! may want: that is why this is not the way for every lack of room.)
//!
//! Invariants:
//! - Only a lack of room is waited for. Whatever else fails, fails; so does a sync, after which nobody knows what is on the
//!   disk.
//! - Only who writes for a member that serves waits, and no longer than the member lives. What is made, copied or closed fails at
//!   once; so does what the engine writes while it reads, which nothing depends on.

use std::cell::Cell;
use std::io::{Error, ErrorKind};
use std::ops::Bound;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use redb::{BackendError, StorageBackend};

use crate::base::file::free_bytes;

/// As the engine has it: most calls of a file fail as the system's do.
type Result<T, E = Error> = std::result::Result<T, E>;

/// Between two tries to write where there was no room.
const RETRY_INTERVAL: Duration = Duration::from_millis(100);

thread_local! {
    /// This thread writes for a member.
    static WRITES: Cell<bool> = const { Cell::new(false) };
}

/// What a backend and its files know of the room on their disk.
#[derive(Debug, Default)]
pub(super) struct Room {
    /// Writes wait for it.
    pub(super) is_awaited: AtomicBool,
    /// One does.
    pub(super) is_lacking: AtomicBool,
}

impl Room {
    /// Does something whose writes may wait.
    pub(super) fn during<T>(write: impl FnOnce() -> T) -> T {
        WRITES.set(true);
        let done = write();
        WRITES.set(false);
        done
    }

    /// Waits until the disk of a folder has so many bytes. One that does not say is taken to have them.
    pub(super) fn wait_for(&self, folder: &Path, bytes: u64) {
        self.wait_while(|| free_bytes(folder).is_ok_and(|free| free < bytes));
    }

    /// Waits as long as something lacks room, and that is waited for at all.
    fn wait_while(&self, mut lacks: impl FnMut() -> bool) {
        let mut has_waited = false;
        while self.is_awaited.load(Ordering::Relaxed) && lacks() {
            if !has_waited {
                has_waited = true;
                self.is_lacking.store(true, Ordering::Relaxed);
                tracing::error!(
                    "there is no room on the disk of the state file: what is to be written waits until there is"
                );
            }
            thread::sleep(RETRY_INTERVAL);
        }
        if has_waited {
            self.is_lacking.store(false, Ordering::Relaxed);
            tracing::info!("the state file waits for room on its disk no longer");
        }
    }
}

/// A file whose writes may wait for room.
#[derive(Debug)]
pub(super) struct Patient<F> {
    file: F,
    room: Arc<Room>,
}

impl<F> Patient<F> {
    pub(super) fn new(file: F, room: &Arc<Room>) -> Self {
        Patient { file, room: Arc::clone(room) }
    }

    /// Does something that may take room, again and again while there is none.
    fn with_room(&self, attempt: impl Fn() -> Result<()>) -> Result<()> {
        let lacks = |done: &Result<()>| {
            let full = |error: &Error| matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded);
            WRITES.get() && done.as_ref().is_err_and(full)
        };
        let mut done = attempt();
        if lacks(&done) {
            self.room.wait_while(|| {
                done = attempt();
                lacks(&done)
            });
        }
        done
    }
}

impl<F: StorageBackend> StorageBackend for Patient<F> {
    fn len(&self) -> Result<u64> {
        self.file.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Result<()> {
        self.file.read(offset, out)
    }

    fn set_len(&self, len: u64) -> Result<()> {
        self.with_room(|| self.file.set_len(len))
    }

    fn sync_data(&self) -> Result<()> {
        self.file.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<()> {
        self.with_room(|| self.file.write(offset, data))
    }

    fn close(&self) -> Result<()> {
        self.file.close()
    }

    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.file.try_lock_range(start, end)
    }

    fn try_lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.file.try_lock_shared_range(start, end)
    }

    fn lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.file.lock_range(start, end)
    }

    fn lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.file.lock_shared_range(start, end)
    }

    fn unlock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.file.unlock_range(start, end)
    }

    fn query_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.file.query_lock_range(start, end)
    }
}

#[cfg(test)]
mod tests {
    use std::fs::OpenOptions;
    use std::path::Path;

    use redb::backends::FileBackend;

    use super::*;
    use crate::base::error::Kind;
    use crate::base::revision::Rev;
    use crate::store::backend::{Backend, Brief, Engine, Revision, Stored, Witness};

    /// A file on a disk that is full at times.
    #[derive(Debug)]
    struct Tight {
        file: FileBackend,
        is_full: Arc<AtomicBool>,
    }

    impl StorageBackend for Tight {
        fn len(&self) -> Result<u64> {
            self.file.len()
        }

        fn read(&self, offset: u64, out: &mut [u8]) -> Result<()> {
            self.file.read(offset, out)
        }

        fn set_len(&self, len: u64) -> Result<()> {
            self.file.set_len(len)
        }

        fn sync_data(&self) -> Result<()> {
            self.file.sync_data()
        }

        fn write(&self, offset: u64, data: &[u8]) -> Result<()> {
            match self.is_full.load(Ordering::SeqCst) {
                true => Err(Error::from(ErrorKind::StorageFull)),
                false => self.file.write(offset, data),
            }
        }
    }

    const CACHE_BYTES: usize = 1 << 20;

    fn on(path: &Path) -> (Backend, Arc<AtomicBool>) {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path).unwrap();
        let (room, is_full) = (Arc::default(), Arc::<AtomicBool>::default());
        let file = Tight { file: FileBackend::new(file).unwrap(), is_full: Arc::clone(&is_full) };
        let engine = Engine::over(path, CACHE_BYTES, file, &room).unwrap();
        (Backend::on(path, CACHE_BYTES, engine, room), is_full)
    }

    fn write(backend: &Backend, main: i64) -> crate::base::error::Result<()> {
        let message = vec![7; 10_000];
        let stored = Stored { rev: Rev::of(main), tombstone: false, message: &message };
        let brief = Brief { key: b"key", created: 1, number: main, lease: 0 };
        backend.write(&mut std::iter::once(Revision { stored, brief }), &[], &[])
    }

    fn there(backend: &Backend) -> Vec<i64> {
        let mut mains = vec![];
        let mut each = |stored: Stored<'_>| {
            mains.push(stored.rev.main);
            Ok(())
        };
        backend.scan(Rev::default(), Rev::of(i64::MAX), Witness::Index, &mut each).unwrap();
        mains
    }

    fn until(holds: impl Fn() -> bool) {
        while !holds() {
            thread::yield_now();
        }
    }

    #[test]
    fn a_write_that_finds_no_room_is_tried_again_and_loses_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let (backend, is_full) = on(&dir.path().join("db"));
        for main in 1..100 {
            write(&backend, main).unwrap();
        }
        backend.await_room(true);
        assert!(!backend.lacks_room());
        is_full.store(true, Ordering::SeqCst);
        thread::scope(|scope| {
            let writing = scope.spawn(|| write(&backend, 100));
            until(|| backend.lacks_room());
            assert!(!writing.is_finished());
            is_full.store(false, Ordering::SeqCst);
            writing.join().unwrap().unwrap();
        });
        assert!(!backend.lacks_room());
        write(&backend, 101).unwrap();
        assert_eq!(there(&backend), (1..102).collect::<Vec<_>>());
    }

    #[test]
    fn who_is_about_to_write_waits_for_room_and_not_for_ever() {
        let dir = tempfile::tempdir().unwrap();
        let (backend, _) = on(&dir.path().join("db"));
        write(&backend, 1).unwrap();
        // Nobody waits who was not told to, and nobody waits for what is there.
        backend.await_room_for(u64::MAX);
        backend.await_room(true);
        backend.await_room_for(1);
        thread::scope(|scope| {
            let waiting = scope.spawn(|| backend.await_room_for(u64::MAX));
            until(|| backend.lacks_room());
            assert_eq!(there(&backend), [1]);
            assert!(!waiting.is_finished());
            backend.await_room(false);
            waiting.join().unwrap();
        });
        assert!(!backend.lacks_room());
    }

    #[test]
    fn nobody_waits_for_ever_and_what_was_there_is_there() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("db");
        let (backend, is_full) = on(&path);
        write(&backend, 1).unwrap();
        backend.await_room(true);
        is_full.store(true, Ordering::SeqCst);
        let error = thread::scope(|scope| {
            let writing = scope.spawn(|| write(&backend, 2));
            until(|| backend.lacks_room());
            backend.await_room(false);
            writing.join().unwrap().unwrap_err()
        });
        assert_eq!(error.kind(), Kind::Full, "{error:?}");
        assert!(!backend.lacks_room());
        drop(backend);
        let again = Backend::open(&path, 1 << 20).unwrap();
        assert_eq!(there(&again), [1]);
        write(&again, 2).unwrap();
        assert_eq!(there(&again), [1, 2]);
    }
}
