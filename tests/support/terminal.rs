//! A program at a pseudo-terminal, as a person has it.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, ExitStatus};
use std::sync::{Arc, Mutex};

use rustix::pty::OpenptFlags;

use super::wait::{wait_for, wait_until};

/// A running program whose standard streams are a terminal, and everything that it has shown so far.
pub(crate) struct Terminal {
    child: Child,
    keyboard: File,
    screen: Arc<Mutex<Vec<u8>>>,
}

impl Terminal {
    /// Starts a program at a new terminal.
    pub(crate) fn run(program: &str, arguments: &[&str]) -> Self {
        let mut command = Command::new(program);
        command.args(arguments);
        Self::start(command)
    }

    /// The same with a command.
    pub(crate) fn start(command: Command) -> Self {
        let master = rustix::pty::openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        rustix::pty::grantpt(&master).unwrap();
        rustix::pty::unlockpt(&master).unwrap();
        let peer = rustix::pty::ioctl_tiocgptpeer(&master, OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        let child = spawn_at(command, &peer);
        let keyboard = File::from(master);
        let screen = Arc::new(Mutex::new(Vec::new()));
        keep_reading(keyboard.try_clone().unwrap(), Arc::clone(&screen));
        Self { child, keyboard, screen }
    }

    /// Waits until it has shown a text, in any case.
    #[track_caller]
    pub(crate) fn wait_for_text(&self, text: &str) {
        wait_until(&format!("{text:?} on the terminal, which shows: {}", self.shown()), || {
            self.shown().to_lowercase().contains(&text.to_lowercase())
        });
    }

    /// Types a line, and the return key.
    pub(crate) fn type_line(&mut self, line: &str) {
        self.keyboard.write_all(format!("{line}\r").as_bytes()).unwrap();
    }

    /// Types what interrupts a program.
    pub(crate) fn type_control_c(&mut self) {
        self.keyboard.write_all(b"\x03").unwrap();
    }

    /// Everything shown so far.
    pub(crate) fn shown(&self) -> String {
        String::from_utf8_lossy(&self.screen.lock().unwrap()).into_owned()
    }

    /// Waits for its end.
    #[track_caller]
    pub(crate) fn wait(&mut self) -> ExitStatus {
        wait_for("the program at the terminal to end", || self.child.try_wait().unwrap())
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn spawn_at(mut command: Command, peer: &OwnedFd) -> Child {
    command
        .env("TERM", "xterm")
        .stdin(peer.try_clone().unwrap())
        .stdout(peer.try_clone().unwrap())
        .stderr(peer.try_clone().unwrap())
        .spawn()
        .unwrap()
}

/// A terminal that nobody reads from blocks the program; the thread ends when the program has.
fn keep_reading(mut master: File, screen: Arc<Mutex<Vec<u8>>>) {
    std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(count @ 1..) = master.read(&mut buffer) {
            screen.lock().unwrap().extend(buffer.iter().take(count));
        }
    });
}
