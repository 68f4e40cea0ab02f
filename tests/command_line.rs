//! Names, links, settings: what a person meets before anything is done.
#![expect(clippy::unwrap_used, reason = "a test reports a fault by panicking")]

use assert_cmd::Command;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::process;

const APPLETS: [&str; 6] =
    ["start-services", "init-postgresql", "backup-postgresql", "maintenance", "archive-wal", "fetch-wal"];

fn pgbox() -> Command {
    Command::new(env!("CARGO_BIN_EXE_pgbox"))
}

fn output_of(command: &mut process::Command) -> (i32, String, String) {
    let output = command.output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().unwrap(), text(&output.stdout), text(&output.stderr))
}

/// Runs the binary under any name at all.
fn called_as(name: &OsStr, arguments: &[&str]) -> (i32, String, String) {
    output_of(process::Command::new(env!("CARGO_BIN_EXE_pgbox")).arg0(name).args(arguments))
}

#[test]
fn every_name_is_found_with_sh_with_a_path_and_as_a_login_shell() {
    for name in ["maintenance", "maintenance.sh", "/usr/local/bin/maintenance.sh", "-maintenance"] {
        let (status, stdout, _) = called_as(OsStr::new(name), &[]);
        assert_eq!(status, 0, "{name}");
        assert!(stdout.contains("list-backups"), "{name}: {stdout}");
    }
    pgbox().args(["backup-postgresql.sh", "help"]).assert().success();
}

#[test]
fn a_name_that_is_none_says_what_the_names_are() {
    for (name, arguments) in [("pgbox", ["frobnicate"].as_slice()), ("my-maintenance", &[]), ("", &[])] {
        let (status, _, stderr) = called_as(OsStr::new(name), arguments);
        assert_eq!(status, 2, "{name}: {stderr}");
        assert!(APPLETS.iter().all(|applet| stderr.contains(applet)), "{name}: {stderr}");
    }
    let (status, _, stderr) = called_as(OsStr::from_bytes(b"\xff\xfe"), &[]);
    assert_eq!(status, 2, "{stderr}");
}

#[test]
fn list_names_every_applet_and_version_is_told() {
    pgbox().arg("--list").assert().success().stdout(format!("{}\n", APPLETS.join("\n")));
    let (status, stdout, _) = called_as(OsStr::new("pgbox"), &["--version"]);
    assert_eq!(status, 0);
    assert!(stdout.starts_with(&format!("pgbox {}\nPostgreSQL", env!("CARGO_PKG_VERSION"))), "{stdout}");
}

#[test]
fn install_makes_every_link_once_and_overwrites_nothing_of_others() {
    let directory = crate::support::directory::make();
    let install = || {
        output_of(process::Command::new(env!("CARGO_BIN_EXE_pgbox")).arg("--install").arg(directory.path()))
    };

    assert_eq!(install().0, 0);
    for name in
        APPLETS.iter().flat_map(|name| [(*name).to_owned(), format!("{name}.sh")]).chain(["pgbox".to_owned()])
    {
        assert!(directory.path().join(&name).is_symlink(), "{name}");
    }
    assert_eq!(output_of(process::Command::new(directory.path().join("maintenance.sh")).arg("help")).0, 0);
    assert_eq!(install().0, 0);

    fs::remove_file(directory.path().join("maintenance")).unwrap();
    fs::remove_file(directory.path().join("pgbox")).unwrap();
    fs::write(directory.path().join("maintenance"), "theirs").unwrap();
    let (status, _, stderr) = install();
    assert_eq!(status, 6, "{stderr}");
    assert_eq!(fs::read_to_string(directory.path().join("maintenance")).unwrap(), "theirs");
    assert!(!directory.path().join("pgbox").exists(), "nothing was to be changed");
}

#[test]
fn completions_and_manual_pages_cover_every_applet() {
    let directory = crate::support::directory::make();
    pgbox().arg("man").arg(directory.path()).assert().success();
    let completions = pgbox().args(["completions", "bash"]).output().unwrap().stdout;
    let completions = String::from_utf8(completions).unwrap();
    for name in APPLETS {
        assert!(directory.path().join(format!("{name}.1")).is_file(), "{name}");
        assert!(completions.contains(&format!(" {name}\n")), "{name}");
    }
}

#[test]
fn a_setting_that_makes_no_sense_ends_with_2_and_says_what_it_must_be() {
    for (variable, value, expected) in [
        ("MAX_BACKUPS", "seven", "MAX_BACKUPS must be a whole number from 1 to 9999, not 'seven'"),
        ("PGPORT", "65536", "PGPORT must be a whole number from 0 to 65535, not '65536'"),
        ("RECOVERY", "maybe", "RECOVERY must be auto, repair or never, not 'maybe'"),
        (
            "DATABASE_PASSWORD_FILE",
            "/nowhere",
            "could not read '/nowhere', which DATABASE_PASSWORD_FILE names",
        ),
    ] {
        let mut command = process::Command::new(env!("CARGO_BIN_EXE_pgbox"));
        let (status, stdout, stderr) =
            output_of(command.args(["maintenance", "status"]).env(variable, value));
        assert_eq!((status, stdout.as_str()), (2, ""), "{stderr}");
        assert!(stderr.contains(&format!("maintenance: error: {expected}")), "{stderr}");
    }
}

#[test]
fn with_json_an_error_is_an_object_on_standard_output() {
    let (status, stdout, _) = output_of(
        process::Command::new(env!("CARGO_BIN_EXE_pgbox"))
            .args(["maintenance", "status", "--json"])
            .env("MAX_BACKUPS", "0"),
    );
    let value: serde_json::Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!((status, &value["error"]["exit_status"]), (2, &serde_json::json!(2)));
}

#[test]
fn a_reader_that_has_gone_away_is_no_panic() {
    let script = format!("{} --list | true; {0} maintenance | true", env!("CARGO_BIN_EXE_pgbox"));
    let (_, _, stderr) = output_of(process::Command::new("sh").args(["-c", &script]));
    assert_eq!(stderr, "");
}

#[test]
fn help_never_shows_a_password() {
    for applet in APPLETS {
        let mut command = process::Command::new(env!("CARGO_BIN_EXE_pgbox"));
        let (status, stdout, _) =
            output_of(command.args([applet, "--help"]).env("DATABASE_PASSWORD", "hunter2"));
        assert_eq!(status, 0);
        assert!(stdout.contains("-directory") && !stdout.contains("hunter2"), "{applet}");
    }
}
