//! What single kinds of records say: those that matter to the question what a cluster's files must look like.
//!
//! All other records are left alone; which blocks they touch is told by [`WalRecord::body`] for every kind.

use crate::pg::bytes::{array_at, u8_at, u32_at};
use crate::pg::control_file::WalLevel;
use crate::pg::{BlockNumber, Lsn, MajorVersion, Oid, TimelineId};

use super::record::{RecordBody, RelationLocator, WalRecord, fork_of};
use crate::pg::layout::Fork;

/// The numbers of resource managers (PostgreSQL: rmgrlist.h, in its order).
mod resource_manager {
    pub(super) const XLOG: u8 = 0;
    pub(super) const TRANSACTION: u8 = 1;
    pub(super) const STORAGE: u8 = 2;
    pub(super) const DATABASE: u8 = 4;
    pub(super) const TABLESPACE: u8 = 5;
    pub(super) const RELATION_MAP: u8 = 7;
}

/// The size of the largest checkpoint record's data.
const MOST_CHECKPOINT_BYTES: usize = 96;

/// Returns the size of a checkpoint record's data (PostgreSQL: `CheckPoint` in `pg_control.h`). 19 added
/// `logicalDecodingEnabled` and made `nextMultiOffset` 64 bits wide.
pub fn checkpoint_size_bytes(major: MajorVersion) -> usize {
    if major.0 < 19 { 88 } else { MOST_CHECKPOINT_BYTES }
}

/// A checkpoint record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// Whether the server stopped with it.
    pub is_shutdown: bool,
    data: [u8; MOST_CHECKPOINT_BYTES],
    size_bytes: usize,
}

impl Checkpoint {
    /// Reads the data of a checkpoint record; `None` where they are not of the size that the version writes.
    pub fn parse(is_shutdown: bool, data: &[u8], major: MajorVersion) -> Option<Self> {
        let size_bytes = checkpoint_size_bytes(major);
        let mut whole = [0; MOST_CHECKPOINT_BYTES];
        whole.get_mut(..size_bytes).filter(|place| place.len() == data.len())?.copy_from_slice(data);
        Some(Self { is_shutdown, data: whole, size_bytes })
    }

    /// Returns its data, as the control file has a copy of them.
    pub fn data(&self) -> &[u8] {
        self.data.get(..self.size_bytes).unwrap_or_default()
    }

    /// The redo point.
    pub fn redo(&self) -> Lsn {
        Lsn(array_at(&self.data, 0).map(u64::from_le_bytes).unwrap_or_default())
    }

    /// The timeline on which it was made.
    pub fn timeline(&self) -> TimelineId {
        TimelineId(self.number(8))
    }

    /// The timeline before, which is another only if the checkpoint began a new one.
    pub fn previous_timeline(&self) -> TimelineId {
        TimelineId(self.number(12))
    }

    /// Whether full-page writes were on.
    pub fn full_page_writes(&self) -> bool {
        u8_at(&self.data, 16).is_some_and(|byte| byte != 0)
    }

    /// The `wal_level`, which checkpoints tell since 17.
    pub fn wal_level(&self, major: MajorVersion) -> Option<WalLevel> {
        if major.0 < 17 { None } else { WalLevel::from_number(self.number(20)) }
    }

    /// The next transaction id, with its epoch in the high half.
    pub fn next_xid(&self) -> u64 {
        const OFFSET_BYTES: usize = 24;
        const OFFSET_IN_WIDE_BYTES: usize = 32;
        let offset = if self.is_wide() { OFFSET_IN_WIDE_BYTES } else { OFFSET_BYTES };
        array_at(&self.data, offset).map(u64::from_le_bytes).unwrap_or_default()
    }

    /// The oldest transaction that had not ended, prepared ones included; `None` where that was not worked out, as at
    /// every stop (xlog.c, `CreateCheckPoint()`; procarray.c, `GetOldestActiveTransactionId()`).
    pub fn oldest_active_xid(&self) -> Option<u32> {
        // It comes last, before padding.
        const FROM_THE_END_BYTES: usize = 8;
        Some(self.number(self.size_bytes.saturating_sub(FROM_THE_END_BYTES))).filter(|xid| *xid != 0)
    }

    /// Whether it is laid out as since 19, with `logicalDecodingEnabled` before the transaction id.
    fn is_wide(&self) -> bool {
        self.size_bytes == MOST_CHECKPOINT_BYTES
    }

    /// When it was made, in seconds since 1970. The time and three transaction ids end the data in every version.
    pub fn time(&self) -> i64 {
        const FROM_THE_END_BYTES: usize = 24;
        let offset = self.size_bytes.saturating_sub(FROM_THE_END_BYTES);
        array_at(&self.data, offset).map(i64::from_le_bytes).unwrap_or_default()
    }

    fn number(&self, offset: usize) -> u32 {
        u32_at(&self.data, offset).unwrap_or_default()
    }
}

