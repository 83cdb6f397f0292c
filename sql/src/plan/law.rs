//! The law through SQL: after every epoch a view's accumulated output is DataFusion's batch answer over the accumulated
//! input; its key identifies its rows; what is called append-only takes nothing back.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, UInt32Array};
use arrow::compute::{cast, concat_batches, take_record_batch};
use arrow::datatypes::{DataType, TimeUnit};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use datafusion::common::TableReference;
use datafusion::datasource::{MemTable, provider_as_source};
use datafusion::execution::session_state::SessionState;
use datafusion::logical_expr::TableSource;
use datafusion::sql::planner::{PlannerContext, SqlToRel};
use datafusion::sql::sqlparser::ast::Statement;
use engine::Delta;
use engine::Epoch;
use engine::graph::{Graph, Node, RelationId};
use engine::operator::{Context as OperatorContext, Operator, Port};

use super::tests::objects;
use super::*;
use crate::expr::{Context, Names, guard_plan, parser_options, rewrite};

const EPOCHS: u64 = 8;
const POOL_ROWS: usize = 60;

/// splitmix64: the same rows from the same seed.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
}

/// A relation's rows that can come and go, and how many of them are there.
struct Pool {
    rows: RecordBatch,
    there: Vec<bool>,
    append_only: bool,
}

impl Pool {
    fn new(object: &Object, random: &mut Random) -> Self {
        let schema = object.schema().expect("a schema");
        let key = object.key().unwrap_or_default().to_vec();
        let column = |(i, field): (usize, &Arc<Field>)| -> ArrayRef {
            let text = |random: &mut Random, row: usize| -> Option<String> {
                if key.contains(&i) {
                    return Some(row.to_string());
                }
                value(random, field.data_type())
            };
            let values: arrow::array::StringArray = (0..POOL_ROWS).map(|row| text(random, row)).collect();
            cast(&values, field.data_type()).expect("a value of the type")
        };
        let columns = schema.fields().iter().enumerate().map(column).collect();
        let rows = RecordBatch::try_new(schema, columns).expect("rows");
        Self { rows, there: vec![false; POOL_ROWS], append_only: object.append_only() }
    }

    /// Some rows come, some go, some do both.
    fn change(&mut self, random: &mut Random) -> Delta {
        let (mut rows, mut weights) = (Vec::new(), Vec::new());
        for _ in 0..random.below(12) {
            let row = random.below(POOL_ROWS as u64) as usize;
            if self.there[row] && self.append_only {
                continue;
            }
            rows.push(row as u32);
            weights.push(if self.there[row] { -1 } else { 1 });
            self.there[row] = !self.there[row];
        }
        let rows = take_record_batch(&self.rows, &UInt32Array::from(rows)).expect("rows of the pool");
        match self.append_only {
            true => Delta::appended(rows),
            false => Delta::weighted(rows, Int64Array::from(weights)),
        }
    }

    fn content(&self) -> RecordBatch {
        let rows = (0..POOL_ROWS).filter(|row| self.there[*row]).map(|row| row as u32);
        take_record_batch(&self.rows, &UInt32Array::from_iter_values(rows)).expect("rows of the pool")
    }
}

/// Few different values, so that they meet; nulls too.
fn value(random: &mut Random, data_type: &DataType) -> Option<String> {
    let n = random.below(7);
    if n == 6 {
        return None;
    }
    Some(match data_type {
        DataType::Decimal128(..) => format!("{}.{}", n * 7, n * 13),
        DataType::Float64 => ["0.1", "1e16", "-1e16", "NaN", "0", "-0"][n as usize].to_string(),
        DataType::Timestamp(TimeUnit::Microsecond, _) => format!("2024-0{}-0{}T10:00:00", n % 3 + 1, n + 1),
        DataType::Utf8 => ["a", "b", "A", "", "5", "nl"][n as usize].to_string(),
        _ => n.to_string(),
    })
}

/// One worker's instance of a graph.
struct Running {
    graph: Graph,
    operators: Vec<Option<Box<dyn Operator>>>,
}

impl Running {
    fn new(graph: Graph) -> Self {
        let operator = |node: &Node| match node {
            Node::Input { .. } => None,
            Node::Operator { factory, .. } => Some(factory()),
        };
        let operators = graph.nodes.iter().map(operator).collect();
        Self { graph, operators }
    }

    fn epoch(&mut self, number: u64, changes: &BTreeMap<RelationId, Delta>) -> Vec<Delta> {
        let epoch = Epoch { number, cut: Arc::default(), now_us: 0 };
        let mut done: Vec<Vec<Delta>> = Vec::new();
        for (node, operator) in self.graph.nodes.iter().zip(&mut self.operators) {
            let mut out = Vec::new();
            match (node, operator) {
                (Node::Input { relation, .. }, _) => out.extend(changes.get(relation).cloned()),
                (Node::Operator { inputs, .. }, Some(operator)) => {
                    let mut cx = OperatorContext::new(&mut out);
                    for (port, input) in inputs.iter().enumerate() {
                        for delta in &done[input.0] {
                            operator.on_delta(Port(port), delta.clone(), &mut cx).expect("an operator's delta");
                        }
                    }
                    operator.on_flush(&epoch, &mut cx).expect("an operator's flush");
                }
                (Node::Operator { .. }, None) => unreachable!("every operator has an instance"),
            }
            done.push(out);
        }
        done.pop().unwrap_or_default()
    }
}

