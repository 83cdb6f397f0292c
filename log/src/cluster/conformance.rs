//! What every [`Cluster`] and [`Log`] must do, whoever implements them: [`run`] takes one that is empty.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;

use super::access::{Cluster, Error, Isolation, Log, NewTopic};
use super::journal::LogJournal;
use crate::env::Env;
use crate::machine::{Decision, Host, Machine, NoEffects};
use crate::record::{Header, NewRecord, Offset, RecordView, TopicPartition};

pub(crate) async fn run(env: &Env, cluster: Arc<dyn Cluster>) {
    let all = &*cluster;
    topics(all).await;
    configurations_change_while_topics_are_open(all).await;
    records_come_back_as_they_went_in(all).await;
    reads_have_bounds(all).await;
    transactions_are_whole(all).await;
    a_new_holder_fences_the_old(all).await;
    a_dropped_producer_aborts(all).await;
    a_refused_batch_fails_the_transaction(all).await;
    a_cut_splits_no_transaction(all).await;
    holds_stop_trims(all).await;
    append_at_writes_only_at_the_end(all).await;
    a_deleted_topic_fails_the_transaction(all).await;
    waiting_ends_with_the_next_stable_record(env, &cluster).await;
    a_machine_is_rebuilt_from_its_journal(env, &cluster).await;
}

fn record(text: &str) -> NewRecord {
    NewRecord { value: Some(Bytes::copy_from_slice(text.as_bytes())), ..NewRecord::default() }
}

async fn partition(cluster: &dyn Cluster, name: &str) -> TopicPartition {
    let topic = NewTopic { name: name.to_owned(), partitions: 1, config: BTreeMap::new() };
    TopicPartition { topic: cluster.create_topic(topic).await.unwrap().id, partition: 0 }
}

async fn records(log: &dyn Log, isolation: Isolation) -> Vec<RecordView> {
    let mut at = log.bounds().start;
    let mut found = Vec::new();
    loop {
        let read = log.read(at, Offset(i64::MAX), 1 << 16, isolation).await.unwrap();
        let views = read.batches.iter().flat_map(|batch| batch.records().unwrap()).map(Result::unwrap);
        found.extend(views.filter(|record| record.offset >= at));
        if read.next == at {
            return found;
        }
        at = read.next;
    }
}

async fn texts(cluster: &dyn Cluster, partition: TopicPartition, isolation: Isolation) -> Vec<String> {
    let found = records(&*cluster.log(partition).unwrap(), isolation).await;
    found.into_iter().map(|record| String::from_utf8(record.value.unwrap().to_vec()).unwrap()).collect()
}

async fn topics(cluster: &dyn Cluster) {
    let new = |name: &str, partitions| NewTopic { name: name.to_owned(), partitions, config: BTreeMap::new() };
    let watch = cluster.watch_topics();
    let one = cluster.create_topic(new("topics.one", 3)).await.unwrap();
    assert_eq!(one.partitions, 3);
    assert!(watch.has_changed().unwrap());
    assert_eq!(cluster.topic("topics.one"), Some(one.clone()));
    assert!(cluster.topics().contains(&one));
    let refused = |result: Result<_, Error>| result.expect_err("it must be refused");
    assert!(matches!(refused(cluster.create_topic(new("topics.one", 1)).await), Error::TopicExists(_)));
    assert!(matches!(refused(cluster.create_topic(new("topics_one", 1)).await), Error::InvalidTopic { .. }));
    assert!(matches!(refused(cluster.create_topic(new("..", 1)).await), Error::InvalidTopic { .. }));
    assert!(matches!(refused(cluster.create_topic(new("a b", 1)).await), Error::InvalidTopic { .. }));
    assert!(matches!(refused(cluster.create_topic(new("x", 0)).await), Error::InvalidPartitions { .. }));
    let mut odd = new("x", 1);
    odd.config.insert("no.such.option".to_owned(), "1".to_owned());
    assert!(matches!(refused(cluster.create_topic(odd).await), Error::UnknownConfig { .. }));

    let change = |option: &str, value: Option<&str>| [(option.to_owned(), value.map(str::to_owned))].into();
    let marked = cluster.configure_topic("topics.one", change("riverrun.used_by", Some("table one"))).await.unwrap();
    assert_eq!(marked.config.get("riverrun.used_by").map(String::as_str), Some("table one"));
    assert_eq!(cluster.topic("topics.one"), Some(marked));
    assert_eq!(cluster.configure_topic("topics.one", change("riverrun.used_by", None)).await.unwrap(), one);
    let unknown = cluster.configure_topic("topics.two", change("riverrun.writer", None)).await;
    assert!(matches!(refused(unknown), Error::UnknownTopic(_)));

    let at = TopicPartition { topic: one.id, partition: 2 };
    let log = cluster.log(at).unwrap();
    log.append(vec![record("gone")]).await.unwrap();
    assert!(cluster.log(TopicPartition { topic: one.id, partition: 3 }).is_err());
    cluster.delete_topic("topics.one").await.unwrap();
    assert_eq!(cluster.topic("topics.one"), None);
    assert!(matches!(cluster.delete_topic("topics.one").await, Err(Error::UnknownTopic(_))));
    assert!(matches!(cluster.log(at), Err(Error::UnknownPartition(_))));
    assert!(log.append(vec![record("late")]).await.is_err());
    assert!(log.read(Offset(0), Offset(1), 100, Isolation::Committed).await.is_err());
    let again = cluster.create_topic(new("topics.one", 1)).await.unwrap();
    assert_ne!(again.id, one.id, "a topic that comes again is another one");
    assert_eq!(texts(cluster, TopicPartition { topic: again.id, partition: 0 }, Isolation::Committed).await, [""; 0]);
}

