//! Carries out a recovery plan: repairs in place, replacements with their way back, and the start.

use super::Tools;
use super::branching::{branch_in_place, build_branched};
use super::failed_start::{is_outside_the_data, report_of};
use super::from_backup::{LaidOut, build_from_backup};
use super::initialise::build_fresh;
use super::meanwhile::{control_print, refuse_another_server};
use super::private_recovery::recover_in_place;
use super::repairs::repair;
use super::replay::build_from_replay;
use super::replay_end::{last_known_lsn, outcome_of_replay};
use super::salvage::build_from_salvage;
use super::same_failure::{FailureTrace, Next};
use super::staging::{STAGING, inspect_staged};
use super::start::{RECOVERY_SIGNAL, Start, start_and_verify};
use super::takeover::Resumed;
use super::{in_place, takeover};
use crate::cluster::history::{self, Event};
use crate::cluster::inspect::{Depth, JOURNAL_FILE};
use crate::cluster::server::{RunningServer, Strangers};
use crate::cluster::{control_file, lineage};
use crate::error::{Failure, Kind, is_out_of_reach, kind_of};
use crate::format::counted;
use crate::pg::control_file::CONTROL_FILE;
use crate::plan::ancestry::Mark;
use crate::plan::recovery::{Action, Belief, InPlace, Plan, Replacement, Source};
use crate::plan::slots::{Slot, keeps_slots};
use crate::plan::{BackupName, Diagnosis, Finding, Journal, Phase};
use crate::repository::RepositoryError;
use crate::sys::{ProcessError, ReadRoot, WriteRoot, step_point};
use anyhow::{Context, anyhow};
use chrono::Utc;
use std::io;
use std::path::Path;

/// What carrying out a plan came to.
#[derive(Debug, Default)]
pub struct Outcome {
    /// The server, when the plan ended with one.
    pub server: Option<RunningServer>,
    /// What was done, in the past tense, in order.
    pub done: Vec<String>,
    /// The backup that the cluster now comes from.
    pub restored_from: Option<BackupName>,
    /// The name under which the former cluster is kept.
    pub set_aside: Option<BackupName>,
    /// Why what the plan said of the outcome no longer holds, where it does not.
    pub broken: Option<&'static str>,
    /// What recovery came to, where the plan could not say it.
    pub found_out: Vec<String>,
    /// Whether an earlier replacement was taken back, so that the directory must be looked at again.
    pub must_look_again: bool,
}

/// Carries a plan out on a claimed data directory.
///
/// # Errors
/// Of the first step that failed. Whatever the error, the data directory holds either the old cluster or the
/// new one, or a journal from which the next run goes on; nothing that was there is lost.
pub fn run(plan: Plan, diagnosis: &Diagnosis, root: &WriteRoot, tools: &Tools) -> anyhow::Result<Outcome> {
    ensure_still_believed(&plan.belief, root)?;
    let strangers =
        if plan.only_starts() { Strangers::LookedForBeforeTheLock } else { Strangers::LookedForUnderTheLock };
    let purpose = plan.purpose;
    let outcome = Outcome::default();
    let mut recovery = Recovery { purpose, diagnosis, root, tools, strangers, outcome, failure: None };
    for step in plan.steps {
        step_point("before a step");
        recovery.take(step.action)?;
        step_point("after a step");
        if recovery.outcome.must_look_again {
            break;
        }
    }
    Ok(recovery.outcome)
}

/// Somebody may have exchanged the cluster between the plan and the lock.
fn ensure_still_believed(belief: &Belief, root: &WriteRoot) -> anyhow::Result<()> {
    let Some(expected) = belief.control_crc else { return Ok(()) };
    let (_, found) = control_file::read_at(root, CONTROL_FILE).context("read the control file")?;
    if found.crc == expected {
        return Ok(());
    }
    let message = format!("'{}' changed since it was inspected", root.path().display());
    Err(Failure::new(Kind::Busy, message).hint("run the command again. Nothing was changed.").into())
}

