//! `backup-postgresql`: makes, lists, shows, verifies, restores and removes backups.

use super::arguments::{
    backup_name, dry_run, even_if_unchanged, full_read, is_given, json, note, subcommand, switch, yes,
};
use super::backing_up::{self, back_up_after_start};
use super::context::Workplace;
use super::finding::{Wanted, backup_named, find};
use super::init_postgresql::tell;
use super::privileges::{Directories, drop_privileges};
use super::verifying::{self, files_of, verified_of};
use super::{exporting, importing};
use anyhow::Context;
use chrono::Utc;
use clap::{Arg, ArgMatches, Command, value_parser};
use pgbox::cluster::history;
use pgbox::error::{Failure, Kind};
use pgbox::execute::Tools;
use pgbox::execute::restore::{plan_restore, restore};
use pgbox::format;
use pgbox::plan::delta::Wish;
use pgbox::plan::{BackupSummary, Condition};
use pgbox::settings::Settings;
use pgbox::ui::Ui;
use std::path::PathBuf;

const RESTORE: &str = "Puts a backup in the place of the present data.

The plan is shown first. At a terminal the backup's name has to be typed; without one --yes has to be given. The \
server is stopped, the present data is kept, and if anything fails it is put back.

Where most of the present data is the same, or there is no room for a second cluster on its disk, the present data is \
stored in the repository, and then only what differs is written. Otherwise, or with --full, the cluster is built beside \
the present one, which is set aside. The plan says which and why, what is written, left and removed, and the room that \
it takes.";

const UNDO: &str = "Takes the last restore or recovery back: the data that it set aside takes its place again.

What is there now is kept in turn, so that a second undo takes the first one back. Data that was set aside because \
it was damaged is damaged still, and is refused.";

const VERIFY: &str = "Reads all that a backup needs, and checks it by its hashes.

Each chunk of each file, the file table, backup.json, and the WAL from the beginning of the backup to its end. The \
verdict is kept beside the backup: one that is damaged is not restored from until a later verification finds it \
sound. Exit status 4 means that something is damaged, 1 that something could not be read.

With --prove it is then restored into a directory of its own, a server that nobody else can reach recovers it, every \
row of every table is read, and pg_amcheck holds every index against its table. The server goes on meanwhile.";

/// The command line.
pub(super) fn command() -> Command {
    Command::new("backup-postgresql")
        .about("Makes, lists, shows, verifies, restores and removes backups of the PostgreSQL cluster")
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
                .arg(full())
                .arg(yes())
                .arg(dry_run()),
        )
        .subcommand(
            subcommand("undo", "Takes the last restore or recovery back")
                .long_about(UNDO)
                .arg(full())
                .arg(yes())
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
        .subcommand(
            subcommand("verify", "Reads a backup, or all, and checks every byte by its hash")
                .long_about(VERIFY)
                .arg(backup_name().required(false).required_unless_present("all"))
                .arg(switch("all", "Verify every backup").conflicts_with("name"))
                .arg(switch(
                    "prove",
                    "Restore it beside the server, recover it, and read every table and index, too",
                )),
        )
        .subcommand(
            subcommand("pin", "Keeps a backup until it is unpinned, whatever its age")
                .arg(backup_name())
                .arg(note())
                .arg(dry_run()),
        )
        .subcommand(
            subcommand("unpin", "Lets a backup be removed again when its time comes")
                .arg(backup_name())
                .arg(dry_run()),
        )
        .subcommand(
            subcommand(
                "cleanup",
                "Removes the backups that retention lets go, and says why each goes or stays",
            )
            .arg(dry_run()),
        )
        .arg(json())
}

fn full() -> Arg {
    switch("full", "Take every file from the backup, and build the cluster beside the present one")
}

fn export_command() -> Command {
    subcommand("export", "Writes a backup as one archive that tar and PostgreSQL alone can restore")
        .arg(backup_name())
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
        ("verify", None) => verifying::run(arguments, &tools, None, ui),
        ("verify", Some(name)) => verifying::run(arguments, &tools, Some(&find(&tools, name)?), ui),
        ("pin", Some(name)) => backing_up::pin(arguments, &tools, find(&tools, name)?.name, ui),
        ("unpin", Some(name)) => backing_up::unpin(arguments, &tools, find(&tools, name)?.name, ui),
        ("cleanup", _) => backing_up::cleanup(arguments, &tools, ui),
        (other, _) => Err(Failure::new(Kind::Usage, format!("there is no subcommand '{other}'")).into()),
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
    lines.extend(
        backup.pin.iter().map(|pin| format!("pinned             {}", pin.note.as_deref().unwrap_or("yes"))),
    );
    lines.push(format!("verified           {}", verified_of(backup)));
    for page in &backup.damaged_pages {
        lines.push(format!("damaged            {page}"));
    }
    if let Some(proof) = backup.verification.proof() {
        lines.extend(proof.complaints().map(|complaint| format!("not proven         {complaint}")));
    }
    for piece in backup.verification.verdict().iter().flat_map(|verdict| &verdict.damage) {
        lines.push(format!("damaged            {piece}{}", files_of(piece)));
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
    let wish = if is_given(arguments, "full") { Wish::Full } else { Wish::Best };
    let plan = plan_restore(tools, backup, wish, now)?;
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
    let ensured = restore(tools, backup, wish, now)?;
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
    restore_backup(arguments, tools, &find(tools, Wanted::Named(name))?, ui)
}
