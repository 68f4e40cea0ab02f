//! Which backups are kept, and why.
//!
//! A cleanup must never be the reason that something is lost: the last good backup stays whatever the limit says,
//! a backup that cannot be read is left to a person, and backups of another cluster (as after a data directory
//! was lost and made anew) leave one by one as new ones come, the newest good one never. What a person pinned stays, and
//! takes no other's place; so does the newest good one that was verified.

use std::collections::HashMap;

use serde::Serialize;

use super::archive::WalRemoval;
use super::backups::{BackupKind, BackupName, BackupSummary, Pin};
use super::order::{OrderKey, order_keys, sort_newest_first};
use super::periods::KeptPeriods;
use crate::pg::SystemIdentifier;

/// How many backups a person wants to keep.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct RetentionPolicy {
    /// How many restore points, and how many quarantined directories of each kind. 0 counts as 1.
    pub max_backups: usize,
    /// For how many days, weeks and months one good backup each is kept besides.
    pub periods: KeptPeriods,
    /// The backup that the present cluster was restored from: whoever chose it may want it again.
    pub restored_from: Option<BackupName>,
    /// The backup after which this cleanup comes; it stays, whatever its time and its place say.
    pub just_made: Option<BackupName>,
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
    sort_newest_first(&mut newest_first);
    let newest_complete = newest_first
        .iter()
        .find(|backup| is_restore_point(backup))
        .and_then(|backup| backup.system_identifier);
    let decider = Decider {
        limit: policy.max_backups.max(1),
        periods: policy.periods,
        restored_from: policy.restored_from,
        just_made: policy.just_made,
        keys: order_keys(backups),
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
    periods: KeptPeriods,
    restored_from: Option<BackupName>,
    just_made: Option<BackupName>,
    keys: HashMap<BackupName, OrderKey>,
    current: Option<SystemIdentifier>,
    newest_first: Vec<&'a BackupSummary>,
}

impl Decider<'_> {
    fn decide(&self, backup: &BackupSummary) -> Decision {
        let (verdict, reason) = match backup.name.kind() {
            _ if backup.pin.is_some() => (Verdict::Keep, pinned(backup.pin.as_ref())),
            _ if !backup.is_complete() => {
                (Verdict::Keep, "cannot be read, and is left for a person to judge".to_owned())
            }
            _ if self.restored_from == Some(backup.name) => {
                (Verdict::Keep, "what the present cluster was restored from".to_owned())
            }
            _ if self.just_made == Some(backup.name) => (Verdict::Keep, "made just now".to_owned()),
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
        let mut reasons = Vec::new();
        if rank <= self.limit {
            reasons.push(format!("number {rank} of the newest {}", self.limit));
        }
        let good: Vec<&BackupSummary> = self.good_of_same(backup).collect();
        reasons.extend(self.periods.reasons(backup.name, &good));
        if reasons.is_empty() && good.first().is_some_and(|newest| newest.name == backup.name) {
            reasons.push("the last good backup".to_owned());
        }
        let newest_verified = good.iter().find(|other| other.is_verified());
        if reasons.is_empty() && newest_verified.is_some_and(|newest| newest.name == backup.name) {
            reasons.push("the last good backup that was verified".to_owned());
        }
        if reasons.is_empty() {
            return (Verdict::Remove, format!("older than the newest {}", self.limit));
        }
        (Verdict::Keep, reasons.join(", "))
    }

    /// The good backups of a backup's cluster, newest first.
    fn good_of_same(&self, backup: &BackupSummary) -> impl Iterator<Item = &BackupSummary> {
        let system = backup.system_identifier;
        self.newest_first
            .iter()
            .copied()
            .filter(move |other| is_restore_point(other) && is_good_of(other, system))
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
        let is_newer = |other: &BackupSummary| self.is_newer(other, backup) && other.pin.is_none();
        self.newest_first.iter().filter(|other| counts(other) && is_newer(other)).count() + 1
    }

    fn is_newest_good(&self, backup: &BackupSummary) -> bool {
        self.good_of_same(backup).next().is_some_and(|newest| newest.name == backup.name)
    }

    /// A quarantined directory whose control file could not be read may have been any cluster, so nothing proves
    /// that a backup has what it holds.
    fn has_newer_good(&self, backup: &BackupSummary) -> bool {
        backup.system_identifier.is_some()
            && self.newest_first.iter().any(|other| {
                is_restore_point(other)
                    && is_good_of(other, backup.system_identifier)
                    && self.is_newer(other, backup)
            })
    }

    fn is_newer(&self, one: &BackupSummary, other: &BackupSummary) -> bool {
        self.keys.get(&one.name) > self.keys.get(&other.name)
    }
}

