//! A set of records of one size that takes a bounded piece of memory, however many there are.
//!
//! ```text
//! memory    the newest records, in order, up to a limit
//! runs      those before, in order, each run in a file without a name; eight of one size become one of the next
//! fences    of each run, in memory: how every block of 64 records begins, and its checksum
//! ```
//! A lookup reads one block of each run, and there are few: one where all was collected before the first lookup. So 80
//! million records, as many as a repository of 10 TB has chunks, take 16 MiB in memory, and 20 MiB for fences.
//!
//! What is told from a set decides what is stored and what is deleted. So an answer is right or an error: a block that is
//! not what was written is found by its checksum. Where no disk takes a run, its records stay in memory: too much memory
//! is better than no backup, or no restore from a disk that is full. An embedded store such as redb was refused: nothing
//! here has to outlive the process, and sorted runs are written once and in sequence.

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap};
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::sys::{read_scratch, scratch_file};

/// What the records in memory come to, without what the tree adds to them. In tests the small clusters that they make do
/// not fit, so that all that is tested is tested with runs.
const MOST_BYTES_IN_MEMORY: usize = if cfg!(feature = "test-faults") { 16 * 1024 } else { 16 * 1024 * 1024 };
/// As few as keep the fences small: a lookup reads them all.
const RECORDS_PER_BLOCK: usize = 64;
/// So many runs of a level become one of the next.
const RUNS_PER_LEVEL: usize = 8;

/// Records of `SIZE` bytes, in the order of their bytes.
#[derive(Debug)]
pub(super) struct RecordSet<const SIZE: usize> {
    /// Where its files are, as far as they can be there.
    directory: PathBuf,
    memory: BTreeSet<[u8; SIZE]>,
    most_in_memory: usize,
    runs: Vec<Run<SIZE>>,
}

impl<const SIZE: usize> RecordSet<SIZE> {
    /// An empty set that keeps what does not fit into memory in `directory`.
    pub(super) fn new(directory: &Path) -> Self {
        Self::with_limit(directory, MOST_BYTES_IN_MEMORY / SIZE)
    }

    fn with_limit(directory: &Path, most_in_memory: usize) -> Self {
        Self { directory: directory.to_path_buf(), memory: BTreeSet::new(), most_in_memory, runs: Vec::new() }
    }

    /// Adds a record.
    pub(super) fn insert(&mut self, record: [u8; SIZE]) {
        self.memory.insert(record);
        if self.memory.len() > self.most_in_memory {
            self.spill();
        }
    }

