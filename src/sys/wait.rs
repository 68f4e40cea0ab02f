//! Waiting for something to happen, instead of sleeping and looking.

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

/// Tells when a file in a directory was written, made, renamed or removed.
#[derive(Debug)]
pub struct ChangeWatch {
    descriptor: OwnedFd,
}

impl ChangeWatch {
    /// Begins to watch a directory, not those below it. Changes from now on are seen.
    pub fn new(directory: &Path) -> io::Result<Self> {
        let descriptor = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        let events = WatchFlags::MODIFY
            | WatchFlags::CREATE
            | WatchFlags::CLOSE_WRITE
            | WatchFlags::MOVED_TO
            | WatchFlags::DELETE;
        inotify::add_watch(&descriptor, directory, events)?;
        Ok(Self { descriptor })
    }

    /// Waits until something changed, the process of `pidfd` ended, or the time is over.
    ///
    /// A time that is over is no error: on file systems that report no changes it is the fallback.
    pub fn wait(&self, pidfd: Option<BorrowedFd<'_>>, timeout: Duration) -> io::Result<()> {
        let mut descriptors = vec![PollFd::new(&self.descriptor, PollFlags::IN)];
        if let Some(pidfd) = pidfd {
            descriptors.push(PollFd::from_borrowed_fd(pidfd, PollFlags::IN));
        }
        let timeout = Timespec::try_from(timeout).map_err(io::Error::other)?;
        match poll(&mut descriptors, Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        self.drain();
        Ok(())
    }

    /// Takes the events that are there, so that the next wait is for new ones.
    fn drain(&self) {
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut reader = inotify::Reader::new(self.descriptor.as_fd(), &mut buffer);
        while reader.next().is_ok_and(|event| !event.events().contains(ReadFlags::QUEUE_OVERFLOW)) {}
    }
}
