//! Parse, run, map the error to an exit code; nothing else.

use std::process::ExitCode;

/// Requests are made of small pieces of memory that one worker takes and another gives back.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    holdfast::cli::main()
}
