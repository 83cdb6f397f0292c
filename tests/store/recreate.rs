//! Deletes topics and creates them again under the same names, over kills, and keeps record, see [`super::lives`].

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use super::actors::Actor;
use super::history::brief;
use super::lives::{Life, Seen, Sight};
use crate::support::broker::Broker;
use crate::support::random::Random;
use crate::support::requests::{REQUEST_TIMED_OUT, TOPIC_ALREADY_EXISTS, UNKNOWN_TOPIC_OR_PARTITION};

/// Small, so that a life has several of them.
const CONFIG: [(&str, &str); 2] = [("segment.bytes", "1048576"), ("segment.ms", "100")];
/// Records in a batch.
const BATCH: usize = 12;
/// Bytes of a record.
const SIZE_MAX: u64 = 1000;
/// The most of a life, of a death: batches, looks. So that kills come upon both.
const BATCHES_MAX: u64 = 60;
const LOOKS_MAX: u64 = 150;

/// Where a topic is in its course.
#[derive(Clone, Copy)]
enum Phase {
    /// It is to be created; whether that was tried before without an answer.
    Creating(bool),
    Created,
    /// So many batches are still to be written.
    Standing(u64),
    /// It is to be deleted; whether that was tried before without an answer.
    Deleting(bool),
    /// It is still to be looked for so many times.
    Gone(u64),
}

/// The topics of one name.
struct Course {
    name: &'static str,
    phase: Phase,
    random: Random,
    /// All lives so far, the present one last.
    lives: Vec<Life>,
}

pub struct Courses(Vec<Course>);

