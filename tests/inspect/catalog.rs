//! The offline catalog walk: it knows every file that the server knows, says nothing false of a cluster that was
//! killed, and names what is missing with a remedy that loses nothing.

use crate::support::sandbox::{Sandbox, has_postgresql, run};
use pgbox::cluster::{Expectations, inspect};
use pgbox::plan::{Diagnosis, FileContent, Finding, Remedy, Severity};
use rstest::rstest;
use std::os::unix::fs::MetadataExt;
use std::process::{Command, Stdio};

/// One of everything that has files, with what came and went.
const OBJECTS: &str = "
    CREATE TABLE plain (id serial PRIMARY KEY, long text);
    INSERT INTO plain (long) SELECT repeat('x', 100) FROM generate_series(1, 100);
    CREATE TABLE empty (id int PRIMARY KEY);
    CREATE UNLOGGED TABLE unlogged (id serial PRIMARY KEY, long text);
    INSERT INTO unlogged (long) SELECT 'x' FROM generate_series(1, 100);
    CREATE UNLOGGED SEQUENCE unlogged_sequence;
    CREATE MATERIALIZED VIEW view AS SELECT * FROM plain;
    CREATE TABLE parts (id int) PARTITION BY RANGE (id);
    CREATE TABLE part PARTITION OF parts FOR VALUES FROM (0) TO (9);
    CREATE INDEX ON parts (id);
    CREATE TABLE gone (id int PRIMARY KEY);
    DROP TABLE gone;
    TRUNCATE empty;
";

/// A server that runs, with one of everything.
fn running_with_objects() -> Sandbox {
    let sandbox = Sandbox::without_backup();
    sandbox.succeed(&["init-postgresql", "--no-backup"]);
    sandbox.sql(OBJECTS);
    for statement in ["CREATE DATABASE kept_db", "CREATE DATABASE gone_db", "DROP DATABASE gone_db"] {
        sandbox.sql(statement);
    }
    for statement in ["VACUUM FULL pg_class", "VACUUM FULL pg_database", "REINDEX TABLE pg_attribute"] {
        sandbox.sql(statement);
    }
    sandbox
}

fn diagnosis(sandbox: &Sandbox) -> Diagnosis {
    let data = sandbox.data();
    let server_uid = std::fs::metadata(&data).unwrap().uid();
    inspect(&data, &Expectations { server_uid, ..Expectations::default() }).unwrap()
}

/// What was found, without what has nothing to do with the catalogs: the pid file of a server that was killed.
fn findings(sandbox: &Sandbox) -> Vec<Finding> {
    let findings = diagnosis(sandbox).findings;
    findings.into_iter().filter(|finding| !finding.code.starts_with("pid-file")).collect()
}

/// The relations of all databases that have files, by the server's own word.
fn relations_of_server(sandbox: &Sandbox) -> usize {
    const OWN: &str = "SELECT count(*) FROM pg_class
        WHERE pg_relation_filepath(oid) IS NOT NULL AND NOT relisshared AND relpersistence <> 't'";
    const SHARED: &str = "SELECT count(*) FROM pg_class WHERE relisshared AND relkind IN ('r', 'i', 't')";
    let databases = sandbox.sql("SELECT datname FROM pg_database WHERE datallowconn");
    let of = |database: &str, query: &str| -> usize {
        run(sandbox.psql().args(["-d", database, "-Atc", query])).trim().parse().unwrap()
    };
    let own: usize = databases.lines().map(|database| of(database, OWN)).sum();
    // Nobody can ask template0; it is as template1 was made.
    own + of("template1", OWN) + of("template1", SHARED)
}

#[test]
fn the_walk_finds_the_files_that_the_server_has_and_no_others() {
    if !has_postgresql() {
        return;
    }
    let sandbox = running_with_objects();
    let expected = relations_of_server(&sandbox);
    sandbox.succeed(&["maintenance", "stop"]);

    let diagnosis = diagnosis(&sandbox);

    // No file is missing and none is left over, so that the two sets are the same.
    assert_eq!(diagnosis.findings, []);
    assert_eq!(diagnosis.extent.relations, expected);
}

#[test]
fn a_server_killed_while_tables_come_and_go_gives_no_false_finding() {
    const CHURN: &str = "
        CREATE TABLE churn (id int PRIMARY KEY, long text);
        INSERT INTO churn SELECT g, repeat('y', 3000) FROM generate_series(1, 100) g;
        CREATE UNLOGGED TABLE churn_unlogged (id serial PRIMARY KEY);
        CREATE INDEX ON churn (long); ALTER TABLE churn ALTER COLUMN id TYPE bigint; TRUNCATE churn;
        VACUUM FULL pg_class; DROP TABLE churn; DROP TABLE churn_unlogged; CHECKPOINT;";
    if !has_postgresql() {
        return;
    }
    let sandbox = running_with_objects();
    for kill in 1..=4_u64 {
        // Until the server is gone, at a moment that differs from kill to kill.
        let script = format!("{}\n", CHURN.replace(';', ";\n")).repeat(50);
        let mut psql = sandbox.psql();
        psql.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut churning = psql.args(["-e"]).spawn().unwrap();
        let mut lines = std::io::BufReader::new(churning.stdout.take().unwrap());
        let mut input = churning.stdin.take().unwrap();
        let writer = std::thread::spawn(move || {
            // It ends with the server, in the midst of the script.
            let _ = std::io::Write::write_all(&mut input, script.as_bytes());
        });
        for _ in 0..kill * 7 {
            std::io::BufRead::read_line(&mut lines, &mut String::new()).unwrap();
        }
        sandbox.kill_server();
        drop(lines);
        writer.join().unwrap();
        churning.wait().unwrap();

        assert_eq!(findings(&sandbox), [], "kill {kill}");

        sandbox.succeed(&["init-postgresql", "--no-backup"]);
        sandbox.sql("DROP TABLE IF EXISTS churn, churn_unlogged");
    }
}

