//! Which blocks a stretch of WAL touches: what replay will make right, and how new a block must be.
//!
//! Two rules rest on it (`facts/corruption.md` §3): after a crash a bad block is healed by replay if its first touch from
//! the redo point on brings it whole; and no permanent block may be older than the last record that touched it.

use super::WalDirectory;
use crate::pg::control_file::{ControlFile, WalLevel};
use crate::pg::layout::Fork;
use crate::pg::wal::{BlockReference, Checkpoint, RelationLocator, WalEvent, WalFault, WalRecord};
use crate::pg::{BlockNumber, Lsn, MajorVersion, Oid};
use std::collections::HashMap;
use std::fmt;

/// At most so many blocks are remembered, which takes about 32 MB.
const BLOCK_LIMIT: usize = 1_000_000;
/// `RM_HEAP2_ID` and `XLOG_HEAP2_VISIBLE`; `RM_HASH_ID`.
const HEAP2: u8 = 9;
const HEAP2_VISIBLE: u8 = 0x40;
const HASH: u8 = 12;
/// `XLOG_HEAP2_PRUNE_ON_ACCESS`, `XLOG_HEAP2_PRUNE_VACUUM_SCAN`, `XLOG_HEAP2_PRUNE_VACUUM_CLEANUP`.
const HEAP2_PRUNE: [u8; 3] = [0x10, 0x20, 0x30];
/// The first version that marks pages as all-visible in the records that prune them.
const MARKED_WHEN_PRUNED: MajorVersion = MajorVersion(19);

/// What a stretch of WAL does to one block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Touch {
    /// Whether the first record that touches it brings it whole, so that replay from the beginning of the stretch makes
    /// it right however bad it is now.
    pub(crate) first_is_complete: bool,
    /// Where the last record ends that surely sets the block's LSN: after a clean stop the block cannot have a lower one.
    /// [`Lsn::INVALID`] if no record surely does.
    pub(crate) last_end: Lsn,
}

/// Something in a stretch of WAL for which it must not be replayed again over files that are newer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ReplayObstacle {
    /// A database was made by copying files, which a replay would copy from what the source is now.
    DatabaseCopied(Oid, Lsn),
    /// A tablespace was made or removed.
    TablespaceChanged(Oid, Lsn),
    /// The timeline changes.
    TimelineChanged(Lsn),
    /// Full-page writes were off.
    FullPageWritesOff(Lsn),
    /// Not every change was written to the WAL.
    WalLevelMinimal(Lsn),
}

impl ReplayObstacle {
    /// Where the record of it begins.
    fn lsn(&self) -> Lsn {
        match self {
            Self::DatabaseCopied(_, lsn)
            | Self::TablespaceChanged(_, lsn)
            | Self::TimelineChanged(lsn)
            | Self::FullPageWritesOff(lsn)
            | Self::WalLevelMinimal(lsn) => *lsn,
        }
    }
}

impl fmt::Display for ReplayObstacle {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::DatabaseCopied(oid, lsn) => {
                write!(formatter, "database {oid} was made by copying at {lsn}")
            }
            Self::TablespaceChanged(oid, lsn) => {
                write!(formatter, "tablespace {oid} was made or removed at {lsn}")
            }
            Self::TimelineChanged(lsn) => write!(formatter, "the timeline changes at {lsn}"),
            Self::FullPageWritesOff(lsn) => write!(formatter, "full_page_writes was off at {lsn}"),
            Self::WalLevelMinimal(lsn) => write!(formatter, "wal_level was minimal at {lsn}"),
        }
    }
}

