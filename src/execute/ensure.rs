//! From whatever is there to a server that serves: the whole way, for the commands and for programs that
//! embed pgbox.
//!
//! Safe to run any number of times at once: one does the work, the others wait for it, signalled by the
//! kernel, and find the server running.

use super::Tools;
use super::recover::{self, Outcome};
use super::start::superuser_login;
use super::takeover;
use super::takeover::STAGING;
use crate::cluster::history::{self, Event};
use crate::cluster::inspect::running_server;
use crate::cluster::readiness::verify_by_two_connections;
use crate::cluster::server;
use crate::cluster::session::ServerAddress;
use crate::cluster::{Expectations, inspect};
use crate::error::{Failure, Kind};
use crate::plan::recovery::{Action, Circumstances, Plan, Refusal, recovery};
use crate::plan::restore::restore;
use crate::plan::{BackupSummary, ClusterCondition, Diagnosis, Finding, Presence};
use crate::sys::{
    ChangeWatch, LockError, OperationLock, ReadRoot, WriteRoot, clear_stop_marker, effective_identity,
    is_alive, is_writable_directory,
};
use anyhow::Context;
use chrono::{DateTime, Utc};
use std::path::Path;
use std::time::{Duration, Instant};

/// A server that serves, and how it came to.
#[derive(Debug)]
pub struct Ensured {
    /// Where it listens.
    pub address: ServerAddress,
    /// The process id of its postmaster.
    pub pid: i32,
    /// What was done for it; `None` when it ran already.
    pub outcome: Option<Outcome>,
    /// What a person should know.
    pub remarks: Vec<String>,
}

/// How often a directory is looked at again after a replacement was taken back.
const MOST_ROUNDS: usize = 5;
/// How long a lock may outlive the server that held it: backends of a killed postmaster end within moments.
const DYING_SERVER_PATIENCE: Duration = Duration::from_secs(5);

/// Inspects the data directory as the server's user would.
pub fn diagnose(tools: &Tools) -> anyhow::Result<Diagnosis> {
    diagnose_for(tools, effective_identity().uid)
}

/// Inspects the data directory for a server that will run as user `server_uid`.
pub fn diagnose_for(tools: &Tools, server_uid: u32) -> anyhow::Result<Diagnosis> {
    let wanted = tools.settings.postgres_version.map(crate::pg::MajorVersion);
    let expectations = Expectations {
        wanted_version: wanted,
        installed_versions: vec![tools.installation.version],
        server_uid,
    };
    let path = &tools.settings.data_directory;
    inspect(path, &expectations).with_context(|| format!("inspect '{}'", path.display()))
}

/// Decides what to do about a diagnosis.
pub fn decide(tools: &Tools, diagnosis: &Diagnosis) -> anyhow::Result<Result<Plan, Refusal>> {
    let backups = match diagnosis.condition {
        // A repository that cannot be read keeps no sound cluster from starting.
        ClusterCondition::Sound | ClusterCondition::Repairable => Vec::new(),
        // Only a remark rests on them.
        ClusterCondition::Absent | ClusterCondition::Empty => listed_backups(tools).unwrap_or_default(),
        _ => listed_backups(tools)?,
    };
    let circumstances = Circumstances { backups: &backups, policy: tools.settings.recovery, now: Utc::now() };
    Ok(recovery(diagnosis, &circumstances))
}

/// Decides how to put a backup in the place of the present data.
pub(super) fn decide_restore(
    tools: &Tools,
    backup: &BackupSummary,
    diagnosis: &Diagnosis,
    now: DateTime<Utc>,
) -> anyhow::Result<Plan> {
    let backups = listed_backups(tools)?;
    let circumstances = Circumstances { backups: &backups, policy: tools.settings.recovery, now };
    let decided = restore(backup, diagnosis, tools.installation.version, &circumstances);
    decided.map_err(|refusal| Failure::from(refusal).into())
}

