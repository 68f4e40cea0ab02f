//! One WAL record: its header, the blocks that it refers to, and its main data.
//!
//! Only the frame that all records share is read here; what single kinds of records say is in `decode`. The layout is
//! that of `xlogrecord.h`, read as `DecodeXLogRecord()` in xlogreader.c does.

use crate::pg::bytes::{u8_at, u16_at, u32_at, u64_at};
use crate::pg::layout::Fork;
use crate::pg::{BlockNumber, Lsn, MajorVersion, Oid, TimelineId};

/// The size of a record's header, and thus of the smallest record.
pub const RECORD_HEADER_SIZE_BYTES: usize = 24;
/// How much of the header its CRC covers: all before the CRC itself.
const CRC_OFFSET: usize = 20;

const MAIN_DATA_SHORT: u8 = 255;
const MAIN_DATA_LONG: u8 = 254;
const ORIGIN: u8 = 253;
const TOP_LEVEL_XID: u8 = 252;
const HIGHEST_BLOCK_ID: u8 = 32;

const FORK_MASK: u8 = 0x0F;
const HAS_IMAGE: u8 = 0x10;
const WILL_INIT: u8 = 0x40;
const SAME_RELATION: u8 = 0x80;
const IMAGE_HAS_HOLE: u8 = 0x01;

/// The fixed part of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordHeader {
    /// The length of the whole record.
    pub total_bytes: u32,
    /// The transaction that wrote it; 0 for none.
    pub xid: u32,
    /// Where the record before it begins.
    pub previous: Lsn,
    /// Flags; the high half is the resource manager's own.
    pub info: u8,
    /// The resource manager that it belongs to.
    pub resource_manager: u8,
    /// The checksum of all other bytes of the record.
    pub crc: u32,
}

impl RecordHeader {
    /// Reads the header; `None` if there are too few bytes.
    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
        Some(Self {
            total_bytes: u32_at(bytes, 0)?,
            xid: u32_at(bytes, 4)?,
            previous: Lsn(u64_at(bytes, 8)?),
            info: u8_at(bytes, 16)?,
            resource_manager: u8_at(bytes, 17)?,
            crc: u32_at(bytes, CRC_OFFSET)?,
        })
    }

    /// What the resource manager calls the record: the half of `info` that is its own.
    pub fn kind(&self) -> u8 {
        self.info & 0xF0
    }
}

/// Returns the CRC that a whole record must have: first of what follows its header, then of the header.
pub(super) fn record_crc(record: &[u8]) -> u32 {
    let payload = record.get(RECORD_HEADER_SIZE_BYTES..).unwrap_or_default();
    crc32c::crc32c_append(crc32c::crc32c(payload), record.get(..CRC_OFFSET).unwrap_or_default())
}

/// A record whose CRC and place were verified.
#[derive(Clone, Copy, Debug)]
pub struct WalRecord<'a> {
    /// Where it begins.
    pub start: Lsn,
    /// Where it ends, which is the LSN of the pages that it changes.
    pub end: Lsn,
    /// The timeline of the page that it begins on.
    pub timeline: TimelineId,
    /// Its header.
    pub header: RecordHeader,
    pub(super) bytes: &'a [u8],
    pub(super) major: MajorVersion,
}

/// The files of a relation: its tablespace, its database and the number of its files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RelationLocator {
    /// The tablespace.
    pub tablespace: Oid,
    /// The database; 0 for a shared catalog.
    pub database: Oid,
    /// The number that names its files.
    pub relfilenode: Oid,
}

impl RelationLocator {
    /// Reads three numbers.
    pub(super) fn parse(bytes: &[u8], offset: usize) -> Option<Self> {
        Some(Self {
            tablespace: Oid(u32_at(bytes, offset)?),
            database: Oid(u32_at(bytes, offset.checked_add(4)?)?),
            relfilenode: Oid(u32_at(bytes, offset.checked_add(8)?)?),
        })
    }
}

/// What a record brings for a block, from which replay could make it anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlockRestore {
    /// A change only: the block must be as the record before left it.
    Nothing,
    /// A full-page image that only serves to verify replay.
    ImageToCompare,
    /// A full-page image that replaces the block.
    Image,
    /// The whole content, by way of the record's own data.
    Initialises,
}

impl BlockRestore {
    /// Whether replaying the record makes the block right, however it was before.
    pub fn is_complete(self) -> bool {
        matches!(self, Self::Image | Self::Initialises)
    }
}

/// A block that a record refers to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockReference {
    /// Its number in the record.
    pub id: u8,
    /// The relation.
    pub relation: RelationLocator,
    /// The fork.
    pub fork: Fork,
    /// The block.
    pub block: BlockNumber,
    /// What the record brings for it.
    pub restore: BlockRestore,
}

