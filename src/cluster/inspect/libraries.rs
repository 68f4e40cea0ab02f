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
        for name in split_list(&names).unwrap_or_default() {
            if is_found(&name, &path, &own) {
                continue;
            }
            let evidence = missing(&name);
            let finding = Finding::new("library-missing", Severity::Warning, "postgresql.conf", evidence);
            let hint = hint(&name);
            self.report_with(finding.with_remedy(Remedy::SeeToIt(hint)));
        }
    }

    fn setting(&self, programs: &Installation, name: &str) -> Option<String> {
        programs.configured(name, self.root.path()).ok()
    }
}

fn missing(name: &str) -> String {
    let text =
        format!("{SETTING} names '{name}', which is not installed: the server does not start without it");
    if name.contains(',') { format!("{text}. In quotes, a list is the name of one library") } else { text }
}

fn hint(name: &str) -> String {
    if !name.contains(',') {
        return format!("install the package that has the library '{name}', or take it out of {SETTING}");
    }
    let each: Vec<String> = name.split(',').map(|part| format!("'{}'", part.trim())).collect();
    format!(
        "take the double quotes out of that line; `ALTER SYSTEM SET {SETTING} = {}` sets the list",
        each.join(", ")
    )
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

/// Splits a list of libraries as the server does; `None` for one that it cannot take apart, on which it loads none and
/// goes on (miscinit.c, `load_libraries()`; varlena.c, `SplitDirectoriesString()`).
///
/// A name in double quotes is taken as it is, with the commas in it; two quotes in it are one. `ALTER SYSTEM SET … = 'a,b'`
/// writes such a name, which is that of one library (`guc_funcs.c`, `flatten_set_variable_args()`).
fn split_list(list: &str) -> Option<Vec<String>> {
    let mut names = Vec::new();
    let mut rest = list.trim_start();
    while !rest.is_empty() {
        let (name, after) = if let Some(quoted) = rest.strip_prefix('"') {
            quoted_name(quoted)?
        } else {
            let (name, after) = rest.split_at(rest.find(',').unwrap_or(rest.len()));
            (name.trim_end().to_owned(), after)
        };
        if name.is_empty() {
            return None;
        }
        names.push(name);
        let after = after.trim_start();
        if after.is_empty() {
            break;
        }
        rest = after.strip_prefix(',')?.trim_start();
        if rest.is_empty() {
            return None;
        }
    }
    Some(names)
}

/// Splits what follows an opening quote into the name and what follows the closing quote.
fn quoted_name(text: &str) -> Option<(String, &str)> {
    let mut name = String::new();
    let mut rest = text;
    loop {
        let (part, after) = rest.split_once('"')?;
        name.push_str(part);
        match after.strip_prefix('"') {
            Some(again) => {
                name.push('"');
                rest = again;
            }
            None => return Some((name, after)),
        }
    }
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
        let split = |list| split_list(list).unwrap();
        assert_eq!(
            split(r#" pg_stat_statements, "auto_explain" ,"with ""quotes"", and a comma""#),
            ["pg_stat_statements", "auto_explain", "with \"quotes\", and a comma"]
        );
        assert_eq!(split(r#""pg_stat_statements,auto_explain""#), ["pg_stat_statements,auto_explain"]);
        assert_eq!(split("$libdir/a b , c"), ["$libdir/a b", "c"]);
        assert!(split("").is_empty());
        for broken in ["a,", ",a", "a,,b", "\"a", "\"\"", "\"a\" b"] {
            assert_eq!(split_list(broken), None, "{broken}");
        }
        assert!(
            may_name_libraries("  Shared_Preload_Libraries = 'x'")
                && may_name_libraries("include_dir 'conf.d'")
        );
        assert!(!may_name_libraries("#shared_preload_libraries = ''"));
    }
}