fn listed_backups(tools: &Tools) -> anyhow::Result<Vec<BackupSummary>> {
    match tools.repository()? {
        Some(repository) => repository.backups().context("list the backups"),
        None => Ok(Vec::new()),
    }
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        let kind = if refusal.is_busy { Kind::Busy } else { Kind::Refused };
        Self::new(kind, format!("cannot go on: {}", refusal.reason)).hint(refusal.hint)
    }
}

/// Sees to it that a server serves from the data directory: made, repaired, restored and started as needed.
///
/// # Errors
/// [`Kind::Refused`] for a directory that is not ours to touch, and [`Kind::Busy`] for one in use elsewhere;
/// neither is changed. Otherwise the step that failed: see [`recover::run`] for what holds then.
pub fn ensure_running(tools: &Tools, activity: &str) -> anyhow::Result<Ensured> {
    let path = &tools.settings.data_directory;
    // A look without the lock, so that a directory that is refused stays without a `.pgbox`.
    let diagnosis = diagnose(tools)?;
    if let (Err(refusal), Presence::Free) = (decide(tools, &diagnosis)?, &diagnosis.presence) {
        return Err(Failure::from(refusal).into());
    }
    if diagnosis.condition == ClusterCondition::Absent {
        crate::sys::ensure_directory(path, 0o700, None)
            .with_context(|| format!("make '{}'", path.display()))?;
    }
    ensure_writable(path)?;
    let _operation = enter(tools, activity)?;
    for _ in 0..MOST_ROUNDS {
        let diagnosis = diagnose(tools)?;
        if let Presence::Running { pid } = diagnosis.presence {
            match wait_for_running(tools, pid)? {
                Some(ensured) => {
                    if diagnosis.journal.is_some() {
                        // Whoever put this cluster in place was killed before it could say so.
                        takeover::accept(path)?;
                    }
                    return Ok(ensured);
                }
                // It was about to stop; now that it has, there is something to do.
                None => continue,
            }
        }
        if matches!(diagnosis.presence, Presence::Locked { .. }) && wait_for_release(path)? {
            continue;
        }
        let plan = decide(tools, &diagnosis)?.map_err(Failure::from)?;
        tell_plan(&diagnosis, &plan, tools);
        if let Some(ensured) = carry_out(plan, &diagnosis, tools, activity)? {
            return Ok(ensured);
        }
    }
    Err(Failure::new(Kind::Failed, format!("could not bring '{}' to a state that serves", path.display()))
        .hint("`maintenance health` tells what is wrong; nothing was removed")
        .into())
}

/// A read-only mount would let the server fail again and again, each time with a pause.
fn ensure_writable(path: &Path) -> anyhow::Result<()> {
    if is_writable_directory(path) {
        return Ok(());
    }
    let user = effective_identity();
    let message = format!("could not start a server: user {user} may not write in '{}'", path.display());
    let hint = "see how it is mounted and whom it belongs to. Nothing was changed.";
    Err(Failure::new(Kind::Failed, message).hint(hint).into())
}

/// Becomes the one command at work here; says so when that takes a wait.
fn enter(tools: &Tools, activity: &str) -> anyhow::Result<OperationLock> {
    let path = &tools.settings.data_directory;
    match OperationLock::take(path, activity) {
        Ok(lock) => Ok(lock),
        Err(LockError::Held(holder)) => {
            let holder = holder.map_or_else(|| "another command".to_owned(), |holder| holder.to_string());
            tools.progress.note(&format!("waiting for {holder}"));
            OperationLock::wait(path, activity).context("wait for another command")
        }
        Err(error) => Err(error).with_context(|| format!("lock '{}'", path.display())),
    }
}

