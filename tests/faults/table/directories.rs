//! Directories and files beside the data: what git, rsync and careless hands lose or leave behind.

use crate::faults::fault::Expect::{BeginsAnew, Loses, Lossless, Refused, Salvages};
use crate::faults::fault::fault;

super::faults! {
    all_empty_directories_are_lost = fault(
        "find pg_commit_ts pg_dynshmem pg_logical pg_notify pg_replslot pg_serial pg_snapshots pg_stat_tmp \
            pg_twophase pg_wal -depth -type d -empty -delete",
    );
    pg_notify_is_lost = fault("rm -r pg_notify");
    pg_replslot_is_lost = fault("rm -r pg_replslot");
    pg_twophase_is_lost = fault("rm -r pg_twophase");
    pg_commit_ts_is_lost = fault("rm -r pg_commit_ts");
    pg_stat_and_pg_stat_tmp_are_lost = fault("rm -r pg_stat pg_stat_tmp");
    pg_serial_pg_snapshots_and_pg_dynshmem_are_lost = fault("rm -r pg_serial pg_snapshots pg_dynshmem");
    pg_logical_snapshots_is_lost = fault("rm -r pg_logical/snapshots");
    pg_logical_mappings_is_lost = fault("rm -r pg_logical/mappings");
    pg_logical_is_lost = fault("rm -r pg_logical");
    pg_subtrans_is_lost = fault("rm -r pg_subtrans");
    archive_status_is_lost = fault("rm -r pg_wal/archive_status");
    // Which transactions hold a row is nowhere else.
    pg_multixact_members_is_lost = fault("rm -r pg_multixact/members").alone(Salvages("pg_multixact/members"));
    pg_multixact_offsets_is_lost = fault("rm pg_multixact/offsets/0000").alone(Salvages("pg_multixact/offsets"));
    // Which transactions committed is nowhere else.
    pg_xact_is_lost = fault("rm -r pg_xact").alone(Salvages("pg_xact"));
    a_segment_of_pg_xact_is_lost = fault("rm pg_xact/0000").alone(Salvages("pg_xact"));
    a_segment_of_pg_xact_is_empty = fault(": > pg_xact/0000").alone(Salvages("pg_xact"));
    pg_subtrans_has_lost_its_segment = fault("rm pg_subtrans/*");
    the_base_directory_is_lost = fault("rm -r base").alone(BeginsAnew("there is no backup to restore"));
    the_global_directory_is_lost = fault("rm -r global").alone(BeginsAnew("there is no backup to restore"));
    the_directory_of_a_database_is_lost = fault("rm -r $database_second").alone(Loses(&["second"]));
    the_directory_of_template0_is_lost = fault("rm -r $database_template0");
    the_directory_of_template1_is_lost = fault("rm -r $database_template1").alone(Loses(&["template1"]));
    // Where it was, only a person knows.
    the_link_to_a_tablespace_is_lost = fault("rm $tablespace").alone(Refused).with_backup(Refused);
    pg_tblspc_is_lost = fault("rm -r pg_tblspc").alone(Refused).with_backup(Refused);
    // It may be a disk that is not mounted.
    the_directory_of_a_tablespace_is_lost = fault("rm -r ../space/*").alone(Refused).with_backup(Refused);
    an_empty_pid_file = fault(": > postmaster.pid");
    a_pid_file_with_something_else_in_it = fault("echo '{\"a\": 1}' > postmaster.pid");
    a_pid_file_of_a_dead_server = fault("printf '999999\\n/x\\n1\\n5432\\n/tmp\\nlocalhost\\n' > postmaster.pid");
    a_pid_file_that_names_init = fault("printf '1\\n/x\\n1\\n5432\\n/tmp\\nlocalhost\\n' > postmaster.pid");
    a_pid_file_of_a_single_user_server = fault("printf -- '-999999\\n/x\\n1\\n' > postmaster.pid");
    postmaster_opts_is_lost = fault("rm postmaster.opts");
    pg_internal_init_is_garbage = fault("nonsense 9000 > global/pg_internal.init; chown postgres: global/pg_internal.init");
    statistics_are_garbage = fault("nonsense 900 > pg_stat/pgstat.stat; nonsense 900 > pg_stat/global.stat");
    a_file_that_belongs_to_nothing = fault("cp $accounts $dbuser/99999; chown postgres: $dbuser/99999");
    git_left_its_files_everywhere = fault("for d in pg_tblspc pg_notify pg_replslot pg_twophase pg_commit_ts; do : > $d/.gitkeep; done");
    a_mode_that_the_server_refuses = fault("chmod 777 .");
    a_mode_that_the_group_may_read = fault("chmod 755 .");
    files_of_root = fault("chown -R root base pg_wal PG_VERSION");
    one_file_of_root = fault("chown root $accounts; chmod 600 $accounts");
    a_file_that_may_not_be_read = fault("chmod 000 $accounts");
    a_directory_that_may_not_be_entered = fault("chmod 000 $dbuser");
    a_link_in_place_of_pg_stat_tmp_leads_nowhere = fault("rm -r pg_stat_tmp; ln -s /nonexistent/place pg_stat_tmp").with_backup(Lossless);
}
