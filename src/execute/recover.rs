//! Carries out a recovery plan: repairs in place, replacements with their way back, and the start.

use super::Tools;
use super::from_backup::build_from_backup;
use super::initialise::build_fresh;
use super::start::{RECOVERY_SIGNAL, Start, start_and_verify};
use super::takeover::{self, STAGING};
use crate::cluster::inspect::{self, ASIDE_DIRECTORY, Expectations, JOURNAL_FILE};
use crate::cluster::server::RunningServer;
use crate::error::{Failure, Kind};
use crate::format::counted;
use crate::pg::control_file::ControlFile;
use crate::plan::recovery::{Action, Belief, Plan, Replacement, Source};
use crate::plan::{BackupName, Journal};
use crate::sys::{WriteRoot, effective_identity};
use anyhow::{Context, anyhow};
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
    /// Whether an earlier replacement was taken back, so that the directory must be looked at again.
    pub must_look_again: bool,
}

/// Carries a plan out on a claimed data directory.
///
/// # Errors
/// Of the first step that failed. Whatever the error, the data directory holds either the old cluster or the
/// new one, or a journal from which the next run goes on; nothing that was there is lost.
pub fn run(plan: Plan, root: &WriteRoot, tools: &Tools) -> anyhow::Result<Outcome> {
    ensure_still_believed(&plan.belief, root)?;
    let mut recovery = Recovery { purpose: plan.purpose, root, tools, outcome: Outcome::default() };
    for step in plan.steps {
        recovery.take(step.action)?;
        if recovery.outcome.must_look_again {
            break;
        }
    }
    Ok(recovery.outcome)
}

/// Somebody may have exchanged the cluster between the plan and the lock.
fn ensure_still_believed(belief: &Belief, root: &WriteRoot) -> anyhow::Result<()> {
    let Some(expected) = belief.control_crc else { return Ok(()) };
    let bytes = root.read_bounded("global/pg_control", 64 * 1024).context("read the control file")?;
    let found = ControlFile::parse(&bytes).context("read the control file")?.crc;
    if found == expected {
        return Ok(());
    }
    let message = format!("'{}' changed since it was inspected", root.path().display());
    Err(Failure::new(Kind::Busy, message).hint("run the command again. Nothing was changed.").into())
}

/// A plan being carried out.
struct Recovery<'a> {
    purpose: String,
    root: &'a WriteRoot,
    tools: &'a Tools<'a>,
    outcome: Outcome,
}

