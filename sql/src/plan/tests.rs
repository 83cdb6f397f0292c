//! Queries in, plans or errors with their place out.

use std::collections::BTreeMap;

use engine::graph::RelationId;

use super::*;
use crate::catalog::{Name, OnError, Table, View};
use crate::parse::{Statement, parse};

fn columns(list: &str) -> Vec<Column> {
    let column = |text: &str| {
        let (name, type_name) = text.trim().split_once(' ').expect("a name and a type");
        let nullable = !type_name.ends_with('!');
        Column { name: name.into(), type_name: type_name.trim_end_matches('!').into(), nullable }
    };
    list.split(';').map(column).collect()
}

pub fn table(id: u64, database: &str, name: &str, list: &str, key: &[usize]) -> Object {
    let table = Table {
        columns: columns(list),
        key: key.to_vec(),
        append_only: key.is_empty(),
        topic: name.into(),
        topic_id: log::TopicId::default(),
        format: "json".into(),
        options: BTreeMap::new(),
        on_error: OnError::Fail,
        source: None,
    };
    let name = Name::new(database, "public", name);
    Object { id: RelationId(id), name, sql: String::new(), depends_on: Vec::new(), kind: Kind::Table(table) }
}

fn spend() -> Object {
    let view = View {
        columns: columns("customer_id bigint;total numeric(38,2)"),
        key: Some(vec![0]),
        append_only: false,
        topic: "spend".into(),
        topic_id: log::TopicId::default(),
        format: "json".into(),
        options: BTreeMap::new(),
        query: String::new(),
        database: "riverrun".into(),
        inputs: Vec::new(),
        plan_version: 0,
    };
    let name = Name::new("riverrun", "public", "spend");
    Object { id: RelationId(4), name, sql: String::new(), depends_on: Vec::new(), kind: Kind::View(view) }
}

pub fn objects() -> Objects {
    [
        table(
            1,
            "shop",
            "orders",
            "id bigint!;customer_id bigint;amount numeric(12,2);qty integer;note text;at timestamptz",
            &[0],
        ),
        table(2, "shop", "customers", "id bigint!;name text;country text", &[0]),
        table(
            3,
            "riverrun",
            "clicks",
            "user_id bigint;url text;at timestamp;score double precision;small smallint",
            &[],
        ),
        spend(),
        table(5, "riverrun", "Odd Names", "Key bigint;value text", &[0]),
    ]
    .into_iter()
    .collect()
}

fn create(text: &str) -> Result<CreateView> {
    let statement = parse(text)?.pop().expect("one statement").statement;
    match statement {
        Statement::CreateView(create) => Ok(create),
        _ => panic!("{text} creates no view"),
    }
}

fn show_error(e: Error) -> String {
    let hint = e.hint.map_or(String::new(), |h| format!(" ({h})"));
    format!("{} {} @{}{hint}", e.code, e.message, e.position.map_or("-".into(), |p| p.to_string()))
}

fn plan_of(text: &str) -> Result<ViewPlan> {
    view(&objects(), &create(text)?, "riverrun")
}

fn columns_of(plan: &ViewPlan) -> String {
    let columns = Column::all_of(&plan.schema).expect("columns");
    columns.iter().map(|c| format!("{} {}", c.name, c.type_name)).collect::<Vec<_>>().join(", ")
}

/// The columns of the view and its plan, or the error, its place counted from the start of the query.
fn answer(query: &str) -> String {
    let text = format!("CREATE MATERIALIZED VIEW v AS {query}");
    match plan_of(&text) {
        Ok(plan) => format!("{}\n{}", columns_of(&plan), plan.explain),
        Err(mut e) => {
            e.position = e.position.map(|p| p - (text.len() - query.len()) as u32);
            show_error(e)
        }
    }
}

/// `views.golden`: a line `> query`, below it the answer up to an empty line. `UPDATE_EXPECT=1` writes the answers.
#[test]
#[expect(clippy::disallowed_methods, reason = "a golden file is read and written by the test itself")]
fn views() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/src/plan/views.golden");
    let text = std::fs::read_to_string(path).expect("the golden file");
    let mut now = String::new();
    for block in text.split("\n\n").map(str::trim_end).filter(|b| !b.is_empty()) {
        let query = block.lines().find_map(|l| l.strip_prefix("> "));
        let comments = block.lines().take_while(|l| l.starts_with("--"));
        comments.for_each(|l| now.push_str(&format!("{l}\n")));
        if let Some(query) = query {
            now.push_str(&format!("> {query}\n{}\n", answer(query)));
        }
        now.push('\n');
    }
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        std::fs::write(path, &now).expect("the golden file can be written");
    }
    for (was, is) in text.split("\n\n").zip(now.split("\n\n")) {
        assert_eq!(was.trim_end(), is.trim_end(), "UPDATE_EXPECT=1 accepts the new answer");
    }
}

