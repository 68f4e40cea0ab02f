//! `maintenance status`: how things stand, at a glance.

use anyhow::Context;
use pgbox::cluster::history::{self, Event};
use pgbox::cluster::last_failure::LastFailure;
use pgbox::cluster::session::ServerAddress;
use pgbox::cluster::standby;
use pgbox::execute::Tools;
use pgbox::execute::start::superuser_login;
use pgbox::execute::stop::running_server;
use pgbox::format;
use pgbox::plan::{BackupKind, BackupSummary};
use pgbox::sys::{ReadRoot, has_stop_marker};
use pgbox::ui::Ui;
use serde::Serialize;
use std::path::Path;
use std::time::Duration;

/// How many repairs the text shows; the JSON has all.
const SHOWN_EVENTS: usize = 5;

#[derive(Serialize)]
struct Status<'a> {
    server: Server,
    version: String,
    data_directory: &'a Path,
    backup_directory: &'a Path,
    log_file: std::path::PathBuf,
    /// Why nothing is known of the backups, where that is so.
    backups_unknown: Option<String>,
    newest_backup: Option<String>,
    backup_count: usize,
    last_events: Vec<Event>,
    unacknowledged: Vec<Event>,
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
enum Server {
    Stopped { by_hand: bool, last_failure: Option<LastFailure> },
    Running { pid: i32, port: Option<u16>, standby: Option<&'static str>, figures: Option<Figures> },
}

#[derive(Serialize)]
struct Figures {
    uptime_seconds: i64,
    connection_count: i64,
    database_size_bytes: i64,
}

/// Shows how the server, its data and its backups stand.
pub(super) fn show(tools: &Tools, ui: &Ui) -> anyhow::Result<u8> {
    let settings = tools.settings;
    // The rest is worth knowing all the more.
    let (backups, backups_unknown) = match listed_backups(tools) {
        Ok(backups) => (backups, None),
        Err(error) => (Vec::new(), Some(format!("{error:#}"))),
    };
    let points = || backups.iter().filter(|backup| backup.name.kind() == BackupKind::Backup);
    let events = history::read(&settings.data_directory).unwrap_or_default();
    let status = Status {
        server: server(tools)?,
        version: tools.installation.version.to_string(),
        data_directory: &settings.data_directory,
        backup_directory: &settings.backup_directory,
        log_file: tools.log_file(),
        backups_unknown,
        newest_backup: points().next().map(|backup| backup.name.to_string()),
        backup_count: points().count(),
        last_events: events.into_iter().rev().take(3).collect(),
        unacknowledged: history::unacknowledged(&settings.data_directory).unwrap_or_default(),
    };
    if ui.is_json() {
        ui.json(&status)?;
        return Ok(0);
    }
    ui.lines(&lines(&status))?;
    Ok(0)
}

fn listed_backups(tools: &Tools) -> anyhow::Result<Vec<BackupSummary>> {
    match tools.repository()? {
        Some(repository) => repository.backups().context("list the backups"),
        None => Ok(Vec::new()),
    }
}

/// Notes that a person has read what was repaired.
pub(super) fn acknowledge(tools: &Tools, ui: &Ui) -> anyhow::Result<u8> {
    let count = history::acknowledge(&tools.settings.data_directory)?;
    if ui.is_json() {
        ui.json(&serde_json::json!({ "acknowledged": count }))?;
        return Ok(0);
    }
    match count {
        0 => ui.info("there is nothing to acknowledge"),
        count => ui.info(&format!("acknowledged {}", format::counted(count, "repair"))),
    }
    Ok(0)
}

fn server(tools: &Tools) -> anyhow::Result<Server> {
    let path = &tools.settings.data_directory;
    let Some(pid) = running_server(tools)? else {
        let last_failure = LastFailure::read(path);
        return Ok(Server::Stopped { by_hand: has_stop_marker(path), last_failure });
    };
    let root = ReadRoot::open(path)?;
    let address = ServerAddress::read(&root);
    let standby = standby::of_running(&root).map(|following| following.words().0);
    let figures = address.as_ref().and_then(|address| figures(tools, address));
    Ok(Server::Running { pid, port: address.map(|address| address.port), standby, figures })
}

fn figures(tools: &Tools, address: &ServerAddress) -> Option<Figures> {
    const QUERY: &str = "SELECT extract(epoch FROM now() - pg_postmaster_start_time())::int8, \
        (SELECT count(*) FROM pg_catalog.pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()), \
        (SELECT sum(pg_database_size(oid))::int8 FROM pg_catalog.pg_database)";
    let mut client = address.connect(&superuser_login(tools)).ok()?;
    let row = client.query_one(QUERY, &[]).ok()?;
    Some(Figures {
        uptime_seconds: row.get(0),
        connection_count: row.get(1),
        database_size_bytes: row.get(2),
    })
}

fn lines(status: &Status) -> Vec<String> {
    let mut lines = vec![format!("server          {}", server_line(&status.server, &status.version))];
    lines.push(format!("data directory  {}", status.data_directory.display()));
    lines.push(format!("log             {}", status.log_file.display()));
    let place = status.backup_directory.display();
    let backups = match (&status.backups_unknown, &status.newest_backup) {
        (Some(reason), _) => reason.clone(),
        (None, Some(newest)) => format!("{}, the newest is {newest}, in {place}", status.backup_count),
        (None, None) => format!("none yet, in {place}"),
    };
    lines.push(format!("backups         {backups}"));
    for event in status.unacknowledged.iter().rev().take(SHOWN_EVENTS) {
        lines.push(String::new());
        lines.push(format!("{}  {}", format::time(event.time), event.purpose));
        lines.extend(event.findings.iter().map(|finding| format!("  found: {finding}")));
        lines.extend(event.done.iter().map(|done| format!("  {done}")));
        lines.extend(event.remarks.iter().map(|remark| format!("  {remark}")));
    }
    if !status.unacknowledged.is_empty() {
        let count = format::counted(status.unacknowledged.len(), "repair");
        lines.push(String::new());
        lines.push(format!("{count} to acknowledge: `maintenance acknowledge`, once you have read of it"));
    }
    lines
}

fn server_line(server: &Server, version: &str) -> String {
    match server {
        Server::Stopped { last_failure: Some(failure), .. } => {
            format!(
                "not running; the last start failed ({}): {}",
                format::time(failure.time),
                failure.message
            )
        }
        Server::Stopped { by_hand: true, .. } => "stopped by hand; `maintenance start` starts it".to_owned(),
        Server::Stopped { by_hand: false, .. } => "not running; `maintenance start` starts it".to_owned(),
        Server::Running { pid, port, standby, figures } => {
            let port = port.map_or_else(|| "no port yet".to_owned(), |port| format!("port {port}"));
            let figures = figures.as_ref().map(figures_line).unwrap_or_default();
            let standby = standby.map(|standby| format!("; {standby}")).unwrap_or_default();
            format!("PostgreSQL {version} runs (process {pid}, {port}){figures}{standby}")
        }
    }
}

fn figures_line(figures: &Figures) -> String {
    let unsigned = |number: i64| u64::try_from(number).unwrap_or_default();
    format!(
        ", up {}, {} connections, {}",
        format::duration(Duration::from_secs(unsigned(figures.uptime_seconds))),
        figures.connection_count,
        format::bytes(unsigned(figures.database_size_bytes)),
    )
}
