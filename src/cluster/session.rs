//! SQL sessions with a server on this machine: the one place that makes them, and that runs client programs.
//!
//! Each begins with the settings of its [`Preamble`], so that none that the owner made for sessions of their own changes
//! what pgbox does.

mod preamble;
mod programs;

pub use preamble::{Preamble, Purpose};
pub use programs::ProgramLogin;

use self::preamble::Rights;
use super::inspect::open_databases;
use crate::pg::postmaster_pid::PostmasterPid;
use crate::plan::server_answer::{AnswerMeaning, ServerAnswer};
use crate::sys::{self, ReadRoot};
use postgres::error::SqlState;
use postgres::{Client, Config, NoTls};
use serde::{Deserialize, Serialize};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Where a running server listens, by its own pid file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerAddress {
    /// Directory of its Unix socket, if it has one.
    pub socket_directory: Option<PathBuf>,
    /// The first address that it listens on, if any.
    pub listen_address: Option<String>,
    /// Its port.
    pub port: u16,
}

/// Who a session is opened as.
#[derive(Clone)]
pub struct Login {
    /// Names to try in turn: a cluster that was restored from elsewhere may have another superuser.
    pub users: Vec<String>,
    /// The password, for a `pg_hba.conf` that asks for one even on the Unix socket.
    pub password: String,
    /// Databases to try in turn: any of them may have been dropped, or closed.
    pub databases: Vec<String>,
    /// The data directory of the server, whose catalog names more databases where none of those is open.
    pub data_directory: Option<PathBuf>,
    /// The settings of the session.
    pub preamble: Preamble,
    /// How long the server may take to let us in; `None` is for as long as it takes.
    pub patience: Option<Duration>,
}

impl std::fmt::Debug for Login {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { users, databases, data_directory, preamble, patience, password: _ } = self;
        formatter
            .debug_struct("Login")
            .field("users", users)
            .field("databases", databases)
            .field("data_directory", data_directory)
            .field("preamble", preamble)
            .field("patience", patience)
            .finish_non_exhaustive()
    }
}

/// Why there is no session.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// The pid file names no address yet.
    #[error("the server has no address yet")]
    NoAddress,
    /// The server did not take the connection.
    #[error("could not connect to the server: {}", describe(.0))]
    Connect(postgres::Error),
    /// The server took the connection, and nothing came of it.
    #[error("could not connect to the server: it gave no answer for {} s", .0.as_secs())]
    NoAnswer(Duration),
}

/// The message of the server's own error where there is one; the driver's text hides it.
pub fn describe(error: &postgres::Error) -> String {
    match error.as_db_error() {
        Some(server) => format!("{}: {}", server.severity(), server.message()),
        None => match std::error::Error::source(error) {
            Some(cause) => format!("{error}: {cause}"),
            None => error.to_string(),
        },
    }
}

/// What kept a session from being, or ended it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Obstacle {
    /// The server said so itself.
    Answer(AnswerMeaning),
    /// The server ended the connection without a word, as when its process crashes.
    Closed,
    /// The server could not be reached, or never answered.
    Unreachable,
}

/// What an error of a session comes from.
pub fn obstacle(error: &postgres::Error) -> Obstacle {
    use io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
    if let Some(answer) = error.as_db_error() {
        let answer = ServerAnswer { code: answer.code().code(), source_file: answer.file() };
        return Obstacle::Answer(answer.meaning());
    }
    let cause = std::error::Error::source(error).and_then(|cause| cause.downcast_ref::<io::Error>());
    match cause.map(io::Error::kind) {
        Some(BrokenPipe | ConnectionReset | UnexpectedEof) => Obstacle::Closed,
        Some(_) => Obstacle::Unreachable,
        None if error.is_closed() => Obstacle::Closed,
        // It asks for a proof of who we are that the driver has not.
        None => Obstacle::Answer(AnswerMeaning::Refusal),
    }
}

impl SessionError {
    /// What kept the session from being.
    pub fn obstacle(&self) -> Obstacle {
        match self {
            Self::NoAddress | Self::NoAnswer(_) => Obstacle::Unreachable,
            Self::Connect(error) => obstacle(error),
        }
    }

    /// Whether the server is on its way up, or ends all sessions because one of its processes crashed: a moment later
    /// it may take the connection (postmaster.c, `canAcceptConnections()`; postgres.c, `quickdie()`).
    pub fn is_passing(&self) -> bool {
        self.obstacle() == Obstacle::Answer(AnswerMeaning::Passing)
    }

    /// Whether the session ended before it began, without a word of the server.
    pub fn is_closed(&self) -> bool {
        self.obstacle() == Obstacle::Closed
    }
}

impl Login {
    /// The open databases of the cluster besides those that are known.
    fn other_databases(&self) -> Vec<String> {
        let root = self.data_directory.as_ref().and_then(|directory| ReadRoot::open(directory).ok());
        let mut databases = root.as_ref().map(open_databases).unwrap_or_default();
        databases.retain(|database| !self.databases.contains(database));
        databases
    }
}

/// What to try after an answer.
#[derive(PartialEq, Eq)]
enum Next {
    /// The next user. A name that does not exist is refused as a wrong password where one is asked for (auth.c,
    /// `auth_failed()`).
    User,
    /// The next database: what is wrong may be this one's.
    Database,
    /// Nothing: no other login would fare better.
    Nothing,
}

