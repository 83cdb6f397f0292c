//! [`Server`]: what all sessions share, and its start: everything the catalog names is made to stand again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use datafusion::common::Constraints;
use engine::codec::{Decode, Format};
use engine::graph::RelationId;
use engine::io::Connector;
use engine::job::{Engine, TableDef, ViewDef};
use engine::run::positions;
use tokio::sync::{Semaphore, watch};

use super::sources::{self, Sources, Start};
use super::topics;
use crate::Boxed;
use crate::catalog::{Catalog, Class, DATABASE, Kind, Name, Object, OnError};
use crate::error::{Error, Result, nearest, sqlstate};
use crate::plan;
use crate::query::relation::{Relation, Rows};
use crate::query::{Queries, QueryLimits};

/// Idle producers that are kept for the next INSERT.
const PRODUCERS_KEPT: usize = 8;

/// What a server is made of.
pub struct ServerConfig {
    pub env: log::Env,
    pub cluster: Arc<dyn log::Cluster>,
    pub engine: Engine,
    pub connectors: Vec<Arc<dyn Connector>>,
    pub formats: Vec<Arc<dyn Format>>,
    pub queries: QueryLimits,
}

/// How one source stands.
#[derive(Clone, Debug)]
pub struct SourceReport {
    pub name: String,
    /// `starting`, `snapshot`, `running`, `retrying`, `failed`, `stopped` or `absent`.
    pub state: &'static str,
    /// Records committed to the log since the start of the process.
    pub rows: u64,
    /// Age of the newest record when it was committed.
    pub lag_ms: i64,
    pub detail: Option<String>,
}

/// What all sessions share.
pub struct Server {
    pub env: log::Env,
    pub cluster: Arc<dyn log::Cluster>,
    pub engine: Engine,
    pub catalog: Catalog,
    pub queries: Queries,
    pub sources: Sources,
    pub producers: Producers,
    /// Counts changes of the topics.
    pub topics: watch::Receiver<u64>,
    /// Definitions change one after the other.
    pub turns: Semaphore,
    connectors: Vec<Arc<dyn Connector>>,
    formats: Vec<Arc<dyn Format>>,
}

impl Server {
    /// Reads the catalog, hands everything in it to the engine and lets that go on.
    pub fn start(config: ServerConfig) -> Boxed<Result<Arc<Self>>> {
        Box::pin(Self::open(config))
    }

    async fn open(config: ServerConfig) -> Result<Arc<Self>> {
        let catalog = Catalog::start(&config.env, &config.cluster).await?;
        let queries = Queries::new(config.engine.clone(), Arc::clone(&config.cluster), config.queries)?;
        let topics = config.cluster.watch_topics();
        let server = Arc::new(Self {
            env: config.env,
            cluster: config.cluster,
            engine: config.engine,
            catalog,
            queries,
            sources: Sources::default(),
            producers: Producers::default(),
            topics,
            turns: Semaphore::new(1),
            connectors: config.connectors,
            formats: config.formats,
        });
        server.reconcile().await?;
        server.engine.resume().await?;
        Ok(server)
    }

    /// Objects in the order of their creation: what one rests on comes before it.
    async fn reconcile(&self) -> Result<()> {
        for topic in self.cluster.topics().into_iter().filter(|t| topics::is_left_over(self, t)) {
            tracing::info!(topic = topic.name, "the topic of an unfinished creation or drop is removed");
            self.cluster.delete_topic(&topic.name).await?;
        }
        let stored = positions::load(&*self.cluster)
            .await
            .map_err(|e| Error::new(sqlstate::IO_ERROR, "the positions of sources cannot be read").caused_by(e))?;
        for object in self.catalog.objects().all() {
            let done = match &object.kind {
                Kind::Source(source) => {
                    let snapshot_done = stored.get(&object.name.name).is_some_and(|s| s.snapshot_done);
                    self.start_source(object, source, None, snapshot_done)
                }
                Kind::Table(_) => self.add_table(object).await,
                Kind::View(_) | Kind::Sink(_) => self.add_view(object).await,
            };
            if let Err(error) = done {
                // The others go on; what reads this one says that it is absent.
                let (name, detail) = (&object.name, error.detail.as_deref().unwrap_or_default());
                tracing::error!(%name, %error, detail, "a {} does not stand", object.kind.word());
            }
        }
        topics::mark(self).await
    }

