//! Tests of the control file against those of real clusters, whole and damaged.

use proptest::prelude::*;
use rstest::rstest;

use super::*;
use crate::pg::fixtures::{self, MAJORS};

fn fixture(major: u32) -> Vec<u8> {
    fixtures::read(MajorVersion(major), "pg_control")
}

/// Writes bytes into a control file and makes its CRC fit, as only a server (or a forger) would.
fn rewritten(mut file: Vec<u8>, offset: usize, bytes: &[u8]) -> Vec<u8> {
    file[offset..offset + bytes.len()].copy_from_slice(bytes);
    let crc_offset = if file[8..10] == 1800_u16.to_le_bytes() { 292 } else { 288 };
    let crc = crc32c::crc32c(&file[..crc_offset]);
    file[crc_offset..crc_offset + 4].copy_from_slice(&crc.to_le_bytes());
    file
}

#[test]
fn every_version_is_read_from_its_own_numbers() {
    let identifiers = [
        7_710_213_966_616_432_490,
        7_710_213_969_587_249_042,
        7_710_213_973_280_038_857,
        7_710_213_976_386_408_461,
        7_710_213_980_020_183_117,
        7_710_213_983_923_753_100,
    ];
    for (major, identifier) in MAJORS.into_iter().zip(identifiers) {
        let file = ControlFile::parse(&fixtures::read(major, "pg_control")).unwrap();

        assert_eq!(file.major_version(), major);
        assert_eq!(file.system_identifier, SystemIdentifier(identifier));
        assert_eq!(file.state, ClusterState::ShutDown);
        assert_eq!(file.checkpoint, file.redo);
        assert!(file.has_checksums());
    }
}

#[test]
fn all_fields_are_those_that_pg_controldata_prints() {
    let expected = ControlFile {
        major: MajorVersion(15),
        system_identifier: SystemIdentifier(7_710_213_973_280_038_857),
        pg_control_version: 1300,
        catalog_version: 202_209_061,
        state: ClusterState::ShutDown,
        time: 1_795_176_071,
        checkpoint: Lsn(0x0300_0028),
        redo: Lsn(0x0300_0028),
        timeline: TimelineId(1),
        previous_timeline: TimelineId(1),
        full_page_writes: true,
        next_xid: 727,
        next_oid: Oid(16405),
        next_multi: 1,
        next_multi_offset: 0,
        oldest_xid: 716,
        oldest_multi: 1,
        checkpoint_time: 1_795_176_071,
        unlogged_lsn: Lsn(0x3E8),
        min_recovery_point: Lsn::INVALID,
        min_recovery_point_timeline: TimelineId(0),
        backup_start_point: Lsn::INVALID,
        backup_end_point: Lsn::INVALID,
        backup_end_required: false,
        wal_level: WalLevel::Replica,
        wal_log_hints: false,
        max_prepared_transactions: 0,
        track_commit_timestamp: false,
        block_size: 8192,
        relation_segment_blocks: 131_072,
        wal_block_size: 8192,
        wal_segment_size: 16_777_216,
        data_checksum_version: 1,
        crc: 0x09AC_4722,
    };

    assert_eq!(ControlFile::parse(&fixture(15)), Ok(expected));
}

/// The fields that are zero in a cleanly stopped cluster, at offsets that `pg_controldata` confirmed.
#[test]
fn the_fields_of_a_recovery_are_read_from_their_places() {
    let mut file = fixture(15);
    for (offset, byte) in
        [(16, 5), (52, 2), (68, 3), (80, 4), (136, 5), (144, 6), (152, 7), (160, 8), (168, 1)]
    {
        file = rewritten(file, offset, &[byte]);
    }
    for (offset, byte) in [(172, 2), (176, 1), (192, 9), (200, 1), (252, 0)] {
        file = rewritten(file, offset, &[byte]);
    }

    let file = ControlFile::parse(&file).unwrap();

    assert_eq!(file.state, ClusterState::InArchiveRecovery);
    assert_eq!(file.previous_timeline, TimelineId(2));
    assert_eq!((file.next_xid, file.next_multi_offset), ((3 << 32) + 727, 4));
    assert_eq!((file.min_recovery_point, file.min_recovery_point_timeline), (Lsn(5), TimelineId(6)));
    assert_eq!((file.backup_start_point, file.backup_end_point), (Lsn(7), Lsn(8)));
    assert_eq!((file.backup_end_required, file.wal_log_hints), (true, true));
    assert_eq!((file.wal_level, file.max_prepared_transactions), (WalLevel::Logical, 9));
    assert_eq!((file.track_commit_timestamp, file.has_checksums()), (true, false));
}

#[rstest]
fn any_flipped_bit_of_the_data_or_its_crc_is_found(#[values(13, 14, 15, 16, 17, 18)] major: u32) {
    let sound = fixture(major);
    let crc_end = if major == 18 { 296 } else { 292 };
    for bit in 0..crc_end * 8 {
        let mut file = sound.clone();
        file[bit / 8] ^= 1 << (bit % 8);

        let error = ControlFile::parse(&file).unwrap_err();

        assert!(matches!(error, ControlFileError::BadCrc { .. }), "bit {bit}: {error}");
    }
}

#[test]
fn what_follows_the_data_does_not_matter_to_the_server_nor_here() {
    let mut file = fixture(18);
    let sound = ControlFile::parse(&file).unwrap();

    file[296..].fill(0xFF);

    assert_eq!(ControlFile::parse(&file), Ok(sound.clone()));
    assert_eq!(ControlFile::parse(&file[..296]), Ok(sound));
}

