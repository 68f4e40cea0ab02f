//! The backup label, `backup_label`: it makes recovery start at the beginning of a base backup.
//!
//! A label always wins over the control file, and deleting it from a restored backup corrupts the cluster
//! silently. Reading it is all that is done here.

use serde::{Deserialize, Serialize};

use super::{Lsn, TimelineId, wal};

/// The content of a backup label.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupLabel {
    /// The redo point: recovery replays from here.
    pub start_wal_location: Lsn,
    /// The WAL segment that holds it.
    pub start_wal_file: String,
    /// The timeline on which the backup began, from the name of that segment.
    pub start_timeline: TimelineId,
    /// Where the checkpoint record of the backup begins.
    pub checkpoint_location: Lsn,
    /// How the backup was taken.
    pub backup_method: Option<BackupMethod>,
    /// What kind of server it was taken from.
    pub backup_from: Option<BackupOrigin>,
    /// When it began, in the words and the time zone of the server.
    pub start_time: Option<String>,
    /// The name that the user gave it.
    pub label: Option<String>,
    /// Set for an incremental backup: such a directory is no cluster until `pg_combinebackup` has completed
    /// it, and the server refuses to start on it.
    pub incremental_from: Option<IncrementalFrom>,
}

/// How a backup was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BackupMethod {
    /// By `pg_basebackup` or the functions for backups: recovery must reach the end of the backup.
    Streamed,
    /// By an exclusive backup, which ended with 14: the label then lay in the running cluster itself, and may
    /// be the leftover of a crash.
    Exclusive,
}

/// What kind of server a backup was taken from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BackupOrigin {
    /// A primary, also where an old server wrote `master`.
    Primary,
    /// A standby: the control file holds the end of the backup.
    Standby,
}

/// The backup on which an incremental one builds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct IncrementalFrom {
    /// Where that backup began.
    pub lsn: Lsn,
    /// The timeline on which it began, if the label says so.
    pub timeline: Option<TimelineId>,
}

/// Why a backup label cannot be used. The server would not start with it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BackupLabelError {
    /// A line that recovery needs is not there, cut short or changed.
    #[error("backup_label has no valid line {line:?}")]
    InvalidLine {
        /// The name of the line.
        line: &'static str,
    },
    /// The timeline of the start segment is not the one that the label names.
    #[error("backup_label names timeline {named}, but its WAL file {file} is of timeline {of_file}")]
    OtherTimeline {
        /// The timeline that it names.
        named: TimelineId,
        /// The name of the start segment.
        file: String,
        /// The timeline of the start segment.
        of_file: TimelineId,
    },
}

const START_WAL_LOCATION: &str = "START WAL LOCATION";
const CHECKPOINT_LOCATION: &str = "CHECKPOINT LOCATION";
const START_TIMELINE: &str = "START TIMELINE";
const INCREMENTAL_FROM_LSN: &str = "INCREMENTAL FROM LSN";

impl BackupLabel {
    /// Reads a backup label, with the strictness of the server (PostgreSQL: `read_backup_label()` in
    /// xlogrecovery.c): the first two lines must be whole and end in a bare line feed, all others may be
    /// absent.
    ///
    /// The text may come from bytes that are not UTF-8, since a label's name need not be: a lossy conversion
    /// changes nothing that recovery needs.
    ///
    /// # Errors
    /// [`BackupLabelError`], of either kind.
    pub fn parse(text: &str) -> Result<Self, BackupLabelError> {
        let (start, rest) = required_line(text, START_WAL_LOCATION)?;
        let (checkpoint, rest) = required_line(rest, CHECKPOINT_LOCATION)?;
        let start = StartWalLocation::parse(start).ok_or_else(|| invalid(START_WAL_LOCATION))?;
        check_timeline(rest, &start)?;
        Ok(Self {
            start_wal_location: start.lsn,
            start_wal_file: start.file,
            start_timeline: start.timeline,
            checkpoint_location: checkpoint.parse().map_err(|_| invalid(CHECKPOINT_LOCATION))?,
            backup_method: value(rest, "BACKUP METHOD").map(BackupMethod::from_text),
            backup_from: value(rest, "BACKUP FROM").map(BackupOrigin::from_text),
            start_time: value(rest, "START TIME").map(str::to_owned),
            label: value(rest, "LABEL").map(str::to_owned),
            incremental_from: IncrementalFrom::find(rest)?,
        })
    }
}

