//! Runs `tests/sql/*.slt` over the PostgreSQL wire: each file once straight through and once with the program killed
//! before every third statement and started with another number of workers; the expected rows are the same.
//!
//! The format is sqllogictest's: `statement ok`, `statement error PART`, `query [rowsort]` with the rows below `----`,
//! columns separated by tabs, NULL for null. `UPDATE_EXPECT=1` writes the rows that came.

use std::path::{Path, PathBuf};

use crate::support::clients::try_text_rows;
use crate::support::program::Program;
use crate::support::{Scratch, block_on};

struct Step {
    /// The `#` lines above it.
    comment: String,
    head: String,
    sql: String,
    rows: Vec<String>,
}

fn parse(text: &str) -> Vec<Step> {
    let blocks = text.split("\n\n").map(str::trim).filter(|b| !b.is_empty());
    blocks
        .map(|block| {
            let comment = block.lines().take_while(|l| l.starts_with('#')).map(|l| format!("{l}\n")).collect();
            let mut lines = block.lines().skip_while(|l| l.starts_with('#'));
            let head = lines.next().unwrap_or_default().to_owned();
            let (mut sql, mut rows, mut below) = (String::new(), Vec::new(), false);
            for line in lines {
                match (below, line) {
                    (false, "----") => below = true,
                    (false, _) => sql += &format!("{line}\n"),
                    (true, _) => rows.push(line.to_owned()),
                }
            }
            Step { comment, head, sql, rows }
        })
        .filter(|s| !s.head.is_empty())
        .collect()
}

fn ask(program: &Program, sql: &str) -> Result<Vec<String>, String> {
    block_on(async {
        let client = program.connect().await;
        let rows = try_text_rows(&client, sql).await.map_err(|e| match e.as_db_error() {
            Some(e) => format!("{}: {}", e.code().code(), e.message()),
            None => format!("{e:?}"),
        })?;
        let text = |row: Vec<Option<String>>| {
            row.into_iter().map(|v| v.unwrap_or("NULL".to_owned())).collect::<Vec<_>>().join("\t")
        };
        Ok(rows.into_iter().map(text).collect())
    })
}

/// Runs the file; kills before every `kill_every`th statement when that is not 0.
fn life(file: &Path, kill_every: usize) {
    let text = std::fs::read_to_string(file).expect("readable");
    let scratch = Scratch::new("slt");
    let data = scratch.path().join("data");
    let mut starts = 0;
    let mut start = || {
        starts += 1;
        Program::start_with(&data, &[("RIVERRUN_ENGINE__WORKERS", ["1", "3", "2"][starts % 3])])
    };
    let mut program = start();
    let mut written = String::new();
    for (n, step) in parse(&text).into_iter().enumerate() {
        if kill_every != 0 && n % kill_every == kill_every - 1 {
            program.kill();
            program = start();
        }
        let at = format!("{} step {n} (killed every {kill_every}): {}", file.display(), step.sql);
        let answer = ask(&program, &step.sql);
        written += &step.comment;
        let mut words = step.head.split_whitespace();
        match (words.next(), words.next()) {
            (Some("statement"), Some("ok")) => drop(answer.unwrap_or_else(|e| panic!("{at}{e}"))),
            (Some("statement"), Some("error")) => {
                let part = step.head.trim_start_matches("statement error").trim();
                let error = answer.expect_err(&at);
                assert!(error.contains(part), "{at}{error}");
            }
            (Some("query"), sort) => {
                let mut rows = answer.unwrap_or_else(|e| panic!("{at}{e}"));
                if sort == Some("rowsort") {
                    rows.sort();
                }
                if std::env::var_os("UPDATE_EXPECT").is_none() {
                    assert_eq!(rows, step.rows, "{at}");
                }
                written += &format!("{}\n{}----\n{}\n\n", step.head, step.sql, rows.join("\n"));
                continue;
            }
            _ => panic!("{at}unknown: {}", step.head),
        }
        written += &format!("{}\n{}\n", step.head, step.sql);
    }
    if std::env::var_os("UPDATE_EXPECT").is_some() && kill_every == 0 {
        std::fs::write(file, written).expect("writable");
    }
}

fn files() -> Vec<PathBuf> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/sql");
    let mut files: Vec<_> = std::fs::read_dir(folder).expect("tests/sql").flatten().map(|e| e.path()).collect();
    files.sort();
    assert!(!files.is_empty());
    files
}

#[test]
fn sql_files_straight_through() {
    files().iter().for_each(|f| life(f, 0));
}

#[test]
fn sql_files_with_kills_between_statements() {
    files().iter().for_each(|f| life(f, 3));
}

/// Each script in `examples/` runs as a user would run it, by the program's own client.
#[test]
fn the_examples_run() {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("examples");
    let mut ran = 0;
    for entry in std::fs::read_dir(folder)
        .expect("examples")
        .flatten()
        .filter(|e| e.path().extension().is_some_and(|x| x == "sql"))
    {
        let scratch = Scratch::new("example");
        let program = Program::start(&scratch.path().join("data"));
        let out = crate::support::clients::run(
            std::process::Command::new(crate::support::program::binary())
                .args(["sql", "--pg-addr", &program.postgres.to_string(), "-f"])
                .arg(entry.path()),
        );
        assert!(!out.stdout.is_empty(), "{} printed nothing", entry.path().display());
        ran += 1;
    }
    assert!(ran > 0, "no example ran");
}
