//! SQL sessions with a server on this machine.

use crate::pg::postmaster_pid::PostmasterPid;
use crate::sys::ReadRoot;
use postgres::error::SqlState;
use postgres::{Client, Config, NoTls};
use std::path::PathBuf;
use std::time::Duration;

/// Where a running server listens, by its own pid file.
#[derive(Clone, Debug, PartialEq, Eq)]
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
    /// Databases to try in turn: any of them may have been dropped.
    pub databases: Vec<String>,
}

impl std::fmt::Debug for Login {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { users, databases, password: _ } = self;
        formatter
            .debug_struct("Login")
            .field("users", users)
            .field("databases", databases)
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

impl SessionError {
    /// Whether the server looked at who we are, and would not have us: it works, and keeps to its `pg_hba.conf`.
    pub fn is_refusal(&self) -> bool {
        matches!(self, Self::Connect(error) if is_refusal(error))
    }

    /// Whether the server is on its way up, or ends all sessions because one of its processes crashed: a moment later
    /// it may take the connection (postmaster.c, `canAcceptConnections()`; postgres.c, `quickdie()`).
    pub fn is_passing(&self) -> bool {
        let states = [SqlState::CANNOT_CONNECT_NOW, SqlState::CRASH_SHUTDOWN];
        matches!(self, Self::Connect(error) if error.code().is_some_and(|code| states.contains(code)))
    }

    /// Whether the session ended before it began, without a word of the server.
    pub fn is_closed(&self) -> bool {
        matches!(self, Self::Connect(error) if error.is_closed())
    }
}

/// A name that does not exist is refused as a wrong password where one is asked for (auth.c, `auth_failed()`).
fn is_refusal(error: &postgres::Error) -> bool {
    let refusals = [SqlState::INVALID_AUTHORIZATION_SPECIFICATION, SqlState::INVALID_PASSWORD];
    error.code().is_some_and(|code| refusals.contains(code))
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
            socket_directory: pid_file
                .socket_directory
                .clone()
                .filter(|path| !path.is_empty())
                .map(PathBuf::from),
            listen_address: pid_file.listen_address.clone().filter(|address| !address.is_empty()),
            port: pid_file.port?,
        })
    }

    /// Opens a session, through the Unix socket where there is one.
    ///
    /// # Errors
    /// [`SessionError::Connect`] with the answer to the last user name tried.
    pub fn connect(&self, login: &Login) -> Result<Client, SessionError> {
        let mut answer = SessionError::NoAddress;
        for database in &login.databases {
            for user in &login.users {
                let error = match self.configuration(login, user, database).connect(NoTls) {
                    Ok(client) => return Ok(client),
                    Err(error) => error,
                };
                let is_refused = is_refusal(&error);
                let is_no_database = error.code() == Some(&SqlState::INVALID_CATALOG_NAME);
                answer = SessionError::Connect(error);
                if is_no_database {
                    break;
                }
                if !is_refused {
                    return Err(answer);
                }
            }
        }
        Err(answer)
    }

    fn configuration(&self, login: &Login, user: &str, database: &str) -> Config {
        let mut configuration = Config::new();
        configuration
            .user(user)
            .password(&login.password)
            .dbname(database)
            .port(self.port)
            .application_name("pgbox");
        configuration.connect_timeout(Duration::from_secs(10));
        match (&self.socket_directory, &self.listen_address) {
            (Some(directory), _) => configuration.host_path(directory),
            (None, Some(address)) if address != "*" => configuration.host(address),
            _ => configuration.host("localhost"),
        };
        configuration
    }
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
