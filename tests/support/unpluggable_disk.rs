//! A file system of a test's own that can be taken away while it is in use, as a disk is unplugged or a network mount
//! dies.

use super::sandbox::{run, signal};
use super::wait::wait_until;
use rustix::process::Signal;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

/// A directory that is seen at another path through a FUSE process (`bindfs`). What is written goes to the directory;
/// with the process gone, every call at the other path fails with `ENOTCONN`, open files too.
pub(crate) struct UnpluggableDisk {
    backing: PathBuf,
    mounted: PathBuf,
    /// The process, while it is plugged in.
    server: Option<Child>,
}

impl UnpluggableDisk {
    /// Plugs a directory in at a path that is not there yet; `None` where that cannot be done.
    pub(crate) fn new(backing: &Path, mounted: &Path) -> Option<Self> {
        let can = Path::new("/dev/fuse").exists() && Command::new("bindfs").arg("--version").output().is_ok();
        assert!(can || std::env::var_os("CI").is_none(), "there is no bindfs, or no /dev/fuse");
        if !can {
            eprintln!("SKIPPED: there is no bindfs, or no /dev/fuse (scripts/test installs bindfs)");
            return None;
        }
        std::fs::create_dir(mounted).unwrap();
        let mut disk = Self { backing: backing.to_path_buf(), mounted: mounted.to_path_buf(), server: None };
        disk.plug_in();
        Some(disk)
    }

    /// Where it is seen.
    pub(crate) fn path(&self) -> &Path {
        &self.mounted
    }

    /// What is on it, there whether it is plugged in or not.
    pub(crate) fn backing(&self) -> &Path {
        &self.backing
    }

    /// Lets every call on it wait without an end, as a network mount whose server is gone, until
    /// [`Self::answer_again`].
    pub(crate) fn hang(&self) {
        signal(self.server.as_ref().unwrap().id().cast_signed(), Signal::STOP).unwrap();
    }

    /// Takes it away, whoever is using it.
    pub(crate) fn unplug(&mut self) {
        let mut server = self.server.take().unwrap();
        signal(server.id().cast_signed(), Signal::KILL).unwrap();
        server.wait().unwrap();
        assert!(std::fs::read_dir(&self.mounted).is_err(), "it is still there");
    }

    /// Lets its process go on.
    pub(crate) fn answer_again(&self) {
        signal(self.server.as_ref().unwrap().id().cast_signed(), Signal::CONT).unwrap();
    }

    /// Leaves the empty directory that it was mounted at, as a start without it does.
    pub(crate) fn leave_unmounted(&mut self) {
        if self.server.is_some() {
            self.unplug();
        }
        self.unmount();
    }

    /// Brings it back, by a new mount at the same path.
    pub(crate) fn plug_in(&mut self) {
        if self.is_mounted() {
            self.unmount();
        }
        let mut command = Command::new("bindfs");
        // In the foreground, so that it is ours to kill and to wait for; over whatever was put there without it.
        command.args(["-f", "-o", "nonempty"]).arg(&self.backing).arg(&self.mounted);
        let mut server = command.spawn().unwrap();
        wait_until("it is mounted", || {
            assert!(server.try_wait().unwrap().is_none(), "bindfs ended");
            self.is_mounted()
        });
        self.server = Some(server);
    }

    fn is_mounted(&self) -> bool {
        let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        table.lines().any(|line| line.split(' ').nth(4).map(Path::new) == Some(&self.mounted))
    }

    /// A process that stands still may have files open on it: it is taken out of the tree at once all the same.
    fn unmount(&self) {
        run(Command::new("umount").arg("--lazy").arg(&self.mounted));
    }
}

impl Drop for UnpluggableDisk {
    fn drop(&mut self) {
        if let Some(mut server) = self.server.take() {
            let _ = signal(server.id().cast_signed(), Signal::KILL);
            let _ = server.wait();
        }
        let _ = Command::new("umount").arg("--lazy").arg(&self.mounted).output();
    }
}
