//! What is refused, with nothing changed: what is in use, not PostgreSQL's, of another version, what only a person
//! can put right, and what `RECOVERY` does not allow.

use super::step::Refusal;
use super::{Circumstances, Needed};
use crate::pg::SystemIdentifier;
use crate::plan::ancestry::{Ancestry, possible_clusters};
use crate::plan::backups::BackupSummary;
use crate::plan::diagnosis::{ClusterCondition, Diagnosis, Finding, Remedy, Severity};
use crate::plan::policy::RecoveryPolicy;
use crate::plan::selection::newest_first;

pub(super) fn refuse_what_is_not_ours(diagnosis: &Diagnosis) -> Result<(), Refusal> {
    let path = diagnosis.data_directory.display();
    if let Some(user) = diagnosis.presence.hidden_user() {
        return Err(Refusal {
            reason: format!("'{path}' is in use by {user}"),
            hint: "stop it first, or give this one a data directory of its own. Nothing was changed.".into(),
            is_busy: true,
        });
    }
    let (reason, hint) = match &diagnosis.condition {
        ClusterCondition::OtherMajorVersion { found, wanted: Some(wanted) } => (
            format!("'{path}' was made by PostgreSQL {found}, and version {wanted} was asked for"),
            format!(
                "set POSTGRES_VERSION={found}, or move the data with pg_upgrade or a dump. Nothing was changed."
            ),
        ),
        ClusterCondition::OtherMajorVersion { found, wanted: None } => (
            format!("'{path}' was made by PostgreSQL {found}, which is not installed"),
            format!(
                "install postgresql-{found}, or move the data with pg_upgrade or a dump. Nothing was changed."
            ),
        ),
        ClusterCondition::UnknownVersion { major, control, catalog } => (
            format!(
                "'{path}' is of {}, which this pgbox does not know (pg_control version {control}, catalog version {catalog})",
                major.map_or_else(
                    || "a version of PostgreSQL".to_owned(),
                    |major| format!("PostgreSQL {major}")
                )
            ),
            "use a newer pgbox; the server itself can be started without pgbox. Nothing was changed.".into(),
        ),
        ClusterCondition::NotPostgres { examples } => (
            format!("'{path}' is not a data directory of PostgreSQL: it holds {}", examples.join(", ")),
            "set PGDATA to an empty directory, or to the cluster. Nothing was changed.".into(),
        ),
        _ => return Ok(()),
    };
    Err(Refusal { reason, hint, is_busy: false })
}

/// What cannot be read is not known to be damaged, and what is elsewhere is not lost: neither must ever lead to a
/// replacement, nor to a start that hides it.
pub(super) fn refuse_what_needs_a_person(diagnosis: &Diagnosis) -> Result<(), Refusal> {
    let needs_a_person = |finding: &&Finding| finding.remedy.needs_a_person();
    let Some(finding) = diagnosis.findings.iter().find(needs_a_person) else { return Ok(()) };
    let path = diagnosis.data_directory.display();
    let (what, hint) = match &finding.remedy {
        Remedy::LinkTablespace => (
            "is not whole",
            format!(
                "mount the disk that it is on, or link it again: `ln -sfn DIRECTORY '{path}/{}'`. Nothing was changed.",
                link_of(&finding.place)
            ),
        ),
        Remedy::LinkWal => (
            "is not whole",
            "mount the disk that it is on. If that is lost for good, put an empty directory in the place of the link, \
             and run this again. Nothing was changed."
                .into(),
        ),
        Remedy::FreeSpace => (
            "has too little room for recovery",
            "free space outside the data directory, never in pg_wal. Nothing was changed.".into(),
        ),
        Remedy::SeeToIt(words) => ("cannot be started as it is", format!("{words}. Nothing was changed.")),
        _ => (
            "could not be inspected whole",
            "see to it that the server's user can read it, and that the disk is sound. Nothing was changed."
                .into(),
        ),
    };
    Err(Refusal { reason: format!("'{path}' {what}: {}", finding.summary()), hint, is_busy: false })
}

/// Refuses what would make a standby a primary of its own, or change it otherwise than its primary did: its server
/// replays what its primary wrote, and no other.
pub(super) fn refuse_to_replace_a_standby(diagnosis: &Diagnosis, needed: &[Needed]) -> Result<(), Refusal> {
    let makes_it_another = |(_, remedy): &&Needed| {
        remedy.is_beyond_repair()
            || matches!(
                remedy,
                Remedy::Reindex(_) | Remedy::ReplayFrom(_) | Remedy::ResetWal | Remedy::RecreateTemplate0
            )
    };
    let found = needed.iter().find(makes_it_another);
    let Some((sign, (finding, _))) = diagnosis.standby.zip(found) else { return Ok(()) };
    let path = diagnosis.data_directory.display();
    Err(Refusal {
        reason: format!(
            "'{path}' is the cluster of a standby ({sign}), and is damaged: {}",
            finding.summary()
        ),
        hint: format!(
            "make it again from its primary: move what is in '{path}' elsewhere, and run `pg_basebackup -R -D '{path}'` \
             with the primary's address. A backup that is restored becomes a second primary beside the first; only if the \
             first is gone for good, `backup-postgresql restore` makes this one its successor. Nothing was changed."
        ),
        is_busy: false,
    })
}

/// Refuses what only a whole backup could bring back, where there is none; a lesser one would lose more.
pub(super) fn refuse_for_want_of_a_backup(diagnosis: &Diagnosis, needed: &[Needed]) -> Refusal {
    let found = needed.iter().find_map(|(finding, remedy)| match remedy {
        Remedy::RestoreOrSeeToIt(words) => Some((finding.summary(), words.as_str())),
        _ => None,
    });
    let (found, words) = found.unwrap_or_default();
    Refusal {
        reason: format!("'{}' cannot be started as it is: {found}", diagnosis.data_directory.display()),
        hint: format!("{words}. Nothing was changed."),
        is_busy: false,
    }
}