/// Waits a moment for a lock whose server has died. Returns whether it is free now.
///
/// The caller is the one command at work here, so that a server in staging is of one that was killed: it would hold
/// the lock for ever, and nobody else would stop it.
pub(super) fn wait_for_release(path: &Path) -> anyhow::Result<bool> {
    if let Ok(staging) = ReadRoot::open(&path.join(STAGING))
        && let Some(pid) = running_server(&staging)
    {
        server::stop(pid, DYING_SERVER_PATIENCE).context("stop the server that a killed command left")?;
    }
    let deadline = Instant::now() + DYING_SERVER_PATIENCE;
    while Instant::now() < deadline {
        if WriteRoot::lock_holder(path)?.is_none() {
            return Ok(true);
        }
        // The kernel has no wait with a deadline for a lock, and one without could last for ever.
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(false)
}

pub(super) fn carry_out(
    plan: Plan,
    diagnosis: &Diagnosis,
    tools: &Tools,
    activity: &str,
) -> anyhow::Result<Option<Ensured>> {
    let path = &tools.settings.data_directory;
    let identifier = plan.belief.system_identifier.map(|identifier| identifier.0);
    let root = WriteRoot::claim(path, identifier, activity)
        .with_context(|| format!("take the data directory '{}'", path.display()))?;
    let (purpose, remarks) = (plan.purpose.clone(), plan.remarks.clone());
    let outcome = recover::run(plan, &root, tools)?;
    if !outcome.done.is_empty() {
        let event = Event {
            time: Utc::now(),
            purpose,
            findings: diagnosis.findings.iter().map(Finding::summary).collect(),
            done: outcome.done.clone(),
            remarks: remarks.clone(),
            restored_from: outcome.restored_from,
            set_aside: outcome.set_aside,
        };
        history::record(path, &event).context("record what was done")?;
    }
    clear_stop_marker(path).context("clear the note that the server was stopped")?;
    let Some(server) = &outcome.server else {
        for done in &outcome.done {
            tools.progress.note(done);
        }
        return Ok(None);
    };
    let pid = i32::try_from(server.process.pid()).context("read the server's process id")?;
    Ok(Some(Ensured { address: server.address.clone(), pid, outcome: Some(outcome), remarks }))
}

/// Says what was found and what will be done, before it is done. A plain start is not worth a word.
fn tell_plan(diagnosis: &Diagnosis, plan: &Plan, tools: &Tools) {
    for finding in &diagnosis.findings {
        tools.progress.note(&format!("found: {}", finding.summary()));
    }
    if plan.steps.iter().any(|step| step.action != Action::Start) {
        for line in plan.lines() {
            tools.progress.note(&line);
        }
    }
}

/// Waits until a server that somebody else started serves. `None`: it has ended instead.
///
/// # Errors
/// When it neither serves nor ends within the time that a start may take without progress.
pub fn wait_for_running(tools: &Tools, pid: i32) -> anyhow::Result<Option<Ensured>> {
    let path = &tools.settings.data_directory;
    let root = ReadRoot::open(path)?;
    let watch = ChangeWatch::new(path)?;
    let deadline = Instant::now() + tools.settings.startup_timeout;
    loop {
        let last_word = match ServerAddress::read(&root) {
            None => "it has not written its address yet".to_owned(),
            Some(address) => match verify_by_two_connections(&address, &superuser_login(tools)) {
                Ok(()) => return Ok(Some(Ensured { address, pid, outcome: None, remarks: Vec::new() })),
                Err(error) if error.is_refusal() => {
                    let remarks = vec![format!("the server could not be verified: {error}")];
                    return Ok(Some(Ensured { address, pid, outcome: None, remarks }));
                }
                Err(error) => error.to_string(),
            },
        };
        if !is_alive(pid) {
            return Ok(None);
        }
        if Instant::now() >= deadline {
            let message = format!("a server (process {pid}) runs, but does not serve: {last_word}");
            return Err(Failure::new(Kind::Failed, message).hint("`maintenance health` tells more").into());
        }
        watch.wait(None, Duration::from_millis(200))?;
    }
}
