//! Manual pages and shell completions, made from the command lines themselves.

use super::{APPLETS, own};
use anyhow::Context;
use clap::Command;
use clap_complete::Shell;
use pgbox::format;
use pgbox::sys;
use pgbox::ui::Ui;
use std::path::{Path, PathBuf};

/// `pgbox` itself and every applet under its own name.
fn commands() -> impl Iterator<Item = Command> {
    std::iter::once(own::command()).chain(APPLETS.iter().map(super::Applet::full_command))
}

/// Prints the completions of every command.
pub(super) fn print_completions(shell: Option<&Shell>, ui: &Ui) -> anyhow::Result<()> {
    let shell = *shell.context("no shell was named")?;
    let mut script = Vec::new();
    for mut command in commands() {
        let name = command.get_name().to_owned();
        clap_complete::generate(shell, &mut command, name, &mut script);
    }
    ui.verbatim(String::from_utf8_lossy(&script).trim_end())
}

/// Writes the manual pages of every command and subcommand.
pub(super) fn write_pages(directory: Option<&PathBuf>, ui: &Ui) -> anyhow::Result<()> {
    let directory = directory.context("no directory was named")?;
    let mut count = 0_u32;
    for mut command in commands() {
        // pgbox's subcommands are the applets, which have pages of their own.
        let is_own = command.get_name() == super::BINARY;
        command.build();
        write_page(directory, command.get_name().to_owned(), &command)?;
        count += 1;
        for subcommand in command.get_subcommands().filter(|found| !is_own && found.get_name() != "help") {
            write_page(directory, format!("{}-{}", command.get_name(), subcommand.get_name()), subcommand)?;
            count += 1;
        }
    }
    ui.info(&format!("wrote {} to '{}'", format::counted(count, "manual page"), directory.display()));
    Ok(())
}

fn write_page(directory: &Path, name: String, command: &Command) -> anyhow::Result<()> {
    let file_name = format!("{name}.1");
    let mut page = Vec::new();
    clap_mangen::Man::new(command.clone().display_name(name))
        .render(&mut page)
        .context("render a manual page")?;
    sys::install_file(directory, &file_name, &page)
        .with_context(|| format!("write '{}'", directory.join(&file_name).display()))
}
