//! The databases and roles of the copy: which there are, and what is made up where that is lost.

use super::loss::{Loss, Salvaged, one_line};
use super::mending::database_directories;
use super::server::SalvageServer;
use super::workplace::Workplace;
use crate::cluster::session::{describe, quote_identifier, quote_literal};
use postgres::Client;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// A database of the copy.
#[derive(Clone, Debug)]
pub(super) struct Database {
    /// Its name.
    pub(super) name: String,
    /// Whether anybody but us may connect to it.
    pub(super) allows_connections: bool,
    /// Its whole row, by the names of its columns, which differ between versions.
    pub(super) row: Value,
}

impl Database {
    /// A column of its row, as text.
    pub(super) fn column(&self, name: &str) -> Option<String> {
        match self.row.get(name)? {
            Value::String(text) => Some(text.clone()),
            Value::Number(number) => Some(number.to_string()),
            _ => None,
        }
    }

    /// Whether a DROP DATABASE began and did not finish (`pg_database.h`, `DATCONNLIMIT_INVALID_DB`).
    fn is_invalid(&self) -> bool {
        self.column("datconnlimit").as_deref() == Some("-2")
    }
}

/// Prepares what all databases share, and lists them: those that can be dumped, and the pattern of new ones.
///
/// # Errors
/// When no database can be opened at all.
pub(super) fn prepare(
    work: &Workplace,
    server: &SalvageServer,
    names: &BTreeMap<u32, String>,
    client: &mut Client,
    salvaged: &mut Salvaged,
) -> anyhow::Result<Vec<Database>> {
    client.batch_execute("SET default_transaction_read_only = off").map_err(failed("prepare the copy"))?;
    for statement in prepared_transactions(client, salvaged) {
        if let Err(error) = client.batch_execute(&statement) {
            salvaged.assume(format!("a prepared transaction could not be rolled back: {}", describe(&error)));
        }
    }
    if let Err(error) = add_lost_databases(work, names, client, salvaged) {
        salvaged.assume(format!("what is in 'base' besides the known databases is left out: {error:#}"));
    }
    if let Err(error) = add_lost_roles(work, client, server, salvaged) {
        salvaged.assume(format!("roles that own something may be missing: {error:#}"));
    }
    list(client)
}

/// Turns an answer of the server into an error with what was tried.
pub(super) fn failed(action: &str) -> impl Fn(postgres::Error) -> anyhow::Error {
    move |error| anyhow::anyhow!("could not {action}: {}", describe(&error))
}

/// The encoding of the database of a session, by its name.
pub(super) fn server_encoding(client: &mut Client) -> anyhow::Result<String> {
    let row = client.query_one("SELECT pg_catalog.current_setting('server_encoding')", &[]);
    row.and_then(|row| row.try_get(0)).map_err(failed("ask for the encoding"))
}

/// What a client of the copy is told when a dump would wait for the locks of a transaction that nobody ends.
fn prepared_transactions(client: &mut Client, salvaged: &mut Salvaged) -> Vec<String> {
    let rows = client.query("SELECT gid FROM pg_catalog.pg_prepared_xacts", &[]).unwrap_or_default();
    let mut statements = Vec::new();
    for row in rows {
        let identifier: String = row.get(0);
        statements.push(format!("ROLLBACK PREPARED {}", quote_literal(&identifier)));
        salvaged.lose(Loss::Shared {
            object: format!("the prepared transaction '{identifier}'"),
            reason: "it was neither committed nor rolled back".into(),
        });
    }
    statements
}

/// The databases of the copy, by name.
fn list(client: &mut Client) -> anyhow::Result<Vec<Database>> {
    let query = "SELECT datname::text, datallowconn, (pg_catalog.to_jsonb(d) || \
                 pg_catalog.jsonb_build_object('encoding_name', pg_catalog.pg_encoding_to_char(encoding)))::text \
                 FROM pg_catalog.pg_database d ORDER BY datname";
    let rows = client.query(query, &[]).map_err(failed("list the databases"))?;
    let database = |row: &postgres::Row| -> Result<Database, postgres::Error> {
        Ok(Database {
            name: row.try_get(0)?,
            allows_connections: row.try_get(1)?,
            row: serde_json::from_str(row.try_get(2)?).unwrap_or_default(),
        })
    };
    rows.iter().map(|row| database(row).map_err(failed("list the databases"))).collect()
}

