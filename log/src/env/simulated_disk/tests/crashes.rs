//! What a crash leaves.

use super::super::{Damage, Seeded};
use super::*;

#[test]
fn synced_bytes_stay_and_the_rest_meets_every_fate() {
    let disk = SimDisk::new(1);
    let file = file(&disk, &[1; 1024]);
    write(&*file, 1024, &[2; 1024]);
    let images = images(&disk);
    let with = |tail: &[&[u8]]| [&[1; 1024], tail.concat().as_slice()].concat();
    assert!(images.iter().all(|image| image[..1024] == [1; 1024]));
    assert!(images.contains(&with(&[])), "lost");
    assert!(images.contains(&with(&[&[2; 1024]])), "whole");
    assert!(images.contains(&with(&[&[0; 1024]])), "zeros");
    assert!(images.contains(&with(&[&[2; 512]])), "torn behind the first sector");
    assert!(images.contains(&with(&[&[2; 512], &[0; 512]])), "the same with the length extended");
    assert!(images.contains(&with(&[&[0; 512], &[2; 512]])), "torn before the second sector");
    assert_eq!(images.len(), 6);
}

#[test]
fn a_later_write_may_survive_an_earlier_one() {
    let disk = SimDisk::new(1);
    let file = file(&disk, &[0; 1024]);
    write(&*file, 0, &[1; 512]);
    write(&*file, 512, &[2; 512]);
    let expect = [[0, 0], [1, 0], [0, 2], [1, 2]].map(|[a, b]| [[a; 512], [b; 512]].concat());
    assert_eq!(images(&disk), BTreeSet::from(expect));
    // But a sector is written as it was in memory: with what an earlier write put there.
    write(&*file, 10, &[3; 10]);
    let third = |image: &Vec<u8>| image[10] == 3;
    assert!(images(&disk).iter().filter(|image| third(image)).all(|image| image[..10] == [1; 10]));
}

#[test]
fn a_length_does_not_wait_for_bytes() {
    let disk = SimDisk::new(1);
    let file = file(&disk, b"abcdef");
    file.set_len(3).unwrap();
    write(&*file, 3, b"DEF");
    let expect = ["abcdef", "abc", "abcDEF", "abc\0\0\0"].map(|text| text.as_bytes().to_vec());
    assert_eq!(images(&disk), BTreeSet::from(expect));
}

#[test]
fn names_survive_each_by_itself_and_a_rename_is_one_step() {
    let disk = SimDisk::new(1);
    ["/a", "/b", "/c"].iter().for_each(|path| named(&disk, path));
    disk.unlink(Path::new("/b")).unwrap();
    disk.rename(Path::new("/a"), Path::new("/c")).unwrap();
    let expect = ["/a=/a /b=/b /c=/c", "/a=/a /c=/c", "/b=/b /c=/a", "/c=/a"];
    assert_eq!(names(&disk), expect.map(str::to_owned).into());
    // The same name again: it builds on the step before.
    let new = disk.open(Path::new("/a"), Open::Create).unwrap();
    write(&*new, 0, b"new");
    new.sync_data().unwrap();
    let more = ["/a=new /b=/b /c=/a", "/a=new /c=/a"];
    assert_eq!(names(&disk), expect.into_iter().chain(more).map(str::to_owned).collect());
    disk.sync_dir(Path::new("/")).unwrap();
    assert_eq!(names(&disk), ["/a=new /c=/a".to_owned()].into());
}

#[test]
fn a_directory_syncs_its_own_names_and_what_they_build_on() {
    let disk = SimDisk::new(1);
    disk.create_dir(Path::new("/d/e")).unwrap();
    named(&disk, "/d/e/x");
    assert_eq!(names(&disk), ["".to_owned(), "/d/e/x=/d/e/x".to_owned()].into());
    disk.sync_dir(Path::new("/d")).unwrap();
    assert_eq!(names(&disk).len(), 2, "the directory itself has no durable name yet");
    disk.sync_dir(Path::new("/")).unwrap();
    assert_eq!(names(&disk), ["/d/e/x=/d/e/x".to_owned()].into());

    // A file that moves between two directories is in one of them, whichever is synced.
    disk.open(Path::new("/d/y"), Open::Create).unwrap();
    disk.rename(Path::new("/d/y"), Path::new("/d/e/y")).unwrap();
    disk.sync_dir(Path::new("/d/e")).unwrap();
    assert_eq!(names(&disk), ["/d/e/x=/d/e/x /d/e/y=".to_owned()].into());
}