    /// Starts to follow a source whose tables stand in the catalog.
    pub fn start_source(
        &self,
        object: &Object,
        source: &crate::catalog::Source,
        connected: Option<Box<dyn engine::io::Source>>,
        snapshot_done: bool,
    ) -> Result<()> {
        let name = &object.name.name;
        let mut topics = BTreeMap::new();
        for table in self.catalog.objects().tables_of(name) {
            let Kind::Table(definition) = &table.kind else { continue };
            let topic = self.topic(&definition.topic, definition.topic_id)?;
            topics.insert((table.name.schema.clone(), table.name.name.clone()), topic);
        }
        self.sources.start(Start {
            env: self.env.clone(),
            cluster: Arc::clone(&self.cluster),
            connector: Arc::clone(self.connector(&source.connector)?),
            name: name.clone(),
            options: source.options.clone(),
            topics,
            source: connected,
            snapshot_done,
        });
        Ok(())
    }

    /// Removes what a source that does not run has left outside, and its position. Gives back why something may be left
    /// outside, where it could not be removed.
    pub async fn remove_absent(&self, name: &str, source: &crate::catalog::Source) -> Result<Option<Error>> {
        let connector = Arc::clone(self.connector(&source.connector)?);
        Ok(sources::remove_alone(&*self.cluster, &*connector, name, &source.options).await?.map(Error::from))
    }

    /// Hands a table to the engine.
    pub async fn add_table(&self, object: &Object) -> Result<()> {
        let Kind::Table(table) = &object.kind else { return Err(Error::bug("a table was expected")) };
        let gate = table.source.as_deref().and_then(|source| self.sources.gate(source));
        let topic = self.topic(&table.topic, table.topic_id)?;
        self.engine
            .add_table(TableDef {
                id: object.id,
                name: object.name.to_string(),
                topic,
                schema: object.schema()?,
                key: table.key.clone(),
                decode: self.decode(object)?,
                gate,
            })
            .await
            .map_err(|error| self.named(error))
    }

    /// Hands a view or a topic sink to the engine.
    pub async fn add_view(&self, object: &Object) -> Result<()> {
        let objects = self.catalog.objects();
        let plan::JobPlan { graph, plan_version } = plan::job(&objects, object)?;
        let missing = || Error::bug("a view without a topic");
        let (topic_id, format, options) = match &object.kind {
            Kind::View(view) => (view.topic_id, &view.format, view.options.clone()),
            Kind::Sink(sink) => {
                let format = sink.format.as_ref().ok_or_else(missing)?;
                (sink.topic_id.ok_or_else(missing)?, format, BTreeMap::new())
            }
            _ => return Err(Error::bug("a view was expected")),
        };
        // A sink has the rows of what it reads.
        let shape = match &object.kind {
            Kind::Sink(sink) => objects.get(sink.from).ok_or_else(|| Error::bug("a sink from nowhere"))?,
            _ => object,
        };
        let schema = shape.schema()?;
        let encode = self.format(format)?.encode(Arc::clone(&schema), shape.key(), shape.append_only(), &options);
        let encode = encode.map_err(|reason| Error::new(sqlstate::INVALID_PARAMETER_VALUE, reason))?;
        let topic = self.topic(object.topic().ok_or_else(missing)?, topic_id)?;
        self.engine
            .add_view(ViewDef {
                id: object.id,
                name: object.name.to_string(),
                graph,
                schema,
                key: shape.key().map(<[usize]>::to_vec),
                append_only: shape.append_only(),
                topic,
                encode: encode.into(),
                plan_version,
                queryable: matches!(object.kind, Kind::View(_)),
            })
            .await
            .map_err(|error| self.named(error))
    }

