//! A new WAL and control file for the copy, where nothing else makes it start: `pg_resetwal -f`, the last resort.
//!
//! What the control file would have said is worked out from the files, by the rules of `pg_resetwal`'s own manual.

use super::loss::Salvaged;
use super::mending::{MEMBERS_PER_SEGMENT, Needed, XIDS_PER_SEGMENT, mend_status};
use super::pages::read_pages;
use super::workplace::Workplace;
use crate::pg::control_file::ClusterState;
use crate::pg::slru::MultixactLayout;
use crate::pg::{Lsn, MajorVersion, wal};
use crate::sys::Tool;
use anyhow::Context;

const SEGMENT_BYTES: u64 = 16 << 20;
/// Higher than any object identifier that a file is named after, by far enough that none is met.
const SPARE_OIDS: u32 = 1_000_000;
/// The first transaction id that is not special (transam.h, `FirstNormalTransactionId`).
const FIRST_XID: u32 = 3;

/// Begins the WAL of the copy anew.
pub(super) fn reset(work: &Workplace, reason: &str, salvaged: &mut Salvaged) -> anyhow::Result<()> {
    work.discard(work.copied("backup_label")).context("remove the copy's backup label")?;
    let control = work.control_file();
    let is_clean = control.as_ref().is_some_and(|control| control.state == ClusterState::ShutDown);
    let (mut arguments, mut unsaid) = (Vec::new(), Salvaged::default());
    if control.is_none() {
        let needed = guess_needed(work);
        arguments = options(work, &needed)?;
        // How long the last segment should be is not known, so that a short one means nothing.
        let has_any = !work.root.entries(work.copied("pg_xact")).unwrap_or_default().is_empty();
        mend_status(work, &needed, if has_any { &mut unsaid } else { salvaged })?;
        // It takes an empty file for one of a wrong version, and makes it anew; a missing one it refuses.
        work.root
            .write_durably(work.copied("global/pg_control"), b"", 0o600)
            .context("make a control file")?;
        salvaged.assume("'global/pg_control' was gone: its values are worked out from the files");
    }
    let tool = Tool::new(work.tools.installation.program("pg_resetwal"))
        .argument("-f")
        .arguments(&arguments)
        .argument("-D")
        .argument(work.copy_directory())
        .variable("LC_ALL", "C")
        .holding(work.root.lock_descriptor().context("hand the lock on")?);
    tool.run().context("begin the WAL of the copy anew")?;
    salvaged.assume(if is_clean {
        "the WAL could not be used; the cluster had been stopped cleanly, so that there was nothing to replay"
            .to_owned()
    } else {
        format!(
            "the WAL could not be replayed ({reason}): the last changes may be missing, or there in part only"
        )
    });
    Ok(())
}

/// What the segments of the transaction status are named after.
fn guess_needed(work: &Workplace) -> Needed {
    let range = |directory: &str, per_segment: u32| {
        let entries = work.root.entries(work.copied(directory)).unwrap_or_default();
        let mut numbers: Vec<u32> =
            entries.iter().filter_map(|entry| u32::from_str_radix(&entry.name, 16).ok()).collect();
        numbers.sort_unstable();
        let first = numbers.first().copied().unwrap_or(0);
        let next = numbers.last().map_or(1, |last| last.saturating_add(1));
        (first.saturating_mul(per_segment), next.saturating_mul(per_segment))
    };
    let (oldest_xid, next_xid) = range("pg_xact", XIDS_PER_SEGMENT);
    let layout = MultixactLayout::of(work.tools.installation.version);
    let (oldest_multi, next_multi) = range("pg_multixact/offsets", layout.multixacts_per_segment());
    let (_, next_member) = range("pg_multixact/members", MEMBERS_PER_SEGMENT);
    Needed {
        oldest_xid: oldest_xid.max(FIRST_XID),
        next_xid,
        oldest_multi: oldest_multi.max(1),
        next_multi,
        next_member: u64::from(next_member),
        layout,
    }
}

fn options(work: &Workplace, needed: &Needed) -> anyhow::Result<Vec<String>> {
    let mut options = vec![
        format!("--next-transaction-id={}", needed.next_xid),
        format!("--multixact-ids={},{}", needed.next_multi, needed.oldest_multi),
        format!("--multixact-offset={}", needed.next_member),
        format!("--next-oid={}", highest_oid(work).saturating_add(SPARE_OIDS)),
        format!("--next-wal-file={}", next_segment(work)?),
    ];
    // Since 14.
    if work.tools.installation.version >= MajorVersion(14) {
        options.push(format!("--oldest-transaction-id={}", needed.oldest_xid));
    }
    Ok(options)
}

/// The highest number that names a file or a database.
fn highest_oid(work: &Workplace) -> u32 {
    let mut directories = vec!["base".to_owned(), "global".to_owned()];
    directories.extend(super::mending::database_directories(work));
    let entries =
        directories.iter().flat_map(|name| work.root.entries(work.copied(name)).unwrap_or_default());
    let number = |name: &str| name.split(['.', '_']).next().and_then(|digits| digits.parse::<u32>().ok());
    entries.filter_map(|entry| number(&entry.name)).max().unwrap_or_default().max(16_384)
}

/// A segment after all that any page knows of, so that no page is from the future.
fn next_segment(work: &Workplace) -> anyhow::Result<String> {
    let Lsn(of_pages) = read_pages(work, None)?.highest_lsn;
    let entries = work.root.entries(work.copied("pg_wal")).unwrap_or_default();
    let of_files = entries.iter().filter(|entry| wal::is_segment_name(&entry.name)).filter_map(|entry| {
        let number = |range| entry.name.get(range).and_then(|digits| u64::from_str_radix(digits, 16).ok());
        Some((number(8..16)? << 8).saturating_add(number(16..24)?))
    });
    let last = of_files.max().unwrap_or_default().max(of_pages / SEGMENT_BYTES);
    let next = last + 2;
    let timeline =
        entries.iter().filter_map(|entry| entry.name.get(..8)?.parse::<u32>().ok()).max().unwrap_or(1);
    Ok(format!("{:08X}{:08X}{:08X}", timeline.max(1), next >> 8, next & 0xFF))
}
