//! The data page: its checksum, its LSN, and whether the server would accept it.
//!
//! This holds for pages of 8 KiB, the only size that packaged servers have. The block size of a cluster
//! stands in its control file, and a caller checks that it is [`SIZE_BYTES`] first: a page of another size is
//! no argument here. Heap tuples and index entries are not read.

use serde::{Deserialize, Serialize};

use super::bytes::{u16_at, u32_at};
use super::{BlockNumber, Lsn};

mod checksum;
mod rules;

pub use checksum::{checksum, verify_run};
pub use rules::{FilePages, PageRules};

/// The page size that this module reads.
pub const SIZE_BYTES: usize = 8192;

/// A data page.
pub type Page = [u8; SIZE_BYTES];

const CHECKSUM_OFFSET: usize = 8;
const FLAGS_OFFSET: usize = 10;
const LOWER_OFFSET: usize = 12;
const UPPER_OFFSET: usize = 14;
const SPECIAL_OFFSET: usize = 16;

/// The flags that exist: free line pointers, page full, all visible (PostgreSQL: `PD_VALID_FLAG_BITS`).
const VALID_FLAGS: u16 = 0x0007;
/// What the server aligns the special space to (PostgreSQL: `MAXALIGN`).
const ALIGNMENT: u16 = 8;

/// Whether a cluster's pages carry checksums; the control file says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Checksums {
    /// Every page carries the checksum of its content.
    Enabled,
    /// The checksum field means nothing.
    Disabled,
}

/// What the server would make of a page that it reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PageVerdict {
    /// The server accepts the page.
    Sound,
    /// The page is all zeros: the relation was extended, and the page not yet written. The server accepts it.
    New,
    /// The header is none that a server writes.
    BadHeader {
        /// The flags.
        flags: u16,
        /// Where the line pointers end.
        lower: u16,
        /// Where the tuples begin; 0 in a page that is partly zeroed.
        upper: u16,
        /// Where the special space begins.
        special: u16,
    },
    /// The content is not the one that was written, or was written for another block.
    BadChecksum {
        /// The checksum in the page.
        stored: u16,
        /// The checksum of its content.
        computed: u16,
    },
}

impl PageVerdict {
    /// Says whether the server accepts the page.
    pub fn is_acceptable(self) -> bool {
        matches!(self, Self::Sound | Self::New)
    }
}

impl std::fmt::Display for PageVerdict {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Sound => formatter.write_str("sound"),
            Self::New => formatter.write_str("new"),
            Self::BadHeader { flags, lower, upper, special } => {
                write!(formatter, "flags {flags:04X}, lower {lower}, upper {upper}, special {special}")
            }
            Self::BadChecksum { stored, computed } => {
                write!(formatter, "checksum {stored:04X} stored, {computed:04X} computed")
            }
        }
    }
}

/// Judges a page by the rules of the server (PostgreSQL: `PageIsVerified()` in bufpage.c).
///
/// `block` counts across the relation's segment files. Unlike `pg_checksums`, which skips every page whose
/// upper pointer is zero, a page counts as new only if all of it is zero: a torn page does not pass.
pub fn verify(page: &Page, block: BlockNumber, checksums: Checksums) -> PageVerdict {
    let header = Header::read(page);
    if header.upper == 0 {
        return if is_all_zero(page) { PageVerdict::New } else { header.bad() };
    }
    if checksums == Checksums::Enabled {
        let computed = checksum(page, block);
        if computed != header.checksum {
            return PageVerdict::BadChecksum { stored: header.checksum, computed };
        }
    }
    if header.is_sane() { PageVerdict::Sound } else { header.bad() }
}

/// Returns the LSN of the last WAL record that changed the page; [`Lsn::INVALID`] in new pages and those of
/// unlogged or temporary relations that were never logged.
pub fn lsn(page: &Page) -> Lsn {
    let half = |offset| u64::from(u32_at(page, offset).unwrap_or_default());
    Lsn((half(0) << 32) | half(4))
}

