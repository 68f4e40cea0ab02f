//! The control file, the version files, the relation maps, and labels of backups.

use crate::faults::fault::Expect::{Lossless, Refused};
use crate::faults::fault::fault;

super::faults! {
    the_control_file_is_lost = fault("rm global/pg_control");
    the_control_file_is_empty = fault(": > global/pg_control");
    the_control_file_is_zeroed = fault("zero global/pg_control 0");
    the_control_file_is_cut = fault("truncate -s 100 global/pg_control");
    a_bit_of_the_control_file_is_flipped = fault("flip global/pg_control 60");
    the_identifier_in_the_control_file_is_flipped = fault("flip global/pg_control 3");
    the_version_file_is_lost = fault("rm PG_VERSION");
    the_version_file_is_empty = fault(": > PG_VERSION");
    the_version_file_is_garbage = fault("nonsense 50 > PG_VERSION");
    // The control file says which version it really is.
    the_version_file_names_another_version = fault("echo 9.6 > PG_VERSION");
    the_version_file_of_a_database_is_lost = fault("rm $dbuser/PG_VERSION");
    the_version_file_of_template1_is_lost = fault("rm base/1/PG_VERSION");
    the_version_file_of_a_database_is_garbage = fault("nonsense 50 > $dbuser/PG_VERSION");
    the_shared_relation_map_is_lost = fault("rm global/pg_filenode.map");
    the_shared_relation_map_is_empty = fault(": > global/pg_filenode.map");
    a_bit_of_the_shared_relation_map_is_flipped = fault("flip global/pg_filenode.map 100");
    the_relation_map_of_a_database_is_lost = fault("rm $dbuser/pg_filenode.map");
    the_relation_map_of_template1_is_lost = fault("rm base/1/pg_filenode.map");
    a_bit_of_the_relation_map_of_a_database_is_flipped = fault("flip $dbuser/pg_filenode.map 12");
    all_relation_maps_are_lost = fault("rm global/pg_filenode.map base/*/pg_filenode.map");
    // A server that stopped cleanly is in no base backup; one that was killed may be, and then its label is lost.
    an_empty_backup_label = fault(": > backup_label; chown postgres: backup_label")
        .alone_each(Lossless, Refused)
        .with_backup_each(Lossless, Refused);
    a_backup_label_that_is_garbage = fault("nonsense 200 > backup_label; chown postgres: backup_label")
        .alone_each(Lossless, Refused)
        .with_backup_each(Lossless, Refused);
    a_tablespace_map_without_a_label = fault("echo '1 /x' > tablespace_map; chown postgres: tablespace_map");
    an_old_backup_label_and_manifest = fault("echo x > backup_label.old; echo '{}' > backup_manifest");
}