/// A plan being carried out.
struct Recovery<'a> {
    purpose: String,
    diagnosis: &'a Diagnosis,
    root: &'a WriteRoot,
    tools: &'a Tools<'a>,
    strangers: Strangers,
    outcome: Outcome,
    /// How the source that was tried last did not start.
    failure: Option<FailureTrace>,
}

impl Recovery<'_> {
    fn take(&mut self, action: Action) -> anyhow::Result<()> {
        match action {
            Action::FinishReplacement(journal) => self.finish(journal)?,
            Action::Replace(replacement) => self.replace(&replacement)?,
            Action::ReplaceInPlace(wanted) => self.replace_in_place(&wanted)?,
            Action::Start if self.outcome.server.is_none() => {
                let start = Start::of_present(self.root).context("read where recovery is to end")?;
                let server = start_and_verify(self.tools, self.root, &start, self.strangers)?;
                self.outcome.server = Some(server);
            }
            Action::BranchOff => {
                branch_in_place(self.tools, self.root)?;
                step_point("asked for a timeline of its own");
                self.done("took a timeline of its own");
            }
            Action::RecoverFirst => {
                recover_in_place(self.tools, self.root)?;
                self.done("replayed the WAL before anybody could connect");
            }
            Action::LookAgain => self.outcome.must_look_again = true,
            // A server that was in the way had to be stopped before the directory could be claimed.
            Action::Start | Action::Stop { .. } => {}
            action => self.repair(&action)?,
        }
        Ok(())
    }

    /// A repair that PostgreSQL's own programs refuse is told and passed over: the next inspection finds what is
    /// left, and the next plan knows that this did not help.
    fn repair(&mut self, action: &Action) -> anyhow::Result<()> {
        match repair(action, self.root, self.tools) {
            Ok(done) => self.outcome.done.extend(done),
            Err(error) if is_refused_by_postgresql(&error) => {
                self.tools.progress.note(&format!("could not {action}: {error:#}"));
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }

    fn done(&mut self, text: impl Into<String>) {
        self.outcome.done.push(text.into());
    }

    fn finish(&mut self, journal: Journal) -> anyhow::Result<()> {
        let operation = journal.operation.clone();
        let resumed = if is_in_place(&journal) {
            in_place::resume(self.tools, self.root, journal)
        } else {
            takeover::resume(self.root, journal)
        };
        let resumed = resumed.with_context(|| format!("finish '{operation}'"))?;
        let journal = match resumed {
            Resumed::Replaced(journal) => journal,
            Resumed::TakenBack => {
                self.done(format!("took back '{operation}', which was cut short"));
                self.outcome.must_look_again = true;
                return Ok(());
            }
            Resumed::GivenUp => {
                self.done(given_up(&operation));
                self.outcome.must_look_again = true;
                return Ok(());
            }
        };
        // Only a cluster that has not been through its first start may be taken back: any other may have served,
        // and taken rows. The server removes the signal file when it ends recovery.
        if self.root.facts(RECOVERY_SIGNAL)?.is_none() {
            self.tell_finished(&journal);
            self.note_lineage(&journal);
            takeover::accept(self.root.path())?;
            self.outcome.must_look_again = true;
            return Ok(());
        }
        let had_former = journal.aside.is_some();
        match self.prove(journal.clone()) {
            Ok(()) => self.tell_finished(&journal),
            Err(error) if !had_former => return Err(error),
            Err(error) => {
                self.tools.progress.note(&format!("'{operation}' was taken back: {error:#}"));
                self.outcome.must_look_again = true;
            }
        }
        Ok(())
    }

    /// What was done before it was cut short is told now: whoever did it could not.
    fn tell_finished(&mut self, journal: &Journal) {
        self.done(format!("finished '{}', which was cut short", journal.operation));
        self.outcome.done.extend(journal.done.iter().cloned());
        self.outcome.restored_from = journal.restored_from;
        self.outcome.set_aside = journal.aside;
    }

    fn replace(&mut self, replacement: &Replacement) -> anyhow::Result<()> {
        let mut last_error: Option<(&Source, anyhow::Error)> = None;
        let former = replacement.failed_with.as_ref();
        let mut failures: Vec<FailureTrace> =
            former.map(|failure| FailureTrace::of_former(self.root, failure)).into_iter().collect();
        let mut sources = replacement.sources.iter().peekable();
        while let Some(source) = sources.next() {
            if let Some((former, error)) = last_error.take() {
                self.tools.progress.note(&format!("{} could not be used: {error:#}", describe(former)));
            }
            self.failure = None;
            (self.outcome.broken, self.outcome.found_out) = (None, Vec::new());
            let error = match self.replace_from(source, replacement) {
                Ok(()) => {
                    if replacement.sources.first() != Some(source) {
                        self.outcome.broken = Some("the planned source could not be used");
                    }
                    return Ok(());
                }
                // The former cluster is not back in place: another source would be built on sand.
                Err(error) if self.root.facts(JOURNAL_FILE)?.is_some() => return Err(error),
                Err(error) => error,
            };
            // What failed for want of room, leave, a program, or anything else outside the data says nothing about the
            // source, and may pass: a worse one is no answer to it.
            if is_for_a_person(&error) {
                last_error = Some((source, error));
                break;
            }
            let has_backup = matches!(sources.peek(), Some(Source::Backup { .. }));
            let failure = self.failure.take();
            if let Some(failure) = &failure
                && let Next::Stop(reason) = failure.after(&failures, has_backup)
            {
                last_error = Some((source, error.context(reason)));
                break;
            }
            failures.extend(failure);
            last_error = Some((source, error));
        }
        // The former cluster may be started now, and needs the space.
        if let Err(error) = self.root.discard(STAGING) {
            self.tools.progress.note(&format!("the staging directory could not be removed: {error}"));
        }
        let error =
            last_error.map_or_else(|| anyhow!("there was nothing to replace it by"), |(_, error)| error);
        Err(error.context(format!("could not {}; the data directory is as it was", self.purpose)))
    }

    /// Changes the present files into those of a backup, and proves them. On any error the former cluster is in place.
    fn replace_in_place(&mut self, wanted: &InPlace) -> anyhow::Result<()> {
        let findings = self.diagnosis.findings.iter().map(Finding::summary).collect();
        let replaced = in_place::replace(self.tools, self.root, wanted, &self.purpose, findings);
        let proven = replaced.and_then(|journal| {
            step_point("taken over");
            let (done, aside) = (journal.done.clone(), journal.aside);
            self.prove(journal)?;
            step_point("proven");
            self.outcome.done.extend(done);
            self.outcome.done.extend(self.diagnosis.slots.iter().map(Slot::in_outcome));
            self.outcome.restored_from = Some(wanted.backup);
            self.outcome.set_aside = aside;
            Ok(())
        });
        match proven {
            Err(error) if self.root.facts(JOURNAL_FILE)?.is_none() => {
                Err(error.context(format!("could not {}; the data directory is as it was", self.purpose)))
            }
            proven => proven,
        }
    }

    /// Builds, inspects, puts in place and proves one source. On any error the former cluster is in place.
    fn replace_from(&mut self, source: &Source, replacement: &Replacement) -> anyhow::Result<()> {
        let control = control_print(self.root);
        let known = last_known_lsn(self.root, self.diagnosis);
        let aside = replacement.aside;
        let built = self.build(source, replacement.needs_all_wal);
        let mut done =
            built.inspect_err(|error| self.remember_failure(&self.root.path().join(STAGING), error))?;
        step_point("built in staging");
        self.inspect_staging()?;
        if !keeps_slots(source) {
            done.extend(self.diagnosis.slots.iter().map(Slot::in_outcome));
        }
        done.extend(aside.map(|aside| format!("set the former cluster aside as {aside}")));
        let restored_from = match source {
            Source::Backup { name, .. } => Some(*name),
            _ => None,
        };
        let phase = Phase::SettingAside;
        let operation = self.purpose.clone();
        let findings = self.diagnosis.findings.iter().map(Finding::summary).collect();
        refuse_another_server(self.root, control.as_deref())?;
        let done_before = done.clone();
        let journal = Journal {
            operation,
            aside,
            phase,
            findings,
            done: done_before,
            restored_from,
            control,
            kept: None,
        };
        let journal = takeover::take_over(self.root, journal)?;
        step_point("taken over");
        self.prove(journal)?;
        step_point("proven");
        if let Source::Backup { replay, .. } = source {
            self.outcome.found_out.extend(outcome_of_replay(self.root, self.diagnosis, replay, known));
        }
        self.outcome.done.extend(done);
        self.outcome.restored_from = restored_from;
        self.outcome.set_aside = aside;
        Ok(())
    }

    /// Builds a cluster in staging, whole and on disk. Returns what that will have been, once it is in place.
    fn build(&mut self, source: &Source, needs_all_wal: bool) -> anyhow::Result<Vec<String>> {
        let (tools, root) = (self.tools, self.root);
        match source {
            Source::Fresh => {
                build_fresh(tools, root)?;
                Ok(vec!["made a new cluster".to_owned()])
            }
            Source::Salvage => Ok(build_from_salvage(tools, root, self.diagnosis)?.lines()),
            Source::Branched => build_branched(tools, root),
            Source::Replayed { checkpoint } => build_from_replay(tools, root, *checkpoint),
            Source::Backup { name, replay } => {
                let LaidOut { count, missing } = build_from_backup(tools, root, *name, replay)?;
                if let Some(missing) = missing {
                    let lost = format!(
                        "WAL segment '{missing}' is missing: commits after {} are lost",
                        missing.start_lsn()
                    );
                    if needs_all_wal {
                        return Err(Failure::new(Kind::VerificationFailed, lost).into());
                    }
                    self.outcome.broken = Some("not all of the planned WAL could be taken");
                    self.outcome.found_out.push(format!("{lost}, unless they are in what is set aside"));
                }
                Ok(vec![match (count, &replay.target) {
                    (count, Some(target)) => format!(
                        "restored {name} and replayed its WAL and {} more to {target}",
                        counted(count, "segment")
                    ),
                    (0, None) => format!("restored {name}"),
                    (count, None) => format!(
                        "restored {name} and replayed the WAL since, as far as it is whole ({})",
                        counted(count, "segment")
                    ),
                }])
            }
        }
    }

    /// Remembers how the cluster in a directory did not start, before it is taken away.
    fn remember_failure(&mut self, directory: &Path, error: &anyhow::Error) {
        let root = ReadRoot::open(directory);
        self.failure =
            root.ok().zip(report_of(error)).and_then(|(root, report)| FailureTrace::of(&root, report));
    }

    fn inspect_staging(&self) -> anyhow::Result<()> {
        let diagnosis = inspect_staged(self.tools, self.root, Depth::Structure)?;
        let Some(worst) = diagnosis.findings.first().filter(|_| diagnosis.has_errors()) else {
            return Ok(());
        };
        let message = format!("what was built is not sound: {}", worst.summary());
        Err(Failure::new(Kind::VerificationFailed, message).into())
    }

    /// Notes which backups are of the past of the cluster that was put in place. Without that, the next recovery only
    /// asks a person where it could have known.
    fn note_lineage(&self, journal: &Journal) {
        let Some(name) = journal.restored_from else { return };
        let note = || -> anyhow::Result<()> {
            let repository = self.tools.repository()?.context("find the repository")?;
            let (_, control) = control_file::read_served(self.root).context("read the control file")?;
            let Some(mark) = Mark::of(&repository.find(name)?) else { return Ok(()) };
            lineage::note_restored(self.root, control.system_identifier, mark, control.timeline)?;
            Ok(())
        };
        if let Err(error) = note() {
            self.tools
                .progress
                .note(&format!("could not note that the cluster comes from {name}: {error:#}"));
        }
    }

    /// Starts the new cluster and sees it serve; if it does not, puts the former one back.
    fn prove(&mut self, journal: Journal) -> anyhow::Result<()> {
        let started = Start::of_replacement(self.root)
            .context("read where recovery is to end")
            .and_then(|start| start_and_verify(self.tools, self.root, &start, self.strangers));
        if let Err(error) = &started {
            self.remember_failure(self.root.path(), error);
        }
        match started {
            Ok(server) => {
                step_point("serves, not accepted yet");
                self.note_lineage(&journal);
                takeover::accept(self.root.path())?;
                self.outcome.server = Some(server);
                Ok(())
            }
            // Another server has its files open: they are not to be moved or changed under it.
            Err(error) if kind_of(&error) == Kind::Busy => Err(error),
            Err(error) if is_in_place(&journal) => {
                let operation = journal.operation.clone();
                let kept = in_place::give_back(self.tools, self.root, journal)
                    .context("put the former cluster back")?;
                if let Some(kept) = kept {
                    self.tell_kept(&operation, kept, &error);
                }
                Err(error)
            }
            Err(error) if journal.aside.is_some() => {
                let operation = journal.operation.clone();
                let kept = takeover::undo(self.root, journal).context("put the former cluster back")?;
                if let Some(kept) = kept {
                    self.tell_kept(&operation, kept, &error);
                }
                Err(error)
            }
            Err(error) => Err(error),
        }
    }
}

impl Recovery<'_> {
    /// Reports a cluster that was taken back, and may have rows that clients committed before it was.
    fn tell_kept(&self, operation: &str, kept: BackupName, error: &anyhow::Error) {
        let done = format!(
            "took back '{operation}'; clients may have written to the new cluster before that, so it is kept as {kept}"
        );
        self.tools.progress.note(&done);
        let event = Event {
            time: Utc::now(),
            purpose: operation.to_owned(),
            findings: vec![format!("{error:#}").lines().next().unwrap_or_default().to_owned()],
            done: vec![done],
            remarks: Vec::new(),
            restored_from: None,
            // It is not what a person would call the former cluster.
            set_aside: None,
        };
        if let Err(error) = history::record(self.root.path(), &event) {
            self.tools.progress.note(&format!("could not record that {kept} is kept: {error}"));
        }
    }
}

