//! What there is to reach a moment with: the backups, the WAL that is archived or in the present `pg_wal`, and the
//! histories of the timelines.

use anyhow::Context;

use super::refused;
use crate::cluster::inspect::follow;
use crate::execute::compared_wal::compare_wal;
use crate::execute::{Backups, Tools};
use crate::pg::timeline_history::{self, Ancestor};
use crate::pg::wal::WalFileName;
use crate::pg::{Lsn, SystemIdentifier, TimelineId};
use crate::plan::ancestry::{Ancestry, ancestry, possible_clusters};
use crate::plan::archive::ArchiveView;
use crate::plan::point_in_time::TimelineChoice;
use crate::plan::selection::newest_first;
use crate::plan::timelines::History;
use crate::plan::{BackupSummary, Diagnosis};
use crate::repository::{Repository, WalArchive};
use crate::sys::ReadRoot;

/// The longest history file that is read.
const LARGEST_HISTORY_BYTES: u64 = 1 << 20;

/// Everything that is known of one cluster.
pub(super) struct Scene<'a> {
    pub(super) repository: &'a Repository,
    pub(super) cluster: SystemIdentifier,
    pub(super) segment_size_bytes: u32,
    pub(super) backups: Vec<BackupSummary>,
    pub(super) archive: WalArchive<'a>,
    view: ArchiveView,
    /// Every segment, archived or present, in order.
    pub(super) segments: Vec<WalFileName>,
    /// The present cluster, if it is the one.
    pub(super) present: Option<Present>,
}

/// The cluster in the data directory.
pub(super) struct Present {
    pub(super) wal: ReadRoot,
    pub(super) surviving: Vec<WalFileName>,
    pub(super) timeline: Option<TimelineId>,
    ancestors: Vec<Ancestor>,
    redo: Option<Lsn>,
}

impl<'a> Scene<'a> {
    /// Looks at what there is of the cluster of a backup, else of the present cluster, else of the newest backup.
    pub(super) fn look(
        tools: &Tools<'a>,
        backup: Option<&BackupSummary>,
        diagnosis: &Diagnosis,
    ) -> anyhow::Result<Self> {
        let place = tools.settings.backup_directory.display();
        let none =
            || refused(format!("there are no backups in '{place}'"), "make one: `backup-postgresql create`");
        let Backups::Open(repository) = tools.backups else {
            return Err(tools.repository().err().unwrap_or_else(none));
        };
        let backups = repository.backups().context("list the backups")?;
        let ours = diagnosis.identity.system_identifier;
        let is_of = |backup: &&&BackupSummary| {
            ours.is_none() || backup.system_identifier == ours && backup.wal_segment_size_bytes.is_some()
        };
        let several = possible_clusters(&backups, &diagnosis.identity);
        if backup.is_none() && several.len() > 1 {
            let reason =
                "nothing in the data directory tells which cluster it is, and there are backups of several";
            return Err(refused(
                reason,
                "name a backup of the right one: `backup-postgresql list` shows them",
            ));
        }
        let newest = newest_first(&backups, None);
        let model = backup.or_else(|| newest.iter().find(is_of).copied());
        let known = model.and_then(|model| model.system_identifier.zip(model.wal_segment_size_bytes));
        let Some((cluster, segment_size_bytes)) = known else {
            let reason = match backup {
                Some(backup) => format!("{} does not say how its WAL goes on", backup.name),
                None => "there is no backup of this cluster".to_owned(),
            };
            return Err(refused(reason, "choose another of `backup-postgresql list`"));
        };
        let backups = match backup {
            // A person who names a backup means that one.
            Some(_) => backups,
            None => without_other_branches(tools, diagnosis, backups)?,
        };
        let archive = repository.wal_archive(cluster);
        let view = archive.view(segment_size_bytes).context("list the archived WAL")?;
        let present = Present::look(diagnosis).filter(|_| ours == Some(cluster));
        let surviving = present.as_ref().map_or(&[] as &[WalFileName], |present| &present.surviving);
        let mut segments = [surviving, &view.segments].concat();
        segments.sort_unstable();
        segments.dedup();
        Ok(Self { repository, cluster, segment_size_bytes, backups, archive, view, segments, present })
    }

