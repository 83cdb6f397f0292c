//! Producers that are silent: a model forgets each at once when it expires, whatever looks, checkpoints and recoveries
//! there are in between.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

const EXPIRATION_MS: i64 = 1000;
const PRODUCERS: i64 = 3;

fn expired_to(now_ms: i64) -> ExpiredTo {
    ExpiredTo::new(now_ms, EXPIRATION_MS)
}

/// A data batch as its producer would send it.
fn data(id: i64, epoch: i16, base_sequence: i32, count: usize, transactional: bool, offset: i64) -> Batch {
    let producer = Some(Producer { id, epoch, base_sequence });
    let frame = Frame { now_ms: 0, producer, transactional, batch_bytes_max: 1 << 20 };
    let mut batch = Batch::build(&vec![NewRecord::default(); count], &frame).unwrap();
    batch.place(Offset(offset), LeaderEpoch(0));
    batch
}

/// Which sequence a batch begins with.
#[derive(Clone, Copy, Debug)]
enum From {
    Next,
    /// Of the batch that many before the newest, which is repeated.
    Again(usize),
    Behind(i32),
    Zero,
}

#[derive(Clone, Debug)]
enum Step {
    Send {
        id: i64,
        from: From,
        epoch: i16,
        count: usize,
        transactional: bool,
    },
    Marker {
        id: i64,
        epoch: i16,
    },
    Wait(i64),
    /// Somebody looks for what has expired.
    Look,
    Checkpoint,
    /// From the checkpoint and all batches behind it.
    Recover,
}

fn step() -> impl Strategy<Value = Step> {
    let from = prop_oneof![
        6 => Just(From::Next),
        3 => (0..6usize).prop_map(From::Again),
        1 => (1..4i32).prop_map(From::Behind),
        2 => Just(From::Zero),
    ];
    let epoch = prop_oneof![8 => Just(0i16), 1 => Just(1), 1 => Just(-1)];
    let send = (0..PRODUCERS, from, epoch.clone(), 1..4usize, prop::bool::weighted(0.2));
    prop_oneof![
        10 => send.prop_map(|(id, from, epoch, count, transactional)| Step::Send { id, from, epoch, count, transactional }),
        2 => (0..PRODUCERS, 0..2i16).prop_map(|(id, epoch)| Step::Marker { id, epoch }),
        4 => prop_oneof![1..200i64, 900..1100i64].prop_map(Step::Wait),
        2 => Just(Step::Look),
        1 => Just(Step::Checkpoint),
        1 => Just(Step::Recover),
    ]
}

/// A batch that was appended: epoch, first sequence, last one, offset.
type Sent = (i16, i32, i32, i64);

#[derive(Clone, Debug, Default)]
struct Seen {
    epoch: i16,
    /// All since it was heard of first.
    batches: Vec<Sent>,
    open: bool,
    heard_ms: i64,
}

impl Seen {
    fn verdict(&self, epoch: i16, first: i32, last: i32) -> Result<Verdict, ()> {
        if epoch != self.epoch {
            return if epoch > self.epoch && first == 0 { Ok(Verdict::Append) } else { Err(()) };
        }
        let of_epoch: Vec<&Sent> = self.batches.iter().filter(|sent| sent.0 == epoch).collect();
        let Some(newest) = of_epoch.last() else { return Ok(Verdict::Append) };
        let repeated = of_epoch.iter().rev().take(REMEMBERED).find(|sent| (sent.1, sent.2) == (first, last));
        match repeated {
            Some(sent) => Ok(Verdict::Repeated(Offset(sent.3))),
            None if first == newest.2 + 1 => Ok(Verdict::Append),
            None => Err(()),
        }
    }
}

#[derive(Default)]
struct World {
    now_ms: i64,
    producers: Producers,
    end: i64,
    known: BTreeMap<i64, Seen>,
    /// Expired, as they were.
    gone: BTreeMap<i64, Seen>,
    /// Everything that each has sent.
    sent: BTreeMap<i64, Vec<Sent>>,
    saved: Option<Vec<u8>>,
    /// Behind the checkpoint.
    log: Vec<Batch>,
}

