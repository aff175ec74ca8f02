//! From arguments to exit code: logging, the runtime, signals, one command.

use std::ffi::OsString;
use std::num::NonZero;
use std::process::ExitCode;
use std::thread;

use clap::{CommandFactory, Parser};
use clap_complete::generate;
use tokio::signal::unix::{SignalKind, signal};

use crate::agent::report::Facts;
use crate::base::clock::{Clock, Stopwatch, seconds};
use crate::base::durable::keep_private;
use crate::base::error::{Error, IoContext, Kind, Result};
use crate::base::progress::Progress;
use crate::base::stop::{Stop, blocking, file_limit_signal};
use crate::cli::args::{Cli, Command, Keys, Policy, Snapshot};
use crate::cli::output::{Output, fail_json, say};
use crate::cli::tell::Told;
use crate::cli::{
    backup, bench, copy, dev, drill, forecast, import, inside, member, points, policy, progress, restore, retention,
    serve, snapshot, telemetry,
};

/// What every command is given.
#[derive(Clone, Debug)]
pub(crate) struct Context {
    pub(crate) output: Output,
    pub(crate) stop: Stop,
    pub(crate) clock: Clock,
    pub(crate) progress: Progress,
}

/// How a command ended that did not fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// Everything is as it should be.
    Well,
    /// Done, but something does not verify: exit code 3.
    Damaged,
    /// Done, but a warning stands: exit code 5.
    Warned,
}

impl Ended {
    /// The exit code.
    pub(crate) const fn code(self) -> u8 {
        match self {
            Ended::Well => 0,
            Ended::Damaged => 3,
            Ended::Warned => 5,
        }
    }
}

pub(crate) fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are results; a usage error is not.
            if error.use_stderr() && wants_json(std::env::args_os().skip(1)) {
                fail_json(&misunderstood(&error));
            } else {
                // Nobody is left to tell when printing fails.
                let _ = error.print();
            }
            return ExitCode::from(if error.use_stderr() { Kind::Usage.exit_code() } else { 0 });
        }
    };
    // Whatever is written holds a cluster's secrets, except manual pages, which are for everybody.
    if !matches!(cli.command, Command::Man { .. }) {
        keep_private();
    }
    // A member says itself how it logs.
    if !matches!(cli.command, Command::Serve(_)) {
        telemetry::start(&cli.global);
    }
    let output = Output::new(&cli.global);
    let context = Context { output, stop: Stop::new(), clock: clock(), progress: Progress::new() };
    match run(cli.command, &context) {
        Ok(ended) => ExitCode::from(ended.code()),
        Err(error) => {
            context.output.fail(&error);
            ExitCode::from(error.kind().exit_code())
        }
    }
}

/// The variable that sets this program's clock off, in seconds. Only tests of wrong clocks set it.
const CLOCK_VARIABLE: &str = "HOLDFAST_TEST_CLOCK_S";

fn clock() -> Clock {
    let off = hook(CLOCK_VARIABLE).and_then(|text| text.parse().ok());
    off.map_or(Clock::System, |off| Clock::Off(seconds(off)))
}

/// What the tests want of a run. Nobody else may want anything: a release does not look.
#[expect(clippy::disallowed_methods, reason = "the environment is read in cli")]
pub(crate) fn hook(variable: &str) -> Option<String> {
    if cfg!(debug_assertions) { std::env::var(variable).ok() } else { None }
}

/// Whether JSON was asked for on a command line that could not be understood.
fn wants_json(args: impl Iterator<Item = OsString>) -> bool {
    // What stands behind `--` is no flag.
    let args: Vec<OsString> = args.take_while(|arg| arg != "--").collect();
    let apart = args.windows(2).any(|pair| (pair[0] == "-o" || pair[0] == "--output") && pair[1] == "json");
    apart || args.iter().any(|arg| arg == "-ojson" || arg == "-o=json" || arg == "--output=json")
}

/// clap's complaint as one of ours: its first paragraph says what is wrong, a tip what may have been meant.
fn misunderstood(error: &clap::Error) -> Error {
    let text = error.render().to_string();
    let mut message = String::new();
    let mut tips = vec![];
    for line in text.lines().map(str::trim) {
        if let Some(tip) = line.strip_prefix("tip: ") {
            tips.push(tip);
        } else if line.starts_with("Usage: ") || line.starts_with("For more information") {
            break;
        } else if !line.is_empty() {
            message.push_str(if message.is_empty() { "" } else { " " });
            message.push_str(line.strip_prefix("error: ").unwrap_or(line));
        }
    }
    tips.push("`holdfast COMMAND --help` lists what a command takes");
    Error::new(Kind::Usage, message).hint(tips.join("; "))
}

fn run(command: Command, context: &Context) -> Result<Ended> {
    // One more than processors: a member's core waits for the disk on one of them.
    let workers = thread::available_parallelism().map_or(1, NonZero::get) + 1;
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime.worker_threads(workers).enable_all().build().during(|| "start".to_owned())?;
    let ended = runtime.block_on(async {
        listen(context)?;
        dispatch(command, context).await
    });
    // Work that was told to stop has left nothing half-done; what it still does need not be waited for.
    runtime.shutdown_background();
    ended
}

