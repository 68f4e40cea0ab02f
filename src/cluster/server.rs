//! Starting a server.

use super::binaries::Installation;
use super::elsewhere::{server_elsewhere, writer_elsewhere};
use super::seal;
use super::server_configuration::Configuration;
use super::server_sockets;
pub use super::server_sockets::SocketInUse;
use super::server_stop;
use super::session::ServerAddress;
use super::start_progress::{Signs, StartWait};
use crate::pg::control_file::CONTROL_FILE;
use crate::pg::postmaster_pid::{PostmasterPid, ServerStatus};
use crate::progress::Progress;
use crate::sys::{
    Activity, ChangeWatch, Links, ProcessError, ReadRoot, ServerProcess, ServerSpec, WriteRoot, open_regular,
};
use std::ffi::OsString;
use std::io::{self, Read, Seek, SeekFrom};
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::{Duration, Instant};

/// How a server is to be started.
#[derive(Clone, Debug)]
pub struct StartOptions {
    /// The programs to use.
    pub installation: Installation,
    /// The directory of the cluster; below the claimed root, or the root itself.
    pub data_directory: PathBuf,
    /// The port; 0 is any that is free.
    pub port: u16,
    /// `listen_addresses`; empty: the Unix socket only.
    pub listen_addresses: String,
    /// `unix_socket_directories`, where PostgreSQL's own default will not do.
    pub socket_directory: Option<PathBuf>,
    /// The configuration that it reads.
    pub configuration: Configuration,
    /// What is known of servers that cannot be seen from here.
    pub strangers: Strangers,
    /// Settings for this run alone, over those of its configuration files.
    pub settings: Vec<(&'static str, String)>,
    /// Variables that it gets besides those of this process.
    pub environment: Vec<(&'static str, OsString)>,
    /// Where its output goes.
    pub log_file: PathBuf,
    /// Whether a server that is still in recovery, and would go on so, counts as ready.
    pub accepts_standby: bool,
    /// How long its recovery may make no progress before it is ready.
    pub patience: Duration,
}

/// What is known of servers that pgbox did not start and that cannot be seen from here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strangers {
    /// They were looked for before the lock was taken, and nothing was changed since: all their signs count.
    LookedForBeforeTheLock,
    /// They were looked for under the lock, too. We have changed files since, so that only the kernel's word counts.
    LookedForUnderTheLock,
}

/// A server that is ready for connections.
#[derive(Debug)]
pub struct RunningServer {
    /// Its process; dropping this leaves it running.
    pub process: ServerProcess,
    /// Where it listens.
    pub address: ServerAddress,
    /// Where in its log this start begins.
    pub log_begins_at: u64,
}

/// Why a server did not come up. None is left running then.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Something else has the port.
    #[error("port {0} is in use by something else")]
    PortInUse(u16),
    /// A socket that it wants is in use, or may be, or could not be cleared.
    #[error(transparent)]
    SocketInUse(#[from] SocketInUse),
    /// It ended before it was ready.
    #[error("the server ended ({status}) before it was ready")]
    Ended {
        /// How.
        status: ExitStatus,
        /// What it wrote to its log.
        log: Vec<String>,
    },
    /// It neither became ready nor made any progress.
    #[error("the server made no progress for {} s and is not ready", .patience.as_secs())]
    NoProgress {
        /// For how long.
        patience: Duration,
        /// What it wrote to its log.
        log: Vec<String>,
    },
    /// Somebody who cannot be seen from here uses the data directory. Nothing was started.
    #[error("the data directory is in use by {0}")]
    InUse(String),
    /// The seal of the last stop could not be removed. Nothing was started.
    #[error("could not remove the seal of the last stop")]
    Seal(#[source] io::Error),
    /// It could not be started at all.
    #[error(transparent)]
    Process(#[from] ProcessError),
    /// It could not be watched.
    #[error("could not watch the server start")]
    Io(#[from] io::Error),
}

impl StartError {
    /// The last lines of the server's log, where it wrote any.
    pub fn log(&self) -> &[String] {
        let log = self.whole_log();
        log.get(log.len().saturating_sub(SHOWN_LOG_LINES)..).unwrap_or_default()
    }

    /// What the server wrote to its log during this one start.
    pub fn whole_log(&self) -> &[String] {
        match self {
            Self::Ended { log, .. } | Self::NoProgress { log, .. } => log,
            _ => &[],
        }
    }
}

/// How many lines of the server's log a failure shows.
pub const SHOWN_LOG_LINES: usize = 20;
/// How often progress is sampled where no change is reported.
const SAMPLE_INTERVAL: Duration = Duration::from_millis(100);
/// More than a control file has (`pg_control.h`, `PG_CONTROL_FILE_SIZE`).
const CONTROL_FILE_LIMIT_BYTES: u64 = 64 * 1024;

/// Starts a server and waits until it is ready for connections, for as long as its recovery makes progress: that may
/// take hours, and hurrying it is how data is lost.
///
/// The server holds the lock of `root` for as long as it lives.
///
/// # Errors
/// [`StartError`]; the server has been stopped again then.
pub fn start(
    root: &WriteRoot,
    options: &StartOptions,
    progress: &dyn Progress,
) -> Result<RunningServer, StartError> {
    let is_in_place = options.data_directory == root.path();
    // The last moment at which a second server on the same files can still be kept away. What is in staging is ours.
    if let Some(user) = stranger(root, options).filter(|_| is_in_place) {
        return Err(StartError::InUse(user));
    }
    let port = choose_port_and_sockets(options, progress)?;
    let log_begins_at = log_size(&options.log_file);
    let watch = ChangeWatch::new(&options.data_directory)?;
    let spec = server_spec(options, port);
    let prepared = ServerProcess::prepare(&spec, root)?;
    if is_in_place {
        // Before, and not after: a server that is killed before its first checkpoint leaves the control file as it was.
        // And as the last thing before: whatever keeps us from starting one leaves the seal as it is.
        seal::remove(root).map_err(StartError::Seal)?;
    }
    let mut process = prepared.start()?;
    let waited = wait_until_ready(&mut process, &watch, options, progress);
    match waited {
        Ok(address) => Ok(RunningServer { process, address, log_begins_at }),
        Err(NotReady::Ended(status)) => {
            Err(StartError::Ended { status, log: log_of(options, log_begins_at) })
        }
        Err(NotReady::Stuck) => {
            server_stop::end(&mut process, &options.data_directory, progress)?;
            let log = log_of(options, log_begins_at);
            Err(StartError::NoProgress { patience: options.patience, log })
        }
        Err(NotReady::Io(error)) => {
            server_stop::end(&mut process, &options.data_directory, progress)?;
            Err(StartError::Io(error))
        }
    }
}

fn stranger(root: &WriteRoot, options: &StartOptions) -> Option<String> {
    match options.strangers {
        Strangers::LookedForBeforeTheLock => server_elsewhere(root),
        Strangers::LookedForUnderTheLock => writer_elsewhere(root),
    }
}

fn server_spec(options: &StartOptions, port: u16) -> ServerSpec {
    let mut arguments: Vec<OsString> = Installation::serving(&options.data_directory).into();
    arguments.extend(options.configuration.arguments.iter().cloned());
    arguments.extend(["-p".into(), port.to_string().into()]);
    arguments.extend(["-c".into(), format!("listen_addresses={}", options.listen_addresses).into()]);
    if let Some(directory) = &options.socket_directory {
        let mut setting = OsString::from("unix_socket_directories=");
        setting.push(directory);
        arguments.extend(["-c".into(), setting]);
    }
    for (name, value) in &options.settings {
        arguments.extend(["-c".into(), format!("{name}={value}").into()]);
    }
    ServerSpec {
        environment: options.environment.clone(),
        program: options.installation.program("postgres"),
        arguments,
        log_file: options.log_file.clone(),
    }
}

/// How many ports are tried where any will do and the sockets of some are in use.
const MOST_PORTS: usize = 8;

/// Chooses the port, and clears its sockets of what outlived another server.
fn choose_port_and_sockets(options: &StartOptions, progress: &dyn Progress) -> Result<u16, StartError> {
    let directories = server_sockets::directories_in_force(options);
    let mut tried = 1;
    loop {
        let port = choose_port(options)?;
        match server_sockets::clear(&directories, port, progress) {
            Ok(()) => return Ok(port),
            Err(_) if options.port == 0 && tried < MOST_PORTS => tried += 1,
            Err(in_use) => return Err(in_use.into()),
        }
    }
}

/// The port to listen on. A server that listens on one of two addresses of a taken port starts with a mere
/// warning, and its clients then reach the stranger: so it is looked at first.
fn choose_port(options: &StartOptions) -> Result<u16, StartError> {
    let listens = !options.listen_addresses.is_empty();
    match TcpListener::bind((Ipv4Addr::LOCALHOST, options.port)) {
        Ok(listener) => Ok(listener.local_addr()?.port()),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse && listens => {
            Err(StartError::PortInUse(options.port))
        }
        Err(_) if options.port != 0 => Ok(options.port),
        Err(error) => Err(StartError::Io(error)),
    }
}

enum NotReady {
    Ended(ExitStatus),
    Stuck,
    Io(io::Error),
}

impl From<io::Error> for NotReady {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

fn wait_until_ready(
    process: &mut ServerProcess,
    watch: &ChangeWatch,
    options: &StartOptions,
    progress: &dyn Progress,
) -> Result<ServerAddress, NotReady> {
    let root = ReadRoot::open(&options.data_directory)?;
    let begin = Instant::now();
    let mut wait = StartWait::new(options.patience);
    let mut next_sample = begin + Duration::from_secs(1);
    loop {
        if let Some(status) = process.try_wait()? {
            return Err(NotReady::Ended(status));
        }
        if let Some(address) = ready_address(&root, process.pid(), options.accepts_standby) {
            return Ok(address);
        }
        if Instant::now() >= next_sample {
            next_sample = Instant::now() + Duration::from_secs(1);
            let control_file = root.read_bounded(CONTROL_FILE, CONTROL_FILE_LIMIT_BYTES).unwrap_or_default();
            let signs = Signs::of(&Activity::sample(process.pid()), control_file);
            if let Some(segment) = wait.new_segment(&signs) {
                progress.note(&format!("the server is replaying WAL segment {segment}"));
            }
            wait.observe(begin.elapsed(), signs);
        }
        if wait.is_over(begin.elapsed()) {
            return Err(NotReady::Stuck);
        }
        process.wait_for_change(watch, SAMPLE_INTERVAL)?;
    }
}

fn ready_address(root: &ReadRoot, pid: u32, accepts_standby: bool) -> Option<ServerAddress> {
    let text = root.read_text("postmaster.pid", 4096).ok()??;
    let pid_file = PostmasterPid::parse(&text).ok()?;
    let is_ready = match pid_file.status {
        Some(ServerStatus::Ready) => true,
        Some(ServerStatus::Standby) => accepts_standby,
        _ => false,
    };
    let is_ours = u32::try_from(pid_file.pid).ok() == Some(pid);
    if is_ready && is_ours { ServerAddress::from_pid_file(&pid_file) } else { None }
}

/// What a server wrote to its log during one start, and to the files of its own collector, which takes over half-way.
fn log_of(options: &StartOptions, log_begins_at: u64) -> Vec<String> {
    let mut log = log_since(&options.log_file, log_begins_at);
    if log.iter().any(|line| line.contains("logging collector")) {
        log.extend(log_of_collector(&options.data_directory));
    }
    log
}

/// What the logging collector wrote since the server started last (syslogger.c, `update_metainfo_datafile()`).
fn log_of_collector(data_directory: &Path) -> Vec<String> {
    let current = ReadRoot::open(data_directory).and_then(|root| root.read_text("current_logfiles", 4096));
    let text = current.ok().flatten().unwrap_or_default();
    let Some(file) = text.lines().find_map(|line| line.strip_prefix("stderr ")) else { return Vec::new() };
    let lines = log_since(&data_directory.join(file), 0);
    let begin = lines.iter().rposition(|line| line.contains("starting PostgreSQL"));
    begin.and_then(|begin| lines.get(begin..)).unwrap_or_default().to_vec()
}

/// How long a log is; 0 when there is none yet.
fn log_size(path: &Path) -> u64 {
    std::fs::metadata(path).map_or(0, |facts| facts.len())
}

/// The lines that were appended to a log since `offset`, the last of them where they are many.
pub fn log_since(path: &Path, offset: u64) -> Vec<String> {
    const LIMIT_BYTES: u64 = 64 * 1024;
    let read = || -> io::Result<String> {
        let mut file = open_regular(path, Links::Refuse)?;
        let size = file.metadata()?.len();
        file.seek(SeekFrom::Start(offset.max(size.saturating_sub(LIMIT_BYTES))))?;
        let mut bytes = Vec::new();
        file.take(LIMIT_BYTES).read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    read().unwrap_or_default().lines().map(str::to_owned).collect()
}
