//! What pgbox did to a cluster, one line of JSON each, in `.pgbox/history.jsonl`.
//!
//! It stays when everything else in the data directory is replaced, and no backup holds it.

use crate::plan::BackupName;
use crate::sys::OwnDirectory;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use std::io;
use std::path::Path;

const FILE: &str = "history.jsonl";
/// Where it is, below the data directory.
pub(super) const PLACE: &str = ".pgbox/history.jsonl";
/// The time of the last event that a person has acknowledged.
const ACKNOWLEDGED: &str = "acknowledged";
/// The last part of the history that is read.
const LIMIT_BYTES: u64 = 16 << 20;

/// One thing that was done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// When.
    pub time: DateTime<Utc>,
    /// What for, in a few words.
    pub purpose: String,
    /// What was wrong before, a line for each finding.
    pub findings: Vec<String>,
    /// What was done, in the past tense.
    pub done: Vec<String>,
    /// What a person should know about the outcome.
    pub remarks: Vec<String>,
    /// The backup that the cluster comes from since then.
    pub restored_from: Option<BackupName>,
    /// The name under which the former cluster is kept.
    pub set_aside: Option<BackupName>,
}

/// Adds an event, durably.
pub fn record(data_directory: &Path, event: &Event) -> io::Result<()> {
    let line = serde_json::to_string(event).map_err(io::Error::other)?;
    OwnDirectory::open(data_directory)?.append_line(FILE, &line)
}

/// The repairs that no person has acknowledged yet, oldest first. What was done without anything being wrong, such
/// as making the first cluster, asks for no acknowledgement.
pub fn unacknowledged(data_directory: &Path) -> io::Result<Vec<Event>> {
    let until = acknowledged_until(data_directory)?;
    let is_new = |event: &Event| !event.findings.is_empty() && until.is_none_or(|until| event.time > until);
    Ok(read(data_directory)?.into_iter().filter(is_new).collect())
}

/// Notes durably that a person has read of everything up to now. Returns how many events that settles.
pub fn acknowledge(data_directory: &Path) -> io::Result<usize> {
    let events = unacknowledged(data_directory)?;
    if let Some(last) = events.last() {
        OwnDirectory::open(data_directory)?.write_durably(ACKNOWLEDGED, last.time.to_rfc3339().as_bytes())?;
    }
    Ok(events.len())
}

fn acknowledged_until(data_directory: &Path) -> io::Result<Option<DateTime<Utc>>> {
    let text = OwnDirectory::read(data_directory, ACKNOWLEDGED, 64)?;
    Ok(text.and_then(|text| DateTime::parse_from_rfc3339(text.trim()).ok()).map(|time| time.to_utc()))
}

/// The name under which the cluster is kept that was replaced last, by a restore or a recovery.
pub fn last_set_aside(data_directory: &Path) -> io::Result<Option<BackupName>> {
    Ok(read(data_directory)?.iter().rev().find_map(|event| event.set_aside))
}

/// All events, oldest first. A line that was cut short by a crash is passed over.
pub fn read(data_directory: &Path) -> io::Result<Vec<Event>> {
    let text = OwnDirectory::read(data_directory, FILE, LIMIT_BYTES)?.unwrap_or_default();
    Ok(text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect())
}