impl Next {
    fn after(error: &SessionError) -> Self {
        use AnswerMeaning::{
            Cut, Damage, Environment, Full, Internal, NoDatabase, Other, Passing, Refusal, Value,
        };
        let Obstacle::Answer(meaning) = error.obstacle() else { return Self::Nothing };
        match meaning {
            Refusal => Self::User,
            NoDatabase | Environment | Cut | Internal | Other | Value => Self::Database,
            Damage | Full | Passing => Self::Nothing,
        }
    }
}

/// The directory of the socket. The server notes it as its configuration has it, and is itself in its data directory; a
/// name in the abstract namespace is no directory.
fn socket_directory(pid_file: &PostmasterPid) -> Option<PathBuf> {
    let noted = pid_file.socket_directory.as_deref()?;
    if noted.is_empty() || noted.starts_with('@') {
        return None;
    }
    Some(Path::new(pid_file.data_directory.as_deref().unwrap_or("/")).join(noted))
}

impl ServerAddress {
    /// Reads the address from the pid file of a data directory.
    pub fn read(root: &ReadRoot) -> Option<Self> {
        let text = root.read_text("postmaster.pid", 4096).ok()??;
        Self::from_pid_file(&PostmasterPid::parse(&text).ok()?)
    }

    /// The address in a pid file, once the server has written it.
    pub fn from_pid_file(pid_file: &PostmasterPid) -> Option<Self> {
        Some(Self {
            socket_directory: socket_directory(pid_file),
            listen_address: pid_file.listen_address.clone().filter(|address| !address.is_empty()),
            port: pid_file.port?,
        })
    }

    /// Opens a session, through the Unix socket where there is one.
    ///
    /// # Errors
    /// The first answer that says more than that a database is not there.
    pub fn connect(&self, login: &Login) -> Result<Client, SessionError> {
        let error = match self.connect_to(&login.databases, login) {
            Ok(client) => return Ok(client),
            Err(error) => error,
        };
        if Next::after(&error) != Next::Database {
            return Err(error);
        }
        self.connect_to(&login.other_databases(), login).map_err(|_| error)
    }

    fn connect_to(&self, databases: &[String], login: &Login) -> Result<Client, SessionError> {
        let mut answers = Vec::new();
        'databases: for database in databases {
            for user in &login.users {
                let error = match self.open(login, user, database) {
                    Ok(client) => return Ok(client),
                    Err(error) => error,
                };
                let next = Next::after(&error);
                answers.push(error);
                match next {
                    Next::User => {}
                    Next::Database => continue 'databases,
                    Next::Nothing => return Err(answers.pop().unwrap_or(SessionError::NoAddress)),
                }
            }
        }
        let is_telling =
            |error: &SessionError| error.obstacle() != Obstacle::Answer(AnswerMeaning::NoDatabase);
        let most_telling = answers.iter().position(is_telling).unwrap_or_default();
        Err(answers.into_iter().nth(most_telling).unwrap_or(SessionError::NoAddress))
    }

    /// Opens a session with all settings of its preamble, or, for a user who may not set all of them, with the others.
    fn open(&self, login: &Login, user: &str, database: &str) -> Result<Client, SessionError> {
        let open = |rights| {
            let options = login.preamble.options(rights);
            within(login.patience, self.configuration(login, user, database, &options))
        };
        match open(Rights::Superuser) {
            Err(SessionError::Connect(error)) if error.code() == Some(&SqlState::INSUFFICIENT_PRIVILEGE) => {
                open(Rights::Ordinary)
            }
            result => result,
        }
    }

    fn configuration(&self, login: &Login, user: &str, database: &str, options: &str) -> Config {
        let mut configuration = Config::new();
        configuration.user(user).dbname(database).port(self.port).options(options).application_name("pgbox");
        if !login.password.is_empty() {
            configuration.password(&login.password);
        }
        configuration.connect_timeout(Duration::from_secs(10));
        match (&self.socket_directory, &self.listen_address) {
            (Some(directory), _) => configuration.host_path(directory),
            (None, Some(address)) if address != "*" => configuration.host(address),
            _ => configuration.host("localhost"),
        };
        configuration
    }
}

/// Connects, and gives up when that takes too long.
///
/// The driver's own limit ends with the connection of the socket; a login that waits for a lock on a catalog, which a
/// prepared transaction may hold, waits without end. The thread that waits is left behind then.
fn within(patience: Option<Duration>, configuration: Config) -> Result<Client, SessionError> {
    let connect = move || configuration.connect(NoTls).map_err(SessionError::Connect);
    let Some(patience) = patience else { return connect() };
    sys::within(patience, connect).unwrap_or(Err(SessionError::NoAnswer(patience)))
}

/// Quotes a name for use in SQL.
pub fn quote_identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Quotes a text for use in SQL, whatever `standard_conforming_strings` says.
pub fn quote_literal(text: &str) -> String {
    format!("E'{}'", text.replace('\\', "\\\\").replace('\'', "''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_texts_are_quoted_whole() {
        assert_eq!(quote_identifier("a\"; drop"), "\"a\"\"; drop\"");
        assert_eq!(quote_literal("it's \\ $1"), "E'it''s \\\\ $1'");
    }
}