async fn dispatch(command: Command, context: &Context) -> Result<Ended> {
    match command {
        Command::Serve(flags) => serve::serve(flags, context).await,
        Command::Dev(args) => dev::dev(args, context).await,
        Command::Backup(args) => {
            let (told, mut facts) = (Told::begin("backup", Some(&args.policy), &args.metrics), Facts::default());
            let result = backup::backup(args, &mut facts, context).await;
            told.end(result, facts, context).await
        }
        Command::List(args) => points::list(args, context).await,
        Command::Show(args) => points::show(args, context).await,
        Command::Verify(args) => {
            let policy = args.repository.policy.as_deref();
            let (told, mut facts) = (Told::begin("verify", policy, &args.metrics), Facts::default());
            let result = points::verify(args, &mut facts, context).await;
            told.end(result, facts, context).await
        }
        Command::Check(args) => points::check(args, context).await,
        Command::Prune(args) if !args.dry_run => {
            let told = Told::begin("prune", Some(&args.policy), &args.metrics);
            let result = retention::prune(args, context).await;
            told.end(result, Facts::default(), context).await
        }
        Command::Prune(args) => retention::prune(args, context).await,
        Command::Undelete(args) => retention::undelete(args, context).await,
        Command::Hold(args) => retention::hold(args, context).await,
        Command::Release(args) => retention::release(args, context).await,
        Command::Restore(args) => restore::restore(args, context).await,
        Command::Export(args) => restore::export(args, context).await,
        Command::Import(args) => import::import(args, context).await,
        Command::Drill(args) if !args.dry_run => {
            let (told, mut facts) = (Told::begin("drill", Some(&args.policy), &args.metrics), Facts::default());
            let result = drill::drill(args, &mut facts, context).await;
            told.end(result, facts, context).await
        }
        Command::Drill(args) => drill::drill(args, &mut Facts::default(), context).await,
        Command::Gateway(args) => Err(serve::absent("gateway", &args)),
        Command::GrpcProxy(args) => Err(serve::absent("grpc-proxy", &args)),
        Command::Leash(args) => Err(drill::leash(&args)),
        Command::Copy(args) => copy::copy(args, context).await,
        Command::Snapshot(Snapshot::Save(args)) => snapshot::save(args, context).await,
        Command::Snapshot(Snapshot::Status(args)) => snapshot::status(args, context).await,
        Command::Snapshot(Snapshot::Restore(args)) => member::from_snapshot(*args, context).await,
        Command::Hashkv(args) => snapshot::hashkv(args, context).await,
        Command::Keys(Keys::Ls(args)) => inside::ls(args, context).await,
        Command::Keys(Keys::Get(args)) => inside::get(args, context).await,
        Command::Diff(args) => inside::diff(args, context).await,
        Command::Policy(Policy::Check { file }) => policy::check(&file, context),
        Command::Policy(Policy::Plan(args)) => forecast::plan(&args, context),
        Command::Bench(args) => bench::bench(args, context).await,
        Command::Completions { shell } => {
            let mut script = vec![];
            generate(shell, &mut Cli::command(), "holdfast", &mut script);
            context.output.write_bytes(&script)?;
            Ok(Ended::Well)
        }
        Command::Man { folder } => {
            let hint = |error: Error| error.or_hint("give a folder, there or not yet, that you may write to");
            std::fs::create_dir_all(&folder).during(|| format!("create {}", folder.display())).map_err(hint)?;
            clap_mangen::generate_to(Cli::command(), &folder)
                .during(|| format!("write manual pages into {}", folder.display()))
                .map_err(hint)?;
            context.output.remark(&format!("manual pages are in {}", folder.display()));
            Ok(Ended::Well)
        }
    }
}

/// SIGINT and SIGTERM stop the work, a second one at once; SIGUSR1 tells how far it has come. A file that may not grow is
/// an error of the write that meets the limit, not the end of the process.
fn listen(context: &Context) -> Result<()> {
    let listen = |kind| signal(kind).during(|| "listen for signals".to_owned());
    let mut interrupt = listen(SignalKind::interrupt())?;
    let mut terminate = listen(SignalKind::terminate())?;
    let mut look = listen(SignalKind::user_defined1())?;
    let mut file_limit = listen(SignalKind::from_raw(file_limit_signal()))?;
    let context = context.clone();
    tokio::spawn(async move {
        let watch = Stopwatch::start();
        loop {
            tokio::select! {
                _ = look.recv() => say(&progress::line(&context.progress.look(), watch.elapsed())),
                _ = file_limit.recv() => {}
                _ = interrupt.recv() => stop(&context, "interrupt"),
                _ = terminate.recv() => stop(&context, "terminated"),
            }
        }
    });
    Ok(())
}

/// Asks the work to stop; asked again, does not wait for it.
#[expect(clippy::exit, reason = "whoever asks twice wants the process gone")]
fn stop(context: &Context, signal: &str) {
    if context.stop.is_stopped() {
        std::process::exit(Kind::Interrupted.exit_code().into());
    }
    tracing::info!(signal, "received signal; shutting down");
    context.stop.stop();
}

/// Asks for confirmation on a terminal. Where nobody can answer, `--yes` must have been given.
pub(crate) async fn confirm(question: &str, yes: bool, context: &Context) -> Result<()> {
    use std::io::{BufRead, IsTerminal};
    if yes {
        return Ok(());
    }
    let refuse = |message: &str| {
        Err(Error::new(Kind::Usage, message).hint("add --yes to go ahead, or --dry-run to see the plan only"))
    };
    if !std::io::stdin().is_terminal() {
        return refuse("this needs a confirmation, and there is no terminal to ask on");
    }
    say(&format!("{question} [y/N]"));
    let read = blocking(|| {
        let mut answer = String::new();
        std::io::stdin().lock().read_line(&mut answer).during(|| "read the answer".to_owned())?;
        Ok(answer)
    });
    let answer = context.stop.or(read).await?;
    if matches!(answer.trim(), "y" | "Y" | "yes") { Ok(()) } else { refuse("not confirmed; nothing was changed") }
}