/// The link of a tablespace: `pg_tblspc/16400`, of whatever is below it.
fn link_of(place: &str) -> &str {
    let end = place.match_indices('/').nth(1).map(|(end, _)| end);
    end.and_then(|end| place.get(..end)).unwrap_or(place)
}

pub(super) fn allow(
    policy: RecoveryPolicy,
    allowed: &[RecoveryPolicy],
    diagnosis: &Diagnosis,
) -> Result<(), Refusal> {
    if allowed.contains(&policy) {
        return Ok(());
    }
    let found: Vec<String> = diagnosis.findings.iter().take(3).map(Finding::summary).collect();
    let enough: Vec<String> = allowed.iter().rev().map(|policy| format!("RECOVERY={policy}")).collect();
    Err(Refusal {
        reason: format!("'{}' is not sound: {}", diagnosis.data_directory.display(), found.join("; ")),
        hint: format!("allow more with {}. Nothing was changed.", enough.join(" or ")),
        is_busy: false,
    })
}

/// Where the status of transactions is wrong, whatever is read has wrong rows: nothing can be salvaged, and nothing may be
/// served.
pub(super) fn refuse_wrong_rows(diagnosis: &Diagnosis, needed: &[Needed]) -> Result<(), Refusal> {
    let wrong = needed.iter().find(|(finding, _)| finding.is_wrong_status());
    let Some((finding, _)) = wrong else { return Ok(()) };
    Err(Refusal {
        reason: format!(
            "'{}' would show wrong rows, and there is no backup of it: {}",
            diagnosis.data_directory.display(),
            finding.summary()
        ),
        hint: "rows that were committed would be missing, and deleted ones would be back. Put the file back as it was, or \
               make a backup of this cluster available in the backup directory, and run this again. Nothing was changed."
            .into(),
        is_busy: false,
    })
}

/// Backups that are there and cannot be read may hold the rows, so that no empty cluster takes their place.
pub(super) fn refuse_to_forget(
    diagnosis: &Diagnosis,
    unreadable: &[(&BackupSummary, &str)],
) -> Result<(), Refusal> {
    let Some((newest, reason)) = unreadable.first() else { return Ok(()) };
    Err(Refusal {
        reason: format!(
            "'{}' is damaged ({}), and none of its backups can be used; the newest, {}: {reason}",
            diagnosis.data_directory.display(),
            worst_of(diagnosis),
            newest.name
        ),
        hint: "`backup-postgresql list` shows them. To begin with an empty cluster all the same, move them out of the \
               backup directory. Nothing was changed."
            .into(),
        is_busy: false,
    })
}

/// Refuses to restore a backup of which nothing shows that it is of this cluster's past: its rows may be of another
/// branch, and those of the present one would be out of sight.
pub(super) fn refuse_to_guess(
    diagnosis: &Diagnosis,
    for_a_person: &[(&BackupSummary, Ancestry)],
) -> Result<(), Refusal> {
    // One that the directory itself lists was made of it, whatever became of its timelines since (`pg_resetwal -l`).
    let is_own = |backup: &BackupSummary| diagnosis.lineage.has(backup);
    let unknown = for_a_person.iter().find_map(|(backup, found)| match found {
        Ancestry::Unknown(reason) => Some((backup.name, reason)),
        Ancestry::OtherBranch(reason) if is_own(backup) => Some((backup.name, reason)),
        _ => None,
    });
    let Some((name, reason)) = unknown else { return Ok(()) };
    Err(Refusal {
        reason: format!(
            "'{}' is damaged ({}), and it is not known whether {name}, the best of its backups, is of its past: {reason}",
            diagnosis.data_directory.display(),
            worst_of(diagnosis)
        ),
        hint: format!(
            "if it is, `backup-postgresql restore {name}` puts it in place, and what is there now is kept. Nothing was \
             changed."
        ),
        is_busy: false,
    })
}

/// Refuses to choose a backup for a cluster that could be any of several.
pub(super) fn refuse_unknown_identity(
    diagnosis: &Diagnosis,
    circumstances: &Circumstances,
) -> Result<(), Refusal> {
    let clusters = possible_clusters(circumstances.backups, &diagnosis.identity);
    if clusters.is_empty() {
        return Ok(());
    }
    let newest_of = |cluster: &SystemIdentifier| {
        let of_cluster = |backup: &&&BackupSummary| backup.system_identifier == Some(*cluster);
        let newest = newest_first(circumstances.backups, None);
        let newest = newest.iter().find(of_cluster).map(|backup| format!(", newest backup {}", backup.name));
        format!("{cluster}{}", newest.unwrap_or_default())
    };
    let named: Vec<String> = clusters.iter().map(newest_of).collect();
    Err(Refusal {
        reason: format!(
            "'{}' is damaged ({}), nothing in it tells which cluster it is, and there are backups of several: {}",
            diagnosis.data_directory.display(),
            worst_of(diagnosis),
            named.join("; ")
        ),
        hint: "`backup-postgresql restore NAME` puts a backup of the right one in place, and what is there now is kept. \
               Nothing was changed."
            .into(),
        is_busy: false,
    })
}

fn worst_of(diagnosis: &Diagnosis) -> String {
    let worst = diagnosis.findings.iter().find(|finding| finding.severity == Severity::Error);
    worst.map(Finding::summary).unwrap_or_default()
}
