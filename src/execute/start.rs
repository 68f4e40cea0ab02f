//! Starting the server of a claimed cluster, with retries, and verifying that it serves.

use super::archive_queue::queue_unqueued;
use super::failed_start::{does_not_serve, report, start_failure};
use super::{Tools, access, archiving, overridden, recovery_sync};
use crate::cluster::configuration::Fingerprint;
use crate::cluster::control_file;
use crate::cluster::own_settings::OwnSettings;
use crate::cluster::readiness::{ReadinessError, Standing, verify_by_two_connections};
use crate::cluster::seal;
use crate::cluster::served;
use crate::cluster::server::{self, RunningServer, StartError, StartOptions, Strangers};
use crate::cluster::server_configuration::{self, Configuration, is_substituted};
use crate::cluster::server_stop::{self, Stopping};
use crate::cluster::session::{Login, Preamble, Purpose};
pub use crate::cluster::standby::RECOVERY_SIGNAL;
use crate::pg::TimelineId;
use crate::pg::control_file::CONTROL_FILE;
use crate::plan::recovery_target::RecoveryTarget;
use crate::plan::start_failure::Cause;
use crate::sys::{
    ReadRoot, WriteRoot, effective_identity, has_client_sessions, is_writable_directory, step_point,
    wait_until_gone,
};
use anyhow::Context;
use serde::{Deserialize, Serialize};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Where PostgreSQL as Debian builds it keeps its sockets.
const DEFAULT_SOCKET_DIRECTORY: &str = "/var/run/postgresql";

/// How long a server that was not reached may take to show that it is about to end.
const ENDING_PATIENCE: Duration = Duration::from_secs(2);

/// Who to connect as: the superuser that was asked for, else the usual one, else whoever made the cluster.
pub fn superuser_login(tools: &Tools) -> Login {
    login_for(tools, Purpose::Serving)
}

/// The same, for a session with another purpose than to ask the server that serves.
pub(super) fn login_for(tools: &Tools, purpose: Purpose) -> Login {
    let mut users = vec![tools.settings.superuser.clone(), "postgres".to_owned()];
    users.extend(effective_identity().name);
    users.dedup();
    let databases = ["postgres", "template1", &tools.settings.database].map(str::to_owned).to_vec();
    Login {
        users,
        password: tools.settings.superuser_password_to_try().reveal().to_owned(),
        databases,
        data_directory: (purpose == Purpose::Serving).then(|| tools.settings.data_directory.clone()),
        preamble: Preamble::new(tools.installation.version, purpose),
        patience: (purpose == Purpose::Serving).then_some(tools.settings.startup_timeout),
    }
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

    /// How the cluster in place is to be started where nothing was put there: as it is, unless it was asked to take a
    /// timeline of its own by us.
    pub(super) fn of_present(root: &ReadRoot) -> io::Result<Self> {
        let Some(text) = root.read_text(RECOVERY_SIGNAL, 4096)? else { return Ok(Self::AsItIs) };
        // What somebody else asked for is theirs to carry out.
        if serde_json::from_str::<RecoverySignal>(&text).is_err() {
            return Ok(Self::AsItIs);
        }
        Self::of_replacement(root)
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
            // Of whoever set up the recovery of another server: what they do is not for a cluster that we restored.
            ("archive_cleanup_command", String::new()),
            ("recovery_end_command", String::new()),
        ];
        settings.extend(target.settings());
        settings
    }
}

/// Starts the server and verifies it by two connections. Where the cause of a failure may pass by itself, it is tried up
/// to `START_RETRIES` times with `RETRY_DELAY` between. It holds the lock of `root` from then on.
///
/// # Errors
/// The last attempt's, with the last lines of the server's log. No server is left running.
pub fn start_and_verify(
    tools: &Tools,
    root: &WriteRoot,
    start: &Start,
    strangers: Strangers,
) -> anyhow::Result<RunningServer> {
    let names = access::prepare_local_access(tools, root);
    let fingerprint = Fingerprint::take(root, tools.installation);
    let configuration = server_configuration::in_force(&tools.configuration_of(root, root.path()))
        .context("choose the server's configuration")?;
    let options = start_options(tools, root, start, (configuration.clone(), strangers));
    let options = StartOptions { environment: names, ..options };
    let mut server = start_with_retries(tools, root, options)?;
    if *start != Start::AsItIs {
        step_point("the replacement is open");
    }
    step_point("ready, not verified yet");
    let Err(error) = verify(tools, &mut server) else {
        note_configuration(tools, root, fingerprint, &configuration);
        note_served(tools, root);
        return Ok(server);
    };
    // What keeps us out may let others in, and to stop it would keep everybody out.
    if error.standing() == Standing::Unknown {
        // One that ends takes its socket away before it has ended: then it was not reached for that reason.
        wait_until_gone(i32::try_from(server.process.pid())?, ENDING_PATIENCE)?;
    }
    let is_suspect = error.standing() == Standing::Suspect;
    if (!is_suspect || serves_others(root, start)) && server.process.try_wait()?.is_none() {
        tools.progress.note(&unverified(&error));
        tools.progress.note(error.advice());
        if is_suspect {
            tools.progress.note(
                "it was left running, since others have sessions on it; to look for damage and repair it, which stops the \
                 server for that long: `maintenance repair`",
            );
        }
        note_served(tools, root);
        return Ok(server);
    }
    if server.process.try_wait()?.is_none() {
        let pid = i32::try_from(server.process.pid()).context("stop the server")?;
        let (data_directory, patience) = (root.path(), tools.settings.command_stop_timeout);
        server_stop::stop(&Stopping { pid, data_directory, patience }, tools.progress)
            .context("stop the server")?;
        server.process.wait()?;
    }
    if let Err(error) = seal::write(root) {
        tools.progress.note(&format!("the stopped cluster was not sealed: {error}"));
    }
    let log = server::log_since(&tools.log_file(), server.log_begins_at);
    Err(does_not_serve(&error.to_string(), &log))
}

