//! The relation map, `pg_filenode.map`: which files hold the catalogs that cannot name their own file in
//! `pg_class`.
//!
//! One map in `global/` covers the shared catalogs, one in every database directory its local ones. The files
//! that they name must exist, which makes the map the cheapest complete check of them. The server trusts a
//! map with a sound CRC without a further look (PostgreSQL: relmapper.c).

use serde::{Deserialize, Serialize};

use super::bytes::u32_at;
use super::{MajorVersion, Oid};

const MAGIC: u32 = 0x0059_2717;
const ENTRIES_OFFSET: usize = 8;
const ENTRY_SIZE_BYTES: usize = 8;

/// A relation map, in the order of its file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RelationMap {
    /// The OID of each mapped catalog, index or toast relation, and the relfilenode that now holds it.
    pub entries: Vec<(Oid, Oid)>,
}

/// Which relations a map covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MapKind {
    /// Those of `global/`, shared by all databases.
    Shared,
    /// Those of one database directory.
    Database,
}

/// How a map differs from what its major version maps. Both lists ascend, and are empty for a map that
/// agrees.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MapDisagreements {
    /// The catalogs that the map lacks.
    pub missing: Vec<Oid>,
    /// The relations that the map should not name, or names twice.
    pub unexpected: Vec<Oid>,
}

impl MapDisagreements {
    /// Says whether the map agrees with its major version.
    pub fn is_empty(&self) -> bool {
        self.missing.is_empty() && self.unexpected.is_empty()
    }
}

/// Why a relation map cannot be believed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RelationMapError {
    /// The file has the size of no relation map.
    #[error("relation map has a wrong size: {size_bytes} bytes, expected 512 or 524")]
    WrongSize {
        /// The size of the file.
        size_bytes: usize,
    },
    /// The file does not begin as a relation map does.
    #[error("relation map has a wrong magic number: {magic:08X}, expected {MAGIC:08X}")]
    WrongMagic {
        /// The number that it begins with.
        magic: u32,
    },
    /// The file is damaged.
    #[error("relation map is damaged: stored CRC {stored:08X}, computed {computed:08X}")]
    BadCrc {
        /// The CRC in the file.
        stored: u32,
        /// The CRC of its data.
        computed: u32,
    },
    /// The map counts more entries than fit.
    #[error("relation map counts {count} entries, but holds at most {capacity}")]
    TooManyEntries {
        /// The number of entries that it counts.
        count: u32,
        /// The number of entries that fit.
        capacity: usize,
    },
}

/// One layout of the file, which its size tells.
struct Layout {
    size_bytes: usize,
    capacity: usize,
    crc_offset: usize,
}

/// The layouts of 13 to 15, with four bytes of padding after the CRC, and of 16 to 18 (PostgreSQL:
/// `RelMapFile`).
const LAYOUTS: [Layout; 2] = [
    Layout { size_bytes: 512, capacity: 62, crc_offset: 504 },
    Layout { size_bytes: 524, capacity: 64, crc_offset: 520 },
];

impl RelationMap {
    /// Reads a relation map of PostgreSQL 13 to 19.
    ///
    /// # Errors
    /// [`RelationMapError`], of any kind; with such a file no connection to the database (for the shared map:
    /// to any) is possible. The server refuses a file that is too short, has a wrong magic number or a bad
    /// CRC.
    pub fn parse(bytes: &[u8]) -> Result<Self, RelationMapError> {
        let wrong_size = || RelationMapError::WrongSize { size_bytes: bytes.len() };
        let layout = LAYOUTS.iter().find(|layout| layout.size_bytes == bytes.len()).ok_or_else(wrong_size)?;
        let magic = u32_at(bytes, 0).ok_or_else(wrong_size)?;
        if magic != MAGIC {
            return Err(RelationMapError::WrongMagic { magic });
        }
        check_crc(bytes, layout)?;
        let count = u32_at(bytes, 4).ok_or_else(wrong_size)?;
        let entries = read_entries(bytes, count, layout.capacity)?;
        Ok(Self { entries })
    }

    /// The map of a cluster in which no mapped relation was ever rewritten: each is in the file of its own number. `None`
    /// for a version that pgbox does not know.
    pub fn identity(kind: MapKind, major: MajorVersion) -> Option<Self> {
        let catalogs = expected_catalogs(kind, major)?;
        Some(Self { entries: catalogs.iter().map(|catalog| (Oid(*catalog), Oid(*catalog))).collect() })
    }

