//! Whether a backup is of the present cluster's past. Pure.
//!
//! Neither a clock nor a name nor the number of a timeline tells: after a volume was put back to a snapshot, or was copied,
//! two histories go on under one system identifier and one timeline. Evidence does:
//!
//! - the timelines that led to the present one, each up to where it was left (timeline.c, `tliInHistory()`);
//! - the end of the present WAL: nothing that ends after it can have been written before it;
//! - the list of its own backups that a data directory keeps ([`Lineage`]): it goes back with the volume;
//! - the WAL of the backup beside that in `pg_wal`: its records have times and transaction numbers, so that WAL of two
//!   histories differs from where they part, and WAL that is equal has the same WAL before it.
//!
//! What cannot be shown is never taken by itself. It is named to a person, who may know.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::backups::{BackupKind, BackupName, BackupSummary};
use super::diagnosis::{ClusterIdentity, Diagnosis, Severity};
use super::timelines::History;
use crate::pg::{Lsn, SystemIdentifier, TimelineId};

/// More backups than this are not remembered; the oldest are forgotten first.
const MOST_MARKS: usize = 512;

/// A backup, as the data directory that it was made of remembers it. No two backups have the same mark.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// Its name.
    pub name: BackupName,
    /// When it was begun, to the nanosecond.
    pub created_at: DateTime<Utc>,
    /// Its timeline.
    pub timeline: TimelineId,
    /// Where it becomes consistent.
    pub stop_lsn: Lsn,
}

impl Mark {
    /// The mark of a hot backup; `None` for what tells no place in the WAL.
    pub fn of(backup: &BackupSummary) -> Option<Self> {
        let (timeline, stop_lsn) = backup.timeline.zip(backup.stop_lsn)?;
        Some(Self { name: backup.name, created_at: backup.created_at, timeline, stop_lsn })
    }
}

/// The backups that are of the past of one data directory, oldest first. It is kept inside that directory.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lineage {
    /// The cluster.
    pub system_identifier: Option<SystemIdentifier>,
    /// Its backups.
    pub backups: Vec<Mark>,
}

impl Lineage {
    /// Whether a backup is in it.
    pub fn has(&self, backup: &BackupSummary) -> bool {
        self.system_identifier == backup.system_identifier
            && Mark::of(backup).is_some_and(|mark| self.backups.contains(&mark))
    }

    /// The lineage with one more backup of a cluster on a history; what is not of that history is forgotten.
    #[must_use]
    pub fn with(mut self, cluster: SystemIdentifier, mark: Mark, history: &History) -> Self {
        if self.system_identifier != Some(cluster) {
            self = Self { system_identifier: Some(cluster), backups: Vec::new() };
        }
        self.backups.retain(|other| *other != mark && history.has(other.timeline, other.stop_lsn));
        self.backups.push(mark);
        let surplus = self.backups.len().saturating_sub(MOST_MARKS);
        self.backups.drain(..surplus);
        self
    }

    /// The lineage of a cluster that was restored from a backup: that of the present one, if the backup is of its past.
    #[must_use]
    pub fn restored_from(self, cluster: SystemIdentifier, mark: Mark, history: &History) -> Self {
        let is_own = self.system_identifier == Some(cluster) && self.backups.contains(&mark);
        if !is_own {
            return Self { system_identifier: Some(cluster), backups: vec![mark] };
        }
        let backups = self.backups.into_iter();
        let backups = backups.filter(|other| *other == mark || history.has(other.timeline, other.stop_lsn));
        Self { system_identifier: Some(cluster), backups: backups.collect() }
    }
}

/// What a backup's WAL is beside the WAL of the same place in the present `pg_wal`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Comparison {
    /// They are equal.
    Same,
    /// They are not, and the present one is no damaged copy of the other.
    Differs,
    /// There is nothing to compare.
    Unknown,
}

/// What the WAL of some backups is beside that of the present cluster.
pub type Compared = [(BackupName, Comparison)];

/// Whether a backup is of the present cluster's past.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ancestry {
    /// It is.
    Proven,
    /// It is of another cluster.
    OtherCluster,
    /// It is of this cluster, on a branch that is not the present one's past.
    OtherBranch(String),
    /// It may be; why that cannot be shown.
    Unknown(String),
}

/// Judges whether a backup is of the past of a diagnosed cluster.
pub fn ancestry(backup: &BackupSummary, diagnosis: &Diagnosis, compared: &Compared) -> Ancestry {
    let identity = &diagnosis.identity;
    if is_of_another(backup, identity) {
        return Ancestry::OtherCluster;
    }
    if let Some(reason) = contradiction(backup, diagnosis) {
        return Ancestry::OtherBranch(reason);
    }
    let comparison = compared.iter().find(|(name, _)| *name == backup.name).map(|(_, found)| *found);
    match comparison {
        Some(Comparison::Differs) => {
            Ancestry::OtherBranch("its WAL is not the WAL that is in pg_wal under the same name".to_owned())
        }
        Some(Comparison::Same) if identity.system_identifier.is_some() => Ancestry::Proven,
        _ if diagnosis.lineage.has(backup) => Ancestry::Proven,
        _ => Ancestry::Unknown(
            "neither the data directory's list of its backups nor WAL in pg_wal shows that it is of this cluster's past"
                .to_owned(),
        ),
    }
}

