//! The tables of a database of the copy, and which of them have lost what.

use super::databases::failed;
use super::loss::{Loss, Salvaged, named};
use super::owners::Place;
use super::pages::{Fault, PageReport};
use crate::pg::BlockNumber;
use crate::plan::RelationName;
use postgres::Client;
use std::collections::BTreeMap;

/// A table whose rows are to be brought over.
#[derive(Clone, Debug)]
pub(super) struct Table {
    /// Its name.
    pub(super) name: RelationName,
    /// Its columns, quoted; generated ones apart.
    pub(super) columns: Vec<String>,
    /// Which rows an extension wants dumped; empty is all.
    pub(super) condition: String,
    /// How many blocks it has.
    pub(super) block_count: u32,
    /// How many rows it had, by the statistics.
    pub(super) estimated_rows: Option<u64>,
    /// Whether its file is gone.
    pub(super) is_gone: bool,
    /// The table of its long values.
    pub(super) toast: Option<String>,
}

impl Table {
    /// Where it is.
    pub(super) fn place(&self) -> Place<'_> {
        Place { schema: &self.name.schema, name: &self.name.name }
    }

    /// Its name in SQL.
    pub(super) fn quoted(&self) -> String {
        self.place().quoted()
    }
}

/// What `pg_dump` dumps the rows of: all ordinary tables, and of an extension's own only what it marked so
/// (`pg_dump.c`, `processExtensionTables()`).
const TABLES: &str = "
WITH marked AS (
    SELECT unnest(extconfig) AS oid, unnest(extcondition) AS condition FROM pg_catalog.pg_extension
), of_extensions AS (
    SELECT objid AS oid FROM pg_catalog.pg_depend
    WHERE classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND deptype = 'e'
)
SELECT n.nspname::text, c.relname::text, coalesce(m.condition, ''),
    ARRAY(SELECT pg_catalog.quote_ident(attname) FROM pg_catalog.pg_attribute
          WHERE attrelid = c.oid AND attnum > 0 AND NOT attisdropped AND attgenerated = '' ORDER BY attnum),
    c.reltuples::float8,
    pg_catalog.pg_relation_size(c.oid) / pg_catalog.current_setting('block_size')::int8,
    (pg_catalog.pg_stat_file(pg_catalog.pg_relation_filepath(c.oid), true)).size IS NULL,
    (SELECT 'pg_toast.' || pg_catalog.quote_ident(t.relname) FROM pg_catalog.pg_class t WHERE t.oid = c.reltoastrelid)
FROM pg_catalog.pg_class c
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
LEFT JOIN marked m ON m.oid = c.oid
WHERE c.relkind = 'r' AND c.relpersistence <> 't'
    AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
    AND (m.oid IS NOT NULL OR c.oid NOT IN (SELECT oid FROM of_extensions))
ORDER BY c.oid";

/// Lists the tables of a database.
pub(super) fn list(client: &mut Client, database: &str) -> anyhow::Result<Vec<Table>> {
    let rows = client.query(TABLES, &[]).map_err(failed("list the tables"))?;
    rows.iter().map(|row| read_row(row, database).map_err(failed("read the catalogs"))).collect()
}

fn read_row(row: &postgres::Row, database: &str) -> Result<Table, postgres::Error> {
    let (schema, name): (String, String) = (row.try_get(0)?, row.try_get(1)?);
    let estimated: f64 = row.try_get(4)?;
    Ok(Table {
        name: RelationName { database: database.to_owned(), schema, name },
        condition: row.try_get(2)?,
        columns: row.try_get(3)?,
        block_count: u32::try_from(row.try_get::<_, i64>(5)?).unwrap_or(u32::MAX),
        estimated_rows: format!("{estimated:.0}").parse().ok().filter(|rows| *rows > 0),
        is_gone: row.try_get(6)?,
        toast: row.try_get(7)?,
    })
}

/// Which relation a file is of: a table, or one that holds the long values of a table.
const FILES: &str = "
SELECT pg_catalog.pg_relation_filepath(c.oid), n.nspname::text, coalesce(owner.relname, c.relname)::text, c.relkind = 't'
FROM pg_catalog.pg_class c
LEFT JOIN pg_catalog.pg_class owner ON owner.reltoastrelid = c.oid AND c.relkind = 't'
JOIN pg_catalog.pg_namespace n ON n.oid = coalesce(owner.relnamespace, c.relnamespace)
WHERE c.relkind IN ('r', 't', 'S') AND pg_catalog.pg_relation_filepath(c.oid) IS NOT NULL";

/// Names the bad blocks of the tables of a database.
pub(super) fn tell_bad_blocks(
    client: &mut Client,
    database: &str,
    pages: &PageReport,
    salvaged: &mut Salvaged,
) -> anyhow::Result<()> {
    if pages.faults.is_empty() {
        return Ok(());
    }
    for row in client.query(FILES, &[]).map_err(failed("tell which file is of which table"))? {
        let unreadable = failed("read the catalogs");
        let path: String = row.try_get(0).map_err(&unreadable)?;
        let Some(faults) = pages.faults.get(&path) else { continue };
        let relation = RelationName {
            database: database.to_owned(),
            schema: row.try_get(1).map_err(&unreadable)?,
            name: row.try_get(2).map_err(&unreadable)?,
        };
        tell_faults(&relation, row.try_get(3).map_err(&unreadable)?, faults, salvaged);
    }
    Ok(())
}

fn tell_faults(
    relation: &RelationName,
    is_toast: bool,
    faults: &BTreeMap<Fault, Vec<BlockNumber>>,
    salvaged: &mut Salvaged,
) {
    let place = if is_toast { "where its long values are kept, " } else { "" };
    for (fault, blocks) in faults {
        let mut blocks = blocks.clone();
        blocks.sort_unstable();
        let reason = match fault {
            Fault::Unusable => format!("{place}they are no pages of PostgreSQL"),
            Fault::Zero => format!("{place}they are all zeros"),
            Fault::Checksum | Fault::ZeroTail => {
                let blocks = named("block", &blocks.iter().map(ToString::to_string).collect::<Vec<_>>());
                salvaged.assume(if *fault == Fault::Checksum {
                    format!("the checksum of {blocks} of {relation} is wrong: {place}what could be read is taken as it is")
                } else {
                    format!("{place}{blocks} at the end of {relation} is all zeros: rows in it, if there were any, are lost")
                });
                continue;
            }
        };
        salvaged.lose(Loss::Blocks { relation: relation.clone(), blocks, reason });
    }
}
