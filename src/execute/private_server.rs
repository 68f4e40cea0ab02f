//! A server that only this process can reach, and that does not outlive it wrongly: it is stopped when it is dropped,
//! and if we are killed, the next command stops it before it does anything else.

use super::Tools;
use crate::cluster::server::{self, RunningServer, StartError, StartOptions, Strangers};
use crate::cluster::server_configuration;
use crate::cluster::server_stop::{self, Stopping};
use crate::cluster::session::ServerAddress;
use crate::progress::Silent;
use crate::sys::{PrivateDirectory, WriteRoot};
use anyhow::{Context, ensure};
use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// The port in the name of its socket; it listens on no other.
pub(super) const PORT: u16 = 5432;
/// Lets everybody in who reaches its socket, which is in a directory of our own.
const ACCESS: &[u8] = b"local all all trust\n";
/// How long a clean stop may take before it is ended.
const STOP_PATIENCE: Duration = Duration::from_mins(2);

/// A private server, running.
pub(super) struct PrivateServer {
    server: RunningServer,
    data_directory: PathBuf,
    /// Where its socket is, for as long as it runs.
    _socket: PrivateDirectory,
    is_stopped: bool,
}

/// How a private server is to be started.
pub(super) struct PrivateStart {
    /// The directory of the cluster, below the claimed root.
    pub(super) data_directory: PathBuf,
    /// Where its output goes.
    pub(super) log_file: PathBuf,
    /// Settings over those of its configuration files.
    pub(super) settings: Vec<(&'static str, String)>,
}

/// Commands that the cluster's owner set for another server's recovery: none of them is run on account of ours, and all
/// WAL that is needed is in `pg_wal`.
const FOREIGN_COMMANDS: [(&str, &str); 3] =
    [("archive_cleanup_command", ""), ("recovery_end_command", ""), ("restore_command", "false")];

/// Settings with which a copy of a cluster is recovered and looked at: nothing leaves it, nothing of the original's comes
/// in its way. It syncs nothing: who keeps the copy syncs it as a whole.
const ISOLATION: [(&str, &str); 8] = [
    ("autovacuum", "off"),
    ("fsync", "off"),
    ("log_destination", "stderr"),
    ("logging_collector", "off"),
    ("max_logical_replication_workers", "0"),
    ("max_wal_senders", "0"),
    ("max_worker_processes", "0"),
    ("ssl", "off"),
];

/// The settings that keep the server of a copy to itself.
pub(super) fn isolation() -> impl Iterator<Item = (&'static str, String)> {
    ISOLATION.into_iter().map(|(name, value)| (name, value.to_owned()))
}

impl PrivateServer {
    /// Starts it, and waits until it takes connections.
    ///
    /// # Errors
    /// Those of [`server::start`].
    pub(super) fn start(tools: &Tools, root: &WriteRoot, start: PrivateStart) -> Result<Self, StartError> {
        let socket = PrivateDirectory::new()?;
        let mut settings: Vec<(&'static str, String)> =
            FOREIGN_COMMANDS.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
        // What its own `pg_hba.conf` asks for, such as a password, is meant for those who come in from outside.
        let access = socket.write("pg_hba.conf", ACCESS)?;
        settings.push(("hba_file", access.display().to_string()));
        settings.extend(start.settings);
        // That file is of the server that serves.
        settings.push(("external_pid_file", String::new()));
        // What a private server writes is of no history that anybody will want to go back to.
        settings.push(("archive_mode", "off".to_owned()));
        let configuration =
            server_configuration::in_force(&tools.configuration_of(root, &start.data_directory))?;
        let data_directory = start.data_directory.clone();
        let options = StartOptions {
            installation: tools.installation.clone(),
            configuration,
            strangers: Strangers::LookedForUnderTheLock,
            data_directory: start.data_directory,
            port: PORT,
            listen_addresses: String::new(),
            socket_directory: Some(socket.path().to_path_buf()),
            settings,
            log_file: start.log_file,
            environment: Vec::new(),
            accepts_standby: false,
            patience: tools.settings.startup_timeout,
        };
        let server = server::start(root, &options, tools.progress)?;
        Ok(Self { server, data_directory, _socket: socket, is_stopped: false })
    }

    /// Where its socket is.
    pub(super) fn address(&self) -> &ServerAddress {
        &self.server.address
    }

    pub(super) fn is_alive(&mut self) -> bool {
        matches!(self.server.process.try_wait(), Ok(None))
    }

    /// Stops it cleanly.
    ///
    /// # Errors
    /// When it did not end, or not cleanly.
    pub(super) fn stop(mut self) -> anyhow::Result<()> {
        self.is_stopped = true;
        let process = &mut self.server.process;
        let pid = i32::try_from(process.pid()).context("stop the private server")?;
        let stopping = Stopping { pid, data_directory: &self.data_directory, patience: STOP_PATIENCE };
        server_stop::stop(&stopping, &Silent).context("stop the private server")?;
        // Our own child: it stays a zombie until it is waited for.
        let status = process.wait().context("wait for the private server")?;
        ensure!(status.success(), "the private server did not stop cleanly ({status})");
        Ok(())
    }

    /// Stops it without a checkpoint: what it ran on is not needed any more.
    pub(super) fn abandon(mut self) -> anyhow::Result<()> {
        self.end().context("stop the private server")
    }

    fn end(&mut self) -> io::Result<()> {
        self.is_stopped = true;
        server_stop::end(&mut self.server.process, &self.data_directory, &Silent).map(|_| ())
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