/// Those whose rows are to be brought over. To connect to one that nobody may connect to, the copy is changed.
pub(super) fn to_salvage(
    databases: &[Database],
    client: &mut Client,
    salvaged: &mut Salvaged,
) -> Vec<Database> {
    let (invalid, valid): (Vec<&Database>, Vec<&Database>) =
        databases.iter().partition(|database| database.is_invalid());
    for database in invalid {
        salvaged.lose(Loss::Database { name: database.name.clone(), reason: "it was being dropped".into() });
    }
    let wanted = valid.into_iter().filter(|database| database.name != "template0");
    let wanted: Vec<Database> = wanted.cloned().collect();
    if wanted.iter().any(|database| !database.allows_connections) {
        // Where it fails, the connection will, and says so.
        let _ = client.batch_execute("UPDATE pg_catalog.pg_database SET datallowconn = true");
    }
    wanted
}

/// Directories in `base` without a row in `pg_database` are databases whose row is lost, if they have a map. Those of a
/// CREATE DATABASE that crashed are, too, so this is done only where the catalog was replaced.
fn add_lost_databases(
    work: &Workplace,
    names: &BTreeMap<u32, String>,
    client: &mut Client,
    salvaged: &mut Salvaged,
) -> anyhow::Result<()> {
    let rows = client
        .query("SELECT oid, datname::text FROM pg_catalog.pg_database", &[])
        .map_err(failed("read pg_database"))?;
    let known: BTreeMap<u32, String> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
    if known.keys().any(|oid| *oid >= 16_384) {
        return Ok(());
    }
    let directories = database_directories(work);
    let numbers = directories.iter().filter_map(|name| name.strip_prefix("base/")?.parse::<u32>().ok());
    let unknown: Vec<u32> = numbers.filter(|oid| *oid >= 16_384 && !known.contains_key(oid)).collect();
    let mut taken: BTreeSet<String> = known.into_values().collect();
    for oid in &unknown {
        // Of a database that was dropped, its number may be in the index still, and its directory is not there.
        let kept = names.get(oid).filter(|name| !taken.contains(*name));
        let name = match kept {
            Some(name) => name.clone(),
            None if unknown.len() == 1 => work.tools.settings.database.clone(),
            None => format!("database_{oid}"),
        };
        client.batch_execute(&insert_database(*oid, &name)).map_err(failed("name a database anew"))?;
        salvaged.assume(match kept {
            Some(name) => format!(
                "the row of the database '{name}' in pg_database was lost, and with it who may use it and where it \
                 was limited: its name comes from an index"
            ),
            None => format!("the name of the database in 'base/{oid}' was lost: it is '{name}' now"),
        });
        taken.insert(name);
    }
    Ok(())
}

/// A database like `template1`, whose owner is that of which `pg_shdepend` knows; of the superuser's it knows nothing.
fn insert_database(oid: u32, name: &str) -> String {
    format!(
        "INSERT INTO pg_catalog.pg_database SELECT (pg_catalog.jsonb_populate_record(d, \
         pg_catalog.jsonb_build_object('oid', {oid}, 'datname', {}, 'datistemplate', false, 'datacl', null, 'datdba', \
         coalesce((SELECT refobjid FROM pg_catalog.pg_shdepend WHERE dbid = 0 AND objid = {oid} AND deptype = 'o' \
         AND classid = 1262 AND refclassid = 1260 LIMIT 1), 10)))).* \
         FROM pg_catalog.pg_database d WHERE datname = 'template1'",
        quote_literal(name)
    )
}

