//! pgbox for programs: a live PostgreSQL server in a directory of the program's own, and a look at any data directory.
//!
//! Everything is below one base directory: `data` (the cluster), `backup`, `log/postgresql.log`, `run` (the socket, which is below `/tmp` where its path would be too long),
//! and `initdb.d`, whose scripts complete a new cluster if it is there. No environment variable is read.
//!
//! PostgreSQL does not run as root. A program that does gets a server that runs as the base directory's owner or, if
//! that is root, too, as `postgres`; all that touches the directory is then done by a process of that user, for which the
//! program `pgbox` of the same version has to be installed (`process`). To change who the program is was refused, since a
//! library's caller would not expect it; so was a thread of another user in a process that is root.
//!
//! A program that is not root starts the server itself, and the server has the program's terminal then, if there is one.

mod process;

pub use process::{EMBEDDED_WORK, serve_embedding_program};

use crate::cluster::binaries::{self, Installation};
use crate::cluster::session::ServerAddress;
use crate::cluster::{self, Expectations};
use crate::error::{Failure, Kind};
use crate::execute::{Backups, Tools, ensure, stop as stopping, unusable};
use crate::pg::{MajorVersion, version};
use crate::plan::{Diagnosis, RecoveryPolicy};
use crate::progress::{Progress, Silent};
use crate::repository::Repository;
use crate::settings::{Secret, Settings};
use crate::sys::{self, Identity, ReadRoot};
use anyhow::Context;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use process::{Done, Served, Work};
use std::ffi::OsString;
use std::fmt;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// The longest path of a socket (sys/un.h, `sun_path`), less its closing zero.
const LONGEST_SOCKET_PATH_BYTES: usize = 107;
/// What the server appends to the directory of its socket, at its longest.
const SOCKET_NAME: &str = "/.s.PGSQL.65535.lock";
/// The versions whose files an inspection knows.
const KNOWN_VERSIONS: std::ops::RangeInclusive<u32> = 13..=19;

/// Inspects a data directory: what state it is in, and everything that is wrong with it.
///
/// It reads only, starts nothing, and is as good while a server runs, or on a machine without PostgreSQL. Whether the
/// entries belong to the right user is judged by the owner of the directory.
///
/// ```
/// # fn main() -> std::io::Result<()> {
/// let directory = std::env::temp_dir().join("pgbox-no-such-cluster");
/// let diagnosis = pgbox::inspect(&directory)?;
/// assert_eq!(diagnosis.condition, pgbox::plan::ClusterCondition::Absent);
/// for finding in &diagnosis.findings {
///     println!("{}: {}", finding.code, finding.summary());
/// }
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// Only where the directory itself cannot be read; whatever is wrong inside it is a finding.
pub fn inspect(data_directory: impl AsRef<Path>) -> io::Result<Diagnosis> {
    let path = data_directory.as_ref();
    let server_uid = std::fs::metadata(path).map_or(0, |facts| facts.uid());
    let installed_versions = KNOWN_VERSIONS.map(MajorVersion).collect();
    cluster::inspect(path, &Expectations { installed_versions, server_uid, ..Expectations::default() })
}

/// What server a program wants, and where: a base directory, and whatever is not to be as it is by default.
///
/// ```no_run
/// let options = pgbox::Options::new("target/test-database")
///     .application_role("tester")
///     .application_password("secret")
///     .database("app")
///     .startup_timeout(std::time::Duration::from_secs(60));
/// ```
#[derive(Clone)]
pub struct Options {
    base_directory: PathBuf,
    flags: Vec<(String, OsString)>,
    programs: Option<PathBuf>,
    pgbox: Option<PathBuf>,
    progress: Arc<dyn Progress>,
}

impl fmt::Debug for Options {
    /// The settings are left out: passwords are among them.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = formatter.debug_struct("Options");
        shown.field("base_directory", &self.base_directory).finish_non_exhaustive()
    }
}

