//! Real files of PostgreSQL, cut and flipped, through every parser of `pg`: none panics, none takes long, and what
//! a checksum covers is found wrong.
#![expect(clippy::indexing_slicing, reason = "the places are within the files by how they are counted")]

use pgbox::pg::btree::for_each_row;
use pgbox::pg::control_file::ControlFile;
use pgbox::pg::heap::{ClassRow, DatabaseRow, IndexRow, NameRow, is_sequence, relfilenodes, tuples};
use pgbox::pg::line_pointers::{UsedLinePointers, line_pointers};
use pgbox::pg::page::{self, Checksums, Page, PageVerdict};
use pgbox::pg::relation_map::{MapKind, RelationMap};
use pgbox::pg::wal::{WalGeometry, WalPageHeader, WalReader, WalSource};
use pgbox::pg::{
    BlockNumber, MajorVersion, backup_label, empty_index, hba, postmaster_pid, slru, timeline_history,
    version,
};
use rstest::rstest;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const MAJORS: [u32; 7] = [13, 14, 15, 16, 17, 18, 19];
/// How long one parser may take for one file, on a busy machine and without optimisation.
const LONGEST: Duration = Duration::from_secs(5);

fn directory(major: u32) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/fixtures/postgres/{major}"))
}

fn fixture(major: u32, name: &str) -> Vec<u8> {
    std::fs::read(directory(major).join(name)).unwrap()
}

/// All files of all versions.
fn corpus() -> impl Iterator<Item = (u32, String, Vec<u8>)> {
    MAJORS.into_iter().flat_map(|major| {
        let entries = std::fs::read_dir(directory(major)).unwrap();
        entries.map(move |entry| {
            let entry = entry.unwrap();
            (major, entry.file_name().into_string().unwrap(), std::fs::read(entry.path()).unwrap())
        })
    })
}

/// The bytes with one bit changed.
fn flipped(bytes: &[u8], bit: usize) -> Vec<u8> {
    let mut changed = bytes.to_vec();
    changed[bit / 8] ^= 1 << (bit % 8);
    changed
}

#[rstest]
fn every_flipped_bit_that_the_crc_of_a_control_file_covers_is_found(
    #[values(13, 14, 15, 16, 17, 18, 19)] major: u32,
) {
    let sound = fixture(major, "pg_control");
    ControlFile::parse(&sound).unwrap();
    // The CRC stands behind what it covers, and is 4 bytes long (PostgreSQL: `ControlFileData`).
    let covered = if major == 18 { 292 } else { 288 } + 4;

    let missed: Vec<usize> =
        (0..covered * 8).filter(|bit| ControlFile::parse(&flipped(&sound, *bit)).is_ok()).collect();

    assert!(missed.is_empty(), "bits {missed:?}");
}

#[rstest]
fn every_flipped_bit_that_the_crc_of_a_relation_map_covers_is_found(
    #[values(13, 14, 15, 16, 17, 18, 19)] major: u32,
    #[values("global_pg_filenode.map", "base1_pg_filenode.map")] name: &str,
) {
    let sound = fixture(major, name);
    RelationMap::parse(&sound).unwrap();
    let covered = if major < 16 { 504 } else { 520 } + 4;

    let missed: Vec<usize> =
        (0..covered * 8).filter(|bit| RelationMap::parse(&flipped(&sound, *bit)).is_ok()).collect();

    assert!(missed.is_empty(), "bits {missed:?}");
}

#[rstest]
fn every_flipped_bit_of_a_page_with_a_checksum_is_found(#[values(13, 14, 15, 16, 17, 18, 19)] major: u32) {
    let sound: Page = fixture(major, "global_1262").try_into().unwrap();
    let verdict = |page: &Page| page::verify(page, BlockNumber(0), Checksums::Enabled);
    assert_eq!(verdict(&sound), PageVerdict::Sound);

    // Every bit of the header, and a prime's multiples of the rest: a checksum is slow without optimisation.
    let bits = (0..24 * 8).chain((24 * 8..sound.len() * 8).step_by(13));
    let missed: Vec<usize> = bits
        .filter(|bit| verdict(&flipped(&sound, *bit).try_into().unwrap()) == PageVerdict::Sound)
        .collect();

    assert!(missed.is_empty(), "bits {missed:?}");
}

/// One segment in memory.
struct OneSegment<'a>(&'a [u8]);

impl WalSource for OneSegment<'_> {
    fn read_at(&mut self, number: u64, offset: u64, buffer: &mut [u8]) -> std::io::Result<Option<usize>> {
        if number != 8 {
            return Ok(None);
        }
        let rest = usize::try_from(offset).ok().and_then(|offset| self.0.get(offset..)).unwrap_or_default();
        let length = rest.len().min(buffer.len());
        buffer[..length].copy_from_slice(&rest[..length]);
        Ok(Some(length))
    }
}

