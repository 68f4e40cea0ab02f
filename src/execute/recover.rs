//! Carries out a recovery plan: repairs in place, replacements with their way back, and the start.

use super::Tools;
use super::from_backup::build_from_backup;
use super::initialise::build_fresh;
use super::start::{Start, start_and_verify};
use super::takeover::{self, STAGING};
use crate::cluster::inspect::{self, ASIDE_DIRECTORY, Expectations};
use crate::cluster::server::RunningServer;
use crate::error::{Failure, Kind};
use crate::pg::control_file::ControlFile;
use crate::plan::recovery::{Action, Belief, Plan, Replacement, Source};
use crate::plan::{BackupName, Journal};
use crate::sys::{WriteRoot, effective_identity};
use anyhow::{Context, anyhow};
use std::io;
use std::path::{Path, PathBuf};

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
    let mut outcome = Outcome::default();
    for step in plan.steps {
        match step.action {
            Action::FinishReplacement(journal) => finish(journal, root, tools, &mut outcome)?,
            Action::Replace(replacement) => replace(&plan.purpose, &replacement, root, tools, &mut outcome)?,
            Action::Start if outcome.server.is_none() => {
                outcome.server = Some(start_and_verify(tools, root, Start::AsItIs)?)
            }
            // The server had to be stopped before the directory could be claimed.
            Action::Start | Action::Stop { .. } => {}
            action => outcome.done.push(adjust(&action, root)?),
        }
        if outcome.must_look_again {
            break;
        }
    }
    Ok(outcome)
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

/// The steps that put one entry right in place.
fn adjust(action: &Action, root: &WriteRoot) -> anyhow::Result<String> {
    match action {
        Action::SetMode { place, mode } => {
            root.set_mode(place, *mode).with_context(|| format!("set the mode of '{place}'"))?;
            Ok(format!("set the mode of '{place}' to {mode:04o}"))
        }
        Action::RecreateDirectory { place } => {
            root.create_directories(place, 0o700).with_context(|| format!("make the directory '{place}'"))?;
            let parent = Path::new(place).parent().filter(|parent| *parent != Path::new(""));
            root.sync_directory(parent.unwrap_or(Path::new("."))).context("sync a directory")?;
            Ok(format!("made the directory '{place}' anew"))
        }
        Action::SetAsideFile { place } => {
            let target = set_aside_file(root, place).with_context(|| format!("set '{place}' aside"))?;
            Ok(format!("moved '{place}' to '{}'", target.display()))
        }
        Action::SetOwner { uid } => Err(Failure::new(
            Kind::Refused,
            format!(
                "entries of '{}' belong to others than user {uid}, as whom the server runs",
                root.path().display()
            ),
        )
        .hint("run `init-postgresql` as root, who can change owners. Nothing was changed.")
        .into()),
        Action::FinishReplacement(_) | Action::Replace(_) | Action::Stop { .. } | Action::Start => {
            Err(anyhow!("not a step in place"))
        }
    }
}

fn set_aside_file(root: &WriteRoot, place: &str) -> io::Result<PathBuf> {
    root.create_directories(ASIDE_DIRECTORY, 0o700)?;
    let base = place.replace('/', "_");
    let time = chrono::Utc::now().format("%Y%m%d_%H%M%S%.6f");
    let target = Path::new(ASIDE_DIRECTORY).join(format!("{base}.{time}"));
    root.rename(place, &target)?;
    root.sync_directory(ASIDE_DIRECTORY)?;
    root.sync_directory(".")?;
    Ok(target)
}

fn finish(journal: Journal, root: &WriteRoot, tools: &Tools, outcome: &mut Outcome) -> anyhow::Result<()> {
    let operation = journal.operation.clone();
    match takeover::resume(root, journal).with_context(|| format!("finish '{operation}'"))? {
        None => {
            outcome.done.push(format!("took back '{operation}', which was cut short"));
            outcome.must_look_again = true;
            Ok(())
        }
        Some(journal) => match prove(journal, root, tools, outcome) {
            Ok(()) => {
                outcome.done.push(format!("finished '{operation}', which was cut short"));
                Ok(())
            }
            Err(error) => {
                tools.progress.note(&format!("'{operation}' was taken back: {error:#}"));
                outcome.must_look_again = true;
                Ok(())
            }
        },
    }
}

