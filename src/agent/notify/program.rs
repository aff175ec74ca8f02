//! A hook: a program, started as it stands, ended when it takes too long.
//!
//! It runs in a process group of its own, so that what it started ends with it. What it says is logged, up to a limit;
//! the rest is read and dropped, so that a talkative program is not held up.

use std::ffi::OsString;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::Command;

use crate::base::error::{Error, IoContext, Kind, Result};
use crate::base::stop::end_group;
use crate::base::units;

/// How long a hook may take.
pub const HOOK_TIME: Duration = Duration::from_secs(60);
/// What is kept of its output and of its errors, in bytes each.
pub const CAPTURED_BYTES_MAX: usize = 16 * 1024;

/// Ends the whole group, whatever ends the wait for it.
struct Group(Option<u32>);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(leader) = self.0 {
            end_group(leader);
        }
    }
}

/// Runs the hook `name` to its end.
pub(super) async fn run(
    name: &str,
    command: &[String],
    environment: &[(OsString, OsString)],
    limit: Duration,
) -> Result<()> {
    let (program, args) = command.split_first().expect("the policy refuses an empty command");
    let during = || format!("run the hook {name} ({program})");
    let mut child = Command::new(program)
        .args(args)
        .env_clear()
        .envs(environment.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .during(during)
        .map_err(|error| error.hint("hooks are started without a shell: give the program's whole path, executable"))?;
    let mut group = Group(child.id());
    let (out, err) = (child.stdout.take().expect("piped"), child.stderr.take().expect("piped"));
    let ended = async { tokio::join!(child.wait(), captured(out), captured(err)) };
    let Ok((status, out, err)) = tokio::time::timeout(limit, ended).await else {
        let what = format!("{}: still running after {}, and ended", during(), units::duration(limit));
        return Err(Error::new(Kind::Failed, what)
            .hint("let the hook hand long work to another service, and close its output before it returns"));
    };
    // The leader has been waited for: its id may be somebody else's by now.
    group.0 = None;
    let said = [out, err].concat();
    let said = String::from_utf8_lossy(&said);
    let status = status.during(during)?;
    if status.success() {
        tracing::info!(hook = name, said = said.trim_end(), "a hook has run");
        return Ok(());
    }
    tracing::warn!(hook = name, %status, said = said.trim_end(), "a hook has failed");
    let how = status.code().map_or_else(|| "a signal ended it".to_owned(), |code| format!("exit code {code}"));
    Err(Error::new(Kind::Failed, format!("{}: {how}", during())).hint("what it said stands in the log above"))
}

/// Reads to the end, and keeps the beginning.
async fn captured(mut from: impl AsyncRead + Unpin) -> Vec<u8> {
    let (mut kept, mut piece) = (vec![], [0; 4096]);
    while let Ok(n @ 1..) = from.read(&mut piece).await {
        kept.extend_from_slice(&piece[..n.min(CAPTURED_BYTES_MAX - kept.len())]);
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::clock::Stopwatch;

    fn shell(script: &str) -> Vec<String> {
        ["/bin/sh", "-c", script].map(str::to_owned).to_vec()
    }

    #[tokio::test]
    async fn a_hanging_hook_is_ended_with_what_it_started() {
        let dir = tempfile::tempdir().unwrap();
        let pid = dir.path().join("pid");
        let script = format!("sleep 600 & echo $! > {}; wait", pid.display());
        let watch = Stopwatch::start();
        let error = run("on_success", &shell(&script), &[], Duration::from_millis(500)).await.unwrap_err();
        assert!(error.chain().contains("still running after 500 ms"), "{}", error.chain());
        assert!(watch.elapsed() < Duration::from_secs(30));
        let pid = std::fs::read_to_string(pid).unwrap();
        let status = format!("/proc/{}/stat", pid.trim());
        // Killed is not yet gone: a zombie waits for whoever adopted it.
        let gone = || std::fs::read_to_string(&status).map_or(true, |text| text.contains(") Z "));
        while !gone() {
            assert!(watch.elapsed() < Duration::from_secs(30), "{status} is still there");
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn a_talkative_hook_is_not_held_up() {
        let script = format!("head -c {} /dev/zero; exit 3", 64 * CAPTURED_BYTES_MAX);
        let error = run("on_failure", &shell(&script), &[], Duration::from_secs(30)).await.unwrap_err();
        assert!(error.chain().ends_with("exit code 3"), "{}", error.chain());
        let kept = captured(&vec![7; 3 * CAPTURED_BYTES_MAX][..]).await;
        assert_eq!(kept, vec![7; CAPTURED_BYTES_MAX]);
    }
}
