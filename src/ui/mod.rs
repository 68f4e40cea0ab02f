//! The only printer: text, JSON, bars, prompts. Data goes to standard output, all the rest to standard error.
//!
//! On a terminal, lines are plain and coloured; elsewhere each begins with the time and the applet, so that the
//! log of a container reads well. Nothing here decides anything, and a reader that has gone away (a closed
//! pipe) is no error: what pgbox does must not depend on who watches.
//!
//! What is printed holds names and texts of others: of tables, roles, files, archive members, lines of a server's log.
//! A message is one line, and everything in it that a terminal would act on is printed as an escape (`format::escaped`),
//! a line feed too: it is never ours. What has several lines is printed line by line. To escape each name where a message
//! is made was refused: one that is forgotten would be a hole, and JSON needs the name itself.

mod plan;
mod progress;
mod table;

pub use table::Table;

use crate::error::{Failure, Kind, details_of, hint_of, kind_of};
use crate::format;
use crate::progress::Progress;
use anyhow::Context;
use console::{Style, Term};
use indicatif::ProgressBar;
use serde_json::{Value, json};
use std::borrow::Cow;
use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write};
use std::sync::{Arc, Mutex, PoisonError};

/// How a command was asked to print.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mode {
    /// Reports are JSON, one value, on standard output; no bars, and standard error has an object a line.
    pub json: bool,
}

/// How much a line matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Level {
    Info,
    Warning,
    Error,
    Hint,
}

impl Level {
    /// What it is called in JSON.
    fn name(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Error => "error",
            Self::Hint => "hint",
        }
    }

    /// What stands before the text, and in which style on a terminal.
    fn label(self) -> Option<(&'static str, Style)> {
        let style = Style::new().for_stderr().bold();
        match self {
            Self::Info => None,
            Self::Warning => Some(("warning:", style.yellow())),
            Self::Error => Some(("error:", style.red())),
            Self::Hint => Some(("hint:", style.cyan())),
        }
    }
}

/// Standard error, shared by lines and bars, so that neither is drawn into the other.
#[derive(Debug)]
struct Output {
    applet: &'static str,
    is_terminal: bool,
    json: bool,
    bar: Mutex<Option<ProgressBar>>,
}

impl Output {
    fn draws_bars(&self) -> bool {
        // NO_COLOR stands for "plain output" (STYLE.md), and a dumb terminal cannot redraw a line.
        self.is_terminal && !self.json && console::colors_enabled_stderr()
    }

    fn set_bar(&self, bar: Option<ProgressBar>) {
        let mut current = self.bar.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(old) = std::mem::replace(&mut *current, bar) {
            old.finish_and_clear();
        }
    }

    fn with_bar(&self, act: impl FnOnce(&ProgressBar)) {
        if let Some(bar) = self.bar.lock().unwrap_or_else(PoisonError::into_inner).as_ref() {
            act(bar);
        }
    }

    /// Prints one message, on a line of its own.
    fn line(&self, level: Level, text: &str) {
        self.print(&self.rendered(level, text));
    }

    /// Prints what is rendered already.
    fn print(&self, text: &str) {
        // Whoever read standard error is gone, or its disk is full: there is nobody left to tell.
        let print = || drop(io::stderr().lock().write_all(text.as_bytes()));
        match self.bar.lock().unwrap_or_else(PoisonError::into_inner).as_ref() {
            Some(bar) => bar.suspend(print),
            None => print(),
        }
    }

    fn rendered(&self, level: Level, text: &str) -> String {
        if self.json {
            return json_line(json!({ "level": level.name(), "message": format::printable(text) }));
        }
        let text = format::escaped(text);
        let label =
            level.label().map_or_else(String::new, |(label, style)| format!("{} ", style.apply_to(label)));
        if self.is_terminal {
            return format!("{label}{text}\n");
        }
        format!("{} {}: {label}{text}\n", format::time(chrono::Utc::now()), self.applet)
    }
}

fn print_data(text: &str) -> anyhow::Result<()> {
    let mut stdout = io::stdout().lock();
    ignore_closed_pipe(writeln!(stdout, "{text}").and_then(|()| stdout.flush()))
}

/// One object on a line of its own, with the time.
fn json_line(mut object: Value) -> String {
    if let Some(fields) = object.as_object_mut() {
        fields.insert("time".to_owned(), Value::String(format::time(chrono::Utc::now())));
    }
    format!("{}\n", escaped_json(&object.to_string()))
}

