//! What clients are known to ask, planned and run over a small world.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema};
use arrow::util::display::array_value_to_string;
use datafusion::catalog::TableProvider;
use datafusion::common::TableReference;
use datafusion::physical_plan::collect;

use super::{Facts, World, WorldRelation, rewrite};
use crate::error::Result;
use crate::query::{Names, WithCatalog, plan_query, session_state};

/// A table with a key and a view, in a session without relations of its own.
struct Small;

impl Names for Small {
    fn database(&self) -> Arc<str> {
        "riverrun".into()
    }

    fn meaning(&self) -> crate::query::Meaning {
        crate::query::Meaning { objects: Arc::default(), topics: 0 }
    }
    fn table(&self, _name: &TableReference) -> Result<Option<Arc<dyn TableProvider>>> {
        Ok(None)
    }

    fn world(&self) -> World {
        let orders = Schema::new(vec![
            Field::new("id", DataType::Int64, false),
            Field::new("amount", DataType::Decimal128(10, 2), true),
        ]);
        let relation = |name: &str, kind, key: Vec<usize>| WorldRelation {
            schema: "public".into(),
            name: name.into(),
            kind,
            columns: Arc::new(orders.clone()),
            key,
            definition: (kind == 'm').then(|| "SELECT * FROM orders".into()),
        };
        World {
            database: "riverrun".into(),
            user: "bob".into(),
            databases: vec!["riverrun".into(), "shop".into()],
            relations: vec![relation("orders", 'r', vec![0]), relation("spend", 'm', Vec::new())],
            settings: vec![("search_path".into(), "public".into(), String::new())],
        }
    }
}

/// The rows of a query, cells joined by `|`.
async fn run(text: &str) -> Result<Vec<String>> {
    let mut state = session_state(super::super::QueryLimits { threads: 1, memory_bytes_max: 1 << 24 })?;
    let mut ast = crate::parse::parse_query(text)?.ast;
    let facts = Facts::new(|| Small.world());
    crate::query::forms::settle(&mut ast)?;
    crate::expr::rewrite(&mut ast)?;
    rewrite(&mut ast, &facts)?;
    if let Some(world) = facts.used() {
        super::register_world(&mut state, world)?;
    }
    let planned = plan_query(&state, &WithCatalog { names: &Small, world: facts.used() }, &ast, &[])?;
    let physical = state.create_physical_plan(&planned.plan).await?;
    let mut rows = Vec::new();
    for batch in collect(physical, state.task_ctx()).await? {
        for row in 0..batch.num_rows() {
            let cells = batch.columns().iter().map(|column| array_value_to_string(column, row));
            rows.push(cells.collect::<Result<Vec<_>, _>>()?.join("|"));
        }
    }
    Ok(rows)
}

async fn check(text: &str, expect: &[&str]) {
    let rows = run(text).await.unwrap_or_else(|e| panic!("{text}: {e} {:?}", e.detail));
    assert_eq!(rows, expect, "{text}");
}

#[tokio::test]
async fn everything_clients_ask_is_answered() {
    let text: String =
        include_str!("clients.sql").lines().filter(|l| !l.starts_with("--")).collect::<Vec<_>>().join("\n");
    for query in text.split(";\n").map(str::trim).filter(|q| !q.is_empty()) {
        if let Err(error) = run(query).await {
            panic!("{query}\n{error} {:?}", error.detail);
        }
    }
}

#[tokio::test]
async fn tables_tell_what_there_is() {
    check("SELECT relname, relkind FROM pg_class ORDER BY oid", &["orders|r", "orders_pkey|i", "spend|m"]).await;
    check(
        "SELECT a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull FROM pg_catalog.pg_attribute a \
         WHERE a.attrelid = 'orders'::regclass ORDER BY a.attnum",
        &["id|bigint|true", "amount|numeric(10,2)|false"],
    )
    .await;
    check(
        "SELECT c.relname, pg_catalog.pg_get_constraintdef(con.oid, true) FROM pg_catalog.pg_class c, \
         pg_catalog.pg_index i LEFT JOIN pg_catalog.pg_constraint con ON conindid = i.indexrelid \
         WHERE c.oid = i.indexrelid",
        &["orders_pkey|PRIMARY KEY (id)"],
    )
    .await;
    check("SELECT datname FROM pg_database ORDER BY 1", &["riverrun", "shop"]).await;
    check(
        "SELECT table_name, table_type FROM information_schema.tables ORDER BY 1",
        &["orders|BASE TABLE", "spend|VIEW"],
    )
    .await;
}

#[tokio::test]
async fn forms_of_the_catalog() {
    check(
        "SELECT relname FROM pg_class WHERE relname OPERATOR(pg_catalog.~) '^(spe.*)$' COLLATE pg_catalog.default",
        &["spend"],
    )
    .await;
    check("SELECT c.oid::pg_catalog.regclass FROM pg_class c WHERE c.relkind = ANY ('{m}')", &["spend"]).await;
    check("SELECT 'public.spend'::regclass, 'int4'::regtype, 23::regtype", &["16386|23|23"]).await;
    check("SELECT current_database(), current_user, current_setting('search_path')", &["riverrun|bob|public"]).await;
    check("SELECT count(*) FROM pg_trigger", &["0"]).await;
    check("SELECT tgname FROM pg_trigger ORDER BY tgtype", &[]).await;
    check(
        "SELECT relname, (SELECT adbin FROM pg_attrdef WHERE adrelid = c.oid) FROM pg_class c WHERE relkind = 'r'",
        &["orders|"],
    )
    .await;
    let error = run("SELECT 'nothing'::regclass").await.unwrap_err();
    assert_eq!((error.code, error.message.as_str()), ("42P01", "relation \"nothing\" does not exist"));
}
