//! Reading all that is in a recovered copy: every row of every table, and every index against its table.

use std::io::BufRead;
use std::path::PathBuf;

use anyhow::Context;
use postgres::{Client, SimpleQueryMessage};

use crate::cluster::session::{Login, ServerAddress, describe, quote_identifier};
use crate::execute::Tools;
use crate::execute::start::superuser_login;
use crate::plan::IndexCheck;
use crate::sys::{ProcessError, Tool};

/// How many complaints of `pg_amcheck` are kept.
const MOST_COMPLAINTS: usize = 20;

/// What reading the tables came to.
pub(super) struct Read {
    pub(super) database_count: u64,
    pub(super) table_count: u64,
    pub(super) row_count: u64,
    /// What could not be read, and why.
    pub(super) failures: Vec<String>,
    /// Who could connect.
    pub(super) superuser: String,
}

/// Limits that a database or role sets for its sessions must not end the reading.
const SESSION: &str = "SET statement_timeout = 0; SET lock_timeout = 0; SET search_path = pg_catalog; \
                       SET row_security = off; SET idle_in_transaction_session_timeout = 0";
/// Tables and filled materialised views, of all schemas; temporary ones are of sessions that are gone.
const TABLES: &str = "SELECT n.nspname, c.relname FROM pg_catalog.pg_class c \
                      JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
                      WHERE c.relkind IN ('r', 'm') AND c.relispopulated AND c.relpersistence <> 't' ORDER BY 1, 2";

/// Reads every row of every table of every database that takes connections.
///
/// # Errors
/// When nobody could connect at all. A table or a database that does not read is in the result.
pub(super) fn read_tables(tools: &Tools, address: &ServerAddress) -> anyhow::Result<Read> {
    let login = superuser_login(tools);
    let mut client = address.connect(&login).context("connect to the copy")?;
    let superuser =
        texts(&mut client, "SELECT current_user")?.into_iter().flatten().next().unwrap_or_default();
    let databases =
        texts(&mut client, "SELECT datname FROM pg_catalog.pg_database WHERE datallowconn ORDER BY 1")?;
    drop(client);
    let mut read = Read { database_count: 0, table_count: 0, row_count: 0, failures: Vec::new(), superuser };
    for database in databases.into_iter().flatten() {
        let login = Login { databases: vec![database.clone()], ..login.clone() };
        match address.connect(&login) {
            Ok(mut client) => {
                read.database_count += 1;
                read_database(&mut client, &database, &mut read);
            }
            Err(error) => read.failures.push(format!("database {database}: {error}")),
        }
    }
    Ok(read)
}

fn read_database(client: &mut Client, database: &str, read: &mut Read) {
    let tables = client.batch_execute(SESSION).and_then(|()| texts(client, TABLES));
    let tables = match tables {
        Ok(tables) => tables,
        Err(error) => return read.failures.push(format!("database {database}: {}", describe(&error))),
    };
    for table in tables {
        let [schema, name] = table.as_slice() else { continue };
        let place = format!("{database}.{schema}.{name}");
        match count_rows(client, schema, name) {
            Ok(rows) => {
                read.table_count += 1;
                read.row_count += rows;
            }
            Err(error) => read.failures.push(format!("{place} could not be read: {error}")),
        }
    }
}

/// Has the server write out every row, which brings in every value that is stored out of line, and counts them.
fn count_rows(client: &mut Client, schema: &str, name: &str) -> Result<u64, String> {
    let table = format!("{}.{}", quote_identifier(schema), quote_identifier(name));
    let query = format!("COPY (SELECT * FROM ONLY {table}) TO STDOUT");
    let mut reader = client.copy_out(&query).map_err(|error| describe(&error))?;
    let mut rows = 0;
    loop {
        let piece = reader.fill_buf().map_err(|error| {
            let server = error.get_ref().and_then(|cause| cause.downcast_ref::<postgres::Error>());
            server.map_or_else(|| error.to_string(), describe)
        })?;
        if piece.is_empty() {
            return Ok(rows);
        }
        // A line break within a value is written as two other characters (copyto.c, `CopyAttributeOutText()`).
        rows += piece.iter().map(|byte| u64::from(*byte == b'\n')).sum::<u64>();
        let size = piece.len();
        reader.consume(size);
    }
}

fn texts(client: &mut Client, query: &str) -> Result<Vec<Vec<String>>, postgres::Error> {
    let messages = client.simple_query(query)?;
    let rows = messages.iter().filter_map(|message| match message {
        SimpleQueryMessage::Row(row) => {
            Some((0..row.len()).map(|column| row.get(column).unwrap_or_default().to_owned()).collect())
        }
        _ => None,
    });
    Ok(rows.collect())
}

/// Holds every index against its table, where the program and the extension for it are there.
pub(super) fn check_indexes(tools: &Tools, address: &ServerAddress, superuser: &str) -> IndexCheck {
    let program = tools.installation.program("pg_amcheck");
    let skipped = |reason: &str| IndexCheck::NotChecked { reason: reason.to_owned() };
    if !program.exists() {
        return skipped("pg_amcheck is not installed");
    }
    let login = superuser_login(tools);
    let available = address.connect(&login).ok().and_then(|mut client| {
        texts(&mut client, "SELECT 1 FROM pg_catalog.pg_available_extensions WHERE name = 'amcheck'").ok()
    });
    if available.is_none_or(|rows| rows.is_empty()) {
        return skipped("the extension amcheck is not installed");
    }
    match amcheck(program, address, superuser).run() {
        Ok(_) => IndexCheck::Sound,
        Err(ProcessError::Failed { stdout, .. }) if !stdout.trim().is_empty() => {
            let complaints =
                stdout.lines().take(MOST_COMPLAINTS).map(|line| line.trim().to_owned()).collect();
            IndexCheck::Damaged { complaints }
        }
        Err(error) => IndexCheck::NotChecked { reason: error.to_string() },
    }
}

fn amcheck(program: PathBuf, address: &ServerAddress, superuser: &str) -> Tool {
    Tool::new(program)
        .arguments(["--all", "--install-missing", "--heapallindexed", "--no-password"])
        .variable("PGHOST", address.socket_directory.clone().unwrap_or_default())
        .variable("PGPORT", address.port.to_string())
        .variable("PGUSER", superuser)
        .variable("LC_ALL", "C")
        .without_variable("PGHOSTADDR")
        .without_variable("PGDATABASE")
        .without_variable("PGSERVICE")
        .without_variable("PGOPTIONS")
}
