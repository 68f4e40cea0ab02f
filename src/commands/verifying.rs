//! Verifying backups, and telling what came of it.

use super::arguments::is_given;
use super::importing::warn_of_program;
use anyhow::Context;
use chrono::Utc;
use clap::ArgMatches;
use pgbox::error::{Failure, Kind};
use pgbox::execute::scrub::note_verified;
use pgbox::execute::verify::{
    Proving, Verified, VerifyReport, is_verifiable, prove, verify, verify_archived_wal,
};
use pgbox::execute::{Backups, LOOKING_PATIENCE, Tools};
use pgbox::format;
use pgbox::plan::{BackupName, BackupSummary, Damage, IndexCheck, Judgement, Proof, Verification};
use pgbox::repository::Repository;
use pgbox::ui::{Table, Ui};

/// How many pieces of damage of one backup are told one by one; how many files of each.
const MOST_TOLD: usize = 10;

/// Verifies one backup or all, and tells what is damaged.
pub(super) fn run(
    arguments: &ArgMatches,
    tools: &Tools,
    chosen: Option<&BackupSummary>,
    ui: &Ui,
) -> anyhow::Result<u8> {
    if let Backups::Unusable(_) = tools.backups {
        // For its own words: damage is told from a disk that does not answer.
        let settings = tools.settings;
        let key_file = settings.backup_key_file.as_deref();
        Repository::open_within(LOOKING_PATIENCE, &settings.backup_directory, key_file)?;
    }
    let Some(repository) = tools.repository()? else {
        let place = tools.settings.backup_directory.display();
        return Err(Failure::new(Kind::NoSuchBackup, format!("there are no backups in '{place}'")).into());
    };
    let names = match chosen {
        Some(backup) => vec![verifiable(backup)?],
        None => all(repository, ui)?,
    };
    let began = Utc::now();
    let mut report = verify(tools, repository, &names, Utc::now())?;
    let mut unread = None;
    if chosen.is_none() {
        match verify_archived_wal(repository, tools.progress) {
            Ok(damaged) => report.damaged_wal = damaged,
            Err(error) => unread = Some(error),
        }
        report.damaged_identity = repository.identity_problem();
    }
    tell(&report, ui)?;
    report.damaged_wal.values().for_each(|problem| ui.error(problem));
    if let Some(problem) = &report.damaged_identity {
        ui.error(problem);
        ui.hint("the other one of 'repository.json' and its copy is sound; the next backup writes both anew");
    }
    // What was found out before is told, and kept, all the same.
    let is_all_read = chosen.is_none() && unread.is_none() && !report.has_unreadable();
    // What was found is kept with the backups; this is for the next scrub, and for health.
    if let Err(error) = note_verified(repository, &report, is_all_read.then_some((began, report.read_bytes)))
    {
        ui.warn(&format!("could not note what was read: {error:#}"));
    }
    unread.map_or(Ok(()), Err)?;
    if is_given(arguments, "prove") {
        let has_word = is_given(arguments, "yes");
        prove_all(tools, repository, &mut report, has_word, ui)?;
    }
    if is_given(arguments, "json") {
        ui.json(&report)?;
    }
    Ok(status(&report))
}

fn verifiable(backup: &BackupSummary) -> Result<BackupName, Failure> {
    if is_verifiable(backup) {
        return Ok(backup.name);
    }
    let reason = format!(
        "cannot verify {}: it is a plain copy of a script, and nothing in it has a hash",
        backup.name
    );
    Err(Failure::new(Kind::Refused, reason)
        .hint("restore it where it can do no harm, or make a backup with `backup-postgresql create`"))
}

fn all(repository: &Repository, ui: &Ui) -> anyhow::Result<Vec<BackupName>> {
    let backups = repository.backups()?;
    let (checked, copies): (Vec<_>, Vec<_>) = backups.iter().partition(|backup| is_verifiable(backup));
    for copy in copies {
        ui.warn(&format!("{} is a plain copy of a script, and cannot be verified", copy.name));
    }
    Ok(checked.iter().map(|backup| backup.name).collect())
}

/// Proves what was found sound; what is damaged cannot be restored anyway.
fn prove_all(
    tools: &Tools,
    repository: &Repository,
    report: &mut VerifyReport,
    has_word: bool,
    ui: &Ui,
) -> anyhow::Result<()> {
    let sound: Vec<BackupName> = report.sound().collect();
    for name in sound {
        if let Some(reason) = refused_to_run(&repository.find(name)?, has_word, ui) {
            ui.error(&format!("did not prove {name}: {reason}"));
            ui.hint("give --yes if you trust whoever made it. Nothing was changed.");
            report.not_tried.insert(name, reason);
            continue;
        }
        match prove(tools, repository, name, Utc::now()).with_context(|| format!("prove {name}"))? {
            Proving::Done(proof) => {
                tell_proof(name, &proof, ui);
                report.proofs.insert(name, proof);
            }
            Proving::NotTried(reason) => {
                ui.error(&format!("{name} cannot be proven here: {reason}"));
                ui.hint("nothing is wrong with it, and nothing was changed; it can be restored where there is no cluster, \
                         and a backup that was begun later has the tablespace in it");
                report.not_tried.insert(name, reason);
            }
        }
    }
    Ok(())
}

