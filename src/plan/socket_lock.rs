//! Whether the lock file of a server's socket belongs to a live server, or outlived its own.
//!
//! A server takes `DIR/.s.PGSQL.PORT.lock` before it opens the socket beside it, and a server that was killed leaves
//! both. PostgreSQL refuses the lock file for as long as any process of the same user has the number in it, and for
//! ever where the file is empty or garbled (miscinit.c, `CreateLockFile()`). After a container is started again, the
//! number of the dead server is often that of another process.

/// What stands at one socket, as far as it can be seen from here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SocketScene {
    /// What the lock file holds.
    pub lock: SocketLock,
    /// What a connection to the socket came to.
    pub answer: SocketAnswer,
}

/// What a socket's lock file holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SocketLock {
    /// There is no lock file.
    Absent,
    /// It names no process: empty, or garbled.
    Nameless,
    /// It could not be read.
    Unreadable(String),
    /// It names a process.
    Named {
        /// The process, in the PID namespace of the server that wrote it.
        pid: i32,
        /// The data directory that the server ran in.
        data_directory: Option<String>,
        /// Who has the number here and now.
        holder: NumberHolder,
    },
}

/// Who has the process number of a lock file now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NumberHolder {
    /// Nobody.
    Nobody,
    /// A process that is not PostgreSQL's, by its name.
    OtherProgram(String),
    /// A process of PostgreSQL that works in another directory than the lock file names.
    OtherServer(String),
    /// A process that may be the server that wrote the lock file.
    PossiblyOwner,
}

/// What a connection to a socket came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SocketAnswer {
    /// There is no socket.
    Absent,
    /// Nobody listens on it.
    Refused,
    /// Somebody listens on it.
    Accepted,
    /// It could not be tried, for this reason.
    Unknown(String),
}

/// What is to be done about a socket before a server starts that wants it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SocketVerdict {
    /// Nothing: the server can have it.
    Free,
    /// The lock file and the socket outlived their server, for this reason: they are removed.
    Relic(String),
    /// It is in use, or may be, by this holder: nothing is removed and no server is started.
    Held(String),
}

impl SocketScene {
    /// Returns what is to be done about the socket.
    ///
    /// A live postmaster listens for as long as it lives (postmaster.c, `CloseServerPorts()` runs at its exit), so a
    /// socket that accepts counts as live whatever the number says: the directory may be shared with another container,
    /// where the number means another process.
    pub fn verdict(&self) -> SocketVerdict {
        match &self.answer {
            SocketAnswer::Accepted => SocketVerdict::Held(self.owner()),
            SocketAnswer::Unknown(reason) => SocketVerdict::Held(format!("{} ({reason})", self.owner())),
            SocketAnswer::Absent | SocketAnswer::Refused => self.verdict_on_silence(),
        }
    }

    fn verdict_on_silence(&self) -> SocketVerdict {
        match &self.lock {
            SocketLock::Absent => SocketVerdict::Free,
            SocketLock::Nameless => SocketVerdict::Relic("it names no process".to_owned()),
            SocketLock::Unreadable(reason) => SocketVerdict::Held(format!("an unknown process ({reason})")),
            SocketLock::Named { pid, holder, .. } => match holder {
                NumberHolder::Nobody => SocketVerdict::Relic(format!("process {pid} has ended")),
                NumberHolder::OtherProgram(name) => {
                    SocketVerdict::Relic(format!("process {pid} is '{name}' now"))
                }
                NumberHolder::OtherServer(home) => {
                    SocketVerdict::Relic(format!("process {pid} is of the server in '{home}' now"))
                }
                NumberHolder::PossiblyOwner => SocketVerdict::Held(self.owner()),
            },
        }
    }

    /// Names the server that the lock file names.
    fn owner(&self) -> String {
        match &self.lock {
            SocketLock::Named { pid, data_directory: Some(directory), .. } => {
                format!("the server in '{directory}' (process {pid} by its lock file)")
            }
            SocketLock::Named { pid, .. } => format!("process {pid} by its lock file"),
            _ => "a process that left no name".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    fn named(holder: NumberHolder) -> SocketLock {
        SocketLock::Named { pid: 412, data_directory: Some("/data".to_owned()), holder }
    }

    #[rstest]
    #[case::no_lock_file(SocketLock::Absent)]
    #[case::an_empty_or_garbled_one(SocketLock::Nameless)]
    #[case::a_dead_number(named(NumberHolder::Nobody))]
    #[case::the_number_of_another_program(named(NumberHolder::OtherProgram("pgbox".into())))]
    #[case::one_that_cannot_be_read(SocketLock::Unreadable("permission denied".into()))]
    fn a_socket_that_accepts_is_held_whatever_its_lock_file_says(#[case] lock: SocketLock) {
        let scene = SocketScene { lock, answer: SocketAnswer::Accepted };

        assert!(matches!(scene.verdict(), SocketVerdict::Held(_)));
    }

    #[rstest]
    #[case::garbled(SocketLock::Nameless, "it names no process")]
    #[case::dead(named(NumberHolder::Nobody), "process 412 has ended")]
    #[case::another_program(named(NumberHolder::OtherProgram("pgbox".into())), "process 412 is 'pgbox' now")]
    #[case::another_server(
        named(NumberHolder::OtherServer("/x".into())),
        "process 412 is of the server in '/x' now"
    )]
    fn a_lock_file_without_its_server_is_a_relic(#[case] lock: SocketLock, #[case] reason: &str) {
        for answer in [SocketAnswer::Absent, SocketAnswer::Refused] {
            let scene = SocketScene { lock: lock.clone(), answer };

            assert_eq!(scene.verdict(), SocketVerdict::Relic(reason.to_owned()));
        }
    }

    #[test]
    fn what_cannot_be_told_is_held_by_name() {
        let scene = SocketScene { lock: named(NumberHolder::PossiblyOwner), answer: SocketAnswer::Refused };
        let owner = "the server in '/data' (process 412 by its lock file)";
        assert_eq!(scene.verdict(), SocketVerdict::Held(owner.to_owned()));

        let denied = SocketAnswer::Unknown("permission denied".to_owned());
        let scene = SocketScene { lock: named(NumberHolder::Nobody), answer: denied };
        assert_eq!(scene.verdict(), SocketVerdict::Held(format!("{owner} (permission denied)")));
    }

    #[test]
    fn a_socket_without_a_lock_file_on_which_nobody_listens_is_left_to_the_server() {
        // The server removes it itself (pqcomm.c, `Lock_AF_UNIX()`).
        let scene = SocketScene { lock: SocketLock::Absent, answer: SocketAnswer::Refused };
        assert_eq!(scene.verdict(), SocketVerdict::Free);
    }
}
