//! Passwords in the environment of pgbox, which are for pgbox.

use super::programs::Notes;
use crate::support::sandbox::{Sandbox, has_postgresql, printed, run, signal};
use crate::support::step_points::{STOP_AT, has_step_points, rest_of};
use crate::support::wait::wait_until;
use rstest::rstest;
use rustix::process::Signal;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::process::{Command, Stdio};

const SECRETS: [(&str, &str); 3] = [
    ("POSTGRES_PASSWORD", "the superuser's secret"),
    ("DATABASE_PASSWORD", "the application's secret"),
    ("PGPASSWORD", "another secret"),
];

#[test]
fn no_server_and_no_tool_finds_a_password_in_its_environment_but_a_script_does() {
    if !has_postgresql() {
        return;
    }
    let mut sandbox = Sandbox::empty();
    for (name, value) in SECRETS {
        sandbox.set(name, value);
    }
    let scripts = sandbox.path().join("scripts");
    fs::create_dir(&scripts).unwrap();
    // docker-library's scripts are promised these.
    let script = "[ \"$POSTGRES_PASSWORD\" = \"the superuser's secret\" ] || exit 3
        [ \"$DATABASE_PASSWORD\" = \"the application's secret\" ] || exit 4\n";
    fs::write(scripts.join("1.sh"), script).unwrap();
    sandbox.set("INIT_SCRIPTS_DIR", scripts.to_str().unwrap());
    let notes = Notes::of_programs(&mut sandbox);

    sandbox.succeed(&["init-postgresql"]);
    sandbox.succeed(&["backup-postgresql", "verify", "latest", "--prove"]);

    let environment = fs::read(format!("/proc/{}/environ", sandbox.postmaster().unwrap())).unwrap();
    let environment = String::from_utf8_lossy(&environment).replace('\0', "\n");
    assert!(environment.contains("PATH="), "{environment}");
    for (name, value) in SECRETS {
        assert!(!environment.contains(name) && !environment.contains(value), "{environment}");
    }
    let variables = notes.of_kind("variable");
    for program in ["initdb", "postgres"] {
        assert!(variables.iter().any(|(name, _)| name == program), "{program} did not run");
    }
    // PGPASSWORD, by which a person lets libpq in, is kept from servers alone.
    let is_ours = |variable: &str| {
        SECRETS.iter().take(2).any(|(name, value)| variable.contains(name) || variable.contains(value))
    };
    let given: Vec<_> = variables.iter().filter(|(_, variable)| is_ours(variable)).collect();
    assert!(given.is_empty(), "{given:?}");
}

/// A command of pgbox, started by another program with the highest limit of core dumps.
fn with_core_dumps(mut starter: Command, pgbox: &Command) -> Command {
    starter
        .args(["-c", "ulimit -S -c $(ulimit -H -c); exec \"$0\" \"$@\""])
        .arg(pgbox.get_program())
        .args(pgbox.get_args());
    for (name, value) in pgbox.get_envs() {
        starter.env(name, value.unwrap());
    }
    starter
}

fn as_nobody(pgbox: &Command) -> Command {
    let mut setpriv = Command::new("setpriv");
    setpriv.args(["--reuid", "nobody", "--regid", "nogroup", "--clear-groups", "sh"]);
    with_core_dumps(setpriv, pgbox)
}

/// The limit of core dumps of a process (`proc_pid_limits(5)`): the one in force, and the highest that it may set.
fn core_limits(pid: i32) -> (String, String) {
    let limits = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    let core = limits.lines().find_map(|line| line.strip_prefix("Max core file size")).unwrap().to_owned();
    let mut words = core.split_whitespace().map(str::to_owned);
    (words.next().unwrap(), words.next().unwrap())
}

#[rstest]
#[case::with_a_key(true)]
#[case::with_passwords_alone(false)]
fn no_process_of_ours_can_be_looked_into_by_its_user_and_one_with_a_key_leaves_no_core_dump(
    #[case] has_key: bool,
) {
    if !has_postgresql() || !has_step_points() {
        return;
    }
    let mut sandbox = Sandbox::without_backup();
    // It is an ordinary user's, who has no privileges to drop.
    run(Command::new("chown").args(["-R", "nobody"]).arg(sandbox.path()));
    let key = sandbox.path().join("key");
    fs::write(&key, "ab".repeat(32)).unwrap();
    if has_key {
        sandbox.set("BACKUP_KEY_FILE", key.to_str().unwrap());
    }
    run(&mut as_nobody(&sandbox.command(&["maintenance", "start"])));
    sandbox.set(STOP_AT, "1");
    let mut create = as_nobody(&sandbox.command(&["backup-postgresql", "create"]));

    let mut child = create.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let pid = i32::try_from(child.id()).unwrap();
    wait_until("it stands still", || {
        assert!(child.try_wait().unwrap().is_none(), "it ended before: {}", rest_of(&mut child));
        fs::read_to_string(format!("/proc/{pid}/stat")).unwrap().contains(") T ")
    });

    let (limit, owner) = (core_limits(pid), fs::metadata(format!("/proc/{pid}/environ")).unwrap().uid());
    signal(pid, Signal::CONT).unwrap();
    let output = child.wait_with_output().unwrap();

    assert!(output.status.success(), "{}", printed(&output));
    assert!(!has_key || limit.0 == "0", "{limit:?}");
    // The files of a process that may be traced by its user belong to that user (proc(5)).
    assert_eq!(owner, 0);
}

#[test]
fn a_server_that_is_started_by_a_process_with_a_key_may_leave_core_dumps_as_before() {
    if !has_postgresql() {
        return;
    }
    let mut sandbox = Sandbox::without_backup();
    let key = sandbox.path().join("key");
    fs::write(&key, "ab".repeat(32)).unwrap();
    run(Command::new("chown").arg("postgres").arg(&key));
    sandbox.set("BACKUP_KEY_FILE", key.to_str().unwrap());

    run(&mut with_core_dumps(Command::new("sh"), &sandbox.command(&["init-postgresql"])));

    let (limit, highest) = core_limits(sandbox.postmaster().unwrap());
    assert_eq!(limit, highest);
}