/// Why a backup that was made elsewhere is not to be run: nobody gave their word for it.
fn refused_to_run(backup: &BackupSummary, has_word: bool, ui: &Ui) -> Option<String> {
    warn_of_program(backup, ui);
    if !backup.imported || has_word {
        return None;
    }
    let asked = ui.confirm_by_typing(&backup.name.to_string());
    asked.err().map(|refused| format!("it was imported, and {refused}"))
}

fn tell_proof(name: BackupName, proof: &Proof, ui: &Ui) {
    for complaint in proof.complaints() {
        ui.error(&format!("{name} could not be proven: {complaint}"));
    }
    if !proof.is_passed() {
        ui.hint("it does not count as good; `backup-postgresql list` shows which do");
        return;
    }
    let indexes = match &proof.index_check {
        IndexCheck::NotChecked { reason } => format!("indexes were not checked: {reason}"),
        _ => "every index agrees with its table".to_owned(),
    };
    ui.info(&format!(
        "proved {name} in {}: it recovered, {} in {} read whole ({}), {indexes}",
        format::duration(std::time::Duration::from_millis(proof.duration_ms)),
        format::counted(proof.table_count, "table"),
        format::counted(proof.database_count, "database"),
        format::counted(proof.row_count, "row"),
    ));
}

fn status(report: &VerifyReport) -> u8 {
    if report.has_damage() {
        return Kind::VerificationFailed.exit_status();
    }
    if report.has_unreadable() {
        return Kind::Failed.exit_status();
    }
    if report.not_tried.is_empty() { 0 } else { Kind::Refused.exit_status() }
}

fn tell(report: &VerifyReport, ui: &Ui) -> anyhow::Result<()> {
    for (pack, problem) in &report.damaged_packs {
        ui.error(&format!("pack {pack} is damaged: {problem}"));
    }
    for (pack, problem) in &report.unreadable_packs {
        ui.error(&format!("pack {pack}: {problem}"));
    }
    for backup in report.backups.iter().chain(&report.also_damaged) {
        tell_backup(backup, ui);
    }
    if report.has_damage() {
        ui.hint("what is damaged is not restored from, and a new backup stores it anew, which mends older backups where the cluster still has it");
    }
    if ui.is_json() {
        return Ok(());
    }
    let mut table = Table::new().column("NAME").column("VERDICT");
    for backup in report.backups.iter().chain(&report.also_damaged) {
        table.row([backup.name.to_string(), verdict_of(&backup.judgement)]);
    }
    if !table.is_empty() {
        ui.table(&table)?;
    }
    ui.info(&format!(
        "read {}, {}",
        format::counted(report.pack_count, "pack"),
        format::bytes(report.read_bytes)
    ));
    Ok(())
}

fn verdict_of(judgement: &Judgement) -> String {
    match judgement {
        Judgement::Reached(verdict) if verdict.is_damaged() => "DAMAGED".to_owned(),
        Judgement::Reached(_) => "sound".to_owned(),
        Judgement::Undecided { .. } => "could not be read; the former verdict stands".to_owned(),
    }
}

fn tell_backup(backup: &Verified, ui: &Ui) {
    if let Verification::Unreadable { reason } = &backup.former {
        ui.warn(&format!("the former verdict on {} could not be used: {reason}", backup.name));
    }
    match &backup.judgement {
        Judgement::Reached(verdict) if verdict.is_damaged() => {
            for piece in verdict.damage.iter().take(MOST_TOLD) {
                ui.error(&format!("{} is damaged: {piece}{}", backup.name, files_of(piece)));
            }
            let untold = verdict.damage.len().saturating_sub(MOST_TOLD) as u64 + verdict.unnamed_damage;
            if untold > 0 {
                ui.error(&format!("and {untold} more; `backup-postgresql show {}` tells them", backup.name));
            }
        }
        Judgement::Reached(_) if backup.former.is_damaged() => {
            ui.info(&format!("{} is sound again; the former verdict is taken back", backup.name));
        }
        Judgement::Reached(_) => {}
        Judgement::Undecided { unreadable } => {
            for problem in unreadable.iter().take(MOST_TOLD) {
                ui.error(&format!("{} could not be read: {problem}", backup.name));
            }
        }
    }
    if let Some(reason) = &backup.not_kept {
        ui.warn(&format!("the verdict on {} could not be kept: {reason}", backup.name));
    }
}

/// The files that need a damaged piece, as the end of a message.
pub(super) fn files_of(piece: &Damage) -> String {
    if piece.files.is_empty() {
        return String::new();
    }
    let mut files: Vec<String> = piece.files.iter().take(MOST_TOLD).map(ToString::to_string).collect();
    let untold = piece.files.len().saturating_sub(MOST_TOLD) as u64 + piece.unnamed_files;
    files.extend((untold > 0).then(|| format!("{untold} more")));
    format!("; it is part of {}", files.join(", "))
}

/// What a list says of a backup's soundness.
pub(super) fn verified_of(backup: &BackupSummary) -> String {
    match &backup.verification {
        Verification::Never => "never".to_owned(),
        Verification::Unreadable { .. } => "verdict unreadable".to_owned(),
        Verification::Done(verdict) => {
            let time = format::time(verdict.verified_at);
            match &verdict.proof {
                _ if verdict.is_damaged() => format!("DAMAGED {time}"),
                Some(proof) if !proof.is_passed() => format!("NOT PROVEN {}", format::time(proof.proven_at)),
                Some(proof) => format!("proven {}", format::time(proof.proven_at)),
                None => format!("sound {time}"),
            }
        }
    }
}
