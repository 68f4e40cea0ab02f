//! `backup-postgresql`: makes, lists, shows, restores and removes backups.

use super::arguments::{
    backup_name, dry_run, even_if_unchanged, full_read, is_given, json, note, subcommand, switch, yes,
};
use super::backing_up::{self, back_up_after_start};
use super::context::Workplace;
use super::init_postgresql::tell;
use super::privileges::{Directories, drop_privileges};
use super::{exporting, importing};
use anyhow::Context;
use chrono::Utc;
use clap::{Arg, ArgMatches, Command, value_parser};
use pgbox::cluster::history;
use pgbox::error::{Failure, Kind};
use pgbox::execute::Tools;
use pgbox::execute::restore::{plan_restore, restore};
use pgbox::format;
use pgbox::plan::{BackupName, BackupSummary, Condition};
use pgbox::settings::Settings;
use pgbox::ui::Ui;
use std::path::PathBuf;

const RESTORE: &str = "Puts a backup in the place of the present data.

The plan is shown first. At a terminal the backup's name has to be typed; without one --yes has to be given. The \
server is stopped, the present data is set aside, and if anything fails it is put back.";

const UNDO: &str = "Takes the last restore or recovery back: the data that it set aside takes its place again.

What is there now is set aside in turn, so that a second undo takes the first one back. Data that was set aside because \
it was damaged is damaged still, and is refused.";

/// The command line.
pub(super) fn command() -> Command {
    Command::new("backup-postgresql")
        .about("Makes, lists, shows, restores and removes backups of the PostgreSQL cluster")
        .subcommand(
            subcommand("create", "Makes a backup while the server runs")
                .arg(note())
                .arg(even_if_unchanged())
                .arg(full_read())
                .arg(dry_run()),
        )
        .subcommand(subcommand("list", "Lists the backups"))
        .subcommand(subcommand("show", "Shows all that is known of one backup").arg(backup_name()))
        .subcommand(
            subcommand("restore", "Puts a backup in the place of the present data")
                .long_about(RESTORE)
                .arg(backup_name())
                .arg(yes())
                .arg(dry_run()),
        )
        .subcommand(
            subcommand("undo", "Takes the last restore or recovery back")
                .long_about(UNDO)
                .arg(yes())
                .arg(dry_run()),
        )
        .subcommand(
            subcommand("cleanup", "Removes backups beyond MAX_BACKUPS, and says why each goes or stays")
                .arg(dry_run()),
        )
        .subcommand(export_command())
        .subcommand(
            subcommand("import", "Makes a backup of a bundle, or of what pg_basebackup wrote")
                .arg(
                    Arg::new("file")
                        .value_name("FILE|DIR")
                        .required(true)
                        .value_parser(value_parser!(PathBuf))
                        .help("The archive or the directory (-: standard input)"),
                )
                .arg(note())
                .arg(dry_run()),
        )
        .arg(json())
}

fn export_command() -> Command {
    subcommand("export", "Writes a backup as one archive that tar and PostgreSQL alone can restore")
        .arg(
            Arg::new("name")
                .value_name("NAME|latest")
                .required(true)
                .help("The backup, or the newest good one"),
        )
        .arg(
            Arg::new("file")
                .value_name("FILE")
                .value_parser(value_parser!(PathBuf))
                .help("Where to [default: basebackup-YYYYMMDD-HHMM.bundle.tar.gz here; -: standard output]"),
        )
        .arg(
            Arg::new("format")
                .long("format")
                .value_name("FORMAT")
                .value_parser(exporting::parse_format)
                .help("tar.gz, tar.zst or tar [default: as FILE is named, else tar.gz]"),
        )
        .arg(switch("force", "Replace FILE if it is there"))
        .arg(dry_run())
}

/// Runs it.
pub(super) fn run(matches: &ArgMatches, settings: &Settings, ui: &Ui) -> anyhow::Result<u8> {
    let (subcommand, arguments) = matches.subcommand().unwrap_or(("list", matches));
    match subcommand {
        "export" => return exporting::export(arguments, settings, ui),
        "import" => return importing::run(arguments, settings, ui),
        _ => {}
    }
    // A name that makes no sense is refused before anything is looked at.
    let name = backup_named(arguments)?;
    drop_privileges(settings, ui, Directories::unless_dry_run(matches))?;
    let workplace = Workplace::open(settings, ui)?;
    let tools = workplace.tools();
    match (subcommand, name) {
        ("create", _) => backing_up::create(arguments, &tools, ui),
        ("list", _) => backing_up::list(&tools, ui),
        ("show", Some(name)) => show(&find(&tools, name)?, ui),
        ("restore", Some(name)) => restore_backup(arguments, &tools, &find(&tools, name)?, ui),
        ("undo", _) => undo(arguments, &tools, ui),
        ("cleanup", _) => backing_up::cleanup(arguments, &tools, ui),
        (other, _) => Err(Failure::new(Kind::Usage, format!("there is no subcommand '{other}'")).into()),
    }
}