/// The settings of a primary that its standbys depend on, kept in the control file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parameters {
    /// `max_connections`.
    pub max_connections: u32,
    /// `max_worker_processes`.
    pub max_worker_processes: u32,
    /// `max_wal_senders`.
    pub max_wal_senders: u32,
    /// `max_prepared_transactions`.
    pub max_prepared_transactions: u32,
    /// `max_locks_per_transaction`.
    pub max_locks_per_transaction: u32,
    /// `wal_level`.
    pub wal_level: WalLevel,
    /// `wal_log_hints`.
    pub wal_log_hints: bool,
    /// `track_commit_timestamp`.
    pub track_commit_timestamp: bool,
}

impl Parameters {
    /// Returns the defaults of a major version: what the control file holds when no record ever told otherwise.
    pub fn defaults(major: MajorVersion) -> Self {
        Self {
            max_connections: 100,
            max_worker_processes: 8,
            max_wal_senders: 10,
            max_prepared_transactions: 0,
            max_locks_per_transaction: if major.0 < 19 { 64 } else { 128 },
            wal_level: WalLevel::Replica,
            wal_log_hints: false,
            track_commit_timestamp: false,
        }
    }
}

/// Something that a record says beyond which blocks it changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WalEvent {
    /// A checkpoint.
    Checkpoint(Checkpoint),
    /// Recovery ended, and a new timeline began.
    EndOfRecovery {
        /// The new timeline.
        timeline: TimelineId,
    },
    /// Settings are others since.
    ParameterChange(Parameters),
    /// `full_page_writes` was switched.
    FullPageWrites {
        /// Whether it is on since.
        enabled: bool,
    },
    /// A relation map was replaced.
    RelationMapUpdate {
        /// The database; 0 for the shared map.
        database: Oid,
        /// The tablespace of its directory.
        tablespace: Oid,
        /// The whole new map file.
        file: Vec<u8>,
    },
    /// A fork was made.
    RelationCreated {
        /// The relation.
        relation: RelationLocator,
        /// The fork.
        fork: Fork,
    },
    /// A relation was cut short.
    RelationTruncated {
        /// The relation.
        relation: RelationLocator,
        /// How many blocks of the main fork are left.
        blocks: BlockNumber,
    },
    /// The transaction that ended here removed these relations' files.
    RelationsDropped(Vec<RelationLocator>),
    /// A database was made.
    DatabaseCreated {
        /// The database.
        database: Oid,
        /// Whether its files were copied without going through the WAL.
        by_file_copy: bool,
    },
    /// A database was removed.
    DatabaseDropped {
        /// The database.
        database: Oid,
    },
    /// A tablespace was made or removed.
    TablespaceChanged {
        /// The tablespace.
        tablespace: Oid,
    },
}

