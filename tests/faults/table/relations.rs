//! What users keep: tables, indexes, sequences, TOAST; files that are gone, cut, swapped, or from another time.

use crate::faults::fault::Expect::{Loses, Lossless};
use crate::faults::fault::fault;

super::faults! {
    a_table_is_lost = fault("rm $accounts").alone_each(Lossless, Loses(&["accounts"]));
    a_table_in_a_tablespace_is_lost = fault("rm $apart").alone(Loses(&["apart"]));
    a_table_is_empty = fault(": > $accounts").found_by_deep_check("index-entry-without-row");
    a_table_is_halved = fault("halve $accounts").found_by_deep_check("index-entry-without-row");
    a_table_ends_within_a_page = fault("truncate -s -4000 $accounts").alone_each(Lossless, Loses(&["accounts"]));
    the_toast_of_a_table_is_lost = fault("rm $documents_toast").alone(Loses(&["documents"]));
    the_index_of_toast_is_lost = fault("rm $documents_toast_index");
    a_sequence_is_lost = fault("rm $numbers").alone(Loses(&["numbers"]));
    a_materialised_view_is_lost = fault("rm $totals").alone(Loses(&["totals"]));
    a_partition_is_lost = fault("rm $measured_2026").alone(Loses(&["measured_2026"]));
    an_empty_table_is_lost = fault("rm $nothing");
    the_primary_key_is_lost = fault("rm $accounts_pkey");
    an_ordinary_index_is_lost = fault("rm $accounts_branch");
    an_index_is_empty = fault(": > $accounts_branch");
    an_index_is_halved = fault("halve $accounts_branch");
    indexes_of_every_sort_are_lost = fault("rm $documents_data $places_gist $places_spgist $places_hash $places_brin");
    an_index_of_a_partition_is_lost = fault("rm $measured_2025_pkey");
    an_unlogged_table_is_lost = fault("rm $scratch");
    the_initial_fork_of_an_unlogged_table_is_lost = fault("rm ${scratch}_init");
    the_initial_fork_of_an_unlogged_index_is_lost = fault("rm ${scratch_pkey}_init");
    a_stray_initial_fork_beside_a_table = fault("cp -p ${scratch}_init ${accounts}_init");
    free_space_maps_are_lost = fault("find base global -name '*_fsm' -delete");
    visibility_maps_are_lost = fault("find base global -name '*_vm' -delete");
    a_free_space_map_is_garbage = fault("garbage ${accounts}_fsm 0");
    a_visibility_map_is_garbage = fault("garbage ${accounts}_vm 0");
    a_page_is_zeroed = fault("zero $accounts 3").found_by_deep_check("page-stale");
    a_page_is_garbage = fault("garbage $accounts 3").found_by_deep_check("page-checksum");
    a_bit_of_a_page_is_flipped = fault("flip $accounts 32000").found_by_deep_check("page-checksum");
    two_pages_are_swapped = fault("swap $accounts 2 4").found_by_deep_check("page-checksum");
    a_page_is_of_an_earlier_time = fault("stale 3").found_by_deep_check("page-stale");
    a_page_of_an_index_is_flipped = fault("flip $accounts_pkey 30000").found_by_deep_check("page-checksum");
    the_first_page_of_an_index_is_garbage = fault("garbage $accounts_pkey 0").found_by_deep_check("page-checksum");
    a_page_of_toast_is_garbage = fault("garbage $documents_toast 1").found_by_deep_check("page-checksum");
}
