//! Which backups are kept, and why.
//!
//! A cleanup must never be the reason that something is lost: the last good backup stays whatever the limit says,
//! a backup that cannot be read is left to a person, and backups of another cluster (as after a data directory
//! was lost and made anew) leave one by one as new ones come, the newest good one never.

use serde::Serialize;

use super::archive::WalRemoval;
use super::backups::{BackupKind, BackupName, BackupSummary};
use crate::pg::SystemIdentifier;

/// How many backups a person wants to keep.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct RetentionPolicy {
    /// How many restore points, and how many quarantined directories of each kind. 0 counts as 1.
    pub max_backups: usize,
    /// The backup that the present cluster was restored from: whoever chose it may want it again.
    pub restored_from: Option<BackupName>,
}

/// What becomes of one backup.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// It stays.
    Keep,
    /// It is removed.
    Remove,
}

/// What becomes of one backup, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Decision {
    /// Its name.
    pub name: BackupName,
    /// What becomes of it.
    pub verdict: Verdict,
    /// Why, in words.
    pub reason: String,
}

/// What becomes of every backup, newest first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct RetentionPlan {
    /// One decision for each backup.
    pub decisions: Vec<Decision>,
    /// The archived WAL that is let go with them.
    pub wal: Vec<WalRemoval>,
}

impl RetentionPlan {
    /// The backups that are to be removed, oldest first, so that a cleanup cut short has removed the oldest.
    pub fn removals(&self) -> Vec<BackupName> {
        let is_removal = |decision: &&Decision| decision.verdict == Verdict::Remove;
        self.decisions.iter().rev().filter(is_removal).map(|decision| decision.name).collect()
    }
}

/// Decides which backups are kept.
///
/// `current_system` is the cluster that is being backed up now; without it, the cluster of the newest backup that
/// can be read counts as the current one.
pub fn retention(
    backups: &[BackupSummary],
    policy: &RetentionPolicy,
    current_system: Option<SystemIdentifier>,
) -> RetentionPlan {
    let mut newest_first: Vec<&BackupSummary> = backups.iter().collect();
    newest_first.sort_by_key(|backup| std::cmp::Reverse(backup.age_key()));
    let newest_complete = newest_first
        .iter()
        .find(|backup| is_restore_point(backup))
        .and_then(|backup| backup.system_identifier);
    let decider = Decider {
        limit: policy.max_backups.max(1),
        restored_from: policy.restored_from,
        current: current_system.or(newest_complete),
        newest_first,
    };
    let decisions = decider.newest_first.iter().map(|backup| decider.decide(backup)).collect();
    RetentionPlan { decisions, wal: Vec::new() }
}

fn is_restore_point(backup: &BackupSummary) -> bool {
    backup.name.kind() == BackupKind::Backup && backup.is_complete()
}

struct Decider<'a> {
    limit: usize,
    restored_from: Option<BackupName>,
    current: Option<SystemIdentifier>,
    newest_first: Vec<&'a BackupSummary>,
}