fn texts(rows: &RecordBatch) -> Vec<String> {
    let options = FormatOptions::new().with_null("∅");
    let columns: Vec<ArrayFormatter<'_>> =
        rows.columns().iter().map(|c| ArrayFormatter::try_new(c, &options).expect("a format")).collect();
    let row = |row: usize| columns.iter().map(|c| c.value(row).to_string()).collect::<Vec<_>>().join("|");
    (0..rows.num_rows()).map(row).collect()
}

struct Tables(BTreeMap<RelationId, Arc<MemTable>>, Objects);

impl Names for Tables {
    fn table(&self, name: &TableReference) -> Result<Option<Arc<dyn TableSource>>> {
        let parts = [name.catalog(), name.schema(), Some(name.table())];
        let parts: Vec<String> = parts.into_iter().flatten().map(str::to_string).collect();
        let object = self.1.lookup(&parts, "riverrun")?;
        let table = object.map(|o| Arc::clone(&self.0[&o.id]));
        Ok(table.map(|table| provider_as_source(table)))
    }
}

/// DataFusion's answer as (row, how often), and its column types.
fn batch(state: &SessionState, names: &Tables, query: &str) -> (BTreeMap<String, i64>, Vec<DataType>) {
    let mut ast = parse::parse_query(query).expect(query).ast;
    rewrite(&mut ast).expect(query);
    let context = Context { state, names };
    let plan = SqlToRel::new_with_options(&context, parser_options())
        .sql_statement_to_plan_with_context(Statement::Query(ast), &mut PlannerContext::new())
        .expect(query);
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let (schema, batches) = runtime.block_on(async {
        let plan = guard_plan(state.optimize(&plan).expect(query)).expect(query);
        let plan = state.query_planner().create_physical_plan(&plan, state).await.expect(query);
        let schema = plan.schema();
        (schema, datafusion::physical_plan::collect(plan, state.task_ctx()).await.expect(query))
    });
    let all = concat_batches(&schema, &batches).expect("batches of one schema");
    let mut out = BTreeMap::new();
    texts(&all).into_iter().for_each(|row| *out.entry(row).or_default() += 1);
    (out, schema.fields().iter().map(|f| f.data_type().clone()).collect())
}

#[track_caller]
fn check(query: &str) {
    let objects = objects();
    let create = parse::parse(&format!("CREATE MATERIALIZED VIEW v AS {query}")).expect(query).pop();
    let Some(crate::parse::Statement::CreateView(create)) = create.map(|p| p.statement) else { panic!("no view") };
    for seed in 0..2 {
        let planned = Planned::new(&objects, &create.query, "riverrun", None, &[]).expect(query);
        let mut state = logical::state().expect("a state");
        state.config_mut().options_mut().execution.target_partitions = 3;
        let mut random = Random(seed);
        let mut pools: BTreeMap<RelationId, Pool> = objects.all().map(|o| (o.id, Pool::new(o, &mut random))).collect();
        let mut running = Running::new(planned.graph.clone());
        let mut shown: BTreeMap<String, i64> = BTreeMap::new();
        for number in 1..=EPOCHS {
            let changes = pools.iter_mut().map(|(id, pool)| (*id, pool.change(&mut random))).collect();
            for delta in running.epoch(number, &changes) {
                for (i, row) in texts(&delta.rows).into_iter().enumerate() {
                    assert!(!planned.append_only || delta.weight(i) > 0, "{query} takes {row} back");
                    *shown.entry(row).or_default() += delta.weight(i);
                }
            }
            shown.retain(|_, weight| *weight != 0);
            let tables = pools.iter().map(|(id, pool)| {
                let rows = pool.content();
                let parts = (0..3).map(|p| {
                    vec![rows.slice(rows.num_rows() * p / 3, rows.num_rows() * (p + 1) / 3 - rows.num_rows() * p / 3)]
                });
                let object = objects.get(*id).expect("a pool is an object's");
                let table = MemTable::try_new(rows.schema(), parts.collect()).expect("a table");
                (*id, Arc::new(table.with_constraints(object.constraints(object.key()))))
            });
            let (expect, types) = batch(&state, &Tables(tables.collect(), objects.clone()), query);
            assert_eq!(shown, expect, "{query}: seed {seed}, epoch {number}\n{}", planned.explain.join("\n"));
            let own: Vec<DataType> = planned.schema.fields().iter().map(|f| f.data_type().clone()).collect();
            assert_eq!(own, types, "{query}: the types of the view and of the same SELECT");
            check_key(&shown, planned.key.as_deref(), query);
        }
    }
}

