//! A server's log, taken apart into messages.

/// Where PostgreSQL's own files are, below the data directory.
const DATA_DIRECTORIES: [&str; 13] = [
    "base/",
    "global/",
    "pg_commit_ts/",
    "pg_logical/",
    "pg_multixact/",
    "pg_replslot/",
    "pg_subtrans/",
    "pg_tblspc/",
    "pg_twophase/",
    "pg_wal/",
    "pg_xact/",
    "pg_notify/",
    "pg_serial/",
];

/// What a server answers to clients while it starts, recovers or ends, and to those that it does not let in.
const ANSWERS: [&str; 9] = [
    "the database system is",
    "password authentication failed",
    "authentication failed for user",
    "no pg_hba.conf entry",
    "terminating connection",
    "terminating autovacuum",
    "terminating background worker",
    "sorry, too many clients",
    "remaining connection slots",
];

/// The levels of messages, in the order in which they are looked for.
const LEVELS: [&str; 9] =
    ["LOG:", "FATAL:", "PANIC:", "ERROR:", "WARNING:", "NOTICE:", "DETAIL:", "HINT:", "CONTEXT:"];

/// One complaint of a server: a message that ends it, with what belongs to it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct ServerMessage {
    text: String,
    /// Messages of lower levels just before it, which say what a general complaint means.
    before: Vec<String>,
    /// Its detail and context.
    after: Vec<String>,
}

impl ServerMessage {
    pub(super) fn complaint(text: &str) -> Self {
        Self { text: text.to_owned(), ..Self::default() }
    }

    /// All of it, to be searched.
    pub(super) fn whole(&self) -> String {
        let parts = [&self.text].into_iter().chain(&self.after).chain(&self.before);
        parts.map(String::as_str).collect::<Vec<_>>().join("\n")
    }

    /// What a person reads of it.
    pub(super) fn in_one_line(&self) -> String {
        let mut line = self.text.clone();
        let more: Vec<&str> = self.before.iter().chain(&self.after).map(String::as_str).collect();
        if !more.is_empty() {
            line = format!("{line}: {}", more.join("; "));
        }
        line
    }
}

/// Returns a line of a log without what `log_line_prefix` put before its level.
pub fn without_time_stamp(line: &str) -> &str {
    let begin = LEVELS.iter().filter_map(|level| line.find(level)).min();
    begin.and_then(|begin| line.get(begin..)).unwrap_or(line).trim_end()
}

/// A line's level and the rest of it.
fn split_level(line: &str) -> Option<(&'static str, &str)> {
    let line = without_time_stamp(line);
    let level = LEVELS.into_iter().find(|level| line.starts_with(level))?;
    Some((level, line.get(level.len()..)?.trim()))
}

/// The complaints in a log, in order.
pub(super) fn complaints(log: &[String]) -> Vec<ServerMessage> {
    let mut complaints: Vec<ServerMessage> = Vec::new();
    let mut before = Vec::new();
    let mut belongs_to_complaint = false;
    for line in log {
        match split_level(line) {
            Some(("FATAL:" | "PANIC:", text)) => {
                belongs_to_complaint = !ANSWERS.iter().any(|answer| text.contains(answer));
                if belongs_to_complaint {
                    let before = explanations(text, std::mem::take(&mut before));
                    complaints.push(ServerMessage { text: text.to_owned(), before, after: Vec::new() });
                }
            }
            Some(("DETAIL:" | "CONTEXT:", text)) => {
                if let Some(last) = complaints.last_mut().filter(|_| belongs_to_complaint) {
                    last.after.push(text.to_owned());
                }
            }
            Some(("HINT:", _)) => {}
            Some((_, text)) => {
                belongs_to_complaint = false;
                before.push(text.to_owned());
            }
            // Before it can report, a server writes to its standard error (main.c, `write_stderr()`).
            None if line.starts_with("postgres:") => complaints.push(ServerMessage::complaint(line)),
            None => {}
        }
    }
    complaints
}

/// The messages that say what a general complaint is about: a configuration's, and those of addresses.
fn explanations(text: &str, before: Vec<String>) -> Vec<String> {
    let words: &[&str] = if text.contains("contains errors") {
        &["parameter", "syntax error", "configuration file", "could not", "nvalid"]
    } else if text.contains("could not create any") || text.contains("could not load") {
        &["could not", "line "]
    } else {
        &[]
    };
    before.into_iter().filter(|message| words.iter().any(|word| message.contains(word))).collect()
}

/// The first file of the data directory that a text names.
pub(super) fn place_in(text: &str) -> Option<String> {
    let is_end = |letter: char| letter.is_whitespace() || matches!(letter, '"' | ',' | ';' | ':' | '(' | ')');
    let words = text.split(is_end).map(|word| word.trim_end_matches('.'));
    let is_place = |word: &&str| {
        let directories = DATA_DIRECTORIES.iter();
        ["backup_label", "tablespace_map", "PG_VERSION"].contains(word)
            || directories
                .into_iter()
                .any(|directory| word.strip_prefix(directory).is_some_and(|rest| !rest.is_empty()))
    };
    words.into_iter().find(is_place).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_files_of_the_data_directory_are_places() {
        assert_eq!(place_in("could not open file \"base/5/1259.1\": gone").as_deref(), Some("base/5/1259.1"));
        assert_eq!(place_in("could not access file \"pg_stat_statements\""), None);
        assert_eq!(place_in("could not load \"/srv/base/5\""), None);
        assert_eq!(place_in("invalid data in file \"backup_label\"").as_deref(), Some("backup_label"));
    }

    #[test]
    fn a_line_is_shown_without_its_time_whatever_comes_before_its_level() {
        assert_eq!(without_time_stamp("2026-11-30 06:04:31.176 UTC [19308] FATAL:  no"), "FATAL:  no");
        assert_eq!(without_time_stamp("app@db LOG:  x HINT: y"), "LOG:  x HINT: y");
        assert_eq!(without_time_stamp("\tcontinued"), "\tcontinued");
    }
}
