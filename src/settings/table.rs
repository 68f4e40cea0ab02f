//! The one table of settings: flags, variables, defaults, help and the README's table all come from it.

/// What an empty variable means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Empty {
    /// As if it were not set: `${localEnv:NAME}` in a devcontainer.json gives an empty text for a missing one.
    Unset,
    /// An empty list.
    NoItems,
}

/// One setting.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    /// The flag, without its dashes.
    pub flag: &'static str,
    /// The environment variable.
    pub variable: &'static str,
    /// Whether `VARIABLE_FILE` may name a file that holds the value instead.
    pub takes_file: bool,
    /// What an empty variable means.
    pub empty: Empty,
    /// What the flag's value is called in the help.
    pub value_name: &'static str,
    /// The default as a person would write it; `None` where it depends on something else, which `help` says.
    pub default: Option<&'static str>,
    /// What it is for.
    pub help: &'static str,
}

impl Setting {
    const fn new(flag: &'static str, variable: &'static str, value_name: &'static str) -> Self {
        Self { flag, variable, value_name, takes_file: false, empty: Empty::Unset, default: None, help: "" }
    }

    const fn default(mut self, default: &'static str) -> Self {
        self.default = Some(default);
        self
    }

    const fn or_file(mut self) -> Self {
        self.takes_file = true;
        self
    }

    const fn list(mut self) -> Self {
        self.empty = Empty::NoItems;
        self
    }

    const fn help(mut self, help: &'static str) -> Self {
        self.help = help;
        self
    }

    /// The variable that may name a file with the value.
    pub fn file_variable(&self) -> Option<String> {
        self.takes_file.then(|| format!("{}_FILE", self.variable))
    }

    /// Where the value may come from besides the flag, and what it is otherwise.
    pub(super) fn sources(&self) -> String {
        let variable = match self.file_variable() {
            Some(file_variable) => format!("{} or {file_variable}", self.variable),
            None => self.variable.to_owned(),
        };
        match self.default {
            Some(default) => format!("[env: {variable}] [default: {default}]"),
            None => format!("[env: {variable}]"),
        }
    }
}

pub(super) const DATA_DIRECTORY: Setting = Setting::new("data-directory", "PGDATA", "DIR")
    .default("/var/lib/postgresql-data")
    .help("The data directory; the root of a mount, or a directory within one");
pub(super) const BACKUP_DIRECTORY: Setting = Setting::new("backup-directory", "BACKUP_DIR", "DIR")
    .default("/var/lib/postgresql-backup")
    .help("Where the backups are kept");
pub(super) const BACKUP_KEY_FILE: Setting = Setting::new("backup-key-file", "BACKUP_KEY_FILE", "FILE").help(
    "The file with the key that backups are encrypted with: 64 hexadecimal digits; without it, they are not",
);
pub(super) const LOG_DIRECTORY: Setting = Setting::new("log-directory", "LOG_DIR", "DIR")
    .default("/var/log/postgresql")
    .help("Where the server's log, postgresql.log, is kept");
pub(super) const POSTGRES_VERSION: Setting = Setting::new("postgres-version", "POSTGRES_VERSION", "MAJOR")
    .help("The major version to run, if not what the data directory needs, else the newest installed");
pub(super) const PORT: Setting = Setting::new("port", "PGPORT", "PORT")
    .default("5432")
    .help("The port that the server listens on; 0 takes any free one");
pub(super) const LISTEN_ADDRESSES: Setting =
    Setting::new("listen-addresses", "LISTEN_ADDRESSES", "ADDRESSES")
        .default("localhost")
        .help("The addresses that the server listens on, as in postgresql.conf");
pub(super) const SUPERUSER: Setting = Setting::new("superuser", "POSTGRES_USER", "NAME")
    .default("postgres")
    .or_file()
    .help("The superuser that a new cluster is made with");
pub(super) const SUPERUSER_PASSWORD: Setting =
    Setting::new("superuser-password", "POSTGRES_PASSWORD", "PASSWORD").or_file().help(
        "The superuser's password; without it, the superuser has none, and no host may log in as it; others on the machine \
         can see a flag",
    );
