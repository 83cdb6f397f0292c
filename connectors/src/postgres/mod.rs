//! The source `postgres`: tables of a PostgreSQL database, as they are and then every change, in commit order.
//!
//! SQL goes through tokio-postgres; the stream through a walsender client of our own. What is decided (framing,
//! pgoutput, assembly of transactions) is apart from what is done, and without IO.
#![allow(
    clippy::disallowed_methods,
    reason = "a shell around sockets: a database driver has its own tasks, sockets and clock; the assembly below it has not"
)]

pub mod config;

mod catalog;
mod check;
mod choice;
mod error;
mod position;
mod protocol;
mod rows;
mod server;
mod session;
mod snapshot;
mod source;
mod stream;
#[cfg(test)]
mod tests;
mod watch;

use async_trait::async_trait;
use engine::io::{Connector, Error, Finding, OptionSpec, Options, Sink, Source};

use self::config::{OPTIONS, Settings};
use self::source::PostgresSource;

/// The connector; it has no state.
#[derive(Debug)]
pub struct Postgres;

#[async_trait]
impl Connector for Postgres {
    fn name(&self) -> &'static str {
        "postgres"
    }

    fn options(&self) -> &'static [OptionSpec] {
        OPTIONS
    }

    async fn check(&self, name: &str, options: &Options) -> Result<Vec<Finding>, Error> {
        check::check(&Settings::new(name, options)?).await
    }

    async fn source(&self, name: &str, options: &Options) -> Result<Box<dyn Source>, Error> {
        Ok(Box::new(open(Settings::new(name, options)?).await?))
    }

    async fn remove(&self, name: &str, options: &Options) -> Result<(), Error> {
        server::remove_all(&Settings::new(name, options)?).await
    }

    async fn sink(&self, _name: &str, _options: &Options) -> Result<Box<dyn Sink>, Error> {
        Err(error::user("the connector postgres has no sink yet", "use the connector topic"))
    }
}

/// Finds the relations.
async fn open(settings: Settings) -> Result<PostgresSource, Error> {
    let client = server::connect(&settings).await?;
    let version = server::version(&client).await?;
    let tables = catalog::find(&client, &settings.tables).await?;
    Ok(PostgresSource::new(settings, tables, version))
}
