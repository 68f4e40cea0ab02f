//! What is put in the place of a cluster that cannot be repaired where it is.

use super::refusals::{
    allow, refuse_for_want_of_a_backup, refuse_to_forget, refuse_to_guess, refuse_unknown_identity,
    refuse_wrong_rows,
};
use super::repairs::{look_again_step, not_as_it_is, repair_steps, template0_step};
use super::step::{Action, Effect, PassedOver, Plan, Refusal, Replacement, Source, Step};
use super::{Circumstances, Needed, passed_over, plan, start_step};
use crate::plan::ancestry::{Ancestry, exact_end};
use crate::plan::backups::{BackupKind, BackupSummary};
use crate::plan::diagnosis::{Diagnosis, Finding, Remedy};
use crate::plan::order::order_keys;
use crate::plan::policy::RecoveryPolicy;
use crate::plan::selection::{for_a_person, free_name, past_of, source_of, unreadable};

/// How many findings a reason names.
const NAMED_FINDINGS: usize = 5;

/// Puts a backup, what can be salvaged, or a new cluster in the place of the present one.
pub(super) fn replace(
    diagnosis: &Diagnosis,
    needed: &[Needed],
    circumstances: &Circumstances,
) -> Result<Plan, Refusal> {
    refuse_unknown_identity(diagnosis, circumstances)?;
    let usable = past_of(diagnosis, circumstances);
    let for_a_person = for_a_person(diagnosis, circumstances);
    let unreadable: Vec<_> = circumstances.backups.iter().filter_map(unreadable).collect();
    if usable.is_empty() {
        // That a backup cannot be used may be for a reason that will pass; an empty cluster would hide it.
        refuse_to_forget(diagnosis, &unreadable)?;
        refuse_to_guess(diagnosis, &for_a_person)?;
        refuse_wrong_rows(diagnosis, needed)?;
    }
    let mut sources = sources(diagnosis, &usable, circumstances);
    // Somebody may want the rows of the other branch, which an empty cluster would hide.
    sources.retain(|source| *source != Source::Fresh || for_a_person.is_empty());
    if needed.iter().any(|(finding, _)| finding.is_wrong_status()) {
        // A dump would have the wrong rows, and nothing would say which.
        sources.retain(|source| *source != Source::Salvage);
    }
    let mut remarks = vec![loss(usable.first().copied(), sources.first(), needed, circumstances)];
    let keys = order_keys(circumstances.backups);
    let is_newer = |other: &BackupSummary| {
        usable.first().is_some_and(|chosen| keys.get(&other.name) > keys.get(&chosen.name))
    };
    remarks.extend(unreadable.iter().filter(|(other, _)| is_newer(other)).map(|(other, reason)| {
        format!("{} is newer, and is passed over because it cannot be used: {reason}", other.name)
    }));
    remarks.extend(for_a_person.iter().filter_map(|(other, found)| match found {
        Ancestry::OtherBranch(reason) => Some(format!(
            "{} is not of this cluster's past ({reason}); to have its rows instead: `backup-postgresql restore {}`",
            other.name, other.name
        )),
        _ if is_newer(other) => Some(format!(
            "{} is newer, and is passed over because nothing shows that it is of this cluster's past; \
             `backup-postgresql restore {}` restores it",
            other.name, other.name
        )),
        _ => None,
    }));
    remarks.extend(repository_elsewhere(diagnosis, circumstances));
    let purpose = match usable.first() {
        Some(newest) => format!("restore {}", newest.name),
        None => "salvage what reads into a new cluster".to_owned(),
    };
    let steps = vec![
        replace_step(diagnosis, sources, &beyond_repair(needed), circumstances),
        start_step("the cluster is sound then"),
    ];
    let passed_over = rungs_passed_over(needed, &usable);
    Ok(Plan { passed_over, remarks, ..plan(purpose, diagnosis, steps) })
}

