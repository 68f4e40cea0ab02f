//! The control file, `global/pg_control`: what a cluster is and where its recovery starts.
//!
//! The layout is chosen from the file's own numbers and believed only if its CRC holds. New content for the file is
//! worked out in `rebuild`; writing it to the disk is not done in this tree.

mod places;
mod rebuild;

use std::fmt;

use places::Places;
pub use rebuild::{Ingredients, pointed_at, rebuild, with_unlogged_lsn};
use serde::{Deserialize, Serialize};

use super::bytes::{array_at, u8_at, u32_at, u64_at};
use super::page::Checksums;
use super::{Lsn, MajorVersion, Oid, SystemIdentifier, TimelineId, wal};

/// The size of the file on disk (PostgreSQL: `PG_CONTROL_FILE_SIZE`). Zeros follow the data, which fills less
/// than one disk sector, so that no power cut can tear it.
pub const FILE_SIZE_BYTES: usize = 8192;
/// Where it is, below the data directory.
pub const CONTROL_FILE: &str = "global/pg_control";

/// The checkpoint LSN that pgBackRest writes into a restored control file, so that a cluster whose
/// `backup_label` was removed cannot start from the wrong place. It is no damage: a `backup_label` is
/// missing.
pub const CHECKPOINT_NEEDS_BACKUP_LABEL: Lsn = Lsn(0xDEAD);

/// The content of a control file, as far as it matters to the safety of a cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(clippy::struct_excessive_bools, reason = "they are independent settings, as the file has them")]
pub struct ControlFile {
    /// The major version that the two version numbers stand for.
    pub major: MajorVersion,
    /// The number that tells this cluster from all others.
    pub system_identifier: SystemIdentifier,
    /// The version of the control file's layout.
    pub pg_control_version: u32,
    /// The version of the system catalogs; it tells major versions of one control file version apart.
    pub catalog_version: u32,
    /// What the server was doing when it last wrote the file.
    pub state: ClusterState,
    /// When the file was last written, in seconds since 1970.
    pub time: i64,
    /// Where the last checkpoint record begins.
    pub checkpoint: Lsn,
    /// The redo point of that checkpoint: recovery replays from here, unless there is a `backup_label`.
    pub redo: Lsn,
    /// The timeline of that checkpoint.
    pub timeline: TimelineId,
    /// The timeline before it, which differs only if that checkpoint began a new one.
    pub previous_timeline: TimelineId,
    /// Whether full-page writes were on at that checkpoint.
    pub full_page_writes: bool,
    /// The next transaction id, with its epoch in the high half.
    pub next_xid: u64,
    /// The next object identifier to be given out; user objects start at 16384.
    pub next_oid: Oid,
    /// The next multixact id.
    pub next_multi: u32,
    /// The next offset into the multixact members; 32 bits wide until 18.
    pub next_multi_offset: u64,
    /// The oldest transaction id whose status may still be asked for.
    pub oldest_xid: u32,
    /// The oldest multixact id that may still be asked for.
    pub oldest_multi: u32,
    /// When the last checkpoint was made, in seconds since 1970.
    pub checkpoint_time: i64,
    /// The LSN counter of unlogged relations.
    pub unlogged_lsn: Lsn,
    /// The consistency point: recovery from a backup or of a standby may not end before it.
    pub min_recovery_point: Lsn,
    /// The timeline of the consistency point; 0 when there is none.
    pub min_recovery_point_timeline: TimelineId,
    /// Where the backup began from which the cluster is still being recovered.
    pub backup_start_point: Lsn,
    /// Where that backup ended, if it was taken from a standby.
    pub backup_end_point: Lsn,
    /// Whether recovery must reach the end-of-backup record.
    pub backup_end_required: bool,
    /// How much is written to the WAL.
    pub wal_level: WalLevel,
    /// Whether hint bits are written to the WAL.
    pub wal_log_hints: bool,
    /// How many prepared transactions may exist; with 0 there can be none in `pg_twophase`.
    pub max_prepared_transactions: u32,
    /// Whether commit times are kept in `pg_commit_ts`.
    pub track_commit_timestamp: bool,
    /// The size of a data page.
    pub block_size: u32,
    /// How many blocks a segment file of a relation holds.
    pub relation_segment_blocks: u32,
    /// The size of a WAL page.
    pub wal_block_size: u32,
    /// The size of a WAL segment, in bytes.
    pub wal_segment_size: u32,
    /// The version of the data page checksums; 0 means that there are none.
    pub data_checksum_version: u32,
    /// The CRC of all this.
    pub crc: u32,
}

