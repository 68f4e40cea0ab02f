//! Everything that a person can set: a flag over an environment variable over a default.
//!
//! One table ([`SETTINGS`]) drives flags, variables, defaults, help and the README. A value that makes no sense
//! is an error that says what it must be; none is ever replaced by a default in silence. clap's own `env`
//! feature was refused: it knows no `…_FILE`, and it prints values, passwords included, in the help.

mod access;
mod paths;
mod secret;
mod source;
mod table;
#[cfg(test)]
mod tests;
mod values;

pub use access::{KNOWN_PASSWORD, LocalAccess, listens_to_others};
pub use secret::Secret;
pub use table::{Empty, SETTINGS, Setting, contract_table};

use crate::error::{Failure, Kind};
use crate::plan::RecoveryPolicy;
use source::Source;
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

/// Reads a time as settings take it: seconds, or a number with a unit, from 1s to 1d.
pub fn parse_time(text: &str) -> Result<Duration, String> {
    values::timeout(text).map_err(|expected| format!("it must be {expected}"))
}

/// How long a stop by a command may take where `STOP_TIMEOUT` is not set.
const COMMAND_STOP_TIMEOUT: Duration = Duration::from_mins(1);

/// What flags, environment and defaults come to.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The data directory: absolute, symlinks resolved.
    pub data_directory: PathBuf,
    /// Where the backups are kept.
    pub backup_directory: PathBuf,
    /// Where the key is that backups are encrypted with; the path alone. It is read by whoever opens the repository, as
    /// the server's user, who must be able to: the server archives WAL.
    pub backup_key_file: Option<PathBuf>,
    /// Where the server's log is kept.
    pub log_directory: PathBuf,
    /// The major version that was asked for.
    pub postgres_version: Option<u32>,
    /// The port; 0 is any free one.
    pub port: u16,
    /// `listen_addresses` of the server.
    pub listen_addresses: String,
    /// The superuser's name.
    pub superuser: String,
    /// The superuser's password; `None`: it has none.
    pub superuser_password: Option<Secret>,
    /// The role that applications connect as.
    pub application_role: String,
    /// That role's password.
    pub application_password: Secret,
    /// Whether a person gave it, be it the default.
    pub is_application_password_given: bool,
    /// The database that is made for it.
    pub database: String,
    /// More arguments for initdb.
    pub initdb_arguments: Vec<String>,
    /// The directory that a new cluster's WAL goes into, where it is not to be in the data directory.
    pub initdb_waldir: Option<PathBuf>,
    /// How a new cluster lets hosts in; `None`: by password.
    pub host_auth_method: Option<String>,
    /// Who may use a new cluster by its socket.
    pub local_access: LocalAccess,
    /// The directory of scripts that a new cluster is completed with.
    pub init_scripts: PathBuf,
    /// The directory of services that are started after PostgreSQL.
    pub services_directory: PathBuf,
    /// Services that are not started, as they were written.
    pub disabled_services: Vec<String>,
    /// How many backups are kept.
    pub max_backups: u32,
    /// For how many days one good backup each is kept besides.
    pub keep_daily: u32,
    /// For how many weeks.
    pub keep_weekly: u32,
    /// For how many months.
    pub keep_monthly: u32,
    /// How often a backup is made; `None` is never.
    pub backup_interval: Option<Duration>,
    /// In what time the repository is read back once; `None` is never.
    pub scrub_interval: Option<Duration>,
    /// How much of it is read back in a second, at the most.
    pub scrub_bytes_per_second: u64,
    /// Whether WAL is archived. A program that embeds pgbox has no command for the server to run, and sets it off.
    pub wal_archive: bool,
    /// How much the archived WAL may take; `None` is as much as the kept backups need.
    pub wal_archive_limit_bytes: Option<u64>,
    /// How much WAL may wait for an archive that fails.
    pub wal_queue_limit_bytes: u64,
    /// How far recovery goes without a person.
    pub recovery: RecoveryPolicy,
    /// Whether an empty cluster may be made where one was lost.
    pub allow_empty: bool,
    /// How long a starting server may make no progress.
    pub startup_timeout: Duration,
    /// How many times a start is tried.
    pub start_retries: u32,
    /// The pause before a start is tried again.
    pub retry_delay: Duration,
    /// How long stopping may take.
    pub stop_timeout: Duration,
    /// How long a stop by a command may take. No container engine waits for it, so that without a setting a server has
    /// more time to write what it has changed.
    pub command_stop_timeout: Duration,
    /// Where the server puts its socket, if not where PostgreSQL's own default or `/tmp` is; empty is nowhere. Only a
    /// program that embeds pgbox sets it.
    pub socket_directory: Option<PathBuf>,
}

