//! Leaf pages of a btree index: the rows that its entries lead to.
//!
//! Keys are not read, so nothing here depends on data types or collations. Layouts: nbtree.h, itup.h; they are
//! the same in 13 to 19.

use super::BlockNumber;
use super::bytes::{u16_at, u32_at};
use super::line_pointers::{LinePointerState, line_pointers, special_space};
use super::page::Page;

/// `BTREE_AM_OID`, the access method in `pg_class`.
pub const ACCESS_METHOD: u32 = 403;

/// Flags of a page (PostgreSQL: `BTP_LEAF` and those after it).
const LEAF: u16 = 1 << 0;
const DELETED: u16 = 1 << 2;
const META: u16 = 1 << 3;
const HALF_DEAD: u16 = 1 << 4;

/// `INDEX_ALT_TID_MASK`: the place of the row's identifier holds something else.
const IS_ALTERNATIVE: u16 = 0x2000;
/// `BT_IS_POSTING`: a list of rows with the same key.
const IS_POSTING: u16 = 0x2000;
/// `BT_OFFSET_MASK`: how many are in the list.
const POSTING_COUNT: u16 = 0x0FFF;

/// `INDEX_NULL_MASK`.
const HAS_NULLS: u16 = 0x8000;

const SPECIAL_SPACE_BYTES: usize = 16;
/// `sizeof(IndexTupleData)`: the key begins behind it.
const ENTRY_HEADER_BYTES: usize = 8;
const ROW_IDENTIFIER_BYTES: usize = 6;

/// Where a row version is: a tuple identifier (PostgreSQL: `ItemPointerData`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TupleId {
    /// The block of the table.
    pub block: BlockNumber,
    /// The number of the line pointer in it, from 1.
    pub line_pointer: u16,
}

impl TupleId {
    fn read(bytes: &[u8], offset: usize) -> Option<Self> {
        let half = |at: usize| u16_at(bytes, offset + at);
        let block = BlockNumber(u32::from(half(0)?) << 16 | u32::from(half(2)?));
        Some(Self { block, line_pointer: half(4)? })
    }
}

/// Calls `visit` for each row version that an entry of this page leads to; not at all for a page that is no leaf in
/// use.
///
/// Entries that were marked as dead are left out: the server does not follow them either.
pub fn for_each_row(page: &Page, mut visit: impl FnMut(TupleId)) {
    let Some(first_entry) = first_entry(page) else { return };
    let in_use = line_pointers(page)
        .filter(|pointer| pointer.number >= first_entry && pointer.state == LinePointerState::Normal);
    for entry in in_use.filter_map(|pointer| pointer.item(page)) {
        visit_rows(entry, &mut visit);
    }
}

/// The number of the first entry that leads to a row; `None` for a page that is no leaf in use.
///
/// Every leaf but the rightmost begins with its high key, which leads nowhere (`P_FIRSTDATAKEY`).
fn first_entry(page: &Page) -> Option<u16> {
    let special = special_space(page).filter(|special| special.len() == SPECIAL_SPACE_BYTES)?;
    let (next, flags) = (u32_at(special, 4)?, u16_at(special, 12)?);
    let is_leaf_in_use = flags & (LEAF | DELETED | META | HALF_DEAD) == LEAF;
    is_leaf_in_use.then_some(if next == 0 { 1 } else { 2 })
}

/// Calls `visit` with the row version and the key of each live entry of this page that leads to one row, as those of
/// indexes of system catalogs all do (nbtutils.c, `_bt_allequalimage()`); not at all for a page that is no leaf in use.
///
/// What a key means, the caller knows; entries with nulls are left out.
pub fn for_each_key<'a>(page: &'a Page, mut visit: impl FnMut(TupleId, &'a [u8])) {
    let Some(first_entry) = first_entry(page) else { return };
    let in_use = line_pointers(page)
        .filter(|pointer| pointer.number >= first_entry && pointer.state == LinePointerState::Normal);
    for entry in in_use.filter_map(|pointer| pointer.item(page)) {
        let (Some(row), Some(information)) = (TupleId::read(entry, 0), u16_at(entry, 6)) else { continue };
        if information & (IS_ALTERNATIVE | HAS_NULLS) == 0 {
            visit(row, entry.get(ENTRY_HEADER_BYTES..).unwrap_or_default());
        }
    }
}

