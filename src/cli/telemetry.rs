//! Logs to standard error: warnings by default, more with -v, anything with HOLDFAST_LOG. A member logs as etcd's flags say.

use std::io::IsTerminal;
use std::str::FromStr;
use std::sync::Mutex;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::writer::{BoxMakeWriter, MakeWriterExt as _};

use crate::base::clock::Clock;
use crate::base::error::{IoContext, Kind, Result};
use crate::cli::args::Global;
use crate::cli::serve::log_file::LogFile;
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
pub(crate) fn start_member(logs: &Logs, clock: Clock) -> Result<()> {
    let level = LevelFilter::from_str(logs.level).unwrap_or(LevelFilter::INFO);
    let filter =
        EnvFilter::builder().with_env_var(FILTER_VARIABLE).with_default_directive(level.into()).from_env_lossy();
    // Colours are for a terminal alone.
    let ansi = match logs.outputs[..] {
        [LogOutput::Stderr] => std::io::stderr().is_terminal(),
        [LogOutput::Stdout] => std::io::stdout().is_terminal(),
        _ => false,
    };
    let mut writers = logs.outputs.iter().map(|output| writer(output, clock)).collect::<Result<Vec<_>>>()?.into_iter();
    let first = writers.next().unwrap_or_else(|| BoxMakeWriter::new(std::io::stderr));
    let writer = writers.fold(first, |all, writer| BoxMakeWriter::new(all.and(writer)));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer);
    let started = match logs.json {
        true => builder.json().flatten_event(true).with_ansi(false).try_init(),
        false => builder.with_ansi(ansi).try_init(),
    };
    // Only a second start can fail, and the first one's settings stand then.
    drop(started);
    Ok(())
}

fn writer(output: &LogOutput, clock: Clock) -> Result<BoxMakeWriter> {
    match output {
        LogOutput::Stderr => Ok(BoxMakeWriter::new(std::io::stderr)),
        LogOutput::Stdout => Ok(BoxMakeWriter::new(std::io::stdout)),
        LogOutput::File(path, rotation) => {
            let file = LogFile::open(path, *rotation, clock).during(|| format!("open the log file {}", path.display()));
            let hint = "name a file in --log-outputs that can be written, or leave the flag out";
            Ok(BoxMakeWriter::new(Mutex::new(file.map_err(|error| error.kind_of(Kind::Usage).or_hint(hint))?)))
        }
    }
}