/// Returns the system identifiers of the clusters that backups are of, where the diagnosed one's is unknown and could be
/// any of several.
pub fn possible_clusters(backups: &[BackupSummary], identity: &ClusterIdentity) -> Vec<SystemIdentifier> {
    if identity.system_identifier.is_some() {
        return Vec::new();
    }
    let of_backups = backups.iter().filter(|backup| backup.name.kind() == BackupKind::Backup);
    let mut clusters: Vec<SystemIdentifier> =
        of_backups.filter_map(|backup| backup.system_identifier).collect();
    clusters.sort_unstable();
    clusters.dedup();
    if clusters.len() > 1 { clusters } else { Vec::new() }
}

fn is_of_another(backup: &BackupSummary, identity: &ClusterIdentity) -> bool {
    let differs = |ours: Option<u64>, theirs: Option<u64>| ours.zip(theirs).is_some_and(|(a, b)| a != b);
    differs(identity.system_identifier.map(|id| id.0), backup.system_identifier.map(|id| id.0))
        || differs(
            identity.major_version.map(|version| u64::from(version.0)),
            backup.major_version.map(|version| u64::from(version.0)),
        )
}

/// What shows that a backup of this cluster is not of its past.
fn contradiction(backup: &BackupSummary, diagnosis: &Diagnosis) -> Option<String> {
    let identity = &diagnosis.identity;
    let timeline = backup.timeline?;
    let end = backup.stop_lsn.or(backup.checkpoint_lsn)?;
    if let Some(present) = identity.timeline
        && !History::new(present, &identity.ancestors).has(timeline, end)
    {
        return Some(format!("timeline {timeline} at {end} did not lead to the present timeline {present}"));
    }
    let present_end = exact_end(diagnosis)?;
    (end > present_end).then(|| {
        format!("it ends at {end}, and the WAL of this data directory at {present_end}: it was put back to an earlier state")
    })
}