impl Options {
    /// A server below that directory: on any free port of 127.0.0.1, with the role `dbuser`, its password `password`
    /// and its database `dbuser`, of the newest version installed, or the one that made the cluster.
    pub fn new(base_directory: impl Into<PathBuf>) -> Self {
        let flags = vec![("port".into(), "0".into()), ("listen-addresses".into(), "127.0.0.1".into())];
        let base_directory = base_directory.into();
        Self { base_directory, flags, programs: None, pgbox: None, progress: Arc::new(Silent) }
    }

    fn with(mut self, flag: &'static str, value: impl Into<OsString>) -> Self {
        self.flags.retain(|(other, _)| *other != flag);
        self.flags.push((flag.into(), value.into()));
        self
    }

    /// The directory with PostgreSQL's programs, where they are not where packages put them.
    #[must_use]
    pub fn programs(self, bin_directory: impl Into<PathBuf>) -> Self {
        Self { programs: Some(bin_directory.into()), ..self }
    }

    /// The program `pgbox`, where it is not in `PATH`. A program that runs as root needs it, since no part of that may be
    /// the server's user; any other does not. It has to be of the version of this library.
    #[must_use]
    pub fn pgbox(self, program: impl Into<PathBuf>) -> Self {
        Self { pgbox: Some(program.into()), ..self }
    }

    /// The major version. A cluster of another one is refused.
    #[must_use]
    pub fn version(self, major: u32) -> Self {
        self.with("postgres-version", major.to_string())
    }

    /// The port; 0, which it is without this, takes any that is free, another at each start.
    #[must_use]
    pub fn port(self, port: u16) -> Self {
        self.with("port", port.to_string())
    }

    /// The role that the program connects as; it owns the database. It is made with the cluster.
    #[must_use]
    pub fn application_role(self, name: &str) -> Self {
        self.with("application-role", name)
    }

    /// That role's password. It is set when the cluster is made.
    #[must_use]
    pub fn application_password(self, password: &str) -> Self {
        self.with("application-password", password)
    }

    /// The password of the superuser, `postgres`, for logins over TCP; without this it has none. It is set when the cluster is
    /// made.
    #[must_use]
    pub fn superuser_password(self, password: &str) -> Self {
        self.with("superuser-password", password)
    }

    /// The database that is made with the cluster; without this, it is named like the role.
    #[must_use]
    pub fn database(self, name: &str) -> Self {
        self.with("database", name)
    }

    /// How far recovery of a damaged cluster goes; without this, to the end.
    #[must_use]
    pub fn recovery(self, policy: RecoveryPolicy) -> Self {
        self.with("recovery", policy.to_string())
    }

    /// How long a starting server may make no progress, in whole seconds; 30 s without this.
    #[must_use]
    pub fn startup_timeout(self, timeout: Duration) -> Self {
        self.with("startup-timeout", timeout.as_secs().max(1).to_string())
    }

    /// The file with the key that backups are encrypted with, 64 hexadecimal digits; without this, they are not. The
    /// server's user has to be able to read it. The process that reads it, which is this program unless that is root,
    /// leaves no core dump from then on.
    #[must_use]
    pub fn backup_key_file(self, path: impl Into<PathBuf>) -> Self {
        self.with("backup-key-file", path.into())
    }

    /// Who is told what is found and done meanwhile; nobody without this.
    #[must_use]
    pub fn progress(self, progress: impl Progress + 'static) -> Self {
        Self { progress: Arc::new(progress), ..self }
    }

    /// The base directory, absolute.
    fn base(&self) -> anyhow::Result<PathBuf> {
        let shown = self.base_directory.display();
        std::path::absolute(&self.base_directory).with_context(|| format!("resolve '{shown}'"))
    }

