//! What is done to one file of a data directory.

use std::io::IoSlice;
use std::path::{Path, PathBuf};

use crate::Env;
use crate::env::{Disk, Open, SimDisk};
use crate::store::forge::{self, Format, Part, What};

/// What was done to it.
pub(super) struct Change {
    pub path: PathBuf,
    /// The checksums are right again, or the names: then there is no knowing that anything is wrong.
    pub forged: bool,
    pub what: String,
}

impl Change {
    /// Of a segment or a file beside one: where all stands is told by the log and the checkpoint.
    pub fn is_beside(&self) -> bool {
        let end = self.path.extension().and_then(|end| end.to_str()).unwrap_or_default();
        matches!(end, "log" | "index" | "timeindex" | "txnindex" | "snapshot")
    }
}

/// Makes a file be there with these bytes.
pub(super) fn put(disk: &SimDisk, path: &Path, bytes: &[u8]) {
    let _ = disk.unlink(path);
    disk.create_dir(path.parent().unwrap()).unwrap();
    let file = disk.open(path, Open::Create).unwrap();
    file.write_at(0, &[IoSlice::new(bytes)]).unwrap();
    file.sync_data().unwrap();
}

/// Numbers that somebody who means harm would try in the place of this one.
fn worse(number: u64, width: usize, len: usize, random: u64) -> u64 {
    let most = if width == 8 { u64::MAX } else { (1 << (8 * width)) - 1 };
    let choices = [
        0,
        1,
        most,
        most - 1,
        most >> 1,
        (most >> 1) + 1,
        (most >> 1) - 1,
        number.wrapping_add(1),
        number.wrapping_sub(1),
        number.wrapping_mul(2),
        len as u64,
        len as u64 + 1,
        random,
        1 << (random % 64),
    ];
    choices[(random >> 32) as usize % choices.len()] & most
}

/// Puts a worse number somewhere; says where.
fn spoil_number(bytes: &mut [u8], parts: &[Part], env: &Env) -> String {
    let random = |below: usize| env.random_u64() as usize % below;
    let (at, width, big) = if parts.is_empty() || random(5) == 0 {
        let width = [1, 2, 4, 8][random(4)].min(bytes.len());
        (random(bytes.len() - width + 1), width, random(2) == 0)
    } else {
        // Many parts are batches, few are checkpoints' blocks.
        let one = parts[random(parts.len())];
        let alike: Vec<&Part> = parts.iter().filter(|part| random(3) == 0 || part.what != one.what).collect();
        let part = *alike.get(random(alike.len().max(1))).copied().unwrap_or(&one);
        match part.what {
            What::Standing(len) if len > 8 && random(4) > 0 => {
                let width = [1, 4, 8][random(3)];
                (part.at + 28 + random(len - width + 1), width, false)
            }
            _ => {
                let (numbers, big) = part.numbers();
                let (offset, width) = numbers[random(numbers.len())];
                (part.at + offset, width, big)
            }
        }
    };
    let Some(field) = bytes.get(at..at + width) else { return "nothing".to_owned() };
    let order = |bytes: &mut Vec<u8>| {
        if big {
            bytes.reverse();
        }
    };
    let mut little = field.to_vec();
    order(&mut little);
    let number = little.iter().rev().fold(0u64, |number, byte| number << 8 | u64::from(*byte));
    let worse = worse(number, width, bytes.len(), env.random_u64());
    let mut little = worse.to_le_bytes()[..width].to_vec();
    order(&mut little);
    bytes[at..at + width].copy_from_slice(&little);
    format!("{number} is {worse} in {width} bytes at {at}")
}

fn swap_blocks(bytes: &mut [u8], env: &Env) -> String {
    let size = [16, 64, 512][env.random_u64() as usize % 3];
    let blocks = bytes.len() / size;
    if blocks < 2 {
        return "nothing".to_owned();
    }
    let (one, other) = (env.random_u64() as usize % blocks * size, env.random_u64() as usize % blocks * size);
    (0..size).for_each(|i| bytes.swap(one + i, other + i));
    format!("{size} bytes at {one} and {other} are swapped")
}

/// Makes a number in the JSON of a file as large as it can be written.
fn nines(bytes: &mut [u8], env: &Env) -> String {
    let starts: Vec<usize> =
        (1..bytes.len()).filter(|at| bytes[*at].is_ascii_digit() && bytes[at - 1] == b':').collect();
    if starts.is_empty() {
        return "nothing".to_owned();
    }
    let at = starts[env.random_u64() as usize % starts.len()];
    bytes[at..].iter_mut().take_while(|byte| byte.is_ascii_digit()).for_each(|byte| *byte = b'9');
    format!("the number at {at} is all nines")
}

