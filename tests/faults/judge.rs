//! What is in a cluster, by the word of PostgreSQL's own programs, so that before and after can be compared.

use crate::support::sandbox::{Sandbox, printed, run};
use crate::support::versions::{USUAL, programs};
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

/// The databases that a template has.
pub(crate) const DATABASES: [&str; 3] = ["dbuser", "postgres", "second"];

/// What stands in a cluster, a sum for each thing by its name, such as `dbuser table accounts`.
pub(crate) type Digest = BTreeMap<String, String>;

/// A server that runs.
pub(crate) struct Server {
    /// The directory of its socket.
    pub(crate) host: String,
    /// Its port.
    pub(crate) port: String,
}

impl Server {
    /// The one that pgbox runs in a sandbox.
    pub(crate) fn of(sandbox: &Sandbox) -> Self {
        Self { host: sandbox.socket_directory(), port: sandbox.port() }
    }

    /// One of PostgreSQL's client programs, as the superuser.
    pub(crate) fn client(&self, program: &str) -> Command {
        let mut command = Command::new(programs(USUAL).unwrap().join(program));
        command.args(["-h", &self.host, "-p", &self.port, "-U", "postgres"]);
        command.env("PGCONNECT_TIMEOUT", "30");
        command
    }

    /// `psql` with a file of SQL for a database.
    pub(crate) fn file(&self, database: &str, file: &str) -> Command {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/faults").join(file);
        let mut psql = self.client("psql");
        psql.args(["-XqAt", "-F", "\t", "-d", database]).arg("-f").arg(path);
        psql
    }

    /// Runs SQL in a database.
    #[track_caller]
    pub(crate) fn sql(&self, database: &str, statement: &str) -> String {
        run(self.client("psql").args(["-XqAt", "-v", "ON_ERROR_STOP=1", "-d", database, "-c", statement]))
            .trim()
            .to_owned()
    }

    /// The sums of everything; what cannot be read is missing in them.
    pub(crate) fn digest(&self) -> Digest {
        let mut digest = Digest::new();
        add_lines(&mut digest, "cluster", &stdout_of(&mut self.file("postgres", "cluster_digest.sql")));
        for database in DATABASES {
            if digest.contains_key(&format!("cluster database {database}")) {
                add_lines(&mut digest, database, &stdout_of(&mut self.file(database, "digest.sql")));
            }
        }
        digest
    }

    /// What `pg_dump` and `pg_dumpall` print, without what is different each time.
    pub(crate) fn dump(&self) -> String {
        let mut text = run(self.client("pg_dumpall").arg("--globals-only"));
        for database in DATABASES {
            text +=
                &run(self.client("pg_dump").args(["--create", "--no-unlogged-table-data", "-d", database]));
        }
        let stays = |line: &&str| !line.starts_with("\\restrict") && !line.starts_with("\\unrestrict");
        // A restored tablespace is put inside the data directory.
        let without_place = |line: &str| line.split(" LOCATION ").next().unwrap_or(line).to_owned();
        text.lines().filter(stays).map(without_place).collect::<Vec<_>>().join("\n")
    }

    /// Asserts that every index agrees with its table: `amcheck` of 13, which has nothing for tables yet.
    #[track_caller]
    pub(crate) fn assert_indexes_are_sound(&self) {
        const CHECK: &str =
            "SELECT bt_index_check(i.indexrelid, true) FROM pg_index i JOIN pg_class c ON c.oid = indexrelid
            JOIN pg_am a ON a.oid = c.relam WHERE amname = 'btree' AND c.relkind = 'i' AND indisvalid AND c.relpersistence = 'p'";
        for database in DATABASES {
            self.sql(database, "CREATE EXTENSION IF NOT EXISTS amcheck");
            self.sql(database, CHECK);
        }
    }

    /// Asserts that `pg_amcheck` finds nothing: every index agrees with its table, every row can be read.
    #[track_caller]
    pub(crate) fn assert_amcheck_is_silent(&self) {
        let mut amcheck = self.client("pg_amcheck");
        let output = amcheck.args(["--all", "--heapallindexed", "--install-missing"]).output().unwrap();
        assert!(output.status.success() && output.stdout.is_empty(), "pg_amcheck: {}", printed(&output));
    }
}

/// What a program printed, even if it failed.
fn stdout_of(command: &mut Command) -> String {
    String::from_utf8_lossy(&command.output().unwrap().stdout).into_owned()
}

/// Adds `name<tab>sum` lines; a line without a tab goes on where the one before ended.
fn add_lines(digest: &mut Digest, prefix: &str, text: &str) {
    let mut last = String::new();
    for line in text.lines() {
        if let Some((name, sum)) = line.split_once('\t') {
            last = format!("{prefix} {name}");
            digest.insert(last.clone(), sum.to_owned());
        } else if let Some(sum) = digest.get_mut(&last) {
            *sum += line;
        }
    }
}

/// What is not as it was, each by its name. An unlogged table may be empty: its rows are gone after every crash,
/// and no backup has them (PostgreSQL: `CREATE TABLE`, UNLOGGED).
pub(crate) fn differences(before: &Digest, after: &Digest) -> Vec<String> {
    let is_same = |name: &str, sum: &str| {
        let found = after.get(name).map(String::as_str);
        found == Some(sum) || (name.contains(" unlogged ") && found == Some("0 rows -"))
    };
    let lost = before.iter().filter(|(name, sum)| !is_same(name, sum)).map(|(name, _)| name.clone());
    let added = after.keys().filter(|name| !before.contains_key(*name)).map(|name| format!("new: {name}"));
    lost.chain(added).collect()
}

/// The first lines in which two texts differ, for a message.
pub(crate) fn first_difference(before: &str, after: &str) -> Option<String> {
    let mut pairs = before.lines().zip(after.lines()).enumerate();
    let differing = pairs.find(|(_, (before, after))| before != after);
    let shown =
        differing.map(|(number, (before, after))| format!("line {number}: {before:?}, now {after:?}"));
    shown.or_else(|| (before.len() != after.len()).then(|| "one is longer than the other".to_owned()))
}
