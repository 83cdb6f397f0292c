//! [`Watch`]: looks, beside the stream, at what the stream is silent about: whether every captured table is still
//! published, wholly, and whether its key still is one.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use engine::io;
use tokio::sync::{mpsc, oneshot};
use tokio_postgres::Client;

use super::catalog::{self, Table};
use super::config::Settings;
use super::error::Error;
use super::rows::table::Pinned;
use super::server;

/// How often it is asked whether a transaction has come to its end for others.
const VISIBLE_POLL: Duration = Duration::from_millis(10);

/// Whether a transaction, by its number, still has one of these tables to itself, as whoever changes a key must. It keeps
/// its locks until others see what it did.
const CHANGING: &str = "
    SELECT EXISTS (SELECT FROM pg_locks x JOIN pg_locks t USING (virtualtransaction)
    WHERE x.locktype = 'transactionid' AND x.transactionid = $1::text::xid AND x.mode = 'ExclusiveLock'
      AND t.locktype = 'relation' AND t.relation = ANY($2) AND t.mode = 'AccessExclusiveLock')";

/// Looks now and then, and when [`Doubts`] ask.
pub struct Watch {
    client: Client,
    settings: Settings,
    captured: Arc<[Pinned]>,
    /// The publication's entries of the tables, when it was looked for the first time.
    entries: HashMap<u32, u32>,
    doubts: mpsc::Receiver<Doubt>,
}

/// Asks a [`Watch`] to look at once. One that finds something ends the stream instead of answering.
pub struct Doubts(mpsc::Sender<Doubt>);

struct Doubt {
    /// The transaction that may have changed a table, and has been committed.
    xid: u32,
    reply: oneshot::Sender<()>,
}

impl Doubts {
    pub async fn settle(&self, xid: u32, patience: Duration) -> Result<(), Error> {
        let (reply, answer) = oneshot::channel();
        let asking = async {
            self.0.send(Doubt { xid, reply }).await.map_err(|_| Error::Closed)?;
            answer.await.map_err(|_| Error::Closed)
        };
        tokio::time::timeout(patience, asking).await.map_err(|_| Error::Timeout(patience))?
    }
}

impl Watch {
    /// Looks once; an error says that the stream must not go on.
    pub async fn begin(
        client: Client,
        settings: Settings,
        captured: Arc<[Pinned]>,
    ) -> Result<(Watch, Doubts), io::Error> {
        let (ask, doubts) = mpsc::channel(1);
        let mut watch = Watch { client, settings, captured, entries: HashMap::new(), doubts };
        watch.entries = watch.look().await?;
        Ok((watch, Doubts(ask)))
    }

    /// Returns what it found. A connection that fails is made anew: that the server cannot be reached is the stream's to
    /// tell.
    pub async fn run(mut self) -> io::Error {
        loop {
            let asked = tokio::select! {
                biased;
                Some(asked) = self.doubts.recv() => Some(asked),
                () = tokio::time::sleep(self.settings.pace.watch) => None,
            };
            loop {
                match self.look_again(asked.as_ref().map(|doubt| doubt.xid)).await {
                    Ok(()) => break,
                    Err(lost @ io::Error::Lost { .. }) => return lost,
                    Err(error) => {
                        let source = &self.settings.source;
                        tracing::warn!(source, %error, "whether all tables are still captured cannot be seen");
                        tokio::time::sleep(self.settings.pace.watch).await;
                    }
                }
                if self.client.is_closed()
                    && let Ok(client) = server::connect(&self.settings).await
                {
                    self.client = client;
                }
            }
            // Whoever asked may have given up.
            let _ = asked.map(|doubt| doubt.reply.send(()));
        }
    }

    /// `xid`: what this transaction did counts.
    async fn look_again(&self, xid: Option<u32>) -> Result<(), io::Error> {
        if let Some(xid) = xid {
            self.until_visible(xid).await?;
        }
        let entries = self.look().await?;
        // One that was taken out and put back is another entry.
        let another = |pinned: &&Pinned| entries.get(&pinned.table.oid) != self.entries.get(&pinned.table.oid);
        match self.captured.iter().find(another) {
            None => Ok(()),
            Some(pinned) => Err(server::unpublished(&self.settings, &pinned.table, "was for a while not in")),
        }
    }

    /// The stream has a transaction as soon as its commit is on the server's disk. Others see what it did a moment later,
    /// with synchronous replication when the standbys have it, too. Not waited for without end: this source may be the
    /// standby that is waited for, and then the next look, soon, is the first that can see it.
    async fn until_visible(&self, xid: u32) -> Result<(), Error> {
        let tables: Vec<u32> = self.captured.iter().map(|pinned| pinned.table.oid).collect();
        let patience = self.settings.pace.visible;
        let begun = tokio::time::Instant::now();
        while self.client.query_one(CHANGING, &[&xid.to_string(), &tables]).await?.get(0) {
            if begun.elapsed() >= patience {
                let source = &self.settings.source;
                tracing::warn!(
                    source,
                    xid,
                    "a transaction that may have changed a captured table has waited {patience:?} for synchronous \
                     standbys: the stream goes on, and the table's key is looked at later"
                );
                break;
            }
            tokio::time::sleep(VISIBLE_POLL).await;
        }
        Ok(())
    }

    async fn look(&self) -> Result<HashMap<u32, u32>, io::Error> {
        let tables: Vec<&Table> = self.captured.iter().map(|pinned| &pinned.table).collect();
        let entries = server::check_publication(&self.client, &self.settings, &tables).await?;
        match catalog::keyless(&self.client, &tables).await? {
            None => Ok(entries),
            Some(table) => Err(Error::Changed(table.keyless()).into()),
        }
    }
}
