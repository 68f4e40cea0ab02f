//! The names that pgbox answers to, and the way from a name to what it does and to an exit status.
//!
//! The name is the base name of `argv[0]`, else the first argument of `pgbox`. It has to match exactly: the
//! refused alternative, the longest suffix, would let `my-maintenance` stop a server.

mod archive_wal;
mod arguments;
mod backing_up;
mod backup_postgresql;
mod check;
mod context;
mod exporting;
mod finding;
mod halves;
mod importing;
mod init_postgresql;
mod install;
mod maintenance;
mod manual;
mod moment;
mod own;
mod privileges;
mod repairing;
mod restoring;
mod scrubbing;
mod start_services;
mod status;
mod verifying;
mod without_terminal;

use clap::{ArgMatches, Command};
use halves::SERVER_HALF;
use pgbox::embed::{EMBEDDED_WORK, serve_embedding_program};
use pgbox::error::{Failure, Kind, kind_of};
use pgbox::settings::Settings;
use pgbox::sys;
use pgbox::ui::{Mode, Ui};
use std::ffi::{OsStr, OsString};
use std::path::Path;
use without_terminal::WITHOUT_TERMINAL;

/// The name of the binary itself.
const BINARY: &str = "pgbox";

/// One name that pgbox answers to.
pub(crate) struct Applet {
    /// The name.
    pub(crate) name: &'static str,
    /// Its command line, without the settings.
    pub(crate) command: fn() -> Command,
    /// What it does.
    run: Run,
    /// Whether it runs without the terminal that it was started at, since it starts programs that must not have it.
    leaves_terminal: bool,
}

/// What an applet does; the exit status.
enum Run {
    /// A command for people, which takes the settings.
    WithSettings(fn(&ArgMatches, &Settings, &Ui) -> anyhow::Result<u8>),
    /// A command for the server, which takes what it needs as arguments.
    ForServer {
        /// What it does.
        run: fn(&ArgMatches, &Ui) -> u8,
        /// The status for a command line that makes no sense.
        usage_status: u8,
    },
}

/// Every applet.
pub(crate) const APPLETS: &[Applet] = &[
    Applet {
        name: "start-services",
        command: start_services::command,
        run: Run::WithSettings(start_services::run),
        // Its command is the person's own.
        leaves_terminal: false,
    },
    Applet {
        name: "init-postgresql",
        command: init_postgresql::command,
        run: Run::WithSettings(init_postgresql::run),
        leaves_terminal: true,
    },
    Applet {
        name: "backup-postgresql",
        command: backup_postgresql::command,
        run: Run::WithSettings(backup_postgresql::run),
        leaves_terminal: true,
    },
    Applet {
        name: "maintenance",
        command: maintenance::command,
        run: Run::WithSettings(maintenance::run),
        leaves_terminal: true,
    },
    Applet {
        name: "archive-wal",
        command: archive_wal::archive_command,
        run: Run::ForServer { run: archive_wal::archive, usage_status: 2 },
        leaves_terminal: false,
    },
    Applet {
        name: "fetch-wal",
        command: archive_wal::fetch_command,
        run: Run::ForServer { run: archive_wal::fetch, usage_status: archive_wal::FETCH_FAILED },
        leaves_terminal: false,
    },
];

impl Applet {
    fn find(name: &str) -> Option<&'static Self> {
        APPLETS.iter().find(|applet| applet.name == name)
    }

    /// The status with which a command line ends that was printed help for, or that made no sense.
    fn usage_status(&self, status: u8) -> u8 {
        match self.run {
            Run::ForServer { usage_status, .. } if status != 0 => usage_status,
            _ => status,
        }
    }

    /// Its whole command line.
    pub(crate) fn full_command(&self) -> Command {
        let command = match self.run {
            Run::WithSettings(_) => Settings::arguments((self.command)()),
            Run::ForServer { .. } => (self.command)(),
        };
        command.version(env!("CARGO_PKG_VERSION"))
    }
}

