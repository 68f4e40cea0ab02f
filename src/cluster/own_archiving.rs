//! Whether a cluster's own configuration says anything about archiving: whoever set that up keeps it.
//!
//! The files are read as they are, before the server starts. Where they take in others, the server's program is asked,
//! which costs a process for each question.

use super::binaries::Installation;
use super::own_settings::OwnSettings;
use crate::sys::ReadRoot;
use std::ffi::OsString;

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

/// Reads what a cluster's configuration says about archiving. `arguments` are those that give the server another
/// configuration than the owner's: one that it refuses answers nothing.
///
/// # Errors
/// Why it could not be asked for, in words.
pub fn read(
    settings: &OwnSettings,
    root: &ReadRoot,
    programs: &Installation,
    arguments: &[OsString],
) -> Result<OwnArchiving, String> {
    let mut own = OwnArchiving::of(settings);
    if settings.takes_in_others && own.parameter.is_none() {
        let ask = |name: &str| programs.configured_with(name, root.path(), arguments);
        own.ask(|name| ask(name).map_err(|error| error.to_string()))?;
    }
    Ok(own)
}

impl OwnArchiving {
    fn of(settings: &OwnSettings) -> Self {
        Self {
            parameter: ARCHIVING.into_iter().find(|known| settings.get(known).is_some()),
            has_timeout: settings.get(TIMEOUT).is_some(),
            is_minimal: settings.get(WAL_LEVEL).is_some_and(|value| value.eq_ignore_ascii_case("minimal")),
        }
    }

    fn ask(&mut self, ask: impl Fn(&str) -> Result<String, String>) -> Result<(), String> {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> OwnArchiving {
        let mut settings = OwnSettings::default();
        settings.take_in(text);
        OwnArchiving::of(&settings)
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
