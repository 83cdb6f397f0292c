//! The program's facade: what `main` and the tests need of it.