async fn configurations_change_while_topics_are_open(cluster: &dyn Cluster) {
    let change = |name: &str, value: Option<&str>| BTreeMap::from([(name.to_owned(), value.map(str::to_owned))]);
    let at = partition(cluster, "configured").await;
    let (log, watch) = (cluster.log(at).unwrap(), cluster.watch_topics());
    log.append(vec![record("before")]).await.unwrap();
    let changes = change("max.message.bytes", Some("1000"));
    let small = cluster.configure_topic("configured", changes).await.unwrap();
    assert_eq!(small.config, BTreeMap::from([("max.message.bytes".to_owned(), "1000".to_owned())]));
    assert!(watch.has_changed().unwrap());
    assert_eq!(cluster.topic("configured"), Some(small.clone()));
    // Those who have held the partition since before are under it too.
    let large = "x".repeat(2_000);
    assert!(matches!(log.append(vec![record(&large)]).await, Err(Error::TooLarge { .. })));
    let mut producer = cluster.producer("configured").await.unwrap();
    assert!(matches!(producer.append(at, vec![record(&large)]).await, Err(Error::TooLarge { .. })));
    producer.abort().await.unwrap();
    let mut half = change("max.message.bytes", None);
    half.extend(change("retention.ms", Some("x")));
    for changes in [half, change("no.such", Some("1")), change("no.such", None)] {
        let refused = cluster.configure_topic("configured", changes).await;
        assert!(matches!(refused, Err(Error::InvalidConfig { .. } | Error::UnknownConfig { .. })), "{refused:?}");
    }
    assert_eq!(cluster.topic("configured"), Some(small), "what is refused changes nothing");
    let back = cluster.configure_topic("configured", change("max.message.bytes", None)).await.unwrap();
    assert!(back.config.is_empty());
    log.append(vec![record(&large)]).await.unwrap();
    assert_eq!(texts(cluster, at, Isolation::Committed).await, ["before", &large]);
}

async fn records_come_back_as_they_went_in(cluster: &dyn Cluster) {
    let log = cluster.log(partition(cluster, "records").await).unwrap();
    let full = NewRecord {
        key: Some(Bytes::from_static(b"k")),
        value: Some(Bytes::from_static(b"v")),
        headers: vec![
            Header { key: Bytes::from_static(b"h"), value: Some(Bytes::from_static(b"1")) },
            Header { key: Bytes::from_static(b"h"), value: None },
        ],
        timestamp_ms: Some(12_345),
    };
    let tombstone = NewRecord { key: Some(Bytes::from_static(b"k")), ..NewRecord::default() };
    assert_eq!(log.append(vec![full.clone(), tombstone]).await.unwrap(), Offset(0));
    let large = "x".repeat(100_000);
    let many: Vec<NewRecord> = (0..50).map(|_| record(&large)).collect();
    assert_eq!(log.append(many).await.unwrap(), Offset(2));
    let found = records(&*log, Isolation::Committed).await;
    assert_eq!(found.len(), 52);
    assert!(found.iter().enumerate().all(|(at, record)| record.offset == Offset(at as i64)));
    assert_eq!((&found[0].key, &found[0].value), (&full.key, &full.value));
    assert_eq!(found[0].headers().unwrap(), full.headers);
    assert_eq!(found[0].timestamp_ms, 12_345);
    assert_eq!(found[1].value, None);
    assert!(found[2..].iter().all(|record| record.value.as_deref() == Some(large.as_bytes())));
    let huge = record(&"x".repeat(2_000_000));
    assert!(matches!(log.append(vec![huge]).await, Err(Error::TooLarge { .. })));
}

