//! Directories as they are meant: absolute, without symlinks, and not one inside the other.

use crate::error::{Failure, Kind};
use crate::sys::real_path;
use std::ffi::OsStr;
use std::io;
use std::path::{Component, Path, PathBuf};

use super::source::{Given, Source};
use super::table::Setting;

/// A file setting as an absolute path. Symlinks stay: Kubernetes puts a new secret in place by changing one.
pub(super) fn file_if_given(source: &Source<'_>, setting: &Setting) -> Result<Option<PathBuf>, Failure> {
    let Some(Given { text, origin, .. }) = source.given(setting)? else { return Ok(None) };
    ensure_one_line(&text, &origin)?;
    let resolved = std::path::absolute(&text).map_err(|error| {
        let message = format!("could not resolve {origin}, '{}': {error}", Path::new(&text).display());
        Failure::new(Kind::Failed, message)
    });
    resolved.map(Some)
}

fn ensure_one_line(text: &OsStr, origin: &str) -> Result<(), Failure> {
    if text.to_string_lossy().chars().any(char::is_control) {
        let shown = text.to_string_lossy().escape_debug().to_string();
        return Err(Failure::new(Kind::Usage, format!("{origin} must be one line of text, not '{shown}'")));
    }
    Ok(())
}

/// A directory setting that has no default.
pub(super) fn directory_if_given(source: &Source<'_>, setting: &Setting) -> Result<Option<PathBuf>, Failure> {
    source.given(setting)?.map(|_| directory(source, setting)).transpose()
}

/// A directory setting as an absolute path without symlinks. What does not exist yet is resolved as far as it
/// does.
pub(super) fn directory(source: &Source<'_>, setting: &Setting) -> Result<PathBuf, Failure> {
    let given = source.given(setting)?;
    let (text, origin) = match given {
        Some(given) => (given.text, given.origin),
        None => (setting.default.unwrap_or_default().into(), setting.variable.to_owned()),
    };
    ensure_one_line(&text, &origin)?;
    let path = std::path::absolute(&text).and_then(|path| resolve(&path)).map_err(|error| {
        let message = format!("could not resolve {origin}, '{}': {error}", Path::new(&text).display());
        Failure::new(Kind::Failed, message)
    })?;
    if path.parent().is_none() {
        return Err(Failure::new(
            Kind::Usage,
            format!("{origin} must be a directory below '/', not '/' itself"),
        ));
    }
    Ok(path)
}

/// The part of a path that exists, resolved, with the rest as it is. Root is led by no links but its own: of another's, the
/// other decides where root acts, and may change it at any moment.
fn resolve(path: &Path) -> io::Result<PathBuf> {
    match real_path(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        result => return result,
    }
    let mut components = path.components();
    match (components.next_back(), path.parent()) {
        (Some(Component::Normal(name)), Some(parent)) => Ok(resolve(parent)?.join(name)),
        _ => Err(io::Error::new(io::ErrorKind::NotFound, "'..' follows a directory that does not exist")),
    }
}

/// Refuses directories that a data directory set aside would take with it.
pub(super) fn ensure_outside(
    directory: &Path,
    setting: &Setting,
    data_directory: &Path,
) -> Result<(), Failure> {
    if !directory.starts_with(data_directory) {
        return Ok(());
    }
    let (shown, data) = (directory.display(), data_directory.display());
    let message =
        format!("{} must not lie in the data directory '{data}', as '{shown}' does", setting.variable);
    Err(Failure::new(Kind::Usage, message))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_symlink_is_resolved_even_above_what_does_not_exist() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().canonicalize().unwrap();
        std::os::unix::fs::symlink(&root, root.join("link")).unwrap();

        assert_eq!(resolve(&root.join("link")).unwrap(), root);
        assert_eq!(resolve(&root.join("link/a/b")).unwrap(), root.join("a/b"));
        assert!(resolve(&root.join("absent/../b")).is_err());
    }

    #[test]
    fn a_path_below_a_file_is_an_error() {
        let file = tempfile::NamedTempFile::new().unwrap();
        assert!(resolve(&file.path().join("data")).is_err());
    }
}
