//! A server that did not start or does not serve, as a person reads it, with the cause that decides what comes next.

use crate::cluster::server::{SHOWN_LOG_LINES, SocketInUse, StartError};
use crate::error::{Failure, Kind};
use crate::plan::start_failure::{Cause, StartFailure, without_time_stamp};
use crate::sys::ProcessError;

/// A start that failed, with its cause.
#[derive(Debug, thiserror::Error)]
#[error("{what}")]
pub(crate) struct FailedStart {
    what: String,
    /// Why, as far as the server's words tell.
    pub(crate) report: StartFailure,
    /// The same without the lines of the log.
    brief: Failure,
    #[source]
    failure: Failure,
}

impl FailedStart {
    fn new(what: String, kind: Kind, message: &str, report: StartFailure, log: &[String]) -> Self {
        let hint = format!("{}. The data are as they were.", report.cause.hint());
        let brief = Failure::new(kind, message).hint(hint);
        let failure = brief.clone().details(shown_log(log));
        Self { what, report, brief, failure }
    }

    /// The same, whose lines of the log were shown already.
    fn with_log_shown(self) -> Self {
        Self { failure: self.brief.clone(), ..self }
    }
}

/// The report of a start that failed, if that is what an error is about.
pub(crate) fn report_of(error: &anyhow::Error) -> Option<&StartFailure> {
    error.chain().find_map(|cause| cause.downcast_ref::<FailedStart>()).map(|failed| &failed.report)
}

/// Whether an error is a failed start whose cause is known and is not the data.
pub(super) fn is_outside_the_data(error: &anyhow::Error) -> bool {
    report_of(error).is_some_and(|report| report.cause.is_outside_the_data())
}

/// An error without the lines of the server's log, which were shown already.
pub(super) fn with_log_shown(error: anyhow::Error) -> anyhow::Error {
    match error.downcast::<FailedStart>() {
        Ok(failed) => failed.with_log_shown().into(),
        Err(error) => error,
    }
}

/// A failed start as a person reads it, with the last lines of the server's log and what to do.
pub(crate) fn start_failure(error: StartError, action: &str) -> anyhow::Error {
    let what = format!("could not {action}");
    let report = report(&error);
    let log = error.log().to_vec();
    match error {
        StartError::Process(_) | StartError::Io(_) | StartError::Seal(_) => {
            anyhow::Error::new(error).context(action.to_owned())
        }
        StartError::PortInUse(port) => {
            let hint = format!(
                "stop what listens on port {port}, or choose another with PGPORT (0: any that is free)"
            );
            let brief = Failure::new(Kind::Failed, error.to_string()).hint(hint);
            FailedStart { what, report, failure: brief.clone(), brief }.into()
        }
        StartError::InUse(_) => {
            let brief = Failure::new(Kind::Busy, error.to_string());
            let brief = brief.hint("stop it first, or give this one a data directory of its own");
            FailedStart { what, report, failure: brief.clone(), brief }.into()
        }
        StartError::SocketInUse(ref in_use) => {
            let brief = Failure::new(Kind::Failed, error.to_string()).hint(hint_of_socket(in_use));
            FailedStart { what, report, failure: brief.clone(), brief }.into()
        }
        StartError::NoProgress { .. } if report.cause == Cause::Unknown => {
            let brief = Failure::new(Kind::ServerFailed, error.to_string());
            let hint = "raise STARTUP_TIMEOUT if the machine is very slow";
            let brief = brief.hint(hint);
            FailedStart { what, report, failure: brief.clone().details(shown_log(&log)), brief }.into()
        }
        StartError::Ended { .. } | StartError::NoProgress { .. } => {
            let words = report.words.as_ref().map(|words| format!(": {words}")).unwrap_or_default();
            FailedStart::new(what, Kind::ServerFailed, &format!("{error}{words}"), report, &log).into()
        }
    }
}

/// Why a start failed.
pub(super) fn report(error: &StartError) -> StartFailure {
    match error {
        StartError::PortInUse(_) | StartError::SocketInUse(_) | StartError::InUse(_) => {
            StartFailure { cause: Cause::Address, words: Some(error.to_string()) }
        }
        _ => StartFailure::of_log(error.whole_log()),
    }
}

/// A server that started and does not serve, by its answer and its log.
pub(super) fn does_not_serve(answer: &str, log: &[String]) -> anyhow::Error {
    let report = StartFailure::of_answer(answer, log);
    let what = "the server started, but does not serve".to_owned();
    FailedStart::new(what, Kind::ServerFailed, answer, report, log).into()
}

/// A replay in single-user mode that failed, by what its program said.
pub(super) fn replay_failure(error: &ProcessError) -> anyhow::Error {
    let log: Vec<String> = match error {
        ProcessError::Failed { stderr, .. } => stderr.lines().map(str::to_owned).collect(),
        _ => Vec::new(),
    };
    let report = StartFailure::of_log(&log);
    FailedStart::new(
        "could not replay the WAL".to_owned(),
        Kind::ServerFailed,
        &error.to_string(),
        report,
        &[],
    )
    .into()
}

fn hint_of_socket(in_use: &SocketInUse) -> String {
    match in_use {
        SocketInUse::Held { .. } => {
            "stop that server, or choose another port with PGPORT (0: any that is free). Nothing was changed."
        }
        SocketInUse::Stuck { .. } => {
            "remove that lock file, or let the server's user write in its directory. Nothing was changed."
        }
    }
    .to_owned()
}

/// The last lines of the server's log, without their times, as the details of a message. Advice that would throw away a
/// backup's starting point is left out (xlogrecovery.c, `read_backup_label()`).
fn shown_log(lines: &[String]) -> Vec<String> {
    let is_shown = |line: &&String| !line.contains("try removing the file");
    let lines: Vec<&str> = lines.iter().filter(is_shown).map(|line| without_time_stamp(line)).collect();
    let begin = lines.len().saturating_sub(SHOWN_LOG_LINES);
    let shown = lines.get(begin..).unwrap_or_default();
    let heading = (!shown.is_empty()).then(|| "the last lines of the server's log:".to_owned());
    heading.into_iter().chain(shown.iter().map(|line| format!("    {line}"))).collect()
}
