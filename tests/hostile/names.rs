//! Names and notes that would change what a person sees on the terminal, or forge a line of the log.

use crate::support::sandbox::{Sandbox, has_postgresql, printed, run};
use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::process::Output;

/// The title of a terminal, its screen, a line of its own, a return, a bell, C1 controls, the direction of text. A name of
/// PostgreSQL has at most 63 bytes.
const NAME: &str = "x\u{1b}]0;o\u{7}\u{1b}[2J\nFORGED\r\u{85}\u{9b}1m\u{202e}\u{2066}\u{2028}\u{200b}";

/// Fails if anything was printed that a terminal acts on, or a line that is not pgbox's own. Returns what was printed.
#[track_caller]
fn assert_plain(output: &Output) -> String {
    for stream in [&output.stdout, &output.stderr] {
        let text = std::str::from_utf8(stream).unwrap();
        for line in text.lines() {
            assert!(!line.contains(pgbox::format::is_unprintable), "{line:?}");
            assert!(!line.contains("FORGED") || line.contains("\\nFORGED"), "{line:?}");
        }
    }
    printed(output)
}

#[track_caller]
fn assert_names(output: &Output) {
    let told = assert_plain(output);
    assert!(told.contains("\\nFORGED"), "{told}");
}

fn pg(sandbox: &Sandbox, arguments: &[&str]) -> Output {
    sandbox.output(&[&["backup-postgresql"], arguments].concat())
}

/// Makes a table, a database and a role of that name; returns the file of the table.
fn make_objects(sandbox: &Sandbox) -> String {
    let quoted = format!("\"{NAME}\"");
    sandbox.sql(&format!("CREATE ROLE {quoted} LOGIN"));
    sandbox.sql(&format!("CREATE TABLE {quoted} AS SELECT generate_series(1, 1000) i"));
    sandbox.sql(&format!("ALTER TABLE {quoted} OWNER TO {quoted}"));
    sandbox.sql(&format!("CREATE DATABASE {quoted} OWNER {quoted}"));
    sandbox.sql("SELECT pg_relation_filepath(oid) FROM pg_class WHERE relname LIKE 'x%FORGED%'")
}

#[test]
fn no_name_of_others_reaches_the_terminal_or_forges_a_line() {
    if !has_postgresql() {
        return;
    }
    let sandbox = Sandbox::with_backup();
    sandbox.succeed(&["init-postgresql", "--no-backup"]);
    let table = make_objects(&sandbox);
    assert_plain(&pg(&sandbox, &["create", "--force", "--note", NAME]));
    let newest = sandbox.backup_names("data_").remove(0);
    assert_plain(&pg(&sandbox, &["pin", &newest, "--note", NAME]));
    assert_names(&pg(&sandbox, &["show", &newest]));
    for arguments in [&["list"][..], &["cleanup", "--dry-run"], &["verify", &newest, "--prove"]] {
        assert_plain(&pg(&sandbox, arguments));
    }
    let shown = pg(&sandbox, &["show", &newest, "--json"]);
    assert_plain(&shown);
    let shown: serde_json::Value = serde_json::from_slice(&shown.stdout).unwrap();
    assert_eq!((&shown["note"], &shown["pin"]["note"]), (&NAME.into(), &NAME.into()));
    sandbox.succeed(&["maintenance", "stop"]);

    // The damage: a byte of a row, and files that no server made, one of them in no encoding.
    File::options().write(true).open(sandbox.data().join(table)).unwrap().write_all_at(b"!", 8000).unwrap();
    for name in [NAME.as_bytes(), b"caf\xe9\x1b[2J\nFORGED"] {
        File::create(sandbox.data().join("base/1").join(OsStr::from_bytes(name))).unwrap();
        run(std::process::Command::new("mkfifo").arg(sandbox.data().join(OsStr::from_bytes(name))));
    }
    assert_names(&sandbox.output(&["maintenance", "check", "--deep"]));
    let json = sandbox.output(&["maintenance", "check", "--deep", "--json"]);
    let diagnosis: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    assert!(
        diagnosis.to_string().contains(serde_json::json!(NAME).to_string().trim_matches('"')),
        "{diagnosis}"
    );
    for applet in [&["maintenance", "health"][..], &["maintenance", "status"], &["init-postgresql"]] {
        assert_plain(&sandbox.output(applet));
    }
}

#[test]
fn no_line_of_the_servers_log_that_is_repeated_forges_another() {
    if !has_postgresql() {
        return;
    }
    // The damage: a value that the server refuses, and quotes.
    let mut sandbox = Sandbox::with_backup();
    sandbox.set("RECOVERY", "never");
    let name = NAME.replace('\n', "\u{b}FORGED");
    let configuration = sandbox.data().join("postgresql.conf");
    let text = std::fs::read_to_string(&configuration).unwrap();
    std::fs::write(&configuration, format!("{text}\nDateStyle = '{name}'\n")).unwrap();

    let output = sandbox.output(&["init-postgresql", "--no-backup"]);

    let told = printed(&output);
    assert!(
        told.contains("DateStyle") && !told.contains(|c| c != '\n' && pgbox::format::is_unprintable(c)),
        "{told:?}"
    );
}

#[test]
fn no_name_in_an_archive_reaches_the_terminal() {
    let sandbox = Sandbox::with_backup();
    let mut archive = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::Symlink);
    header.set_size(0);
    header.set_mode(0o777);
    archive.append_link(&mut header, NAME.replace('/', ""), "/etc/FORGED").unwrap();
    let file = sandbox.path().join("archive.tar");
    std::fs::write(&file, archive.into_inner().unwrap()).unwrap();

    let output = pg(&sandbox, &["import", file.to_str().unwrap()]);

    let told = printed(&output);
    assert!(
        told.contains("\\nFORGED") && !told.contains(|c| c != '\n' && pgbox::format::is_unprintable(c)),
        "{told:?}"
    );
}
