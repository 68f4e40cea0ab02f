//! The lock file of a data directory, `postmaster.pid`: which server claims the directory.
//!
//! Whether that server lives cannot be told from the file alone, and is not decided here.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The content of a `postmaster.pid`.
///
/// The server writes the first lines at once and adds the others while it starts, so that all but the first
/// may be absent or empty (PostgreSQL: pidfile.h).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PostmasterPid {
    /// The process that holds the directory, in its own PID namespace.
    pub pid: i32,
    /// Whether that is a single-user or bootstrap backend, which initdb runs too; the file has its number
    /// negated.
    pub is_single_user: bool,
    /// The data directory, as the server calls it.
    pub data_directory: Option<String>,
    /// When the server started, in seconds since 1970.
    pub start_time: Option<i64>,
    /// The port; a single-user backend names one without listening.
    pub port: Option<u16>,
    /// The directory of the first Unix socket.
    pub socket_directory: Option<String>,
    /// The first address that the server listens on: a host name, an IP address or `*`.
    pub listen_address: Option<String>,
    /// The key and the identifier of the shared memory segment.
    pub shared_memory: Option<String>,
    /// How far the server is.
    pub status: Option<ServerStatus>,
}

/// How far a server is, in its own words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ServerStatus {
    /// The server is starting, or recovering.
    Starting,
    /// The server is shutting down.
    Stopping,
    /// The server accepts connections.
    Ready,
    /// The server is a standby that does not accept connections.
    Standby,
}

impl ServerStatus {
    fn from_text(text: &str) -> Option<Self> {
        match text {
            "starting" => Some(Self::Starting),
            "stopping" => Some(Self::Stopping),
            "ready" => Some(Self::Ready),
            "standby" => Some(Self::Standby),
            _ => None,
        }
    }
}

impl fmt::Display for ServerStatus {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Starting => "starting",
            Self::Stopping => "stopping",
            Self::Ready => "ready",
            Self::Standby => "standby",
        })
    }
}

/// Why a `postmaster.pid` names no server. The server never clears such a file by itself, and does not start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PostmasterPidError {
    /// The file has no content: another server is just starting, or the disk was full or lost power.
    #[error("postmaster.pid is empty")]
    Empty,
    /// The file does not begin with a process number.
    #[error("postmaster.pid holds no process number")]
    Garbage,
}

impl PostmasterPid {
    /// Reads a `postmaster.pid`, whole or written only in part.
    ///
    /// The process number is read as leniently as the server reads it, lest a file that it respects be taken
    /// for garbage and cleared: leading space is skipped, and what follows the digits is ignored (PostgreSQL:
    /// `atoi()` in `CreateLockFile()`, miscinit.c). The text may come from bytes that are not UTF-8, by a
    /// lossy conversion.
    ///
    /// # Errors
    /// [`PostmasterPidError::Empty`] and [`PostmasterPidError::Garbage`], each where the server says so too.
    pub fn parse(text: &str) -> Result<Self, PostmasterPidError> {
        if text.is_empty() {
            return Err(PostmasterPidError::Empty);
        }
        let number = leading_number(text).filter(|number| *number != 0).ok_or(PostmasterPidError::Garbage)?;
        let pid = number.checked_abs().ok_or(PostmasterPidError::Garbage)?;
        let mut lines = text.trim_start().lines().skip(1);
        let mut next_line = || lines.next().filter(|line| !line.trim().is_empty());
        Ok(Self {
            pid,
            is_single_user: number < 0,
            data_directory: next_line().map(str::to_owned),
            start_time: next_line().and_then(|time| time.trim().parse().ok()),
            port: next_line().and_then(|port| port.trim().parse().ok()),
            socket_directory: next_line().map(str::to_owned),
            listen_address: next_line().map(str::to_owned),
            shared_memory: next_line().map(|key| key.trim().to_owned()),
            status: next_line().and_then(|status| ServerStatus::from_text(status.trim())),
        })
    }
}

