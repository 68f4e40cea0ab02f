//! What a record says of time: when a transaction ended, a restore point was named, a checkpoint was made or a timeline
//! began. It is what a recovery that is to end somewhere goes by.

use chrono::{DateTime, Utc};

use super::decode::WalEvent;
use super::record::WalRecord;
use crate::pg::TimelineId;
use crate::pg::bytes::{array_at, u32_at};

/// `RM_XLOG_ID` and `RM_XACT_ID` (rmgrlist.h).
const XLOG: u8 = 0;
const TRANSACTION: u8 = 1;
/// `XLOG_RESTORE_POINT` (`pg_control.h`).
const RESTORE_POINT: u8 = 0x70;
/// The room for the name of a restore point (`MAXFNAMELEN`).
const NAME_SIZE_BYTES: usize = 64;
/// From 1970, which Unix counts from, to 2000, which PostgreSQL counts from.
const EPOCH_US: i64 = 946_684_800_000_000;

/// A moment that a record tells of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WalMoment {
    /// A transaction was committed or rolled back.
    TransactionEnd {
        /// The transaction; of one that was prepared before, its own number, not that of who ended it.
        xid: u32,
        /// When.
        time: DateTime<Utc>,
        /// Whether it was committed.
        is_commit: bool,
    },
    /// A person named the place.
    RestorePoint {
        /// The name.
        name: String,
        /// When.
        time: DateTime<Utc>,
    },
    /// A checkpoint was made.
    Checkpoint {
        /// When, to the second.
        time: DateTime<Utc>,
        /// Whether the server stopped with it.
        is_shutdown: bool,
    },
    /// A timeline began here.
    TimelineBegin {
        /// The timeline.
        timeline: TimelineId,
        /// When, to the second.
        time: DateTime<Utc>,
    },
}

/// A time as PostgreSQL counts it, in microseconds since 2000.
fn timestamp(data: &[u8], offset: usize) -> Option<DateTime<Utc>> {
    let microseconds = array_at(data, offset).map(i64::from_le_bytes)?;
    DateTime::from_timestamp_micros(microseconds.checked_add(EPOCH_US)?)
}

impl WalRecord<'_> {
    /// Returns the moment that the record tells of; `None` for a record of any other kind.
    pub fn moment(&self) -> Option<WalMoment> {
        match (self.header.resource_manager, self.header.kind()) {
            (TRANSACTION, _) => self.transaction_end(),
            (XLOG, RESTORE_POINT) => self.restore_point(),
            (XLOG, _) => self.boundary(),
            _ => None,
        }
    }

    /// Source: xlogrecovery.c, `getRecordTimestamp()`; `xlog_internal.h`, `xl_restore_point`.
    fn restore_point(&self) -> Option<WalMoment> {
        let data = self.body()?.main_data;
        let name = data.get(8..)?.get(..NAME_SIZE_BYTES)?;
        let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
        Some(WalMoment::RestorePoint {
            name: String::from_utf8_lossy(name).into_owned(),
            time: timestamp(data, 0)?,
        })
    }

    fn boundary(&self) -> Option<WalMoment> {
        match self.event()? {
            WalEvent::Checkpoint(checkpoint) => {
                let time = DateTime::from_timestamp(checkpoint.time(), 0)?;
                let timeline = checkpoint.timeline();
                Some(if timeline == checkpoint.previous_timeline() {
                    WalMoment::Checkpoint { time, is_shutdown: checkpoint.is_shutdown }
                } else {
                    WalMoment::TimelineBegin { timeline, time }
                })
            }
            WalEvent::EndOfRecovery { timeline } => {
                Some(WalMoment::TimelineBegin { timeline, time: timestamp(self.body()?.main_data, 0)? })
            }
            _ => None,
        }
    }

    /// Source: xact.h; xactdesc.c, `ParseCommitRecord()` and `ParseAbortRecord()`.
    fn transaction_end(&self) -> Option<WalMoment> {
        const COMMIT: u8 = 0x00;
        const ABORT: u8 = 0x20;
        const COMMIT_PREPARED: u8 = 0x30;
        const ABORT_PREPARED: u8 = 0x40;
        let kind = self.header.info & 0x70;
        let is_commit = matches!(kind, COMMIT | COMMIT_PREPARED);
        if !is_commit && !matches!(kind, ABORT | ABORT_PREPARED) {
            return None;
        }
        let data = self.body()?.main_data;
        let xid = match kind {
            COMMIT | ABORT => self.header.xid,
            _ => self.prepared_xid(data)?,
        };
        Some(WalMoment::TransactionEnd { xid, time: timestamp(data, 0)?, is_commit })
    }

    /// The number of a prepared transaction stands behind all that its end may tell.
    fn prepared_xid(&self, data: &[u8]) -> Option<u32> {
        const HAS_INFO: u8 = 0x80;
        const HAS_DATABASE: u32 = 1;
        const HAS_PREPARED: u32 = 1 << 4;
        if self.header.info & HAS_INFO == 0 {
            return None;
        }
        let info = u32_at(data, 8)?;
        let statistics_bytes = if self.major.0 < 18 { 12 } else { 16 };
        // Flag and size of one: subtransactions, relations, dropped statistics, messages of invalidation.
        let lists = [(1 << 1, 4), (1 << 2, 12), (1 << 8, statistics_bytes), (1 << 3, 16)];
        let mut offset = if info & HAS_DATABASE == 0 { 12 } else { 20 };
        for (_, size_bytes) in lists.into_iter().filter(|(flag, _)| info & flag != 0) {
            let count = usize::try_from(u32_at(data, offset)?).ok()?;
            offset = count.checked_mul(size_bytes)?.checked_add(offset)?.checked_add(4)?;
        }
        if info & HAS_PREPARED == 0 { None } else { u32_at(data, offset) }
    }
}
