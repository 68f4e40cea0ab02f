//! A server that only this process can reach, and that does not outlive it wrongly: it is stopped when it is dropped,
//! and if we are killed, the next command stops it before it does anything else.

use super::workplace::Workplace;
use crate::cluster::server::{self, RunningServer, StartError, StartOptions};
use crate::cluster::session::{Login, SessionError};
use crate::execute::initialise::stop_private;
use crate::sys::{PrivateDirectory, Signal, Tool};
use anyhow::Context;
use postgres::Client;
use std::path::{Path, PathBuf};

/// A private server, running.
pub(super) struct PrivateServer {
    server: RunningServer,
    socket: PrivateDirectory,
    is_stopped: bool,
    /// Who to connect as.
    pub(super) superuser: String,
}

/// How a private server is to be started.
pub(super) struct PrivateStart {
    pub(super) data_directory: PathBuf,
    pub(super) log_file: PathBuf,
    pub(super) settings: Vec<(&'static str, String)>,
    pub(super) superuser: String,
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

/// The port in the name of its socket; it listens on no other.
const PORT: u16 = 5432;

impl PrivateServer {
    pub(super) fn start(work: &Workplace, start: PrivateStart) -> Result<Self, StartError> {
        let socket = PrivateDirectory::new()?;
        let mut settings = start.settings;
        // A configuration file may name another directory, which must not be the one that is served.
        settings.push(("data_directory", start.data_directory.display().to_string()));
        let options = StartOptions {
            installation: work.tools.installation.clone(),
            data_directory: start.data_directory,
            port: PORT,
            listen_addresses: String::new(),
            socket_directory: Some(socket.path().to_path_buf()),
            settings,
            log_file: start.log_file,
            accepts_standby: false,
            patience: work.tools.settings.startup_timeout,
        };
        let server = server::start(work.root, &options, work.tools.progress)?;
        Ok(Self { server, socket, is_stopped: false, superuser: start.superuser })
    }

    /// Opens a session as the superuser.
    pub(super) fn connect(&self, database: &str) -> Result<Client, SessionError> {
        self.connect_as(&self.superuser, database)
    }

    /// Opens a session as another user, whatever a database or a role sets for its sessions.
    pub(super) fn connect_as(&self, user: &str, database: &str) -> Result<Client, SessionError> {
        let login = Login {
            users: vec![user.to_owned()],
            password: String::new(),
            databases: vec![database.to_owned()],
        };
        let mut client = self.server.address.connect(&login)?;
        client.batch_execute(SESSION).map_err(SessionError::Connect)?;
        Ok(client)
    }

    pub(super) fn is_alive(&mut self) -> bool {
        matches!(self.server.process.try_wait(), Ok(None))
    }

    /// A program that connects to this server as the superuser, and speaks English, so that it can be understood.
    pub(super) fn client_program(&self, program: PathBuf) -> Tool {
        Tool::new(program)
            .variable("PGHOST", self.socket())
            .variable("PGPORT", PORT.to_string())
            .variable("PGUSER", &self.superuser)
            .variable("LC_ALL", "C")
            .without_variable("PGCLIENTENCODING")
            .without_variable("PGHOSTADDR")
            .without_variable("PGDATABASE")
            .without_variable("PGSERVICE")
            .without_variable("PGOPTIONS")
    }

    fn socket(&self) -> &Path {
        self.socket.path()
    }

    /// Stops it cleanly.
    ///
    /// # Errors
    /// When it did not end, or not cleanly.
    pub(super) fn stop(mut self) -> anyhow::Result<()> {
        self.is_stopped = true;
        stop_private(&mut self.server)
    }

    /// Stops it without a checkpoint: what it ran on is not needed any more.
    pub(super) fn abandon(mut self) -> anyhow::Result<()> {
        self.end().context("stop the server of the copy")
    }

    fn end(&mut self) -> std::io::Result<()> {
        self.is_stopped = true;
        if matches!(self.server.process.try_wait(), Ok(None)) {
            self.server.process.signal(Signal::QUIT)?;
            self.server.process.wait()?;
        }
        Ok(())
    }
}

impl Drop for PrivateServer {
    fn drop(&mut self) {
        if !self.is_stopped {
            // Whoever is unwinding has an error of its own to tell.
            let _ = self.end();
        }
    }
}