impl Recovery<'_> {
    fn take(&mut self, action: Action) -> anyhow::Result<()> {
        match action {
            Action::FinishReplacement(journal) => self.finish(journal)?,
            Action::Replace(replacement) => self.replace(&replacement)?,
            Action::Start if self.outcome.server.is_none() => {
                self.outcome.server = Some(start_and_verify(self.tools, self.root, Start::AsItIs)?);
            }
            // A server that was in the way had to be stopped before the directory could be claimed.
            Action::Start | Action::Stop { .. } => {}
            Action::SetMode { place, mode } => self.set_mode(&place, mode)?,
            Action::RecreateDirectory { place } => self.recreate_directory(&place)?,
            Action::SetAsideFile { place } => self.set_aside_file(&place)?,
            Action::SetOwner { uid } => return Err(self.cannot_change_owners(uid)),
        }
        Ok(())
    }

    fn done(&mut self, text: impl Into<String>) {
        self.outcome.done.push(text.into());
    }

    fn set_mode(&mut self, place: &str, mode: u32) -> anyhow::Result<()> {
        self.root.set_mode(place, mode).with_context(|| format!("set the mode of '{place}'"))?;
        self.done(format!("set the mode of '{place}' to {mode:04o}"));
        Ok(())
    }

    fn recreate_directory(&mut self, place: &str) -> anyhow::Result<()> {
        self.root
            .create_directories(place, 0o700)
            .with_context(|| format!("make the directory '{place}'"))?;
        let parent = Path::new(place).parent().filter(|parent| *parent != Path::new(""));
        self.root.sync_directory(parent.unwrap_or(Path::new("."))).context("sync a directory")?;
        self.done(format!("made the directory '{place}' anew"));
        Ok(())
    }

    fn set_aside_file(&mut self, place: &str) -> anyhow::Result<()> {
        // One place for each: the pid file of a killed server is worth no more than a look at the last one.
        let target = Path::new(ASIDE_DIRECTORY).join(place.replace('/', "_"));
        move_durably(self.root, Path::new(place), &target).with_context(|| format!("set '{place}' aside"))?;
        self.done(format!("moved '{place}' to '{}'", target.display()));
        Ok(())
    }

    fn cannot_change_owners(&self, uid: u32) -> anyhow::Error {
        let path = self.root.path().display();
        let message =
            format!("entries of '{path}' belong to others than user {uid}, as whom the server runs");
        Failure::new(Kind::Refused, message)
            .hint("run `init-postgresql` as root, who can change owners. Nothing was changed.")
            .into()
    }

    fn finish(&mut self, journal: Journal) -> anyhow::Result<()> {
        let operation = journal.operation.clone();
        let resumed =
            takeover::resume(self.root, journal).with_context(|| format!("finish '{operation}'"))?;
        let Some(journal) = resumed else {
            self.done(format!("took back '{operation}', which was cut short"));
            self.outcome.must_look_again = true;
            return Ok(());
        };
        // Only a cluster that has not been through its first start may be taken back: any other may have served,
        // and taken rows. The server removes the signal file when it ends recovery.
        if self.root.facts(RECOVERY_SIGNAL)?.is_none() {
            takeover::accept(self.root.path())?;
            self.done(format!("finished '{operation}', which was cut short"));
            self.outcome.must_look_again = true;
            return Ok(());
        }
        let had_former = journal.aside.is_some();
        match self.prove(journal) {
            Ok(()) => self.done(format!("finished '{operation}', which was cut short")),
            Err(error) if !had_former => return Err(error),
            Err(error) => {
                self.tools.progress.note(&format!("'{operation}' was taken back: {error:#}"));
                self.outcome.must_look_again = true;
            }
        }
        Ok(())
    }

    fn replace(&mut self, replacement: &Replacement) -> anyhow::Result<()> {
        let mut last_error: Option<(&Source, anyhow::Error)> = None;
        for source in &replacement.sources {
            if let Some((former, error)) = last_error.take() {
                self.tools.progress.note(&format!("{} could not be used: {error:#}", describe(former)));
            }
            match self.replace_from(source, replacement.aside) {
                Ok(()) => return Ok(()),
                // The former cluster is not back in place: another source would be built on sand.
                Err(error) if self.root.facts(JOURNAL_FILE)?.is_some() => return Err(error),
                Err(error) => last_error = Some((source, error)),
            }
        }
        // The former cluster may be started now, and needs the space.
        if let Err(error) = self.root.discard(STAGING) {
            self.tools.progress.note(&format!("the staging directory could not be removed: {error}"));
        }
        let error =
            last_error.map_or_else(|| anyhow!("there was nothing to replace it by"), |(_, error)| error);
        Err(error.context(format!("could not {}; the data directory is as it was", self.purpose)))
    }

    /// Builds, inspects, puts in place and proves one source. On any error the former cluster is in place.
    fn replace_from(&mut self, source: &Source, aside: Option<BackupName>) -> anyhow::Result<()> {
        match source {
            Source::Fresh => build_fresh(self.tools, self.root)?,
            Source::Backup { name, replay } => build_from_backup(self.tools, self.root, *name, replay)?,
        }
        self.inspect_staging()?;
        let journal = takeover::take_over(self.root, &self.purpose, aside)?;
        self.prove(journal)?;
        match source {
            Source::Fresh => self.done("made a new cluster"),
            Source::Backup { name, replay } => {
                self.outcome.restored_from = Some(*name);
                self.done(match replay.segments.len() {
                    0 => format!("restored {name}"),
                    count => format!(
                        "restored {name} and replayed the WAL since, as far as it is whole ({})",
                        counted(count, "segment")
                    ),
                });
            }
        }
        if let Some(aside) = aside {
            self.outcome.set_aside = Some(aside);
            self.done(format!("set the former cluster aside as {aside}"));
        }
        Ok(())
    }

    /// The same inspection that a cluster in place gets.
    fn inspect_staging(&self) -> anyhow::Result<()> {
        let expectations = Expectations {
            wanted_version: None,
            installed_versions: vec![self.tools.installation.version],
            server_uid: effective_identity().uid,
        };
        let staging = self.root.path().join(STAGING);
        let diagnosis = inspect::inspect(&staging, &expectations).context("inspect what was built")?;
        let Some(worst) = diagnosis.findings.first().filter(|_| diagnosis.has_errors()) else {
            return Ok(());
        };
        let message = format!("what was built is not sound: {}", worst.summary());
        Err(Failure::new(Kind::VerificationFailed, message).into())
    }

    /// Starts the new cluster and sees it serve; if it does not, puts the former one back.
    fn prove(&mut self, journal: Journal) -> anyhow::Result<()> {
        let start = Start::of_replacement(self.root)?;
        match start_and_verify(self.tools, self.root, start) {
            Ok(server) => {
                takeover::accept(self.root.path())?;
                self.outcome.server = Some(server);
                Ok(())
            }
            Err(error) if journal.aside.is_some() => {
                takeover::undo(self.root, journal).context("put the former cluster back")?;
                Err(error)
            }
            Err(error) => Err(error),
        }
    }
}

fn move_durably(root: &WriteRoot, from: &Path, to: &Path) -> io::Result<()> {
    root.create_directories(ASIDE_DIRECTORY, 0o700)?;
    root.rename(from, to)?;
    root.sync_directory(ASIDE_DIRECTORY)?;
    root.sync_directory(".")
}

fn describe(source: &Source) -> String {
    match source {
        Source::Backup { name, .. } => format!("the backup {name}"),
        Source::Fresh => "a new cluster".to_owned(),
    }
}
