//! What is put right on the copy before a server is started on it, so that it starts at all.
//!
//! Each of these is a guess that no repair of a real cluster may make (`facts/corruption.md` §5 (c)); on the copy it
//! costs nothing, and it is told.

use super::loss::Salvaged;
use super::workplace::{Workplace, copied_place};
use crate::pg::control_file::ControlFile;
use crate::pg::identity_map::identity_map;
use crate::pg::relation_map::{MapKind, RelationMap};
use crate::pg::slru::{MultixactLayout, SlruSegment};
use crate::pg::{MajorVersion, layout};
use crate::plan::{Diagnosis, Remedy};
use crate::sys::EntryKind;
use anyhow::Context;

/// A page of an SLRU, and how many a segment has (slru.h, `SLRU_PAGES_PER_SEGMENT`).
const SLRU_PAGE_BYTES: u32 = 8192;
const SLRU_PAGES: u32 = 32;
/// How many entries a segment has: clog.c, and multixact.c for members.
pub(super) const XIDS_PER_SEGMENT: u32 = 32_768 * SLRU_PAGES;
pub(super) const MEMBERS_PER_SEGMENT: u32 = 1_636 * SLRU_PAGES;
/// Four transactions, all committed (clog.c, `TRANSACTION_STATUS_COMMITTED`).
const ALL_COMMITTED: u8 = 0x55;

/// Puts right what a look at the files tells, but for the control file.
pub(super) fn mend(work: &Workplace, diagnosis: &Diagnosis, salvaged: &mut Salvaged) -> anyhow::Result<()> {
    let major = work.tools.installation.version;
    for directory in layout::required_directories(major) {
        let place = copied_place(directory);
        let place = if directory == "pg_tblspc" { work.copied(directory) } else { place };
        work.root.create_directories(&place, 0o700).with_context(|| format!("make '{directory}'"))?;
    }
    for finding in &diagnosis.findings {
        if let Remedy::WriteFile(content) = &finding.remedy {
            work.root
                .write_durably(copied_place(&finding.place), &content.bytes, 0o600)
                .with_context(|| format!("write '{}'", finding.place))?;
            salvaged.assume(format!("'{}' was {}", finding.place, content.description));
        }
    }
    write_version(work, ".", major)?;
    mend_map(work, "global", MapKind::Shared, salvaged)?;
    for directory in database_directories(work) {
        write_version(work, &directory, major)?;
        mend_map(work, &directory, MapKind::Database, salvaged)?;
    }
    if let Some(control) = work.control_file() {
        mend_status(work, &Needed::of(&control), salvaged)?;
    }
    Ok(())
}

/// The directories of databases in `base`.
pub(super) fn database_directories(work: &Workplace) -> Vec<String> {
    let entries = work.root.entries(work.copied("base")).unwrap_or_default();
    let is_database = |entry: &&crate::sys::Entry| {
        entry.facts.kind == EntryKind::Directory && entry.name.parse::<u32>().is_ok()
    };
    entries.iter().filter(is_database).map(|entry| format!("base/{}", entry.name)).collect()
}

fn write_version(work: &Workplace, directory: &str, major: MajorVersion) -> anyhow::Result<()> {
    let place = work.copied(directory).join("PG_VERSION");
    let text = format!("{major}\n");
    if work.root.read_text(&place, 64).ok().flatten() == Some(text.clone()) {
        return Ok(());
    }
    work.root
        .write_durably(&place, text.as_bytes(), 0o600)
        .with_context(|| format!("write '{}'", place.display()))
}

/// Where the map is lost, the catalogs that were never rewritten are where initdb made them.
fn mend_map(work: &Workplace, directory: &str, kind: MapKind, salvaged: &mut Salvaged) -> anyhow::Result<()> {
    let place = work.copied(directory).join("pg_filenode.map");
    let present = work.root.read_bounded(&place, 4096).ok();
    if present.is_some_and(|bytes| RelationMap::parse(&bytes).is_ok()) {
        return Ok(());
    }
    let Some(bytes) = identity_map(kind, work.tools.installation.version) else { return Ok(()) };
    work.root.write_durably(&place, &bytes, 0o600).context("write a relation map")?;
    salvaged.assume(format!(
        "'{directory}/pg_filenode.map' was gone: each catalog is taken from the file of its own number"
    ));
    Ok(())
}

