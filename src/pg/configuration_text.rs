//! The lines of a configuration file, as far as they can be told apart without a server.
//!
//! The grammar is one of lines: no value goes on in the next one (guc-file.l, `STRING` and `EOL`).

use std::path::{Path, PathBuf};

/// What a line of a configuration file is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Directive {
    /// A comment, or nothing.
    Nothing,
    /// It takes in a file.
    Include(PathBuf),
    /// It takes in a file, if that is there.
    IncludeIfExists(PathBuf),
    /// It takes in the files of a directory.
    IncludeDirectory(PathBuf),
    /// It sets a parameter, whose name is in lower case here, or is no line that the server takes.
    Setting(String),
}

impl Directive {
    /// Tells what a line is (guc-file.l, `ParseConfigFp()`: the names of directives are those of no parameters, in any
    /// case).
    pub fn of(line: &str) -> Self {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            return Self::Nothing;
        }
        let end = line.find(|letter: char| letter == '=' || letter.is_whitespace() || letter == '\'');
        let (name, rest) = line.split_at_checked(end.unwrap_or(line.len())).unwrap_or((line, ""));
        let name = name.to_ascii_lowercase();
        let path = || PathBuf::from(value(rest));
        match name.as_str() {
            "include" => Self::Include(path()),
            "include_if_exists" => Self::IncludeIfExists(path()),
            "include_dir" => Self::IncludeDirectory(path()),
            _ => Self::Setting(name),
        }
    }
}

/// A value without its quotes (guc-file.l, `DeescapeQuotedString()`).
fn value(rest: &str) -> String {
    let rest = rest.trim_start();
    let rest = rest.strip_prefix('=').unwrap_or(rest).trim_start();
    let Some(quoted) = rest.strip_prefix('\'') else {
        return rest
            .split(|letter: char| letter == '#' || letter.is_whitespace())
            .next()
            .unwrap_or_default()
            .to_owned();
    };
    let mut text = String::new();
    let mut letters = quoted.chars().peekable();
    while let Some(letter) = letters.next() {
        match letter {
            '\'' if letters.peek() == Some(&'\'') => text.extend(letters.next()),
            '\'' => break,
            '\\' => text.extend(letters.next()),
            _ => text.push(letter),
        }
    }
    text
}

/// What a complaint of the server about its configuration is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Complaint {
    /// A line of a file.
    Line {
        /// The file, as the server names it.
        file: PathBuf,
        /// The line, counted from 1.
        line: usize,
        /// The server's words, without the file and the line.
        words: String,
    },
    /// The line that sets a parameter last.
    Parameter {
        /// Its name, in lower case.
        name: String,
        /// The server's words.
        words: String,
    },
}

/// The complaints in what `postgres -C` wrote in English (guc.c, guc-file.l). A message that says neither a line nor a
/// parameter is not among them.
pub fn complaints(messages: &str) -> Vec<Complaint> {
    let text = |line: &str| line.split_once("LOG:").map(|(_, text)| text.trim().to_owned());
    messages.lines().filter_map(text).filter_map(|text| complaint(&text)).collect()
}

fn complaint(text: &str) -> Option<Complaint> {
    if let Some((words, rest)) = text.split_once("in file \"") {
        let (file, rest) = rest.split_once('"')?;
        let number = rest.split_once("line ")?.1;
        let digits = number.bytes().take_while(u8::is_ascii_digit).count();
        let line = number.get(..digits)?.parse().ok()?;
        return Some(Complaint::Line { file: file.into(), line, words: words.trim().to_owned() });
    }
    let name = text.split_once("parameter \"")?.1.split_once('"')?.0.to_ascii_lowercase();
    Some(Complaint::Parameter { name, words: text.to_owned() })
}

/// Parameters that are never left out: without them a recovery ends elsewhere, a commit is confirmed too early, WAL goes
/// to another place, or a door stands open.
pub fn must_not_be_left_out(name: &str) -> bool {
    const PREFIXES: [&str; 7] =
        ["recovery_", "primary_", "archive_", "ssl", "krb_", "synchronous_", "promote_"];
    const NAMES: [&str; 9] = [
        "restore_command",
        "standby_mode",
        "trigger_file",
        "hot_standby",
        "data_directory",
        "hba_file",
        "ident_file",
        "password_encryption",
        "fsync",
    ];
    NAMES.contains(&name) || PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

/// Where an included file is, by the file that names it (guc-file.l, `AbsoluteConfigLocation()`).
pub fn included(by: &Path, name: &Path) -> PathBuf {
    by.parent().unwrap_or(Path::new("/")).join(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case("  # port = 1", Directive::Nothing)]
    #[case("", Directive::Nothing)]
    #[case("Port=5432#x", Directive::Setting("port".into()))]
    #[case("work_mem '4MB'", Directive::Setting("work_mem".into()))]
    #[case("include 'a b.conf'", Directive::Include("a b.conf".into()))]
    #[case("INCLUDE_DIR = 'it''s'  # more", Directive::IncludeDirectory("it's".into()))]
    #[case("include_if_exists=x.conf", Directive::IncludeIfExists("x.conf".into()))]
    fn a_line_is_told_by_its_first_word(#[case] line: &str, #[case] expected: Directive) {
        assert_eq!(Directive::of(line), expected);
    }

    #[test]
    fn complaints_name_a_line_or_a_parameter() {
        let messages = "2026 GMT [1] LOG:  syntax error in file \"/d/postgresql.conf\" line 817, near token \"XB\"\n\
            2026 GMT [1] LOG:  unrecognized configuration parameter \"max_conections\" in file \"/d/x.conf\" line 3\n\
            2026 GMT [1] LOG:  invalid value for parameter \"Max_Connections\": \"1OO\"\n\
            2026 GMT [1] LOG:  0 is outside the valid range for parameter \"port\" (1 .. 65535)\n\
            2026 GMT [1] FATAL:  configuration file \"/d/postgresql.conf\" contains errors\n";

        let found = complaints(messages);

        let name = |name: &str, words: &str| Complaint::Parameter { name: name.into(), words: words.into() };
        assert_eq!(
            found,
            [
                Complaint::Line {
                    file: "/d/postgresql.conf".into(),
                    line: 817,
                    words: "syntax error".into()
                },
                Complaint::Line {
                    file: "/d/x.conf".into(),
                    line: 3,
                    words: "unrecognized configuration parameter \"max_conections\"".into()
                },
                name("max_connections", "invalid value for parameter \"Max_Connections\": \"1OO\""),
                name("port", "0 is outside the valid range for parameter \"port\" (1 .. 65535)"),
            ]
        );
    }

    #[test]
    fn what_decides_where_a_recovery_ends_is_never_left_out() {
        for name in
            ["recovery_target_time", "restore_command", "primary_conninfo", "ssl_key_file", "hba_file"]
        {
            assert!(must_not_be_left_out(name), "{name}");
        }
        assert!(!must_not_be_left_out("max_connections") && !must_not_be_left_out("lc_messages"));
    }
}