    /// Every timeline of which there is anything.
    pub(super) fn timelines(&self) -> Vec<TimelineId> {
        let of_segments = self.segments.iter().map(|segment| segment.timeline);
        let of_histories = self.view.histories.iter().map(|(timeline, _)| *timeline);
        let present = self.present.as_ref().and_then(|present| present.timeline);
        let mut timelines: Vec<TimelineId> = of_segments.chain(of_histories).chain(present).collect();
        timelines.sort_unstable();
        timelines.dedup();
        timelines
    }

    /// The timeline that a person means.
    pub(super) fn choose(&self, choice: TimelineChoice, backup: Option<&BackupSummary>) -> TimelineId {
        let of_backup = || {
            let newest = newest_first(&self.backups, None);
            let of_cluster = newest.into_iter().find(|backup| backup.system_identifier == Some(self.cluster));
            backup.or(of_cluster).and_then(|backup| backup.timeline).unwrap_or(TimelineId(1))
        };
        match choice {
            TimelineChoice::Number(timeline) => timeline,
            TimelineChoice::Latest => self.timelines().last().copied().unwrap_or_else(of_backup),
            TimelineChoice::Present => {
                let present = self.present.as_ref().and_then(|present| present.timeline);
                present.or(self.view.latest).unwrap_or_else(of_backup)
            }
        }
    }

    /// The history of a timeline.
    ///
    /// # Errors
    /// [`crate::error::Kind::Refused`] where nothing tells what it was forked from.
    pub(super) fn history(&self, timeline: TimelineId) -> anyhow::Result<History> {
        let of_present = self.present.as_ref().and_then(|present| present.history(timeline));
        let archived = || self.view.history(timeline).map(<[Ancestor]>::to_vec);
        let has_ancestors = |ancestors: &Vec<Ancestor>| !ancestors.is_empty();
        let found = of_present.filter(has_ancestors).or_else(archived).filter(has_ancestors);
        match found {
            Some(ancestors) => Ok(History::new(timeline, &ancestors)),
            None if timeline == TimelineId(1) => Ok(History::new(timeline, &[])),
            None => {
                let known: Vec<String> = self.timelines().iter().map(ToString::to_string).collect();
                let message = format!(
                    "timeline {timeline} cannot be followed: '{}' is neither archived nor in pg_wal",
                    timeline_history::file_name(timeline)
                );
                Err(refused(message, &format!("the timelines that are known are {}", known.join(", "))))
            }
        }
    }

    /// Whether a chain of segments ends where the present cluster's WAL does, so that nothing was written behind it.
    pub(super) fn is_present_end(&self, history: &History, last: WalFileName) -> bool {
        let Some(present) = &self.present else { return false };
        let is_newest = present.surviving.iter().all(|segment| {
            segment.timeline != history.timeline() || segment.segment_number <= last.segment_number
        });
        let size = u64::from(self.segment_size_bytes);
        let has_checkpoint = present.redo.is_some_and(|redo| redo.0 / size <= last.segment_number);
        present.timeline == Some(history.timeline()) && is_newest && has_checkpoint
    }
}

/// Leaves out backups on the present timeline whose WAL is not that of the present cluster: a volume was put back, and
/// they are of the history that was given up. Other timelines a person can name.
fn without_other_branches(
    tools: &Tools,
    diagnosis: &Diagnosis,
    mut backups: Vec<BackupSummary>,
) -> anyhow::Result<Vec<BackupSummary>> {
    let compared = compare_wal(tools, diagnosis, &backups)?;
    let present = diagnosis.identity.timeline;
    backups.retain(|backup| {
        let is_other = matches!(ancestry(backup, diagnosis, &compared), Ancestry::OtherBranch(_));
        !(is_other && backup.timeline == present)
    });
    Ok(backups)
}

impl Present {
    fn look(diagnosis: &Diagnosis) -> Option<Self> {
        let root = ReadRoot::open(&diagnosis.data_directory).ok()?;
        let identity = &diagnosis.identity;
        Some(Self {
            wal: follow(&root, "pg_wal").ok()?,
            surviving: diagnosis.wal_segments.clone(),
            timeline: identity.timeline,
            ancestors: identity.ancestors.clone(),
            redo: identity.redo,
        })
    }

    fn history(&self, timeline: TimelineId) -> Option<Vec<Ancestor>> {
        if self.timeline == Some(timeline) {
            return Some(self.ancestors.clone());
        }
        let name = timeline_history::file_name(timeline);
        timeline_history::parse(&self.wal.read_text(name, LARGEST_HISTORY_BYTES).ok()??)
    }
}
