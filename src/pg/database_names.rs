//! The names of databases, from two indexes of `pg_database`, for when the catalog itself is lost.
//!
//! One index has the names, the other the numbers, and both say which row they are of: together they tell which
//! database had which name. Where a database was renamed, the index may still have both names, and nothing says which
//! is the later: then neither counts, as a wrong name is worse than a new one. No file is read here.

use super::BlockNumber;
use super::btree::{TupleId, for_each_key};
use super::page::{self, Checksums, Page};
use std::collections::{BTreeMap, BTreeSet};

/// The names of databases by number, from the files of `pg_database_datname_index` and `pg_database_oid_index`; a page
/// that cannot be believed is passed over.
pub fn database_names(name_index: &[u8], oid_index: &[u8], checksums: Checksums) -> BTreeMap<u32, String> {
    join(&sound_pages(name_index, checksums), &sound_pages(oid_index, checksums))
}

fn sound_pages(bytes: &[u8], checksums: Checksums) -> Vec<&Page> {
    let (pages, _) = bytes.as_chunks::<{ page::SIZE_BYTES }>();
    let numbered = (0..).map(BlockNumber).zip(pages);
    numbered
        .filter(|(block, page)| page::verify(page, *block, checksums).is_acceptable())
        .map(|(_, page)| page)
        .collect()
}

/// Names by number, from the pages of both indexes.
fn join(of_names: &[&Page], of_oids: &[&Page]) -> BTreeMap<u32, String> {
    let mut names: BTreeMap<TupleId, String> = BTreeMap::new();
    for page in of_names {
        for_each_key(page, |row, key| names.extend(read_name(key).map(|name| (row, name))));
    }
    let mut by_oid: BTreeMap<u32, BTreeSet<&String>> = BTreeMap::new();
    for page in of_oids {
        for_each_key(page, |row, key| {
            let oid = key.first_chunk().map(|bytes| u32::from_le_bytes(*bytes));
            if let (Some(oid), Some(name)) = (oid, names.get(&row)) {
                by_oid.entry(oid).or_default().insert(name);
            }
        });
    }
    let only = |(oid, names): (u32, BTreeSet<&String>)| {
        let mut names = names.into_iter();
        Some((oid, names.next()?.clone())).filter(|_| names.next().is_none())
    };
    by_oid.into_iter().filter_map(only).collect()
}

/// An index keeps a `name` without the zeros behind it but one (`pg_opclass.dat`, `name_ops`: `opckeytype` is
/// `cstring`).
fn read_name(key: &[u8]) -> Option<String> {
    let end = key.iter().position(|byte| *byte == 0)?;
    let name = std::str::from_utf8(key.get(..end)?).ok()?;
    (!name.is_empty()).then(|| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pg::MajorVersion;
    use crate::pg::fixtures;
    use proptest::prelude::*;

    fn index(name: &str) -> Vec<u8> {
        fixtures::read(MajorVersion(15), name)
    }

    #[test]
    fn real_indexes_tell_the_name_of_each_database() {
        let names = database_names(&index("global_2671"), &index("global_2672"), Checksums::Disabled);

        let expected = [(1, "template1"), (4, "template0"), (5, "postgres")];
        assert_eq!(names, expected.map(|(oid, name)| (oid, name.to_owned())).into());
    }

    #[test]
    fn a_database_with_two_names_has_none() {
        let mut oids = index("global_2672");
        // The entries are 16 bytes long, flags included; all of them are of the same database now.
        for entry in (page::SIZE_BYTES..oids.len() - 12).step_by(8) {
            if oids[entry + 6..entry + 8] == 16_u16.to_le_bytes() {
                oids[entry + 8..entry + 12].copy_from_slice(&7_u32.to_le_bytes());
            }
        }

        let names = database_names(&index("global_2671"), &oids, Checksums::Disabled);

        assert_eq!(names, BTreeMap::new());
    }

    #[test]
    fn what_is_no_index_names_nothing() {
        let garbage = vec![0x6E; 2 * page::SIZE_BYTES];
        assert_eq!(database_names(&garbage, &index("global_2672"), Checksums::Disabled), BTreeMap::new());
        assert_eq!(database_names(&index("global_2671"), &[], Checksums::Disabled), BTreeMap::new());
    }

    proptest! {
        #[test]
        fn arbitrary_pages_never_panic(bytes in prop::collection::vec(any::<u8>(), page::SIZE_BYTES)) {
            let mut page: Page = bytes.try_into().unwrap();
            page[16..18].copy_from_slice(&8176_u16.to_le_bytes());
            page[8180..8184].fill(0);
            page[8188..8190].copy_from_slice(&1_u16.to_le_bytes());
            prop_assert!(join(&[&page], &[&page]).len() <= page::SIZE_BYTES);
        }
    }
}