    /// How the sources stand, for metrics and people.
    pub fn source_reports(&self) -> Vec<SourceReport> {
        let objects = self.catalog.objects();
        let sources = objects.of_class(Class::Source).map(|object| {
            let name = object.name.name.clone();
            let status = self.sources.status(&name);
            SourceReport { name, state: status.state, rows: status.rows, lag_ms: status.lag_ms, detail: status.detail }
        });
        sources.collect()
    }

    /// Why nothing new comes to a table, view or sink: a source it rests on has failed.
    pub fn stalled(&self, object: &Object) -> Option<String> {
        self.catalog.objects().sources_of(object).iter().find_map(|name| self.sources.failure(name))
    }

    /// The names of all relations to which nothing new comes.
    pub fn stalled_relations(&self) -> BTreeSet<String> {
        let objects = self.catalog.objects();
        let stalled = objects.of_class(Class::Relation).filter(|object| self.stalled(object).is_some());
        stalled.map(|object| object.name.to_string()).collect()
    }

    /// Ends everything that runs; the log and the engine go on.
    pub fn stop(self: &Arc<Self>) -> Boxed<()> {
        let server = Arc::clone(self);
        Box::pin(async move { server.sources.stop().await })
    }

    pub fn connector(&self, name: &str) -> Result<&Arc<dyn Connector>> {
        self.connectors.iter().find(|c| c.name() == name).ok_or_else(|| {
            let names: Vec<&str> = self.connectors.iter().map(|c| c.name()).collect();
            let message = format!("connector \"{name}\" does not exist");
            let error = Error::new(sqlstate::UNDEFINED_OBJECT, message);
            match nearest(name, names.iter().copied()) {
                Some(near) => error.hint(format!("did you mean \"{near}\"?")),
                None => error.hint(format!("connectors: {}", names.join(", "))),
            }
        })
    }

    pub fn format(&self, name: &str) -> Result<&Arc<dyn Format>> {
        self.formats.iter().find(|f| f.name() == name).ok_or_else(|| {
            let names: Vec<&str> = self.formats.iter().map(|f| f.name()).collect();
            Error::new(sqlstate::UNDEFINED_OBJECT, format!("format \"{name}\" does not exist"))
                .hint(format!("formats: {}", names.join(", ")))
        })
    }

    /// The topic of this name, when it is still the one of that id.
    pub fn topic(&self, name: &str, id: log::TopicId) -> Result<log::Topic> {
        match self.cluster.topic(name) {
            Some(topic) if topic.id == id => Ok(topic),
            Some(_) => Err(Error::new(
                sqlstate::OBJECT_NOT_IN_PREREQUISITE_STATE,
                format!("topic \"{name}\" is another one now"),
            )
            .detail("it was deleted and created again by somebody else")
            .hint("drop what rests on it and create that again")),
            None => Err(Error::new(sqlstate::OBJECT_NOT_IN_PREREQUISITE_STATE, format!("topic \"{name}\" is gone"))
                .hint("drop what rests on it and create that again")),
        }
    }

    /// How the records of a table become rows.
    pub fn decode(&self, object: &Object) -> Result<Arc<dyn Decode>> {
        let Kind::Table(table) = &object.kind else { return Err(Error::bug("a table was expected")) };
        if table.on_error == OnError::DeadLetter {
            return Err(Error::unsupported("on_error = 'dead_letter'"));
        }
        let format = self.format(&table.format)?;
        let decode = format.decode(Some(object.schema()?), &table.key, &table.options);
        Ok(decode.map_err(|reason| Error::new(sqlstate::INVALID_PARAMETER_VALUE, reason))?.into())
    }

    /// The database that a client asks for. Without one, and where a client takes the name of its user or of
    /// PostgreSQL's own first database for one, it is `riverrun`.
    pub fn database(&self, asked: Option<&str>, user: &str) -> Result<String> {
        let Some(asked) = asked else { return Ok(DATABASE.into()) };
        let databases = self.catalog.objects().databases();
        if databases.iter().any(|d| d == asked) {
            return Ok(asked.into());
        }
        if asked == user || asked == "postgres" {
            return Ok(DATABASE.into());
        }
        Err(Error::new(sqlstate::INVALID_CATALOG_NAME, format!("database \"{asked}\" does not exist"))
            .hint(format!("databases: {}", databases.join(", "))))
    }

