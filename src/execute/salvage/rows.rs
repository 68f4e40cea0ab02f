//! Rows, streamed from the copy into the new cluster: a whole table where that goes, else block by block, and in a
//! block that does not, row by row.
//!
//! Each COPY is all or nothing, so that nothing is ever there twice. The refused alternative, a dump to a file, takes
//! room for all rows a third time, and one bad row takes its whole table with it when it is loaded. Each table is loaded
//! with the rights of its owner (`owners`).

use super::databases::{failed, server_encoding};
use super::loss::{Loss, Salvaged, one_line};
use super::owners::{Owners, Writer, superuser};
use super::server::SalvageServer;
use super::tables::Table;
use crate::cluster::session::{describe, quote_literal};
use crate::error::{Failure, Kind};
use crate::pg::{BlockNumber, MajorVersion};
use anyhow::Context;
use postgres::Client;
use postgres::error::SqlState;
use std::io::{self, BufRead, Write};
use std::ops::Range;

/// How many blocks one COPY takes at first, once a whole table does not go.
const RANGE_BLOCKS: u32 = 1024;
/// More rows than fit into a block of 8 KiB (`htup_details.h`, `MaxHeapTuplesPerPage`).
const MOST_ROWS_OF_BLOCK: u32 = 291;

/// Both ends of a stream of rows of one database.
pub(super) struct Stream<'a> {
    from: Session<'a>,
    to: Session<'a>,
    version: MajorVersion,
    /// The encoding of the database, in which the rows go from one to the other: no byte of them is looked at on the
    /// way, so that what is no text of that encoding comes over, too, and all bytes of a database of `SQL_ASCII`.
    encoding: String,
}

/// A session that is opened again when the server crashed under it.
pub(super) struct Session<'a> {
    server: &'a SalvageServer,
    database: &'a str,
    client: Client,
    opened_as: Writer,
}

const PREPARE_SOURCE: &str = "SET default_transaction_read_only = on";

/// What failed: reading or writing. It tells whether the copy or the new cluster complained.
#[derive(Debug)]
struct Refused {
    reason: String,
    /// Whether it was the disk that had no room: then nothing is wrong with the rows.
    lacks_room: bool,
}

impl From<io::Error> for Refused {
    fn from(error: io::Error) -> Self {
        match error.get_ref().and_then(|inner| inner.downcast_ref::<postgres::Error>()) {
            Some(answer) => Self { reason: one_line(&describe(answer)), lacks_room: lacks_room(answer) },
            None => Self {
                reason: one_line(&error.to_string()),
                lacks_room: error.kind() == io::ErrorKind::StorageFull,
            },
        }
    }
}

impl From<postgres::Error> for Refused {
    fn from(error: postgres::Error) -> Self {
        Self { reason: one_line(&describe(&error)), lacks_room: lacks_room(&error) }
    }
}

fn lacks_room(error: &postgres::Error) -> bool {
    error.code() == Some(&SqlState::DISK_FULL)
}

impl<'a> Session<'a> {
    pub(super) fn open(
        server: &'a SalvageServer,
        database: &'a str,
        opened_as: Writer,
    ) -> anyhow::Result<Self> {
        let mut client = server.connect_as(&opened_as.user, database)?;
        client.batch_execute(&opened_as.preparation).map_err(failed("prepare a session"))?;
        Ok(Self { server, database, client, opened_as })
    }

    /// The session, opened again if need be.
    pub(super) fn client(&mut self) -> anyhow::Result<&mut Client> {
        if self.client.is_closed() {
            let opened = Self::open(self.server, self.database, self.opened_as.clone());
            self.client = opened.context("come back after the server crashed")?.client;
        }
        Ok(&mut self.client)
    }
}

impl<'a> Stream<'a> {
    pub(super) fn open(
        from: &'a SalvageServer,
        to: &'a SalvageServer,
        database: &'a str,
        version: MajorVersion,
    ) -> anyhow::Result<Self> {
        let reader = Writer { user: from.superuser.clone(), preparation: PREPARE_SOURCE.to_owned() };
        let mut from = Session::open(from, database, reader).context("read the copy")?;
        let to = Session::open(to, database, superuser(to)).context("load the new cluster")?;
        let encoding = server_encoding(&mut from.client).context("read the copy")?;
        Ok(Self { from, to, version, encoding })
    }

