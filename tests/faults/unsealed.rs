//! What a start need not notice where no seal tells of it: a deep check finds it, and a repair puts it right.

use super::fault::case_without_seal;
use super::table::{all, find};
use rstest::rstest;

#[rstest]
fn a_deep_check_finds_it_and_a_repair_puts_it_right(
    #[values(
        "the_index_of_role_names_has_a_flipped_bit",
        "the_index_of_columns_is_garbage",
        "a_table_is_empty",
        "a_table_is_halved",
        "a_page_is_zeroed",
        "a_page_is_garbage",
        "a_bit_of_a_page_is_flipped",
        "two_pages_are_swapped",
        "a_page_is_of_an_earlier_time",
        "a_page_of_an_index_is_flipped",
        "the_first_page_of_an_index_is_garbage",
        "a_page_of_toast_is_garbage"
    )]
    name: &str,
) {
    case_without_seal(find(name));
}

#[test]
fn all_that_only_a_deep_check_finds_is_tried_without_a_seal() {
    assert_eq!(all().filter(|(_, fault)| fault.code.is_some()).count(), 12);
}
