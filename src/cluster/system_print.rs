//! What the server's programs and the system around them are, as far as they decide which settings and locales a server
//! takes: an answer of theirs that was noted counts for as long as this is the same.
//!
//! Only facts of files are looked at, which takes no process. The time of the last change of an inode is among them: no
//! build of an image sets it, so that two images whose files were given the same times are told apart.

use super::binaries::Installation;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Where a server's own libraries are, beside its programs (`$libdir`).
const LIBRARIES: [&str; 4] = ["../lib", "../lib/postgresql", "../../lib/postgresql", "../lib64"];
/// Where the C library has its locales, and where time zones are.
const SYSTEM: [&str; 4] =
    ["/usr/lib/locale", "/usr/lib/locale/locale-archive", "/usr/share/locale", "/usr/share/zoneinfo"];
/// Variables that lead the C library elsewhere.
const VARIABLES: [&str; 2] = ["LOCPATH", "LOCALE_ARCHIVE"];

/// Returns what tells these programs on this system from all others, as a text.
pub(super) fn system_print(programs: &Installation) -> String {
    let mut hasher = blake3::Hasher::new();
    hasher.update(programs.bin_directory.as_os_str().as_encoded_bytes());
    for path in places(programs) {
        hasher.update(facts(&path).as_bytes());
    }
    for name in VARIABLES {
        let value = std::env::var_os(name).unwrap_or_default();
        hasher.update(format!("{name}={}\n", value.display()).as_bytes());
    }
    hasher.finalize().to_hex().to_string()
}

fn places(programs: &Installation) -> impl Iterator<Item = PathBuf> {
    let libraries = LIBRARIES.map(|path| programs.bin_directory.join(path));
    std::iter::once(programs.program("postgres"))
        .chain(libraries)
        .chain(SYSTEM.map(PathBuf::from))
        .chain(VARIABLES.into_iter().filter_map(std::env::var_os).map(PathBuf::from))
}

fn facts(path: &Path) -> String {
    match std::fs::metadata(path) {
        Ok(facts) => format!(
            "{} {}.{} {}.{}\n",
            facts.len(),
            facts.mtime(),
            facts.mtime_nsec(),
            facts.ctime(),
            facts.ctime_nsec()
        ),
        Err(error) => format!("{:?}\n", error.kind()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pg::MajorVersion;

    #[test]
    fn a_server_that_was_exchanged_for_one_of_the_same_size_and_time_is_another() {
        let place = tempfile::tempdir().unwrap();
        let programs = Installation { version: MajorVersion(15), bin_directory: place.path().to_path_buf() };
        let server = programs.program("postgres");
        let write = |content: &str| {
            let fresh = place.path().join("fresh");
            std::fs::write(&fresh, content).unwrap();
            let file = std::fs::File::options().write(true).open(&fresh).unwrap();
            file.set_modified(std::time::UNIX_EPOCH).unwrap();
            std::fs::rename(fresh, &server).unwrap();
        };
        write("15.17");
        let former = system_print(&programs);
        assert_eq!(system_print(&programs), former);

        // Until the clock that the kernel stamps its inodes with has gone on.
        let changed = std::fs::metadata(&server).unwrap();
        let stamp = |facts: &std::fs::Metadata| (facts.ctime(), facts.ctime_nsec());
        while std::fs::metadata(&server).is_ok_and(|facts| stamp(&facts) == stamp(&changed)) {
            write("15.18");
        }

        assert_ne!(system_print(&programs), former);
    }
}