fn backup_named(arguments: &ArgMatches) -> Result<Option<BackupName>, Failure> {
    let Ok(Some(name)) = arguments.try_get_one::<String>("name") else { return Ok(None) };
    let parsed: Result<BackupName, _> = name.parse();
    parsed.map(Some).map_err(|error| {
        Failure::new(Kind::NoSuchBackup, error.to_string()).hint("`backup-postgresql list` shows the names")
    })
}

fn find(tools: &Tools, name: BackupName) -> anyhow::Result<BackupSummary> {
    if let Some(repository) = tools.repository()? {
        Ok(repository.find(name)?)
    } else {
        let place = tools.settings.backup_directory.display();
        Err(Failure::new(Kind::NoSuchBackup, format!("there is no backup {name}: '{place}' has none at all"))
            .into())
    }
}

fn show(backup: &BackupSummary, ui: &Ui) -> anyhow::Result<u8> {
    if ui.is_json() {
        ui.json(backup)?;
        return Ok(0);
    }
    let text = |value: Option<String>| value.unwrap_or_else(|| "unknown".to_owned());
    let lsns = backup.start_lsn.zip(backup.stop_lsn).map(|(start, stop)| format!("{start} to {stop}"));
    let condition = match &backup.condition {
        Condition::Complete => "complete".to_owned(),
        Condition::Unreadable { reason } => format!("unreadable: {reason}"),
    };
    let mut lines = vec![
        format!("name               {}", backup.name),
        format!("state              {condition}"),
        format!("made               {}", format::time(backup.created_at)),
        format!("finished           {}", text(backup.finished_at.map(format::time))),
        format!("PostgreSQL         {}", text(backup.major_version.map(|version| version.to_string()))),
        format!(
            "system identifier  {}",
            text(backup.system_identifier.map(|identifier| identifier.to_string()))
        ),
        format!("timeline           {}", text(backup.timeline.map(|timeline| timeline.to_string()))),
        format!("WAL                {}", text(lsns)),
        format!("files              {}", format::count(backup.file_count)),
        format!("size               {}", format::bytes(backup.size_bytes)),
        format!("new when made      {}", format::bytes(backup.stored_bytes)),
    ];
    lines.extend(backup.note.iter().map(|note| format!("note               {note}")));
    for page in &backup.damaged_pages {
        lines.push(format!("damaged            {page}"));
    }
    ui.data(&lines.join("\n"))?;
    Ok(0)
}

fn restore_backup(
    arguments: &ArgMatches,
    tools: &Tools,
    backup: &BackupSummary,
    ui: &Ui,
) -> anyhow::Result<u8> {
    let now = Utc::now();
    let plan = plan_restore(tools, backup, now)?;
    if is_given(arguments, "dry-run") {
        ui.plan(&plan)?;
        return Ok(0);
    }
    if !ui.is_json() {
        ui.plan(&plan)?;
    }
    if !is_given(arguments, "yes") {
        ui.confirm_by_typing(&backup.name.to_string())?;
    }
    let ensured = restore(tools, backup, now)?;
    tell(&ensured, ui);
    ui.info(&format!("PostgreSQL serves on port {} (process {})", ensured.address.port, ensured.pid));
    // The newest backup must be of the history that now goes on, or the next recovery would have to leave it.
    back_up_after_start(tools, &ensured.address, ui);
    if ui.is_json() {
        let set_aside = ensured.outcome.as_ref().and_then(|outcome| outcome.set_aside);
        ui.json(&serde_json::json!({ "restored": backup.name, "set_aside": set_aside, "port": ensured.address.port }))?;
    }
    Ok(0)
}

fn undo(arguments: &ArgMatches, tools: &Tools, ui: &Ui) -> anyhow::Result<u8> {
    let path = &tools.settings.data_directory;
    let Some(name) = history::last_set_aside(path).context("read what was done here")? else {
        let message =
            format!("there is nothing to take back: no cluster of '{}' was ever replaced", path.display());
        return Err(Failure::new(Kind::NoSuchBackup, message).into());
    };
    if !is_given(arguments, "dry-run") {
        backing_up::store_what_was_set_aside(tools, ui)?;
    }
    restore_backup(arguments, tools, &find(tools, name)?, ui)
}