/// What the server was doing when it last wrote the control file (PostgreSQL: `DBState`).
///
/// Its text is that of `pg_controldata`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClusterState {
    /// The server was about to run for the first time.
    StartingUp,
    /// The server stopped cleanly.
    ShutDown,
    /// A standby stopped cleanly.
    ShutDownInRecovery,
    /// The server was stopping and did not finish.
    ShuttingDown,
    /// The server died during crash recovery.
    InCrashRecovery,
    /// The server died during recovery from the archive, or as a standby.
    InArchiveRecovery,
    /// The server runs, or died running.
    InProduction,
}

impl ClusterState {
    /// Says whether the server stopped by itself, so that no recovery is needed.
    pub fn is_clean(self) -> bool {
        matches!(self, Self::ShutDown | Self::ShutDownInRecovery)
    }

    fn number(self) -> u32 {
        match self {
            Self::StartingUp => 0,
            Self::ShutDown => 1,
            Self::ShutDownInRecovery => 2,
            Self::ShuttingDown => 3,
            Self::InCrashRecovery => 4,
            Self::InArchiveRecovery => 5,
            Self::InProduction => 6,
        }
    }

    fn from_number(number: u32) -> Option<Self> {
        Some(match number {
            0 => Self::StartingUp,
            1 => Self::ShutDown,
            2 => Self::ShutDownInRecovery,
            3 => Self::ShuttingDown,
            4 => Self::InCrashRecovery,
            5 => Self::InArchiveRecovery,
            6 => Self::InProduction,
            _ => return None,
        })
    }
}

impl fmt::Display for ClusterState {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::StartingUp => "starting up",
            Self::ShutDown => "shut down",
            Self::ShutDownInRecovery => "shut down in recovery",
            Self::ShuttingDown => "shutting down",
            Self::InCrashRecovery => "in crash recovery",
            Self::InArchiveRecovery => "in archive recovery",
            Self::InProduction => "in production",
        })
    }
}

/// How much is written to the WAL: the setting `wal_level`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WalLevel {
    /// Only what crash recovery needs: such WAL can restore no backup.
    Minimal,
    /// What backups and standbys need.
    Replica,
    /// What logical decoding needs, too.
    Logical,
}

impl WalLevel {
    fn number(self) -> u32 {
        match self {
            Self::Minimal => 0,
            Self::Replica => 1,
            Self::Logical => 2,
        }
    }

    pub(super) fn from_number(number: u32) -> Option<Self> {
        match number {
            0 => Some(Self::Minimal),
            1 => Some(Self::Replica),
            2 => Some(Self::Logical),
            _ => None,
        }
    }
}

impl fmt::Display for WalLevel {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Minimal => "minimal",
            Self::Replica => "replica",
            Self::Logical => "logical",
        })
    }
}