/// Reads the number at the beginning of a text, as C's `atoi` does; `None` if there is none or it is too
/// great.
fn leading_number(text: &str) -> Option<i32> {
    let text = text.trim_start();
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    let digit_count = digits.bytes().take_while(u8::is_ascii_digit).count();
    let sign_length = text.len() - digits.len();
    text.get(..sign_length + digit_count)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    /// What a server of PostgreSQL 15 wrote.
    const RUNNING: &str = "18034\n/var/lib/postgresql-data\n1795180769\n55431\n/var/run/postgresql\nlocalhost\n 10010695         4\nready   \n";

    /// What a single-user backend of PostgreSQL 15 wrote.
    const SINGLE_USER: &str = "-24320\n/var/lib/postgresql-data\n1795180794\n5432\n\n\n 10010695         5\n";

    #[test]
    fn the_file_of_a_running_server_is_read() {
        let expected = PostmasterPid {
            pid: 18034,
            is_single_user: false,
            data_directory: Some("/var/lib/postgresql-data".to_owned()),
            start_time: Some(1_795_180_769),
            port: Some(55431),
            socket_directory: Some("/var/run/postgresql".to_owned()),
            listen_address: Some("localhost".to_owned()),
            shared_memory: Some("10010695         4".to_owned()),
            status: Some(ServerStatus::Ready),
        };

        assert_eq!(PostmasterPid::parse(RUNNING), Ok(expected));
    }

    #[test]
    fn a_negative_number_is_that_of_a_single_user_backend() {
        let expected = PostmasterPid {
            pid: 24320,
            is_single_user: true,
            data_directory: Some("/var/lib/postgresql-data".to_owned()),
            start_time: Some(1_795_180_794),
            port: Some(5432),
            socket_directory: None,
            listen_address: None,
            shared_memory: Some("10010695         5".to_owned()),
            status: None,
        };

        assert_eq!(PostmasterPid::parse(SINGLE_USER), Ok(expected));
    }

    #[test]
    fn a_file_cut_anywhere_after_the_number_names_the_process() {
        for end in "18034".len()..=RUNNING.len() {
            let file = PostmasterPid::parse(&RUNNING[..end]).unwrap();

            assert_eq!((file.pid, file.is_single_user), (18034, false));
        }
    }

    #[test]
    fn only_the_lines_that_are_there_are_known() {
        let file = PostmasterPid::parse("18034\n/var/lib/postgresql-data\n1795180769\n").unwrap();

        assert_eq!((file.start_time, file.port, file.status), (Some(1_795_180_769), None, None));
    }

    #[rstest]
    #[case("starting", ServerStatus::Starting)]
    #[case("stopping", ServerStatus::Stopping)]
    #[case("ready   ", ServerStatus::Ready)]
    #[case("standby ", ServerStatus::Standby)]
    fn every_status_is_read_without_its_padding(#[case] text: &str, #[case] status: ServerStatus) {
        let file = PostmasterPid::parse(&RUNNING.replace("ready   ", text)).unwrap();

        assert_eq!(file.status, Some(status));
        assert_eq!(status.to_string(), text.trim());
    }

    #[test]
    fn an_empty_file_is_told_apart_from_garbage() {
        assert_eq!(PostmasterPid::parse(""), Err(PostmasterPidError::Empty));
        for text in [
            "\n",
            " ",
            "0\n",
            "-0",
            "-",
            "--5",
            "pid 5",
            "{\"pid\": 5}",
            "\0\0\0\0",
            "99999999999",
            "-2147483648",
        ] {
            assert_eq!(PostmasterPid::parse(text), Err(PostmasterPidError::Garbage), "{text:?}");
        }
    }

    #[rstest]
    #[case("412")]
    #[case(" 412\n")]
    #[case("+412\n")]
    #[case("412abc\n/data")]
    #[case("412 413\n")]
    #[case("\n412\n")]
    fn a_number_that_the_server_respects_is_never_garbage(#[case] text: &str) {
        assert_eq!(PostmasterPid::parse(text).map(|file| file.pid), Ok(412));
    }

    proptest! {
        #[test]
        fn arbitrary_text_never_panics(text: String, number: i64) {
            let _ = PostmasterPid::parse(&text);
            let _ = PostmasterPid::parse(&format!("{number}{text}"));
        }
    }
}
