//! Apache Kafka's own tools in a JVM: the one that dumps segment files, and its console producer. Maven gets them as
//! `kafka_tools.pom.xml` says, so tests that use them are run on request only: `tests/run --jvm`.

use std::collections::BTreeMap;
use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::Scratch;
use super::clients::run;

const DUMP: &str = "org.apache.kafka.tools.DumpLogSegments";
const PRODUCE: &str = "org.apache.kafka.tools.ConsoleProducer";
/// Files are one argument, which Linux ends at 128 KiB.
const FILES_MAX: usize = 500;

pub struct KafkaTools {
    class_path: String,
}

/// What the tool prints of a `.log` beside its batches; of the other files it always prints all.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    Batches,
    /// Reads them, decompressed.
    Records,
    /// The check by which Kafka decides at its start whether to rebuild an index; nothing is printed.
    IndexSanity,
}

#[derive(Default)]
pub struct Dumped {
    /// In the order in which the files were given.
    pub files: Vec<DumpedFile>,
    /// Everything that the tool found wrong, as it says it.
    pub complaints: Vec<String>,
}

pub struct DumpedFile {
    pub path: PathBuf,
    pub lines: Vec<Line>,
}

/// The `name: value` pairs of a line.
#[derive(Debug)]
pub struct Line(BTreeMap<String, String>);

/// Whether tests with a JVM are asked for. Says so where they are not, past the capture of a passing test's output.
pub fn asked_for(test: &str) -> bool {
    let asked = std::env::var_os("RIVERRUN_TEST_JVM").is_some_and(|value| value == "1");
    if !asked {
        writeln!(std::io::stderr(), "{test}: NOT RUN, it needs a JVM: tests/run --jvm").expect("stderr");
    }
    asked
}

impl KafkaTools {
    /// Has Maven find the tool and all that it needs, and get what is not on this machine.
    pub fn get() -> KafkaTools {
        let scratch = Scratch::new("kafka-tools");
        let pom = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/kafka_tools.pom.xml");
        let out = scratch.path().join("class-path");
        let mut found = std::ffi::OsString::from("-Dmdep.outputFile=");
        found.push(&out);
        run(Command::new("mvn").args(["-B", "-q", "-f"]).arg(pom).arg("dependency:build-classpath").arg(found));
        KafkaTools { class_path: std::fs::read_to_string(out).expect("Maven writes the class path") }
    }

    /// Has the console producer write `lines`, each a key, a tab and a value; they are acknowledged in their order.
    pub fn produce(&self, broker: SocketAddr, topic: &str, codec: &str, lines: &str) {
        let broker = broker.to_string();
        let mut command = Command::new("java");
        command.args(["-cp", &self.class_path, PRODUCE, "--bootstrap-server", &broker, "--topic", topic]);
        command.args(["--compression-codec", codec, "--reader-property", "parse.key=true"]);
        let mut child = command.stdin(Stdio::piped()).spawn().unwrap_or_else(|e| panic!("java: {e}"));
        child.stdin.take().expect("piped").write_all(lines.as_bytes()).expect("it reads");
        let status = child.wait().expect("ended");
        assert!(status.success(), "{command:?}: {status}");
    }

    /// Dumps `files`, whose paths hold neither a comma nor a space.
    pub fn dump(&self, files: &[PathBuf], depth: Depth) -> Dumped {
        let mut dumped = Dumped::default();
        for files in files.chunks(FILES_MAX) {
            self.dump_some(files, depth, &mut dumped);
        }
        dumped
    }

    fn dump_some(&self, files: &[PathBuf], depth: Depth, dumped: &mut Dumped) {
        let names: Vec<&str> = files.iter().map(|file| file.to_str().expect("utf-8")).collect();
        let mut command = Command::new("java");
        command.args(["-cp", &self.class_path, DUMP, "--files", &names.join(",")]);
        match depth {
            Depth::Batches => {}
            Depth::Records => drop(command.arg("--print-data-log")),
            Depth::IndexSanity => drop(command.arg("--index-sanity-check")),
        }
        let out = command.stdin(Stdio::null()).output().unwrap_or_else(|e| panic!("java: {e}"));
        dumped.read(&String::from_utf8_lossy(&out.stdout));
        dumped.complaints.extend(complaints(&String::from_utf8_lossy(&out.stderr)));
        if !out.status.success() {
            dumped.complaints.push(format!("the tool ended with {}", out.status));
        }
    }
}

impl Dumped {
    /// Takes in what the tool printed; what is not understood is a complaint.
    fn read(&mut self, printed: &str) {
        for line in printed.lines() {
            if let Some(path) = line.strip_prefix("Dumping ") {
                self.files.push(DumpedFile { path: PathBuf::from(path), lines: Vec::new() });
            } else if line.ends_with(" passed sanity check.") || line.ends_with(" is empty.") {
                // Of an index; where it is empty, its lines are too.
            } else if let (Some(file), Some(pairs)) = (self.files.last_mut(), Line::parse(line)) {
                file.lines.push(pairs);
            } else {
                self.complaints.push(line.to_owned());
            }
        }
    }

    pub fn file(&self, path: &Path) -> &DumpedFile {
        let found = self.files.iter().find(|file| file.path == path);
        found.unwrap_or_else(|| panic!("{} was not dumped", path.display()))
    }
}

impl DumpedFile {
    /// The lines that have this name in them.
    pub fn with<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Line> {
        self.lines.iter().filter(move |line| line.0.contains_key(name))
    }
}

impl Line {
    /// `None` for a line that is anything else than pairs without spaces in their values.
    fn parse(line: &str) -> Option<Line> {
        let line = line.strip_prefix("| ").unwrap_or(line);
        // The one name with spaces.
        let line = line.strip_prefix("Log starting ").unwrap_or(line);
        let words: Vec<&str> = line.split(' ').collect();
        let pairs = words.chunks(2).map(|pair| match pair {
            [name, value] => Some((name.strip_suffix(':')?.to_owned(), (*value).to_owned())),
            _ => None,
        });
        pairs.collect::<Option<BTreeMap<_, _>>>().map(Line)
    }

    pub fn text(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    pub fn number(&self, name: &str) -> i64 {
        let text = self.text(name).unwrap_or_else(|| panic!("no {name} in {self:?}"));
        text.parse().unwrap_or_else(|e| panic!("{name} in {self:?}: {e}"))
    }
}

/// What the tool writes to stderr, less what it says of every segment that does not begin at 0: it expects offset 0
/// behind the -1 it starts with.
fn complaints(stderr: &str) -> Vec<String> {
    let mut left: Vec<String> = Vec::new();
    let heading = |line: &String| line.starts_with("Non-consecutive offsets in ");
    for line in stderr.lines().filter(|line| !line.starts_with("  -1 is followed by ")) {
        if !line.starts_with(' ') && left.last().is_some_and(heading) {
            left.pop();
        }
        left.push(line.to_owned());
    }
    if left.last().is_some_and(heading) {
        left.pop();
    }
    left
}
