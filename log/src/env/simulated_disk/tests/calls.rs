//! The calls as such: errors, handles, locks.

use super::super::lock;
use super::*;

#[test]
fn errors_are_those_of_the_real_disk() {
    let disk = SimDisk::new(1);
    named(&disk, "/f");
    disk.create_dir(Path::new("/d/e")).unwrap();
    assert_eq!(kind(disk.open(Path::new("/f"), Open::Create)), io::ErrorKind::AlreadyExists);
    assert_eq!(kind(disk.open(Path::new("/x"), Open::Write)), io::ErrorKind::NotFound);
    assert_eq!(kind(disk.open(Path::new("/x/y"), Open::Create)), io::ErrorKind::NotFound);
    assert_eq!(kind(disk.open(Path::new("/f/y"), Open::Create)), io::ErrorKind::NotADirectory);
    assert_eq!(kind(disk.rename(Path::new("/x"), Path::new("/y"))), io::ErrorKind::NotFound);
    assert_eq!(kind(disk.rename(Path::new("/f"), Path::new("/d"))), io::ErrorKind::IsADirectory);
    assert_eq!(kind(disk.rename(Path::new("/d"), Path::new("/d/e/f"))), io::ErrorKind::InvalidInput);
    assert_eq!(kind(disk.unlink(Path::new("/d"))), io::ErrorKind::IsADirectory);
    assert_eq!(kind(disk.sync_dir(Path::new("/x"))), io::ErrorKind::NotFound);
    let file = disk.open(Path::new("/f"), Open::Read).unwrap();
    assert!(file.write_at(0, &[IoSlice::new(b"x")]).is_err(), "it was opened for reading");
}

#[test]
fn an_open_file_outlives_its_name_and_is_then_forgotten() {
    let disk = SimDisk::new(1);
    let file = file(&disk, b"abc");
    disk.unlink(Path::new("/f")).unwrap();
    disk.sync_dir(Path::new("/")).unwrap();
    for i in 0..200 {
        named(&disk, &format!("/{i}"));
        disk.unlink(Path::new(&format!("/{i}"))).unwrap();
        disk.sync_dir(Path::new("/")).unwrap();
    }
    let mut read = [0; 3];
    assert_eq!(file.read_at(0, &mut read).unwrap(), 3);
    assert_eq!(&read, b"abc");
    assert!(lock(&disk.state).inodes.len() < 70);
}

#[test]
fn a_lock_is_free_after_a_crash_and_then_belongs_to_the_next() {
    let (disk, path) = (SimDisk::new(1), Path::new("/LOCK"));
    let first = disk.lock(path).unwrap();
    assert_eq!(kind(disk.lock(path)), io::ErrorKind::WouldBlock);
    disk.crash();
    let _second = disk.lock(path).unwrap();
    drop(first);
    assert_eq!(kind(disk.lock(path)), io::ErrorKind::WouldBlock);
}
