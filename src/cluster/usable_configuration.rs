//! A configuration without the lines that the server refuses.
//!
//! One line that it cannot use keeps a server from starting, even where its command line overrides the setting (guc.c,
//! `ProcessConfigFileInternal()` checks every item). The owner's files stay as they are: the server is given a copy of
//! `postgresql.conf`, with what that takes in, without those lines (`config_file`). `postgresql.auto.conf` is read from
//! the data directory all the same. The alternative, an older or a fresh file in the place of the owner's, loses
//! settings on which slots and prepared transactions depend.

use super::binaries::Installation;
use crate::pg::configuration_text::{Complaint, Directive, complaints, included, must_not_be_left_out};
use crate::sys::{Links, ProcessError, ToolOutput, file_in_memory, open_regular};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

/// What the owner's settings are in.
pub const MAIN_FILE: &str = "postgresql.conf";
/// What ALTER SYSTEM writes.
pub const AUTO_FILE: &str = "postgresql.auto.conf";
/// How deep files may take in others (guc.h, `CONF_FILE_MAX_DEPTH`).
const MOST_DEPTH: usize = 10;
const LIMIT_BYTES: u64 = 4 << 20;
/// More lines than this that are refused are no configuration.
const MOST_LEFT_OUT: usize = 100;
/// How often the rest is tried again: a syntax error hides what is refused after it.
const MOST_ROUNDS: usize = 12;

/// A line that the server refuses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefusedLine {
    /// The file that it is in.
    pub file: PathBuf,
    /// Its number, counted from 1.
    pub number: usize,
    /// What it says.
    pub text: String,
    /// Why it is refused, in the server's words.
    pub words: String,
}

impl std::fmt::Display for RefusedLine {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { file, number, text, words } = self;
        write!(formatter, "{words} in file '{}', line {number} ({})", file.display(), text.trim())
    }
}

/// What became of looking for a configuration that the server takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Search {
    /// It takes this one, without these lines.
    Found {
        /// The whole of it: files that are taken in stand where they are named.
        text: Vec<u8>,
        /// What it lacks.
        left_out: Vec<RefusedLine>,
    },
    /// A line of what ALTER SYSTEM wrote is refused; nothing but that file without them helps.
    InAutoFile {
        /// The lines.
        refused: Vec<RefusedLine>,
        /// The file with each of them made a comment.
        text: Vec<u8>,
    },
    /// This line is refused, and only a person may leave it out.
    NeedsAPerson(RefusedLine),
    /// It is no configuration at all: binary, or hardly a line is one.
    NoConfiguration,
    /// What the server complains of is no line.
    NoLine,
}

/// One line of the whole configuration.
struct Line {
    file: PathBuf,
    number: usize,
    bytes: Vec<u8>,
}

impl Line {
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes).into_owned()
    }

    fn refused(&self, words: &str) -> RefusedLine {
        let (file, text) = (self.file.clone(), self.text());
        RefusedLine { file, number: self.number, text, words: words.to_owned() }
    }
}

/// Looks for the lines that keep the server from taking a cluster's configuration.
///
/// # Errors
/// When a file of it could not be read, or the server's program could not be run.
pub fn search(programs: &Installation, data_directory: &Path) -> io::Result<Search> {
    let mut whole = Whole::default();
    whole.take_in(&data_directory.join(MAIN_FILE), 0)?;
    let mut left_out = std::mem::take(&mut whole.refused);
    for _ in 0..MOST_ROUNDS {
        if whole.lines.iter().any(|line| line.bytes.contains(&0)) || left_out.len() > MOST_LEFT_OUT {
            return Ok(Search::NoConfiguration);
        }
        if let Some(line) = left_out.iter().find(|line| is_for_a_person(&line.text)) {
            return Ok(Search::NeedsAPerson(line.clone()));
        }
        let text = whole.text();
        let messages = match programs.trying(&text, data_directory) {
            Ok(_) => return Ok(Search::Found { text, left_out }),
            Err(ProcessError::Failed { stderr, .. }) => stderr,
            Err(error) => return Err(io::Error::other(error)),
        };
        let complaints = complaints(&messages);
        if let Some(found) = in_auto_file(data_directory, &complaints)? {
            return Ok(found);
        }
        let refused = whole.take_out(&complaints);
        if refused.is_empty() {
            return Ok(Search::NoLine);
        }
        left_out.extend(refused);
    }
    Ok(Search::NoConfiguration)
}

