//! What is known after several rounds of looking, deciding and carrying out: what was tried, done and told.

use super::Tools;
use super::decide::{LookedBack, diagnose_to};
use super::ensure::{Ensured, is_worth_a_word};
use super::failed_start::{is_outside_the_data, report_of, with_log_shown};
use crate::cluster::inspect::Depth;
use crate::error::details_of;
use crate::plan::recovery::{Action, FormerFailure, Plan, Step, Tried};
use crate::plan::start_failure::{Cause, StartFailure};
use crate::plan::{ClusterCondition, Diagnosis, Finding, Severity};

/// What the rounds of one attempt have come to so far.
#[derive(Default)]
pub(super) struct Attempt {
    pub(super) depth: Depth,
    pub(super) tried: Tried,
    pub(super) done: Vec<String>,
    pub(super) looked_back: LookedBack,
    /// What is known already of the directory, for the first round.
    known: Option<Diagnosis>,
    failed_start: Option<anyhow::Error>,
    /// Whether a start failed before.
    has_failed: bool,
    /// Whether anything was repaired since a start failed.
    repaired_since: bool,
    /// Whether the directory was made to take a timeline of its own.
    branched: bool,
    /// The findings that were told.
    told: Vec<String>,
}

impl Attempt {
    /// One that begins by inspecting to a depth.
    pub(super) fn to(depth: Depth) -> Self {
        Self { depth, ..Self::default() }
    }

    /// One that begins with what an inspection found a moment ago; the caller has kept everybody else out since.
    pub(super) fn after(depth: Depth, diagnosis: Diagnosis) -> Self {
        Self { depth, known: Some(diagnosis), ..Self::default() }
    }

    /// Looks at the directory, unless it was looked at just now.
    pub(super) fn diagnose(&mut self, tools: &Tools) -> anyhow::Result<Diagnosis> {
        let diagnosis = match self.known.take() {
            Some(diagnosis) => diagnosis,
            None => diagnose_to(tools, self.depth)?,
        };
        self.judge(diagnosis)
    }

    /// After a start that failed, a diagnosis must say why. Where it does not, nothing is replaced on account of it: a
    /// server that does not start is no proof of damage. Only a file of the cluster that the server itself refused,
    /// after a repair had made it what it is, is one.
    fn judge(&mut self, mut diagnosis: Diagnosis) -> anyhow::Result<Diagnosis> {
        let says_why = |finding: &Finding| {
            let is_final = self.tried.start && finding.severity == Severity::Warning;
            finding.severity == Severity::Error || finding.asks_for_repair() || is_final
        };
        if diagnosis.findings.iter().any(says_why) {
            return Ok(diagnosis);
        }
        let Some(error) = self.failed_start.take() else { return Ok(diagnosis) };
        if self.tried.repairs.is_empty() {
            return Err(error.context(if self.branched {
                "no damage was found in the data directory, which is as it was, but for the note that its next start takes a \
                 timeline of its own"
            } else {
                "no damage was found in the data directory, which is as it was"
            }));
        }
        let Some(StartFailure { cause: Cause::Data { place }, words }) = report_of(&error) else {
            return Err(error.context("no damage is left in the data directory"));
        };
        let evidence = format!("repaired, the server refuses it: {}", words.as_deref().unwrap_or_default());
        diagnosis.findings.push(Finding::new("refused-by-server", Severity::Error, place, evidence));
        diagnosis.condition = ClusterCondition::Damaged;
        Ok(diagnosis)
    }

    /// Remembers what a plan that is about to be carried out leaves behind, however its start ends.
    pub(super) fn begin(&mut self, plan: &Plan) {
        self.branched |= plan.steps.iter().any(|step| step.action == Action::BranchOff);
    }

    pub(super) fn note(&mut self, diagnosis: &Diagnosis, steps: &[Step], done: Vec<String>) {
        self.tried.note(diagnosis, steps);
        self.done.extend(done);
        // What failed to start was another cluster than the one that is there now.
        self.failed_start = None;
        self.repaired_since = true;
    }

    /// Says what was found that was not found in an earlier round.
    pub(super) fn tell_findings(&mut self, diagnosis: &Diagnosis, tools: &Tools) {
        // What is found half-way between two clusters says nothing about either.
        if diagnosis.journal.is_some() {
            return;
        }
        for finding in diagnosis.findings.iter().filter(|finding| is_worth_a_word(finding)) {
            let summary = finding.summary();
            if !self.told.contains(&summary) {
                tools.progress.note(&format!("found: {summary}"));
                self.told.push(summary);
            }
        }
    }

    /// Lets the next round look at everything. A failure whose cause is known and is not the data ends the attempt, and
    /// so does one after which nothing was repaired.
    ///
    /// What replay might have put right counts as damage only after the server refused the data themselves: where it
    /// did not come as far as that, nothing was replayed.
    pub(super) fn note_failed_start(&mut self, error: anyhow::Error, tools: &Tools) -> anyhow::Result<()> {
        let is_over = self.has_failed && !self.repaired_since;
        if is_over || is_outside_the_data(&error) {
            return Err(error);
        }
        self.has_failed = true;
        self.repaired_since = false;
        tools.progress.note(&format!("{error:#}"));
        for line in details_of(&error) {
            tools.progress.note(line);
        }
        tools.progress.note("looking for damage in every page, since the server did not start");
        let report = report_of(&error);
        self.tried.start = report.is_some_and(|report| matches!(report.cause, Cause::Data { .. }));
        self.tried.failure = report.and_then(|report| {
            let place = match &report.cause {
                Cause::Data { place } => Some(place.clone()),
                _ => None,
            };
            Some(FormerFailure { words: report.words.clone()?, place })
        });
        self.depth = Depth::Deep;
        self.failed_start = Some(with_log_shown(error));
        Ok(())
    }

    /// What was done in earlier rounds counts as done for the server that serves now.
    pub(super) fn conclude(&mut self, ensured: &mut Ensured) {
        if let Some(outcome) = &mut ensured.outcome {
            self.done.append(&mut outcome.done);
            outcome.done = std::mem::take(&mut self.done);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Presence;
    use rstest::rstest;

    #[rstest]
    #[case::after_a_plain_start(false, "which is as it was")]
    #[case::after_branching_off(true, "timeline of its own")]
    fn what_a_failed_start_left_behind_is_said(#[case] branched: bool, #[case] expected: &str) {
        let failed_start = Some(anyhow::anyhow!("could not start the server"));
        let mut attempt = Attempt { failed_start, branched, ..Attempt::default() };
        let diagnosis = Diagnosis::blank("/data", ClusterCondition::Sound, Presence::Free);

        let error = attempt.judge(diagnosis).unwrap_err();

        assert!(error.to_string().ends_with(expected), "{error}");
    }
}
