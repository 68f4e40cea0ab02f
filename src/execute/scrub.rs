//! Reads the repository back, a share at a time, so that what rots on its disk is known before it is needed.
//!
//! A job reads what is due, slowly; each backup reads some more before it relies on what is there, so that also where no
//! job runs, nobody goes on for months with a pack that rotted. The place that was reached is kept, so that a process that
//! is killed costs what it read in the last half minute.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::Context;
use chrono::{DateTime, TimeDelta, Utc};
use serde::Serialize;

use super::Tools;
use super::verify::{Verified, VerifyReport, judge_damaged};
use crate::plan::scrub::{PACK_KEY, ReadBack, ScrubItem, ScrubState, TABLE_KEY, WAL_KEY, share_due};
use crate::plan::{Damage, DamageCode, Judgement};
use crate::repository::{Repository, ScrubLock};
use crate::sys::step_point;

/// How much a backup reads back before it relies on it, and how long it may take.
const BEFORE_BACKUP: Amount =
    Amount::AtMost { size_bytes: 128 * 1024 * 1024, duration: Duration::from_secs(5) };
/// How often the place that was reached is kept.
const KEEP_INTERVAL: Duration = Duration::from_secs(30);

/// How much is to be read back.
#[derive(Clone, Copy, Debug)]
pub enum Amount {
    /// What is due, if all is to be read once in `interval`, and no more in a second than `bytes_per_second`.
    Due {
        /// How long a round takes.
        interval: Duration,
        /// The most that is read in a second.
        bytes_per_second: u64,
    },
    /// Some, and no longer than for a time.
    AtMost {
        /// How much.
        size_bytes: u64,
        /// For how long.
        duration: Duration,
    },
}

/// What reading back came to.
#[derive(Debug, Default, Serialize)]
pub struct ScrubReport {
    /// How much was read now.
    pub read_bytes: u64,
    /// Whether a round was finished with it.
    pub is_finished: bool,
    /// What is not what was stored, by key, and how that was noticed; what was found before is among it.
    pub damaged: BTreeMap<String, String>,
    /// What could not be read, by key, and why.
    pub unreadable: BTreeMap<String, String>,
    /// The backups whose verdict changed by it.
    pub backups: Vec<Verified>,
}

/// Reads back as much as is asked for, and judges the backups that rest on what was found damaged. `None` where another
/// process is at it.
///
/// # Errors
/// When the repository cannot be listed, or the place that was reached cannot be kept. Damage is no error.
pub fn scrub(
    tools: &Tools,
    repository: &Repository,
    amount: Amount,
    now: DateTime<Utc>,
) -> anyhow::Result<Option<ScrubReport>> {
    let Some(lock) = repository.lock_scrub().context("lock the repository for reading back")? else {
        return Ok(None);
    };
    let items = repository.scrub_items().context("list what is to be read back")?;
    let mut state = repository.scrub_state().context("read how far reading back is")?;
    state.forget_all_but(&items);
    let mut report = ScrubReport::default();
    if !items.is_empty() {
        Job { repository, lock: &lock, items: &items, amount, now }.run(&mut state, &mut report)?;
    }
    let has_damaged = |backup: &crate::plan::BackupSummary| backup.verification.is_damaged();
    if !state.damaged.is_empty() || repository.backups().context("list the backups")?.iter().any(has_damaged)
    {
        report.backups = judge_damaged(tools, repository, now).context("judge the backups")?;
    }
    report.damaged = state.damaged;
    report.unreadable = state.unreadable;
    Ok(Some(report))
}

/// Reads some of the repository back before a backup relies on it. Whatever comes of it, the backup is made.
pub fn scrub_before_backup(tools: &Tools, repository: &Repository, now: DateTime<Utc>) {
    if tools.settings.scrub_interval.is_none() {
        return;
    }
    match scrub(tools, repository, BEFORE_BACKUP, now) {
        Ok(Some(report)) => report.damaged.iter().for_each(|(key, reason)| {
            tools
                .progress
                .note(&format!("'{key}' of the repository is damaged: {reason}; it is not relied on"));
        }),
        Ok(None) => {}
        Err(error) => tools.progress.note(&format!("could not read the repository back: {error:#}")),
    }
}

/// Notes what a verification found damaged, so that nothing relies on it; and, where it read everything, that it did: since
/// when, and how much that was.
///
/// # Errors
/// When that cannot be kept.
pub fn note_verified(
    repository: &Repository,
    report: &VerifyReport,
    all_read: Option<(DateTime<Utc>, u64)>,
) -> anyhow::Result<()> {
    let found = found_by(report);
    if found.is_empty() && all_read.is_none() {
        return Ok(());
    }
    let Some(lock) = repository.lock_scrub().context("lock the repository for reading back")? else {
        return Ok(());
    };
    let mut state = repository.scrub_state().context("read how far reading back is")?;
    match all_read {
        Some((began, read_bytes)) => {
            state.take_all(&found, began, read_bytes);
            state.finish(Utc::now());
        }
        None => state.take_found(&found),
    }
    repository.keep_scrub_state(&lock, &state).context("keep how far reading back is")
}

