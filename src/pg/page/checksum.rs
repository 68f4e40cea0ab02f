//! The checksum of data pages, computed by the widest vectors that the CPU has.
//!
//! A page is a table of 64 rows of 32 numbers; each column is hashed in a lane of its own, which the compiler
//! turns into vector instructions. It is compiled once for each width, and `pulp` picks one at run time: built
//! for the oldest x86-64 alone it would lack even the multiplication of 32-bit lanes. Each lane waits for its own
//! multiplication, so two pages are hashed in turns to fill the gaps. Explicit intrinsics were refused: they are
//! unsafe, and no faster.

#![expect(clippy::inline_always, reason = "what is not inlined is not compiled for the CPU's vectors")]

use super::{CHECKSUM_OFFSET, Checksums, Page, PageVerdict, SIZE_BYTES, verify};
use crate::pg::BlockNumber;
use crate::pg::bytes::u16_at;

const LANE_COUNT: usize = 32;
const ROW_SIZE_BYTES: usize = LANE_COUNT * size_of::<u32>();
/// The last rounds mix in rows of zeros.
const ZEROS: Row = [0; ROW_SIZE_BYTES];

type Row = [u8; ROW_SIZE_BYTES];
type Lanes = [u32; LANE_COUNT];

/// A different start for each lane (PostgreSQL: `checksumBaseOffsets` in `checksum_impl.h`).
const LANE_STARTS: [u32; LANE_COUNT] = [
    0x5B1F_36E9,
    0xB852_5960,
    0x02AB_50AA,
    0x1DE6_6D2A,
    0x79FF_467A,
    0x9BB9_F8A3,
    0x217E_7CD2,
    0x83E1_3D2C,
    0xF8D4_474F,
    0xE39E_B970,
    0x42C6_AE16,
    0x9932_16FA,
    0x7B09_3B5D,
    0x98DA_FF3C,
    0xF718_902A,
    0x0B1C_9CDB,
    0xE58F_764B,
    0x1876_36BC,
    0x5D7B_3BB1,
    0xE73D_E7DE,
    0x92BE_C979,
    0xCCA6_C0B2,
    0x304A_0979,
    0x85AA_43D4,
    0x7831_25BB,
    0x6CA8_EAA2,
    0xE407_EAC6,
    0x4B5C_FC3E,
    0x9FBF_8C76,
    0x15CA_20BE,
    0xF2CA_9FD3,
    0x959B_D756,
];

/// The prime of the FNV-1a hash.
const PRIME: u32 = 16_777_619;

/// Computes the checksum of a page; the checksum stored in it counts as zero. It is never zero itself.
///
/// `block` counts across the relation's segment files (PostgreSQL: `pg_checksum_page()`).
pub fn checksum(page: &Page, block: BlockNumber) -> u16 {
    fit(
        pulp::Arch::new().dispatch(
            #[inline(always)]
            || hash(page),
        ),
        block,
    )
}

/// Judges pages that follow each other, as [`verify`] does one, and returns those that the server would refuse.
///
/// `first_block` is the block number of the first of them, counted across the relation's segment files. It is
/// several times as fast as one page at a time, and wants a run that fits the CPU's caches.
pub fn verify_run(
    pages: &[Page],
    first_block: BlockNumber,
    checksums: Checksums,
) -> Vec<(BlockNumber, PageVerdict)> {
    let mut refused = Vec::new();
    let mut judge = |index: usize, page: &Page| {
        let block = block_after(first_block, index);
        let verdict = verify(page, block, checksums);
        if !verdict.is_acceptable() {
            refused.push((block, verdict));
        }
    };
    if checksums == Checksums::Disabled {
        pages.iter().enumerate().for_each(|(index, page)| judge(index, page));
        return refused;
    }
    let suspects = pulp::Arch::new().dispatch(
        #[inline(always)]
        || suspects(pages, first_block),
    );
    for index in suspects {
        if let Some(page) = pages.get(index) {
            judge(index, page);
        }
    }
    refused
}

/// The indexes of the pages that are new, or whose stored checksum or header is not as it should be.
#[inline(always)]
fn suspects(pages: &[Page], first_block: BlockNumber) -> Vec<usize> {
    let mut suspects = Vec::new();
    let mut compare = |index: usize, page: &Page, hash: u32| {
        let stored = u16_at(page, CHECKSUM_OFFSET).unwrap_or_default();
        let header = super::Header::read(page);
        if header.upper == 0 || !header.is_sane() || stored != fit(hash, block_after(first_block, index)) {
            suspects.push(index);
        }
    };
    let (pairs, rest) = pages.as_chunks::<2>();
    for (number, [first, second]) in pairs.iter().enumerate() {
        let (first_hash, second_hash) = hash_two(first, second);
        compare(number * 2, first, first_hash);
        compare(number * 2 + 1, second, second_hash);
    }
    for page in rest {
        compare(pages.len() - 1, page, hash(page));
    }
    suspects
}

/// The block so many pages after another. A relation ends before its block numbers do.
fn block_after(first: BlockNumber, index: usize) -> BlockNumber {
    BlockNumber(first.0.wrapping_add(u32::try_from(index).unwrap_or(u32::MAX)))
}

/// Brings a hash and a block number into the 16 bits of a checksum.
#[inline(always)]
fn fit(hash: u32, block: BlockNumber) -> u16 {
    ((hash ^ block.0) % 65_535) as u16 + 1
}

