//! From whatever is there to a server that serves: the whole way, for the commands and for programs that
//! embed pgbox.
//!
//! Safe to run any number of times at once: one does the work, the others wait for it, signalled by the
//! kernel, and find the server running.

use super::Tools;
use super::attempt::Attempt;
use super::decide::{decide, decide_after, diagnose, diagnose_to};
use super::recover::{self, Outcome};
use super::release::wait_for_release;
use super::salvage;
use super::start::{superuser_login, unverified};
use super::stop::stop_meanwhile;
use super::takeover;
use super::verify::clear_left_behind;
use crate::cluster::elsewhere::server_elsewhere;
use crate::cluster::history::{self, Event};
use crate::cluster::inspect::Depth;
use crate::cluster::known_locales;
use crate::cluster::last_failure::LastFailure;
use crate::cluster::readiness::{Standing, verify_by_two_connections};
use crate::cluster::session::ServerAddress;
use crate::cluster::standby::{self, Following};
use crate::cluster::wal_gap::{self, WalGap};
use crate::cluster::{control_file, wal_reset};
use crate::error::{Failure, Kind, kind_of};
use crate::pg::control_file::CONTROL_FILE;
use crate::pg::wal::WalFileName;
use crate::plan::recovery::{Action, Effect, Plan, Refusal};
use crate::plan::{ClusterCondition, Diagnosis, Finding, Journal, Phase, Presence, Severity};
use crate::sys::{
    ChangeWatch, LockError, OPERATION_LOCK, OperationLock, ReadRoot, WriteRoot, clear_stop_marker,
    effective_identity, is_alive, is_writable_directory,
};
use anyhow::Context;
use chrono::Utc;
use std::io;
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
const MOST_ROUNDS: usize = 8;

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
    // Where pgbox was before, the look that decides, under the lock of commands, is the only one: nothing that the
    // directory stays without is made by that lock.
    if !is_entered(path) {
        refuse_untouched(tools)?;
    }
    ensure_writable(path)?;
    let operation = enter(tools, activity)?;
    let ensured = bring_up(tools, activity, Attempt::to(Depth::Structure), &operation);
    // A copy of a cluster takes a while to remove, and keeps nothing from serving.
    clear_left_behind(tools);
    ensured
}

/// Whether commands were at work in a directory before, and may write in it.
fn is_entered(path: &Path) -> bool {
    path.join(OPERATION_LOCK).exists() && is_writable_directory(path)
}

/// Looks without any lock, so that a directory that is refused stays without a `.pgbox`; makes one that is absent.
fn refuse_untouched(tools: &Tools) -> anyhow::Result<()> {
    let path = &tools.settings.data_directory;
    let diagnosis = diagnose(tools)?;
    // One that stops, and a lock that is held, may pass.
    let may_pass = matches!(diagnosis.presence, Presence::Running { .. } | Presence::Locked { .. });
    if let (Err(refusal), false) = (decide(tools, &diagnosis)?, may_pass) {
        return Err(Failure::from(refusal).into());
    }
    if diagnosis.condition == ClusterCondition::Absent {
        crate::sys::ensure_directory(path, 0o700, None)
            .with_context(|| format!("make '{}'", path.display()))?;
    }
    Ok(())
}

/// What a person says to a plan that they have been shown.
pub type Consent<'a> = dyn Fn(&Diagnosis, &Plan) -> anyhow::Result<()> + 'a;