fn pinned(pin: Option<&Pin>) -> String {
    match pin.and_then(|pin| pin.note.as_deref()) {
        Some(note) => format!("pinned: {note}"),
        None => "pinned".to_owned(),
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
    use crate::plan::verification::{Damage, DamageCode, Judgement, Observed, Verification, judge};

    const OLD: SystemIdentifier = SystemIdentifier(1);
    const CURRENT: SystemIdentifier = SystemIdentifier(2);

    #[derive(Clone, Copy, Debug)]
    enum Health {
        Good,
        DamagedPages,
        Unreadable,
        Verified,
        FoundDamaged,
    }

    fn verified(damage: Vec<Damage>) -> Verification {
        let observed = Observed { damage, ..Observed::default() };
        match judge(observed, chrono::DateTime::UNIX_EPOCH) {
            Judgement::Reached(verdict) => Verification::Done(verdict),
            Judgement::Undecided { .. } => Verification::Never,
        }
    }

    fn backup(kind: &str, day: usize, system: SystemIdentifier, health: Health) -> BackupSummary {
        let name = format!("{kind}_202601{day:02}_120000").parse().unwrap();
        let mut backup = BackupSummary::unknown(name, BackupFormat::Chunked);
        backup.system_identifier = Some(system);
        match health {
            Health::Good => {}
            Health::Verified => backup.verification = verified(Vec::new()),
            Health::FoundDamaged => {
                let damage = Damage::new(DamageCode::ChunkMissing, "it is in no pack");
                backup.verification = verified(vec![damage]);
            }
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
        let plan =
            retention(backups, &RetentionPolicy { max_backups, ..RetentionPolicy::default() }, Some(CURRENT));
        plan.removals().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn what_the_present_cluster_was_restored_from_stays_however_old_it_is() {
        let backups: Vec<_> = (1..=5).map(|day| backup("data", day, CURRENT, Health::Good)).collect();
        let oldest = backups.iter().min_by_key(|backup| backup.created_at).unwrap().name;
        let policy =
            RetentionPolicy { max_backups: 2, restored_from: Some(oldest), ..RetentionPolicy::default() };
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
        let health = prop_oneof![
            Just(Health::Good),
            Just(Health::DamagedPages),
            Just(Health::Unreadable),
            Just(Health::Verified),
            Just(Health::FoundDamaged)
        ];
        let is_pinned = prop::bool::weighted(0.1);
        prop::collection::vec((kind, system, health, is_pinned), 0..28).prop_map(|parts| {
            let numbered = parts.into_iter().enumerate();
            let made = numbered.map(|(index, (kind, system, health, is_pinned))| {
                let backup = backup(kind, index + 1, system, health);
                let pin = is_pinned.then_some(Pin { pinned_at: None, note: None });
                BackupSummary { pin, ..backup }
            });
            made.collect()
        })
    }

    fn any_policy() -> impl Strategy<Value = RetentionPolicy> {
        (0_usize..9, 0_usize..9, 0_usize..5, 0_usize..3).prop_map(|(max_backups, daily, weekly, monthly)| {
            let periods = KeptPeriods { daily, weekly, monthly };
            RetentionPolicy { max_backups, periods, restored_from: None, just_made: None }
        })
    }

    fn reason_of(backups: &[BackupSummary], policy: &RetentionPolicy, name: &str) -> String {
        let plan = retention(backups, policy, Some(CURRENT));
        let decision = plan.decisions.into_iter().find(|decision| decision.name.to_string() == name);
        decision.unwrap().reason
    }

    #[test]
    fn days_weeks_and_months_keep_the_newest_good_backup_of_each_and_say_so() {
        // 2026-01-01 is a Thursday: 1 to 4, 5 to 11, 12 to 18 and 19 to 25 are the weeks.
        let mut backups = days("data", 1..=20, CURRENT);
        backups.push(backup("data", 21, CURRENT, Health::DamagedPages));
        let periods = KeptPeriods { daily: 3, weekly: 4, monthly: 1 };
        let policy = RetentionPolicy { max_backups: 1, periods, restored_from: None, just_made: None };

        let plan = retention(&backups, &policy, Some(CURRENT));

        let kept: Vec<String> = plan
            .decisions
            .iter()
            .filter(|decision| decision.verdict == Verdict::Keep)
            .map(|decision| decision.name.to_string()[11..13].to_owned())
            .collect();
        assert_eq!(kept, ["21", "20", "19", "18", "11", "04"]);
        let reason = |name| reason_of(&backups, &policy, name);
        assert_eq!(reason("data_20260121_120000"), "number 1 of the newest 1");
        assert_eq!(reason("data_20260120_120000"), "daily 1 of 3, weekly 1 of 4, monthly 1 of 1");
        assert_eq!(reason("data_20260118_120000"), "daily 3 of 3, weekly 2 of 4");
        assert_eq!(reason("data_20260111_120000"), "weekly 3 of 4");
        assert_eq!(reason("data_20260110_120000"), "older than the newest 1");
    }

    #[test]
    fn a_pinned_backup_stays_and_takes_nobodys_place() {
        let mut backups = days("data", 1..=4, CURRENT);
        for index in [0, 3] {
            let note = Some("before the migration".to_owned());
            backups[index].pin = Some(Pin { pinned_at: None, note });
        }
        assert_eq!(removed(&backups, 1), ["data_20260102_120000"]);
        let policy = RetentionPolicy { max_backups: 1, ..RetentionPolicy::default() };
        assert_eq!(reason_of(&backups, &policy, "data_20260101_120000"), "pinned: before the migration");
    }

    #[test]
    fn the_last_verified_backup_outlives_newer_ones_that_nobody_verified() {
        let mut backups = days("data", 3..=6, CURRENT);
        backups.push(backup("data", 1, CURRENT, Health::Verified));
        backups.push(backup("data", 2, CURRENT, Health::Verified));
        let removed = removed(&backups, 2);
        assert_eq!(removed, ["data_20260101_120000", "data_20260103_120000", "data_20260104_120000"]);
    }

    proptest! {
        #[test]
        fn cleanup_never_loses_what_cannot_be_replaced(backups in any_backups(), policy in any_policy()) {
            let plan = retention(&backups, &policy, Some(CURRENT));
            let removals = plan.removals();
            let is_kept = |backup: &&BackupSummary| !removals.contains(&backup.name);

            prop_assert_eq!(plan.decisions.len(), backups.len());
            prop_assert!(plan.decisions.iter().all(|decision| !decision.reason.is_empty()));
            prop_assert!(backups.iter().filter(|backup| !backup.is_complete()).all(|backup| is_kept(&backup)));
            let newest = backups.iter().max_by_key(|backup| backup.created_at);
            prop_assert!(newest.is_none_or(|newest| is_kept(&newest)));
            for system in [OLD, CURRENT, SystemIdentifier(3)] {
                let good = backups.iter().filter(|b| is_restore_point(b) && is_good_of(b, Some(system)));
                let newest_good = good.max_by_key(|backup| backup.created_at);
                prop_assert!(newest_good.is_none_or(|newest| is_kept(&newest)));
            }
            let is_current = |backup: &&BackupSummary| is_restore_point(backup) && is_good_of(backup, Some(CURRENT));
            let verified = backups.iter().filter(is_current).filter(|backup| backup.is_verified());
            prop_assert!(verified.max_by_key(|backup| backup.created_at).is_none_or(|newest| is_kept(&newest)));
            prop_assert!(backups.iter().filter(|backup| backup.pin.is_some()).all(|backup| is_kept(&backup)));
        }

        #[test]
        fn a_cleanup_right_after_a_cleanup_removes_nothing(backups in any_backups(), policy in any_policy()) {
            let removals = retention(&backups, &policy, Some(CURRENT)).removals();
            let left: Vec<_> = backups.into_iter().filter(|backup| !removals.contains(&backup.name)).collect();

            prop_assert_eq!(retention(&left, &policy, Some(CURRENT)).removals(), vec![]);
        }

        #[test]
        fn no_more_restore_points_of_a_cluster_stay_than_were_asked_for_and_the_last_good_and_verified_ones(
            backups in any_backups(),
            policy in any_policy(),
        ) {
            let plan = retention(&backups, &policy, Some(CURRENT));
            let removals = plan.removals();
            let kept = backups.iter().filter(|backup| {
                is_restore_point(backup)
                    && backup.system_identifier == Some(CURRENT)
                    && backup.pin.is_none()
                    && !removals.contains(&backup.name)
            });
            let KeptPeriods { daily, weekly, monthly } = policy.periods;
            prop_assert!(kept.count() <= policy.max_backups.max(1) + daily + weekly + monthly + 2);
        }
    }
}