/// Why a replacement that was cut short is not finished.
pub(super) fn given_up(operation: &str) -> String {
    format!(
        "gave up '{operation}', which was cut short: another server has written to the cluster since, so that it stays as \
         it is"
    )
}

/// Whether the files are changed where they are, and none is set aside.
fn is_in_place(journal: &Journal) -> bool {
    let phases = [Phase::Rewriting, Phase::ProvingRewritten, Phase::RewritingBack, Phase::RewrittenBack];
    phases.contains(&journal.phase)
}

fn is_for_a_person(error: &anyhow::Error) -> bool {
    let kinds = [
        io::ErrorKind::StorageFull,
        io::ErrorKind::QuotaExceeded,
        io::ErrorKind::ReadOnlyFilesystem,
        io::ErrorKind::PermissionDenied,
    ];
    let is_of_machine = |cause: &io::Error| kinds.contains(&cause.kind());
    matches!(kind_of(error), Kind::Busy | Kind::Refused | Kind::ProgramMissing)
        || error.chain().filter_map(|cause| cause.downcast_ref()).any(is_of_machine)
        || error.chain().any(is_of_repository_out_of_reach)
        || is_outside_the_data(error)
}

/// The repository was there when the plan was made. What reads of the cluster besides is less than what is in it.
fn is_of_repository_out_of_reach(cause: &(dyn std::error::Error + 'static)) -> bool {
    matches!(cause.downcast_ref(), Some(RepositoryError::Io { source, .. }) if is_out_of_reach(source))
}

fn is_refused_by_postgresql(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| matches!(cause.downcast_ref(), Some(ProcessError::Failed { .. })))
}

fn describe(source: &Source) -> String {
    match source {
        Source::Backup { name, .. } => format!("the backup {name}"),
        Source::Branched => "a copy on a timeline of its own".to_owned(),
        Source::Replayed { checkpoint } => format!("the WAL since the checkpoint at {checkpoint}"),
        Source::Salvage => "what reads of the present cluster".to_owned(),
        Source::Fresh => "a new cluster".to_owned(),
    }
}
