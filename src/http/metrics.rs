//! The page `/metrics`: the engine, its relations and the partitions, read when asked for.

use engine::job::{EngineMetrics, JobMetrics, JobState, JobStatus};

use log::Cluster as _;

use super::exposition::Page;
use super::{Phase, Running};

pub(super) fn render(env: &log::Env, phase: &Phase) -> String {
    let mut page = Page::default();
    page.family("riverrun_info", "gauge", "The version that runs.");
    page.sample("riverrun_info", &[("version", env!("CARGO_PKG_VERSION"))], 1.0);
    let uptime = env.monotonic().as_secs_f64();
    page.single("riverrun_uptime_seconds", "gauge", "Time since the process started.", uptime);
    let up = matches!(phase, Phase::Running(_));
    page.single("riverrun_ready", "gauge", "1 when everything is up, else 0.", f64::from(u8::from(up)));
    if let Phase::Running(running) = phase {
        let engine = running.engine.metrics();
        epochs(&mut page, &engine);
        relations(&mut page, &engine);
        freshness(&mut page, env, running, &engine);
        sources(&mut page, running);
        store(&mut page, &running.node.metrics());
        broker(&mut page, running);
        partitions(&mut page, running);
    }
    page.finish()
}

fn seconds(micros: u64) -> f64 {
    micros as f64 / 1e6
}

fn epochs(page: &mut Page, engine: &EngineMetrics) {
    let gauge = "gauge";
    page.single("riverrun_epoch", gauge, "The newest published epoch.", engine.epoch as f64);
    page.single("riverrun_epochs_total", "counter", "Epochs published.", engine.epochs as f64);
    for (name, help, last, total) in [
        ("compute", "reading and computing", engine.last_compute_us, engine.compute_us),
        ("commit", "committing", engine.last_commit_us, engine.commit_us),
    ] {
        let help_last = format!("Time of the newest epoch spent {help}.");
        page.single(&format!("riverrun_epoch_last_{name}_seconds"), gauge, &help_last, seconds(last));
        let help_total = format!("Time of all epochs spent {help}.");
        page.single(&format!("riverrun_epoch_{name}_seconds_total"), "counter", &help_total, seconds(total));
    }
}

