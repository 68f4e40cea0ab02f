//! Rows of the system catalogs, read from the pages of their files without a server.
//!
//! Only as much of the heap format as that needs: line pointers, tuple headers, whether a row is live. Which page
//! is to be believed is not asked here: `page::verify` says that. Layouts: bufpage.h, itemid.h, `htup_details.h`.

mod catalogs;

pub use catalogs::{ClassRow, DatabaseLocale, DatabaseRow, IndexRow, NameRow};

use super::Oid;
use super::bytes::{u8_at, u16_at, u32_at};
use std::collections::BTreeSet;

const PAGE_HEADER_BYTES: usize = 24;
const LINE_POINTER_BYTES: usize = 4;
const LINE_POINTER_NORMAL: u32 = 1;
/// Where the null bitmap begins, in a tuple that has one.
const NULL_BITMAP_OFFSET: usize = 23;

const HAS_NULL: u16 = 0x0001;
const LOCK_ONLY: u16 = 0x0080;
const XMIN_COMMITTED: u16 = 0x0100;
const XMIN_INVALID: u16 = 0x0200;
const XMAX_COMMITTED: u16 = 0x0400;
const XMAX_INVALID: u16 = 0x0800;
const XMAX_IS_MULTI: u16 = 0x1000;
/// A share lock has both lock bits; an exclusive one alone, without `LOCK_ONLY`, is a lock of before 9.3.
const LOCK_MASK: u16 = 0x0050;
const EXCLUSIVE_LOCK: u16 = 0x0040;
/// The number of columns, in `infomask2`.
const COLUMN_COUNT_MASK: u16 = 0x07FF;

/// What is known of a transaction by its status, now that no server runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TransactionStatus {
    /// Its changes count.
    Committed,
    /// Its changes do not count: rolled back, or cut short by the end of the server.
    Aborted,
    /// It is prepared: it may yet be committed or rolled back, so that both outcomes must stay possible.
    Prepared,
    /// Its status could not be read.
    Unknown,
}

/// The status of transactions, as `pg_xact`, `pg_twophase` and `pg_multixact` have it.
pub trait Transactions {
    /// The status of one transaction.
    fn status(&self, xid: u32) -> TransactionStatus;
    /// The transaction among the members of a multixact that changed the row, if any did; an error where that
    /// cannot be read.
    fn updater(&self, multixact: u32) -> Result<Option<u32>, MultixactUnreadable>;
}

/// A multixact whose members cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MultixactUnreadable;

/// Whether a row counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Visibility {
    /// It does, or both outcomes must stay possible, as a prepared transaction made or removed it.
    Live,
    /// A transaction whose status cannot be read made or removed it.
    Uncertain,
    /// It does not.
    Dead,
}

/// A tuple in a heap page.
#[derive(Clone, Copy, Debug)]
pub struct Tuple<'a> {
    /// The transaction that made it.
    pub xmin: u32,
    /// The transaction that removed or locked it; 0 for none.
    pub xmax: u32,
    infomask: u16,
    column_count: u16,
    bytes: &'a [u8],
    /// The columns.
    data: &'a [u8],
}

impl<'a> Tuple<'a> {
    fn parse(bytes: &'a [u8]) -> Option<Self> {
        let data_offset = usize::from(u8_at(bytes, 22)?);
        Some(Self {
            xmin: u32_at(bytes, 0)?,
            xmax: u32_at(bytes, 4)?,
            infomask: u16_at(bytes, 20)?,
            column_count: u16_at(bytes, 18)? & COLUMN_COUNT_MASK,
            bytes,
            data: bytes.get(data_offset..)?,
        })
    }

    /// Says whether a column, counted from 0, is null or was added after the row was made.
    fn is_null(&self, column: u16) -> bool {
        if column >= self.column_count {
            return true;
        }
        let byte = u8_at(self.bytes, NULL_BITMAP_OFFSET + usize::from(column / 8)).unwrap_or_default();
        self.infomask & HAS_NULL != 0 && byte & (1 << (column % 8)) == 0
    }

    /// Says whether the row counts, now that nobody runs: by its hint bits, else by the status of the transactions
    /// (PostgreSQL: `HeapTupleSatisfiesMVCC()`, with no transaction in progress).
    pub fn visibility(&self, transactions: &impl Transactions) -> Visibility {
        let made = match self.infomask & (XMIN_COMMITTED | XMIN_INVALID) {
            XMIN_INVALID => TransactionStatus::Aborted,
            0 => status(self.xmin, transactions),
            // Both bits together mean frozen.
            _ => TransactionStatus::Committed,
        };
        if made == TransactionStatus::Aborted {
            return Visibility::Dead;
        }
        match (made, self.removal(transactions)) {
            (_, Some(TransactionStatus::Committed)) => Visibility::Dead,
            // Whatever becomes of a prepared transaction, what it made and then removed is gone.
            (TransactionStatus::Prepared, Some(_)) if self.xmin == self.xmax => Visibility::Dead,
            (TransactionStatus::Unknown, _) | (_, Some(TransactionStatus::Unknown)) => Visibility::Uncertain,
            _ => Visibility::Live,
        }
    }