    /// The table or view that a name means in a session connected to `database`: first there, then in `riverrun`.
    pub fn relation(&self, database: &str, parts: &[String]) -> Result<Option<Arc<Object>>> {
        let objects = self.catalog.objects();
        if parts.len() > 3 {
            return Ok(None);
        }
        let here = objects.relation(&Name::resolve(parts, database)?).cloned();
        Ok(match here {
            None if database != DATABASE => objects.relation(&Name::resolve(parts, DATABASE)?).cloned(),
            found => found,
        })
    }

    /// What a SELECT can read under a name: a table, a view, or a topic that nobody has declared.
    pub fn readable(&self, database: &str, parts: &[String]) -> Result<Option<Relation>> {
        if let Some(object) = self.relation(database, parts)? {
            return self.readable_object(&object).map(Some);
        }
        match self.cluster.topic(&parts.join(".")) {
            Some(topic) => self.raw(topic).map(Some),
            None => Ok(None),
        }
    }

    fn readable_object(&self, object: &Object) -> Result<Relation> {
        let rows = match &object.kind {
            Kind::Table(table) if table.append_only => {
                let topic = self.topic(&table.topic, table.topic_id)?;
                Rows::Appended { id: Some(object.id), topic, decode: self.decode(object)? }
            }
            _ => Rows::Stored(object.id),
        };
        Ok(Relation {
            name: object.name.to_string(),
            schema: object.schema()?,
            key: object.key().unwrap_or_default().to_vec(),
            view: matches!(object.kind, Kind::View(_)),
            constraints: object.constraints(object.key()),
            rows,
        })
    }

    /// A topic as it is: key, value, headers, partition, offset, timestamp.
    pub fn raw(&self, topic: log::Topic) -> Result<Relation> {
        let decode = self.format("raw")?.decode(None, &[], &BTreeMap::new());
        let decode: Arc<dyn Decode> = decode.map_err(Error::bug)?.into();
        let (name, schema) = (topic.name.clone(), decode.schema());
        let rows = Rows::Appended { id: None, topic, decode };
        Ok(Relation { name, schema, key: Vec::new(), view: false, constraints: Constraints::default(), rows })
    }

    /// The engine's error, with the names of relations where it has only their ids.
    fn named(&self, error: engine::job::Error) -> Error {
        use engine::job::Error as E;
        let (E::UnknownRelation(id) | E::UnknownInput { input: id, .. } | E::RelationExists(id)) = &error else {
            return error.into();
        };
        let objects = self.catalog.objects();
        let Some(object) = objects.get(*id) else { return error.into() };
        let what = if matches!(error, E::RelationExists(_)) { "runs already" } else { "does not run" };
        let message = format!("{} {} {what}", object.kind.word(), object.name);
        Error::new(sqlstate::OBJECT_NOT_IN_PREREQUISITE_STATE, message).caused_by(error)
    }

    /// Takes a table, a view or a sink from the engine; one that it does not run is as good.
    pub async fn forget(&self, id: RelationId) -> Result<()> {
        match self.engine.remove(id).await {
            Ok(()) | Err(engine::job::Error::UnknownRelation(_)) => Ok(()),
            Err(error) => Err(self.named(error)),
        }
    }
}

/// Producers of transactions that INSERT writes, used again and again.
#[derive(Default)]
pub struct Producers(Mutex<Pool>);

#[derive(Default)]
struct Pool {
    made: u64,
    idle: Vec<Box<dyn log::Producer>>,
}

impl Producers {
    /// One that nobody else uses.
    pub async fn take(&self, cluster: &dyn log::Cluster) -> Result<Box<dyn log::Producer>> {
        let id = {
            let mut pool = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(idle) = pool.idle.pop() {
                return Ok(idle);
            }
            pool.made += 1;
            format!("sql:insert-{}", pool.made)
        };
        Ok(cluster.producer(&id).await?)
    }

    /// Gives one back whose transaction is committed.
    pub fn put(&self, producer: Box<dyn log::Producer>) {
        let mut pool = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if pool.idle.len() < PRODUCERS_KEPT {
            pool.idle.push(producer);
        }
    }
}
