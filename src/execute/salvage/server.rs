//! The two servers of a salvage: one on the copy, one on the new cluster.

use super::workplace::Workplace;
use crate::cluster::server::StartError;
use crate::cluster::session::{Login, Preamble, ProgramLogin, Purpose, SessionError};
use crate::execute::private_server::{PrivateServer, PrivateStart};
use postgres::Client;
use std::time::{Duration, Instant};

/// A server of a salvage, running, and who connects to it.
pub(super) struct SalvageServer {
    server: PrivateServer,
    /// Who to connect as.
    pub(super) superuser: String,
    preamble: Preamble,
    /// How long it may take to come back after one of its processes crashed.
    patience: Duration,
}

/// How often a server that is coming back is asked again: it tells nobody when it does.
const RETRY_PAUSE: Duration = Duration::from_millis(50);

/// How often a session may end without a word before it is taken for this database's doing, not another's.
const MOST_CLOSED: u32 = 3;

impl SalvageServer {
    pub(super) fn start(
        work: &Workplace,
        superuser: &str,
        purpose: Purpose,
        start: PrivateStart,
    ) -> Result<Self, StartError> {
        Ok(Self {
            server: PrivateServer::start(work.tools, work.root, start)?,
            superuser: superuser.to_owned(),
            preamble: Preamble::new(work.tools.installation.version, purpose),
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
            data_directory: None,
            preamble: self.preamble.clone(),
            patience: None,
        };
        let deadline = Instant::now() + self.patience;
        let mut closed_count = 0;
        loop {
            let error = match self.server.address().connect(&login) {
                Ok(client) => return Ok(client),
                Err(error) => error,
            };
            closed_count += u32::from(error.is_closed());
            let is_passing = error.is_passing() || (error.is_closed() && closed_count < MOST_CLOSED);
            if !is_passing || Instant::now() >= deadline {
                return Err(error);
            }
            std::thread::sleep(RETRY_PAUSE);
        }
    }

    pub(super) fn is_alive(&mut self) -> bool {
        self.server.is_alive()
    }

    /// How a client program connects to this server: as the superuser.
    pub(super) fn program_login(&self) -> ProgramLogin<'_> {
        ProgramLogin {
            address: self.server.address(),
            user: &self.superuser,
            preamble: self.preamble.clone(),
        }
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