/// Stops the server, inspects everything, repairs whatever is found and starts the server again.
///
/// `consent` is asked once everything is known; where it says no, by an error, the server is started as it was, and
/// that error is returned.
///
/// # Errors
/// Those of [`ensure_running`].
pub fn repair(tools: &Tools, activity: &str, consent: &Consent) -> anyhow::Result<Ensured> {
    let path = &tools.settings.data_directory;
    ensure_writable(path)?;
    let operation = enter(tools, activity)?;
    let was_running = stop_meanwhile(tools, &operation)?.is_some();
    wait_for_release(tools, path)?;
    let agreed = diagnose_to(tools, Depth::Deep).and_then(|diagnosis| {
        let plan = decide(tools, &diagnosis)?.map_err(Failure::from)?;
        consent(&diagnosis, &plan)?;
        Ok(diagnosis)
    });
    match agreed {
        Ok(diagnosis) => bring_up(tools, activity, Attempt::after(Depth::Deep, diagnosis), &operation),
        Err(error) => {
            let as_it_was = Attempt::to(Depth::Structure);
            if was_running && let Err(start) = bring_up(tools, activity, as_it_was, &operation) {
                tools.progress.note(&format!("the server could not be started again: {start:#}"));
            }
            Err(error)
        }
    }
}

/// Goes round by round: look, decide, carry out; until a server serves or nothing is left to try.
fn bring_up(
    tools: &Tools,
    activity: &str,
    mut attempt: Attempt,
    _operation: &OperationLock,
) -> anyhow::Result<Ensured> {
    let ensured = go_round(tools, activity, &mut attempt);
    if let Err(error) = &ensured {
        note_failure(tools, error);
        // What was done is done, whatever came after it.
        attempt.done.iter().for_each(|done| tools.progress.note(done));
    }
    ensured
}

/// Notes a failure for who looks at a server that does not run. One that somebody else uses may run all the same, and a
/// directory that was refused stays as it is: an inspection finds the reason again.
fn note_failure(tools: &Tools, error: &anyhow::Error) {
    if matches!(kind_of(error), Kind::Busy | Kind::Refused) {
        return;
    }
    let message = format!("{error:#}").lines().next().unwrap_or_default().to_owned();
    let failure = LastFailure { time: Utc::now(), message };
    if let Err(error) = failure.note(&tools.settings.data_directory) {
        tools.progress.note(&format!("the failure could not be noted: {error}"));
    }
}

fn go_round(tools: &Tools, activity: &str, attempt: &mut Attempt) -> anyhow::Result<Ensured> {
    let path = &tools.settings.data_directory;
    for _ in 0..MOST_ROUNDS {
        let diagnosis = attempt.diagnose(tools)?;
        if let Presence::Running { pid } = diagnosis.presence {
            match wait_for_running(tools, pid)? {
                Some(mut ensured) => {
                    if let Some(journal) = &diagnosis.journal {
                        ensured.remarks.extend(conclude_served(tools, journal));
                    }
                    let cleared = LastFailure::clear(path);
                    warn_of(tools, "clear the note of a failed start", cleared);
                    return Ok(ensured);
                }
                // It was about to stop; now that it has, there is something to do.
                None => continue,
            }
        }
        if matches!(diagnosis.presence, Presence::Locked { .. }) && wait_for_release(tools, path)? {
            continue;
        }
        let decided = decide_after(tools, &diagnosis, &attempt.tried, &mut attempt.looked_back)?;
        let plan = decided.map_err(Failure::from)?;
        attempt.tell_findings(&diagnosis, tools);
        tell_plan(&plan, tools);
        let replaces = plan.steps.iter().any(|step| matches!(step.action, Action::Replace(_)));
        let steps = plan.steps.clone();
        attempt.begin(&plan);
        let replays = plan.steps.iter().any(|step| step.action == Action::RecoverFirst);
        match carry_out(plan, &diagnosis, tools, activity) {
            Ok(Carried::Serving(mut ensured)) => {
                attempt.conclude(&mut ensured);
                return Ok(*ensured);
            }
            Ok(Carried::LookAgain(done)) => {
                attempt.note(&diagnosis, &steps, done);
                if replays {
                    attempt.depth = attempt.depth.max(Depth::Catalogs);
                }
            }
            Err(error) if kind_of(&error) == Kind::ServerFailed && !replaces => {
                attempt.note_failed_start(error, tools)?;
            }
            Err(error) => return Err(error),
        }
    }
    Err(Failure::new(Kind::Failed, format!("could not bring '{}' to a state that serves", path.display()))
        .hint("`maintenance health` tells what is wrong; nothing was removed")
        .into())
}

