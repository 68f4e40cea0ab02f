//! A command that needs two users as two processes: this one stays root, and its other half, this program again, runs as
//! the server's user and does all that touches a cluster or a repository.
//!
//! The other half is given the same command line, so that it reads the same settings and prints as this one would. It
//! gives up root before it opens anything. It says over a link what is to be done as root, and ends when this one does.

use super::privileges::become_server_user;
use super::{Applet, BINARY, command_line, exporting, read_arguments, report, restoring};
use anyhow::Context;
use clap::ArgMatches;
use pgbox::error::{Failure, Kind};
use pgbox::settings::Settings;
use pgbox::sys::{self, Ended, Link, Message, OwnProcess};
use pgbox::ui::{Mode, Ui};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::ffi::OsString;
use std::fs::File;

/// The first argument of a process that is such a half. It is no command for people.
pub(super) const SERVER_HALF: &str = "run-server-half";
/// The applet whose commands have halves.
const APPLET: &str = "backup-postgresql";

/// The other half of this command, which runs.
pub(super) struct ServerHalf {
    process: OwnProcess,
    link: Link,
}

impl ServerHalf {
    /// Starts it.
    pub(super) fn start() -> anyhow::Result<Self> {
        let arguments = std::iter::once(OsString::from(SERVER_HALF)).chain(command_line());
        let arguments: Vec<OsString> = arguments.collect();
        let started = OwnProcess::start_linked(&arguments);
        let (process, link) = started.context("start the half of this command that is not root")?;
        Ok(Self { process, link })
    }

    /// Waits for what it has to say. `None`: it has ended, and has reported why.
    pub(super) fn receive<T: DeserializeOwned>(&mut self) -> anyhow::Result<Option<T>> {
        let message = self.link.receive().context("understand the half of this command that is not root")?;
        Ok(message.map(|message| message.value))
    }

    /// Has it go on.
    pub(super) fn send(&mut self, value: &impl Serialize) -> anyhow::Result<()> {
        self.link.send(value).context("reach the half of this command that is not root")
    }

    /// Has it go on, with an open file.
    pub(super) fn send_file(&mut self, value: &impl Serialize, file: &File) -> anyhow::Result<()> {
        self.link.send_file(value, file).context("reach the half of this command that is not root")
    }

    /// Waits for its end. If it still waits for a word, it ends.
    pub(super) fn finish(self) -> anyhow::Result<Ended> {
        drop(self.link);
        self.process.wait().context("wait for the half of this command that is not root")
    }
}

/// The way back to the half that is root.
pub(super) struct RootHalf(Link);

impl RootHalf {
    /// Says something.
    pub(super) fn send(&mut self, value: &impl Serialize) -> anyhow::Result<()> {
        self.0.send(value).context("reach the half of this command that is root")
    }

    /// Waits for its word to go on. `None`: there is nothing more to do.
    pub(super) fn receive<T: DeserializeOwned>(&mut self) -> anyhow::Result<Option<Message<T>>> {
        self.0.receive().context("understand the half of this command that is root")
    }
}

/// Runs as the half that is not root. Returns the exit status.
pub(super) fn run(arguments: &[OsString]) -> u8 {
    let Some(applet) = Applet::find(APPLET) else { return Kind::Usage.exit_status() };
    let mut command = applet.full_command();
    let matches = match read_arguments(&mut command, format!("{BINARY} {SERVER_HALF}"), arguments) {
        Ok(matches) => matches,
        Err(status) => return status,
    };
    let ui = Ui::new(Mode { json: super::arguments::is_json(&matches) }, applet.name);
    serve(&matches, &ui).unwrap_or_else(|error| report(&ui, &error))
}

fn serve(matches: &ArgMatches, ui: &Ui) -> anyhow::Result<u8> {
    sys::name_process(APPLET.as_ref());
    sys::end_with_parent().context("end together with the half that is root")?;
    let link = Link::from_standard_input().context("take the link to the half that is root")?;
    let settings = Settings::from_environment(matches)?;
    become_server_user()?;
    let mut root = RootHalf(link);
    match matches.subcommand() {
        Some(("export", arguments)) => exporting::serve(arguments, &settings, ui, &mut root),
        Some(("restore", arguments)) => restoring::serve(arguments, &settings, ui, &mut root),
        _ => Err(Failure::new(Kind::Usage, "this command has no half that is not root").into()),
    }
}
