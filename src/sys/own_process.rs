//! pgbox started again by itself: the other half of a command that needs two users, or the whole of a command that is at
//! a terminal.
//!
//! What runs as another user must not have root's terminal as its controlling terminal: `ioctl(TIOCSTI)` puts characters
//! into its input, as if root had typed them, and the kernel allows that to whoever has the terminal as the controlling
//! one (`tty_io.c`, `tiocsti()`). A process loses it by beginning a session (`setsid()`), which the leader of a process
//! group, as any program that a shell starts, cannot do. So a command at a terminal starts itself again, and that process
//! begins a session *while it still is root*: a process that already ran as the other user could be taken over with
//! `ptrace()` between its start and its `setsid()`. All that it starts afterwards has no terminal either. Setting the
//! session up in each child was refused: that takes code between `fork()` and `exec()`, which is unsafe.

use super::link::Link;
use super::supervise::{Ended, ended_of};
use rustix::process::{
    Pid, PidfdFlags, Signal, getpgrp, kill_process_group, pidfd_open, pidfd_send_signal,
    set_parent_process_death_signal, setsid,
};
use rustix::termios::tcgetpgrp;
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGTSTP, SIGUSR1, SIGUSR2, SIGWINCH};
use signal_hook::iterator::{Handle, Signals};
use std::ffi::{CString, OsStr, OsString};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::JoinHandle;

/// This program, even after its file was replaced or removed.
pub const MYSELF: &str = "/proc/self/exe";
/// What is sent on. The signals of a terminal, and those that a supervisor or a person sends.
const FORWARDED: [i32; 8] = [SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGTSTP, SIGUSR1, SIGUSR2, SIGWINCH];

/// Whom a signal that reaches this process is sent on to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Receiver {
    /// The process that was started. It is in our process group, so that a terminal's signals reach it as they reach us.
    Process,
    /// All of its session's first process group, as a terminal would.
    Group,
}

/// A process of our own program that runs, is sent the signals that reach this one, and ends when this one does.
#[derive(Debug)]
pub struct OwnProcess {
    child: Child,
    handle: Handle,
    forwarder: JoinHandle<()>,
}

impl OwnProcess {
    /// Starts this program again with other arguments, and a link to it as its standard input.
    ///
    /// # Errors
    /// When it could not be started.
    pub fn start_linked(arguments: &[OsString]) -> io::Result<(Self, Link)> {
        Self::start_program(Path::new(MYSELF), arguments)
    }

    /// The same with another program, which has to be pgbox.
    ///
    /// # Errors
    /// When it could not be started.
    pub fn start_program(program: &Path, arguments: &[OsString]) -> io::Result<(Self, Link)> {
        let (link, theirs) = Link::pair()?;
        let process = Self::start(program, arguments, Stdio::from(theirs), Receiver::Process)?;
        Ok((process, link))
    }

    /// Starts this program again, to begin a session of its own. It has our standard streams.
    ///
    /// # Errors
    /// When it could not be started.
    pub fn start_without_terminal(arguments: &[OsString]) -> io::Result<Self> {
        // In the background it must not take from the terminal what is typed for others; without the terminal as its
        // controlling one, the kernel no longer stops it for that (SIGTTIN).
        let is_in_background = tcgetpgrp(rustix::stdio::stdin()).is_ok_and(|group| group != getpgrp());
        let input = if is_in_background { Stdio::null() } else { Stdio::inherit() };
        Self::start(Path::new(MYSELF), arguments, input, Receiver::Group)
    }

    fn start(program: &Path, arguments: &[OsString], input: Stdio, receiver: Receiver) -> io::Result<Self> {
        let child = Command::new(program).arg0("pgbox").args(arguments).stdin(input).spawn()?;
        let pid = Pid::from_child(&child);
        // After the start, so that a signal that is ignored here, as under nohup, is ignored there.
        let (pidfd, signals) = (pidfd_open(pid, PidfdFlags::empty())?, Signals::new(FORWARDED)?);
        let handle = signals.handle();
        let forwarder = std::thread::spawn(move || forward(signals, &pidfd, pid, receiver));
        Ok(Self { child, handle, forwarder })
    }

    /// Waits for its end.
    pub fn wait(mut self) -> io::Result<Ended> {
        let status = self.child.wait()?;
        self.handle.close();
        // It panics only if the standard library is broken.
        let _ = self.forwarder.join();
        ended_of(status).ok_or_else(|| io::Error::other("it ended in an unknown way"))
    }
}

fn forward(mut signals: Signals, pidfd: &OwnedFd, pid: Pid, receiver: Receiver) {
    for number in signals.forever() {
        let Some(signal) = Signal::from_named_raw(number) else { continue };
        let is_pause = number == SIGTSTP && receiver == Receiver::Group;
        // A process group that a terminal does not know is not stopped by SIGTSTP (POSIX: an orphaned one).
        let sent = if is_pause { Signal::STOP } else { signal };
        send(sent, pidfd, pid, receiver);
        if number == SIGTSTP {
            // Stops this process, too, until the shell lets it go on.
            let _ = signal_hook::low_level::emulate_default_handler(number);
        }
        if is_pause {
            send(Signal::CONT, pidfd, pid, receiver);
        }
    }
}

/// One that has ended already needs no signal.
fn send(signal: Signal, pidfd: &OwnedFd, pid: Pid, receiver: Receiver) {
    let is_sent = receiver == Receiver::Group && kill_process_group(pid, signal).is_ok();
    if !is_sent {
        let _ = pidfd_send_signal(pidfd, signal);
    }
}

/// Whether this process has a controlling terminal. Where there is no `/proc`, nobody can tell.
pub fn has_terminal() -> bool {
    let text = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The name of the program, in parentheses, may hold anything; state, parent, group, session and terminal follow.
    let fields = text.rsplit_once(") ").map(|(_, fields)| fields);
    fields.and_then(|fields| fields.split(' ').nth(4)).is_some_and(|terminal| terminal != "0")
}

/// Begins a session of its own, without a terminal.
///
/// # Errors
/// When this process is the leader of a group already.
pub fn begin_session() -> io::Result<()> {
    setsid()?;
    Ok(())
}

/// Has the kernel end this process when the one that started it ends, however that happens.
pub fn end_with_parent() -> io::Result<()> {
    Ok(set_parent_process_death_signal(Some(Signal::TERM))?)
}

/// Gives this process a name, as `ps` shows it; the kernel keeps 15 bytes of it.
pub fn name_process(name: &OsStr) {
    if let Ok(name) = CString::new(name.as_encoded_bytes()) {
        // A name is a help for people and nothing else.
        let _ = rustix::thread::set_name(&name);
    }
}

/// Ends as another process ended: by the same signal, if it was one. Returns the exit status to end with otherwise.
pub fn end_like(ended: Ended) -> u8 {
    if let Ended::Signal(signal) = ended {
        // Where that does not end this process, the status says the same.
        let _ = signal_hook::low_level::emulate_default_handler(signal);
    }
    u8::try_from(ended.exit_status()).unwrap_or(u8::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_passed_on() {
        assert_eq!(end_like(Ended::Status(6)), 6);
        assert_eq!(end_like(Ended::Status(0)), 0);
    }
}
