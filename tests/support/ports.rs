//! Ports on 127.0.0.1 that no other test holds.
//!
//! A port asked of the kernel and let go is anybody's until the server binds it. So a port is claimed by locking a file
//! named after it: the lock ends with its holder, also when that is killed. They are taken below the range that the
//! kernel hands to outgoing connections.

use std::fs::{self, File, OpenOptions};
use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU16, Ordering};

const FIRST: u16 = 21_000;
const COUNT: u16 = 10_000;

/// A port held until this value is dropped.
#[derive(Debug)]
pub struct Port {
    number: u16,
    _lock: File,
}

impl Port {
    /// A free port, held.
    pub fn claim() -> Port {
        static NEXT: AtomicU16 = AtomicU16::new(0);
        // Binaries that run at the same time begin at different places and rarely meet.
        let start = u16::try_from(std::process::id() % u32::from(COUNT)).unwrap().wrapping_mul(97);
        let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("ports");
        fs::create_dir_all(&folder).expect("the folder for tests can be written");
        for _ in 0..COUNT {
            let number = FIRST + start.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % COUNT;
            let path = folder.join(number.to_string());
            let lock = OpenOptions::new().create(true).truncate(false).write(true).open(&path).expect("a lock file");
            if lock.try_lock().is_ok() && TcpListener::bind(("127.0.0.1", number)).is_ok() {
                return Port { number, _lock: lock };
            }
        }
        panic!("no free port between {FIRST} and {}", FIRST + COUNT);
    }

    /// Its number.
    pub fn number(&self) -> u16 {
        self.number
    }

    /// `127.0.0.1:<number>`.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.number)
    }
}
