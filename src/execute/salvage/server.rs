//! The two servers of a salvage: one on the copy, one on the new cluster.

use super::workplace::Workplace;
use crate::cluster::server::StartError;
use crate::cluster::session::{Login, SessionError};
use crate::execute::private_server::{PORT, PrivateServer, PrivateStart};
use crate::sys::Tool;
use postgres::Client;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// A server of a salvage, running, and who connects to it.
pub(super) struct SalvageServer {
    server: PrivateServer,
    /// Who to connect as.
    pub(super) superuser: String,
    /// How long it may take to come back after one of its processes crashed.
    patience: Duration,
}

/// What every session needs: no limits, no paths, and values written so that they are read back as they were
/// (`pg_dump.c`, `setup_connection()`).
const SESSION: &str = "
SET statement_timeout = 0;
SET lock_timeout = 0;
SET idle_in_transaction_session_timeout = 0;
SET search_path = pg_catalog;
SET row_security = off;
SET synchronize_seqscans = off;
SET default_transaction_isolation = 'read committed';
SET client_encoding = 'UTF8';
SET DateStyle = 'ISO, YMD';
SET IntervalStyle = 'postgres';
SET extra_float_digits = 3;
SET bytea_output = 'hex';
SET xmloption = content;
SET lc_monetary = 'C';
";

/// How often a server that is coming back is asked again: it tells nobody when it does.
const RETRY_PAUSE: Duration = Duration::from_millis(50);

/// How often a session may end without a word before it is taken for this database's doing, not another's.
const MOST_CLOSED: u32 = 3;

impl SalvageServer {
    pub(super) fn start(work: &Workplace, superuser: &str, start: PrivateStart) -> Result<Self, StartError> {
        Ok(Self {
            server: PrivateServer::start(work.tools, work.root, start)?,
            superuser: superuser.to_owned(),
            patience: work.tools.settings.startup_timeout,
        })
    }

    /// Opens a session as the superuser.
    pub(super) fn connect(&self, database: &str) -> Result<Client, SessionError> {
        self.connect_as(&self.superuser, database)
    }

    /// Opens a session as another user, whatever a database or a role sets for its sessions.
    ///
    /// What is damaged may crash a server's process, and with it all others; the server comes back by itself, and is
    /// waited for, so that one bad database does not take the next one with it.
    pub(super) fn connect_as(&self, user: &str, database: &str) -> Result<Client, SessionError> {
        let login = Login {
            users: vec![user.to_owned()],
            password: String::new(),
            databases: vec![database.to_owned()],
        };
        let deadline = Instant::now() + self.patience;
        let mut closed_count = 0;
        let mut client = loop {
            let error = match self.server.address().connect(&login) {
                Ok(client) => break client,
                Err(error) => error,
            };
            closed_count += u32::from(error.is_closed());
            let is_passing = error.is_passing() || (error.is_closed() && closed_count < MOST_CLOSED);
            if !is_passing || Instant::now() >= deadline {
                return Err(error);
            }
            std::thread::sleep(RETRY_PAUSE);
        };
        client.batch_execute(SESSION).map_err(SessionError::Connect)?;
        Ok(client)
    }

    pub(super) fn is_alive(&mut self) -> bool {
        self.server.is_alive()
    }

    /// A program that connects to this server as the superuser, and speaks English, so that it can be understood.
    pub(super) fn client_program(&self, program: PathBuf) -> Tool {
        Tool::new(program)
            .variable("PGHOST", self.server.address().socket_directory.clone().unwrap_or_default())
            .variable("PGPORT", PORT.to_string())
            .variable("PGUSER", &self.superuser)
            .variable("LC_ALL", "C")
            .without_variable("PGCLIENTENCODING")
            .without_variable("PGHOSTADDR")
            .without_variable("PGDATABASE")
            .without_variable("PGSERVICE")
            .without_variable("PGOPTIONS")
    }

    /// Stops it cleanly.
    ///
    /// # Errors
    /// When it did not end, or not cleanly.
    pub(super) fn stop(self) -> anyhow::Result<()> {
        self.server.stop()
    }

    /// Stops it without a checkpoint: what it ran on is not needed any more.
    pub(super) fn abandon(self) -> anyhow::Result<()> {
        self.server.abandon()
    }
}
