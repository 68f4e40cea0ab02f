//! Proofs: a backup is restored beside the server, recovered and read, and nothing is left of it.

use std::fs;
use std::os::unix::fs::FileExt;

use pgbox::sys::OperationLock;
use serde_json::Value;

use crate::support::sandbox::{Sandbox, has_postgresql, printed};

const PROVE: [&str; 4] = ["backup-postgresql", "verify", "latest", "--prove"];

/// What a proof left, its locks apart; a server that runs on it is something left, too.
fn left_overs(sandbox: &Sandbox) -> Vec<String> {
    let place = sandbox.data().join(".pgbox/proof");
    let entries = fs::read_dir(place.join(".pgbox")).unwrap();
    let mut left: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    // The locks of the place, and the note of the last server in it.
    left.retain(|name| !["lock", "operation.lock", "server"].contains(&name.as_str()));
    for process in fs::read_dir("/proc").unwrap().flatten() {
        let home = fs::read_link(process.path().join("cwd")).unwrap_or_default();
        left.extend(home.starts_with(&place).then(|| home.display().to_string()));
    }
    left
}

#[test]
fn a_backup_is_proven_while_the_server_serves_and_nothing_of_it_gets_out() {
    if !has_postgresql() {
        return;
    }
    let sandbox = Sandbox::with_backup();
    let archived = sandbox.path().join("archived");
    sandbox.succeed(&["init-postgresql", "--no-backup"]);
    sandbox.sql("ALTER SYSTEM SET archive_mode = on");
    sandbox.sql(&format!("ALTER SYSTEM SET archive_command = 'touch {}/%f'", archived.display()));
    sandbox.succeed(&["maintenance", "restart"]);
    // Archiving fails, and works from when the directory is there.
    sandbox.succeed(&["backup-postgresql", "create", "--force"]);
    sandbox.succeed(&["maintenance", "stop"]);
    fs::create_dir(&archived).unwrap();
    fs::set_permissions(&archived, std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();

    let text = sandbox.succeed(&PROVE);

    assert!(text.contains("in 3 databases read whole"), "{text}");
    assert_eq!(fs::read_dir(&archived).unwrap().count(), 0);
    assert_eq!(left_overs(&sandbox), Vec::<String>::new());

    sandbox.succeed(&["maintenance", "start", "--no-backup"]);
    let pid = sandbox.postmaster();
    let output = sandbox.output(&["backup-postgresql", "verify", "latest", "--prove", "--json"]);
    assert!(output.status.success(), "{}", printed(&output));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let proof = report["proofs"].as_object().unwrap().values().next().unwrap();
    assert!(proof["row_count"].as_u64().unwrap() > 100, "{proof}");
    assert_eq!(proof["failures"].as_array().unwrap().len(), 0);
    assert_eq!((sandbox.postmaster(), sandbox.sql("SELECT count(*) FROM kept").as_str()), (pid, "100"));
    assert!(sandbox.succeed(&["backup-postgresql", "list"]).contains("  proven 2"));

    // A later verification without a proof keeps it.
    sandbox.succeed(&["backup-postgresql", "verify", "--all"]);
    assert!(sandbox.succeed(&["backup-postgresql", "list"]).contains("  proven 2"));
}

#[test]
fn what_a_killed_proof_left_is_told_by_health_and_removed_by_the_next_start_or_cleanup() {
    // At the fourth point its private server runs; nothing but a command of ours knows of it.
    if !has_postgresql() {
        return;
    }
    let sandbox = Sandbox::with_backup();
    sandbox.succeed(&["init-postgresql", "--no-backup"]);
    let commands: [&[&str]; 2] = [&["maintenance", "cleanup"], &["init-postgresql", "--no-backup"]];
    for command in commands {
        let output = sandbox.command(&PROVE).env("PGBOX_KILL_AT_STEP_POINT", "4").output().unwrap();
        assert_eq!(output.status.code(), None, "{}", printed(&output));
        let copy = sandbox.data().join(".pgbox/proof/.pgbox/new");
        let pid_file = fs::read_to_string(copy.join("postmaster.pid")).unwrap();
        let socket_directory = std::path::PathBuf::from(pid_file.lines().nth(4).unwrap());
        assert!(socket_directory.exists());
        let health = printed(&sandbox.output(&["maintenance", "health"]));
        assert!(health.contains("a server on it that still runs"), "{health}");

        let told = sandbox.succeed(command);

        assert!(told.contains("removing what a killed proof left"), "{told}");
        assert_eq!(left_overs(&sandbox), Vec::<String>::new(), "{told}");
        assert!(!socket_directory.exists(), "{told}");
        let health = printed(&sandbox.output(&["maintenance", "health"]));
        assert!(!health.contains("killed"), "{health}");
    }
    assert_eq!(sandbox.sql("SELECT count(*) FROM kept"), "100");
}

#[test]
fn what_a_killed_proof_left_the_next_one_removes() {
    if !has_postgresql() {
        return;
    }
    let sandbox = Sandbox::with_backup();
    for point in ["3", "4"] {
        let output = sandbox.command(&PROVE).env("PGBOX_KILL_AT_STEP_POINT", point).output().unwrap();
        assert_eq!(output.status.code(), None, "{}", printed(&output));
        assert!(!left_overs(&sandbox).is_empty());
    }

    sandbox.succeed(&PROVE);

    assert_eq!(left_overs(&sandbox), Vec::<String>::new());
}

#[test]
fn a_backup_of_a_table_that_does_not_read_is_sound_and_is_not_proven() {
    if !has_postgresql() {
        return;
    }
    let sandbox = Sandbox::with_backup();
    let first = sandbox.backup_names("data_").first().unwrap().clone();
    sandbox.succeed(&["init-postgresql", "--no-backup"]);
    sandbox.sql("CREATE TABLE t AS SELECT i FROM generate_series(1, 10000) AS i");
    sandbox.sql("CHECKPOINT");
    let file = sandbox.data().join(sandbox.sql("SELECT pg_relation_filepath('t')"));
    // A flipped bit on disk in the third page, which the server does not read.
    let file = fs::OpenOptions::new().read(true).write(true).open(file).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, 2 * 8192 + 5000).unwrap();
    file.write_all_at(&[byte[0] ^ 0x10], 2 * 8192 + 5000).unwrap();
    sandbox.expect_status(&["backup-postgresql", "create"], 4);
    let second = sandbox.backup_names("data_").first().unwrap().clone();

    let text = sandbox.expect_status(&["backup-postgresql", "verify", &second, "--prove"], 4);

    assert!(text.contains(&format!("{second}  sound")), "{text}");
    assert!(text.contains("public.t could not be read: ERROR: invalid page in block 2"), "{text}");
    assert!(sandbox.succeed(&["backup-postgresql", "list"]).contains("  NOT PROVEN 2"));
    let latest = sandbox.succeed(&["backup-postgresql", "show", "latest"]);
    assert!(latest.contains(&first), "{latest}");
    assert_eq!(left_overs(&sandbox), Vec::<String>::new());
}

#[test]
fn two_proofs_do_not_work_in_one_place() {
    if !has_postgresql() {
        return;
    }
    let sandbox = Sandbox::with_backup();
    let place = sandbox.data().join(".pgbox/proof");
    sandbox.succeed(&PROVE);
    let _other = OperationLock::take(&place, "another proof").unwrap();

    let text = sandbox.expect_status(&PROVE, 5);

    assert!(text.contains("another proof"), "{text}");
}
