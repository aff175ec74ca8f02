//! Programs: run to their end with a limit on time, or kept running and killed when their owner is dropped.

use rustix::process::{Pid, Signal, kill_process};
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use super::guard;

const LIMIT: Duration = Duration::from_mins(2);
const POLL: Duration = Duration::from_millis(2);
/// How much of a log is shown when a test fails.
const TAIL_BYTES: usize = 3_000;

/// The built binary with these arguments, run to its end.
pub fn holdfast<S: AsRef<OsStr>>(args: &[S]) -> Outcome {
    Run::holdfast().args(args).run()
}

/// A program to run, with a limit on its time.
pub struct Run {
    command: Command,
    stdin: Vec<u8>,
    limit: Duration,
}

impl Run {
    /// `program`, without arguments.
    pub fn new(program: impl AsRef<OsStr>) -> Run {
        Run { command: Command::new(program), stdin: vec![], limit: LIMIT }
    }

    /// The built binary, with nothing of the tester's environment that could reach it.
    pub fn holdfast() -> Run {
        let mut run = Run::new(env!("CARGO_BIN_EXE_holdfast"));
        for (name, _) in std::env::vars_os() {
            let name = name.to_string_lossy().into_owned();
            if ["AWS_", "GOOGLE_", "HOLDFAST_", "ETCD"].iter().any(|prefix| name.starts_with(prefix)) {
                run.command.env_remove(name);
            }
        }
        run
    }

    /// Adds arguments.
    pub fn args<S: AsRef<OsStr>>(mut self, args: &[S]) -> Run {
        self.command.args(args);
        self
    }

    /// Sets a variable of its environment.
    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Run {
        self.command.env(name, value);
        self
    }

    /// Sets its working directory.
    pub fn dir(mut self, dir: impl AsRef<Path>) -> Run {
        self.command.current_dir(dir);
        self
    }

    /// What it reads from standard input; nothing unless said.
    pub fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Run {
        self.stdin = bytes.into();
        self
    }

    /// How long it may take; two minutes unless said.
    pub fn limit(mut self, limit: Duration) -> Run {
        self.limit = limit;
        self
    }

    /// Runs it to its end; panics when it cannot be started or takes too long.
    pub fn run(self) -> Outcome {
        let Run { mut command, stdin, limit } = self;
        let shown = show(&command);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let started = Instant::now();
        let mut child = Watched::spawn(&mut command);
        let mut input = child.0.stdin.take().unwrap();
        // A program that does not read to the end is free not to.
        let writer = thread::spawn(move || drop(input.write_all(&stdin)));
        let stdout = read_all(child.0.stdout.take().unwrap());
        let stderr = read_all(child.0.stderr.take().unwrap());
        let (status, peak_rss_bytes) = child.wait(limit);
        let elapsed = started.elapsed();
        let Some(status) = status else {
            drop(child);
            let said = String::from_utf8_lossy(&stderr.join().unwrap()).into_owned();
            panic!("`{shown}` was still running after {limit:?}; it said:\n{}", tail(&said));
        };
        writer.join().unwrap();
        let (stdout_bytes, stderr) = (stdout.join().unwrap(), stderr.join().unwrap());
        Outcome { command: shown, status, stdout_bytes, stderr: text(&stderr), elapsed, peak_rss_bytes }
    }

    /// Starts it and leaves it running; what it says goes to the file `log`.
    pub fn start(self, log: impl Into<PathBuf>) -> Process {
        let Run { mut command, .. } = self;
        let log = log.into();
        let file = File::options().create(true).append(true).open(&log).expect("a log file can be written");
        command.stdin(Stdio::null()).stdout(file.try_clone().unwrap()).stderr(file);
        let shown = show(&command);
        Process { child: Watched::spawn(&mut command), shown, log }
    }
}

fn show(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ")
}

fn read_all(mut pipe: impl Read + Send + 'static) -> thread::JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut bytes = vec![];
        pipe.read_to_end(&mut bytes).expect("a pipe can be read");
        bytes
    })
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn tail(text: &str) -> &str {
    let mut start = text.len().saturating_sub(TAIL_BYTES);
    while !text.is_char_boundary(start) {
        start += 1;
    }
    &text[start..]
}

