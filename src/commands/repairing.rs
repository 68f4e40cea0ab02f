//! `maintenance repair`: everything is inspected, and what is damaged is put right, with a person's consent.

use super::arguments::{dry_run, is_given, subcommand, yes};
use super::backing_up::back_up_after_start;
use super::init_postgresql::tell;
use clap::{ArgMatches, Command};
use pgbox::cluster::inspect::Depth;
use pgbox::error::Failure;
use pgbox::execute::stop::running_server;
use pgbox::execute::{Tools, decide, ensure};
use pgbox::plan::recovery::{Action, Plan};
use pgbox::plan::{Diagnosis, Severity};
use pgbox::ui::Ui;
use serde_json::json;

const LONG_ABOUT: &str = "Inspects every page and every index entry, and repairs what is damaged.

The server is stopped for it and started again. The plan is shown before anything is changed: what cannot be put \
right in place is healed from the WAL, restored from a backup or salvaged, and what is replaced is kept. At a \
terminal it asks; without one --yes has to be given.";

/// The command line.
pub(super) fn command() -> Command {
    subcommand("repair", "Inspects everything and repairs what is damaged")
        .long_about(LONG_ABOUT)
        .arg(dry_run())
        .arg(yes())
}

/// Runs it.
pub(super) fn run(arguments: &ArgMatches, tools: &Tools, ui: &Ui) -> anyhow::Result<u8> {
    if is_given(arguments, "dry-run") {
        return show(tools, ui);
    }
    let is_agreed = is_given(arguments, "yes");
    if !is_agreed && running_server(tools)?.is_some() {
        ui.info("the server has to be stopped to inspect everything; connections to it will end");
        ui.confirm_by_typing("stop")?;
    }
    let consent = |diagnosis: &Diagnosis, plan: &Plan| {
        if is_mere_start(plan) {
            ui.info("nothing was found that needs a repair");
            return Ok(());
        }
        if !is_agreed {
            tell_findings(diagnosis, ui);
            ui.plan(plan)?;
            ui.confirm_by_typing("repair")?;
        }
        Ok(())
    };
    let ensured = ensure::repair(tools, "maintenance repair", &consent)?;
    tell(&ensured, ui);
    let done = ensured.outcome.as_ref().map_or(&[][..], |outcome| &outcome.done);
    if !done.is_empty() {
        // What was repaired is worth a backup of its own.
        back_up_after_start(tools, &ensured.address, ui);
    }
    if ui.is_json() {
        ui.json(&json!({ "done": done, "remarks": ensured.remarks, "port": ensured.address.port }))?;
    } else {
        ui.info(&format!("PostgreSQL serves on port {} (process {})", ensured.address.port, ensured.pid));
    }
    Ok(0)
}

/// A dry run stops nothing, so beside a running server it sees less.
fn show(tools: &Tools, ui: &Ui) -> anyhow::Result<u8> {
    let diagnosis = decide::diagnose_to(tools, Depth::Deep)?;
    if running_server(tools)?.is_some() {
        ui.info("a server is running; with it stopped, more can be inspected");
    }
    tell_findings(&diagnosis, ui);
    let plan = decide::decide(tools, &diagnosis)?.map_err(Failure::from)?;
    ui.plan(&plan)?;
    Ok(0)
}

fn tell_findings(diagnosis: &Diagnosis, ui: &Ui) {
    for finding in diagnosis.findings.iter().filter(|finding| finding.severity != Severity::Notice) {
        ui.info(&format!("found: {}", finding.summary()));
    }
}

fn is_mere_start(plan: &Plan) -> bool {
    plan.steps.iter().all(|step| step.action == Action::Start)
}
