//! What is rescued from a cluster beyond repair comes over whole, whatever its owner set for sessions.

use super::{FORMATS, LIBRARIES, LIMITS, NAMES, READ_ONLY, make_settings, sql};
use crate::support::sandbox::{Sandbox, has_postgresql, run};
use rstest::rstest;
use std::process::Command;

/// Takes what nothing in place brings back, and no row.
fn damage(sandbox: &Sandbox) {
    sandbox.succeed(&["maintenance", "stop"]);
    run(Command::new("sh").args(["-euc", "rm -f global/pg_control pg_wal/0*"]).current_dir(sandbox.data()));
}

#[rstest]
#[case::a_read_only_database(READ_ONLY)]
#[case::limits_and_libraries(&[LIMITS, LIBRARIES].join("; "))]
#[case::names_and_formats(&[NAMES, FORMATS].join("; "))]
fn every_row_is_rescued_and_the_settings_with_them(#[case] settings: &str) {
    if !has_postgresql() {
        return;
    }
    let sandbox = Sandbox::without_backup();
    sandbox.succeed(&["init-postgresql", "--no-backup"]);
    sandbox.sql(
        "CREATE TABLE list AS SELECT ARRAY[i, NULL] AS entries, 'é' AS letter FROM generate_series(1, 10) i",
    );
    sandbox.sql("CREATE MATERIALIZED VIEW counted AS SELECT count(*) FROM kept");
    make_settings(&sandbox, settings);
    let kept =
        "SELECT string_agg(setconfig::text, ' ' ORDER BY setconfig::text) FROM pg_catalog.pg_db_role_setting";
    let before = sql(&sandbox, "dbuser", kept);
    damage(&sandbox);

    let told = sandbox.succeed(&["init-postgresql", "--no-backup"]);

    assert!(told.contains("salvaged"), "{told}");
    assert_eq!(sql(&sandbox, "dbuser", "SELECT count(*) FROM kept"), "100", "{told}");
    let lists = "SELECT count(*) FROM list WHERE entries[2] IS NULL AND letter = 'é'";
    assert_eq!(sql(&sandbox, "dbuser", lists), "10", "{told}");
    assert_eq!(sql(&sandbox, "dbuser", "SELECT count FROM counted"), "100", "{told}");
    assert_eq!(sql(&sandbox, "dbuser", kept), before, "{told}");
}

#[test]
fn text_that_is_of_no_encoding_is_rescued_as_the_bytes_that_it_is() {
    if !has_postgresql() {
        return;
    }
    let sandbox = Sandbox::without_backup();
    sandbox.succeed(&["init-postgresql", "--no-backup"]);
    sandbox.sql("CREATE DATABASE bytes TEMPLATE template0 ENCODING 'SQL_ASCII' LOCALE 'C'");
    sql(
        &sandbox,
        "bytes",
        "CREATE TABLE latin AS SELECT i, chr(233) AS letter FROM generate_series(1, 10) i",
    );
    damage(&sandbox);

    let told = sandbox.succeed(&["init-postgresql", "--no-backup"]);

    let whole = "SELECT count(*) FROM latin WHERE letter = chr(233)";
    assert_eq!(sql(&sandbox, "bytes", whole), "10", "{told}");
    assert!(!told.contains("latin"), "no loss is told: {told}");
}
