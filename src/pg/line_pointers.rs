//! Line pointers of a page: where its items are, and which of them are in use.
//!
//! Heap and index pages have them alike, right after the header. What an item means is not known here. Layouts:
//! bufpage.h, itemid.h.

use super::bytes::{u16_at, u32_at};
use super::page::{Page, SIZE_BYTES};

const LOWER_OFFSET: usize = 12;
const SPECIAL_OFFSET: usize = 16;
const FIRST_OFFSET: usize = 24;
const POINTER_BYTES: usize = 4;

/// The most line pointers that a heap page can have (PostgreSQL: `MaxHeapTuplesPerPage`).
pub const MOST_IN_HEAP_PAGE: usize = 291;

/// The state of a line pointer (PostgreSQL: `lp_flags` in itemid.h).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinePointerState {
    /// Free for use.
    Unused,
    /// It leads to an item.
    Normal,
    /// It leads to another line pointer.
    Redirect,
    /// Its item is dead, with or without a place on the page.
    Dead,
}

/// A line pointer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinePointer {
    /// Its number, from 1 (PostgreSQL: `OffsetNumber`).
    pub number: u16,
    /// Its state.
    pub state: LinePointerState,
    offset: usize,
    size_bytes: usize,
}

impl LinePointer {
    /// The item that it leads to, if that is on the page.
    pub fn item(self, page: &Page) -> Option<&[u8]> {
        page.get(self.offset..self.offset.checked_add(self.size_bytes)?)
    }
}

/// The line pointers of a page, in order; as many as fit where the header says more.
pub fn line_pointers(page: &Page) -> impl Iterator<Item = LinePointer> + '_ {
    let end = usize::from(u16_at(page, LOWER_OFFSET).unwrap_or_default()).min(SIZE_BYTES);
    let count = end.saturating_sub(FIRST_OFFSET) / POINTER_BYTES;
    (1..=u16::try_from(count).unwrap_or_default()).filter_map(move |number| {
        let pointer = u32_at(page, FIRST_OFFSET + (usize::from(number) - 1) * POINTER_BYTES)?;
        let state = match (pointer >> 15) & 3 {
            0 => LinePointerState::Unused,
            1 => LinePointerState::Normal,
            2 => LinePointerState::Redirect,
            _ => LinePointerState::Dead,
        };
        let offset = usize::try_from(pointer & 0x7FFF).ok()?;
        Some(LinePointer { number, state, offset, size_bytes: usize::try_from(pointer >> 17).ok()? })
    })
}

/// The special space at the end of a page, which index pages have.
pub(super) fn special_space(page: &Page) -> Option<&[u8]> {
    page.get(usize::from(u16_at(page, SPECIAL_OFFSET)?)..)
}

/// Which line pointers of one heap page are in use, a bit each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UsedLinePointers([u64; MOST_IN_HEAP_PAGE.div_ceil(64)]);

impl UsedLinePointers {
    /// As if every one were in use: for a page that cannot be read, of which nothing is known.
    pub const ALL: Self = Self([u64::MAX; MOST_IN_HEAP_PAGE.div_ceil(64)]);

    /// Those of a page; none of a new one.
    pub fn of(page: &Page) -> Self {
        let mut used = Self::default();
        for pointer in line_pointers(page).filter(|pointer| pointer.state != LinePointerState::Unused) {
            let bit = usize::from(pointer.number - 1);
            if let Some(word) = used.0.get_mut(bit / 64) {
                *word |= 1 << (bit % 64);
            }
        }
        used
    }

    /// Whether the line pointer of that number is in use.
    pub fn has(&self, number: u16) -> bool {
        let Some(bit) = usize::from(number).checked_sub(1) else { return false };
        self.0.get(bit / 64).is_some_and(|word| word & (1 << (bit % 64)) != 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pg::MajorVersion;
    use crate::pg::fixtures;
    use proptest::prelude::*;

    #[test]
    fn the_rows_of_a_real_page_are_in_use() {
        let page: Page = fixtures::read(MajorVersion(15), "global_1262").try_into().unwrap();

        let pointers: Vec<_> = line_pointers(&page).collect();
        let used = UsedLinePointers::of(&page);

        assert!(pointers.len() >= 2);
        for pointer in pointers {
            assert_eq!(used.has(pointer.number), pointer.state != LinePointerState::Unused);
            assert!(pointer.state != LinePointerState::Normal || pointer.item(&page).unwrap().len() > 24);
        }
        assert!(!used.has(0) && !used.has(200) && !used.has(u16::MAX));
    }

    #[test]
    fn a_new_page_has_none() {
        assert_eq!(UsedLinePointers::of(&[0; SIZE_BYTES]), UsedLinePointers::default());
        assert!(UsedLinePointers::ALL.has(291) && !UsedLinePointers::ALL.has(0));
    }

    proptest! {
        #[test]
        fn arbitrary_pages_never_panic(bytes in prop::collection::vec(any::<u8>(), SIZE_BYTES)) {
            let page: Page = bytes.try_into().unwrap();
            let items: Vec<_> = line_pointers(&page).map(|pointer| pointer.item(&page)).collect();
            prop_assert!(items.len() <= SIZE_BYTES / POINTER_BYTES);
            let _ = (UsedLinePointers::of(&page), special_space(&page));
        }
    }
}
