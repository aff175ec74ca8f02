//! Logs to standard error: warnings by default, more with -v, anything with HOLDFAST_LOG. A member logs as etcd's flags say.

use std::fs::OpenOptions;
use std::io::IsTerminal;
use std::os::unix::fs::OpenOptionsExt;
use std::str::FromStr;
use std::sync::Mutex;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::writer::BoxMakeWriter;

use crate::base::error::{IoContext, Kind, Result};
use crate::cli::args::Global;
use crate::store::options::{LogOutput, Logs};

/// The variable that holds a log filter, as `tracing` reads them: `info`, `holdfast::client=debug`.
const FILTER_VARIABLE: &str = "HOLDFAST_LOG";

/// Starts logging. A filter that cannot be read falls back to the flags.
pub(crate) fn start(global: &Global) {
    let level = match (global.quiet, global.verbose) {
        (true, _) => LevelFilter::ERROR,
        (false, 0) => LevelFilter::WARN,
        (false, 1) => LevelFilter::INFO,
        (false, 2) => LevelFilter::DEBUG,
        (false, _) => LevelFilter::TRACE,
    };
    let filter =
        EnvFilter::builder().with_env_var(FILTER_VARIABLE).with_default_directive(level.into()).from_env_lossy();
    let started = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        // A journal is no terminal.
        .with_ansi(std::io::stderr().is_terminal())
        .try_init();
    // Only a second start can fail, and the first one's settings stand then.
    drop(started);
}

/// Starts the logging of a member.
pub(crate) fn start_member(logs: &Logs) -> Result<()> {
    let level = LevelFilter::from_str(logs.level).unwrap_or(LevelFilter::INFO);
    let filter =
        EnvFilter::builder().with_env_var(FILTER_VARIABLE).with_default_directive(level.into()).from_env_lossy();
    let (writer, ansi) = match &logs.output {
        LogOutput::Stderr => (BoxMakeWriter::new(std::io::stderr), std::io::stderr().is_terminal()),
        LogOutput::Stdout => (BoxMakeWriter::new(std::io::stdout), std::io::stdout().is_terminal()),
        LogOutput::File(path) => {
            let file = OpenOptions::new().create(true).append(true).mode(0o600).open(path);
            let file = file.during(|| format!("open the log file {}", path.display()));
            let hint = "name a file in --log-outputs that can be written, or leave the flag out";
            (BoxMakeWriter::new(Mutex::new(file.map_err(|error| error.kind_of(Kind::Usage).or_hint(hint))?)), false)
        }
    };
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer);
    let started = match logs.json {
        true => builder.json().flatten_event(true).with_ansi(false).try_init(),
        false => builder.with_ansi(ansi).try_init(),
    };
    // Only a second start can fail, and the first one's settings stand then.
    drop(started);
    Ok(())
}