/// The blocks that a stretch of WAL touches, up to the end of the WAL.
#[derive(Debug)]
pub(crate) struct WalTouches {
    /// Where the stretch begins.
    pub(crate) from: Lsn,
    /// Where the last good record ends.
    pub(crate) end: Lsn,
    /// Why there is none after it.
    pub(crate) fault: WalFault,
    /// Whether all was remembered. If not, a block that is not known may have been touched all the same.
    pub(crate) is_complete: bool,
    /// What forbids to replay the stretch over files that are newer than its beginning.
    pub(crate) obstacles: Vec<ReplayObstacle>,
    /// Where the last record that changed parameters of the server ends, such as `wal_log_hints`.
    parameters_changed: Lsn,
    /// Where the last record about each relation ends, the making of its forks included.
    relations: HashMap<RelationLocator, Lsn>,
    /// Where the record of making each relation's main fork begins.
    created: HashMap<RelationLocator, Lsn>,
    forks: HashMap<(RelationLocator, Fork), u32>,
    blocks: HashMap<(u32, u32), PackedTouch>,
    gone: Gone,
}

/// A [`Touch`] in eight bytes: the ends of records are multiples of eight.
#[derive(Clone, Copy, Debug)]
struct PackedTouch(u64);

const COMPLETE: u64 = 1;

/// What was removed, and where in the WAL.
#[derive(Debug, Default)]
struct Gone {
    relations: HashMap<RelationLocator, Lsn>,
    truncations: HashMap<RelationLocator, Vec<(BlockNumber, Lsn)>>,
    databases: HashMap<Oid, Lsn>,
}

impl WalTouches {
    /// Reads the WAL from the record at `from` to its end.
    pub(crate) fn from_record(wal: &WalDirectory, from: Lsn) -> Self {
        Self::gather(wal.reader_at(from), from)
    }

    /// Reads the WAL from the oldest record that is left and from which on it is whole up to `until`. `None` where
    /// there is no WAL for `until`.
    pub(crate) fn of_retained(wal: &WalDirectory, until: Lsn) -> Option<Self> {
        let reader = wal.reader_from(wal.oldest_before(until)?).ok()?;
        let from = reader.position();
        Some(Self::gather(reader, from))
    }

    fn gather<S: crate::pg::wal::WalSource>(mut reader: crate::pg::wal::WalReader<S>, from: Lsn) -> Self {
        let mut touches = Self::nothing_from(from);
        touches.fault = loop {
            match reader.next_record() {
                Ok(record) => touches.add(&record),
                Err(fault) => break fault,
            }
        };
        touches
    }

    fn nothing_from(from: Lsn) -> Self {
        Self {
            from,
            end: from,
            fault: WalFault::SegmentMissing(from),
            is_complete: true,
            obstacles: Vec::new(),
            parameters_changed: Lsn::INVALID,
            relations: HashMap::new(),
            created: HashMap::new(),
            forks: HashMap::new(),
            blocks: HashMap::new(),
            gone: Gone::default(),
        }
    }

    /// The LSN since which nothing in the stretch is about any file of a relation, nor about its database as a whole.
    /// `None` where that is not known: `wal_level` must not have been minimal, and every record must be understood.
    pub(crate) fn leaves_alone_since(&self, relation: RelationLocator) -> Option<Lsn> {
        let truncations = self.gone.truncations.get(&relation).into_iter().flatten().map(|(_, lsn)| *lsn);
        let events = [
            self.relations.get(&relation),
            self.gone.relations.get(&relation),
            self.gone.databases.get(&relation.database),
        ];
        let events = events.into_iter().flatten().copied();
        let obstacles = self.obstacles.iter().map(ReplayObstacle::lsn);
        let last = truncations.chain(events).chain(obstacles).max();
        self.is_complete.then(|| last.map_or(self.from, |last| last.max(self.from)))
    }

    /// The same where changes of hint bits must be in the WAL, too: with checksums they are, else only while
    /// `wal_log_hints` is on, which takes a restart and is logged (bufmgr.c, `MarkBufferDirtyHint()`; xlog.c,
    /// `XLogReportParameters()`).
    pub(crate) fn leaves_hints_alone_since(
        &self,
        relation: RelationLocator,
        control: &ControlFile,
    ) -> Option<Lsn> {
        let since = self.leaves_alone_since(relation)?;
        match (control.has_checksums(), control.wal_log_hints) {
            (true, _) => Some(since),
            (false, true) => Some(since.max(self.parameters_changed)),
            (false, false) => None,
        }
    }

