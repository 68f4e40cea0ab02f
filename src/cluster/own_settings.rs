//! What whoever set a cluster up wrote into its configuration files, read before a server starts: that stays in force.

use std::collections::HashMap;

use super::configuration::leads_elsewhere;
use crate::sys::ReadRoot;

/// In the order in which the server reads them.
const FILES: [&str; 2] = ["postgresql.conf", "postgresql.auto.conf"];
const LIMIT_BYTES: u64 = 4 << 20;

/// The settings of `postgresql.conf` and `postgresql.auto.conf`, as they are written there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OwnSettings {
    values: HashMap<String, String>,
    /// Whether other files are taken in, whose settings are not among these.
    pub takes_in_others: bool,
}

impl OwnSettings {
    /// Reads both files. One that is not there sets nothing.
    ///
    /// # Errors
    /// Why one could not be read, in words.
    pub fn read(root: &ReadRoot) -> Result<Self, String> {
        let mut settings = Self::default();
        for name in FILES {
            let text = root.read_text(name, LIMIT_BYTES).map_err(|error| format!("'{name}': {error}"))?;
            settings.take_in(&text.unwrap_or_default());
        }
        Ok(settings)
    }

    /// What a parameter is set to; its name is in lower case.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.values.get(name).map(String::as_str)
    }

    /// The last line about a parameter counts, in whatever case its name is (guc-file.l, `ParseConfigFp()`).
    pub(super) fn take_in(&mut self, text: &str) {
        self.takes_in_others |= leads_elsewhere(text.as_bytes());
        let settings = text.lines().filter_map(assignment);
        self.values.extend(settings.map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned())));
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

/// Says whether a value means yes (bool.c, `parse_bool_with_len()`).
pub(super) fn is_true(value: &str) -> bool {
    let value = value.to_ascii_lowercase();
    let is_begin_of = |word: &str, least: usize| value.len() >= least && word.starts_with(&value);
    value == "1" || is_begin_of("true", 1) || is_begin_of("yes", 1) || is_begin_of("on", 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_counts_and_comments_do_not() {
        let mut settings = OwnSettings::default();
        settings.take_in("Work_Mem = '5MB' # mine\nport 5433\n#work_mem = 1MB\n");
        settings.take_in("port=5434#x");
        assert_eq!(settings.get("work_mem"), Some("5MB"));
        assert_eq!(settings.get("port"), Some("5434"));
        assert_eq!(settings.get("fsync"), None);
        assert!(!settings.takes_in_others);
        settings.take_in("include_dir = 'conf.d'");
        assert!(settings.takes_in_others);
    }
}