/// A path or a first argument as a name: without directories, a login shell's `-`, and `.sh`.
fn base_name(argument: &OsStr) -> String {
    let name = Path::new(argument).file_name().unwrap_or_default().to_string_lossy();
    let name = name.strip_prefix('-').unwrap_or(&name);
    name.strip_suffix(".sh").unwrap_or(name).to_owned()
}

/// What a command line, `argv[0]` included, asks for.
enum Called<'a> {
    /// An applet, as what it was called, and its arguments.
    Applet(&'static Applet, String, &'a [OsString]),
    /// One of pgbox's own processes: its name, and its arguments.
    OwnProcess(&'a OsStr, &'a [OsString]),
    /// pgbox under its own name, with its arguments.
    Own(&'a [OsString]),
    /// A name that does not exist.
    Unknown(&'a OsStr),
}

impl Called<'_> {
    /// Whether programs are started that are not to have what whoever called has: a terminal, open files.
    fn starts_programs_of_others(&self) -> bool {
        match self {
            Self::Applet(applet, ..) => applet.leaves_terminal,
            Self::OwnProcess(..) => true,
            Self::Own(_) | Self::Unknown(_) => false,
        }
    }
}

fn called(arguments: &[OsString]) -> Called<'_> {
    let Some((first, rest)) = arguments.split_first() else { return Called::Own(&[]) };
    let name = base_name(first);
    if let Some(applet) = Applet::find(&name) {
        return Called::Applet(applet, applet.name.to_owned(), rest);
    }
    if let Some((word, rest)) = rest.split_first() {
        if [WITHOUT_TERMINAL, SERVER_HALF, EMBEDDED_WORK].iter().any(|name| *word == **name) {
            return Called::OwnProcess(word, rest);
        }
        if let Some(applet) = Applet::find(&base_name(word)) {
            return Called::Applet(applet, format!("{BINARY} {}", applet.name), rest);
        }
    }
    // A binary under a name with its version or platform in it is still pgbox; any other name is a link to a
    // name that does not exist.
    let unknown =
        if name.starts_with(BINARY) { rest.first().filter(|name| !own::knows(name)) } else { Some(first) };
    unknown.map_or(Called::Own(rest), |name| Called::Unknown(name))
}

/// Runs what the arguments, `argv[0]` included, ask for. Returns the exit status.
pub(crate) fn run(arguments: impl Iterator<Item = OsString>) -> u8 {
    let arguments: Vec<OsString> = arguments.collect();
    let called = called(&arguments);
    if !matches!(called, Called::Own(_) | Called::Unknown(_)) {
        // A kernel that refuses leaves it as open as any other program.
        let _ = sys::keep_from_being_traced();
    }
    if let Called::Applet(applet, ..) = called
        && applet.leaves_terminal
        && sys::has_terminal()
    {
        // What was given to this process open, such as a pipe for a password, is for that one.
        return without_terminal::start(arguments.into_iter());
    }
    if called.starts_programs_of_others() {
        sys::keep_descriptors_private();
    }
    match called {
        Called::Applet(applet, called, rest) => run_applet(applet, called, rest),
        Called::OwnProcess(word, rest) if *word == *SERVER_HALF => halves::run(rest),
        Called::OwnProcess(word, _) if *word == *EMBEDDED_WORK => run_embedded_work(),
        Called::OwnProcess(_, rest) => without_terminal::run(rest),
        Called::Own(rest) => run_own(rest),
        Called::Unknown(name) => report(&Ui::new(Mode::default(), BINARY), &unknown_name(name).into()),
    }
}

fn run_embedded_work() -> u8 {
    match serve_embedding_program() {
        Ok(()) => 0,
        Err(error) => report(&Ui::new(Mode::default(), BINARY), &error),
    }
}

/// The arguments of the applet that this process runs, without its name.
fn command_line() -> Vec<OsString> {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    let given = match called(&arguments) {
        Called::OwnProcess(_, rest) => rest,
        _ => &arguments,
    };
    match called(given) {
        Called::Applet(_, _, rest) => rest.to_vec(),
        _ => Vec::new(),
    }
}