impl Decider<'_> {
    fn decide(&self, backup: &BackupSummary) -> Decision {
        let (verdict, reason) = match backup.name.kind() {
            _ if !backup.is_complete() => {
                (Verdict::Keep, "cannot be read, and is left for a person to judge".to_owned())
            }
            _ if self.restored_from == Some(backup.name) => {
                (Verdict::Keep, "what the present cluster was restored from".to_owned())
            }
            BackupKind::Backup if backup.system_identifier == self.current => self.decide_current(backup),
            BackupKind::Backup => self.decide_foreign(backup),
            BackupKind::Damaged | BackupKind::Replaced => self.decide_quarantined(backup),
        };
        Decision { name: backup.name, verdict, reason }
    }

    fn decide_current(&self, backup: &BackupSummary) -> (Verdict, String) {
        let rank = self.rank(backup, |other| {
            is_restore_point(other) && other.system_identifier == backup.system_identifier
        });
        if rank <= self.limit {
            return (Verdict::Keep, format!("number {rank} of the newest {}", self.limit));
        }
        if self.is_newest_good(backup) {
            return (Verdict::Keep, "the last good backup".to_owned());
        }
        (Verdict::Remove, format!("older than the newest {}", self.limit))
    }

    fn decide_foreign(&self, backup: &BackupSummary) -> (Verdict, String) {
        if self.is_newest_good(backup) {
            return (Verdict::Keep, "the newest good backup of another cluster".to_owned());
        }
        let rank = self.rank(backup, is_restore_point);
        if rank <= self.limit {
            return (
                Verdict::Keep,
                format!("of another cluster, number {rank} of the newest {}", self.limit),
            );
        }
        let has_good = self.newest_first.iter().any(|other| {
            is_restore_point(other) && other.is_good() && other.system_identifier == backup.system_identifier
        });
        if has_good {
            return (
                Verdict::Remove,
                "of another cluster, of which a newer or better backup is kept".to_owned(),
            );
        }
        (Verdict::Keep, "of another cluster, of which there is no good backup".to_owned())
    }

    fn decide_quarantined(&self, backup: &BackupSummary) -> (Verdict, String) {
        let kind = backup.name.kind();
        let rank = self.rank(backup, |other| other.name.kind() == kind && other.is_complete());
        if rank <= self.limit {
            return (Verdict::Keep, format!("set aside, number {rank} of the newest {}", self.limit));
        }
        if self.has_newer_good(backup) {
            return (Verdict::Remove, format!("set aside, older than the newest {}", self.limit));
        }
        (Verdict::Keep, "set aside, and no good backup of its cluster is newer".to_owned())
    }

    /// The place of a backup among those that `counts` selects, the newest being number 1.
    fn rank(&self, backup: &BackupSummary, counts: impl Fn(&BackupSummary) -> bool) -> usize {
        let newer =
            self.newest_first.iter().filter(|other| counts(other) && other.age_key() > backup.age_key());
        newer.count() + 1
    }

    fn is_newest_good(&self, backup: &BackupSummary) -> bool {
        let is_good_of_same =
            |other: &&&BackupSummary| is_good_of(other, backup.system_identifier) && is_restore_point(other);
        self.newest_first.iter().find(is_good_of_same).is_some_and(|newest| newest.name == backup.name)
    }

    /// A quarantined directory whose control file could not be read may have been any cluster, so nothing proves
    /// that a backup has what it holds.
    fn has_newer_good(&self, backup: &BackupSummary) -> bool {
        backup.system_identifier.is_some()
            && self.newest_first.iter().any(|other| {
                is_restore_point(other)
                    && is_good_of(other, backup.system_identifier)
                    && other.age_key() > backup.age_key()
            })
    }
}