/// Reads records to the end, decoding each; how many there are.
fn read_wal(bytes: &[u8], geometry: WalGeometry, start: pgbox::pg::Lsn) -> usize {
    let Ok(mut reader) = WalReader::from_page(OneSegment(bytes), geometry, start) else { return 0 };
    let mut count = 0;
    while let Ok(record) = reader.next_record() {
        count += 1;
        let _ = (record.event(), record.body());
    }
    count
}

#[rstest]
fn no_record_is_read_past_a_flipped_bit_of_a_wal_segment(#[values(15, 18)] major: u32) {
    // The beginning of a segment of 1 MiB, which ends within a record.
    let sound = fixture(major, "wal_000000010000000000000008");
    let header = WalPageHeader::parse(&sound).unwrap();
    let geometry = WalGeometry::from(&header);
    let count = read_wal(&sound, geometry, header.page_address);
    assert!(count > 10, "{count} records");

    let begun = Instant::now();
    for bit in (0..sound.len() * 8).step_by(1201) {
        let found = read_wal(&flipped(&sound, bit), geometry, header.page_address);
        // Padding between records is covered by nothing, so that all of them may still be read.
        assert!(found <= count, "bit {bit}: {found} records of {count}");
    }
    for length in (0..sound.len()).step_by(997) {
        assert!(read_wal(&sound[..length], geometry, header.page_address) <= count);
    }
    assert!(begun.elapsed() < Duration::from_mins(2), "{:?}", begun.elapsed());
}

/// Gives bytes to every parser there is. What they say does not matter.
fn parse_as_everything(bytes: &[u8], major: u32) {
    let version = MajorVersion(major);
    let _ = ControlFile::parse(bytes);
    if let Ok(map) = RelationMap::parse(bytes) {
        let _ = (map.filenodes().count(), map.disagreements(MapKind::Shared, version));
    }
    let _ = (relfilenodes(bytes, |_| true), hba::check(bytes, version));
    for number in [0, 1, 3, 700, 32_767, u32::MAX] {
        let _ = (slru::transaction_status(bytes, number), slru::updating_member(bytes, number.into()));
        for major in MAJORS.map(MajorVersion) {
            let _ = slru::MultixactLayout::of(major).first_member(bytes, number);
        }
    }
    if let Ok(header) = WalPageHeader::parse(bytes) {
        let _ = read_wal(bytes, WalGeometry::from(&header), header.page_address);
    }
    for page in bytes.chunks_exact(size_of::<Page>()) {
        let page: &Page = page.try_into().unwrap();
        let _ = (page::verify(page, BlockNumber(0), Checksums::Enabled), UsedLinePointers::of(page));
        let _ = line_pointers(page).filter_map(|pointer| pointer.item(page)).count();
        for_each_row(page, |_| ());
    }
    for page in bytes.chunks(size_of::<Page>()) {
        let _ = (is_sequence(page), empty_index::root(page), empty_index::is_empty_root_leaf(page));
        for tuple in tuples(page) {
            let _ = (ClassRow::parse(&tuple, version), DatabaseRow::parse(&tuple, version));
            let _ = (IndexRow::parse(&tuple, version), NameRow::parse(&tuple));
        }
    }
    let text = String::from_utf8_lossy(bytes);
    let _ = (version::parse(&text), timeline_history::parse(&text));
    let _ = postmaster_pid::PostmasterPid::parse(&text);
    let _ = backup_label::BackupLabel::parse(&text);
}

#[test]
fn no_parser_minds_a_file_that_is_cut_or_flipped() {
    for (major, name, sound) in corpus() {
        // Cuts and flips at places that have nothing to do with the format: whole files are many, tests few.
        let cuts = (0..sound.len()).step_by(sound.len() / 23 + 1).map(|length| sound[..length].to_vec());
        let flips = (0..sound.len() * 8).step_by(sound.len() * 8 / 37 + 1).map(|bit| flipped(&sound, bit));
        for bytes in cuts.chain(flips) {
            let begun = Instant::now();
            parse_as_everything(&bytes, major);
            assert!(begun.elapsed() < LONGEST, "{major}/{name}: {:?}", begun.elapsed());
        }
    }
}

#[test]
fn no_parser_minds_a_file_of_another_format() {
    for (_, name, bytes) in corpus().filter(|(major, ..)| *major == 15) {
        for major in MAJORS.into_iter().chain([0, 9, 12, 20, u32::MAX]) {
            let begun = Instant::now();
            parse_as_everything(&bytes, major);
            assert!(begun.elapsed() < LONGEST, "{name} as of {major}: {:?}", begun.elapsed());
        }
    }
}
