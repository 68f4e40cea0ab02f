//! The order of backups: by history, which the WAL tells, and only then by the clock. Pure.
//!
//! A clock may have been wrong when a backup was made, and its LSN cannot be: within one cluster a later timeline comes
//! after an earlier one, and on one timeline a higher start LSN after a lower one. Clocks order only what has no place in
//! a history: backups of different clusters, and such as tell no LSN. A backup from the future counts there as no newer
//! than those that were made after it.

use std::borrow::Borrow;
use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};

use chrono::{DateTime, TimeDelta, Utc};

use super::backups::{BackupName, BackupSummary};
use crate::pg::{Lsn, SystemIdentifier, TimelineId};

/// A place in the history of a cluster: timeline, start, stop.
type Place = (TimelineId, Lsn, Lsn);

/// What backups are ordered by. The time is that of the clock, put right by the history.
pub(super) type OrderKey = (DateTime<Utc>, Option<Place>, DateTime<Utc>, BackupName);

/// Sorts backups, the newest first.
pub fn sort_newest_first<B: Borrow<BackupSummary>>(backups: &mut [B]) {
    let keys = order_keys(backups);
    backups.sort_by_cached_key(|backup| Reverse(keys.get(&backup.borrow().name).copied()));
}

/// How far two clocks may differ before a time counts as wrong.
const CLOCK_TOLERANCE: TimeDelta = TimeDelta::minutes(5);

/// Returns the backups whose time is still to come: a clock was, or is, wrong.
pub fn from_the_future(
    backups: &[BackupSummary],
    now: DateTime<Utc>,
) -> impl Iterator<Item = &BackupSummary> {
    backups.iter().filter(move |backup| is_of_the_future(backup, now))
}

/// Says whether a backup's time is still to come.
pub fn is_of_the_future(backup: &BackupSummary, now: DateTime<Utc>) -> bool {
    backup.created_at > now + CLOCK_TOLERANCE
}

/// Returns the place of each backup in the order, by name.
pub(super) fn order_keys<B: Borrow<BackupSummary>>(backups: &[B]) -> HashMap<BackupName, OrderKey> {
    let mut clusters: BTreeMap<SystemIdentifier, Vec<(Place, &BackupSummary)>> = BTreeMap::new();
    let mut keys = HashMap::new();
    for backup in backups.iter().map(Borrow::borrow) {
        match place_of(backup) {
            Some((cluster, place)) => clusters.entry(cluster).or_default().push((place, backup)),
            None => {
                keys.insert(backup.name, (backup.created_at, None, backup.created_at, backup.name));
            }
        }
    }
    for mut members in clusters.into_values() {
        members.sort_by_key(|(place, backup)| Reverse((*place, backup.created_at, backup.name)));
        let mut latest = DateTime::<Utc>::MAX_UTC;
        for (place, backup) in members {
            latest = latest.min(backup.created_at);
            keys.insert(backup.name, (latest, Some(place), backup.created_at, backup.name));
        }
    }
    keys
}

/// The place that a backup's WAL gives it. A copy of a stopped cluster has the LSN of its last checkpoint.
fn place_of(backup: &BackupSummary) -> Option<(SystemIdentifier, Place)> {
    let start = backup.start_lsn.or(backup.checkpoint_lsn).or(backup.stop_lsn)?;
    let place = (backup.timeline?, start, backup.stop_lsn.unwrap_or(start));
    Some((backup.system_identifier?, place))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;
    use crate::plan::backups::{BackupFormat, BackupKind};

    /// A backup made `day` days after the first by the clock of its machine.
    fn backup(cluster: u64, timeline: u32, start: Option<u64>, day: i64) -> BackupSummary {
        let created_at = DateTime::from_timestamp(1_795_000_000, 0).unwrap() + TimeDelta::days(day);
        let name = BackupName::new(BackupKind::Backup, created_at);
        BackupSummary {
            created_at,
            system_identifier: Some(SystemIdentifier(cluster)),
            timeline: Some(TimelineId(timeline)),
            start_lsn: start.map(Lsn),
            ..BackupSummary::unknown(name, BackupFormat::Chunked)
        }
    }

    #[rstest]
    #[case::a_clock_that_was_ahead([backup(1, 1, Some(10), 30), backup(1, 1, Some(20), 1)])]
    #[case::a_clock_that_was_behind([backup(1, 1, Some(10), 0), backup(1, 1, Some(20), -30)])]
    #[case::a_restore_to_an_earlier_place([backup(1, 1, Some(20), 0), backup(1, 2, Some(10), 1)])]
    #[case::no_lsn_and_so_by_the_clock([backup(1, 1, None, 0), backup(1, 1, None, 1)])]
    #[case::another_cluster_by_the_clock([backup(1, 1, Some(90), 0), backup(2, 1, Some(10), 1)])]
    #[case::one_that_says_little([backup(1, 1, Some(90), 0), backup(1, 1, None, 1)])]
    fn the_later_of_two_backups_is_the_newer(#[case] pair: [BackupSummary; 2]) {
        let [older, newer] = pair;
        for mut backups in [vec![older.clone(), newer.clone()], vec![newer.clone(), older.clone()]] {
            sort_newest_first(&mut backups);
            assert_eq!(backups, [newer.clone(), older.clone()]);
        }
    }

    #[test]
    fn a_backup_of_the_future_is_no_newer_than_another_clusters_if_a_later_one_is_not() {
        let ahead = backup(1, 1, Some(10), 30);
        let (after_it, of_another) = (backup(1, 1, Some(20), 1), backup(2, 1, Some(10), 2));
        let mut backups = vec![ahead.clone(), after_it.clone(), of_another.clone()];
        sort_newest_first(&mut backups);
        assert_eq!(backups, [of_another, after_it, ahead]);
    }

    proptest! {
        #[test]
        fn within_a_cluster_the_lsn_decides_whatever_the_clocks_said(
            made in prop::collection::btree_map(0_i64..400, (1_u64..4, 1_u64..1000), 1..12),
        ) {
            let mut backups: Vec<BackupSummary> =
                made.iter().map(|(day, (cluster, lsn))| backup(*cluster, 1, Some(*lsn), *day)).collect();
            sort_newest_first(&mut backups);
            for cluster in 1..4 {
                let of_cluster = backups.iter().filter(|backup| backup.system_identifier == Some(SystemIdentifier(cluster)));
                let lsns: Vec<_> = of_cluster.map(|backup| backup.start_lsn).collect();
                prop_assert!(lsns.is_sorted_by(|left, right| left >= right), "{lsns:?}");
            }
        }
    }
}
