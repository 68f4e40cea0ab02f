//! What of a database is not rows of tables: its definitions and large objects, by `pg_dump` and `pg_restore`, and the
//! values of its sequences.
//!
//! The rows are left out of the archive and streamed between its sections, where the tables are there and their
//! constraints and triggers are not yet.

use super::databases::failed;
use super::loss::{Salvaged, one_line};
use super::server::SalvageServer;
use super::workplace::Workplace;
use crate::cluster::session::{describe, quote_literal};
use crate::sys::ProcessError;
use anyhow::Context;
use postgres::Client;
use std::path::PathBuf;

/// An archive of one database.
pub(super) struct Archive {
    path: PathBuf,
    database: String,
}

/// A database that is to be dumped.
pub(super) struct Dumped<'a> {
    /// The server.
    pub(super) server: &'a SalvageServer,
    /// Its name.
    pub(super) name: &'a str,
    /// Its encoding, which all that is dumped stays in.
    pub(super) encoding: &'a str,
    /// Whether the indexes of its catalogs may be used.
    pub(super) are_indexes_sound: bool,
}

/// The sections of an archive, in the order in which they are loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Section {
    /// The database itself and its definitions; `is_there` if one of that name is to be replaced.
    Definitions {
        /// Whether the new cluster has a database of that name.
        is_there: bool,
    },
    /// Its definitions alone, into a database that is there.
    DefinitionsAlone,
    /// Large objects.
    Data,
    /// Indexes, constraints, triggers.
    Constraints,
}

impl Archive {
    /// Dumps all but the rows.
    ///
    /// # Errors
    /// When the definitions cannot be read.
    pub(super) fn dump(work: &Workplace, dumped: &Dumped, salvaged: &mut Salvaged) -> anyhow::Result<Self> {
        let Dumped { server, name: database, encoding, are_indexes_sound } = *dumped;
        let path = work.scratch("database.dump");
        let settings: &[_] = if are_indexes_sound { &[("ignore_system_indexes", "off")] } else { &[] };
        let dump = |with_large_objects: bool| {
            // What was written is of no use if this fails.
            let _ = work.discard(PathBuf::from(super::workplace::SALVAGE).join("database.dump"));
            let mut tool = server
                .program_login()
                .program_with(work.tools.installation, "pg_dump", settings)
                .variable("PGCLIENTENCODING", encoding)
                .arguments([
                    "--format=custom",
                    "--compress=1",
                    "--exclude-table-data=*.*",
                    "--lock-wait-timeout=60s",
                ])
                .arguments(["--no-password", "--quote-all-identifiers", "--file"])
                .argument(&path);
            if !with_large_objects {
                tool = tool.argument("--no-blobs");
            }
            tool.argument("--dbname").argument(connection_string(database)).run()
        };
        if let Err(error) = dump(true) {
            dump(false).with_context(|| format!("read the definitions of '{database}'"))?;
            salvaged.lose_object(database, "every large object", last_complaint(&error));
        }
        Ok(Self { path, database: database.to_owned() })
    }

    /// Loads one section, and sets down what of it could not be.
    ///
    /// # Errors
    /// When `pg_restore` cannot be run at all, or the database is not there afterwards.
    pub(super) fn load(
        &self,
        work: &Workplace,
        server: &SalvageServer,
        section: Section,
        salvaged: &mut Salvaged,
    ) -> anyhow::Result<()> {
        let mut tool = server
            .program_login()
            .program(work.tools.installation, "pg_restore")
            .arguments(["--no-password", "--verbose"]);
        // Only one that it is not connected to can be replaced.
        let other = if self.database == "postgres" { "template1" } else { "postgres" };
        tool = match section {
            Section::Definitions { is_there } => {
                let clean: &[&str] = if is_there { &["--clean", "--if-exists"] } else { &[] };
                tool.arguments(["--create", "--section=pre-data", "--dbname", other]).arguments(clean)
            }
            Section::DefinitionsAlone => tool.argument("--section=pre-data"),
            Section::Data => tool.argument("--section=data"),
            Section::Constraints => tool.argument("--section=post-data"),
        };
        if !matches!(section, Section::Definitions { .. }) {
            tool = tool.argument("--dbname").argument(connection_string(&self.database));
        }
        match tool.argument(&self.path).run() {
            Ok(_) => Ok(()),
            Err(ProcessError::Failed { stderr, status, .. }) => {
                let complaints = complaints(&stderr);
                if complaints.is_empty() {
                    salvaged.lose_object(
                        &self.database,
                        "some of its definitions",
                        format!("pg_restore {status}"),
                    );
                }
                for Complaint { object, reason } in complaints {
                    salvaged.lose_object(&self.database, object, reason);
                }
                Ok(())
            }
            Err(error) => Err(error).context("load what was salvaged"),
        }
    }
}

