//! The binary `riverrun`: reads the command line, does what it says, ends with its exit code.

use std::process::ExitCode;

use clap::Parser as _;

fn main() -> ExitCode {
    let arguments = riverrun::cli::Arguments::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: no threads to run on: {error}");
            return ExitCode::FAILURE;
        }
    };
    let code = runtime.block_on(riverrun::cli::run(arguments));
    // What still runs has had its time in the clean stop; it ends with the process, and nothing is freed before.
    std::mem::forget(runtime);
    code
}
