//! Parse, run, map the error to an exit code; nothing else.

use std::process::ExitCode;

use mimalloc::MiMalloc;

/// Why this one: Cargo.toml.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    holdfast::cli::main()
}
