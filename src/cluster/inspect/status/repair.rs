//! The content that a status file must have, worked out from the WAL.
//!
//! Where the file was sealed, its hash is the proof. Where it was not, the copy of a backup is brought up to date: a hot
//! backup copies the files after its first checkpoint has written them, so that they have all that the WAL before its
//! redo point says, and the WAL from there on has the rest (xlog.c, `CheckPointGuts()`).

use super::files::{MEMBERS, OFFSETS, TRANSACTIONS};
use super::wal::{StatusRecord, retained, visit_records};
use crate::cluster::inspect::follow;
use crate::cluster::inspect::seal::SealedContent;
use crate::cluster::inspect::wal::WalDirectory;
use crate::cluster::seal::ContentHash;
use crate::pg::MajorVersion;
use crate::pg::control_file::ControlFile;
use crate::pg::slru::{self, ABORTED, COMMITTED, MultixactLayout, SlruSegment};
use crate::pg::wal::{MultixactCreated, Outcome, WalRecord};
use crate::plan::FileContent;
use crate::sys::ReadRoot;

/// A status file that is to be worked out.
#[derive(Clone, Copy)]
struct Target<'a> {
    directory: &'a str,
    segment: SlruSegment,
    layout: MultixactLayout,
    next_offset: NextOffset,
}

/// Whether making a multixact also notes where the members of the next begin, as servers do since the minor releases
/// of 2025 (multixact.c, `RecordNewMultiXact()`).
#[derive(Clone, Copy, PartialEq, Eq)]
enum NextOffset {
    Noted,
    NotNoted,
}

/// Returns what the file must hold: what it holds now, or zeros, with everything that the WAL has about it. Only where
/// that has the sealed hash is it known to be right.
pub(super) fn proven_content(
    root: &ReadRoot,
    wal: &WalDirectory,
    control: &ControlFile,
    (place, sealed): (&str, SealedContent),
) -> Option<FileContent> {
    let (directory, name) = place.rsplit_once('/')?;
    let segment =
        SlruSegment::parse(name).filter(|_| [TRANSACTIONS, OFFSETS, MEMBERS].contains(&directory))?;
    let size =
        usize::try_from(sealed.size_bytes).ok().filter(|_| sealed.size_bytes <= slru::SEGMENT_BYTES)?;
    let mut present = follow(root, directory)
        .and_then(|directory| directory.read_bounded(name, slru::SEGMENT_BYTES))
        .unwrap_or_default();
    present.resize(size, 0);
    let mut candidates = Vec::new();
    for next_offset in [NextOffset::Noted, NextOffset::NotNoted] {
        let layout = MultixactLayout::of(control.major);
        let target = Target { directory, segment, layout, next_offset };
        candidates.push((target, present.clone()));
        candidates.push((target, vec![0; size]));
    }
    visit_records(retained(wal, control.redo, u64::MAX)?, control.redo, |_, record| {
        for (target, content) in &mut candidates {
            target.apply(&record, content);
        }
    });
    let is_proven = |content: &Vec<u8>| ContentHash::of_bytes(content) == sealed.hash;
    let bytes = candidates.into_iter().map(|(_, content)| content).find(is_proven)?;
    let description = "worked out from the WAL, and the same as when the server stopped".to_owned();
    Some(FileContent { description, bytes })
}

/// A status file of a backup that is brought up to date, record by record.
pub(crate) struct StatusUpdate<'a> {
    target: Target<'a>,
    content: Vec<u8>,
}

impl<'a> StatusUpdate<'a> {
    /// Begins with what a backup has of the file at `place`; with nothing, where it has none. `None` for what is no status
    /// file. The size is that of the file, at the least.
    pub(crate) fn begin(
        place: &'a str,
        major: MajorVersion,
        mut content: Vec<u8>,
        size_bytes: u64,
    ) -> Option<Self> {
        let (directory, name) = place.rsplit_once('/')?;
        let segment =
            SlruSegment::parse(name).filter(|_| [TRANSACTIONS, OFFSETS, MEMBERS].contains(&directory))?;
        let size_bytes = size_bytes.max(content.len() as u64).next_multiple_of(slru::PAGE_BYTES);
        content.resize(usize::try_from(size_bytes.min(slru::SEGMENT_BYTES)).ok()?, 0);
        // A server that notes no next offset reads none, and writes the same when it comes to it.
        let next_offset = NextOffset::Noted;
        let layout = MultixactLayout::of(major);
        Some(Self { target: Target { directory, segment, layout, next_offset }, content })
    }

    /// Adds what a record says of the file.
    pub(crate) fn apply(&mut self, record: &WalRecord<'_>) {
        if let Some(record) = StatusRecord::of(record) {
            self.target.apply(&record, &mut self.content);
        }
    }

    /// Returns what the file must hold.
    pub(crate) fn finish(self) -> Vec<u8> {
        self.content
    }
}

impl Target<'_> {
    fn apply(&self, record: &StatusRecord, content: &mut [u8]) {
        match record {
            StatusRecord::End(end) if self.directory == TRANSACTIONS => {
                let status = match end.outcome {
                    Outcome::Committed => COMMITTED,
                    Outcome::Aborted => ABORTED,
                };
                let is_here = |xid: &&u32| slru::transaction_segment(**xid) == self.segment;
                for &xid in end.xids.iter().filter(is_here) {
                    slru::put_status_bits(content, xid, status);
                }
            }
            StatusRecord::Multixact(created) if self.directory == OFFSETS => {
                self.apply_offsets(created, content);
            }
            StatusRecord::Multixact(created) if self.directory == MEMBERS => {
                for (step, &(xid, status)) in (0..).zip(&created.members) {
                    let member = self.layout.member_after(created.first_member, step);
                    if self.layout.member_segment(member) == self.segment {
                        slru::put_member(content, member, xid, status);
                    }
                }
            }
            _ => {}
        }
    }

    fn apply_offsets(&self, created: &MultixactCreated, content: &mut [u8]) {
        let mut put = |multixact: u32, first_member: u64| {
            if self.layout.offset_segment(multixact) == self.segment {
                self.layout.put_first_member(content, multixact, first_member);
            }
        };
        put(created.multixact, created.first_member);
        if self.next_offset == NextOffset::Noted {
            let end = self.layout.member_after(created.first_member, created.members.len() as u64);
            // Neither a multixact nor an offset is ever 0.
            put(created.multixact.wrapping_add(1).max(1), end.max(1));
        }
    }
}