/// Ends a replacement that was cut short, since a whole cluster is in place and served. Returns what to say of it.
fn conclude_served(tools: &Tools, journal: &Journal) -> Vec<String> {
    let path = &tools.settings.data_directory;
    let remarks = match journal.phase {
        // Nothing had moved or changed yet when another server was started.
        Phase::SettingAside | Phase::Rewriting => vec![recover::given_up(&journal.operation)],
        Phase::PuttingBack | Phase::RewrittenBack => vec![format!("took back '{}'", journal.operation)],
        // Whoever put this cluster in place was killed before it could say so.
        _ => {
            let mut remarks = journal.done.clone();
            note_in_history(path, &event_of(journal), &mut remarks, tools);
            remarks
        }
    };
    // The journal that stays is ended at the next start.
    if let Err(error) = takeover::accept(path) {
        tools.progress.note(&format!("could not end '{}': {error:#}", journal.operation));
    }
    remarks
}

/// Adds an event to the history. A full disk is no reason to call a start failed that was not: the event is only missed by
/// whoever reads the history later, and so it is reported now.
fn note_in_history(path: &Path, event: &Event, remarks: &mut Vec<String>, tools: &Tools) {
    if let Err(error) = history::record(path, event) {
        let remark = format!("what was done could not be recorded in the history: {error}");
        tools.progress.note(&remark);
        remarks.push(remark);
    }
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

/// What carrying out one plan came to.
pub(super) enum Carried {
    /// A server serves.
    Serving(Box<Ensured>),
    /// The directory must be looked at again; what was done.
    LookAgain(Vec<String>),
}

pub(super) fn carry_out(
    plan: Plan,
    diagnosis: &Diagnosis,
    tools: &Tools,
    activity: &str,
) -> anyhow::Result<Carried> {
    let path = &tools.settings.data_directory;
    let identifier = plan.belief.system_identifier.map(|identifier| identifier.0);
    let root = WriteRoot::claim(path, identifier, activity)
        .with_context(|| format!("take the data directory '{}'", path.display()))?;
    // Since the look at the directory, somebody may have come who knows nothing of the lock. Where nothing is changed
    // before the server is started, they are looked for right before that.
    if !plan.only_starts() {
        refuse_server_elsewhere(&root)?;
    }
    root.discard(salvage::SALVAGE).context("remove what a killed salvage left")?;
    note_reset(&root, diagnosis, &plan)?;
    let (purpose, mut remarks) = (plan.purpose.clone(), plan.remarks.clone());
    let outcome = recover::run(plan, diagnosis, &root, tools)?;
    let broken = outcome.broken.map(|why| {
        format!("{why}, so the outcome announced above no longer holds; see what was done instead")
    });
    let found_out: Vec<String> = broken.into_iter().chain(outcome.found_out.iter().cloned()).collect();
    for remark in &found_out {
        tools.progress.note(remark);
    }
    if outcome.broken.is_some() {
        remarks.clear();
    }
    remarks.extend(found_out);
    if !outcome.done.is_empty() {
        let event = Event {
            time: Utc::now(),
            purpose,
            findings: findings_of(diagnosis),
            done: outcome.done.clone(),
            remarks: remarks.clone(),
            restored_from: outcome.restored_from,
            set_aside: outcome.set_aside,
        };
        note_in_history(path, &event, &mut remarks, tools);
    }
    warn_of(tools, "clear the note that the server was stopped", clear_stop_marker(path));
    let Some(server) = &outcome.server else {
        return Ok(Carried::LookAgain(outcome.done));
    };
    warn_of(tools, "clear the note of a failed start", LastFailure::clear(path));
    let locales = known_locales::note(&root, tools.installation, &diagnosis.locales);
    warn_of(tools, "note which locales are there", locales);
    for remark in standby_remarks(tools, &root, &server.address) {
        tools.progress.note(&remark);
        remarks.push(remark);
    }
    let pid = i32::try_from(server.process.pid()).context("read the server's process id")?;
    let address = server.address.clone();
    Ok(Carried::Serving(Box::new(Ensured { address, pid, outcome: Some(outcome), remarks })))
}

/// Warns that a note was not written or removed. A note is for those who look later: it ends nothing that serves.
fn warn_of(tools: &Tools, what: &str, noted: io::Result<()>) {
    if let Err(error) = noted {
        tools.progress.note(&format!("could not {what}: {error}"));
    }
}

/// Notes the traces of a `pg_resetwal` before a start wipes them out: what it left in `pg_xact` counts as damage otherwise,
/// and the archive has a hole until the next backup. Where another cluster takes the place, they go with this one.
fn note_reset(root: &WriteRoot, diagnosis: &Diagnosis, plan: &Plan) -> anyhow::Result<()> {
    let replaces = plan.steps.iter().any(|step| step.effect == Effect::Replaces);
    let Some(reset) = diagnosis.wal_reset.as_ref().filter(|_| !replaces) else { return Ok(()) };
    let (_, control) = control_file::read_at(root, CONTROL_FILE).context("read the control file")?;
    let first = WalFileName::containing(reset.checkpoint, control.timeline, control.wal_segment_size)?;
    let lost = first.numbered(first.segment_number.saturating_sub(1)).to_string();
    let former = wal_gap::read(root.path()).unwrap_or_default();
    // A repair of ours notes the gap before it.
    if former.as_ref().is_none_or(|gap| gap.end < first.start_lsn()) {
        let reason = "pg_resetwal was run on the cluster";
        let gap = WalGap::with(former, &lost, first.start_lsn(), reason, Utc::now());
        wal_gap::note(root.path(), &gap).context("note that the archive has a hole")?;
    }
    wal_reset::note(root, reset).context("note what pg_resetwal left")
}

/// Refuses to work beside a server that cannot be seen from here. The caller holds the lock.
pub(super) fn refuse_server_elsewhere(root: &WriteRoot) -> anyhow::Result<()> {
    let Some(server) = server_elsewhere(root) else { return Ok(()) };
    let message = format!("'{}' is in use by {server}", root.path().display());
    Err(Failure::new(Kind::Busy, message).hint("stop it first. Nothing was changed.").into())
}

/// What a person must know of a server that takes no writes.
fn standby_remarks(tools: &Tools, root: &ReadRoot, address: &ServerAddress) -> Vec<String> {
    let standby = standby::of_running(root).map(Following::words);
    let paused = standby::is_paused(root, address, &superuser_login(tools)).then_some(standby::PAUSED);
    standby.into_iter().chain(paused).map(|(what, advice)| format!("{what}; {advice}")).collect()
}

/// What was wrong, for the history. Half-way between two clusters, the journal knows it, not the inspection.
fn findings_of(diagnosis: &Diagnosis) -> Vec<String> {
    match &diagnosis.journal {
        Some(journal) => journal.findings.clone(),
        None => diagnosis
            .findings
            .iter()
            .filter(|finding| is_worth_a_word(finding))
            .map(Finding::summary)
            .collect(),
    }
}

pub(super) fn is_worth_a_word(finding: &Finding) -> bool {
    finding.severity != Severity::Notice
}

/// A replacement that somebody else carried out, as far as the journal knows of it.
fn event_of(journal: &Journal) -> Event {
    Event {
        time: Utc::now(),
        purpose: journal.operation.clone(),
        findings: journal.findings.clone(),
        done: journal.done.clone(),
        remarks: Vec::new(),
        restored_from: journal.restored_from,
        set_aside: journal.aside,
    }
}

/// Says what will be done, before it is done. A plain start is not worth a word.
fn tell_plan(plan: &Plan, tools: &Tools) {
    if plan.steps.iter().any(|step| step.action != Action::Start) || !plan.remarks.is_empty() {
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
                Ok(()) => {
                    let remarks = standby_remarks(tools, &root, &address);
                    return Ok(Some(Ensured { address, pid, outcome: None, remarks }));
                }
                Err(error) if error.standing() == Standing::RefusesUs => {
                    let remarks = vec![unverified(&error), error.advice().to_owned()];
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