/// A database's name where a connection string is expected, and a name with `=` in it would be one.
fn connection_string(database: &str) -> String {
    format!("dbname='{}'", database.replace('\\', "\\\\").replace('\'', "\\'"))
}

/// The last thing that a program complained of.
fn last_complaint(error: &ProcessError) -> String {
    let ProcessError::Failed { stderr, .. } = error else { return error.to_string() };
    let complaint = stderr.lines().rev().find(|line| line.contains("error:") || line.contains("ERROR:"));
    one_line(complaint.unwrap_or(stderr))
}

/// Something that `pg_restore` could not do.
#[derive(Debug, PartialEq, Eq)]
struct Complaint {
    object: String,
    reason: String,
}

/// What `pg_restore` could not do, by what it printed (`pg_backup_archiver.c`, `warn_or_exit_horribly()`):
///
/// ```text
/// `pg_restore`: from TOC entry 3188; 2606 16390 FK CONSTRAINT b b_a_fkey postgres
/// `pg_restore`: error: could not execute query: ERROR:  insert or update on table "b" violates …
/// ```
fn complaints(stderr: &str) -> Vec<Complaint> {
    let mut object = None;
    let mut complaints = Vec::new();
    for line in stderr.lines() {
        let Some(text) = line.strip_prefix("pg_restore: ") else { continue };
        if let Some(entry) = text.strip_prefix("from TOC entry ") {
            object =
                entry.split_once("; ").and_then(|(_, rest)| rest.splitn(3, ' ').nth(2)).map(without_owner);
        } else if let Some(reason) = text.strip_prefix("error: ") {
            let reason = reason.strip_prefix("could not execute query: ").unwrap_or(reason);
            let reason = reason.strip_prefix("ERROR:").unwrap_or(reason).trim().to_owned();
            let object = object.clone().unwrap_or_else(|| "an object".to_owned());
            complaints.push(Complaint { object, reason });
        }
    }
    // What an initdb has made already is not missing.
    complaints.retain(|complaint| !complaint.reason.ends_with("already exists"));
    complaints
}

/// `FK CONSTRAINT b b_a_fkey postgres` without the owner.
fn without_owner(entry: &str) -> String {
    entry.rsplit_once(' ').map_or(entry, |(object, _)| object).to_owned()
}

/// Sequences, those of extensions only where they are marked for it, with the column that each is of. A view, or a column
/// of a user's type, which may have a cast, would have a function of a user run as the superuser.
const SEQUENCES: &str = "
SELECT pg_catalog.quote_ident(n.nspname) || '.' || pg_catalog.quote_ident(c.relname),
    (SELECT pg_catalog.format('SELECT pg_catalog.max(%I)::pg_catalog.int8 FROM %I.%I', a.attname, tn.nspname, t.relname)
     FROM pg_catalog.pg_depend d
     JOIN pg_catalog.pg_class t ON t.oid = d.refobjid
     JOIN pg_catalog.pg_namespace tn ON tn.oid = t.relnamespace
     JOIN pg_catalog.pg_attribute a ON a.attrelid = t.oid AND a.attnum = d.refobjsubid
     WHERE d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.objid = c.oid
         AND d.refclassid = d.classid AND d.deptype IN ('a', 'i') AND t.relkind IN ('r', 'p')
         AND a.atttypid = ANY ('{int2,int4,int8}'::pg_catalog.regtype[]) LIMIT 1)
FROM pg_catalog.pg_class c
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind = 'S' AND c.relpersistence <> 't'
    AND (NOT EXISTS (SELECT FROM pg_catalog.pg_depend WHERE classid = 'pg_catalog.pg_class'::pg_catalog.regclass
                     AND objid = c.oid AND deptype = 'e')
         OR EXISTS (SELECT FROM pg_catalog.pg_extension WHERE c.oid = ANY (extconfig)))
ORDER BY c.oid";

