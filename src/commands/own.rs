//! What `pgbox` does under its own name: `--list`, `--install`, `--version`, `completions`, `man`.

use super::{APPLETS, BINARY, install, manual};
use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use clap_complete::Shell;
use pgbox::cluster::binaries;
use pgbox::sys::{self, HeldDirectory};
use pgbox::ui::Ui;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

/// Looks at a directory, which may hang; of no use to a person.
pub(super) const ANSWERS: &str = "answers";

const LONG_ABOUT: &str = "Keeps a PostgreSQL server inside a container alive and its data safe.

Each command is also a name of its own: `pgbox --install /usr/local/bin` makes the links.";

/// The command line of `pgbox` itself, with every applet as a subcommand.
pub(super) fn command() -> Command {
    let switch = |name: &'static str, help| {
        Arg::new(name).long(name).action(ArgAction::SetTrue).exclusive(true).help(help)
    };
    let directory =
        || Arg::new("directory").value_name("DIR").required(true).value_parser(value_parser!(PathBuf));
    let shell = Arg::new("shell").required(true).value_parser(value_parser!(Shell)).help("The shell");
    Command::new(BINARY)
        .about("Keeps a PostgreSQL server inside a container alive and its data safe")
        .long_about(LONG_ABOUT)
        .disable_version_flag(true)
        .arg(switch("list", "List the commands, one on each line"))
        .arg(
            Arg::new("install")
                .long("install")
                .value_name("DIR")
                .exclusive(true)
                .value_parser(value_parser!(PathBuf))
                .help("Make links to this binary in a directory, one for each command, with .sh and without"),
        )
        .arg(switch("version", "Print the version, and the PostgreSQL versions found").short('V'))
        .subcommands(APPLETS.iter().map(super::Applet::full_command))
        .subcommand(
            Command::new("completions")
                .about("Prints completions of every command for a shell, to be sourced or evaluated")
                .arg(shell),
        )
        .subcommand(
            Command::new("man")
                .about("Writes the manual pages of every command into a directory")
                .arg(directory().help("The directory, such as /usr/local/share/man/man1")),
        )
        .subcommand(Command::new(ANSWERS).hide(true).arg(directory()))
}

/// Whether a first argument is one that `pgbox` itself understands: a flag, or a command of its own.
pub(super) fn knows(argument: &OsStr) -> bool {
    argument.as_encoded_bytes().starts_with(b"-")
        || argument.to_str().is_some_and(|name| matches!(name, "completions" | "man" | "help" | ANSWERS))
}

/// Runs it.
pub(super) fn run(matches: &ArgMatches, command: &mut Command, ui: &Ui) -> anyhow::Result<u8> {
    if matches.get_flag("list") {
        let names: Vec<&str> = APPLETS.iter().map(|applet| applet.name).collect();
        ui.lines(&names)?;
    } else if matches.get_flag("version") {
        print_versions(ui)?;
    } else if let Some(directory) = matches.get_one::<PathBuf>("install") {
        install::install(directory, ui)?;
    } else {
        match matches.subcommand() {
            Some(("completions", arguments)) => manual::print_completions(arguments.get_one("shell"), ui)?,
            Some((ANSWERS, arguments)) => {
                // Without it, this process ends by itself some time later.
                let _ = sys::end_with_parent();
                let directory = arguments.get_one::<PathBuf>("directory").map(PathBuf::as_path);
                // Whatever it answers, it does.
                let _ =
                    HeldDirectory::open(directory.unwrap_or(Path::new("."))).and_then(|held| held.names());
            }
            Some(("man", arguments)) => manual::write_pages(arguments.get_one("directory"), ui)?,
            _ => command.print_help().or_else(|_| anyhow::Ok(()))?,
        }
    }
    Ok(0)
}

fn print_versions(ui: &Ui) -> anyhow::Result<()> {
    ui.data(&format!("{BINARY} {}", env!("CARGO_PKG_VERSION")))?;
    let installations = binaries::installations();
    if installations.is_empty() {
        ui.data("PostgreSQL: none found")?;
    }
    for installation in installations {
        let version = installation.full_version().unwrap_or_else(|_| installation.version.to_string());
        ui.data(&format!("PostgreSQL {version} in {}", installation.bin_directory.display()))?;
    }
    Ok(())
}