    /// Returns the file that the server of a major version reads as this map; `None` if the map has too many entries.
    pub fn encode(&self, major: MajorVersion) -> Option<Vec<u8>> {
        let [before_16, from_16] = &LAYOUTS;
        let layout = if major.0 < 16 { before_16 } else { from_16 };
        let count = u32::try_from(self.entries.len()).ok()?;
        if self.entries.len() > layout.capacity {
            return None;
        }
        let mut file = [MAGIC.to_le_bytes(), count.to_le_bytes()].concat();
        for (catalog, relfilenode) in &self.entries {
            file.extend([catalog.0.to_le_bytes(), relfilenode.0.to_le_bytes()].concat());
        }
        file.resize(layout.crc_offset, 0);
        file.extend(crc32c::crc32c(&file).to_le_bytes());
        file.resize(layout.size_bytes, 0);
        Some(file)
    }

    /// Returns the relfilenode of a catalog; `None` if the map does not name it.
    pub fn filenode(&self, catalog: Oid) -> Option<Oid> {
        self.entries.iter().find(|(of, _)| *of == catalog).map(|(_, relfilenode)| *relfilenode)
    }

    /// Returns the relfilenodes that the map names. Each must have a main fork file; only those from 16384
    /// on, made by a rewrite of the catalog, may lack it until recovery has replayed a crash.
    pub fn filenodes(&self) -> impl Iterator<Item = Oid> + '_ {
        self.entries.iter().map(|(_, relfilenode)| *relfilenode)
    }

    /// Returns how the map differs from what a major version maps, or `None` for a version that pgbox does
    /// not know.
    pub fn disagreements(&self, kind: MapKind, major: MajorVersion) -> Option<MapDisagreements> {
        let expected = expected_catalogs(kind, major)?;
        let mut unexpected: Vec<Oid> = self.entries.iter().map(|(catalog, _)| *catalog).collect();
        let mut missing = Vec::new();
        for catalog in expected.iter().map(|catalog| Oid(*catalog)) {
            match unexpected.iter().position(|named| *named == catalog) {
                Some(position) => {
                    unexpected.remove(position);
                }
                None => missing.push(catalog),
            }
        }
        unexpected.sort_unstable();
        Some(MapDisagreements { missing, unexpected })
    }
}

fn check_crc(bytes: &[u8], layout: &Layout) -> Result<(), RelationMapError> {
    let wrong_size = || RelationMapError::WrongSize { size_bytes: bytes.len() };
    let stored = u32_at(bytes, layout.crc_offset).ok_or_else(wrong_size)?;
    let computed = crc32c::crc32c(bytes.get(..layout.crc_offset).ok_or_else(wrong_size)?);
    if stored != computed {
        return Err(RelationMapError::BadCrc { stored, computed });
    }
    Ok(())
}

fn read_entries(bytes: &[u8], count: u32, capacity: usize) -> Result<Vec<(Oid, Oid)>, RelationMapError> {
    let too_many = || RelationMapError::TooManyEntries { count, capacity };
    let entry_count = usize::try_from(count).ok().filter(|count| *count <= capacity).ok_or_else(too_many)?;
    let offsets = (0..entry_count).map(|index| ENTRIES_OFFSET + index * ENTRY_SIZE_BYTES);
    let entries = offsets.map(|offset| Some((Oid(u32_at(bytes, offset)?), Oid(u32_at(bytes, offset + 4)?))));
    entries.collect::<Option<_>>().ok_or_else(too_many)
}

/// Returns the OIDs of the relations that a map must name, no more and no fewer, or `None` for a major
/// version that pgbox does not know.
pub fn expected_catalogs(kind: MapKind, major: MajorVersion) -> Option<&'static [u32]> {
    match (kind, major.0) {
        (MapKind::Database, 13..=19) => Some(&DATABASE),
        (MapKind::Shared, 13 | 14) => Some(&SHARED_13),
        (MapKind::Shared, 15) => Some(&SHARED_15),
        (MapKind::Shared, 16 | 17) => Some(&SHARED_16),
        (MapKind::Shared, 18 | 19) => Some(&SHARED_18),
        _ => None,
    }
}

