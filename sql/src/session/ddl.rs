//! `CREATE` and `DROP`: topics, catalog and engine are changed in an order that a crash may cut anywhere: what the
//! catalog names is made to stand at the next start, what it does not name is nobody's.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use engine::io::{Finding, SourceRelation};
use log::cluster::config::WRITER;

use super::options;
use super::server::{SINK_WRITER, Server, VIEW_WRITER};
use crate::catalog::{Class, Column, DATABASE, Draft, Kind, Name, OnError, Sink, Source, Table, View};
use crate::error::{Error, Result, sqlstate};
use crate::parse::{self, CreateSink, CreateSource, CreateTable, CreateView, Drop, DropKind, Parsed, Statement};
use crate::plan;
use crate::types::ColumnType;

/// The answer to a definition: the command tag and what there is to say besides.
type Changed = (&'static str, Vec<Error>);

/// Partitions of a topic, when the statement says nothing.
const PARTITIONS: i32 = 1;
/// Partitions that a statement may ask for.
const PARTITIONS_MAX: i32 = 10_000;

/// Carries out one definition. It runs on when the caller goes away: a half is never left behind by a cancel.
pub async fn change(server: &Arc<Server>, parsed: Parsed, database: &str) -> Result<Changed> {
    let (own, database) = (Arc::clone(server), database.to_owned());
    let task = server.env.spawn("definition", async move {
        let turn = own.turns.acquire().await;
        let changed = apply(&own, &parsed, &database).await.map_err(|e| e.within(&parsed.source));
        drop(turn);
        changed
    });
    task.await.map_err(|stopped| Error::bug("the definition broke off").caused_by(stopped))?
}

async fn apply(server: &Server, parsed: &Parsed, database: &str) -> Result<Changed> {
    match &parsed.statement {
        Statement::CreateSource(create) => create_source(server, create, &parsed.text).await,
        Statement::CreateTable(create) => create_table(server, create, &parsed.text).await,
        Statement::CreateView(create) => create_view(server, create, &parsed.text, database).await,
        Statement::CreateSink(create) => create_sink(server, create, &parsed.text, database).await,
        Statement::Drop(drop) => drop_objects(server, drop, database).await,
        _ => Err(Error::bug("a definition was expected")),
    }
}

/// New objects of people belong to `riverrun`, wherever they are connected.
fn own_name(name: &parse::Name) -> Result<Name> {
    let full = Name::resolve(&name.parts, DATABASE)?;
    if full.database == DATABASE {
        return Ok(full);
    }
    Err(Error::new(
        sqlstate::INVALID_CATALOG_NAME,
        format!("cannot create \"{name}\": objects stand in database {DATABASE}"),
    )
    .at(name.location)
    .hint("leave the database out of the name"))
}

/// The notice for IF NOT EXISTS, when there is one already.
fn exists(server: &Server, class: Class, name: &Name, if_not_exists: bool) -> Option<Error> {
    let found = server.catalog.objects().find(class, name).cloned()?;
    let code = if class == Class::Relation { sqlstate::DUPLICATE_TABLE } else { sqlstate::DUPLICATE_OBJECT };
    let what = if class == Class::Relation { "relation" } else { found.kind.word() };
    if_not_exists.then(|| Error::new(code, format!("{what} \"{}\" already exists, skipping", name.name)))
}

async fn create_source(server: &Server, create: &CreateSource, text: &str) -> Result<Changed> {
    const TAG: &str = "CREATE SOURCE";
    let [source] = create.name.parts.as_slice() else {
        return Err(Error::new(sqlstate::SYNTAX_ERROR, "a source has a name of one part").at(create.name.location));
    };
    let name = own_name(&create.name)?;
    if let Some(notice) = exists(server, Class::Source, &name, create.if_not_exists) {
        return Ok((TAG, vec![notice]));
    }
    if server.catalog.objects().source(source).is_some() {
        return Err(Error::new(sqlstate::DUPLICATE_OBJECT, format!("source \"{source}\" already exists"))
            .at(create.name.location));
    }
    let mut given = create.options.0.clone();
    let connector_name = given
        .remove("connector")
        .ok_or_else(|| Error::new(sqlstate::INVALID_PARAMETER_VALUE, "a source needs the option \"connector\""))?;
    let connector = Arc::clone(server.connector(&connector_name)?);
    let options = options::check(&connector_name, connector.options(), given)?;
    let findings = connector.check(source, &options).await?;
    let notices = warnings(&connector_name, findings)?;
    let connected = connector.source(source, &options).await?;
    let mut drafts = vec![Draft {
        name: name.clone(),
        sql: text.to_owned(),
        depends_on: Vec::new(),
        kind: Kind::Source(Source { connector: connector_name, options: options.clone() }),
    }];
    for relation in connected.relations() {
        drafts.push(source_table(server, source, relation).await?);
    }
    let created = server.catalog.create(drafts).await?;
    for object in &created {
        if let Kind::Source(definition) = &object.kind {
            // Its tables stand in the catalog; from here on a restart would do the same.
            server.start_source(object, definition, None, false)?;
        }
    }
    drop(connected);
    for object in &created {
        if matches!(object.kind, Kind::Table(_)) {
            server.add_table(object).await?;
        }
    }
    Ok((TAG, notices))
}

/// What the doctor says: failures end the statement, warnings become notices.
fn warnings(connector: &str, findings: Vec<Finding>) -> Result<Vec<Error>> {
    let (failed, rest): (Vec<Finding>, Vec<Finding>) = findings.into_iter().partition(|f| !f.ok && !f.warning);
    if !failed.is_empty() {
        let list = |text: Vec<String>| if text.is_empty() { None } else { Some(text.join("\n")) };
        let mut error = Error::new(
            sqlstate::OBJECT_NOT_IN_PREREQUISITE_STATE,
            format!("connector \"{connector}\" cannot follow this database: {}", failed[0].what),
        );
        error.detail = list(failed.iter().map(|f| f.what.clone()).collect());
        error.hint = list(failed.into_iter().filter_map(|f| f.fix).collect());
        return Err(error);
    }
    let warn = |f: Finding| {
        let notice = Error::new(sqlstate::WARNING, f.what);
        match f.fix {
            Some(fix) => notice.hint(fix),
            None => notice,
        }
    };
    Ok(rest.into_iter().filter(|f| !f.ok).map(warn).collect())
}

/// The topic and the definition of one captured table.
async fn source_table(server: &Server, source: &str, relation: &SourceRelation) -> Result<Draft> {
    let name = Name::new(source, &relation.schema_name, &relation.name);
    let keep = BTreeMap::from([("retention.ms".to_owned(), "-1".to_owned())]);
    let topic = match server.cluster.topic(&name.topic()) {
        Some(topic) => {
            forget_earlier(server, &topic).await?;
            topic
        }
        None => create_topic(server, &name.topic(), PARTITIONS, keep).await?,
    };
    let table = Table {
        columns: Column::all_of(&relation.schema)?,
        key: relation.key.clone(),
        append_only: false,
        topic: topic.name,
        topic_id: topic.id,
        format: relation.format.to_owned(),
        options: BTreeMap::new(),
        on_error: OnError::Fail,
        source: Some(source.to_owned()),
    };
    Ok(Draft { name, sql: String::new(), depends_on: Vec::new(), kind: Kind::Table(table) })
}

/// A topic that a dropped source of the same name has left: a record that empties the relation is put before the new
/// snapshot, so that rows which have gone since do not stay.
async fn forget_earlier(server: &Server, topic: &log::Topic) -> Result<()> {
    for partition in crate::query::snapshot::partitions(topic) {
        let log = server.cluster.log(partition)?;
        let bounds = log.bounds();
        if bounds.end > bounds.start {
            let value = r#"{"before":null,"after":null,"source":{"connector":"riverrun"},"op":"t","ts_ms":null,"transaction":null}"#;
            let record =
                log::NewRecord { value: Some(Bytes::from_static(value.as_bytes())), ..log::NewRecord::default() };
            log.append(vec![record]).await?;
        }
    }
    Ok(())
}

async fn create_topic(server: &Server, name: &str, partitions: i32, config: log::TopicConfig) -> Result<log::Topic> {
    Ok(server.cluster.create_topic(log::NewTopic { name: name.to_owned(), partitions, config }).await?)
}

async fn create_table(server: &Server, create: &CreateTable, text: &str) -> Result<Changed> {
    const TAG: &str = "CREATE TABLE";
    let name = own_name(&create.name)?;
    if let Some(notice) = exists(server, Class::Relation, &name, create.if_not_exists) {
        return Ok((TAG, vec![notice]));
    }
    let mut options = create.options.clone();
    let topic_name = options.take("topic").unwrap_or_else(|| name.topic());
    let format_name = options.take("format").unwrap_or_else(|| "json".into());
    let partitions = partitions(options.take("partitions"))?;
    let on_error = match options.take("on_error").as_deref() {
        None | Some("fail") => OnError::Fail,
        Some("dead_letter") => return Err(Error::unsupported("on_error = 'dead_letter'")),
        Some(other) => {
            let message = format!("invalid value for option \"on_error\": \"{other}\"");
            return Err(Error::new(sqlstate::INVALID_PARAMETER_VALUE, message).hint("use fail"));
        }
    };
    let (columns, key) = columns(create)?;
    let declared = match columns.is_empty() {
        true => None,
        false => Some(crate::catalog::schema(&columns)?),
    };
    let format = server.format(&format_name)?;
    let decode = format.decode(declared, &key, &options.0);
    let decode = decode.map_err(|reason| Error::new(sqlstate::INVALID_PARAMETER_VALUE, reason))?;
    let columns = if columns.is_empty() { Column::all_of(&decode.schema())? } else { columns };
    let topic = match server.cluster.topic(&topic_name) {
        Some(topic) => topic,
        None => create_topic(server, &topic_name, partitions, keep_all()).await?,
    };
    let table = Table {
        columns,
        key,
        append_only: !decode.upsert(),
        topic: topic.name,
        topic_id: topic.id,
        format: format_name,
        options: options.0,
        on_error,
        source: None,
    };
    let draft = Draft { name, sql: text.to_owned(), depends_on: Vec::new(), kind: Kind::Table(table) };
    for object in server.catalog.create(vec![draft]).await? {
        server.add_table(&object).await?;
    }
    Ok((TAG, Vec::new()))
}

/// Views are replayed from the first record of their tables: nothing of these may be thrown away.
fn keep_all() -> log::TopicConfig {
    BTreeMap::from([("retention.ms".to_owned(), "-1".to_owned())])
}

fn partitions(option: Option<String>) -> Result<i32> {
    let Some(text) = option else { return Ok(PARTITIONS) };
    match text.parse() {
        Ok(n @ 1..=PARTITIONS_MAX) => Ok(n),
        _ => Err(Error::new(
            sqlstate::INVALID_PARAMETER_VALUE,
            format!("invalid value for option \"partitions\": \"{text}\""),
        )
        .hint(format!("a number from 1 to {PARTITIONS_MAX} was expected"))),
    }
}

/// The declared columns and the places of the primary key's among them.
fn columns(create: &CreateTable) -> Result<(Vec<Column>, Vec<usize>)> {
    let mut columns: Vec<Column> = Vec::with_capacity(create.columns.len());
    for column in &create.columns {
        if columns.iter().any(|c| c.name == column.name) {
            let message = format!("column \"{}\" specified more than once", column.name);
            return Err(Error::new(sqlstate::DUPLICATE_COLUMN, message).at(column.location));
        }
        let in_key = create.primary_key.contains(&column.name);
        let column_type = ColumnType::from_sql(&column.sql_type).map_err(|e| e.at(column.location))?;
        columns.push(Column::of(&column_type.field(&column.name, !column.not_null && !in_key))?);
    }
    let place = |name: &String| {
        columns.iter().position(|c| c.name == *name).ok_or_else(|| {
            Error::new(sqlstate::UNDEFINED_COLUMN, format!("column \"{name}\" named in key does not exist"))
        })
    };
    let key = create.primary_key.iter().map(place).collect::<Result<_>>()?;
    Ok((columns, key))
}

async fn create_view(server: &Server, create: &CreateView, text: &str, database: &str) -> Result<Changed> {
    const TAG: &str = "CREATE MATERIALIZED VIEW";
    let name = own_name(&create.name)?;
    if let Some(notice) = exists(server, Class::Relation, &name, create.if_not_exists) {
        return Ok((TAG, vec![notice]));
    }
    let planned = plan::view(&server.catalog.objects(), create, database)?;
    let mut options = create.options.clone();
    options.take("key");
    let format_name = options.take("format").unwrap_or_else(|| "json".into());
    let partitions = partitions(options.take("partitions"))?;
    let format = server.format(&format_name)?;
    let encode = format.encode(Arc::clone(&planned.schema), planned.key.as_deref(), planned.append_only, &options.0);
    encode.map_err(|reason| Error::new(sqlstate::INVALID_PARAMETER_VALUE, reason))?;
    let compacted = planned.key.is_some() || !planned.append_only;
    let owner = format!("{VIEW_WRITER}{name}");
    let topic = output_topic(server, &name.topic(), &owner, partitions, compacted).await?;
    let depends_on = planned.inputs.iter().map(|input| input.relation).collect();
    let view = View {
        columns: Column::all_of(&planned.schema)?,
        key: planned.key,
        append_only: planned.append_only,
        topic: topic.name,
        topic_id: topic.id,
        format: format_name,
        options: options.0,
        query: create.query.text.clone(),
        database: database.to_owned(),
        inputs: planned.inputs,
        plan_version: planned.plan_version,
    };
    let draft = Draft { name, sql: text.to_owned(), depends_on, kind: Kind::View(view) };
    for object in server.catalog.create(vec![draft]).await? {
        server.add_view(&object).await?;
    }
    Ok((TAG, Vec::new()))
}

pub fn explain_view(server: &Server, create: &CreateView, database: &str) -> Result<Vec<String>> {
    let planned = plan::view(&server.catalog.objects(), create, database)?;
    Ok(planned.explain.lines().map(str::to_owned).collect())
}

/// The topic that the job of `owner` alone writes: nobody else's records may come between. One that an unfinished
/// creation or drop has left is removed first.
async fn output_topic(
    server: &Server,
    name: &str,
    owner: &str,
    partitions: i32,
    compacted: bool,
) -> Result<log::Topic> {
    if let Some(topic) = server.cluster.topic(name) {
        if !server.is_left_over(&topic) {
            return Err(Error::new(sqlstate::DUPLICATE_TABLE, format!("topic \"{name}\" already exists"))
                .hint("choose another name, or delete the topic"));
        }
        server.cluster.delete_topic(name).await?;
    }
    let mut config = match compacted {
        true => BTreeMap::from([("cleanup.policy".to_owned(), "compact".to_owned())]),
        false => keep_all(),
    };
    config.insert(WRITER.to_owned(), owner.to_owned());
    create_topic(server, name, partitions, config).await
}

async fn create_sink(server: &Server, create: &CreateSink, text: &str, database: &str) -> Result<Changed> {
    const TAG: &str = "CREATE SINK";
    let name = own_name(&create.name)?;
    if let Some(notice) = exists(server, Class::Sink, &name, create.if_not_exists) {
        return Ok((TAG, vec![notice]));
    }
    let from = server.relation(database, &create.from.parts)?.ok_or_else(|| {
        Error::new(sqlstate::UNDEFINED_TABLE, format!("relation \"{}\" does not exist", create.from))
            .at(create.from.location)
    })?;
    let mut options = create.options.clone();
    match options.take("connector").as_deref() {
        Some("topic") => {}
        Some(other) => {
            return Err(
                Error::unsupported(format!("a sink with the connector \"{other}\"")).hint("use connector = 'topic'")
            );
        }
        None => return Err(Error::new(sqlstate::INVALID_PARAMETER_VALUE, "a sink needs the option \"connector\"")),
    }
    let topic_name = options.take("topic").unwrap_or_else(|| name.topic());
    let format_name = options.take("format").unwrap_or_else(|| "json".into());
    let partitions = partitions(options.take("partitions"))?;
    options.finish(&["connector", "topic", "format", "partitions"])?;
    let encode = server.format(&format_name)?.encode(from.schema()?, from.key(), from.append_only(), &BTreeMap::new());
    encode.map_err(|reason| Error::new(sqlstate::INVALID_PARAMETER_VALUE, reason))?;
    let compacted = from.key().is_some() || !from.append_only();
    let owner = format!("{SINK_WRITER}{name}");
    let topic = output_topic(server, &topic_name, &owner, partitions, compacted).await?;
    let sink = Sink {
        from: from.id,
        connector: "topic".into(),
        options: BTreeMap::new(),
        topic: Some(topic.name),
        topic_id: Some(topic.id),
        format: Some(format_name),
    };
    let draft = Draft { name, sql: text.to_owned(), depends_on: vec![from.id], kind: Kind::Sink(sink) };
    for object in server.catalog.create(vec![draft]).await? {
        server.add_view(&object).await?;
    }
    Ok((TAG, Vec::new()))
}

async fn drop_objects(server: &Server, drop: &Drop, database: &str) -> Result<Changed> {
    let tag = match drop.kind {
        DropKind::Source => "DROP SOURCE",
        DropKind::Table => "DROP TABLE",
        DropKind::View => "DROP MATERIALIZED VIEW",
        DropKind::Sink => "DROP SINK",
    };
    let mut notices = Vec::new();
    for name in &drop.names {
        match find(server, drop.kind, name, database)? {
            Some(object) => notices.extend(drop_object(server, &object).await?),
            None if drop.if_exists => {
                let (code, what) = missing(drop.kind);
                notices.push(Error::new(code, format!("{what} \"{name}\" does not exist, skipping")));
            }
            None => {
                let (code, what) = missing(drop.kind);
                return Err(Error::new(code, format!("{what} \"{name}\" does not exist")).at(name.location));
            }
        }
    }
    Ok((tag, notices))
}

fn missing(kind: DropKind) -> (&'static str, &'static str) {
    match kind {
        DropKind::Source => (sqlstate::UNDEFINED_OBJECT, "source"),
        DropKind::Table => (sqlstate::UNDEFINED_TABLE, "table"),
        DropKind::View => (sqlstate::UNDEFINED_TABLE, "materialized view"),
        DropKind::Sink => (sqlstate::UNDEFINED_OBJECT, "sink"),
    }
}

fn find(
    server: &Server,
    kind: DropKind,
    name: &parse::Name,
    database: &str,
) -> Result<Option<Arc<crate::catalog::Object>>> {
    let objects = server.catalog.objects();
    let found = match kind {
        DropKind::Source => match name.parts.as_slice() {
            [source] => objects.source(source).cloned(),
            _ => None,
        },
        DropKind::Sink => objects.find(Class::Sink, &own_name(name)?).cloned(),
        DropKind::Table | DropKind::View => server.relation(database, &name.parts)?,
    };
    let Some(object) = found else { return Ok(None) };
    let fits = match kind {
        DropKind::Table => matches!(object.kind, Kind::Table(_)),
        DropKind::View => matches!(object.kind, Kind::View(_)),
        DropKind::Source | DropKind::Sink => true,
    };
    if fits {
        return Ok(Some(object));
    }
    let (_, what) = missing(kind);
    let word = object.kind.word();
    Err(Error::new(sqlstate::WRONG_OBJECT_TYPE, format!("\"{name}\" is not a {what}"))
        .at(name.location)
        .hint(format!("use DROP {} to remove a {word}", word.to_uppercase())))
}

/// RESTRICT: refused while something that stays rests on it. What the catalog no longer names is removed behind it, by
/// the next start where a crash comes between. Gives back a warning where something is left outside: that server may
/// be gone for good, and a source that cannot be dropped would be no help to anybody.
async fn drop_object(server: &Server, object: &crate::catalog::Object) -> Result<Option<Error>> {
    let objects = server.catalog.objects();
    let set = objects.drop_set(object);
    if set.iter().any(|id| objects.dependents(*id).any(|d| !set.contains(&d.id))) {
        // Says by whom it is needed.
        return server.catalog.drop(set).await.map(|_| None);
    }
    let mut warning = None;
    if let Kind::Source(source) = &object.kind {
        match server.sources.remove(&object.name.name).await {
            Ok(left) => warning = left.map(|left| left_outside(&object.name.name, left)),
            Err(error) => {
                server.start_source(object, source, None, false)?;
                return Err(error);
            }
        }
    }
    for id in &set {
        server.forget(*id).await?;
    }
    server.catalog.drop(set).await?;
    // A view's topic is the view's alone, a table's belongs to whoever writes it.
    if matches!(object.kind, Kind::View(_) | Kind::Sink(_))
        && let Some(topic) = object.topic()
    {
        match server.cluster.delete_topic(topic).await {
            Ok(()) | Err(log::Error::UnknownTopic(_)) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(warning)
}

fn left_outside(source: &str, left: Error) -> Error {
    let warning = Error::new(sqlstate::WARNING, format!("source \"{source}\" is dropped, but {left}"));
    Error { hint: left.hint.clone(), ..warning }.caused_by(left)
}
