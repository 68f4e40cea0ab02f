//! The WAL of a base backup that somebody else put in place, from the archive.

use super::refusals::allow;
use super::repairs::look_again_after;
use super::step::{Action, Effect, Plan, Refusal, Step};
use super::{Circumstances, Needed};
use crate::plan::archive::ArchiveView;
use crate::plan::diagnosis::{Diagnosis, Finding, Remedy};
use crate::plan::policy::RecoveryPolicy;

/// Fetches the WAL that a base backup lacks, before anything else is decided; `None` where it lacks none.
///
/// # Errors
/// A [`Refusal`] where the archive does not have it: no other backup may take the place of one that a person put there.
pub(super) fn fetch_backup_wal(
    diagnosis: &Diagnosis,
    needed: &[Needed],
    circumstances: &Circumstances,
) -> Result<Option<Plan>, Refusal> {
    let found = needed.iter().find_map(|(finding, remedy)| match remedy {
        Remedy::FetchBackupWal(words) => Some((*finding, words)),
        _ => None,
    });
    let Some((finding, words)) = found else { return Ok(None) };
    let archive = circumstances
        .archives
        .iter()
        .find(|(cluster, _)| Some(*cluster) == diagnosis.identity.system_identifier);
    let is_archived = archive.is_some_and(|(_, view)| has(view, finding));
    if !is_archived || circumstances.tried.has(finding) {
        return Err(Refusal {
            reason: format!(
                "'{}' cannot be started as it is: {}",
                diagnosis.data_directory.display(),
                finding.summary()
            ),
            hint: format!("{words}. Nothing was changed."),
            is_busy: false,
        });
    }
    allow(circumstances.policy, &[RecoveryPolicy::Auto, RecoveryPolicy::Repair], diagnosis)?;
    let step = Step {
        action: Action::TakeFromArchive { place: finding.place.clone() },
        reason: finding.evidence.clone(),
        effect: Effect::Adds,
    };
    let mut plan = look_again_after(vec![step], diagnosis);
    plan.remarks.push(
        "it goes on on a timeline of its own: the cluster that this is a backup of may be running elsewhere, and archives \
         under the names of its own timeline"
            .to_owned(),
    );
    Ok(Some(plan))
}

fn has(view: &ArchiveView, finding: &Finding) -> bool {
    view.segments.iter().any(|segment| finding.place == format!("pg_wal/{segment}"))
}