/// Why a control file cannot be believed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ControlFileError {
    /// The file ends before its data does.
    #[error("control file is too short: {size_bytes} bytes, expected {expected_bytes}")]
    TooShort {
        /// The size of the file.
        size_bytes: usize,
        /// How many bytes its version needs, at least.
        expected_bytes: usize,
    },
    /// The file is whole, as its CRC proves, and of a version that pgbox does not know. That is no damage.
    #[error("control file is of an unknown version: pg_control version {control}, catalog version {catalog}")]
    UnknownVersion {
        /// The version of its layout.
        control: u32,
        /// The version of the system catalogs.
        catalog: u32,
    },
    /// The file is of no known version, and nothing proves that it is whole: damaged, of the other byte order, or no
    /// control file.
    #[error(
        "control file is not one: pg_control version {control}, catalog version {catalog}, and no CRC that fits"
    )]
    Unrecognised {
        /// What stands where the version of the layout should.
        control: u32,
        /// What stands where the version of the system catalogs should.
        catalog: u32,
    },
    /// The file is damaged.
    #[error("control file is damaged: stored CRC {stored:08X}, computed {computed:08X}")]
    BadCrc {
        /// The CRC in the file.
        stored: u32,
        /// The CRC of its data.
        computed: u32,
    },
    /// A number with a sound CRC is outside what any server writes.
    #[error("implausible {field} in control file: {value}")]
    Implausible {
        /// The name of the number.
        field: &'static str,
        /// Its value.
        value: u64,
    },
}

impl ControlFile {
    /// Reads a control file of PostgreSQL 13 to 19.
    ///
    /// # Errors
    /// [`ControlFileError::UnknownVersion`] if the numbers are not known and a CRC proves that they are meant;
    /// [`ControlFileError::BadCrc`] for a damaged file, also where only one of the two version numbers is a known
    /// one; otherwise [`ControlFileError::Unrecognised`], [`ControlFileError::TooShort`] or
    /// [`ControlFileError::Implausible`]. No server of a known version would start with any of these files
    /// (`ReadControlFile()` in xlog.c).
    pub fn parse(bytes: &[u8]) -> Result<Self, ControlFileError> {
        let first = Fields { bytes, expected_bytes: Version::NUMBERS_END };
        let (control, catalog) = (first.u32_at(8)?, first.u32_at(12)?);
        if Version::find(control, catalog).is_none() && has_crc_of_another_layout(bytes) {
            return Err(ControlFileError::UnknownVersion { control, catalog });
        }
        let crc_offset = Version::crc_offset(control, catalog)
            .ok_or(ControlFileError::Unrecognised { control, catalog })?;
        let fields = Fields { bytes, expected_bytes: crc_offset + size_of::<u32>() };
        fields.check_crc(crc_offset)?;
        let version =
            Version::find(control, catalog).ok_or(ControlFileError::UnknownVersion { control, catalog })?;
        let control_file = fields.read(version)?;
        fields.check_architecture(version.places)?;
        control_file.check_sizes()?;
        Ok(control_file)
    }

    /// Returns the major version that wrote the file.
    pub fn major_version(&self) -> MajorVersion {
        self.major
    }

    /// Says whether the data pages carry checksums.
    pub fn has_checksums(&self) -> bool {
        self.data_checksum_version != 0
    }

    /// The same, as whoever checks pages wants it.
    pub fn checksums(&self) -> Checksums {
        if self.has_checksums() { Checksums::Enabled } else { Checksums::Disabled }
    }

    /// Checks the sizes that readers of other files compute with (PostgreSQL: configure's limits).
    fn check_sizes(&self) -> Result<(), ControlFileError> {
        let is_block_size = |size: u32| size.is_power_of_two() && (1 << 10..=1 << 15).contains(&size);
        let checks = [
            ("block size", self.block_size, is_block_size(self.block_size)),
            ("relation segment size", self.relation_segment_blocks, self.relation_segment_blocks > 0),
            ("WAL block size", self.wal_block_size, wal::is_valid_block_size(self.wal_block_size)),
            ("WAL segment size", self.wal_segment_size, wal::is_valid_segment_size(self.wal_segment_size)),
        ];
        match checks.iter().find(|(_, _, is_plausible)| !is_plausible) {
            Some((field, value, _)) => Err(ControlFileError::Implausible { field, value: u64::from(*value) }),
            None => Ok(()),
        }
    }
}

/// One released version of the control file.
struct Version {
    control: u32,
    catalog: u32,
    major: MajorVersion,
    places: &'static Places,
}

