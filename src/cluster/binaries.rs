//! Which PostgreSQL versions are installed, and where their programs are.
//!
//! A version is taken from the directory's name where it has one, because that costs nothing; a program is asked
//! only where it has none. `POSTGRES_BIN_DIR` names one directory and rules out all others.

use crate::error::{Failure, Kind};
use crate::pg::MajorVersion;
use crate::sys::{ProcessError, Tool};
use std::collections::HashSet;
use std::ffi::OsString;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// The variable that names the one directory to take the programs from.
const OVERRIDE: &str = "POSTGRES_BIN_DIR";

/// One installed PostgreSQL server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Installation {
    /// Its major version.
    pub version: MajorVersion,
    /// Where its programs are.
    pub bin_directory: PathBuf,
}

impl Installation {
    /// The path of one of its programs.
    pub fn program(&self, name: &str) -> PathBuf {
        self.bin_directory.join(name)
    }

    /// What the server says of its version, such as `15.18 (Debian 15.18-0+deb12u1)`.
    pub fn full_version(&self) -> Result<String, ProcessError> {
        ask_version(&self.bin_directory)
    }

    /// Returns the arguments that have the server, with connections or without, serve that directory and no other.
    ///
    /// `-D` only says where `postgresql.conf` is; a `data_directory` in it would win, and the server would neither hold
    /// our lock nor be seen by us. The command line wins over every file (guc.c, `SelectConfigFiles()`).
    pub fn serving(data_directory: &Path) -> [OsString; 4] {
        let mut pinned = OsString::from("data_directory=");
        pinned.push(data_directory);
        ["-D".into(), data_directory.into(), "-c".into(), pinned]
    }

    /// What a parameter is in the configuration of a cluster; nothing else of the cluster is read, and nothing written
    /// (`postgres -C`, postmaster.c `PostmasterMain()`).
    ///
    /// # Errors
    /// What the server says of a configuration that it would not start with.
    pub fn configured(&self, parameter: &str, data_directory: &Path) -> Result<String, ProcessError> {
        self.configured_with(parameter, data_directory, &[])
    }

    /// The same with more arguments, which a server is given, too.
    ///
    /// # Errors
    /// Those of [`Self::configured`].
    pub fn configured_with(
        &self,
        parameter: &str,
        data_directory: &Path,
        arguments: &[OsString],
    ) -> Result<String, ProcessError> {
        let output = self.asking_for(parameter, data_directory).arguments(arguments).run()?;
        Ok(output.stdout.trim_end_matches('\n').to_owned())
    }

    /// The program that [`Self::configured`] runs, for who has something else to do meanwhile.
    pub(super) fn asking_for(&self, parameter: &str, data_directory: &Path) -> Tool {
        Tool::new(self.program("postgres"))
            .arguments(["-C", parameter, "-D"])
            .argument(data_directory)
            .without_variable("PGDATA")
            .without_variable("PGPORT")
            .variable("LC_ALL", "C")
    }
}

/// Where to look.
#[derive(Debug)]
struct Places {
    /// Directories whose children are named after a version, with what stands before it: Debian's and Red Hat's.
    versioned: Vec<(PathBuf, &'static str)>,
    /// Directories that programs may be in.
    plain: Vec<PathBuf>,
}

impl Places {
    fn of_this_system() -> Self {
        if let Some(directory) = std::env::var_os(OVERRIDE).filter(|directory| !directory.is_empty()) {
            return Self { versioned: Vec::new(), plain: vec![directory.into()] };
        }
        let mut places = Self::of_packages();
        places.plain.extend(std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()));
        places
    }

    /// Where packages, and PostgreSQL's own `make install`, put the programs.
    fn of_packages() -> Self {
        Self {
            versioned: vec![(PathBuf::from("/usr/lib/postgresql"), ""), (PathBuf::from("/usr"), "pgsql-")],
            plain: ["/usr/local/pgsql/bin", "/usr/local/bin", "/usr/bin"].map(PathBuf::from).to_vec(),
        }
    }

