//! The libraries that the server loads before it does anything else, and without which it does not start.
//!
//! `postgres -C` reads their names and loads none, so that they are looked for here, where the server would look
//! (dfmgr.c, `expand_dynamic_library_name()`). Where that is not known for sure, nothing is said.

use super::Inspection;
use crate::cluster::binaries::Installation;
use crate::plan::{Finding, Remedy, Severity};
use crate::sys::ReadRoot;
use std::path::{Path, PathBuf};

const SETTING: &str = "shared_preload_libraries";
const PATH_SETTING: &str = "dynamic_library_path";
/// What every server has in its own directory of libraries.
const WITNESS: &str = "plpgsql.so";
const LIMIT_BYTES: u64 = 4 << 20;

impl Inspection<'_> {
    /// Looks for the libraries of a configuration that the server's program can read.
    pub(super) fn check_libraries(&mut self, programs: &Installation) {
        let text = |name| self.root.read_text(name, LIMIT_BYTES).ok().flatten().unwrap_or_default();
        let files = ["postgresql.conf", "postgresql.auto.conf"].map(text);
        // To ask takes a process each time, and most configurations name none.
        if !files.iter().any(|text| may_name_libraries(text)) {
            return;
        }
        let (Some(names), Some(path)) =
            (self.setting(programs, SETTING), self.setting(programs, PATH_SETTING))
        else {
            return;
        };
        let Some(own) = own_directory(&programs.bin_directory) else { return };
        for name in split_list(&names) {
            if is_found(&name, &path, &own) {
                continue;
            }
            let evidence = format!(
                "{SETTING} names '{name}', which is not installed: the server does not start without it"
            );
            let finding = Finding::new("library-missing", Severity::Warning, "postgresql.conf", evidence);
            let hint =
                format!("install the package that has the library '{name}', or take it out of {SETTING}");
            self.report_with(finding.with_remedy(Remedy::SeeToIt(hint)));
        }
    }

    fn setting(&self, programs: &Installation, name: &str) -> Option<String> {
        programs.configured(name, self.root.path()).ok()
    }
}

/// Whether a configuration file sets the libraries, or takes in a file that may.
fn may_name_libraries(text: &str) -> bool {
    text.lines().any(|line| {
        let line = line.trim_start().to_ascii_lowercase();
        line.starts_with(SETTING) || line.starts_with("include")
    })
}

/// The server's own directory of libraries, `$libdir`: beside its programs, on each system in its own way.
fn own_directory(bin_directory: &Path) -> Option<PathBuf> {
    let beside = [
        "../lib",
        "../lib/postgresql",
        "../../lib/postgresql",
        "../lib64",
        "../lib64/pgsql",
        "../lib64/postgresql",
    ];
    beside.iter().map(|path| bin_directory.join(path)).find(|directory| is_file(&directory.join(WITNESS)))
}

/// The names in a list, each perhaps in double quotes (varlena.c, `SplitDirectoriesString()`).
fn split_list(list: &str) -> Vec<String> {
    let names = list.split(',').map(|name| name.trim().trim_matches('"').to_owned());
    names.filter(|name| !name.is_empty()).collect()
}

/// Whether a library is there: under its own name, or with the suffix.
fn is_found(name: &str, path: &str, own: &Path) -> bool {
    let expand = |part: &str| match part.strip_prefix("$libdir") {
        Some(rest) => own.join(rest.trim_start_matches('/')),
        None => PathBuf::from(part),
    };
    let is_there = |place: &Path| {
        let mut with_suffix = place.as_os_str().to_owned();
        with_suffix.push(".so");
        is_file(place) || is_file(Path::new(&with_suffix))
    };
    if name.contains('/') {
        return is_there(&expand(name));
    }
    path.split(':').any(|part| is_there(&expand(part.trim()).join(name)))
}

/// Whether a file is there, wherever it is: what cannot be looked at counts as there.
fn is_file(path: &Path) -> bool {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return false };
    match ReadRoot::open(parent).and_then(|directory| directory.facts(name)) {
        Ok(facts) => facts.is_some(),
        Err(error) => {
            !matches!(error.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_library_is_looked_for_where_the_server_would_look() {
        let installed = tempfile::tempdir().unwrap();
        let (bin, lib) = (installed.path().join("bin"), installed.path().join("lib"));
        std::fs::create_dir_all(lib.join("plugins")).unwrap();
        std::fs::create_dir(&bin).unwrap();
        assert_eq!(own_directory(&bin), None);
        for name in [WITNESS, "auto_explain.so", "plugins/own.so"] {
            std::fs::write(lib.join(name), "").unwrap();
        }

        let own = own_directory(&bin).unwrap();

        for there in ["auto_explain", "auto_explain.so", "$libdir/plugins/own"] {
            assert!(is_found(there, "$libdir", &own), "{there}");
        }
        for missing in ["no_such_library", "own", "$libdir/own", "/nonexistent/auto_explain"] {
            assert!(!is_found(missing, "$libdir", &own), "{missing}");
        }
        assert!(is_found("own", "/nonexistent:$libdir/plugins", &own));
    }

    #[test]
    fn a_list_of_libraries_is_taken_apart() {
        assert_eq!(
            split_list(r#"pg_stat_statements, "auto_explain" ,"#),
            ["pg_stat_statements", "auto_explain"]
        );
        assert!(split_list("").is_empty());
        assert!(
            may_name_libraries("  Shared_Preload_Libraries = 'x'")
                && may_name_libraries("include_dir 'conf.d'")
        );
        assert!(!may_name_libraries("#shared_preload_libraries = ''"));
    }
}
