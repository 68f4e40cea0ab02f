//! Tests of the reader on WAL made here, byte by byte, as a server lays it out.

use std::io;

use proptest::prelude::*;

use super::record::record_crc;
use super::*;
use crate::pg::layout::Fork;
use crate::pg::{BlockNumber, Lsn, MajorVersion, Oid, SystemIdentifier, TimelineId};

const BLOCK: usize = 8192;
const SEGMENT: usize = 1 << 20;
const BLOCK_SIZE: u32 = 8192;
const SEGMENT_SIZE: u32 = 1 << 20;
/// The segments that the tests have are numbered from here.
const FIRST: u64 = 3;
const START: u64 = FIRST * SEGMENT as u64;

const GEOMETRY: WalGeometry = WalGeometry {
    major: MajorVersion(15),
    system_identifier: SystemIdentifier(42),
    segment_size_bytes: SEGMENT_SIZE,
    block_size_bytes: BLOCK_SIZE,
};

/// Segments in memory.
struct Memory(Vec<u8>);

impl WalSource for &Memory {
    fn read_at(&mut self, segment_number: u64, offset: u64, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        let Some(index) = segment_number.checked_sub(FIRST) else { return Ok(None) };
        let begin = usize::try_from(index * SEGMENT as u64 + offset).unwrap();
        let end = self.0.len().min(begin + buffer.len());
        let Some(part) = self.0.get(begin..end).filter(|part| !part.is_empty()) else { return Ok(None) };
        buffer[..part.len()].copy_from_slice(part);
        Ok(Some(part.len()))
    }
}

/// Writes WAL as a server would.
struct Writer {
    bytes: Vec<u8>,
    previous: u64,
}

impl Writer {
    fn new() -> Self {
        Self { bytes: Vec::new(), previous: 0 }
    }

    fn position(&self) -> u64 {
        START + self.bytes.len() as u64
    }

    fn begin_page(&mut self, flags: u16, continued: u32) {
        let address = self.position();
        let is_first = self.bytes.len().is_multiple_of(SEGMENT);
        let flags = flags | if is_first { 2 } else { 0 };
        self.bytes.extend([0xD110_u16.to_le_bytes(), flags.to_le_bytes()].concat());
        self.bytes.extend(1_u32.to_le_bytes());
        self.bytes.extend(address.to_le_bytes());
        self.bytes.extend([continued.to_le_bytes(), [0; 4]].concat());
        if is_first {
            self.bytes.extend(42_u64.to_le_bytes());
            self.bytes.extend([SEGMENT_SIZE.to_le_bytes(), BLOCK_SIZE.to_le_bytes()].concat());
        }
    }

    /// Adds a record and returns where it begins and ends.
    fn add(&mut self, resource_manager: u8, info: u8, payload: &[u8]) -> (Lsn, Lsn) {
        if self.bytes.len().is_multiple_of(BLOCK) {
            self.begin_page(0, 0);
        }
        let start = self.position();
        let record = record(self.previous, resource_manager, info, payload);
        let mut rest = record.as_slice();
        while !rest.is_empty() {
            if self.bytes.len().is_multiple_of(BLOCK) {
                self.begin_page(1, u32::try_from(rest.len()).unwrap());
            }
            let room = BLOCK - self.bytes.len() % BLOCK;
            let (now, later) = rest.split_at(rest.len().min(room));
            self.bytes.extend(now);
            rest = later;
        }
        self.bytes.resize(self.bytes.len().next_multiple_of(8), 0);
        self.previous = start;
        (Lsn(start), Lsn(self.position()))
    }

    fn finish(mut self) -> Memory {
        self.bytes.resize(self.bytes.len().next_multiple_of(SEGMENT), 0);
        Memory(self.bytes)
    }
}

fn record(previous: u64, resource_manager: u8, info: u8, payload: &[u8]) -> Vec<u8> {
    let total = u32::try_from(RECORD_HEADER_SIZE_BYTES + payload.len()).unwrap();
    let mut bytes = [total.to_le_bytes(), 7_u32.to_le_bytes()].concat();
    bytes.extend(previous.to_le_bytes());
    bytes.extend([info, resource_manager, 0, 0, 0, 0, 0, 0]);
    bytes.extend(payload);
    let crc = record_crc(&bytes);
    bytes[20..24].copy_from_slice(&crc.to_le_bytes());
    bytes
}