    fn settings(&self) -> anyhow::Result<Settings> {
        let base = self.base()?;
        let directories = [
            ("data-directory", "data"),
            ("backup-directory", "backup"),
            ("log-directory", "log"),
            ("init-scripts", "initdb.d"),
            ("services-directory", "services.d"),
        ];
        let directories = directories.map(|(flag, name)| (flag.to_owned(), base.join(name).into_os_string()));
        let as_flag = |(flag, value): &(String, OsString)| {
            let mut text = OsString::from(format!("--{flag}="));
            text.push(value);
            text
        };
        let flags: Vec<OsString> = directories.iter().chain(&self.flags).map(as_flag).collect();
        let mut settings = Settings::from_flags(&flags)?;
        // The server would have to run this very program, which does not know the command.
        settings.wal_archive = false;
        let socket_directory = base.join("run");
        let length = socket_directory.as_os_str().as_bytes().len() + SOCKET_NAME.len();
        // With a longer path the server would not start, and without a socket we could not log in as the superuser.
        let is_short = length <= LONGEST_SOCKET_PATH_BYTES;
        settings.socket_directory = Some(if is_short { socket_directory } else { short_directory(&base) });
        Ok(settings)
    }

    fn installation(&self, settings: &Settings) -> Result<Installation, Failure> {
        if let Some(directory) = &self.programs {
            return binaries::in_directory(directory);
        }
        let of_cluster = || {
            let root = ReadRoot::open(&settings.data_directory).ok()?;
            version::parse(&root.read_text("PG_VERSION", 64).ok()??).ok()
        };
        let found = match (settings.postgres_version.map(MajorVersion), of_cluster()) {
            (Some(wanted), _) => binaries::find_packaged(Some(wanted)),
            (None, Some(major)) => {
                binaries::find_packaged(Some(major)).or_else(|_| binaries::find_packaged(None))
            }
            (None, None) => binaries::find_packaged(None),
        };
        found.map_err(|failure| {
            let hint = "install it (Debian: apt-get install postgresql), or name its directory with Options::programs";
            Failure::new(Kind::ProgramMissing, failure.to_string()).hint(hint)
        })
    }

    /// Does the work, as the user that the server runs as.
    fn work(&self, work: Work) -> anyhow::Result<Done> {
        self.make_directories(&self.settings()?)?;
        if sys::effective_identity().is_root() { self.work_in_process(work) } else { self.work_here(work) }
    }

    /// Does the work in this process.
    fn work_here(&self, work: Work) -> anyhow::Result<Done> {
        let settings = self.settings()?;
        let installation = self.installation(&settings)?;
        let path = &settings.backup_directory;
        let opened = Repository::open(path, settings.backup_key_file.as_deref())
            .map_err(|error| unusable(path, &error));
        let backups = match &opened {
            Ok(None) => Backups::None,
            Ok(Some(repository)) => Backups::Open(repository),
            Err(failure) => Backups::Unusable(failure),
        };
        let progress = &*self.progress;
        let tools = Tools { settings: &settings, installation: &installation, backups, progress };
        match work {
            Work::EnsureRunning => ensure(&tools),
            Work::Stop => stop_server(&tools),
        }
    }

    fn make_directories(&self, settings: &Settings) -> anyhow::Result<()> {
        let owner = server_user(&self.base()?)?;
        let Settings { data_directory, backup_directory, log_directory, socket_directory, .. } = settings;
        let base = self.base()?;
        let below = [data_directory, backup_directory, log_directory].into_iter().chain(socket_directory);
        for directory in std::iter::once(&base).chain(below) {
            sys::ensure_directory(directory, 0o700, owner.as_ref())
                .with_context(|| format!("make '{}'", directory.display()))?;
        }
        let server_user = owner.unwrap_or_else(sys::effective_identity);
        if let Some(directory) = socket_directory {
            refuse_another(directory, &server_user)?;
        }
        Ok(())
    }
}

