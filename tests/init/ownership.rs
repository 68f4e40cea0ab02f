//! What belongs to another user than the server's in a data directory: only what the server must own is given to it.

use crate::support::sandbox::{Sandbox, has_postgresql, run};
use rstest::rstest;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::process::Command;

/// Runs a shell script in the data directory, as root.
fn shell(sandbox: &Sandbox, script: &str) {
    run(Command::new("sh").args(["-euc", script]).current_dir(sandbox.data()));
}

/// Owner and mode of an entry.
fn facts(sandbox: &Sandbox, path: &str) -> (u32, u32) {
    let facts = fs::metadata(sandbox.data().join(path)).unwrap();
    (facts.uid(), facts.mode() & 0o7777)
}

const LETTER: &str = "echo mine > letter.txt; chmod 600 letter.txt";
const SUBDIRECTORY: &str = "mkdir certs; echo x > certs/own.crt; chmod 700 certs";
const CONF_D: &str =
    "mkdir conf.d; echo 'work_mem = 5MB' > conf.d/1.conf; echo \"include_dir 'conf.d'\" >> postgresql.conf";

#[rstest]
#[case::a_file_of_a_persons(LETTER, &["letter.txt"])]
#[case::a_directory_of_certificates(SUBDIRECTORY, &["certs", "certs/own.crt"])]
#[case::a_key_that_nothing_names("echo x > server.key; chmod 600 server.key", &["server.key"])]
#[case::configuration_that_is_taken_in(CONF_D, &["conf.d", "conf.d/1.conf"])]
#[case::a_configuration_that_it_can_read("chown root postgresql.conf; chmod 644 postgresql.conf", &["postgresql.conf"])]
fn what_the_server_need_not_own_keeps_its_owner_and_mode(#[case] script: &str, #[case] kept: &[&str]) {
    if !has_postgresql() {
        return;
    }
    let sandbox = Sandbox::without_backup();
    shell(&sandbox, script);
    // Something that must be given, so that there is a reason to give anything.
    shell(&sandbox, "chown root base/1 global/pg_control");
    let before: Vec<_> = kept.iter().map(|path| facts(&sandbox, path)).collect();

    let told = sandbox.succeed(&["init-postgresql"]);

    assert_eq!(kept.iter().map(|path| facts(&sandbox, path)).collect::<Vec<_>>(), before, "{told}");
    assert_ne!(facts(&sandbox, "global/pg_control").0, 0);
    assert!(told.contains("gave 2 of the files and directories"), "{told}");
    assert_eq!(sandbox.sql("SELECT count(*) FROM kept"), "100");
    sandbox.succeed(&["backup-postgresql", "create", "--force"]);
    sandbox.succeed(&["backup-postgresql", "restore", "latest", "--yes"]);
    assert_eq!(sandbox.sql("SELECT count(*) FROM kept"), "100");
}

#[rstest]
#[case::a_file_that_it_takes_in(
    "mkdir conf.d; echo 'work_mem = 5MB' > conf.d/1.conf; echo \"include_dir 'conf.d'\" >> postgresql.conf; chmod 600 conf.d/1.conf",
    "conf.d/1.conf"
)]
#[case::its_configuration("chown root pg_hba.conf; chmod 600 pg_hba.conf", "pg_hba.conf")]
fn what_the_server_would_be_refused_for_is_given_to_it(#[case] script: &str, #[case] given: &str) {
    if !has_postgresql() {
        return;
    }
    let sandbox = Sandbox::without_backup();
    shell(&sandbox, script);

    sandbox.succeed(&["init-postgresql", "--no-backup"]);

    assert_ne!(facts(&sandbox, given).0, 0);
    assert_eq!(facts(&sandbox, given).1, 0o600);
    assert_eq!(sandbox.sql("SELECT count(*) FROM kept"), "100");
}

#[rstest]
#[case::as_postgresql_wants_it("640", true)]
#[case::so_that_the_server_cannot_read_it("600", false)]
fn a_key_of_roots_serves_and_stays_roots_where_the_server_can_read_it(
    #[case] mode: &str,
    #[case] is_kept: bool,
) {
    if !has_postgresql() {
        return;
    }
    if Command::new("openssl").arg("version").output().is_err() {
        eprintln!("SKIPPED: there is no openssl to make a key with");
        return;
    }
    let sandbox = Sandbox::without_backup();
    shell(
        &sandbox,
        "openssl req -new -x509 -days 30 -nodes -keyout server.key -out server.crt -subj /CN=db 2>/dev/null
         chown root:postgres server.key; chown postgres server.crt; echo 'ssl = on' >> postgresql.conf",
    );
    shell(&sandbox, &format!("chmod {mode} server.key"));

    sandbox.succeed(&["init-postgresql", "--no-backup"]);

    assert_eq!(sandbox.sql("SHOW ssl"), "on");
    let mode = u32::from_str_radix(mode, 8).unwrap();
    assert_eq!((facts(&sandbox, "server.key").0 == 0, facts(&sandbox, "server.key").1), (is_kept, mode));
}
