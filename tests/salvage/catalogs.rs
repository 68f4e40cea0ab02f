//! Clusters that lost what a server needs to start, or a database to be opened.

use super::cluster::{BEYOND_REPAIR, assert_all_but, files, in_database, sandbox, shell};
use crate::support::sandbox::{has_postgresql, run};
use rstest::rstest;
use std::process::Command;

#[rstest]
#[case::the_control_file_and_all_wal(":")]
#[case::the_transaction_status("rm pg_xact/0000; rm -f .pgbox/seal")]
#[case::the_multixact_status("rm pg_multixact/offsets/0000")]
#[case::the_shared_relation_map("rm global/pg_filenode.map")]
#[case::shared_indexes("rm global/2671 global/2676")]
#[case::directories("rm -r pg_notify pg_replslot pg_multixact/members pg_logical pg_subtrans")]
#[case::the_version("rm PG_VERSION")]
#[case::the_configuration("rm postgresql.conf pg_hba.conf")]
#[case::template1("rm -r base/1")]
fn of_a_cluster_that_was_stopped_every_row_comes_back(#[case] damage: &str) {
    if !has_postgresql() {
        return;
    }
    let sandbox = sandbox();
    shell(&sandbox, &format!("{damage}; {BEYOND_REPAIR}"));

    let told = sandbox.succeed(&["init-postgresql", "--no-backup"]);

    assert_all_but(&sandbox, "", &told);
    assert!(told.contains("salvaged"), "{told}");
}

#[test]
fn a_database_without_pg_class_is_named_and_the_others_are_whole() {
    if !has_postgresql() {
        return;
    }
    let sandbox = sandbox();
    let file = files(&sandbox, &["other/pg_class"]).remove(0);
    shell(&sandbox, &format!("rm {}; {BEYOND_REPAIR}", file.display()));

    let told = sandbox.succeed(&["init-postgresql", "--no-backup"]);

    assert_eq!(sandbox.sql("SELECT count(*) FROM ordered"), "10000", "{told}");
    assert!(told.contains("the database 'other' is lost"), "{told}");
}

#[test]
fn databases_keep_their_names_and_owners_when_their_catalog_is_lost() {
    if !has_postgresql() {
        return;
    }
    let sandbox = sandbox();
    shell(&sandbox, "rm global/1262");

    let told = sandbox.succeed(&["init-postgresql", "--no-backup"]);

    assert!(told.contains("its name comes from an index"), "{told}");
    assert_eq!(in_database(&sandbox, "dbuser", "SELECT count(*) FROM ordered"), "10000", "{told}");
    assert_eq!(in_database(&sandbox, "other", "SELECT count(*) FROM precious"), "1000", "{told}");
    let owner = "SELECT pg_get_userbyid(datdba) FROM pg_database WHERE datname = 'dbuser'";
    assert_eq!(sandbox.sql(owner), "dbuser", "{told}");
}

#[test]
fn databases_are_worked_out_from_their_directories_when_their_names_are_lost_too() {
    if !has_postgresql() {
        return;
    }
    let sandbox = sandbox();
    shell(&sandbox, "rm global/1262 global/2671");

    let told = sandbox.succeed(&["init-postgresql", "--no-backup"]);

    let names = sandbox.sql(
        "SELECT string_agg(datname, ' ' ORDER BY datname) FROM pg_database WHERE datname LIKE 'database_%'",
    );
    let names: Vec<&str> = names.split(' ').collect();
    let has_orders =
        |name: &&&str| in_database(&sandbox, name, "SELECT to_regclass('ordered') IS NOT NULL") == "t";
    let found = names.iter().find(has_orders).unwrap_or_else(|| panic!("{told}"));
    assert_eq!(in_database(&sandbox, found, "SELECT count(*) FROM ordered"), "10000", "{told}");
}

