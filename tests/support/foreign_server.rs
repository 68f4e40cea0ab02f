//! A server that pgbox did not start, in a container of its own as far as processes and shared memory go.

use super::sandbox::{Sandbox, run, signal};
use super::versions::programs;
use super::wait::{wait_for, wait_until};
use rustix::process::Signal;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

/// A running server in PID and IPC namespaces of its own; killed when it is dropped.
pub(crate) struct ForeignServer {
    /// `unshare`, which ends with the server.
    namespace: Child,
    socket: PathBuf,
}

impl ForeignServer {
    /// Starts one on the data directory of a sandbox, and waits until it serves. Its socket is in a directory that only
    /// its postmaster.pid names.
    pub(crate) fn start(sandbox: &Sandbox, major: u32, settings: &[&str]) -> Self {
        let socket = sandbox.path().join("foreign");
        std::fs::create_dir_all(&socket).unwrap();
        run(Command::new("chown").arg("postgres").arg(&socket));
        let mut command = Command::new("unshare");
        command.args(["--pid", "--ipc", "--fork", "--kill-child", "--mount-proc"]);
        command.args(["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]);
        command.arg(programs(major).unwrap().join("postgres")).arg("-D").arg(sandbox.data());
        command.arg("-c").arg(format!("unix_socket_directories={}", socket.display()));
        command.args(["-c", "listen_addresses=", "-c", "port=5432"]);
        command.args(settings.iter().flat_map(|setting| ["-c", setting]));
        let log = std::fs::File::create(socket.join("log")).unwrap();
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log).current_dir("/");
        let server = Self { namespace: command.spawn().unwrap(), socket };
        wait_until("the foreign server is ready", || {
            std::fs::read_to_string(sandbox.data().join("postmaster.pid"))
                .is_ok_and(|text| text.contains("ready"))
        });
        server
    }

    /// Runs SQL as the superuser.
    pub(crate) fn sql(&self, statement: &str) -> String {
        let mut psql = Command::new(programs(15).unwrap().join("psql"));
        psql.arg("-h").arg(&self.socket).args(["-U", "postgres", "-d", "dbuser", "--no-psqlrc"]);
        run(psql.args(["-v", "ON_ERROR_STOP=1", "-Atqc", statement])).trim().to_owned()
    }

    /// Makes its socket unreachable, as that of a server in another container is.
    pub(crate) fn hide_socket(&self) {
        std::fs::remove_file(self.socket.join(".s.PGSQL.5432")).unwrap();
    }

    /// Its postmaster, by the number that it has here.
    fn postmaster(&self) -> i32 {
        let pid = self.namespace.id();
        wait_for("the postmaster", || {
            let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
            children.split_whitespace().next()?.parse().ok()
        })
    }

    /// Stops all of it, as `docker pause` does.
    pub(crate) fn pause(&self) {
        signal(self.postmaster(), Signal::STOP).unwrap();
    }

    /// Kills it and all its processes at once, as the end of a container does. Its postmaster.pid stays.
    pub(crate) fn kill(mut self) {
        self.end(Signal::KILL);
    }

    /// Stops it cleanly.
    pub(crate) fn stop(mut self) {
        self.end(Signal::INT);
    }

    fn end(&mut self, how: Signal) {
        if matches!(self.namespace.try_wait(), Ok(None)) {
            signal(self.postmaster(), how).unwrap();
            self.namespace.wait().unwrap();
        }
    }
}

impl Drop for ForeignServer {
    fn drop(&mut self) {
        // The kernel kills what is left in the namespace with its first process.
        self.end(Signal::KILL);
    }
}
