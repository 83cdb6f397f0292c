//! How much the tests do: all of it where the optimiser runs, less in a debug build.

use proptest::test_runner::Config;

/// Random cases of a property.
pub fn cases() -> Config {
    Config::with_cases(if cfg!(debug_assertions) { 40 } else { 256 })
}

/// How large "a large state" is in tests that count what an epoch touches.
pub fn rows_of_state() -> usize {
    if cfg!(debug_assertions) { 30_000 } else { 1_000_000 }
}
