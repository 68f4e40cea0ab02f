//! Proofs that could not be made: that says nothing about the backup.

use super::sql;
use crate::support::sandbox::{Sandbox, has_postgresql};

const PROVE: [&str; 4] = ["backup-postgresql", "verify", "latest", "--prove"];

#[test]
fn what_needs_a_library_that_is_not_installed_here_is_no_verdict() {
    // The function that writes a type out is in a library that this installation has not.
    if !has_postgresql() {
        return;
    }
    let sandbox = Sandbox::with_backup();
    sandbox.succeed(&["init-postgresql", "--no-backup"]);
    sandbox.sql("CREATE EXTENSION hstore");
    sandbox.sql("CREATE TABLE written AS SELECT 'a=>1'::hstore AS value");
    sandbox.sql("UPDATE pg_proc SET probin = '$libdir/not_installed' WHERE probin = '$libdir/hstore'");
    sandbox.succeed(&["backup-postgresql", "create", "--force"]);

    let told = sandbox.expect_status(&PROVE, 1);

    assert!(told.contains("public.written could not be read"), "{told}");
    assert!(told.contains("this says nothing about the backup"), "{told}");
    assert!(!sandbox.succeed(&["backup-postgresql", "list"]).contains("NOT PROVEN"));
}

#[test]
fn a_server_that_the_machine_lets_not_start_is_no_verdict() {
    // The configuration of the backup asks for more memory than there is.
    if !has_postgresql() {
        return;
    }
    let sandbox = Sandbox::with_backup();
    sandbox.succeed(&["init-postgresql", "--no-backup"]);
    sandbox.sql("ALTER SYSTEM SET max_locks_per_transaction = 100000000");
    sandbox.succeed(&["backup-postgresql", "create", "--force"]);

    let told = sandbox.expect_status(&PROVE, 1);

    assert!(told.contains("could not start a server on the copy"), "{told}");
    assert!(!sandbox.succeed(&["backup-postgresql", "list"]).contains("NOT PROVEN"));
}

#[test]
fn text_that_is_of_no_encoding_is_read_as_the_bytes_that_it_is() {
    // In a database of SQL_ASCII a text is whatever its client sent.
    if !has_postgresql() {
        return;
    }
    let sandbox = Sandbox::with_backup();
    sandbox.succeed(&["init-postgresql", "--no-backup"]);
    sandbox.sql("CREATE DATABASE bytes TEMPLATE template0 ENCODING 'SQL_ASCII' LOCALE 'C'");
    sql(&sandbox, "bytes", "CREATE TABLE latin AS SELECT chr(233) AS letter FROM generate_series(1, 10)");
    sandbox.succeed(&["backup-postgresql", "create", "--force"]);

    let told = sandbox.succeed(&PROVE);

    assert!(told.contains("in 4 databases read whole"), "{told}");
}

#[test]
fn an_index_that_disagrees_with_its_table_is_found() {
    // A row that its index does not know: the index was not there, as far as the catalog says, when it came.
    if !has_postgresql() {
        return;
    }
    let sandbox = Sandbox::with_backup();
    sandbox.succeed(&["init-postgresql", "--no-backup"]);
    let set = |ready: bool| {
        format!("UPDATE pg_index SET indisready = {ready} WHERE indexrelid = 'kept_pkey'::regclass")
    };
    sandbox.sql(&set(false));
    sandbox.sql("INSERT INTO kept VALUES (1000)");
    sandbox.sql(&set(true));
    sandbox.succeed(&["backup-postgresql", "create", "--force"]);

    let told = sandbox.expect_status(&PROVE, 4);

    assert!(told.contains("index dbuser.public.kept_pkey: ERROR: heap tuple"), "{told}");
    assert!(sandbox.succeed(&["backup-postgresql", "list"]).contains("NOT PROVEN"));
}
