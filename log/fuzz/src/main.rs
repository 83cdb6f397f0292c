//! One of the log's readers under libFuzzer: `RIVERRUN_FUZZ_TARGET` names it (see `log::fuzzing::TARGETS`). With
//! `RIVERRUN_FUZZ_SEEDS` as well, what it begins with is written into that directory instead.
//!
//! An input is a crash when the reader panics, or asks for more memory at once than its bytes account for.

#![no_main]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::path::Path;
use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use log::fuzzing::{TARGETS, Target, seeds};

static TARGET: OnceLock<Target> = OnceLock::new();

/// Remembers the most that the running thread has asked for at once.
struct Largest;

thread_local! {
    static LARGEST: Cell<usize> = const { Cell::new(0) };
}

fn note(layout: Layout) {
    let _ = LARGEST.try_with(|largest| largest.set(largest.get().max(layout.size())));
}

// SAFETY: every call goes on to the system's allocator unchanged.
unsafe impl GlobalAlloc for Largest {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        note(layout);
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        note(layout);
        // SAFETY: the caller keeps the contract of `alloc_zeroed`.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the pointer came from one of the two above.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Largest = Largest;

fn target() -> Target {
    let wanted = std::env::var("RIVERRUN_FUZZ_TARGET").unwrap_or_default();
    let found = TARGETS.iter().find(|(name, _)| *name == wanted);
    *found.unwrap_or_else(|| {
        let names: Vec<&str> = TARGETS.iter().map(|(name, _)| *name).collect();
        eprintln!("RIVERRUN_FUZZ_TARGET is one of: {}", names.join(" "));
        std::process::exit(2)
    })
}

fn begin() {
    let (name, _) = *TARGET.get_or_init(target);
    let Ok(directory) = std::env::var("RIVERRUN_FUZZ_SEEDS") else { return };
    for (number, seed) in seeds(name).into_iter().enumerate() {
        let path = Path::new(&directory).join(format!("seed-{number}"));
        std::fs::write(&path, seed).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    }
    std::process::exit(0);
}

/// What a batch may be unpacked to, and the buffer that it doubled out of; all others go by their input alone.
fn allocated_max(name: &str, len: usize) -> usize {
    let unpacked = if name == "batch" { 2 * (100 * len).clamp(4 << 20, 64 << 20) } else { 0 };
    unpacked + 4 * len + (1 << 20)
}

fuzz_target!(init: begin(), |data: &[u8]| {
    let (name, run) = *TARGET.get().expect("it began");
    LARGEST.set(0);
    run(data);
    let (largest, most) = (LARGEST.get(), allocated_max(name, data.len()));
    assert!(largest <= most, "{largest} bytes were asked for at once, {} account for {most}", data.len());
});
