//! The stream without IO: replication messages in, chunks of records and positions out.

use std::collections::HashMap;
use std::sync::Arc;

use engine::io::SourceBatch;

use super::error::Error;
use super::position::Position;
use super::protocol::lsn::Lsn;
use super::protocol::pgoutput::{self, Message, RelationMessage, Tuple};
use super::rows::source_block::SourceBlock;
use super::rows::table::{Live, Pinned};
use crate::cdc::{Assembler, Unfit};
use crate::change::{Change, Op, Value, emptied};

/// Follows one stream from a position on.
#[derive(Debug)]
pub struct Session {
    tables: Arc<[Pinned]>,
    /// By oid: the shape last announced, and which columns its identity holds.
    live: HashMap<u32, (Live, Vec<bool>)>,
    /// Relations that were announced and are none of ours, by oid; the name of those not warned of yet. Partitions of
    /// a captured table are announced too, but their changes come in the name of the table.
    strange: HashMap<u32, Option<String>>,
    assembler: Assembler,
    block: SourceBlock,
    transaction: Option<Transaction>,
    /// What is whole and has been, or is about to be, handed over.
    position: Position,
    /// The `end` that was handed over last.
    handed: Lsn,
    /// The server waits for what it sent to be durable: it is about to stop.
    hurried: bool,
    /// A transaction that announced a table in a way that leaves open whether its key still is one.
    doubtful: Option<u32>,
    /// Room for the images of one change.
    rows: [Vec<Value<'static>>; 2],
}

#[derive(Debug)]
struct Transaction {
    commit_lsn: Lsn,
    commit_us: i64,
    xid: u32,
    /// Stored already: the server sends it again.
    skip: bool,
    /// It is told to the assembler when its first change comes.
    begun: bool,
    origin: Option<(String, Lsn)>,
}

impl Session {
    pub fn new(source: &str, tables: Arc<[Pinned]>, position: Position, transaction_metadata: bool) -> Session {
        Session {
            tables,
            live: HashMap::new(),
            strange: HashMap::new(),
            assembler: Assembler::new(transaction_metadata),
            block: SourceBlock::new(source, &position.database),
            transaction: None,
            handed: position.end,
            hurried: false,
            doubtful: None,
            position,
            rows: Default::default(),
        }
    }

    /// Takes a message of the output plugin. `start`: the place of the change; `now_us`: microseconds since 1970.
    pub fn message(&mut self, start: Lsn, body: &[u8], now_us: i64) -> Result<(), Error> {
        match pgoutput::parse(body)? {
            Message::Begin { commit_lsn, commit_us, xid } => self.begin(commit_lsn, commit_us, xid),
            Message::Commit { commit_lsn, end_lsn, .. } => self.commit(commit_lsn, end_lsn),
            Message::Origin { lsn, name } => {
                if let Some(transaction) = &mut self.transaction {
                    transaction.origin = Some((name.to_owned(), lsn));
                }
                Ok(())
            }
            Message::Relation(message) => self.announce(&message),
            Message::Type { .. } | Message::Logical => Ok(()),
            Message::Insert { relation, new } => self.row(relation, Op::Create, None, Some(new), start, now_us),
            Message::Update { relation, old, new } => self.row(relation, Op::Update, old, Some(new), start, now_us),
            Message::Delete { relation, old } => self.row(relation, Op::Delete, Some(old), None, start, now_us),
            Message::Truncate { relations } => {
                relations.iter().try_for_each(|&oid| self.row(oid, Op::Truncate, None, None, start, now_us))
            }
        }
    }

    /// All that was committed before `end` has been seen.
    pub fn progress(&mut self, end: Lsn) {
        if self.transaction.is_none() {
            self.position.end = self.position.end.max(end);
        }
    }

    /// Whether a chunk should be taken before more comes in.
    pub fn is_full(&self) -> bool {
        self.assembler.is_full()
    }

    /// Whether what has been gathered ends with a commit and is worth handing over.
    pub fn is_whole(&self) -> bool {
        self.transaction.is_none() && !self.assembler.is_empty()
    }

    /// The server asks how far we are, which it does when it is about to stop: a position should not wait.
    pub fn hurry(&mut self) {
        self.hurried = true;
    }

    pub fn is_hurried(&self) -> bool {
        self.hurried
    }

    /// The transaction for which the keys of the tables are to be looked up before more comes in; told once.
    pub fn take_doubt(&mut self) -> Option<u32> {
        std::mem::take(&mut self.doubtful)
    }

    /// Whether no transaction is open.
    pub fn is_between(&self) -> bool {
        self.transaction.is_none()
    }

