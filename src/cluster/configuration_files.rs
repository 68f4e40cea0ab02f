//! The configuration files as the server reads them, with the files that they take in: what is set, and where.
//!
//! The server's own program tells what a parameter comes to (`postgres -C`), but not which line says so. This reader
//! follows `include`, `include_if_exists` and `include_dir` as the server does (guc-file.l, `ParseConfigFile()`,
//! `ParseConfigDirectory()`). It judges nothing: a line that it does not understand sets nothing here.

use crate::sys::{Links, open_regular};
use std::collections::HashMap;
use std::io::Read;
use std::path::{Path, PathBuf};

/// The server takes in no more levels of files than these (conffiles.h, `CONF_FILE_MAX_DEPTH`).
const MOST_LEVELS: usize = 10;
/// More files than anybody has, so that files that take in each other end.
const MOST_FILES: usize = 500;
const LIMIT_BYTES: u64 = 4 << 20;

/// What a parameter is set to, and by which line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placed {
    /// The value, without its quotes.
    pub value: String,
    /// The file.
    pub file: PathBuf,
    /// The line, counted from 1.
    pub line: usize,
}

/// The settings of one configuration file and of all that it takes in.
#[derive(Debug, Default)]
pub struct FileSettings {
    placed: HashMap<String, Placed>,
    files: Vec<PathBuf>,
}

impl FileSettings {
    /// Reads a file and all that it takes in. What cannot be read sets nothing.
    pub fn read(file: &Path) -> Self {
        let mut settings = Self::default();
        settings.take_in_file(file, 0);
        settings
    }

    /// Reads another file after what was read already.
    pub fn read_also(&mut self, file: &Path) {
        self.take_in_file(file, 0);
    }

    /// Returns every file that was taken in.
    pub fn files(&self) -> &[PathBuf] {
        &self.files
    }

    /// Returns the line that counts for a parameter: the last one. The name is in lower case.
    pub fn get(&self, name: &str) -> Option<&Placed> {
        self.placed.get(name)
    }

    fn take_in_file(&mut self, file: &Path, level: usize) {
        if level > MOST_LEVELS || self.files.len() >= MOST_FILES {
            return;
        }
        self.files.push(file.to_path_buf());
        let Some(text) = read_text(file) else { return };
        for (index, line) in text.lines().enumerate() {
            let Some((name, value)) = assignment(line) else { continue };
            let place = || file.parent().unwrap_or(Path::new("/")).join(&value);
            match name.as_str() {
                "include" | "include_if_exists" => self.take_in_file(&place(), level + 1),
                "include_dir" => self.take_in_directory(&place(), level + 1),
                _ => {
                    self.placed.insert(name, Placed { value, file: file.to_path_buf(), line: index + 1 });
                }
            }
        }
    }

    /// Takes in the files of a directory that end in `.conf`, in the order of their names.
    fn take_in_directory(&mut self, directory: &Path, level: usize) {
        let entries = std::fs::read_dir(directory).into_iter().flatten().filter_map(Result::ok);
        let is_configuration = |path: &PathBuf| {
            let name = path.file_name().unwrap_or_default().as_encoded_bytes();
            name.ends_with(b".conf") && !name.starts_with(b".")
        };
        let mut files: Vec<PathBuf> = entries.map(|entry| entry.path()).filter(is_configuration).collect();
        files.sort();
        for file in &files {
            self.take_in_file(file, level);
        }
    }
}

fn read_text(file: &Path) -> Option<String> {
    let mut bytes = Vec::new();
    open_regular(file, Links::Follow).ok()?.take(LIMIT_BYTES).read_to_end(&mut bytes).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

/// Returns a line's parameter, in lower case, and its value. `None` for a comment and an empty line.
fn assignment(line: &str) -> Option<(String, String)> {
    let line = line.trim_start();
    let is_of_name = |character: char| character.is_alphanumeric() || matches!(character, '_' | '$' | '.');
    let (name, rest) = line.split_at(line.find(|character| !is_of_name(character)).unwrap_or(line.len()));
    if name.is_empty() {
        return None;
    }
    let rest = rest.trim_start();
    let value = rest.strip_prefix('=').unwrap_or(rest).trim_start();
    let value = match value.strip_prefix('\'') {
        Some(quoted) => unquoted(quoted),
        None => {
            value.split(|character: char| character == '#' || character.is_whitespace()).next()?.to_owned()
        }
    };
    Some((name.to_ascii_lowercase(), value))
}

/// Returns what stands before the closing quote (guc-file.l, `DeescapeQuotedString()`, without its octal numbers).
fn unquoted(text: &str) -> String {
    let mut value = String::new();
    let mut characters = text.chars().peekable();
    while let Some(character) = characters.next() {
        match character {
            '\'' if characters.next_if_eq(&'\'').is_none() => break,
            '\\' => value.extend(characters.next()),
            other => value.push(other),
        }
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(files: &[(&str, &str)]) -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        for (name, content) in files {
            let path = directory.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, content).unwrap();
        }
        directory
    }

    #[test]
    fn the_last_line_counts_with_those_of_the_files_that_are_taken_in() {
        let directory = written(&[
            ("main", "a = 1\nInclude 'more/one'\ninclude_dir = 'more'\nc 3 # x\ninclude_if_exists 'none'\n"),
            ("more/one", "# a = 0\n\n  A='2''s \\\\'\n"),
            ("more/20.conf", "b = 20\nd = 'late'\n"),
            ("more/10.conf", "b = 10\n"),
            ("more/.30.conf", "b = 30\n"),
        ]);

        let settings = FileSettings::read(&directory.path().join("main"));

        let found = |name: &str| {
            let placed = settings.get(name).unwrap();
            let file = placed.file.strip_prefix(directory.path()).unwrap();
            (placed.value.clone(), file.display().to_string(), placed.line)
        };
        assert_eq!(found("a"), ("2's \\".to_owned(), "more/one".to_owned(), 3));
        assert_eq!(found("b"), ("20".to_owned(), "more/20.conf".to_owned(), 1));
        assert_eq!(found("c"), ("3".to_owned(), "main".to_owned(), 4));
        assert_eq!(settings.get("e"), None);
    }

    #[test]
    fn files_that_take_in_each_other_end() {
        let directory = written(&[
            ("a.conf", "include 'b'\ninclude_dir '.'\nlast = 1\n"),
            ("b", "include 'a.conf'\ninclude_dir '.'\n"),
        ]);

        let settings = FileSettings::read(&directory.path().join("a.conf"));

        assert_eq!(settings.get("last").unwrap().value, "1");
    }
}
