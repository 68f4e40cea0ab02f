//! A server without connections, for repairs that only a server can make: `postgres --single`.
//!
//! It recovers the cluster first, as any start does, and with `-P` uses no system index, so that it works where
//! even the index by which databases are found is gone (PostgreSQL: `-P` in postgres(1)).
//!
//! It has no archiver. Where the cluster is archived by pgbox, it notes the segments that it fills as waiting, for the
//! archiver of the next start.

use super::{Tools, archiving};
use crate::cluster::binaries::Installation;
use crate::cluster::server_configuration;
use crate::sys::{ProcessError, Tool, WriteRoot};
use std::path::Path;

/// The greatest `wal_keep_size`, in megabytes: no checkpoint removes WAL.
pub(super) const KEEP_ALL_WAL: &str = "2147483647";

/// What its owner set for every session could stop a repair half-way, and what they set for the recovery of another
/// server is not to be run on account of this one. Settings of roles and databases do not hold here, and no event trigger
/// runs (postinit.c, `process_settings()`; `event_trigger.c`).
const SETTINGS: [&str; 11] = [
    "archive_cleanup_command=",
    "default_tablespace=",
    "default_transaction_isolation=read committed",
    "default_transaction_read_only=off",
    "local_preload_libraries=",
    "lock_timeout=0",
    "recovery_end_command=",
    "session_preload_libraries=",
    "standard_conforming_strings=on",
    "statement_timeout=0",
    "transform_null_equals=off",
];

/// Runs statements, each on a line of its own, in one database of a stopped cluster at the claimed root or below it.
///
/// The server ends at the first error, and at the end of its input: also when we are killed.
///
/// # Errors
/// [`ProcessError::Failed`] with the server's own words, if it did not start or a statement failed; those before
/// it have been carried out.
pub(super) fn run_single_user(
    tools: &Tools,
    root: &WriteRoot,
    data_directory: &Path,
    database: &str,
    statements: &[String],
) -> Result<(), ProcessError> {
    let program = tools.installation.program("postgres");
    let configuration = server_configuration::in_force(&tools.configuration_of(root, data_directory))
        .map_err(|reason| ProcessError::Io { program: program.clone(), reason })?
        .arguments;
    let mut input = statements.join("\n");
    input.push('\n');
    Tool::new(program)
        .arguments(["--single", "-P"])
        .arguments(Installation::serving(data_directory))
        .arguments(&configuration)
        // Its own log may be anywhere; what it says must come to us.
        .arguments(["-c", "exit_on_error=on", "-c", "log_destination=stderr", "-c", "logging_collector=off"])
        // Its checkpoint must not throw away WAL that a restore may yet need.
        .arguments(["-c", &format!("wal_keep_size={KEEP_ALL_WAL}")])
        .arguments(SETTINGS.iter().flat_map(|setting| ["-c", *setting]))
        .arguments(archiving::single_user_settings(tools, data_directory, &configuration))
        .argument(database)
        .without_variable("PGPORT")
        .input(input)
        .run()
        .map(|_| ())
}
