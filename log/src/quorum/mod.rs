//! The quorum that keeps the cluster's metadata. With one node it has one voter: the local log.
//!
//! With several nodes a consensus group takes this place; what callers see stays: entries are proposed with the index
//! they were decided at, and one whose index has moved is discarded.

use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::watch;

use crate::Error;
use crate::machine::Journal;
use crate::record::{NewRecord, Offset, RecordView};

/// Agreement on one ordered log.
///
/// Guarantees of [`Journal::append`] here: it proposes; an entry whose index has moved is discarded
/// ([`Error::OutOfRange`]); an acknowledged one is committed and every node applies it in the same order.
/// [`Journal::read`] gives committed entries only.
pub trait Quorum: Journal {
    /// The node that may propose, and in which term; changes when leadership does.
    fn leadership(&self) -> watch::Receiver<Leadership>;
}

/// Who leads the quorum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leadership {
    pub node_id: i32,
    pub term: i32,
}

/// The quorum of one: what the local log holds is committed, and this node leads.
pub struct OneVoter {
    log: Arc<dyn Journal>,
    leadership: watch::Sender<Leadership>,
}

impl OneVoter {
    pub fn new(log: Arc<dyn Journal>, leadership: Leadership) -> OneVoter {
        OneVoter { log, leadership: watch::channel(leadership).0 }
    }
}

#[async_trait]
impl Journal for OneVoter {
    async fn append(&self, at: Offset, records: Vec<NewRecord>) -> Result<Offset, Error> {
        self.log.append(at, records).await
    }

    async fn read(&self, from: Offset, bytes_max: usize) -> Result<(Vec<RecordView>, Offset), Error> {
        self.log.read(from, bytes_max).await
    }

    async fn start(&self) -> Result<Offset, Error> {
        self.log.start().await
    }
}

impl Quorum for OneVoter {
    fn leadership(&self) -> watch::Receiver<Leadership> {
        self.leadership.subscribe()
    }
}
