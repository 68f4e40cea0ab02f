//! What a server that was killed leaves outside its data directory: shared memory and its socket.
//!
//! PostgreSQL removes them when it is started again in the same data directory. A test that copies the directory, or
//! is done with it, must do so itself.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// What is left of one server.
pub(crate) struct Remains {
    pid: i32,
    /// Its segments of dynamic shared memory.
    memory: Vec<PathBuf>,
    /// The System V segment.
    segment: String,
    /// The socket.
    socket: PathBuf,
}

impl Remains {
    /// What a server that still lives would leave, from its own pid file.
    pub(crate) fn of(pid: i32, pid_file: &str) -> Self {
        let line = |number: usize| pid_file.lines().nth(number).unwrap_or_default().trim();
        let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap_or_default();
        let mapped = maps.lines().filter_map(|line| line.split_whitespace().nth(5));
        let memory = mapped.filter(|path| path.starts_with("/dev/shm/PostgreSQL.")).map(PathBuf::from);
        Self {
            pid,
            memory: memory.collect(),
            segment: line(6).split_whitespace().last().unwrap_or_default().to_owned(),
            socket: PathBuf::from(line(4)).join(format!(".s.PGSQL.{}", line(3))),
        }
    }
}

impl Drop for Remains {
    fn drop(&mut self) {
        for file in &self.memory {
            // Gone already is as good.
            let _ = fs::remove_file(file);
        }
        let mut remove = Command::new("ipcrm");
        let _ = remove.args(["-m", &self.segment]).stdout(Stdio::null()).stderr(Stdio::null()).status();
        let lock = self.socket.with_added_extension("lock");
        let owner = fs::read_to_string(&lock).unwrap_or_default();
        // Another server may have the port by now.
        if owner.lines().next() == Some(&self.pid.to_string()) {
            let _ = fs::remove_file(&self.socket);
            let _ = fs::remove_file(lock);
        }
    }
}