impl World {
    fn forget(&mut self) {
        let now_ms = self.now_ms;
        let expired = |seen: &Seen| !seen.open && now_ms - seen.heard_ms >= EXPIRATION_MS;
        self.gone.extend(self.known.extract_if(.., |_, seen| expired(seen)));
    }

    fn append(&mut self, batch: Batch) {
        self.producers.apply(&batch, self.now_ms);
        self.end = batch.next_offset().0;
        self.log.push(batch);
    }

    fn send(
        &mut self,
        id: i64,
        from: From,
        epoch: i16,
        count: usize,
        transactional: bool,
    ) -> Result<(), TestCaseError> {
        let sent = self.sent.entry(id).or_default();
        let newest = sent.last().copied().unwrap_or((3, -1, -1, 0));
        let (mut epoch, mut count) = ((newest.0 + epoch).max(0), count);
        let first = match from {
            From::Next => newest.2 + 1,
            From::Behind(by) => newest.2 + 1 + by,
            From::Zero => 0,
            From::Again(back) => {
                let Some(again) = sent.iter().rev().nth(back) else { return Ok(()) };
                (epoch, count) = (again.0, (again.2 - again.1 + 1) as usize);
                again.1
            }
        };
        let last = first + count as i32 - 1;
        let producer = Producer { id, epoch, base_sequence: first };
        let found = self.producers.check(producer, count as u32, expired_to(self.now_ms));
        let expect = self.known.get(&id).map_or(Ok(Verdict::Append), |seen| seen.verdict(epoch, first, last));
        match (expect, found) {
            (Ok(expect), Ok(found)) => prop_assert_eq!(found, expect, "{} {:?}", id, producer),
            (Err(()), Err(_)) => {}
            // It is remembered from before it was forgotten.
            (Err(()), Ok(Verdict::Repeated(offset))) => {
                prop_assert!(sent.contains(&(epoch, first, last, offset.0)), "{offset:?} is another batch");
            }
            (expect, found) => prop_assert!(false, "{found:?}, not {expect:?}: {id} {producer:?}"),
        }
        if !matches!(expect, Ok(Verdict::Append)) {
            return Ok(());
        }
        let one = (epoch, first, last, self.end);
        sent.push(one);
        let seen = self.known.entry(id).or_default();
        (seen.epoch, seen.heard_ms, seen.open) = (epoch, self.now_ms, seen.open || transactional);
        seen.batches.push(one);
        self.gone.remove(&id);
        self.append(data(id, epoch, first, count, transactional, self.end));
        Ok(())
    }

    /// Transactions are ended where they are open, and what is open is not forgotten.
    fn marker(&mut self, id: i64, epoch: i16) {
        if self.gone.contains_key(&id) {
            return;
        }
        let newest = self.sent.get(&id).and_then(|sent| sent.last()).map_or(3, |newest| newest.0);
        let known = self.known.get(&id).map_or(newest, |seen| seen.epoch);
        let seen = self.known.entry(id).or_default();
        (seen.epoch, seen.heard_ms, seen.open) = (known + epoch, self.now_ms, false);
        self.gone.remove(&id);
        let mut batch = Batch::build_marker(id, known + epoch, Marker { commit: true, coordinator_epoch: 0 }, 0);
        batch.place(Offset(self.end), LeaderEpoch(0));
        self.append(batch);
    }

    fn recover(&mut self) {
        let end = Offset(self.end);
        let decode = |bytes: &Vec<u8>| Producers::decode(&mut &bytes[..], end).unwrap();
        self.producers = self.saved.as_ref().map_or_else(Producers::default, decode);
        for batch in &self.log {
            self.producers.apply(batch, self.now_ms);
        }
        // Those are heard of now, for nobody knows better.
        let heard: BTreeSet<i64> = self.log.iter().filter_map(|batch| Some(batch.producer()?.id)).collect();
        for id in heard {
            self.known.extend(self.gone.remove(&id).map(|seen| (id, seen)));
            if let Some(seen) = self.known.get_mut(&id) {
                seen.heard_ms = self.now_ms;
            }
        }
    }

