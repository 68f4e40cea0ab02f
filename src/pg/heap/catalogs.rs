//! Rows of the catalogs that tell what files a cluster must have, by major version.
//!
//! All but the collations of a database are columns of a fixed width that are never null, so that each stands at a
//! fixed place. Layouts: `pg_database.h`, `pg_class.h`, `pg_index.h`.

use super::super::bytes::{u8_at, u32_at};
use super::super::{MajorVersion, Oid};
use super::Tuple;

const NAME_BYTES: usize = 64;

/// A row of `pg_database`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DatabaseRow {
    /// Object identifier, the name of its directory.
    pub oid: Oid,
    /// Name.
    pub name: String,
    /// Whether anybody may connect.
    pub allows_connections: bool,
    /// Whether a DROP DATABASE began and did not finish (PostgreSQL: `DATCONNLIMIT_INVALID_DB`).
    pub is_invalid: bool,
    /// Its default tablespace.
    pub tablespace: Oid,
    /// Its collation.
    pub locale: DatabaseLocale,
}

/// The collation of a database. What cannot be read, as it is stored compressed or elsewhere, is `None`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DatabaseLocale {
    /// `c` for the C library, `i` for ICU, `b` for built-in; 13 and 14 have only the C library.
    pub provider: char,
    /// `datcollate`.
    pub collate: Option<String>,
    /// `datctype`.
    pub ctype: Option<String>,
    /// `daticulocale`, later `datlocale`; from 15 on.
    pub locale: Option<String>,
    /// `datcollversion`, the version of the collation that the indexes were built with; from 15 on.
    pub version: Option<String>,
}

impl DatabaseRow {
    /// Reads a row.
    pub fn parse(tuple: &Tuple<'_>, major: MajorVersion) -> Option<Self> {
        const INVALID: u32 = 0xFFFF_FFFE;
        let data = tuple.data;
        let (allows_connections, limit, tablespace) =
            if major.0 < 15 { (205, 208, 224) } else { (78, 80, 92) };
        Some(Self {
            oid: Oid(u32_at(data, 0)?),
            name: name_at(data, 4)?.to_owned_text(),
            allows_connections: u8_at(data, allows_connections)? != 0,
            is_invalid: u32_at(data, limit)? == INVALID,
            tablespace: Oid(u32_at(data, tablespace)?),
            locale: DatabaseLocale::parse(tuple, major)?,
        })
    }
}

impl DatabaseLocale {
    fn parse(tuple: &Tuple<'_>, major: MajorVersion) -> Option<Self> {
        let data = tuple.data;
        if major.0 < 15 {
            let name = |offset| name_at(data, offset).map(|name| name.to_owned_text());
            return Some(Self { provider: 'c', collate: name(76), ctype: name(140), ..Self::default() });
        }
        // 17 added dathasloginevt, in what was padding before.
        let first_column = if major.0 < 17 { 11 } else { 12 };
        let mut texts = Texts { tuple, column: first_column, offset: Some(96) };
        let (collate, ctype, locale) = (texts.next_text(), texts.next_text(), texts.next_text());
        if major.0 >= 16 {
            // daticurules.
            texts.next_text();
        }
        let version = texts.next_text();
        Some(Self { provider: char::from(u8_at(data, 76)?), collate, ctype, locale, version })
    }
}

/// Reads columns of type `text`, one after the other.
struct Texts<'a> {
    tuple: &'a Tuple<'a>,
    column: u16,
    /// `None` once a value was met whose size is unknown.
    offset: Option<usize>,
}

impl Texts<'_> {
    fn next_text(&mut self) -> Option<String> {
        let column = self.column;
        self.column += 1;
        if self.tuple.is_null(column) {
            return None;
        }
        let (text, end) = self.read_value(self.offset?).unzip();
        self.offset = end;
        text.flatten()
    }

    /// The value at an offset, where it is stored as it is, and where it ends (varatt.h; `att_align_pointer()`).
    fn read_value(&self, offset: usize) -> Option<(Option<String>, usize)> {
        const EXTERNAL: u8 = 1;
        let data = self.tuple.data;
        // A header of four bytes is aligned, and what is skipped for that is zero; a header of one byte is never 0.
        let offset = if u8_at(data, offset)? == 0 { offset.next_multiple_of(4) } else { offset };
        let first = u8_at(data, offset)?;
        let (header_bytes, size_bytes, is_plain) = match first {
            // The last bits are 1 for a short header, 10 for a compressed value, 00 for a plain one.
            EXTERNAL => return None,
            _ if first & 1 == 1 => (1, usize::from(first >> 1), true),
            _ => (4, usize::try_from(u32_at(data, offset)? >> 2).ok()?, first.trailing_zeros() >= 2),
        };
        let end = offset.checked_add(size_bytes)?;
        let content = data.get(offset + header_bytes..end)?;
        Some((is_plain.then(|| String::from_utf8_lossy(content).into_owned()), end))
    }
}

