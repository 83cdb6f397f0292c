//! Records deleted by request: what is below the first offset that was told is gone for good, what is above it stays.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;

use super::actors::Actor;
use super::history::{At, Kept, Logs};
use crate::support::broker::{Broker, OFFSET_OUT_OF_RANGE};
use crate::support::random::Random;
use crate::support::requests::REQUEST_TIMED_OUT;

/// A request to delete records, and what was seen behind its answer.
#[derive(Clone, Debug)]
pub struct Deletion {
    pub at: At,
    /// Everything below.
    pub asked: i64,
    /// The first offset that is left, as it was told; none: no answer.
    pub start: Option<i64>,
    /// The first offset asked for afterwards, and whether what is below it could be read: else the error code.
    pub after: Option<(i64, Result<(), i16>)>,
}

/// The start is where it was told to be or above, for good, and what is below cannot be read.
pub fn check(deletions: &[Deletion], logs: &Logs, kept: impl Fn(&str) -> Kept) -> Result<usize, String> {
    let mut asked: BTreeMap<&At, i64> = BTreeMap::new();
    for deletion in deletions {
        let Deletion { at, start, after, .. } = deletion;
        let asked = asked.entry(at).or_default();
        *asked = deletion.asked.max(*asked);
        let Some(start) = *start else { continue };
        let last = logs.get(at).ok_or_else(|| format!("{at:?} is gone"))?.start;
        if start < deletion.asked || last < start || after.is_some_and(|(after, _)| after < start) {
            return Err(format!("{deletion:?} was not kept to: at the end the start is {last}"));
        }
        // It is the code of Kafka for an offset that is not there.
        if after.is_some_and(|(_, below)| below != Err(OFFSET_OUT_OF_RANGE)) {
            return Err(format!("{deletion:?} leaves what it deletes to be read"));
        }
    }
    for (at, log) in logs.iter().filter(|(at, _)| kept(&at.0) == Kept::FromWhereAsked) {
        let asked = asked.get(at).copied().unwrap_or_default();
        if log.start > asked {
            return Err(format!("{at:?} starts at {}, and nobody has asked for more than {asked}", log.start));
        }
    }
    Ok(deletions.iter().filter(|deletion| deletion.start.is_some()).count())
}

/// Requests to delete records, and the bounds that were asked for in between.
#[derive(Default)]
pub struct Deletions {
    pub deletions: Vec<Deletion>,
    pub bounds: BTreeMap<At, Vec<(i64, i64)>>,
}

/// Deletes records from the front of partitions, up to anywhere, whenever some more have come.
pub fn deletions(kafka: SocketAddr, partitions: Vec<At>, mut random: Random) -> Actor<Deletions> {
    let mut connection = None;
    Actor::start(Deletions::default(), move |seen: &mut Deletions| {
        let Some(broker) = connection.as_mut() else {
            connection = Broker::try_connect(kafka).ok();
            return connection.is_some();
        };
        let before = seen.deletions.len();
        let done = partitions.iter().try_for_each(|at| delete(broker, at, seen, &mut random));
        if done.is_err() {
            connection = None;
        }
        done.is_ok() && seen.deletions.len() > before
    })
}

fn delete(broker: &mut Broker, at: &At, seen: &mut Deletions, random: &mut Random) -> io::Result<()> {
    let (topic, partition) = (&at.0, at.1);
    let error = |what: i16| panic!("{at:?}: error {what}");
    let bounds = seen.bounds.entry(at.clone()).or_default();
    let (start, end) = broker.bounds(topic, partition)?.unwrap_or_else(error);
    bounds.push((start, end));
    // Enough stays for readers to have something to lose.
    let Some(most) = u64::try_from(end - start - 300).ok().filter(|most| *most > 0) else { return Ok(()) };
    let asked = start + random.below(most) as i64;
    seen.deletions.push(Deletion { at: at.clone(), asked, start: None, after: None });
    let deletion = seen.deletions.last_mut().expect("just pushed");
    match broker.delete_records(topic, partition, asked)? {
        Ok(start) => deletion.start = Some(start),
        Err(REQUEST_TIMED_OUT) => return Ok(()),
        Err(code) => panic!("{at:?}: error {code}"),
    }
    let (start, end) = broker.bounds(topic, partition)?.unwrap_or_else(error);
    bounds.push((start, end));
    if start > 0 {
        let below = broker.read(topic, partition, start - 1)?.map(drop);
        deletion.after = Some((start, below));
    }
    Ok(())
}