async fn reads_have_bounds(cluster: &dyn Cluster) {
    let log = cluster.log(partition(cluster, "bounds").await).unwrap();
    let read = async |from, up_to, bytes| log.read(Offset(from), Offset(up_to), bytes, Isolation::Committed).await;
    assert_eq!(read(0, 10, 100).await.unwrap().next, Offset(0));
    for i in 0..10 {
        log.append(vec![record(&i.to_string()), record(&i.to_string())]).await.unwrap();
    }
    let bounds = log.bounds();
    assert_eq!((bounds.start, bounds.last_stable, bounds.high_watermark), (Offset(0), Offset(20), Offset(20)));
    assert!(matches!(read(21, 30, 100).await, Err(Error::OutOfRange { .. })));
    assert!(matches!(read(-1, 30, 100).await, Err(Error::OutOfRange { .. })));
    assert!(read(20, 30, 100).await.unwrap().batches.is_empty());
    let one = read(3, 20, 1).await.unwrap();
    assert_eq!((one.batches.len(), one.batches[0].base_offset(), one.next), (1, Offset(2), Offset(4)));
    let below = read(0, 5, 1 << 20).await.unwrap();
    assert_eq!((below.batches.len(), below.next), (3, Offset(6)));
    assert!(read(7, 7, 100).await.unwrap().batches.is_empty());
}

async fn transactions_are_whole(cluster: &dyn Cluster) {
    let (a, b) = (partition(cluster, "whole.a").await, partition(cluster, "whole.b").await);
    let mut producer = cluster.producer("whole").await.unwrap();
    assert!(producer.commit().await.unwrap().ranges.is_empty(), "an empty transaction writes nothing");
    assert_eq!(cluster.log(a).unwrap().bounds().end, Offset(0));
    let stable = cluster.watch_stable();

    producer.append(a, vec![record("1"), record("2")]).await.unwrap();
    producer.append(b, vec![record("3")]).await.unwrap();
    producer.append(a, vec![record("4")]).await.unwrap();
    assert_eq!(cluster.log(a).unwrap().bounds().last_stable, Offset(0), "an open transaction is not stable");
    assert_eq!(texts(cluster, a, Isolation::Committed).await, [""; 0]);
    let mut ranges = producer.commit().await.unwrap().ranges;
    ranges.sort();
    let mut expect = vec![(a, Offset(0), Offset(3)), (b, Offset(0), Offset(1))];
    expect.sort();
    assert_eq!(ranges, expect);
    assert!(stable.has_changed().unwrap());
    assert_eq!(texts(cluster, a, Isolation::Committed).await, ["1", "2", "4"]);
    assert_eq!(texts(cluster, b, Isolation::Committed).await, ["3"]);

    producer.append(a, vec![record("void")]).await.unwrap();
    producer.abort().await.unwrap();
    producer.append(b, vec![record("5")]).await.unwrap();
    producer.commit().await.unwrap();
    assert_eq!(texts(cluster, a, Isolation::Committed).await, ["1", "2", "4"]);
    assert_eq!(texts(cluster, a, Isolation::Uncommitted).await, ["1", "2", "4", "void"]);
    assert_eq!(texts(cluster, b, Isolation::Committed).await, ["3", "5"]);
    let bounds = cluster.log(a).unwrap().bounds();
    assert_eq!(bounds.last_stable, bounds.high_watermark);
}

async fn a_new_holder_fences_the_old(cluster: &dyn Cluster) {
    let a = partition(cluster, "fence").await;
    let mut old = cluster.producer("fence").await.unwrap();
    old.append(a, vec![record("left open")]).await.unwrap();
    let mut new = cluster.producer("fence").await.unwrap();
    assert!(matches!(old.append(a, vec![record("late")]).await, Err(Error::Fenced(_))));
    assert!(matches!(old.commit().await, Err(Error::Fenced(_))));
    assert!(matches!(old.abort().await, Err(Error::Fenced(_))));
    new.append(a, vec![record("new")]).await.unwrap();
    new.commit().await.unwrap();
    assert_eq!(texts(cluster, a, Isolation::Committed).await, ["new"]);
    drop(old);
    new.append(a, vec![record("newer")]).await.unwrap();
    new.commit().await.unwrap();
    assert_eq!(texts(cluster, a, Isolation::Committed).await, ["new", "newer"]);
}