    /// Directories that hold a server, each once, with the version if the name tells it.
    fn servers(&self) -> Vec<(PathBuf, Option<MajorVersion>)> {
        let versioned = self.versioned.iter().flat_map(|(parent, prefix)| versioned_children(parent, prefix));
        let plain = self.plain.iter().map(|directory| (directory.clone(), None));
        let mut seen = HashSet::new();
        versioned
            .chain(plain)
            .filter(|(directory, _)| is_executable(&directory.join("postgres")))
            .filter(|(directory, _)| seen.insert(directory.join("postgres").canonicalize().ok()))
            .collect()
    }

    /// The installations, the newest first.
    fn installations(&self) -> Vec<Installation> {
        let known = |(bin_directory, version): (PathBuf, Option<MajorVersion>)| {
            let version = version.or_else(|| major_of(&ask_version(&bin_directory).ok()?))?;
            Some(Installation { version, bin_directory })
        };
        let mut installations: Vec<Installation> = self.servers().into_iter().filter_map(known).collect();
        installations.sort_by_key(|installation| std::cmp::Reverse(installation.version));
        installations
    }

    fn find(&self, major: Option<MajorVersion>) -> Option<Installation> {
        if let Some(major) = major {
            let named = self.servers().into_iter().find(|(_, version)| *version == Some(major));
            if let Some((bin_directory, _)) = named {
                return Some(Installation { version: major, bin_directory });
            }
        }
        self.installations().into_iter().find(|found| major.is_none_or(|major| found.version == major))
    }
}

fn versioned_children(parent: &Path, prefix: &str) -> Vec<(PathBuf, Option<MajorVersion>)> {
    let entries = std::fs::read_dir(parent).into_iter().flatten().filter_map(Result::ok);
    let child = |entry: std::fs::DirEntry| {
        let version = entry.file_name().to_str()?.strip_prefix(prefix)?.parse().ok()?;
        Some((entry.path().join("bin"), Some(MajorVersion(version))))
    };
    entries.filter_map(child).collect()
}

fn is_executable(path: &Path) -> bool {
    path.metadata().is_ok_and(|facts| facts.is_file() && facts.permissions().mode() & 0o111 != 0)
}

fn ask_version(bin_directory: &Path) -> Result<String, ProcessError> {
    let output = Tool::new(bin_directory.join("postgres")).argument("--version").run()?;
    let text = output.stdout.trim();
    Ok(text.strip_prefix("postgres (PostgreSQL) ").unwrap_or(text).to_owned())
}

/// The major version in a text such as `15.18 (Debian …)`, `19devel` or `17beta1`.
fn major_of(full_version: &str) -> Option<MajorVersion> {
    let digits = full_version.split(|character: char| !character.is_ascii_digit()).next()?;
    digits.parse().ok().map(MajorVersion)
}

/// The installed servers, the newest first.
pub fn installations() -> Vec<Installation> {
    Places::of_this_system().installations()
}

/// The installation whose programs are in that directory.
///
/// # Errors
/// [`Kind::ProgramMissing`] where there is no server in it that says its version.
pub fn in_directory(bin_directory: &Path) -> Result<Installation, Failure> {
    let full_version = ask_version(bin_directory)
        .map_err(|error| Failure::new(Kind::ProgramMissing, format!("cannot use PostgreSQL: {error}")))?;
    let version = major_of(&full_version).ok_or_else(|| {
        let shown = bin_directory.display();
        Failure::new(
            Kind::ProgramMissing,
            format!("the server in '{shown}' says '{full_version}' of its version"),
        )
    })?;
    Ok(Installation { version, bin_directory: bin_directory.to_path_buf() })
}

/// The installation of a major version, or the newest one, where packages put them: no variable counts.
///
/// # Errors
/// [`Kind::ProgramMissing`].
pub fn find_packaged(major: Option<MajorVersion>) -> Result<Installation, Failure> {
    let places = Places::of_packages();
    places.find(major).ok_or_else(|| missing(major, &places.installations()))
}

