//! The bytes of a control file: one that is pointed at another checkpoint, and one made from nothing but WAL.
//!
//! Whether either may be put in place is not decided here. The offsets are those of `ControlFileData` in
//! `pg_control.h` on a 64-bit machine, as in the reader.

use super::{ClusterState, ControlFile, ControlFileError, FILE_SIZE_BYTES, Places, VERSIONS, Version};
use crate::pg::Lsn;
use crate::pg::wal::{Checkpoint, Parameters, WalGeometry};

/// The LSN at which the counter of unlogged relations starts (PostgreSQL: `FirstNormalUnloggedLSN`).
const FIRST_UNLOGGED_LSN: u64 = 1000;
/// Beyond every LSN that an unlogged page can carry: the counter grows by one with each change of a `GiST` index that
/// has no WAL, and would take years for this many.
const PAST_EVERY_UNLOGGED_LSN: u64 = 1 << 48;

/// What a control file is made from when there is none.
#[derive(Clone, Copy, Debug)]
pub struct Ingredients<'a> {
    /// The cluster, by its WAL.
    pub geometry: WalGeometry,
    /// Where the last checkpoint record begins.
    pub checkpoint_lsn: Lsn,
    /// The last checkpoint record.
    pub checkpoint: &'a Checkpoint,
    /// What the server was doing: shut down, or in production.
    pub state: ClusterState,
    /// The settings of the last record that tells them.
    pub parameters: Parameters,
    /// Whether the data pages carry checksums.
    pub has_checksums: bool,
    /// Something that an attacker cannot guess: it goes into the salts that are shown to unknown users.
    pub nonce: [u8; 32],
}

/// Makes a control file from what the WAL tells, with the sizes that every packaged server has. `None` for a major
/// version that pgbox does not know.
///
/// It differs from the one that was lost only in its times, its nonce and the LSN counter of unlogged relations
/// (`facts/corruption.md` §5).
pub fn rebuild(ingredients: &Ingredients<'_>) -> Option<Vec<u8>> {
    let geometry = &ingredients.geometry;
    let version = VERSIONS.iter().find(|version| version.major == geometry.major)?;
    let places = version.places;
    let parameters = &ingredients.parameters;
    let mut file = Writer { bytes: vec![0; FILE_SIZE_BYTES] };
    file.put(0, &geometry.system_identifier.0.to_le_bytes());
    file.put_numbers(8, &[version.control, version.catalog, ingredients.state.number()]);
    file.put(24, &ingredients.checkpoint.time().to_le_bytes());
    file.put(places.unlogged_lsn, &unlogged_lsn(ingredients.state).to_le_bytes());
    file.put_numbers(places.wal_level, &[parameters.wal_level.number(), u32::from(parameters.wal_log_hints)]);
    let limits = [
        parameters.max_connections,
        parameters.max_worker_processes,
        parameters.max_wal_senders,
        parameters.max_prepared_transactions,
        parameters.max_locks_per_transaction,
        u32::from(parameters.track_commit_timestamp),
    ];
    file.put_numbers(places.max_connections, &limits);
    // maxAlign, then floatFormat, which together tell the architecture.
    file.put_numbers(places.alignment, &[8]);
    file.put(places.alignment + 4, &1_234_567.0_f64.to_le_bytes());
    file.put_sizes(geometry, places);
    let has_checksums = u32::from(ingredients.has_checksums);
    file.put_numbers(places.data_checksum_version, &[has_checksums]);
    if let Some(place) = places.initial_checksum_version {
        file.put_numbers(place, &[has_checksums]);
    }
    if let Some(place) = places.char_signedness {
        // All that matters is the machine that initdb ran on.
        let is_signed = cfg!(any(target_arch = "x86_64", target_arch = "x86"));
        file.put(place, &[u8::from(is_signed)]);
    }
    file.put(places.nonce, &ingredients.nonce);
    file.point_at(ingredients.checkpoint_lsn, ingredients.checkpoint);
    file.seal(version);
    Some(file.bytes)
}