/// A row of `pg_class`, its name still in the page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClassRow<'a> {
    /// Object identifier.
    pub oid: Oid,
    /// Name.
    name: &'a [u8],
    /// Its schema.
    pub namespace: Oid,
    /// Its access method; 0 for none.
    pub access_method: Oid,
    /// The number that names its files; 0 where a relation map has it, and for those without files.
    pub relfilenode: Oid,
    /// Its tablespace; 0 for the database's default.
    pub tablespace: Oid,
    /// Its toast relation; 0 for none.
    pub toast: Oid,
    /// Whether all databases share it.
    pub is_shared: bool,
    /// `p` permanent, `u` unlogged, `t` temporary.
    pub persistence: u8,
    /// `relkind`.
    pub kind: u8,
}

impl<'a> ClassRow<'a> {
    /// Reads a row.
    pub fn parse(tuple: &Tuple<'a>, major: MajorVersion) -> Option<Self> {
        let data = tuple.data;
        // 18 inserted relallfrozen.
        let shift = if major.0 < 18 { 0 } else { 4 };
        Some(Self {
            oid: Oid(u32_at(data, 0)?),
            name: name_at(data, 4)?.0,
            namespace: Oid(u32_at(data, 68)?),
            access_method: Oid(u32_at(data, 84)?),
            relfilenode: Oid(u32_at(data, 88)?),
            tablespace: Oid(u32_at(data, 92)?),
            toast: Oid(u32_at(data, 108 + shift)?),
            is_shared: u8_at(data, 113 + shift)? != 0,
            persistence: u8_at(data, 114 + shift)?,
            kind: u8_at(data, 115 + shift)?,
        })
    }

    /// Its name.
    pub fn name(&self) -> String {
        NameBytes(self.name).to_owned_text()
    }
}

/// A row of `pg_index`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IndexRow {
    /// The index.
    pub index: Oid,
    /// The table that it is of.
    pub table: Oid,
    /// Whether it is in use: neither being made nor being dropped.
    pub is_valid: bool,
    /// Whether it surely has an entry for every row of its table: valid, live, and without a predicate.
    pub covers_all_rows: bool,
}

impl IndexRow {
    /// Reads a row.
    pub fn parse(tuple: &Tuple<'_>, major: MajorVersion) -> Option<Self> {
        let data = tuple.data;
        // 15 inserted indnullsnotdistinct; indpred is the last column.
        let (valid, live, predicate) = if major.0 < 15 { (17, 20, 19) } else { (18, 21, 20) };
        let is_valid = u8_at(data, valid)? != 0 && u8_at(data, live)? != 0;
        Some(Self {
            index: Oid(u32_at(data, 0)?),
            table: Oid(u32_at(data, 4)?),
            is_valid,
            covers_all_rows: is_valid && tuple.is_null(predicate),
        })
    }
}

/// The first two columns of a row of `pg_namespace` or `pg_tablespace`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NameRow {
    /// Object identifier.
    pub oid: Oid,
    /// Name.
    pub name: String,
}

impl NameRow {
    /// Reads a row.
    pub fn parse(tuple: &Tuple<'_>) -> Option<Self> {
        let data = tuple.data;
        Some(Self { oid: Oid(u32_at(data, 0)?), name: name_at(data, 4)?.to_owned_text() })
    }
}

/// A value of type `name`, without the zeros behind it.
struct NameBytes<'a>(&'a [u8]);

impl NameBytes<'_> {
    fn to_owned_text(&self) -> String {
        String::from_utf8_lossy(self.0).into_owned()
    }
}

fn name_at(data: &[u8], offset: usize) -> Option<NameBytes<'_>> {
    let field = data.get(offset..offset + NAME_BYTES)?;
    field.split(|&byte| byte == 0).next().map(NameBytes)
}
