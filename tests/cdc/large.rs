//! Rows as large as databases hold them: they pass from the table to the view's topic; what is too large is named.

use crate::support::postgres::Postgres;
use crate::support::program::Program;
use crate::support::{Scratch, wait_for};

const MIB: usize = 1 << 20;

fn lengths(program: &Program) -> Vec<Vec<Option<String>>> {
    program.rows("SELECT id, length(body) FROM copy ORDER BY id")
}

fn expect(rows: &[(i32, usize)]) -> Vec<Vec<Option<String>>> {
    rows.iter().map(|(id, length)| vec![Some(id.to_string()), Some(length.to_string())]).collect()
}

#[test]
fn a_large_row_passes_and_one_that_is_too_large_is_named() {
    let server = Postgres::start();
    let scratch = Scratch::new("large");
    let data = scratch.path().join("data");
    let program = Program::start(&data);
    server.execute(&format!(
        "CREATE TABLE t (id int PRIMARY KEY, body text); INSERT INTO t VALUES (1, repeat('x', {}))",
        3 * MIB
    ));
    program.execute(&format!(
        "CREATE SOURCE shop WITH (connector = 'postgres', url = '{}', tables = 'public.*')",
        server.url()
    ));
    program.execute("CREATE MATERIALIZED VIEW copy AS SELECT id, body FROM shop.public.t");
    let rows = |program: &Program, rows: &[(i32, usize)]| {
        let rows = expect(rows);
        wait_for("the rows", 120, || (lengths(program) == rows).then_some(()));
    };
    rows(&program, &[(1, 3 * MIB)]);
    server.execute(&format!("INSERT INTO t VALUES (2, repeat('y', {}))", 24 * MIB));
    rows(&program, &[(1, 3 * MIB), (2, 24 * MIB)]);
    // They are read back, too.
    program.stop();
    let program = Program::start(&data);
    rows(&program, &[(1, 3 * MIB), (2, 24 * MIB)]);

    server.execute(&format!("INSERT INTO t VALUES (3, repeat('z', {}))", 63 * MIB));
    let detail = wait_for("the source to fail", 120, || {
        let row = program.rows("SHOW SOURCES").pop().expect("a source");
        (row[2].as_deref() == Some("failed")).then(|| row[6].clone().expect("a detail"))
    });
    for part in ["public.t", "{\"id\":3}", "over the limit of 66060288 bytes", "shorten the row", "exclude"] {
        assert!(detail.contains(part), "{detail} lacks {part}");
    }
    assert_eq!(lengths(&program), expect(&[(1, 3 * MIB), (2, 24 * MIB)]));
}