/// Sets the sequences to where they were. One that is lost goes on after the highest value of its column.
pub(super) fn set_sequences(
    from: &mut Client,
    to: &mut Client,
    database: &str,
    salvaged: &mut Salvaged,
) -> anyhow::Result<()> {
    for row in from.query(SEQUENCES, &[]).map_err(failed("list the sequences"))? {
        let unreadable = failed("read the catalogs");
        let name: String = row.try_get(0).map_err(&unreadable)?;
        let highest: Option<String> = row.try_get(1).map_err(&unreadable)?;
        let read = format!("SELECT last_value, is_called FROM {name}");
        let set = |to: &mut Client, value: i64, is_called: bool| {
            let literal = quote_literal(&name);
            to.batch_execute(&format!("SELECT pg_catalog.setval({literal}, {value}, {is_called})"))
        };
        let (result, reason) = match from.query_opt(&read, &[]) {
            Ok(Some(value)) => (set(to, value.get(0), value.get(1)), None),
            Ok(None) => (Ok(()), Some("its file is empty".to_owned())),
            Err(error) => (Ok(()), Some(describe(&error))),
        };
        if let Err(error) = result {
            salvaged.lose_object(database, format!("the value of the sequence {name}"), describe(&error));
        }
        let Some(reason) = reason else { continue };
        let value: Option<i64> = highest.and_then(|query| to.query_one(&query, &[]).ok()?.get(0));
        match value.filter(|value| set(to, *value, true).is_ok()) {
            Some(value) => salvaged.assume(format!(
                "the sequence {name} of '{database}' could not be read ({}), and goes on after {value}, the highest \
                 value of its column",
                one_line(&reason)
            )),
            None => salvaged.lose_object(database, format!("the value of the sequence {name}"), reason),
        }
    }
    Ok(())
}

/// Fills the materialized views that were filled. One may be made of another, so that each is tried until none goes.
pub(super) fn refresh_views(
    from: &mut Client,
    to: &mut Client,
    database: &str,
    salvaged: &mut Salvaged,
) -> anyhow::Result<()> {
    let query = "SELECT pg_catalog.quote_ident(n.nspname) || '.' || pg_catalog.quote_ident(c.relname) \
                 FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
                 WHERE c.relkind = 'm' AND c.relispopulated ORDER BY c.oid";
    let rows = from.query(query, &[]).map_err(failed("list the materialized views"))?;
    let names: Result<_, _> =
        rows.iter().map(|row| row.try_get(0).map_err(failed("read the catalogs"))).collect();
    let mut waiting: Vec<String> = names?;
    loop {
        let count = waiting.len();
        let mut complaints = Vec::new();
        for name in std::mem::take(&mut waiting) {
            if let Err(error) = to.batch_execute(&format!("REFRESH MATERIALIZED VIEW {name}")) {
                complaints.push((format!("the content of the materialized view {name}"), describe(&error)));
                waiting.push(name);
            }
        }
        if waiting.is_empty() || waiting.len() == count {
            for (object, reason) in complaints {
                salvaged.lose_object(database, object, reason);
            }
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_could_not_be_loaded_is_named_with_its_reason() {
        let stderr = "pg_restore: while PROCESSING TOC:\n\
            pg_restore: from TOC entry 3188; 2606 16390 FK CONSTRAINT b b_a_fkey postgres\n\
            pg_restore: error: could not execute query: ERROR:  insert or update on table \"b\" violates it\n\
            DETAIL:  Key (a)=(1) is not present in table \"a\".\n\
            Command was: ALTER TABLE ONLY public.b ADD …\n\
            pg_restore: from TOC entry 6; 2615 2200 SCHEMA - public postgres\n\
            pg_restore: error: could not execute query: ERROR:  schema \"public\" already exists\n\
            pg_restore: warning: errors ignored on restore: 2\n";

        let object = "FK CONSTRAINT b b_a_fkey".to_owned();
        let reason = "insert or update on table \"b\" violates it".to_owned();
        assert_eq!(complaints(stderr), [Complaint { object, reason }]);
    }

    #[test]
    fn a_name_is_no_connection_string() {
        assert_eq!(connection_string("a=b 'c'"), "dbname='a=b \\'c\\''");
    }

    proptest::proptest! {
        #[test]
        fn whatever_is_printed_is_read(text: String) {
            let _ = complaints(&text);
        }
    }
}
