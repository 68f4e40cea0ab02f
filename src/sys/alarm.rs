//! This very program again, in a process that may be left behind.
//!
//! What waits for a file system that does not answer may be beyond every signal (`D` in `ps`), and a process with such a
//! thread never ends for its parent. So work that somebody waits for is done by a process of its own: when its time is
//! over it is killed, and nobody waits until that has an effect.

use super::deadline::TimedOut;
use super::own_process::MYSELF;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};
use std::ffi::OsStr;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Runs this program again under a name and with arguments; its output goes where ours goes. Returns its exit status, or
/// that its time was over.
///
/// # Errors
/// When it cannot be started or looked after.
pub fn run_myself_within<A: AsRef<OsStr>>(
    limit: Duration,
    name: &str,
    arguments: impl IntoIterator<Item = A>,
) -> io::Result<Result<i32, TimedOut>> {
    let mut command = Command::new(MYSELF);
    let mut child = command.arg0(name).args(arguments).stdin(Stdio::null()).spawn()?;
    if !ends_within(&child, limit)? {
        // Gone already is as good. It is not waited for: whoever adopts it reaps it, whenever it ends.
        let _ = kill_process(Pid::from_child(&child), Signal::KILL);
        return Ok(Err(TimedOut { limit }));
    }
    // Ended by a signal, it did not do its work.
    Ok(Ok(child.wait()?.code().unwrap_or(1)))
}

fn ends_within(child: &Child, limit: Duration) -> io::Result<bool> {
    let pidfd = pidfd_open(Pid::from_child(child), PidfdFlags::empty())?;
    let deadline = Instant::now() + limit;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let left = Timespec::try_from(left).map_err(io::Error::other)?;
        match poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&left)) {
            Ok(0) => return Ok(false),
            Ok(_) => return Ok(true),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}