#[test]
fn the_roles_are_named_anew_when_their_catalog_is_lost() {
    if !has_postgresql() {
        return;
    }
    let sandbox = sandbox();
    shell(&sandbox, ": > global/1260");

    let told = sandbox.succeed(&["init-postgresql", "--no-backup"]);

    assert_all_but(&sandbox, "", &told);
    assert!(told.contains("was lost, with its password"), "{told}");
    assert!(sandbox.application_login("dbuser", "password", "dbuser").status.success(), "{told}");
}

#[test]
fn rows_of_a_killed_server_come_back_without_its_control_file() {
    if !has_postgresql() {
        return;
    }
    let sandbox = sandbox();
    sandbox.succeed(&["init-postgresql", "--no-backup"]);
    sandbox.sql("INSERT INTO kept SELECT generate_series(101, 200)");
    sandbox.sql("CHECKPOINT");
    sandbox.kill_server();
    shell(&sandbox, "rm global/pg_control");

    let told = sandbox.succeed(&["init-postgresql", "--no-backup"]);

    assert_eq!(sandbox.sql("SELECT count(*) FROM kept"), "200", "{told}");
}

#[test]
fn a_lost_catalog_costs_what_was_in_it_and_no_row() {
    if !has_postgresql() {
        return;
    }
    let sandbox = sandbox();
    let damaged = files(&sandbox, &["pg_trigger", "pg_opclass", "customer_id_seq"]);
    let paths: Vec<String> = damaged.iter().map(|path| path.display().to_string()).collect();
    shell(&sandbox, &format!("rm {}; {BEYOND_REPAIR}", paths.join(" ")));

    let told = sandbox.succeed(&["init-postgresql", "--no-backup"]);

    assert_all_but(&sandbox, "", &told);
    assert!(told.contains("what users had in the catalog"), "{told}");
    assert_eq!(sandbox.sql("SELECT nextval('customer_id_seq')"), "5001", "{told}");
}

#[test]
fn tablespaces_are_read_where_they_are_and_come_into_the_data_directory() {
    if !has_postgresql() {
        return;
    }
    let sandbox = sandbox();
    let place = sandbox.path().join("fast disk");
    shell(&sandbox, &format!("mkdir '{0}'; chown --reference=base '{0}'", place.display()));
    sandbox.succeed(&["init-postgresql", "--no-backup"]);
    sandbox.sql(&format!("CREATE TABLESPACE fast LOCATION '{}'", place.display()));
    sandbox.sql("CREATE TABLE quick TABLESPACE fast AS SELECT generate_series(1, 1000) i");
    sandbox.succeed(&["maintenance", "stop"]);
    let before = files_below(&place);
    shell(&sandbox, BEYOND_REPAIR);

    let told = sandbox.succeed(&["init-postgresql", "--no-backup"]);

    assert_all_but(&sandbox, "", &told);
    assert_eq!(sandbox.sql("SELECT count(*) FROM quick"), "1000", "{told}");
    assert_eq!(sandbox.sql("SELECT spcname FROM pg_tablespace WHERE oid >= 16384"), "fast");
    assert_eq!(files_below(&place), before, "what is outside is as it was");
}

fn files_below(place: &std::path::Path) -> String {
    run(Command::new("find").arg(place).args(["-printf", "%P %s %T@\\n"]))
}

#[test]
fn a_relation_of_which_a_column_is_lost_costs_no_other() {
    if !has_postgresql() {
        return;
    }
    let sandbox = sandbox();
    sandbox.succeed(&["init-postgresql", "--no-backup"]);
    sandbox.sql("CREATE TABLE half_known (a int, b int); SET allow_system_table_mods = on; DELETE FROM pg_attribute WHERE attrelid = 'half_known'::regclass AND attname = 'b'");
    sandbox.succeed(&["maintenance", "stop"]);
    shell(&sandbox, BEYOND_REPAIR);

    let told = sandbox.succeed(&["init-postgresql", "--no-backup"]);

    assert_all_but(&sandbox, "", &told);
    assert!(told.contains("the relation 'half_known'"), "{told}");
}