async fn a_dropped_producer_aborts(cluster: &dyn Cluster) {
    let a = partition(cluster, "dropped").await;
    let mut producer = cluster.producer("dropped").await.unwrap();
    producer.append(a, vec![record("left open")]).await.unwrap();
    let log = cluster.log(a).unwrap();
    drop(producer);
    let plain = log.append(vec![record("after")]).await.unwrap();
    // Stable again without anybody taking over the id.
    log.wait(plain).await.unwrap();
    assert_eq!(texts(cluster, a, Isolation::Committed).await, ["after"]);
}

async fn a_refused_batch_fails_the_transaction(cluster: &dyn Cluster) {
    let a = partition(cluster, "refused").await;
    let mut producer = cluster.producer("refused").await.unwrap();
    producer.append(a, vec![record("1")]).await.unwrap();
    let huge = record(&"x".repeat(2_000_000));
    assert!(matches!(producer.append(a, vec![huge]).await, Err(Error::TooLarge { .. })));
    let nowhere = TopicPartition { partition: 7, ..a };
    assert!(matches!(producer.append(nowhere, vec![record("2")]).await, Err(Error::UnknownPartition(_))));
    producer.abort().await.unwrap();
    producer.append(a, vec![record("3")]).await.unwrap();
    producer.commit().await.unwrap();
    assert_eq!(texts(cluster, a, Isolation::Committed).await, ["3"]);
}

async fn a_cut_splits_no_transaction(cluster: &dyn Cluster) {
    let (a, b) = (partition(cluster, "cut.a").await, partition(cluster, "cut.b").await);
    let cut = || {
        let cut = cluster.cut(&[a, b]).unwrap();
        (cut.0[&a].0, cut.0[&b].0)
    };
    assert_eq!(cut(), (0, 0));
    let (mut one, mut two) = (cluster.producer("cut.1").await.unwrap(), cluster.producer("cut.2").await.unwrap());
    cluster.log(b).unwrap().append(vec![record("plain")]).await.unwrap();
    assert_eq!(cut(), (0, 1));
    // The older transaction keeps `a` unstable; the newer one, in both, is committed: `b` must wait for `a`.
    one.append(a, vec![record("1")]).await.unwrap();
    cluster.log(a).unwrap().append(vec![record("plain")]).await.unwrap();
    two.append(a, vec![record("2")]).await.unwrap();
    two.append(b, vec![record("2")]).await.unwrap();
    two.commit().await.unwrap();
    let stable = cluster.log(b).unwrap().bounds().last_stable;
    assert_eq!(stable, Offset(3), "the newer transaction is visible in its partition");
    assert_eq!(cut(), (0, 1));
    assert_eq!(cluster.cut(&[b]).unwrap().0[&b], stable, "alone it is not split");
    one.commit().await.unwrap();
    assert_eq!(cut(), (cluster.log(a).unwrap().bounds().last_stable.0, 3));
    let nowhere = TopicPartition { partition: 7, ..a };
    assert!(matches!(cluster.cut(&[a, nowhere]), Err(Error::UnknownPartition(_))));
}

async fn holds_stop_trims(cluster: &dyn Cluster) {
    let log = cluster.log(partition(cluster, "trim").await).unwrap();
    for i in 0..10 {
        log.append(vec![record(&i.to_string())]).await.unwrap();
    }
    let hold = log.hold("somebody", Offset(4));
    assert_eq!(log.trim(Offset(2)).await.unwrap(), Offset(2));
    assert_eq!(log.trim(Offset(9)).await.unwrap(), Offset(4));
    hold.advance(Offset(6));
    hold.advance(Offset(5));
    assert_eq!(log.trim(Offset(9)).await.unwrap(), Offset(6));
    assert_eq!(log.bounds().start, Offset(6));
    let gone = log.read(Offset(5), Offset(10), 100, Isolation::Committed).await;
    assert!(matches!(gone, Err(Error::OutOfRange { .. })));
    drop(hold);
    assert_eq!(log.trim(Offset(3)).await.unwrap(), Offset(6), "a start never goes back");
    assert_eq!(log.trim(Offset(99)).await.unwrap(), Offset(10));
    assert_eq!(log.append(vec![record("next")]).await.unwrap(), Offset(10));
}

