//! Making a new, empty cluster.

use super::binaries::Installation;
use crate::sys::{ProcessError, Tool, WriteRoot};
use std::path::Path;

/// How a new cluster is to be made.
#[derive(Clone, Debug)]
pub struct InitdbOptions<'a> {
    /// The bootstrap superuser's name.
    pub superuser: &'a str,
    /// A person's own arguments; they win over ours, but for data checksums.
    pub arguments: &'a [String],
}

/// Runs initdb into an empty directory below the claimed root.
///
/// UTF-8 and `C.UTF-8`, whose order no operating system upgrade changes; checksums always. Nothing is synced:
/// the caller syncs the whole file system once, before the directory counts for anything. initdb holds the
/// root's lock, so that it keeps others out even if we are killed.
///
/// # Errors
/// [`ProcessError`] with initdb's own words.
pub fn initdb(
    installation: &Installation,
    root: &WriteRoot,
    directory: &Path,
    options: &InitdbOptions,
) -> Result<(), ProcessError> {
    let program = installation.program("initdb");
    let lock =
        root.lock_descriptor().map_err(|source| ProcessError::Io { program: program.clone(), source })?;
    Tool::new(program)
        .arguments(["--encoding=UTF8", "--locale=C.UTF-8", "--auth-local=trust", "--auth-host=scram-sha-256"])
        .argument(format!("--username={}", options.superuser))
        .arguments(options.arguments)
        .arguments(["--data-checksums", "--no-sync", "-D"])
        .argument(directory)
        // The server program takes its port from there, and ours may be 0.
        .without_variable("PGPORT")
        .holding(lock)
        .run()
        .map(|_| ())
}