/// Returns the checksum that is stored in the page; 0 stands for none.
pub fn stored_checksum(page: &Page) -> u16 {
    u16_at(page, CHECKSUM_OFFSET).unwrap_or_default()
}

/// Returns the size that the page's header names, whose lowest bits are the layout version (PostgreSQL: `PageGetPageSize()`).
pub fn size_bytes(page: &Page) -> usize {
    usize::from(u16_at(page, 18).unwrap_or_default() & 0xFF00)
}

fn is_all_zero(page: &Page) -> bool {
    let (words, _) = page.as_chunks::<8>();
    words.iter().all(|word| u64::from_le_bytes(*word) == 0)
}

/// The fields of a page header that the server checks.
struct Header {
    checksum: u16,
    flags: u16,
    lower: u16,
    upper: u16,
    special: u16,
}

impl Header {
    fn read(page: &Page) -> Self {
        let field = |offset| u16_at(page, offset).unwrap_or_default();
        Self {
            checksum: field(CHECKSUM_OFFSET),
            flags: field(FLAGS_OFFSET),
            lower: field(LOWER_OFFSET),
            upper: field(UPPER_OFFSET),
            special: field(SPECIAL_OFFSET),
        }
    }

    fn is_sane(&self) -> bool {
        self.flags & !VALID_FLAGS == 0
            && self.lower <= self.upper
            && self.upper <= self.special
            && usize::from(self.special) <= SIZE_BYTES
            && self.special.is_multiple_of(ALIGNMENT)
    }

