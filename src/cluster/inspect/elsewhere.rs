//! Lines of the configuration that contradict the data directory: a server that kept to them would serve another
//! cluster, or write over its own files.
//!
//! `data_directory` in `postgresql.conf` wins over the directory that `-D` names (guc.c, `SelectConfigFiles()`), and the
//! server then takes no lock in that one. pgbox pins it on the command line, and still refuses such a line: whatever
//! else starts a server here would serve the other directory. Settings that may well lead elsewhere, as Debian's
//! clusters have their `hba_file` and `external_pid_file`, are the owner's.

use super::{Expectations, Inspection};
use crate::cluster::configuration_files::{FileSettings, Placed};
use crate::pg::{MajorVersion, layout};
use crate::plan::{Finding, Remedy, Severity};
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path};

const MAIN_FILE: &str = "postgresql.conf";
const AUTO_FILE: &str = "postgresql.auto.conf";

/// Files at the top of a data directory that a server reads or keeps; one that held a process number would be lost.
const KEPT: [&str; 11] = [
    "PG_VERSION",
    "backup_label",
    "backup_manifest",
    "current_logfiles",
    "postmaster.opts",
    "postmaster.pid",
    "recovery.signal",
    "standby.signal",
    "tablespace_map",
    "server.crt",
    "server.key",
];

/// A line that contradicts the data directory.
#[derive(Debug)]
pub struct Contradiction {
    name: &'static str,
    placed: Placed,
}

impl Contradiction {
    /// What the line says, with its file and number.
    pub fn evidence(&self) -> String {
        let Placed { value, file, line } = &self.placed;
        format!("line {line} of '{}' sets {} to '{value}'", file.display(), self.name)
    }
}

/// Finds the line of `postgresql.conf`, or of a file that it takes in, that names another data directory.
///
/// The server does not heed that setting in `postgresql.auto.conf`, which it reads once it knows its directory
/// (guc-file.l, `ProcessConfigFileInternal()`).
pub fn other_data_directory(data_directory: &Path) -> Option<Contradiction> {
    let settings = FileSettings::read(&data_directory.join(MAIN_FILE));
    let placed = settings.get("data_directory").filter(|placed| !placed.value.is_empty())?;
    // The server is started in `/`, from where a relative path goes on (miscinit.c, `make_absolute_path()`).
    let named = Path::new("/").join(&placed.value);
    let is_other = !is_same_directory(&named, data_directory);
    is_other.then(|| Contradiction { name: "data_directory", placed: placed.clone() })
}

/// Finds the line that has the server write its process number over a file of the cluster.
///
/// A relative path goes on from the data directory, in which the server is by then (postmaster.c, `PostmasterMain()`).
fn overwriting_pid_file(data_directory: &Path) -> Option<Contradiction> {
    let name = "external_pid_file";
    let read = |file| FileSettings::read(&data_directory.join(file)).get(name).cloned();
    let placed = read(AUTO_FILE).or_else(|| read(MAIN_FILE)).filter(|placed| !placed.value.is_empty())?;
    let written = data_directory.join(&placed.value);
    let parent = std::fs::canonicalize(written.parent()?).ok()?;
    let below = parent.strip_prefix(std::fs::canonicalize(data_directory).ok()?).ok()?;
    is_of_the_cluster(&below.join(written.file_name()?)).then_some(Contradiction { name, placed })
}

/// Says whether a path below the data directory is, or is in, something that initdb or a server makes.
fn is_of_the_cluster(path: &Path) -> bool {
    let Some(Component::Normal(top)) = path.components().next() else { return false };
    let Some(top) = top.to_str() else { return false };
    let is_directory = layout::required_directories(MajorVersion(u32::MAX)).any(|directory| directory == top);
    let is_configuration = Path::new(top).extension().is_some_and(|extension| extension == "conf");
    is_directory || is_configuration || KEPT.contains(&top)
}