#[rstest]
fn every_truncation_into_the_data_is_too_short(#[values(13, 18)] major: u32) {
    let file = fixture(major);
    let expected_bytes = if major == 18 { 296 } else { 292 };
    for size_bytes in 0..expected_bytes {
        let error = ControlFile::parse(&file[..size_bytes]).unwrap_err();

        let expected_bytes = if size_bytes < 16 { 16 } else { expected_bytes };
        assert_eq!(error, ControlFileError::TooShort { size_bytes, expected_bytes });
    }
}

#[test]
fn a_catalog_version_between_releases_is_unknown_if_the_crc_proves_it() {
    let file = rewritten(fixture(16), 12, &202_307_070_u32.to_le_bytes());

    let unknown = ControlFileError::UnknownVersion { control: 1300, catalog: 202_307_070 };
    assert_eq!(ControlFile::parse(&file), Err(unknown));
}

#[test]
fn a_catalog_version_of_another_control_version_is_unknown() {
    let file = rewritten(fixture(17), 12, &202_209_061_u32.to_le_bytes());

    let unknown = ControlFileError::UnknownVersion { control: 1700, catalog: 202_209_061 };
    assert_eq!(ControlFile::parse(&file), Err(unknown));
}

#[test]
fn a_whole_file_of_the_other_byte_order_is_of_an_unknown_version() {
    let mut file = fixture(15);
    file[8..12].reverse();
    file[12..16].reverse();
    let crc = crc32c::crc32c(&file[..288]);
    file[288..292].copy_from_slice(&crc.to_be_bytes());

    assert!(matches!(ControlFile::parse(&file), Err(ControlFileError::UnknownVersion { .. })));
}

#[rstest]
#[case::longer(316)]
#[case::shorter(276)]
fn a_whole_file_of_a_version_to_come_is_unknown_and_a_damaged_one_is_not(#[case] crc_offset: usize) {
    let mut file = fixture(19);
    file[8..12].copy_from_slice(&2001_u32.to_le_bytes());
    file[12..16].copy_from_slice(&202_707_011_u32.to_le_bytes());
    file[crc_offset..].fill(0);
    let crc = crc32c::crc32c(&file[..crc_offset]);
    file[crc_offset..crc_offset + 4].copy_from_slice(&crc.to_le_bytes());
    let unknown = ControlFileError::UnknownVersion { control: 2001, catalog: 202_707_011 };
    assert_eq!(ControlFile::parse(&file), Err(unknown));

    file[100] ^= 1;

    let damaged = ControlFileError::Unrecognised { control: 2001, catalog: 202_707_011 };
    assert_eq!(ControlFile::parse(&file), Err(damaged));
}

#[rstest]
#[case::zeros(0)]
#[case::ones(0xFF)]
fn a_file_of_one_byte_repeated_is_none(#[case] byte: u8) {
    let error = ControlFile::parse(&[byte; FILE_SIZE_BYTES]).unwrap_err();

    assert!(matches!(error, ControlFileError::Unrecognised { .. }));
}

#[rstest]
#[case(16, 7, "cluster state")]
#[case(172, 3, "wal_level")]
#[case(204, 4, "maxAlign")]
#[case(216, 0, "block size")]
#[case(216, 8191, "block size")]
#[case(216, 65536, "block size")]
#[case(220, 0, "relation segment size")]
#[case(224, 512, "WAL block size")]
#[case(228, 0, "WAL segment size")]
#[case(228, 3 << 20, "WAL segment size")]
fn an_implausible_number_is_refused_despite_a_sound_crc(
    #[case] offset: usize,
    #[case] value: u32,
    #[case] field: &'static str,
) {
    let file = rewritten(fixture(15), offset, &value.to_le_bytes());

    let implausible = ControlFileError::Implausible { field, value: u64::from(value) };
    assert_eq!(ControlFile::parse(&file), Err(implausible));
}

#[test]
fn a_foreign_float_format_is_refused() {
    let file = rewritten(fixture(15), 208, &[1]);

    assert!(matches!(
        ControlFile::parse(&file),
        Err(ControlFileError::Implausible { field: "floatFormat", .. })
    ));
}

#[test]
fn states_read_as_pg_controldata_prints_them_and_two_are_clean() {
    let states: Vec<_> = (0..7).filter_map(ClusterState::from_number).collect();
    let texts: Vec<_> = states.iter().map(ToString::to_string).collect();
    let clean: Vec<_> = states.iter().filter(|state| state.is_clean()).collect();

    assert_eq!(
        texts,
        [
            "starting up",
            "shut down",
            "shut down in recovery",
            "shutting down",
            "in crash recovery",
            "in archive recovery",
            "in production",
        ]
    );
    assert_eq!(clean, [&ClusterState::ShutDown, &ClusterState::ShutDownInRecovery]);
    assert_eq!(ClusterState::from_number(7), None);
}

#[test]
fn a_control_file_survives_json() {
    let file = ControlFile::parse(&fixture(18)).unwrap();

    let json = serde_json::to_string(&file).unwrap();

    assert!(json.contains(r#""state":"shut_down""#));
    assert!(json.contains(r#""system_identifier":"7710213983923753100""#));
    assert_eq!(file, serde_json::from_str(&json).unwrap());
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes: Vec<u8>) {
        prop_assert!(ControlFile::parse(&bytes).is_err());
    }

    #[test]
    fn arbitrary_fields_with_a_sound_crc_never_panic(fields in prop::collection::vec(any::<u8>(), 240)) {
        let _ = ControlFile::parse(&rewritten(fixture(15), 16, &fields));
    }
}
