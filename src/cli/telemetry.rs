//! Logs to standard error: warnings by default, more with -v, anything with HOLDFAST_LOG. A member logs as etcd's flags say.

use std::fmt::{self, Write as _};
use std::io::IsTerminal;
use std::str::FromStr;
use std::sync::Mutex;

use serde_json::Value;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::writer::{BoxMakeWriter, MakeWriterExt as _};

use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use crate::base::clock::Clock;
use crate::base::error::{IoContext, Kind, Result};
use crate::cli::args::Global;
use crate::cli::serve::log_file::LogFile;
use crate::store::options::{LogOutput, Logs};

/// The variable that holds a log filter, as `tracing` reads them: `info`, `holdfast::client=debug`.
const FILTER_VARIABLE: &str = "HOLDFAST_LOG";

/// Where lines come from that are the library's.
const RAFT: &str = "raft";

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
        true => builder.with_ansi(false).event_format(Zap).try_init(),
        false => builder.with_ansi(ansi).try_init(),
    };
    // Only a second start can fail, and the first one's settings stand then.
    drop(started);
    Ok(())
}

/// Lines of JSON with the keys that etcd's logs have, in that order: `level`, `ts`, `logger` of what is not the member's own,
/// `caller`, `msg`, and then what the line says beside.
struct Zap;

impl<S, N> FormatEvent<S, N> for Zap
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, _: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let about = event.metadata();
        let level = match *about.level() {
            Level::ERROR => "error",
            Level::WARN => "warn",
            Level::INFO => "info",
            Level::DEBUG | Level::TRACE => "debug",
        };
        let ts = Clock::System.now().format("%Y-%m-%dT%H:%M:%S%.3fZ");
        write!(writer, r#"{{"level":"{level}","ts":"{ts}""#)?;
        if about.target() == RAFT {
            write!(writer, r#","logger":"{RAFT}""#)?;
        }
        let file = about.file().unwrap_or_default().trim_start_matches("src/");
        let caller = format!("{file}:{}", about.line().unwrap_or_default());
        let mut said = Said::default();
        event.record(&mut said);
        let [caller, message] = [&caller, &said.message].map(|text| Value::from(text.as_str()));
        writeln!(writer, r#","caller":{caller},"msg":{message}{}}}"#, said.fields)
    }
}

/// What a line says: its message, and its fields as JSON, each behind a comma.
#[derive(Default)]
struct Said {
    message: String,
    fields: String,
}

impl Said {
    fn field(&mut self, field: &Field, value: impl Into<Value>) {
        let _ = write!(self.fields, ",{}:{}", Value::from(field.name()), value.into());
    }
}

impl Visit for Said {
    fn record_i64(&mut self, field: &Field, value: i64) {
        self.field(field, value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.field(field, value);
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.field(field, value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.field(field, value);
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.field(field, value);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        match field.name() {
            "message" => self.message = format!("{value:?}"),
            _ => self.field(field, format!("{value:?}")),
        }
    }
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
