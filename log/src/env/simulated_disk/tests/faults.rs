//! Failing syncs in their four shapes, errors of reads and writes, full disks, silent damage.

use super::super::{Damage, SyncFailure};
use super::*;
use crate::env::read_full;

fn is_input_output_error<T>(result: io::Result<T>) -> bool {
    result.is_err_and(|error| error.raw_os_error() == Some(5))
}

/// `/f` holds `old`; then `new` is written, and the sync of it fails so. Also a handle that was opened before.
fn failing(how: SyncFailure) -> (SimDisk, Arc<dyn File>, Arc<dyn File>) {
    let disk = SimDisk::new(1);
    let file = file(&disk, b"old");
    let other = disk.open(Path::new("/f"), Open::Read).unwrap();
    disk.plan(Damage::SyncFails { operation: disk.operations() + 1, how });
    write(&*file, 0, b"new");
    (disk, file, other)
}

/// After a failure: the next sync succeeds, and makes nothing durable that is not written again.
fn check_lost(disk: &SimDisk, file: &dyn File) {
    file.sync_data().unwrap();
    let after = |disk: &SimDisk| {
        disk.crash();
        bytes(disk)
    };
    assert_eq!(after(&disk.snapshot()), b"old");
    write(file, 0, b"new");
    file.sync_data().unwrap();
    assert_eq!(after(disk), b"new");
}

#[test]
fn a_failed_sync_leaves_clean_pages_with_new_bytes() {
    let (disk, file, other) = failing(SyncFailure::Clean);
    assert!(is_input_output_error(file.sync_data()));
    assert_eq!(bytes(&disk), b"new");
    assert!(is_input_output_error(other.sync_data()), "each handle hears of it once");
    other.sync_data().unwrap();
    disk.open(Path::new("/f"), Open::Read).unwrap().sync_data().unwrap();
    let snapshot = disk.snapshot();
    assert_eq!(bytes(&snapshot), b"new", "to the next process too");
    snapshot.drop_caches();
    assert_eq!(bytes(&snapshot), b"old", "until the pages leave the cache");
    check_lost(&disk, &*file);
}

#[test]
fn a_failed_sync_brings_back_the_old_bytes() {
    let (disk, file, other) = failing(SyncFailure::Reverted);
    assert!(is_input_output_error(file.sync_data()) && is_input_output_error(other.sync_data()));
    assert_eq!(bytes(&disk), b"old");
    check_lost(&disk, &*file);
}

#[test]
fn a_failed_sync_is_reported_by_the_next_one() {
    let (disk, file, _) = failing(SyncFailure::Late);
    file.sync_data().unwrap();
    assert_eq!(bytes(&disk), b"new");
    assert!(is_input_output_error(file.sync_data()));
    check_lost(&disk, &*file);
}

#[test]
fn a_handle_opened_afterwards_does_not_hear_of_a_failure() {
    let (disk, file, other) = failing(SyncFailure::Unseen);
    let late = disk.open(Path::new("/f"), Open::Write).unwrap();
    late.sync_data().unwrap();
    assert!(is_input_output_error(file.sync_data()) && is_input_output_error(other.sync_data()));
    assert_eq!(bytes(&disk), b"new");
    check_lost(&disk, &*late);
}

#[test]
fn what_the_wait_for_writing_back_is_told_the_sync_is_not() {
    let (disk, file, other) = failing(SyncFailure::Unseen);
    assert!(is_input_output_error(file.await_writeback(0, 1)));
    file.await_writeback(0, 1).unwrap();
    file.sync_data().unwrap();
    assert!(is_input_output_error(other.sync_data()));
    check_lost(&disk, &*file);
}

#[test]
fn writing_back_makes_nothing_durable() {
    let disk = SimDisk::new(1);
    let file = file(&disk, b"old");
    write(&*file, 0, b"new");
    let unsynced = disk.unsynced();
    file.start_writeback(0, 3).unwrap();
    file.await_writeback(0, 3).unwrap();
    assert_eq!(disk.unsynced(), unsynced);
}