/// Points a control file at a checkpoint other than its own, and says that the server did not stop cleanly, so that the
/// next start replays the WAL from there.
///
/// # Errors
/// [`ControlFileError`], if the file cannot be believed.
pub fn pointed_at(file: &[u8], lsn: Lsn, checkpoint: &Checkpoint) -> Result<Vec<u8>, ControlFileError> {
    let (mut file, version) = Writer::of(file)?;
    file.put_numbers(16, &[ClusterState::InProduction.number()]);
    file.point_at(lsn, checkpoint);
    // A consistency point is only for recovery from an archive.
    file.put(version.places.min_recovery_point, &[0; 12]);
    file.seal(version);
    Ok(file.bytes)
}

/// Sets the LSN counter of unlogged relations, which must be past every one of their pages.
///
/// # Errors
/// [`ControlFileError`], if the file cannot be believed.
pub fn with_unlogged_lsn(file: &[u8], unlogged_lsn: Lsn) -> Result<Vec<u8>, ControlFileError> {
    let (mut file, version) = Writer::of(file)?;
    file.put(version.places.unlogged_lsn, &unlogged_lsn.0.to_le_bytes());
    file.seal(version);
    Ok(file.bytes)
}

/// A crash resets unlogged relations and their counter; a clean stop keeps both.
fn unlogged_lsn(state: ClusterState) -> u64 {
    if state.is_clean() { PAST_EVERY_UNLOGGED_LSN } else { FIRST_UNLOGGED_LSN }
}

/// A file under construction. All offsets are constants below the size of the file.
struct Writer {
    bytes: Vec<u8>,
}

impl Writer {
    /// A sound control file that is to be changed, and its version.
    fn of(file: &[u8]) -> Result<(Self, &'static Version), ControlFileError> {
        let control = ControlFile::parse(file)?;
        let unknown = ControlFileError::UnknownVersion {
            control: control.pg_control_version,
            catalog: control.catalog_version,
        };
        let version = Version::find(control.pg_control_version, control.catalog_version).ok_or(unknown)?;
        let mut bytes = file.to_vec();
        bytes.resize(FILE_SIZE_BYTES, 0);
        Ok((Self { bytes }, version))
    }

    fn put(&mut self, offset: usize, bytes: &[u8]) {
        let end = offset.saturating_add(bytes.len());
        if let Some(place) = self.bytes.get_mut(offset..end) {
            place.copy_from_slice(bytes);
        }
    }

    fn put_numbers(&mut self, offset: usize, numbers: &[u32]) {
        for (index, number) in numbers.iter().enumerate() {
            self.put(offset + index * size_of::<u32>(), &number.to_le_bytes());
        }
    }

    fn point_at(&mut self, lsn: Lsn, checkpoint: &Checkpoint) {
        self.put(32, &lsn.0.to_le_bytes());
        self.put(40, checkpoint.data());
    }

    /// Puts the sizes that every packaged server has, and those of the WAL.
    fn put_sizes(&mut self, geometry: &WalGeometry, places: &Places) {
        // BLCKSZ and RELSEG_SIZE.
        self.put_numbers(places.block_size, &[8192, 131_072]);
        if let Some(place) = places.slru_pages_per_segment {
            self.put_numbers(place, &[32]);
        }
        // The last five are NAMEDATALEN, INDEX_MAX_KEYS, TOAST_MAX_CHUNK_SIZE, LOBLKSIZE and float8ByVal.
        let sizes = [geometry.block_size_bytes, geometry.segment_size_bytes, 64, 32, 1996, 2048, 1];
        self.put_numbers(places.wal_block_size, &sizes);
    }

