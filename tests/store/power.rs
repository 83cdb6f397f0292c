//! [`Volume`]: a file system whose power can be cut: ext4 on a loop device, ended by its own ioctl. Needs root.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::clients::run;
use crate::support::program::Program;

/// Asks for the tests that need such file systems: how many power cuts.
pub const POWER_CUTS: &str = "RIVERRUN_TEST_POWER_CUTS";

/// How many power cuts are asked for. Says so where none are.
pub fn cuts_asked_for(test: &str) -> Option<u64> {
    let cuts = std::env::var(POWER_CUTS).ok().map(|cuts| cuts.parse().expect(POWER_CUTS));
    if cuts.is_none() {
        writeln!(std::io::stderr(), "{test}: NOT RUN, it mounts file systems of its own: tests/run --power 100")
            .expect("stderr");
    }
    cuts
}

/// Mounted until dropped.
pub struct Volume {
    image: PathBuf,
    pub mount_point: PathBuf,
}

/// `EXT4_IOC_SHUTDOWN` without flushing the journal (Linux, fs/ext4/ext4.h): from here on nothing reaches the device, as
/// if the power had gone. Mounting replays the journal.
///
/// The process goes with it, at once and not behind it: Linux 6.18 lets an `fdatasync` that waits for the journal just then
/// return without an error though the journal is void (about one in a hundred cuts). No power cut leaves anybody to hear
/// of that. A thread whose process was sent SIGKILL does not return from the call.
const SHUTDOWN: &str = r#"
import fcntl, os, signal, struct, sys
volume, nothing_flushed = os.open(sys.argv[1], os.O_RDONLY), struct.pack("I", 2)
os.kill(int(sys.argv[2]), signal.SIGKILL); fcntl.ioctl(volume, 0x8004587d, nothing_flushed)
"#;

impl Volume {
    /// One of so many bytes, with a unit: `4G`.
    pub fn new(folder: &Path, size: &str) -> Self {
        let (image, mount_point) = (folder.join("image"), folder.join("mounted"));
        std::fs::create_dir(&mount_point).expect("a mount point");
        run(Command::new("truncate").args(["-s", size]).arg(&image));
        // Nothing is kept for root alone.
        run(Command::new("mkfs.ext4").args(["-q", "-F", "-m", "0"]).arg(&image));
        let volume = Self { image, mount_point };
        volume.mount();
        volume
    }

    fn mount(&self) {
        run(Command::new("mount").args(["-o", "loop"]).arg(&self.image).arg(&self.mount_point));
    }

    /// The power goes, for the file system and the program that uses it.
    pub fn cut(&self, program: Program) {
        run(Command::new("python3").args(["-c", SHUTDOWN]).arg(&self.mount_point).arg(program.pid().to_string()));
        program.kill();
    }

    /// Where a program is to keep its data: a name beside the image that leads into the volume, so that what it says on
    /// stderr, which lies beside its data, outlives the cuts.
    pub fn data(&self) -> PathBuf {
        let data = self.image.with_file_name("data");
        std::fs::create_dir(self.mount_point.join("data")).expect("a directory");
        std::os::unix::fs::symlink(self.mount_point.join("data"), &data).expect("a link");
        data
    }

    /// What was on the device when the power was cut. Nobody may have a file open there any more.
    pub fn mount_again(&self) {
        run(Command::new("umount").arg(&self.mount_point));
        self.mount();
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        // Whatever happened: a mount that is left over would outlive the test.
        let _ = Command::new("umount").args(["-l"]).arg(&self.mount_point).status();
    }
}