/// Whether a server that did not serve us serves others: to stop it would end their sessions for the sake of what they may
/// never touch. A cluster that was put in place a moment ago is different: the former one, with all of its rows, comes back
/// when it does not serve, and must not come back later than that.
fn serves_others(root: &WriteRoot, start: &Start) -> bool {
    *start == Start::AsItIs && has_client_sessions(root.path()).unwrap_or(true)
}

/// Verifies a server that was just started. One whose process crashed begins again by itself, and is waited for.
fn verify(tools: &Tools, server: &mut RunningServer) -> Result<(), ReadinessError> {
    let deadline = Instant::now() + tools.settings.startup_timeout;
    loop {
        match verify_by_two_connections(&server.address, &superuser_login(tools)) {
            Err(error) if error.standing() == Standing::Passing && Instant::now() < deadline => {
                if !matches!(server.process.try_wait(), Ok(None)) {
                    return Err(error);
                }
            }
            result => return result,
        }
    }
}

/// What is said of a server that runs and did not serve us.
pub(super) fn unverified(error: &ReadinessError) -> String {
    let what = match error {
        ReadinessError::Connection { .. } if error.standing() == Standing::RefusesUs => "refused our login",
        _ => "did not serve us",
    };
    format!("the server runs but {what}, so it could not be verified: {error}")
}

/// Notes that the configuration is good, so that the next inspection need not try it.
fn note_configuration(
    tools: &Tools,
    root: &WriteRoot,
    fingerprint: Option<Fingerprint>,
    configuration: &Configuration,
) {
    let is_new = |fingerprint: &Fingerprint| !fingerprint.is_noted(root) && !is_substituted(root);
    let Some(fingerprint) = fingerprint.filter(is_new) else { return };
    let Some(socket_directories) = &configuration.socket_directories else { return };
    if let Err(error) = fingerprint.note(root.path(), socket_directories) {
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

fn start_options(
    tools: &Tools,
    root: &WriteRoot,
    start: &Start,
    (configuration, strangers): (Configuration, Strangers),
) -> StartOptions {
    let own = OwnSettings::read(root);
    let archiving = archiving::server_settings(tools, root, &own, &configuration.arguments);
    if !archiving.is_empty()
        && let Err(error) = queue_unqueued(tools, root, start)
    {
        tools.progress.note(&format!("WAL that was written meanwhile may not reach the archive: {error:#}"));
    }
    StartOptions {
        installation: tools.installation.clone(),
        configuration,
        strangers,
        data_directory: root.path().to_path_buf(),
        port: tools.settings.port,
        listen_addresses: tools.settings.listen_addresses.clone(),
        socket_directory: tools.settings.socket_directory.clone().or_else(socket_directory),
        settings: start
            .settings()
            .into_iter()
            .chain(archiving)
            .chain(recovery_sync::server_settings(tools.installation, root.path(), &own))
            .collect(),
        environment: Vec::new(),
        accepts_standby: *start == Start::AsItIs,
        log_file: tools.log_file(),
        patience: tools.settings.startup_timeout,
    }
}

fn start_with_retries(
    tools: &Tools,
    root: &WriteRoot,
    mut options: StartOptions,
) -> anyhow::Result<RunningServer> {
    let mut attempt = 1;
    let mut overridden = Vec::new();
    loop {
        let error = match server::start(root, &options, tools.progress) {
            Ok(server) => {
                overridden::note(tools, root, &overridden);
                return Ok(server);
            }
            Err(error @ (StartError::Process(_) | StartError::InUse(_) | StartError::Seal(_))) => {
                return Err(start_failure(error, "start the server"));
            }
            Err(error) => error,
        };
        let failure = report(&error);
        if attempt >= attempts_worth(&failure.cause, tools.settings.start_retries) {
            if let Some(found) = overridden::to_try(tools, root, &failure, &overridden) {
                options.settings.push((found.parameter, found.value.clone()));
                overridden.push(found);
                continue;
            }
            return Err(start_failure(error, "start the server"));
        }
        tools.progress.note(&format!("attempt {attempt} to start the server failed: {error}"));
        // The pause that START_RETRIES and RETRY_DELAY promise: what held the port or the memory may let go of it.
        std::thread::sleep(tools.settings.retry_delay);
        attempt += 1;
    }
}

/// How often a start is tried: as often as is asked for where the cause may pass by itself, twice where it is not known.
fn attempts_worth(cause: &Cause, wanted: u32) -> u32 {
    match cause {
        cause if cause.may_pass() => wanted,
        Cause::Unknown => wanted.min(2),
        _ => 1,
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