/// Creates, writes, reads, deletes and looks for topics of these names, one step of each in turn.
pub fn recreate(kafka: SocketAddr, names: &[&'static str], seed: u64) -> Actor<Courses> {
    let course = |(seed, name): (u64, &&'static str)| {
        let (phase, random) = (Phase::Creating(false), Random::new(seed));
        Course { name, phase, random, lives: Vec::new() }
    };
    let courses = Courses((seed..).zip(names).map(course).collect());
    let (mut connection, mut connections) = (None, 0);
    Actor::start(courses, move |courses: &mut Courses| {
        let Some(broker) = connection.as_mut() else {
            connection = Broker::try_connect(kafka).ok();
            connections += u64::from(connection.is_some());
            return connection.is_some();
        };
        let done = courses.0.iter_mut().try_for_each(|course| course.step(broker, connections));
        if done.is_err() {
            connection = None;
        }
        done.is_ok()
    })
}

impl Courses {
    /// The lives of all, looked at for the last time.
    pub fn end(self, broker: &mut Broker) -> Vec<Life> {
        let mut lives = Vec::new();
        for mut course in self.0 {
            // What nobody has answered yet is asked once more.
            while !matches!(course.phase, Phase::Standing(_) | Phase::Gone(_)) {
                course.step(broker, u64::MAX).expect("connected");
            }
            match course.phase {
                Phase::Standing(_) => course.see(broker).expect("connected"),
                _ => course.look(broker, u64::MAX).expect("connected"),
            }
            lives.extend(course.lives);
        }
        lives
    }
}

impl Course {
    fn life(&mut self) -> &mut Life {
        self.lives.last_mut().expect("it was created")
    }

    fn step(&mut self, broker: &mut Broker, connection: u64) -> io::Result<()> {
        let name = self.name;
        match self.phase {
            Phase::Creating(again) => {
                self.phase = Phase::Creating(true);
                match broker.create_topic(name, 1, &CONFIG)? {
                    Ok(()) => {}
                    Err(TOPIC_ALREADY_EXISTS) if again => {}
                    Err(REQUEST_TIMED_OUT) => return Ok(()),
                    Err(code) => panic!("{name} cannot be created: error {code}"),
                }
                self.lives.push(Life { name: name.to_owned(), ..Life::default() });
                self.phase = Phase::Created;
            }
            Phase::Created => {
                let id = broker.topic_id(name)?.unwrap_or_else(|code| panic!("{name} was created: error {code}"));
                let bounds = broker.bounds(name, 0)?.unwrap_or_else(|code| panic!("{name} was created: error {code}"));
                let life = self.life();
                (life.id, life.began) = (id, Some(bounds));
                self.phase = Phase::Standing(self.random.below(BATCHES_MAX));
            }
            Phase::Standing(0) => {
                self.see(broker)?;
                self.phase = Phase::Deleting(false);
            }
            Phase::Standing(batches) => {
                self.write(broker)?;
                if batches % 16 == 0 {
                    self.see(broker)?;
                }
                self.phase = Phase::Standing(batches - 1);
            }
            Phase::Deleting(again) => {
                self.phase = Phase::Deleting(true);
                match broker.delete_topic(name)? {
                    Ok(()) => {}
                    Err(UNKNOWN_TOPIC_OR_PARTITION) if again => {}
                    Err(REQUEST_TIMED_OUT) => return Ok(()),
                    Err(code) => panic!("{name} cannot be deleted: error {code}"),
                }
                self.life().deleted = Some(connection);
                self.phase = Phase::Gone(self.random.below(LOOKS_MAX));
            }
            Phase::Gone(0) => self.phase = Phase::Creating(false),
            Phase::Gone(looks) => {
                self.look(broker, connection)?;
                self.phase = Phase::Gone(looks - 1);
            }
        }
        Ok(())
    }

    fn write(&mut self, broker: &mut Broker) -> io::Result<()> {
        let (name, generation) = (self.name, self.lives.len());
        let from = self.life().tried.len();
        let sizes: Vec<usize> = (0..BATCH).map(|_| self.random.below(SIZE_MAX) as usize).collect();
        let values = (from..).zip(sizes).map(|(n, size)| format!("{name}.{generation}.{n}.{}", "x".repeat(size)));
        let values: Vec<String> = values.collect();
        let shared: Vec<Arc<str>> = values.iter().map(|value| Arc::from(brief(value))).collect();
        let life = self.life();
        life.tried.extend(shared.iter().cloned());
        match broker.produce(name, 0, &values)? {
            Ok(first) => life.acknowledged.extend((first..).zip(shared)),
            // It may be there, or come to be.
            Err(REQUEST_TIMED_OUT) => {}
            Err(code) => panic!("{name} cannot be written: error {code}"),
        }
        Ok(())
    }

    fn see(&mut self, broker: &mut Broker) -> io::Result<()> {
        let name = self.name;
        let (mut records, mut next) = (Vec::new(), 0);
        loop {
            let part = broker.read(name, 0, next)?.unwrap_or_else(|code| panic!("{name} at {next}: error {code}"));
            for record in part.records {
                let value = record.value.expect("a value");
                let value = brief(std::str::from_utf8(&value).expect("utf-8"));
                let known = self.life().acknowledged.get(&record.offset).filter(|known| ***known == *value);
                records.push((record.offset, known.map_or_else(|| Arc::from(value), Arc::clone)));
            }
            if part.next >= part.high_watermark {
                break;
            }
            assert!(part.next > next, "{name} gives nothing at {next} of {}", part.high_watermark);
            next = part.next;
        }
        let acknowledged = self.life().acknowledged.len();
        self.life().seen.push(Seen { acknowledged, records });
        Ok(())
    }

    /// Looks for the topic that was deleted last.
    fn look(&mut self, broker: &mut Broker, connection: u64) -> io::Result<()> {
        let name = self.name;
        let sight = match broker.topic_id(name)? {
            Ok(_) => Sight::Known,
            Err(UNKNOWN_TOPIC_OR_PARTITION) => match broker.produce(name, 0, &[format!("{name}.ghost")])? {
                Ok(_) => Sight::Written,
                Err(UNKNOWN_TOPIC_OR_PARTITION) => Sight::Nothing,
                Err(code) => panic!("{name} is deleted: error {code}"),
            },
            Err(code) => panic!("{name} is deleted: error {code}"),
        };
        self.life().sights.push((connection, sight));
        Ok(())
    }
}
