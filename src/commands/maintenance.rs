//! `maintenance`: what a person needs day by day.

use super::arguments::{dry_run, even_if_unchanged, full_read, is_given, json, note, subcommand, switch};
use super::context::{Alarm, Workplace};
use super::privileges::{Directories, drop_privileges};
use super::{backing_up, check, init_postgresql, repairing, status};
use anyhow::Context;
use chrono::Utc;
use clap::{ArgMatches, Command};
use pgbox::cluster::server_stop::Stopped;
use pgbox::error::{Failure, Kind};
use pgbox::execute::{Tools, ensure, stop};
use pgbox::health::{self, Level};
use pgbox::settings::Settings;
use pgbox::sys::OperationLock;
use pgbox::ui::{Table, Ui};

const HEALTH: &str = "Checks the server, its data, disks and backups.

Exit status 1 means that there is an issue; warnings alone end with 0.";

const CHECK: &str = "Inspects the data directory, reading only: the control file, relation maps, catalogs and the \
files that they name, and the WAL.

With --deep also every data page and every index entry. It works while a server runs, and then tells what it could \
not check. Exit status 1 means that something is damaged or is to be repaired.";

/// The command line.
pub(super) fn command() -> Command {
    Command::new("maintenance")
        .about("Shows, checks, starts and stops PostgreSQL, and looks after its backups")
        .subcommand(subcommand("status", "Shows how the server, its data and its backups stand"))
        .subcommand(subcommand("health", "Checks the server, its data, disks and backups").long_about(HEALTH))
        .subcommand(
            subcommand("check", "Inspects the data directory for damage")
                .long_about(CHECK)
                .arg(switch("deep", "Look at every data page and every index entry, too")),
        )
        .subcommand(
            subcommand("backup", "Makes a backup while the server runs")
                .arg(note())
                .arg(even_if_unchanged())
                .arg(full_read())
                .arg(dry_run()),
        )
        .subcommand(subcommand("list-backups", "Lists the backups"))
        .subcommand(repairing::command())
        .subcommand(subcommand(
            "acknowledge",
            "Notes that you have read what was repaired, so that `status` leaves it out",
        ))
        .subcommand(
            subcommand("start", "Starts the server")
                .arg(switch("no-backup", "Make no backup after the start"))
                .arg(dry_run()),
        )
        .subcommand(
            subcommand(
                "stop",
                "Stops the server; it stays stopped until `start`, or until the container starts again",
            )
            .arg(dry_run()),
        )
        .subcommand(subcommand("restart", "Stops the server and starts it again").arg(dry_run()))
        .subcommand(
            subcommand(
                "cleanup",
                "Removes the backups that retention lets go, and says why each goes or stays",
            )
            .arg(dry_run()),
        )
        // What start-services runs as the server's user when it has stopped the server; of no use to a person.
        .subcommand(subcommand("seal", "Notes the files of a server that has just stopped").hide(true))
        .arg(json())
}

/// Runs it.
pub(super) fn run(matches: &ArgMatches, settings: &Settings, ui: &Ui) -> anyhow::Result<u8> {
    drop_privileges(settings, ui, Directories::unless_dry_run(matches))?;
    let (name, arguments) = matches.subcommand().unwrap_or(("status", matches));
    if name == "seal" {
        stop::seal_after_stop(&settings.data_directory).context("seal the stopped cluster")?;
        return Ok(0);
    }
    let _alarm = matches!(name, "status" | "health" | "list-backups").then(|| Alarm::set(settings, ui));
    // Those that look at the backups tell by themselves why they cannot.
    let workplace = match name {
        "status" | "health" | "backup" | "list-backups" => Workplace::open(settings, ui)?,
        _ => Workplace::open_for_server(settings, ui)?,
    };
    let tools = workplace.tools();
    match name {
        "status" => status::show(&tools, ui),
        "health" => show_health(&tools, ui),
        "check" => check::run(arguments, &tools, ui),
        "backup" => backing_up::create(arguments, &tools, ui),
        "list-backups" => backing_up::list(&tools, ui),
        "acknowledge" => status::acknowledge(&tools, ui),
        "repair" => repairing::run(arguments, &tools, ui),
        "start" => start(arguments, &tools, ui),
        "stop" => stop(arguments, &tools, ui),
        "restart" => restart(arguments, &tools, ui),
        "cleanup" => backing_up::cleanup(arguments, &tools, ui),
        other => Err(Failure::new(Kind::Usage, format!("there is no subcommand '{other}'")).into()),
    }
}

