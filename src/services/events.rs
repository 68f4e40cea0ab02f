//! What happens to the supervisor, and what it can do about it: plain data.

use crate::sys::{Ended, Signal};
use std::time::Duration;

/// What can be seen of the server itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// It lives.
    Alive,
    /// It does not, but one lives that `init-postgresql` was building a cluster with when it was killed.
    LeftBehind,
    /// None lives.
    Gone,
}

/// What can be seen of the server and its data directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct View {
    /// The server itself.
    pub server: Seen,
    /// A person stopped it, and wants it to stay stopped.
    pub is_stopped: bool,
    /// A command, such as a restore, is at work on the data directory.
    pub is_operated: bool,
    /// WAL is in no archive, so that moments after it can only be reached from a newer backup.
    pub has_wal_gap: bool,
}

/// A child of the supervisor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Child {
    /// `init-postgresql`.
    Init,
    /// The PostgreSQL server itself; it is not started by us but becomes our child.
    Server,
    /// A service, by its place in the configuration.
    Service(usize),
    /// The command.
    Command,
    /// A backup.
    Backup,
    /// What reads the repository back.
    Scrub,
    /// What seals the cluster after a stop.
    Seal,
}

/// What a person, or the container engine, asks for with a signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Stop all: SIGTERM, SIGINT or SIGQUIT.
    Stop(Signal),
    /// Read the configuration again, or try to start again now: SIGHUP.
    Reload,
    /// Try to start again now: SIGUSR1.
    Retry,
    /// For the command: SIGUSR2.
    Forward(Signal),
}

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// We were started.
    Begin,
    /// A signal came.
    Ordered(Order),
    /// A child ended.
    Ended(Child, Ended),
    /// A child could not be started.
    NotStarted(Child, StartFailure),
    /// The server was looked at.
    Looked(View),
    /// Time went by.
    Tick,
}

/// Why a child could not be started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StartFailure {
    /// The reason, for a person.
    pub reason: String,
    /// The exit status that a shell would give it: 127 where there is no such program, else 126.
    pub status: u8,
}

/// How much a line matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// A state changed.
    Info,
    /// Something unexpected, after which work went on.
    Warning,
    /// A person must look.
    Error,
    /// What a person can do.
    Hint,
}

/// Something to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Take the note back that a person stopped the server: starting the container means wanting it.
    ClearStopped,
    /// Start a child.
    Start(Child),
    /// Send a signal to a child: to its whole process group, except for the command.
    Signal(Child, Signal),
    /// Stop a server that a killed `init-postgresql` left behind, if there is one.
    StopLeftBehind,
    /// Send a signal to the server, if it lives, and to one that was left behind.
    SignalServer(Signal),
    /// Kill every process of the server: it did not react to an immediate shutdown.
    KillServer,
    /// Look at the server; [`Event::Looked`] answers.
    Look,
    /// Tell a person.
    Say(Level, String),
    /// End, with this exit status.
    Exit(u8),
}

/// What is to be supervised.
#[derive(Clone, Debug)]
pub struct Configuration {
    /// Whether PostgreSQL is.
    pub has_server: bool,
    /// Names of the services, in order.
    pub services: Vec<String>,
    /// Whether there is a command.
    pub has_command: bool,
    /// How long stopping may take.
    pub stop_timeout: Duration,
    /// How often a backup is made after the first; `None` is never.
    pub backup_interval: Option<Duration>,
    /// In what time the repository is read back once; `None` is never.
    pub scrub_interval: Option<Duration>,
}