    /// The status of the transaction that set out to remove the row; `None` where none did.
    fn removal(&self, transactions: &impl Transactions) -> Option<TransactionStatus> {
        let is_lock =
            self.infomask & LOCK_ONLY != 0 || self.infomask & (XMAX_IS_MULTI | LOCK_MASK) == EXCLUSIVE_LOCK;
        if self.infomask & XMAX_INVALID != 0 || self.xmax == 0 || is_lock {
            return None;
        }
        if self.infomask & XMAX_IS_MULTI != 0 {
            return match transactions.updater(self.xmax) {
                Ok(updater) => updater.map(|xid| status(xid, transactions)),
                Err(MultixactUnreadable) => Some(TransactionStatus::Unknown),
            };
        }
        if self.infomask & XMAX_COMMITTED != 0 {
            return Some(TransactionStatus::Committed);
        }
        Some(status(self.xmax, transactions))
    }

    /// The transactions that the row itself says have committed, as a server notes on it once it has looked. What is
    /// frozen says nothing of its transaction any more (PostgreSQL: `SetHintBits()` in `heapam_visibility.c`).
    pub fn noted_committed(&self) -> impl Iterator<Item = u32> {
        const MOVED: u16 = 0xC000;
        let is_plain = self.infomask & MOVED == 0;
        let made = self.infomask & (XMIN_COMMITTED | XMIN_INVALID) == XMIN_COMMITTED;
        let is_removed = self.infomask & (XMAX_COMMITTED | XMAX_INVALID) == XMAX_COMMITTED;
        let removed = is_removed && self.infomask & (LOCK_ONLY | XMAX_IS_MULTI) == 0;
        let xids = [(made, self.xmin), (removed, self.xmax)];
        xids.into_iter().filter(move |(is_noted, _)| is_plain && *is_noted).map(|(_, xid)| xid)
    }

    /// The multixact that has the transaction which changed the row among its members (PostgreSQL:
    /// `HeapTupleGetUpdateXid()`); `None` where there is none, or it was rolled back.
    pub fn updating_multixact(&self) -> Option<u32> {
        let is_updated =
            self.infomask & (XMAX_IS_MULTI | XMAX_INVALID | LOCK_ONLY) == XMAX_IS_MULTI && self.xmax != 0;
        is_updated.then_some(self.xmax)
    }

    /// Says whether a transaction set out to remove the row and was rolled back, which the row itself remembers.
    ///
    /// Before 15.4 nothing else tells of a DROP DATABASE that was cut short after the directory was gone.
    pub fn has_failed_removal(&self) -> bool {
        self.xmax != 0 && self.infomask & (LOCK_ONLY | XMAX_IS_MULTI) == 0
    }
}

/// The status of a transaction, those that have none in `pg_xact` included (transam.h).
fn status(xid: u32, transactions: &impl Transactions) -> TransactionStatus {
    match xid {
        0 => TransactionStatus::Aborted,
        // BootstrapTransactionId and FrozenTransactionId.
        1 | 2 => TransactionStatus::Committed,
        _ => transactions.status(xid),
    }
}

/// Reads the file numbers of the rows of `pg_class` whose creation committed, whether or not they were removed since.
/// `is_committed` is asked about transactions of which the row itself does not tell.
pub fn relfilenodes(pages: &[u8], mut is_committed: impl FnMut(u32) -> bool) -> BTreeSet<Oid> {
    const RELFILENODE_OFFSET: usize = 88;
    let mut numbers = BTreeSet::new();
    for tuple in pages.chunks_exact(super::page::SIZE_BYTES).flat_map(tuples) {
        let was_created = match tuple.infomask & (XMIN_COMMITTED | XMIN_INVALID) {
            0 => is_committed(tuple.xmin),
            hints => hints & XMIN_COMMITTED != 0,
        };
        let number = u32_at(tuple.data, RELFILENODE_OFFSET).filter(|_| was_created);
        numbers.extend(number.map(Oid));
    }
    numbers
}

/// Reads the tuples of a heap page, dead ones included; what does not fit into the page is left out.
pub fn tuples(page: &[u8]) -> impl Iterator<Item = Tuple<'_>> {
    let lower = usize::from(u16_at(page, 12).unwrap_or_default()).min(page.len());
    let count = lower.saturating_sub(PAGE_HEADER_BYTES) / LINE_POINTER_BYTES;
    (0..count).filter_map(move |index| {
        let pointer = u32_at(page, PAGE_HEADER_BYTES + index * LINE_POINTER_BYTES)?;
        let offset = usize::try_from(pointer & 0x7FFF).ok()?;
        let size_bytes = usize::try_from(pointer >> 17).ok()?;
        if (pointer >> 15) & 3 != LINE_POINTER_NORMAL {
            return None;
        }
        Tuple::parse(page.get(offset..offset.checked_add(size_bytes)?)?)
    })
}

/// Says whether a page is the one page of a sequence (PostgreSQL: `SEQ_MAGIC` in sequence.c).
pub fn is_sequence(page: &[u8]) -> bool {
    const MAGIC: u32 = 0x1717;
    u16_at(page, 16).and_then(|special| u32_at(page, usize::from(special))) == Some(MAGIC)
}

#[cfg(test)]
mod tests;
