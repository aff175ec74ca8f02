//! Keeps a promise that `Drop` alone cannot: no child outlives this test binary, not even when it is killed.
//!
//! One shell per test binary reads the pids of living children from a pipe. When the binary ends, however it ends, the
//! kernel closes the pipe, and the shell kills what is still listed. It ignores the signals of a terminal so that it
//! survives the interrupt that ends the others.

use std::io::Write;
use std::process::{Child, Command, Stdio};
use std::sync::{LazyLock, Mutex};

const SCRIPT: &str = r#"
trap '' INT TERM HUP
alive=
while read -r change pid; do
  case $change in
    add) alive="$alive $pid " ;;
    del) alive="${alive%% $pid *} ${alive#* $pid }" ;;
  esac
done
for pid in $alive; do kill -9 "$pid"; done
"#;

static GUARD: LazyLock<Mutex<Child>> = LazyLock::new(|| {
    let mut shell = Command::new("sh");
    shell.args(["-c", SCRIPT]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    // Never waited for: it ends after us.
    Mutex::new(shell.spawn().expect("sh can be started"))
});

/// Kills `pid` when this test binary ends.
pub fn watch(pid: u32) {
    tell("add", pid);
}

/// The child was waited for: its pid may belong to somebody else from now on.
pub fn forget(pid: u32) {
    tell("del", pid);
}

fn tell(change: &str, pid: u32) {
    // A panic while holding the lock leaves a whole line written or none.
    let mut shell = GUARD.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let pipe = shell.stdin.as_mut().expect("piped");
    pipe.write_all(format!("{change} {pid}\n").as_bytes()).expect("the guard listens as long as we live");
}