fn is_for_a_person(line: &str) -> bool {
    matches!(Directive::of(line), Directive::Setting(name) if must_not_be_left_out(&name))
}

/// A configuration with everything that it takes in.
#[derive(Default)]
struct Whole {
    lines: Vec<Line>,
    /// Lines that take in what is not there.
    refused: Vec<RefusedLine>,
}

impl Whole {
    fn take_in(&mut self, file: &Path, depth: usize) -> io::Result<()> {
        for line in read_lines(file)? {
            let directive = Directive::of(&line.text());
            match self.take_in_named(&line, directive, depth) {
                Ok(true) => {}
                Ok(false) => self.lines.push(line),
                Err(words) => self.refused.push(line.refused(&words)),
            }
        }
        Ok(())
    }

    /// Takes in what a line names. `false`: it names nothing.
    fn take_in_named(&mut self, line: &Line, directive: Directive, depth: usize) -> Result<bool, String> {
        let (name, is_optional) = match directive {
            Directive::Include(name) => (name, false),
            Directive::IncludeIfExists(name) => (name, true),
            Directive::IncludeDirectory(name) => {
                return self.take_in_directory(&included(&line.file, &name), depth).map(|()| true);
            }
            Directive::Nothing | Directive::Setting(_) => return Ok(false),
        };
        let file = included(&line.file, &name);
        if is_optional && !file.exists() {
            return Ok(true);
        }
        self.take_in_file(&file, depth).map(|()| true)
    }

    fn take_in_file(&mut self, file: &Path, depth: usize) -> Result<(), String> {
        let refused = |why: String| format!("could not open configuration file '{}': {why}", file.display());
        if depth >= MOST_DEPTH {
            return Err(refused("maximum nesting depth exceeded".to_owned()));
        }
        self.take_in(file, depth + 1).map_err(|error| refused(error.to_string()))
    }

    /// In the order of their names' bytes, those that end in `.conf` (guc-file.l, `GetConfFilesInDir()`).
    fn take_in_directory(&mut self, directory: &Path, depth: usize) -> Result<(), String> {
        let failed = |error: io::Error| {
            format!("could not open configuration directory '{}': {error}", directory.display())
        };
        let mut files = Vec::new();
        for entry in std::fs::read_dir(directory).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            let name = path.file_name().unwrap_or_default().as_encoded_bytes();
            if name.len() > 5 && name.ends_with(b".conf") && !name.starts_with(b".") && path.is_file() {
                files.push(path);
            }
        }
        files.sort();
        files.iter().try_for_each(|file| self.take_in_file(file, depth))
    }

    fn text(&self) -> Vec<u8> {
        let mut text: Vec<u8> = Vec::new();
        for line in &self.lines {
            text.extend(&line.bytes);
            text.push(b'\n');
        }
        text
    }

    /// Takes out the lines that are complained of. A comment stays in their place, so that the others keep their numbers.
    fn take_out(&mut self, complaints: &[Complaint]) -> Vec<RefusedLine> {
        let mut refused = Vec::new();
        for complaint in complaints {
            let (index, words) = match complaint {
                Complaint::Line { line, words, .. } => (line.checked_sub(1), words),
                Complaint::Parameter { name, words } => (self.last_of(name), words),
            };
            let Some(line) = index.and_then(|index| self.lines.get_mut(index)) else { continue };
            if !line.bytes.starts_with(b"#") {
                refused.push(line.refused(words));
                line.bytes = b"# left out".to_vec();
            }
        }
        refused
    }

    /// The line that sets a parameter last: the others do not count (guc-file.l, `ProcessConfigFileInternal()`).
    fn last_of(&self, name: &str) -> Option<usize> {
        self.lines.iter().rposition(|line| sets(&line.text(), name))
    }
}