/// Restores a backup that has all the WAL since. A lesser one would lose rows for the sake of what was found, which only
/// a person may decide.
pub(super) fn restore_whole(
    diagnosis: &Diagnosis,
    needed: &[Needed],
    circumstances: &Circumstances,
) -> Result<Plan, Refusal> {
    let lost = beyond_repair(needed);
    let usable = past_of(diagnosis, circumstances);
    let is_whole = |source: &Source| {
        matches!(source, Source::Backup { replay, .. } if replay.reaches_the_end)
            && !is_end_lost(needed, circumstances)
    };
    let sources: Vec<Source> = usable
        .iter()
        .map(|backup| source_of(backup, diagnosis, circumstances.archives))
        .filter(is_whole)
        .collect();
    let Some(Source::Backup { name, .. }) = sources.first() else {
        return Err(refuse_for_want_of_a_backup(diagnosis, needed));
    };
    allow(circumstances.policy, &[RecoveryPolicy::Auto], diagnosis)?;
    let purpose = format!("restore {name}");
    let remarks = vec![loss(usable.first().copied(), sources.first(), needed, circumstances)];
    let passed_over = rungs_passed_over(needed, &usable);
    let mut replace = replace_step(diagnosis, sources, &lost, circumstances);
    if let Action::Replace(replacement) = &mut replace.action {
        replacement.needs_all_wal = true;
    }
    let steps = vec![replace, start_step("the cluster is sound then")];
    Ok(Plan { passed_over, remarks, ..plan(purpose, diagnosis, steps) })
}

/// What to say where the cluster was backed up to a repository that is not here: a disk that is not mounted, most likely.
fn repository_elsewhere(diagnosis: &Diagnosis, circumstances: &Circumstances) -> Option<String> {
    let id = diagnosis.backed_up_to.as_deref().filter(|id| circumstances.repository != Some(*id))?;
    Some(format!(
        "the backups of this cluster are in a repository that is not here ({id}): if its disk is only not mounted, stop, \
         mount it, and restore; what is set aside is kept until then"
    ))
}

/// Every backup that fits, the best first, with the WAL that survives; then what reads of the present cluster. An
/// empty cluster only where there never was a backup.
fn sources(diagnosis: &Diagnosis, usable: &[&BackupSummary], circumstances: &Circumstances) -> Vec<Source> {
    let mut sources: Vec<Source> =
        usable.iter().map(|backup| source_of(backup, diagnosis, circumstances.archives)).collect();
    sources.push(Source::Salvage);
    if usable.is_empty() && repository_elsewhere(diagnosis, circumstances).is_none() {
        sources.push(Source::Fresh);
    }
    sources
}

/// Lets a copy of the cluster replay its WAL from an older checkpoint, after what can be repaired in place is; where
/// that fails and more is allowed, the cluster is replaced as though its pages were lost for good.
pub(super) fn replay(diagnosis: &Diagnosis, needed: &[Needed], circumstances: &Circumstances) -> Plan {
    let bad = || needed.iter().filter(|(_, remedy)| matches!(remedy, Remedy::ReplayFrom(_)));
    let checkpoints = bad().filter_map(|(_, remedy)| match remedy {
        Remedy::ReplayFrom(checkpoint) => Some(*checkpoint),
        _ => None,
    });
    let mut sources: Vec<Source> =
        checkpoints.min().map(|checkpoint| Source::Replayed { checkpoint }).into_iter().collect();
    if circumstances.policy == RecoveryPolicy::Auto {
        let usable = past_of(diagnosis, circumstances);
        let is_unreadable = |backup: &BackupSummary| unreadable(backup).is_some();
        // As in `replace`: what cannot be read now may hold more than what would be salvaged.
        let is_all_known = !circumstances.backups.iter().any(is_unreadable)
            && for_a_person(diagnosis, circumstances).is_empty();
        if !usable.is_empty() || is_all_known {
            sources.extend(
                self::sources(diagnosis, &usable, circumstances)
                    .into_iter()
                    .filter(|source| *source != Source::Fresh),
            );
        }
    }
    let mut steps = repair_steps(needed);
    steps.extend(template0_step(needed));
    let claim = "the WAL that is kept has every damaged page whole";
    // Where the WAL may once have gone further, its end is not the cluster's.
    let mut remarks = vec![match exact_end(diagnosis) {
        Some(_) => format!("no committed row is lost: {claim}"),
        None => format!("{claim}; how far it once went is not certain, and commits after its end are lost"),
    }];
    if steps.is_empty() {
        let findings: Vec<&Finding> = bad().map(|(finding, _)| *finding).collect();
        steps.push(replace_step(diagnosis, sources, &findings, circumstances));
        steps.push(start_step("the cluster is sound then"));
    } else {
        // The copy must be of a cluster whose small things are right.
        steps.push(look_again_step());
        remarks.push(
            "then a copy that replays the WAL takes the place of this cluster, which is set aside".into(),
        );
    }
    let passed_over = vec![not_as_it_is(needed)];
    Plan { passed_over, remarks, ..plan("heal damaged pages from the WAL", diagnosis, steps) }
}

