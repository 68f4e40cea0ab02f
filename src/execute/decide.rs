//! From what is there to a plan: looks at the data directory and at the repository, and lets `plan` decide.

use super::branching::look_back;
use super::compared_wal::compare_wal;
use super::status_witness::ask_backups;
use super::{Backups, LOOKING_PATIENCE, Tools};
use crate::cluster::inspect::Depth;
use crate::cluster::{Expectations, inspect};
use crate::error::Failure;
use crate::pg::{Lsn, SystemIdentifier};
use crate::plan::ancestry::Comparison;
use crate::plan::archive::ArchiveView;
use crate::plan::branching::GoneBack;
use crate::plan::diagnosis::ClusterIdentity;
use crate::plan::point_in_time::{Way, restore_to};
use crate::plan::recovery::{Circumstances, Plan, Refusal, Tried, recovery};
use crate::plan::restore::restore;
use crate::plan::{BackupName, BackupSummary, ClusterCondition, Diagnosis, Finding, Remedy};
use crate::repository::{Repository, RepositoryError, WalArchive};
use crate::sys::effective_identity;
use anyhow::Context;
use chrono::{DateTime, Utc};
use std::time::Duration;

/// How long a decision waits that may put a backup in the place of the cluster: then there is no server to be kept from
/// its clients, and a repository that is only slow must be heard.
const RECOVERY_PATIENCE: Duration = Duration::from_mins(10);

/// Inspects the data directory as the server's user would.
pub fn diagnose(tools: &Tools) -> anyhow::Result<Diagnosis> {
    diagnose_to(tools, Depth::Structure)
}

/// Inspects the data directory as the server's user would, as far as is asked for.
pub fn diagnose_to(tools: &Tools, depth: Depth) -> anyhow::Result<Diagnosis> {
    diagnose_as(tools, effective_identity().uid, depth)
}

/// Inspects the data directory for a server that will run as user `server_uid`.
pub fn diagnose_for(tools: &Tools, server_uid: u32) -> anyhow::Result<Diagnosis> {
    diagnose_as(tools, server_uid, Depth::Structure)
}

fn diagnose_as(tools: &Tools, server_uid: u32, depth: Depth) -> anyhow::Result<Diagnosis> {
    let wanted = tools.settings.postgres_version.map(crate::pg::MajorVersion);
    let expectations = Expectations {
        wanted_version: wanted,
        installed_versions: vec![tools.installation.version],
        server_uid,
        depth,
        programs: Some(tools.installation.clone()),
    };
    let path = &tools.settings.data_directory;
    let inspected = inspect(path, &expectations);
    let mut diagnosis = inspected.with_context(|| format!("inspect '{}'", path.display()))?;
    ask_backups(tools, &mut diagnosis);
    Ok(diagnosis)
}

/// Decides what to do about a diagnosis.
pub fn decide(tools: &Tools, diagnosis: &Diagnosis) -> anyhow::Result<Result<Plan, Refusal>> {
    decide_after(tools, diagnosis, &Tried::default(), &mut LookedBack::default())
}

/// What the repository said last of whether a cluster is in its newest state, so that it is asked once.
#[derive(Default)]
pub(super) struct LookedBack(Option<(ClusterIdentity, Option<Lsn>, Option<GoneBack>)>);

impl LookedBack {
    /// A repository that cannot be read, or hangs, keeps no sound cluster from starting.
    fn answer(&mut self, tools: &Tools, diagnosis: &Diagnosis) -> Option<GoneBack> {
        if let Some((identity, end, answer)) = &self.0
            && (identity, end) == (&diagnosis.identity, &diagnosis.wal_end)
        {
            return answer.clone();
        }
        let about = diagnosis.clone();
        let asked = ask(tools, LOOKING_PATIENCE, move |repository| look_back(repository, &about));
        match asked {
            Ok(answer) => {
                let answer = answer.flatten();
                self.0 = Some((diagnosis.identity.clone(), diagnosis.wal_end, answer.clone()));
                answer
            }
            Err(error) => {
                tools.progress.note(&format!("could not compare the cluster with its backups: {error:#}"));
                None
            }
        }
    }
}