/// The versions of PostgreSQL 13 to 19: `pg_control.h` and catversion.h of each release.
const VERSIONS: [Version; 7] = [
    Version { control: 1300, catalog: 202_007_201, major: MajorVersion(13), places: &places::FROM_13 },
    Version { control: 1300, catalog: 202_107_181, major: MajorVersion(14), places: &places::FROM_13 },
    Version { control: 1300, catalog: 202_209_061, major: MajorVersion(15), places: &places::FROM_13 },
    Version { control: 1300, catalog: 202_307_071, major: MajorVersion(16), places: &places::FROM_13 },
    Version { control: 1700, catalog: 202_406_281, major: MajorVersion(17), places: &places::FROM_13 },
    Version { control: 1800, catalog: 202_506_291, major: MajorVersion(18), places: &places::FROM_18 },
    Version { control: 1905, catalog: 202_610_061, major: MajorVersion(19), places: &places::FROM_19 },
];

/// Returns whether a CRC of all that is before it stands anywhere in the file's data, which fill less than one disk
/// sector in every version. In a damaged file one fits by chance once in tens of millions.
fn has_crc_of_another_layout(bytes: &[u8]) -> bool {
    const FIRST_OFFSET: usize = 192;
    const SECTOR_BYTES: usize = 512;
    (FIRST_OFFSET..SECTOR_BYTES).step_by(size_of::<u32>()).any(|offset| {
        let covered = bytes.get(..offset).filter(|covered| covered.iter().any(|byte| *byte != 0));
        let stored = u32_at(bytes, offset);
        // On a machine of the other byte order the CRC is stored the other way round.
        let fits = |crc: u32| stored == Some(crc) || stored == Some(crc.swap_bytes());
        covered.is_some_and(|covered| fits(crc32c::crc32c(covered)))
    })
}

impl Version {
    /// Where the two version numbers end, at the same place in every version.
    const NUMBERS_END: usize = 16;

    fn find(control: u32, catalog: u32) -> Option<&'static Self> {
        VERSIONS.iter().find(|version| version.control == control && version.catalog == catalog)
    }

    /// Returns where the CRC is, if at least one of the numbers is known. With a damaged number the other one
    /// still leads to the CRC, which then proves the damage: it must not pass for a foreign version.
    fn crc_offset(control: u32, catalog: u32) -> Option<usize> {
        let by_control = VERSIONS.iter().find(|version| version.control == control);
        let by_either = by_control.or_else(|| VERSIONS.iter().find(|version| version.catalog == catalog));
        by_either.map(|version| version.places.crc)
    }
}

/// The bytes of a control file, read by the offsets of `ControlFileData` in `pg_control.h` on a 64-bit
/// machine.
struct Fields<'a> {
    bytes: &'a [u8],
    expected_bytes: usize,
}

