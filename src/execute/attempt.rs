//! What is known after several rounds of looking, deciding and carrying out: what was tried, done and told.

use super::Tools;
use super::ensure::{Ensured, diagnose_to, is_worth_a_word};
use crate::cluster::inspect::Depth;
use crate::plan::recovery::{Step, Tried};
use crate::plan::{ClusterCondition, Diagnosis, Finding, Severity};

/// What the rounds of one attempt have come to so far.
#[derive(Default)]
pub(super) struct Attempt {
    pub(super) depth: Depth,
    pub(super) tried: Tried,
    pub(super) done: Vec<String>,
    /// What is known already of the directory, for the first round.
    known: Option<Diagnosis>,
    failed_start: Option<anyhow::Error>,
    /// Whether anything was repaired since a start failed.
    repaired_since: bool,
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

    /// After a start that failed, a diagnosis must say why. Where it does not, and nothing was repaired before, the
    /// cause is not the data: a port, memory, a setting; then nothing is replaced on account of it.
    fn judge(&mut self, mut diagnosis: Diagnosis) -> anyhow::Result<Diagnosis> {
        let says_why = diagnosis.findings.iter().any(|finding| finding.severity != Severity::Notice);
        if says_why || self.failed_start.is_none() {
            return Ok(diagnosis);
        }
        let Some(error) = self.failed_start.take() else { return Ok(diagnosis) };
        if self.tried.repairs.is_empty() {
            return Err(error.context("no damage was found in the data directory, which is as it was"));
        }
        let error = format!("{error:#}");
        let evidence = format!("repaired, it does not serve: {}", error.lines().next().unwrap_or_default());
        diagnosis.findings.push(Finding::new("server-does-not-start", Severity::Error, ".", evidence));
        diagnosis.condition = ClusterCondition::Damaged;
        Ok(diagnosis)
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

    /// Lets the next round look at everything. A failure after which nothing was repaired ends the attempt.
    pub(super) fn note_failed_start(&mut self, error: anyhow::Error, tools: &Tools) -> anyhow::Result<()> {
        if self.tried.start && !self.repaired_since {
            return Err(error);
        }
        self.repaired_since = false;
        tools.progress.note(&format!("{error:#}"));
        tools.progress.note("looking for damage in every page, since the server did not start");
        self.tried.start = true;
        self.depth = Depth::Deep;
        self.failed_start = Some(error);
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
