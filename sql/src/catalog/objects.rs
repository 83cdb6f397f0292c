//! [`Objects`]: everything that stands, and whether a change to it is allowed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use engine::graph::RelationId;

use super::{Class, DATABASE, Draft, Kind, Name, Object, Table};
use crate::error::{Error, Result, sqlstate};

/// One state of the catalog; cheap to hold, never changes.
#[derive(Clone, Debug, Default)]
pub struct Objects {
    by_id: BTreeMap<RelationId, Arc<Object>>,
    by_name: BTreeMap<(Class, Name), RelationId>,
    /// The last id ever given out.
    last_id: u64,
}

impl FromIterator<Object> for Objects {
    fn from_iter<T: IntoIterator<Item = Object>>(objects: T) -> Self {
        let mut out = Self::default();
        objects.into_iter().for_each(|object| out.insert(object));
        out
    }
}

impl Objects {
    pub fn get(&self, id: RelationId) -> Option<&Arc<Object>> {
        self.by_id.get(&id)
    }

    /// All objects in the order of their creation: what one rests on comes before it.
    pub fn all(&self) -> impl Iterator<Item = &Arc<Object>> {
        self.by_id.values()
    }

    pub fn of_class(&self, class: Class) -> impl Iterator<Item = &Arc<Object>> {
        self.by_id.values().filter(move |o| o.kind.class() == class)
    }

    pub fn find(&self, class: Class, name: &Name) -> Option<&Arc<Object>> {
        self.by_id.get(self.by_name.get(&(class, name.clone()))?)
    }

    /// A table or view.
    pub fn relation(&self, name: &Name) -> Option<&Arc<Object>> {
        self.find(Class::Relation, name)
    }

    /// The table or view that `parts` mean in a session connected to `database`: its own first, then those of the
    /// default database.
    pub fn lookup(&self, parts: &[String], database: &str) -> Result<Option<&Arc<Object>>> {
        match self.relation(&Name::resolve(parts, database)?) {
            Some(found) => Ok(Some(found)),
            None => Ok(self.relation(&Name::resolve(parts, DATABASE)?)),
        }
    }

    /// A source by its one name.
    pub fn source(&self, name: &str) -> Option<&Arc<Object>> {
        self.of_class(Class::Source).find(|o| o.name.name == name)
    }

    /// The tables that the source captures.
    pub fn tables_of<'a>(&'a self, source: &'a str) -> impl Iterator<Item = &'a Arc<Object>> {
        self.all().filter(move |o| matches!(&o.kind, Kind::Table(t) if t.source.as_deref() == Some(source)))
    }

    /// The sources that the object rests on, through tables and views.
    pub fn sources_of(&self, object: &Object) -> BTreeSet<String> {
        let (mut sources, mut seen, mut left) = (BTreeSet::new(), BTreeSet::new(), vec![object.id]);
        while let Some(id) = left.pop() {
            let Some(object) = self.get(id).filter(|_| seen.insert(id)) else { continue };
            if let Kind::Table(Table { source: Some(source), .. }) = &object.kind {
                sources.insert(source.clone());
            }
            left.extend(&object.depends_on);
        }
        sources
    }

    /// Databases one can connect to: `riverrun` and the sources.
    pub fn databases(&self) -> Vec<String> {
        let sources = self.of_class(Class::Source).map(|o| o.name.name.clone());
        std::iter::once(DATABASE.to_string()).chain(sources).collect()
    }

    /// Objects that rest on `id` directly.
    pub fn dependents(&self, id: RelationId) -> impl Iterator<Item = &Arc<Object>> {
        self.all().filter(move |o| o.depends_on.contains(&id))
    }

    /// What goes with the object when it is dropped: a source takes its tables with it.
    pub fn drop_set(&self, object: &Object) -> Vec<RelationId> {
        let mut set: Vec<RelationId> = match &object.kind {
            Kind::Source(_) => self.tables_of(&object.name.name).map(|t| t.id).collect(),
            _ => Vec::new(),
        };
        set.push(object.id);
        set
    }

    pub(super) fn last_id(&self) -> u64 {
        self.last_id
    }