/// A family of the relations: name, type, help, value.
type Family = (&'static str, &'static str, &'static str, fn(&JobMetrics) -> f64);

const FAMILIES: [Family; 5] = [
    ("riverrun_rows_in_total", "counter", "Records read by a table, rows taken in by a view.", |m| m.rows_in as f64),
    ("riverrun_rows_out_total", "counter", "Consolidated changes handed on.", |m| m.rows_out as f64),
    ("riverrun_rows_touched_total", "counter", "Rows of state read or written.", |m| m.rows_touched as f64),
    ("riverrun_busy_seconds_total", "counter", "Time spent in operators.", |m| seconds(m.busy_us)),
    ("riverrun_state_bytes", "gauge", "Bytes of state, about.", |m| m.state_bytes as f64),
];

fn relations(page: &mut Page, engine: &EngineMetrics) {
    for (name, kind, help, value) in FAMILIES {
        page.family(name, kind, help);
        for job in &engine.jobs {
            page.sample(name, &labels(job), value(&job.metrics));
        }
    }
    let name = "riverrun_relation_readable";
    page.family(name, "gauge", "1 when it can be read, 0 while it waits, -1 when it has stopped.");
    for job in &engine.jobs {
        let value = match job.state {
            JobState::Running => 1.0,
            JobState::Waiting { .. } => 0.0,
            JobState::Failed { .. } => -1.0,
        };
        page.sample(name, &labels(job), value);
    }
}

fn labels(job: &JobStatus) -> [(&'static str, &str); 2] {
    [("relation", &job.name), ("kind", if job.view { "view" } else { "table" })]
}

/// How old what a view shows is: 0 while every record of its inputs is in it, else the age of the newest epoch's cut.
fn freshness(page: &mut Page, env: &log::Env, running: &Running, engine: &EngineMetrics) {
    let name = "riverrun_view_freshness_seconds";
    page.family(name, "gauge", "Age of what a view shows; +Inf when it waits, has stopped or its source has failed.");
    let pin = running.engine.pin();
    let covered = pin
        .cut()
        .0
        .iter()
        .all(|(partition, end)| running.node.log(*partition).is_ok_and(|log| log.bounds().last_stable <= *end));
    let age = if covered { 0.0 } else { (env.now_us() - pin.now_us()).max(0) as f64 / 1e6 };
    let stalled = running.sql.stalled_relations();
    for job in engine.jobs.iter().filter(|job| job.view) {
        let fresh = job.state == JobState::Running && !stalled.contains(&job.name);
        page.sample(name, &[("view", &job.name)], if fresh { age } else { f64::INFINITY });
    }
}

fn sources(page: &mut Page, running: &Running) {
    let sources = running.sql.source_reports();
    page.family("riverrun_cdc_rows_total", "counter", "Records of a source committed to the log.");
    for source in &sources {
        page.sample("riverrun_cdc_rows_total", &[("source", &source.name)], source.rows as f64);
    }
    let help = "Age of a source's newest record when it was committed; +Inf when the source has failed.";
    page.family("riverrun_cdc_lag_seconds", "gauge", help);
    for source in &sources {
        let lag = if source.state == "failed" { f64::INFINITY } else { source.lag_ms as f64 / 1e3 };
        page.sample("riverrun_cdc_lag_seconds", &[("source", &source.name)], lag);
    }
    page.family("riverrun_health", "gauge", "1 for the status that an entity has.");
    for source in &sources {
        let entity = format!("source {}", source.name);
        page.sample("riverrun_health", &[("entity", &entity), ("status", source.state)], 1.0);
    }
}

/// The write-ahead log by stage: queued, written, synced.
fn store(page: &mut Page, store: &log::StoreMetrics) {
    let (gauge, counter) = ("gauge", "counter");
    page.single("riverrun_wal_groups_total", counter, "Writes to the log, each synced once.", store.groups as f64);
    page.single("riverrun_wal_entries_total", counter, "Entries written.", store.entries as f64);
    page.single("riverrun_wal_written_bytes_total", counter, "Bytes written.", store.bytes_written as f64);
    page.single("riverrun_wal_write_seconds_total", counter, "Time in writes.", seconds(store.write_us));
    page.single("riverrun_wal_sync_seconds_total", counter, "Time in syncs.", seconds(store.sync_us));
    page.single("riverrun_wal_queued_bytes", gauge, "Bytes that wait for a write.", store.queued_bytes as f64);
    page.single("riverrun_tail_bytes", gauge, "Newest batches in memory.", store.tail_bytes as f64);
    let help = "Bytes that are durable in the write-ahead log and not in segments yet.";
    page.single("riverrun_unflushed_bytes", gauge, help, store.unflushed_bytes as f64);
    page.single("riverrun_wal_files", gauge, "Files of the log.", store.files as f64);
    compaction(page, &store.compaction);
}

fn compaction(page: &mut Page, figures: &log::CompactionMetrics) {
    let (gauge, counter) = ("gauge", "counter");
    page.single("riverrun_compaction_passes_total", counter, "Passes over a partition.", figures.passes as f64);
    let help = "Segments that were written anew or are not needed any more.";
    page.single("riverrun_compaction_segments_total", counter, help, figures.segments as f64);
    page.single("riverrun_compaction_read_bytes_total", counter, "Bytes read.", figures.bytes_read as f64);
    page.single("riverrun_compaction_written_bytes_total", counter, "Bytes written.", figures.bytes_written as f64);
    page.single("riverrun_compaction_seconds_total", counter, "Time in passes.", seconds(figures.pass_us));
    let help = "How long the last pass took.";
    page.single("riverrun_compaction_last_pass_seconds", gauge, help, seconds(figures.last_pass_us));
    let help = "When the last pass ended, in seconds since 1970; 0 when there was none since the start.";
    page.single("riverrun_compaction_last_pass_timestamp_seconds", gauge, help, figures.last_pass_ms as f64 / 1e3);
    let help = "The dirty part of the partition that has the most, at the last look, from 0 to 1.";
    page.single("riverrun_compaction_dirty_ratio_max", gauge, help, figures.dirty_ratio_max);
}

/// The Kafka listener's own counters, families kept together.
fn broker(page: &mut Page, running: &Running) {
    let mut samples = running.broker.samples();
    samples.sort_by_key(|sample| sample.name);
    let mut family = "";
    for sample in samples {
        // Times are shown in the base unit.
        let micros = sample.name.strip_suffix("_micros_total");
        let name = micros.map_or_else(|| sample.name.to_owned(), |stem| format!("{stem}_seconds_total"));
        if sample.name != family {
            family = sample.name;
            page.family(&name, if sample.counter { "counter" } else { "gauge" }, "Of the Kafka listener.");
        }
        let value = if micros.is_some() { seconds(sample.value) } else { sample.value as f64 };
        match sample.api {
            Some(api) => page.sample(&name, &[("api", api)], value),
            None => page.sample(&name, &[], value),
        }
    }
}

/// Names as kafka_exporter has them, so that its dashboards work.
fn partitions(page: &mut Page, running: &Running) {
    let topics = running.node.topics();
    page.family("kafka_topic_partitions", "gauge", "Partitions of a topic.");
    for topic in &topics {
        page.sample("kafka_topic_partitions", &[("topic", &topic.name)], f64::from(topic.partitions));
    }
    let mut bounds = Vec::new();
    for topic in &topics {
        for partition in 0..topic.partitions {
            let log = running.node.log(log::TopicPartition { topic: topic.id, partition });
            // A topic that was deleted meanwhile has no bounds.
            if let Ok(log) = log {
                bounds.push((topic.name.as_str(), partition.to_string(), log.bounds()));
            }
        }
    }
    for (name, help, value) in [
        ("kafka_topic_partition_oldest_offset", "The first offset.", (|b| b.start.0) as fn(&log::Bounds) -> i64),
        ("kafka_topic_partition_current_offset", "The next offset.", |b| b.high_watermark.0),
    ] {
        page.family(name, "gauge", help);
        for (topic, partition, bounds) in &bounds {
            page.sample(name, &[("topic", topic), ("partition", partition)], value(bounds) as f64);
        }
    }
}