/// How a program ended and what it said.
#[derive(Debug)]
pub struct Outcome {
    command: String,
    status: ExitStatus,
    /// Everything it wrote to standard output.
    pub stdout_bytes: Vec<u8>,
    /// Everything it wrote to standard error.
    pub stderr: String,
    /// How long it ran.
    pub elapsed: Duration,
    /// The most memory it held, as the kernel counted it a few milliseconds before the end.
    pub peak_rss_bytes: u64,
}

impl Outcome {
    /// The exit code; -1 when a signal ended it.
    pub fn code(&self) -> i32 {
        self.status.code().unwrap_or(-1)
    }

    /// Standard output as text.
    pub fn stdout(&self) -> String {
        text(&self.stdout_bytes)
    }

    /// Standard output as JSON.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.stdout_bytes).unwrap_or_else(|error| panic!("no JSON ({error}) from {self}"))
    }

    /// Itself; panics, with everything it said, unless it exited with 0.
    #[track_caller]
    pub fn success(self) -> Outcome {
        self.exits(0)
    }

    /// Itself; panics, with everything it said, unless it exited with `code`.
    #[track_caller]
    pub fn exits(self, code: i32) -> Outcome {
        assert!(self.code() == code, "wanted exit code {code} from {self}");
        self
    }
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (stdout, stderr) = (self.stdout(), tail(&self.stderr));
        write!(f, "`{}` ({}):\n--- stdout\n{}\n--- stderr\n{stderr}", self.command, self.status, tail(&stdout))
    }
}

/// A program that keeps running until it is stopped, killed or dropped.
#[derive(Debug)]
pub struct Process {
    child: Watched,
    shown: String,
    log: PathBuf,
}

impl Process {
    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.0.id()
    }

    /// How it ended, if it did.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.0.try_wait().expect("our own child")
    }

    /// Ends it at once, as a power cut would.
    pub fn kill(&mut self) {
        self.child.end();
    }

    /// Asks it to end, and waits; panics when it does not within `limit`.
    pub fn terminate(&mut self, limit: Duration) -> ExitStatus {
        self.signal(Signal::TERM);
        let (status, _) = self.child.wait(limit);
        status.unwrap_or_else(|| panic!("`{}` did not end within {limit:?} of SIGTERM", self.shown))
    }

    /// Stops it in its tracks: its connections stay open and nobody answers.
    pub fn pause(&self) {
        self.signal(Signal::STOP);
    }

    /// Lets it go on.
    pub fn resume(&self) {
        self.signal(Signal::CONT);
    }

    /// Sends any signal.
    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_child(&self.child.0);
        kill_process(pid, signal).expect("our own child");
    }

    /// The last of what it said.
    pub fn said(&self) -> String {
        tail(&text(&fs::read(&self.log).unwrap_or_default())).to_owned()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.child.end();
        if thread::panicking() {
            eprintln!("--- the last of {}, from `{}`\n{}", self.log.display(), self.shown, self.said());
        }
    }
}

/// A child that the guard knows, killed and waited for when dropped.
#[derive(Debug)]
struct Watched(Child);

impl Watched {
    fn spawn(command: &mut Command) -> Watched {
        let child = command.spawn().unwrap_or_else(|error| panic!("start `{}`: {error}", show(command)));
        guard::watch(child.id());
        Watched(child)
    }

    /// Waits for its end at most `limit`; the status, and the most memory it was seen to hold.
    fn wait(&mut self, limit: Duration) -> (Option<ExitStatus>, u64) {
        let deadline = Instant::now() + limit;
        let mut peak = 0;
        loop {
            peak = peak.max(peak_rss_bytes(self.0.id()).unwrap_or(0));
            match self.0.try_wait().expect("our own child") {
                Some(status) => return (Some(status), peak),
                None if Instant::now() >= deadline => return (None, peak),
                None => thread::sleep(POLL),
            }
        }
    }

    fn end(&mut self) {
        // Neither fails unless it ended before, which is what is wanted.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.end();
        guard::forget(self.0.id());
    }
}

/// The high-water mark of resident memory, as the kernel keeps it.
fn peak_rss_bytes(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let kib = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?.trim().strip_suffix(" kB")?;
    kib.parse::<u64>().ok().map(|kib| kib * 1024)
}

/// Asks `ready` until it says yes; panics with `what` after `limit`.
#[track_caller]
pub fn wait_until(what: &str, limit: Duration, mut ready: impl FnMut() -> bool) {
    let deadline = Instant::now() + limit;
    while !ready() {
        assert!(Instant::now() < deadline, "waited {limit:?} in vain until {what}");
        thread::sleep(Duration::from_millis(10));
    }
}
