//! `backup-postgresql`: makes, lists, shows, verifies, restores and removes backups.

use super::arguments::{
    backup_name, dry_run, even_if_unchanged, full_read, json, note, subcommand, switch, yes,
};
use super::backing_up;
use super::context::{Alarm, Workplace};
use super::finding::{backup_named, find};
use super::privileges::{Directories, drop_privileges};
use super::verifying::{self, files_of, verified_of};
use super::{exporting, importing, restoring, scrubbing};
use clap::{Arg, ArgMatches, Command, value_parser};
use pgbox::error::{Failure, Kind};
use pgbox::format;
use pgbox::plan::{BackupSummary, Condition};
use pgbox::settings::Settings;
use pgbox::ui::Ui;
use std::path::PathBuf;

const VERIFY: &str = "Reads all that a backup needs, and checks it by its hashes.

Each chunk of each file, the file table, backup.json, and the WAL from the beginning of the backup to its end. The \
verdict is kept beside the backup: one that is damaged is not restored from until a later verification finds it \
sound. Exit status 4 means that something is damaged, 1 that something could not be read.

With --prove it is then restored into a directory of its own, a server that nobody else can reach recovers it, every \
row of every table is read, and pg_amcheck holds every index against its table. The server goes on meanwhile.";

const SCRUB: &str = "Reads back as much of the packs, file tables and archived WAL as is due, if all is to be read once in \
SCRUB_INTERVAL, and no more in a second than SCRUB_RATE. start-services runs it by itself.

The place that was reached is kept in the repository. A backup that rests on what is damaged gets its verdict, is not \
restored from, and the next backup stores again what the cluster still has. It needs no server, and keeps no backup from \
being made. Exit status 4 means that something is damaged, 1 that something could not be read.";

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
        .subcommand(restoring::restore_command())
        .subcommand(restoring::undo_command())
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
                ))
                .arg(yes()),
        )
        .subcommand(
            subcommand(
                "scrub",
                "Reads back a share of the backups and the archived WAL, to find what rotted",
            )
            .long_about(SCRUB)
            .arg(switch("all", "Read back all that is left of this round, without a pause")),
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
        "restore" => return restoring::run(arguments, settings, ui),
        _ => {}
    }
    // A name that makes no sense is refused before anything is looked at.
    let name = backup_named(arguments)?;
    drop_privileges(settings, ui, Directories::unless_dry_run(matches))?;
    let _alarm = matches!(subcommand, "list" | "show").then(|| Alarm::set(settings, ui));
    let workplace = Workplace::open(settings, ui)?;
    let tools = workplace.tools();
    match (subcommand, name) {
        ("create", _) => backing_up::create(arguments, &tools, ui),
        ("list", _) => backing_up::list(&tools, ui),
        ("show", Some(name)) => show(&find(&tools, name)?, ui),
        ("undo", _) => restoring::undo(arguments, &tools, ui),
        ("verify", None) => verifying::run(arguments, &tools, None, ui),
        ("verify", Some(name)) => verifying::run(arguments, &tools, Some(&find(&tools, name)?), ui),
        ("scrub", _) => scrubbing::run(arguments, &tools, ui),
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
    lines.extend(
        backup.imported.then(|| "imported           yes, so it is to be trusted as a program is".to_owned()),
    );
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
    ui.lines(&lines)?;
    Ok(0)
}
