//! The program with the log's deliberate faults compiled in, for the tests that must find them; `RIVERRUN_MUTANT` names one.
//! Nothing builds it but `tests/run --power`: it needs the feature `mutants`.

use std::process::ExitCode;

fn main() -> ExitCode {
    riverrun::cli::main()
}