    fn seal(&mut self, version: &Version) {
        let crc = crc32c::crc32c(self.bytes.get(..version.places.crc).unwrap_or_default());
        self.put(version.places.crc, &crc.to_le_bytes());
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;
    use crate::pg::MajorVersion;
    use crate::pg::fixtures;
    use crate::pg::wal::checkpoint_size_bytes;

    fn checkpoint_of(file: &[u8]) -> Checkpoint {
        let major = ControlFile::parse(file).unwrap().major;
        Checkpoint::parse(true, &file[40..40 + checkpoint_size_bytes(major)], major).unwrap()
    }

    fn ingredients<'a>(control: &ControlFile, checkpoint: &'a Checkpoint) -> Ingredients<'a> {
        Ingredients {
            geometry: WalGeometry {
                major: control.major,
                system_identifier: control.system_identifier,
                segment_size_bytes: control.wal_segment_size,
                block_size_bytes: control.wal_block_size,
            },
            checkpoint_lsn: control.checkpoint,
            checkpoint,
            state: ClusterState::ShutDown,
            parameters: Parameters::defaults(control.major),
            has_checksums: true,
            nonce: [7; 32],
        }
    }

    #[rstest]
    fn a_rebuilt_file_differs_from_the_lost_one_only_where_nothing_tells_what_it_held(
        #[values(13, 14, 15, 16, 17, 18, 19)] major: u32,
    ) {
        let lost = fixtures::read(MajorVersion(major), "pg_control");
        let control = ControlFile::parse(&lost).unwrap();
        let checkpoint = checkpoint_of(&lost);

        let rebuilt = rebuild(&ingredients(&control, &checkpoint)).unwrap();

        let differing: Vec<usize> = (0..lost.len()).filter(|&at| lost[at] != rebuilt[at]).collect();
        let places = Version::find(control.pg_control_version, control.catalog_version).unwrap().places;
        let unlogged = places.unlogged_lsn..places.unlogged_lsn + 8;
        let salt_and_crc = places.nonce..places.crc + 4;
        let is_free =
            |at: &usize| (24..32).contains(at) || unlogged.contains(at) || salt_and_crc.contains(at);
        assert_eq!(differing.iter().filter(|at| !is_free(at)).collect::<Vec<_>>(), Vec::<&usize>::new());
        let parsed = ControlFile::parse(&rebuilt).unwrap();
        let expected =
            ControlFile { time: parsed.time, crc: parsed.crc, unlogged_lsn: Lsn(1 << 48), ..control };
        assert_eq!(parsed, expected);
    }

    #[test]
    fn after_a_crash_the_counter_of_unlogged_relations_starts_anew() {
        let lost = fixtures::read(MajorVersion(15), "pg_control");
        let control = ControlFile::parse(&lost).unwrap();
        let checkpoint = checkpoint_of(&lost);
        let crashed = Ingredients { state: ClusterState::InProduction, ..ingredients(&control, &checkpoint) };

        let rebuilt = ControlFile::parse(&rebuild(&crashed).unwrap()).unwrap();

        assert_eq!((rebuilt.state, rebuilt.unlogged_lsn), (ClusterState::InProduction, Lsn(1000)));
    }

    #[test]
    fn a_version_that_is_unknown_gets_no_control_file() {
        let lost = fixtures::read(MajorVersion(15), "pg_control");
        let control = ControlFile { major: MajorVersion(20), ..ControlFile::parse(&lost).unwrap() };

        assert_eq!(rebuild(&ingredients(&control, &checkpoint_of(&lost))), None);
    }

    #[rstest]
    fn a_file_pointed_at_an_older_checkpoint_starts_recovery_there(#[values(13, 15, 18, 19)] major: u32) {
        let file = fixtures::read(MajorVersion(major), "pg_control");
        let mut data = checkpoint_of(&file).data().to_vec();
        data[..8].copy_from_slice(&0x0200_0028_u64.to_le_bytes());
        let checkpoint = Checkpoint::parse(true, &data, MajorVersion(major)).unwrap();

        let older = pointed_at(&file, Lsn(0x0200_0060), &checkpoint).unwrap();

        let parsed = ControlFile::parse(&older).unwrap();
        assert_eq!((parsed.checkpoint, parsed.redo), (Lsn(0x0200_0060), Lsn(0x0200_0028)));
        assert_eq!(parsed.state, ClusterState::InProduction);
        assert_eq!(older.len(), FILE_SIZE_BYTES);
    }

    #[rstest]
    fn the_counter_of_unlogged_relations_is_all_that_changes_when_it_is_set(
        #[values(13, 14, 15, 16, 17, 18, 19)] major: u32,
    ) {
        let file = fixtures::read(MajorVersion(major), "pg_control");

        let set = with_unlogged_lsn(&file, Lsn(4711)).unwrap();

        let (before, after) = (ControlFile::parse(&file).unwrap(), ControlFile::parse(&set).unwrap());
        assert_eq!(after.unlogged_lsn, Lsn(4711));
        assert_eq!(after, ControlFile { unlogged_lsn: Lsn(4711), crc: after.crc, ..before });
    }
}