/// Who the server runs as, if that is not who we are.
fn server_user(base: &Path) -> anyhow::Result<Option<Identity>> {
    if !sys::effective_identity().is_root() {
        return Ok(None);
    }
    let owner = |path: &Path| path.metadata().ok().map(|facts| facts.uid()).filter(|uid| *uid != 0);
    if let Some(uid) = owner(&base.join("data")).or_else(|| owner(base)) {
        return Ok(Some(sys::user_of(uid)));
    }
    let postgres = sys::find_user("postgres").map_err(|error| {
        Failure::new(Kind::ProgramMissing, format!("cannot run a server as root: {error}"))
            .hint("give the base directory to another user, who the server then runs as")
    })?;
    Ok(Some(postgres))
}

fn ensure(tools: &Tools<'_>) -> anyhow::Result<Done> {
    let ensured = ensure::ensure_running(tools, "an embedding program")?;
    let was_running = ensured.outcome.is_none();
    let done = ensured.outcome.map(|outcome| outcome.done).unwrap_or_default();
    let (address, pid, remarks) = (Some(ensured.address), ensured.pid, ensured.remarks);
    Ok(Done { server: Some(Served { address, pid, was_running, done, remarks }) })
}

fn stop_server(tools: &Tools<'_>) -> anyhow::Result<Done> {
    let pid = stopping::running_server(tools)?;
    stopping::stop_for_good(tools)?;
    let stopped =
        |pid| Served { address: None, pid, was_running: true, done: Vec::new(), remarks: Vec::new() };
    Ok(Done { server: pid.map(stopped) })
}

/// Refuses a directory for the socket in which somebody else could put one.
fn refuse_another(directory: &Path, server_user: &Identity) -> anyhow::Result<()> {
    let shown = directory.display();
    let facts = ReadRoot::open(directory).and_then(|root| root.own_facts());
    let facts = facts.with_context(|| format!("look at '{shown}'"))?;
    let Some(reason) = sys::other_writer(&facts, server_user, sys::Trust::Ourselves) else { return Ok(()) };
    let hint = "remove it, if it is nobody's, or take another base directory";
    Err(Failure::new(Kind::Refused, format!("cannot put the server's socket into '{shown}': it {reason}"))
        .hint(hint)
        .into())
}

/// A directory for the socket of a base directory whose own path is too long, always the same.
fn short_directory(base: &Path) -> PathBuf {
    let name = blake3::hash(base.as_os_str().as_bytes()).to_hex();
    Path::new("/tmp").join(format!("pgbox-{}", name.get(..16).unwrap_or_default()))
}

/// A server that serves.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Running {
    /// Where it listens.
    pub address: ServerAddress,
    /// The process id of its postmaster.
    pub pid: i32,
    /// Whether it ran already.
    pub was_running: bool,
    /// What was done so that it serves, in the past tense; empty where it had only to be started.
    pub done: Vec<String>,
    /// What a person should know.
    pub remarks: Vec<String>,
    role: String,
    password: Secret,
    database: String,
}

impl Running {
    /// The connection string of the program's role and database, its password included:
    /// `postgresql://dbuser:password@127.0.0.1:40123/dbuser`.
    ///
    /// The password is the one of the [`Options`]; a cluster keeps the one that it was made with.
    pub fn connection_string(&self) -> String {
        let encode = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
        let (role, password) = (encode(&self.role), encode(self.password.reveal()));
        format!("postgresql://{role}:{password}@127.0.0.1:{}/{}", self.address.port, encode(&self.database))
    }
}

