//! Whether a cluster's own configuration says anything about archiving: whoever set that up keeps it.
//!
//! The files are read as they are, before the server starts. Where they take in others, the server's program is asked,
//! which costs a process for each question.

use super::binaries::Installation;
use super::configuration::leads_elsewhere;
use crate::sys::ReadRoot;

const FILES: [&str; 2] = ["postgresql.conf", "postgresql.auto.conf"];
const LIMIT_BYTES: u64 = 4 << 20;
const ARCHIVING: [&str; 3] = ["archive_mode", "archive_command", "archive_library"];
const WAL_LEVEL: &str = "wal_level";
const TIMEOUT: &str = "archive_timeout";

/// What a configuration says about archiving.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OwnArchiving {
    /// A parameter of archiving that somebody set.
    pub parameter: Option<&'static str>,
    /// Whether somebody set `archive_timeout`.
    pub has_timeout: bool,
    /// Whether the WAL is to hold too little for an archive to be of use.
    pub is_minimal: bool,
}

/// Reads what a cluster's configuration says about archiving.
///
/// # Errors
/// Why it could not be read or asked for, in words.
pub fn read(root: &ReadRoot, programs: &Installation) -> Result<OwnArchiving, String> {
    let mut own = OwnArchiving::default();
    let mut takes_in_others = false;
    for name in FILES {
        let text = root.read_text(name, LIMIT_BYTES).map_err(|error| format!("'{name}': {error}"))?;
        let text = text.unwrap_or_default();
        takes_in_others |= leads_elsewhere(text.as_bytes());
        own.take_in(&text);
    }
    if takes_in_others && own.parameter.is_none() {
        own.ask(root, programs)?;
    }
    Ok(own)
}

impl OwnArchiving {
    /// The last line about a parameter counts (guc-file.l, `ParseConfigFp()`).
    fn take_in(&mut self, text: &str) {
        for (name, value) in text.lines().filter_map(assignment) {
            if let Some(known) = ARCHIVING.into_iter().find(|known| name.eq_ignore_ascii_case(known)) {
                self.parameter = Some(known);
            } else if name.eq_ignore_ascii_case(TIMEOUT) {
                self.has_timeout = true;
            } else if name.eq_ignore_ascii_case(WAL_LEVEL) {
                self.is_minimal = value.eq_ignore_ascii_case("minimal");
            }
        }
    }

    fn ask(&mut self, root: &ReadRoot, programs: &Installation) -> Result<(), String> {
        let ask = |name: &str| programs.configured(name, root.path()).map_err(|error| error.to_string());
        for (name, default) in [("archive_mode", "off"), ("archive_command", "")] {
            if ask(name)? != default {
                self.parameter = ARCHIVING.into_iter().find(|known| *known == name);
            }
        }
        self.has_timeout |= ask(TIMEOUT)? != "0";
        self.is_minimal = ask(WAL_LEVEL)? == "minimal";
        Ok(())
    }
}

/// A line's parameter and value, without quotes. `None` for a comment or an empty line.
fn assignment(line: &str) -> Option<(&str, &str)> {
    let line = line.trim();
    let end = line.find(|character: char| character == '=' || character.is_whitespace())?;
    let (name, rest) = line.split_at_checked(end)?;
    if name.is_empty() || name.starts_with('#') {
        return None;
    }
    let rest = rest.trim_start();
    let value = rest.strip_prefix('=').unwrap_or(rest).trim_start();
    let value = match value.strip_prefix('\'') {
        Some(quoted) => quoted.split('\'').next(),
        None => value.split(|character: char| character == '#' || character.is_whitespace()).next(),
    };
    Some((name, value.unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> OwnArchiving {
        let mut own = OwnArchiving::default();
        own.take_in(text);
        own
    }

    #[test]
    fn what_is_set_is_seen_and_comments_are_not() {
        assert_eq!(
            of("#archive_mode = off\n# archive_command = 'x'\narchive_cleanup_command=''"),
            OwnArchiving::default()
        );
        assert_eq!(of("archive_mode = off").parameter, Some("archive_mode"));
        assert_eq!(of("  Archive_Command='cp %p /x'  # mine").parameter, Some("archive_command"));
        assert_eq!(of("archive_library 'basic_archive'").parameter, Some("archive_library"));
        assert!(of("archive_timeout = 5min").has_timeout);
    }

    #[test]
    fn the_last_wal_level_counts() {
        assert!(of("wal_level = minimal#x").is_minimal);
        assert!(of("wal_level='MINIMAL'").is_minimal);
        assert!(!of("wal_level = minimal\nwal_level = replica").is_minimal);
        assert!(!of("#wal_level = minimal").is_minimal);
    }
}