async fn append_at_writes_only_at_the_end(cluster: &dyn Cluster) {
    let log = cluster.log(partition(cluster, "at").await).unwrap();
    assert_eq!(log.append_at(Offset(0), vec![record("1"), record("2")]).await.unwrap(), Offset(2));
    assert!(matches!(log.append_at(Offset(1), vec![record("late")]).await, Err(Error::OutOfRange { .. })));
    assert!(matches!(log.append_at(Offset(3), vec![record("early")]).await, Err(Error::OutOfRange { .. })));
    assert_eq!(log.append_at(Offset(2), vec![record("3")]).await.unwrap(), Offset(3));
    assert_eq!(records(&*log, Isolation::Committed).await.len(), 3);
}

async fn a_deleted_topic_fails_the_transaction(cluster: &dyn Cluster) {
    let (a, b) = (partition(cluster, "deleted.a").await, partition(cluster, "deleted.b").await);
    let mut producer = cluster.producer("deleted").await.unwrap();
    producer.append(a, vec![record("1")]).await.unwrap();
    producer.append(b, vec![record("1")]).await.unwrap();
    // Another transaction sees to it that both have their places.
    let mut other = cluster.producer("deleted.other").await.unwrap();
    other.append(a, vec![record("0")]).await.unwrap();
    other.commit().await.unwrap();
    cluster.delete_topic("deleted.b").await.unwrap();
    assert!(producer.commit().await.is_err());
    producer.append(a, vec![record("2")]).await.unwrap();
    producer.commit().await.unwrap();
    assert_eq!(texts(cluster, a, Isolation::Committed).await, ["0", "2"]);
}

async fn waiting_ends_with_the_next_stable_record(env: &Env, cluster: &Arc<dyn Cluster>) {
    let a = partition(&**cluster, "wait").await;
    let log = cluster.log(a).unwrap();
    let waiter = Arc::clone(&log);
    let waiting = env.spawn("waiter", async move { waiter.wait(Offset(0)).await.unwrap().last_stable });
    let mut producer = cluster.producer("wait").await.unwrap();
    producer.append(a, vec![record("1")]).await.unwrap();
    producer.commit().await.unwrap();
    assert_eq!(waiting.await.unwrap(), Offset(2));
    assert_eq!(log.wait(Offset(0)).await.unwrap().last_stable, Offset(2));
    let waiter = Arc::clone(&log);
    let waiting = env.spawn("waiter", async move { waiter.wait(Offset(100)).await.map(|_| ()) });
    cluster.delete_topic("wait").await.unwrap();
    assert!(matches!(waiting.await.unwrap(), Err(Error::UnknownPartition(_))));
}

/// Adds up what it is told.
#[derive(Default)]
struct Sum(u64);

impl Machine for Sum {
    type Command = u64;
    type Reply = u64;
    type Effect = ();

    fn loaded(&mut self, _now_ms: i64) -> Decision<Self> {
        Decision::default()
    }

    fn decide(&mut self, _now_ms: i64, command: u64) -> (u64, Decision<Self>) {
        let records = if command == 0 { Vec::new() } else { vec![record(&command.to_string())] };
        (self.0 + command, Decision { records, ..Decision::default() })
    }

    fn apply(&mut self, record: &RecordView) -> Result<(), Error> {
        let text = String::from_utf8(record.value.as_ref().unwrap().to_vec()).unwrap();
        self.0 += text.parse::<u64>().unwrap();
        Ok(())
    }

    fn snapshot(&self) -> Vec<NewRecord> {
        vec![record(&self.0.to_string())]
    }
}

async fn a_machine_is_rebuilt_from_its_journal(env: &Env, cluster: &Arc<dyn Cluster>) {
    let a = partition(&**cluster, "machine").await;
    let start = async || {
        let journal = Arc::new(LogJournal::new(cluster.log(a).unwrap()));
        Host::start(env, "sum", journal, Sum::default(), Box::new(NoEffects)).await.unwrap()
    };
    let host = start().await;
    assert_eq!(host.ask(1).await.unwrap(), 1);
    let asked = (2..=50).map(|n| {
        let host = host.clone();
        env.spawn("ask", async move { host.ask(n).await.unwrap() })
    });
    let asked: Vec<_> = asked.collect();
    for answer in asked {
        assert!(answer.await.unwrap() > 2);
    }
    let second = start().await;
    assert_eq!(second.ask(0).await.unwrap(), 50 * 51 / 2);
    assert_eq!(second.ask(1).await.unwrap(), 50 * 51 / 2 + 1);
    // The first does not know of that: its journal has moved on without it.
    assert!(host.ask(1).await.is_err());
    assert!(host.ask(0).await.is_err());
    assert_eq!(start().await.ask(0).await.unwrap(), 50 * 51 / 2 + 1);
}