fn visit_rows(entry: &[u8], visit: &mut impl FnMut(TupleId)) -> Option<()> {
    let (head, information) = (TupleId::read(entry, 0)?, u16_at(entry, 6)?);
    if information & IS_ALTERNATIVE == 0 {
        visit(head);
        return Some(());
    }
    // The block number of a posting list's head is where the list begins (`BTreeTupleGetPostingOffset()`).
    if head.line_pointer & IS_POSTING != 0 {
        let begin = usize::try_from(head.block.0).ok()?;
        for index in 0..usize::from(head.line_pointer & POSTING_COUNT) {
            visit(TupleId::read(entry, begin.checked_add(index * ROW_IDENTIFIER_BYTES)?)?);
        }
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pg::page::SIZE_BYTES;
    use proptest::prelude::*;

    fn tid(block: u32, line_pointer: u16) -> TupleId {
        TupleId { block: BlockNumber(block), line_pointer }
    }

    fn bytes_of(tid: TupleId) -> [u8; 6] {
        let [low, high] = [tid.block.0 & 0xFFFF, tid.block.0 >> 16].map(|half| u16::try_from(half).unwrap());
        let halves = [high, low, tid.line_pointer].map(u16::to_le_bytes);
        halves.concat().try_into().unwrap()
    }

    fn entry(tid: TupleId) -> Vec<u8> {
        [&bytes_of(tid)[..], &16_u16.to_le_bytes(), &[0; 8]].concat()
    }

    fn posting(tids: &[TupleId]) -> Vec<u8> {
        let head = tid(16, IS_POSTING | u16::try_from(tids.len()).unwrap());
        let list: Vec<u8> = tids.iter().flat_map(|tid| bytes_of(*tid)).collect();
        [&bytes_of(head)[..], &(IS_ALTERNATIVE | 32).to_le_bytes(), &[0; 8], &list].concat()
    }

    fn page(entries: &[(Vec<u8>, u32)], next: u32, flags: u16) -> Page {
        let mut page = [0; SIZE_BYTES];
        let special = SIZE_BYTES - SPECIAL_SPACE_BYTES;
        let mut upper = special;
        for (index, (entry, state)) in entries.iter().enumerate() {
            upper -= entry.len();
            page[upper..upper + entry.len()].copy_from_slice(entry);
            let pointer =
                u32::try_from(upper).unwrap() | state << 15 | u32::try_from(entry.len()).unwrap() << 17;
            page[24 + index * 4..28 + index * 4].copy_from_slice(&pointer.to_le_bytes());
        }
        let lower = u16::try_from(24 + entries.len() * 4).unwrap();
        page[12..14].copy_from_slice(&lower.to_le_bytes());
        page[16..18].copy_from_slice(&u16::try_from(special).unwrap().to_le_bytes());
        page[special + 4..special + 8].copy_from_slice(&next.to_le_bytes());
        page[special + 12..special + 14].copy_from_slice(&flags.to_le_bytes());
        page
    }

    fn rows(page: &Page) -> Vec<TupleId> {
        let mut rows = Vec::new();
        for_each_row(page, |row| rows.push(row));
        rows
    }

    #[test]
    fn entries_and_lists_of_a_rightmost_leaf_lead_to_rows() {
        let list = [tid(7, 1), tid(7, 2), tid(70_000, 291)];
        let leaf = page(&[(entry(tid(3, 5)), 1), (posting(&list), 1), (entry(tid(4, 4)), 3)], 0, LEAF);

        assert_eq!(rows(&leaf), [&[tid(3, 5)][..], &list].concat(), "the dead entry is left out");
    }

    #[test]
    fn the_high_key_of_another_leaf_leads_nowhere() {
        let leaf = page(&[(entry(tid(9, 9)), 1), (entry(tid(3, 5)), 1)], 2, LEAF);

        assert_eq!(rows(&leaf), [tid(3, 5)]);
    }

    #[test]
    fn other_pages_lead_nowhere() {
        for flags in [0, META, LEAF | DELETED, LEAF | HALF_DEAD] {
            assert_eq!(rows(&page(&[(entry(tid(3, 5)), 1)], 0, flags)), [], "flags {flags}");
        }
        assert_eq!(rows(&[0; SIZE_BYTES]), []);
    }

    proptest! {
        #[test]
        fn arbitrary_pages_never_panic(bytes in prop::collection::vec(any::<u8>(), SIZE_BYTES)) {
            let mut page: Page = bytes.try_into().unwrap();
            let _ = rows(&page);
            page[16..18].copy_from_slice(&8176_u16.to_le_bytes());
            page[8188..8190].copy_from_slice(&LEAF.to_le_bytes());
            prop_assert!(rows(&page).len() <= SIZE_BYTES * SIZE_BYTES / ROW_IDENTIFIER_BYTES);
        }
    }
}
