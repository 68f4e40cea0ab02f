//! The relation map of a cluster in which no catalog was ever rewritten: each has the file of its own number.

use super::relation_map::{MapKind, expected_catalogs};
use super::{MajorVersion, Oid};

const MAGIC: u32 = 0x0059_2717;

/// Returns the bytes of such a map; `None` for a major version that pgbox does not know.
///
/// It is *the* map only where every catalog that it names has a file of that number: a rewrite (VACUUM FULL,
/// CLUSTER, REINDEX) gives another number (PostgreSQL: `RelMapFile` in relmapper.c).
pub fn identity_map(kind: MapKind, major: MajorVersion) -> Option<Vec<u8>> {
    let catalogs: Vec<Oid> = expected_catalogs(kind, major)?.iter().map(|catalog| Oid(*catalog)).collect();
    let entries: Vec<(Oid, Oid)> = catalogs.into_iter().map(|catalog| (catalog, catalog)).collect();
    write_map(&entries, major)
}

/// Writes a map; `None` where the entries do not fit.
fn write_map(entries: &[(Oid, Oid)], major: MajorVersion) -> Option<Vec<u8>> {
    let (size_bytes, crc_offset) = if major.0 < 16 { (512, 504) } else { (524, 520) };
    let mut bytes = Vec::with_capacity(size_bytes);
    bytes.extend(MAGIC.to_le_bytes());
    bytes.extend(u32::try_from(entries.len()).ok()?.to_le_bytes());
    for (catalog, relfilenode) in entries {
        bytes.extend(catalog.0.to_le_bytes());
        bytes.extend(relfilenode.0.to_le_bytes());
    }
    if bytes.len() > crc_offset {
        return None;
    }
    bytes.resize(crc_offset, 0);
    bytes.extend(crc32c::crc32c(&bytes).to_le_bytes());
    bytes.resize(size_bytes, 0);
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pg::fixtures::MAJORS;
    use crate::pg::relation_map::RelationMap;

    #[test]
    fn an_identity_map_is_one_that_the_server_reads() {
        for major in MAJORS {
            for kind in [MapKind::Shared, MapKind::Database] {
                let map = RelationMap::parse(&identity_map(kind, major).unwrap()).unwrap();

                assert!(map.disagreements(kind, major).unwrap().is_empty());
                assert!(map.entries.iter().all(|(catalog, relfilenode)| catalog == relfilenode));
            }
        }
    }
}