/// A name that the file could have as well.
fn other_name(path: &Path, env: &Env) -> PathBuf {
    let name = path.file_name().unwrap().to_str().unwrap();
    let digits = name.chars().filter(char::is_ascii_digit).count();
    let number: u64 = name.chars().filter(char::is_ascii_digit).collect::<String>().parse().unwrap_or(0);
    let choices = [number + 1, number.saturating_sub(1), 0, u64::from(u32::MAX), u64::from(u32::MAX - 1), 1 << 62];
    let other = choices[env.random_u64() as usize % choices.len()];
    let end = path.extension().map(|end| format!(".{}", end.to_str().unwrap())).unwrap_or_default();
    let renamed = match Format::of(path) {
        Format::Checkpoint => format!("checkpoint-{other:010}"),
        _ if env.random_u64().is_multiple_of(4) => {
            return path.with_file_name(format!("compacted-{}", other % (1 << 33))).join(name);
        }
        _ if digits > 0 => format!("{other:0digits$}{end}"),
        _ => format!("{name}.new"),
    };
    path.with_file_name(renamed)
}

/// Changes one file.
pub(super) fn change(disk: &SimDisk, env: &Env) -> Option<Change> {
    let random = |below: usize| env.random_u64() as usize % below;
    let files: Vec<(PathBuf, Vec<u8>)> = disk.image().into_iter().filter(|(_, bytes)| !bytes.is_empty()).collect();
    // Of each kind as often.
    let kind = |path: &Path| {
        let end = path.extension().map(|end| end.to_str().unwrap().to_owned());
        end.unwrap_or_else(|| path.file_name().unwrap().to_str().unwrap()[..6].to_owned())
    };
    let mut kinds: Vec<String> = files.iter().map(|(path, _)| kind(path)).collect();
    kinds.sort();
    kinds.dedup();
    // Twice those that recovery goes by.
    kinds.extend(["wal", "wal", "checkp", "checkp"].map(str::to_owned));
    let wanted = kinds[random(kinds.len())].clone();
    let alike: Vec<&(PathBuf, Vec<u8>)> = files.iter().filter(|(path, _)| kind(path) == wanted).collect();
    let (path, bytes) = *alike.get(random(alike.len().max(1)))?;
    let format = Format::of(path);
    let parts = format.parts(bytes);
    let written = bytes.iter().rposition(|byte| *byte != 0).unwrap_or(0) + 1;
    let mut new = bytes.clone();
    let mut forged = false;
    let what = match random(20) {
        0 | 1 => {
            let at = random(written);
            new[at] ^= 1 << random(8);
            format!("a bit at {at} is flipped")
        }
        2 => {
            new.truncate(random(written));
            format!("cut to {}", new.len())
        }
        3 => {
            let more = random(300);
            new.extend((0..more).map(|_| env.random_u64() as u8));
            format!("{more} bytes more")
        }
        4 => spoil_number(&mut new, &parts, env),
        5 => swap_blocks(&mut new, env),
        6 => {
            forged = true;
            let what = swap_blocks(&mut new, env);
            forge::reseal(&mut new, &parts);
            format!("{what}, sealed")
        }
        7 => {
            let (other, bytes) = &files[random(files.len())];
            // Of the same log, and whole: what it would say is true, or was.
            forged = true;
            new.clone_from(bytes);
            format!("it is {}", other.display())
        }
        8 => {
            let other = other_name(path, env);
            put(disk, &other, bytes);
            return Some(Change { path: other, forged: true, what: format!("a copy of {}", path.display()) });
        }
        9 => {
            disk.unlink(path).ok()?;
            return Some(Change { path: path.clone(), forged: true, what: "it is gone".to_owned() });
        }
        10 | 11 => {
            forged = true;
            let what = nines(&mut new, env);
            forge::reseal(&mut new, &parts);
            format!("{what}, sealed")
        }
        _ => {
            forged = true;
            let mut what = spoil_number(&mut new, &parts, env);
            if random(3) == 0 {
                what = format!("{what}, {}", spoil_number(&mut new, &parts, env));
            }
            forge::reseal(&mut new, &parts);
            format!("{what}, sealed")
        }
    };
    if new == *bytes {
        return None;
    }
    put(disk, path, &new);
    Some(Change { path: path.clone(), forged, what })
}