    /// Whether a record is in it.
    ///
    /// # Errors
    /// When what was written cannot be read back.
    pub(super) fn contains(&self, record: &[u8; SIZE]) -> io::Result<bool> {
        if self.memory.contains(record) {
            return Ok(true);
        }
        for run in &self.runs {
            if !run.find_all(record)?.is_empty() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Every record that begins with `prefix`, which has at least eight bytes.
    ///
    /// # Errors
    /// As [`Self::contains`].
    pub(super) fn find_all(&self, prefix: &[u8]) -> io::Result<Vec<[u8; SIZE]>> {
        let mut first = [0; SIZE];
        first.iter_mut().zip(prefix).for_each(|(to, from)| *to = *from);
        let from_first = self.memory.range(first..);
        let mut found: Vec<_> = from_first.take_while(|record| record.starts_with(prefix)).copied().collect();
        for run in &self.runs {
            found.extend(run.find_all(prefix)?);
        }
        Ok(found)
    }

    /// Every record once, in order.
    pub(super) fn iter(&self) -> impl Iterator<Item = io::Result<[u8; SIZE]>> {
        let mut sources: Vec<Source<'_, SIZE>> = self.runs.iter().map(Run::source).collect();
        sources.push(Box::new(self.memory.iter().copied().map(Ok)));
        Merged::new(sources)
    }

    /// Makes lookups fast, once all is in it that there will be.
    pub(super) fn compact(&mut self) {
        if self.runs.is_empty() {
            return;
        }
        self.spill();
        let level = self.runs.iter().map(|run| run.level).max().unwrap_or_default();
        let all = std::mem::take(&mut self.runs);
        self.runs = self.merge(all, level);
    }

    /// Moves what is in memory into a run. Where that cannot be, it stays, and so does what is added later.
    fn spill(&mut self) {
        if self.memory.is_empty() {
            return;
        }
        let written = Run::write(&self.directory, self.memory.iter().copied().map(Ok), 0);
        self.take(written);
    }

    /// Takes a run for what is in memory.
    fn take(&mut self, written: io::Result<Run<SIZE>>) {
        let Ok(run) = written else {
            self.most_in_memory = usize::MAX;
            return;
        };
        self.memory.clear();
        self.runs.push(run);
        let mut level = 0;
        while self.runs.iter().filter(|run| run.level == level).count() >= RUNS_PER_LEVEL {
            let of_level = self.runs.extract_if(.., |run| run.level == level).collect();
            level += 1;
            let merged = self.merge(of_level, level);
            self.runs.extend(merged);
        }
    }

    /// Makes one run of several; where that cannot be, they stay as they are.
    fn merge(&self, runs: Vec<Run<SIZE>>, level: u32) -> Vec<Run<SIZE>> {
        if runs.len() < 2 {
            return runs;
        }
        let merged = Merged::new(runs.iter().map(Run::source).collect());
        match Run::write(&self.directory, merged, level) {
            Ok(run) => vec![run],
            // As many runs as before are asked from now on. One that cannot be read says so when it is asked.
            Err(_) => runs.into_iter().map(|run| Run { level, ..run }).collect(),
        }
    }
}

/// Records in order, in a file.
#[derive(Debug)]
struct Run<const SIZE: usize> {
    file: File,
    level: u32,
    record_count: usize,
    fences: Vec<Fence>,
}

/// What is known of a block without reading it.
#[derive(Clone, Copy, Debug)]
struct Fence {
    /// The first eight bytes of its first record.
    begin: u64,
    checksum: u32,
}

/// Where records come from, in order.
type Source<'a, const SIZE: usize> = Box<dyn Iterator<Item = io::Result<[u8; SIZE]>> + 'a>;

impl<const SIZE: usize> Run<SIZE> {
    fn write(
        directory: &Path,
        mut records: impl Iterator<Item = io::Result<[u8; SIZE]>>,
        level: u32,
    ) -> io::Result<Self> {
        let mut run = Self { file: scratch_file(directory)?, level, record_count: 0, fences: Vec::new() };
        let mut block = Vec::with_capacity(RECORDS_PER_BLOCK * SIZE);
        loop {
            block.clear();
            for record in records.by_ref().take(RECORDS_PER_BLOCK) {
                block.extend_from_slice(&record?);
                run.record_count += 1;
            }
            if block.is_empty() {
                return Ok(run);
            }
            run.fences.push(Fence { begin: begin_of(&block), checksum: crc32c::crc32c(&block) });
            run.file.write_all(&block)?;
        }
    }

    fn find_all(&self, prefix: &[u8]) -> io::Result<Vec<[u8; SIZE]>> {
        let begin = begin_of(prefix);
        // A block that begins before it may have it at its end; one that begins behind it, and all after, cannot.
        let first = self.fences.partition_point(|fence| fence.begin < begin).saturating_sub(1);
        let mut found = Vec::new();
        for (number, _) in
            self.fences.iter().enumerate().skip(first).take_while(|(_, fence)| fence.begin <= begin)
        {
            let block = self.read_block(number)?;
            let (records, _) = block.as_chunks::<SIZE>();
            let at = records.partition_point(|record| record.as_slice() < prefix);
            let from_first = records.get(at..).unwrap_or_default().iter();
            found.extend(from_first.take_while(|record| record.starts_with(prefix)));
        }
        Ok(found)
    }

    fn read_block(&self, number: usize) -> io::Result<Vec<u8>> {
        let begin = number * RECORDS_PER_BLOCK;
        let length = self.record_count.saturating_sub(begin).min(RECORDS_PER_BLOCK);
        let fence =
            self.fences.get(number).ok_or_else(|| io::Error::other("a block that was never written"))?;
        read_scratch(&self.file, (begin * SIZE) as u64, length * SIZE, fence.checksum)
    }

    fn source(&self) -> Source<'_, SIZE> {
        Box::new((0..self.fences.len()).flat_map(|number| {
            let (records, error) = match self.read_block(number) {
                Ok(block) => (block.as_chunks::<SIZE>().0.to_vec(), None),
                Err(error) => (Vec::new(), Some(Err(error))),
            };
            records.into_iter().map(Ok).chain(error)
        }))
    }
}

fn begin_of(bytes: &[u8]) -> u64 {
    bytes.first_chunk().map_or(0, |begin| u64::from_be_bytes(*begin))
}

/// Several sources as one, in order, each record once.
struct Merged<'a, const SIZE: usize> {
    sources: Vec<Source<'a, SIZE>>,
    /// The next record of each source.
    heads: BinaryHeap<Reverse<([u8; SIZE], usize)>>,
    error: Option<io::Error>,
    last: Option<[u8; SIZE]>,
}

impl<'a, const SIZE: usize> Merged<'a, SIZE> {
    fn new(sources: Vec<Source<'a, SIZE>>) -> Self {
        let count = sources.len();
        let mut merged = Self { sources, heads: BinaryHeap::new(), error: None, last: None };
        (0..count).for_each(|number| merged.advance(number));
        merged
    }