#[test]
fn the_length_may_reach_the_disk_without_the_bytes() {
    let mut found = BTreeSet::new();
    for seed in 0..20 {
        let disk = SimDisk::new(seed);
        let file = file(&disk, b"old");
        disk.plan(Damage::SyncFails { operation: 1, how: SyncFailure::Clean });
        write(&*file, 3, b"new");
        assert!(file.sync_data().is_err());
        disk.crash();
        found.insert(bytes(&disk));
    }
    assert_eq!(found, [b"old".to_vec(), b"old\0\0\0".to_vec()].into());
}

#[test]
fn a_write_fails_with_part_of_it_done() {
    let mut written = BTreeSet::new();
    for seed in 0..40 {
        let disk = SimDisk::new(seed);
        let file = file(&disk, b"");
        disk.plan(Damage::WriteFails { operation: 1 });
        assert!(is_input_output_error(file.write_at(0, &[IoSlice::new(b"ab"), IoSlice::new(b"cd")])));
        let there = bytes(&disk);
        assert!(b"abcd".starts_with(&there));
        written.insert(there.len());
        write(&*file, 0, b"abcd");
    }
    assert_eq!(written.len(), 5);
}

#[test]
fn a_read_fails_or_gives_less() {
    let disk = SimDisk::new(1);
    let file = file(&disk, &[3; 10_000]);
    let mut into = [0; 10_000];
    disk.plan(Damage::ReadFails { operation: disk.operations() });
    assert!(is_input_output_error(file.read_at(0, &mut into)));
    assert_eq!(file.read_at(0, &mut into).unwrap(), 10_000);
    disk.set_short_reads(true);
    let counts: BTreeSet<usize> = (0..20).map(|_| file.read_at(0, &mut into).unwrap()).collect();
    assert!(counts.len() > 5 && counts.iter().all(|count| (1..=10_000).contains(count)));
    into.fill(0);
    read_full(&*file, 0, &mut into).unwrap();
    assert_eq!(into, [3; 10_000]);
}

#[test]
fn a_sector_that_cannot_be_read_can_be_written() {
    let disk = SimDisk::new(1);
    let file = file(&disk, &[3; 2048]);
    disk.unreadable_sector(Path::new("/f"), 1030);
    let mut into = [0; 2048];
    assert_eq!(file.read_at(0, &mut into).unwrap(), 1024);
    assert!(is_input_output_error(file.read_at(1024, &mut into)));
    assert!(is_input_output_error(file.read_at(1500, &mut into)));
    assert_eq!(file.read_at(1536, &mut into).unwrap(), 512);
    disk.crash();
    let file = disk.open(Path::new("/f"), Open::Write).unwrap();
    assert!(is_input_output_error(read_full(&*file, 0, &mut into)));
    write(&*file, 1024, &[4; 512]);
    read_full(&*file, 0, &mut into).unwrap();
    assert_eq!(into[1024..1536], [4; 512]);
}

