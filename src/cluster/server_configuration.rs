//! The configuration that a server is given: the owner's, or where it does not take that, a copy without the lines it
//! refuses.

use super::binaries::Installation;
use super::configuration::Fingerprint;
use super::usable_configuration::{MAIN_FILE, RefusedLine, Search, search};
use crate::plan::RecoveryPolicy;
use crate::progress::Progress;
use crate::sys::{ProcessError, ReadRoot, WriteRoot};
use std::ffi::OsString;
use std::io;
use std::path::Path;

/// The copy that the served cluster runs with, below the data directory. It stays while that server runs, which reads it
/// again at each reload.
const COPY: &str = ".pgbox/usable-postgresql.conf";
/// The same for a server that only we reach.
const PRIVATE_COPY: &str = ".pgbox/usable-private.conf";
/// What is asked for, whereby the server's program reads all of its configuration.
const SOCKETS: &str = "unix_socket_directories";

/// Whether a cluster was started with a copy of its configuration.
pub fn is_substituted(root: &ReadRoot) -> bool {
    root.facts(COPY).is_ok_and(|facts| facts.is_some())
}

/// What a configuration is wanted for.
#[derive(Clone, Copy)]
pub struct Wanted<'a> {
    /// The claimed root.
    pub root: &'a WriteRoot,
    /// The directory of the cluster: the root itself, or below it.
    pub data_directory: &'a Path,
    /// The programs of the server.
    pub programs: &'a Installation,
    /// What is allowed.
    pub policy: RecoveryPolicy,
    /// Who watches.
    pub progress: &'a dyn Progress,
}

impl Wanted<'_> {
    fn is_in_place(&self) -> bool {
        self.data_directory == self.root.path()
    }

    /// A line of the cluster's own may be left out only where everything is allowed; a copy of it that nobody connects to
    /// is not served.
    fn may_leave_out(&self) -> bool {
        !self.is_in_place() || self.policy == RecoveryPolicy::Auto
    }
}

/// The configuration that a server is started with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Configuration {
    /// Arguments that give the server another file than the owner's; none where it is to read that.
    pub arguments: Vec<OsString>,
    /// What `unix_socket_directories` is in it; `None` where the server takes none: then it says itself what it refuses.
    pub socket_directories: Option<String>,
}

/// Returns the configuration for a server, as cheaply as it is known: one that served before is not read again.
///
/// # Errors
/// When the copy could not be written or removed.
pub fn in_force(wanted: &Wanted) -> io::Result<Configuration> {
    let Wanted { root, data_directory, programs, progress, .. } = *wanted;
    let copy = if wanted.is_in_place() { COPY } else { PRIVATE_COPY };
    let known = wanted.is_in_place().then(|| Fingerprint::take(root, programs)?.noted(root)).flatten();
    if let Some(socket_directories) = known {
        root.discard(copy)?;
        return Ok(Configuration {
            socket_directories: Some(socket_directories),
            ..Configuration::default()
        });
    }
    let refused = match programs.configured(SOCKETS, data_directory) {
        Ok(socket_directories) => {
            root.discard(copy)?;
            let socket_directories = Some(socket_directories);
            return Ok(Configuration { socket_directories, ..Configuration::default() });
        }
        Err(ProcessError::Failed { .. }) => wanted.may_leave_out(),
        Err(_) => false,
    };
    let found = if refused { search(programs, data_directory).ok() } else { None };
    let Some(Search::Found { text, left_out }) = found else {
        root.discard(copy)?;
        return Ok(Configuration::default());
    };
    let content = [header(&left_out).as_bytes(), &text].concat();
    // On a full disk, the copy of the last start serves as well.
    let is_there = root.read_bounded(copy, content.len() as u64).is_ok_and(|present| present == content);
    if !is_there {
        root.write_durably(copy, &content, 0o600)?;
    }
    for line in &left_out {
        progress.note(&format!("left out of the configuration: {line}"));
    }
    let mut setting = OsString::from("config_file=");
    setting.push(root.path().join(copy));
    let arguments = vec!["-c".into(), setting];
    let socket_directories = programs.configured_with(SOCKETS, data_directory, &arguments).ok();
    Ok(Configuration { arguments, socket_directories })
}

fn header(left_out: &[RefusedLine]) -> String {
    let mut text = format!(
        "# A copy of {MAIN_FILE} and what it takes in, made by pgbox: the server refuses lines of it.\n\
         # Change {MAIN_FILE}, and not this copy, which is made again at each start. Left out:\n"
    );
    for line in left_out {
        text.push_str(&format!("#   {line}\n").replace('\r', " "));
    }
    text
}
