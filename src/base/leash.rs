//! Programs on a leash: a child that cannot outlive whoever started it, not even a `kill -9`.
//!
//! Linux ends a process with its parent when the process asked for that itself. etcd does not ask; so it is started
//! through this program, which asks and then becomes etcd.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::Path;

use rustix::process::{Pid, Signal, getppid, set_parent_process_death_signal};

use crate::base::error::{Error, Kind, Result};

/// Becomes `program`, which ends when process `parent` does. Returns only when that failed.
pub fn become_program(parent: u32, program: &Path, args: &[OsString]) -> Error {
    if let Err(error) = tie(parent) {
        return error;
    }
    let error = std::process::Command::new(program).args(args).exec();
    Error::io(format!("start {}", program.display()), error).or_hint("check the program's path and its permissions")
}

fn tie(parent: u32) -> Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL))
        .map_err(|error| Error::io("ask to end with the parent process", error.into()).or_hint("run it on Linux"))?;
    // The parent may have ended before we asked.
    if getppid().map(Pid::as_raw_pid).and_then(|pid| u32::try_from(pid).ok()) == Some(parent) {
        return Ok(());
    }
    Err(Error::new(Kind::Interrupted, "the parent process is gone").hint("nothing was started; run the command again"))
}
