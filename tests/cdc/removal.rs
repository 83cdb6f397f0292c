//! A source can be dropped whatever has become of its tables and of its database, and tables can be left out of it.

use crate::support::clients::psql_output;
use crate::support::postgres::Postgres;
use crate::support::program::Program;
use crate::support::{Scratch, wait_for};

fn create(program: &Program, server: &Postgres, more: &str) {
    program.execute(&format!("CREATE SOURCE shop WITH (connector = 'postgres', url = '{}', {more})", server.url()));
}

fn wait_for_row(program: &Program, table: &str) {
    let sql = format!("SELECT count(*) FROM shop.public.{table} WHERE id = 1");
    wait_for("the snapshot", 60, || (program.rows(&sql) == [[Some("1".to_owned())]]).then_some(()));
}

fn left(server: &Postgres) -> Vec<Vec<Option<String>>> {
    server.rows("SELECT slot_name::text FROM pg_replication_slots UNION ALL SELECT pubname FROM pg_publication")
}

#[test]
fn a_source_can_be_dropped_whatever_has_become_of_its_database() {
    let server = Postgres::start();
    let scratch = Scratch::new("removal");
    let data = scratch.path().join("data");
    let program = Program::start(&data);
    server.execute("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1)");
    create(&program, &server, "tables = 'public.t'");
    wait_for_row(&program, "t");
    program.stop();

    // The table that the options name is gone: the source fails at the start.
    server.execute("DROP TABLE t");
    let program = Program::start(&data);
    wait_for("the source to fail", 60, || {
        let sources = format!("{:?}", program.rows("SHOW SOURCES"));
        (sources.contains("failed") && sources.contains("public.t")).then_some(())
    });
    assert_eq!(left(&server).len(), 2);
    program.execute("DROP SOURCE shop");
    assert!(left(&server).is_empty(), "{:?}", left(&server));
    assert!(program.rows("SHOW SOURCES").is_empty());

    // The server is gone.
    server.execute("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1)");
    create(&program, &server, "tables = 'public.t'");
    wait_for_row(&program, "t");
    server.down("immediate");
    let out = psql_output(program.postgres, "riverrun", &["-c", "DROP SOURCE shop"]);
    let said = String::from_utf8(out.stderr).expect("utf-8");
    for part in ["WARNING", "shop", "riverrun_shop", "pg_drop_replication_slot", "DROP PUBLICATION"] {
        assert!(said.contains(part), "{said}\nlacks {part:?}");
    }
    assert!(program.rows("SHOW SOURCES").is_empty());
    server.up();
    assert_eq!(left(&server).len(), 2, "what the warning names is still there");

    // What was left does not stand in the way of a new source of that name, nor does a restart bring the old one back.
    program.stop();
    let program = Program::start(&data);
    assert!(program.rows("SHOW SOURCES").is_empty());
    server.execute("INSERT INTO t VALUES (2)");
    create(&program, &server, "tables = 'public.t'");
    wait_for("the new snapshot", 60, || (program.rows("SELECT id FROM shop.public.t").len() == 2).then_some(()));
    program.execute("DROP SOURCE shop");
    assert!(left(&server).is_empty(), "{:?}", left(&server));
}

#[test]
fn tables_are_left_out_and_partitions_are_not_warned_of() {
    let server = Postgres::start();
    let scratch = Scratch::new("exclude");
    let data = scratch.path().join("data");
    let program = Program::start(&data);
    server.execute(
        "CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1);
         CREATE TABLE log (line text); CREATE TABLE tmp_1 (line text); CREATE TABLE stray (id int PRIMARY KEY);
         CREATE TABLE whole (id int PRIMARY KEY) PARTITION BY RANGE (id);
         CREATE TABLE part1 PARTITION OF whole FOR VALUES FROM (0) TO (10); INSERT INTO whole VALUES (1);",
    );
    create(&program, &server, "tables = 'public.*', exclude = 'public.log, public.tmp_*, public.stray'");
    wait_for_row(&program, "t");
    let published = server.rows("SELECT tablename::text FROM pg_publication_tables ORDER BY 1");
    assert_eq!(published, [["t"], ["whole"]].map(|row| row.map(|name| Some(name.to_owned())).to_vec()));
    server.execute("UPDATE log SET line = 'x'; DELETE FROM tmp_1");

    // The stream announces a partition; its rows come in the name of the whole.
    server.execute("CREATE TABLE part2 PARTITION OF whole FOR VALUES FROM (10) TO (20)");
    server.execute("INSERT INTO whole VALUES (2), (12)");
    wait_for("rows of partitions", 60, || (program.rows("SELECT id FROM shop.public.whole").len() == 3).then_some(()));
    assert!(!Program::said(&data).contains("not captured"), "{}", Program::said(&data));
    // Somebody adds a table to the publication: that is said.
    server.execute("ALTER PUBLICATION riverrun_shop ADD TABLE stray; INSERT INTO stray VALUES (1), (2)");
    wait_for("a warning", 60, || Program::said(&data).contains("public.stray").then_some(()));
    assert_eq!(Program::said(&data).matches("not captured").count(), 1);
}
