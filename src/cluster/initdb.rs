//! Making a new, empty cluster.

use super::binaries::Installation;
use super::user_name;
use crate::sys::{ProcessError, Tool, WriteRoot};
use postgres_protocol::password::scram_sha_256;
use std::ffi::OsString;
use std::path::Path;

/// How a new cluster is to be made.
#[derive(Clone, Debug)]
pub struct InitdbOptions<'a> {
    /// The bootstrap superuser's name.
    pub superuser: &'a str,
    /// The superuser's password, in clear; `None`: it has none.
    pub password: Option<&'a str>,
    /// Where its WAL is to be, where that is not in it: an absolute path of an empty directory.
    pub wal_directory: Option<&'a Path>,
    /// A person's own arguments; they win over ours, but for data checksums.
    pub arguments: &'a [String],
}

/// Where the superuser's password waits for initdb, below the data directory: as the verifier that the server keeps, which
/// is taken as it is (crypt.c, `get_password_type()`) and is of no use to who finds it.
const PASSWORD_FILE: &str = ".pgbox/initdb-password";

impl InitdbOptions<'_> {
    /// Says whether a person's arguments have a password of their own for the superuser.
    pub fn has_own_password(&self) -> bool {
        let is_of_password = |argument: &String| {
            argument.starts_with("--pw") || (argument.starts_with("-W") && !argument.starts_with("--"))
        };
        self.arguments.iter().any(is_of_password)
    }
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
    let failed = |reason| ProcessError::Io { program: program.clone(), reason };
    let lock = root.lock_descriptor().map_err(failed)?;
    let mut tool = Tool::new(program.clone())
        .arguments(["--encoding=UTF8", "--locale=C.UTF-8", "--auth-local=peer", "--auth-host=scram-sha-256"])
        .argument(format!("--username={}", options.superuser))
        .arguments(options.arguments)
        .arguments(["--data-checksums", "--no-sync", "-D"])
        .argument(directory)
        // The server program takes its port from there, and ours may be 0.
        .without_variable("PGPORT")
        .holding(lock);
    if let Some(directory) = options.wal_directory {
        tool = tool.argument("--waldir").argument(directory);
    }
    if let Some(password) = options.password.filter(|_| !options.has_own_password()) {
        // initdb asks for one where a person's `--auth` asks for passwords (initdb.c, `check_need_password()`).
        let verifier = scram_sha_256(password.as_bytes());
        root.write_durably(PASSWORD_FILE, format!("{verifier}\n").as_bytes(), 0o600).map_err(failed)?;
        let mut argument = OsString::from("--pwfile=");
        argument.push(root.path().join(PASSWORD_FILE));
        tool = tool.argument(argument);
    }
    for (name, value) in user_name::variables(root).map_err(failed)? {
        tool = tool.variable(name, value);
    }
    let ran = tool.run();
    root.discard(PASSWORD_FILE).map_err(failed)?;
    ran.map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_persons_own_password_file_is_seen() {
        let has = |arguments: &[&str]| {
            let arguments: Vec<String> = arguments.iter().map(|argument| (*argument).to_owned()).collect();
            let options = InitdbOptions {
                superuser: "postgres",
                password: None,
                wal_directory: None,
                arguments: &arguments,
            };
            options.has_own_password()
        };
        assert!(has(&["--auth=md5", "--pwfile=/run/secrets/x"]) && has(&["-W"]) && has(&["--pwprompt"]));
        assert!(!has(&["--auth-local=scram-sha-256", "--wal-segsize=64"]));
    }
}
