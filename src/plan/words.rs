//! A plan in words, for a person and for the log.

use super::diagnosis::{FileContent, RelationName, Remedy};
use super::recovery::{Action, Effect, InPlace, Plan, Replacement, Replay, Source, Step};
use serde::Serialize;
use std::fmt;

impl Plan {
    /// The plan, a line each: what it is for, its steps, what to know of the outcome.
    pub fn lines(&self) -> Vec<String> {
        let mut lines = vec![format!("plan: {}", self.purpose)];
        lines.extend(self.steps.iter().enumerate().map(|(index, step)| format!("  {}. {step}", index + 1)));
        lines.extend(self.passed_over.iter().map(|rung| format!("  not '{}': {}", rung.rung, rung.reason)));
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
            Self::Repairs => "repairs",
            Self::Reads => "reads",
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
            Self::TakeFromArchive { place } => write!(formatter, "take '{place}' from the WAL archive"),
            Self::WriteFile { place, content } => {
                write!(formatter, "write '{place}': {}", content.description)
            }
            Self::RestoreConfiguration { place } => {
                write!(
                    formatter,
                    "put a sound '{place}' in place, from the last backup that has one, else a fresh one"
                )
            }
            Self::HealFromBackup { backup, place } => {
                write!(formatter, "put the relation of '{place}' in place as it is in {backup}")
            }
            Self::ResetWal => formatter.write_str("begin a new WAL after the last checkpoint (pg_resetwal)"),
            Self::RecreateTemplate0 => formatter.write_str("make template0 anew from template1"),
            Self::Reindex { indexes, .. } => match indexes.as_slice() {
                [only] => write!(formatter, "build the index {only} anew"),
                several => {
                    let names: Vec<String> = several.iter().map(ToString::to_string).collect();
                    write!(formatter, "build {} indexes anew ({})", several.len(), names.join(", "))
                }
            },
            Self::RecoverFirst => {
                formatter.write_str("let the server replay the WAL with nobody connected, and stop it")
            }
            Self::BranchOff => {
                formatter.write_str("let the cluster take a timeline of its own when it starts")
            }
            Self::LookAgain => formatter.write_str("inspect the cluster again"),
            Self::Stop { pid } => write!(formatter, "stop the server (process {pid}) by a fast shutdown"),
            Self::Replace(replacement) => write!(formatter, "{replacement}"),
            Self::ReplaceInPlace(InPlace { backup, aside, .. }) => {
                write!(formatter, "store the present cluster as {aside}, then change its files into {backup}")
            }
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
            Self::Branched => formatter.write_str("let a copy of it take a timeline of its own"),
            Self::Salvage => formatter.write_str("dump what reads and load it into a new cluster"),
            Self::Replayed { checkpoint } => {
                write!(formatter, "replay the WAL from the checkpoint at {checkpoint} on a copy")
            }
            Self::Backup { name, replay: Replay { segments, target: Some(target), .. } } => {
                let count = crate::format::counted(segments.len(), "WAL segment");
                write!(formatter, "restore {name} and replay its WAL and {count} more to {target}")
            }
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

impl fmt::Display for Remedy {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::RecreateDirectory => formatter.write_str("make the directory anew, empty"),
            Self::SetAsideFile => formatter.write_str("move it out of the way; the server makes it anew"),
            Self::FetchBackupWal(words) => write!(formatter, "take it from the WAL archive; else {words}"),
            Self::TakeFromArchive => {
                formatter.write_str("take it from the WAL archive, else go on without it")
            }
            Self::WriteFile(content) => {
                write!(formatter, "set it aside and write it anew: {}", content.description)
            }
            Self::RestoreConfiguration => {
                formatter.write_str("take it from the last backup that has it, else write a fresh one")
            }
            Self::LeaveOut => {
                formatter.write_str("start the server without it, until somebody puts it right")
            }
            Self::Reindex(index) => write!(formatter, "build the index {index} anew from its table"),
            Self::ReplayFrom(checkpoint) => {
                write!(
                    formatter,
                    "replay the WAL from the older checkpoint at {checkpoint}, on a copy of the cluster"
                )
            }
            Self::ResetWal => formatter.write_str("begin a new WAL: nothing is left to replay"),
            Self::RecreateTemplate0 => {
                formatter.write_str("make it anew from template1; nobody can have kept anything in it")
            }
            Self::SetMode(mode) => write!(formatter, "set its mode to {mode:04o}"),
            Self::SetOwner(uid) => write!(formatter, "give every entry to user {uid}"),
            Self::MakeReadable => formatter.write_str("let the server's user read it"),
            Self::LinkTablespace => formatter
                .write_str("link the tablespace to its directory again; only a person knows where that is"),
            Self::LinkWal => formatter.write_str("mount the disk that it is on; only a person knows which"),
            Self::FreeSpace => formatter.write_str("make room on the disk"),
            Self::SeeToIt(words) => formatter.write_str(words),
            Self::RestoreOrSeeToIt(words) => {
                write!(formatter, "restore a backup that has all the WAL since; else {words}")
            }
            Self::Replace => {
                formatter.write_str("restore the cluster from a backup, or save what can still be read")
            }
            Self::Nothing => formatter.write_str("none is needed"),
        }
    }
}

impl fmt::Display for RelationName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}.{}.{}", self.database, self.schema, self.name)
    }
}

impl fmt::Debug for FileContent {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "FileContent({}, {} bytes)", self.description, self.bytes.len())
    }
}

/// The content itself would say nothing to a reader of the JSON.
impl Serialize for FileContent {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.description)
    }
}
