//! `pgbox --install DIR`: one link for each name.

use super::{APPLETS, BINARY};
use anyhow::Context;
use pgbox::error::{Failure, Kind};
use pgbox::format;
use pgbox::sys::{self, LinkState};
use pgbox::ui::Ui;
use std::path::{Path, PathBuf};

/// Makes the links that are missing. None is made if one of the names belongs to another file.
pub(super) fn install(directory: &Path, ui: &Ui) -> anyhow::Result<()> {
    let binary = std::env::current_exe().context("find this binary")?;
    let directory = directory.canonicalize().with_context(|| format!("open '{}'", directory.display()))?;
    // Beside the binary a link needs no directory, and stays right when both are moved together.
    let is_beside = binary.parent() == Some(directory.as_path());
    let target =
        if is_beside { binary.file_name().map(PathBuf::from).unwrap_or_default() } else { binary.clone() };
    let missing = missing_names(&directory, &binary)?;
    for name in &missing {
        sys::install_link(&directory, name, &target)
            .with_context(|| format!("make the link '{}'", directory.join(name).display()))?;
    }
    let (binary, shown) = (binary.display(), directory.display());
    match missing.len() {
        0 => ui.info(&format!("found every link to '{binary}' in '{shown}' already")),
        count => ui.info(&format!("made {} to '{binary}' in '{shown}'", format::counted(count, "link"))),
    }
    Ok(())
}

fn missing_names(directory: &Path, binary: &Path) -> anyhow::Result<Vec<String>> {
    let applets = APPLETS.iter().flat_map(|applet| [applet.name.to_owned(), format!("{}.sh", applet.name)]);
    let mut missing = Vec::new();
    for name in applets.chain([BINARY.to_owned()]) {
        let path = directory.join(&name);
        match sys::link_state(&path, binary).with_context(|| format!("look at '{}'", path.display()))? {
            LinkState::Ours => {}
            LinkState::Absent | LinkState::Outdated => missing.push(name),
            LinkState::Foreign => return Err(foreign(&path).into()),
        }
    }
    Ok(missing)
}

fn foreign(path: &Path) -> Failure {
    let message = format!("cannot make the link '{}': there is a file that is not pgbox's", path.display());
    Failure::new(Kind::Refused, message)
        .hint("move it away, or choose another directory. Nothing was changed.")
}