#[test]
fn directories_move_and_go_with_what_is_in_them() {
    let disk = SimDisk::new(1);
    disk.create_dir(Path::new("/d/e")).unwrap();
    ["/d/x", "/d/e/y"].iter().for_each(|path| named(&disk, path));
    disk.sync_dir(Path::new("/")).unwrap();
    disk.rename(Path::new("/d"), Path::new("/moved")).unwrap();
    assert_eq!(disk.list(Path::new("/moved")).unwrap(), ["/moved/e", "/moved/x"].map(Path::new));
    let (before, after) = ("/d/e/y=/d/e/y /d/x=/d/x".to_owned(), "/moved/e/y=/d/e/y /moved/x=/d/x".to_owned());
    assert_eq!(names(&disk), [before, after].into());
    disk.sync_dir(Path::new("/")).unwrap();
    disk.remove_dir(Path::new("/moved")).unwrap();
    assert!(disk.list(Path::new("/moved")).unwrap().is_empty());
    let partly = names(&disk);
    assert!(partly.contains("/moved/x=/d/x") && partly.contains("/moved/e/y=/d/e/y") && partly.contains(""));
    disk.sync_dir(Path::new("/")).unwrap();
    assert_eq!(names(&disk), ["".to_owned()].into());
    disk.remove_dir(Path::new("/moved")).unwrap();
}

#[test]
fn what_was_under_way_when_the_power_went_may_be_done() {
    let disk = SimDisk::new(1);
    let file = file(&disk, b"");
    disk.plan(Damage::PowerCut { operation: disk.operations() + 1 });
    assert!(file.write_at(0, &[IoSlice::new(b"abc")]).is_err());
    assert!(file.write_at(3, &[IoSlice::new(b"def")]).is_err() && file.read_at(0, &mut [0]).is_err());
    assert_eq!(images(&disk), [b"".to_vec(), b"abc".to_vec(), b"\0\0\0".to_vec()].into());
    disk.crash();
    disk.plan(Damage::PowerCut { operation: 1 });
    assert!(disk.rename(Path::new("/f"), Path::new("/g")).is_err());
    let there = disk.crash_images(0, 1).map(|image| image.bytes(Path::new("/g")).is_some());
    assert_eq!(there.collect::<Vec<_>>(), [false, true]);
}

#[test]
fn a_watcher_sees_the_disk_before_each_operation() {
    let disk = SimDisk::new(1);
    let file = file(&disk, b"abc");
    let seen = Arc::new(std::sync::Mutex::new(Vec::new()));
    let into = Arc::clone(&seen);
    disk.watch(move |operation, copy| {
        let copy = copy();
        into.lock().unwrap().push((operation, copy.unsynced(), bytes(&copy)));
    });
    let before = disk.operations();
    write(&*file, 3, b"def");
    file.sync_data().unwrap();
    disk.unlink(Path::new("/f")).unwrap();
    disk.crash();
    disk.create_dir(Path::new("/d")).unwrap();
    let expect = [(before + 1, 0, b"abc".to_vec()), (before + 2, 1, b"abcdef".to_vec())];
    let seen = seen.lock().unwrap();
    assert_eq!(seen[..2], expect);
    assert_eq!((seen[2].0, seen[2].1, seen.len()), (before + 3, 0, 3));
}

#[test]
fn images_have_lives_of_their_own() {
    let disk = SimDisk::new(1);
    let file = file(&disk, b"abc");
    let snapshot = disk.snapshot();
    for image in disk.crash_images(3, 1).chain([snapshot]) {
        let file = image.open(Path::new("/f"), Open::Write).unwrap();
        write(&*file, 0, b"xyz");
        drop(file);
        assert_eq!(bytes(&image), b"xyz");
        image.crash();
    }
    assert_eq!(bytes(&disk), b"abc");
    write(&*file, 0, b"uvw");
    disk.heal();
    assert_eq!(bytes(&disk), b"uvw", "a process that ends takes nothing with it");
    assert!(file.write_at(0, &[IoSlice::new(b"a")]).is_err(), "a handle ends with its process");
}

