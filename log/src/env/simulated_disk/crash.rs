//! What a crash makes of the changes that were not synced: each has a fate of its own.
//!
//! Fates are drawn from a seed, or chosen one by one to see every image that a crash can leave.

use std::collections::BTreeMap;

use super::{Seeded, SimDisk, State};

/// Up to so many changes all combinations of lost and whole are tried: 4,096 images.
const CHOSEN_CHANGES_MAX: usize = 12;

/// What becomes of the changes, asked for in their order: names first, then the files'.
pub(super) enum Fates {
    Drawn {
        random: Seeded,
        /// How many in sixteen survive.
        steps: usize,
        writes: usize,
    },
    /// One bit each, from the lowest on: whether it survives.
    Chosen(u64),
}

pub(super) enum WriteFate {
    Lost,
    Whole,
    /// The length reached the disk, the bytes did not.
    Zeros,
    Torn {
        /// Which reached the disk.
        sectors: Vec<bool>,
        /// Whether the length did.
        extended: bool,
    },
}

impl Fates {
    /// From nearly nothing surviving to nearly all, for names and for writes.
    pub fn drawn(seed: u64) -> Fates {
        const SIXTEENTHS: [usize; 6] = [0, 2, 4, 8, 12, 15];
        let mut random = Seeded(seed);
        let (steps, writes) = (SIXTEENTHS[random.below(6)], SIXTEENTHS[random.below(6)]);
        Fates::Drawn { random, steps, writes }
    }

    /// Whether a step survives. One that is `blocked` cannot; `None` when it was chosen to.
    pub fn step(&mut self, blocked: bool) -> Option<bool> {
        match self {
            Fates::Drawn { .. } if blocked => Some(false),
            Fates::Drawn { random, steps, .. } => Some(random.below(16) < *steps),
            Fates::Chosen(bits) => match take(bits) {
                true if blocked => None,
                kept => Some(kept),
            },
        }
    }

    /// Whether a change of length or of room survives.
    pub fn length(&mut self) -> bool {
        match self {
            Fates::Drawn { random, writes, .. } => random.below(16) < *writes,
            Fates::Chosen(bits) => take(bits),
        }
    }

    /// What becomes of a write over so many sectors.
    pub fn write(&mut self, sectors: usize) -> WriteFate {
        match self {
            Fates::Chosen(bits) => match take(bits) {
                true => WriteFate::Whole,
                false => WriteFate::Lost,
            },
            Fates::Drawn { random, writes, .. } => match random.below(16) {
                at if at < *writes => WriteFate::Whole,
                _ => match random.below(4) {
                    0 => WriteFate::Lost,
                    1 => WriteFate::Zeros,
                    _ => tear(random, sectors),
                },
            },
        }
    }
}

fn take(bits: &mut u64) -> bool {
    let taken = *bits & 1 == 1;
    *bits >>= 1;
    taken
}

/// Any subset of the sectors; those that a coin for each would hardly ever give come on purpose.
fn tear(random: &mut Seeded, sectors: usize) -> WriteFate {
    let chosen = random.below(sectors);
    let sectors = match random.below(4) {
        0 => (0..sectors).map(|at| at < chosen).collect(),
        1 => (0..sectors).map(|at| at != chosen).collect(),
        _ => (0..sectors).map(|_| random.coin()).collect(),
    };
    WriteFate::Torn { sectors, extended: random.coin() }
}

impl State {
    /// The disk after a crash; `None` when the fates contradict each other. Drawn ones never do.
    pub fn after_crash(&self, fates: &mut Fates) -> Option<State> {
        let names = self.names.after_crash(fates)?;
        let there = names.seen_files();
        let mut inodes = BTreeMap::new();
        for file in self.names.lasting_files() {
            let inode = self.inodes[&file].after_crash(fates);
            if there.contains(&file) {
                inodes.insert(file, inode);
            }
        }
        let (settings, random) = (self.settings, self.random.clone());
        Some(State { names, inodes, settings, random, ..State::new(self.next, self.life + 1) })
    }

    /// How many changes have a fate.
    pub fn pending(&self) -> usize {
        let changes = |file: &u64| self.inodes[file].pending.len();
        self.names.pending() + self.names.lasting_files().iter().map(changes).sum::<usize>()
    }
}

impl SimDisk {
    /// A disk that a crash at this moment can leave, as the seed draws it.
    pub fn crash_image(&self, seed: u64) -> SimDisk {
        let image = super::lock(&self.state).after_crash(&mut Fates::drawn(seed));
        let image = image.expect("drawn fates do not contradict each other");
        State { random: Seeded(!seed), ..image }.into()
    }

    /// The disks that a crash at this moment can leave, to recover on each. With up to 12 unsynced changes those of all
    /// combinations of lost and whole, and then, up to `limit` in all, what `seed` draws: torn and zeroed writes too.
    pub fn crash_images(&self, limit: usize, seed: u64) -> impl Iterator<Item = SimDisk> + use<> {
        let state = super::lock(&self.state).clone();
        let pending = state.pending();
        let chosen = if pending <= CHOSEN_CHANGES_MAX { 1 << pending } else { 0 };
        let drawn = if pending == 0 { 0 } else { limit.saturating_sub(chosen) };
        let mut seeds = Seeded(seed);
        let fates = (0..chosen).map(|bits| Fates::Chosen(bits as u64));
        let fates = fates.chain((0..drawn).map(move |_| Fates::drawn(seeds.next())));
        let mut lives = Seeded(!seed);
        fates.filter_map(move |mut fates| {
            let image = state.after_crash(&mut fates)?;
            Some(State { random: Seeded(lives.next()), ..image }.into())
        })
    }
}