pub(super) const APPLICATION_ROLE: Setting = Setting::new("application-role", "DATABASE_USERNAME", "NAME")
    .default("dbuser")
    .or_file()
    .help("The role that applications connect as");
pub(super) const APPLICATION_PASSWORD: Setting =
    Setting::new("application-password", "DATABASE_PASSWORD", "PASSWORD")
        .default("password")
        .or_file()
        .help("The application role's password, which is to be set where LISTEN_ADDRESSES is not only this machine; others on the machine can see a flag");
pub(super) const DATABASE: Setting = Setting::new("database", "POSTGRES_DB", "NAME").or_file().help(
    "The database to make, if not named like POSTGRES_USER where that is set, else like the application role",
);
pub(super) const INITDB_ARGUMENTS: Setting =
    Setting::new("initdb-arguments", "POSTGRES_INITDB_ARGS", "ARGUMENTS")
        .or_file()
        .help("More arguments for initdb, split as a shell would");
pub(super) const INITDB_WALDIR: Setting = Setting::new("initdb-waldir", "POSTGRES_INITDB_WALDIR", "DIR")
    .help("The empty directory that a new cluster's pg_wal is a link to, such as one on a disk of its own");
pub(super) const HOST_AUTH_METHOD: Setting =
    Setting::new("host-auth-method", "POSTGRES_HOST_AUTH_METHOD", "METHOD").help(
        "How a new cluster lets hosts in, as in pg_hba.conf, if not by password: scram-sha-256, or md5 where passwords are stored so",
    );
pub(super) const LOCAL_ACCESS: Setting = Setting::new("local-access", "LOCAL_ACCESS", "peer|trust")
    .default("peer")
    .help("Who may use a new cluster by its socket without a password: the server's user and root (peer), or also every user of the machine as the application role (trust)");
pub(super) const INIT_SCRIPTS: Setting = Setting::new("init-scripts", "INIT_SCRIPTS_DIR", "DIR")
    .default("/docker-entrypoint-initdb.d")
    .help("Scripts that a new cluster is completed with: *.sh, *.sql, *.sql.gz, *.sql.xz, *.sql.zst");
pub(super) const SERVICES_DIRECTORY: Setting = Setting::new("services-directory", "SERVICES_DIR", "DIR")
    .default("/etc/pgbox/services.d")
    .help("Executables named init-NAME that start-services runs after PostgreSQL, in order of their names");
pub(super) const DISABLED_SERVICES: Setting = Setting::new("disabled-services", "DISABLED_SERVICES", "NAMES")
    .default("mongodb")
    .list()
    .help("Services that are not started, with commas or spaces between; postgresql is one of them");
pub(super) const MAX_BACKUPS: Setting =
    Setting::new("max-backups", "MAX_BACKUPS", "COUNT").default("7").help("How many backups are kept");
pub(super) const KEEP_DAILY: Setting = Setting::new("keep-daily", "KEEP_DAILY", "COUNT")
    .default("0")
    .help("For how many days the newest good backup of each is kept, too");
pub(super) const KEEP_WEEKLY: Setting = Setting::new("keep-weekly", "KEEP_WEEKLY", "COUNT")
    .default("0")
    .help("The same for weeks, which begin on Monday");
pub(super) const KEEP_MONTHLY: Setting =
    Setting::new("keep-monthly", "KEEP_MONTHLY", "COUNT").default("0").help("The same for months");
pub(super) const BACKUP_INTERVAL: Setting = Setting::new("backup-interval", "BACKUP_INTERVAL", "TIME")
    .default("24h")
    .help("How often start-services makes a backup: 90s, 15m, 6h, 1d, or off");
pub(super) const SCRUB_INTERVAL: Setting = Setting::new("scrub-interval", "SCRUB_INTERVAL", "TIME")
    .default("14d")
    .help("In what time all that is in the backup directory is read back once, to find what rotted; or off");
pub(super) const SCRUB_RATE: Setting = Setting::new("scrub-rate", "SCRUB_RATE", "SIZE")
    .default("32M")
    .help("How much of it start-services reads back in a second, at the most");
