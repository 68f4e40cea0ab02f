//! Starting the server of a claimed cluster, with retries, and verifying that it serves.

use super::{Tools, archiving, recovery_sync, shown_log, start_failure};
use crate::cluster::configuration::Fingerprint;
use crate::cluster::control_file;
use crate::cluster::own_settings::OwnSettings;
use crate::cluster::readiness::verify_by_two_connections;
use crate::cluster::seal;
use crate::cluster::served;
use crate::cluster::server::{self, RunningServer, StartError, StartOptions};
use crate::cluster::session::Login;
use crate::error::{Failure, Kind};
use crate::pg::TimelineId;
use crate::pg::control_file::CONTROL_FILE;
use crate::plan::recovery_target::RecoveryTarget;
use crate::sys::{ReadRoot, WriteRoot, effective_identity, is_writable_directory};
use anyhow::Context;
use serde::{Deserialize, Serialize};
use std::io;
use std::path::{Path, PathBuf};

/// Where PostgreSQL as Debian builds it keeps its sockets.
const DEFAULT_SOCKET_DIRECTORY: &str = "/var/run/postgresql";

/// Who to connect as: the superuser that was asked for, else the usual one, else whoever made the cluster.
pub fn superuser_login(tools: &Tools) -> Login {
    let mut users = vec![tools.settings.superuser.clone(), "postgres".to_owned()];
    users.extend(effective_identity().name);
    users.dedup();
    let databases = ["postgres", "template1", &tools.settings.database].map(str::to_owned).to_vec();
    Login { users, password: tools.settings.superuser_password.reveal().to_owned(), databases }
}

/// What a server is started for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Start {
    /// To serve the cluster as it is.
    AsItIs,
    /// To serve a cluster that was put in place, for the first time.
    ///
    /// Its `recovery.signal` makes the server end on a timeline of its own, so that the WAL of before the
    /// restore and that of after it, which overlap in LSNs, can never be taken for one another
    /// (xlogrecovery.c, `StartupXLOG()`). All the WAL that is needed is in `pg_wal`; it counts as ready only
    /// when it is a primary.
    FirstAfterRestore {
        /// The timeline to follow; `None` is that of the backup.
        timeline: Option<TimelineId>,
        /// Where recovery is to end. A server that does not get there ends with an error, and does not serve.
        target: RecoveryTarget,
    },
}

/// What the signal file of a restored cluster holds.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct RecoverySignal {
    pub(super) timeline: Option<TimelineId>,
    pub(super) target: Option<RecoveryTarget>,
}

/// The file that makes a server recover. The server looks at nothing but its name; its content, written by
/// pgbox, is the timeline to follow and where to end, so that it is known after a crash, too, and gone with the file
/// once the server has ended recovery.
pub const RECOVERY_SIGNAL: &str = "recovery.signal";

impl Start {
    /// How the cluster in place is to be started for the first time since it was put there.
    pub fn of_replacement(root: &ReadRoot) -> io::Result<Self> {
        let Some(text) = root.read_text(RECOVERY_SIGNAL, 4096)? else { return Ok(Self::AsItIs) };
        // One that somebody else wrote has nothing in it, and asks for all that there is.
        let signal = match text.trim() {
            "" => RecoverySignal::default(),
            text => serde_json::from_str(text).map_err(io::Error::other)?,
        };
        let target = signal.target.unwrap_or(RecoveryTarget::END);
        Ok(Self::FirstAfterRestore { timeline: signal.timeline, target })
    }

    /// The settings for it, which the server is given on its command line: nothing of them stays in its files.
    pub(super) fn settings(&self) -> Vec<(&'static str, String)> {
        let Self::FirstAfterRestore { timeline, target } = self else { return Vec::new() };
        let timeline = timeline.map_or_else(|| "current".to_owned(), |timeline| timeline.to_string());
        let mut settings = vec![
            ("restore_command", "false".to_owned()),
            ("recovery_target_timeline", timeline),
            ("recovery_target_action", "promote".to_owned()),
            ("hot_standby", "off".to_owned()),
        ];
        settings.extend(target.settings());
        settings
    }
}

