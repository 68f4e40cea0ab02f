//! System catalogs and their indexes. Of an index everything stands in its table; of a table nothing stands elsewhere.

use crate::faults::fault::Expect::{Loses, Salvages};
use crate::faults::fault::fault;

super::faults! {
    the_index_of_database_names_is_lost = fault("rm global/2671");
    the_index_of_database_oids_is_lost = fault("rm global/2672");
    the_index_of_role_names_is_lost = fault("rm global/2676");
    the_index_of_role_oids_is_lost = fault("rm global/2677");
    the_index_of_tablespace_oids_is_lost = fault("rm global/2697");
    the_index_of_replication_origins_is_lost = fault("rm global/6001");
    the_index_of_relation_oids_is_lost = fault("rm $dbuser/2662");
    the_index_of_relation_names_is_lost = fault("rm $dbuser/2663");
    the_index_of_columns_is_lost = fault("rm $dbuser/2659");
    the_index_of_types_is_lost = fault("rm $dbuser/2703");
    the_index_of_functions_is_lost = fault("rm $dbuser/2690");
    an_index_of_template1_is_lost = fault("rm base/1/2662");
    the_index_of_database_names_is_empty = fault(": > global/2671");
    the_index_of_relation_oids_is_empty = fault(": > $dbuser/2662");
    the_index_of_database_names_is_garbage = fault("garbage global/2671 0; garbage global/2671 1");
    the_index_of_role_names_has_a_flipped_bit = fault("flip global/2676 8300").found_by_deep_check("page-checksum");
    the_index_of_columns_is_garbage = fault("garbage $dbuser/2659 1").found_by_deep_check("page-checksum");
    the_index_of_relation_names_is_zeroed = fault("zero $dbuser/2663 0");
    all_indexes_of_shared_catalogs_are_lost = fault("rm global/2671 global/2672 global/2676 global/2677 global/2697 global/2698");
    // What has no row loses none with its file.
    the_empty_catalog_of_replication_origins_is_lost = fault("rm global/6000");
    the_empty_catalog_of_settings_by_role_is_lost = fault("rm global/2964");
    the_catalog_of_databases_is_lost = fault("rm global/1262").alone(Loses(&["cluster database"]));
    the_catalog_of_roles_is_lost = fault("rm global/1260").alone(Salvages("pg_authid"));
    the_catalog_of_tablespaces_is_lost = fault("rm global/1213").alone(Salvages("pg_tablespace"));
    the_catalog_of_databases_is_empty = fault(": > global/1262").alone(Loses(&["cluster database"]));
    the_catalog_of_relations_is_lost = fault("rm $dbuser/1259").alone(Loses(&["dbuser"]));
    the_catalog_of_columns_is_lost = fault("rm $dbuser/1249").alone(Loses(&["dbuser"]));
    the_catalog_of_types_is_lost = fault("rm $dbuser/1247").alone(Loses(&["dbuser"]));
    the_catalog_of_functions_is_lost = fault("rm $dbuser/1255").alone(Loses(&["dbuser"]));
    the_catalog_of_relations_is_halved = fault("halve $dbuser/1259").alone(Loses(&["dbuser"]));
    a_page_of_the_catalog_of_columns_is_garbage = fault("garbage $dbuser/1249 5").alone(Loses(&["dbuser"]));
    a_page_of_the_catalog_of_databases_is_garbage = fault("garbage global/1262 0").alone(Loses(&["cluster database"]));
}
