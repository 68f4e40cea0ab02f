//! Rows of `pg_database` and `pg_tablespace`, read from the pages of their files without a server.
//!
//! Only as much of the heap format as that needs: line pointers, tuple headers, and fixed-width columns that
//! are never null. Layouts: bufpage.h, itemid.h, `htup_details.h`, `pg_database.h`.

use super::MajorVersion;
use super::bytes::{u8_at, u16_at, u32_at};

const PAGE_SIZE_BYTES: usize = 8192;
const PAGE_HEADER_BYTES: usize = 24;
const LINE_POINTER_BYTES: usize = 4;
const LINE_POINTER_NORMAL: u32 = 1;
const XMIN_COMMITTED: u16 = 0x0100;
const XMIN_INVALID: u16 = 0x0200;
const XMAX_INVALID: u16 = 0x0800;
/// `DATCONNLIMIT_INVALID_DB`: a DROP DATABASE began and did not finish.
const INVALID_DATABASE: u32 = 0xFFFF_FFFE;

/// A row of `pg_database`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Database {
    /// Object identifier, the name of its directory.
    pub oid: u32,
    /// Its default tablespace.
    pub tablespace: u32,
}

/// Reads the rows whose own hint bits say that they are live: creation committed, removal invalid. Rows that
/// only `pg_xact` could judge, and databases whose removal began, are left out.
pub fn surely_live_databases(pages: &[u8], major: MajorVersion) -> Vec<Database> {
    let (connection_limit, tablespace) = if major.0 < 15 { (208, 224) } else { (80, 92) };
    let mut databases = Vec::new();
    for page in pages.chunks_exact(PAGE_SIZE_BYTES) {
        for tuple in normal_tuples(page) {
            let Some(data) = live_data(tuple) else { continue };
            let columns = (u32_at(data, 0), u32_at(data, connection_limit), u32_at(data, tablespace));
            if let (Some(oid), Some(limit), Some(tablespace)) = columns
                && limit != INVALID_DATABASE
            {
                databases.push(Database { oid, tablespace });
            }
        }
    }
    databases
}

/// Reads the object identifiers, the first column, of the rows whose own hint bits say that they are live.
pub fn surely_live_oids(pages: &[u8]) -> Vec<u32> {
    let tuples = pages.chunks_exact(PAGE_SIZE_BYTES).flat_map(normal_tuples);
    tuples.filter_map(live_data).filter_map(|data| u32_at(data, 0)).collect()
}

fn normal_tuples(page: &[u8]) -> impl Iterator<Item = &[u8]> {
    let lower = usize::from(u16_at(page, 12).unwrap_or_default()).min(page.len());
    let count = lower.saturating_sub(PAGE_HEADER_BYTES) / LINE_POINTER_BYTES;
    (0..count).filter_map(move |index| {
        let pointer = u32_at(page, PAGE_HEADER_BYTES + index * LINE_POINTER_BYTES)?;
        let offset = usize::try_from(pointer & 0x7FFF).ok()?;
        let size_bytes = usize::try_from(pointer >> 17).ok()?;
        let is_normal = (pointer >> 15) & 3 == LINE_POINTER_NORMAL;
        is_normal.then(|| page.get(offset..offset.checked_add(size_bytes)?)).flatten()
    })
}

fn live_data(tuple: &[u8]) -> Option<&[u8]> {
    let infomask = u16_at(tuple, 20)?;
    // Both bits together mean frozen, which is committed, too.
    let was_created = infomask & XMIN_COMMITTED != 0;
    let was_aborted = infomask & (XMIN_COMMITTED | XMIN_INVALID) == XMIN_INVALID;
    let may_be_removed = infomask & XMAX_INVALID == 0;
    if !was_created || was_aborted || may_be_removed {
        return None;
    }
    tuple.get(usize::from(u8_at(tuple, 22)?)..)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_databases_of_every_fixture_are_read() {
        for major in crate::pg::fixtures::MAJORS {
            let databases = surely_live_databases(&crate::pg::fixtures::read(major, "global_1262"), major);
            let oids: Vec<u32> = databases.iter().map(|database| database.oid).collect();
            assert!(oids.contains(&1), "version {major}: {oids:?}");
            assert!(databases.iter().all(|database| database.tablespace == 1663), "version {major}");
        }
    }

    proptest! {
        #[test]
        fn arbitrary_pages_are_read_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..16_400)) {
            surely_live_databases(&bytes, MajorVersion(15));
            surely_live_databases(&bytes, MajorVersion(13));
        }
    }
}