    /// Brings a table's rows over with the rights of its owner, and sets down what is lost of them.
    ///
    /// # Errors
    /// Only when one of the servers does not come back, or the disk has no room.
    pub(super) fn bring(
        &mut self,
        table: &Table,
        owners: &mut Owners<'_>,
        salvaged: &mut Salvaged,
    ) -> anyhow::Result<()> {
        self.write_as(owners.writer(&table.place())?)?;
        self.bring_rows(table, salvaged)
    }

    fn write_as(&mut self, writer: Writer) -> anyhow::Result<()> {
        if self.to.opened_as != writer || writer.preparation.is_empty() {
            self.to = Session::open(self.to.server, self.to.database, writer)?;
        }
        Ok(())
    }

    fn bring_rows(&mut self, table: &Table, salvaged: &mut Salvaged) -> anyhow::Result<()> {
        salvaged.table_count += 1;
        if table.is_gone {
            salvaged.lose(Loss::Table {
                relation: table.name.clone(),
                estimated_rows: table.estimated_rows,
                reason: "its file is gone".into(),
            });
            return Ok(());
        }
        let before = salvaged.row_count;
        match self.copy(table, &table.condition)? {
            Ok(rows) => salvaged.row_count += rows,
            Err(refused) if table.block_count == 0 => salvaged.lose(Loss::Table {
                relation: table.name.clone(),
                estimated_rows: table.estimated_rows,
                reason: refused.reason,
            }),
            Err(_) => self.bring_in_parts(table, salvaged)?,
        }
        let rows = salvaged.row_count - before;
        if let Some(estimated) = table.estimated_rows
            && rows < estimated - estimated / 10
            && table.condition.is_empty()
        {
            salvaged.assume(format!(
                "{} had about {estimated} rows by its statistics, and {rows} were there",
                table.name
            ));
        }
        Ok(())
    }

    /// One COPY from the copy into the new cluster: all of it, or nothing.
    fn copy(&mut self, table: &Table, condition: &str) -> anyhow::Result<Result<u64, Refused>> {
        self.copy_columns(table, &table.columns.join(", "), condition)
    }

    fn copy_columns(
        &mut self,
        table: &Table,
        values: &str,
        condition: &str,
    ) -> anyhow::Result<Result<u64, Refused>> {
        let name = table.quoted();
        // A table may have no columns, and rows all the same.
        let list =
            if table.columns.is_empty() { String::new() } else { format!("({})", table.columns.join(", ")) };
        let encoding = quote_literal(&self.encoding);
        let read =
            format!("COPY (SELECT {values} FROM ONLY {name} {condition}) TO STDOUT (ENCODING {encoding})");
        let write = format!("COPY {name} {list} FROM STDIN (ENCODING {encoding})");
        let (from, to) = (self.from.client()?, self.to.client()?);
        match stream(from, &read, to, &write) {
            // A table that had no room would count as lost, though it is not.
            Err(refused) if refused.lacks_room => {
                let message = format!("could not load {}: {}", table.name, refused.reason);
                let hint = "free space, then run it again. Nothing was changed.";
                Err(Failure::new(Kind::Refused, message).hint(hint).into())
            }
            streamed => Ok(streamed),
        }
    }

    /// What the index of its long values says may be wrong: it is built anew first, on the copy.
    fn bring_in_parts(&mut self, table: &Table, salvaged: &mut Salvaged) -> anyhow::Result<()> {
        if let Some(toast) = &table.toast {
            let client = self.from.client()?;
            let statement =
                format!("SET default_transaction_read_only = off; REINDEX TABLE {toast}; {PREPARE_SOURCE}");
            // Where it cannot be, the rows that need it will say so.
            let _ = client.batch_execute(&statement).or_else(|_| client.batch_execute(PREPARE_SOURCE));
        }
        let mut lost = LostParts::default();
        let mut ranges: Vec<Range<u32>> = (0..table.block_count)
            .step_by(usize::try_from(RANGE_BLOCKS).unwrap_or(1))
            .map(|start| start..start.saturating_add(RANGE_BLOCKS).min(table.block_count))
            .collect();
        ranges.reverse();
        while let Some(range) = ranges.pop() {
            match self.copy(table, &self.condition(table, &range))? {
                Ok(rows) => salvaged.row_count += rows,
                Err(_) if range.len() > 1 => {
                    let middle = range.start + (range.end - range.start) / 2;
                    ranges.extend([middle..range.end, range.start..middle]);
                }
                Err(refused) => self.bring_block(table, range.start, refused, (&mut lost, salvaged))?,
            }
        }
        lost.tell(table, salvaged);
        Ok(())
    }

