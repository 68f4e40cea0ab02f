//! Whether a btree index is provably without any entry, so that its table is provably without any row.
//!
//! Anything that is not plainly so is "not proven": a root with a level below it may have empty leaves, and still
//! counts as holding entries. Layout: nbtree.h. Entries are not read here.

use super::bytes::{u16_at, u32_at};
use super::page::SIZE_BYTES;

const PAGE_HEADER_BYTES: usize = 24;
const MAGIC: u32 = 0x0005_3162;
/// The special space of a page (PostgreSQL: `BTPageOpaqueData`).
const OPAQUE_BYTES: usize = 16;
const LEAF: u16 = 1;
const ROOT: u16 = 2;
/// Any flag that makes a page unfit as a root: deleted, meta, half-dead.
const UNFIT: u16 = 0x4 | 0x8 | 0x10;

/// The root of an index, by its meta page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Root {
    /// There is none: no entry was ever made.
    None,
    /// A leaf is the root, in this block.
    Leaf(u32),
    /// There are levels below the root.
    Deeper,
}

/// Reads the meta page, block 0; `None` where it is none.
pub fn root(meta_page: &[u8]) -> Option<Root> {
    let field = |index: usize| u32_at(meta_page, PAGE_HEADER_BYTES + index * 4);
    if field(0)? != MAGIC {
        return None;
    }
    Some(match (field(2)?, field(3)?) {
        (0, _) => Root::None,
        (block, 0) => Root::Leaf(block),
        _ => Root::Deeper,
    })
}

/// Says whether a page is a root and leaf without a single line pointer.
pub fn is_empty_root_leaf(page: &[u8]) -> bool {
    let lower = u16_at(page, 12).map(usize::from);
    let special = u16_at(page, 16).map(usize::from);
    let flags = u16_at(page, SIZE_BYTES - OPAQUE_BYTES + 12);
    lower == Some(PAGE_HEADER_BYTES)
        && special == Some(SIZE_BYTES - OPAQUE_BYTES)
        && flags.is_some_and(|flags| flags & (LEAF | ROOT) == LEAF | ROOT && flags & UNFIT == 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn meta(root: u32, level: u32) -> Vec<u8> {
        let mut page = vec![0; SIZE_BYTES];
        for (index, value) in [MAGIC, 4, root, level].into_iter().enumerate() {
            page[PAGE_HEADER_BYTES + index * 4..][..4].copy_from_slice(&value.to_le_bytes());
        }
        page
    }

    #[test]
    fn the_root_stands_in_the_meta_page() {
        assert_eq!(root(&meta(0, 0)), Some(Root::None));
        assert_eq!(root(&meta(1, 0)), Some(Root::Leaf(1)));
        assert_eq!(root(&meta(3, 1)), Some(Root::Deeper));
        assert_eq!(root(&[0; SIZE_BYTES]), None);
    }

    #[test]
    fn a_root_leaf_with_a_line_pointer_is_not_empty() {
        let mut page = vec![0; SIZE_BYTES];
        page[12..14].copy_from_slice(&24_u16.to_le_bytes());
        page[16..18].copy_from_slice(&8176_u16.to_le_bytes());
        page[8188] = 3;
        assert!(is_empty_root_leaf(&page));

        page[12] = 28;
        assert!(!is_empty_root_leaf(&page));
        assert!(!is_empty_root_leaf(&[0; SIZE_BYTES]));
    }

    proptest! {
        #[test]
        fn arbitrary_pages_are_read_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..9000)) {
            root(&bytes);
            is_empty_root_leaf(&bytes);
        }
    }
}