/// Sees to it that a server serves from the base directory: made, repaired, restored and started as needed.
///
/// Any number of threads and processes may ask at once: one does the work, the others wait for it, signalled by the
/// kernel, and all get the same server. It goes on when the program ends; [`stop`] stops it. When it runs already,
/// nothing is done, so that it may be called before each use.
///
/// ```no_run
/// # fn main() -> anyhow::Result<()> {
/// let options = pgbox::Options::new("target/test-database").database("app");
/// let server = pgbox::ensure_running(&options)?;
/// let mut session = postgres::Client::connect(&server.connection_string(), postgres::NoTls)?;
/// session.batch_execute("CREATE TABLE IF NOT EXISTS visit (at timestamptz)")?;
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// With a [`Kind`] ([`crate::error::kind_of`]) and mostly a hint ([`crate::error::hint_of`]): [`Kind::ProgramMissing`],
/// [`Kind::Usage`] for a setting that makes no sense, [`Kind::Refused`] and [`Kind::Busy`] for a directory that is not
/// ours to touch, which is left as it was. Else a step failed, and what was there is there still.
pub fn ensure_running(options: &Options) -> anyhow::Result<Running> {
    let settings = options.settings()?;
    let server = options.work(Work::EnsureRunning)?.server.context("learn of the server that runs")?;
    Ok(Running {
        address: server.address.context("learn where the server listens")?,
        pid: server.pid,
        was_running: server.was_running,
        done: server.done,
        remarks: server.remarks,
        role: settings.application_role,
        password: settings.application_password,
        database: settings.database,
    })
}

/// Stops the server of the base directory, and seals its cluster. Returns whether one ran.
///
/// It is a fast shutdown: sessions end, nothing committed is lost. Other programs that use the server lose it, too; the
/// next [`ensure_running`] starts it again.
///
/// ```no_run
/// # fn main() -> anyhow::Result<()> {
/// pgbox::stop(&pgbox::Options::new("target/test-database"))?;
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// When it does not end, or may not be told to.
pub fn stop(options: &Options) -> anyhow::Result<bool> {
    let stopped = options.work(Work::Stop)?.server;
    if let Some(server) = &stopped {
        // If this very program started it, nobody else does.
        sys::reap(server.pid);
    }
    Ok(stopped.is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_is_below_the_base_directory_and_no_variable_counts() {
        let base = tempfile::tempdir().unwrap();
        let root = base.path().canonicalize().unwrap();

        let settings = Options::new(base.path()).database("app").port(5433).settings().unwrap();

        assert_eq!(settings.data_directory, root.join("data"));
        assert_eq!(settings.backup_directory, root.join("backup"));
        assert_eq!(settings.log_directory, root.join("log"));
        assert_eq!(settings.init_scripts, root.join("initdb.d"));
        assert_eq!(settings.socket_directory, Some(root.join("run")));
        assert_eq!((settings.port, settings.database.as_str()), (5433, "app"));
        assert_eq!(settings.listen_addresses, "127.0.0.1");
    }

    #[test]
    fn a_base_directory_too_long_for_a_socket_has_it_elsewhere() {
        let base = std::env::temp_dir().join("x".repeat(100));
        let directory = |base: &Path| Options::new(base).settings().unwrap().socket_directory.unwrap();
        let (of_base, of_another) = (directory(&base), directory(&base.join("y")));
        assert!(of_base.starts_with("/tmp") && of_base.as_os_str().len() < 40, "{}", of_base.display());
        assert_eq!(of_base, directory(&base));
        assert_ne!(of_base, of_another);
    }

    #[test]
    fn a_setting_that_makes_no_sense_is_an_error_and_no_default() {
        let error = Options::new("x").application_role("pg_mine").settings().unwrap_err();
        assert_eq!(crate::error::kind_of(&error), Kind::Usage);
    }

    #[test]
    fn passwords_are_not_shown_and_are_encoded_in_the_connection_string() {
        let options = Options::new("x").application_password("s3cret");
        assert!(!format!("{options:?}").contains("s3cret"));
        let running = Running {
            address: ServerAddress { socket_directory: None, listen_address: None, port: 5433 },
            pid: 7,
            was_running: true,
            done: Vec::new(),
            remarks: Vec::new(),
            role: "a b".into(),
            password: Secret::new("p@ss/word"),
            database: "ü".into(),
        };
        assert!(!format!("{running:?}").contains("p@ss"));
        assert_eq!(running.connection_string(), "postgresql://a%20b:p%40ss%2Fword@127.0.0.1:5433/%C3%BC");
    }
}
