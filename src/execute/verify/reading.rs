//! Reading all that is in a recovered copy: every row of every table.
//!
//! What could not be read is told from what could not be tried, since a limit, a library that is not installed here or a
//! refused login says nothing about the backup.

use std::io::BufRead;

use postgres::{Client, SimpleQueryMessage};

use crate::cluster::session::{
    Login, Obstacle, Purpose, ServerAddress, SessionError, describe, obstacle, quote_identifier,
    quote_literal,
};
use crate::execute::Tools;
use crate::execute::start::login_for;

/// What reading the tables came to.
#[derive(Default)]
pub(super) struct Read {
    pub(super) database_count: u64,
    pub(super) table_count: u64,
    pub(super) row_count: u64,
    /// What could not be read, and why.
    pub(super) failures: Vec<String>,
    /// What kept something from being read, and says nothing about it.
    pub(super) undecided: Vec<String>,
}

/// Tables and filled materialised views, of all schemas, with the columns that are stored; temporary ones are of sessions
/// that are gone. A column that is computed when it is read (18, `v`) may fail for reasons of its own.
const TABLES: &str = "SELECT n.nspname, c.relname, \
                      (SELECT string_agg(quote_ident(a.attname), ', ' ORDER BY a.attnum) FROM pg_catalog.pg_attribute a \
                       WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated <> 'v') \
                      FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
                      WHERE c.relkind IN ('r', 'm') AND c.relispopulated AND c.relpersistence <> 't' ORDER BY 1, 2";
/// The databases that take connections.
const DATABASES: &str = "SELECT datname FROM pg_catalog.pg_database WHERE datallowconn AND datconnlimit <> -2 \
                         ORDER BY 1";

/// Whether an obstacle is that what is read is damaged.
fn is_about_rows(obstacle: Obstacle) -> bool {
    matches!(obstacle, Obstacle::Answer(meaning) if meaning.is_about_rows())
}

impl Read {
    fn note(&mut self, obstacle: Obstacle, what: String) {
        let is_failure = is_about_rows(obstacle);
        if is_failure { self.failures.push(what) } else { self.undecided.push(what) }
    }
}

/// Lists the databases of the copy.
///
/// # Errors
/// When nobody could connect at all.
pub(super) fn databases(tools: &Tools, address: &ServerAddress) -> Result<Vec<String>, SessionError> {
    let mut client = address.connect(&login_for(tools, Purpose::Judging))?;
    let rows = texts(&mut client, DATABASES).map_err(SessionError::Connect)?;
    Ok(rows.into_iter().flatten().collect())
}

/// Opens a session in one database of the copy.
pub(super) fn open(tools: &Tools, address: &ServerAddress, database: &str) -> Result<Client, SessionError> {
    let login = login_for(tools, Purpose::Judging);
    address.connect(&Login { databases: vec![database.to_owned()], ..login })
}

/// Reads every row of every table of every database that takes connections.
pub(super) fn read_tables(tools: &Tools, address: &ServerAddress) -> Read {
    let mut read = Read::default();
    let databases = databases(tools, address).unwrap_or_else(|error| {
        read.note(error.obstacle(), format!("the copy: {error}"));
        Vec::new()
    });
    for database in databases {
        match open(tools, address, &database) {
            Ok(mut client) => {
                read.database_count += 1;
                read_database(&mut client, &database, &mut read);
            }
            Err(error) => read.note(error.obstacle(), format!("database {database}: {error}")),
        }
    }
    read
}

fn read_database(client: &mut Client, database: &str, read: &mut Read) {
    let listed = texts(client, "SELECT pg_catalog.current_setting('server_encoding')")
        .and_then(|encoding| Ok((encoding.concat().concat(), texts(client, TABLES)?)));
    let (encoding, tables) = match listed {
        Ok(listed) => listed,
        Err(error) => {
            return read.note(obstacle(&error), format!("database {database}: {}", describe(&error)));
        }
    };
    for table in tables {
        let [schema, name, columns] = table.as_slice() else { continue };
        let place = format!("{database}.{schema}.{name}");
        let table = format!("{}.{}", quote_identifier(schema), quote_identifier(name));
        // In the encoding of the database: no byte is converted, and none can be refused.
        let encoding = quote_literal(&encoding);
        let query = format!("COPY (SELECT {columns} FROM ONLY {table}) TO STDOUT (ENCODING {encoding})");
        match count_rows(client, &query) {
            Ok(rows) => {
                read.table_count += 1;
                read.row_count += rows;
            }
            Err((obstacle, error)) => read.note(obstacle, format!("{place} could not be read: {error}")),
        }
    }
}

/// Has the server write out every row, which brings in every value that is stored out of line, and counts them.
fn count_rows(client: &mut Client, query: &str) -> Result<u64, (Obstacle, String)> {
    let refused = |error: &postgres::Error| (obstacle(error), describe(error));
    let mut reader = client.copy_out(query).map_err(|error| refused(&error))?;
    let mut rows = 0;
    loop {
        let piece = reader.fill_buf().map_err(|error| {
            let server = error.get_ref().and_then(|cause| cause.downcast_ref::<postgres::Error>());
            server.map_or_else(|| (Obstacle::Closed, error.to_string()), refused)
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

pub(super) fn texts(client: &mut Client, query: &str) -> Result<Vec<Vec<String>>, postgres::Error> {
    let messages = client.simple_query(query)?;
    let rows = messages.iter().filter_map(|message| match message {
        SimpleQueryMessage::Row(row) => {
            Some((0..row.len()).map(|column| row.get(column).unwrap_or_default().to_owned()).collect())
        }
        _ => None,
    });
    Ok(rows.collect())
}
