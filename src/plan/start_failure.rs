//! Why a server did not start, told from what it said: whether that may pass by itself, and whether it is about the
//! data at all.
//!
//! Only evidence about the data themselves, with a file named, may lead to a replacement of the cluster. Anything else
//! is put right by a person, or passes. A text that is not known here, such as one in another language, is evidence of
//! nothing. What can be checked is checked before the start (the port, the sockets, the room, the configuration, its
//! libraries, the locales), and needs none of this.

mod blame;
#[cfg(test)]
mod tests;
mod words;

pub use blame::{Blamed, Instead, blamed};
pub use words::without_time_stamp;
use words::{ServerMessage, complaints, place_in};

/// Why a server did not start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StartFailure {
    /// What kept it.
    pub cause: Cause,
    /// Its own words, without the time; `None` where it said nothing.
    pub words: Option<String>,
}

/// What kept a server from starting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cause {
    /// An address, a port or a socket that it was to listen on.
    Address,
    /// Another server in the data directory, or what is left of one.
    InUse,
    /// Memory, processes, or the kernel's limits on shared memory and semaphores.
    Memory,
    /// It was ended from outside.
    Killed,
    /// The limit on open files.
    OpenFiles,
    /// A full disk.
    Room,
    /// A disk that fails, is gone or is mounted read-only.
    Disk,
    /// Owners and permissions.
    Permission,
    /// A certificate or a key.
    Certificate,
    /// A library that is not installed, or of another version.
    Library,
    /// A setting that is refused, or contradicts another one or the cluster.
    Setting,
    /// A locale, an ICU library or a time zone that this system does not have.
    Locale,
    /// A directory of a tablespace that is not there.
    Tablespace,
    /// A cluster that was made by another build or version.
    OtherBuild,
    /// A recovery target that was not reached.
    Target,
    /// WAL that a base backup needs.
    MissingWal,
    /// The data.
    Data {
        /// The file or directory that it named.
        place: String,
    },
    /// It is not known.
    Unknown,
}

impl Cause {
    /// Whether the same start may work a little later with nobody doing anything.
    pub fn may_pass(&self) -> bool {
        matches!(self, Self::Address | Self::InUse | Self::Memory | Self::Killed)
    }

    /// Whether it is known, and not the data.
    pub fn is_outside_the_data(&self) -> bool {
        !matches!(self, Self::Data { .. } | Self::Unknown)
    }

    /// What a person can do about it.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Address => "free the address that the server named, or change PGPORT or LISTEN_ADDRESSES",
            Self::InUse => "stop the other server of this data directory",
            Self::Memory => {
                "give the container more memory or more shared memory (--shm-size), or lower shared_buffers and \
                 max_connections"
            }
            Self::Killed => "see who ended it; the kernel does when memory runs out (dmesg)",
            Self::OpenFiles => "raise the limit on open files (--ulimit nofile)",
            Self::Room => "free space on the disk that the server named, never in pg_wal",
            Self::Disk => "see in the kernel's log (dmesg) what is wrong with the disk, or mount it again",
            Self::Permission => "let the server's user have what it named",
            Self::Certificate => {
                "put the file that the server named in its place, with the owner and mode that it asks for, or turn \
                 ssl off"
            }
            Self::Library => {
                "install the library that the server named, or take it out of shared_preload_libraries (each library \
                 is a name of its own: a list in one pair of quotes is one name)"
            }
            Self::Setting => "put right the setting that the server named",
            Self::Locale => {
                "install the locale that the server named (Debian: localedef), or use an image that has it"
            }
            Self::Tablespace => "mount the disk that the tablespace is on",
            Self::OtherBuild => "start it with the build of PostgreSQL that made it",
            Self::Target => "choose another moment",
            Self::MissingWal => {
                "put the WAL that its backup needs into pg_wal, or restore another backup; never remove backup_label"
            }
            Self::Data { .. } => "`maintenance check --deep` reads everything",
            Self::Unknown => "see the server's words for the cause; `maintenance health` tells more",
        }
    }
}

