//! A look at every data page of the copy, so that what a tolerant server passes over in silence is named.
//!
//! It is made after the copy was recovered, which may heal pages, and before anything is read through the server: that
//! gives a damaged page a new checksum as soon as it writes a hint into it.

use super::workplace::{Workplace, copied_place};
use crate::pg::control_file::ControlFile;
use crate::pg::layout::{Fork, RelationFile, has_data_pages};
use crate::pg::page::{self, Checksums, Page, PageVerdict, SIZE_BYTES};
use crate::pg::{BlockNumber, Lsn};
use crate::sys::EntryKind;
use anyhow::Context;
use rayon::prelude::*;
use std::collections::BTreeMap;
use std::io::{self, Read};
use std::path::Path;

const PIECE_PAGES: usize = 128;
/// How many first pages are looked at to find out whether pages carry checksums.
const SAMPLED_FILES: usize = 200;
/// 1 GiB, unless the server was built otherwise (`pg_config.h`, `RELSEG_SIZE`).
const SEGMENT_BLOCKS: u32 = 131_072;

/// What is wrong with a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Fault {
    /// The server takes it for empty.
    Unusable,
    /// Its header is sound and its checksum is not: what it says is taken as it is.
    Checksum,
    /// It is all zeros, with pages that hold something after it.
    Zero,
    /// It is all zeros, and so is everything after it: the relation was extended, or its end is lost.
    ZeroTail,
}

/// What the pages say.
#[derive(Clone, Debug, Default)]
pub(super) struct PageReport {
    /// The bad blocks of each relation, by the path of its first file below the data directory, as
    /// `pg_relation_filepath()` has it.
    pub(super) faults: BTreeMap<String, BTreeMap<Fault, Vec<BlockNumber>>>,
    /// The highest LSN on any sound page.
    pub(super) highest_lsn: Lsn,
}

/// Reads every page of every relation of the copy.
///
/// # Errors
/// When the copy cannot be listed; a file that cannot be read was copied, so that this is our own disk failing.
pub(super) fn read_pages(work: &Workplace, control: Option<&ControlFile>) -> anyhow::Result<PageReport> {
    let files = relation_files(work).context("list the copy")?;
    let size_bytes = files.iter().map(|(_, size)| size).sum();
    work.tools.progress.begin("reading every page", Some(size_bytes));
    let rules = Rules {
        checksums: control.map_or_else(|| guess_checksums(work, &files), ControlFile::checksums),
        segment_blocks: control.map_or(SEGMENT_BLOCKS, |control| control.relation_segment_blocks),
    };
    let reports: anyhow::Result<Vec<PageReport>> = files
        .par_iter()
        .map(|(path, size)| {
            let report = rules.read_file(work, path).with_context(|| format!("read '{path}'"));
            work.tools.progress.advance(*size);
            report
        })
        .collect();
    work.tools.progress.end();
    Ok(reports?.into_iter().fold(PageReport::default(), PageReport::merged))
}

/// The main forks of all relations, with their sizes.
fn relation_files(work: &Workplace) -> io::Result<Vec<(String, u64)>> {
    let mut directories = vec!["global".to_owned()];
    directories.extend(super::mending::database_directories(work));
    for tablespace in work.root.entries(work.copied("pg_tblspc"))? {
        let version = format!("pg_tblspc/{}", tablespace.name);
        for version_entry in work.root.entries(copied_place(&version)).unwrap_or_default() {
            let path = format!("{version}/{}", version_entry.name);
            let databases = work.root.entries(copied_place(&path)).unwrap_or_default();
            directories.extend(databases.iter().map(|entry| format!("{path}/{}", entry.name)));
        }
    }
    let mut files = Vec::new();
    for directory in directories {
        for entry in work.root.entries(copied_place(&directory)).unwrap_or_default() {
            let path = format!("{directory}/{}", entry.name);
            let is_main = RelationFile::parse(&entry.name).is_some_and(|file| file.fork == Fork::Main);
            if entry.facts.kind == EntryKind::File && is_main && has_data_pages(&path) {
                files.push((path, entry.facts.size_bytes));
            }
        }
    }
    Ok(files)
}