/// Finds the line whose value of a parameter counts: the last one, and that of ALTER SYSTEM before all others. `words` are
/// why the server does not start with it. `None`: no file sets it.
///
/// # Errors
/// When a file could not be read.
pub fn line_that_sets(data_directory: &Path, name: &str, words: &str) -> io::Result<Option<RefusedLine>> {
    let is_it = |line: &&Line| sets(&line.text(), name);
    match read_lines(&data_directory.join(AUTO_FILE)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        lines => {
            if let Some(line) = lines?.iter().rfind(is_it) {
                return Ok(Some(line.refused(words)));
            }
        }
    }
    let mut whole = Whole::default();
    whole.take_in(&data_directory.join(MAIN_FILE), 0)?;
    Ok(whole.lines.iter().rfind(is_it).map(|line| line.refused(words)))
}

fn sets(line: &str, name: &str) -> bool {
    matches!(Directive::of(line), Directive::Setting(found) if found == name)
}

/// What of the complaints is about the file that ALTER SYSTEM writes. A parameter that it sets is not looked for in the
/// others.
fn in_auto_file(data_directory: &Path, complaints: &[Complaint]) -> io::Result<Option<Search>> {
    let mut lines = match read_lines(&data_directory.join(AUTO_FILE)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        lines => lines?,
    };
    let mut refused = Vec::new();
    for complaint in complaints {
        let (index, words) = match complaint {
            Complaint::Line { file, line, words }
                if file.file_name().is_some_and(|name| name == AUTO_FILE) =>
            {
                (line.checked_sub(1), words)
            }
            Complaint::Line { .. } => continue,
            Complaint::Parameter { name, words } => {
                (lines.iter().rposition(|line| sets(&line.text(), name)), words)
            }
        };
        let Some(line) = index.and_then(|index| lines.get_mut(index)) else { continue };
        if line.bytes.contains(&0) {
            return Ok(Some(Search::NoConfiguration));
        }
        refused.push(line.refused(words));
        line.bytes.splice(..0, *b"# refused by the server: ");
    }
    if let Some(line) = refused.iter().find(|line| is_for_a_person(&line.text)) {
        return Ok(Some(Search::NeedsAPerson(line.clone())));
    }
    let text = Whole { lines, refused: Vec::new() }.text();
    Ok((!refused.is_empty()).then_some(Search::InAutoFile { refused, text }))
}

fn read_lines(file: &Path) -> io::Result<Vec<Line>> {
    let mut bytes = Vec::new();
    open_regular(file, Links::Follow)?.take(LIMIT_BYTES).read_to_end(&mut bytes)?;
    let line = |(index, line): (usize, &[u8])| Line {
        file: file.to_path_buf(),
        number: index + 1,
        bytes: line.strip_suffix(b"\r").unwrap_or(line).to_vec(),
    };
    Ok(bytes.split(|byte| *byte == b'\n').enumerate().map(line).collect())
}

impl Installation {
    /// Has the server's program read a configuration of which there is no file.
    fn trying(&self, text: &[u8], data_directory: &Path) -> Result<ToolOutput, ProcessError> {
        let failed = |reason| ProcessError::Io { program: self.program("postgres"), reason };
        let mut file = file_in_memory().map_err(failed)?;
        file.write_all(text).map_err(failed)?;
        // It is opened by its descriptor, and read from its beginning, each time (guc-file.l reads it twice).
        self.asking_for("hba_file", data_directory)
            .arguments(["-c", "config_file=/proc/self/fd/0"])
            .holding(file)
            .run()
    }
}
