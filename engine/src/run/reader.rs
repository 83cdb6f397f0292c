//! Reads the committed records between two places of a topic, in slices of bounded size, and decodes them. The first
//! slice is read where it is asked for; where there are more, a task reads and decodes ahead of the consumer.

use std::sync::Arc;

use tokio::sync::mpsc;

use super::{Error, guarded};
use crate::codec::{Decode, Decoded};
use crate::operator::CHUNK_ROWS_MAX;

/// Slices that may be read ahead: with the one at work and the one being decoded, four are in memory at most.
const SLICES_AHEAD: usize = 2;

/// A run of records of one partition, still packed in their batches.
struct Packed {
    partition: usize,
    batches: Vec<log::Batch>,
    from: log::Offset,
    up_to: log::Offset,
}

/// What is still to read of a topic's partitions, one after the other.
pub struct Reader {
    topic: String,
    parts: Vec<Part>,
    slice_bytes_max: usize,
}

struct Part {
    log: Arc<dyn log::Log>,
    from: log::Offset,
    up_to: log::Offset,
}

impl Reader {
    pub fn new(topic: &str, slice_bytes_max: usize) -> Self {
        Self { topic: topic.to_owned(), parts: Vec::new(), slice_bytes_max }
    }

    /// Adds the records `from..up_to` of a partition; partitions are read in the order they are added.
    pub fn add(&mut self, log: Arc<dyn log::Log>, from: log::Offset, up_to: log::Offset) {
        if from < up_to {
            self.parts.push(Part { log, from, up_to });
        }
    }

    /// Hands every record to `each`, in order.
    pub async fn for_each(mut self, mut each: impl FnMut(log::RecordView) -> Result<(), Error>) -> Result<(), Error> {
        while let Some(packed) = self.read().await? {
            self.unpack(&packed)?.into_iter().try_for_each(&mut each)?;
        }
        Ok(())
    }

    fn is_done(&self) -> bool {
        self.parts.iter().all(|part| part.from >= part.up_to)
    }

    async fn read(&mut self) -> Result<Option<Packed>, Error> {
        for (partition, part) in self.parts.iter_mut().enumerate() {
            while part.from < part.up_to {
                let from = part.from;
                let read = part.log.read(from, part.up_to, self.slice_bytes_max, log::Isolation::Committed).await?;
                if read.next <= from {
                    let detail = format!("reading does not get beyond it, though there is more up to {:?}", part.up_to);
                    return Err(corrupt(&self.topic, &*part.log, from, detail));
                }
                part.from = read.next;
                if !read.batches.is_empty() {
                    return Ok(Some(Packed { partition, batches: read.batches, from, up_to: part.up_to }));
                }
            }
        }
        Ok(None)
    }

    fn unpack(&self, packed: &Packed) -> Result<Vec<log::RecordView>, Error> {
        let mut records = Vec::new();
        for batch in &packed.batches {
            let log = &*self.parts[packed.partition].log;
            let bad = |error: log::record::BatchError| corrupt(&self.topic, log, packed.from, error.to_string());
            for record in batch.records().map_err(bad)? {
                let record = record.map_err(bad)?;
                if (packed.from..packed.up_to).contains(&record.offset) {
                    records.push(record);
                }
            }
        }
        Ok(records)
    }

    fn decode(&self, packed: &Packed, decode: &dyn Decode) -> Result<Slice, Error> {
        let partition = self.parts[packed.partition].log.partition();
        let records = self.unpack(packed)?;
        guarded(&format!("decoding of topic {}", self.topic), || {
            let decoded = records.chunks(CHUNK_ROWS_MAX).map(|chunk| decode.decode(partition, chunk));
            let rows = decoded.collect::<Result<_, _>>().map_err(|source| Error::Decode {
                topic: self.topic.clone(),
                partition: partition.partition,
                source,
            })?;
            Ok(Slice { partition, records: records.len(), rows })
        })
    }
}

fn corrupt(topic: &str, log: &dyn log::Log, from: log::Offset, detail: String) -> Error {
    Error::Corrupt { topic: topic.to_owned(), partition: log.partition().partition, offset: from.0, detail }
}

/// The rows of a run of records, in chunks of at most [`CHUNK_ROWS_MAX`] records.
pub struct Slice {
    pub partition: log::TopicPartition,
    pub records: usize,
    pub rows: Vec<Decoded>,
}

/// What the task that reads ahead hands over; the last is `Ok(None)` or an error.
type Ahead = Result<Option<Slice>, Error>;

/// The decoded slices of a [`Reader`], in order. Dropping it ends the reading ahead.
pub struct Slices {
    env: log::Env,
    decode: Arc<dyn Decode>,
    source: Source,
}

enum Source {
    /// Nothing is read ahead yet.
    Here(Reader),
    Ahead(mpsc::Receiver<Ahead>),
    Done,
}

impl Slices {
    pub fn new(env: &log::Env, reader: Reader, decode: &Arc<dyn Decode>) -> Self {
        Self { env: env.clone(), decode: Arc::clone(decode), source: Source::Here(reader) }
    }

    /// The next slice, `None` when everything is read. An error is the last.
    pub async fn next(&mut self) -> Result<Option<Slice>, Error> {
        match std::mem::replace(&mut self.source, Source::Done) {
            Source::Done => Ok(None),
            Source::Here(mut reader) => {
                let Some(packed) = reader.read().await? else { return Ok(None) };
                let done = reader.is_done();
                let slice = reader.decode(&packed, &*self.decode)?;
                if !done {
                    self.source = Source::Ahead(self.ahead(reader));
                }
                Ok(Some(slice))
            }
            Source::Ahead(mut slices) => match slices.recv().await {
                Some(Ok(Some(slice))) => {
                    self.source = Source::Ahead(slices);
                    Ok(Some(slice))
                }
                Some(last) => last,
                None => Err(Error::Panic { operator: "reading ahead".into(), message: "it broke off".into() }),
            },
        }
    }

    fn ahead(&self, reader: Reader) -> mpsc::Receiver<Ahead> {
        let (send, receive) = mpsc::channel(SLICES_AHEAD);
        let (env, decode) = (self.env.clone(), Arc::clone(&self.decode));
        drop(self.env.spawn("read-ahead", read_ahead(env, reader, decode, send)));
        receive
    }
}

async fn read_ahead(env: log::Env, mut reader: Reader, decode: Arc<dyn Decode>, send: mpsc::Sender<Ahead>) {
    loop {
        // The place in the queue first, the work after.
        let Ok(place) = send.reserve().await else { return };
        let slice = match reader.read().await {
            Ok(None) => Ok(None),
            Err(error) => Err(error),
            Ok(Some(packed)) => {
                let decode = Arc::clone(&decode);
                let decoding = env.offload(move || {
                    let slice = reader.decode(&packed, &*decode);
                    (reader, slice)
                });
                let (back, slice) = decoding.await;
                reader = back;
                slice.map(Some)
            }
        };
        let last = !matches!(slice, Ok(Some(_)));
        place.send(slice);
        if last {
            return;
        }
    }
}
