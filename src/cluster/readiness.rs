//! Whether a server really serves, and what follows where it did not serve us.
//!
//! A server that answers works, whatever it answers: a closed database, a pool that has every connection, a library or a
//! trigger that ends our sessions keeps us out, and lets others in. Only damage of the data, and sessions that end without
//! a word, make it suspect.

use super::session::{Login, Obstacle, ServerAddress, SessionError, describe, obstacle};
use crate::plan::server_answer::AnswerMeaning;
use std::time::{Duration, Instant};

/// Why a server that runs does not serve.
#[derive(Debug, thiserror::Error)]
pub enum ReadinessError {
    /// It did not take a connection.
    #[error("{which} connection failed: {answer}")]
    Connection {
        /// Which one.
        which: &'static str,
        /// The answer.
        answer: SessionError,
    },
    /// It took a connection and did not answer.
    #[error("{which} connection was taken, but a query failed: {}", describe(.answer))]
    Query {
        /// Which one.
        which: &'static str,
        /// The answer.
        answer: postgres::Error,
    },
}

/// What a failed verification says of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It works, and did not serve us; others it may serve.
    RefusesUs,
    /// It will take connections in a moment.
    Passing,
    /// It was not reached, or did not answer, so that nothing is known.
    Unknown,
    /// It serves nobody, or its data are damaged.
    Suspect,
}

impl ReadinessError {
    fn obstacle(&self) -> Obstacle {
        match self {
            Self::Connection { answer, .. } => answer.obstacle(),
            Self::Query { answer, .. } => obstacle(answer),
        }
    }

    /// What it says of the server.
    pub fn standing(&self) -> Standing {
        match self.obstacle() {
            Obstacle::Answer(AnswerMeaning::Passing) => Standing::Passing,
            Obstacle::Answer(AnswerMeaning::Damage) | Obstacle::Closed => Standing::Suspect,
            Obstacle::Answer(_) => Standing::RefusesUs,
            Obstacle::Unreachable => Standing::Unknown,
        }
    }

    /// What a person can do about a server that did not serve us.
    pub fn advice(&self) -> &'static str {
        match self.obstacle() {
            Obstacle::Answer(AnswerMeaning::Full) => {
                "raise max_connections, or have applications connect as another role than the superuser, for whom \
                 superuser_reserved_connections are kept"
            }
            Obstacle::Answer(AnswerMeaning::NoDatabase) => {
                "open a database to the superuser (ALTER DATABASE … ALLOW_CONNECTIONS true), and drop one whose DROP \
                 DATABASE was cut short"
            }
            Obstacle::Answer(AnswerMeaning::Refusal) => {
                "let the superuser in by pg_hba.conf on the Unix socket, or set POSTGRES_USER and POSTGRES_PASSWORD to \
                 those of the cluster"
            }
            Obstacle::Answer(AnswerMeaning::Environment) => {
                "install what it lacks, or give it the memory or the room"
            }
            Obstacle::Answer(AnswerMeaning::Damage) => {
                "some of its data are damaged: `maintenance check --deep` reads everything and names it"
            }
            Obstacle::Answer(_) => {
                "look for what ends sessions: ALTER ROLE … SET, ALTER DATABASE … SET, a trigger at login, an extension"
            }
            Obstacle::Unreachable | Obstacle::Closed => {
                "see the server's log; a transaction that holds a catalog (pg_locks, pg_prepared_xacts) keeps everybody \
                 waiting"
            }
        }
    }

    /// Whether another attempt a moment later may fare better: a connection may be free then.
    fn may_pass(&self) -> bool {
        use AnswerMeaning::{Full, Passing};
        matches!(self.obstacle(), Obstacle::Answer(Full | Passing))
    }
}

/// How often a server that has no free connection is asked again: it tells nobody when it has.
const RETRY_PAUSE: Duration = Duration::from_millis(100);
/// How long a free connection is waited for. An ended session takes a moment to make room for the next one.
const FULL_PATIENCE: Duration = Duration::from_secs(2);

/// Verifies that a server serves, by two connections one after the other.
///
/// One proves nothing: with a catalog index such as `global/2671` gone, the first connection works, and every
/// later one dies (`facts/corruption.md` §0).
///
/// # Errors
/// [`ReadinessError`], naming the connection that failed and the server's own words.
pub fn verify_by_two_connections(address: &ServerAddress, login: &Login) -> Result<(), ReadinessError> {
    let deadline = Instant::now() + FULL_PATIENCE;
    loop {
        match try_two_connections(address, login) {
            Err(error) if error.may_pass() && Instant::now() < deadline => std::thread::sleep(RETRY_PAUSE),
            result => return result,
        }
    }
}

fn try_two_connections(address: &ServerAddress, login: &Login) -> Result<(), ReadinessError> {
    for which in ["the first", "the second"] {
        let connected = address.connect(login);
        let mut client = connected.map_err(|answer| ReadinessError::Connection { which, answer })?;
        client
            .simple_query("SELECT count(*) FROM pg_catalog.pg_database")
            .map_err(|answer| ReadinessError::Query { which, answer })?;
    }
    Ok(())
}