    /// Whether the stretch removes a relation, or its database.
    pub(crate) fn is_removed(&self, relation: RelationLocator) -> bool {
        self.gone.relations.contains_key(&relation) || self.gone.databases.contains_key(&relation.database)
    }

    /// Where the main fork of a relation was made, if that is in the stretch: all that it ever held is in the WAL then.
    pub(crate) fn created_at(&self, relation: RelationLocator) -> Option<Lsn> {
        self.created.get(&relation).copied().filter(|_| self.is_complete)
    }

    /// The relations whose main fork the stretch changes, and neither makes nor removes: their files must have been there
    /// when it began, and must be there still.
    pub(crate) fn needed_relations(&self) -> impl Iterator<Item = RelationLocator> + '_ {
        let is_needed = |relation: &RelationLocator| {
            !self.created.contains_key(relation)
                && !self.gone.relations.contains_key(relation)
                && !self.gone.databases.contains_key(&relation.database)
        };
        let main = self.forks.keys().filter(|(_, fork)| *fork == Fork::Main).map(|(relation, _)| *relation);
        main.filter(move |relation| is_needed(relation))
    }

    /// The blocks of a relation's main fork that the stretch touches.
    pub(crate) fn blocks_of(&self, relation: RelationLocator) -> impl Iterator<Item = BlockNumber> + '_ {
        let fork = self.forks.get(&(relation, Fork::Main)).copied();
        self.blocks.keys().filter(move |(of, _)| Some(*of) == fork).map(|(_, block)| BlockNumber(*block))
    }

    /// What the stretch does to a block; `None` if it does not touch it.
    pub(crate) fn touch(&self, relation: RelationLocator, fork: Fork, block: BlockNumber) -> Option<Touch> {
        let fork = self.forks.get(&(relation, fork))?;
        let touch = self.blocks.get(&(*fork, block.0))?;
        Some(Touch { first_is_complete: touch.0 & COMPLETE != 0, last_end: Lsn(touch.0 & !COMPLETE) })
    }

    /// Whether the stretch removes the block, and does not touch it afterwards.
    pub(crate) fn is_gone(&self, relation: RelationLocator, fork: Fork, block: BlockNumber) -> bool {
        let last = self.touch(relation, fork, block).map_or(self.from, |touch| touch.last_end);
        let is_after = |lsn: Option<&Lsn>| lsn.is_some_and(|lsn| *lsn >= last);
        let truncations = self.gone.truncations.get(&relation);
        // The other forks are cut to what the main fork needs, which is not computed here.
        let is_cut = |kept: BlockNumber| fork != Fork::Main || block >= kept;
        is_after(self.gone.relations.get(&relation))
            || is_after(self.gone.databases.get(&relation.database))
            || truncations.is_some_and(|cuts| cuts.iter().any(|(kept, lsn)| is_cut(*kept) && *lsn >= last))
    }

    fn add(&mut self, record: &WalRecord<'_>) {
        self.end = record.end;
        match record.body() {
            Some(body) => {
                for reference in &body.blocks {
                    self.add_block(record, reference);
                }
            }
            None => self.is_complete = false,
        }
        if let Some(event) = record.event() {
            self.add_event(record, event);
        }
    }

    fn add_block(&mut self, record: &WalRecord<'_>, reference: &BlockReference) {
        self.relations.insert(reference.relation, record.end);
        let next_fork = u32::try_from(self.forks.len()).unwrap_or(u32::MAX);
        let is_full = self.blocks.len() >= BLOCK_LIMIT;
        let fork_key = (reference.relation, reference.fork);
        let fork = match self.forks.get(&fork_key) {
            Some(fork) => *fork,
            None if is_full => {
                self.is_complete = false;
                return;
            }
            None => *self.forks.entry(fork_key).or_insert(next_fork),
        };
        let end = if sets_lsn(record, reference) { record.end.0 } else { 0 };
        if let Some(touch) = self.blocks.get_mut(&(fork, reference.block.0)) {
            touch.0 = (touch.0 & COMPLETE) | end.max(touch.0 & !COMPLETE);
        } else if is_full {
            self.is_complete = false;
        } else {
            let complete = if reference.restore.is_complete() { COMPLETE } else { 0 };
            self.blocks.insert((fork, reference.block.0), PackedTouch(end | complete));
        }
    }

    fn add_event(&mut self, record: &WalRecord<'_>, event: WalEvent) {
        let at = record.start;
        match event {
            WalEvent::RelationCreated { relation, fork } => {
                self.relations.insert(relation, record.end);
                if fork == Fork::Main {
                    self.created.insert(relation, at);
                }
            }
            WalEvent::RelationsDropped(relations) => {
                self.gone.relations.extend(relations.into_iter().map(|relation| (relation, record.end)));
            }
            WalEvent::RelationTruncated { relation, blocks } => {
                self.gone.truncations.entry(relation).or_default().push((blocks, record.end));
            }
            WalEvent::DatabaseDropped { database } => {
                self.gone.databases.insert(database, record.end);
            }
            WalEvent::DatabaseCreated { database, by_file_copy: true } => {
                self.obstacles.push(ReplayObstacle::DatabaseCopied(database, at));
            }
            WalEvent::TablespaceChanged { tablespace } => {
                self.obstacles.push(ReplayObstacle::TablespaceChanged(tablespace, at));
            }
            WalEvent::EndOfRecovery { .. } => self.obstacles.push(ReplayObstacle::TimelineChanged(at)),
            WalEvent::FullPageWrites { enabled: false } => {
                self.obstacles.push(ReplayObstacle::FullPageWritesOff(at));
            }
            WalEvent::ParameterChange(parameters) => {
                self.parameters_changed = record.end;
                if parameters.wal_level == WalLevel::Minimal {
                    self.obstacles.push(ReplayObstacle::WalLevelMinimal(at));
                }
            }
            WalEvent::Checkpoint(checkpoint) => self.add_checkpoint(record, &checkpoint),
            _ => {}
        }
    }

    fn add_checkpoint(&mut self, record: &WalRecord<'_>, checkpoint: &Checkpoint) {
        if !checkpoint.full_page_writes() {
            self.obstacles.push(ReplayObstacle::FullPageWritesOff(record.start));
        }
        if checkpoint.timeline() != checkpoint.previous_timeline() {
            self.obstacles.push(ReplayObstacle::TimelineChanged(record.start));
        }
        if checkpoint.wal_level(record.major()) == Some(WalLevel::Minimal) {
            self.obstacles.push(ReplayObstacle::WalLevelMinimal(record.start));
        }
    }
}

/// Whether the server surely gives the block the record's LSN.
///
/// A heap page that is only marked all-visible gets it only with checksums or `wal_log_hints` (visibilitymap.c), and
/// some records of hash indexes refer to pages that they do not change (`REGBUF_NO_CHANGE`, from 17 on). Since 19 the
/// records that prune a page mark it, too, and may do nothing else (pruneheap.c, `log_heap_prune_and_freeze()`).
fn sets_lsn(record: &WalRecord<'_>, reference: &BlockReference) -> bool {
    let is_only_marked = record.is(HEAP2, HEAP2_VISIBLE) && reference.fork == Fork::Main;
    let may_only_mark =
        record.major() >= MARKED_WHEN_PRUNED && HEAP2_PRUNE.iter().any(|kind| record.is(HEAP2, *kind));
    let may_be_unchanged = may_only_mark || record.header.resource_manager == HASH;
    !is_only_marked && (!may_be_unchanged || reference.restore.is_complete())
}
