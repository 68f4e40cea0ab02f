//! Nothing is found where nothing is wrong.

use super::{check, findings};
use crate::support::sandbox::{Sandbox, has_postgresql, run};
use serde_json::{Value, json};
use std::path::Path;
use std::process::Command;

/// Indexes of every kind on rows that were inserted, updated, deleted, vacuumed and rewritten.
const EVERY_KIND: &str = "
    CREATE TABLE many (id int PRIMARY KEY, word text, box box, list int[], range int4range, wide text);
    ALTER TABLE many ALTER wide SET STORAGE EXTERNAL;
    INSERT INTO many SELECT i, md5((i / 7)::text), box(point(i, i), point(i + 1, i + 1)), ARRAY[i % 50, i % 7],
        int4range(i, i + 5), CASE WHEN i % 500 = 0 THEN repeat(md5(i::text), 200) END
        FROM generate_series(1, 20000) i;
    CREATE INDEX many_word ON many (word);
    CREATE INDEX many_hash ON many USING hash (word);
    CREATE INDEX many_gist ON many USING gist (range);
    CREATE INDEX many_spgist ON many USING spgist (box);
    CREATE INDEX many_gin ON many USING gin (list);
    CREATE INDEX many_brin ON many USING brin (id);
    CREATE INDEX many_partial ON many (word, id) WHERE id % 3 = 0;
    UPDATE many SET word = md5(id::text) WHERE id % 5 = 0;
    DELETE FROM many WHERE id % 11 = 0 OR id > 19000;
    CREATE TABLE rewritten AS SELECT * FROM many;
    CREATE INDEX rewritten_word ON rewritten (word);
    CREATE UNLOGGED TABLE unlogged (id int PRIMARY KEY);
    INSERT INTO unlogged SELECT generate_series(1, 5000);
    CREATE SEQUENCE numbers;
    SELECT nextval('numbers') FROM generate_series(1, 100);
    CREATE TABLE emptied (id int PRIMARY KEY);
    INSERT INTO emptied SELECT generate_series(1, 5000);
    DELETE FROM emptied;";

const PREPARED: &str = "
    BEGIN; INSERT INTO many SELECT i, 'prepared' FROM generate_series(30000, 31000) i; PREPARE TRANSACTION 'one';";

fn busy_cluster() -> Sandbox {
    let sandbox = Sandbox::without_backup();
    sandbox.succeed(&["maintenance", "start", "--no-backup"]);
    sandbox.sql("ALTER SYSTEM SET max_prepared_transactions = 5");
    sandbox.succeed(&["maintenance", "restart"]);
    sandbox.sql(EVERY_KIND);
    for statement in
        ["VACUUM many", "VACUUM emptied", "VACUUM FULL rewritten", "VACUUM FULL pg_class", "VACUUM FREEZE"]
    {
        sandbox.sql(statement);
    }
    sandbox.sql(PREPARED);
    sandbox
}

/// Stops whatever makes itself known as wrong; what is only told, such as an orphan, is none.
fn assert_nothing_found(sandbox: &Sandbox, when: &str) {
    let findings = findings(sandbox);
    // A killed server leaves its pid file, which is to be cleared away.
    let is_wrong = |finding: &&Value| finding["severity"] != "notice" && finding["code"] != "pid-file-stale";
    let wrong: Vec<&Value> = findings.iter().filter(is_wrong).collect();
    assert!(wrong.is_empty(), "{when}: {wrong:#?}");
}

#[test]
fn no_page_of_a_sound_cluster_is_bad_whether_it_runs_was_stopped_or_crashed() {
    if !has_postgresql() {
        return;
    }
    let sandbox = busy_cluster();
    assert_nothing_found(&sandbox, "while it runs");

    sandbox.sql("UPDATE many SET word = word WHERE id % 2 = 0");
    sandbox.kill_server();
    assert_nothing_found(&sandbox, "after a crash");
    std::fs::remove_file(sandbox.data().join("postmaster.pid")).unwrap();
    let (status, diagnosis) = check(&sandbox, &[]);
    assert_eq!(status, 0, "{diagnosis:#}");

    sandbox.succeed(&["maintenance", "start", "--no-backup"]);
    sandbox.sql("VACUUM many");
    sandbox.succeed(&["maintenance", "stop"]);
    assert_nothing_found(&sandbox, "after a clean stop");
}

#[test]
fn no_page_is_bad_beside_a_server_that_writes_all_the_time() {
    if !has_postgresql() {
        return;
    }
    let sandbox = Sandbox::without_backup();
    sandbox.succeed(&["maintenance", "start", "--no-backup"]);
    let psql = sandbox.psql();
    let bench = |arguments: &[&str]| {
        let mut bench = Command::new(Path::new("/usr/lib/postgresql/15/bin/pgbench"));
        let connection: Vec<_> = psql.get_args().filter(|argument| *argument != "--no-psqlrc").collect();
        bench
            .args(connection.chunks(2).filter(|pair| pair[0] != "-d").flatten())
            .args(arguments)
            .arg("dbuser");
        bench
    };
    run(&mut bench(&["-iqs", "3"]));
    let mut writing = bench(&["-n", "-c", "2", "-T", "5"]).spawn().unwrap();

    while writing.try_wait().unwrap().is_none() {
        assert_nothing_found(&sandbox, "beside pgbench");
    }

    sandbox.succeed(&["maintenance", "stop"]);
    assert_nothing_found(&sandbox, "after pgbench");
}

#[test]
fn a_check_says_how_much_it_looked_at() {
    if !has_postgresql() {
        return;
    }
    let sandbox = Sandbox::without_backup();

    let (_, shallow) = check(&sandbox, &[]);
    let (_, deep) = check(&sandbox, &["--deep"]);

    assert_eq!(shallow["extent"]["pages"], json!(0));
    let pages: u64 = std::str::from_utf8(
        &Command::new("find")
            .arg(sandbox.data())
            .args(["-path", "*/.pgbox", "-prune", "-o"])
            .args([
                "-regextype",
                "egrep",
                "-regex",
                ".*/(base|global)/.*[0-9]+(_fsm|_vm|_init)?",
                "-printf",
                "%s\\n",
            ])
            .output()
            .unwrap()
            .stdout,
    )
    .unwrap()
    .lines()
    .map(|size| size.parse::<u64>().unwrap() / super::PAGE_BYTES)
    .sum();
    assert!(pages > 1000);
    assert_eq!(deep["extent"]["pages"], json!(pages));
    assert!(deep["extent"]["index_entries"].as_u64().unwrap() > 10_000, "{}", deep["extent"]);
}
