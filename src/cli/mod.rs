//! The operator's face: the only place that prints, the only one that knows the command line.
//!
//! Each command is a module with one function: it gathers options, calls the layer that does the work, and shows the
//! result as a table or as JSON (docs/cli.md is the contract). Exit codes: 0 done, 1 failed, 2 usage or configuration, 3
//! data is damaged or does not verify, 4 nothing suitable found, 5 done but a warning stands, 130 interrupted.

mod args;
mod backup;
mod bench;
mod copy;
mod dev;
mod drill;
mod forecast;
mod import;
mod inside;
mod listing;
mod member;
mod output;
mod points;
mod policy;
mod progress;
mod restore;
mod retention;
mod run;
mod serve;
mod snapshot;
mod target;
mod telemetry;
mod tell;

use std::process::ExitCode;

/// Parses the command line, runs the command, and returns the process's exit code.
pub fn main() -> ExitCode {
    run::main()
}