#[test]
fn a_key_can_be_given() {
    let check = |options: &str, expect: &str| {
        let text = format!("CREATE MATERIALIZED VIEW v {options} AS SELECT user_id, url FROM clicks");
        let got = match plan_of(&text) {
            Ok(plan) => format!("{:?} {}", plan.key, plan.append_only),
            Err(e) => show_error(e),
        };
        assert_eq!(got, expect);
    };
    check("", "None true");
    check("WITH (key = url)", "Some([1]) true");
    check("(a, b) WITH (key = 'b, a')", "Some([1, 0]) true");
    check("WITH (key = x)", "42703 column \"x\" named in key does not exist @26 (columns of the view: user_id, url)");
    check("(a, b, c)", "42601 too many column names were specified @-");
}

fn stored(query: &str) -> Object {
    let plan = plan_of(&format!("CREATE MATERIALIZED VIEW v AS {query}")).expect(query);
    let Kind::View(view) = spend().kind else { unreachable!("it is a view") };
    let kind = Kind::View(View {
        columns: Column::all_of(&plan.schema).expect("columns"),
        query: query.into(),
        inputs: plan.inputs,
        plan_version: plan.plan_version,
        ..view
    });
    let name = Name::new("riverrun", "public", "v");
    Object { id: RelationId(9), name, sql: String::new(), depends_on: Vec::new(), kind }
}

#[test]
fn a_view_keeps_its_columns_when_a_table_changes() {
    let view = stored("SELECT * FROM shop.public.customers WHERE name > 'a'");
    let Kind::View(definition) = &view.kind else { unreachable!("it is a view") };
    let with = |list: &str| {
        let objects: Objects = [table(2, "shop", "customers", list, &[0])].into_iter().collect();
        job(&objects, &view).map(|plan| plan.plan_version == definition.plan_version).map_err(show_error)
    };
    assert_eq!(with("id bigint!;name text;country text"), Ok(true));
    assert_eq!(with("id bigint!;name text;country text;added text"), Ok(true), "a new column is not seen");
    assert_eq!(with("id bigint!;country text;name text"), Ok(true), "columns go by their names");
    let gone = with("id bigint!;name text").expect_err("a column is gone");
    assert!(gone.starts_with("55000 column country of shop.public.customers is gone"), "{gone}");
    let other = with("id bigint!;name text;country integer").expect_err("a column has another type");
    assert!(other.starts_with("55000 column country of shop.public.customers was text and is now integer"), "{other}");
}

#[test]
fn versions_tell_plans_apart() {
    let version = |query: &str| plan_of(&format!("CREATE MATERIALIZED VIEW v AS {query}")).expect(query).plan_version;
    let one = version("SELECT url FROM clicks WHERE score > 1");
    assert_eq!(one, version("select c.url from clicks as c where c.score > 1"));
    assert_ne!(one, version("SELECT url FROM clicks WHERE score > 2"));
    assert_ne!(one, version("SELECT url AS u FROM clicks WHERE score > 1"));
}

#[test]
fn relations_are_named_once_and_without_ctes() {
    let query = parse::parse_query(
        "WITH a AS (SELECT * FROM t) SELECT * FROM a, T, \"T\", s.p.x, (SELECT * FROM y) AS b WHERE b.i IN (SELECT i FROM z)",
    )
    .expect("a query");
    let names: Vec<String> = relations(&query).iter().map(ToString::to_string).collect();
    assert_eq!(names, ["t", "T", "s.p.x", "y", "z"]);
}

#[test]
fn long_chains_are_planned_or_refused_but_never_crash() {
    let check = |terms: usize, term: &str, operator: &str, expect: Result<(), &str>| {
        let chain: Vec<String> = (0..terms).map(|i| term.replace('#', &i.to_string())).collect();
        let text = format!("CREATE MATERIALIZED VIEW v AS SELECT url FROM clicks WHERE {}", chain.join(operator));
        let got = plan_of(&text).map(|_| ()).map_err(|e| e.code);
        assert_eq!(got, expect, "{terms} of {term}{operator}");
    };
    check(480, "user_id <> #", " OR ", Ok(()));
    check(480, "url LIKE '#'", " AND ", Ok(()));
    check(900, "(user_id + score) * small < #", " OR ", Err(sqlstate::STATEMENT_TOO_COMPLEX));
    check(100_000, "score = #", " AND ", Err(sqlstate::STATEMENT_TOO_COMPLEX));
    check(200, "score = #", " UNION ALL SELECT url FROM clicks WHERE ", Ok(()));
    check(2_000, "score = #", " UNION ALL SELECT url FROM clicks WHERE ", Err(sqlstate::STATEMENT_TOO_COMPLEX));
}
