//! `archive-wal` and `fetch-wal`: what a server runs for each WAL file.
//!
//! They take none of the settings: the server's environment is not a person's, and each may be run thousands of times.

use clap::{Arg, ArgMatches, Command, value_parser};
use pgbox::execute::archiving::{self, ArchiveRequest, Archived};
use pgbox::format;
use pgbox::settings::parse_size;
use pgbox::ui::Ui;
use std::path::PathBuf;

/// A status that ends recovery instead of letting the server believe that the WAL ends here: any above 125
/// (xlogarchive.c, `RestoreArchivedFile()`).
pub(super) const FETCH_FAILED: u8 = 200;
const NOT_ARCHIVED: u8 = 1;

/// What the server's environment does not say: where the key of encrypted backups is.
fn key_file() -> Arg {
    Arg::new("backup-key-file")
        .long("backup-key-file")
        .value_name("FILE")
        .value_parser(value_parser!(PathBuf))
        .help("The key that the backups are encrypted with")
}

fn directory(name: &'static str, help: &'static str) -> Arg {
    Arg::new(name).long(name).value_name("DIR").required(true).value_parser(value_parser!(PathBuf)).help(help)
}

/// The command line of `archive-wal`.
pub(super) fn archive_command() -> Command {
    Command::new("archive-wal")
        .about("Archives one WAL file; the server runs it, as its archive_command")
        .arg(directory("data-directory", "The cluster"))
        .arg(directory("backup-directory", "Where the backups are kept"))
        .arg(key_file())
        .arg(
            Arg::new("queue-limit")
                .long("queue-limit")
                .value_name("SIZE")
                .default_value("1G")
                .value_parser(parse_size)
                .help("How much WAL may wait before it is given up"),
        )
        .arg(
            Arg::new("file")
                .value_name("FILE")
                .required(true)
                .value_parser(value_parser!(PathBuf))
                .help("The file, %p of the server"),
        )
}

/// Runs `archive-wal`. 0 lets the server forget the file.
pub(super) fn archive(matches: &ArgMatches, ui: &Ui) -> u8 {
    let path = |name: &str| matches.get_one::<PathBuf>(name).cloned().unwrap_or_default();
    let request = ArchiveRequest {
        data_directory: path("data-directory"),
        backup_directory: path("backup-directory"),
        backup_key_file: matches.get_one::<PathBuf>("backup-key-file").cloned(),
        queue_limit_bytes: matches.get_one::<u64>("queue-limit").copied().unwrap_or_default(),
        file: path("file"),
        now: chrono::Utc::now(),
    };
    match archiving::archive(&request) {
        Ok(Archived::Done(_)) => 0,
        Ok(Archived::GivenUp { error, waiting_bytes, unnoted }) => {
            let name = request.file.display();
            ui.report_error(&error.context(format!("could not archive '{name}'")));
            let reason = match waiting_bytes {
                Some(waiting) => {
                    format!("{} of WAL waited and the server's disk must not fill", format::bytes(waiting))
                }
                None => "another history of this cluster has its name".to_owned(),
            };
            ui.error(&format!(
                "gave up '{name}', since {reason}: moments after it cannot be reached until there is a new backup"
            ));
            ui.hint("`backup-postgresql create` closes the gap; `maintenance health` shows it until then");
            if let Some(error) = unnoted {
                ui.error(&format!("the gap could not be noted in the data directory: {error}"));
            }
            0
        }
        Err(error) => {
            ui.report_error(&error.context(format!("could not archive '{}'", request.file.display())));
            NOT_ARCHIVED
        }
    }
}

/// The command line of `fetch-wal`.
pub(super) fn fetch_command() -> Command {
    let name = Arg::new("name").value_name("NAME").required(true).help("The file's name, %f of the server");
    Command::new("fetch-wal")
        .about("Fetches one archived WAL file; a server runs it, as its restore_command")
        .long_about(
            "Fetches one archived WAL file; a server runs it, as its restore_command.\n\nStatus 1 says that the file was \
             never archived, and a status above 125 that it could not be fetched, so that recovery does not end too early.",
        )
        .arg(directory("backup-directory", "Where the backups are kept"))
        .arg(key_file())
        .arg(
            Arg::new("system-identifier")
                .long("system-identifier")
                .value_name("NUMBER")
                .required(true)
                .value_parser(value_parser!(u64))
                .help("The cluster that archived it"),
        )
        .arg(name)
        .arg(
            Arg::new("target")
                .value_name("FILE")
                .required(true)
                .value_parser(value_parser!(PathBuf))
                .help("Where to put it, %p of the server"),
        )
}

/// Runs `fetch-wal`.
pub(super) fn fetch(matches: &ArgMatches, ui: &Ui) -> u8 {
    // A panic would end with 101, which a server takes for the end of the WAL.
    let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| fetch_now(matches)));
    match caught {
        Ok(Ok(true)) => 0,
        Ok(Ok(false)) => NOT_ARCHIVED,
        Ok(Err(error)) => {
            ui.report_error(&error.context("could not fetch archived WAL"));
            FETCH_FAILED
        }
        Err(_) => FETCH_FAILED,
    }
}

fn fetch_now(matches: &ArgMatches) -> anyhow::Result<bool> {
    let path = |name: &str| matches.get_one::<PathBuf>(name).cloned().unwrap_or_default();
    let number = matches.get_one::<u64>("system-identifier").copied().unwrap_or_default();
    let name = matches.get_one::<String>("name").cloned().unwrap_or_default();
    let key_file = matches.get_one::<PathBuf>("backup-key-file").map(PathBuf::as_path);
    let cluster = pgbox::pg::SystemIdentifier(number);
    archiving::fetch(&path("backup-directory"), key_file, cluster, &name, &path("target"))
}