impl BackupMethod {
    /// The server, too, knows only `streamed` and all others.
    fn from_text(text: &str) -> Self {
        if text == "streamed" { Self::Streamed } else { Self::Exclusive }
    }
}

impl BackupOrigin {
    /// The server, too, knows only `standby` and all others.
    fn from_text(text: &str) -> Self {
        if text == "standby" { Self::Standby } else { Self::Primary }
    }
}

impl IncrementalFrom {
    /// Finds the lines of an incremental backup. A garbled LSN is an error, lest the backup pass for a whole
    /// one.
    fn find(lines: &str) -> Result<Option<Self>, BackupLabelError> {
        let Some(lsn) = value(lines, INCREMENTAL_FROM_LSN) else {
            return Ok(None);
        };
        let lsn = lsn.parse().map_err(|_| invalid(INCREMENTAL_FROM_LSN))?;
        let timeline = value(lines, "INCREMENTAL FROM TLI").and_then(|timeline| timeline.parse().ok());
        Ok(Some(Self { lsn, timeline: timeline.map(TimelineId) }))
    }
}

/// The parts of the first line, such as `0/2000028 (file 000000010000000000000002)`.
struct StartWalLocation {
    lsn: Lsn,
    file: String,
    timeline: TimelineId,
}

impl StartWalLocation {
    fn parse(text: &str) -> Option<Self> {
        let (lsn, file) = text.strip_suffix(')')?.split_once(" (file ")?;
        if !wal::is_segment_name(file) {
            return None;
        }
        let timeline = u32::from_str_radix(file.get(..8)?, 16).ok().map(TimelineId)?;
        Some(Self { lsn: lsn.parse().ok()?, file: file.to_owned(), timeline })
    }
}

/// Splits off a line that must come next, and returns its value and what follows it.
fn required_line<'a>(text: &'a str, line: &'static str) -> Result<(&'a str, &'a str), BackupLabelError> {
    let (first, rest) = text.split_once('\n').ok_or_else(|| invalid(line))?;
    let value = strip_name(first, line).ok_or_else(|| invalid(line))?;
    Ok((value, rest))
}

/// Returns the value of the first line of that name.
fn value<'a>(lines: &'a str, name: &str) -> Option<&'a str> {
    lines.lines().find_map(|line| strip_name(line, name))
}

fn strip_name<'a>(line: &'a str, name: &str) -> Option<&'a str> {
    line.strip_prefix(name)?.strip_prefix(": ")
}

/// Checks that the timeline that the label names, if any, is that of its start segment.
fn check_timeline(lines: &str, start: &StartWalLocation) -> Result<(), BackupLabelError> {
    let Some(named) = value(lines, START_TIMELINE) else {
        return Ok(());
    };
    let named = named.parse().map(TimelineId).map_err(|_| invalid(START_TIMELINE))?;
    if named != start.timeline {
        let (file, of_file) = (start.file.clone(), start.timeline);
        return Err(BackupLabelError::OtherTimeline { named, file, of_file });
    }
    Ok(())
}

