//! Statements in, what was understood (or the error with its caret) out.

use super::*;

fn show(text: &str) -> String {
    match parse(text) {
        Ok(all) => all.iter().map(|p| describe(&p.statement)).collect::<Vec<_>>().join(" | "),
        Err(e) => format!(
            "{} {} @{}{}",
            e.code,
            e.message,
            e.position.map_or("-".into(), |p| p.to_string()),
            e.hint.map_or(String::new(), |h| format!(" ({h})"))
        ),
    }
}

fn describe(statement: &Statement) -> String {
    let exists = |yes: bool| if yes { "?" } else { "" };
    match statement {
        Statement::CreateSource(s) => format!("source{} {} {:?}", exists(s.if_not_exists), s.name, s.options.0),
        Statement::CreateTable(t) => {
            let columns: Vec<String> = t
                .columns
                .iter()
                .map(|c| format!("{} {}{}", c.name, c.sql_type, if c.not_null { "!" } else { "" }))
                .collect();
            format!("table {} ({}) key {:?} {:?}", t.name, columns.join(", "), t.primary_key, t.options.0)
        }
        Statement::CreateView(v) => {
            format!("view{} {} {:?} {:?} as {}", exists(v.if_not_exists), v.name, v.columns, v.options.0, v.query.text)
        }
        Statement::CreateSink(s) => format!("sink {} from {} {:?}", s.name, s.from, s.options.0),
        Statement::Insert(i) => format!("insert {} {:?} {}", i.table, i.columns, i.query.text),
        Statement::Drop(d) => {
            let names: Vec<String> = d.names.iter().map(ToString::to_string).collect();
            format!("drop{} {:?} {}", exists(d.if_exists), d.kind, names.join(","))
        }
        Statement::Query(q) => format!("query {}", q.text),
        Statement::Explain(p) => format!("explain {}", describe(&p.statement)),
        other => format!("{other:?}"),
    }
}

#[track_caller]
fn check(text: &str, expect: &str) {
    assert_eq!(show(text), expect, "{text}");
}