fn is_same_directory(one: &Path, other: &Path) -> bool {
    let identity = |path: &Path| std::fs::metadata(path).map(|facts| (facts.dev(), facts.ino()));
    matches!((identity(one), identity(other)), (Ok(one), Ok(other)) if one == other)
}

impl Inspection<'_> {
    /// Reports lines that contradict the data directory, where a server is to be started in it.
    ///
    /// A cluster in staging is not in its place yet; its configuration may well name that.
    pub(super) fn check_elsewhere(&mut self, expectations: &Expectations) {
        if expectations.programs.is_none() {
            return;
        }
        let path = self.root.path().to_path_buf();
        if let Some(found) = other_data_directory(&path) {
            let evidence =
                format!("{}: whatever starts it by that file would serve that directory", found.evidence());
            self.report_contradiction(&found, evidence);
        }
        if let Some(found) = overwriting_pid_file(&path) {
            let evidence =
                format!("{}, which the server would write its process number over", found.evidence());
            self.report_contradiction(&found, evidence);
        }
    }

    fn report_contradiction(&mut self, found: &Contradiction, evidence: String) {
        let file = &found.placed.file;
        let place = file.strip_prefix(self.root.path()).unwrap_or(file).display().to_string();
        let finding = Finding::new("configuration-leads-elsewhere", Severity::Warning, place, evidence);
        let hint = match found.name {
            "data_directory" => "take that line out, or set PGDATA to the directory that it names".to_owned(),
            name => format!("take that line out, or have {name} name a file outside the data directory"),
        };
        self.report_with(finding.with_remedy(Remedy::SeeToIt(hint)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case::itself("DATA", false)]
    #[case::itself_with_a_slash("DATA/", false)]
    #[case::a_link_to_it("LINK", false)]
    #[case::nothing("", false)]
    #[case::another("OTHER", true)]
    #[case::one_that_is_not_there("DATA/none", true)]
    #[case::a_relative_path("data", true)]
    fn a_data_directory_that_is_another_one_is_found(#[case] named: &str, #[case] is_found: bool) {
        let place = tempfile::tempdir().unwrap();
        let (data, link, other) =
            (place.path().join("data"), place.path().join("link"), place.path().join("other"));
        std::fs::create_dir_all(&data).unwrap();
        std::fs::create_dir(&other).unwrap();
        std::os::unix::fs::symlink(&data, &link).unwrap();
        let shown = |path: &Path| path.display().to_string();
        let named = named
            .replace("DATA", &shown(&data))
            .replace("LINK", &shown(&link))
            .replace("OTHER", &shown(&other));
        std::fs::create_dir(data.join("conf.d")).unwrap();
        std::fs::write(data.join("conf.d/1.conf"), format!("\nData_Directory = '{named}'\n")).unwrap();
        std::fs::write(data.join(MAIN_FILE), "include_dir 'conf.d'\n").unwrap();

        let found = other_data_directory(&data).map(|found| found.evidence());

        let line = format!("line 2 of '{}/conf.d/1.conf' sets data_directory to '{named}'", data.display());
        assert_eq!(found, is_found.then_some(line));
    }

    #[rstest]
    #[case::the_servers_own_pid_file("postmaster.pid", true)]
    #[case::by_its_whole_path("DATA/postmaster.pid", true)]
    #[case::the_version("DATA/base/../PG_VERSION", true)]
    #[case::a_configuration_file("pg_hba.conf", true)]
    #[case::a_file_of_a_database("base/1/1259", true)]
    #[case::a_file_of_its_own("DATA/own.pid", false)]
    #[case::a_file_elsewhere("/var/run/main.pid", false)]
    #[case::none("", false)]
    fn a_pid_file_that_is_one_of_the_clusters_is_found(#[case] named: &str, #[case] is_found: bool) {
        let data = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(data.path().join("base/1")).unwrap();
        let named = named.replace("DATA", &data.path().display().to_string());
        std::fs::write(data.path().join(MAIN_FILE), format!("external_pid_file = '{named}'\n")).unwrap();

        assert_eq!(overwriting_pid_file(data.path()).is_some(), is_found);
    }
}