pub(super) const WAL_ARCHIVE: Setting = Setting::new("wal-archive", "WAL_ARCHIVE", "ON|OFF")
    .default("on")
    .help("Whether WAL is archived beside the backups, so that every moment since them can be reached");
pub(super) const WAL_ARCHIVE_LIMIT: Setting = Setting::new("wal-archive-limit", "WAL_ARCHIVE_LIMIT", "SIZE")
    .help("How much the archived WAL may take, such as 20G, if not all that the kept backups need");
pub(super) const WAL_QUEUE_LIMIT: Setting = Setting::new("wal-queue-limit", "WAL_QUEUE_LIMIT", "SIZE")
    .default("1G")
    .help("How much WAL may wait for an archive that fails, before it is given up for the server's sake");
pub(super) const RECOVERY: Setting = Setting::new("recovery", "RECOVERY", "POLICY")
    .default("auto")
    .help("How far recovery goes without a person: auto (to the end), repair (in place only), never");
pub(super) const ALLOW_EMPTY: Setting = Setting::new("allow-empty", "ALLOW_EMPTY", "ON|OFF")
    .default("off")
    .help("Whether an empty cluster may be made where one was lost of which backups are there; RECOVERY=auto only");
pub(super) const STARTUP_TIMEOUT: Setting = Setting::new("startup-timeout", "STARTUP_TIMEOUT", "TIME")
    .default("30s")
    .help("How long a starting server may make no progress");
pub(super) const START_RETRIES: Setting = Setting::new("start-retries", "START_RETRIES", "COUNT")
    .default("3")
    .help("How many times a start is tried");
pub(super) const RETRY_DELAY: Setting = Setting::new("retry-delay", "RETRY_DELAY", "TIME")
    .default("5s")
    .help("The pause before a start is tried again");
pub(super) const STOP_TIMEOUT: Setting = Setting::new("stop-timeout", "STOP_TIMEOUT", "TIME")
    .default("8s")
    .help("How long stopping may take, a minute for a command where it is not set; keep it under what the container engine grants \
         (Docker: 10 s)");

/// Every setting, in the order of the help.
pub const SETTINGS: &[Setting] = &[
    DATA_DIRECTORY,
    BACKUP_DIRECTORY,
    BACKUP_KEY_FILE,
    LOG_DIRECTORY,
    POSTGRES_VERSION,
    PORT,
    LISTEN_ADDRESSES,
    SUPERUSER,
    SUPERUSER_PASSWORD,
    APPLICATION_ROLE,
    APPLICATION_PASSWORD,
    DATABASE,
    INITDB_ARGUMENTS,
    INITDB_WALDIR,
    HOST_AUTH_METHOD,
    LOCAL_ACCESS,
    INIT_SCRIPTS,
    SERVICES_DIRECTORY,
    DISABLED_SERVICES,
    MAX_BACKUPS,
    KEEP_DAILY,
    KEEP_WEEKLY,
    KEEP_MONTHLY,
    BACKUP_INTERVAL,
    SCRUB_INTERVAL,
    SCRUB_RATE,
    WAL_ARCHIVE,
    WAL_ARCHIVE_LIMIT,
    WAL_QUEUE_LIMIT,
    RECOVERY,
    ALLOW_EMPTY,
    STARTUP_TIMEOUT,
    START_RETRIES,
    RETRY_DELAY,
    STOP_TIMEOUT,
];

/// The table of all settings as the README shows it.
pub fn contract_table() -> String {
    let row = |setting: &Setting| {
        let file = if setting.takes_file { " (`…_FILE`)" } else { "" };
        let default = setting.default.map_or_else(String::new, |default| format!("`{default}`"));
        let Setting { variable, flag, help, .. } = setting;
        format!("| `{variable}`{file} | `--{flag}` | {default} | {help} |\n")
    };
    let rows: Vec<String> = SETTINGS.iter().map(row).collect();
    format!("| variable | flag | default | what |\n|---|---|---|---|\n{}", rows.concat())
}
