//! What the simulated disk promises, and that it does to the rest all that it may.

mod calls;
mod crashes;
mod faults;

use std::collections::BTreeSet;
use std::io::{self, IoSlice};
use std::path::Path;
use std::sync::Arc;

use super::SimDisk;
use crate::env::{Disk, File, Open};

fn write(file: &dyn File, offset: u64, bytes: &[u8]) {
    file.write_at(offset, &[IoSlice::new(bytes)]).unwrap();
}

/// A file `/f` with a durable name and durable bytes.
fn file(disk: &SimDisk, bytes: &[u8]) -> Arc<dyn File> {
    let file = disk.open(Path::new("/f"), Open::Create).unwrap();
    write(&*file, 0, bytes);
    file.sync_data().unwrap();
    disk.sync_dir(Path::new("/")).unwrap();
    file
}

fn kind<T>(result: io::Result<T>) -> io::ErrorKind {
    result.err().unwrap().kind()
}

fn bytes(disk: &SimDisk) -> Vec<u8> {
    disk.bytes(Path::new("/f")).unwrap()
}

/// Everything that a crash may leave of `/f`.
fn images(disk: &SimDisk) -> BTreeSet<Vec<u8>> {
    disk.crash_images(2000, 1).map(|image| bytes(&image)).collect()
}

/// All combinations of names below `/` that a crash may leave.
fn names(disk: &SimDisk) -> BTreeSet<String> {
    let text = |image: SimDisk| {
        let files = image.image().into_iter();
        let files = files.map(|(path, bytes)| format!("{}={}", path.display(), String::from_utf8(bytes).unwrap()));
        files.collect::<Vec<_>>().join(" ")
    };
    disk.crash_images(2000, 1).map(text).collect()
}

/// A durable file with its own name as content.
fn named(disk: &SimDisk, path: &str) {
    let file = disk.open(Path::new(path), Open::Create).unwrap();
    write(&*file, 0, path.as_bytes());
    file.sync_data().unwrap();
    disk.sync_dir(Path::new(path).parent().unwrap()).unwrap();
}