/// What is expected of a finding.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Cure {
    Reindex(&'static str),
    Write(usize),
    /// From the WAL on a copy, else from a backup.
    NotInPlace,
}

impl Cure {
    fn of(finding: &Finding) -> Option<Self> {
        Some(match &finding.remedy {
            Remedy::Reindex(name) => Self::Reindex(name.name.clone().leak()),
            Remedy::WriteFile(FileContent { bytes, .. }) => Self::Write(bytes.len()),
            Remedy::Replace | Remedy::ReplayFrom(_) => Self::NotInPlace,
            _ => return None,
        })
    }
}

#[rstest]
#[case::index("plain_pkey", "", "relation-file-missing", Cure::Reindex("plain_pkey"))]
#[case::system_index("pg_am_oid_index", "", "relation-file-missing", Cure::Reindex("pg_am_oid_index"))]
#[case::mapped_index(
    "pg_authid_rolname_index",
    "",
    "relation-file-missing",
    Cure::Reindex("pg_authid_rolname_index")
)]
#[case::table("plain", "", "relation-file-missing", Cure::NotInPlace)]
#[case::table_provably_empty("empty", "", "relation-file-missing", Cure::Write(0))]
#[case::never_used_catalog("pg_replication_origin", "", "relation-file-missing", Cure::Write(0))]
#[case::sequence("plain_id_seq", "", "relation-file-missing", Cure::NotInPlace)]
#[case::init_fork_of_table("unlogged", "_init", "init-fork-missing", Cure::Write(0))]
#[case::init_fork_of_index("unlogged_pkey", "_init", "init-fork-missing", Cure::Reindex("unlogged_pkey"))]
#[case::init_fork_of_sequence("unlogged_sequence", "_init", "init-fork-missing", Cure::Write(8192))]
fn a_file_that_is_gone_is_named_with_its_remedy_in_any_state(
    #[case] relation: &str,
    #[case] fork: &str,
    #[case] code: &str,
    #[case] cure: Cure,
) {
    if !has_postgresql() {
        return;
    }
    let sandbox = running_with_objects();
    sandbox.sql("CHECKPOINT");
    let path = sandbox.sql(&format!("SELECT pg_relation_filepath('{relation}')"));
    sandbox.kill_server();
    let killed = sandbox.path().join("killed");
    run(Command::new("cp").arg("-a").arg(sandbox.data()).arg(&killed));
    sandbox.succeed(&["init-postgresql", "--no-backup"]);
    // A mapped catalog may have other files once it was rewritten; these were not.
    sandbox.succeed(&["maintenance", "stop"]);

    for data in [sandbox.data(), killed] {
        std::fs::remove_file(data.join(format!("{path}{fork}"))).unwrap();
        let server_uid = std::fs::metadata(&data).unwrap().uid();
        let found = inspect(&data, &Expectations { server_uid, ..Expectations::default() }).unwrap().findings;

        let errors: Vec<&Finding> =
            found.iter().filter(|finding| finding.severity == Severity::Error).collect();
        assert_eq!(errors.len(), 1, "{found:#?}");
        assert_eq!((errors[0].code, Cure::of(errors[0])), (code, Some(cure)));
        assert_eq!(errors[0].relation.as_ref().unwrap().name, relation);
    }
}

#[test]
fn what_an_unlogged_table_lost_begins_anew_with_all_that_belongs_to_it() {
    if !has_postgresql() {
        return;
    }
    let sandbox = running_with_objects();
    let path = sandbox.sql("SELECT pg_relation_filepath('unlogged')");
    sandbox.succeed(&["maintenance", "stop"]);
    std::fs::remove_file(sandbox.data().join(path)).unwrap();

    let found = findings(&sandbox);

    let told: Vec<_> = found
        .iter()
        .map(|finding| (finding.code, finding.relation.as_ref().unwrap().name.as_str(), Cure::of(finding)))
        .collect();
    assert_eq!(told[0], ("unlogged-main-missing", "unlogged", Some(Cure::Write(0))));
    assert!(told.contains(&("unlogged-stale", "unlogged_pkey", Some(Cure::Write(8192)))), "{told:?}");
}