/// Decides what to do about a diagnosis, knowing what did not help.
pub(super) fn decide_after(
    tools: &Tools,
    diagnosis: &Diagnosis,
    tried: &Tried,
    looked_back: &mut LookedBack,
) -> anyhow::Result<Result<Plan, Refusal>> {
    let is_first_try = *tried == Tried::default();
    let may_replace = may_replace(diagnosis);
    let backups = match diagnosis.condition {
        // A repository that cannot be read keeps no sound cluster from starting.
        ClusterCondition::Sound if !tried.start => Vec::new(),
        // What the first repairs come to, and what follows a person's word, rests on none.
        ClusterCondition::Repairable if is_first_try && !may_replace => {
            listed_within(tools, LOOKING_PATIENCE).unwrap_or_default()
        }
        ClusterCondition::Absent | ClusterCondition::Empty if tools.settings.allow_empty => {
            listed_within(tools, LOOKING_PATIENCE).unwrap_or_default()
        }
        _ => listed_within(tools, RECOVERY_PATIENCE)?,
    };
    let archives = if may_replace {
        // To leave out archived WAL that cannot be read now would lose rows for a reason that may pass.
        archives_within(tools, RECOVERY_PATIENCE, &backups)?
    } else {
        archives_within(tools, LOOKING_PATIENCE, &backups).unwrap_or_default()
    };
    let circumstances = Circumstances {
        backups: &backups,
        archives: &archives,
        compared: if may_replace { compare_wal(tools, diagnosis, &backups)? } else { Vec::new() },
        gone_back: looked_back.answer(tools, diagnosis),
        repository: repository_id(tools),
        policy: tools.settings.recovery,
        may_begin_anew: tools.settings.allow_empty,
        tried: tried.clone(),
        now: Utc::now(),
    };
    Ok(recovery(diagnosis, &circumstances))
}

/// Whether a plan for it may put something else in the place of the cluster.
fn may_replace(diagnosis: &Diagnosis) -> bool {
    let is_replayed = |finding: &Finding| matches!(finding.remedy, Remedy::ReplayFrom(_));
    diagnosis.condition == ClusterCondition::Damaged || diagnosis.findings.iter().any(is_replayed)
}

/// Decides how to put a backup in the place of the present data.
pub(super) fn decide_restore(
    tools: &Tools,
    backup: &BackupSummary,
    diagnosis: &Diagnosis,
    now: DateTime<Utc>,
) -> anyhow::Result<Plan> {
    let backups = listed_backups(tools)?;
    let circumstances = of_restore(tools, &backups, now);
    let compared = compared_with(tools, diagnosis, backup);
    let circumstances = Circumstances { compared, ..circumstances };
    let decided = restore(backup, diagnosis, tools.installation.version, &circumstances);
    decided.map_err(|refusal| Failure::from(refusal).into())
}

/// Decides how to put a backup, recovered to a moment, in the place of the present data.
pub(super) fn decide_restore_to(
    tools: &Tools,
    backup: &BackupSummary,
    way: &Way,
    diagnosis: &Diagnosis,
    now: DateTime<Utc>,
) -> anyhow::Result<Plan> {
    let backups = listed_backups(tools)?;
    let circumstances = of_restore(tools, &backups, now);
    let decided = restore_to(backup, way, diagnosis, tools.installation.version, &circumstances);
    decided.map_err(|refusal| Failure::from(refusal).into())
}

/// What the WAL of a backup that a person chose is beside the present WAL. That only says more about the backup: where it
/// cannot be read, the person's choice stands.
fn compared_with(
    tools: &Tools,
    diagnosis: &Diagnosis,
    backup: &BackupSummary,
) -> Vec<(BackupName, Comparison)> {
    compare_wal(tools, diagnosis, std::slice::from_ref(backup)).unwrap_or_else(|error| {
        tools
            .progress
            .note(&format!("could not compare {} with the present cluster: {error:#}", backup.name));
        Vec::new()
    })
}

