//! The library, as a program uses it that wants a server in a directory of its own: `examples/embedded.rs`.

use crate::support::sandbox::{has_postgresql, printed, run};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// The example, built: `cargo test` with a target named does not.
fn example() -> PathBuf {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml");
    run(Command::new(env!("CARGO"))
        .args(["build", "--quiet", "--example", "embedded", "--manifest-path"])
        .arg(manifest));
    Path::new(env!("CARGO_BIN_EXE_pgbox")).with_file_name("examples").join("embedded")
}

/// The search path with the directory of the pgbox under test first: a program that is root starts that.
fn search_path() -> std::ffi::OsString {
    let given = std::env::var_os("PATH").unwrap();
    let own = Path::new(env!("CARGO_BIN_EXE_pgbox")).parent().unwrap().to_path_buf();
    std::env::join_paths(std::iter::once(own).chain(std::env::split_paths(&given))).unwrap()
}

/// A base directory whose server is stopped when it is dropped, by a panic too.
pub(crate) struct Base {
    directory: tempfile::TempDir,
    program: PathBuf,
}

impl Base {
    pub(crate) fn new() -> Self {
        let directory = crate::support::directory::make();
        run(Command::new("chmod").arg("755").arg(directory.path()));
        Self { directory, program: example() }
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.directory.path().join("base")
    }

    /// The example on this directory, with variables that must not count.
    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command
            .arg(self.path())
            .env("PGDATA", "/nowhere")
            .env("PGPORT", "1")
            .env("POSTGRES_BIN_DIR", "/nowhere")
            .env("PATH", search_path());
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn stop(&self) -> Output {
        self.command().arg("stop").output().unwrap()
    }
}

impl Drop for Base {
    fn drop(&mut self) {
        self.stop();
    }
}

#[test]
fn eight_programs_at_once_share_one_server_that_outlives_them() {
    if !has_postgresql() {
        return;
    }
    let base = Base::new();

    let children: Vec<_> = (0..8).map(|_| base.command().spawn().unwrap()).collect();
    let outputs: Vec<Output> = children.into_iter().map(|child| child.wait_with_output().unwrap()).collect();

    let texts: Vec<String> = outputs.iter().map(printed).collect();
    assert!(outputs.iter().all(|output| output.status.success()), "{texts:#?}");
    let servers: std::collections::HashSet<&str> =
        texts.iter().filter_map(|text| text.split_once(" visits ")).map(|(server, _)| server).collect();
    assert_eq!(servers.len(), 1, "{texts:#?}");
    let again = run(&mut base.command());
    assert!(again.ends_with("visits 9\n"), "{again}");
    assert!(servers.contains(again.split_once(" visits ").unwrap().0), "{again} {servers:?}");

    assert_eq!(printed(&base.stop()), "stopped\n");
    assert_eq!(printed(&base.stop()), "no server ran\n");
    assert!(base.path().join("data/.pgbox/seal").exists());
    assert!(run(&mut base.command()).ends_with("visits 10\n"));
}

#[test]
fn all_that_root_has_made_belongs_to_the_servers_user_and_is_below_the_base_directory() {
    if !has_postgresql() {
        return;
    }
    let base = Base::new();

    run(&mut base.command());

    let of_others = run(Command::new("find").arg(base.path()).args(["!", "-user", "postgres"]));
    assert_eq!(of_others, "");
    for place in ["data/PG_VERSION", "log/postgresql.log"] {
        assert!(base.path().join(place).exists(), "{place}");
    }
    let sockets = run(Command::new("find").arg(base.path().join("run")).args(["-type", "s"]));
    assert_eq!(sockets.lines().count(), 1, "{sockets}");
}

#[test]
fn a_user_who_is_not_root_gets_a_server_of_their_own() {
    if !has_postgresql() {
        return;
    }
    // `nobody` has a name, which initdb asks for.
    let base = Base::new();
    std::fs::create_dir(base.path()).unwrap();
    run(Command::new("chown").arg("nobody").arg(base.path()));
    let program = base.directory.path().join("program");
    std::fs::copy(&base.program, &program).unwrap();

    let mut command = Command::new("setpriv");
    command
        .args(["--reuid", "nobody", "--regid", "nogroup", "--clear-groups"])
        .arg(&program)
        .arg(base.path());
    let told = run(&mut command);

    assert!(told.ends_with("visits 1\n"), "{told}");
    // Root uses the same server, as the same user.
    assert!(run(&mut base.command()).ends_with("visits 2\n"));
}