impl StartFailure {
    /// Tells why a server ended from what it wrote to its log during this one start.
    ///
    /// The first complaint that is known counts: what follows is often its consequence. What it answered to clients
    /// meanwhile is no complaint of its own.
    pub fn of_log(log: &[String]) -> Self {
        let complaints = complaints(log);
        let causes: Vec<Cause> = complaints.iter().map(cause_of).collect();
        let known = causes.iter().position(|cause| *cause != Cause::Unknown);
        let chosen = known.or_else(|| complaints.len().checked_sub(1));
        let complaint = chosen.and_then(|chosen| Some((complaints.get(chosen)?, causes.get(chosen)?)));
        match complaint {
            Some((message, cause)) => Self { cause: cause.clone(), words: Some(message.in_one_line()) },
            None if is_killed(log) => Self { cause: Cause::Killed, words: last_words(log) },
            None => Self { cause: Cause::Unknown, words: last_words(log) },
        }
    }

    /// Tells why a server does not serve from its answer to a connection, and from its log.
    pub fn of_answer(answer: &str, log: &[String]) -> Self {
        let message = ServerMessage::complaint(answer);
        match cause_of(&message) {
            Cause::Unknown => {
                let of_log = Self::of_log(log);
                Self { cause: of_log.cause, words: Some(answer.to_owned()) }
            }
            cause => Self { cause, words: Some(answer.to_owned()) },
        }
    }
}

/// A process of the server that was ended by SIGKILL (postmaster.c, `LogChildExit()`).
fn is_killed(log: &[String]) -> bool {
    log.iter().any(|line| line.contains("was terminated by signal 9"))
}

fn last_words(log: &[String]) -> Option<String> {
    log.iter().rev().find(|line| !line.trim().is_empty()).map(|line| without_time_stamp(line).to_owned())
}

