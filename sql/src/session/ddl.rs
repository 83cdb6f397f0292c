//! `CREATE`: topics, catalog and engine are changed in an order that a crash may cut anywhere: what the
//! catalog names is made to stand at the next start, what it does not name is nobody's.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::datatypes::Schema;
use engine::io::{Finding, SourceRelation};
use engine::job::JobState;

use super::server::Server;
use super::topics::{create_topic, keep_all, output_topic};
use super::{drop, options, topics};
use crate::catalog::{Class, Column, DATABASE, Draft, Kind, Name, Object, OnError, Sink, Source, Table, View};
use crate::error::{Error, Result, sqlstate};
use crate::parse::{self, CreateSink, CreateSource, CreateTable, CreateView, Options, Parsed, Statement};
use crate::plan;
use crate::types::ColumnType;

/// The answer to a definition: the command tag and what there is to say besides.
pub type Changed = (&'static str, Vec<Error>);

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
        Statement::Drop(objects) => drop::drop_objects(server, objects, database).await,
        _ => Err(Error::bug("a definition was expected")),
    }
}

/// New objects of people belong to `riverrun`, wherever they are connected.
pub fn own_name(name: &parse::Name) -> Result<Name> {
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
    let mut given = create.options.clone();
    let connector_name = given
        .take("connector")
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
    topics::mark(server).await?;
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
    let topic = topics::source_topic(server, source, &name.topic(), PARTITIONS).await?;
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
    let decode = decode.map_err(|reason| refused_by_format(reason, &options))?;
    let columns = if columns.is_empty() { Column::all_of(&decode.schema())? } else { columns };
    let (topic, fresh) = match server.cluster.topic(&topic_name) {
        Some(topic) => (topic, None),
        None => {
            let topic = create_topic(server, &topic_name, partitions, keep_all()).await?;
            (topic.clone(), Some(topic))
        }
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
    stand(server, draft, fresh.as_ref()).await?;
    Ok((TAG, Vec::new()))
}

/// What a format says against the options or columns that are given.
fn refused_by_format(reason: String, options: &Options) -> Error {
    let at = options.place_named(&reason);
    Error::new(sqlstate::INVALID_PARAMETER_VALUE, reason).at(at)
}

/// Writes an object into the catalog and hands it to the engine; when that fails all is as before. `fresh` is a topic
/// that was created for it.
async fn stand(server: &Server, draft: Draft, fresh: Option<&log::Topic>) -> Result<()> {
    let created = server.catalog.create(vec![draft]).await;
    let done = match &created {
        Ok(created) => take_in(server, created).await,
        Err(_) => Ok(()),
    };
    let (created, error) = match (created, done) {
        (Ok(_), Ok(())) => return Ok(()),
        (Ok(created), Err(error)) => (created, error),
        (Err(error), _) => (Vec::new(), error),
    };
    if let Err(left) = take_back(server, &created, fresh).await {
        // The next start finds it and says so.
        tracing::error!(error = %left, "what a failed creation has left could not be removed");
    }
    Err(error)
}

async fn take_in(server: &Server, created: &[Arc<Object>]) -> Result<()> {
    topics::mark(server).await?;
    for object in created {
        match &object.kind {
            Kind::Table(_) => server.add_table(object).await?,
            Kind::View(_) | Kind::Sink(_) => server.add_view(object).await?,
            Kind::Source(_) => return Err(Error::bug("a source comes with its tables")),
        }
    }
    Ok(())
}

async fn take_back(server: &Server, created: &[Arc<Object>], fresh: Option<&log::Topic>) -> Result<()> {
    for object in created {
        server.forget(object.id).await?;
    }
    if !created.is_empty() {
        server.catalog.drop(created.iter().map(|object| object.id).collect()).await?;
    }
    match fresh {
        Some(topic) => topics::remove(server, &topic.name).await,
        None => topics::mark(server).await,
    }
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
    let mut declared = Vec::new();
    let done = match declare_topics(server, &plan::relations(&create.query), database, &mut declared).await {
        Ok(()) => create_view_over(server, create, text, database, name).await,
        Err(error) => Err(error),
    };
    finish_declared(server, &declared, done).await.map(|notices| (TAG, notices))
}

/// Creates the view: all that it reads is declared.
async fn create_view_over(server: &Server, create: &CreateView, text: &str, database: &str, name: Name) -> Result<()> {
    let planned = plan::view(&server.catalog.objects(), create, database)?;
    let mut options = create.options.clone();
    options.take("key");
    let format_name = options.take("format").unwrap_or_else(|| "json".into());
    let partitions = partitions(options.take("partitions"))?;
    let format = server.format(&format_name)?;
    let encode = format.encode(Arc::clone(&planned.schema), planned.key.as_deref(), planned.append_only, &options.0);
    encode.map_err(|reason| refused_by_format(reason, &options))?;
    let compacted = planned.key.is_some() || !planned.append_only;
    check_count(&planned.schema, compacted && planned.key.is_none(), &format_name, create.name.location)?;
    check_runs(server, planned.inputs.iter().map(|input| input.relation))?;
    let topic = output_topic(server, &name.topic(), &topics::of_view(&name), partitions, compacted).await?;
    let depends_on = planned.inputs.iter().map(|input| input.relation).collect();
    let view = View {
        columns: Column::all_of(&planned.schema)?,
        key: planned.key,
        append_only: planned.append_only,
        topic: topic.name.clone(),
        topic_id: topic.id,
        format: format_name,
        options: options.0,
        query: create.query.text.clone(),
        database: database.to_owned(),
        inputs: planned.inputs,
        plan_version: planned.plan_version,
    };
    let draft = Draft { name, sql: text.to_owned(), depends_on, kind: Kind::View(view) };
    stand(server, draft, Some(&topic)).await
}

/// Records of a relation whose whole row is the key carry its count beside the columns.
fn check_count(schema: &Schema, counted: bool, format: &str, at: Option<crate::error::Location>) -> Result<()> {
    const COUNT: &str = "_count";
    if !counted || format != "json" || schema.index_of(COUNT).is_err() {
        return Ok(());
    }
    let message = format!("column name \"{COUNT}\" conflicts with the count that its records carry");
    Err(Error::new(sqlstate::DUPLICATE_COLUMN, message)
        .at(at)
        .detail("the rows have no key, and may be there several times")
        .hint("name the column differently, or give a key: WITH (key = '…')"))
}

/// Nothing can be created over what has stopped: it would never show a row.
fn check_runs(server: &Server, mut inputs: impl Iterator<Item = engine::graph::RelationId>) -> Result<()> {
    let (jobs, objects) = (server.engine.jobs(), server.catalog.objects());
    let stopped = inputs.find_map(|id| {
        let name = || objects.get(id).map_or_else(|| id.0.to_string(), |object| object.name.to_string());
        match jobs.iter().find(|job| job.id == id).map(|job| &job.state) {
            None => Some((name(), "it does not run".to_owned())),
            Some(JobState::Failed { reason }) => Some((name(), reason.clone())),
            Some(_) => None,
        }
    });
    match stopped {
        None => Ok(()),
        Some((name, reason)) => {
            Err(Error::new(sqlstate::OBJECT_NOT_IN_PREREQUISITE_STATE, format!("{name} has stopped")).detail(reason))
        }
    }
}

/// Declares, as tables of the format raw, topics among `names` that nobody has declared: views and sinks rest on objects
/// of the catalog. What has been declared stands in `out`, also when an error ends it.
async fn declare_topics(
    server: &Server,
    names: &[parse::Name],
    database: &str,
    out: &mut Vec<Arc<Object>>,
) -> Result<()> {
    for name in names {
        let topic = name.parts.join(".");
        if topic.starts_with("__")
            || server.cluster.topic(&topic).is_none()
            || server.relation(database, &name.parts)?.is_some()
        {
            continue;
        }
        let hint = format!("declare it: CREATE TABLE … WITH (topic = '{topic}', format = '…')");
        let full = own_name(name).map_err(|e| Error { hint: Some(hint), ..e })?;
        let quoted: Vec<String> = name.parts.iter().map(|part| format!("\"{}\"", part.replace('"', "\"\""))).collect();
        let text = format!("CREATE TABLE {} WITH (topic = '{topic}', format = 'raw')", quoted.join("."));
        let (columns, primary_key) = (Vec::new(), Vec::new());
        let mut options = Options::default();
        options.0.extend([("topic".to_owned(), topic), ("format".to_owned(), "raw".to_owned())]);
        let create = CreateTable { name: name.clone(), if_not_exists: false, columns, primary_key, options };
        create_table(server, &create, &text).await?;
        out.extend(server.catalog.objects().relation(&full).cloned());
    }
    Ok(())
}

/// The notices about what was declared, or the error, with the declarations taken back.
async fn finish_declared(server: &Server, declared: &[Arc<Object>], done: Result<()>) -> Result<Vec<Error>> {
    match done {
        Ok(()) => {
            let notice = |object: &Arc<Object>| {
                let message =
                    format!("topic \"{0}\" is declared: it is now the table {0}, in the format raw", object.name);
                Error::new(sqlstate::SUCCESSFUL_COMPLETION, message)
            };
            Ok(declared.iter().map(notice).collect())
        }
        Err(error) => {
            if let Err(left) = take_back(server, declared, None).await {
                tracing::error!(error = %left, "what a failed creation has declared could not be removed");
            }
            Err(error)
        }
    }
}

pub fn explain_view(server: &Server, create: &CreateView, database: &str) -> Result<Vec<String>> {
    let planned = plan::view(&server.catalog.objects(), create, database)?;
    Ok(planned.explain.lines().map(str::to_owned).collect())
}

async fn create_sink(server: &Server, create: &CreateSink, text: &str, database: &str) -> Result<Changed> {
    const TAG: &str = "CREATE SINK";
    let name = own_name(&create.name)?;
    if let Some(notice) = exists(server, Class::Sink, &name, create.if_not_exists) {
        return Ok((TAG, vec![notice]));
    }
    let mut declared = Vec::new();
    let done = match declare_topics(server, std::slice::from_ref(&create.from), database, &mut declared).await {
        Ok(()) => create_sink_over(server, create, text, database, name).await,
        Err(error) => Err(error),
    };
    finish_declared(server, &declared, done).await.map(|notices| (TAG, notices))
}

async fn create_sink_over(server: &Server, create: &CreateSink, text: &str, database: &str, name: Name) -> Result<()> {
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
    check_count(from.schema()?.as_ref(), compacted && from.key().is_none(), &format_name, create.from.location)?;
    check_runs(server, [from.id].into_iter())?;
    let topic = output_topic(server, &topic_name, &topics::of_sink(&name), partitions, compacted).await?;
    let sink = Sink {
        from: from.id,
        connector: "topic".into(),
        options: BTreeMap::new(),
        topic: Some(topic.name.clone()),
        topic_id: Some(topic.id),
        format: Some(format_name),
    };
    let draft = Draft { name, sql: text.to_owned(), depends_on: vec![from.id], kind: Kind::Sink(sink) };
    stand(server, draft, Some(&topic)).await
}
