//! The machine without a host: commands in, records out, and the records give the same state again.

use std::collections::BTreeMap;
use std::sync::Arc;

use engine::graph::RelationId;
use log::machine::Machine;
use log::{Offset, RecordView};

use super::store::{Command, State};
use super::*;

struct Fixture {
    state: State,
    journal: Vec<RecordView>,
    seen: Arc<Objects>,
}

impl Fixture {
    fn new() -> Self {
        let mut state = State::default();
        let seen = Arc::clone(&state.loaded(0).effects[0]);
        Self { state, journal: Vec::new(), seen }
    }

    fn ask(&mut self, command: Command) -> crate::Result<Vec<Arc<Object>>> {
        let (reply, decision) = self.state.decide(0, command);
        for record in decision.records {
            let view = RecordView {
                offset: Offset(self.journal.len() as i64),
                timestamp_ms: 0,
                key: record.key,
                value: record.value,
                headers: bytes::Bytes::from_static(&[0]),
            };
            self.state.apply(&view).expect("its own record");
            self.journal.push(view);
        }
        if let Some(seen) = decision.effects.into_iter().last() {
            self.seen = seen;
        }
        reply
    }

    #[track_caller]
    fn check(&mut self, command: Command, expect: &str) {
        let got = match self.ask(command) {
            Ok(objects) => objects.iter().map(|o| format!("{}={}", o.id.0, o.name)).collect::<Vec<_>>().join(" "),
            Err(e) => format!("{} {} [{}]", e.code, e.message, e.detail.unwrap_or_default()),
        };
        assert_eq!(got, expect);
        let mut again = State::default();
        self.journal.iter().for_each(|r| again.apply(r).expect("a stored record"));
        let (a, b) = (format!("{:?}", again.snapshot()), format!("{:?}", self.state.snapshot()));
        assert_eq!(a, b, "the journal gives the state");
        let ids = |objects: &Objects| objects.all().map(|o| o.id).collect::<Vec<_>>();
        let stands = Arc::clone(&again.loaded(0).effects[0]);
        assert_eq!(ids(&stands), ids(&self.seen), "readers see what stands");
    }
}

fn draft(name: Name, depends_on: &[u64], kind: Kind) -> Draft {
    let depends_on = depends_on.iter().map(|id| RelationId(*id)).collect();
    Draft { name, sql: String::new(), depends_on, kind }
}

fn table(name: &str, source: Option<&str>) -> Draft {
    let columns = vec![Column { name: "id".into(), type_name: "bigint".into(), nullable: false }];
    let kind = Kind::Table(Table {
        columns,
        key: vec![0],
        append_only: false,
        topic: name.into(),
        topic_id: log::TopicId::default(),
        format: "json".into(),
        options: BTreeMap::new(),
        on_error: OnError::Fail,
        source: source.map(str::to_string),
    });
    draft(Name::new(source.unwrap_or(DATABASE), SCHEMA, name), &[], kind)
}

fn view(name: &str, on: &[u64]) -> Draft {
    let kind = Kind::View(View {
        columns: Vec::new(),
        key: Some(Vec::new()),
        append_only: false,
        topic: name.into(),
        topic_id: log::TopicId::default(),
        format: "json".into(),
        options: BTreeMap::new(),
        query: "SELECT 1".into(),
        database: DATABASE.into(),
        inputs: Vec::new(),
        plan_version: u64::MAX,
    });
    draft(Name::new(DATABASE, SCHEMA, name), on, kind)
}

fn source(name: &str) -> Draft {
    let kind = Kind::Source(Source { connector: "postgres".into(), options: BTreeMap::new() });
    draft(Name::new(DATABASE, SCHEMA, name), &[], kind)
}

#[test]
fn objects_come_and_go() {
    let mut f = Fixture::new();
    let drop = |ids: &[u64]| Command::Drop(ids.iter().map(|id| RelationId(*id)).collect());
    f.check(Command::Create(vec![table("t", None)]), "1=t");
    f.check(Command::Create(vec![view("t", &[])]), "42P07 relation \"t\" already exists [it is a table]");
    f.check(Command::Create(vec![source("shop"), table("orders", Some("shop"))]), "2=shop 3=shop.public.orders");
    f.check(Command::Create(vec![source("riverrun")]), "42710 database \"riverrun\" already exists []");
    f.check(
        Command::Create(vec![view("a", &[3]), view("a", &[3])]),
        "42P07 relation \"a\" already exists [it is a materialized view]",
    );
    f.check(Command::Create(vec![view("a", &[1, 3])]), "4=a");
    f.check(Command::Create(vec![view("b", &[9])]), "42P01 what \"b\" reads was dropped meanwhile (id 9) []");
    f.check(
        drop(&[1]),
        "2BP01 cannot drop table t because other objects depend on it [materialized view a depends on table t]",
    );
    f.check(drop(&[3]), "2BP01 cannot drop table shop.public.orders because source shop requires it []");
    let shop = Arc::clone(f.seen.source("shop").expect("it stands"));
    let set = f.seen.drop_set(&shop);
    f.check(
        Command::Drop(set.clone()),
        "2BP01 cannot drop source shop because other objects depend on it \
         [materialized view a depends on table shop.public.orders]",
    );
    f.check(drop(&[4]), "4=a");
    f.check(Command::Drop(set), "3=shop.public.orders 2=shop");
    f.check(drop(&[4]), "42704 the object with the id 4 was dropped meanwhile []");
    // Ids are never used again.
    f.check(Command::Create(vec![view("a", &[1])]), "5=a");
    assert_eq!(f.seen.databases(), ["riverrun"]);
    assert!(f.seen.relation(&Name::resolve(&["a".into()], DATABASE).expect("a name")).is_some());
}
