//! The names of a session: what a relation's name means where it is connected, and what the catalog tells of it.

use std::sync::Arc;

use datafusion::catalog::TableProvider;
use datafusion::common::TableReference;

use super::server::Server;
use super::settings::Settings;
use crate::catalog::{Class, DATABASE, Kind, SCHEMA};
use crate::error::Result;
use crate::query::pg_catalog::{World, WorldRelation};
use crate::query::{Meaning, Names};

/// One statement's view of the names.
pub struct SessionNames {
    pub server: Arc<Server>,
    pub database: Arc<str>,
    pub user: Arc<str>,
    pub settings: Settings,
}

impl Names for SessionNames {
    fn database(&self) -> Arc<str> {
        Arc::clone(&self.database)
    }

    fn meaning(&self) -> Meaning {
        Meaning { objects: self.server.catalog.objects(), topics: *self.server.topics.borrow() }
    }
    fn table(&self, name: &TableReference) -> Result<Option<Arc<dyn TableProvider>>> {
        let parts = [name.catalog(), name.schema(), Some(name.table())];
        let parts: Vec<String> = parts.into_iter().flatten().map(str::to_owned).collect();
        Ok(self.server.readable(&self.database, &parts)?.map(|relation| Arc::new(relation) as Arc<dyn TableProvider>))
    }

    fn world(&self) -> World {
        let objects = self.server.catalog.objects();
        let mut relations = Vec::new();
        let mut topics = Vec::new();
        for object in objects.of_class(Class::Relation) {
            topics.extend(object.topic().map(str::to_owned));
            if object.name.database != *self.database {
                continue;
            }
            let Ok(columns) = object.schema() else { continue };
            let (kind, definition) = match &object.kind {
                Kind::View(view) => ('m', Some(view.query.clone())),
                _ => ('r', None),
            };
            relations.push(WorldRelation {
                schema: object.name.schema.clone(),
                name: object.name.name.clone(),
                kind,
                columns,
                key: object.key().unwrap_or_default().to_vec(),
                definition,
            });
        }
        if *self.database == *DATABASE {
            // Topics that nobody has declared can be read as they are.
            let undeclared = self
                .server
                .cluster
                .topics()
                .into_iter()
                .filter(|t| !t.name.starts_with("__") && !topics.contains(&t.name));
            relations.extend(undeclared.filter_map(|topic| {
                let columns = self.server.raw(topic.clone()).ok()?.schema;
                let (schema, kind) = (SCHEMA.to_owned(), 'f');
                Some(WorldRelation { schema, name: topic.name, kind, columns, key: Vec::new(), definition: None })
            }));
        }
        relations.sort_by(|a, b| (&a.schema, &a.name).cmp(&(&b.schema, &b.name)));
        World {
            database: self.database.to_string(),
            user: self.user.to_string(),
            databases: objects.databases(),
            relations,
            settings: (self.settings.all().into_iter())
                .map(|(name, value, help)| (name.to_owned(), value.to_owned(), help.to_owned()))
                .collect(),
        }
    }
}