#[test]
fn the_same_seed_crashes_in_the_same_way() {
    let lives = |seed| {
        let disk = SimDisk::new(seed);
        let mut random = Seeded(seed);
        for life in 0..20 {
            let path = format!("/{}", random.below(5));
            let file = match disk.open(Path::new(&path), Open::Write) {
                Ok(file) => file,
                Err(_) => disk.open(Path::new(&path), Open::Create).unwrap(),
            };
            for _ in 0..random.below(6) {
                write(&*file, random.below(4000) as u64, &vec![life; random.below(3000)]);
            }
            if random.coin() {
                file.sync_data().unwrap();
                disk.sync_dir(Path::new("/")).unwrap();
            }
            disk.crash();
        }
        disk.image()
    };
    assert_eq!(lives(5), lives(5));
    assert_ne!(lives(5), lives(6));
}

#[test]
fn all_images_of_few_changes_and_as_many_as_asked_for_of_more() {
    let disk = SimDisk::new(1);
    let file = file(&disk, &[]);
    assert_eq!(disk.crash_images(100, 1).count(), 1, "nothing is at stake");
    for i in 0..12 {
        write(&*file, 512 * i, &[1 + i as u8; 512]);
    }
    let whole = |image: &Vec<u8>| image.chunks(512).all(|part| part == [0; 512] || part == [part[0]; 512]);
    let all: BTreeSet<_> = disk.crash_images(0, 1).map(|image| bytes(&image)).collect();
    assert_eq!(all.len(), 1 << 12);
    assert!(all.iter().all(whole));
    assert_eq!(disk.crash_images(5000, 1).count(), 5000);
    write(&*file, 0, b"x");
    assert_eq!(disk.crash_images(64, 1).count(), 64);
    let drawn = |seed| disk.crash_images(64, seed).map(|image| bytes(&image)).collect::<Vec<_>>();
    assert_eq!(drawn(1), drawn(1));
    assert_ne!(drawn(1), drawn(2));
    assert!(drawn(1).into_iter().collect::<BTreeSet<_>>().len() > 40);
}

#[test]
fn a_tear_may_spare_or_take_any_sector() {
    let disk = SimDisk::new(1);
    let file = file(&disk, &[0; 16 * 512]);
    write(&*file, 0, &[1; 16 * 512]);
    let kept: Vec<Vec<usize>> =
        images(&disk).iter().map(|image| (0..16).filter(|sector| image[sector * 512] == 1).collect()).collect();
    for sector in 0..16 {
        assert!(kept.contains(&(0..sector).collect()), "a tear at sector {sector}");
        assert!(kept.contains(&(0..16).filter(|at| *at != sector).collect()), "a hole at sector {sector}");
    }
    assert!(kept.iter().any(|kept| kept.contains(&15) && !kept.contains(&14) && !kept.contains(&0)));
}

/// Where no damage was done, the disk and the unsynced changes together are what programs read, and what was synced and
/// not touched since is in every image.
#[test]
fn the_cache_is_the_disk_and_the_changes() {
    for seed in 0..20 {
        let disk = SimDisk::new(seed);
        let mut random = Seeded(seed);
        let file = file(&disk, &[7; 3000]);
        let mut synced = bytes(&disk);
        for step in 0..60 {
            let (offset, len) = (random.below(6000), random.below(3000));
            match random.below(8) {
                0 => {
                    file.sync_data().unwrap();
                    synced = bytes(&disk);
                }
                1 => {
                    file.set_len(offset as u64).unwrap();
                    synced.truncate(offset);
                }
                2 => file.allocate(offset as u64, len as u64).unwrap(),
                _ => {
                    write(&*file, offset as u64, &vec![step; len]);
                    // From the sector on in which the write begins: a crash may do anything to them.
                    synced.truncate(offset - offset % 512);
                }
            }
            let before = bytes(&disk);
            disk.drop_caches();
            assert_eq!(bytes(&disk), before, "seed {seed}");
            for image in disk.crash_images(8, seed).take(8) {
                assert!(bytes(&image).starts_with(&synced), "seed {seed}");
            }
        }
    }
}
