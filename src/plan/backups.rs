//! What a backup is, as plain data: its name, and what its `backup.json` tells.
//!
//! Decisions are made on these values, so nothing here knows where backups are kept.

use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, Local, NaiveDate, NaiveDateTime, TimeZone, Utc};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::diagnosis::RelationName;
use super::verification::Verification;
use crate::pg::wal::{WalFileName, WalRange};
use crate::pg::{BlockNumber, Lsn, MajorVersion, SystemIdentifier, TimelineId};

/// What a directory in the repository is a copy of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BackupKind {
    /// A restore point, `data_…`.
    Backup,
    /// A data directory that was found damaged, `damaged_…`. It is never restored by itself.
    Damaged,
    /// A data directory that a restore replaced, `replaced_…`. It is never restored by itself.
    Replaced,
}

impl BackupKind {
    const ALL: [Self; 3] = [Self::Backup, Self::Damaged, Self::Replaced];

    fn prefix(self) -> &'static str {
        match self {
            Self::Backup => "data_",
            Self::Damaged => "damaged_",
            Self::Replaced => "replaced_",
        }
    }
}

/// The name of a backup: its kind, the local time at which it was begun, and a number where several were begun in
/// one second. Its text is `data_20261120_114010` or `data_20261120_114010_2`.
///
/// Whatever else a person or a directory listing brings is no name, so that none can lead out of the repository.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BackupName {
    time: NaiveDateTime,
    sequence: u16,
    kind: BackupKind,
}

/// A text that names no backup.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not the name of a backup: expected one such as data_20261120_114010")]
pub struct ParseBackupNameError(String);

const TIME_FORMAT: &str = "%Y%m%d_%H%M%S";
const TIME_LENGTH: usize = "20261120_114010".len();

impl BackupName {
    /// The name of a backup that begins at `time`, the first one of that second.
    pub fn new(kind: BackupKind, time: DateTime<Utc>) -> Self {
        let text = time.with_timezone(&Local).format(TIME_FORMAT).to_string();
        // Through the text, since the name has whole seconds only.
        let time = NaiveDateTime::parse_from_str(&text, TIME_FORMAT).unwrap_or(time.naive_utc());
        Self { time, sequence: 1, kind }
    }

    /// The next name of the same second, or `None` after ten thousand.
    #[must_use]
    pub fn next_of_same_second(self) -> Option<Self> {
        (self.sequence < 9999).then(|| Self { sequence: self.sequence + 1, ..self })
    }

    /// What the backup is a copy of.
    pub fn kind(self) -> BackupKind {
        self.kind
    }

    /// When the backup was begun, as far as the name tells.
    pub fn time(self) -> DateTime<Utc> {
        // In the hour that is repeated when summer time ends, the earlier one; in the one that is skipped, UTC.
        let local = Local.from_local_datetime(&self.time).earliest();
        local.map_or_else(|| self.time.and_utc(), |time| time.with_timezone(&Utc))
    }

    /// The local day on which the backup was begun.
    pub fn date(self) -> NaiveDate {
        self.time.date()
    }

    fn parse(text: &str) -> Option<Self> {
        let with_prefix = |kind: &BackupKind| Some((*kind, text.strip_prefix(kind.prefix())?));
        let (kind, rest) = BackupKind::ALL.iter().find_map(with_prefix)?;
        let (time, sequence) = rest.split_at_checked(TIME_LENGTH)?;
        // The digits are checked here because chrono also takes signs and spaces.
        let is_digit_or_separator = |(index, byte): (usize, u8)| match index {
            8 => byte == b'_',
            _ => byte.is_ascii_digit(),
        };
        if !time.bytes().enumerate().all(is_digit_or_separator) {
            return None;
        }
        let time = NaiveDateTime::parse_from_str(time, TIME_FORMAT).ok()?;
        Some(Self { time, sequence: parse_sequence(sequence)?, kind })
    }
}

/// Reads the number at the end of a name: nothing for the first, then `_2` to `_9999`.
fn parse_sequence(text: &str) -> Option<u16> {
    if text.is_empty() {
        return Some(1);
    }
    let digits = text.strip_prefix('_')?;
    let is_canonical = digits.bytes().all(|byte| byte.is_ascii_digit()) && !digits.starts_with('0');
    digits.parse().ok().filter(|number| is_canonical && (2..=9999).contains(number))
}

impl fmt::Display for BackupName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = format!("{}{}", self.kind.prefix(), self.time.format(TIME_FORMAT));
        match self.sequence {
            1 => formatter.pad(&text),
            sequence => formatter.pad(&format!("{text}_{sequence}")),
        }
    }
}

