//! The directory of services: executables named `init-NAME`, started in the order of their names.

use crate::settings::Settings;
use crate::sys::{OtherWriter, Trust, find_other_writer};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// The service that is pgbox's own, and never taken from a directory.
pub const POSTGRESQL: &str = "postgresql";

/// A service to start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Its name: the file's, without `init-` and `.sh`.
    pub name: String,
    /// Its program.
    pub program: PathBuf,
}

/// What a directory of services holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Services {
    /// Those to start, in order.
    pub enabled: Vec<Service>,
    /// Names of those that are disabled.
    pub disabled: Vec<String>,
    /// Files that look like services and are not executable.
    pub not_executable: Vec<PathBuf>,
    /// Why some, or all, are not started: others could have written them.
    pub not_ours: Vec<OtherWriter>,
}

/// A service's name as a person may write it: `init-redis.sh` and `redis` are the same.
pub fn service_name(written: &str) -> &str {
    let name = written.strip_suffix(".sh").unwrap_or(written);
    name.strip_prefix("init-").unwrap_or(name)
}

/// Whether a service is disabled by name.
pub fn is_disabled(settings: &Settings, name: &str) -> bool {
    settings.disabled_services.iter().any(|written| service_name(written) == name)
}

/// Lists the directory of services; one that does not exist holds none.
///
/// A service runs as whoever starts it, most often root. So nothing is taken from a directory that others may write to,
/// nor a program that they may.
pub fn list_services(settings: &Settings) -> io::Result<Services> {
    let mut services = Services::default();
    let directory = &settings.services_directory;
    if directory.exists()
        && let Some(writer) = find_other_writer(directory, Trust::Ourselves)?
    {
        services.not_ours.push(writer);
        return Ok(services);
    }
    for program in programs(directory)? {
        let Some(file_name) = program.file_name().and_then(|name| name.to_str()) else { continue };
        let name = service_name(file_name).to_owned();
        if !file_name.starts_with("init-") || name == POSTGRESQL {
            continue;
        }
        let facts = program.metadata()?;
        if is_disabled(settings, &name) {
            services.disabled.push(name);
        } else if !facts.is_file() || facts.permissions().mode() & 0o111 == 0 {
            services.not_executable.push(program);
        } else if let Some(writer) = find_other_writer(&program, Trust::Ourselves)? {
            services.not_ours.push(writer);
        } else {
            services.enabled.push(Service { name, program });
        }
    }
    Ok(services)
}

fn programs(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = match directory.read_dir() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut paths = entries.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<PathBuf>>>()?;
    paths.sort();
    Ok(paths)
}