impl Fields<'_> {
    fn read(&self, version: &Version) -> Result<ControlFile, ControlFileError> {
        let places = version.places;
        Ok(ControlFile {
            major: version.major,
            system_identifier: SystemIdentifier(self.u64_at(0)?),
            pg_control_version: version.control,
            catalog_version: version.catalog,
            state: self.named(16, "cluster state", ClusterState::from_number)?,
            time: self.i64_at(24)?,
            checkpoint: self.lsn_at(32)?,
            redo: self.lsn_at(40)?,
            timeline: TimelineId(self.u32_at(48)?),
            previous_timeline: TimelineId(self.u32_at(52)?),
            full_page_writes: self.bool_at(56)?,
            next_xid: self.u64_at(places.next_xid)?,
            next_oid: Oid(self.u32_at(places.next_oid)?),
            next_multi: self.u32_at(places.next_multi)?,
            next_multi_offset: self.next_multi_offset(version)?,
            oldest_xid: self.u32_at(places.oldest_xid)?,
            oldest_multi: self.u32_at(places.oldest_multi)?,
            checkpoint_time: self.i64_at(places.checkpoint_time)?,
            unlogged_lsn: self.lsn_at(places.unlogged_lsn)?,
            min_recovery_point: self.lsn_at(places.min_recovery_point)?,
            min_recovery_point_timeline: TimelineId(self.u32_at(places.min_recovery_point + 8)?),
            backup_start_point: self.lsn_at(places.backup_start_point)?,
            backup_end_point: self.lsn_at(places.backup_start_point + 8)?,
            backup_end_required: self.bool_at(places.backup_start_point + 16)?,
            wal_level: self.named(places.wal_level, "wal_level", WalLevel::from_number)?,
            wal_log_hints: self.bool_at(places.wal_log_hints)?,
            max_prepared_transactions: self.u32_at(places.max_prepared_transactions)?,
            track_commit_timestamp: self.bool_at(places.track_commit_timestamp)?,
            block_size: self.u32_at(places.block_size)?,
            relation_segment_blocks: self.u32_at(places.block_size + 4)?,
            wal_block_size: self.u32_at(places.wal_block_size)?,
            wal_segment_size: self.u32_at(places.wal_block_size + 4)?,
            data_checksum_version: self.u32_at(places.data_checksum_version)?,
            crc: self.u32_at(places.crc)?,
        })
    }

    fn next_multi_offset(&self, version: &Version) -> Result<u64, ControlFileError> {
        let offset = version.places.next_multi_offset;
        if version.major.0 < 19 { self.u32_at(offset).map(u64::from) } else { self.u64_at(offset) }
    }

    fn check_crc(&self, crc_offset: usize) -> Result<(), ControlFileError> {
        let stored = self.u32_at(crc_offset)?;
        let covered = self.bytes.get(..crc_offset).ok_or_else(|| self.too_short())?;
        let computed = crc32c::crc32c(covered);
        if stored != computed {
            return Err(ControlFileError::BadCrc { stored, computed });
        }
        Ok(())
    }

    /// Checks that tuples are aligned and floats stored as on the machines for which the offsets hold.
    fn check_architecture(&self, places: &Places) -> Result<(), ControlFileError> {
        let (alignment, float) = (self.u32_at(places.alignment)?, self.u64_at(places.alignment + 4)?);
        if alignment != 8 {
            return Err(ControlFileError::Implausible { field: "maxAlign", value: u64::from(alignment) });
        }
        if float != 1_234_567.0_f64.to_bits() {
            return Err(ControlFileError::Implausible { field: "floatFormat", value: float });
        }
        Ok(())
    }

    /// Reads a number that stands for a name.
    fn named<T>(
        &self,
        offset: usize,
        field: &'static str,
        from_number: fn(u32) -> Option<T>,
    ) -> Result<T, ControlFileError> {
        let number = self.u32_at(offset)?;
        from_number(number).ok_or(ControlFileError::Implausible { field, value: u64::from(number) })
    }

    fn bool_at(&self, offset: usize) -> Result<bool, ControlFileError> {
        u8_at(self.bytes, offset).map(|byte| byte != 0).ok_or_else(|| self.too_short())
    }

    fn u32_at(&self, offset: usize) -> Result<u32, ControlFileError> {
        u32_at(self.bytes, offset).ok_or_else(|| self.too_short())
    }

    fn u64_at(&self, offset: usize) -> Result<u64, ControlFileError> {
        u64_at(self.bytes, offset).ok_or_else(|| self.too_short())
    }

    fn i64_at(&self, offset: usize) -> Result<i64, ControlFileError> {
        array_at(self.bytes, offset).map(i64::from_le_bytes).ok_or_else(|| self.too_short())
    }

    fn lsn_at(&self, offset: usize) -> Result<Lsn, ControlFileError> {
        self.u64_at(offset).map(Lsn)
    }

    fn too_short(&self) -> ControlFileError {
        ControlFileError::TooShort { size_bytes: self.bytes.len(), expected_bytes: self.expected_bytes }
    }
}

#[cfg(test)]
mod tests;