/// What a restore by a person goes by.
fn of_restore<'a>(tools: &'a Tools, backups: &'a [BackupSummary], now: DateTime<Utc>) -> Circumstances<'a> {
    let policy = tools.settings.recovery;
    let repository = repository_id(tools);
    let tried = Tried::default();
    let compared = Vec::new();
    let may_begin_anew = tools.settings.allow_empty;
    Circumstances {
        backups,
        archives: &[],
        compared,
        gone_back: None,
        repository,
        policy,
        may_begin_anew,
        tried,
        now,
    }
}

fn repository_id<'a>(tools: &'a Tools) -> Option<&'a str> {
    match tools.backups {
        Backups::Open(repository) => repository.identity().map(|identity| identity.id.as_str()),
        Backups::None | Backups::Unusable(_) => None,
    }
}

/// Asks the repository something that changes nothing; `None` where there is none.
///
/// # Errors
/// When it cannot be used, or does not answer in time.
fn ask<T: Send + 'static>(
    tools: &Tools,
    patience: Duration,
    question: impl FnOnce(&Repository) -> anyhow::Result<T> + Send + 'static,
) -> anyhow::Result<Option<T>> {
    let Some(repository) = tools.repository()? else { return Ok(None) };
    repository.answer_within(patience, question)?.map(Some)
}

fn listed_backups(tools: &Tools) -> anyhow::Result<Vec<BackupSummary>> {
    match tools.repository()? {
        Some(repository) => repository.backups().context("list the backups"),
        None => Ok(Vec::new()),
    }
}

fn listed_within(tools: &Tools, patience: Duration) -> anyhow::Result<Vec<BackupSummary>> {
    let listed = ask(tools, patience, |repository| Ok(repository.backups()?));
    Ok(listed.context("list the backups")?.unwrap_or_default())
}

type Archives = Vec<(SystemIdentifier, ArchiveView)>;

fn archives_within(tools: &Tools, patience: Duration, backups: &[BackupSummary]) -> anyhow::Result<Archives> {
    // Without a repository there is no archive; that it cannot be used was said where the backups were listed.
    if backups.is_empty() || !matches!(tools.repository(), Ok(Some(_))) {
        return Ok(Archives::new());
    }
    let backups = backups.to_vec();
    Ok(ask(tools, patience, move |repository| archives_of(repository, &backups))?.unwrap_or_default())
}

/// The archived WAL of every cluster that one of the backups is of, without what is damaged. A list of what a reading of the
/// repository found may be older than the disk: what is listed is read again, and what is sound now counts.
fn archives_of(repository: &Repository, backups: &[BackupSummary]) -> anyhow::Result<Archives> {
    let mut archives = Archives::new();
    let known_damaged = repository.scrub_state().context("read what was found damaged in the repository")?;
    for backup in backups {
        let known = backup.system_identifier.zip(backup.wal_segment_size_bytes);
        let Some((cluster, size)) = known else { continue };
        if archives.iter().all(|(of, _)| *of != cluster) {
            let archive = repository.wal_archive(cluster);
            let mut view = archive.view(size).context("list the archived WAL")?;
            let listed = known_damaged.damaged_wal_of(cluster);
            view.segments.retain(|segment| {
                let name = segment.to_string();
                !listed.contains(name.as_str()) || !is_damaged(&archive, &name)
            });
            archives.push((cluster, view));
        }
    }
    Ok(archives)
}

/// Whether an archived file is damaged. One that cannot be read now may be sound.
fn is_damaged(archive: &WalArchive, name: &str) -> bool {
    matches!(
        archive.fetch(name, &mut std::io::sink()),
        Err(RepositoryError::Damaged { .. } | RepositoryError::OtherContent { .. })
    )
}