fn check_key(rows: &BTreeMap<String, i64>, key: Option<&[usize]>, query: &str) {
    let Some(key) = key else { return };
    let mut seen = std::collections::BTreeSet::new();
    for (row, weight) in rows {
        let parts: Vec<&str> = row.split('|').collect();
        let key: Vec<&str> = key.iter().map(|i| parts[*i]).collect();
        assert!(seen.insert(key) && *weight == 1, "{query}: two rows have the key of {row}");
    }
}

#[test]
fn filters_and_projections() {
    check("SELECT * FROM shop.public.orders");
    check(
        "SELECT id, amount * qty AS v, qty / 2 AS h, upper(note) FROM shop.public.orders WHERE qty > 2 AND note <> 'a'",
    );
    check("SELECT url, score + 1 AS a, at::date, user_id % 3 AS b FROM clicks WHERE score > 0 OR url IS NULL");
    check(
        "SELECT id, round(amount, 0)::int AS r, (amount / 7)::bigint AS b, date_trunc('month', at) FROM shop.public.orders",
    );
    check("SELECT note, coalesce(qty, 0) + 1 AS q FROM shop.public.orders WHERE customer_id IN (1, 2, 5)");
    check(
        "SELECT id, qty <> 0 AND amount / qty > 2 AS big FROM shop.public.orders WHERE qty = 0 OR amount / qty > 1 OR note IS NULL",
    );
    check("SELECT note FROM shop.public.orders WHERE CASE WHEN qty = 0 THEN false ELSE 7 / qty > 1 END");
    check("SELECT CASE WHEN qty = 0 THEN NULL ELSE amount / qty END AS per FROM shop.public.orders");
}

#[test]
fn aggregates() {
    check(
        "SELECT customer_id, sum(amount), avg(amount), min(note), max(at), count(*), count(qty) AS q FROM shop.public.orders GROUP BY customer_id",
    );
    check(
        "SELECT sum(score) AS a, avg(score) AS b, min(score), max(score), sum(small) AS c, avg(user_id) AS d, sum(user_id) AS e FROM clicks",
    );
    check("SELECT url, sum(score) FROM clicks GROUP BY url HAVING count(*) > 2");
    check("SELECT url, min(score), max(score) FROM clicks GROUP BY url");
    check("SELECT score, count(*) FROM clicks GROUP BY score");
    check(
        "SELECT nullif(score, 0) AS n, CASE score WHEN 0 THEN 'zero' ELSE 'more' END AS c, score IN (0, 1) AS i FROM clicks",
    );
    check(
        "SELECT note, sum(qty) FILTER (WHERE amount > 10) AS s, count(*) FILTER (WHERE qty = 1) FROM shop.public.orders GROUP BY note",
    );
    check(
        "SELECT o.id, o.note, c.name, count(*) FROM shop.public.orders o JOIN shop.public.customers c ON o.customer_id = c.id GROUP BY o.id, c.id",
    );
    check("SELECT DISTINCT note, qty FROM shop.public.orders");
    check("SELECT count(*) FROM shop.public.orders WHERE qty > 100");
    check(
        "SELECT upper(note) AS n, qty + 1 AS q, max(amount) - min(amount) FROM shop.public.orders GROUP BY upper(note), qty + 1",
    );
    check(
        "SELECT max(total), count(*) FROM (SELECT sum(amount) AS total FROM shop.public.orders GROUP BY customer_id) AS t",
    );
    check(
        "SELECT sum(CASE WHEN qty > 2 THEN 1 ELSE 0 END) AS n, coalesce(sum(amount), 0) AS s FROM shop.public.orders",
    );
}

#[test]
fn joins_and_unions() {
    check(
        "SELECT o.id, c.name, o.amount FROM shop.public.orders o JOIN shop.public.customers c ON o.customer_id = c.id",
    );
    check(
        "SELECT c.id FROM shop.public.orders o, shop.public.customers c WHERE o.customer_id = c.id AND o.note = c.name",
    );
    check(
        "SELECT o.id AS a, p.id AS b FROM shop.public.orders o JOIN shop.public.orders p ON o.note = p.note AND o.qty < p.qty",
    );
    check(
        "SELECT c.country, sum(o.amount), count(*) FROM shop.public.orders o JOIN shop.public.customers c ON o.customer_id = c.id GROUP BY c.country",
    );
    check(
        "SELECT k.url, s.total FROM clicks k JOIN spend s ON k.user_id = s.customer_id JOIN shop.public.customers c ON c.id = s.customer_id",
    );
    check("SELECT url FROM clicks UNION ALL SELECT note FROM shop.public.orders");
    check("SELECT url, 1 AS n FROM clicks UNION SELECT note, 2 FROM shop.public.orders");
    check("SELECT user_id, small FROM clicks UNION ALL SELECT qty, id FROM shop.public.orders");
    check("SELECT a.url FROM clicks a JOIN clicks b ON a.user_id = b.user_id AND a.at < b.at");
    check(
        "WITH credits AS (SELECT customer_id AS account, sum(amount) AS c, 1 AS one FROM shop.public.orders GROUP BY customer_id), \
           debits AS (SELECT qty::bigint AS account, sum(amount) AS d FROM shop.public.orders GROUP BY qty) \
           SELECT sum(c - d) FROM credits JOIN debits ON credits.account = debits.account",
    );
}
