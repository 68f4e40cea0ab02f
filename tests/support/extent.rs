//! How much of the long tables is tried: a sample that is the same each time, or all of it.

/// Set for everything: `PGBOX_TEST_ALL=1 scripts/test`.
const ALL: &str = "PGBOX_TEST_ALL";

/// Whether nothing is to be left out.
pub(crate) fn is_all_wanted() -> bool {
    std::env::var_os(ALL).is_some()
}

/// Whether one of many cases belongs to a sample of one in `one_in`, by its number.
///
/// A case that is found by several numbers has their sum for its own: then each of those is in the sample equally often.
pub(crate) fn is_wanted(number: usize, one_in: usize) -> bool {
    is_all_wanted() || number.is_multiple_of(one_in)
}

/// The fewer suffice, unless everything is wanted.
pub(crate) fn few_or_many(few: u32, many: u32) -> u32 {
    if is_all_wanted() { many } else { few }
}