/// The installation of a major version, or the newest one.
///
/// # Errors
/// [`Kind::ProgramMissing`]; the message says what is installed and the hint what to install.
pub fn find(major: Option<MajorVersion>) -> Result<Installation, Failure> {
    let places = Places::of_this_system();
    places.find(major).ok_or_else(|| missing(major, &places.installations()))
}

fn missing(major: Option<MajorVersion>, installed: &[Installation]) -> Failure {
    let versions: Vec<String> = installed.iter().map(|found| found.version.to_string()).collect();
    let package = major.map_or_else(|| "postgresql".to_owned(), |major| format!("postgresql-{major}"));
    let message = match (major, versions.is_empty()) {
        (Some(major), false) => {
            format!("PostgreSQL {major} is not installed; found here: {}", versions.join(", "))
        }
        (Some(major), true) => format!("PostgreSQL {major} is not installed"),
        (None, _) => "no PostgreSQL server is installed".to_owned(),
    };
    let hint = format!("install it (Debian: apt-get install {package}), or name its directory in {OVERRIDE}");
    Failure::new(Kind::ProgramMissing, message).hint(hint)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A server of no use, except that it can say its version.
    fn install_in(directory: &Path, full_version: &str) {
        // A shell writes the program: were it open for writing here while another test starts a process, that
        // process would inherit the descriptor, and the kernel does not run a program that is open for writing.
        let script = "mkdir -p \"$1\" && printf '#!/bin/sh\necho \"postgres (PostgreSQL) %s\"\n' \"$2\" \
            >\"$1/postgres\" && chmod +x \"$1/postgres\"";
        let arguments = ["-c", script, "sh"];
        Tool::new("/bin/sh").arguments(arguments).argument(directory).argument(full_version).run().unwrap();
    }

    fn versions(places: &Places) -> Vec<u32> {
        places.installations().iter().map(|found| found.version.0).collect()
    }

    #[test]
    fn installations_are_found_by_name_and_by_asking_and_the_newest_is_first() {
        let root = tempfile::tempdir().unwrap();
        install_in(&root.path().join("debian/9/bin"), "never asked");
        install_in(&root.path().join("debian/15/bin"), "never asked");
        install_in(&root.path().join("redhat/pgsql-14/bin"), "never asked");
        install_in(&root.path().join("plain"), "16.2");
        std::fs::create_dir_all(root.path().join("debian/17/bin")).unwrap();
        let places = Places {
            versioned: vec![(root.path().join("debian"), ""), (root.path().join("redhat"), "pgsql-")],
            plain: vec![
                root.path().join("plain"),
                root.path().join("debian/15/bin"),
                root.path().join("absent"),
            ],
        };

        assert_eq!(versions(&places), [16, 15, 14, 9]);
        assert_eq!(places.find(None).unwrap().version, MajorVersion(16));
        assert_eq!(places.find(Some(MajorVersion(16))).unwrap().bin_directory, root.path().join("plain"));
        assert!(places.find(Some(MajorVersion(13))).is_none());
        assert_eq!(places.find(None).unwrap().full_version().unwrap(), "16.2");
    }

    #[test]
    fn the_major_version_is_what_a_version_begins_with() {
        for (text, major) in [("15.18 (Debian 15.18-0+deb12u1)", 15), ("19devel", 19), ("17beta1", 17)] {
            assert_eq!(major_of(text), Some(MajorVersion(major)));
        }
        assert_eq!(major_of("unknown"), None);
    }

    #[test]
    fn a_missing_version_says_what_is_there_and_what_to_install() {
        let installed = [Installation { version: MajorVersion(15), bin_directory: "/x".into() }];
        let error = anyhow::Error::from(missing(Some(MajorVersion(17)), &installed));

        assert_eq!(error.to_string(), "PostgreSQL 17 is not installed; found here: 15");
        assert!(crate::error::hint_of(&error).unwrap().contains("postgresql-17"));
        assert_eq!(crate::error::kind_of(&error).exit_status(), 127);
    }
}
