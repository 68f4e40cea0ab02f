//! A setting that is overridden on the server's command line for one run, because the server reads it and then refuses to
//! start with it.
//!
//! Its file stays as it is. The line that sets it is named with file and number, at the start and as an issue of
//! `maintenance health`, until a start needs no override.

use super::Tools;
use crate::cluster::control_file;
use crate::cluster::usable_configuration::{RefusedLine, line_that_sets};
use crate::pg::control_file::CONTROL_FILE;
use crate::plan::RecoveryPolicy;
use crate::plan::start_failure::{Instead, StartFailure, blamed};
use crate::sys::{OwnDirectory, WriteRoot};
use std::io;
use std::path::Path;

/// The note of what is overridden, below pgbox's own directory; a line each.
const NOTE: &str = "overridden";
const LIMIT_BYTES: u64 = 64 << 10;

/// A setting that a start failed on, and what it is overridden with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Overridden {
    pub(super) parameter: &'static str,
    pub(super) value: String,
    line: Option<RefusedLine>,
    words: String,
}

impl Overridden {
    /// Finds the setting that a failed start is to blame on; `None` where none is known.
    pub(super) fn of_failure(root: &WriteRoot, failure: &StartFailure) -> Option<Self> {
        let words = failure.words.as_deref()?;
        let blamed = blamed(words)?;
        let line = line_that_sets(root.path(), blamed.parameter, words).ok().flatten();
        if line.is_none() && !blamed.may_be_unset() {
            return None;
        }
        let value = match blamed.instead {
            Instead::Default(value) => value.to_owned(),
            Instead::FormerPreparedTransactions => {
                let (_, control) = control_file::read_at(root, CONTROL_FILE).ok()?;
                Some(control.max_prepared_transactions).filter(|number| *number > 0)?.to_string()
            }
        };
        Some(Self { parameter: blamed.parameter, value, line, words: words.to_owned() })
    }

    /// What is refused, with the place of it.
    fn place(&self) -> String {
        match &self.line {
            Some(line) => line.to_string(),
            None => format!(
                "{}; no file of the configuration sets {}, so the file that did may be gone (a backup may have it)",
                self.words, self.parameter
            ),
        }
    }

    /// What is told where it is overridden.
    fn sentence(&self) -> String {
        format!(
            "started with {} = {} in place of what the server refuses: {}",
            self.parameter,
            self.value,
            self.place()
        )
    }
}

/// The settings that a start is to be tried again with; `None` where nothing is known that would help, or nothing may be
/// overridden. The line to blame is named in any case.
pub(super) fn to_try(
    tools: &Tools,
    root: &WriteRoot,
    failure: &StartFailure,
    tried: &[Overridden],
) -> Option<Overridden> {
    let found = Overridden::of_failure(root, failure)?;
    if tried.iter().any(|tried| tried.parameter == found.parameter) {
        return None;
    }
    if tools.settings.recovery != RecoveryPolicy::Auto {
        tools
            .progress
            .note(&format!("the server refuses: {}; RECOVERY=auto starts it without that", found.place()));
        return None;
    }
    tools.progress.note(&format!("left out for this run: {}", found.place()));
    Some(found)
}

/// Notes what the server that runs now was started with; nothing removes the note.
pub(super) fn note(tools: &Tools, root: &WriteRoot, overridden: &[Overridden]) {
    let noted = OwnDirectory::open(root.path()).and_then(|own| {
        if overridden.is_empty() {
            return own.discard(NOTE);
        }
        let lines: Vec<String> = overridden.iter().map(Overridden::sentence).collect();
        own.write_durably(NOTE, lines.join("\n").as_bytes())
    });
    if let Err(error) =
        noted.or_else(|error| if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) })
    {
        tools.progress.note(&format!("could not note which settings are overridden: {error}"));
    }
}

/// What the server of a data directory was started with, in sentences.
pub(crate) fn noted(data_directory: &Path) -> Vec<String> {
    let text = OwnDirectory::read(data_directory, NOTE, LIMIT_BYTES).ok().flatten().unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}