/// What follows a record's header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordBody<'a> {
    /// The blocks that it refers to.
    pub blocks: Vec<BlockReference>,
    /// The record's own data.
    pub main_data: &'a [u8],
}

impl<'a> WalRecord<'a> {
    /// Reads what follows the header; `None` if it makes no sense, which a sound CRC all but rules out.
    pub fn body(&self) -> Option<RecordBody<'a>> {
        let mut fields =
            Fields { bytes: self.bytes, offset: RECORD_HEADER_SIZE_BYTES, payload_bytes: 0, relation: None };
        let mut blocks = Vec::new();
        let mut main_data_bytes = 0;
        while fields.remaining_bytes()? > fields.payload_bytes {
            match fields.u8()? {
                MAIN_DATA_SHORT => {
                    main_data_bytes = usize::from(fields.u8()?);
                    break;
                }
                MAIN_DATA_LONG => {
                    main_data_bytes = usize::try_from(fields.u32()?).ok()?;
                    break;
                }
                ORIGIN => drop(fields.u16()?),
                TOP_LEVEL_XID => drop(fields.u32()?),
                id @ 0..=HIGHEST_BLOCK_ID => blocks.push(fields.block_reference(id, self.major)?),
                _ => return None,
            }
        }
        let main_data_offset = fields.offset.checked_add(fields.payload_bytes)?;
        let main_data = self.bytes.get(main_data_offset..)?;
        (main_data.len() == main_data_bytes).then_some(RecordBody { blocks, main_data })
    }

    /// The major version that wrote it.
    pub fn major(&self) -> MajorVersion {
        self.major
    }

    /// Whether it is of this resource manager and kind.
    pub fn is(&self, resource_manager: u8, kind: u8) -> bool {
        self.header.resource_manager == resource_manager && self.header.kind() == kind
    }
}

/// The block headers of a record, read one after the other.
struct Fields<'a> {
    bytes: &'a [u8],
    offset: usize,
    /// How many bytes of images and block data follow all headers, as counted so far.
    payload_bytes: usize,
    relation: Option<RelationLocator>,
}

impl Fields<'_> {
    fn remaining_bytes(&self) -> Option<usize> {
        self.bytes.len().checked_sub(self.offset)
    }

    fn u8(&mut self) -> Option<u8> {
        let value = u8_at(self.bytes, self.offset)?;
        self.offset += 1;
        Some(value)
    }

    fn u16(&mut self) -> Option<u16> {
        let value = u16_at(self.bytes, self.offset)?;
        self.offset += 2;
        Some(value)
    }

    fn u32(&mut self) -> Option<u32> {
        let value = u32_at(self.bytes, self.offset)?;
        self.offset += 4;
        Some(value)
    }

    fn block_reference(&mut self, id: u8, major: MajorVersion) -> Option<BlockReference> {
        let flags = self.u8()?;
        self.payload_bytes = self.payload_bytes.checked_add(usize::from(self.u16()?))?;
        let image = if flags & HAS_IMAGE == 0 { None } else { Some(self.image(major)?) };
        if flags & SAME_RELATION == 0 {
            self.relation = Some(RelationLocator::parse(self.bytes, self.offset)?);
            self.offset += 12;
        }
        Some(BlockReference {
            id,
            relation: self.relation?,
            fork: fork_of(flags & FORK_MASK)?,
            block: BlockNumber(self.u32()?),
            restore: match image {
                Some(BlockRestore::Image) => BlockRestore::Image,
                _ if flags & WILL_INIT != 0 => BlockRestore::Initialises,
                Some(other) => other,
                None => BlockRestore::Nothing,
            },
        })
    }

    /// The header of an image. Its flags moved in 15, which added methods of compression.
    fn image(&mut self, major: MajorVersion) -> Option<BlockRestore> {
        let (compressed, applies) = if major.0 < 15 { (0x02, 0x04) } else { (0x1C, 0x02) };
        self.payload_bytes = self.payload_bytes.checked_add(usize::from(self.u16()?))?;
        self.u16()?;
        let flags = self.u8()?;
        if flags & compressed != 0 && flags & IMAGE_HAS_HOLE != 0 {
            self.u16()?;
        }
        Some(if flags & applies == 0 { BlockRestore::ImageToCompare } else { BlockRestore::Image })
    }
}

/// The fork of a number (PostgreSQL: `ForkNumber` in relpath.h).
pub(super) fn fork_of(number: u8) -> Option<Fork> {
    match number {
        0 => Some(Fork::Main),
        1 => Some(Fork::Fsm),
        2 => Some(Fork::Vm),
        3 => Some(Fork::Init),
        _ => None,
    }
}