fn invalid(line: &'static str) -> BackupLabelError {
    BackupLabelError::InvalidLine { line }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    /// What `pg_basebackup` of PostgreSQL 15 wrote.
    const LABEL: &str = "START WAL LOCATION: 0/2000028 (file 000000010000000000000002)\n\
        CHECKPOINT LOCATION: 0/2000060\n\
        BACKUP METHOD: streamed\n\
        BACKUP FROM: primary\n\
        START TIME: 2026-11-20 13:19:29 UTC\n\
        LABEL: pg_basebackup base backup\n\
        START TIMELINE: 1\n";

    fn expected() -> BackupLabel {
        BackupLabel {
            start_wal_location: Lsn(0x0200_0028),
            start_wal_file: "000000010000000000000002".to_owned(),
            start_timeline: TimelineId(1),
            checkpoint_location: Lsn(0x0200_0060),
            backup_method: Some(BackupMethod::Streamed),
            backup_from: Some(BackupOrigin::Primary),
            start_time: Some("2026-11-20 13:19:29 UTC".to_owned()),
            label: Some("pg_basebackup base backup".to_owned()),
            incremental_from: None,
        }
    }

    #[test]
    fn a_real_label_is_read() {
        assert_eq!(BackupLabel::parse(LABEL), Ok(expected()));
    }

    #[test]
    fn two_lines_are_enough() {
        let lines: String = LABEL.split_inclusive('\n').take(2).collect();

        let label = BackupLabel::parse(&lines).unwrap();

        assert_eq!(
            (label.start_wal_location, label.checkpoint_location),
            (Lsn(0x0200_0028), Lsn(0x0200_0060))
        );
        assert_eq!((label.backup_method, label.backup_from, label.label), (None, None, None));
    }

    #[test]
    fn a_label_of_an_exclusive_backup_or_a_standby_says_so() {
        let text = LABEL.replace("streamed", "pg_start_backup").replace("primary", "standby");

        let label = BackupLabel::parse(&text).unwrap();

        assert_eq!(label.backup_method, Some(BackupMethod::Exclusive));
        assert_eq!(label.backup_from, Some(BackupOrigin::Standby));
    }

    #[test]
    fn a_label_from_before_15_calls_the_primary_master() {
        let label = BackupLabel::parse(&LABEL.replace("primary", "master")).unwrap();

        assert_eq!(label.backup_from, Some(BackupOrigin::Primary));
    }

    #[test]
    fn an_incremental_backup_is_recognised() {
        let text = format!("{LABEL}INCREMENTAL FROM LSN: 0/1000028\nINCREMENTAL FROM TLI: 1\n");

        let from = IncrementalFrom { lsn: Lsn(0x0100_0028), timeline: Some(TimelineId(1)) };
        assert_eq!(BackupLabel::parse(&text).unwrap().incremental_from, Some(from));
        assert_eq!(BackupLabel::parse(&text.replace("0/1000028", "?")), Err(invalid("INCREMENTAL FROM LSN")));
    }

    #[test]
    fn a_name_of_any_text_does_not_disturb_the_other_lines() {
        let text = LABEL.replace("pg_basebackup base backup", "LABEL: \u{fffd} (file x)");

        assert_eq!(BackupLabel::parse(&text).unwrap().label.as_deref(), Some("LABEL: \u{fffd} (file x)"));
    }

    #[test]
    fn a_timeline_other_than_that_of_the_segment_is_refused() {
        let error = BackupLabel::parse(&LABEL.replace("TIMELINE: 1", "TIMELINE: 2")).unwrap_err();

        assert_eq!(
            error.to_string(),
            "backup_label names timeline 2, but its WAL file 000000010000000000000002 is of timeline 1"
        );
    }

    #[rstest]
    #[case::empty("", START_WAL_LOCATION)]
    #[case::cut_in_the_first_line("START WAL LOCATION: 0/2000028 (file 00000001", START_WAL_LOCATION)]
    #[case::no_line_feed("START WAL LOCATION: 0/2000028 (file 000000010000000000000002)", START_WAL_LOCATION)]
    #[case::one_line("START WAL LOCATION: 0/2000028 (file 000000010000000000000002)\n", CHECKPOINT_LOCATION)]
    fn a_label_cut_short_is_refused(#[case] text: &str, #[case] line: &'static str) {
        assert_eq!(BackupLabel::parse(text), Err(invalid(line)));
    }

    #[rstest]
    #[case::line_ends_converted(LABEL.replace('\n', "\r\n"), START_WAL_LOCATION)]
    #[case::no_lsn(LABEL.replace("0/2000028", "2000028"), START_WAL_LOCATION)]
    #[case::no_segment(LABEL.replace("file 0000", "file 00"), START_WAL_LOCATION)]
    #[case::no_checkpoint(LABEL.replace("0/2000060", ""), CHECKPOINT_LOCATION)]
    #[case::no_timeline(LABEL.replace("TIMELINE: 1", "TIMELINE: one"), START_TIMELINE)]
    fn a_label_that_was_changed_is_refused(#[case] text: String, #[case] line: &'static str) {
        assert_eq!(BackupLabel::parse(&text), Err(invalid(line)));
    }

    proptest! {
        #[test]
        fn arbitrary_text_never_panics(text: String, cut in 0..LABEL.len(), inserted: char) {
            let _ = BackupLabel::parse(&text);
            let _ = BackupLabel::parse(&format!("{}{inserted}{}", &LABEL[..cut], &LABEL[cut..]));
            let _ = BackupLabel::parse(&LABEL[..cut]);
        }
    }
}
