//! Healing single relations from a backup, where it is proven that nothing was written to them since.
//!
//! The proof is the inspection's: the WAL from before the backup to its end is whole, and no record of it is about the
//! relation. Then the backup's copy of its files is what they must be now, and the rest of the cluster stays as it is.
//! Where that is not proven, the whole cluster is restored beside, and replays what was written since.
//!
//! A hot backup copies a file at any time after its start, so a copy is only known to be as new as the redo point of the
//! start checkpoint. PostgreSQL replays from there for the same reason (xlogrecovery.c, `read_backup_label()`). The
//! control file is copied last, and its redo point may be newer than the files: it proves nothing here.

use super::repairs::{irreparable, look_again_step, not_as_it_is, repair_steps};
use super::step::{Action, Effect, Plan, Step};
use super::{Circumstances, Needed, passed_over, plan, start_step};
use crate::pg::Lsn;
use crate::plan::ancestry::exact_end;
use crate::plan::backups::BackupSummary;
use crate::plan::diagnosis::{Diagnosis, Finding, Remedy};
use crate::plan::selection::past_of;

/// The plan that heals every damaged relation from one backup; `None` where that is not proven of each of them.
pub(super) fn heal(diagnosis: &Diagnosis, needed: &[Needed], circumstances: &Circumstances) -> Option<Plan> {
    let lost = irreparable(needed);
    let untouched: Option<Vec<Lsn>> = lost.iter().map(|finding| finding.untouched_since).collect();
    let since = untouched?.into_iter().max()?;
    let was_tried = |finding: &&Finding| circumstances.tried.has(finding);
    // Its files are outside the data directory, where nothing is set aside.
    let is_in_tablespace = |finding: &&Finding| finding.place.starts_with("pg_tblspc/");
    let is_repairable = needed.iter().all(|(_, remedy)| !matches!(remedy, Remedy::ReplayFrom(_)));
    if lost.iter().any(was_tried) || lost.iter().any(is_in_tablespace) || !is_repairable {
        return None;
    }
    let backup = backup_since(since, diagnosis, circumstances)?;
    let mut steps = repair_steps(needed);
    let mut healed: Vec<&str> = Vec::new();
    for finding in lost {
        if !healed.contains(&finding.place.as_str()) {
            healed.push(&finding.place);
            steps.push(Step {
                action: Action::HealFromBackup { backup: backup.name, place: finding.place.clone() },
                reason: finding.evidence.clone(),
                effect: Effect::Repairs,
            });
        }
    }
    steps.push(look_again_step());
    steps.push(start_step("the cluster is sound then"));
    let mut plan = plan("heal what is damaged from a backup", diagnosis, steps);
    plan.passed_over.push(not_as_it_is(needed));
    plan.passed_over.push(passed_over("repair in place", "the lost data is not in the cluster any more"));
    let claim = format!(
        "the WAL since {since} is whole, and nothing in it is about what is healed, so that the rest of the cluster can \
         stay as it is"
    );
    // Where the WAL may once have gone further, its end is not the cluster's.
    plan.remarks.push(match exact_end(diagnosis) {
        Some(_) => format!("no committed row is lost: {claim}"),
        None => claim,
    });
    Some(plan)
}

/// Returns the newest good backup of the cluster's past on the present timeline whose start is not before the last record about what is healed.
fn backup_since<'a>(
    since: Lsn,
    diagnosis: &Diagnosis,
    circumstances: &'a Circumstances,
) -> Option<&'a BackupSummary> {
    past_of(diagnosis, circumstances).into_iter().find(|backup| {
        backup.is_good()
            && backup.timeline.is_some()
            && backup.timeline == diagnosis.identity.timeline
            && backup.start_lsn.is_some_and(|start| start >= since)
    })
}
