//! Which backups stand for a day, a week or a month. Pure.

use chrono::{Datelike, NaiveDate};
use serde::Serialize;

use super::backups::{BackupName, BackupSummary};

/// For how many days, weeks and months one backup each is kept beside the newest ones.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct KeptPeriods {
    /// How many days, of those that have a good backup.
    pub daily: usize,
    /// How many weeks, which begin on Monday.
    pub weekly: usize,
    /// How many months.
    pub monthly: usize,
}

/// One kind of period: its name, how many are kept, and what is the same for all days of one.
type Period = (&'static str, usize, fn(NaiveDate) -> (i32, u32));

impl KeptPeriods {
    fn all(&self) -> [Period; 3] {
        [
            ("daily", self.daily, |date| (date.year(), date.ordinal())),
            ("weekly", self.weekly, |date| (date.iso_week().year(), date.iso_week().week())),
            ("monthly", self.monthly, |date| (date.year(), date.month())),
        ]
    }

    /// Why a backup stands for a period, such as `daily 2 of 7`; nothing where it stands for none.
    ///
    /// `good` are the good backups of its cluster, newest first. For each of the newest days, weeks and months that have
    /// one, the newest of it stands, so that the choice stays as it is when the others are gone.
    pub(super) fn reasons(&self, name: BackupName, good: &[&BackupSummary]) -> Vec<String> {
        let reason = |(period, count, key): Period| {
            let mut seen = Vec::new();
            for backup in good {
                let place = key(backup.name.date());
                if seen.last() != Some(&place) {
                    seen.push(place);
                    let is_wanted = backup.name == name && seen.len() <= count;
                    if is_wanted {
                        return Some(format!("{period} {} of {count}", seen.len()));
                    }
                }
            }
            None
        };
        self.all().into_iter().filter_map(reason).collect()
    }
}