/// Reads a size as settings take it: bytes, or a number with K, M, G or T.
pub fn parse_size(text: &str) -> Result<u64, String> {
    values::size(text).map_err(|expected| format!("it must be {expected}"))
}

impl Settings {
    /// Adds a flag for every setting, to the command and to all its subcommands.
    pub fn arguments(command: clap::Command) -> clap::Command {
        let flag = |setting: &Setting| {
            clap::Arg::new(setting.flag)
                .long(setting.flag)
                .value_name(setting.value_name)
                .value_parser(clap::value_parser!(OsString))
                .help(format!("{} {}", setting.help, setting.sources()))
                .help_heading("Settings")
                .global(true)
                .hide_short_help(true)
        };
        command.args(SETTINGS.iter().map(flag))
    }

    /// Works out every setting: flag over environment (a variable, or the file that `…_FILE` names) over default.
    ///
    /// # Errors
    /// [`crate::error::Kind::Usage`] for a value that makes no sense, and for a variable set together with its
    /// `…_FILE`.
    pub fn resolve(
        matches: &clap::ArgMatches,
        environment: &dyn Fn(&str) -> Option<OsString>,
    ) -> Result<Self, Failure> {
        let source = Source { matches, environment };
        let data_directory = paths::directory(&source, &table::DATA_DIRECTORY)?;
        let backup_directory = paths::directory(&source, &table::BACKUP_DIRECTORY)?;
        let log_directory = paths::directory(&source, &table::LOG_DIRECTORY)?;
        paths::ensure_outside(&backup_directory, &table::BACKUP_DIRECTORY, &data_directory)?;
        paths::ensure_outside(&log_directory, &table::LOG_DIRECTORY, &data_directory)?;
        let (initdb_arguments, own_waldir) =
            values::apart_from_waldir(source.value(&table::INITDB_ARGUMENTS, values::arguments)?);
        let initdb_waldir = paths::directory_if_given(&source, &table::INITDB_WALDIR)?;
        let initdb_waldir = initdb_waldir.or(own_waldir.map(PathBuf::from));
        if let Some(directory) = &initdb_waldir {
            paths::ensure_outside(directory, &table::INITDB_WALDIR, &data_directory)?;
        }
        let Roles {
            superuser,
            superuser_password,
            application_role,
            application_password,
            is_application_password_given,
            database,
        } = Roles::resolve(&source)?;
        let stop_timeout = source.value_if_given(&table::STOP_TIMEOUT, values::timeout)?;
        Ok(Self {
            data_directory,
            backup_directory,
            backup_key_file: paths::file_if_given(&source, &table::BACKUP_KEY_FILE)?,
            log_directory,
            postgres_version: source.value_if_given(&table::POSTGRES_VERSION, values::major_version)?,
            port: source.value(&table::PORT, values::port)?,
            listen_addresses: source.value(&table::LISTEN_ADDRESSES, values::one_line)?,
            superuser,
            superuser_password,
            application_role,
            application_password,
            is_application_password_given,
            database,
            initdb_arguments,
            initdb_waldir,
            host_auth_method: source.value_if_given(&table::HOST_AUTH_METHOD, values::one_line)?,
            local_access: source.value(&table::LOCAL_ACCESS, values::local_access)?,
            init_scripts: paths::directory(&source, &table::INIT_SCRIPTS)?,
            services_directory: paths::directory(&source, &table::SERVICES_DIRECTORY)?,
            disabled_services: source.value(&table::DISABLED_SERVICES, values::service_names)?,
            max_backups: source.value(&table::MAX_BACKUPS, values::max_backups)?,
            keep_daily: source.value(&table::KEEP_DAILY, values::period_count)?,
            keep_weekly: source.value(&table::KEEP_WEEKLY, values::period_count)?,
            keep_monthly: source.value(&table::KEEP_MONTHLY, values::period_count)?,
            backup_interval: source.value(&table::BACKUP_INTERVAL, values::interval)?,
            scrub_interval: source.value(&table::SCRUB_INTERVAL, values::interval)?,
            scrub_bytes_per_second: source.value(&table::SCRUB_RATE, values::size)?,
            wal_archive: source.value(&table::WAL_ARCHIVE, values::switch)?,
            wal_archive_limit_bytes: source.value_if_given(&table::WAL_ARCHIVE_LIMIT, values::size)?,
            wal_queue_limit_bytes: source.value(&table::WAL_QUEUE_LIMIT, values::size)?,
            recovery: source.value(&table::RECOVERY, values::recovery)?,
            allow_empty: source.value(&table::ALLOW_EMPTY, values::switch)?,
            startup_timeout: source.value(&table::STARTUP_TIMEOUT, values::timeout)?,
            start_retries: source.value(&table::START_RETRIES, values::start_retries)?,
            retry_delay: source.value(&table::RETRY_DELAY, values::delay)?,
            stop_timeout: Source::or_default(stop_timeout, &table::STOP_TIMEOUT, values::timeout)?,
            command_stop_timeout: stop_timeout.unwrap_or(COMMAND_STOP_TIMEOUT),
            socket_directory: None,
        })
    }