    /// Which rows are in a range of blocks. Before 14, only a list of rows keeps others from being read.
    fn condition(&self, table: &Table, range: &Range<u32>) -> String {
        // An extension's condition begins with its own WHERE.
        let own = match table.condition.trim().get(5..) {
            Some(condition) => format!("WHERE ({condition})"),
            None => "WHERE true".to_owned(),
        };
        let Range { start, end } = range;
        if self.version >= MajorVersion(14) {
            return format!("{own} AND ctid >= '({start},0)'::tid AND ctid < '({end},0)'::tid");
        }
        format!(
            "{own} AND ctid = ANY (ARRAY(SELECT ('(' || b || ',' || i || ')')::tid FROM \
             generate_series({start}::int8, {end}::int8 - 1) b, generate_series(1, {MOST_ROWS_OF_BLOCK}) i))"
        )
    }

    fn bring_block(
        &mut self,
        table: &Table,
        block: u32,
        refused: Refused,
        (lost, salvaged): (&mut LostParts, &mut Salvaged),
    ) -> anyhow::Result<()> {
        let condition = self.condition(table, &(block..block.saturating_add(1)));
        let query = format!("SELECT ctid::text FROM ONLY {} {condition}", table.quoted());
        let Ok(rows) = self.from.client()?.query(&query, &[]) else {
            lost.blocks.push(BlockNumber(block));
            lost.block_reason.get_or_insert(refused.reason);
            return Ok(());
        };
        for row in rows {
            let place: String = row.get(0);
            let condition = format!("WHERE ctid = '{place}'::tid");
            match self.copy(table, &condition)? {
                Ok(rows) => salvaged.row_count += rows,
                Err(refused) => self.bring_row(table, &place, refused, (lost, salvaged))?,
            }
        }
        Ok(())
    }

    /// A row without those of its values that cannot be read, if it may be.
    fn bring_row(
        &mut self,
        table: &Table,
        place: &str,
        refused: Refused,
        (lost, salvaged): (&mut LostParts, &mut Salvaged),
    ) -> anyhow::Result<()> {
        let condition = format!("WHERE ctid = '{place}'::tid");
        let mut values = Vec::new();
        let mut unreadable = Vec::new();
        for column in &table.columns {
            // No cast: one to text may be a user's own, and would run as the superuser.
            let query = format!("COPY (SELECT {column} FROM ONLY {} {condition}) TO STDOUT", table.quoted());
            if is_readable(self.from.client()?, &query) {
                values.push(column.clone());
            } else {
                values.push("NULL".to_owned());
                unreadable.push(column.clone());
            }
        }
        if !unreadable.is_empty()
            && unreadable.len() < table.columns.len()
            && let Ok(rows) = self.copy_columns(table, &values.join(", "), &condition)?
        {
            salvaged.row_count += rows;
            lost.values.push(format!("{place} ({})", unreadable.join(", ")));
            lost.value_reason.get_or_insert(refused.reason);
            return Ok(());
        }
        lost.rows.push(place.to_owned());
        lost.row_reason.get_or_insert(refused.reason);
        Ok(())
    }
}

/// Whether a server sends all of what it is asked for.
fn is_readable(client: &mut Client, query: &str) -> bool {
    client.copy_out(query).is_ok_and(|mut reader| io::copy(&mut reader, &mut io::sink()).is_ok())
}

/// Copies what one server sends to another, in pieces of whatever size they come in.
fn stream(from: &mut Client, read: &str, to: &mut Client, write: &str) -> Result<u64, Refused> {
    let mut reader = from.copy_out(read)?;
    let mut writer = to.copy_in(write)?;
    loop {
        let piece = reader.fill_buf()?;
        let count = piece.len();
        if count == 0 {
            return Ok(writer.finish()?);
        }
        writer.write_all(piece)?;
        reader.consume(count);
    }
}

/// What was lost of one table.
#[derive(Default)]
struct LostParts {
    blocks: Vec<BlockNumber>,
    block_reason: Option<String>,
    rows: Vec<String>,
    row_reason: Option<String>,
    values: Vec<String>,
    value_reason: Option<String>,
}

impl LostParts {
    fn tell(self, table: &Table, salvaged: &mut Salvaged) {
        let relation = || table.name.clone();
        if let Some(reason) = self.block_reason {
            salvaged.lose(Loss::Blocks { relation: relation(), blocks: self.blocks, reason });
        }
        if let Some(reason) = self.row_reason {
            salvaged.lose(Loss::Rows { relation: relation(), places: self.rows, reason });
        }
        if let Some(reason) = self.value_reason {
            salvaged.lose(Loss::Values { relation: relation(), places: self.values, reason });
        }
    }
}
