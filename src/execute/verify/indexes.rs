//! Holding every index and every table of a recovered copy against itself, with the extension `amcheck`.
//!
//! The functions are called as `pg_amcheck` calls them. The program itself was refused: it prints an index that it could
//! not look at, for want of memory or of a library, as it prints one that is corrupted, and only the SQLSTATE tells them
//! apart; 13 has no such program, either.
//!
//! The extension may be in a schema where others may make functions. Each call has every argument, of exactly the type
//! that the extension's own function takes: beside a function of that name with fewer arguments, a call that leaves the
//! rest to defaults is ambiguous (namespace.c, `FuncnameGetCandidates()`), and nothing would be checked.

use postgres::Client;

use super::reading::{databases, open, texts};
use crate::cluster::session::{Obstacle, ServerAddress, describe, obstacle, quote_identifier};
use crate::execute::Tools;
use crate::plan::IndexCheck;
use crate::plan::server_answer::AnswerMeaning;

/// How many complaints are kept.
const MOST_COMPLAINTS: usize = 20;

/// Which schema the extension is in, once it is there and as new as the server: it is the copy that is changed.
const PREPARE: &str =
    "CREATE EXTENSION IF NOT EXISTS amcheck WITH SCHEMA pg_catalog; ALTER EXTENSION amcheck UPDATE";
const SCHEMA: &str = "SELECT n.nspname, EXISTS (SELECT FROM pg_catalog.pg_proc p WHERE p.pronamespace = n.oid \
                      AND p.proname = 'verify_heapam')::text FROM pg_catalog.pg_extension e \
                      JOIN pg_catalog.pg_namespace n ON n.oid = e.extnamespace WHERE e.extname = 'amcheck'";
/// What `pg_amcheck` checks, too (`pg_amcheck.c`, `compile_relation_list_one_db()`): what is complete, and not of a session.
const INDEXES: &str = "SELECT c.oid, n.nspname || '.' || c.relname FROM pg_catalog.pg_class c \
                       JOIN pg_catalog.pg_index i ON i.indexrelid = c.oid \
                       JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
                       JOIN pg_catalog.pg_am a ON a.oid = c.relam \
                       WHERE c.relkind = 'i' AND a.amname = 'btree' AND c.relpersistence <> 't' \
                       AND i.indisready AND i.indisvalid AND i.indislive ORDER BY 1";
const HEAPS: &str = "SELECT c.oid, n.nspname || '.' || c.relname FROM pg_catalog.pg_class c \
                     JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
                     JOIN pg_catalog.pg_am a ON a.oid = c.relam \
                     WHERE c.relkind IN ('r', 'm', 't') AND a.amname = 'heap' AND c.relpersistence <> 't' ORDER BY 1";

/// What was found, and what could not be looked at.
#[derive(Default)]
struct Checked {
    complaints: Vec<String>,
    unchecked: Vec<String>,
}

/// Checks every index of every database, and every table where the version can.
pub(super) fn check_indexes(tools: &Tools, address: &ServerAddress) -> IndexCheck {
    let mut checked = Checked::default();
    match databases(tools, address) {
        Ok(databases) => {
            for database in databases {
                check_database(tools, address, &database, &mut checked);
            }
        }
        Err(error) => checked.unchecked.push(error.to_string()),
    }
    checked.verdict()
}

fn check_database(tools: &Tools, address: &ServerAddress, database: &str, checked: &mut Checked) {
    let mut client = match open(tools, address, database) {
        Ok(client) => client,
        Err(error) => return checked.unchecked.push(format!("database {database}: {error}")),
    };
    if let Err(error) = check_relations(&mut client, database, checked) {
        checked.unchecked.push(format!("database {database}: {}", describe(&error)));
    }
}

fn check_relations(
    client: &mut Client,
    database: &str,
    checked: &mut Checked,
) -> Result<(), postgres::Error> {
    for statement in PREPARE.split("; ") {
        client.batch_execute(statement)?;
    }
    let rows = texts(client, SCHEMA)?;
    let Some([schema, has_heaps]) = rows.first().map(Vec::as_slice) else { return Ok(()) };
    let schema = quote_identifier(schema);
    for relation in texts(client, INDEXES)? {
        let [oid, name] = relation.as_slice() else { continue };
        let query = format!("SELECT {schema}.bt_index_check({oid}::pg_catalog.regclass, true)");
        checked.take(&format!("index {database}.{name}"), texts(client, &query).map(|_| Vec::new()));
    }
    for relation in texts(client, HEAPS)?.iter().filter(|_| has_heaps == "true") {
        let [oid, name] = relation.as_slice() else { continue };
        let query = format!(
            "SELECT pg_catalog.format('block %s, offset %s: %s', blkno, offnum, msg) FROM \
             {schema}.verify_heapam({oid}::pg_catalog.regclass, false, true, 'none'::pg_catalog.text, \
             NULL::pg_catalog.int8, NULL::pg_catalog.int8) LIMIT {MOST_COMPLAINTS}"
        );
        let complaints = texts(client, &query).map(|rows| rows.into_iter().flatten().collect());
        checked.take(&format!("table {database}.{name}"), complaints);
    }
    Ok(())
}

impl Checked {
    fn take(&mut self, place: &str, result: Result<Vec<String>, postgres::Error>) {
        match result {
            Ok(complaints) => {
                self.complaints.extend(complaints.iter().map(|complaint| format!("{place}: {complaint}")));
            }
            Err(error) => {
                use AnswerMeaning::{Damage, Internal};
                let is_damage = matches!(obstacle(&error), Obstacle::Answer(Damage | Internal));
                let of_kind = if is_damage { &mut self.complaints } else { &mut self.unchecked };
                of_kind.push(format!("{place}: {}", describe(&error)));
            }
        }
    }

    fn verdict(mut self) -> IndexCheck {
        if !self.complaints.is_empty() {
            self.complaints.truncate(MOST_COMPLAINTS);
            return IndexCheck::Damaged { complaints: self.complaints };
        }
        match self.unchecked.as_slice() {
            [] => IndexCheck::Sound,
            [only] => IndexCheck::NotChecked { reason: only.clone() },
            [first, others @ ..] => {
                IndexCheck::NotChecked { reason: format!("{first}; and {} more", others.len()) }
            }
        }
    }
}
