//! A disk of a test's own whose power can be cut.

use super::sandbox::run;
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

/// An ext4 file system in a file. What the kernel has not written into the file is lost when the power is cut.
pub(crate) struct PowerCutDisk {
    image: PathBuf,
    mounted: PathBuf,
    _directory: TempDir,
}

impl PowerCutDisk {
    /// One of a size, such as `400M`; `None` where we may not mount.
    pub(crate) fn new(size: &str) -> Option<Self> {
        let directory = super::directory::make();
        let image = directory.path().join("image");
        run(Command::new("truncate").args(["-s", size]).arg(&image));
        run(Command::new("mkfs.ext4").arg("-q").arg(&image));
        Self::mount(image, directory)
    }

    fn mount(image: PathBuf, directory: TempDir) -> Option<Self> {
        let mounted = directory.path().join("mounted");
        std::fs::create_dir(&mounted).unwrap();
        // Nothing is written of itself while the test runs.
        let options = "loop,commit=600";
        let mount = Command::new("mount").args(["-o", options]).arg(&image).arg(&mounted).output();
        if mount.is_ok_and(|output| output.status.success()) {
            run(Command::new("chmod").arg("755").arg(directory.path()).arg(&mounted));
            return Some(Self { image, mounted, _directory: directory });
        }
        assert!(std::env::var_os("CI").is_none(), "may not mount a file");
        eprintln!("SKIPPED: may not mount a file");
        None
    }

    pub(crate) fn path(&self) -> &Path {
        &self.mounted
    }

    /// The disk as it is when the power is cut now, and is back.
    pub(crate) fn after_power_cut(&self) -> Option<Self> {
        let directory = super::directory::make();
        let image = directory.path().join("image");
        run(Command::new("cp").args(["--sparse=always"]).arg(&self.image).arg(&image));
        Self::mount(image, directory)
    }
}

impl Drop for PowerCutDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.mounted).status();
    }
}