/// Which segments of the transaction status a server may ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Needed {
    pub(super) oldest_xid: u32,
    /// The first that was never used.
    pub(super) next_xid: u32,
    pub(super) oldest_multi: u32,
    pub(super) next_multi: u32,
    pub(super) next_member: u64,
    pub(super) layout: MultixactLayout,
}

impl Needed {
    fn of(control: &ControlFile) -> Self {
        let next_xid = u32::try_from(control.next_xid & 0xFFFF_FFFF).unwrap_or_default();
        Self {
            oldest_xid: control.oldest_xid,
            next_xid,
            oldest_multi: control.oldest_multi,
            next_multi: control.next_multi,
            next_member: control.next_multi_offset,
            layout: MultixactLayout::of(control.major),
        }
    }
}

/// Makes what is lost of the transaction status: of transactions that nothing is known of, that they committed.
pub(super) fn mend_status(work: &Workplace, needed: &Needed, salvaged: &mut Salvaged) -> anyhow::Result<()> {
    let statuses = Slru {
        directory: "pg_xact",
        fill: ALL_COMMITTED,
        per_segment: XIDS_PER_SEGMENT,
        name: SlruSegment::short,
    };
    for name in statuses.complete(work, needed.oldest_xid, needed.next_xid)? {
        salvaged.assume(format!(
            "'{name}' was gone: every transaction in it counts as committed, those that were rolled back too"
        ));
    }
    let offsets = Slru {
        directory: "pg_multixact/offsets",
        fill: 0,
        per_segment: needed.layout.multixacts_per_segment(),
        name: SlruSegment::short,
    };
    let members = Slru {
        directory: "pg_multixact/members",
        fill: 0,
        per_segment: MEMBERS_PER_SEGMENT,
        name: needed.layout.member_file(),
    };
    let mut made = offsets.complete(work, needed.oldest_multi, needed.next_multi)?;
    // Where the oldest member is, only the offsets know; a cluster that has used few has them from the start on.
    let next_member = u32::try_from(needed.next_member).ok();
    if let Some(next_member) = next_member.filter(|next| (1..MEMBERS_PER_SEGMENT).contains(next)) {
        made.extend(members.complete(work, 0, next_member)?);
    }
    for name in made {
        salvaged.assume(format!(
            "'{name}' was gone: rows that several transactions had locked at once may be lost"
        ));
    }
    Ok(())
}

struct Slru {
    directory: &'static str,
    fill: u8,
    per_segment: u32,
    /// Names a segment by its number.
    name: fn(u64) -> SlruSegment,
}

impl Slru {
    /// Makes the segments from the oldest entry to the next, as far as they are missing or too short. Returns them.
    fn complete(&self, work: &Workplace, oldest: u32, next: u32) -> anyhow::Result<Vec<String>> {
        // The page of the next entry is made when it is used.
        let newest = next.wrapping_sub(1);
        let last = newest / self.per_segment;
        let end = u32::MAX / self.per_segment;
        let mut segment = oldest / self.per_segment;
        let mut made = Vec::new();
        loop {
            let pages = if segment == last {
                newest % self.per_segment / (self.per_segment / SLRU_PAGES) + 1
            } else {
                SLRU_PAGES
            };
            if self.complete_segment(work, segment, pages)? {
                made.push(format!("{}/{}", self.directory, (self.name)(u64::from(segment))));
            }
            if segment == last {
                return Ok(made);
            }
            // The numbers of transactions begin anew when they are used up.
            segment = if segment == end { 0 } else { segment + 1 };
        }
    }

    fn complete_segment(&self, work: &Workplace, segment: u32, pages: u32) -> anyhow::Result<bool> {
        let place = work.copied(self.directory).join((self.name)(u64::from(segment)).to_string());
        let needed_bytes = pages * SLRU_PAGE_BYTES;
        let mut bytes = work.root.read_bounded(&place, 1 << 20).unwrap_or_default();
        if bytes.len() as u64 >= u64::from(needed_bytes) {
            return Ok(false);
        }
        bytes.resize(usize::try_from(needed_bytes).context("make a segment")?, self.fill);
        work.root
            .write_durably(&place, &bytes, 0o600)
            .with_context(|| format!("make '{}'", place.display()))?;
        Ok(true)
    }
}
