//! `archive-wal` and `fetch-wal`: what a server runs for each WAL file.
//!
//! They take none of the settings: the server's environment is not a person's, and each may be run thousands of times.

use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use pgbox::execute::archiving::{self, ArchiveRequest, Archived};
use pgbox::format;
use pgbox::settings::{parse_size, parse_time};
use pgbox::sys::{self, TimedOut};
use pgbox::ui::Ui;
use std::ffi::OsString;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// A status that ends recovery instead of letting the server believe that the WAL ends here: any above 125
/// (xlogarchive.c, `RestoreArchivedFile()`).
pub(super) const FETCH_FAILED: u8 = 200;
const NOT_ARCHIVED: u8 = 1;

/// Marks the process that does the work: whoever waits for it does so no longer than the work may take.
const WATCHED: &str = "watched";
/// How long fetching a file may take, of whatever size it is.
const FETCH_PATIENCE: Duration = Duration::from_mins(10);

fn watched() -> Arg {
    Arg::new(WATCHED).long(WATCHED).hide(true).action(ArgAction::SetTrue)
}

/// How long the work may take, if not as long as it should: for trying it out.
fn patience() -> Arg {
    Arg::new("patience").long("patience").hide(true).value_name("TIME").value_parser(parse_time)
}

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
        .arg(watched())
        .arg(patience())
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
    let given_patience = matches.get_one::<Duration>("patience").copied();
    let outcome = if matches.get_flag(WATCHED) {
        // Without it, this process ends by itself some time later.
        let _ = sys::end_with_parent();
        archiving::archive(&request)
    } else {
        match run_watched("archive-wal", given_patience.unwrap_or_else(|| archiving::patience(&request))) {
            Ok(Ok(status)) => return status,
            Ok(Err(error)) => archiving::unanswered(&request, error),
            // It is better done without a limit than not at all.
            Err(_) => archiving::archive(&request),
        }
    };
    report_archived(&request, outcome, ui)
}

/// Runs this very command again as one that does the work. Returns its exit status, or that it took too long.
fn run_watched(name: &str, limit: Duration) -> io::Result<Result<u8, TimedOut>> {
    // As `pgbox archive-wal` it has the name as an argument, too.
    let is_name = |argument: &OsString| *argument == *name || *argument == *format!("{name}.sh");
    let arguments = std::env::args_os().skip(1).skip_while(is_name);
    let watched = std::iter::once(OsString::from(format!("--{WATCHED}")));
    let ended = sys::run_myself_within(limit, name, watched.chain(arguments))?;
    Ok(ended.map(|status| u8::try_from(status).unwrap_or(FETCH_FAILED)))
}

fn report_archived(request: &ArchiveRequest, outcome: anyhow::Result<Archived>, ui: &Ui) -> u8 {
    match outcome {
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
        .arg(watched())
        .arg(patience())
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
    if !matches.get_flag(WATCHED) {
        let limit = matches.get_one::<Duration>("patience").copied().unwrap_or(FETCH_PATIENCE);
        match run_watched("fetch-wal", limit) {
            Ok(Ok(status)) => return status,
            Ok(Err(error)) => {
                ui.report_error(&anyhow::Error::new(error).context("could not fetch archived WAL"));
                return FETCH_FAILED;
            }
            Err(_) => {}
        }
    }
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
