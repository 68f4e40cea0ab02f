//! A relation's file that was cut while no server ran: the server does not miss what is gone, a backup does.

use crate::support::sandbox::{Sandbox, has_postgresql, printed};
use std::fs::File;
use std::path::PathBuf;

/// Rows of the table that is cut.
const ROWS: &str = "20000";

/// A running server with the table `big`, and a backup of it. `setup` is run before the backup.
fn backed_up(setup: &str) -> Sandbox {
    let sandbox = Sandbox::without_backup();
    sandbox.succeed(&["init-postgresql", "--no-backup"]);
    sandbox.sql(&format!("CREATE TABLE big AS SELECT i, repeat('x', 100) FROM generate_series(1, {ROWS}) i"));
    if !setup.is_empty() {
        sandbox.sql(setup);
    }
    sandbox.sql("CHECKPOINT");
    sandbox.succeed(&["backup-postgresql", "create"]);
    sandbox.sql("CHECKPOINT");
    sandbox
}

fn file_of(sandbox: &Sandbox, relation: &str) -> PathBuf {
    sandbox.data().join(sandbox.sql(&format!("SELECT pg_relation_filepath('{relation}')")))
}

fn cut(file: &PathBuf, blocks: u64) {
    let file = File::options().write(true).open(file).unwrap();
    assert!(file.metadata().unwrap().len() > blocks * 8192);
    file.set_len(blocks * 8192).unwrap();
}

#[test]
fn a_table_that_was_cut_after_a_crash_comes_back_from_the_backup_with_all_that_was_committed_since() {
    if !has_postgresql() {
        return;
    }
    let sandbox = backed_up("");
    sandbox.sql("INSERT INTO kept SELECT generate_series(101, 150)");
    let file = file_of(&sandbox, "big");
    sandbox.kill_server();
    cut(&file, 10);

    let told = sandbox.succeed(&["init-postgresql", "--no-backup"]);

    assert!(told.contains("relation-file-cut"), "{told}");
    assert_eq!(sandbox.sql("SELECT count(*) FROM big"), ROWS, "{told}");
    assert_eq!(sandbox.sql("SELECT count(*) FROM kept"), "150", "{told}");
}

#[test]
fn what_the_server_cut_dropped_or_made_again_itself_is_not_called_damaged() {
    if !has_postgresql() {
        return;
    }
    let setup = "CREATE TABLE vacuumed AS SELECT * FROM big; CREATE TABLE truncated AS SELECT * FROM big;\
                 CREATE TABLE dropped AS SELECT * FROM big; CREATE TABLE rewritten AS SELECT * FROM big;\
                 CREATE UNLOGGED TABLE unlogged AS SELECT * FROM big; CREATE INDEX ON vacuumed (i)";
    let sandbox = backed_up(setup);
    sandbox.sql("DELETE FROM vacuumed WHERE i > 100");
    sandbox.sql("VACUUM vacuumed");
    sandbox.sql("TRUNCATE truncated");
    sandbox.sql("DROP TABLE dropped");
    sandbox.sql("VACUUM FULL rewritten");
    sandbox.sql("CREATE DATABASE another");
    sandbox.sql("CREATE TEMP TABLE temporary AS SELECT * FROM big");
    let vacuumed = file_of(&sandbox, "vacuumed");
    assert!(vacuumed.metadata().unwrap().len() < 10 * 8192, "the server did not cut it");
    sandbox.kill_server();

    let told = sandbox.succeed(&["init-postgresql", "--no-backup"]);

    assert!(!told.contains("relation-file"), "{told}");
    assert!(!told.contains("restored"), "{told}");
    let counted =
        "SELECT (SELECT count(*) FROM vacuumed), (SELECT count(*) FROM truncated), count(*) FROM rewritten";
    assert_eq!(sandbox.sql(counted), format!("100|0|{ROWS}"), "{told}");
    // A backup after it is as good: the shorter files are explained by the WAL.
    sandbox.succeed(&["backup-postgresql", "create"]);

    // What is shorter than even the server left it was cut by somebody else.
    sandbox.sql("CHECKPOINT");
    sandbox.kill_server();
    cut(&vacuumed, 1);
    let told = sandbox.succeed(&["init-postgresql", "--no-backup"]);
    assert!(told.contains("relation-file-cut"), "{told}");
    assert_eq!(sandbox.sql(counted), format!("100|0|{ROWS}"), "{told}");
}

#[test]
fn a_backup_of_a_table_that_was_cut_is_not_good() {
    if !has_postgresql() {
        return;
    }
    let sandbox = backed_up("");
    let file = file_of(&sandbox, "big");
    cut(&file, 10);

    let output = sandbox.output(&["backup-postgresql", "create"]);

    let told = printed(&output);
    assert_eq!(output.status.code(), Some(4), "{told}");
    assert!(told.contains("the WAL since cuts nothing off"), "{told}");
}

#[test]
fn where_the_wal_since_the_backup_is_not_whole_a_shorter_file_is_a_warning() {
    if !has_postgresql() {
        return;
    }
    let sandbox = backed_up("");
    sandbox.sql("DELETE FROM big WHERE i > 100");
    sandbox.sql("VACUUM big");
    let recycle = ["ALTER SYSTEM SET wal_keep_size = 0", "SELECT pg_reload_conf()", "CHECKPOINT"];
    for statement in &recycle {
        sandbox.sql(statement);
    }
    for _ in 0..3 {
        sandbox.sql("SELECT pg_switch_wal()");
        sandbox.sql("CHECKPOINT");
    }
    sandbox.kill_server();
    std::fs::remove_dir_all(sandbox.backups().join("wal")).unwrap();

    let told = sandbox.succeed(&["init-postgresql", "--no-backup"]);

    assert!(told.contains("(relation-file-shorter)"), "{told}");
    assert!(told.contains("could not be checked, because"), "{told}");
    assert!(!told.contains("restored"), "{told}");
    assert_eq!(sandbox.sql("SELECT count(*) FROM big"), "100", "{told}");
}
