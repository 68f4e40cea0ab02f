//! Commands of root at a terminal. A program that has it as its controlling terminal can type into root's shell (TIOCSTI).

use super::programs::Notes;
use crate::support::sandbox::{Sandbox, has_postgresql};
use crate::support::terminal::Terminal;
use crate::support::wait::wait_until;
use rstest::rstest;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Command;

/// Runs a command of pgbox as the leader of a session that has a new terminal as its controlling one, with a file of root's
/// open beside the standard streams.
fn at_terminal(sandbox: &Sandbox, arguments: &[&str]) -> Terminal {
    let secret = sandbox.path().join("secret");
    fs::write(&secret, "root's").unwrap();
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).unwrap();
    let pgbox = sandbox.command(arguments);
    let mut command = Command::new("setsid");
    command
        .args(["--ctty", "--wait", "sh", "-c", "exec 7<\"$0\"; exec \"$@\""])
        .arg(secret)
        .arg(pgbox.get_program())
        .args(pgbox.get_args());
    for (name, value) in pgbox.get_envs() {
        command.env(name, value.unwrap());
    }
    Terminal::start(command)
}

/// The controlling terminal of a process, 0 for none (`proc_pid_stat(5)`, `tty_nr`).
fn terminal_of(pid: i32) -> String {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    stat.rsplit_once(") ").unwrap().1.split(' ').nth(4).unwrap().to_owned()
}

fn assert_nothing_of_root_was_given(notes: &Notes, program: &str) {
    let terminals = notes.of_kind("terminal");
    assert!(terminals.iter().any(|(name, _)| name == program), "{program} did not run: {terminals:?}");
    let with_terminal: Vec<_> = terminals.iter().filter(|(_, terminal)| terminal != "0").collect();
    assert!(with_terminal.is_empty(), "{with_terminal:?}");
    let open: Vec<_> =
        notes.of_kind("open").into_iter().filter(|(_, noted)| noted.contains("/dev/pts")).collect();
    assert!(open.is_empty(), "{open:?}");
    assert!(notes.other_open_files().is_empty(), "{:?}", notes.other_open_files());
}

#[rstest]
#[case::start(&["maintenance", "start"], "postgres")]
#[case::restart(&["maintenance", "restart"], "postgres")]
#[case::first_start(&["init-postgresql"], "initdb")]
#[case::restore(&["backup-postgresql", "restore", "latest"], "postgres")]
#[case::restore_elsewhere(&["backup-postgresql", "restore", "latest", "--into", "elsewhere"], "postgres")]
#[case::proof(&["backup-postgresql", "verify", "latest", "--prove"], "postgres")]
fn no_server_and_no_tool_has_the_terminal_of_root_or_a_file_of_its_shell(
    #[case] command: &[&str],
    #[case] program: &str,
) {
    if !has_postgresql() {
        return;
    }
    let is_first_start = program == "initdb";
    let mut sandbox = if is_first_start { Sandbox::empty() } else { Sandbox::with_backup() };
    if command.contains(&"restart") {
        sandbox.succeed(&["maintenance", "start"]);
    }
    let elsewhere = sandbox.path().join("elsewhere").display().to_string();
    let command: Vec<&str> =
        command.iter().map(|word| if *word == "elsewhere" { elsewhere.as_str() } else { word }).collect();
    let backup = if is_first_start { String::new() } else { sandbox.backup_names("data_").remove(0) };
    if is_first_start {
        // Scripts print to the terminal, through us.
        let scripts = sandbox.path().join("scripts");
        fs::create_dir(&scripts).unwrap();
        fs::write(
            scripts.join("1.sh"),
            "echo from a script; echo its terminal: $(readlink /proc/self/fd/2)\n",
        )
        .unwrap();
        sandbox.set("INIT_SCRIPTS_DIR", scripts.to_str().unwrap());
    }
    let notes = Notes::of_programs(&mut sandbox);

    let mut terminal = at_terminal(&sandbox, &command);
    if command.ends_with(&["restore", "latest"]) {
        // It asks at the terminal all the same.
        terminal.wait_for_text("to go on:");
        terminal.type_line(&backup);
    }
    let status = terminal.wait();

    assert!(status.success(), "{status}: {}", terminal.shown());
    assert_nothing_of_root_was_given(&notes, program);
    if let Some(postmaster) = sandbox.postmaster() {
        assert_eq!(terminal_of(postmaster), "0");
    }
    if is_first_start {
        let shown = terminal.shown();
        assert!(shown.contains("from a script"), "{shown}");
        assert!(shown.contains("its terminal: pipe:"), "{shown}");
    }
}

#[test]
fn a_value_from_a_file_that_the_shell_opened_is_read_at_a_terminal_too() {
    if !has_postgresql() {
        return;
    }
    let mut sandbox = Sandbox::empty();
    // As `DATABASE_PASSWORD_FILE=<(…)` in a shell has it.
    sandbox.set("DATABASE_PASSWORD_FILE", "/dev/fd/7");

    let mut terminal = at_terminal(&sandbox, &["init-postgresql", "--dry-run"]);
    let status = terminal.wait();

    assert!(status.success(), "{status}: {}", terminal.shown());
}

#[test]
fn what_is_typed_to_interrupt_ends_the_command_and_its_tools() {
    if !has_postgresql() {
        return;
    }
    let mut sandbox = Sandbox::empty();
    let scripts = sandbox.path().join("scripts");
    fs::create_dir(&scripts).unwrap();
    let noted = sandbox.path().join("noted");
    fs::write(&noted, "").unwrap();
    fs::set_permissions(&noted, fs::Permissions::from_mode(0o666)).unwrap();
    let script = format!("#!/bin/sh\necho $$ >{}\nexec sleep 600\n", noted.display());
    fs::write(scripts.join("1.sh"), script).unwrap();
    fs::set_permissions(scripts.join("1.sh"), fs::Permissions::from_mode(0o755)).unwrap();
    sandbox.set("INIT_SCRIPTS_DIR", scripts.to_str().unwrap());

    let mut terminal = at_terminal(&sandbox, &["init-postgresql", "--no-backup"]);
    wait_until("the script runs", || fs::read_to_string(&noted).unwrap().ends_with('\n'));
    let script = fs::read_to_string(&noted).unwrap().trim().to_owned();
    terminal.type_control_c();
    let status = terminal.wait();

    // As a shell sees it: by the signal, or by the status that stands for it.
    assert!(status.signal() == Some(2) || status.code() == Some(130), "{status}: {}", terminal.shown());
    let is_there = || Path::new(&format!("/proc/{script}/fd/0")).exists();
    wait_until("the script is gone", || !is_there());
    // The next start finds what was left, and completes the cluster.
    fs::remove_file(scripts.join("1.sh")).unwrap();
    sandbox.succeed(&["init-postgresql", "--no-backup"]);
}
