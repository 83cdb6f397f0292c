//! The binary `riverrun`: reads the command line, does what it says, ends with its exit code.

use std::process::ExitCode;

fn main() -> ExitCode {
    riverrun::cli::main()
}