/// Starts the server, up to `START_RETRIES` times with `RETRY_DELAY` between, and verifies it by two
/// connections. It holds the lock of `root` from then on.
///
/// # Errors
/// The last attempt's, with the last lines of the server's log. No server is left running.
pub fn start_and_verify(tools: &Tools, root: &WriteRoot, start: &Start) -> anyhow::Result<RunningServer> {
    let log_begins_at = server::log_size(&tools.log_file());
    // Before, and not after: a server that is killed before its first checkpoint leaves the control file as it was.
    seal::remove(root).context("remove the seal of the last stop")?;
    let configuration = Fingerprint::take(root, tools.installation);
    let mut server = start_with_retries(tools, root, start)?;
    let Err(error) = verify_by_two_connections(&server.address, &superuser_login(tools)) else {
        note_configuration(tools, root, configuration);
        note_served(tools, root);
        return Ok(server);
    };
    // Its `pg_hba.conf` keeps us out. To stop it for that would keep everybody out.
    if error.is_refusal() {
        tools
            .progress
            .note(&format!("the server runs, and could not be verified, since it lets us not in: {error}"));
        note_served(tools, root);
        return Ok(server);
    }
    server.process.signal(crate::sys::Signal::INT)?;
    server.process.wait()?;
    if let Err(error) = seal::write(root) {
        tools.progress.note(&format!("the stopped cluster was not sealed: {error}"));
    }
    let log = server::log_tail(&tools.log_file(), log_begins_at, server::SHOWN_LOG_LINES);
    let message = format!("the server started, but does not serve: {error}{}", shown_log(&log));
    Err(Failure::new(Kind::ServerFailed, message).into())
}

/// Notes that the configuration is good, so that the next inspection need not try it.
fn note_configuration(tools: &Tools, root: &WriteRoot, configuration: Option<Fingerprint>) {
    let Some(configuration) = configuration.filter(|configuration| !configuration.is_noted(root)) else {
        return;
    };
    if let Err(error) = configuration.note(root.path()) {
        tools.progress.note(&format!("could not note that the configuration is good: {error}"));
    }
}

/// Notes that the cluster was served, so that what an interrupted removal leaves of it is never taken for an interrupted
/// initdb.
fn note_served(tools: &Tools, root: &WriteRoot) {
    let noted = control_file::read_at(root, CONTROL_FILE)
        .map_err(anyhow::Error::from)
        .and_then(|(_, control)| Ok(served::note(root, control.system_identifier)?));
    if let Err(error) = noted {
        tools.progress.note(&format!("could not note that the cluster is served: {error:#}"));
    }
}

fn start_with_retries(tools: &Tools, root: &WriteRoot, start: &Start) -> anyhow::Result<RunningServer> {
    let own = OwnSettings::read(root);
    let options = StartOptions {
        installation: tools.installation.clone(),
        data_directory: root.path().to_path_buf(),
        port: tools.settings.port,
        listen_addresses: tools.settings.listen_addresses.clone(),
        socket_directory: tools.settings.socket_directory.clone().or_else(socket_directory),
        settings: start
            .settings()
            .into_iter()
            .chain(archiving::server_settings(tools, root, &own))
            .chain(recovery_sync::server_settings(tools.installation, &own))
            .collect(),
        accepts_standby: *start == Start::AsItIs,
        log_file: tools.log_file(),
        patience: tools.settings.startup_timeout,
    };
    let mut attempt = 1;
    loop {
        let error = match server::start(root, &options, tools.progress) {
            Ok(server) => return Ok(server),
            Err(error @ StartError::Process(_)) => return Err(start_failure(error, "start the server")),
            Err(error) => error,
        };
        if attempt >= tools.settings.start_retries {
            return Err(start_failure(error, "start the server"));
        }
        tools.progress.note(&format!("attempt {attempt} to start the server failed: {error}"));
        // The pause that START_RETRIES and RETRY_DELAY promise: what held the port or the memory may let go.
        std::thread::sleep(tools.settings.retry_delay);
        attempt += 1;
    }
}

/// The directory for the socket, where the built-in default cannot be written by this user.
fn socket_directory() -> Option<PathBuf> {
    if is_writable_directory(Path::new(DEFAULT_SOCKET_DIRECTORY)) {
        None
    } else {
        Some(PathBuf::from("/tmp"))
    }
}