/// Main data as a record has it.
fn main_data(size_bytes: usize) -> Vec<u8> {
    let size = u32::try_from(size_bytes).unwrap();
    [vec![254], size.to_le_bytes().to_vec(), vec![0xAB; size_bytes]].concat()
}

fn read_all(memory: &Memory) -> (Vec<(Lsn, Lsn)>, WalFault) {
    let mut reader = WalReader::new(memory, GEOMETRY, Lsn(START));
    let mut found = Vec::new();
    loop {
        match reader.next_record() {
            Ok(record) => found.push((record.start, record.end)),
            Err(fault) => return (found, fault),
        }
    }
}

#[test]
fn records_are_read_across_pages_and_segments() {
    let mut writer = Writer::new();
    let written: Vec<_> =
        [10, 9000, 1, 300_000, 2_000_000, 5].map(|size| writer.add(10, 0, &main_data(size))).into();
    let end = writer.position();

    let (read, fault) = read_all(&writer.finish());

    assert_eq!(read, written);
    assert_eq!(fault, WalFault::ZeroLength(Lsn(end)));
    assert!(fault.may_be_the_end());
}

#[test]
fn a_switch_leaves_the_rest_of_its_segment_empty() {
    let mut writer = Writer::new();
    let (start, _) = writer.add(0, 0x40, &[]);
    writer.bytes.resize(SEGMENT, 0);
    let next = writer.add(10, 0, &main_data(8));

    let (read, _) = read_all(&writer.finish());

    assert_eq!(read, [(start, Lsn(START + SEGMENT as u64)), next]);
}

#[test]
fn a_record_that_a_crash_cut_off_and_the_server_gave_up_is_passed_over() {
    let mut writer = Writer::new();
    let first = writer.add(10, 0, &main_data(8));
    let cut = record(writer.previous, 10, 0, &main_data(20_000));
    let room = BLOCK - writer.bytes.len() % BLOCK;
    writer.bytes.extend(&cut[..room]);
    writer.begin_page(8, 0);
    let next = writer.add(0, 0xD0, &main_data(16));

    let (read, _) = read_all(&writer.finish());

    assert_eq!(read, [first, next]);
}

#[test]
fn reading_can_begin_at_any_page() {
    let mut writer = Writer::new();
    writer.add(10, 0, &main_data(30_000));
    let (start, _) = writer.add(10, 0, &main_data(8));
    let memory = writer.finish();

    for page in 1..4 {
        let reader = WalReader::from_page(&memory, GEOMETRY, Lsn(START + page * BLOCK as u64)).unwrap();
        assert_eq!(reader.position(), start);
    }
}

#[test]
fn the_end_of_the_segments_is_told_from_a_page_of_another_place() {
    let mut writer = Writer::new();
    writer.add(10, 0, &main_data(SEGMENT));
    let mut memory = writer.finish();
    memory.0.truncate(SEGMENT);
    let (_, missing) = read_all(&memory);
    memory.0[BLOCK + 8] ^= 1;
    let (_, moved) = read_all(&memory);

    assert_eq!(missing, WalFault::SegmentMissing(Lsn(START + SEGMENT as u64)));
    assert!(matches!(moved, WalFault::PageHeader(at, _) if at == Lsn(START + BLOCK as u64)), "{moved}");
}

#[test]
fn a_whole_record_of_another_past_is_told_from_a_damaged_one() {
    let mut writer = Writer::new();
    writer.add(10, 0, &main_data(8));
    writer.previous = START;
    let (stale, end) = writer.add(10, 0, &main_data(8));
    let mut memory = writer.finish();

    let (_, fault) = read_all(&memory);
    assert_eq!(fault, WalFault::Previous { at: stale, found: Lsn(START) });

    let last = usize::try_from(end.0 - START).unwrap() - 8;
    memory.0[last] ^= 1;
    let (_, fault) = read_all(&memory);
    assert_eq!(fault, WalFault::Crc(stale, end));
}