/// Writes what a terminal would act on as JSON has it (`\u202e`): the value is the same. JSON itself asks for that only of
/// what is below a space, which therefore is in no text of it but between the values.
fn escaped_json(text: &str) -> Cow<'_, str> {
    let is_escaped = |character: char| !character.is_ascii() && format::is_unprintable(character);
    let is_escaped = |character: char| character == '\x7f' || is_escaped(character);
    if !text.contains(is_escaped) {
        return Cow::Borrowed(text);
    }
    let mut escaped = String::with_capacity(text.len() + 16);
    for character in text.chars() {
        if !is_escaped(character) {
            escaped.push(character);
            continue;
        }
        for unit in character.encode_utf16(&mut [0; 2]) {
            // Writing to a string never fails.
            let _ = write!(escaped, "\\u{unit:04x}");
        }
    }
    Cow::Owned(escaped)
}

/// What a command prints with.
#[derive(Clone, Debug)]
pub struct Ui {
    output: Arc<Output>,
}

impl Ui {
    /// A printer for one applet.
    pub fn new(mode: Mode, applet: &'static str) -> Self {
        let output = Output {
            applet,
            is_terminal: io::stderr().is_terminal(),
            json: mode.json,
            bar: Mutex::new(None),
        };
        Self { output: Arc::new(output) }
    }

    /// Tells that a state changed.
    pub fn info(&self, text: &str) {
        self.output.line(Level::Info, text);
    }

    /// Tells of something unexpected, after which work went on.
    pub fn warn(&self, text: &str) {
        self.output.line(Level::Warning, text);
    }

    /// Tells of something that a person must look at.
    pub fn error(&self, text: &str) {
        self.output.line(Level::Error, text);
    }

    /// Tells what a person can do.
    pub fn hint(&self, text: &str) {
        self.output.line(Level::Hint, text);
    }

    /// Whether reports are JSON.
    pub fn is_json(&self) -> bool {
        self.output.json
    }

    /// Prints a line of data to standard output.
    pub fn data(&self, text: &str) -> anyhow::Result<()> {
        print_data(&format::escaped(text))
    }

    /// Prints lines of data to standard output.
    pub fn lines<T: AsRef<str>>(&self, lines: &[T]) -> anyhow::Result<()> {
        let lines: Vec<_> = lines.iter().map(|line| format::escaped(line.as_ref())).collect();
        print_data(&lines.join("\n"))
    }

    /// Prints a text of ours as it is to standard output, such as a script for a shell: nobody's name is in it.
    pub fn verbatim(&self, text: &str) -> anyhow::Result<()> {
        print_data(text)
    }

    /// Prints a value as JSON to standard output.
    pub fn json(&self, value: &impl serde::Serialize) -> anyhow::Result<()> {
        print_data(&escaped_json(&serde_json::to_string_pretty(value).context("render JSON")?))
    }

    /// Prints a list to standard output.
    pub fn table(&self, table: &Table) -> anyhow::Result<()> {
        self.lines(&table.lines())
    }

    /// A watcher that shows how far work is: a bar on a terminal, else a line when a stage begins and ends.
    pub fn progress(&self) -> impl Progress + use<> {
        progress::Shown::new(Arc::clone(&self.output))
    }

    /// Whether a person can be asked: standard input and standard error are a terminal, and no JSON was asked for.
    pub fn is_interactive(&self) -> bool {
        self.output.is_terminal && !self.output.json && io::stdin().is_terminal()
    }

    /// Asks the person to type a name before something is done to it. The plan must have been shown before.
    ///
    /// The answer is never read from a pipe: what comes through it may be a dump.
    ///
    /// # Errors
    /// [`Kind::Refused`] if nobody can be asked, or something else is typed.
    pub fn confirm_by_typing(&self, name: &str) -> Result<(), Failure> {
        let refused = |reason: &str| {
            let hint = "run it again, and type the name or give --yes, once the plan is what you want. Nothing was changed.";
            Failure::new(Kind::Refused, reason).hint(hint)
        };
        if !self.is_interactive() {
            return Err(refused("this needs a person's word, and there is no terminal to ask at"));
        }
        self.output.line(Level::Info, &format!("Type {name} to go on:"));
        let answer =
            Term::stderr().read_line().map_err(|error| refused(&format!("could not ask: {error}")))?;
        if answer.trim() != name {
            return Err(refused(&format!("'{}' is not '{name}'", answer.trim())));
        }
        Ok(())
    }

