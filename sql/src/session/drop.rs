//! `DROP`: refused while something that stays rests on the object.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::ddl::{Changed, own_name};
use super::server::Server;
use super::topics;
use crate::catalog::{Class, Kind, Object};
use crate::error::{Error, Result, sqlstate};
use crate::parse::{self, Drop, DropKind};

pub async fn drop_objects(server: &Server, drop: &Drop, database: &str) -> Result<Changed> {
    let tag = match drop.kind {
        DropKind::Source => "DROP SOURCE",
        DropKind::Table => "DROP TABLE",
        DropKind::View => "DROP MATERIALIZED VIEW",
        DropKind::Sink => "DROP SINK",
    };
    let mut notices = Vec::new();
    let mut found = Vec::new();
    for name in &drop.names {
        match find(server, drop.kind, name, database)? {
            Some(object) if found.iter().any(|known: &Arc<Object>| known.id == object.id) => {}
            Some(object) => found.push(object),
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
    // Nothing goes where one of them cannot.
    let objects = server.catalog.objects();
    let all: BTreeSet<_> = found.iter().flat_map(|object| objects.drop_set(object)).collect();
    for object in &found {
        let set = objects.drop_set(object);
        if set.iter().any(|id| objects.dependents(*id).any(|dependent| !all.contains(&dependent.id))) {
            // Says by whom it is needed.
            server.catalog.drop(set).await?;
        }
    }
    // What rests on another goes before it.
    let mut left = found;
    while let Some(at) = left.iter().position(|object| {
        let set = objects.drop_set(object);
        let others = |id| left.iter().any(|other| other.id == id && other.id != object.id);
        !set.iter().any(|id| objects.dependents(*id).any(|d| !set.contains(&d.id) && others(d.id)))
    }) {
        let object = left.remove(at);
        notices.extend(drop_object(server, &object).await?);
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
pub async fn drop_object(server: &Server, object: &crate::catalog::Object) -> Result<Option<Error>> {
    let objects = server.catalog.objects();
    let set = objects.drop_set(object);
    if set.iter().any(|id| objects.dependents(*id).any(|d| !set.contains(&d.id))) {
        // Says by whom it is needed.
        return server.catalog.drop(set).await.map(|_| None);
    }
    let mut warning = None;
    if let Kind::Source(source) = &object.kind {
        let running = server.sources.is_running(&object.name.name);
        let removed = match running {
            true => server.sources.remove(&object.name.name).await,
            // What does not run has a slot and a publication all the same.
            false => server.remove_absent(&object.name.name, source).await,
        };
        match removed {
            Ok(left) => warning = left.map(|left| left_outside(&object.name.name, left)),
            Err(error) => {
                if running {
                    server.start_source(object, source, None, false)?;
                }
                return Err(error);
            }
        }
    }
    for id in &set {
        server.forget(*id).await?;
    }
    server.catalog.drop(set).await?;
    topics::mark(server).await?;
    // A view's topic is the view's alone, a table's belongs to whoever writes it.
    if let (Kind::View(_) | Kind::Sink(_), Some(topic)) = (&object.kind, object.topic()) {
        topics::remove(server, topic).await?;
    }
    Ok(warning)
}

fn left_outside(source: &str, left: Error) -> Error {
    let warning = Error::new(sqlstate::WARNING, format!("source \"{source}\" is dropped, but {left}"));
    Error { hint: left.hint.clone(), ..warning }.caused_by(left)
}