/// A record with an image of block 9, initialised block 10 and a changed block 11 of one relation, and main data.
fn record_with_blocks() -> Vec<u8> {
    let relation = [1663_u32, 5, 16384].map(u32::to_le_bytes).concat();
    let mut headers = vec![0, 0x10, 0, 0, 3, 0, 0, 0, 0x02];
    headers.extend(&relation);
    headers.extend(9_u32.to_le_bytes());
    headers.extend([1, 0x80 | 0x40 | 0x20, 2, 0]);
    headers.extend(10_u32.to_le_bytes());
    headers.extend([2, 0x80 | 0x02, 0, 0]);
    headers.extend(11_u32.to_le_bytes());
    headers.extend([255, 4]);
    [headers, b"imgdtmain".to_vec()].concat()
}

#[test]
fn what_a_record_brings_for_each_block_is_told() {
    let mut writer = Writer::new();
    writer.add(10, 0, &record_with_blocks());
    let memory = writer.finish();
    let mut reader = WalReader::new(&memory, GEOMETRY, Lsn(START));

    let body = reader.next_record().unwrap().body().unwrap();

    let relation = RelationLocator { tablespace: Oid(1663), database: Oid(5), relfilenode: Oid(16384) };
    let blocks: Vec<_> = body.blocks.iter().map(|block| (block.fork, block.block, block.restore)).collect();
    assert!(body.blocks.iter().all(|block| block.relation == relation));
    assert_eq!(
        blocks,
        [
            (Fork::Main, BlockNumber(9), BlockRestore::Image),
            (Fork::Main, BlockNumber(10), BlockRestore::Initialises),
            (Fork::Vm, BlockNumber(11), BlockRestore::Nothing),
        ]
    );
    assert_eq!(body.main_data, b"main");
}

#[test]
fn a_checkpoint_is_decoded() {
    let mut data = vec![0; checkpoint_size_bytes(GEOMETRY.major)];
    data[..8].copy_from_slice(&0x0030_0028_u64.to_le_bytes());
    (data[8], data[12], data[16]) = (2, 1, 1);
    let mut writer = Writer::new();
    writer.add(0, 0x10, &[vec![255, 88], data].concat());
    let memory = writer.finish();
    let mut reader = WalReader::new(&memory, GEOMETRY, Lsn(START));

    let event = reader.next_record().unwrap().event().unwrap();

    let WalEvent::Checkpoint(checkpoint) = event else { panic!("{event:?}") };
    assert!(!checkpoint.is_shutdown && checkpoint.full_page_writes());
    assert_eq!(checkpoint.redo(), Lsn(0x0030_0028));
    assert_eq!((checkpoint.timeline(), checkpoint.previous_timeline()), (TimelineId(2), TimelineId(1)));
}

#[test]
fn the_relations_that_a_commit_removes_are_decoded() {
    let relation = [1663_u32, 5, 16384].map(u32::to_le_bytes).concat();
    let numbers =
        |numbers: &[u32]| numbers.iter().flat_map(|number| number.to_le_bytes()).collect::<Vec<u8>>();
    // The time; that a database, subtransactions and relations follow; those.
    let data = [vec![0; 8], numbers(&[7, 5, 1663, 2, 800, 801, 1]), relation].concat();
    let mut writer = Writer::new();
    writer.add(1, 0x80, &[vec![255, u8::try_from(data.len()).unwrap()], data].concat());
    let memory = writer.finish();
    let mut reader = WalReader::new(&memory, GEOMETRY, Lsn(START));

    let event = reader.next_record().unwrap().event();

    let removed = RelationLocator { tablespace: Oid(1663), database: Oid(5), relfilenode: Oid(16384) };
    assert_eq!(event, Some(WalEvent::RelationsDropped(vec![removed])));
}