    /// Prints an error with its causes as one sentence and then what to do; as JSON too where that was asked for.
    pub fn report_error(&self, error: &anyhow::Error) {
        self.output.set_bar(None);
        let (message, hint) = (sentence(error), hint_of(error));
        let details = details_of(error);
        self.error(&message);
        for line in details {
            self.error(line);
        }
        if let Some(hint) = &hint {
            self.hint(hint);
        }
        if self.is_json() {
            let kind = kind_of(error);
            let message = [&[message], details].concat().join("\n");
            let object = serde_json::json!({ "error": {
                "kind": kind_name(kind), "exit_status": kind.exit_status(), "message": message, "hint": hint,
            }});
            // Standard error has the message already.
            let _ = self.json(&object);
        }
    }
}

fn ignore_closed_pipe(result: io::Result<()>) -> anyhow::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => result.context("write to standard output"),
    }
}

/// The chain of causes as one sentence. A cause that the one before quotes already is not said twice.
fn sentence(error: &anyhow::Error) -> String {
    let mut parts: Vec<String> = Vec::new();
    for cause in error.chain() {
        let text = cause.to_string();
        if !parts.last().is_some_and(|last| last.ends_with(&text)) {
            parts.push(text);
        }
    }
    parts.join(": ")
}

fn kind_name(kind: Kind) -> &'static str {
    match kind {
        Kind::Failed => "failed",
        Kind::ServerFailed => "server-failed",
        Kind::Usage => "usage",
        Kind::NoSuchBackup => "no-such-backup",
        Kind::VerificationFailed => "verification-failed",
        Kind::Busy => "busy",
        Kind::Refused => "refused",
        Kind::ProgramMissing => "program-missing",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn output(is_terminal: bool) -> Output {
        Output { applet: "maintenance", is_terminal, json: false, bar: Mutex::new(None) }
    }

    #[test]
    fn away_from_a_terminal_every_line_has_time_and_applet() {
        let text = output(false).rendered(Level::Warning, "one");

        let (time, rest) = text.split_once(' ').unwrap();
        assert!(time.len() == 20 && time.ends_with('Z'), "{time}");
        assert_eq!(rest, "maintenance: warning: one\n");
    }

    /// Names that would change what a person sees, or forge a line of the log.
    const NAMES: [&str; 9] = [
        "a\x1b]0;owned\x07b",
        "a\x1b[2Jb",
        "a\u{9b}2Jb",
        "a\nerror: run this",
        "a\rb",
        "a\x08b\x7f",
        "a\u{85}b\u{2028}c",
        "a\u{202e}b\u{2066}c",
        "a\u{200b}b\u{e0041}",
    ];

    #[test]
    fn a_name_in_a_message_is_printed_on_one_line_without_anything_that_a_terminal_acts_on() {
        for name in NAMES {
            for is_terminal in [false, true] {
                let text = output(is_terminal).rendered(Level::Info, &format!("removed '{name}'"));
                let line = text.strip_suffix('\n').unwrap();
                assert!(!line.contains(format::is_unprintable), "{line:?}");
            }
        }
    }

    #[test]
    fn json_keeps_every_name_and_prints_none_of_it_that_a_terminal_acts_on() {
        for name in NAMES {
            let text = serde_json::to_string_pretty(&json!({ "name": name })).unwrap();
            let escaped = escaped_json(&text);
            assert!(escaped.lines().all(|line| !line.contains(format::is_unprintable)), "{escaped:?}");
            assert_eq!(serde_json::from_str::<Value>(&escaped).unwrap()["name"], name);
        }
    }

    #[test]
    fn on_a_terminal_a_line_is_plain() {
        assert_eq!(output(true).rendered(Level::Info, "done"), "done\n");
    }

    #[test]
    fn a_chain_of_causes_is_one_sentence_that_says_nothing_twice() {
        let error = anyhow::Error::new(io::Error::other("disk full"))
            .context("write x: disk full")
            .context("back up");
        assert_eq!(sentence(&error), "back up: write x: disk full");
    }

    #[test]
    fn a_closed_pipe_is_no_error() {
        assert!(ignore_closed_pipe(Err(io::ErrorKind::BrokenPipe.into())).is_ok());
        assert!(ignore_closed_pipe(Err(io::ErrorKind::StorageFull.into())).is_err());
    }

    #[test]
    fn without_a_terminal_nobody_is_asked() {
        let failure = Ui::new(Mode { json: true }, "maintenance").confirm_by_typing("x").unwrap_err();
        assert_eq!(failure.kind(), Kind::Refused);
    }
}