fn is_good_of(backup: &BackupSummary, system: Option<SystemIdentifier>) -> bool {
    backup.is_good() && backup.system_identifier == system
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::plan::backups::{BackupFormat, Condition, DamagedPage};

    const OLD: SystemIdentifier = SystemIdentifier(1);
    const CURRENT: SystemIdentifier = SystemIdentifier(2);

    #[derive(Clone, Copy, Debug)]
    enum Health {
        Good,
        DamagedPages,
        Unreadable,
    }

    fn backup(kind: &str, day: usize, system: SystemIdentifier, health: Health) -> BackupSummary {
        let name = format!("{kind}_202601{day:02}_120000").parse().unwrap();
        let mut backup = BackupSummary::unknown(name, BackupFormat::Chunked);
        backup.system_identifier = Some(system);
        match health {
            Health::Good => {}
            Health::DamagedPages => backup.damaged_pages.push(DamagedPage {
                file: "base/5/1259".to_owned(),
                block: crate::pg::BlockNumber(0),
                relation: None,
                problem: "checksum".to_owned(),
            }),
            Health::Unreadable => backup.condition = Condition::Unreadable { reason: "cut short".to_owned() },
        }
        backup
    }

    fn days(
        kind: &str,
        days: std::ops::RangeInclusive<usize>,
        system: SystemIdentifier,
    ) -> Vec<BackupSummary> {
        days.map(|day| backup(kind, day, system, Health::Good)).collect()
    }

    fn removed(backups: &[BackupSummary], max_backups: usize) -> Vec<String> {
        let plan = retention(backups, &RetentionPolicy { max_backups, restored_from: None }, Some(CURRENT));
        plan.removals().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn what_the_present_cluster_was_restored_from_stays_however_old_it_is() {
        let backups: Vec<_> = (1..=5).map(|day| backup("data", day, CURRENT, Health::Good)).collect();
        let oldest = backups.iter().min_by_key(|backup| backup.age_key()).unwrap().name;
        let policy = RetentionPolicy { max_backups: 2, restored_from: Some(oldest) };
        assert!(!retention(&backups, &policy, Some(CURRENT)).removals().contains(&oldest));
    }

    #[test]
    fn the_newest_are_kept_and_the_oldest_removed_first() {
        let backups = days("data", 1..=5, CURRENT);
        assert_eq!(removed(&backups, 3), ["data_20260101_120000", "data_20260102_120000"]);
        assert!(removed(&backups, 5).is_empty());
    }

    #[test]
    fn a_limit_of_zero_keeps_one() {
        assert_eq!(removed(&days("data", 1..=2, CURRENT), 0), ["data_20260101_120000"]);
    }

    #[test]
    fn the_last_good_backup_outlives_any_number_of_damaged_ones() {
        let mut backups = days("data", 1..=2, CURRENT);
        backups.extend((3..=9).map(|day| backup("data", day, CURRENT, Health::DamagedPages)));

        let removed = removed(&backups, 2);

        assert!(removed.contains(&"data_20260101_120000".to_owned()));
        assert!(!removed.contains(&"data_20260102_120000".to_owned()));
    }

    #[test]
    fn an_unreadable_backup_is_kept_and_takes_nobodys_place() {
        let mut backups = days("data", 1..=3, CURRENT);
        backups.push(backup("data", 4, CURRENT, Health::Unreadable));
        assert_eq!(removed(&backups, 3), Vec::<String>::new());
        assert_eq!(removed(&backups, 2), ["data_20260101_120000"]);
    }

    #[test]
    fn backups_of_a_lost_cluster_leave_one_by_one_and_never_the_last() {
        let lost = days("data", 1..=7, OLD);
        let with_new = |count: usize| [lost.clone(), days("data", 8..=7 + count, CURRENT)].concat();

        assert_eq!(removed(&with_new(1), 7), ["data_20260101_120000"]);
        assert_eq!(removed(&with_new(7), 7).len(), 6);
        assert!(!removed(&with_new(20), 7).contains(&"data_20260107_120000".to_owned()));
    }

    #[test]
    fn what_was_set_aside_is_kept_until_a_good_backup_of_the_cluster_is_newer() {
        let mut backups = days("damaged", 1..=4, CURRENT);
        assert!(removed(&backups, 2).is_empty());

        backups.extend(days("data", 5..=5, OLD));
        assert!(removed(&backups, 2).is_empty());

        backups.extend(days("data", 6..=6, CURRENT));
        assert_eq!(removed(&backups, 2), ["damaged_20260101_120000", "damaged_20260102_120000"]);
    }

    fn any_backups() -> impl Strategy<Value = Vec<BackupSummary>> {
        let kind = prop_oneof![3 => Just("data"), 1 => Just("damaged"), 1 => Just("replaced")];
        let system = prop_oneof![Just(OLD), Just(CURRENT), Just(SystemIdentifier(3))];
        let health = prop_oneof![Just(Health::Good), Just(Health::DamagedPages), Just(Health::Unreadable)];
        prop::collection::vec((kind, system, health), 0..28).prop_map(|parts| {
            let numbered = parts.into_iter().enumerate();
            numbered.map(|(index, (kind, system, health))| backup(kind, index + 1, system, health)).collect()
        })
    }

    proptest! {
        #[test]
        fn cleanup_never_loses_what_cannot_be_replaced(backups in any_backups(), max_backups in 0_usize..9) {
            let plan = retention(&backups, &RetentionPolicy { max_backups, restored_from: None }, Some(CURRENT));
            let removals = plan.removals();
            let is_kept = |backup: &&BackupSummary| !removals.contains(&backup.name);

            prop_assert_eq!(plan.decisions.len(), backups.len());
            prop_assert!(plan.decisions.iter().all(|decision| !decision.reason.is_empty()));
            prop_assert!(backups.iter().filter(|backup| !backup.is_complete()).all(|backup| is_kept(&backup)));
            let newest = backups.iter().max_by_key(|backup| backup.age_key());
            prop_assert!(newest.is_none_or(|newest| is_kept(&newest)));
            for system in [OLD, CURRENT, SystemIdentifier(3)] {
                let good = backups.iter().filter(|b| is_restore_point(b) && is_good_of(b, Some(system)));
                let newest_good = good.max_by_key(|backup| backup.age_key());
                prop_assert!(newest_good.is_none_or(|newest| is_kept(&newest)));
            }
        }

        #[test]
        fn a_cleanup_right_after_a_cleanup_removes_nothing(backups in any_backups(), max_backups in 0_usize..9) {
            let policy = RetentionPolicy { max_backups, restored_from: None };
            let removals = retention(&backups, &policy, Some(CURRENT)).removals();
            let left: Vec<_> = backups.into_iter().filter(|backup| !removals.contains(&backup.name)).collect();

            prop_assert_eq!(retention(&left, &policy, Some(CURRENT)).removals(), vec![]);
        }

        #[test]
        fn no_more_restore_points_of_a_cluster_stay_than_the_limit_and_the_last_good_one(
            backups in any_backups(),
            max_backups in 1_usize..9,
        ) {
            let plan = retention(&backups, &RetentionPolicy { max_backups, restored_from: None }, Some(CURRENT));
            let removals = plan.removals();
            let kept = backups.iter().filter(|backup| {
                is_restore_point(backup)
                    && backup.system_identifier == Some(CURRENT)
                    && !removals.contains(&backup.name)
            });
            prop_assert!(kept.count() <= max_backups + 1);
        }
    }
}