impl WalRecord<'_> {
    /// Returns what the record says; `None` for a record of any other kind, or one that makes no sense.
    pub fn event(&self) -> Option<WalEvent> {
        use resource_manager::{DATABASE, RELATION_MAP, STORAGE, TABLESPACE, TRANSACTION, XLOG};
        let manager = self.header.resource_manager;
        if !matches!(manager, XLOG | TRANSACTION | STORAGE | DATABASE | TABLESPACE | RELATION_MAP) {
            return None;
        }
        let RecordBody { main_data, .. } = self.body()?;
        match manager {
            XLOG => self.xlog_event(main_data),
            TRANSACTION => self.transaction_event(main_data),
            STORAGE => self.storage_event(main_data),
            DATABASE => self.database_event(main_data),
            TABLESPACE => Self::tablespace_event(main_data),
            _ => Self::relation_map_event(main_data),
        }
    }

    /// Returns the tablespace that the record makes and its directory, which is empty for one inside the data directory;
    /// `None` for a record that makes none.
    ///
    /// Source: tablespace.c, `tblspc_redo()`; tablespace.h, `xl_tblspc_create_rec`.
    pub fn made_tablespace(&self) -> Option<(Oid, String)> {
        const CREATE: u8 = 0x00;
        if !self.is(resource_manager::TABLESPACE, CREATE) {
            return None;
        }
        let data = self.body()?.main_data;
        let path = data.get(4..)?.split(|byte| *byte == 0).next()?;
        Some((Oid(u32_at(data, 0)?), String::from_utf8_lossy(path).into_owned()))
    }

    /// Returns the state data of the transaction that the record prepares; `None` for any other record.
    ///
    /// Source: twophase.c, `EndPrepare()`; xact.h, `XLOG_XACT_PREPARE`.
    pub fn prepared_state(&self) -> Option<&'_ [u8]> {
        const PREPARE: u8 = 0x10;
        let is_it = self.header.resource_manager == resource_manager::TRANSACTION
            && self.header.info & 0x70 == PREPARE;
        if is_it { Some(self.body()?.main_data) } else { None }
    }

    /// Returns where the backup began that the record ends; `None` for any other record.
    ///
    /// Source: xlogrecovery.c, `xlogrecovery_redo()`, `XLOG_BACKUP_END`.
    pub fn ended_backup(&self) -> Option<Lsn> {
        const BACKUP_END: u8 = 0x50;
        if !self.is(resource_manager::XLOG, BACKUP_END) {
            return None;
        }
        array_at(self.body()?.main_data, 0).map(u64::from_le_bytes).map(Lsn)
    }

    /// Source: xlog.c, `xlog_redo()`; `pg_control.h`.
    fn xlog_event(&self, data: &[u8]) -> Option<WalEvent> {
        match self.header.kind() {
            0x00 | 0x10 => {
                let is_shutdown = self.header.kind() == 0x00;
                Checkpoint::parse(is_shutdown, data, self.major).map(WalEvent::Checkpoint)
            }
            0x60 => Some(WalEvent::ParameterChange(Parameters {
                max_connections: u32_at(data, 0)?,
                max_worker_processes: u32_at(data, 4)?,
                max_wal_senders: u32_at(data, 8)?,
                max_prepared_transactions: u32_at(data, 12)?,
                max_locks_per_transaction: u32_at(data, 16)?,
                wal_level: WalLevel::from_number(u32_at(data, 20)?)?,
                wal_log_hints: u8_at(data, 24)? != 0,
                track_commit_timestamp: u8_at(data, 25)? != 0,
            })),
            0x80 => Some(WalEvent::FullPageWrites { enabled: u8_at(data, 0)? != 0 }),
            0x90 => Some(WalEvent::EndOfRecovery { timeline: TimelineId(u32_at(data, 8)?) }),
            _ => None,
        }
    }

    /// The files that a commit or an abort removes. Source: xactdesc.c, `ParseCommitRecord()` and
    /// `ParseAbortRecord()`.
    fn transaction_event(&self, data: &[u8]) -> Option<WalEvent> {
        const HAS_INFO: u8 = 0x80;
        const HAS_DATABASE: u32 = 1;
        const HAS_SUBTRANSACTIONS: u32 = 2;
        const HAS_RELATIONS: u32 = 4;
        let ends_a_transaction = matches!(self.header.info & 0x70, 0x00 | 0x20 | 0x30 | 0x40);
        if !ends_a_transaction || self.header.info & HAS_INFO == 0 {
            return None;
        }
        let info = u32_at(data, 8)?;
        if info & HAS_RELATIONS == 0 {
            return None;
        }
        let mut offset = 12;
        if info & HAS_DATABASE != 0 {
            offset += 8;
        }
        if info & HAS_SUBTRANSACTIONS != 0 {
            let count = usize::try_from(u32_at(data, offset)?).ok()?;
            offset = offset.checked_add(count.checked_mul(4)?.checked_add(4)?)?;
        }
        let count = usize::try_from(u32_at(data, offset)?).ok()?;
        let relations = data.get(offset.checked_add(4)?..)?.get(..count.checked_mul(12)?)?;
        let relations = relations.chunks_exact(12).map(|bytes| RelationLocator::parse(bytes, 0));
        relations.collect::<Option<_>>().map(WalEvent::RelationsDropped)
    }

    /// Source: `storage_xlog.h`.
    fn storage_event(&self, data: &[u8]) -> Option<WalEvent> {
        match self.header.kind() {
            0x10 => Some(WalEvent::RelationCreated {
                relation: RelationLocator::parse(data, 0)?,
                fork: fork_of(u8::try_from(u32_at(data, 12)?).ok()?)?,
            }),
            0x20 => Some(WalEvent::RelationTruncated {
                relation: RelationLocator::parse(data, 4)?,
                blocks: BlockNumber(u32_at(data, 0)?),
            }),
            _ => None,
        }
    }

    /// The kinds were numbered anew in 15, which can make a database through the WAL. Source:
    /// `dbcommands_xlog.h`.
    fn database_event(&self, data: &[u8]) -> Option<WalEvent> {
        let database = Oid(u32_at(data, 0)?);
        match (self.header.kind(), self.major.0 < 15) {
            (0x00, _) => Some(WalEvent::DatabaseCreated { database, by_file_copy: true }),
            (0x10, false) => Some(WalEvent::DatabaseCreated { database, by_file_copy: false }),
            (0x10, true) | (0x20, false) => Some(WalEvent::DatabaseDropped { database }),
            _ => None,
        }
    }

    /// Source: tablespace.h.
    fn tablespace_event(data: &[u8]) -> Option<WalEvent> {
        Some(WalEvent::TablespaceChanged { tablespace: Oid(u32_at(data, 0)?) })
    }

    /// Source: relmapper.h, `xl_relmap_update`.
    fn relation_map_event(data: &[u8]) -> Option<WalEvent> {
        let size_bytes = usize::try_from(u32_at(data, 8)?).ok()?;
        Some(WalEvent::RelationMapUpdate {
            database: Oid(u32_at(data, 0)?),
            tablespace: Oid(u32_at(data, 4)?),
            file: data.get(12..)?.get(..size_bytes)?.to_vec(),
        })
    }
}
