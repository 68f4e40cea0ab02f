//! A plan in words, for a person and for the log.

use super::recovery::{Action, Effect, Plan, Replacement, Source, Step};
use std::fmt;

impl Plan {
    /// The plan, a line each: what it is for, its steps, what to know of the outcome.
    pub fn lines(&self) -> Vec<String> {
        let mut lines = vec![format!("plan: {}", self.purpose)];
        lines.extend(self.steps.iter().enumerate().map(|(index, step)| format!("  {}. {step}", index + 1)));
        lines.extend(self.remarks.iter().map(|remark| format!("  {remark}")));
        lines
    }
}

impl fmt::Display for Effect {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Adds => "adds",
            Self::Adjusts => "adjusts",
            Self::SetsAside => "sets aside",
            Self::Replaces => "replaces",
            Self::Stops => "stops",
            Self::Starts => "starts",
        })
    }
}

impl fmt::Display for Step {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "[{}] {}: {}", self.effect, self.action, self.reason)
    }
}

impl fmt::Display for Action {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::FinishReplacement(journal) => write!(formatter, "finish '{}'", journal.operation),
            Self::SetOwner { uid } => write!(formatter, "give every entry to user {uid}"),
            Self::SetMode { place, mode } => write!(formatter, "set the mode of '{place}' to {mode:04o}"),
            Self::RecreateDirectory { place } => write!(formatter, "make the directory '{place}' anew"),
            Self::SetAsideFile { place } => write!(formatter, "move '{place}' out of the way"),
            Self::Stop { pid } => write!(formatter, "stop the server (process {pid}) by a fast shutdown"),
            Self::Replace(replacement) => write!(formatter, "{replacement}"),
            Self::Start => formatter.write_str("start the server and verify it by two connections"),
        }
    }
}

impl fmt::Display for Replacement {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sources = match self.sources.as_slice() {
            [] => "nothing".to_owned(),
            [only] => only.to_string(),
            [first, second] => format!("{first}, or if that cannot be used, {second}"),
            [first, others @ ..] => {
                format!("{first}, or if that cannot be used, the next of {} others", others.len())
            }
        };
        match &self.aside {
            Some(aside) => write!(formatter, "set the present cluster aside as {aside}, and {sources}"),
            None => formatter.write_str(&sources),
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fresh => formatter.write_str("make a new cluster"),
            Self::Backup { name, replay } => match replay.segments.len() {
                0 => write!(formatter, "restore {name}"),
                count => {
                    let count = crate::format::counted(count, "WAL segment");
                    write!(formatter, "restore {name} and replay {count} written since")
                }
            },
        }
    }
}