/// Words of PostgreSQL 13 to 19, the more specific first. Each is part of a message that ends a start, or of its
/// detail or context, and the cause that it tells.
const KNOWN: &[(&str, Cause)] = &[
    // What is not about a disk although its words are a disk's (sysv_sema.c, sysv_shmem.c, dsm_impl.c).
    ("could not create semaphores", Cause::Memory),
    ("shared memory segment", Cause::Memory),
    ("anonymous shared memory", Cause::Memory),
    ("huge pages", Cause::Memory),
    ("pre-existing shared memory block", Cause::InUse),
    ("lock file \"postmaster.pid\" already exists", Cause::InUse),
    ("lock file \"postmaster.pid\" is empty", Cause::InUse),
    ("bogus data in lock file", Cause::InUse),
    // be-secure-openssl.c, be-secure-common.c
    ("private key file", Cause::Certificate),
    ("certificate", Cause::Certificate),
    ("could not load DH parameters", Cause::Certificate),
    ("could not set the cipher list", Cause::Setting),
    ("SSL", Cause::Setting),
    // errno, wherever it shows
    ("No space left on device", Cause::Room),
    ("Disk quota exceeded", Cause::Room),
    ("File too large", Cause::Room),
    ("Read-only file system", Cause::Disk),
    ("Input/output error", Cause::Disk),
    ("Structure needs cleaning", Cause::Disk),
    ("Stale file handle", Cause::Disk),
    ("Transport endpoint is not connected", Cause::Disk),
    ("No such device", Cause::Disk),
    ("Too many open files", Cause::OpenFiles),
    ("insufficient file descriptors", Cause::OpenFiles),
    ("Cannot allocate memory", Cause::Memory),
    ("Resource temporarily unavailable", Cause::Memory),
    ("out of memory", Cause::Memory),
    ("out of shared memory", Cause::Memory),
    ("Address already in use", Cause::Address),
    ("TCP/IP sockets", Cause::Address),
    ("Unix-domain sockets", Cause::Address),
    ("create listen socket", Cause::Address),
    (".s.PGSQL.", Cause::Address),
    // Owners and modes (postmaster.c, `checkDataDir()`; main.c, `check_root()`)
    ("Permission denied", Cause::Permission),
    ("Operation not permitted", Cause::Permission),
    ("has wrong ownership", Cause::Permission),
    ("has invalid permissions", Cause::Permission),
    ("execution of the PostgreSQL server is not permitted", Cause::Permission),
    // dfmgr.c, rmgr.c
    ("could not load library", Cause::Library),
    ("incompatible library", Cause::Library),
    ("missing magic block", Cause::Library),
    ("via shared_preload_libraries", Cause::Library),
    ("resource manager with ID", Cause::Library),
    // pg_locale.c, postinit.c `CheckMyDatabase()`
    ("is not recognized by setlocale", Cause::Locale),
    ("not recognized by setlocale", Cause::Locale),
    ("locale is incompatible with operating system", Cause::Locale),
    ("could not create locale", Cause::Locale),
    ("could not open collator", Cause::Locale),
    ("ICU is not supported", Cause::Locale),
    ("time zone", Cause::Locale),
    // xlogrecovery.c, xlog.c
    ("recovery ended before configured recovery target", Cause::Target),
    ("requested recovery stop point", Cause::Target),
    ("recovery target timeline", Cause::Target),
    ("is not a child of this server's history", Cause::Target),
    ("does not contain minimum recovery point", Cause::Target),
    ("WAL ends before", Cause::MissingWal),
    ("could not locate required checkpoint record", Cause::MissingWal),
    ("could not find redo location referenced by checkpoint record", Cause::MissingWal),
    ("insufficient parameter settings", Cause::Setting),
    ("hot standby is not possible", Cause::Setting),
    ("is a lower setting than on the", Cause::Setting),
    ("database files are incompatible with server", Cause::OtherBuild),
    ("was initialized by PostgreSQL version", Cause::OtherBuild),
    ("WAL was generated with wal_level=minimal", Cause::Setting),
    ("Tablespace/CREATE", Cause::Tablespace),
    // guc.c, guc-file.l, postmaster.c, slot.c, twophase.c, origin.c
    ("configuration file", Cause::Setting),
    ("configuration parameter", Cause::Setting),
    ("invalid value for parameter", Cause::Setting),
    ("outside the valid range for parameter", Cause::Setting),
    ("invalid list syntax in parameter", Cause::Setting),
    ("must be less than", Cause::Setting),
    ("wal_level", Cause::Setting),
    ("must specify restore_command", Cause::Setting),
    ("max_replication_slots", Cause::Setting),
    ("too many replication slots active", Cause::Setting),
    ("maximum number of prepared transactions reached", Cause::Setting),
    ("max_prepared_transactions", Cause::Setting),
    ("pg_hba.conf", Cause::Setting),
    ("pg_ident.conf", Cause::Setting),
    ("could not open log file", Cause::Setting),
];

/// Words about the data that name no file, and what they are about.
const ABOUT_DATA: &[(&str, &str)] = &[
    ("valid checkpoint record", "pg_wal"),
    ("checkpoint record", "pg_wal"),
    ("invalid redo", "pg_wal"),
    ("log segment", "pg_wal"),
    ("history file", "pg_wal"),
    ("control file", "global/pg_control"),
    ("two-phase state", "pg_twophase"),
    ("references to invalid pages", "base"),
    ("WAL redo at", "pg_wal"),
    ("could not find pg_class tuple", "pg_class"),
    ("catalog is missing", "pg_attribute"),
    ("cache lookup failed", "pg_class"),
];

fn cause_of(message: &ServerMessage) -> Cause {
    let text = message.whole();
    let place = place_in(&text);
    // A library is looked for as a file; a file of the data directory is none (dfmgr.c, `internal_load_library()`).
    if place.is_none() && text.contains("could not access file") {
        return Cause::Library;
    }
    if let Some((_, cause)) = KNOWN.iter().find(|(words, _)| text.contains(words)) {
        return cause.clone();
    }
    let about =
        ABOUT_DATA.iter().find(|(words, _)| text.contains(words)).map(|(_, place)| (*place).to_owned());
    match place.or(about) {
        Some(place) => Cause::Data { place },
        None => Cause::Unknown,
    }
}