fn unknown_name(name: &OsStr) -> Failure {
    let names: Vec<&str> = APPLETS.iter().map(|applet| applet.name).collect();
    let name = name.to_string_lossy().escape_debug().to_string();
    Failure::new(Kind::Usage, format!("there is no command '{name}'"))
        .hint(format!("the names are {}; `{BINARY} --help` tells what each is for", names.join(", ")))
}

fn report(ui: &Ui, error: &anyhow::Error) -> u8 {
    ui.report_error(error);
    kind_of(error).exit_status()
}

/// Reads a command line. What clap has to say, help included, is printed here: `Err` is the exit status.
fn read_arguments(command: &mut Command, name: String, arguments: &[OsString]) -> Result<ArgMatches, u8> {
    let arguments = std::iter::once(OsString::from(&name)).chain(arguments.iter().cloned());
    *command = std::mem::take(command).bin_name(name);
    command.try_get_matches_from_mut(arguments).map_err(|error| {
        // Nobody reads it any more, if it cannot be printed.
        let _ = error.print();
        u8::try_from(error.exit_code()).unwrap_or(Kind::Usage.exit_status())
    })
}

fn run_applet(applet: &Applet, called: String, arguments: &[OsString]) -> u8 {
    let mut command = applet.full_command();
    let matches = match read_arguments(&mut command, called, arguments) {
        Ok(matches) => matches,
        Err(status) => return applet.usage_status(status),
    };
    if command.has_subcommands() && matches.subcommand_name().is_none() {
        // The old orchestrator runs every script of its directory without arguments, and needs a success.
        let _ = command.print_help();
        return 0;
    }
    let ui = Ui::new(Mode { json: arguments::is_json(&matches) }, applet.name);
    let run = match &applet.run {
        Run::WithSettings(run) => run,
        Run::ForServer { run, .. } => return run(&matches, &ui),
    };
    let status = Settings::from_environment(&matches)
        .map_err(anyhow::Error::from)
        .and_then(|settings| run(&matches, &settings, &ui));
    status.unwrap_or_else(|error| report(&ui, &error))
}

fn run_own(arguments: &[OsString]) -> u8 {
    let mut command = own::command();
    let matches = match read_arguments(&mut command, BINARY.to_owned(), arguments) {
        Ok(matches) => matches,
        Err(status) => return status,
    };
    let ui = Ui::new(Mode::default(), BINARY);
    own::run(&matches, &mut command, &ui).unwrap_or_else(|error| report(&ui, &error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::ffi::OsStrExt;

    #[test]
    fn a_name_loses_directories_the_dash_of_a_login_shell_and_sh() {
        for (given, expected) in [
            ("/usr/local/bin/init-postgresql.sh", "init-postgresql"),
            ("-maintenance", "maintenance"),
            ("pgbox", "pgbox"),
            ("", ""),
            ("/", ""),
        ] {
            assert_eq!(base_name(OsStr::new(given)), expected);
        }
        assert_eq!(base_name(OsStr::from_bytes(b"\xff.sh")), "\u{fffd}");
    }

    #[test]
    fn a_name_has_to_match_exactly() {
        assert!(Applet::find("maintenance").is_some());
        assert!(Applet::find("my-maintenance").is_none());
        assert!(Applet::find("maint").is_none());
    }

    #[test]
    fn every_command_line_is_sound() {
        for applet in APPLETS {
            let command = applet.full_command();
            assert_eq!(command.get_name(), applet.name);
            command.debug_assert();
        }
        own::command().debug_assert();
    }

    #[test]
    fn an_unknown_name_is_told_the_names() {
        let failure = unknown_name(OsStr::new("oops"));
        let error = anyhow::Error::from(failure);
        assert_eq!(kind_of(&error), Kind::Usage);
        assert!(pgbox::error::hint_of(&error).unwrap().contains("start-services, init-postgresql"));
    }
}
