//! Whether a server really serves.

use super::session::{Login, Obstacle, ServerAddress, SessionError, describe};
use crate::plan::server_answer::AnswerMeaning;

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

impl ReadinessError {
    /// Whether the server works, and only does not let us in.
    pub fn is_refusal(&self) -> bool {
        let refusal = Obstacle::Answer(AnswerMeaning::Refusal);
        matches!(self, Self::Connection { answer, .. } if answer.obstacle() == refusal)
    }
}

/// Verifies that a server serves, by two connections one after the other.
///
/// One proves nothing: with a catalog index such as `global/2671` gone, the first connection works, and every
/// later one dies (`facts/corruption.md` §0).
///
/// # Errors
/// [`ReadinessError`], naming the connection that failed and the server's own words.
pub fn verify_by_two_connections(address: &ServerAddress, login: &Login) -> Result<(), ReadinessError> {
    for which in ["the first", "the second"] {
        let connected = address.connect(login);
        let mut client = connected.map_err(|answer| ReadinessError::Connection { which, answer })?;
        client
            .simple_query("SELECT count(*) FROM pg_catalog.pg_database")
            .map_err(|answer| ReadinessError::Query { which, answer })?;
    }
    Ok(())
}