fn replace(
    purpose: &str,
    replacement: &Replacement,
    root: &WriteRoot,
    tools: &Tools,
    outcome: &mut Outcome,
) -> anyhow::Result<()> {
    let mut failures = Vec::new();
    for source in &replacement.sources {
        match replace_from(purpose, source, replacement.aside.as_ref(), root, tools, outcome) {
            Ok(()) => return Ok(()),
            Err(error) => {
                tools.progress.note(&format!("{} could not be used: {error:#}", describe(source)));
                failures.push(error);
            }
        }
    }
    let last = failures.pop().unwrap_or_else(|| anyhow!("there was nothing to replace it by"));
    Err(last.context(format!("could not {purpose}; the data directory is as it was")))
}

fn describe(source: &Source) -> String {
    match source {
        Source::Backup { name, .. } => format!("the backup {name}"),
        Source::Fresh => "a new cluster".to_owned(),
    }
}

/// Builds, inspects, puts in place and proves one source. On any error the former cluster is in place.
#[expect(clippy::too_many_arguments, reason = "one call, of the parts of one step")]
fn replace_from(
    purpose: &str,
    source: &Source,
    aside: Option<&BackupName>,
    root: &WriteRoot,
    tools: &Tools,
    outcome: &mut Outcome,
) -> anyhow::Result<()> {
    match source {
        Source::Fresh => build_fresh(tools, root)?,
        Source::Backup { name, replay } => build_from_backup(tools, root, *name, replay)?,
    }
    inspect_staging(root, tools)?;
    let journal = takeover::take_over(root, purpose, aside)?;
    prove(journal, root, tools, outcome)?;
    match source {
        Source::Fresh => outcome.done.push("made a new cluster".to_owned()),
        Source::Backup { name, replay } => {
            outcome.restored_from = Some(*name);
            outcome.done.push(match replay.segments.len() {
                0 => format!("restored {name}"),
                count => {
                    format!("restored {name} and replayed what survived of the WAL since ({count} segments)")
                }
            });
        }
    }
    if let Some(aside) = aside {
        outcome.set_aside = Some(*aside);
        outcome.done.push(format!("set the former cluster aside as {aside}"));
    }
    Ok(())
}

/// The same inspection that a cluster in place gets.
fn inspect_staging(root: &WriteRoot, tools: &Tools) -> anyhow::Result<()> {
    let expectations = Expectations {
        wanted_version: None,
        installed_versions: vec![tools.installation.version],
        server_uid: effective_identity().uid,
    };
    let diagnosis =
        inspect::inspect(&root.path().join(STAGING), &expectations).context("inspect what was built")?;
    let Some(worst) = diagnosis.findings.iter().find(|_| diagnosis.has_errors()) else { return Ok(()) };
    Err(Failure::new(Kind::VerificationFailed, format!("what was built is not sound: {}", worst.summary()))
        .into())
}

/// Starts the new cluster and sees it serve; if it does not, puts the former one back.
fn prove(journal: Journal, root: &WriteRoot, tools: &Tools, outcome: &mut Outcome) -> anyhow::Result<()> {
    let start = match root.facts("recovery.signal")? {
        Some(_) => Start::FirstAfterRestore,
        None => Start::AsItIs,
    };
    match start_and_verify(tools, root, start) {
        Ok(server) => {
            takeover::accept(root)?;
            outcome.server = Some(server);
            Ok(())
        }
        Err(error) if journal.aside.is_some() => {
            takeover::undo(root, journal).context("put the former cluster back")?;
            Err(error)
        }
        Err(error) => Err(error),
    }
}
