//! The visibility map: two bits for each block of a table, which say that everybody sees all of its rows, and that all
//! are frozen. Source: visibilitymap.c. Nothing here opens a file.

use super::BlockNumber;
use super::bytes::{u8_at, u16_at};
use super::page::SIZE_BYTES;

const HEADER_BYTES: usize = 24;
const BLOCKS_PER_BYTE: usize = 4;
const BITS: u8 = 0b11;
/// `PD_ALL_VISIBLE` in bufpage.h.
const PAGE_IS_ALL_VISIBLE: u16 = 0x0004;

/// Says whether a map, given as all of its pages, calls a block all-visible or all-frozen.
pub fn is_set(map: &[u8], block: BlockNumber) -> bool {
    const BLOCKS_PER_PAGE: usize = (SIZE_BYTES - HEADER_BYTES) * BLOCKS_PER_BYTE;
    let Ok(block) = usize::try_from(block.0) else { return false };
    let in_page = block % BLOCKS_PER_PAGE;
    let offset = block / BLOCKS_PER_PAGE * SIZE_BYTES + HEADER_BYTES + in_page / BLOCKS_PER_BYTE;
    let shift = in_page % BLOCKS_PER_BYTE * 2;
    u8_at(map, offset).is_some_and(|byte| (byte >> shift) & BITS != 0)
}

/// Says whether a page of a table itself says that everybody sees all of its rows. The map must not say so of one that
/// does not: the next change of the page would not clear the map (visibilitymap.c, on the order of the two).
pub fn is_page_all_visible(page: &[u8]) -> bool {
    u16_at(page, 10).is_some_and(|flags| flags & PAGE_IS_ALL_VISIBLE != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_bits_a_block_from_the_header_on() {
        let mut map = vec![0; 2 * SIZE_BYTES];
        map[HEADER_BYTES] = 0b0000_0100;
        map[SIZE_BYTES + HEADER_BYTES + 1] = 0b1000_0000;

        let set: Vec<u32> = (0..70_000).filter(|block| is_set(&map, BlockNumber(*block))).collect();

        assert_eq!(set, [1, 32_672 + 7]);
    }

    #[test]
    fn a_page_says_so_in_its_flags() {
        let mut page = [0; SIZE_BYTES];
        assert!(!is_page_all_visible(&page));
        page[10] = 5;
        assert!(is_page_all_visible(&page));
    }
}
