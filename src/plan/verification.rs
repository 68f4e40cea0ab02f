//! What a verification of a backup came to: from what was read to the verdict that is kept beside it. Pure.
//!
//! Damage is what was read and is not what was stored. What could not be read at all, since a disk or a permission
//! said no, is no damage: such a verification leaves the former verdict as it was.

use std::collections::BTreeSet;
use std::fmt;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::diagnosis::RelationName;

/// How many pieces of damage a verdict names; the rest is counted.
const MOST_NAMED: usize = 200;
/// How many files one piece of damage names; the rest is counted.
const MOST_FILES: usize = 100;

/// What is known of a backup's soundness.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "state")]
pub enum Verification {
    /// Nobody verified it yet.
    #[default]
    Never,
    /// It was verified, and this is the newest verdict.
    Done(VerificationVerdict),
    /// There is a verdict, and it cannot be read.
    Unreadable {
        /// Why, in words.
        reason: String,
    },
}

impl Verification {
    /// Whether nobody verified it yet.
    pub fn is_never(&self) -> bool {
        *self == Self::Never
    }

    /// The newest verdict.
    pub fn verdict(&self) -> Option<&VerificationVerdict> {
        match self {
            Self::Done(verdict) => Some(verdict),
            Self::Never | Self::Unreadable { .. } => None,
        }
    }

    /// The last proof.
    pub fn proof(&self) -> Option<&Proof> {
        self.verdict().and_then(|verdict| verdict.proof.as_ref())
    }

    /// Whether the newest verdict is that it is damaged.
    pub fn is_damaged(&self) -> bool {
        self.verdict().is_some_and(VerificationVerdict::is_damaged)
    }
}

/// The verdict of one verification.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerificationVerdict {
    /// When it was reached.
    pub verified_at: DateTime<Utc>,
    /// How much was read of packs for it.
    pub read_bytes: u64,
    /// What is damaged; nothing in a sound backup.
    pub damage: Vec<Damage>,
    /// How many pieces of damage there are beyond those that are named.
    #[serde(default)]
    pub unnamed_damage: u64,
    /// The packs, of those that it refers to, that are not what was written. New backups store their chunks anew.
    #[serde(default)]
    pub damaged_packs: BTreeSet<String>,
    /// What the last proof came to, if there was one.
    #[serde(default)]
    pub proof: Option<Proof>,
}

/// What it came to when the backup was restored into a directory of its own, recovered and read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proof {
    /// When it was begun.
    pub proven_at: DateTime<Utc>,
    /// How long it took.
    pub duration_ms: u64,
    /// How many databases were read.
    pub database_count: u64,
    /// How many tables were read whole.
    pub table_count: u64,
    /// How many rows they have.
    pub row_count: u64,
    /// What became of the indexes.
    pub index_check: IndexCheck,
    /// What did not recover or could not be read; nothing in one that can be restored.
    pub failures: Vec<String>,
}

impl Proof {
    /// Whether everything could be recovered and read.
    pub fn is_passed(&self) -> bool {
        self.failures.is_empty() && !matches!(self.index_check, IndexCheck::Damaged { .. })
    }

    /// All that is wrong with it, in words.
    pub fn complaints(&self) -> impl Iterator<Item = &String> {
        let of_indexes = match &self.index_check {
            IndexCheck::Damaged { complaints } => complaints.as_slice(),
            IndexCheck::Sound | IndexCheck::NotChecked { .. } => &[],
        };
        self.failures.iter().chain(of_indexes)
    }
}

/// Whether the indexes of a proven backup agree with their tables.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "outcome")]
pub enum IndexCheck {
    /// All of them do.
    Sound,
    /// Not all of them do, or a table is damaged.
    Damaged {
        /// What was found, in the words of `pg_amcheck`.
        complaints: Vec<String>,
    },
    /// Nobody looked.
    NotChecked {
        /// Why.
        reason: String,
    },
}

impl Default for IndexCheck {
    fn default() -> Self {
        Self::NotChecked { reason: "it did not come to that".to_owned() }
    }
}

impl VerificationVerdict {
    /// Whether anything that the backup needs is damaged.
    pub fn is_damaged(&self) -> bool {
        !self.damage.is_empty()
    }
}

/// What kind of thing is damaged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DamageCode {
    /// `backup.json` is not what was written.
    DocumentDamaged,
    /// The file table is not what was written.
    TableDamaged,
    /// A chunk is not what was stored.
    ChunkDamaged,
    /// A chunk is in no pack that can be read.
    ChunkMissing,
    /// A WAL segment that makes the backup consistent is not in it.
    WalSegmentMissing,
    /// The records of its WAL do not lead from its beginning to its end.
    WalBroken,
}

/// One thing that is damaged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Damage {
    /// Of what kind.
    pub code: DamageCode,
    /// The pack that has it, or had it.
    pub pack: Option<String>,
    /// The chunk.
    pub chunk: Option<String>,
    /// What is wrong, in words.
    pub problem: String,
    /// The backup's files that need it.
    pub files: Vec<DamagedFile>,
    /// How many more files need it.
    #[serde(default)]
    pub unnamed_files: u64,
}