/// What owns something, or may do something, and is no role any more, gets a name again.
fn add_lost_roles(
    work: &Workplace,
    client: &mut Client,
    server: &SalvageServer,
    salvaged: &mut Salvaged,
) -> anyhow::Result<()> {
    let query = "SELECT DISTINCT role FROM (SELECT refobjid AS role FROM pg_catalog.pg_shdepend \
                 WHERE refclassid = 1260 UNION SELECT datdba FROM pg_catalog.pg_database) r \
                 WHERE role NOT IN (SELECT oid FROM pg_catalog.pg_authid) ORDER BY role";
    let rows = client.query(query, &[]).map_err(failed("look for roles"))?;
    let lost: Vec<u32> = rows.iter().map(|row| row.get(0)).collect();
    let configured = &work.tools.settings.application_role;
    for oid in &lost {
        let is_configured = lost.len() == 1 && *configured != server.superuser;
        let name = if is_configured { configured.clone() } else { format!("role_{oid}") };
        let statement = format!(
            "INSERT INTO pg_catalog.pg_authid SELECT (pg_catalog.jsonb_populate_record(a, \
             pg_catalog.jsonb_build_object('oid', {oid}, 'rolname', {}, 'rolsuper', false, 'rolcreaterole', false, \
             'rolcreatedb', false, 'rolreplication', false, 'rolbypassrls', false, 'rolcanlogin', {is_configured}, \
             'rolpassword', null))).* FROM pg_catalog.pg_authid a WHERE oid = 10",
            quote_literal(&name)
        );
        client.batch_execute(&statement).map_err(failed("name a role anew"))?;
        salvaged.assume(format!("the role {oid} was lost, with its password: it is '{name}' now"));
    }
    Ok(())
}

/// Takes relations out of the copy's catalogs whose columns are not all there: one of them would keep the server from
/// listing any (relcache.c, `RelationBuildTupleDesc()`). Each is told.
pub(super) fn forget_half_known(client: &mut Client, name: &str, salvaged: &mut Salvaged) {
    const FORGET: &str = "DELETE FROM pg_catalog.pg_class c WHERE c.oid >= 16384 AND c.relnatts <> \
         (SELECT count(*) FROM pg_catalog.pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0) \
         RETURNING c.relname::text";
    let allowed = client
        .batch_execute("SET default_transaction_read_only = off; SET allow_system_table_mods = on")
        .and_then(|()| client.query(FORGET, &[]));
    match allowed {
        Ok(rows) => {
            for row in rows {
                let object = format!("the relation '{}'", row.get::<_, String>(0));
                salvaged.lose_object(name, object, "the catalogs do not have all of its columns");
            }
        }
        Err(error) => salvaged.assume(format!(
            "whether the columns of every relation of '{name}' are known could not be seen: {}",
            one_line(&describe(&error))
        )),
    }
}

/// Builds the indexes of a database's catalogs anew, since what is read through a damaged one may be wrong. Returns
/// whether they can be trusted.
pub(super) fn reindex_system(client: &mut Client, name: &str, salvaged: &mut Salvaged) -> bool {
    let _ = client.batch_execute("SET default_transaction_read_only = off");
    match client.batch_execute(&format!("REINDEX SYSTEM {}", quote_identifier(name))) {
        Ok(()) => true,
        Err(error) => {
            salvaged.assume(format!(
                "the catalogs of '{name}' are read without their indexes, which could not be built anew: {}",
                one_line(&describe(&error))
            ));
            false
        }
    }
}

/// The catalogs of a database whose file is gone, by path.
pub(super) fn lost_catalogs(client: &mut Client) -> Vec<String> {
    let query = "SELECT pg_catalog.pg_relation_filepath(oid) FROM pg_catalog.pg_class WHERE oid < 16384 \
                 AND relkind IN ('r', 't') AND (pg_catalog.pg_stat_file(pg_catalog.pg_relation_filepath(oid), true)).size IS NULL";
    let rows = client.query(query, &[]).unwrap_or_default();
    rows.iter().filter_map(|row| row.get::<_, Option<String>>(0)).collect()
}