proptest! {
    #[test]
    fn every_record_survives_its_pages(sizes in prop::collection::vec(0_usize..20_000, 1..40)) {
        let mut writer = Writer::new();
        let written: Vec<_> = sizes.iter().map(|size| writer.add(10, 0, &main_data(*size))).collect();

        prop_assert_eq!(read_all(&writer.finish()).0, written);
    }

    #[test]
    fn a_flipped_bit_in_a_record_is_found(size in 0_usize..20_000, place: prop::sample::Index, bit in 0..8_u8) {
        let mut writer = Writer::new();
        let before = writer.add(10, 0, &main_data(8));
        let (start, _) = writer.add(10, 0, &main_data(size));
        let first = usize::try_from(start.0 - START).unwrap();
        let room = BLOCK - first % BLOCK;
        // Only what lies on its first page is surely of the record; the two bytes before the CRC are padding, too.
        let index = first + place.index(room.min(size + 29));
        writer.add(10, 0, &main_data(8));
        let mut memory = writer.finish();
        memory.0[index] ^= 1 << bit;

        prop_assert_eq!(read_all(&memory).0, [before]);
    }

    #[test]
    fn arbitrary_bytes_never_panic_or_loop(
        sizes in prop::collection::vec(0_usize..9000, 1..10),
        garbage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..30),
        payload: Vec<u8>,
        manager in 0_u8..10,
        info: u8,
    ) {
        let mut writer = Writer::new();
        for size in &sizes {
            writer.add(10, 0, &main_data(*size));
        }
        writer.add(manager, info, &payload);
        let used = writer.bytes.len();
        let mut memory = writer.finish();
        for (place, byte) in garbage {
            memory.0[place.index(used)] = byte;
        }
        let mut reader = WalReader::new(&memory, GEOMETRY, Lsn(START));
        let mut count = 0;
        while let Ok(record) = reader.next_record() {
            let _ = (record.body(), record.event(), record.moment());
            count += 1;
        }
        prop_assert!(count <= sizes.len() + 1);
        let _ = WalReader::from_page(&memory, GEOMETRY, Lsn(START + BLOCK as u64)).map(|mut reader| {
            while reader.next_record().is_ok() {}
        });
    }
}

/// The moment that a record with this main data tells of.
fn moment_of(resource_manager: u8, info: u8, data: &[u8]) -> Option<WalMoment> {
    let mut writer = Writer::new();
    let payload = [vec![255, u8::try_from(data.len()).unwrap()], data.to_vec()].concat();
    writer.add(resource_manager, info, &payload);
    let memory = writer.finish();
    let mut reader = WalReader::new(&memory, GEOMETRY, Lsn(START));
    reader.next_record().unwrap().moment()
}

#[test]
fn the_end_of_a_transaction_is_told_with_its_own_number_prepared_or_not() {
    let time = chrono::DateTime::from_timestamp(946_684_800 + 5, 0).unwrap();
    let ended = |xid, is_commit| Some(WalMoment::TransactionEnd { xid, time, is_commit });
    let plain = 5_000_000_i64.to_le_bytes();
    assert_eq!(moment_of(1, 0x00, &plain), ended(7, true));
    assert_eq!(moment_of(1, 0x20, &plain), ended(7, false));

    // All that a commit may tell stands before the number of the prepared transaction.
    let info = 1_u32 | 1 << 1 | 1 << 2 | 1 << 3 | 1 << 4 | 1 << 8;
    let mut data = [plain.to_vec(), info.to_le_bytes().to_vec(), vec![0; 8]].concat();
    for size_bytes in [4, 12, 12, 16] {
        data.extend(2_u32.to_le_bytes());
        data.extend(vec![0xEE; 2 * size_bytes]);
    }
    data.extend(99_u32.to_le_bytes());
    assert_eq!(moment_of(1, 0x30 | 0x80, &data), ended(99, true));
    assert_eq!(moment_of(1, 0x40 | 0x80, &data), ended(99, false));
    data.truncate(data.len() - 1);
    assert_eq!(moment_of(1, 0x30 | 0x80, &data), None);
    // What was only prepared has not ended.
    assert_eq!(moment_of(1, 0x10, &plain), None);
}

#[test]
fn a_restore_point_is_told_with_its_name_and_its_time() {
    let mut data = [5_000_000_i64.to_le_bytes().to_vec(), b"before the migration".to_vec()].concat();
    data.resize(72, 0);
    let time = chrono::DateTime::from_timestamp(946_684_800 + 5, 0).unwrap();
    let expected = WalMoment::RestorePoint { name: "before the migration".to_owned(), time };
    assert_eq!(moment_of(0, 0x70, &data), Some(expected));
    assert_eq!(moment_of(0, 0x40, &data), None);
}