impl FromStr for BackupName {
    type Err = ParseBackupNameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text).ok_or_else(|| ParseBackupNameError(text.chars().take(64).collect()))
    }
}

impl Serialize for BackupName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for BackupName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

/// How a backup is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BackupFormat {
    /// A table of files whose contents are chunks in packs.
    Chunked,
    /// A plain copy of the data directory, made by the shell scripts that pgbox replaces.
    ScriptCopy,
}

/// Whether a backup can be used at all.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "state")]
pub enum Condition {
    /// It was finished, and what tells of it is sound.
    Complete,
    /// What tells of it is damaged.
    Unreadable {
        /// Why, in words.
        reason: String,
    },
}

/// A page whose checksum or header was wrong when the backup read it, twice with the same content.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DamagedPage {
    /// The file, relative to the data directory.
    pub file: String,
    /// The relation that it belongs to, where the catalogs told.
    #[serde(default)]
    pub relation: Option<RelationName>,
    /// The block, counted across the segment files of the relation.
    pub block: BlockNumber,
    /// What is wrong with it, in words.
    #[serde(default)]
    pub problem: String,
}

impl fmt::Display for DamagedPage {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "block {} of {}", self.block, self.file)?;
        if let Some(relation) = &self.relation {
            write!(formatter, " ({relation})")?;
        }
        match self.problem.as_str() {
            "" => Ok(()),
            problem => write!(formatter, ": {problem}"),
        }
    }
}

/// One backup as a listing shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupSummary {
    /// Its name.
    pub name: BackupName,
    /// How it is stored.
    pub format: BackupFormat,
    /// When it was begun.
    pub created_at: DateTime<Utc>,
    /// When it was finished.
    pub finished_at: Option<DateTime<Utc>>,
    /// The data directory that it is a copy of; `None` where it does not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data_directory: Option<String>,
    /// The cluster that it is a copy of.
    pub system_identifier: Option<SystemIdentifier>,
    /// The major version that wrote the cluster.
    pub major_version: Option<MajorVersion>,
    /// The timeline of the backup's WAL.
    pub timeline: Option<TimelineId>,
    /// Where recovery from it begins.
    pub start_lsn: Option<Lsn>,
    /// Where it becomes consistent.
    pub stop_lsn: Option<Lsn>,
    /// Where the last checkpoint record of its control file begins.
    pub checkpoint_lsn: Option<Lsn>,
    /// The size of the cluster's WAL segments.
    pub wal_segment_size_bytes: Option<u32>,
    /// The size of all its files.
    pub size_bytes: u64,
    /// What it added to the repository.
    pub stored_bytes: u64,
    /// The size of the files that were not read for it, since size and time showed them to be those of the backup
    /// before.
    #[serde(default)]
    pub reused_bytes: u64,
    /// How many files it has.
    pub file_count: u64,
    /// The pages that were already damaged when it was made.
    pub damaged_pages: Vec<DamagedPage>,
    /// Whether it can be used.
    pub condition: Condition,
    /// Whether it was made elsewhere, by whoever: it is to be trusted as a program is.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub imported: bool,
    /// What a person or pgbox said of it.
    pub note: Option<String>,
    /// What is known of its soundness. It stands in a file of its own, since the document never changes.
    #[serde(default, skip_serializing_if = "Verification::is_never")]
    pub verification: Verification,
    /// That it is not to be removed, if a person said so. It stands in a file of its own, too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pin: Option<Pin>,
}

/// A person's word that a backup is not to be removed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pin {
    /// When it was given; `None` where the pin cannot be read.
    pub pinned_at: Option<DateTime<Utc>>,
    /// Why.
    pub note: Option<String>,
}

impl BackupSummary {
    /// A summary that tells no more than a name and how the backup is stored.
    pub fn unknown(name: BackupName, format: BackupFormat) -> Self {
        Self {
            name,
            format,
            created_at: name.time(),
            finished_at: None,
            data_directory: None,
            system_identifier: None,
            major_version: None,
            timeline: None,
            start_lsn: None,
            stop_lsn: None,
            checkpoint_lsn: None,
            wal_segment_size_bytes: None,
            size_bytes: 0,
            stored_bytes: 0,
            reused_bytes: 0,
            file_count: 0,
            damaged_pages: Vec::new(),
            condition: Condition::Complete,
            imported: false,
            note: None,
            verification: Verification::Never,
            pin: None,
        }
    }

    /// The WAL that makes it consistent; `None` for a copy that needs none, or of which that is not known.
    pub fn wal_range(&self) -> Option<WalRange> {
        WalRange::new(self.start_lsn?, self.stop_lsn?, self.timeline?, self.wal_segment_size_bytes?).ok()
    }