/// `pg_type`, `pg_attribute`, `pg_class`, `pg_proc`, with their indexes and toast relations.
const DATABASE: [u32; 17] =
    [1247, 1249, 1255, 1259, 2658, 2659, 2662, 2663, 2690, 2691, 2703, 2704, 2836, 2837, 3455, 4171, 4172];

const SHARED_13: [u32; 43] = [
    1213, 1214, 1232, 1233, 1260, 1261, 1262, 2396, 2397, 2671, 2672, 2676, 2677, 2694, 2695, 2697, 2698,
    2846, 2847, 2964, 2965, 2966, 2967, 3592, 3593, 4060, 4061, 4175, 4176, 4177, 4178, 4181, 4182, 4183,
    4184, 4185, 4186, 6000, 6001, 6002, 6100, 6114, 6115,
];

/// 15 adds `pg_parameter_acl`, with its indexes and toast relation.
const SHARED_15: [u32; 48] = [
    1213, 1214, 1232, 1233, 1260, 1261, 1262, 2396, 2397, 2671, 2672, 2676, 2677, 2694, 2695, 2697, 2698,
    2846, 2847, 2964, 2965, 2966, 2967, 3592, 3593, 4060, 4061, 4175, 4176, 4177, 4178, 4181, 4182, 4183,
    4184, 4185, 4186, 6000, 6001, 6002, 6100, 6114, 6115, 6243, 6244, 6245, 6246, 6247,
];

/// 16 adds two indexes of `pg_auth_members`.
const SHARED_16: [u32; 50] = [
    1213, 1214, 1232, 1233, 1260, 1261, 1262, 2396, 2397, 2671, 2672, 2676, 2677, 2694, 2695, 2697, 2698,
    2846, 2847, 2964, 2965, 2966, 2967, 3592, 3593, 4060, 4061, 4175, 4176, 4177, 4178, 4181, 4182, 4183,
    4184, 4185, 4186, 6000, 6001, 6002, 6100, 6114, 6115, 6243, 6244, 6245, 6246, 6247, 6302, 6303,
];