    fn bad(&self) -> PageVerdict {
        let Self { flags, lower, upper, special, .. } = *self;
        PageVerdict::BadHeader { flags, lower, upper, special }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;
    use crate::pg::MajorVersion;
    use crate::pg::fixtures::{self, MAJORS};

    /// Block 0 of `pg_database`.
    fn fixture(major: MajorVersion) -> Page {
        fixtures::read(major, "global_1262").try_into().unwrap()
    }

    fn counting_page() -> Page {
        std::array::from_fn(|index| u8::try_from(index & 255).unwrap())
    }

    /// Returns a sound page of a cluster without checksums, with one header field overwritten.
    fn page_with(offset: usize, value: u16) -> Page {
        let mut page = fixture(MajorVersion(15));
        page[offset..offset + 2].copy_from_slice(&value.to_le_bytes());
        page
    }

    #[rstest]
    #[case::zeros([0; SIZE_BYTES], 0, 0xC6AA)]
    #[case::zeros_in_block_1([0; SIZE_BYTES], 1, 0xC6AB)]
    #[case::zeros_in_the_second_segment([0; SIZE_BYTES], 131_072, 0xC6A8)]
    #[case::counting(counting_page(), 0, 0xE706)]
    #[case::counting_in_block_1(counting_page(), 1, 0xE707)]
    #[case::counting_in_block_70000(counting_page(), 70_000, 0xF875)]
    #[case::ones([0xFF; SIZE_BYTES], 0, 0x0E1C)]
    #[case::real_13(fixture(MajorVersion(13)), 0, 0x3882)]
    #[case::real_15(fixture(MajorVersion(15)), 0, 0x0662)]
    #[case::real_18(fixture(MajorVersion(18)), 0, 0x68D4)]
    fn checksums_are_those_of_the_server(#[case] page: Page, #[case] block: u32, #[case] expected: u16) {
        assert_eq!(checksum(&page, BlockNumber(block)), expected);
    }

    #[test]
    fn the_stored_checksum_does_not_count() {
        let mut page = counting_page();
        let expected = checksum(&page, BlockNumber(3));

        page[8..10].copy_from_slice(&[0xAB, 0xCD]);

        assert_eq!(checksum(&page, BlockNumber(3)), expected);
    }

    #[test]
    fn pages_of_every_version_are_sound_and_have_an_lsn() {
        for major in MAJORS {
            let page = fixture(major);

            assert_eq!(verify(&page, BlockNumber(0), Checksums::Enabled), PageVerdict::Sound, "{major}");
            assert!(lsn(&page).is_valid());
        }
        assert_eq!(lsn(&fixture(MajorVersion(15))), Lsn(0x0174_1988));
    }

    #[test]
    fn the_high_half_of_an_lsn_is_stored_first() {
        let mut page = [0; SIZE_BYTES];
        page[0] = 0x16;
        page[4] = 0x28;

        assert_eq!(lsn(&page), Lsn(0x16_0000_0028));
    }

    #[test]
    fn a_page_in_the_place_of_another_has_a_bad_checksum() {
        let verdict = verify(&fixture(MajorVersion(15)), BlockNumber(1), Checksums::Enabled);

        assert_eq!(verdict, PageVerdict::BadChecksum { stored: 0x0662, computed: 0x0661 });
        assert!(!verdict.is_acceptable());
    }

    #[test]
    fn any_flipped_bit_of_a_page_is_found() {
        let sound = fixture(MajorVersion(15));
        for index in (0..SIZE_BYTES).step_by(61).chain(0..24) {
            let mut page = sound;
            page[index] ^= 0x10;

            assert!(!verify(&page, BlockNumber(0), Checksums::Enabled).is_acceptable(), "byte {index}");
        }
    }

    #[test]
    fn without_checksums_only_the_header_counts() {
        let mut page = fixture(MajorVersion(15));
        page[4000] ^= 1;

        assert_eq!(verify(&page, BlockNumber(9), Checksums::Disabled), PageVerdict::Sound);
    }

    #[test]
    fn a_page_is_new_only_if_all_of_it_is_zero() {
        let mut page = [0; SIZE_BYTES];
        assert_eq!(verify(&page, BlockNumber(5), Checksums::Enabled), PageVerdict::New);

        page[SIZE_BYTES - 1] = 1;

        let torn = PageVerdict::BadHeader { flags: 0, lower: 0, upper: 0, special: 0 };
        assert_eq!(verify(&page, BlockNumber(5), Checksums::Enabled), torn);
        assert_eq!(verify(&page, BlockNumber(5), Checksums::Disabled), torn);
    }

    #[rstest]
    #[case::unknown_flag(FLAGS_OFFSET, 0x0008)]
    #[case::lower_beyond_upper(LOWER_OFFSET, 8192)]
    #[case::upper_beyond_special(UPPER_OFFSET, 8193)]
    #[case::special_beyond_the_page(SPECIAL_OFFSET, 8200)]
    #[case::special_not_aligned(SPECIAL_OFFSET, 8191)]
    fn an_impossible_header_is_bad(#[case] offset: usize, #[case] value: u16) {
        let verdict = verify(&page_with(offset, value), BlockNumber(0), Checksums::Disabled);

        assert!(matches!(verdict, PageVerdict::BadHeader { .. }), "{verdict:?}");
    }

    #[test]
    fn an_impossible_header_with_a_fitting_checksum_is_bad() {
        let mut page = page_with(FLAGS_OFFSET, 0x0100);
        let fitting = checksum(&page, BlockNumber(0));
        page[8..10].copy_from_slice(&fitting.to_le_bytes());

        let verdict = verify(&page, BlockNumber(0), Checksums::Enabled);

        assert!(matches!(verdict, PageVerdict::BadHeader { flags: 0x0100, .. }), "{verdict:?}");
    }

    proptest! {
        #[test]
        fn a_checksum_is_never_zero_and_depends_on_the_block(seed: [u8; 32], block: u32) {
            let byte_at = |index: usize| seed[index % 32].wrapping_mul(u8::try_from(index / 32).unwrap());
            let page: Page = std::array::from_fn(byte_at);
            let one = checksum(&page, BlockNumber(block));

            prop_assert_ne!(one, 0);
            prop_assert_ne!(one, checksum(&page, BlockNumber(block ^ 1)));
        }

        #[test]
        fn arbitrary_pages_never_panic(bytes in prop::collection::vec(any::<u8>(), SIZE_BYTES), block: u32) {
            let page: Page = bytes.try_into().unwrap();
            for checksums in [Checksums::Enabled, Checksums::Disabled] {
                let _ = verify(&page, BlockNumber(block), checksums);
            }
            let _ = lsn(&page);
        }
    }
}
