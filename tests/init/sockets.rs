//! What a killed server leaves outside its data directory, and a container keeps when it is started again.

use crate::support::sandbox::{Sandbox, has_postgresql, run};
use rstest::rstest;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

/// A stopped cluster whose configuration has its sockets in a directory of the test's own.
struct Sockets {
    sandbox: Sandbox,
    directory: PathBuf,
}

impl Sockets {
    fn new() -> Self {
        let sandbox = Sandbox::without_backup();
        let directory = sandbox.path().join("sockets");
        fs::create_dir(&directory).unwrap();
        run(Command::new("chown").arg("postgres").arg(&directory));
        let sockets = Self { sandbox, directory };
        sockets.configure(&format!("unix_socket_directories = '{}'", sockets.directory.display()));
        sockets
    }

    fn configure(&self, line: &str) {
        let path = self.sandbox.data().join("postgresql.conf");
        let content = fs::read_to_string(&path).unwrap();
        fs::write(path, format!("{content}{line}\n")).unwrap();
    }

    /// Uses a port that nobody listens on.
    fn with_free_port(mut self) -> (Self, u16) {
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        self.sandbox.set("PGPORT", port.to_string());
        (self, port)
    }

    /// Leaves a socket on which nobody listens, and its lock file, as a server that was killed does.
    fn leave(&self, port: u16, lock: &str) -> PathBuf {
        let socket = self.directory.join(format!(".s.PGSQL.{port}"));
        drop(UnixListener::bind(&socket).unwrap());
        let path = socket.with_added_extension("lock");
        fs::write(&path, lock).unwrap();
        for file in [&socket, &path] {
            run(Command::new("chown").arg("postgres").arg(file));
        }
        run(Command::new("touch").args(["-d", "1 hour ago"]).arg(&path));
        path
    }
}

/// A process of the server's user that is no server, for as long as the value lives.
struct Bystander(Child);

impl Bystander {
    fn in_directory(directory: &Path) -> Self {
        let mut command = Command::new("setpriv");
        command.args(["--reuid", "postgres", "--regid", "postgres", "--clear-groups", "sleep", "300"]);
        Self(command.current_dir(directory).spawn().unwrap())
    }
}

impl Drop for Bystander {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

#[rstest]
#[case::another_process_of_the_same_user("BYSTANDER")]
#[case::the_first_process("1")]
#[case::nobody("999999")]
#[case::an_empty_one("")]
#[case::garbage("{\"pid\": 5}")]
fn a_lock_file_that_outlived_its_server_keeps_no_server_from_starting(#[case] owner: &str) {
    // A container that was killed and is started again: the number is another process's there.
    if !has_postgresql() {
        return;
    }
    let (sockets, port) = Sockets::new().with_free_port();
    let bystander = Bystander::in_directory(Path::new("/"));
    let data = sockets.sandbox.data();
    let pid = owner.replace("BYSTANDER", &bystander.0.id().to_string());
    let text = if pid.is_empty() { pid } else { format!("{pid}\n{}\n1\n{port}\n\n", data.display()) };
    sockets.leave(port, &text);

    let told = sockets.sandbox.succeed(&["init-postgresql", "--no-backup"]);

    assert_eq!(sockets.sandbox.sql("SELECT count(*) FROM kept"), "100", "{told}");
    assert!(told.contains("of a dead server"), "{told}");
}

#[test]
fn the_number_of_pgbox_itself_in_a_lock_file_keeps_no_server_from_starting() {
    // `exec` keeps the number: the shell writes its own, and becomes pgbox.
    if !has_postgresql() {
        return;
    }
    let (sockets, port) = Sockets::new().with_free_port();
    let lock = sockets.leave(port, "");
    let mut direct = sockets.sandbox.command(&["init-postgresql", "--no-backup"]);
    let script = format!("echo $$ >'{}'; touch -d '1 hour ago' '{0}'; exec \"$0\" \"$@\"", lock.display());
    let mut through_shell = Command::new("sh");
    through_shell.args(["-euc", &script]).arg(direct.get_program()).args(direct.get_args());
    through_shell.envs(direct.get_envs().filter_map(|(name, value)| Some((name, value?))));

    run(&mut through_shell);

    assert_eq!(sockets.sandbox.sql("SELECT count(*) FROM kept"), "100");
    assert!(direct.output().unwrap().status.success());
}

#[test]
fn a_pid_file_whose_number_is_that_of_another_program_in_the_directory_names_no_server() {
    // A shell that somebody opened in the data directory, under the number of the dead server.
    if !has_postgresql() {
        return;
    }
    let sandbox = Sandbox::without_backup();
    let bystander = Bystander::in_directory(&sandbox.data());
    let text =
        format!("{}\n{}\n1\n5432\n/tmp\nlocalhost\n\nready\n", bystander.0.id(), sandbox.data().display());
    fs::write(sandbox.data().join("postmaster.pid"), text).unwrap();

    sandbox.succeed(&["init-postgresql", "--no-backup"]);

    assert_eq!(sandbox.sql("SELECT count(*) FROM kept"), "100");
}

#[test]
fn a_socket_that_a_live_server_has_is_refused_by_name_and_left() {
    // Two clusters that want one socket. Their addresses differ, so that the port does not say so first.
    if !has_postgresql() {
        return;
    }
    let (mut first, port) = Sockets::new().with_free_port();
    first.sandbox.set("LISTEN_ADDRESSES", "127.0.0.2");
    let mut second = Sandbox::without_backup();
    let configuration = fs::read(first.sandbox.data().join("postgresql.conf")).unwrap();
    fs::write(second.data().join("postgresql.conf"), configuration).unwrap();
    second.set("PGPORT", port.to_string());
    first.sandbox.succeed(&["init-postgresql", "--no-backup"]);

    let told = second.expect_status(&["init-postgresql", "--no-backup"], 1);

    let holder = format!("the server in '{}'", first.sandbox.data().display());
    assert!(told.contains("is in use by") && told.contains(&holder), "{told}");
    assert!(!told.contains("looking for damage"), "{told}");
    assert_eq!(first.sandbox.sql("SELECT count(*) FROM kept"), "100");
    second.set("PGPORT", "0");
    second.succeed(&["init-postgresql", "--no-backup"]);
}

#[test]
fn a_relic_that_cannot_be_removed_is_named_and_nothing_is_changed() {
    // Its directory is not the server's user's to write in.
    if !has_postgresql() {
        return;
    }
    let (sockets, port) = Sockets::new().with_free_port();
    let lock = sockets.leave(port, "1\n/gone\n1\n5432\n\n");
    run(Command::new("chown").arg("root").arg(&sockets.directory));
    fs::set_permissions(&sockets.directory, fs::Permissions::from_mode(0o755)).unwrap();

    let told = sockets.sandbox.expect_status(&["init-postgresql", "--no-backup"], 1);

    assert!(told.contains("outlived its server") && told.contains("remove that lock file"), "{told}");
    assert!(!told.contains("looking for damage") && lock.exists(), "{told}");
}