/// The end of the present WAL, where nothing says that it once went further.
pub fn exact_end(diagnosis: &Diagnosis) -> Option<Lsn> {
    const DOUBTFUL: [&str; 3] = ["checkpoint-unreadable", "control-file-stale", "page-beyond-wal"];
    let is_doubtful =
        |code: &str| DOUBTFUL.contains(&code) || code.starts_with("wal-") || code.starts_with("backup-label");
    let has_doubt = diagnosis
        .findings
        .iter()
        .any(|finding| finding.severity != Severity::Notice && is_doubtful(finding.code));
    diagnosis.wal_end.filter(|_| !has_doubt)
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;
    use crate::pg::timeline_history::Ancestor;
    use crate::plan::backups::BackupFormat;
    use crate::plan::diagnosis::{ClusterCondition, Finding, Presence};

    const CLUSTER: SystemIdentifier = SystemIdentifier(7);
    const STOP: u64 = 0x0300_0138;

    fn backup(cluster: u64, timeline: u32, stop: u64) -> BackupSummary {
        let name = format!("data_20260101_1200{:02}", stop % 60).parse().unwrap();
        BackupSummary {
            system_identifier: Some(SystemIdentifier(cluster)),
            timeline: Some(TimelineId(timeline)),
            stop_lsn: Some(Lsn(stop)),
            ..BackupSummary::unknown(name, BackupFormat::Chunked)
        }
    }

    /// A cluster on timeline 2, which left timeline 1 at `0/5000000`, and whose WAL ends there.
    fn damaged(backups: &[BackupSummary], codes: &[&'static str]) -> Diagnosis {
        let ancestors = vec![Ancestor { timeline: TimelineId(1), switch_point: Lsn(0x0500_0000) }];
        let identity = ClusterIdentity {
            system_identifier: Some(CLUSTER),
            timeline: Some(TimelineId(2)),
            ancestors,
            ..ClusterIdentity::default()
        };
        let finding = |code: &&'static str| Finding::new(code, Severity::Error, "pg_wal", "it is not whole");
        Diagnosis {
            identity,
            findings: codes.iter().map(finding).collect(),
            wal_end: Some(Lsn(0x0600_0000)),
            lineage: Lineage {
                system_identifier: Some(CLUSTER),
                backups: backups.iter().filter_map(Mark::of).collect(),
            },
            ..Diagnosis::blank("/data", ClusterCondition::Damaged, Presence::Free)
        }
    }

    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    enum Verdict {
        Proven,
        OtherCluster,
        OtherBranch,
        Unknown,
    }

    #[rstest]
    #[case::in_the_list(backup(7, 1, STOP), true, None, &[], Verdict::Proven)]
    #[case::its_wal_is_there(backup(7, 1, STOP), false, Some(Comparison::Same), &[], Verdict::Proven)]
    #[case::nothing_shows_it(backup(7, 1, STOP), false, None, &[], Verdict::Unknown)]
    #[case::wal_that_says_nothing(backup(7, 1, STOP), false, Some(Comparison::Unknown), &[], Verdict::Unknown)]
    #[case::the_list_where_wal_says_nothing(backup(7, 1, STOP), true, Some(Comparison::Unknown), &[], Verdict::Proven)]
    #[case::a_list_that_the_wal_contradicts(backup(7, 1, STOP), true, Some(Comparison::Differs), &[], Verdict::OtherBranch)]
    #[case::behind_the_end(backup(7, 2, 0x0600_0001), true, None, &[], Verdict::OtherBranch)]
    #[case::behind_an_end_that_may_be_damage(backup(7, 2, 0x0600_0001), true, None, &["wal-chain-broken"], Verdict::Proven)]
    #[case::at_the_end(backup(7, 2, 0x0600_0000), true, None, &[], Verdict::Proven)]
    #[case::behind_the_fork(backup(7, 1, 0x0500_0001), true, None, &[], Verdict::OtherBranch)]
    #[case::on_a_timeline_that_led_elsewhere(backup(7, 3, STOP), true, Some(Comparison::Same), &[], Verdict::OtherBranch)]
    #[case::of_another_cluster(backup(8, 1, STOP), true, Some(Comparison::Same), &[], Verdict::OtherCluster)]
    fn evidence_tells_whose_past_a_backup_is(
        #[case] backup: BackupSummary,
        #[case] is_listed: bool,
        #[case] comparison: Option<Comparison>,
        #[case] codes: &[&'static str],
        #[case] expected: Verdict,
    ) {
        let listed = if is_listed { std::slice::from_ref(&backup) } else { &[] };
        let compared: Vec<_> = comparison.map(|found| (backup.name, found)).into_iter().collect();
        let found = match ancestry(&backup, &damaged(listed, codes), &compared) {
            Ancestry::Proven => Verdict::Proven,
            Ancestry::OtherCluster => Verdict::OtherCluster,
            Ancestry::OtherBranch(_) => Verdict::OtherBranch,
            Ancestry::Unknown(_) => Verdict::Unknown,
        };
        assert_eq!(found, expected);
    }

    #[test]
    fn another_backup_of_the_same_name_is_not_in_the_list() {
        let listed = backup(7, 1, STOP);
        let later = BackupSummary {
            created_at: listed.created_at + chrono::TimeDelta::nanoseconds(1),
            ..listed.clone()
        };
        let diagnosis = damaged(&[listed], &[]);
        assert!(matches!(ancestry(&later, &diagnosis, &[]), Ancestry::Unknown(_)));
    }

    #[test]
    fn the_list_follows_the_history_of_the_cluster() {
        let mark = |timeline, stop| Mark::of(&backup(7, timeline, stop)).unwrap();
        let first = History::new(TimelineId(1), &[]);
        let forked =
            History::new(TimelineId(2), &[Ancestor { timeline: TimelineId(1), switch_point: Lsn(20) }]);
        let lineage =
            Lineage::default().with(CLUSTER, mark(1, 10), &first).with(CLUSTER, mark(1, 30), &first);
        assert_eq!(lineage.backups, [mark(1, 10), mark(1, 30)]);

        // Restored from the first, the second is of the branch that was left.
        let restored = lineage.clone().restored_from(CLUSTER, mark(1, 10), &forked);
        assert_eq!(restored.backups, [mark(1, 10)]);
        let gone_on = restored.with(CLUSTER, mark(2, 25), &forked);
        assert_eq!(gone_on.backups, [mark(1, 10), mark(2, 25)]);

        // Of what came before a backup that is not in the list, nothing is known; nor of another cluster's.
        assert_eq!(gone_on.restored_from(CLUSTER, mark(1, 19), &forked).backups, [mark(1, 19)]);
        assert_eq!(lineage.with(SystemIdentifier(8), mark(1, 40), &first).backups, [mark(1, 40)]);
    }

    #[test]
    fn the_list_stays_short() {
        let history = History::new(TimelineId(1), &[]);
        let lineage = (1..=MOST_MARKS as u64 + 5).fold(Lineage::default(), |lineage, stop| {
            lineage.with(CLUSTER, Mark::of(&backup(7, 1, stop)).unwrap(), &history)
        });
        assert_eq!(lineage.backups.len(), MOST_MARKS);
        assert_eq!(lineage.backups.first().map(|mark| mark.stop_lsn), Some(Lsn(6)));
    }

    #[test]
    fn a_cluster_that_is_not_known_could_be_any_of_several_only_where_there_are_several() {
        let unknown = ClusterIdentity::default();
        let known = ClusterIdentity { system_identifier: Some(CLUSTER), ..ClusterIdentity::default() };
        let (one, other) = (backup(7, 1, STOP), backup(8, 1, STOP + 1));
        let both = [one.clone(), other];
        assert_eq!(possible_clusters(&both, &unknown), [CLUSTER, SystemIdentifier(8)]);
        assert!(possible_clusters(&both, &known).is_empty());
        assert!(possible_clusters(&[one], &unknown).is_empty());
    }
}