    /// The settings that were given as flags, as flags again, for a child that is pgbox too.
    pub fn given_flags(matches: &clap::ArgMatches) -> Vec<OsString> {
        let given = |setting: &Setting| {
            let value = matches.try_get_one::<OsString>(setting.flag).ok().flatten()?;
            let mut flag = OsString::from(format!("--{}=", setting.flag));
            flag.push(value);
            Some(flag)
        };
        SETTINGS.iter().filter_map(given).collect()
    }

    /// [`Settings::resolve`] with flags alone, each as `--flag=value`: nothing of the environment counts.
    pub fn from_flags(flags: &[OsString]) -> Result<Self, Failure> {
        let command = Self::arguments(clap::Command::new("pgbox").no_binary_name(true));
        let matches = command.try_get_matches_from(flags);
        let matches = matches.map_err(|error| Failure::new(Kind::Usage, error.to_string()))?;
        Self::resolve(&matches, &|_| None)
    }

    /// [`Settings::resolve`] with the environment of this process.
    pub fn from_environment(matches: &clap::ArgMatches) -> Result<Self, Failure> {
        Self::resolve(matches, &|name| std::env::var_os(name))
    }
}

/// The settings whose defaults depend on each other.
struct Roles {
    superuser: String,
    superuser_password: Option<Secret>,
    application_role: String,
    application_password: Secret,
    is_application_password_given: bool,
    database: String,
}

impl Roles {
    fn resolve(source: &Source<'_>) -> Result<Self, Failure> {
        let given_superuser = source.value_if_given(&table::SUPERUSER, values::role_name)?;
        let application_role = source.value(&table::APPLICATION_ROLE, values::role_name)?;
        // Each is asked for once: its file may be a pipe.
        let given_password = source.value_if_given(&table::APPLICATION_PASSWORD, values::secret)?;
        let is_application_password_given = given_password.is_some();
        let application_password =
            Source::or_default(given_password, &table::APPLICATION_PASSWORD, values::secret)?;
        let superuser_password = source.value_if_given(&table::SUPERUSER_PASSWORD, values::secret)?;
        let database = source.value_if_given(&table::DATABASE, values::name)?;
        // docker-library names the database after POSTGRES_USER; without one, ours goes with its role.
        let default_database = given_superuser.clone().unwrap_or_else(|| application_role.clone());
        Ok(Self {
            database: database.unwrap_or(default_database),
            superuser: Source::or_default(given_superuser, &table::SUPERUSER, values::role_name)?,
            superuser_password,
            application_role,
            application_password,
            is_application_password_given,
        })
    }
}