    /// The last WAL segment that it has itself. A backup ends with a switch to a new segment, so that its end is a
    /// boundary, which belongs to the segment before it.
    pub fn last_segment(&self) -> Option<WalFileName> {
        let (stop, timeline) = self.stop_lsn.zip(self.timeline)?;
        WalFileName::containing(Lsn(stop.0.saturating_sub(1)), timeline, self.wal_segment_size_bytes?).ok()
    }

    /// Whether it is a complete copy without known damage. One whose verdict cannot be read may have any,
    /// and one that was not proven has some.
    pub fn is_good(&self) -> bool {
        let is_doubtful = matches!(self.verification, Verification::Unreadable { .. });
        let has_failed = self.verification.proof().is_some_and(|proof| !proof.is_passed());
        self.is_usable() && self.damaged_pages.is_empty() && !is_doubtful && !has_failed
    }

    /// Whether it is good, and was seen to be so by a verification.
    pub fn is_verified(&self) -> bool {
        self.is_good() && self.verification.verdict().is_some()
    }

    /// Whether it can be restored from: it can be read, and its newest verdict is not that it is damaged.
    pub fn is_usable(&self) -> bool {
        self.is_complete() && !self.verification.is_damaged()
    }

    /// Whether it can be read, damaged pages or not.
    pub fn is_complete(&self) -> bool {
        self.condition == Condition::Complete
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_of_every_kind_are_read_and_printed_alike() {
        for (text, kind) in [
            ("data_20261120_114010", BackupKind::Backup),
            ("data_20261120_114010_2", BackupKind::Backup),
            ("damaged_19991231_235959", BackupKind::Damaged),
            ("replaced_20240229_000000_9999", BackupKind::Replaced),
        ] {
            let name: BackupName = text.parse().unwrap();
            assert_eq!(name.to_string(), text);
            assert_eq!(name.kind(), kind);
        }
    }

    #[test]
    fn what_could_leave_the_repository_or_is_no_time_is_refused() {
        for text in [
            "",
            ".",
            "../../etc",
            "-rf",
            "data_",
            "data_20261120_114010\n",
            "data_20261120_114010/..",
            "data_20261120_114010_",
            "data_20261120_114010_1",
            "data_20261120_114010_02",
            "data_20261120_114010_10000",
            "data_20261120-114010",
            "data_20261320_114010",
            "data_20261120_256010",
            "data_+0261120_114010",
            "data_ 2026112_114010",
            "dåta_20261120_114010",
            "data_2026112ø_114010",
            "Data_20261120_114010",
            "data_20261120_114010\0",
        ] {
            let error = text.parse::<BackupName>().unwrap_err();
            assert!(!error.to_string().contains('\n'), "{error}");
        }
    }

    #[test]
    fn names_sort_by_time_and_then_by_number() {
        let mut names: Vec<BackupName> = [
            "data_20261120_114010_10",
            "data_20261120_114011",
            "data_20261120_114010_2",
            "data_20261120_114010",
        ]
        .map(|text| text.parse().unwrap())
        .to_vec();

        names.sort_unstable();

        let texts: Vec<String> = names.iter().map(ToString::to_string).collect();
        assert_eq!(
            texts,
            [
                "data_20261120_114010",
                "data_20261120_114010_2",
                "data_20261120_114010_10",
                "data_20261120_114011"
            ]
        );
    }

    #[test]
    fn a_second_backup_in_one_second_gets_a_number() {
        let first = BackupName::new(BackupKind::Backup, Utc::now());
        let second = first.next_of_same_second().unwrap();

        assert_eq!(second.to_string(), format!("{first}_2"));
        assert_eq!(second.to_string().parse(), Ok(second));
    }

    #[test]
    fn a_summary_survives_json() {
        let name = "damaged_20261120_114010".parse().unwrap();
        let mut summary = BackupSummary::unknown(name, BackupFormat::Chunked);
        summary.condition = Condition::Unreadable { reason: "cut short".to_owned() };
        summary.start_lsn = Some(Lsn(0x0300_0028));

        let json = serde_json::to_string(&summary).unwrap();

        assert!(json.contains(r#""start_lsn":"0/3000028""#), "{json}");
        assert_eq!(summary, serde_json::from_str(&json).unwrap());
    }

    proptest! {
        #[test]
        fn arbitrary_text_never_panics_and_what_is_read_prints_the_same(text in "(data_|damaged_)?\\PC{0,24}") {
            if let Ok(name) = text.parse::<BackupName>() {
                prop_assert_eq!(name.to_string(), text);
            }
        }
    }
}