/// Whether the pages carry checksums, where nothing says so: most of those that are looked at have the right one.
fn guess_checksums(work: &Workplace, files: &[(String, u64)]) -> Checksums {
    let mut votes = [0_u32; 2];
    for (path, _) in files.iter().filter(|(path, _)| !path.contains('.')).take(SAMPLED_FILES) {
        let mut page = [0; SIZE_BYTES];
        let read = work.root.open_file(copied_place(path)).and_then(|mut file| file.read_exact(&mut page));
        if read.is_err() || page::verify(&page, BlockNumber(0), Checksums::Disabled) != PageVerdict::Sound {
            continue;
        }
        let has_checksum = page::verify(&page, BlockNumber(0), Checksums::Enabled) == PageVerdict::Sound;
        if let Some(count) = votes.get_mut(usize::from(has_checksum)) {
            *count += 1;
        }
    }
    if votes[1] > votes[0] { Checksums::Enabled } else { Checksums::Disabled }
}

#[derive(Clone, Copy)]
struct Rules {
    checksums: Checksums,
    segment_blocks: u32,
}

impl Rules {
    fn read_file(self, work: &Workplace, path: &str) -> anyhow::Result<PageReport> {
        let name = Path::new(path).file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let file = RelationFile::parse(name).context("read its name")?;
        let first = file.segment.saturating_mul(self.segment_blocks);
        let relation = path.split_once('.').map_or(path, |(relation, _)| relation);
        let mut reader = work.root.open_file(copied_place(path))?;
        let mut reading = Reading { relation, report: PageReport::default(), zeros: Vec::new() };
        let mut block = first;
        let mut piece = vec![0; PIECE_PAGES * SIZE_BYTES];
        loop {
            let count = read_full(&mut reader, &mut piece)?;
            let (pages, _) = piece.get(..count).unwrap_or_default().as_chunks::<SIZE_BYTES>();
            for page in pages {
                reading.judge(page, BlockNumber(block), self.checksums);
                block = block.saturating_add(1);
            }
            if count < piece.len() {
                return Ok(reading.finish());
            }
        }
    }
}

/// A relation's file that is being read.
struct Reading<'a> {
    relation: &'a str,
    report: PageReport,
    zeros: Vec<BlockNumber>,
}

impl Reading<'_> {
    fn judge(&mut self, page: &Page, block: BlockNumber, checksums: Checksums) {
        match page::verify(page, block, checksums) {
            // A relation is extended by zeros, so that those at its end mean nothing yet.
            PageVerdict::New => self.zeros.push(block),
            PageVerdict::Sound => {
                self.report.highest_lsn = self.report.highest_lsn.max(page::lsn(page));
                for zero in self.zeros.drain(..) {
                    self.report.add(self.relation, Fault::Zero, zero);
                }
            }
            _ if page::verify(page, block, Checksums::Disabled).is_acceptable() => {
                self.report.add(self.relation, Fault::Checksum, block);
            }
            _ => self.report.add(self.relation, Fault::Unusable, block),
        }
    }

    fn finish(mut self) -> PageReport {
        for zero in self.zeros {
            self.report.add(self.relation, Fault::ZeroTail, zero);
        }
        self.report
    }
}

impl PageReport {
    fn add(&mut self, relation: &str, fault: Fault, block: BlockNumber) {
        self.faults.entry(relation.to_owned()).or_default().entry(fault).or_default().push(block);
    }

    fn merged(mut self, other: Self) -> Self {
        self.highest_lsn = self.highest_lsn.max(other.highest_lsn);
        for (relation, faults) in other.faults {
            let here = self.faults.entry(relation).or_default();
            for (fault, blocks) in faults {
                here.entry(fault).or_default().extend(blocks);
            }
        }
        self
    }
}

/// Reads until the buffer is full or the file ends.
fn read_full(reader: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut count = 0;
    while let Some(rest) = buffer.get_mut(count..).filter(|rest| !rest.is_empty()) {
        match reader.read(rest) {
            Ok(0) => break,
            Ok(more) => count += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(count)
}