#[test]
fn a_full_disk_takes_what_fits_and_goes_on_when_there_is_room() {
    const PAGE: u64 = 4096;
    let disk = SimDisk::new(1);
    let (root, g) = (Path::new("/"), Path::new("/g"));
    disk.set_capacity(Some(8 * PAGE));
    let file = file(&disk, &[1; 4096]);
    assert_eq!(disk.free_bytes(root).unwrap(), 7 * PAGE);
    assert_eq!(kind(disk.free_bytes(g)), io::ErrorKind::NotFound);

    let other = disk.open(g, Open::Create).unwrap();
    other.allocate(PAGE, 3 * PAGE).unwrap();
    assert_eq!((disk.free_bytes(root).unwrap(), other.len().unwrap()), (4 * PAGE, 0));
    let error = file.write_at(PAGE - 96, &[IoSlice::new(&[2; 5 * 4096])]);
    assert_eq!(kind(error), io::ErrorKind::StorageFull);
    assert_eq!((disk.free_bytes(root).unwrap(), file.len().unwrap()), (0, 5 * PAGE));
    assert_eq!(kind(file.allocate(5 * PAGE, 1)), io::ErrorKind::StorageFull);
    assert_eq!(kind(file.set_len(6 * PAGE)), io::ErrorKind::StorageFull);
    write(&*file, 0, &[3; 5 * 4096]);
    write(&*other, PAGE, &[4; 3 * 4096]);
    assert_eq!(kind(other.write_at(0, &[IoSlice::new(b"x")])), io::ErrorKind::StorageFull, "a hole was not reserved");

    disk.unlink(g).unwrap();
    assert_eq!(disk.free_bytes(root).unwrap(), 0, "somebody still has it open");
    drop(other);
    assert_eq!(disk.free_bytes(root).unwrap(), 3 * PAGE);
    file.set_len(PAGE).unwrap();
    assert_eq!(disk.free_bytes(root).unwrap(), 7 * PAGE);
    disk.set_capacity(Some(20 * PAGE));
    write(&*file, 0, &[5; 15 * 4096]);
    disk.crash();
    assert!(disk.free_bytes(root).unwrap() <= 19 * PAGE, "a crash gives no room");
}

#[test]
fn a_reservation_is_durable_when_it_was_synced() {
    let disk = SimDisk::new(1);
    disk.set_capacity(Some(10 * 4096));
    let file = file(&disk, b"abc");
    file.allocate(0, 5 * 4096).unwrap();
    let free = |disk: SimDisk| disk.free_bytes(Path::new("/")).unwrap() / 4096;
    let free: BTreeSet<u64> = disk.crash_images(9, 1).map(free).collect();
    assert_eq!(free, [9, 5].into());
    file.sync_data().unwrap();
    disk.crash();
    assert_eq!((disk.free_bytes(Path::new("/")).unwrap(), bytes(&disk)), (5 * 4096, b"abc".to_vec()));
}

#[test]
fn a_lost_write_and_a_misdirected_one_report_success() {
    for damage in [Damage::WriteLost { operation: 1 }, Damage::WriteMisdirected { operation: 1 }] {
        let disk = SimDisk::new(1);
        let file = file(&disk, &[1; 8192]);
        disk.plan(damage);
        write(&*file, 1024, &[2; 512]);
        file.sync_data().unwrap();
        assert_eq!(bytes(&disk)[1024..1536], [2; 512], "the cache has it");
        disk.crash();
        let twos = bytes(&disk).iter().filter(|byte| **byte == 2).count();
        assert_eq!(bytes(&disk)[1024..1536], [1; 512]);
        assert_eq!(twos, if damage == (Damage::WriteLost { operation: 1 }) { 0 } else { 512 });
    }
}

#[test]
fn silent_damage_is_where_the_test_wants_it() {
    let (disk, path) = (SimDisk::new(1), Path::new("/f"));
    let file = file(&disk, &[1; 2048]);
    let older = disk.snapshot();
    write(&*file, 0, &[2; 2048]);
    file.sync_data().unwrap();
    let with = |damage: &dyn Fn(&SimDisk)| {
        let disk = disk.snapshot();
        damage(&disk);
        let seen = bytes(&disk);
        disk.crash();
        assert_eq!(bytes(&disk), seen, "it is on the disk");
        seen
    };
    let parts = |[a, b, c, d]: [u8; 4]| [[a; 512], [b; 512], [c; 512], [d; 512]].concat();
    assert_eq!(with(&|disk| disk.stale_sector(path, 600, &older)), parts([2, 1, 2, 2]));
    assert_eq!(with(&|disk| disk.truncate_file(path, 1024)), parts([2; 4])[..1024]);
    let flipped = with(&|disk| disk.flip_bit(path, 5));
    assert_eq!((flipped[5], flipped[6]), (3, 2));
    write(&*file, 512, &[3; 512]);
    file.sync_data().unwrap();
    assert_eq!(with(&|disk| disk.misdirect_sector(path, 512, 2000, &older)), parts([2, 1, 2, 3]));
}
