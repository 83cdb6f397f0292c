//! What was seen on the disk over a run: that segments were rolled, removed and compacted, and not only may have been.

use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};

use crate::support::program::Program;

/// Files of segments below `topics/`, as they were whenever somebody looked.
#[derive(Default)]
pub struct Census {
    seen: BTreeSet<PathBuf>,
    now: BTreeSet<PathBuf>,
    figures: Figures,
}

#[derive(Clone, Copy, Debug, Default)]
struct Figures {
    /// Segments beyond the first ones of their partitions.
    rolled: usize,
    /// Written anew by compaction.
    cleaned: usize,
    /// Seen once, and gone now.
    removed: usize,
    /// Passes of compaction in the program's own words, and what went with them.
    passes: usize,
    superseded: u64,
    tombstones: u64,
}

impl Census {
    /// Looks. Files come and go meanwhile.
    pub fn take(&mut self, data: &Path) {
        self.now.clear();
        let mut folders = vec![data.join("topics")];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
                let path = entry.path();
                if path.extension().is_some_and(|end| end == "log") {
                    self.now.insert(path);
                } else if path.extension().is_none() && entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    folders.push(path);
                }
            }
        }
        self.seen.extend(self.now.iter().cloned());
    }

    /// Whether a segment of this topic was seen that compaction has written.
    pub fn has_compacted(&self, topic: &Path) -> bool {
        self.seen.iter().any(|path| path.starts_with(topic) && is_compacted(path))
    }

    /// Whether everything was seen that a run is to have seen.
    pub fn all_has_happened(&mut self, data: &Path) -> bool {
        let first = |path: &&PathBuf| path.ends_with("00000000000000000000.log");
        let said = Program::said(data);
        let passes: Vec<&str> = said.lines().filter(|line| line.contains("compacted partition=")).collect();
        let sum = |name: &str| passes.iter().map(|line| figure(line, name)).sum();
        self.figures = Figures {
            rolled: self.seen.iter().filter(|path| !is_compacted(path) && !first(path)).count(),
            cleaned: self.seen.iter().filter(|path| is_compacted(path)).count(),
            removed: self.seen.difference(&self.now).count(),
            passes: passes.len(),
            superseded: sum("superseded"),
            tombstones: sum("tombstones"),
        };
        let Figures { rolled, cleaned, removed, passes, superseded, tombstones } = self.figures;
        rolled > 20 && cleaned > 5 && removed > 10 && passes > 10 && superseded > 1000 && tombstones > 0
    }
}

impl fmt::Debug for Census {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.figures.fmt(f)
    }
}

fn is_compacted(file: &Path) -> bool {
    file.to_string_lossy().contains("/compacted-")
}

/// The number behind `NAME=`.
fn figure(line: &str, name: &str) -> u64 {
    let rest = line.split(&format!(" {name}=")).nth(1).and_then(|rest| rest.split_whitespace().next());
    rest.and_then(|number| number.parse().ok()).unwrap_or_else(|| panic!("no {name} in {line:?}"))
}