    fn step(&mut self, step: &Step) -> Result<(), TestCaseError> {
        self.forget();
        match *step {
            Step::Send { id, from, epoch, count, transactional } => self.send(id, from, epoch, count, transactional)?,
            Step::Marker { id, epoch } => self.marker(id, epoch),
            Step::Wait(ms) => self.now_ms += ms,
            Step::Look => {
                self.producers.expire(expired_to(self.now_ms), usize::MAX);
                let left = self.producers.known.keys().copied().collect::<Vec<_>>();
                prop_assert_eq!(left, self.known.keys().copied().collect::<Vec<_>>());
            }
            Step::Checkpoint => {
                let mut bytes = Vec::new();
                self.producers.encode(&mut bytes);
                prop_assert_eq!(&Producers::decode(&mut &bytes[..], Offset(self.end)).unwrap(), &self.producers);
                (self.saved, self.log) = (Some(bytes), Vec::new());
            }
            Step::Recover => self.recover(),
        }
        let open: Vec<i64> = self.known.iter().filter(|(_, seen)| seen.open).map(|(id, _)| *id).collect();
        prop_assert_eq!(self.producers.open_all().iter().map(|open| open.producer_id).collect::<Vec<_>>(), open);
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn each_is_known_until_it_expires_and_not_longer(steps in prop::collection::vec(step(), 1..120)) {
        let mut world = World::default();
        for step in &steps {
            world.step(step)?;
        }
    }
}

#[test]
fn who_is_silent_longest_is_forgotten_first_and_never_with_an_open_transaction() {
    let mut producers = Producers::default();
    for id in 0..10 {
        producers.apply(&data(id, 0, 0, 1, id == 3, id), id);
    }
    assert_eq!(producers.expire(ExpiredTo(6), 4), 4);
    assert_eq!(producers.known.keys().copied().collect::<Vec<_>>(), [3, 5, 6, 7, 8, 9]);
    assert_eq!(producers.expire(ExpiredTo(6), 4), 2);
    assert_eq!(producers.expire(ExpiredTo(6), 4), 0);
    producers.apply(&Batch::build_marker(3, 0, Marker { commit: false, coordinator_epoch: 0 }, 0), 11);
    assert_eq!(producers.expire(ExpiredTo(10), 4), 3);
    assert_eq!(producers.expire(ExpiredTo(11), 4), 1);
    assert_eq!(producers, Producers { clock: 11, ..Producers::default() });
}

/// What has expired holds no batch back from compaction, whether somebody has looked or not.
#[test]
fn compaction_keeps_nothing_for_who_has_expired() {
    let mut producers = Producers::default();
    producers.apply(&data(1, 0, 0, 1, false, 0), 0);
    producers.apply(&data(2, 0, 0, 1, true, 1), 0);
    producers.apply(&data(3, 0, 0, 1, false, 2), 5);
    let mut left = producers.clone();
    assert_eq!(left.expire(ExpiredTo(4), 9), 1);
    assert_eq!(producers.last_batches(ExpiredTo(4)), left.last_batches(NEVER));
    assert_ne!(producers.last_batches(ExpiredTo(4)), producers.last_batches(NEVER));
}

#[test]
fn there_are_so_many_and_no_more() {
    let mut producers = Producers::default();
    let ids = 0..PRODUCERS_MAX as i64 + 10;
    for id in ids.clone() {
        producers.apply(&data(id, 0, 0, 1, id == 2, id), 0);
    }
    let left = ids.filter(|id| *id == 2 || *id > 10).collect::<Vec<_>>();
    assert_eq!(producers.known.keys().copied().collect::<Vec<_>>(), left);
}
