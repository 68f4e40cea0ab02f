//! An archive unpacked by `tar`, and PostgreSQL's own programs on it: nothing of pgbox.

use crate::support::directory;
use crate::support::sandbox::run;
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

const PROGRAMS: &str = "/usr/lib/postgresql/15/bin";

/// A data directory that came out of an archive; its server is stopped when it is dropped.
pub(super) struct Unpacked {
    directory: TempDir,
}

/// A program of PostgreSQL's, as the user `postgres`.
pub(super) fn program(name: &str) -> Command {
    as_postgres(&Path::new(PROGRAMS).join(name))
}

/// Any program, as the user `postgres`.
pub(super) fn as_postgres(path: &Path) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups"]).arg(path).current_dir("/");
    command
}

/// An empty directory that belongs to the user `postgres`.
pub(super) fn empty_directory() -> TempDir {
    let directory = directory::make();
    run(Command::new("chown").arg("postgres").arg(directory.path()));
    directory
}

impl Unpacked {
    /// The commands of the README.
    pub(super) fn from(archive: &Path) -> Self {
        let unpacked = Self { directory: empty_directory() };
        run(as_postgres(Path::new("mkdir")).arg(unpacked.data()));
        run(Command::new("tar").arg("-xf").arg(archive).arg("-C").arg(unpacked.data()));
        run(Command::new("chmod").arg("700").arg(unpacked.data()));
        unpacked
    }

    pub(super) fn data(&self) -> PathBuf {
        self.directory.path().join("d")
    }

    pub(super) fn verify(&self) {
        run(program("pg_verifybackup").arg(self.data()));
    }

    pub(super) fn start(&self) {
        let place = self.directory.path().display();
        let options = format!("-c listen_addresses='' -c unix_socket_directories={place} -c fsync=off");
        let mut start = program("pg_ctl");
        start.args(["start", "-w", "-s", "-D"]).arg(self.data());
        start.arg("-l").arg(self.directory.path().join("log")).arg("-o").arg(options);
        let status = start.stdout(std::process::Stdio::null()).status().unwrap();
        let log = std::fs::read_to_string(self.directory.path().join("log")).unwrap_or_default();
        assert!(status.success(), "the server did not start:\n{log}");
    }

    pub(super) fn sql(&self, statement: &str) -> String {
        let mut psql = Command::new(Path::new(PROGRAMS).join("psql"));
        psql.arg("-h")
            .arg(self.directory.path())
            .args(["-U", "postgres", "-d", "dbuser", "-XAtc", statement]);
        run(&mut psql).trim().to_owned()
    }
}

impl Drop for Unpacked {
    fn drop(&mut self) {
        // One that was never started, or stopped by the test, is as good.
        let _ = program("pg_ctl").args(["stop", "-w", "-m", "immediate", "-D"]).arg(self.data()).output();
    }
}