impl Damage {
    /// Damage that is of no single chunk.
    pub fn new(code: DamageCode, problem: impl Into<String>) -> Self {
        let problem = problem.into();
        Self { code, pack: None, chunk: None, problem, files: Vec::new(), unnamed_files: 0 }
    }
}

impl fmt::Display for Damage {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.chunk, &self.pack) {
            (Some(chunk), Some(pack)) => write!(formatter, "chunk {chunk} in pack {pack}: {}", self.problem),
            (Some(chunk), None) => write!(formatter, "chunk {chunk}: {}", self.problem),
            (None, _) => formatter.write_str(&self.problem),
        }
    }
}

/// A file of a backup that is not whole any more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DamagedFile {
    /// The file, relative to the data directory.
    pub file: String,
    /// Where in it, in bytes from its beginning.
    pub offset: u64,
    /// The relation that it belongs to, where the catalogs told.
    #[serde(default)]
    pub relation: Option<RelationName>,
}

impl fmt::Display for DamagedFile {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} at byte {}", self.file, self.offset)?;
        match &self.relation {
            Some(relation) => write!(formatter, " ({relation})"),
            None => Ok(()),
        }
    }
}

/// What reading a backup told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Observed {
    /// What is not what was stored.
    pub damage: Vec<Damage>,
    /// What could not be read, and why.
    pub unreadable: Vec<String>,
    /// The packs, of those that it refers to, that are not what was written.
    pub damaged_packs: BTreeSet<String>,
    /// How much was read of packs.
    pub read_bytes: u64,
}

/// What follows from what was read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "outcome")]
pub enum Judgement {
    /// There is a verdict, sound or damaged.
    Reached(VerificationVerdict),
    /// Nothing is damaged as far as could be read, which was not all: the former verdict stands.
    Undecided {
        /// What could not be read, and why.
        unreadable: Vec<String>,
    },
}

impl Judgement {
    /// Whether it is that the backup is damaged.
    pub fn is_damaged(&self) -> bool {
        matches!(self, Self::Reached(verdict) if verdict.is_damaged())
    }
}

/// Judges a backup by what was read of it.
///
/// One damaged chunk is enough for a verdict, whatever could not be read besides; that a backup is sound needs all of it.
pub fn judge(observed: Observed, now: DateTime<Utc>) -> Judgement {
    let Observed { mut damage, unreadable, damaged_packs, read_bytes } = observed;
    if damage.is_empty() && !unreadable.is_empty() {
        return Judgement::Undecided { unreadable };
    }
    let unnamed_damage = damage.len().saturating_sub(MOST_NAMED) as u64;
    damage.truncate(MOST_NAMED);
    for piece in &mut damage {
        piece.unnamed_files += piece.files.len().saturating_sub(MOST_FILES) as u64;
        piece.files.truncate(MOST_FILES);
    }
    Judgement::Reached(VerificationVerdict {
        verified_at: now,
        read_bytes,
        damage,
        unnamed_damage,
        damaged_packs,
        proof: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> DateTime<Utc> {
        DateTime::from_timestamp(1_800_000_000, 0).unwrap()
    }

    fn damage() -> Damage {
        Damage::new(DamageCode::TableDamaged, "the file table is damaged")
    }

    #[test]
    fn what_could_not_be_read_is_no_damage() {
        let observed = Observed { unreadable: vec!["no".to_owned()], ..Observed::default() };
        assert_eq!(judge(observed, now()), Judgement::Undecided { unreadable: vec!["no".to_owned()] });
    }

    #[test]
    fn damage_is_damage_though_something_else_could_not_be_read() {
        let observed =
            Observed { unreadable: vec!["no".to_owned()], damage: vec![damage()], ..Observed::default() };
        assert!(judge(observed, now()).is_damaged());
    }

    #[test]
    fn a_backup_that_was_read_whole_is_sound_though_a_pack_is_damaged_where_it_does_not_need_it() {
        let damaged_packs = BTreeSet::from(["ab".to_owned()]);
        let observed = Observed { damaged_packs: damaged_packs.clone(), ..Observed::default() };

        let Judgement::Reached(verdict) = judge(observed, now()) else { panic!("undecided") };

        assert!(!verdict.is_damaged());
        assert_eq!(verdict.damaged_packs, damaged_packs);
    }

    #[test]
    fn a_verdict_stays_short_and_counts_what_it_does_not_name() {
        let file = DamagedFile { file: "base/5/1259".to_owned(), offset: 0, relation: None };
        let piece = Damage { files: vec![file; MOST_FILES + 7], ..damage() };
        let observed = Observed { damage: vec![piece; MOST_NAMED + 5], ..Observed::default() };

        let Judgement::Reached(verdict) = judge(observed, now()) else { panic!("undecided") };

        assert_eq!((verdict.damage.len(), verdict.unnamed_damage), (MOST_NAMED, 5));
        assert_eq!((verdict.damage[0].files.len(), verdict.damage[0].unnamed_files), (MOST_FILES, 7));
    }
}
