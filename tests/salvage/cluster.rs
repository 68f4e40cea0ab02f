//! A cluster with something of everything in it, and no backup.

use crate::support::sandbox::{Sandbox, run};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use tempfile::TempDir;

/// Shell that leaves nothing to repair in place and nothing to replay, and takes no row.
pub(super) const BEYOND_REPAIR: &str = "rm -f global/pg_control pg_wal/0*";

/// What the database `dbuser` has besides the table `kept` of 100 rows.
const CONTENT: &str = "
CREATE TABLE customer (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name text NOT NULL);
INSERT INTO customer (name) SELECT 'customer ' || i FROM generate_series(1, 5000) i;
CREATE TABLE ordered (id bigserial PRIMARY KEY, customer int NOT NULL REFERENCES customer, note text,
    doubled int GENERATED ALWAYS AS (customer * 2) STORED);
INSERT INTO ordered (customer, note) SELECT 1 + i % 5000, repeat('x', 200) FROM generate_series(1, 10000) i;
CREATE VIEW busy AS SELECT customer, count(*) FROM ordered GROUP BY customer;
CREATE MATERIALIZED VIEW totals AS SELECT count(*) FROM ordered;
CREATE TYPE mood AS ENUM ('sad', 'glad');
CREATE SCHEMA app;
CREATE TABLE app.\"Odd name\" (m mood, a int[], \"select\" text);
INSERT INTO app.\"Odd name\" SELECT 'glad', ARRAY[i], 'text' FROM generate_series(1, 10) i;
CREATE TABLE long (id int, value text);
ALTER TABLE long ALTER value SET STORAGE EXTERNAL;
INSERT INTO long SELECT i, repeat(i::text, 5000) FROM generate_series(1, 50) i;
CREATE FUNCTION twice(int) RETURNS int LANGUAGE sql AS 'SELECT $1 * 2';
SELECT lo_from_bytea(4711, 'a large object');
CREATE ROLE reader LOGIN PASSWORD 'a password of its own';
GRANT SELECT ON customer TO reader;
ALTER ROLE reader SET work_mem = '5MB';
ALTER DATABASE dbuser SET statement_timeout = '1h';
ALTER SYSTEM SET work_mem = '7MB';
VACUUM ANALYZE;
";

/// Such a cluster, cleanly stopped; made once, copied for each test.
pub(super) fn sandbox() -> Sandbox {
    static TEMPLATE: OnceLock<TempDir> = OnceLock::new();
    let template = TEMPLATE.get_or_init(|| {
        let sandbox = Sandbox::without_backup();
        sandbox.succeed(&["init-postgresql", "--no-backup"]);
        for statement in CONTENT.split_inclusive(";\n") {
            sandbox.sql(statement);
        }
        sandbox.sql("CREATE DATABASE other TEMPLATE template0 ENCODING 'LATIN1' LOCALE 'C'");
        in_database(&sandbox, "other", "CREATE TABLE precious AS SELECT i FROM generate_series(1, 1000) i");
        sandbox.sql("CHECKPOINT");
        sandbox.succeed(&["maintenance", "stop"]);
        std::fs::remove_dir_all(sandbox.data().join(".pgbox")).unwrap();
        let copy = crate::support::directory::make();
        copy_directory(&sandbox.data(), &copy.path().join("data"));
        copy
    });
    let sandbox = Sandbox::empty();
    copy_directory(&template.path().join("data"), &sandbox.data());
    sandbox
}

fn copy_directory(from: &Path, to: &Path) {
    run(Command::new("cp").arg("-a").arg(from).arg(to));
}

/// Runs SQL in another database than the usual one.
pub(super) fn in_database(sandbox: &Sandbox, database: &str, statement: &str) -> String {
    run(sandbox.psql().args(["-d", database, "-v", "ON_ERROR_STOP=1", "-Atc", statement])).trim().to_owned()
}

/// The file of a relation, by the SQL that the stopped cluster cannot be asked: a server runs for a moment.
pub(super) fn files(sandbox: &Sandbox, relations: &[&str]) -> Vec<PathBuf> {
    sandbox.succeed(&["init-postgresql", "--no-backup"]);
    let paths = relations.iter().map(|relation| {
        let (database, name) = relation.split_once('/').unwrap_or(("dbuser", relation));
        let query = format!("SELECT pg_relation_filepath('{name}')");
        sandbox.data().join(in_database(sandbox, database, &query))
    });
    let paths = paths.collect();
    sandbox.succeed(&["maintenance", "stop"]);
    paths
}

/// Runs a shell command in the data directory.
pub(super) fn shell(sandbox: &Sandbox, script: &str) {
    run(Command::new("sh").args(["-euc", script]).current_dir(sandbox.data()));
}

/// What every test that loses none of it expects of the database `dbuser`.
#[track_caller]
pub(super) fn assert_all_but(sandbox: &Sandbox, table: &str, told: &str) {
    let whole = [
        ("kept", "100"),
        ("customer", "5000"),
        ("ordered", "10000"),
        ("app.\"Odd name\"", "10"),
        ("long", "50"),
    ];
    for (name, count) in whole.iter().filter(|(name, _)| *name != table) {
        assert_eq!(sandbox.sql(&format!("SELECT count(*) FROM {name}")), *count, "{name}: {told}");
    }
    assert_eq!(sandbox.sql("SELECT twice(21)"), "42", "{told}");
    assert_eq!(in_database(sandbox, "other", "SELECT count(*) FROM precious"), "1000", "{told}");
    assert!(sandbox.data().join(".pgbox/salvage").symlink_metadata().is_err(), "the copy is gone: {told}");
}