    /// The objects that creating `drafts` together gives, or why they cannot be.
    pub(super) fn check_create(&self, drafts: Vec<Draft>) -> Result<Vec<Object>> {
        let mut names = BTreeSet::new();
        let mut out = Vec::with_capacity(drafts.len());
        for (id, draft) in (self.last_id + 1..).zip(drafts) {
            let class = draft.kind.class();
            let taken = self.find(class, &draft.name);
            if taken.is_some() || !names.insert((class, draft.name.clone())) {
                return Err(duplicate(&draft, taken));
            }
            if class == Class::Source && draft.name.name == DATABASE {
                return Err(Error::new(sqlstate::DUPLICATE_OBJECT, format!("database \"{DATABASE}\" already exists"))
                    .hint("a source is a database of its own: give it another name"));
            }
            if let Some(missing) = draft.depends_on.iter().find(|id| !self.by_id.contains_key(id)) {
                let message = format!("what \"{}\" reads was dropped meanwhile (id {})", draft.name, missing.0);
                return Err(Error::new(sqlstate::UNDEFINED_TABLE, message).hint("try again"));
            }
            let Draft { name, sql, depends_on, kind } = draft;
            out.push(Object { id: RelationId(id), name, sql, depends_on, kind });
        }
        Ok(out)
    }

    /// Whether these can go together: nothing that stays may rest on them.
    pub(super) fn check_drop(&self, ids: &[RelationId]) -> Result<Vec<Arc<Object>>> {
        let mut out = Vec::with_capacity(ids.len());
        for id in ids {
            let object = self.get(*id).ok_or_else(|| {
                Error::new(sqlstate::UNDEFINED_OBJECT, format!("the object with the id {} was dropped meanwhile", id.0))
            })?;
            if let Kind::Table(table) = &object.kind
                && let Some(source) = table.source.as_deref().and_then(|name| self.source(name))
                && !ids.contains(&source.id)
            {
                let message = format!("cannot drop table {} because source {} requires it", object.name, source.name);
                return Err(Error::new(sqlstate::DEPENDENT_OBJECTS_STILL_EXIST, message)
                    .hint(format!("you can drop source {} instead", source.name)));
            }
            out.push(Arc::clone(object));
        }
        self.check_dependents(&out)?;
        Ok(out)
    }

    fn check_dependents(&self, dropped: &[Arc<Object>]) -> Result<()> {
        let goes = |id: RelationId| dropped.iter().any(|o| o.id == id);
        let mut details = Vec::new();
        for object in dropped {
            for dependent in self.dependents(object.id).filter(|d| !goes(d.id)) {
                let (a, b) = (dependent.kind.word(), object.kind.word());
                details.push(format!("{a} {} depends on {b} {}", dependent.name, object.name));
            }
        }
        match (details.is_empty(), dropped.last()) {
            (false, Some(last)) => {
                let what = format!("{} {}", last.kind.word(), last.name);
                let message = format!("cannot drop {what} because other objects depend on it");
                Err(Error::new(sqlstate::DEPENDENT_OBJECTS_STILL_EXIST, message)
                    .detail(details.join("\n"))
                    .hint("drop the dependents first"))
            }
            _ => Ok(()),
        }
    }

    /// Takes in an object as it is stored.
    pub(super) fn insert(&mut self, object: Object) {
        self.last_id = self.last_id.max(object.id.0);
        self.by_name.insert((object.kind.class(), object.name.clone()), object.id);
        self.by_id.insert(object.id, Arc::new(object));
    }

    pub(super) fn remove(&mut self, id: RelationId) {
        if let Some(object) = self.by_id.remove(&id) {
            self.by_name.remove(&(object.kind.class(), object.name.clone()));
        }
    }

    /// Ids up to here have been used, whether or not their objects still stand.
    pub(super) fn used(&mut self, id: u64) {
        self.last_id = self.last_id.max(id);
    }
}

fn duplicate(draft: &Draft, taken: Option<&Arc<Object>>) -> Error {
    let word = taken.map_or(draft.kind.word(), |o| o.kind.word());
    match draft.kind.class() {
        Class::Relation => {
            Error::new(sqlstate::DUPLICATE_TABLE, format!("relation \"{}\" already exists", draft.name.name))
                .detail(format!("it is a {word}"))
        }
        _ => Error::new(sqlstate::DUPLICATE_OBJECT, format!("{word} \"{}\" already exists", draft.name.name)),
    }
}