fn show_health(tools: &Tools, ui: &Ui) -> anyhow::Result<u8> {
    let report = health::examine(tools, Utc::now());
    let status = u8::from(report.level == Level::Issue);
    if ui.is_json() {
        ui.json(&report)?;
        return Ok(status);
    }
    let mut table = Table::new().column("CHECK").column("VERDICT").column("WHAT WAS FOUND");
    for check in &report.checks {
        let verdict = match check.level {
            Level::Ok => "ok",
            Level::Warning => "warning",
            Level::Issue => "ISSUE",
        };
        table.row([check.name, verdict, &check.summary]);
    }
    ui.table(&table)?;
    for check in report.checks.iter().filter(|check| check.level != Level::Ok) {
        ui.hint(&format!("{}: {}", check.name, check.remedy.as_deref().unwrap_or_default()));
    }
    Ok(status)
}

fn start(arguments: &ArgMatches, tools: &Tools, ui: &Ui) -> anyhow::Result<u8> {
    if is_given(arguments, "dry-run") {
        return init_postgresql::show_plan(tools, ui);
    }
    let ensured = ensure::ensure_running(tools, "maintenance start")?;
    init_postgresql::tell(&ensured, ui);
    ui.info(&format!("PostgreSQL serves on port {} (process {})", ensured.address.port, ensured.pid));
    if ensured.outcome.is_some() && !is_given(arguments, "no-backup") {
        backing_up::back_up_after_start(tools, &ensured.address, ui);
    }
    Ok(0)
}

fn stop(arguments: &ArgMatches, tools: &Tools, ui: &Ui) -> anyhow::Result<u8> {
    if is_given(arguments, "dry-run") {
        match stop::running_server(tools)? {
            Some(pid) => ui.info(&format!("would stop the server (process {pid}) by a fast shutdown")),
            None => ui.info("no server runs; there is nothing to stop"),
        }
        return Ok(0);
    }
    let stopped = stop::stop_for_good(tools)?;
    tell_stopped(stopped, ui);
    Ok(0)
}

fn restart(arguments: &ArgMatches, tools: &Tools, ui: &Ui) -> anyhow::Result<u8> {
    if is_given(arguments, "dry-run") {
        if let Some(pid) = stop::running_server(tools)? {
            ui.info(&format!("would stop the server (process {pid}) by a fast shutdown, and start it again"));
            return Ok(0);
        }
        return init_postgresql::show_plan(tools, ui);
    }
    let path = &tools.settings.data_directory;
    if stop::running_server(tools)?.is_some() {
        let operation = OperationLock::take(path, "maintenance restart").context("begin the restart")?;
        tell_stopped(stop::stop_meanwhile(tools, &operation)?, ui);
    }
    let ensured = ensure::ensure_running(tools, "maintenance restart")?;
    init_postgresql::tell(&ensured, ui);
    ui.info(&format!("PostgreSQL serves on port {} (process {})", ensured.address.port, ensured.pid));
    Ok(0)
}

fn tell_stopped(stopped: Option<Stopped>, ui: &Ui) {
    match stopped {
        None => ui.info("no server runs; there is nothing to stop"),
        Some(Stopped::Fast) => ui.info("stopped the server by a fast shutdown"),
        Some(Stopped::Immediate) => {
            ui.warn("stopped the server immediately, since a fast shutdown took too long; the next start replays its WAL");
        }
        Some(Stopped::Killed) => {
            ui.warn("killed the server, since it reacted to no shutdown; the next start replays its WAL");
        }
    }
}