fn replace_step(
    diagnosis: &Diagnosis,
    sources: Vec<Source>,
    findings: &[&Finding],
    circumstances: &Circumstances,
) -> Step {
    let aside = free_name(BackupKind::Damaged, diagnosis, circumstances);
    let mut named: Vec<String> =
        findings.iter().take(NAMED_FINDINGS).map(|finding| finding.summary()).collect();
    if findings.len() > NAMED_FINDINGS {
        named.push(format!("and {} more", findings.len() - NAMED_FINDINGS));
    }
    Step {
        action: Action::Replace(Replacement {
            sources,
            aside: Some(aside),
            needs_all_wal: false,
            failed_with: circumstances.tried.failure.clone(),
        }),
        reason: named.join("; "),
        effect: Effect::Replaces,
    }
}

fn rungs_passed_over(needed: &[Needed], usable: &[&BackupSummary]) -> Vec<PassedOver> {
    let worst = beyond_repair(needed).first().map(|finding| finding.summary()).unwrap_or_default();
    let mut rungs = vec![
        not_as_it_is(needed),
        passed_over("repair in place", format!("nothing in place can bring this back: {worst}")),
    ];
    if usable.is_empty() {
        rungs.push(passed_over("restore a backup", "there is none of this cluster"));
    }
    rungs
}

/// The findings that nothing in place helps.
fn beyond_repair<'a>(needed: &[Needed<'a>]) -> Vec<&'a Finding> {
    let lost = needed.iter().filter(|(_, remedy)| remedy.is_beyond_repair());
    lost.map(|(finding, _)| *finding).collect()
}

/// Whether the WAL once went further than what can be replayed: pages are newer than its end, or it breaks off in a
/// segment of which the archive has no other copy.
fn is_end_lost(needed: &[Needed], circumstances: &Circumstances) -> bool {
    let is_archived = |finding: &Finding| {
        let mut segments = circumstances.archives.iter().flat_map(|(_, view)| &view.segments);
        segments.any(|segment| finding.place.ends_with(&segment.to_string()))
    };
    needed.iter().any(|(finding, _)| match finding.code {
        "page-beyond-wal" => true,
        "wal-chain-broken" => !is_archived(finding),
        _ => false,
    })
}

fn loss(
    backup: Option<&BackupSummary>,
    source: Option<&Source>,
    needed: &[Needed],
    circumstances: &Circumstances,
) -> String {
    let is_end_lost = is_end_lost(needed, circumstances);
    match (backup, source) {
        (Some(_), Some(Source::Backup { replay, .. })) if replay.reaches_the_end && !is_end_lost => {
            "the WAL since the backup is there, and is replayed to its end".into()
        }
        (Some(_), Some(Source::Backup { replay, .. })) if !replay.segments.is_empty() => format!(
            "rows committed after the last segment of WAL that is there ({}) are lost, unless they are in what is set aside",
            replay.segments.last().map(ToString::to_string).unwrap_or_default()
        ),
        (Some(backup), _) => format!(
            "rows committed after {} are lost, unless they are in what is set aside: the WAL since then is not whole",
            backup.created_at.format("%Y-%m-%d %H:%M:%S UTC")
        ),
        (None, _) => {
            let places: Vec<String> = beyond_repair(needed)
                .iter()
                .take(NAMED_FINDINGS)
                .map(|finding| {
                    finding.relation.as_ref().map_or_else(|| finding.place.clone(), ToString::to_string)
                })
                .collect();
            format!(
                "there is no backup to restore: what only these held is lost, unless it reads all the same: {}; the \
                 damaged directory is kept",
                places.join(", ")
            )
        }
    }
}