/// What a verification found damaged, by the keys of reading back.
fn found_by(report: &VerifyReport) -> BTreeMap<String, String> {
    let reason_of = |backup: &Verified| {
        let Judgement::Reached(verdict) = &backup.judgement else { return None };
        let of_table =
            |damage: &&Damage| matches!(damage.code, DamageCode::TableDamaged | DamageCode::ChunkMissing);
        Some(verdict.damage.iter().find(of_table)?.problem.clone())
    };
    let tables = report.backups.iter().chain(&report.also_damaged);
    let tables =
        tables.filter_map(|backup| Some((format!("{TABLE_KEY}{}", backup.name), reason_of(backup)?)));
    let packs =
        report.damaged_packs.iter().map(|(pack, reason)| (format!("{PACK_KEY}{pack}"), reason.clone()));
    let wal = report.damaged_wal.iter().map(|(file, reason)| (format!("{WAL_KEY}{file}"), reason.clone()));
    tables.chain(packs).chain(wal).collect()
}

struct Job<'a> {
    repository: &'a Repository,
    lock: &'a ScrubLock,
    items: &'a [ScrubItem],
    amount: Amount,
    now: DateTime<Utc>,
}

impl Job<'_> {
    fn run(&self, state: &mut ScrubState, report: &mut ScrubReport) -> anyhow::Result<()> {
        let (began, mut kept) = (Instant::now(), Instant::now());
        let mut reading = self.repository.reading_back();
        let position = state.round(self.now).position.clone();
        let done_count = self.items.partition_point(|item| item.key <= position);
        let (done, left) = self.items.split_at(done_count);
        let mut pace = |size_bytes| {
            report.read_bytes += size_bytes;
            self.wait(report.read_bytes, began);
        };
        let mut reached_bytes = size_of(done);
        let mut left = left.iter();
        let mut read_bytes = 0;
        loop {
            let Some(item) = left.as_slice().first() else {
                state.finish(Utc::now());
                report.is_finished = true;
                break;
            };
            if !self.is_wanted(state, reached_bytes, read_bytes, began) {
                break;
            }
            left.next();
            let read = reading.read(item, &mut pace).with_context(|| format!("read '{}' back", item.key))?;
            reached_bytes += item.size_bytes;
            read_bytes += item.size_bytes;
            let is_damaged = matches!(read, ReadBack::Damaged(_));
            state.take(item, read, self.now);
            step_point("read back");
            if is_damaged || kept.elapsed() >= KEEP_INTERVAL {
                self.keep(state)?;
                kept = Instant::now();
            }
        }
        self.keep(state)
    }

    /// Whether more is to be read, at a place with so much before it, after so much was read now.
    fn is_wanted(&self, state: &mut ScrubState, reached_bytes: u64, read_bytes: u64, began: Instant) -> bool {
        match self.amount {
            Amount::AtMost { size_bytes, duration } => read_bytes < size_bytes && began.elapsed() < duration,
            Amount::Due { interval, .. } => {
                let interval = TimeDelta::from_std(interval).unwrap_or(TimeDelta::MAX);
                let due = share_due(state.round(self.now).began_at, self.now, interval);
                is_less_than_share(reached_bytes, size_of(self.items), due)
            }
        }
    }

    /// Waits until no more was read than may have been by now.
    fn wait(&self, read_bytes: u64, began: Instant) {
        let Amount::Due { bytes_per_second, .. } = self.amount else { return };
        let micros = read_bytes.saturating_mul(1_000_000) / bytes_per_second.max(1);
        // The rate that SCRUB_RATE promises: a disk that others need is not to be kept busy.
        std::thread::sleep(Duration::from_micros(micros).saturating_sub(began.elapsed()));
    }

    fn keep(&self, state: &ScrubState) -> anyhow::Result<()> {
        self.repository.keep_scrub_state(self.lock, state).context("keep how far reading back is")
    }
}

fn size_of(items: &[ScrubItem]) -> u64 {
    items.iter().map(|item| item.size_bytes).sum()
}

#[expect(clippy::cast_precision_loss, reason = "a share of what is read needs no more than 52 bits")]
fn is_less_than_share(reached_bytes: u64, all_bytes: u64, share: f64) -> bool {
    share >= 1.0 || (reached_bytes as f64) < all_bytes as f64 * share
}