    /// By how much the position has moved since one was handed over; 0 inside a transaction.
    pub fn idle_bytes(&self) -> u64 {
        match self.transaction {
            None => self.position.end.0 - self.handed.0,
            Some(_) => 0,
        }
    }

    /// What has been gathered, with a position when it ends with a commit.
    pub fn take(&mut self) -> SourceBatch {
        let position = self.transaction.is_none().then(|| {
            self.handed = self.position.end;
            self.hurried = false;
            self.position.to_bytes()
        });
        SourceBatch { records: self.assembler.take(), position, snapshot_done: true }
    }

    fn begin(&mut self, commit_lsn: Lsn, commit_us: i64, xid: u32) -> Result<(), Error> {
        if self.transaction.is_some() {
            return Err(Error::Protocol(format!("transaction {xid} begins inside of another")));
        }
        let skip = commit_lsn < self.position.end;
        self.transaction = Some(Transaction { commit_lsn, commit_us, xid, skip, begun: false, origin: None });
        Ok(())
    }

    fn commit(&mut self, commit_lsn: Lsn, end_lsn: Lsn) -> Result<(), Error> {
        let Some(transaction) = self.transaction.take().filter(|open| open.commit_lsn == commit_lsn) else {
            return Err(Error::Protocol(format!("a commit at {commit_lsn} that ends no transaction")));
        };
        if transaction.skip {
            return Ok(());
        }
        if transaction.begun {
            self.assembler.commit();
            self.position.commit = commit_lsn;
        }
        self.position.end = self.position.end.max(end_lsn);
        Ok(())
    }

    fn announce(&mut self, message: &RelationMessage<'_>) -> Result<(), Error> {
        let Some(pinned) = self.tables.iter().find(|pinned| pinned.table.oid == message.oid) else {
            self.strange.entry(message.oid).or_insert_with(|| Some(format!("{}.{}", message.schema, message.name)));
            return Ok(());
        };
        let Some(Transaction { xid, .. }) = self.transaction else {
            return Err(Error::Protocol(format!("table {} is announced outside of a transaction", message.name)));
        };
        let live = Live::announced(pinned, message)?;
        if Live::in_doubt(pinned, message) {
            self.doubtful = Some(xid);
        }
        let identity = message.columns.iter().map(|column| column.identity).collect();
        self.live.insert(message.oid, (live, identity));
        Ok(())
    }

    fn row<'a>(
        &mut self,
        oid: u32,
        op: Op,
        old: Option<Tuple<'a>>,
        new: Option<Tuple<'a>>,
        lsn: Lsn,
        now_us: i64,
    ) -> Result<(), Error> {
        let Some(transaction) = &mut self.transaction else {
            return Err(Error::Protocol(format!("a change at {lsn} outside of a transaction")));
        };
        if transaction.skip {
            return Ok(());
        }
        if let Some(unwarned) = self.strange.get_mut(&oid) {
            if let Some(table) = unwarned.take() {
                tracing::warn!(table, "the publication holds a table that is not captured: its changes are left out");
            }
            return Ok(());
        }
        let Some((live, identity)) = self.live.get(&oid) else {
            return Err(Error::Protocol(format!("a change of relation {oid}, which was not announced")));
        };
        // Without an old image the identity is as it was; that says nothing of a key which it does not hold.
        if op == Op::Update
            && old.is_none()
            && let Some(&at) = live.relation.key().iter().find(|&&at| !identity[at])
        {
            let (relation, column) = (live.relation.name.clone(), live.relation.column(at).to_owned());
            return Err(Error::Unfit { lsn, unfit: Unfit::NoKey { relation, column } });
        }
        if !transaction.begun {
            transaction.begun = true;
            let Transaction { commit_lsn, commit_us, xid, .. } = *transaction;
            let last_commit = (self.position.commit != Lsn(0)).then_some(self.position.commit);
            let origin = transaction.origin.as_ref().map(|(name, lsn)| (name.as_str(), *lsn));
            self.block.begin(commit_us, Some(xid), last_commit, origin);
            self.assembler.begin(format_args!("{xid}:{}", commit_lsn.0), commit_us.div_euclid(1000));
        }
        let [mut before, mut after] = std::mem::take(&mut self.rows).map(emptied);
        if let Some(old) = old {
            live.image(old, identity, lsn, &mut before)?;
        }
        if let Some(new) = new {
            live.image(new, identity, lsn, &mut after)?;
        }
        let change = Change { op, before: old.map(|_| &before[..]), after: new.map(|_| &after[..]) };
        let block = &self.block;
        self.assembler
            .push(&live.relation, change, now_us, |out| block.write(out, &live.names, lsn))
            .map_err(|unfit| Error::Unfit { lsn, unfit })?;
        self.rows = [before, after].map(emptied);
        Ok(())
    }
}