/// 18 drops the toast relations of `pg_authid` and `pg_replication_origin`.
const SHARED_18: [u32; 46] = [
    1213, 1214, 1232, 1233, 1260, 1261, 1262, 2396, 2397, 2671, 2672, 2676, 2677, 2694, 2695, 2697, 2698,
    2846, 2847, 2964, 2965, 2966, 2967, 3592, 3593, 4060, 4061, 4177, 4178, 4183, 4184, 4185, 4186, 6000,
    6001, 6002, 6100, 6114, 6115, 6243, 6244, 6245, 6246, 6247, 6302, 6303,
];

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;
    use crate::pg::fixtures::{self, MAJORS};

    const MAPS: [(MapKind, &str); 2] =
        [(MapKind::Shared, "global_pg_filenode.map"), (MapKind::Database, "base1_pg_filenode.map")];

    /// Makes the CRC of a map fit.
    fn seal(file: &mut [u8]) {
        let crc_offset = if file.len() == 512 { 504 } else { 520 };
        let crc = crc32c::crc32c(&file[..crc_offset]);
        file[crc_offset..crc_offset + 4].copy_from_slice(&crc.to_le_bytes());
    }

    #[test]
    fn the_maps_of_every_version_are_read_and_agree_with_it() {
        for major in MAJORS {
            for (kind, name) in MAPS {
                let map = RelationMap::parse(&fixtures::read(major, name)).unwrap();

                assert_eq!(
                    map.disagreements(kind, major),
                    Some(MapDisagreements::default()),
                    "{major} {name}"
                );
                assert_eq!(map.filenodes().count(), map.entries.len());
            }
        }
    }

    #[test]
    fn a_map_is_encoded_as_its_server_wrote_it() {
        for major in MAJORS {
            for (_, name) in MAPS {
                let file = fixtures::read(major, name);

                assert_eq!(RelationMap::parse(&file).unwrap().encode(major), Some(file), "{major} {name}");
            }
        }
    }

    #[test]
    fn a_map_of_more_entries_than_fit_has_no_file() {
        let map = RelationMap { entries: vec![(Oid(1), Oid(1)); 63] };

        assert_eq!(map.encode(MajorVersion(15)), None);
        assert!(map.encode(MajorVersion(16)).is_some());
    }

    #[test]
    fn a_map_is_kept_in_the_order_of_its_file() {
        let map = RelationMap::parse(&fixtures::read(MajorVersion(15), "global_pg_filenode.map")).unwrap();

        assert_eq!(map.entries.len(), 48);
        assert_eq!(map.entries.first(), Some(&(Oid(1262), Oid(1262))));
    }

    #[test]
    fn the_shared_map_of_another_version_disagrees_by_name() {
        let map = RelationMap::parse(&fixtures::read(MajorVersion(18), "global_pg_filenode.map")).unwrap();

        let disagreements = map.disagreements(MapKind::Shared, MajorVersion(15)).unwrap();

        assert_eq!(disagreements.missing, [4175, 4176, 4181, 4182].map(Oid));
        assert_eq!(disagreements.unexpected, [6302, 6303].map(Oid));
        assert!(!disagreements.is_empty());
    }

    #[test]
    fn a_relation_named_twice_is_unexpected() {
        let name = "base1_pg_filenode.map";
        let mut map = RelationMap::parse(&fixtures::read(MajorVersion(16), name)).unwrap();
        map.entries.push((Oid(1259), Oid(99_999)));

        let disagreements = map.disagreements(MapKind::Database, MajorVersion(16)).unwrap();

        assert_eq!(disagreements, MapDisagreements { missing: vec![], unexpected: vec![Oid(1259)] });
    }

    #[test]
    fn nothing_is_expected_of_a_version_that_is_unknown() {
        let map = RelationMap { entries: vec![] };

        for major in [12, 20].map(MajorVersion) {
            assert_eq!(expected_catalogs(MapKind::Database, major), None);
            assert_eq!(map.disagreements(MapKind::Shared, major), None);
        }
    }

    #[rstest]
    fn any_flipped_bit_of_the_data_or_its_crc_is_found(#[values(13, 14, 15, 16, 17, 18, 19)] major: u32) {
        let sound = fixtures::read(MajorVersion(major), "global_pg_filenode.map");
        let crc_end = if sound.len() == 512 { 508 } else { 524 };
        for bit in 0..crc_end * 8 {
            let mut file = sound.clone();
            file[bit / 8] ^= 1 << (bit % 8);

            let error = RelationMap::parse(&file).unwrap_err();

            let is_in_magic = bit < 32;
            assert_eq!(matches!(error, RelationMapError::WrongMagic { .. }), is_in_magic, "bit {bit}");
            assert_eq!(matches!(error, RelationMapError::BadCrc { .. }), !is_in_magic, "bit {bit}");
        }
    }

    #[test]
    fn a_file_of_another_size_is_refused() {
        for size_bytes in [0, 4, 511, 513, 520, 523, 525, 8192] {
            assert_eq!(
                RelationMap::parse(&vec![0; size_bytes]),
                Err(RelationMapError::WrongSize { size_bytes })
            );
        }
        assert_eq!(RelationMap::parse(&[0; 512]), Err(RelationMapError::WrongMagic { magic: 0 }));
    }

    #[test]
    fn a_count_beyond_the_file_is_refused_despite_a_sound_crc() {
        for (size_bytes, capacity, count) in [(512, 62, 63), (524, 64, 65), (512, 62, u32::MAX)] {
            let mut file = vec![0; size_bytes];
            file[..4].copy_from_slice(&MAGIC.to_le_bytes());
            file[4..8].copy_from_slice(&count.to_le_bytes());
            seal(&mut file);

            assert_eq!(RelationMap::parse(&file), Err(RelationMapError::TooManyEntries { count, capacity }));
        }
    }

    proptest! {
        #[test]
        fn every_map_survives_its_file(entries in prop::collection::vec(any::<(u32, u32)>(), 0..=62)) {
            let entries: Vec<_> = entries.into_iter().map(|(oid, file)| (Oid(oid), Oid(file))).collect();
            let map = RelationMap { entries };
            for major in MAJORS {
                prop_assert_eq!(RelationMap::parse(&map.encode(major).unwrap()).unwrap(), map.clone());
            }
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes: Vec<u8>, mut rest in prop::collection::vec(any::<u8>(), 524)) {
            prop_assert!(RelationMap::parse(&bytes).is_err());
            rest[..4].copy_from_slice(&MAGIC.to_le_bytes());
            seal(&mut rest);
            let _ = RelationMap::parse(&rest);
        }
    }
}