#[test]
fn declarations() {
    check(
        "CREATE SOURCE shop WITH (connector = 'postgres', database.hostname = 'h', port = 5432)",
        r#"source shop {"connector": "postgres", "database.hostname": "h", "port": "5432"}"#,
    );
    check(
        "create table if not exists Clicks (user_id BIGINT NOT NULL, \"Url\" text, PRIMARY KEY (user_id)) WITH (format = json)",
        r#"table clicks (user_id BIGINT!, Url TEXT) key ["user_id"] {"format": "json"}"#,
    );
    check(
        "CREATE TABLE t (id int primary key, v numeric(10,2));",
        r#"table t (id INT, v NUMERIC(10,2)) key ["id"] {}"#,
    );
    check("CREATE TABLE t WITH (topic = 'x')", r#"table t () key [] {"topic": "x"}"#);
    check(
        "CREATE MATERIALIZED VIEW IF NOT EXISTS v (a, b) WITH (key = (a, b)) AS SELECT 1, 2 FROM t ;",
        r#"view? v ["a", "b"] {"key": "a,b"} as SELECT 1, 2 FROM t"#,
    );
    check("CREATE SINK s FROM v WITH (connector = 'topic')", r#"sink s from v {"connector": "topic"}"#);
}

#[test]
fn several_statements() {
    check(
        ";SELECT 1;; INSERT INTO shop.public.t (a, b) VALUES (1, 'x;y'); DROP VIEW IF EXISTS a, b RESTRICT;",
        r#"query SELECT 1 | insert shop.public.t ["a", "b"] VALUES (1, 'x;y') | drop? View a,b"#,
    );
    check("insert into t (select 1)", "insert t [] (select 1)");
    check("insert into t values (1)", "insert t [] values (1)");
    check("", "");
    check("-- nothing", "");
}

#[test]
fn session() {
    check(
        "SHOW materialized views; show time zone; SHOW server_version",
        "Show(Views) | Show(Setting(\"timezone\")) | Show(Setting(\"server_version\"))",
    );
    check(
        "SET search_path TO a, 'b'; SET LOCAL x.y = -1; RESET ALL; SET TIME ZONE 'UTC'",
        "Set(Setting { name: \"search_path\", value: Some(\"a, b\"), local: false }) | Set(Setting { name: \"x.y\", value: Some(\"-1\"), local: true }) | Set(ResetAll) | Set(Setting { name: \"timezone\", value: Some(\"UTC\"), local: false })",
    );
    check(
        "begin isolation level read committed, read write; commit and no chain; start transaction read only not deferrable; rollback work; end",
        "Begin(Modes { read_only: Some(false) }) | Commit | Begin(Modes { read_only: Some(true) }) | Rollback | Commit",
    );
    check(
        "set session characteristics as transaction read only; set transaction isolation level read uncommitted",
        "Set(Characteristics(Modes { read_only: Some(true) })) | Set(Transaction(Modes { read_only: None }))",
    );
    check(
        "begin isolation level serializable",
        "0A000 ISOLATION LEVEL SERIALIZABLE is not supported @7 (use READ COMMITTED: each SELECT reads all its relations at one epoch)",
    );
    check("begin quickly", "42601 syntax error at or near \"quickly\" @7");
    check("commit and chain", "0A000 AND CHAIN is not supported @8 (begin the next transaction with BEGIN)");
    check(
        "set transaction read only; set session time zone utc",
        "Set(Transaction(Modes { read_only: Some(true) })) | Set(Setting { name: \"timezone\", value: Some(\"utc\"), local: false })",
    );
    check(
        "DISCARD ALL; DEALLOCATE ALL; DEALLOCATE PREPARE s1",
        "Discard | Deallocate(None) | Deallocate(Some(\"s1\"))",
    );
    check(
        "EXPLAIN SELECT 1; EXPLAIN CREATE MATERIALIZED VIEW v AS SELECT 1",
        "explain query SELECT 1 | explain view v [] {} as SELECT 1",
    );
}

#[test]
fn refusals_and_errors_name_their_place() {
    check("SELEC 1", "42601 syntax error at or near \"SELEC\" @1");
    check("SELECT 1;\n SELECT (", "42601 syntax error at end of input @-");
    check("SELECT 1 FROM t WHERE )", "42601 syntax error at or near \")\" @23");
    check(
        "UPDATE t SET a = 1",
        "0A000 UPDATE is not supported @1 (insert a row with the same primary key, or change the row in the source database)",
    );
    check(
        "select 1; SUBSCRIBE v",
        "0A000 SUBSCRIBE is not supported @11 (read the view's topic with any Kafka client, or poll it with SELECT)",
    );
    check(
        "CREATE TABLE t (at timestamp, WATERMARK FOR at AS at)",
        "0A000 WATERMARK is not supported @31 (leave the WATERMARK clause out: rows are taken in the order of the log)",
    );
    check("CREATE TABLE t (a int, a int)", "42701 column \"a\" specified more than once @24");
    check("CREATE TABLE t (a int, PRIMARY KEY (b))", "42703 column \"b\" named in key does not exist @14");
    check("DROP TABLE t CASCADE", "0A000 DROP … CASCADE is not supported @14 (drop the dependents first)");
    check("SELECT 'abc", "42601 Unterminated string literal @8");
    check(
        "CREATE VIEW v AS SELECT 1",
        "0A000 CREATE VIEW is not supported @8 (use CREATE MATERIALIZED VIEW: it is kept up to date)",
    );
    check(
        "SELECT * FROM TABLE(TUMBLE(TABLE t, DESCRIPTOR(at), INTERVAL '1' MINUTE))",
        "0A000 the window TUMBLE is not supported @21",
    );
    check("CREATE SINK s FROM v WITH (a = 1, a = 2)", "42601 option \"a\" given twice @35");
}

#[test]
fn deep_nesting_is_refused_not_crashed() {
    let text = format!("SELECT {}1{}", "(".repeat(5000), ")".repeat(5000));
    assert_eq!(parse(&text).expect_err("too deep").code, crate::error::sqlstate::STATEMENT_TOO_COMPLEX);
}
