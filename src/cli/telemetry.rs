//! Logs to standard error: warnings by default, more with -v, anything with HOLDFAST_LOG.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

use crate::cli::args::Global;

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
