//! PostgreSQL's programs, each of which first notes what it was given.

use crate::support::sandbox::Sandbox;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

pub(super) const PROGRAMS: &str = "/usr/lib/postgresql/15/bin";

/// Notes the terminal, the open files and the variables of its own process, and becomes the real program.
const SCRIPT: &str = r#"#!/bin/sh
note() {
    printf 'terminal %s\n' "$(sed 's/.*) //' /proc/$$/stat | cut -d' ' -f5)"
    for descriptor in /proc/$$/fd/*; do
        printf 'open %s %s\n' "${descriptor##*/}" "$(readlink "$descriptor")"
    done
    tr '\0' '\n' </proc/$$/environ | sed 's/^/variable /'
}
# In a process of its own, so that this one opens nothing meanwhile.
( note | sed "s|^|${0##*/} |" >>NOTES )
exec PROGRAMS/"${0##*/}" "$@"
"#;

/// What the programs of a sandbox noted.
pub(super) struct Notes(PathBuf);

impl Notes {
    /// Has all commands of a sandbox use such programs.
    pub(super) fn of_programs(sandbox: &mut Sandbox) -> Self {
        let (notes, directory) = (sandbox.path().join("notes"), sandbox.path().join("programs"));
        fs::write(&notes, "").unwrap();
        fs::set_permissions(&notes, fs::Permissions::from_mode(0o666)).unwrap();
        fs::create_dir(&directory).unwrap();
        let script = SCRIPT.replace("NOTES", &notes.display().to_string()).replace("PROGRAMS", PROGRAMS);
        for program in fs::read_dir(PROGRAMS).unwrap() {
            let wrapper = directory.join(program.unwrap().file_name());
            fs::write(&wrapper, &script).unwrap();
            fs::set_permissions(&wrapper, fs::Permissions::from_mode(0o755)).unwrap();
        }
        sandbox.set("POSTGRES_BIN_DIR", directory.to_str().unwrap());
        Self(notes)
    }

    /// All notes of a kind, each with the program's name before it and what was noted behind it.
    pub(super) fn of_kind(&self, kind: &str) -> Vec<(String, String)> {
        let text = String::from_utf8_lossy(&fs::read(&self.0).unwrap()).into_owned();
        let noted = |line: &str| {
            let (program, rest) = line.split_once(' ')?;
            let noted = rest.strip_prefix(kind)?.strip_prefix(' ')?;
            Some((program.to_owned(), noted.to_owned()))
        };
        text.lines().filter_map(noted).collect()
    }

    /// The open files beyond the three standard streams; that of the script, which notes them, apart.
    pub(super) fn other_open_files(&self) -> Vec<(String, String)> {
        let script = self.0.with_file_name("programs");
        let is_other = |noted: &str| {
            let (number, path) = noted.split_once(' ').unwrap();
            !matches!(number, "0" | "1" | "2") && !Path::new(path).starts_with(&script)
        };
        self.of_kind("open").into_iter().filter(|(_, noted)| is_other(noted)).collect()
    }
}