#[inline(always)]
fn hash(page: &Page) -> u32 {
    let (first, rest) = rows(page);
    let mut lanes = LANE_STARTS;
    mix_row(&mut lanes, &first);
    for row in rest {
        mix_row(&mut lanes, row);
    }
    finish(lanes)
}

/// Hashes two pages in turns, row by row: while one waits for its multiplications, the other works.
#[inline(always)]
fn hash_two(left: &Page, right: &Page) -> (u32, u32) {
    let ((left_first, left_rest), (right_first, right_rest)) = (rows(left), rows(right));
    let (mut left, mut right) = (LANE_STARTS, LANE_STARTS);
    mix_row(&mut left, &left_first);
    mix_row(&mut right, &right_first);
    for (left_row, right_row) in left_rest.iter().zip(right_rest) {
        mix_row(&mut left, left_row);
        mix_row(&mut right, right_row);
    }
    (finish(left), finish(right))
}

/// The first row of a page, with the stored checksum as zero, and the rows after it.
#[inline(always)]
fn rows(page: &Page) -> (Row, &[Row]) {
    const { assert!(SIZE_BYTES.is_multiple_of(ROW_SIZE_BYTES)) };
    let (rows, _) = page.as_chunks::<ROW_SIZE_BYTES>();
    let Some((first, rest)) = rows.split_first() else { return (ZEROS, &[]) };
    let mut first = *first;
    first[CHECKSUM_OFFSET] = 0;
    first[CHECKSUM_OFFSET + 1] = 0;
    (first, rest)
}

#[inline(always)]
fn finish(mut lanes: Lanes) -> u32 {
    mix_row(&mut lanes, &ZEROS);
    mix_row(&mut lanes, &ZEROS);
    lanes.iter().fold(0, |folded, lane| folded ^ lane)
}

/// Mixes one row into the lanes, number by number.
#[inline(always)]
fn mix_row(lanes: &mut Lanes, row: &Row) {
    let (numbers, _) = row.as_chunks::<4>();
    for (lane, number) in lanes.iter_mut().zip(numbers) {
        let mixed = *lane ^ u32::from_le_bytes(*number);
        *lane = mixed.wrapping_mul(PRIME) ^ (mixed >> 17);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The checksum by the letter of `checksum_impl.h`: one number after the other.
    fn checksum_by_the_letter(page: &Page, block: BlockNumber) -> u16 {
        let mut lanes = LANE_STARTS;
        let (numbers, _) = page.as_chunks::<4>();
        let zeros = [0_u32; 2 * LANE_COUNT];
        let numbers = numbers.iter().map(|bytes| u32::from_le_bytes(*bytes)).chain(zeros);
        for (index, number) in numbers.enumerate() {
            let number = if index == 2 { number & 0xFFFF_0000 } else { number };
            let lane = &mut lanes[index % LANE_COUNT];
            let mixed = *lane ^ number;
            *lane = mixed.wrapping_mul(PRIME) ^ (mixed >> 17);
        }
        fit(lanes.iter().fold(0, |folded, lane| folded ^ lane), block)
    }

    fn sealed(mut page: Page, block: u32) -> Page {
        // An empty page: line pointers end where the tuples begin.
        page[10..20].copy_from_slice(&[0, 0, 24, 0, 0, 32, 0, 32, 4, 32]);
        let sum = checksum(&page, BlockNumber(block));
        page[8..10].copy_from_slice(&sum.to_le_bytes());
        page
    }

    #[test]
    fn a_run_is_judged_as_its_pages_are_one_by_one() {
        let mut pages: Vec<Page> =
            (0..7).map(|number| sealed([number; SIZE_BYTES], 40 + u32::from(number))).collect();
        pages[1] = [0; SIZE_BYTES];
        pages[2][5000] ^= 1;
        pages[4][14..16].copy_from_slice(&[0, 0]);
        pages.swap(5, 6);

        for checksums in [Checksums::Enabled, Checksums::Disabled] {
            let one_by_one: Vec<_> = pages
                .iter()
                .zip(40..)
                .map(|(page, block)| (BlockNumber(block), verify(page, BlockNumber(block), checksums)))
                .filter(|(_, verdict)| !verdict.is_acceptable())
                .collect();

            assert_eq!(verify_run(&pages, BlockNumber(40), checksums), one_by_one);
        }
        assert_eq!(verify_run(&pages, BlockNumber(40), Checksums::Enabled).len(), 4);
        assert_eq!(verify_run(&[], BlockNumber(0), Checksums::Enabled), []);
    }

    proptest! {
        #[test]
        fn it_is_the_checksum_by_the_letter(bytes in prop::collection::vec(any::<u8>(), SIZE_BYTES), block: u32) {
            let page: Page = bytes.try_into().unwrap();
            let expected = checksum_by_the_letter(&page, BlockNumber(block));

            prop_assert_eq!(checksum(&page, BlockNumber(block)), expected);
            prop_assert_eq!(fit(hash(&page), BlockNumber(block)), expected);
            let (left, right) = hash_two(&page, &[7; SIZE_BYTES]);
            prop_assert_eq!(fit(left, BlockNumber(block)), expected);
            prop_assert_eq!(right, hash(&[7; SIZE_BYTES]));
        }
    }
}