    fn advance(&mut self, number: usize) {
        match self.sources.get_mut(number).and_then(Iterator::next) {
            Some(Ok(record)) => self.heads.push(Reverse((record, number))),
            Some(Err(error)) => self.error = Some(error),
            None => {}
        }
    }
}

impl<const SIZE: usize> Iterator for Merged<'_, SIZE> {
    type Item = io::Result<[u8; SIZE]>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(error) = self.error.take() {
                self.heads.clear();
                return Some(Err(error));
            }
            let Reverse((record, number)) = self.heads.pop()?;
            self.advance(number);
            if self.last.replace(record) != Some(record) {
                return Some(Ok(record));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::os::unix::fs::FileExt;

    const LIMIT: usize = 500;

    /// The record of a number, in an order that has nothing to do with it.
    fn record(number: u64) -> [u8; 32] {
        *blake3::hash(&number.to_le_bytes()).as_bytes()
    }

    fn set_of(numbers: impl Iterator<Item = u64>) -> RecordSet<32> {
        let mut set = RecordSet::with_limit(&std::env::temp_dir(), LIMIT);
        numbers.for_each(|number| set.insert(record(number)));
        set
    }

    #[test]
    fn what_is_held_in_memory_does_not_grow_with_the_set() {
        let mut set = RecordSet::<32>::with_limit(&std::env::temp_dir(), LIMIT);
        let (mut most_held, mut most_runs) = (0, 0);
        for number in 0..100_000 {
            set.insert(record(number));
            most_held = most_held.max(set.memory.len());
            most_runs = most_runs.max(set.runs.len());
        }
        set.compact();

        assert!(most_held <= LIMIT, "{most_held}");
        assert!(most_runs <= 3 * RUNS_PER_LEVEL, "{most_runs}");
        assert_eq!((set.memory.len(), set.runs.len()), (0, 1));
        assert_eq!(set.runs[0].fences.len(), 100_000_usize.div_ceil(RECORDS_PER_BLOCK));
        assert!((0..100_000).all(|number| set.contains(&record(number)).unwrap()));
        assert!((100_000..110_000).all(|number| !set.contains(&record(number)).unwrap()));
    }

    #[test]
    fn a_block_that_is_not_what_was_written_is_an_error_and_no_answer() {
        // The damage: one bit of the only run.
        let mut set = set_of(0..LIMIT as u64);
        set.spill();
        let mut byte = [0];
        set.runs[0].file.read_exact_at(&mut byte, 4711).unwrap();
        set.runs[0].file.write_all_at(&[byte[0] ^ 1], 4711).unwrap();

        let answers: Vec<_> = (0..LIMIT as u64).map(|number| set.contains(&record(number))).collect();

        assert!(answers.iter().any(Result::is_err));
        assert!(answers.iter().all(|answer| !matches!(answer, Ok(false))));
        assert!(set.iter().any(|record| record.is_err()));
    }

    #[test]
    fn where_no_disk_takes_it_everything_stays_in_memory() {
        let mut set = set_of(0..LIMIT as u64);
        set.take(Err(io::ErrorKind::StorageFull.into()));
        (0..5000).for_each(|number| set.insert(record(number)));
        assert_eq!((set.memory.len(), set.runs.len()), (5000, 0));
        assert!((0..5000).all(|number| set.contains(&record(number)).unwrap()));
    }

    proptest! {
        #[test]
        fn a_set_answers_as_one_in_memory_does(numbers in prop::collection::vec(0_u16..400, 0..900), is_compact: bool) {
            // So small a limit that there are runs of several levels, with the same records in several of them.
            let mut set = RecordSet::<9>::with_limit(&std::env::temp_dir(), 3);
            let mut expected = BTreeSet::new();
            for number in numbers {
                // Many with the same first eight bytes, over the edges of blocks.
                let [high, low] = number.to_be_bytes();
                let record = [high, 0, 0, 0, 0, 0, 0, low / 16, low % 16];
                set.insert(record);
                expected.insert(record);
            }
            if is_compact {
                set.compact();
            }
            let all: Vec<_> = set.iter().collect::<io::Result<_>>().unwrap();
            prop_assert_eq!(all, expected.iter().copied().collect::<Vec<_>>());
            for begin in 0_u8..18 {
                let prefix = [begin / 16, 0, 0, 0, 0, 0, 0, begin % 16];
                let mut found = set.find_all(&prefix).unwrap();
                found.sort_unstable();
                found.dedup();
                let wanted: Vec<_> = expected.iter().filter(|record| record.starts_with(&prefix)).copied().collect();
                prop_assert_eq!(found, wanted);
            }
        }
    }
}
