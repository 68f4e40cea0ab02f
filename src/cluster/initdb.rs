//! Making a new, empty cluster.

use super::binaries::Installation;
use crate::sys::{OWN_DIRECTORY, ProcessError, Tool, WriteRoot, effective_identity};
use postgres_protocol::password::scram_sha_256;
use std::ffi::OsString;
use std::io;
use std::path::Path;

/// How a new cluster is to be made.
#[derive(Clone, Debug)]
pub struct InitdbOptions<'a> {
    /// The bootstrap superuser's name.
    pub superuser: &'a str,
    /// The superuser's password, in clear.
    pub password: &'a str,
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
        .arguments(["--encoding=UTF8", "--locale=C.UTF-8", "--auth-local=trust", "--auth-host=scram-sha-256"])
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
    if !options.has_own_password() {
        // initdb asks for one where a person's `--auth` asks for passwords (initdb.c, `check_need_password()`).
        let verifier = scram_sha_256(options.password.as_bytes());
        root.write_durably(PASSWORD_FILE, format!("{verifier}\n").as_bytes(), 0o600).map_err(failed)?;
        let mut argument = OsString::from("--pwfile=");
        argument.push(root.path().join(PASSWORD_FILE));
        tool = tool.argument(argument);
    }
    let ran = with_a_user_name(tool, root).map_err(failed)?.run();
    root.discard(PASSWORD_FILE).map_err(failed)?;
    ran.map(|_| ())
}

/// Gives the user that this runs as a name, where the system has none for its number.
///
/// initdb refuses a number without a name, and `docker run --user` or a Kubernetes `runAsUser` may well ask for
/// one. `nss_wrapper`, where it is installed, answers for initdb alone, as in docker-library's image; where it is
/// not, the loader says that it ignores it, and initdb refuses in its own words.
fn with_a_user_name(tool: Tool, root: &WriteRoot) -> io::Result<Tool> {
    let user = effective_identity();
    if user.name.is_some() {
        return Ok(tool);
    }
    let own = Path::new(OWN_DIRECTORY);
    let (users, groups) = (own.join("passwd"), own.join("group"));
    let (uid, gid) = (user.uid, user.gid);
    root.write_durably(&users, format!("postgres:x:{uid}:{gid}::/:/bin/false\n").as_bytes(), 0o600)?;
    root.write_durably(&groups, format!("postgres:x:{gid}:\n").as_bytes(), 0o600)?;
    Ok(tool
        .variable("LD_PRELOAD", "libnss_wrapper.so")
        .variable("NSS_WRAPPER_PASSWD", root.path().join(users))
        .variable("NSS_WRAPPER_GROUP", root.path().join(groups)))
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
                password: "",
                wal_directory: None,
                arguments: &arguments,
            };
            options.has_own_password()
        };
        assert!(has(&["--auth=md5", "--pwfile=/run/secrets/x"]) && has(&["-W"]) && has(&["--pwprompt"]));
        assert!(!has(&["--auth-local=scram-sha-256", "--wal-segsize=64"]));
    }
}
