//! [`Volume`]: a file system whose power can be cut: ext4 on a loop device, ended by its own ioctl. Needs root.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::clients::run;

/// Mounted until dropped.
pub struct Volume {
    image: PathBuf,
    pub mount_point: PathBuf,
}

/// Large enough for what a test keeps.
const SIZE: &str = "4G";

/// `EXT4_IOC_SHUTDOWN` without flushing the journal (Linux, fs/ext4/ext4.h): from here on nothing reaches the device, as
/// if the power had gone. Mounting replays the journal.
const SHUTDOWN: &str = r#"
import fcntl, os, struct, sys
fcntl.ioctl(os.open(sys.argv[1], os.O_RDONLY), 0x8004587d, struct.pack("I", 2))
"#;

impl Volume {
    pub fn new(folder: &Path) -> Self {
        let (image, mount_point) = (folder.join("image"), folder.join("mounted"));
        std::fs::create_dir(&mount_point).expect("a mount point");
        run(Command::new("truncate").args(["-s", SIZE]).arg(&image));
        run(Command::new("mkfs.ext4").args(["-q", "-F"]).arg(&image));
        let volume = Self { image, mount_point };
        volume.mount();
        volume
    }

    fn mount(&self) {
        run(Command::new("mount").args(["-o", "loop"]).arg(&self.image).arg(&self.mount_point));
    }

    pub fn cut(&self) {
        run(Command::new("python3").args(["-c", SHUTDOWN]).arg(&self.mount_point));
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
