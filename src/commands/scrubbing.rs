//! Reading the repository back, and telling what came of it.

use super::arguments::is_given;
use chrono::Utc;
use clap::ArgMatches;
use pgbox::error::{Failure, Kind};
use pgbox::execute::Tools;
use pgbox::execute::scrub::{Amount, ScrubReport, scrub};
use pgbox::format;
use pgbox::sys::lower_priority;
use pgbox::ui::Ui;
use std::time::Duration;

/// Reads back what is due, or all that is left of the round.
pub(super) fn run(arguments: &ArgMatches, tools: &Tools, ui: &Ui) -> anyhow::Result<u8> {
    let amount = amount(arguments, tools)?;
    let Some(repository) = tools.repository()? else {
        ui.info("there are no backups to be read back");
        return Ok(0);
    };
    lower_priority();
    let Some(report) = scrub(tools, repository, amount, Utc::now())? else {
        ui.info("another process is reading the backups back");
        return Ok(0);
    };
    tell(&report, ui);
    if ui.is_json() {
        ui.json(&report)?;
    }
    Ok(status(&report))
}

fn amount(arguments: &ArgMatches, tools: &Tools) -> Result<Amount, Failure> {
    if is_given(arguments, "all") {
        return Ok(Amount::AtMost { size_bytes: u64::MAX, duration: Duration::MAX });
    }
    let bytes_per_second = tools.settings.scrub_bytes_per_second;
    let due = tools.settings.scrub_interval.map(|interval| Amount::Due { interval, bytes_per_second });
    due.ok_or_else(|| {
        Failure::new(Kind::Usage, "cannot tell what is due: SCRUB_INTERVAL is off")
            .hint("`backup-postgresql scrub --all` reads everything at once")
    })
}

fn tell(report: &ScrubReport, ui: &Ui) {
    for (key, reason) in &report.damaged {
        ui.error(&format!("'{key}' is damaged: {reason}"));
    }
    for (key, reason) in &report.unreadable {
        ui.error(&format!("'{key}' could not be read: {reason}"));
    }
    for backup in &report.backups {
        let verdict =
            if backup.judgement.is_damaged() { "needs it, so it is damaged" } else { "is sound again" };
        ui.info(&format!("{} {verdict}", backup.name));
    }
    if !report.damaged.is_empty() {
        ui.hint(
            "the next backup stores again what the cluster still has of it; `maintenance health` tells more",
        );
    }
    let found =
        if report.damaged.is_empty() && report.unreadable.is_empty() { " and found no damage" } else { "" };
    let end = if report.is_finished { "; everything has been read in this round" } else { "" };
    let text = match report.read_bytes {
        0 if !report.is_finished => {
            "nothing is due to be read back now; --all reads all that is left".to_owned()
        }
        size_bytes => format!("read {} back{found}{end}", format::bytes(size_bytes)),
    };
    ui.info(&text);
}

fn status(report: &ScrubReport) -> u8 {
    if !report.damaged.is_empty() {
        return Kind::VerificationFailed.exit_status();
    }
    if report.unreadable.is_empty() { 0 } else { Kind::Failed.exit_status() }
}
